//! What can be said about a checkpoint from its files' own words, whether it can be run or not.
//!
//! Only headers are read, and a tokenizer is described, not built, so that a file of any size is described
//! in little memory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::map::Mapped;
use super::{Entry, folder, gguf, metadata, read_json};
use crate::error::{LoadError, LoadResult};
use crate::export::TEMPLATES;
use crate::tokenizer::summary::Summary;

/// Tensors of one stored type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAs {
    /// Its usual name, in small letters.
    pub dtype: String,
    /// How many tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Sizes that a configuration names, whatever the family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Blocks.
    pub n_layers: Option<usize>,
    /// Width of the residual stream.
    pub d_model: Option<usize>,
    /// Query heads.
    pub n_heads: Option<usize>,
    /// Key/value heads.
    pub n_kv_heads: Option<usize>,
    /// Width of a head.
    pub d_head: Option<usize>,
    /// Width of the MLP.
    pub d_mlp: Option<usize>,
    /// Rows of the embedding.
    pub vocab: Option<usize>,
    /// Longest sequence.
    pub context: Option<usize>,
}

/// A chat template.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ChatTemplate {
    /// `default`, or what the checkpoint calls it.
    pub name: String,
    /// Whether its text speaks of a system message.
    pub system: bool,
    /// Whether its text speaks of tools.
    pub tools: bool,
}

/// A checkpoint as its files describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// `safetensors`, `pytorch` or `gguf`.
    pub format: &'static str,
    /// Version of the GGUF format.
    pub version: Option<u32>,
    /// Files of weights with their bytes.
    pub files: Vec<(String, u64)>,
    /// `model_type` of a configuration, `general.architecture` of a GGUF file.
    pub architecture: Option<String>,
    /// What the configuration says about sizes.
    pub sizes: Sizes,
    /// Stored types in the order of their names.
    pub stored: Vec<StoredAs>,
    /// Numbers in all tensors, buffers included.
    pub values: usize,
    /// `None` where there is none.
    pub tokenizer: Option<Summary>,
    /// Chat templates, the default one first.
    pub templates: Vec<ChatTemplate>,
}

impl Overview {
    /// Describes a folder or a GGUF file.
    ///
    /// # Errors
    /// The path is no model, or a file is truncated or contradicts itself.
    pub fn of(path: &Path) -> LoadResult<Self> {
        if path.is_dir() { Self::of_folder(path) } else { Self::of_gguf(path) }
    }

    fn of_folder(path: &Path) -> LoadResult<Self> {
        let folder = folder::open(path)?;
        let files = files(&folder.files);
        let pickle = files.first().is_some_and(|(name, _)| name.ends_with(".bin"));
        let mut templates = Vec::new();
        let config = path.join("tokenizer_config.json");
        let config = if config.is_file() { read_json(&config)? } else { Value::Null };
        match config.get("chat_template") {
            Some(Value::String(text)) => templates.push(template("default", text)),
            Some(Value::Array(named)) => templates.extend(
                named
                    .iter()
                    .filter_map(|t| Some(template(t.get("name")?.as_str()?, t.get("template")?.as_str()?))),
            ),
            _ => {}
        }
        let text = |path: &Path| std::fs::read_to_string(path).map_err(LoadError::io(path));
        let own = path.join("chat_template.jinja");
        if own.is_file() {
            templates.retain(|t| t.name != "default");
            templates.push(template("default", &text(&own)?));
        }
        let mut more: Vec<_> = match std::fs::read_dir(path.join(TEMPLATES)) {
            Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
            Err(_) => Vec::new(),
        };
        more.sort();
        for file in more.iter().filter(|f| f.extension().is_some_and(|e| e == "jinja")) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            templates.push(template(&name, &text(file)?));
        }
        // The sizes of a model that also sees or hears stand one level deeper.
        let deeper = folder.config.get("text_config").and_then(Value::as_object);
        let config = deeper.filter(|_| !folder.config.contains_key("vocab_size")).unwrap_or(&folder.config);
        let mut out = Self {
            format: if pickle { "pytorch" } else { "safetensors" },
            version: None,
            files,
            architecture: folder.config.get("model_type").and_then(Value::as_str).map(str::to_owned),
            sizes: sizes(config),
            stored: stored(&folder.tensors),
            values: values(&folder.tensors),
            tokenizer: Summary::of_folder(path)?,
            templates,
        };
        out.order();
        Ok(out)
    }

    fn of_gguf(path: &Path) -> LoadResult<Self> {
        let file = Mapped::open(path).map_err(LoadError::io(path))?;
        let (keys, tensors) = gguf::parse(path, file.bytes())?;
        let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
        let view = keys.view(path, file.bytes());
        let architecture = view.string("general.architecture")?.map(str::to_owned);
        const TEMPLATE: &str = "tokenizer.chat_template";
        let mut templates = Vec::new();
        for key in view.names() {
            let name = match key.strip_prefix(TEMPLATE) {
                Some("") => "default",
                Some(rest) if rest.starts_with('.') => &rest[1..],
                _ => continue,
            };
            if let Some(text) = view.string(key)? {
                templates.push(template(name, text));
            }
        }
        let version = file.bytes().get(4..8).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
        let mut out = Self {
            format: "gguf",
            version,
            sizes: architecture.as_deref().map(|a| gguf_sizes(&view, a)).unwrap_or_default(),
            architecture,
            stored: stored(&tensors),
            values: values(&tensors),
            tokenizer: Summary::of_gguf(&view)?,
            templates,
            files: files(std::slice::from_ref(&file)),
        };
        out.order();
        Ok(out)
    }

    fn order(&mut self) {
        self.templates.sort_by(|a, b| (a.name != "default", &a.name).cmp(&(b.name != "default", &b.name)));
    }
}

