//! The text of a patch file as data, before it meets a model.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Doc, PatchError};
use super::keys::{At, Keys, Shown, did_you_mean, whole};
use super::{Rewrite, Variant};
use crate::error::shorten;
use crate::intervene::{Gate, Position};

/// A patch file, every key read.
#[derive(Debug)]
pub(super) struct File {
    /// Line and fingerprint.
    pub(super) guard: Option<(usize, String)>,
    pub(super) interventions: Vec<Entry>,
    pub(super) decode: Vec<DecodeEntry>,
    pub(super) rewrite: Option<(usize, Rewrite)>,
}

/// One `[[intervention]]`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) line: usize,
    /// Line and pattern.
    pub(super) at: Option<(usize, String)>,
    pub(super) head: Option<usize>,
    pub(super) position: Position,
    pub(super) act: Act,
    pub(super) when: Option<Gate>,
}

/// What an entry does; vectors not read yet.
#[derive(Debug)]
pub(super) enum Act {
    Zero,
    Mean(VectorRef),
    Scale(f32),
    Add { vector: VectorRef, alpha: f32 },
    UniformAttention,
    BlockEdge(Range<u32>),
    Sharpen(f32),
    Exit(usize),
}

/// One `[[decode]]`.
#[derive(Debug)]
pub(super) struct DecodeEntry {
    pub(super) line: usize,
    pub(super) act: DecodeAct,
}

#[derive(Debug)]
pub(super) enum DecodeAct {
    Temperature(f32),
    UnigramPrior { vector: VectorRef, alpha: f32 },
    ContrastContext { alpha: f32 },
    ContrastLayer { layer: usize, alpha: f32 },
}

/// `means.safetensors#b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VectorRef {
    pub(super) line: usize,
    pub(super) file: String,
    pub(super) key: String,
}

const ACTIONS: [&str; 8] =
    ["zero", "mean", "scale", "add", "uniform_attention", "block_edge", "sharpen", "exit"];
const DECODES: [&str; 4] = ["temperature", "unigram_prior", "contrast_context", "contrast_layer"];
const ENTRY: &[&str] = &["at", "head", "position", "do", "factor", "vector", "alpha", "key", "layer", "when"];

/// Reads the text of a patch file.
pub(super) fn parse(doc: Doc<'_>) -> Result<File, PatchError> {
    let root = DeTable::parse(doc.text).map_err(|e| {
        let at = e.span().map_or(0, |s| s.start);
        doc.error(doc.line(at), format!("not valid TOML: {}", shorten(e.message())))
    })?;
    let mut keys =
        Keys::of(doc, "a patch", &["model", "intervention", "decode", "rewrite"], root.get_ref(), 1)?;
    let guard = keys.get("model").map(|v| guard(doc, v.value)).transpose()?;
    let interventions = entries(doc, &mut keys, "intervention", intervention)?;
    let decode = entries(doc, &mut keys, "decode", decode)?;
    let rewrite = keys.get("rewrite").map(|v| rewrite(doc, v.value)).transpose()?;
    if interventions.is_empty() && decode.is_empty() && rewrite.is_none() {
        return Err(
            doc.error(1, "the patch changes nothing: it has no [[intervention]], [[decode]] or [rewrite]")
        );
    }
    Ok(File { guard, interventions, decode, rewrite })
}

/// The tables of `[[name]]`.
fn entries<'a, T>(
    doc: Doc<'a>,
    keys: &mut Keys<'a>,
    name: &'static str,
    read: impl Fn(Doc<'a>, &'a Spanned<DeValue<'a>>) -> Result<T, PatchError>,
) -> Result<Vec<T>, PatchError> {
    let Some(At { line, value }) = keys.get(name) else { return Ok(Vec::new()) };
    match value.get_ref() {
        DeValue::Array(all) => all.iter().map(|v| read(doc, v)).collect(),
        DeValue::Table(_) => {
            Err(doc.error(line, format!("[{name}] can be given several times: write [[{name}]]")))
        }
        _ => Err(doc.error(line, format!("'{name}' is a list of tables: write [[{name}]]"))),
    }
}

fn guard<'a>(doc: Doc<'a>, value: &'a Spanned<DeValue<'a>>) -> Result<(usize, String), PatchError> {
    let mut keys = Keys::open(doc, "[model]", &["fingerprint"], value)?;
    let given = keys.text("fingerprint")?;
    let At { line, value } = keys.need("fingerprint", "[model]", given)?;
    let digits = value.strip_prefix("sha256:").unwrap_or("");
    if digits.len() != 64 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        let why = "it must be 'sha256:' and 64 hexadecimal digits, as `refocus model inspect` prints it";
        return Err(keys.error(line, "fingerprint", &value, why));
    }
    Ok((line, value.to_owned()))
}

