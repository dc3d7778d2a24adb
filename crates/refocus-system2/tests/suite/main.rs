//! One binary for the crate's integration tests: rewriting through its only way in, with models that say what
//! a test wants.

mod adversary;
mod guards;
mod outcomes;
mod scripted;
