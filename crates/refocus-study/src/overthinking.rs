//! False demonstrations, layer by layer (Halawi, Denain & Steinhardt, "Overthinking the Truth", ICLR 2024,
//! arXiv 2307.09476).
//!
//! A pair of prompts shows the same texts, once with their true labels and once with false ones. The model
//! is asked for every label, and after every layer what it would answer if it stopped there. [`Work`] holds
//! the prompts as ids, [`ask`] runs them, [`Store`] keeps the logits of the labels, and [`summarise`] makes
//! the study's measures of them.

mod ask;
mod build;
mod error;
mod measures;
mod resample;
mod store;
mod summary;
mod work;

pub use self::ask::{Answers, Shape, ask, ask_stored};
pub use self::build::{Built, Request, build};
pub use self::error::StudyError;
pub use self::measures::{Curves, Mode, Pairs, curves};
pub use self::resample::Estimate;
pub use self::store::{Configuration, Store};
pub use self::summary::{Claim, EarlyExit, SettingSummary, summarise};
pub(crate) use self::work::hex;
pub use self::work::{Asked, Kind, Line, Pair, SettingWork, TaskWork, Work};
