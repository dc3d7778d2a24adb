//! From a `MODEL` argument to an open checkpoint.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use refocus_model::{Checkpoint, LoadError};

use crate::failure::{Failure, Outcome};

/// Folders in which models are looked for by name, as in `PATH`.
const MODELS: &str = "REFOCUS_MODELS";

const WHAT: &str =
    "a model is a folder in Hugging Face layout (config.json and *.safetensors) or a .gguf file";

/// Opens the model that an argument names.
pub(crate) fn open(arg: Option<&Path>) -> Outcome<Checkpoint> {
    open_at(&find(arg)?)
}

/// Opens the model at a path.
pub(crate) fn open_at(path: &Path) -> Outcome<Checkpoint> {
    Checkpoint::open(path).map_err(|e| {
        let hint = mend(path, &e);
        let failure = Failure::from(e);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}

/// A path as it is, else the name of something in a folder of `REFOCUS_MODELS`.
pub(crate) fn find(arg: Option<&Path>) -> Outcome<PathBuf> {
    let Some(arg) = arg else { return Err(Failure::new("no MODEL is given").hint(WHAT)) };
    if arg.exists() {
        return Ok(arg.to_owned());
    }
    let folders = std::env::var_os(MODELS).unwrap_or_default();
    let folders: Vec<PathBuf> =
        std::env::split_paths(&folders).filter(|f| !f.as_os_str().is_empty()).collect();
    if arg.is_relative() {
        let with_suffix = {
            let mut name = arg.as_os_str().to_owned();
            name.push(".gguf");
            PathBuf::from(name)
        };
        let found = folders.iter().flat_map(|f| [f.join(arg), f.join(&with_suffix)]).find(|p| p.exists());
        if let Some(path) = found {
            return Ok(path);
        }
    }
    let mut text = format!("{}: there is no such file or folder", arg.display());
    if !folders.is_empty() {
        let list: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
        text.push_str(&format!(", nor one of that name in {MODELS} ({})", list.join(", ")));
    }
    let failure = Failure::new(text);
    // `fixtures/gpt3` where there is a folder `fixtures` is a path with a slip.
    let in_a_folder = arg.parent().is_some_and(|p| !p.as_os_str().is_empty() && p.is_dir());
    Err(match arg.to_str().filter(|s| !in_a_folder && is_hub_id(s)) {
        Some(id) => {
            let (id, revision) = id.split_once('@').unwrap_or((id, ""));
            let revision =
                if revision.is_empty() { String::new() } else { format!(" --revision {revision}") };
            failure.hint(format!(
                "refocus cannot fetch models from the hub yet; run `hf download {id}{revision} --local-dir DIR` and \
                 give DIR"
            ))
        }
        None => failure.hint(WHAT),
    })
}

/// `org/name` or `org/name@revision`.
fn is_hub_id(s: &str) -> bool {
    let word = |w: &str| {
        !w.is_empty()
            && !w.starts_with('.')
            && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let (id, revision) = s.split_once('@').unwrap_or((s, "main"));
    id.split_once('/').is_some_and(|(org, name)| word(org) && word(name)) && !revision.is_empty()
}

/// What to do about a path that is no model.
fn mend(path: &Path, e: &LoadError) -> Option<String> {
    let LoadError::NotAModel { .. } = e else { return None };
    let entries = std::fs::read_dir(path).ok()?;
    let mut inside: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    inside.sort();
    let gguf = |p: &&PathBuf| p.extension() == Some(OsStr::new("gguf"));
    if let Some(file) = inside.iter().find(gguf) {
        return Some(format!("the folder holds {}: give that file", file.display()));
    }
    let model = |p: &&PathBuf| p.join("config.json").is_file();
    if let Some(folder) = inside.iter().find(model) {
        return Some(format!("{} looks like a model: give that folder", folder.display()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        assert!(is_hub_id("HuggingFaceTB/SmolLM2-135M"));
        assert!(is_hub_id("openai-community/gpt2@v1.0"));
        for path in ["gpt2", "./org/name", "../name", "/org/name", "a/b/c", "org/", "org/name@"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }
}
