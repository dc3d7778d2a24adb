//! What a tokenizer is, from its files' own words, without building it: a vocabulary of 150,000 tokens would
//! take a hundred megabytes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{gguf, precheck};
use crate::checkpoint::{View, read_json};
use crate::error::{LoadError, LoadResult, shorten};

/// A token with its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Named {
    /// As the vocabulary spells it.
    pub token: String,
    /// `None` where the vocabulary does not have it, or was not searched.
    pub id: Option<u32>,
}

/// What a tokenizer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Such as `byte-level BPE`.
    pub kind: String,
    /// Number of tokens, added ones included.
    pub tokens: usize,
    /// Special tokens in the order of their ids.
    pub special: Vec<Named>,
    /// The tokens with a role: `bos`, `eos`, `unk`, `pad`.
    pub roles: BTreeMap<&'static str, Named>,
    /// Tokens put before a text.
    pub before: Vec<String>,
    /// Tokens put after it.
    pub after: Vec<String>,
    /// Why it cannot be used.
    pub why_not: Option<String>,
}

/// Roles, as `tokenizer_config.json` and as GGUF files spell them.
const ROLES: [(&str, &str, &str); 4] = [
    ("bos", "bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos", "eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk", "unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad", "pad_token", "tokenizer.ggml.padding_token_id"),
];

/// Control tokens of a GGUF vocabulary.
const CONTROL: i64 = 3;

impl Summary {
    /// Of a GGUF file. `None` where it brings no tokenizer.
    ///
    /// # Errors
    /// A key has a value of another type than it must have.
    pub(crate) fn of_gguf(view: &View<'_>) -> LoadResult<Option<Self>> {
        let Some(model) = view.string("tokenizer.ggml.model")? else { return Ok(None) };
        let pre = view.string("tokenizer.ggml.pre")?;
        let kind = match model {
            "none" | "no_vocab" => return Ok(None),
            "gpt2" => format!("byte-level BPE, {} words", pre.unwrap_or("gpt-2")),
            "llama" => "SentencePiece BPE".to_owned(),
            "t5" => "SentencePiece unigram".to_owned(),
            "bert" => "WordPiece".to_owned(),
            other => shorten(other),
        };
        let tokens = view.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
        let types = view.ints("tokenizer.ggml.token_type")?.unwrap_or_default();
        let named =
            |id: usize| tokens.get(id).map(|t| Named { token: (*t).to_owned(), id: u32::try_from(id).ok() });
        let mut out = Self {
            kind,
            tokens: tokens.len(),
            special: (0..types.len()).filter(|&i| types[i] == CONTROL).filter_map(named).collect(),
            why_not: gguf::supported(view).err().map(|e| e.to_string()),
            ..Self::default()
        };
        for (role, _, key) in ROLES {
            if let Some(token) = view.count(key)?.and_then(named) {
                out.roles.insert(role, token);
            }
        }
        // Files with a SentencePiece vocabulary that say nothing want the first token.
        let adds = |key: &str, otherwise| Ok::<_, LoadError>(view.flag(key)?.unwrap_or(otherwise));
        if adds("tokenizer.ggml.add_bos_token", model == "llama")? {
            out.before = out.text("bos");
        }
        if adds("tokenizer.ggml.add_eos_token", false)? {
            out.after = out.text("eos");
        }
        Ok(Some(out))
    }

    /// A tokenizer that cannot be read is described by the reason.
    pub(crate) fn or_why_not(said: LoadResult<Option<Self>>) -> Option<Self> {
        said.unwrap_or_else(|e| {
            Some(Self { kind: "unreadable".to_owned(), why_not: Some(e.to_string()), ..Self::default() })
        })
    }

    fn text(&self, role: &str) -> Vec<String> {
        self.roles.get(role).map(|n| n.token.clone()).into_iter().collect()
    }

