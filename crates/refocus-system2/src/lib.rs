//! System 2 Attention (Weston & Sukhbaatar 2023, arXiv 2311.11829): a model first rewrites its context without
//! what is irrelevant or opinionated, then answers from the rewrite alone.
//!
//! [`rewrite`] is the first step. A model is anything that is a [`Chat`]: [`Local`], or a server behind HTTP,
//! which lives elsewhere. Besides the paper's rewriting, a model can name what to drop from numbered pieces, or
//! pieces are judged by probabilities; then every byte that is left is the original's. Whatever goes wrong, the
//! original goes through, and [`Reason`] says why.

mod chat;
mod extractive;
mod guard;
mod holds;
mod local;
mod options;
mod outcome;
mod parse;
mod rewrite;
mod scored;
mod split;
mod templates;
mod together;

pub use refocus_model::patch::Variant;

pub use chat::{Ask, Chat, ChatError, Choice, Choose, Finish, Message, Reply, Role, Scores, Usage};
pub use local::Local;
pub use options::{Guards, Judge, Options, Request};
pub use outcome::{Judged, Outcome, Reason, Removed, Rewrite, Why};
pub use rewrite::rewrite;
pub use split::{Kind, Part, Piece, is_instruction, is_opinion, question, split};
pub use templates::{Template, TemplateError, Templates};
pub use together::together;
