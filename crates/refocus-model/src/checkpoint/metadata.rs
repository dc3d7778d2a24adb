//! The typed metadata of a GGUF file, decoded on demand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::error::{LoadError, LoadResult};

/// Type of a metadata value or of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    pub(super) const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::Str,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Bytes of one value; for strings and arrays, of the shortest one.
    pub(super) fn least(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::Str => 8,
            Kind::Array => 12,
        }
    }
}

/// One metadata value.
#[derive(Clone, Debug)]
pub(super) enum Meta {
    /// Integers and booleans of every width.
    Int(i128),
    Float(f64),
    Bool(bool),
    Str(Range<usize>),
    Array {
        kind: Kind,
        count: usize,
        range: Range<usize>,
    },
}

/// The metadata of a file; the values lie in the file's bytes.
#[derive(Debug)]
pub(crate) struct Keys {
    map: BTreeMap<String, Meta>,
}

impl Keys {
    pub(super) fn new(map: BTreeMap<String, Meta>) -> Self {
        Self { map }
    }

    pub(crate) fn view<'a>(&'a self, path: &'a Path, bytes: &'a [u8]) -> View<'a> {
        View { path, bytes, map: &self.map }
    }
}

/// Metadata together with the bytes that hold it. Every getter gives `None` for a key that is not there
/// and an error for a value of another type.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) path: &'a Path,
    bytes: &'a [u8],
    map: &'a BTreeMap<String, Meta>,
}

impl<'a> View<'a> {
    /// All keys in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.map.keys().map(String::as_str)
    }

    /// An error about a key, with its value.
    pub(crate) fn error(&self, key: &str, why: impl Into<String>) -> LoadError {
        LoadError::key(self.path, key, self.text(key), why)
    }

    /// A value as text: numbers and strings as they are, arrays by their length.
    pub(crate) fn text(&self, key: &str) -> String {
        match self.map.get(key) {
            None => "nothing".to_owned(),
            Some(Meta::Int(n)) => n.to_string(),
            Some(Meta::Float(x)) => x.to_string(),
            Some(Meta::Bool(b)) => b.to_string(),
            Some(Meta::Str(r)) => format!("{:?}", String::from_utf8_lossy(&self.bytes[r.clone()])),
            Some(Meta::Array { kind, count, .. }) => format!("[{count} × {kind:?}]"),
        }
    }

    /// The stored bytes of a value, for hashing.
    pub(crate) fn raw(&self, key: &str) -> Vec<u8> {
        match self.map.get(key) {
            Some(Meta::Array { range, .. }) => self.bytes[range.clone()].to_vec(),
            _ => self.text(key).into_bytes(),
        }
    }

    pub(crate) fn count(&self, key: &str) -> LoadResult<Option<usize>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Meta::Int(n)) => match usize::try_from(*n) {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(self.error(key, "a count is not negative")),
            },
            Some(_) => Err(self.error(key, "a whole number is needed")),
        }
    }

    pub(crate) fn number(&self, key: &str) -> LoadResult<Option<f64>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Meta::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(Meta::Int(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.error(key, "a finite number is needed")),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> LoadResult<Option<bool>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Meta::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(self.error(key, "a boolean is needed")),
        }
    }

    pub(crate) fn string(&self, key: &str) -> LoadResult<Option<&'a str>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Meta::Str(r)) => match std::str::from_utf8(&self.bytes[r.clone()]) {
                Ok(s) => Ok(Some(s)),
                Err(_) => Err(self.error(key, "the text is no UTF-8")),
            },
            Some(_) => Err(self.error(key, "a string is needed")),
        }
    }

    /// Number of elements of an array of any type.
    pub(crate) fn len(&self, key: &str) -> LoadResult<Option<usize>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Meta::Array { count, .. }) => Ok(Some(*count)),
            Some(_) => Err(self.error(key, "an array is needed")),
        }
    }

    /// An array of strings, borrowed from the file.
    pub(crate) fn strings(&self, key: &str) -> LoadResult<Option<Vec<&'a str>>> {
        let (count, range) = match self.map.get(key) {
            None => return Ok(None),
            Some(Meta::Array { kind: Kind::Str, count, range }) => (*count, range.clone()),
            Some(_) => return Err(self.error(key, "an array of strings is needed")),
        };
        let mut rest = &self.bytes[range];
        let mut out = Vec::with_capacity(count);
        // Reading the head has walked over these strings, so their lengths are known to fit.
        while let Some((length, tail)) = rest.split_first_chunk::<8>() {
            let Some((text, tail)) = tail.split_at_checked(u64::from_le_bytes(*length) as usize) else {
                break;
            };
            let text = std::str::from_utf8(text);
            out.push(text.map_err(|_| self.error(key, format!("element {} is no UTF-8", out.len())))?);
            rest = tail;
        }
        Ok(Some(out))
    }

    /// An array of whole numbers of any width.
    pub(crate) fn ints(&self, key: &str) -> LoadResult<Option<Vec<i64>>> {
        let (kind, range) = match self.map.get(key) {
            None => return Ok(None),
            Some(Meta::Array { kind, range, .. }) => (*kind, range.clone()),
            Some(_) => return Err(self.error(key, "an array is needed")),
        };
        let wide = |b: &[u8]| {
            let mut out = [0; 8];
            out[..b.len()].copy_from_slice(b);
            u64::from_le_bytes(out)
        };
        let read = |b: &[u8]| match kind {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => i64::try_from(wide(b)).ok(),
            Kind::I8 => Some(i64::from(wide(b) as u8 as i8)),
            Kind::I16 => Some(i64::from(wide(b) as u16 as i16)),
            Kind::I32 => Some(i64::from(wide(b) as u32 as i32)),
            Kind::I64 => Some(wide(b) as i64),
            Kind::F32 | Kind::F64 | Kind::Bool | Kind::Str | Kind::Array => None,
        };
        let ints = self.bytes[range].chunks_exact(kind.least()).map(read).collect::<Option<_>>();
        ints.map(Some).ok_or_else(|| self.error(key, "an array of whole numbers is needed"))
    }

    /// An array of floating-point numbers of either width.
    pub(crate) fn floats(&self, key: &str) -> LoadResult<Option<Vec<f64>>> {
        let (kind, range) = match self.map.get(key) {
            None => return Ok(None),
            Some(Meta::Array { kind: kind @ (Kind::F32 | Kind::F64), range, .. }) => (*kind, range.clone()),
            Some(_) => return Err(self.error(key, "an array of floating-point numbers is needed")),
        };
        let read = |b: &[u8]| match b {
            [a, b, c, d] => f64::from(f32::from_le_bytes([*a, *b, *c, *d])),
            long => {
                let mut out = [0; 8];
                out.copy_from_slice(long);
                f64::from_le_bytes(out)
            }
        };
        Ok(Some(self.bytes[range].chunks_exact(kind.least()).map(read).collect()))
    }
}
