//! What can go wrong in the study.

use refocus_measure::MeasureError;
use refocus_model::{LoadError, PlanError, RunError};
use refocus_tasks::recall::FactError;

use crate::overthinking::StudyError;

/// Everything that ends the study.
#[derive(Debug, thiserror::Error)]
pub enum RecallError {
    /// Facts.
    #[error(transparent)]
    Facts(#[from] FactError),
    /// The tokenizer.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What is kept of a run.
    #[error(transparent)]
    Store(#[from] StudyError),
    /// A measurement.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// A readout that the model does not have.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The model could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl From<refocus_compute::Error> for RecallError {
    fn from(e: refocus_compute::Error) -> Self {
        Self::Run(e.into())
    }
}
