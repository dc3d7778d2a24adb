//! One binary for the crate's integration tests.

mod expected;
mod exported;
mod gradients;
mod licences;
mod mutated;
mod parity;
mod running;
