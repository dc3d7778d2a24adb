//! False demonstrations, layer by layer (Halawi, Denain & Steinhardt, "Overthinking the Truth", ICLR 2024,
//! arXiv 2307.09476).
//!
//! A pair of prompts shows the same texts, once with their true labels and once with false ones. The model
//! is asked for every label, and after every layer what it would answer if it stopped there. [`Work`] holds
//! the prompts as ids, [`ask`] runs them, [`Store`] keeps the logits of the labels, and [`summarise`] makes
//! the study's measures of them.

mod ablate;
mod ask;
mod build;
mod causal;
mod effect;
mod error;
mod heads;
mod measures;
mod resample;
mod store;
mod summary;
mod work;

pub use self::ablate::{Ablated, At, How, Part, Variant, ablate, ablate_stored, random_heads};
pub use self::ask::{Answers, Shape, ask, ask_stored};
pub use self::build::{Built, Request, build};
pub use self::causal::{CausalCell, Change, MAPPED, Moved, causal_cells, causal_map, single_heads};
pub use self::effect::{
    AblatedPairs, AgainstRandom, Credits, Effect, GapReduction, Spread, ablate_pairs, against_random,
    gap_reduction,
};
pub use self::error::StudyError;
pub use self::heads::{
    HeadId, HeadScore, Look, Means, Observed, Promoting, TargetScores, head_scores, looks, observe,
    observe_stored, top_heads,
};
pub use self::measures::{Curves, Mode, Pairs, curves};
pub use self::resample::Estimate;
pub use self::store::{Configuration, Store};
pub use self::summary::{Claim, EarlyExit, SettingSummary, Verdict, summarise};
pub use self::work::{Asked, Kind, Line, Pair, SettingWork, TaskWork, Work};