fn intervention<'a>(doc: Doc<'a>, value: &'a Spanned<DeValue<'a>>) -> Result<Entry, PatchError> {
    let mut keys = Keys::open(doc, "[[intervention]]", ENTRY, value)?;
    let given = keys.text("do")?;
    let At { line: does_at, value: does } = keys.need("do", "[[intervention]]", given)?;
    let act = match does {
        "zero" => Act::Zero,
        "uniform_attention" => Act::UniformAttention,
        "mean" => Act::Mean(vector(doc, &mut keys, does)?),
        "scale" => Act::Scale(number(&mut keys, "factor", does)?),
        "sharpen" => Act::Sharpen(number(&mut keys, "factor", does)?),
        "add" => Act::Add { vector: vector(doc, &mut keys, does)?, alpha: number(&mut keys, "alpha", does)? },
        "block_edge" => Act::BlockEdge(edge(&mut keys)?),
        "exit" => Act::Exit(number_of_layer(&mut keys, does)?),
        "set" => {
            let why = "'set' replaces an activation by a captured one, which exists in memory only; \
                       a fixed vector is set with 'mean'";
            return Err(doc.error(does_at, why));
        }
        _ => {
            let why = format!("there is no action '{}'; {}", shorten(does), did_you_mean(does, &ACTIONS));
            return Err(doc.error(does_at, why));
        }
    };
    let at = keys.text("at")?;
    let at = match act {
        Act::Exit(_) => at,
        _ => Some(keys.need("at", &format!("'{does}'"), at)?),
    };
    // `exit` has no head: the key is left unread, so that giving it is an error.
    let head = if matches!(act, Act::Exit(_)) { None } else { keys.whole("head")?.map(|h| h.value) };
    let position = position(doc, &mut keys)?;
    let when = keys.get("when").map(|v| gate(doc, v.value)).transpose()?;
    let line = keys.line();
    keys.finish(&format!("'{does}'"))?;
    Ok(Entry { line, at: at.map(|a| (a.line, a.value.to_owned())), head, position, act, when })
}

fn number(keys: &mut Keys<'_>, key: &'static str, of: &str) -> Result<f32, PatchError> {
    let given = keys.number(key)?;
    Ok(keys.need(key, &format!("'{of}'"), given)?.value)
}

fn number_of_layer(keys: &mut Keys<'_>, of: &str) -> Result<usize, PatchError> {
    let given = keys.whole("layer")?;
    Ok(keys.need("layer", &format!("'{of}'"), given)?.value)
}

/// `all`, `last`, or a number, which may stand in quotes.
fn position(doc: Doc<'_>, keys: &mut Keys<'_>) -> Result<Position, PatchError> {
    let Some(At { line, value }) = keys.get("position") else { return Ok(Position::All) };
    let text = match value.get_ref() {
        DeValue::String(s) => s.to_string(),
        DeValue::Integer(n) if n.radix() == 10 => n.as_str().to_owned(),
        _ => String::new(),
    };
    let bad = || {
        let why = "a position is \"all\", \"last\", a position from the start such as 5, or one from the end such as -2";
        keys.error(line, "position", &Shown(value.get_ref()), why)
    };
    Ok(match text.as_str() {
        "all" => Position::All,
        "last" => Position::Last,
        "slots" => {
            let why = "position \"slots\" means the tokens just before the labels of a prompt, so it exists \
                       inside a study only; here give \"last\" or a number";
            return Err(doc.error(line, why));
        }
        number => match number.parse::<i64>().map_err(|_| bad())? {
            n if n < 0 => Position::FromEnd(u32::try_from(n.unsigned_abs()).map_err(|_| bad())?),
            n => Position::At(u32::try_from(n).map_err(|_| bad())?),
        },
    })
}

/// `key = "first"` or `key = [from, to]`, `to` not included.
fn edge(keys: &mut Keys<'_>) -> Result<Range<u32>, PatchError> {
    let given = keys.get("key");
    let At { line, value } = keys.need("key", "'block_edge'", given)?;
    let small = |v: &DeValue<'_>| whole(v).and_then(|n| u32::try_from(n).ok());
    let range = match value.get_ref() {
        DeValue::String(s) if s == "first" => Some(0..1),
        DeValue::Array(pair) => match pair.iter().as_slice() {
            [from, to] => small(from.get_ref()).zip(small(to.get_ref())).map(|(from, to)| from..to),
            _ => None,
        },
        _ => None,
    };
    range.filter(|r| !r.is_empty()).ok_or_else(|| {
        let why = "the keys to hide are \"first\" or [from, to], positions from 0, `to` not included";
        keys.error(line, "key", &Shown(value.get_ref()), why)
    })
}

