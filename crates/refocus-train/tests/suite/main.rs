//! One binary for the crate's integration tests.

mod learning;
mod lstm;
mod options;
mod runs;
