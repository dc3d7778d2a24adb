//! What can go wrong in the study.

use std::io;
use std::path::PathBuf;

use refocus_model::RunError;
use refocus_tasks::flipflop::{Invalid, LanguageError};
use refocus_train::TrainError;

/// Errors name the set, the row or the file.
#[derive(Debug, thiserror::Error)]
pub enum FlipflopError {
    /// Training, or a checkpoint.
    #[error(transparent)]
    Train(Box<TrainError>),
    /// The model could not be run.
    #[error("set {set}: the model cannot be run")]
    Run {
        /// Set.
        set: String,
        /// Cause.
        #[source]
        source: RunError,
    },
    /// No such strings.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// A string that is none.
    #[error(transparent)]
    String(#[from] Invalid),
    /// A model over other ids.
    #[error("the model has a vocabulary of {vocab} ids; strings over {symbols} data symbols have {want}")]
    Vocab {
        /// Of the model.
        vocab: usize,
        /// Data symbols.
        symbols: usize,
        /// Needed.
        want: usize,
    },
    /// A run that learned no flip-flop strings.
    #[error("a run in the mode {0} has no reads to be asked at")]
    Reads(&'static str),
    /// No set has the name.
    #[error("there is no set '{name}': {known}")]
    Unknown {
        /// As given.
        name: String,
        /// What there is.
        known: String,
    },
    /// Strings longer than the model's positions.
    #[error("set {set}: {why}")]
    TooLong {
        /// Set.
        set: String,
        /// Whose positions end where.
        why: String,
    },
    /// A model whose context is too short for any set.
    #[error("the model reads {0} tokens at most; the shortest sets have strings of 256")]
    Short(usize),
    /// A file of rows.
    #[error("{origin}: {why}")]
    Grid {
        /// File.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// A row's configuration.
    #[error("{origin}: row {row}: {change} cannot be used")]
    Row {
        /// File.
        origin: String,
        /// Row.
        row: String,
        /// As given.
        change: String,
        /// Cause.
        #[source]
        source: Box<TrainError>,
    },
    /// A kept file that cannot be used.
    #[error("{}: {why}", path.display())]
    Stored {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A kept file of another evaluation or study.
    #[error("{}: made with another {what}: {there}, not {here}", path.display())]
    Other {
        /// File.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// There.
        there: String,
        /// Here.
        here: String,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written; what was kept before is as it was", path.display())]
    Write {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl FlipflopError {
    /// Whether a model's numbers ran away in training: nothing that another model would meet.
    pub fn is_divergence(&self) -> bool {
        let Self::Train(e) = self else { return false };
        matches!(**e, TrainError::Loss { .. } | TrainError::Params { .. })
    }
}

impl From<TrainError> for FlipflopError {
    fn from(e: TrainError) -> Self {
        Self::Train(Box::new(e))
    }
}

/// A result of the study.
pub(super) type Result<T, E = FlipflopError> = std::result::Result<T, E>;
