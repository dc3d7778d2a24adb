//! One binary for the crate's integration tests.

mod expected;
mod gradients;
mod licences;
mod mutated;
mod parity;
mod running;
mod strings;
mod templates;
mod token_ids;
