//! The flip-flop study: models trained on the language, and how they do it.

mod attend;
mod changed;
mod handset;
mod propositions;

pub use self::attend::{FIRST, GROUPS, HeadMeans, Look, LookError, Place, Reads, look};
pub use self::changed::{
    AtTemperature, Counterfactual, Pairs, TEMPERATURES, Temperatures, counterfactual, temperatures,
};
pub use self::handset::handset;
pub use self::propositions::{Dilution, TieBreak, bound, tie_break};
