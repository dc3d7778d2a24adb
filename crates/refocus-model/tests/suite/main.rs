//! One binary for the crate's integration tests.

mod expected;
mod formats;
mod gradients;
mod licences;
mod mutated;
mod parity;
mod quantised;
mod real;
mod running;
