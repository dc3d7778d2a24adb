//! One binary for the crate's integration tests: real sockets on the loopback address.

mod faults;
mod passing;
mod wire;
