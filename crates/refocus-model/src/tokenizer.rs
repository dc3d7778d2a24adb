//! Text to token ids and back.
//!
//! A folder brings its `tokenizer.json`, or `vocab.json` and `merges.txt`; a GGUF file describes a byte-level
//! BPE or a SentencePiece vocabulary in its metadata. The ids are those that `transformers` gives for the
//! same folder or file.

mod bytes;
mod class;
mod folder;
mod gguf;
mod merges;
mod precheck;
pub(crate) mod save;
mod settings;
mod stream;
pub(crate) mod summary;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};

use tokenizers::{Encoding, ModelWrapper, Tokenizer as Inner};

pub use self::stream::Stream;
pub use self::summary::{Named, Summary};
use crate::checkpoint::{Checkpoint, with_metadata};
use crate::error::{LoadError, LoadResult, shorten};

/// A tokenizer. Building one takes time in proportion to its vocabulary; keep it.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    /// What `tokenizer.json` can express: vocabulary, splitting, added tokens, decoder, and the tokens that
    /// a file of that name itself puts around a text.
    pub(crate) inner: Inner,
    /// Ids put before and after a text besides what `inner` adds.
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
    /// `bos_token`, `eos_token` and the like with their texts.
    named: Vec<(String, String)>,
    /// Rows of the model's embedding, where a model is known.
    rows: Option<usize>,
    /// Whether spaces before punctuation are taken out of decoded text.
    clean_up: bool,
    /// How decoded text can be given out piece by piece.
    plan: stream::Plan,
}

/// What the sources of a tokenizer have in common.
struct Described {
    inner: Inner,
    before: Vec<u32>,
    after: Vec<u32>,
    named: Vec<(String, String)>,
    clean_up: bool,
}

impl Checkpoint {
    /// Builds the checkpoint's tokenizer.
    ///
    /// # Errors
    /// There is none, it is of a kind that is not supported, it contradicts itself, or its vocabulary is
    /// larger than the model's. (Tokens added to a vocabulary may lie beyond the model's rows; encoding a
    /// text that needs one is an error.)
    pub fn tokenizer(&self) -> LoadResult<Tokenizer> {
        let mut tokenizer = match self.gguf() {
            Some(view) => Tokenizer::new(view.path, gguf::build(&view)?),
            None => Tokenizer::from_folder(self.path())?,
        };
        let rows = self.spec().vocab;
        let last = tokenizer.inner.get_vocab(false).into_values().max();
        if let Some(last) = last.filter(|last| *last as usize >= rows) {
            let why = format!("its ids go up to {last}, but the model's vocabulary has {rows} rows");
            return Err(LoadError::tokenizer(&tokenizer.path, why));
        }
        tokenizer.rows = Some(rows);
        Ok(tokenizer)
    }
}

impl Tokenizer {
    /// Reads the tokenizer of a folder: `tokenizer.json`, or `vocab.json` and `merges.txt`, with what
    /// `config.json`, `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` say about it.
    ///
    /// # Errors
    /// The folder has none of these, or a file cannot be used.
    pub fn from_folder(folder: &Path) -> LoadResult<Self> {
        let (path, described) = folder::build(folder)?;
        Ok(Self::new(&path, described))
    }

    /// Reads the tokenizer inside a GGUF file, whatever its tensors are.
    ///
    /// # Errors
    /// The file is no GGUF file, or has no tokenizer that can be used.
    pub fn from_gguf(path: &Path) -> LoadResult<Self> {
        Ok(Self::new(path, with_metadata(path, gguf::build)?))
    }

    fn new(path: &Path, described: Described) -> Self {
        let Described { inner, before, after, named, clean_up } = described;
        // Made for word pieces: where tokens carry their own spaces it would take out real ones.
        let clean_up = clean_up && !matches!(inner.get_model(), ModelWrapper::BPE(_));
        let plan = if clean_up { stream::Plan::Whole } else { stream::Plan::of(inner.get_decoder()) };
        Self { path: path.to_owned(), inner, before, after, named, rows: None, clean_up, plan }
    }

