//! One binary for the crate's integration tests.

mod expected;
mod gradients;
mod parity;
mod running;