    /// Of a folder. `None` where it brings no tokenizer.
    ///
    /// # Errors
    /// A file cannot be read, or is no JSON.
    pub(crate) fn of_folder(folder: &Path) -> LoadResult<Option<Self>> {
        let path = folder.join("tokenizer.json");
        let mut out = if path.is_file() {
            let bytes = std::fs::read(&path).map_err(LoadError::io(&path))?;
            let mut out = Self::of_json(&path, &bytes)?;
            out.why_not = precheck::check(&path, &bytes).err().map(|e| e.to_string());
            out
        } else if folder.join("vocab.json").is_file() && folder.join("merges.txt").is_file() {
            let path = folder.join("vocab.json");
            let bytes = std::fs::read(&path).map_err(LoadError::io(&path))?;
            let count: Count = serde_json::from_slice(&bytes)
                .map_err(|source| LoadError::Json { path: path.clone(), source })?;
            let kind = "byte-level BPE in vocab.json and merges.txt".to_owned();
            Self { kind, tokens: count.0, ..Self::default() }
        } else if folder.join("tokenizer.model").is_file() {
            let why = "only tokenizer.model is there; tokenizer.json is needed";
            Self { kind: "SentencePiece".to_owned(), why_not: Some(why.to_owned()), ..Self::default() }
        } else {
            return Ok(None);
        };
        out.settings(folder)?;
        Ok(Some(out))
    }

    fn of_json(path: &Path, bytes: &[u8]) -> LoadResult<Self> {
        let file: File = serde_json::from_slice(bytes)
            .map_err(|source| LoadError::Json { path: path.to_owned(), source })?;
        let any =
            |kind: &str| [&file.pre_tokenizer, &file.decoder, &file.normalizer].iter().any(|v| has(v, kind));
        let model = file.model.kind.as_deref().unwrap_or("BPE");
        let kind = match model {
            "BPE" if any("ByteLevel") => "byte-level BPE".to_owned(),
            "BPE" if any("Metaspace") || file.model.byte_fallback == Some(true) => {
                "SentencePiece BPE".to_owned()
            }
            "Unigram" => "SentencePiece unigram".to_owned(),
            other => shorten(other),
        };
        let beyond = file.added_tokens.iter().filter(|t| t.id as usize >= file.model.vocab.0).count();
        let mut special: Vec<_> = file.added_tokens.iter().filter(|t| t.special).collect();
        special.sort_by_key(|t| t.id);
        let mut out = Self {
            kind,
            tokens: file.model.vocab.0 + beyond,
            special: special.iter().map(|t| Named { token: t.content.clone(), id: Some(t.id) }).collect(),
            ..Self::default()
        };
        template(&file.post_processor, &mut out);
        Ok(out)
    }

    /// What `tokenizer_config.json` says, and `special_tokens_map.json` where it is silent.
    fn settings(&mut self, folder: &Path) -> LoadResult<()> {
        let read = |name: &str| {
            let path = folder.join(name);
            if path.is_file() { read_json(&path) } else { Ok(Value::Null) }
        };
        let (config, map) = (read("tokenizer_config.json")?, read("special_tokens_map.json")?);
        for (role, key, _) in ROLES {
            let said = [&config, &map].into_iter().find_map(|v| {
                let token = v.get(key)?;
                token.get("content").unwrap_or(token).as_str()
            });
            if let Some(token) = said {
                let id = self.special.iter().find(|s| s.token == token).and_then(|s| s.id);
                self.roles.insert(role, Named { token: token.to_owned(), id });
            }
        }
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let (bos, eos) = (flag("add_bos_token"), flag("add_eos_token"));
        // Once one of them is given, they replace what tokenizer.json adds.
        if bos.is_some() || eos.is_some() {
            self.before = if bos == Some(true) { self.text("bos") } else { Vec::new() };
            self.after = if eos == Some(true) { self.text("eos") } else { Vec::new() };
        }
        Ok(())
    }
}

/// Whether a component of this type is in a value, however deep.
fn has(value: &Value, kind: &str) -> bool {
    value.get("type").is_some_and(|t| t == kind) || inner(value).any(|v| has(v, kind))
}

/// The values inside a list or an object.
fn inner(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// The tokens that the first template of a post-processor puts around a text.
fn template(value: &Value, out: &mut Summary) {
    let Some(pieces) = value.get("single").and_then(Value::as_array) else {
        return inner(value).for_each(|v| template(v, out));
    };
    let mut after = false;
    for piece in pieces {
        if piece.get("Sequence").is_some() {
            after = true;
        } else if let Some(token) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) {
            if after { &mut out.after } else { &mut out.before }.push(token.to_owned());
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Default, Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Count,
    byte_fallback: Option<bool>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// How many entries a vocabulary has.
#[derive(Default)]
struct Count(usize);

struct CountVisitor;

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(CountVisitor)
    }
}

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
        let mut n = 0;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            n += 1;
        }
        Ok(Count(n))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Count, A::Error> {
        let mut n = 0;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            n += 1;
        }
        Ok(Count(n))
    }
}
