//! One binary for the crate's integration tests: a real hub client against a hub on the loopback address.

mod cached;
mod faults;
mod fetch;
mod server;
mod support;
