//! Where the cache is, which hub is asked, and how: the environment variables of `huggingface_hub`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{HubError, HubResult};

const ENDPOINT: &str = "https://huggingface.co";

/// What the environment says. See `docs/hub.md`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// Token to show to the hub, and to nobody else.
    pub token: Option<Token>,
    /// The variable that forbids asking the hub, if one does.
    pub offline: Option<&'static str>,
    /// Longest wait for an answer.
    pub etag_timeout: Duration,
    /// Longest wait for the next bytes of a file.
    pub download_timeout: Duration,
    /// Whether to ask through the proxy that the environment names.
    pub proxy: bool,
    /// Pause before the second try; it doubles with each further one.
    pub pause: Duration,
    /// Whether snapshots may hold symbolic links.
    pub links: bool,
}

/// A secret and where it came from. Only the latter is ever shown.
#[derive(Clone)]
pub struct Token {
    secret: String,
    source: TokenUsed,
}

/// Which token was shown to the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenUsed {
    /// None.
    None,
    /// That of an environment variable.
    Variable(&'static str),
    /// That of a file.
    File(PathBuf),
}

impl fmt::Display for TokenUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no token"),
            Self::Variable(name) => write!(f, "the token of {name}"),
            Self::File(path) => write!(f, "the token in {}", path.display()),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Token {
    /// A token; nothing is left of one that holds only white space.
    ///
    /// # Errors
    /// It holds a character that no token has. The error does not show it.
    pub fn new(secret: &str, source: TokenUsed) -> HubResult<Option<Self>> {
        let secret = secret.trim();
        if !secret.bytes().all(|b| b.is_ascii_graphic()) {
            let name = match source {
                TokenUsed::Variable(name) => name,
                _ => "HF_TOKEN_PATH",
            };
            let why = format!("{source} holds a character that cannot be part of one");
            return Err(HubError::BadSetting { name, why });
        }
        Ok((!secret.is_empty()).then(|| Self { secret: secret.to_owned(), source }))
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.secret)
    }

    pub(crate) fn used(&self) -> &TokenUsed {
        &self.source
    }
}

impl Settings {
    /// What this process's environment says.
    ///
    /// # Errors
    /// A variable that cannot be used, or no place for a cache.
    pub fn from_env() -> HubResult<Self> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> HubResult<Self> {
        let set = |name: &'static str| get(name).filter(|v| !v.is_empty());
        let text = |name: &'static str| -> HubResult<Option<String>> {
            set(name)
                .map(|v| v.into_string())
                .transpose()
                .map_err(|_| HubError::BadSetting { name, why: "its value is not UTF-8".to_owned() })
        };
        let user = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
        let folder = |name: &'static str| {
            set(name).map(PathBuf::from).map(|path| match (path.strip_prefix("~"), &user) {
                (Ok(rest), Some(user)) => user.join(rest),
                _ => path,
            })
        };
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|d| d.join("huggingface")))
            .or_else(|| user.as_ref().map(|d| d.join(".cache").join("huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|d| d.join("hub")));
        let Some(cache) = cache else {
            let why = "set it to a folder for models; there is no home folder to put them in".to_owned();
            return Err(HubError::BadSetting { name: "HF_HOME", why });
        };
        let mut token = None;
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if token.is_none()
                && let Some(secret) = text(name)?
            {
                token = Token::new(&secret, TokenUsed::Variable(name))?;
            }
        }
        let file = folder("HF_TOKEN_PATH").or_else(|| home.map(|d| d.join("token")));
        if let (None, Some(file)) = (&token, file) {
            token = token_in(&file)?;
        }
        let truth = |name: &'static str| -> HubResult<bool> {
            Ok(text(name)?.is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str())))
        };
        // As in Python: the second counts only where the first is not set.
        let which = if set("HF_HUB_OFFLINE").is_some() { "HF_HUB_OFFLINE" } else { "TRANSFORMERS_OFFLINE" };
        Ok(Self {
            cache,
            endpoint: endpoint(text("HF_ENDPOINT")?.as_deref().unwrap_or(ENDPOINT))?,
            token,
            offline: truth(which)?.then_some(which),
            etag_timeout: seconds("HF_HUB_ETAG_TIMEOUT", text("HF_HUB_ETAG_TIMEOUT")?)?,
            download_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT", text("HF_HUB_DOWNLOAD_TIMEOUT")?)?,
            proxy: true,
            pause: Duration::from_millis(500),
            links: !truth("HF_HUB_DISABLE_SYMLINKS")?,
        })
    }
}

