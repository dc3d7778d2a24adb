//! What can go wrong while a model learns.

use refocus_model::{LoadError, RunError};

/// A result of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// Errors name the step, counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// No such model.
    #[error("{what} is {got}: {why}")]
    Architecture {
        /// Which number.
        what: &'static str,
        /// As given.
        got: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A number of the configuration that makes no sense.
    #[error("{what} = {got}: {why}")]
    Config {
        /// Key.
        what: &'static str,
        /// As given.
        got: f64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Examples whose parts do not fit together.
    #[error("step {step}: {why}")]
    Examples {
        /// Step.
        step: u32,
        /// What is wrong.
        why: String,
    },
    /// A parameter that is not as it must be.
    #[error("{name}: {why}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A loss that is no number.
    #[error("step {step}: the loss is {loss}; a lower learning rate than {lr:e} may help")]
    Loss {
        /// Step.
        step: u32,
        /// NaN or infinite.
        loss: f32,
        /// Rate at this step.
        lr: f32,
    },
    /// Parameters that no model can be made of, mostly because they are no numbers any more.
    #[error("step {step}: the parameters cannot be used")]
    Params {
        /// Step (0: the initial ones).
        step: u32,
        /// Cause.
        #[source]
        source: LoadError,
    },
    /// The forward or backward pass failed.
    #[error("step {step}")]
    Run {
        /// Step.
        step: u32,
        /// Cause.
        #[source]
        source: RunError,
    },
}
