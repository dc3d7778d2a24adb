//! Reading a TOML table key by key, so that in the end none is left unread.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Doc, PatchError};
use crate::error::shorten;
use crate::site::nearest;

/// A table of a patch file whose every key must be read.
pub(super) struct Keys<'a> {
    doc: Doc<'a>,
    /// How the table is called in errors: `[[intervention]]`.
    what: &'static str,
    /// Every key that may stand in such a table.
    known: &'static [&'static str],
    table: &'a DeTable<'a>,
    line: usize,
    seen: Vec<&'static str>,
}

/// A value and its line.
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

impl<'a> Keys<'a> {
    /// A table, once it is sure that every key of it is known.
    pub(super) fn open(
        doc: Doc<'a>,
        what: &'static str,
        known: &'static [&'static str],
        value: &'a Spanned<DeValue<'a>>,
    ) -> Result<Self, PatchError> {
        let line = doc.line(value.span().start);
        match value.get_ref() {
            DeValue::Table(table) => Self::of(doc, what, known, table, line),
            other => Err(doc.error(line, format!("{what} is a table, not {}", article(other)))),
        }
    }

    pub(super) fn of(
        doc: Doc<'a>,
        what: &'static str,
        known: &'static [&'static str],
        table: &'a DeTable<'a>,
        line: usize,
    ) -> Result<Self, PatchError> {
        // Tables are sorted by key; the first unknown key of the text is the one to name.
        let unknown = table
            .iter()
            .map(|(k, _)| k)
            .filter(|k| !known.contains(&k.get_ref().as_ref()))
            .min_by_key(|k| k.span().start);
        if let Some(key) = unknown {
            let name: &str = key.get_ref().as_ref();
            let mut why = format!("unknown key '{}' in {what}", shorten(name));
            match nearest_key(name, known) {
                Some(near) => why.push_str(&format!("; did you mean '{near}'?")),
                None => why.push_str(&format!("; it takes {}", list(known))),
            }
            return Err(doc.error(doc.line(key.span().start), why));
        }
        Ok(Self { doc, what, known, table, line, seen: Vec::new() })
    }

    /// The line on which the table begins.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    pub(super) fn get(&mut self, key: &'static str) -> Option<At<&'a Spanned<DeValue<'a>>>> {
        debug_assert!(self.known.contains(&key));
        self.seen.push(key);
        let (_, value) = self.table.iter().find(|(k, _)| k.get_ref().as_ref() == key)?;
        Some(At { line: self.doc.line(value.span().start), value })
    }

    /// An error about a key's value.
    pub(super) fn error(&self, line: usize, key: &str, value: &dyn fmt::Display, why: &str) -> PatchError {
        self.doc.error(line, format!("{key} = {}: {why}", shorten(&value.to_string())))
    }

    fn missing(&self, key: &str, of: &str) -> PatchError {
        self.doc.error(self.line, format!("{of} needs the key '{key}'"))
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<At<&'a str>>, PatchError> {
        let Some(At { line, value }) = self.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::String(s) => Ok(Some(At { line, value: s.as_ref() })),
            other => Err(self.error(line, key, &Shown(other), "a string is needed")),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn whole(&mut self, key: &'static str) -> Result<Option<At<usize>>, PatchError> {
        let Some(At { line, value }) = self.get(key) else { return Ok(None) };
        match whole(value.get_ref()) {
            Some(n) => Ok(Some(At { line, value: n })),
            None => Err(self.error(line, key, &Shown(value.get_ref()), "a whole number from 0 on is needed")),
        }
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<At<f32>>, PatchError> {
        let Some(At { line, value }) = self.get(key) else { return Ok(None) };
        let number = match value.get_ref() {
            DeValue::Float(x) => x.as_str().replace('_', "").parse::<f64>().ok(),
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n as f64),
            _ => None,
        };
        match number.map(|x| x as f32).filter(|x| x.is_finite()) {
            Some(x) => Ok(Some(At { line, value: x })),
            None => Err(self.error(line, key, &Shown(value.get_ref()), "a finite number is needed")),
        }
    }

    /// What an action cannot do without.
    pub(super) fn need<T>(
        &self,
        key: &'static str,
        of: &str,
        value: Option<At<T>>,
    ) -> Result<At<T>, PatchError> {
        value.ok_or_else(|| self.missing(key, of))
    }

    /// Fails on a key that is known but that this entry does not take.
    pub(super) fn finish(self, of: &str) -> Result<(), PatchError> {
        let left = self
            .table
            .iter()
            .map(|(k, _)| k)
            .filter(|k| !self.seen.contains(&k.get_ref().as_ref()))
            .min_by_key(|k| k.span().start);
        match left {
            None => Ok(()),
            Some(k) => {
                let why = format!("{of} takes no key '{}' in {}", k.get_ref(), self.what);
                Err(self.doc.error(self.doc.line(k.span().start), why))
            }
        }
    }
}

/// A slip of a name that is at most half wrong: names of keys are short.
fn nearest_key(name: &str, known: &[&'static str]) -> Option<String> {
    nearest(name, known.iter().map(|k| (*k).to_owned()))
        .filter(|near| near.len() > 2 || name.starts_with(&near[..1]))
}

/// The nearest of some words, as the end of a sentence.
pub(super) fn did_you_mean(word: &str, known: &[&'static str]) -> String {
    match nearest(word, known.iter().map(|k| (*k).to_owned())) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("it is one of {}", list(known)),
    }
}

/// `a, b and c`.
pub(super) fn list(words: &[&str]) -> String {
    match words {
        [] => "none".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

pub(super) fn whole(value: &DeValue<'_>) -> Option<usize> {
    match value {
        DeValue::Integer(n) => usize::from_str_radix(n.as_str(), n.radix()).ok(),
        _ => None,
    }
}

/// A value as it stood in the file, more or less.
pub(super) struct Shown<'a>(pub(super) &'a DeValue<'a>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DeValue::String(s) => write!(f, "{:?}", shorten(s)),
            DeValue::Integer(n) => write!(f, "{n}"),
            DeValue::Float(x) => write!(f, "{}", x.as_str()),
            DeValue::Boolean(b) => write!(f, "{b}"),
            other => f.write_str(article(other)),
        }
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