    /// Ids of a text. Special tokens written out in it are recognised. `add_special` also puts before and
    /// after it what `transformers` does for this model (`</s>` before it for OPT, nothing for GPT-2).
    ///
    /// # Errors
    /// The text has a word that the tokenizer cannot express (never for byte-level tokenizers), or a token
    /// that the model has no row for.
    pub fn encode(&self, text: &str, add_special: bool) -> LoadResult<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special).map_err(|source| self.cannot_encode(text, source))?;
        self.around(encoding.get_ids(), add_special)
    }

    /// Ids of a text as [`encode`](Self::encode) gives them, and for each the bytes of the text that it
    /// stands for. Tokens that share a character have its whole range; tokens put around the text have an
    /// empty one. Where the tokenizer puts a space before the text, its token starts with the text. In a word
    /// with a byte that the vocabulary lacks (SmolLM2's has not all of them), ranges can be off by that byte.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    pub fn encode_with_offsets(
        &self,
        text: &str,
        add_special: bool,
    ) -> LoadResult<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding =
            self.inner.encode(text, add_special).map_err(|source| self.cannot_encode(text, source))?;
        let ids = self.around(encoding.get_ids(), add_special)?;
        let mut ranges = vec![0..0; if add_special { self.before.len() } else { 0 }];
        ranges.extend(ranges_of(&encoding));
        ranges.resize(ids.len(), text.len()..text.len());
        Ok((ids, ranges))
    }

    fn around(&self, ids: &[u32], add_special: bool) -> LoadResult<Vec<u32>> {
        let ids = if add_special { [&self.before, ids, &self.after].concat() } else { ids.to_vec() };
        let Some(rows) = self.rows else { return Ok(ids) };
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            let token = self.inner.id_to_token(*id).unwrap_or_default();
            let why = format!(
                "token {:?} has id {id}, but the model's vocabulary has {rows} rows",
                shorten(&token)
            );
            return Err(LoadError::tokenizer(&self.path, why));
        }
        Ok(ids)
    }

    fn cannot_encode(&self, text: &str, source: Cause) -> LoadError {
        failed(&self.path, format!("cannot encode {:?}", shorten(text)))(source)
    }

    /// Text of ids; bytes that are no UTF-8 become `U+FFFD`, unknown ids nothing. Special tokens are
    /// written out unless `skip_special`.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> LoadResult<String> {
        let text = self.inner.decode(ids, skip_special).map_err(failed(&self.path, "cannot decode"))?;
        Ok(if self.clean_up { clean_up(&text) } else { text })
    }

    /// Decodes ids as they come; all pieces together are what [`decode`](Self::decode) gives for all ids.
    pub fn stream(&self, skip_special: bool) -> Stream<'_> {
        Stream::new(self, skip_special)
    }

    /// The spelling of a token as the decoder is given it, `None` for an unknown id and for a special token
    /// that is to be skipped.
    fn spelled(&self, id: u32, skip_special: bool) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        let token = added.simple_id_to_token(id).or_else(|| self.inner.id_to_token(id))?;
        (!skip_special || !added.is_special_token(&token)).then_some(token)
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

    /// The texts of the tokens with a role, by its name: `bos_token`, `eos_token`, `pad_token`, …
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, text)| (name.as_str(), text.as_str()))
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

/// An error of the tokenizer library.
type Cause = Box<dyn std::error::Error + Send + Sync>;

fn failed(path: &Path, why: impl Into<String>) -> impl FnOnce(Cause) -> LoadError {
    move |source| LoadError::Tokenizer { path: path.to_owned(), why: why.into(), source: Some(source) }
}

/// The ranges of an encoding's tokens. One that a template put into it has none and gets an empty one
/// where it stands.
fn ranges_of(encoding: &Encoding) -> impl Iterator<Item = Range<usize>> {
    let marks = encoding.get_special_tokens_mask();
    let mut end = 0;
    encoding.get_offsets().iter().zip(marks).map(move |((from, to), special)| {
        if *special == 1 {
            return end..end;
        }
        end = *to;
        *from..*to
    })
}

/// Takes out the spaces that joining word pieces leaves.
fn clean_up(text: &str) -> String {
    let pairs = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
