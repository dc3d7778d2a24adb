//! `pytorch_model.bin`: what `torch.save` makes of a dictionary of tensors, read without running anything.
//!
//! Since torch 1.6 the file is a zip archive: `data.pkl` describes the tensors, `data/0`, `data/1`, … are
//! the storages, stored and not compressed. Before that it was five pickles (a magic number, a version,
//! what the machine was like, the tensors, the order of the storages), then the storages one after
//! another, each after its length.
//!
//! Tensors stay where they lie in the mapped file. One whose strides are not those of its shape is put in
//! order when it is first asked for.

mod names;
mod pickle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use rawzip::{CompressionMethod, ZipArchive};

use self::pickle::{Pickle, Storage, Tensor, Value};
use super::Entry;
use super::map::Mapped;
use super::strided::Strided;
use crate::error::{LoadError, LoadResult, shorten};

/// The first bytes of a zip archive.
const ZIP: &[u8] = b"PK\x03\x04";
/// The first pickle of the old layout: protocol 2, a whole number of ten bytes.
const OLD: &[u8] = b"\x80\x02\x8a\x0a";
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const VERSION: i128 = 1001;

/// Whether a file begins as `torch.save` begins one.
pub(super) fn looks_like(head: &[u8]) -> bool {
    head.starts_with(ZIP) || head.starts_with(OLD)
}

/// Reads the description of all tensors of a file.
pub(crate) fn parse(file: &Mapped) -> LoadResult<Vec<(String, Entry)>> {
    let (path, bytes) = (file.path(), file.bytes());
    if bytes.starts_with(ZIP) {
        zip(file)
    } else if bytes.starts_with(OLD) {
        old(file)
    } else {
        let why = if bytes.starts_with(b"version https://git-lfs") {
            "this is a pointer to a file that git-lfs has not fetched"
        } else {
            "this is no file of torch.save, neither a zip archive nor a pickle with its magic number"
        };
        Err(LoadError::format(path, 0, why))
    }
}

/// Where storages lie in the file, by their key.
type Places<'a> = HashMap<&'a str, Range<usize>>;

fn zip(file: &Mapped) -> LoadResult<Vec<(String, Entry)>> {
    let (path, bytes) = (file.path(), file.bytes());
    let broken = |e: rawzip::Error| LoadError::format(path, 0, format!("not a whole zip archive: {e}"));
    let archive = ZipArchive::from_slice(bytes).map_err(broken)?;
    if archive.directory_offset() > archive.eocd_offset() {
        return Err(LoadError::format(path, 0, "not a whole zip archive: its directory lies behind its end"));
    }
    let mut records: HashMap<&str, Range<usize>> = HashMap::new();
    let mut entries = archive.entries();
    while let Some(record) = entries.next_entry().map_err(broken)? {
        let at = usize::try_from(record.local_header_offset()).unwrap_or(usize::MAX);
        let name = record.file_path().as_bytes();
        let Ok(name) = std::str::from_utf8(name) else {
            return Err(LoadError::format(path, at, "the name of an entry is no UTF-8"));
        };
        let refused = |why: &str| Err(LoadError::format(path, at, format!("entry {} {why}", shorten(name))));
        if record.flags().is_encrypted() {
            return refused("is encrypted");
        }
        if record.compression_method() != CompressionMethod::STORE {
            return refused(
                "is compressed; torch stores entries as they are, and only such can be used from the file: pack \
                 the archive again without compression",
            );
        }
        let entry = archive.get_entry(record.wayfinder()).map_err(broken)?;
        let (from, to) = entry.compressed_data_range();
        let range = from as usize..to as usize;
        // Each header lies beside its data; all of them together would hold much of the file in memory.
        file.release(at..range.start);
        // The archive's own name stands before the first slash.
        let inner = name.split_once('/').map_or(name, |(_, inner)| inner);
        if records.insert(inner, range).is_some() {
            return refused("is there twice");
        }
    }
    let Some(description) = records.get("data.pkl").cloned() else {
        return Err(LoadError::format(path, 0, "the archive has no data.pkl, so torch.save did not make it"));
    };
    if records.contains_key("constants.pkl") {
        let why = "this is a program of TorchScript; save the model's state_dict with torch.save";
        return Err(LoadError::format(path, 0, why));
    }
    if let Some(order) = records.get("byteorder").cloned()
        && bytes.get(order.clone()) != Some(b"little")
    {
        let why = "its numbers are not little-endian; save it again on a little-endian machine";
        return Err(LoadError::format(path, order.start, why));
    }
    let pickle = pickle::run(path, &bytes[..description.end], description.start)?;
    let places = records.iter().filter_map(|(n, r)| Some((n.strip_prefix("data/")?, r.clone()))).collect();
    entries_of(path, &pickle, &places)
}

