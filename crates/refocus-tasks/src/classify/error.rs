//! What can be wrong with a task, its rows or a draw from them.

use std::path::{Path, PathBuf};

/// Errors name the file and, where they apply, the key, the line and the class.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A task file that is no TOML or has unknown or missing keys.
    #[error("{}: not a task file", path.display())]
    Toml {
        /// File.
        path: PathBuf,
        /// Cause, with line and column.
        source: Box<toml::de::Error>,
    },
    /// A key whose value makes no task.
    #[error("{}: {key}: {why}", path.display())]
    Key {
        /// File.
        path: PathBuf,
        /// Key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A row that is none.
    #[error("{}: line {line}: {why}", path.display())]
    Row {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A file with no row, or a class with too few.
    #[error("{}: {why}", path.display())]
    Rows {
        /// File.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// No task of this name.
    #[error("there is no task {key}{}", suggestion(nearest))]
    Unknown {
        /// As asked for.
        key: String,
        /// The most similar name, if one is similar.
        nearest: Option<String>,
    },
    /// Texts that cannot be fitted into the room that there is.
    #[error(
        "task {task}: no {class} text is short enough: {demos} demonstrations leave {room} tokens a text, \
         the shortest text that is left has {shortest}"
    )]
    Room {
        /// Task.
        task: String,
        /// Class.
        class: String,
        /// Demonstrations asked for.
        demos: usize,
        /// Mean tokens a text may have.
        room: usize,
        /// Tokens of the shortest.
        shortest: usize,
    },
    /// More demonstrations of a class than there are rows.
    #[error("task {task}: class {class} has {rows} rows, and a prompt of {demos} demonstrations needs more")]
    Few {
        /// Task.
        task: String,
        /// Class.
        class: String,
        /// Rows of it.
        rows: usize,
        /// Demonstrations asked for.
        demos: usize,
    },
    /// A prompt needs at least one demonstration.
    #[error("a prompt has at least one demonstration")]
    NoDemos,
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; is {n} meant?")).unwrap_or_default()
}

impl TaskError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn key(path: &Path, key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Key { path: path.to_owned(), key: key.into(), why: why.into() }
    }

    pub(super) fn row(path: &Path, line: usize, why: impl Into<String>) -> Self {
        Self::Row { path: path.to_owned(), line, why: why.into() }
    }
}
