//! One binary for the crate's integration tests.

mod facts;
mod families;
mod flipflop;
mod words;
