//! What can be wrong with a patch file.

use std::error::Error;
use std::path::{Path, PathBuf};

/// Errors name the file and the line.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The file cannot be read.
    #[error("{}: the patch cannot be read", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A line that cannot be understood, or that asks for something this model does not have.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
        /// Cause, where another file is to blame.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The file says that it was made for another model.
    #[error("{}:{line}: the patch was made for another model", path.display())]
    Guard {
        /// File.
        path: PathBuf,
        /// Of the guard.
        line: usize,
        /// What went wrong.
        source: OtherModel,
    },
    /// An entry that the command at hand cannot do.
    #[error("{}:{line}: '{entry}' does not work in {job}: {why}", path.display())]
    Unsupported {
        /// File.
        path: PathBuf,
        /// Of the entry.
        line: usize,
        /// Its action.
        entry: &'static str,
        /// What was to be done.
        job: &'static str,
        /// Why not.
        why: String,
    },
}

/// Two fingerprints that should have been equal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it names {wanted}, this model is {found}")]
pub struct OtherModel {
    /// As the patch says.
    pub wanted: String,
    /// Of the model at hand.
    pub found: String,
}

/// The text of a patch file, for errors that name a line of it.
#[derive(Clone, Copy)]
pub(super) struct Doc<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Doc<'_> {
    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|&b| b == b'\n').count()
    }

    pub(super) fn error(&self, line: usize, why: impl Into<String>) -> PatchError {
        PatchError::Line { path: self.path.to_owned(), line, why: why.into(), source: None }
    }

    pub(super) fn caused(
        &self,
        line: usize,
        why: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> PatchError {
        PatchError::Line { path: self.path.to_owned(), line, why: why.into(), source: Some(source.into()) }
    }
}
