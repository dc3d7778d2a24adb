//! From a `MODEL` argument to an open checkpoint.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use refocus_hub::HubError;
use refocus_model::{Checkpoint, LoadError};

use crate::builtin;
use crate::failure::{Failure, Outcome};
use crate::hub;
use crate::printer::Printer;

/// Folders in which models are looked for by name, as in `PATH`.
const MODELS: &str = "REFOCUS_MODELS";

const WHAT: &str = "a model is a folder in Hugging Face layout (config.json beside *.safetensors or pytorch_model.bin), a .gguf file, a hub id \
                    org/name[@revision], or builtin";

/// Opens the model that an argument names; one on a hub is fetched first.
pub(crate) fn open(arg: Option<&Path>, printer: &Printer) -> Outcome<Checkpoint> {
    open_at(&find(arg, printer)?)
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

/// How a document calls a model: by its path, or as the one that the program brings.
pub(crate) fn shown(checkpoint: &Checkpoint) -> String {
    let path = checkpoint.path();
    if builtin::is_folder(path) { builtin::NAME.to_owned() } else { path.display().to_string() }
}

/// The model that the program brings, a path as it is, else the name of something in a folder of `REFOCUS_MODELS`, else a hub id.
pub(crate) fn find(arg: Option<&Path>, printer: &Printer) -> Outcome<PathBuf> {
    let Some(arg) = arg else { return Err(Failure::new("no MODEL is given").hint(WHAT)) };
    if builtin::is_meant(arg) {
        return builtin::folder();
    }
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
    let Some(name) = arg.to_str().filter(|name| may_be_hub_id(name)) else {
        return Err(Failure::new(text).hint(WHAT));
    };
    let error = match name.parse().and_then(|id| hub::fetch(&id, printer)) {
        Ok(path) => return Ok(path),
        Err(e) => e,
    };
    let hint = error.hint();
    let not_had = error.is_no_answer()
        || matches!(error, HubError::NotFound { .. } | HubError::Refused { .. } | HubError::Offline { .. });
    let failure = match error {
        HubError::BadId { why, .. } => {
            Failure::new(text).hint(format!("{WHAT}; it is no hub id either, since {why}"))
        }
        // It may have been meant as a path: everything that was tried is listed.
        _ if not_had => Failure::because(format!("{text}, and it cannot be had from the hub"), error),
        _ => Failure::from(error),
    };
    Err(match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}

/// Whether a name that is no path is worth asking a hub for. A slip in a path is not: a folder that there
/// is with something in it that there is not, or the name of a file.
fn may_be_hub_id(name: &str) -> bool {
    let repo = name.split(['@', ':']).next().unwrap_or_default();
    let slashes = repo.matches('/').count();
    let path_like = name.starts_with(['.', '/', '~', '\\']) || name.contains('\\') || slashes > 1;
    let marked = repo.len() < name.len();
    let in_a_folder = slashes == 1 && repo.split('/').next().is_some_and(|f| Path::new(f).is_dir());
    let file = Path::new(repo)
        .extension()
        .is_some_and(|e| ["gguf", "safetensors", "bin", "json", "pt", "toml"].iter().any(|s| e == *s));
    !path_like && (marked || !(in_a_folder || file))
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
    fn paths_with_a_slip_are_not_asked_for() {
        for id in [
            "HuggingFaceTB/SmolLM2-135M",
            "gpt2",
            "org/name@v1.0",
            "org/name:x-Q8_0.gguf",
            "src/name@main",
            "org/",
        ] {
            assert!(may_be_hub_id(id), "{id}");
        }
        for path in
            ["./org/name", "../name", "/org/name", "~/name", "a/b/c", "src/name", "model.gguf", "a\\b"]
        {
            assert!(!may_be_hub_id(path), "{path}");
        }
    }
}
