//! The bytes that each token stands for.

use std::collections::HashMap;

use serde_json::Value;

use super::Tokenizer;
use super::gguf::spelling;

impl Tokenizer {
    /// For every id below `vocab` the bytes that it adds to a text, `None` for special tokens and for ids
    /// without a token. A token may be part of a character; what a SentencePiece-style tokenizer writes as
    /// `▁` is a space, and `<0x0A>` one byte.
    pub fn token_bytes(&self, vocab: usize) -> Vec<Option<Vec<u8>>> {
        let decoder = self.inner.get_decoder().and_then(|d| serde_json::to_value(d).ok()).unwrap_or_default();
        let byte_level = names(&decoder, "ByteLevel");
        let fallback = names(&decoder, "ByteFallback");
        let spaces = names(&decoder, "Metaspace") || (!byte_level && decoder.to_string().contains('▁'));
        let bytes: HashMap<char, u8> = (0..=u8::MAX).map(|b| (spelling(b), b)).collect();
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        (0..u32::try_from(vocab).unwrap_or(u32::MAX))
            .map(|id| {
                if let Some(token) = added.get(&id) {
                    return (!token.special).then(|| token.content.clone().into_bytes());
                }
                let token = self.inner.id_to_token(id)?;
                if byte_level {
                    // As the decoder does: a token with another character stands for itself.
                    let all: Option<Vec<u8>> = token.chars().map(|c| bytes.get(&c).copied()).collect();
                    return Some(all.unwrap_or_else(|| token.into_bytes()));
                }
                if fallback && let Some(byte) = one_byte(&token) {
                    return Some(vec![byte]);
                }
                Some(if spaces { token.replace('▁', " ") } else { token }.into_bytes())
            })
            .collect()
    }
}

/// Whether a decoder, or a part of it, is of this type.
fn names(decoder: &Value, kind: &str) -> bool {
    let parts = decoder.get("decoders").and_then(Value::as_array);
    decoder.get("type").and_then(Value::as_str) == Some(kind)
        || parts.is_some_and(|p| p.iter().any(|d| names(d, kind)))
}

/// The byte of `<0x0A>`.
fn one_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}
