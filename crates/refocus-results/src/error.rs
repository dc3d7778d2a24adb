//! What can be wrong with a run folder or a table.

use std::io;
use std::path::{Path, PathBuf};

/// Why results cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// The file system refused.
    #[error("{}: cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The folder holds no run.
    #[error("{}: no results of a run: it has no run.json", dir.display())]
    NoRun {
        /// The folder.
        dir: PathBuf,
    },
    /// `run.json` is not what it should be.
    #[error("{}: not the record of a run: {why}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A table that is not the one that `run.json` lists.
    #[error("{}: damaged or half written: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A table with other columns than this program's.
    #[error("{}: a table of another schema: {why}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The first difference.
        why: String,
    },
    /// A value that its column cannot hold.
    #[error("table {table}: {why}")]
    Value {
        /// Name of the table.
        table: String,
        /// Which value, and why.
        why: String,
    },
    /// Another run is writing there.
    #[error("{}: another run is writing to this folder", dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder belongs to a run with another configuration.
    #[error("{}: holds another run: its {field} is {was}, here it is {now}", dir.display())]
    Other {
        /// The folder.
        dir: PathBuf,
        /// The first field that differs.
        field: String,
        /// There.
        was: String,
        /// Here.
        now: String,
    },
}

impl ResultsError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), what: "read", source }
    }

    pub(crate) fn written(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), what: "written", source }
    }
}
