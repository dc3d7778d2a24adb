//! What can be measured on a model with one or two forward passes. Nothing here knows how the numbers
//! are shown.

mod attribution;
mod error;
mod lens;
mod patching;

pub use attribution::{Attribution, Contribution, direct_logit_attribution};
pub use error::MeasureError;
pub use lens::{Cell, LensGrid, lens_grid};
pub use patching::{Patching, PatchingGrid, activation_patching};
