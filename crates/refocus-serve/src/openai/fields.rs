//! A JSON object that is read field by field.

use std::fmt::Display;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};

/// The fields of a request that nobody has read yet. A field with the value null counts as absent.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn parse(body: &[u8]) -> ApiResult<Self> {
        match serde_json::from_slice(body).map_err(ApiError::malformed)? {
            Value::Object(mut map) => {
                map.retain(|_, v| !v.is_null());
                Ok(Self(map))
            }
            other => Err(ApiError::malformed(format!("it is {}", kind(&other)))),
        }
    }

    /// Takes a field.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name)
    }

    /// Takes a field of a type.
    pub(super) fn get<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> ApiResult<Option<T>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let found = kind(&value);
        let wrong = |_| ApiError::invalid(name, format!("{name} must be {what}, not {found}"));
        serde_json::from_value(value).map(Some).map_err(wrong)
    }

    /// Takes a field that must be there.
    pub(super) fn need<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> ApiResult<T> {
        let missing = || ApiError::invalid(name, format!("{name} is missing: it must be {what}"));
        self.get(name, what)?.ok_or_else(missing)
    }

    /// Takes a number between two others.
    pub(super) fn number(&mut self, name: &str, from: f32, to: f32) -> ApiResult<Option<f32>> {
        let what = format!("a number from {from} to {to}");
        let number: Option<f32> = self.get(name, &what)?;
        in_range(name, number, |x| (from..=to).contains(x), &what)
    }

    /// Takes a whole number between two others.
    pub(super) fn count(&mut self, name: &str, from: u64, to: u64) -> ApiResult<Option<u64>> {
        let what = if to == u64::MAX {
            format!("a whole number, {from} or above")
        } else {
            format!("a whole number from {from} to {to}")
        };
        let number: Option<i128> = self.get(name, &what)?;
        let number = in_range(name, number, |x| (i128::from(from)..=i128::from(to)).contains(x), &what)?;
        Ok(number.and_then(|n| u64::try_from(n).ok()))
    }

    /// Takes fields that change nothing in an answer of this server.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.shift_remove(*name);
        }
    }

    /// Takes fields that are only accepted with the value that asks for nothing.
    pub(super) fn only(&mut self, allowed: &[(&str, Value)]) -> ApiResult<()> {
        for (name, value) in allowed {
            if let Some(got) = self.value(name)
                && got != *value
            {
                let text = format!("{name} is not supported here, only {name}: {value}");
                return Err(ApiError::unsupported(*name, text));
            }
        }
        Ok(())
    }

    /// Refuses what nobody has read.
    pub(super) fn finish(self) -> ApiResult<()> {
        match self.0.keys().next() {
            Some(name) => {
                let name: String = name.chars().take(80).collect();
                Err(ApiError::unsupported(name.clone(), format!("{name} is not supported here")))
            }
            None => Ok(()),
        }
    }
}

fn in_range<T: Display>(
    name: &str,
    number: Option<T>,
    good: impl Fn(&T) -> bool,
    what: &str,
) -> ApiResult<Option<T>> {
    match number {
        Some(x) if !good(&x) => Err(ApiError::invalid(name, format!("{name} is {x}, it must be {what}"))),
        number => Ok(number),
    }
}

/// What a JSON value is, for people.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "this number",
        Value::String(_) => "a text",
        Value::Array(_) => "this list",
        Value::Object(_) => "this object",
    }
}
