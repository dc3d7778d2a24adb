//! One binary for the crate's integration tests: real sockets on the loopback address.

mod addresses;
mod answers;
mod client;
mod fault_table;
mod faults;
mod limits;
mod partly;
mod passing;
mod patches;
mod refusals;
mod rewriting;
mod support;
mod tools;
mod trust;
mod wire;
