//! The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use refocus_compute::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Entry, Stored};
use crate::error::{LoadError, LoadResult, shorten};

/// The format's own bound on the header.
const MOST_HEADER: u64 = 100_000_000;

/// Bits of each type that the format knows.
const TYPES: [(&str, u32); 21] = [
    ("F64", 64),
    ("F32", 32),
    ("F16", 16),
    ("BF16", 16),
    ("F8_E4M3", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2", 8),
    ("F8_E5M2FNUZ", 8),
    ("F8_E8M0", 8),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F4", 4),
    ("C64", 64),
    ("I64", 64),
    ("U64", 64),
    ("I32", 32),
    ("U32", 32),
    ("I16", 16),
    ("U16", 16),
    ("I8", 8),
    ("U8", 8),
];

fn stored(name: &str) -> Option<(Stored, u32)> {
    let known = |d| Some((Stored::Known(d), d.block_bytes() as u32 * 8));
    match name {
        "F32" => known(Dtype::F32),
        "F16" => known(Dtype::F16),
        "BF16" => known(Dtype::Bf16),
        "BOOL" => Some((Stored::Other("BOOL"), 8)),
        _ => TYPES.iter().find(|(n, _)| *n == name).map(|&(n, bits)| (Stored::Other(n), bits)),
    }
}

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// Reads the header of a whole file. Every tensor's bytes lie inside it, none overlap, none are left
/// over, and each length is what shape and type say.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> LoadResult<Vec<(String, Entry)>> {
    let at = |offset: usize, why: String| LoadError::format(path, offset, why);
    let Some(length) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Err(at(0, format!("{} bytes are too few for a safetensors file", bytes.len())));
    };
    if length > MOST_HEADER {
        return Err(at(0, format!("a header of {length} bytes; the format allows {MOST_HEADER}")));
    }
    let start = 8 + length as usize;
    let Some(header) = bytes.get(8..start) else {
        return Err(at(0, format!("a header of {length} bytes in a file of {}", bytes.len())));
    };
    let Header(infos) =
        serde_json::from_slice(header).map_err(|source| LoadError::Json { path: path.to_owned(), source })?;
    let mut tensors = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let entry = entry(&info, start, bytes.len()).map_err(|why| LoadError::tensor(path, &name, why))?;
        tensors.push((name, entry));
    }
    contiguous(path, start..bytes.len(), &tensors)?;
    Ok(tensors)
}

/// What the header says about a tensor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Sizes,
    data_offsets: [u64; 2],
}

/// A short list of sizes.
struct Sizes(Vec<usize>);

/// The tensors by name; a name or field that is given twice is an error.
struct Header<'a>(BTreeMap<String, Info<'a>>);

struct SizesVisitor;
struct HeaderVisitor<'a>(PhantomData<&'a ()>);

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(SizesVisitor)
    }
}

impl<'de> Visitor<'de> for SizesVisitor {
    type Value = Sizes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sizes, A::Error> {
        let mut out = Vec::new();
        while let Some(n) = seq.next_element()? {
            if out.len() == MOST_DIMENSIONS {
                return Err(A::Error::custom(format_args!("more than {MOST_DIMENSIONS} dimensions")));
            }
            out.push(n);
        }
        Ok(Sizes(out))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Header<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(HeaderVisitor(PhantomData))
    }
}

impl<'de: 'a, 'a> Visitor<'de> for HeaderVisitor<'a> {
    type Value = Header<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that describes tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'a>, A::Error> {
        let mut out = BTreeMap::new();
        let mut metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            let named = |e: A::Error| A::Error::custom(format_args!("{}: {e}", shorten(&name)));
            let again = match name.as_str() {
                "__metadata__" => {
                    map.next_value::<BTreeMap<String, String>>().map_err(named)?;
                    std::mem::replace(&mut metadata, true)
                }
                _ => {
                    let info = map.next_value().map_err(named)?;
                    out.insert(name.clone(), info).is_some()
                }
            };
            if again {
                return Err(A::Error::custom(format_args!("{} is given twice", shorten(&name))));
            }
        }
        Ok(Header(out))
    }
}

/// Where a tensor lies in a file of `length` bytes whose header ends at `start`.
fn entry(info: &Info<'_>, start: usize, length: usize) -> Result<Entry, String> {
    let (dtype, bits) =
        stored(&info.dtype).ok_or_else(|| format!("unknown dtype {:?}", shorten(&info.dtype)))?;
    let [from, to] = info.data_offsets;
    let room = (length - start) as u64;
    if from > to || to > room {
        return Err(format!("data_offsets [{from}, {to}] do not lie in the {room} bytes after the header"));
    }
    let Sizes(shape) = &info.shape;
    let values = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    match values.and_then(|n| n.checked_mul(bits.into())) {
        Some(n) if n.is_multiple_of(8) && n / 8 == to - from => {
            let range = start + from as usize..start + to as usize;
            Ok(Entry { file: 0, dtype, shape: shape.clone(), range, strided: None })
        }
        _ => Err(format!(
            "shape {shape:?} of {} does not take the {} bytes of its data_offsets",
            dtype.name(),
            to - from
        )),
    }
}

/// Fails unless the tensors cover `all` exactly.
fn contiguous(path: &Path, all: Range<usize>, tensors: &[(String, Entry)]) -> LoadResult<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, e)| (e.range.start, e.range.end));
    let mut end = all.start;
    for (name, e) in order {
        if e.range.start < end {
            return Err(LoadError::tensor(path, name, "its bytes overlap those of another tensor"));
        }
        if e.range.start > end {
            return Err(LoadError::format(
                path,
                end,
                format!("{} bytes belong to no tensor", e.range.start - end),
            ));
        }
        end = e.range.end;
    }
    if end < all.end {
        return Err(LoadError::format(path, end, format!("{} bytes after the last tensor", all.end - end)));
    }
    Ok(())
}
