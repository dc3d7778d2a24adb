//! The tokenizer of a GGUF file as the files that `transformers` reads.

use serde_json::{Value, json};

use super::Tokenizer;
use crate::checkpoint::{Checkpoint, View};
use crate::error::{LoadError, LoadResult};
use crate::export::{Beside, TEMPLATES, json_file};

/// The kind of tokenizer; absent, or one of these words, where a file brings none.
const MODEL: &str = "tokenizer.ggml.model";
const NONE: [&str; 2] = ["none", "no_vocab"];
const TEMPLATE: &str = "tokenizer.chat_template";

/// `tokenizer.json`, `tokenizer_config.json` and the chat templates; nothing but templates where the file
/// brings no tokenizer.
pub(crate) fn files(checkpoint: &Checkpoint, view: &View<'_>) -> LoadResult<Vec<Beside>> {
    let mut files = Vec::new();
    if view.string(MODEL)?.is_some_and(|m| !NONE.contains(&m)) {
        let tokenizer = checkpoint.tokenizer()?;
        files.push(json_file("tokenizer.json", &tokenizer.to_json()?));
        files.push(json_file("tokenizer_config.json", &settings(checkpoint, &tokenizer, view)?));
    }
    if let Some(text) = checkpoint.chat_template()? {
        files.push(Beside { name: "chat_template.jinja".to_owned(), bytes: text.into_bytes() });
    }
    for key in view.names() {
        let Some(name) = key.strip_prefix(TEMPLATE).and_then(|rest| rest.strip_prefix('.')) else { continue };
        // A name that came from a file becomes the name of a file.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if let Some(text) = view.string(key)?
            && !name.is_empty()
            && name.chars().all(plain)
        {
            files.push(Beside { name: format!("{TEMPLATES}/{name}.jinja"), bytes: text.into() });
        }
    }
    Ok(files)
}

impl Tokenizer {
    /// As a `tokenizer.json`, with a post-processor that adds what is put before and after a text.
    ///
    /// # Errors
    /// The tokenizer cannot be serialised.
    pub(crate) fn to_json(&self) -> LoadResult<Value> {
        let failed = |source| LoadError::Tokenizer {
            path: self.path.clone(),
            why: "it cannot be written as tokenizer.json".to_owned(),
            source: Some(source),
        };
        let text = self.inner.to_string(false).map_err(failed)?;
        let mut value: Value = serde_json::from_str(&text).map_err(|e| failed(e.into()))?;
        if self.before.is_empty() && self.after.is_empty() {
            return Ok(value);
        }
        let own = value["post_processor"].take();
        let template = self.template();
        value["post_processor"] = match own {
            Value::Null => template,
            own => json!({"type": "Sequence", "processors": [own, template]}),
        };
        Ok(value)
    }

    /// What is added, for one text and for two.
    fn template(&self) -> Value {
        let spelled = |id: u32| self.inner.id_to_token(id).unwrap_or_default();
        let special = |id: u32, kind: u32| json!({"SpecialToken": {"id": spelled(id), "type_id": kind}});
        let around = |name: &str, kind: u32| {
            let before = self.before.iter().map(move |&id| special(id, kind));
            let after = self.after.iter().map(move |&id| special(id, kind));
            before
                .chain([json!({"Sequence": {"id": name, "type_id": kind}})])
                .chain(after)
                .collect::<Vec<_>>()
        };
        let mut defined = serde_json::Map::new();
        for &id in self.before.iter().chain(&self.after) {
            let token = spelled(id);
            defined.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        }
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": pair,
            "special_tokens": defined,
        })
    }
}

fn settings(checkpoint: &Checkpoint, tokenizer: &Tokenizer, view: &View<'_>) -> LoadResult<Value> {
    let mut out = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": checkpoint.spec().n_ctx,
        "clean_up_tokenization_spaces": false,
    });
    for (name, key) in
        [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
    {
        let id = view.count(&format!("tokenizer.ggml.{name}_token_id"))?;
        let token = id.and_then(|id| u32::try_from(id).ok()).and_then(|id| tokenizer.inner.id_to_token(id));
        if let Some(token) = token {
            out[key] = token.into();
        }
    }
    Ok(out)
}
