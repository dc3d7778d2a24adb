//! What became of a text.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use crate::chat::Usage;

/// A text after rewriting, whatever came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// Whether the rewrite holds or the original goes through.
    pub outcome: Outcome,
    /// The context that is left; empty where nothing was applied or nothing is left.
    pub context: String,
    /// The question; empty where nothing was applied.
    pub question: String,
    /// What the model is to answer: the rewrite with its instruction, or the original to the last byte.
    pub text: String,
    /// Bytes of the original that are kept as they are, in order. All of it where nothing was applied; of a
    /// text that was written anew, the pieces that are found again in it.
    pub kept: Vec<Range<usize>>,
    /// Bytes of the original that are gone, in order.
    pub removed: Vec<Removed>,
    /// Every piece that was judged by a score, in order, whatever the outcome.
    pub judged: Vec<Judged>,
    /// What the model wrote, where it wrote something, whatever the outcome.
    pub reply: Option<String>,
    /// Tokens of the rewriting.
    pub usage: Usage,
    /// How long it took.
    pub elapsed: Duration,
}

impl Rewrite {
    /// Why the original goes through, if it does.
    pub fn reason(&self) -> Option<&Reason> {
        match &self.outcome {
            Outcome::Applied => None,
            Outcome::Kept { reason } => Some(reason),
        }
    }
}

/// Whether a rewrite holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It does.
    Applied,
    /// The original goes through.
    Kept {
        /// Why.
        reason: Reason,
    },
}

/// A part of the original that the rewrite does not have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Removed {
    /// Its bytes.
    pub range: Range<usize>,
    /// Why it is gone.
    pub why: Why,
    /// Its score, where scores decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// Why a part is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The model named it as something to drop.
    Named,
    /// Its score is below the threshold.
    Score,
    /// The model wrote the text anew without it.
    LeftOut,
}

impl Why {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Why::Named => "named by the model",
            Why::Score => "below the threshold",
            Why::LeftOut => "not in the rewrite",
        }
    }
}

/// The score of a piece.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Its bytes.
    pub range: Range<usize>,
    /// Its score in nats; see [`crate::Judge`].
    pub score: f64,
}

/// Why the original goes through.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// There is no text.
    Empty,
    /// No question or task was found.
    NoQuestion,
    /// There is nothing but the question, or nothing that may be removed.
    NoContext,
    /// More pieces than are judged one by one.
    TooManyPieces {
        /// Of the text.
        pieces: usize,
        /// The limit.
        most: usize,
    },
    /// The text does not fit the model.
    TooLong {
        /// Of the prompt.
        tokens: usize,
        /// Of the model's context.
        room: usize,
    },
    /// The deadline passed.
    TimedOut,
    /// The model cannot do what the variant needs.
    Cannot(String),
    /// The model, or the way to it, failed.
    Failed(String),
    /// The model wrote nothing.
    NoReply,
    /// The model's answer reached its limit before it ended.
    Cut,
    /// The model refused.
    Refused,
    /// A section is not in what the model wrote.
    NoSection(&'static str),
    /// A section is there and empty.
    EmptySection(&'static str),
    /// What the model wrote names no pieces.
    NoList,
    /// The model named pieces that there are not.
    NoSuchPiece(String),
    /// The model found nothing to remove.
    Clean,
    /// The rewrite is longer than the original.
    Longer {
        /// Bytes of the rewrite.
        bytes: usize,
        /// Bytes of the original.
        original: usize,
    },
    /// The question is not in the rewrite.
    QuestionLost,
    /// Something is gone that must stay.
    Lost {
        /// `instruction`, `number`, `code`, `link`, `quotation` or `table`.
        what: &'static str,
        /// Itself.
        which: String,
    },
    /// The rewrite has something that the original has not.
    Invented {
        /// `number`, `code`, `link`, `quotation`, `name`, `words` or `claim`.
        what: &'static str,
        /// Itself.
        which: String,
    },
}

impl Reason {
    /// Its name in documents and headers.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::Empty => "empty",
            Reason::NoQuestion => "no_question",
            Reason::NoContext => "no_context",
            Reason::TooManyPieces { .. } => "too_many_pieces",
            Reason::TooLong { .. } => "too_long",
            Reason::TimedOut => "timed_out",
            Reason::Cannot(_) => "cannot",
            Reason::Failed(_) => "failed",
            Reason::NoReply => "no_reply",
            Reason::Cut => "cut",
            Reason::Refused => "refused",
            Reason::NoSection(_) => "no_section",
            Reason::EmptySection(_) => "empty_section",
            Reason::NoList => "no_list",
            Reason::NoSuchPiece(_) => "no_such_piece",
            Reason::Clean => "clean",
            Reason::Longer { .. } => "longer",
            Reason::QuestionLost => "question_lost",
            Reason::Lost { .. } => "lost",
            Reason::Invented { .. } => "invented",
        }
    }

    /// Whether the model's words could not be read as what was asked for.
    pub fn is_parse_failure(&self) -> bool {
        matches!(
            self,
            Reason::NoReply
                | Reason::Cut
                | Reason::NoSection(_)
                | Reason::EmptySection(_)
                | Reason::NoList
                | Reason::NoSuchPiece(_)
        )
    }

    /// Whether a guard refused a rewrite that could be read.
    pub fn is_guard(&self) -> bool {
        matches!(
            self,
            Reason::Longer { .. } | Reason::QuestionLost | Reason::Lost { .. } | Reason::Invented { .. }
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Empty => f.write_str("there is no text"),
            Reason::NoQuestion => f.write_str("no question or task was found in the text"),
            Reason::NoContext => f.write_str("nothing beside the question may be removed"),
            Reason::TooManyPieces { pieces, most } => {
                write!(f, "the text has {pieces} pieces, at most {most} are judged one by one")
            }
            Reason::TooLong { tokens, room } => {
                write!(f, "the prompt would have {tokens} tokens, and the model takes {room}")
            }
            Reason::TimedOut => f.write_str("the deadline passed"),
            Reason::Cannot(why) | Reason::Failed(why) => f.write_str(why),
            Reason::NoReply => f.write_str("the model wrote nothing"),
            Reason::Cut => f.write_str("the model did not come to an end within its limit"),
            Reason::Refused => f.write_str("the model refused"),
            Reason::NoSection(name) => write!(f, "the model wrote no section for the {name}"),
            Reason::EmptySection(name) => write!(f, "the model left the section for the {name} empty"),
            Reason::NoList => f.write_str("the model named no pieces"),
            Reason::NoSuchPiece(which) => write!(f, "the model named piece {which}, which there is not"),
            Reason::Clean => f.write_str("the model found nothing to remove"),
            Reason::Longer { bytes, original } => {
                write!(f, "the rewrite has {bytes} bytes, the original {original}")
            }
            Reason::QuestionLost => f.write_str("the question is not in the rewrite"),
            Reason::Lost { what, which } => write!(f, "the rewrite lost the {what} {which:?}"),
            Reason::Invented { what: "words", which } => {
                write!(f, "the rewrite says what the original does not: {which}")
            }
            Reason::Invented { what, which } => {
                write!(f, "the rewrite has the {what} {which:?}, which the original has not")
            }
        }
    }
}
