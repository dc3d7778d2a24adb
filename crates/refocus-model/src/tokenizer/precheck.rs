//! A look at a `tokenizer.json` before it is parsed for good. The parser takes some things for granted and
//! panics where they are not so; they are checked here.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::{LoadError, LoadResult};

/// Fails on a file that is no JSON, on merges that join to more than the longest token or continue a word
/// under a prefix of their own, on templates of tokens that they do not define, on decoders that strip the end
/// of a token that may be shorter, and on compiled normalizers.
pub(super) fn check(path: &Path, bytes: &[u8]) -> LoadResult<()> {
    let file: File =
        serde_json::from_slice(bytes).map_err(|source| LoadError::Json { path: path.to_owned(), source })?;
    let refuse = |why: &str| Err(LoadError::tokenizer(path, why));
    if file.model.merges.0 > file.model.vocab.0 {
        return refuse("a merge joins to more than any token");
    }
    if file.model.merges.0 > 0 && file.model.continuing_subword_prefix.is_some_and(|p| !p.is_empty()) {
        return refuse("merges with a continuing_subword_prefix are not supported");
    }
    if !file.rest.values().all(templates_are_whole) {
        return refuse("a template names a token that it does not define, or a second text");
    }
    if file.rest.get("decoder").is_some_and(strips_the_end) {
        return refuse("a decoder of type Strip that takes something off the end is not supported");
    }
    if file.rest.values().any(is_compiled) {
        return refuse("a normalizer of type Precompiled is not supported");
    }
    Ok(())
}

/// Whether every template in a value, however deep, names one text and tokens that it defines.
fn templates_are_whole(value: &Value) -> bool {
    let pieces = value.get("single").and_then(Value::as_array);
    let defined = value.get("special_tokens");
    let whole = |piece: &Value| match (piece.get("SpecialToken"), piece.get("Sequence")) {
        (Some(token), _) => {
            let id = token.get("id").and_then(Value::as_str);
            id.zip(defined).is_some_and(|(id, defined)| defined.get(id).is_some())
        }
        (None, Some(text)) => text.get("id").is_some_and(|id| id == "A"),
        (None, None) => true,
    };
    pieces.is_none_or(|p| p.iter().all(whole)) && inner(value).all(templates_are_whole)
}

fn is_compiled(value: &Value) -> bool {
    value.get("type").is_some_and(|t| t == "Precompiled") || inner(value).any(is_compiled)
}

fn strips_the_end(value: &Value) -> bool {
    let strips =
        value.get("type").is_some_and(|t| t == "Strip") && value.get("stop").is_some_and(|n| *n != 0);
    strips || inner(value).any(strips_the_end)
}

/// The values inside a list or an object.
fn inner(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: Longest,
    #[serde(default)]
    merges: Longest,
    continuing_subword_prefix: Option<String>,
}

/// Bytes of the longest key of an object or the longest element of a list.
#[derive(Default)]
struct Longest(usize);

/// Bytes of a string; a number has none.
struct Length(usize);

/// Bytes that a merge joins to: of a list of halves, or of a string in which a space parts them.
struct Merge(usize);

struct LongestVisitor;
struct LengthVisitor;
struct MergeVisitor;

impl<'de> Deserialize<'de> for Longest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(LongestVisitor)
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(LengthVisitor)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(MergeVisitor)
    }
}

impl<'de> Visitor<'de> for LongestVisitor {
    type Value = Longest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary or a list of merges")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Longest, A::Error> {
        let mut most = 0;
        while let Some((Length(token), Length(_))) = map.next_entry()? {
            most = most.max(token);
        }
        Ok(Longest(most))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Longest, A::Error> {
        let mut most = 0;
        while let Some(Merge(n)) = seq.next_element()? {
            most = most.max(n);
        }
        Ok(Longest(most))
    }
}

impl<'de> Visitor<'de> for LengthVisitor {
    type Value = Length;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token or a number")
    }

    fn visit_str<E>(self, s: &str) -> Result<Length, E> {
        Ok(Length(s.len()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Length, E> {
        Ok(Length(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Length, E> {
        Ok(Length(0))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Length, E> {
        Ok(Length(0))
    }
}

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge")
    }

    fn visit_str<E>(self, s: &str) -> Result<Merge, E> {
        Ok(Merge(s.len().saturating_sub(1)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
        let mut sum = 0;
        while let Some(Length(n)) = seq.next_element()? {
            sum += n;
        }
        Ok(Merge(sum))
    }
}
