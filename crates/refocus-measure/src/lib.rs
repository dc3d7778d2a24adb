//! What can be measured on a model with one or two forward passes, and how sure counted answers are.
//! Nothing here knows how the numbers are shown.

mod attribution;
pub mod calibrated;
pub mod correlation;
mod direction;
mod error;
pub mod heads;
pub mod intervals;
mod lens;
mod patching;
pub mod probe;
mod pushes;
mod reads;
pub mod recall;
pub mod residual;
mod slots;

pub use attribution::{Attribution, Contribution, direct_logit_attribution};
pub use error::MeasureError;
pub use lens::{Cell, LensGrid, lens_grid};
pub use patching::{Patching, PatchingGrid, activation_patching};
pub use pushes::{Contrast, pushes};
pub use reads::{Bin, Bins, Count, ReadErrors};
pub use slots::{SlotError, slots};
