//! What can go wrong in the evaluation.

use std::path::PathBuf;

use refocus_measure::MeasureError;
use refocus_model::{LoadError, RunError, TemplateError};
use refocus_system2::ChatError;
use refocus_tasks::arguments::ArgumentError;
use refocus_tasks::opinions::QuestionError;
use refocus_tasks::recall::FactError;

use crate::overthinking::StudyError;

/// Everything that ends an evaluation. What a model cannot do with one item is no error but a result.
#[derive(Debug, thiserror::Error)]
pub enum System2Error {
    /// The folder of the run.
    #[error(transparent)]
    Folder(#[from] StudyError),
    /// Facts.
    #[error(transparent)]
    Facts(#[from] FactError),
    /// Arguments.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// Questions from a file.
    #[error(transparent)]
    Questions(#[from] QuestionError),
    /// A suite that reads a file without a folder of data.
    #[error("suite {suite} reads {file}, and no folder of data is given")]
    NoData {
        /// Its name.
        suite: &'static str,
        /// Below the folder.
        file: &'static str,
    },
    /// Its file is not there, or only packed.
    #[error("suite {suite}: {} is not there{}", path.display(), if *packed { ", only its .gz" } else { "" })]
    NoFile {
        /// Its name.
        suite: &'static str,
        /// The file.
        path: PathBuf,
        /// Whether the file is there with `.gz` behind its name.
        packed: bool,
    },
    /// The model, or the way to it, failed.
    #[error("suite {suite}, item {item}, arm {arm}")]
    Chat {
        /// Suite.
        suite: &'static str,
        /// Key of the item.
        item: String,
        /// Arm.
        arm: &'static str,
        /// Why.
        source: ChatError,
    },
    /// Attention.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The tokenizer.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A pass with a change.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The model's chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
}
