//! Where a checkpoint keeps its chat templates.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::{Checkpoint, View, read_json};
use crate::error::{LoadError, LoadResult};

const GGUF_KEY: &str = "tokenizer.chat_template";
/// The template that is meant where none is named.
pub(super) const DEFAULT: &str = "default";

/// The text of a template.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    /// The file that it comes from.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// All templates of a checkpoint.
pub(super) fn all(checkpoint: &Checkpoint) -> LoadResult<Vec<Source>> {
    match checkpoint.gguf() {
        Some(view) => of_gguf(&view),
        None => of_folder(checkpoint.path()),
    }
}

pub(super) fn of_gguf(view: &View<'_>) -> LoadResult<Vec<Source>> {
    let mut out = Vec::new();
    for key in view.names() {
        let name = match key.strip_prefix(GGUF_KEY) {
            Some("") => DEFAULT,
            Some(rest) if rest.starts_with('.') => &rest[1..],
            _ => continue,
        };
        if let Some(text) = view.string(key)? {
            out.push(Source { name: name.to_owned(), path: view.path.to_owned(), text: text.to_owned() });
        }
    }
    Ok(out)
}

/// Files of their own come before what `tokenizer_config.json` says.
pub(super) fn of_folder(folder: &Path) -> LoadResult<Vec<Source>> {
    let mut out = Vec::new();
    let mut read = |name: &str, path: PathBuf| -> LoadResult<()> {
        let text = std::fs::read_to_string(&path).map_err(LoadError::io(&path))?;
        out.push(Source { name: name.to_owned(), path, text });
        Ok(())
    };
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        read(DEFAULT, path)?;
    }
    let more = folder.join("additional_chat_templates");
    if more.is_dir() {
        let entries = std::fs::read_dir(&more).map_err(LoadError::io(&more))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == "jinja")) {
            if let Some(name) = path.file_stem().and_then(|s| s.to_str()).map(str::to_owned) {
                read(&name, path)?;
            }
        }
    }
    if !out.is_empty() {
        return Ok(out);
    }
    let path = folder.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(out);
    }
    let config = read_json(&path)?;
    let source =
        |name: &str, text: &str| Source { name: name.to_owned(), path: path.clone(), text: text.to_owned() };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(out),
        Some(Value::String(text)) => Ok(vec![source(DEFAULT, text)]),
        Some(Value::Array(list)) => {
            let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
            let named = |v: &Value| Some(source(&text(v, "name")?, &text(v, "template")?));
            list.iter()
                .map(|v| {
                    named(v).ok_or_else(|| {
                        LoadError::key(&path, "chat_template", v, "a name and a template are needed")
                    })
                })
                .collect()
        }
        Some(other) => {
            Err(LoadError::key(&path, "chat_template", other, "a text, or a list of named texts, is needed"))
        }
    }
}
