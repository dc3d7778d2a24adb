//! The wrong reads of a set in a file, so that an evaluation that was stopped goes on where it was.

use std::path::{Path, PathBuf};

use refocus_results::atomic::write_whole;
use serde::{Deserialize, Serialize};

use super::error::{FlipflopError, Result};
use super::eval::Wrong;
use super::sets::EvalSet;

const SCHEMA: &str = "refocus.flipflop-wrong-reads/1";

/// A file of wrong reads.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    head: Head,
}

/// What the reads belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    schema: String,
    model: String,
    set: String,
    language: String,
    seed: u64,
    strings: u32,
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(flatten)]
    head: Head,
    /// Strings that were asked.
    done: u32,
    wrong: Vec<[u32; 2]>,
}

impl Kept {
    /// The place of a set's wrong reads in a folder, and what is there already. `model` tells models apart.
    ///
    /// # Errors
    /// The folder cannot be made; the file is of another model, set or seed, or is none.
    pub fn open(dir: &Path, model: &str, set: &EvalSet, seed: u64) -> Result<(Self, Wrong)> {
        std::fs::create_dir_all(dir)
            .map_err(|source| FlipflopError::Write { path: dir.to_owned(), source })?;
        let path = dir.join(format!("{}.wrong.json", set.name));
        let language = &set.language;
        let head = Head {
            schema: SCHEMA.to_owned(),
            model: model.to_owned(),
            set: set.name.clone(),
            language: format!(
                "{} symbols, {:?}, {:?}{}",
                language.tokens(),
                language.probabilities(),
                language.family(),
                set.alphabet().map_or_else(String::new, |a| format!(", {a}"))
            ),
            seed,
            strings: set.strings,
        };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok((Self { path, head }, Wrong::default()));
            }
            Err(source) => return Err(FlipflopError::Read { path, source }),
        };
        let bad = |why: String| FlipflopError::Stored {
            path: path.clone(),
            why: format!("{why}; remove the file, and its strings are asked again"),
        };
        let file: File = serde_json::from_slice(&text).map_err(|e| bad(format!("no wrong reads: {e}")))?;
        for (what, there, here) in [
            ("schema", &file.head.schema, &head.schema),
            ("model", &file.head.model, &head.model),
            ("set", &file.head.set, &head.set),
            ("language", &file.head.language, &head.language),
            ("seed", &file.head.seed.to_string(), &head.seed.to_string()),
            ("number of strings", &file.head.strings.to_string(), &head.strings.to_string()),
        ] {
            if there != here {
                let (there, here) = (there.clone(), here.clone());
                return Err(FlipflopError::Other { path, what, there, here });
            }
        }
        let ordered = file.wrong.is_sorted() && file.wrong.iter().all(|w| w[0] < file.done);
        if file.done > set.strings || !ordered {
            return Err(bad("it contradicts itself".to_owned()));
        }
        let wrong = Wrong { strings: file.done, at: file.wrong };
        if let Err([string, at]) = wrong.count(set, seed) {
            return Err(bad(format!("string {string} has no read at {at}")));
        }
        Ok((Self { path, head }, wrong))
    }

    /// Keeps what is known now; the file is complete or as it was.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, wrong: &Wrong) -> Result<()> {
        let file = File { head: self.head.clone(), done: wrong.strings, wrong: wrong.at.clone() };
        write_json(&self.path, &file)
    }
}

/// Writes a JSON document whole or not at all.
pub(super) fn write_json(path: &Path, document: &impl Serialize) -> Result<()> {
    let failed = |source| FlipflopError::Write { path: path.to_owned(), source };
    let mut text = serde_json::to_vec(document).map_err(|e| failed(e.into()))?;
    text.push(b'\n');
    write_whole(path, &text).map_err(failed)
}
