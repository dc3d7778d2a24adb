//! The model that the program brings: a small one of this project's own training (`models/builtin`), put into the
//! user's cache so that every command reads it as any other folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use refocus_results::atomic::write_whole;
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome};

/// What it is called where a MODEL is asked for. A folder of this name is `./builtin`.
pub(crate) const NAME: &str = "builtin";

const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../../../models/builtin/config.json")),
    ("model.safetensors", include_bytes!("../../../models/builtin/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../models/builtin/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../models/builtin/tokenizer_config.json")),
];

/// Whether an argument means it.
pub(crate) fn is_meant(arg: &Path) -> bool {
    arg.as_os_str() == NAME
}

/// The model's folder. What is there already is compared with what it must be, and written anew where it differs.
pub(crate) fn folder() -> Outcome<PathBuf> {
    let Some(folder) = place() else {
        return Err(Failure::new("the built-in model has no place: there is no home folder")
            .hint("set XDG_CACHE_HOME to a folder that can be written to"));
    };
    put(&folder).map_err(|(path, e)| {
        Failure::because(format!("{}: the built-in model cannot be written", path.display()), e)
            .hint("set XDG_CACHE_HOME to a folder that can be written to")
    })?;
    Ok(folder)
}

/// Where the model lies, or would.
fn place() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    cache(variable).map(|c| c.join("refocus").join(format!("{NAME}-{}", hash())))
}

/// Whether a folder is the model's.
pub(crate) fn is_folder(path: &Path) -> bool {
    place().is_some_and(|p| p == path)
}

/// The user's cache.
fn cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = || variable("HOME").or_else(|| variable("USERPROFILE"));
    variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| home().map(|h| PathBuf::from(h).join(".cache")))
}

/// The first digits of the files' hash: another release with another model takes another folder.
fn hash() -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in FILES {
        hash.update(name);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Sees to it that a folder holds the files. The error names what could not be written.
fn put(folder: &Path) -> Result<(), (PathBuf, std::io::Error)> {
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        std::fs::create_dir_all(folder).map_err(|e| (folder.to_owned(), e))?;
        write_whole(&path, bytes).map_err(|e| (path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_the_users() {
        let cache = |pairs: &[(&str, &str)]| {
            cache(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
        };
        assert_eq!(cache(&[("HOME", "/h")]), Some(PathBuf::from("/h/.cache")));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some(PathBuf::from("/x")));
        assert_eq!(cache(&[("USERPROFILE", "/u")]), Some(PathBuf::from("/u/.cache")));
        assert_eq!(cache(&[]), None);
    }

    #[test]
    fn what_was_changed_is_written_anew() {
        let folder = std::env::temp_dir().join(format!("refocus-builtin-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        put(&folder).expect("files");
        std::fs::write(folder.join("config.json"), "{}").expect("write");
        put(&folder).expect("files");
        for (name, bytes) in FILES {
            assert!(std::fs::read(folder.join(name)).expect("a file") == bytes, "{name}");
        }
        std::fs::remove_dir_all(&folder).expect("remove");
        // A file stands where the folder would.
        std::fs::write(&folder, "").expect("write");
        let (path, _) = put(&folder).expect_err("no folder");
        assert_eq!(path, folder);
        std::fs::remove_file(&folder).expect("remove");
    }
}
