//! The chat template that a checkpoint brings.

use serde_json::Value;

use crate::checkpoint::{Checkpoint, read_json};
use crate::error::{LoadError, LoadResult};

const GGUF_KEY: &str = "tokenizer.chat_template";

impl Checkpoint {
    /// The text of the checkpoint's chat template (Jinja), `None` where it brings none. A folder has it in
    /// `chat_template.jinja` or in `tokenizer_config.json`, where several have names and `default` is meant.
    ///
    /// # Errors
    /// A file that should hold it cannot be read.
    pub fn chat_template(&self) -> LoadResult<Option<String>> {
        if let Some(view) = self.gguf() {
            return Ok(view.string(GGUF_KEY)?.map(str::to_owned));
        }
        let path = self.path().join("chat_template.jinja");
        if path.is_file() {
            return std::fs::read_to_string(&path).map(Some).map_err(LoadError::io(&path));
        }
        let path = self.path().join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let config = read_json(&path)?;
        match config.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Array(named)) => {
                let default = named.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
                Ok(default.and_then(|t| t.get("template")).and_then(Value::as_str).map(str::to_owned))
            }
            Some(other) => Err(LoadError::key(
                &path,
                "chat_template",
                other,
                "a text, or a list of named texts, is needed",
            )),
        }
    }
}
