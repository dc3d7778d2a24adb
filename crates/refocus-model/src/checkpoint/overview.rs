//! What can be said about a checkpoint from its files' own words, whether it can be run or not.
//!
//! Only headers are read, and a tokenizer is described, not built, so that a file of any size is described
//! in little memory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::map::Mapped;
use super::parts::{self, Parts};
use super::{Entry, folder, metadata, read_json};
use crate::error::{LoadError, LoadResult};
use crate::export::TEMPLATES;
use crate::template::speaks_of_tools;
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
        let mut templates = Vec::new();
        // A file that cannot be read is told as the tokenizer's.
        let config = read_json(&path.join("tokenizer_config.json")).unwrap_or_default();
        match config.get("chat_template") {
            Some(Value::String(text)) => templates.push(template("default", text)),
            Some(Value::Array(named)) => templates.extend(
                named
                    .iter()
                    .filter_map(|t| Some(template(t.get("name")?.as_str()?, t.get("template")?.as_str()?))),
            ),
            _ => {}
        }
        let own = path.join("chat_template.jinja");
        if own.is_file() {
            templates.retain(|t| t.name != "default");
            let text = std::fs::read(&own).map_err(LoadError::io(&own))?;
            templates.push(template("default", &String::from_utf8_lossy(&text)));
        }
        let mut more: Vec<_> = match std::fs::read_dir(path.join(TEMPLATES)) {
            Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
            Err(_) => Vec::new(),
        };
        more.sort();
        for file in more.iter().filter(|f| f.extension().is_some_and(|e| e == "jinja")) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let text = std::fs::read(file).map_err(LoadError::io(file))?;
            templates.push(template(&name, &String::from_utf8_lossy(&text)));
        }
        // The sizes of a model that also sees or hears stand one level deeper.
        let deeper = folder.config.get("text_config").and_then(Value::as_object);
        let config = deeper.filter(|_| !folder.config.contains_key("vocab_size")).unwrap_or(&folder.config);
        let mut out = Self {
            format: folder.format.name(),
            version: None,
            files,
            architecture: folder.config.get("model_type").and_then(Value::as_str).map(str::to_owned),
            sizes: sizes(config),
            stored: stored(&folder.tensors),
            values: values(&folder.tensors),
            tokenizer: Summary::or_why_not(Summary::of_folder(path)),
            templates,
        };
        out.order();
        Ok(out)
    }

    fn of_gguf(path: &Path) -> LoadResult<Self> {
        let Parts { files: mapped, keys, tensors } = parts::open(path)?;
        let head = mapped[0].bytes();
        let view = keys.view(path, head);
        let architecture = view.string("general.architecture").ok().flatten().map(str::to_owned);
        const TEMPLATE: &str = "tokenizer.chat_template";
        let mut templates = Vec::new();
        for key in view.names() {
            let name = match key.strip_prefix(TEMPLATE) {
                Some("") => "default",
                Some(rest) if rest.starts_with('.') => &rest[1..],
                _ => continue,
            };
            if let Ok(Some(text)) = view.string(key) {
                templates.push(template(name, text));
            }
        }
        let version = head.get(4..8).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
        let mut out = Self {
            format: "gguf",
            version,
            sizes: architecture.as_deref().map(|a| gguf_sizes(&view, a)).unwrap_or_default(),
            architecture,
            stored: stored(&tensors),
            values: values(&tensors),
            tokenizer: Summary::or_why_not(Summary::of_gguf(&view)),
            templates,
            files: files(&mapped),
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
        *bytes += entry.bytes();
    }
    by_type.into_iter().map(|(dtype, (tensors, bytes))| StoredAs { dtype, tensors, bytes }).collect()
}

fn values(tensors: &BTreeMap<String, Entry>) -> usize {
    let one = |e: &Entry| e.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    tensors.values().fold(0, |sum, e| sum.saturating_add(one(e)))
}

