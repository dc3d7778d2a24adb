//! What the model answered, kept block by block in the output folder, so that a run that was stopped goes on
//! where it was.
//!
//! A folder belongs to one configuration, written down in `config.json`. A block is written beside its place
//! and moved there when it is complete.

use std::path::{Path, PathBuf};

use refocus_results::atomic::write_whole;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::ask::{Answers, Shape};
use super::error::StudyError;
use super::work::hex;

const MAGIC: &[u8; 8] = b"rfocovt1";
const HASH: usize = 32;
/// Prompts of a block.
pub(super) const BLOCK: usize = 16;

/// Everything that a run's numbers depend on, by name, in the order in which differences are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration(pub Map<String, Value>);

impl Configuration {
    fn text(&self) -> String {
        // A map of plain values can always be written.
        let mut text = serde_json::to_string_pretty(&self.0).unwrap_or_default();
        text.push('\n');
        text
    }

    /// SHA-256 of its text.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.text().as_bytes()))
    }
}

/// A folder of answers.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Where blocks are.
    blocks: PathBuf,
    key: [u8; HASH],
}

impl Store {
    /// Opens a folder for a configuration, or makes it. Blocks are those of the stage `blocks` until
    /// [`Store::stage`] names another.
    ///
    /// # Errors
    /// It holds a run of another configuration, or something that is no run, or cannot be read or written.
    pub fn open(dir: &Path, configuration: &Configuration) -> Result<Self, StudyError> {
        std::fs::create_dir_all(dir).map_err(StudyError::written(dir))?;
        let path = dir.join("config.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let bad = |e| StudyError::Stored {
                    path: path.clone(),
                    why: format!("not the configuration of a run: {e}"),
                };
                same(dir, &serde_json::from_str(&text).map_err(bad)?, &configuration.0)?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                replace(&path, configuration.text().as_bytes())?;
            }
            Err(e) => return Err(StudyError::read(&path)(e)),
        }
        let key = Sha256::digest(configuration.text().as_bytes()).into();
        Self { dir: dir.to_owned(), blocks: PathBuf::new(), key }.stage("blocks")
    }

    /// The blocks of a stage of the study, in a folder of their own.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn stage(&self, name: &str) -> Result<Self, StudyError> {
        let blocks = self.dir.join(name);
        std::fs::create_dir_all(&blocks).map_err(StudyError::written(&blocks))?;
        Ok(Self { dir: self.dir.clone(), blocks, key: self.key })
    }

    /// A block of `prompts` prompts, if it was finished.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn load(
        &self,
        task: usize,
        block: usize,
        shape: Shape,
        prompts: usize,
    ) -> Result<Option<Vec<Answers>>, StudyError> {
        let words = self.load_words(&format!("{task:02}-{block:05}"), &self.key, shape.numbers(), prompts)?;
        Ok(words.map(|all| all.into_iter().filter_map(|w| Answers::from_words(shape, w)).collect()))
    }

    /// Keeps a finished block.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, task: usize, block: usize, answers: &[Answers]) -> Result<(), StudyError> {
        let words = answers.iter().map(Answers::words);
        self.save_words(&format!("{task:02}-{block:05}"), &self.key, words)
    }

    /// The key of blocks that depend on more than the run's configuration.
    pub(crate) fn key_of(&self, more: &[u8]) -> [u8; HASH] {
        Sha256::new().chain_update(self.key).chain_update(more).finalize().into()
    }

    /// The block of this name: `each` words for each of `prompts` prompts, if it was finished.
    ///
    /// # Errors
    /// It is damaged, belongs to another key, or cannot be read.
    pub(crate) fn load_words(
        &self,
        name: &str,
        key: &[u8; HASH],
        each: usize,
        prompts: usize,
    ) -> Result<Option<Vec<Vec<u32>>>, StudyError> {
        let path = self.path(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StudyError::read(&path)(e)),
        };
        let bad = |why: &str| StudyError::Stored {
            path: path.clone(),
            why: format!("{why}; remove the file, and its prompts are run again"),
        };
        let want = MAGIC.len() + HASH + prompts * each * 4 + HASH;
        if bytes.len() != want {
            return Err(bad(&format!("it has {} bytes where {want} are needed", bytes.len())));
        }
        let (body, sum) = bytes.split_at(want - HASH);
        let Some(words) = body.strip_prefix(MAGIC).and_then(|b| b.strip_prefix(key)) else {
            return Err(bad("it is no block of this run"));
        };
        if Sha256::digest(body)[..] != *sum {
            return Err(bad("it is damaged"));
        }
        let words: Vec<u32> =
            words.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(Some(words.chunks_exact(each).map(<[u32]>::to_vec).collect()))
    }

    /// Keeps a finished block of words, prompt by prompt.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn save_words<'a>(
        &self,
        name: &str,
        key: &[u8; HASH],
        prompts: impl Iterator<Item = &'a [u32]>,
    ) -> Result<(), StudyError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(key);
        bytes.extend(prompts.flatten().flat_map(|w| w.to_le_bytes()));
        let sum = Sha256::digest(&bytes);
        bytes.extend(sum);
        replace(&self.path(name), &bytes)
    }

    /// The text of this name that was kept under this key, if it was.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub(crate) fn load_text(&self, name: &str, key: &[u8; HASH]) -> Result<Option<String>, StudyError> {
        let path = self.blocks.join(format!("{name}.kept"));
        let all = match std::fs::read_to_string(&path) {
            Ok(all) => all,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StudyError::read(&path)(e)),
        };
        let (head, text) = all.split_once('\n').unwrap_or_default();
        if head.split_once(' ').is_none_or(|(_, sum)| sum != hex(&Sha256::digest(text))) {
            let why = "it is damaged; remove the file, and its stage is run again".to_owned();
            return Err(StudyError::Stored { path, why });
        }
        Ok(head.starts_with(&hex(key)).then(|| text.to_owned()))
    }

    /// Keeps a text, in the place of one under another key.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn save_text(&self, name: &str, key: &[u8; HASH], text: &str) -> Result<(), StudyError> {
        let all = format!("{} {}\n{text}", hex(key), hex(&Sha256::digest(text)));
        replace(&self.blocks.join(format!("{name}.kept")), all.as_bytes())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.blocks.join(format!("{name}.bin"))
    }

    /// Writes a file of the folder whole; `name` may lie in a folder of it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), StudyError> {
        self.write_bytes(name, text.as_bytes())
    }

    /// Writes a file that is no text, as [`Store::write`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), StudyError> {
        let path = self.dir.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(StudyError::written(folder))?;
        }
        replace(&path, bytes)
    }
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StudyError> {
    write_whole(path, bytes).map_err(StudyError::written(path))
}

/// The first field that differs is the error.
fn same(dir: &Path, was: &Map<String, Value>, now: &Map<String, Value>) -> Result<(), StudyError> {
    let words = |v: Option<&Value>| v.map_or_else(|| "nothing".to_owned(), Value::to_string);
    let field = now.keys().chain(was.keys()).find(|k| was.get(*k) != now.get(*k));
    match field {
        None => Ok(()),
        Some(field) => Err(StudyError::Other {
            dir: dir.to_owned(),
            field: field.clone(),
            was: words(was.get(field)),
            now: words(now.get(field)),
        }),
    }
}
