//! What can go wrong with a request and with a sequence under way.

use std::sync::Arc;

use super::constraint::ConstraintError;
use crate::error::LoadError;
use crate::plan::PlanError;
use crate::run_error::RunError;

/// A request that is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No token to begin with.
    #[error("the prompt has no tokens")]
    Empty,
    /// A token id beyond the vocabulary.
    #[error("the prompt has the token id {id} at position {at}; the vocabulary has {vocab} tokens")]
    Id {
        /// As given.
        id: u32,
        /// Position in the prompt.
        at: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The prompt alone is longer than the model takes.
    #[error("the prompt has {len} tokens, the model's context is {n_ctx}")]
    Context {
        /// Its length.
        len: usize,
        /// The limit.
        n_ctx: usize,
    },
    /// A number that makes no sense.
    #[error("{0}")]
    Sampling(String),
    /// No sample at all.
    #[error("n is 0, it must be 1 or above")]
    NoSamples,
    /// Strings can only be found in text.
    #[error("stop strings need a tokenizer")]
    NoText,
    /// An empty string ends everything.
    #[error("a stop string is empty")]
    EmptyStop,
    /// More samples than sequences that may run together.
    #[error("{n} samples of a prompt run together, at most {most} may")]
    TooMany {
        /// Samples.
        n: u32,
        /// The limit.
        most: usize,
    },
    /// It would not fit if it were alone.
    #[error("the request may need {tokens} tokens of key/value cache, the limit is {limit}")]
    NeverFits {
        /// What it needs at most, in whole blocks.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// The changes do not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Why one sequence cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The model failed.
    #[error(transparent)]
    Run(Arc<RunError>),
    /// The constraint cannot be kept.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The tokenizer failed.
    #[error(transparent)]
    Text(#[from] LoadError),
    /// Every token is forbidden.
    #[error("every token at position {position} has the logit −∞")]
    Nothing {
        /// Where.
        position: usize,
    },
}

impl From<RunError> for GenerateError {
    fn from(error: RunError) -> Self {
        GenerateError::Run(Arc::new(error))
    }
}
