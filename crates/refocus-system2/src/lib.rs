//! System 2 Attention (Weston & Sukhbaatar 2023): a model first rewrites its context without what is irrelevant
//! or opinionated, then answers from the rewrite alone.
//!
//! A model is anything that is a [`Chat`]: the local engine, or a server behind HTTP, which lives elsewhere.

mod chat;

pub use chat::{Ask, Chat, ChatError, Finish, Message, Reply, Role, Usage};
