//! Run folders and the tables in them.
//!
//! A run folder holds `run.json`, which says everything that the numbers depend on and lists the tables with
//! their checksums, and one Parquet file a table in `tables/`. Files are complete or not there; a folder is
//! written by one run at a time; a table is checked against its checksum and its schema before a number of
//! it is used. docs/results.md has the schemas in words.
//!
//! A table's rows are a Rust type ([`Record`]): the schema, the writer and the reader come from that one
//! definition. [`overthinking`], [`flipflop`], [`recall`] and [`system2`] hold those of the studies,
//! [`diagnosis`] those of all four together.

pub mod atomic;
pub mod diagnosis;
mod error;
pub mod flipflop;
mod folder;
mod lock;
pub mod overthinking;
mod parquet_file;
pub mod recall;
mod record;
pub mod system2;
mod table;
mod text;

pub use self::error::ResultsError;
pub use self::folder::{ModelInfo, RunFolder, RunInfo, StoredRun, TableEntry};
pub use self::lock::Lock;
pub use self::record::{Field, Record};
pub use self::table::{Cell, Column, Kind, Schema, Table, Values};