/// What the words of a template say about it; whether it uses them well is another matter.
fn template(name: &str, text: &str) -> ChatTemplate {
    // Some name it only to refuse it.
    let refused = text.contains("ystem role not supported");
    let named = ["'system'", "\"system\""].iter().any(|w| text.contains(w));
    ChatTemplate {
        name: name.to_owned(),
        system: !refused && (named || generic(text)),
        tools: speaks_of_tools(text),
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::checkpoint::testing::{Temp, fixture, fixtures_with, llama_folder};
    use crate::export::Export;

    #[test]
    fn a_tokenizer_is_described_as_it_is_built() {
        let temp = Temp::new();
        let same = |path: &Path| {
            let built = Checkpoint::open(path).unwrap().tokenizer().unwrap();
            let said = Overview::of(path).unwrap().tokenizer.unwrap();
            assert_eq!((said.tokens, &said.why_not), (built.len(), &None), "{}", path.display());
            for named in said.special.iter().chain(said.roles.values()) {
                let id = named.id.unwrap();
                assert_eq!(built.id(&named.token), Some(id));
                assert!(built.is_special(id), "{named:?}");
            }
            // What stands around a text.
            let ids = |tokens: &[String]| tokens.iter().map(|t| built.id(t).unwrap()).collect::<Vec<_>>();
            assert_eq!(built.encode("", true).unwrap(), [ids(&said.before), ids(&said.after)].concat());
        };
        let names = fixtures_with("texts.json");
        assert!(!names.is_empty());
        for name in names {
            let path = fixture(&name).join("model.gguf");
            let c = Checkpoint::open(if path.exists() { path } else { fixture(&name) }).unwrap();
            same(c.path());
            let dir = temp.path().join(&name);
            Export::of(&c).unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
            same(&dir);
        }
    }

    #[test]
    fn kinds_of_tokenizers_are_told_from_their_parts() {
        let folder = llama_folder(serde_json::json!({}), |_| {});
        let tokenizer = |json: Value, config: Value| {
            folder.write("tokenizer.json", json.to_string());
            folder.write("tokenizer_config.json", config.to_string());
            Overview::of(folder.path()).unwrap().tokenizer.unwrap()
        };
        let said = tokenizer(
            serde_json::json!({
                "model": {"type": "BPE", "byte_fallback": true, "vocab": {"a": 0, "b": 1}, "merges": []},
                "added_tokens": [
                    {"id": 2, "content": "</s>", "special": true},
                    {"id": 1, "content": "b", "special": false},
                ],
                "post_processor": {"type": "Sequence", "processors": [{"type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [],
                    "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}]},
            }),
            serde_json::json!({"eos_token": {"content": "</s>"}, "bos_token": "<s>"}),
        );
        assert_eq!((said.kind.as_str(), said.tokens), ("SentencePiece BPE", 3));
        assert_eq!((said.before, said.after), (vec!["</s>".to_owned()], vec![]));
        assert_eq!(said.roles["eos"].id, Some(2));
        assert_eq!((said.roles["bos"].token.as_str(), said.roles["bos"].id), ("<s>", None));
        let model = serde_json::json!({"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}});
        let said = tokenizer(model, serde_json::json!({"eos_token": "b", "add_eos_token": true}));
        assert_eq!((said.kind.as_str(), said.tokens), ("SentencePiece unigram", 2));
        assert_eq!(said.after, ["b"]);
        // What cannot be read has no kind and a reason.
        folder.write("tokenizer.json", "{");
        let said = Overview::of(folder.path()).unwrap().tokenizer.unwrap();
        assert!(said.why_not.is_some_and(|w| w.contains("not valid JSON")));
    }

    #[test]
    fn templates_say_what_they_take() {
        let takes = |text: &str| {
            let t = template("default", text);
            (t.system, t.tools)
        };
        assert_eq!(takes("{% if m.role == 'system' %}{% endif %}{{ tools }}"), (true, true));
        assert_eq!(
            takes("{% for m in messages %}{{ m['content'] }}{{ mytools }}{% endfor %}"),
            (false, false)
        );
        assert_eq!(
            takes("{% for message in messages %}{{ '<' + message['role'] + '>' }}{% endfor %}"),
            (true, false)
        );
        assert_eq!(
            takes("{% if message['role'] == 'user' %}{{ message['role'] }}{% endif %}"),
            (false, false)
        );
        let refused =
            "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
        assert_eq!(takes(refused), (false, false));
        // Named ones stand behind the default one, and its own file is the one that counts.
        let folder = llama_folder(serde_json::json!({}), |_| {});
        let named = serde_json::json!({"chat_template": [
            {"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": "{{ tools }}"},
        ]});
        folder.write("tokenizer_config.json", named.to_string());
        let of = |folder: &Temp| Overview::of(folder.path()).unwrap().templates;
        let names = |t: &[ChatTemplate]| t.iter().map(|t| (t.name.clone(), t.tools)).collect::<Vec<_>>();
        assert_eq!(names(&of(&folder)), [("default".to_owned(), true), ("tool_use".to_owned(), true)]);
        folder.write("chat_template.jinja", "plain");
        assert_eq!(names(&of(&folder)), [("default".to_owned(), false), ("tool_use".to_owned(), true)]);
    }
}
