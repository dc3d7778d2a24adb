//! Reading a JSON object key by key, so that in the end none is left unread.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{LoadError, LoadResult};

/// No size of a model is larger; keeps products and tables within bounds.
const MOST: u64 = i32::MAX as u64;

/// An object whose every key must be read, or be known not to matter.
pub(super) struct Keys<'a> {
    path: &'a Path,
    /// Prefix of key names in errors: empty, or `rope_parameters.`.
    prefix: &'static str,
    map: &'a Map<String, Value>,
    seen: BTreeSet<&'static str>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(path: &'a Path, prefix: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix, map, seen: BTreeSet::new() }
    }

    /// A nested object of the same file.
    pub(super) fn inside<'b>(&self, prefix: &'static str, map: &'b Map<String, Value>) -> Keys<'b>
    where
        'a: 'b,
    {
        Keys::new(self.path, prefix, map)
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        self.path
    }

    /// An error about a key with its value.
    pub(super) fn error(&self, key: &str, why: impl Into<String>) -> LoadError {
        let value = self.map.get(key).unwrap_or(&Value::Null);
        LoadError::key(self.path, &format!("{}{key}", self.prefix), value, why)
    }

    /// The value of a key: `None` where it is missing, JSON's `null` where it is given so.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.seen.insert(key);
        self.map.get(key)
    }

    /// As [`Keys::get`], with `null` as good as missing.
    pub(super) fn given(&mut self, key: &'static str) -> Option<&'a Value> {
        self.get(key).filter(|v| !v.is_null())
    }

    /// Whether a key is there, `null` or not. Does not count as reading it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn whole(&self, key: &str, value: &Value) -> LoadResult<usize> {
        match value.as_u64() {
            Some(n) if (1..=MOST).contains(&n) => Ok(n as usize),
            Some(0) => Err(self.error(key, "it must be at least 1")),
            Some(_) => Err(self.error(key, format!("it must be at most {MOST}"))),
            None => Err(self.error(key, "a positive whole number is needed")),
        }
    }

    /// A size of at least 1; `null` is an error, as it is for `transformers`.
    pub(super) fn count(&mut self, key: &'static str, default: usize) -> LoadResult<usize> {
        self.get(key).map_or(Ok(default), |v| self.whole(key, v))
    }

    /// A size of at least 1 under the family's own name or the common one; both must agree.
    pub(super) fn count_as(
        &mut self,
        key: &'static str,
        other: &'static str,
        default: usize,
    ) -> LoadResult<usize> {
        let second = self.get(other).map(|v| self.whole(other, v)).transpose()?;
        let first = self.count(key, second.unwrap_or(default))?;
        match second {
            Some(second) if second != first => Err(self.error(other, format!("{key} says {first}"))),
            _ => Ok(first),
        }
    }

    /// A size that `null` switches off: `missing` is what a missing key means.
    pub(super) fn option(&mut self, key: &'static str, missing: Option<usize>) -> LoadResult<Option<usize>> {
        match self.get(key) {
            None => Ok(missing),
            Some(Value::Null) => Ok(None),
            Some(v) => self.whole(key, v).map(Some),
        }
    }

    /// A finite number.
    pub(super) fn number(&mut self, key: &'static str, default: f64) -> LoadResult<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => {
                v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.error(key, "a number is needed"))
            }
        }
    }

    /// A finite number above zero.
    pub(super) fn positive(&mut self, key: &'static str, default: f64) -> LoadResult<f64> {
        let x = self.number(key, default)?;
        if x > 0.0 { Ok(x) } else { Err(self.error(key, "it must be above zero")) }
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> LoadResult<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.error(key, "true or false is needed")),
        }
    }

    pub(super) fn word(&mut self, key: &'static str, default: &'static str) -> LoadResult<&'a str> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_str().ok_or_else(|| self.error(key, "a string is needed")),
        }
    }

    /// A key that may be missing, `null` or have the one value that is supported.
    pub(super) fn only(&mut self, key: &'static str, value: impl Into<Value>) -> LoadResult<()> {
        let value = value.into();
        match self.given(key) {
            Some(v) if *v != value => Err(self.error(key, format!("only {value} is supported"))),
            _ => Ok(()),
        }
    }

    /// Token ids: one, a list or `null`. Ids that the vocabulary does not have can never occur and are
    /// dropped.
    pub(super) fn ids(
        &mut self,
        key: &'static str,
        default: Option<u32>,
        vocab: usize,
    ) -> LoadResult<Vec<u32>> {
        let one = |keys: &Self, v: &Value| match v.as_u64() {
            Some(n) => Ok(u32::try_from(n).ok()),
            None => Err(keys.error(key, "token ids are needed")),
        };
        let ids: Vec<Option<u32>> = match self.get(key) {
            None => vec![default],
            Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list.iter().map(|v| one(self, v)).collect::<LoadResult<_>>()?,
            Some(v) => vec![one(self, v)?],
        };
        Ok(ids.into_iter().flatten().filter(|&id| (id as usize) < vocab).collect())
    }

    /// Fails on the first key that was neither read nor is on the list of keys that do not matter.
    pub(super) fn finish(&self, harmless: impl Fn(&str) -> bool) -> LoadResult<()> {
        match self.map.keys().find(|k| !self.seen.contains(k.as_str()) && !harmless(k)) {
            None => Ok(()),
            Some(key) => Err(self.error(key, "this key is unknown here and may change the numbers")),
        }
    }
}
