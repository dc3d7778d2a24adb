//! Text to token ids and back.
//!
//! A folder brings its `tokenizer.json`; a GGUF file describes a byte-level BPE in its metadata. The ids
//! are those that `transformers` gives for the same folder or file.

mod bpe;
mod precheck;
pub(crate) mod save;
pub(crate) mod summary;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer as Inner;

pub use self::summary::{Named, Summary};
use crate::checkpoint::{Checkpoint, read_json};
use crate::error::{LoadError, LoadResult, shorten};

/// A tokenizer. Building one takes time in proportion to its vocabulary; keep it.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: Inner,
    /// Put before and after a text besides what the tokenizer itself adds.
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Checkpoint {
    /// Builds the checkpoint's tokenizer.
    ///
    /// # Errors
    /// There is none, it is of a kind that is not supported, or it contradicts itself.
    pub fn tokenizer(&self) -> LoadResult<Tokenizer> {
        let tokenizer = match self.gguf() {
            Some(view) => Tokenizer::from_gguf(&view),
            None => Tokenizer::from_folder(self.path()),
        }?;
        let (size, vocab) = (tokenizer.inner.get_vocab_size(false), self.spec().vocab);
        if self.is_gguf() && size > vocab {
            let why = format!("it has {size} tokens, but the model's vocabulary has {vocab}");
            return Err(LoadError::tokenizer(&tokenizer.path, why));
        }
        Ok(tokenizer)
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder, and what `tokenizer_config.json` says about the tokens that
    /// are put before and after a text.
    ///
    /// # Errors
    /// The folder has no `tokenizer.json`, or a file cannot be used.
    pub fn from_folder(folder: &Path) -> LoadResult<Self> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(LoadError::io(&path))?;
        precheck::check(&path, &bytes)?;
        let mut inner = Inner::from_bytes(&bytes).map_err(|source| LoadError::Tokenizer {
            path: path.clone(),
            why: "tokenizer.json cannot be used".to_owned(),
            source: Some(source),
        })?;
        // Batches are ragged here, and a text that is too long is an error, not cut.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|source| LoadError::Tokenizer {
            path: path.clone(),
            why: "its truncation cannot be switched off".to_owned(),
            source: Some(source),
        })?;
        let mut out = Self { path, inner, before: Vec::new(), after: Vec::new() };
        let config = folder.join("tokenizer_config.json");
        if config.is_file() {
            out.configure(&config)?;
        }
        Ok(out)
    }

    pub(crate) fn from_gguf(view: &crate::checkpoint::View<'_>) -> LoadResult<Self> {
        let bpe::Described { inner, before, after } = bpe::build(view)?;
        Ok(Self { path: view.path.to_owned(), inner, before, after })
    }

    /// `add_bos_token` and `add_eos_token`, once given, replace what `tokenizer.json` adds.
    fn configure(&mut self, path: &Path) -> LoadResult<()> {
        let config = read_json(path)?;
        let flag = |key: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => {
                v.as_bool().map(Some).ok_or_else(|| LoadError::key(path, key, v, "true or false is needed"))
            }
        };
        if flag("split_special_tokens")? == Some(true) {
            self.inner.set_encode_special_tokens(true);
        }
        let (bos, eos) = (flag("add_bos_token")?, flag("add_eos_token")?);
        if bos.is_none() && eos.is_none() {
            return Ok(());
        }
        self.inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        let special = |key: &str| -> LoadResult<Vec<u32>> {
            let token = config.get(key).map(|v| v.get("content").unwrap_or(v));
            let Some(token) = token.and_then(Value::as_str) else {
                return Err(LoadError::key(
                    path,
                    key,
                    "nothing",
                    "the token that is to be added is not named",
                ));
            };
            let id = self.inner.token_to_id(token);
            id.map(|id| vec![id])
                .ok_or_else(|| LoadError::key(path, key, token, "the tokenizer has no such token"))
        };
        let before = if bos == Some(true) { special("bos_token")? } else { Vec::new() };
        let after = if eos == Some(true) { special("eos_token")? } else { Vec::new() };
        (self.before, self.after) = (before, after);
        Ok(())
    }

    /// Ids of a text. Special tokens written out in it are recognised. `add_special` also puts before and
    /// after it what `transformers` does for this model (`</s>` before it for OPT, nothing for GPT-2).
    ///
    /// # Errors
    /// The text has a word that the tokenizer cannot express (never for byte-level tokenizers).
    pub fn encode(&self, text: &str, add_special: bool) -> LoadResult<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|source| LoadError::Tokenizer {
            path: self.path.clone(),
            why: format!("cannot encode {:?}", shorten(text)),
            source: Some(source),
        })?;
        if !add_special || (self.before.is_empty() && self.after.is_empty()) {
            return Ok(encoding.get_ids().to_vec());
        }
        Ok([&self.before, encoding.get_ids(), &self.after].concat())
    }

    /// Text of ids; bytes that are no UTF-8 become `U+FFFD`, unknown ids nothing. Special tokens are
    /// written out unless `skip_special`.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> LoadResult<String> {
        self.inner.decode(ids, skip_special).map_err(|source| LoadError::Tokenizer {
            path: self.path.clone(),
            why: "cannot decode".to_owned(),
            source: Some(source),
        })
    }

    /// One token for display: its text where it is text (with its leading space), else its spelling in
    /// the vocabulary, else its number.
    pub fn token(&self, id: u32) -> String {
        let Some(spelled) = self.inner.id_to_token(id) else { return format!("[{id}]") };
        if spelled.contains('▁') {
            return spelled.replace('▁', " ");
        }
        match self.inner.decode(&[id], false) {
            Ok(text) if !text.is_empty() && !text.contains('\u{fffd}') => text,
            _ => spelled,
        }
    }

    /// The id of a token by its spelling in the vocabulary (a leading space is `Ġ` or `▁` there).
    pub fn id(&self, spelled: &str) -> Option<u32> {
        self.inner.token_to_id(spelled)
    }

    /// Whether an id is a special token, left out of decoded text on demand.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|t| t.special)
    }

    /// Number of tokens, added ones included.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
