//! How a model recalls a fact: which heads carry the argument, what the MLPs make of it, who lowers the answer
//! (Lv et al. 2024).
//!
//! [`observe`] runs prompts once and keeps what every block does at their last tokens. Everything else works from
//! that: [`effects`] replaces one head or MLP at a time, with the rest frozen (path patching) or live (ablation);
//! [`shares`] splits the answer's logit; [`Moments`] holds the regression of an MLP on the heads before it, [`MatrixMap`]
//! the same with a matrix a head.

mod components;
mod effects;
mod fit;
mod frequency;
mod heads;
mod intercept;
mod matrix_map;
mod observe;
mod unembedding;
mod variants;

pub use self::components::{Component, Shares, head_outputs, regressors, shares};
pub use self::effects::{Effects, Instead, Rest, Sender, effects, partners, senders};
pub use self::fit::{Fit, FitError, Moments};
pub use self::frequency::Frequencies;
pub use self::heads::{HeadAt, Mover, OvRanks, movers, ov_ranks};
pub use self::intercept::{ClassRanks, Fidelity, class_ranks, fidelity, first_order, lens, logits, nudged};
pub use self::matrix_map::MatrixMap;
pub use self::observe::{AtBlock, Observed, observe};
pub use self::unembedding::{Score, Unembedding};

/// A prompt that asks for a fact; what is measured is measured at its last token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The whole prompt.
    pub ids: Vec<u32>,
    /// First token of the answer, as it would follow.
    pub answer: u32,
    /// The argument as one token with a space before it, where it is one.
    pub argument: Option<u32>,
    /// Position of the argument's last token.
    pub argument_at: usize,
    /// Which fact: prompts of one fact are no independent items.
    pub fact: usize,
    /// Which wording.
    pub template: usize,
}
