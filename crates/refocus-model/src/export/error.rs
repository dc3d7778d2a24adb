//! What can go wrong while a model is written.

use std::path::{Path, PathBuf};

use crate::error::LoadError;
use crate::site::Site;
use crate::spec::Family;

/// A result of writing a model.
pub type ExportResult<T> = Result<T, ExportError>;

/// Errors name the file or the tensor. Where one comes back, nothing stands under the folder's name that
/// did not stand there before.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The source cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A model that no folder of its family can say.
    #[error("the model cannot be written as a folder of the {} family: {why}", family.model_type())]
    Inexpressible {
        /// Family.
        family: Family,
        /// What it cannot say.
        why: String,
    },
    /// A change that no plain weights can hold.
    #[error("{what} at {site} cannot be baked into plain weights: {why}")]
    Unbakeable {
        /// The action.
        what: &'static str,
        /// Where.
        site: Site,
        /// Why not.
        why: &'static str,
    },
    /// A value that is no number or that the type cannot hold.
    #[error("{}: tensor {tensor}, value {at}: {why}", path.display())]
    Value {
        /// The source: a file, a folder, or words in brackets.
        path: PathBuf,
        /// Name in the folder.
        tensor: String,
        /// Place in the tensor, counted row by row from 0.
        at: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A file that cannot be written.
    #[error("{}: cannot be written", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A place where no model may be written.
    #[error("{}: {why}", path.display())]
    Place {
        /// As given.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A folder that holds something else.
    #[error("{}: the folder is there already and holds something else: {what}", path.display())]
    Exists {
        /// As given.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Another process writes the same folder.
    #[error("{}: another process is writing it", path.display())]
    Busy {
        /// As given.
        path: PathBuf,
    },
    /// What was written cannot be opened; an error of refocus itself.
    #[error("what was written cannot be opened again; this is an error of refocus, nothing was kept")]
    Reopened(#[source] LoadError),
}

impl ExportError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn inexpressible(family: Family, why: impl Into<String>) -> Self {
        Self::Inexpressible { family, why: why.into() }
    }

    pub(super) fn place(path: &Path, why: impl Into<String>) -> Self {
        Self::Place { path: path.to_owned(), why: why.into() }
    }
}
