//! How a model recalls a fact: which heads carry the argument, what the MLPs make of it, who lowers the answer
//! (Lv et al. 2024).

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
