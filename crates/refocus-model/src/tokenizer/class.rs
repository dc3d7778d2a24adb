//! The tokenizer classes of `transformers` that build a tokenizer from a vocabulary and merges by
//! themselves, also where a folder has a `tokenizer.json`: only its vocabulary, merges, added tokens and
//! what it puts around a text count then.

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer as Inner};

use super::Cause;

/// How Qwen 2 splits a text into words: digits one by one.
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Gpt2,
    GptNeoX,
    Qwen2,
    Llama,
}

/// What a class is told besides vocabulary and merges.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) add_prefix_space: Option<bool>,
    pub(super) legacy: bool,
}

impl Class {
    /// The class that `transformers` uses for a folder, `None` for the one that takes `tokenizer.json` as
    /// it is. `named` is the class that the folder asks for; `byte_level` says that its `tokenizer.json`
    /// mentions a byte-level part.
    pub(super) fn of(named: Option<&str>, model_type: Option<&str>, byte_level: bool) -> Option<Self> {
        let named = named.map(|n| n.strip_suffix("Fast").unwrap_or(n));
        let usual = match model_type {
            Some("gpt2" | "gptj" | "opt") => Some(Self::Gpt2),
            Some("gpt_neox") => Some(Self::GptNeoX),
            Some("qwen2" | "qwen3") => Some(Self::Qwen2),
            _ => None,
        };
        match (named, model_type) {
            // Folders of these families are known to name wrong classes.
            (_, Some("qwen2")) => usual,
            (_, Some("mistral")) => None,
            (None, _) => usual,
            (Some("LlamaTokenizer"), _) if byte_level => None,
            (Some(name), _) => Self::named(name),
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "GPT2Tokenizer" => Some(Self::Gpt2),
            "GPTNeoXTokenizer" => Some(Self::GptNeoX),
            "Qwen2Tokenizer" => Some(Self::Qwen2),
            "LlamaTokenizer" => Some(Self::Llama),
            _ => None,
        }
    }

    /// Tokens that have a role unless a file says otherwise.
    pub(super) fn roles(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Self::Gpt2 => &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
            Self::GptNeoX => {
                &[("bos_token", END), ("eos_token", END), ("unk_token", END), ("pad_token", "<|padding|>")]
            }
            Self::Qwen2 => &[("eos_token", END), ("unk_token", END), ("pad_token", END)],
            Self::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
        }
    }

    /// Builds the tokenizer, without added tokens.
    pub(super) fn build(
        self,
        vocab: Vocab,
        merges: Vec<(String, String)>,
        options: Options,
    ) -> Result<Inner, Cause> {
        let model = BPE::builder().vocab_and_merges(vocab, merges);
        if self == Self::Llama {
            return sentencepiece(model.fuse_unk(true).byte_fallback(true).build()?, options);
        }
        let mut inner = Inner::new(model.build()?);
        let prefix = options.add_prefix_space.unwrap_or(false);
        match self {
            Self::Qwen2 => split(&mut inner, QWEN2, prefix)?,
            _ => {
                inner.with_pre_tokenizer(Some(ByteLevel::new(prefix, true, true)));
            }
        }
        if self != Self::Gpt2 {
            inner.with_normalizer(Some(NFC))?;
        }
        inner.with_decoder(Some(ByteLevelDecoder::default()));
        Ok(inner)
    }
}

/// Splits a text into words by a regular expression, then spells them in bytes.
pub(super) fn split(inner: &mut Inner, pattern: &str, add_prefix_space: bool) -> Result<(), Cause> {
    let regex = SplitPattern::Regex(pattern.to_owned());
    let words = Split::new(regex, SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(add_prefix_space, true, false);
    inner.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])));
    Ok(())
}

/// A space is written `▁`, and what has no token of its own is written in bytes.
fn sentencepiece(model: BPE, options: Options) -> Result<Inner, Cause> {
    let mut inner = Inner::new(model);
    let prefix = options.add_prefix_space.unwrap_or(true);
    let scheme = match (prefix, options.legacy) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    };
    inner.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
    let mut steps = vec![Replace::new("▁", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(Decoders::new(steps)));
    Ok(inner)
}
