//! One binary for the crate's integration tests.

mod answers;
mod client;
mod limits;
mod refusals;
mod support;
mod tools;
