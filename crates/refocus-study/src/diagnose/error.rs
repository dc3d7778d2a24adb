//! What can go wrong in a diagnosis.

use refocus_measure::MeasureError;
use refocus_model::{LoadError, PatchError, PlanError, RunError};
use refocus_tasks::flipflop::LanguageError;
use refocus_tasks::recall::FactError;

use crate::flipflop::probe::ProbeError;
use crate::overthinking::StudyError;

/// Everything that ends a probe.
#[derive(Debug, thiserror::Error)]
pub enum DiagnoseError {
    /// False demonstrations.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// Flip-flop strings.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// Flip-flop strings as text.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// Facts.
    #[error(transparent)]
    Facts(#[from] FactError),
    /// The tokenizer.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Questions.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// A readout that the model does not have.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A patch to try.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The model could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
}
