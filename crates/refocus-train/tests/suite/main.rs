//! One binary for the crate's integration tests.

mod folders;
mod learning;
mod lstm;
mod options;
mod runs;
mod world;
