//! One writer a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use crate::error::ResultsError;

/// Held while a run writes to a folder. The system lets it go when the process ends, however it ends, so a
/// killed run locks nobody out.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a folder.
    ///
    /// # Errors
    /// Another run has it, or the lock file cannot be written.
    pub fn take(dir: &Path) -> Result<Self, ResultsError> {
        let path = dir.join(".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ResultsError::written(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            // Some network file systems have no locks; there nobody is kept out.
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(ResultsError::Busy { dir: dir.to_owned() }),
            Err(TryLockError::Error(e)) => Err(ResultsError::written(&path)(e)),
        }
    }
}
