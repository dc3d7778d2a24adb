//! The ways to answer that are compared.

use refocus_model::patch::Variant;
use refocus_system2::{Judge, Options};

/// Name and version of the study in run folders; the version grows when an item or a prompt changes.
pub const STUDY: &str = "system2/3";

/// A way to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The prompt without what was planted: what could be reached.
    Oracle,
    /// The prompt as it is.
    Baseline,
    /// The prompt with a word of warning behind it.
    Instructed,
    /// The model writes its thoughts down before it answers.
    Think,
    /// System 2 Attention.
    Rewrite(Variant),
    /// [`Variant::Scored`] with [`Judge::AnswerChange`].
    ScoredChange,
}

/// There is no such arm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no arm {name}; there are {}", Arm::all().map(Arm::name).join(", "))]
pub struct UnknownArm {
    /// As it was given.
    pub name: String,
}

impl Arm {
    /// All, in the order in which they run and are shown.
    pub fn all() -> [Self; 12] {
        let [objectivity, relevance, single, keep, no_instruction, extractive, scored] =
            Variant::ALL.map(Self::Rewrite);
        [
            Self::Oracle,
            Self::Baseline,
            Self::Instructed,
            Self::Think,
            objectivity,
            relevance,
            single,
            keep,
            no_instruction,
            extractive,
            scored,
            Self::ScoredChange,
        ]
    }

    /// As on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::Baseline => "baseline",
            Self::Instructed => "instructed",
            Self::Think => "think",
            Self::Rewrite(variant) => variant.name(),
            Self::ScoredChange => "scored_change",
        }
    }

    /// The arm of a name.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(name: &str) -> Result<Self, UnknownArm> {
        let found = Self::all().into_iter().find(|a| a.name() == name);
        found.ok_or_else(|| UnknownArm { name: name.to_owned() })
    }

    /// Whether it judges by log-probabilities.
    pub fn needs_log_probabilities(self) -> bool {
        matches!(self, Self::Rewrite(Variant::Scored) | Self::ScoredChange)
    }

    /// Whether the model writes something in it, beside an answer without options.
    pub fn writes(self) -> bool {
        match self {
            Self::Think => true,
            Self::Rewrite(variant) => variant != Variant::Scored,
            Self::Oracle | Self::Baseline | Self::Instructed | Self::ScoredChange => false,
        }
    }

    /// How it rewrites, if it does.
    pub fn options(self) -> Option<Options> {
        match self {
            Self::Rewrite(variant) => Some(Options::new(variant)),
            Self::ScoredChange => {
                Some(Options { judge: Judge::AnswerChange, ..Options::new(Variant::Scored) })
            }
            _ => None,
        }
    }
}
