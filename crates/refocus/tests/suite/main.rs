//! One binary for the crate's integration tests: whole transcripts of the real program.
//!
//! `SNAPSHOTS=overwrite cargo test -p refocus` writes what the program says now into these files.

mod convert;
mod doctor;
mod forward;
mod generate;
mod help;
mod inspect;
mod patch;
mod refusals;
mod support;
