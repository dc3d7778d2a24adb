//! Classification tasks for the study of false demonstrations (Halawi et al., "Overthinking the Truth",
//! ICLR 2024, arXiv 2307.09476): what a task is, where its rows come from, and the pairs of prompts that
//! show true and false labels.
//!
//! A task is one TOML file. The project ships its own under `tasks/`; a user's is read the same way.

mod builtin;
mod data;
mod draw;
mod error;
mod parquet;
mod prompt;
mod task;

pub use self::builtin::{builtin, builtin_all, builtin_keys};
pub use self::data::{Dataset, Example};
pub use self::draw::{Budget, Draw, Fit, Setting, Slot, draw, shown};
pub use self::error::TaskError;
pub use self::prompt::{BETWEEN, Prompt, prompt};
pub use self::task::{Class, Columns, Format, Source, Task};
