//! The byte-level BPE that a GGUF file describes.

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::checkpoint::View;
use crate::error::{LoadError, LoadResult, shorten};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// Types of tokens.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How Llama 3 splits a text into words.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen 2 splits a text into words: digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer and the ids that are put before and after a text.
pub(super) struct Described {
    pub(super) inner: Tokenizer,
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

/// The character that stands for a byte: itself where it is printable, else one from U+0100 on.
fn spelling(byte: u8) -> char {
    match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap_or(' '),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(byte) - 0x7f).unwrap_or(' '),
        0xad => '\u{143}',
    }
}

/// Whether a token is written in the characters that stand for bytes.
fn spelled(token: &str) -> bool {
    token.chars().all(|c| matches!(c, '\u{21}'..='\u{7e}' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' | '\u{100}'..='\u{143}'))
}

/// Fails on a kind of tokenizer and on a way of splitting that are not supported. Builds nothing.
pub(super) fn supported(view: &View<'_>) -> LoadResult<()> {
    match view.string(MODEL)? {
        Some("gpt2") => pattern(view).map(|_| ()),
        Some(_) => Err(view.error(MODEL, "only byte-level BPE, gpt2, is supported")),
        None => Err(LoadError::NoKey { path: view.path.to_owned(), key: MODEL.to_owned() }),
    }
}

/// Builds the tokenizer that the metadata describes.
pub(super) fn build(view: &View<'_>) -> LoadResult<Described> {
    let missing = |key: &str| LoadError::NoKey { path: view.path.to_owned(), key: key.to_owned() };
    supported(view)?;
    let tokens = view.strings(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
    let merges = view.strings(MERGES)?.ok_or_else(|| missing(MERGES))?;
    let types = view.ints(TYPES)?.unwrap_or_default();
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(view.error(TYPES, format!("there are {} tokens", tokens.len())));
    }
    if u32::try_from(tokens.len()).is_err() {
        return Err(view.error(TOKENS, "too many tokens"));
    }
    let mut vocab = Vocab::with_capacity(tokens.len());
    for (id, token) in (0..).zip(&tokens) {
        let token = if spelled(token) { (*token).to_owned() } else { token.bytes().map(spelling).collect() };
        vocab.insert(token, id);
    }
    let merges = pairs(view, &vocab, &merges)?;
    let model = BPE::builder().vocab_and_merges(vocab, merges).build();
    let mut inner = Tokenizer::new(model.map_err(|source| failed(view, source))?);
    split(view, &mut inner)?;
    inner.with_decoder(Some(ByteLevelDecoder::default()));

    let typed = |kind: i64| tokens.iter().zip(&types).filter(move |(_, t)| **t == kind).map(|(t, _)| *t);
    let mut added: Vec<AddedToken> = Vec::new();
    // A control token that is not spelled in bytes is mislabelled and stays what the vocabulary has.
    added.extend(typed(CONTROL).filter(|t| spelled(t)).map(|t| AddedToken::from(t, true)));
    let user = |t: &str| AddedToken::from(t, false).normalized(false);
    added.extend(typed(USER_DEFINED).filter(|t| inner.token_to_id(t).is_some()).map(user));
    let named = |name: &str| -> LoadResult<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match view.count(&key)? {
            Some(id) if id < tokens.len() => Ok(u32::try_from(id).ok()),
            Some(_) => Err(view.error(&key, format!("there are {} tokens", tokens.len()))),
            None => Ok(None),
        }
    };
    let (bos, eos) = (named("bos")?, named("eos")?);
    for id in [bos, eos, named("unknown")?, named("padding")?].into_iter().flatten() {
        added.push(AddedToken::from(tokens[id as usize], true));
    }
    inner.add_tokens(added).map_err(|source| failed(view, source))?;

    let add = |key: &str, id: Option<u32>| -> LoadResult<Vec<u32>> {
        Ok(if view.flag(key)? == Some(true) { id.into_iter().collect() } else { Vec::new() })
    };
    let before = add("tokenizer.ggml.add_bos_token", bos)?;
    let after = add("tokenizer.ggml.add_eos_token", eos)?;
    Ok(Described { inner, before, after })
}

fn failed(view: &View<'_>, source: Box<dyn std::error::Error + Send + Sync>) -> LoadError {
    LoadError::Tokenizer {
        path: view.path.to_owned(),
        why: "it cannot be built".to_owned(),
        source: Some(source),
    }
}

/// The two halves of each merge; they and what they merge into are tokens.
fn pairs(view: &View<'_>, vocab: &Vocab, merges: &[&str]) -> LoadResult<Vec<(String, String)>> {
    let mut whole = String::new();
    let mut out = Vec::with_capacity(merges.len());
    for (i, merge) in merges.iter().enumerate() {
        let halves = merge.split_once(' ').filter(|(_, b)| !b.contains(' '));
        let known = halves.filter(|(a, b)| {
            whole.clear();
            whole.push_str(a);
            whole.push_str(b);
            [a, b, whole.as_str()].iter().all(|t| vocab.contains_key(*t))
        });
        let Some((a, b)) = known else {
            let why = format!("merge {i}, {:?}, does not join two tokens into a third", shorten(merge));
            return Err(view.error(MERGES, why));
        };
        out.push((a.to_owned(), b.to_owned()));
    }
    Ok(out)
}

/// The pattern of words; none for GPT-2's own, which byte-level BPE brings.
fn pattern(view: &View<'_>) -> LoadResult<Option<&'static str>> {
    match view.string(PRE)?.unwrap_or("gpt-2") {
        "gpt-2" | "gpt2" | "smollm" => Ok(None),
        "llama-bpe" => Ok(Some(LLAMA3)),
        "qwen2" => Ok(Some(QWEN2)),
        _ => Err(view.error(PRE, "supported are gpt-2, smollm, llama-bpe and qwen2")),
    }
}

/// How the text is split into words before merging.
fn split(view: &View<'_>, inner: &mut Tokenizer) -> LoadResult<()> {
    let bytes = |split: bool| ByteLevel::new(false, true, split);
    let Some(pattern) = pattern(view)? else {
        inner.with_pre_tokenizer(Some(bytes(true)));
        return Ok(());
    };
    let regex = SplitPattern::Regex(pattern.to_owned());
    let words =
        Split::new(regex, SplitDelimiterBehavior::Isolated, false).map_err(|source| failed(view, source))?;
    inner.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes(false).into()])));
    Ok(())
}
