//! One binary for the crate's integration tests.

mod constraints;
mod expected;
mod generation;
mod gradients;
mod licences;
mod mutated;
mod parity;
mod running;