fn files(files: &[Mapped]) -> Vec<(String, u64)> {
    let name = |f: &Mapped| f.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.iter().map(|f| (name(f), f.bytes().len() as u64)).collect()
}

fn stored(tensors: &BTreeMap<String, Entry>) -> Vec<StoredAs> {
    let mut by_type: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for entry in tensors.values() {
        let (n, bytes) = by_type.entry(entry.dtype.name().to_lowercase()).or_default();
        *n += 1;
        *bytes += entry.range.len();
    }
    by_type.into_iter().map(|(dtype, (tensors, bytes))| StoredAs { dtype, tensors, bytes }).collect()
}

fn values(tensors: &BTreeMap<String, Entry>) -> usize {
    let one = |e: &Entry| e.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    tensors.values().fold(0, |sum, e| sum.saturating_add(one(e)))
}

/// What the words of a template say about it; whether it uses them well is another matter.
fn template(name: &str, text: &str) -> ChatTemplate {
    let word = |word: &str| {
        text.match_indices(word).any(|(i, _)| {
            let part = |c: char| c.is_alphanumeric() || c == '_';
            !text[..i].ends_with(part) && !text[i + word.len()..].starts_with(part)
        })
    };
    // Some name it only to refuse it.
    let refused = text.contains("ystem role not supported");
    let named = ["'system'", "\"system\""].iter().any(|w| text.contains(w));
    ChatTemplate { name: name.to_owned(), system: !refused && (named || generic(text)), tools: word("tools") }
}

/// A template that prints whatever role a message has takes a system message too.
fn generic(text: &str) -> bool {
    let roles = ["'user'", "\"user\"", "'assistant'", "\"assistant\""];
    let printed = text.split("{{").skip(1).any(|rest| {
        let inside = rest.split_once("}}").map_or(rest, |(inside, _)| inside);
        ["message.role", "message['role']", "message[\"role\"]"].iter().any(|role| inside.contains(role))
    });
    printed && !roles.iter().any(|r| text.contains(&format!("== {r}")))
}

fn sizes(config: &Map<String, Value>) -> Sizes {
    let of = |keys: &[&str]| {
        keys.iter().find_map(|k| config.get(*k)?.as_u64()).and_then(|n| usize::try_from(n).ok())
    };
    Sizes {
        n_layers: of(&["num_hidden_layers", "n_layer", "num_layers", "n_layers"]),
        d_model: of(&["hidden_size", "n_embd", "d_model"]),
        n_heads: of(&["num_attention_heads", "n_head", "n_heads", "num_heads"]),
        n_kv_heads: of(&["num_key_value_heads"]),
        d_head: of(&["head_dim"]),
        d_mlp: of(&["intermediate_size", "n_inner", "ffn_dim"]),
        vocab: of(&["vocab_size"]),
        context: of(&["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"]),
    }
}

/// A value of another type than a count says nothing; the reason why the model does not run says more.
fn gguf_sizes(view: &metadata::View<'_>, architecture: &str) -> Sizes {
    let of = |key: &str| view.count(&format!("{architecture}.{key}")).ok().flatten();
    Sizes {
        n_layers: of("block_count"),
        d_model: of("embedding_length"),
        n_heads: of("attention.head_count"),
        n_kv_heads: of("attention.head_count_kv"),
        d_head: of("attention.key_length"),
        d_mlp: of("feed_forward_length"),
        vocab: of("vocab_size").or_else(|| view.len("tokenizer.ggml.tokens").ok().flatten()),
        context: of("context_length"),
    }
}
