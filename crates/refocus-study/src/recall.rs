//! How a model recalls a fact, and what its last layers make of it (Lv et al., "Interpreting key mechanisms of
//! factual recall in transformer-based language models", 2024, arXiv 2403.19521).
//!
//! A [`Case`] is a relation as a model is asked for it: the facts whose answer is one token and which it knows.
//! [`conditions`] says how they are asked (what may follow, how many other facts stand before, with or without
//! the token that begins a text). [`trace_stored`] follows answer and argument from node to node of the residual
//! stream; [`falls`] says what the last two layers do to the answer, beside tokens that were chosen as the answers
//! were; [`claims`] judges.

mod case;
mod claims;
mod curves;
mod error;
mod falls;
mod prompts;
mod traced;

pub use self::case::{Case, Counts, FEWEST_ASKED, FEWEST_KNOWN, Outcome, Settings, content_hash};
pub use self::claims::{Claim, claims};
pub use self::curves::{Curve, curves};
pub use self::error::RecallError;
pub use self::falls::{Fall, Group, Matched, Part, Seen, falls};
pub use self::prompts::{Beginning, Condition, Item, conditions, items};
pub use self::traced::{Reach, Traced, know_stored, trace_stored};
