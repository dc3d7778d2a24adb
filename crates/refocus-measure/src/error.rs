//! What can go wrong in a measurement.

use refocus_model::{PlanError, RunError};

/// Errors say what does not fit.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The model could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A question that cannot be asked.
    #[error(transparent)]
    Question(#[from] crate::probe::NoQuestion),
    /// Attribution needs a residual stream that is a plain sum.
    #[error(
        "direct logit attribution needs pre-norm or parallel blocks: here a norm stands on the residual \
         stream after every block, so it is no sum of what the parts wrote"
    )]
    PostNorm,
    /// Two prompts that cannot be patched into each other.
    #[error("the prompts have {clean} and {corrupted} tokens; patching needs equally many")]
    Lengths {
        /// Tokens of the first.
        clean: usize,
        /// Tokens of the second.
        corrupted: usize,
    },
    /// Clean and corrupted runs answer alike.
    #[error(
        "both prompts give the same difference of logits ({0:.4}), so there is nothing for patching to \
         restore; choose answers with --answer and --wrong, or another prompt"
    )]
    NoEffect(f32),
    /// Nothing to measure.
    #[error("there are no prompts to measure")]
    NoPrompts,
    /// A prompt that cannot be measured.
    #[error("prompt {prompt}: {why}")]
    Prompt {
        /// From zero.
        prompt: usize,
        /// What is wrong.
        why: String,
    },
    /// Observations of other prompts.
    #[error("{prompts} prompts are to be measured, and {seen} were observed")]
    Observed {
        /// To be measured.
        prompts: usize,
        /// Observed.
        seen: usize,
    },
    /// A wording with no other fact to corrupt a prompt with.
    #[error(
        "wording {template} asks for one fact alone: corrupting it needs a second fact in the same words"
    )]
    OneFact {
        /// Which.
        template: usize,
    },
    /// A vector of another width than the residual stream.
    #[error("a vector of {got} numbers, the residual stream has {want}")]
    Width {
        /// As given.
        got: usize,
        /// As needed.
        want: usize,
    },
    /// A head or block that is not there.
    #[error("the model has no {what}")]
    Absent {
        /// Which.
        what: String,
    },
    /// A text that says too little of how often tokens occur.
    #[error(
        "the text has {distinct} different tokens, {needed} are needed to say how often tokens occur: give a \
         longer one with --text"
    )]
    ShortText {
        /// In the text.
        distinct: usize,
        /// At least.
        needed: usize,
    },
    /// A regression that has no solution.
    #[error(transparent)]
    Fit(#[from] crate::recall::FitError),
}

impl From<PlanError> for MeasureError {
    fn from(e: PlanError) -> Self {
        MeasureError::Run(RunError::Plan(e))
    }
}

impl From<refocus_compute::Error> for MeasureError {
    fn from(e: refocus_compute::Error) -> Self {
        MeasureError::Run(RunError::Compute(e))
    }
}
