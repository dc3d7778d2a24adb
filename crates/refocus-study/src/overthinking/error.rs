//! What can go wrong in the study.

use std::path::PathBuf;

use refocus_measure::MeasureError;
use refocus_model::{LoadError, PlanError, RunError};
use refocus_tasks::classify::TaskError;

/// Errors name the task, the file, and what does not fit.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// A task, its rows or a draw from them.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The tokenizer.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A measurement that cannot be made.
    #[error(transparent)]
    Measure(MeasureError),
    /// Two labels that the model cannot be asked to tell apart at the scored position.
    #[error(
        "task {task}: the words {first:?} and {second:?} begin with the same token {id}, so the token before \
         them cannot tell them apart"
    )]
    FirstToken {
        /// Task.
        task: String,
        /// A word.
        first: String,
        /// Another.
        second: String,
        /// Their first token.
        id: u32,
    },
    /// A label that never begins at the border of a token.
    #[error("task {task}: the model cannot be asked for {word:?}")]
    Border {
        /// Task.
        task: String,
        /// Word.
        word: String,
        /// Why.
        source: refocus_measure::SlotError,
    },
    /// More demonstrations than the context has room for.
    #[error(
        "task {task}: {demos} demonstrations do not fit into {context} tokens: each has {each}, and {around} of \
         them are needed around its text"
    )]
    Context {
        /// Task.
        task: String,
        /// Demonstrations asked for.
        demos: usize,
        /// Tokens of a prompt.
        context: usize,
        /// Tokens for each demonstration.
        each: usize,
        /// Tokens that are not its text.
        around: usize,
    },
    /// No draw of a pair could be used.
    #[error("task {task}, pair {pair}: no prompt could be used in {tries} draws; the last: {why}")]
    Draws {
        /// Task.
        task: String,
        /// Pair.
        pair: u32,
        /// Draws.
        tries: u32,
        /// What was wrong with the last.
        why: String,
    },
    /// A line of a file of prompts.
    #[error("{}: line {line}: {why}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Prompts of a file that do not belong together, or none at all.
    #[error("{}: {why}", path.display())]
    Prompts {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: cannot be {what}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// A folder with the results of something else.
    #[error("{} holds a run with another {field}: {was} there, {now} here", dir.display())]
    Other {
        /// Folder.
        dir: PathBuf,
        /// Field of the configuration.
        field: String,
        /// As in the folder.
        was: String,
        /// As asked for.
        now: String,
    },
    /// A stored part that is damaged.
    #[error("{}: {why}", path.display())]
    Stored {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An ablation that the model or its inputs do not have.
    #[error("ablation: {why}")]
    Variant {
        /// What is wrong.
        why: String,
    },
    /// A model whose numbers are none.
    #[error("task {task}: the model gives no number at layer {layer}, prompt {prompt}, slot {slot}")]
    NotANumber {
        /// Task.
        task: String,
        /// Layer, 0 for the embeddings.
        layer: usize,
        /// Number of the prompt in the task.
        prompt: usize,
        /// Demonstration.
        slot: usize,
    },
}

impl StudyError {
    pub(super) fn read(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), what: "read", source }
    }

    pub(super) fn written(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), what: "written", source }
    }
}

impl From<MeasureError> for StudyError {
    fn from(e: MeasureError) -> Self {
        match e {
            MeasureError::Run(e) => Self::Run(e),
            e => Self::Measure(e),
        }
    }
}

impl From<PlanError> for StudyError {
    fn from(e: PlanError) -> Self {
        Self::Run(e.into())
    }
}

impl From<refocus_compute::Error> for StudyError {
    fn from(e: refocus_compute::Error) -> Self {
        Self::Run(e.into())
    }
}
