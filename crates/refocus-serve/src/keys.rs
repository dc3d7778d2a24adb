//! API keys: who may ask.

use std::fmt;
use std::path::{Path, PathBuf};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HeaderValue};
use sha2::{Digest, Sha256};

use crate::error::ApiError;

/// Keys that cannot be used. No message holds any part of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{}: the API keys cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is none in a place that should have one.
    #[error("{place}: there is no API key")]
    None {
        /// File or variable.
        place: String,
    },
    /// A header cannot hold it.
    #[error("{place}: API key {number} has a character that a header cannot hold")]
    Character {
        /// File or variable.
        place: String,
        /// Which, from 1.
        number: usize,
    },
}

/// The keys that are known, as their SHA-256 only.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} redacted)", self.0.len())
    }
}

impl Keys {
    /// Adds the keys of a file, one a line; empty lines and lines that begin with `#` are none.
    ///
    /// # Errors
    /// It cannot be read or has no key, or one that a header cannot hold.
    pub fn add_file(&mut self, path: &Path) -> Result<(), KeysError> {
        let unreadable = |source| KeysError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let lines = text.lines().map(str::trim).filter(|l| !l.starts_with('#'));
        self.add(&path.display().to_string(), lines)
    }

    /// Adds the keys of a list with commas.
    ///
    /// # Errors
    /// It has no key, or one that a header cannot hold.
    pub fn add_list(&mut self, place: &str, list: &str) -> Result<(), KeysError> {
        self.add(place, list.split(',').map(str::trim))
    }

    fn add<'a>(&mut self, place: &str, keys: impl Iterator<Item = &'a str>) -> Result<(), KeysError> {
        let before = self.0.len();
        for (i, key) in keys.filter(|k| !k.is_empty()).enumerate() {
            if !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(KeysError::Character { place: place.to_owned(), number: i + 1 });
            }
            self.0.push(Sha256::digest(key.as_bytes()).into());
        }
        if self.0.len() == before {
            return Err(KeysError::None { place: place.to_owned() });
        }
        Ok(())
    }

    /// Whether everyone may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets a request through if it has a known key, or if there are none.
    ///
    /// # Errors
    /// Status 401.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.is_empty() {
            return Ok(());
        }
        let bearer = |value: &'_ [u8]| -> Option<Vec<u8>> {
            let (scheme, key) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii().to_vec())
        };
        let given = headers.get(AUTHORIZATION).and_then(|v| bearer(v.as_bytes()));
        let Some(given) = given else { return Err(ApiError::unauthorized(false)) };
        if self.knows(&given) { Ok(()) } else { Err(ApiError::unauthorized(true)) }
    }

    /// Takes as long for one key as for another: digests are compared whole, and all of them.
    fn knows(&self, key: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let same = |known: &[u8; 32]| known.iter().zip(&digest).fold(0, |d, (a, b)| d | (a ^ b)) == 0;
        self.0.iter().fold(false, |any, known| any | same(known))
    }
}

/// A key for another server. It is in no message and no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(HeaderValue);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl Secret {
    /// A key from a place: a variable of the environment, or a file.
    ///
    /// # Errors
    /// It is empty or cannot be sent in a header.
    pub fn new(place: &str, key: &str) -> Result<Self, KeysError> {
        let key = key.trim();
        if key.is_empty() {
            return Err(KeysError::None { place: place.to_owned() });
        }
        let wrong = |_| KeysError::Character { place: place.to_owned(), number: 1 };
        let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(wrong)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The key in a file.
    ///
    /// # Errors
    /// It cannot be read, or as for [`new`](Self::new).
    pub fn of_file(path: &Path) -> Result<Self, KeysError> {
        let unreadable = |source| KeysError::Unreadable { path: path.to_owned(), source };
        let key = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::new(&path.display().to_string(), &key)
    }

    /// The value of the header `Authorization`.
    pub fn bearer(&self) -> HeaderValue {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, axum::http::HeaderValue::from_static(value))])
    }

    #[test]
    fn only_known_keys_are_let_through() {
        let mut keys = Keys::default();
        assert!(keys.check(&HeaderMap::new()).is_ok());
        keys.add_list("X", "sk-one, sk-two").expect("two keys");
        assert!(keys.check(&with("Bearer sk-two")).is_ok());
        assert!(keys.check(&with("bearer sk-one ")).is_ok());
        for wrong in ["Bearer sk-tw", "Bearer sk-twoo", "Bearer ", "Basic sk-one", "sk-one", ""] {
            assert!(keys.check(&with(wrong)).is_err(), "{wrong:?}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
    }

    #[test]
    fn keys_are_in_no_message() {
        let mut keys = Keys::default();
        keys.add_list("X", "sk-secret").expect("a key");
        assert_eq!(format!("{keys:?}"), "Keys(1 redacted)");
        let error = keys.add_list("X", "a,sk-sécret").expect_err("refused").to_string();
        assert_eq!(error, "X: API key 2 has a character that a header cannot hold");
        assert!(keys.add_list("X", " , ").is_err());
        let secret = Secret::new("X", "sk-secret\n").expect("a key");
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
        assert_eq!(secret.bearer(), "Bearer sk-secret");
        assert!(Secret::new("X", "a\nb").is_err());
    }
}
