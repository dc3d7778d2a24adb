//! What was answered, kept item by item in the folder of the run, so that a run that was stopped goes on where it
//! was, and further arms and items join those that are there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refocus_tasks::planted::Item;
use serde::{Deserialize, Serialize};

use super::answer::Record;
use super::arm::Arm;
use super::error::System2Error;
use super::suite::Suite;
use crate::overthinking::{Store, StudyError};

/// All that is known of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Names the item.
    pub item: String,
    /// As it was asked.
    pub prompt: String,
    /// By name of the arm.
    pub arms: BTreeMap<String, Record>,
}

impl Kept {
    /// What is there, or nothing yet.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is of another item.
    pub(super) fn load(dir: &Path, suite: Suite, at: usize, item: &Item) -> Result<Self, System2Error> {
        let path = dir.join(name(suite, at));
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { item: item.key.clone(), prompt: item.prompt(), arms: BTreeMap::new() });
            }
            Err(source) => return Err(StudyError::Io { path, what: "read", source }.into()),
        };
        let kept: Self = serde_json::from_slice(&text).map_err(|e| damaged(&path, &e.to_string()))?;
        if (&kept.item, &kept.prompt) != (&item.key, &item.prompt()) {
            return Err(damaged(&path, &format!("it is of item {:?}, not {:?}", kept.item, item.key)));
        }
        Ok(kept)
    }

    /// Keeps it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&self, store: &Store, suite: Suite, at: usize) -> Result<(), System2Error> {
        // Numbers that are none have become null, and texts can always be written.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        Ok(store.write(&name(suite, at).to_string_lossy(), &format!("{text}\n"))?)
    }

    /// What came of an arm.
    pub fn of(&self, arm: Arm) -> Option<&Record> {
        self.arms.get(arm.name())
    }
}

fn damaged(path: &Path, why: &str) -> System2Error {
    let why = format!("{why}; remove the file, and the item is asked again");
    StudyError::Stored { path: path.to_owned(), why }.into()
}

fn name(suite: Suite, at: usize) -> PathBuf {
    Path::new("answers").join(suite.name()).join(format!("{at:05}.json"))
}