/// The token that `hf auth login` left, if it did.
fn token_in(file: &Path) -> HubResult<Option<Token>> {
    match std::fs::read_to_string(file) {
        Ok(secret) => Token::new(&secret, TokenUsed::File(file.to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(HubError::read(file)(e)),
    }
}

/// An address that can be put before `/org/name`.
fn endpoint(text: &str) -> HubResult<String> {
    let bad = |why: &str| HubError::BadSetting {
        name: "HF_ENDPOINT",
        why: format!("{why}; it is an address such as {ENDPOINT}"),
    };
    let uri: ureq::http::Uri = text.parse().map_err(|_| bad("it is no address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(bad("it begins neither with https:// nor with http://"));
    }
    let Some(authority) = uri.authority().filter(|a| !a.host().is_empty()) else {
        return Err(bad("it names no host"));
    };
    if authority.as_str().contains('@') {
        return Err(bad("it holds a user name or password, which are not sent"));
    }
    if uri.query().is_some() || text.contains('#') {
        return Err(bad("it has a query or a fragment"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A time in seconds, ten where none is given; zero means the same, as in Python.
fn seconds(name: &'static str, text: Option<String>) -> HubResult<Duration> {
    const USUAL: Duration = Duration::from_secs(10);
    const MOST: f64 = 86_400.0;
    let Some(text) = text else { return Ok(USUAL) };
    match text.trim().parse::<f64>() {
        Ok(0.0) => Ok(USUAL),
        Ok(s) if s > 0.0 && s <= MOST => Ok(Duration::from_secs_f64(s)),
        _ => Err(HubError::BadSetting {
            name,
            why: format!("'{text}' is no number of seconds between 0 and {MOST}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> HubResult<Settings> {
        let pairs: Vec<(String, OsString)> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), OsString::from(v))).collect();
        Settings::from_variables(|name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    fn cache(pairs: &[(&str, &str)]) -> PathBuf {
        settings(pairs).expect("settings").cache
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/y")]), Path::new("/h/y/hub"));
        assert_eq!(cache(&[("HF_HOME", "/y"), ("HF_HUB_CACHE", "/z")]), Path::new("/z"));
        assert_eq!(cache(&[("HF_HOME", "/y"), ("HF_HUB_CACHE", "")]), Path::new("/y/hub"));
        let e = settings(&[]).expect_err("no home").to_string();
        assert!(e.starts_with("HF_HOME: "), "{e}");
    }

    #[test]
    fn offline_is_what_python_takes_for_true() {
        let offline = |pairs: &[(&str, &str)]| {
            settings(&[&[("HOME", "/h")], pairs].concat()).expect("settings").offline
        };
        for yes in ["1", "on", "Yes", "TRUE"] {
            assert_eq!(offline(&[("HF_HUB_OFFLINE", yes)]), Some("HF_HUB_OFFLINE"));
        }
        assert_eq!(offline(&[("HF_HUB_OFFLINE", "0")]), None);
        assert_eq!(offline(&[("TRANSFORMERS_OFFLINE", "1")]), Some("TRANSFORMERS_OFFLINE"));
        assert_eq!(offline(&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")]), None);
    }

    #[test]
    fn a_token_is_never_shown() {
        let s = settings(&[("HOME", "/nowhere"), ("HF_TOKEN", " hf_secret\n")]).expect("settings");
        let token = s.token.as_ref().expect("a token");
        assert_eq!(token.header(), "Bearer hf_secret");
        assert!(!format!("{s:?}").contains("secret"));
        let e = settings(&[("HOME", "/h"), ("HF_TOKEN", "hf_secrét")]).expect_err("no token");
        assert_eq!(
            e.to_string(),
            "HF_TOKEN: the token of HF_TOKEN holds a character that cannot be part of one"
        );
        assert!(settings(&[("HOME", "/h"), ("HF_TOKEN", " ")]).expect("settings").token.is_none());
    }

    #[test]
    fn an_endpoint_is_checked() {
        let of = |v: &str| settings(&[("HOME", "/h"), ("HF_ENDPOINT", v)]).map(|s| s.endpoint);
        assert_eq!(of("http://127.0.0.1:80/mirror/").expect("an address"), "http://127.0.0.1:80/mirror");
        assert_eq!(settings(&[("HOME", "/h")]).expect("settings").endpoint, ENDPOINT);
        for bad in
            ["huggingface.co", "ftp://a", "https://", "https://u:secret@h", "https://h?x=1", "https://h h"]
        {
            let e = of(bad).expect_err(bad).to_string();
            assert!(e.starts_with("HF_ENDPOINT: ") && !e.contains("secret"), "{bad}: {e}");
        }
    }

    #[test]
    fn timeouts_are_seconds() {
        let of = |v: &str| settings(&[("HOME", "/h"), ("HF_HUB_ETAG_TIMEOUT", v)]).map(|s| s.etag_timeout);
        assert_eq!(of("3").expect("a time"), Duration::from_secs(3));
        assert_eq!(of("0").expect("a time"), Duration::from_secs(10));
        for bad in ["-1", "x", "inf", "NaN", "1e9"] {
            of(bad).expect_err(bad);
        }
    }
}
