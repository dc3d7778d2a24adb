//! The tests of this crate, in one binary.
#![allow(clippy::unwrap_used)]

mod bits;
mod gradients;
mod parity;
mod quantised;
mod semantics;
mod support;
mod tape;
