//! One binary for the crate's integration tests.

mod constraints;
mod expected;
mod exported;
mod formats;
mod generation;
mod gradients;
mod licences;
mod mutated;
mod parity;
mod quantised;
mod real;
mod resumed;
mod running;
mod strings;
mod templates;
mod token_ids;
