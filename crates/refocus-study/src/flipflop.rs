//! The flip-flop study: models trained on the language, and how they do it.

mod attend;
mod automata;
mod changed;
mod figures;
mod handset;
mod propositions;

pub use self::attend::{FIRST, GROUPS, HeadMeans, Look, LookError, Place, Reads, look};
pub use self::automata::{Automata, PROBE, Sharpened, Snapshot};
pub use self::changed::{
    AtTemperature, Counterfactual, Pairs, TEMPERATURES, Temperatures, counterfactual, temperatures,
};
pub use self::figures::{Chart, Drawn, Figure, FigureError, Series, draw};
pub use self::handset::handset;
pub use self::propositions::{Dilution, TieBreak, bound, tie_break};