/// `when = { top1_prob_above = 0.6, lens_layer = 28 }`.
fn gate<'a>(doc: Doc<'a>, value: &'a Spanned<DeValue<'a>>) -> Result<Gate, PatchError> {
    let mut keys = Keys::open(doc, "'when'", &["top1_prob_above", "lens_layer"], value)?;
    let given = keys.number("top1_prob_above")?;
    let above = keys.need("top1_prob_above", "'when'", given)?;
    if !(0.0..1.0).contains(&above.value) {
        let why = "a probability from 0 to below 1 is needed";
        return Err(keys.error(above.line, "top1_prob_above", &above.value, why));
    }
    let given = keys.whole("lens_layer")?;
    let lens_layer = keys.need("lens_layer", "'when'", given)?.value;
    Ok(Gate { top1_prob_above: above.value, lens_layer })
}

fn vector(doc: Doc<'_>, keys: &mut Keys<'_>, of: &str) -> Result<VectorRef, PatchError> {
    let given = keys.text("vector")?;
    let At { line, value } = keys.need("vector", &format!("'{of}'"), given)?;
    match value.split_once('#') {
        Some((file, key)) if !file.is_empty() && !key.is_empty() && !value.contains('\0') => {
            Ok(VectorRef { line, file: file.to_owned(), key: key.to_owned() })
        }
        _ => Err(doc.error(
            line,
            format!(
                "vector = {:?}: a vector is named by file and tensor, such as \"means.safetensors#b\"; the \
                 file is looked for beside the patch",
                shorten(value)
            ),
        )),
    }
}

fn decode<'a>(doc: Doc<'a>, value: &'a Spanned<DeValue<'a>>) -> Result<DecodeEntry, PatchError> {
    let mut keys = Keys::open(doc, "[[decode]]", &["do", "factor", "vector", "alpha", "layer"], value)?;
    let given = keys.text("do")?;
    let At { line: does_at, value: does } = keys.need("do", "[[decode]]", given)?;
    let act = match does {
        "temperature" => {
            let given = keys.number("factor")?;
            let t = keys.need("factor", "'temperature'", given)?;
            if t.value <= 0.0 {
                return Err(keys.error(t.line, "factor", &t.value, "a temperature is above 0"));
            }
            DecodeAct::Temperature(t.value)
        }
        "unigram_prior" => DecodeAct::UnigramPrior {
            vector: vector(doc, &mut keys, does)?,
            alpha: number(&mut keys, "alpha", does)?,
        },
        "contrast_context" => DecodeAct::ContrastContext { alpha: number(&mut keys, "alpha", does)? },
        "contrast_layer" => DecodeAct::ContrastLayer {
            layer: number_of_layer(&mut keys, does)?,
            alpha: number(&mut keys, "alpha", does)?,
        },
        _ => {
            let why = format!("there is no action '{}'; {}", shorten(does), did_you_mean(does, &DECODES));
            return Err(doc.error(does_at, why));
        }
    };
    let line = keys.line();
    keys.finish(&format!("'{does}'"))?;
    Ok(DecodeEntry { line, act })
}

fn rewrite<'a>(doc: Doc<'a>, value: &'a Spanned<DeValue<'a>>) -> Result<(usize, Rewrite), PatchError> {
    let mut keys = Keys::open(doc, "[rewrite]", &["variant", "threshold"], value)?;
    let given = keys.text("variant")?;
    let At { line, value } = keys.need("variant", "[rewrite]", given)?;
    let Some(variant) = Variant::ALL.into_iter().find(|v| v.name() == value) else {
        let hint = did_you_mean(value, &Variant::ALL.map(Variant::name));
        return Err(doc.error(line, format!("there is no variant '{}'; {hint}", shorten(value))));
    };
    // Other variants have no scores: the key is left unread, so that giving it is an error.
    let threshold =
        if variant == Variant::Scored { keys.number("threshold")?.map(|t| t.value) } else { None };
    let at = keys.line();
    keys.finish(&format!("'{}'", variant.name()))?;
    Ok((at, Rewrite { variant, threshold }))
}
