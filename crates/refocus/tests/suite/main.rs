//! One binary for the crate's integration tests: whole transcripts of the real program.
//!
//! `SNAPSHOTS=overwrite cargo test -p refocus` writes what the program says now into these files.

mod builtin;
mod convert;
mod diagnose;
mod doctor;
mod flipflop;
mod flipflop_inside;
mod flipflop_study;
mod formats;
mod forward;
mod generate;
mod help;
mod hub;
mod inspect;
mod overthinking;
mod patch;
mod recall;
mod refusals;
mod report;
mod rewrite;
#[cfg(unix)]
mod serve;
#[path = "../../../refocus-hub/tests/suite/server.rs"]
#[allow(dead_code, reason = "the hub of refocus-hub's own tests, which need more of it")]
mod server;
mod support;
mod system2_eval;
mod tasks;
mod train;
mod upstream;
