//! One binary for the crate's integration tests.

mod classify;
mod facts;
mod families;
mod flipflop;
mod words;
mod world;
