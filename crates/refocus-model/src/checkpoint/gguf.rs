//! The GGUF format, versions 2 and 3, little-endian: typed metadata, then tensors.
//!
//! Nothing is copied but names: strings and arrays stay where they lie in the file and are decoded when
//! they are asked for. Counts and lengths are checked against the bytes that are left before anything is
//! reserved for them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use refocus_compute::Dtype;

use super::metadata::{Keys, Kind, Meta, View};
use super::{Entry, Stored};
use crate::error::{LoadError, LoadResult, shorten};

/// The stored types: number, name, values in a block, bytes of a block.
const TYPES: [(u32, &str, usize, usize); 33] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 40),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
];

/// Longest name of a key or tensor; the format asks for less.
const MOST_NAME: usize = 4096;

/// Types that can be computed with, for errors.
pub(super) const SUPPORTED: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K";

fn dtype(id: u32) -> Option<Dtype> {
    match id {
        0 => Some(Dtype::F32),
        1 => Some(Dtype::F16),
        2 => Some(Dtype::Q4_0),
        3 => Some(Dtype::Q4_1),
        6 => Some(Dtype::Q5_0),
        7 => Some(Dtype::Q5_1),
        8 => Some(Dtype::Q8_0),
        10 => Some(Dtype::Q2_K),
        11 => Some(Dtype::Q3_K),
        12 => Some(Dtype::Q4_K),
        13 => Some(Dtype::Q5_K),
        14 => Some(Dtype::Q6_K),
        30 => Some(Dtype::Bf16),
        _ => None,
    }
}

/// A type with the bytes of a row of `k` values. `Err` where the format does not know the type; its size
/// is unknown then.
fn stored(id: u32, k: usize) -> Result<(Stored, Option<usize>), String> {
    if let Some(dtype) = dtype(id) {
        return Ok((Stored::Known(dtype), dtype.row_bytes(k)));
    }
    let Some(&(_, name, block, bytes)) = TYPES.iter().find(|t| t.0 == id) else {
        return Err(format!("type {id}"));
    };
    let row = k.is_multiple_of(block).then(|| (k / block).checked_mul(bytes)).flatten();
    Ok((Stored::Other(name), row))
}

struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn fail<T>(&self, why: impl Into<String>) -> LoadResult<T> {
        Err(LoadError::format(self.path, self.at, why))
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, n: usize, what: &str) -> LoadResult<&'a [u8]> {
        match self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => self.fail(format!("the file ends inside {what}")),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> LoadResult<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> LoadResult<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> LoadResult<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, least: usize, what: &str) -> LoadResult<usize> {
        let at = self.at;
        let n = self.u64(what)?;
        match usize::try_from(n).ok().filter(|&n| n <= self.left() / least) {
            Some(n) => Ok(n),
            None => Err(LoadError::format(
                self.path,
                at,
                format!("{n} {what} do not fit into the {} bytes that follow", self.left()),
            )),
        }
    }

    /// The place of a string's bytes.
    fn string(&mut self, what: &str) -> LoadResult<Range<usize>> {
        let n = self.count(1, what)?;
        let start = self.at;
        self.take(n, what)?;
        Ok(start..self.at)
    }

    fn name(&mut self, what: &str) -> LoadResult<&'a str> {
        let at = self.at;
        let range = self.string(what)?;
        let why = match std::str::from_utf8(&self.bytes[range.clone()]) {
            Ok(name) if name.len() <= MOST_NAME => return Ok(name),
            Ok(name) => format!("{what} of {} bytes", name.len()),
            Err(_) => format!("{what} is no UTF-8"),
        };
        Err(LoadError::format(self.path, at, why))
    }

    fn kind(&mut self, what: &str) -> LoadResult<Kind> {
        let at = self.at;
        let id = self.u32(what)?;
        let unknown = || LoadError::format(self.path, at, format!("{what} has unknown type {id}"));
        Kind::ALL.get(id as usize).copied().ok_or_else(unknown)
    }

    fn value(&mut self, key: &str) -> LoadResult<Meta> {
        let what = format!("the value of key {}", shorten(key));
        let what = what.as_str();
        Ok(match self.kind(what)? {
            Kind::U8 => Meta::Int(self.array::<1>(what)?[0].into()),
            Kind::I8 => Meta::Int(i8::from_le_bytes(self.array(what)?).into()),
            Kind::U16 => Meta::Int(u16::from_le_bytes(self.array(what)?).into()),
            Kind::I16 => Meta::Int(i16::from_le_bytes(self.array(what)?).into()),
            Kind::U32 => Meta::Int(self.u32(what)?.into()),
            Kind::I32 => Meta::Int(i32::from_le_bytes(self.array(what)?).into()),
            Kind::U64 => Meta::Int(self.u64(what)?.into()),
            Kind::I64 => Meta::Int(i64::from_le_bytes(self.array(what)?).into()),
            Kind::F32 => Meta::Float(f32::from_le_bytes(self.array(what)?).into()),
            Kind::F64 => Meta::Float(f64::from_le_bytes(self.array(what)?)),
            Kind::Bool => match self.array::<1>(what)? {
                [0] => Meta::Bool(false),
                [1] => Meta::Bool(true),
                [n] => return self.fail(format!("{what} is a boolean of value {n}")),
            },
            Kind::Str => Meta::Str(self.string(what)?),
            Kind::Array => {
                let kind = self.kind(what)?;
                if kind == Kind::Array {
                    return self.fail(format!("{what} is an array of arrays"));
                }
                let count = self.count(kind.least(), what)?;
                let start = self.at;
                if kind == Kind::Str {
                    for _ in 0..count {
                        self.string(what)?;
                    }
                } else {
                    self.take(count * kind.least(), what)?;
                }
                Meta::Array { kind, count, range: start..self.at }
            }
        })
    }
}

/// Reads the metadata of a file and nothing about its tensors.
pub(crate) fn metadata(path: &Path, bytes: &[u8]) -> LoadResult<Keys> {
    head(path, bytes).map(|(_, _, keys)| keys)
}

/// The metadata, the number of tensors, and the place where their descriptions begin.
fn head<'a>(path: &'a Path, bytes: &'a [u8]) -> LoadResult<(Cursor<'a>, usize, Keys)> {
    let mut c = Cursor { path, bytes, at: 0 };
    if c.take(4, "the magic number")? != b"GGUF" {
        return Err(LoadError::format(path, 0, "this is no GGUF file"));
    }
    let version = c.u32("the version")?;
    if !matches!(version, 2 | 3) {
        let big = matches!(version.swap_bytes(), 1..=3);
        let why = if big { "a big-endian file".to_owned() } else { format!("version {version}") };
        return Err(LoadError::format(
            path,
            4,
            format!("{why}; versions 2 and 3, little-endian, can be read"),
        ));
    }
    // A tensor takes at least a name's length, a number of dimensions, a type and an offset.
    let n_tensors = c.count(24, "tensors")?;
    let n_keys = c.count(13, "keys")?;
    let mut map = BTreeMap::new();
    for _ in 0..n_keys {
        let at = c.at;
        let key = c.name("the name of a key")?;
        let value = c.value(key)?;
        if map.insert(key.to_owned(), value).is_some() {
            return Err(LoadError::format(path, at, format!("key {} is given twice", shorten(key))));
        }
    }
    Ok((c, n_tensors, Keys::new(map)))
}

/// Reads the head of a whole file: its metadata and where its tensors lie.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> LoadResult<(Keys, Vec<(String, Entry)>)> {
    let (mut c, n_tensors, keys) = head(path, bytes)?;
    let alignment = alignment(&keys.view(path, bytes))?;
    let mut tensors = Vec::new();
    let mut names = BTreeSet::new();
    for _ in 0..n_tensors {
        let at = c.at;
        let (name, entry) = tensor(&mut c)?;
        if !names.insert(name) {
            return Err(LoadError::format(path, at, format!("tensor {} is given twice", shorten(name))));
        }
        tensors.push((name.to_owned(), entry));
    }
    let start = c.at.next_multiple_of(alignment);
    place(path, bytes.len(), start, alignment, &mut tensors)?;
    Ok((keys, tensors))
}

