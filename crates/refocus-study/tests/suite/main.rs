//! One binary for the crate's integration tests.

mod heads;
mod recall;
mod recall_inside;
