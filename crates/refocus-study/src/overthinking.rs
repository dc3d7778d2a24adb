//! False demonstrations, layer by layer (Halawi, Denain & Steinhardt, "Overthinking the Truth", ICLR 2024,
//! arXiv 2307.09476).
//!
//! A pair of prompts shows the same texts, once with their true labels and once with false ones. The model
//! is asked for every label, and after every layer what it would answer if it stopped there. [`Work`] holds
//! the prompts as ids, [`ask`] runs them, [`Store`] keeps the logits of the labels, [`summarise`] makes the
//! study's measures of one task and setting, [`means`] those over tasks, and [`claims`] judges.

mod ablate;
mod ask;
mod build;
mod causal;
mod claims;
mod critical;
mod effect;
mod error;
mod heads;
mod inside;
mod means;
mod measures;
mod method;
mod patches;
mod predictions;
mod published;
mod resample;
mod rivals;
mod store;
mod summary;
mod work;

pub use self::ablate::{Ablated, At, How, Part, Variant, ablate, ablate_stored, random_heads};
pub use self::ask::{Answers, Questions, Shape, ask, ask_stored};
pub use self::build::{Built, Request, build};
pub use self::causal::{CausalCell, Change, MAPPED, Moved, causal_cells, causal_map, single_heads};
pub use self::claims::{Claim, Effect as ClaimEffect, Evidence, Inside, claims};
pub use self::critical::Critical;
pub use self::effect::{
    AblatedPairs, AgainstRandom, Credits, Effect, GapReduction, Spread, ablate_pairs, against_random,
    gap_reduction,
};
pub use self::error::StudyError;
pub use self::heads::{
    HeadId, HeadScore, Look, Means, Observed, Promoting, TargetScores, head_scores, looks, observe,
    observe_stored, top_heads,
};
pub use self::inside::{
    AblationPlan, BesideRandom, DRAWS, Half, HeadChoice, InsideSummary, PairEffect, Seen, can_be_ablated,
    evidence, heads_found, level_of_formats, see,
};
pub use self::means::{ALL_TASKS, GapClosed, GroupMeans, KNOWING_TASKS, MeanMitigation, SettingMeans, means};
pub use self::measures::{Curves, Outcome, Pairs, curves};
pub use self::method::{AblationRules, Defect, Defects, Method, Mode, heads_as_released};
pub use self::patches::patches;
pub use self::predictions::{Agreement, Behaviour, Predictions, Shares, predictions};
pub(crate) use self::published::Sizes;
pub use self::published::{Compared, Comparison, Published, published};
pub use self::resample::{Estimate, Stratum, sign_flip};
pub(crate) use self::resample::{ends, resampled};
pub use self::rivals::{Chosen, Measured, Mitigation};
pub use self::store::{Configuration, Store};
pub use self::summary::{Detail, SettingSummary, correct_mitigations, summarise};
pub(crate) use self::work::hex;
pub use self::work::{Alone, Asked, Kind, Line, Pair, SettingWork, TaskWork, Work};