fn alignment(keys: &View<'_>) -> LoadResult<usize> {
    const KEY: &str = "general.alignment";
    match keys.count(KEY)? {
        None => Ok(32),
        Some(n) if n.is_power_of_two() && (8..=1 << 20).contains(&n) => Ok(n),
        Some(n) => Err(LoadError::key(keys.path, KEY, n, "an alignment is a power of two from 8 on")),
    }
}

/// One entry of the tensor table; its range counts from the start of the tensors' bytes.
fn tensor<'a>(c: &mut Cursor<'a>) -> LoadResult<(&'a str, Entry)> {
    let name = c.name("the name of a tensor")?;
    let what = format!("the entry of tensor {}", shorten(name));
    let n = c.u32(&what)?;
    if !(1..=4).contains(&n) {
        return Err(LoadError::tensor(c.path, name, format!("{n} dimensions; 1 to 4 are possible")));
    }
    let mut shape = Vec::with_capacity(4);
    for _ in 0..n {
        let d = c.u64(&what)?;
        match usize::try_from(d) {
            Ok(d) if d > 0 => shape.push(d),
            _ => return Err(LoadError::tensor(c.path, name, format!("a dimension of {d}"))),
        }
    }
    shape.reverse();
    let unknown = |dtype| LoadError::TensorType {
        path: c.path.to_owned(),
        tensor: shorten(name),
        dtype,
        supported: SUPPORTED,
    };
    let id = c.u32(&what)?;
    let (dtype, row) = stored(id, shape[shape.len() - 1]).map_err(unknown)?;
    let offset = c.u64(&what)?;
    if let Stored::Known(known) = dtype
        && !shape[shape.len() - 1].is_multiple_of(known.block())
    {
        let (name_of, block) = (known.name(), known.block());
        let why = format!("shape {shape:?} of {name_of}, which stores rows in blocks of {block} values");
        return Err(LoadError::tensor(c.path, name, why));
    }
    let rows = shape[..shape.len() - 1].iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let bytes = row.zip(rows).and_then(|(row, n)| row.checked_mul(n));
    let end = bytes.and_then(|n| usize::try_from(offset).ok()?.checked_add(n));
    match end.zip(bytes) {
        Some((end, n)) => Ok((name, Entry { file: 0, dtype, shape, range: end - n..end, strided: None })),
        None => Err(LoadError::tensor(
            c.path,
            name,
            format!("shape {shape:?} of {} at offset {offset} cannot be stored", dtype.name()),
        )),
    }
}

/// Turns offsets into places in the file. Tensors are aligned, lie inside the file and do not overlap.
fn place(
    path: &Path,
    length: usize,
    start: usize,
    alignment: usize,
    tensors: &mut [(String, Entry)],
) -> LoadResult<()> {
    for (name, e) in tensors.iter_mut() {
        if !e.range.start.is_multiple_of(alignment) {
            let why = format!("offset {} is no multiple of the alignment {alignment}", e.range.start);
            return Err(LoadError::tensor(path, name, why));
        }
        match start.checked_add(e.range.end) {
            Some(end) if end <= length => e.range = start + e.range.start..end,
            _ => {
                let why = format!(
                    "its bytes {}..{} lie beyond the end of the file ({} bytes follow the header)",
                    e.range.start,
                    e.range.end,
                    length.saturating_sub(start)
                );
                return Err(LoadError::tensor(path, name, why));
            }
        }
    }
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, e)| (e.range.start, e.range.end));
    for pair in order.windows(2) {
        if pair[1].1.range.start < pair[0].1.range.end {
            let why = format!("its bytes overlap those of tensor {}", shorten(&pair[0].0));
            return Err(LoadError::tensor(path, &pair[1].0, why));
        }
    }
    Ok(())
}
