//! The vocabularies that a GGUF file describes: byte-level BPE ("gpt2") and SentencePiece ("llama").

use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

use super::class::{Class, Options, QWEN2, split};
use super::{Described, failed, merges};
use crate::checkpoint::View;
use crate::error::{LoadError, LoadResult, shorten};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const BOS: &str = "tokenizer.ggml.add_bos_token";
const EOS: &str = "tokenizer.ggml.add_eos_token";
const PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Types of tokens.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How Llama 3 splits a text into words.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5: as Qwen 2, with marks that belong to their letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words end where lower case turns to upper.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o: as Tekken, with English endings and up to three digits.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The character that stands for a byte: itself where it is printable, else one from U+0100 on.
pub(super) fn spelling(byte: u8) -> char {
    match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap_or(' '),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(byte) - 0x7f).unwrap_or(' '),
        0xad => '\u{143}',
    }
}

/// The byte that a character stands for.
pub(super) fn byte(spelled: char) -> Option<u8> {
    let code = u32::from(spelled);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Whether a token is written in the characters that stand for bytes.
fn spelled(token: &str) -> bool {
    token.chars().all(|c| byte(c).is_some())
}

fn class(view: &View<'_>) -> LoadResult<Class> {
    match view.string(MODEL)? {
        Some("gpt2") => Ok(Class::Gpt2),
        Some("llama") => Ok(Class::Llama),
        Some(_) => Err(view.error(MODEL, "supported are gpt2 (byte-level BPE) and llama (SentencePiece)")),
        None => Err(LoadError::NoKey { path: view.path.to_owned(), key: MODEL.to_owned() }),
    }
}

/// Fails on a kind of tokenizer and on a way of splitting that are not supported. Builds nothing.
pub(super) fn supported(view: &View<'_>) -> LoadResult<()> {
    if class(view)? == Class::Gpt2 {
        pattern(view)?;
    }
    Ok(())
}

/// Builds the tokenizer that the metadata describes.
pub(super) fn build(view: &View<'_>) -> LoadResult<Described> {
    let missing = |key: &str| LoadError::NoKey { path: view.path.to_owned(), key: key.to_owned() };
    let class = class(view)?;
    let tokens = view.strings(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
    let types = view.ints(TYPES)?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(view.error(TYPES, format!("there are {} tokens", tokens.len())));
    }
    let vocab = vocabulary(view, class, &tokens)?;
    let halves = match (view.strings(MERGES)?, class) {
        (Some(list), _) => merges::halves(&vocab, list).map_err(|why| view.error(MERGES, why))?,
        (None, Class::Llama) => merges::implied(&vocab, &tokens, &scores(view, tokens.len())?),
        (None, _) => return Err(missing(MERGES)),
    };
    // `transformers` overlooks add_space_prefix and always puts the space. It is heeded here: the converter
    // writes false for vocabularies that were made without that space.
    let options =
        Options { add_prefix_space: view.flag(PREFIX)?.filter(|_| class == Class::Llama), legacy: false };
    let failed = |source| failed(view.path, "it cannot be built")(source);
    let mut inner = class.build(vocab, halves, options).map_err(failed)?;
    if class == Class::Gpt2
        && let Some(pattern) = pattern(view)?
    {
        split(&mut inner, pattern, false).map_err(failed)?;
    }

    let typed = |kind: i64| tokens.iter().zip(&types).filter(move |(_, t)| **t == kind).map(|(t, _)| *t);
    let known = |t: &&str| inner.token_to_id(t).is_some();
    let mut added: Vec<AddedToken> = Vec::new();
    // What the class itself takes for special, where the vocabulary has it.
    let roles = class.roles().iter().map(|(_, text)| *text).filter(known);
    added.extend(roles.map(|t| AddedToken::from(t, true)));
    // A control token that is not spelled in bytes is mislabelled and stays what the vocabulary has.
    let control = typed(CONTROL).filter(|t| class == Class::Llama || spelled(t));
    added.extend(control.map(|t| AddedToken::from(t, true)));
    let user = |t: &str| AddedToken::from(t, false).normalized(false);
    added.extend(typed(USER_DEFINED).filter(known).map(user));
    let mut named = Vec::new();
    let (mut bos, mut eos) = (None, None);
    for (role, name) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = view.count(&key)? else { continue };
        let Some(text) = tokens.get(id) else {
            return Err(view.error(&key, format!("there are {} tokens", tokens.len())));
        };
        named.push((format!("{role}_token"), (*text).to_owned()));
        if added.iter().all(|t| t.content != *text) {
            added.push(AddedToken::from(*text, true));
        }
        match role {
            "bos" => bos = u32::try_from(id).ok(),
            "eos" => eos = u32::try_from(id).ok(),
            _ => {}
        }
    }
    inner.add_tokens(added).map_err(failed)?;

    // Files with a SentencePiece vocabulary that say nothing want the first token.
    let put = |key: &str, otherwise: bool, id: Option<u32>| -> LoadResult<Vec<u32>> {
        let on = view.flag(key)?.unwrap_or(otherwise);
        Ok(id.into_iter().filter(|_| on).collect())
    };
    let before = put(BOS, class == Class::Llama, bos)?;
    let after = put(EOS, false, eos)?;
    Ok(Described { inner, before, after, named, clean_up: false })
}

/// The tokens as the model spells them, each with its id.
fn vocabulary(view: &View<'_>, class: Class, tokens: &[&str]) -> LoadResult<Vocab> {
    if u32::try_from(tokens.len()).is_err() {
        return Err(view.error(TOKENS, "too many tokens"));
    }
    let mut vocab = Vocab::with_capacity(tokens.len());
    for (id, token) in (0..).zip(tokens) {
        let text = if class == Class::Llama || spelled(token) {
            (*token).to_owned()
        } else {
            token.bytes().map(spelling).collect()
        };
        if let Some(other) = vocab.insert(text, id) {
            let why = format!("tokens {other} and {id} are both {:?}", shorten(token));
            return Err(view.error(TOKENS, why));
        }
    }
    Ok(vocab)
}

fn scores(view: &View<'_>, tokens: usize) -> LoadResult<Vec<f64>> {
    let Some(scores) = view.floats(SCORES)? else {
        return Err(LoadError::NoKey { path: view.path.to_owned(), key: SCORES.to_owned() });
    };
    if scores.len() != tokens {
        return Err(view.error(SCORES, format!("there are {tokens} tokens")));
    }
    if let Some(id) = scores.iter().position(|s| s.is_nan()) {
        return Err(view.error(SCORES, format!("the score of token {id} is not a number")));
    }
    Ok(scores)
}

/// The regular expression that splits a text into words before merging, `None` for GPT-2's.
///
/// The names are llama.cpp's. `transformers` splits as GPT-2 does for "smollm" too, where llama.cpp also
/// parts digits; and so it does for every name that it does not know, which is an error here.
fn pattern(view: &View<'_>) -> LoadResult<Option<&'static str>> {
    match view.string(PRE)?.unwrap_or("gpt-2") {
        "gpt-2" | "gpt2" | "smollm" | "phi-2" | "olmo" | "mpt" | "jais" => Ok(None),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "jina-v5-nano" | "dbrx" | "smaug-bpe" => Ok(Some(LLAMA3)),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" => Ok(Some(QWEN2)),
        "qwen35" => Ok(Some(QWEN35)),
        "tekken" => Ok(Some(TEKKEN)),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => Ok(Some(GPT4O)),
        _ => Err(view.error(
            PRE,
            "how it splits words is not known (gpt-2, smollm, llama-bpe, qwen2, tekken, gpt-4o and others are)",
        )),
    }
}