fn old(file: &Mapped) -> LoadResult<Vec<(String, Entry)>> {
    let (path, bytes) = (file.path(), file.bytes());
    let magic = pickle::run(path, bytes, 0)?;
    if !matches!(magic.top(), Value::Int(MAGIC)) {
        return Err(LoadError::format(path, 0, "the magic number of torch.save is wrong"));
    }
    let version = pickle::run(path, bytes, magic.end)?;
    match version.top() {
        Value::Int(VERSION) => {}
        Value::Int(n) => {
            return Err(LoadError::format(
                path,
                magic.end,
                format!("version {n} of the layout; {VERSION} can be read"),
            ));
        }
        _ => return Err(LoadError::format(path, magic.end, "the version of the layout is no number")),
    }
    let system = pickle::run(path, bytes, version.end)?;
    little_endian(path, &system, version.end)?;
    let tensors = pickle::run(path, bytes, system.end)?;
    let order = pickle::run(path, bytes, tensors.end)?;
    let Value::List(keys) = order.top() else {
        return Err(LoadError::format(path, tensors.end, "a list of storages is needed here"));
    };
    let mut places = Places::new();
    let mut at = order.end;
    for &key in keys {
        let Value::Text(key) = order.get(key) else {
            return Err(LoadError::format(
                path,
                tensors.end,
                "the list of storages holds something else than keys",
            ));
        };
        let fail = |why: String| LoadError::format(path, at, format!("storage {}: {why}", shorten(key)));
        let Some(storage) = tensors.storages.get(key) else {
            return Err(fail("no tensor uses it, so its length is unknown".to_owned()));
        };
        let Some(numel) = bytes.get(at..).and_then(|b| b.first_chunk::<8>()).map(|b| i64::from_le_bytes(*b))
        else {
            return Err(fail("the file ends before it".to_owned()));
        };
        if usize::try_from(numel) != Ok(storage.numel) {
            return Err(fail(format!("{numel} elements here, {} in the description", storage.numel)));
        }
        let start = at + 8;
        let Some(end) = length(storage).and_then(|n| start.checked_add(n)).filter(|&end| end <= bytes.len())
        else {
            return Err(fail(format!("{numel} elements, but {} bytes are left", bytes.len() - start)));
        };
        if places.insert(key, start..end).is_some() {
            return Err(fail("it is there twice".to_owned()));
        }
        file.release(at..start);
        at = end;
    }
    entries_of(path, &tensors, &places)
}

fn little_endian(path: &Path, system: &Pickle<'_>, at: usize) -> LoadResult<()> {
    let Value::Dict(pairs) = system.top() else {
        return Err(LoadError::format(path, at, "a dictionary about the system is needed here"));
    };
    let key = |&&(k, _): &&(u32, u32)| matches!(system.get(k), Value::Text("little_endian"));
    match pairs.iter().find(key).map(|&(_, v)| system.get(v)) {
        Some(Value::Bool(true)) => Ok(()),
        _ => Err(LoadError::format(
            path,
            at,
            "its numbers are not little-endian; save it again on a little-endian machine",
        )),
    }
}

/// Bytes of a storage.
fn length(storage: &Storage<'_>) -> Option<usize> {
    storage.numel.checked_mul(storage.element.map_or(1, |e| e.bytes))
}

/// The tensors of the dictionary that a pickle left.
fn entries_of(path: &Path, pickle: &Pickle<'_>, places: &Places<'_>) -> LoadResult<Vec<(String, Entry)>> {
    let Value::Dict(pairs) = pickle.top() else {
        let what = pickle.top().what();
        return Err(LoadError::format(path, 0, format!("it holds {what}, not a dictionary of tensors")));
    };
    let mut out: HashMap<&str, Entry> = HashMap::with_capacity(pairs.len());
    for &(key, value) in pairs {
        let Value::Text(name) = pickle.get(key) else {
            let what = pickle.get(key).what();
            return Err(LoadError::format(
                path,
                0,
                format!("its dictionary has {what} where a tensor's name should be"),
            ));
        };
        let entry = match pickle.get(value) {
            Value::Tensor(t) => place(t, places).map_err(|why| LoadError::tensor(path, name, why))?,
            Value::Dict(_) => {
                let why = "it is a dictionary, so this is a whole training state; save the model's state_dict alone";
                return Err(LoadError::tensor(path, name, why));
            }
            other => {
                return Err(LoadError::tensor(path, name, format!("it is {}, not a tensor", other.what())));
            }
        };
        if out.insert(name, entry).is_some() {
            return Err(LoadError::tensor(path, name, "it is given twice"));
        }
    }
    Ok(out.into_iter().map(|(name, entry)| (name.to_owned(), entry)).collect())
}

/// Where a tensor's numbers lie. All of them lie inside its storage, and its storage inside the file.
fn place(t: &Tensor<'_>, places: &Places<'_>) -> Result<Entry, String> {
    let key = shorten(t.storage.key);
    let place = places.get(t.storage.key).ok_or_else(|| format!("its storage {key} is missing"))?;
    let said = length(&t.storage).ok_or_else(|| format!("its storage {key} is too long"))?;
    if said > place.len() {
        return Err(format!("its storage {key} should have {said} bytes, but has {}", place.len()));
    }
    let size = t.element.bytes;
    let numel = t.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    // The last element; a tensor without elements lies anywhere.
    let last = t
        .shape
        .iter()
        .zip(&t.strides)
        .try_fold(t.offset, |at, (&d, &stride)| at.checked_add(d.saturating_sub(1).checked_mul(stride)?));
    let end = match numel {
        Some(0) => t.offset.checked_mul(size),
        _ => last.and_then(|last| last.checked_add(1)?.checked_mul(size)),
    };
    let (Some(numel), Some(end)) = (numel, end.filter(|&end| end <= said)) else {
        return Err(format!(
            "shape {:?} with strides {:?} from element {} on does not lie in its storage {key} of {said} bytes",
            t.shape, t.strides, t.offset
        ));
    };
    let range = place.start + t.offset * size..place.start + end;
    let strided = if numel == 0 || t.is_contiguous() {
        None
    } else if numel > said / size {
        return Err(format!(
            "shape {:?} with strides {:?} repeats elements of its storage",
            t.shape, t.strides
        ));
    } else {
        Some(Strided::new(t.strides.clone(), size))
    };
    Ok(Entry { file: 0, dtype: t.element.stored, shape: t.shape.clone(), range, strided })
}

impl Tensor<'_> {
    /// Whether its elements, of which there are some, lie one after another in the order of its shape.
    fn is_contiguous(&self) -> bool {
        let mut want = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&d, &stride)| {
            let ok = d == 1 || stride == want;
            want *= d;
            ok
        })
    }
}
