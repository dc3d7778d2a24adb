//! Small models learned here. A trained model is a [`refocus_model::Model`] like any other: it learns
//! through the one forward pass, on a tape, so every readout and every patch works on it.
//!
//! [`Architecture`] says what the model is and draws its first parameters; [`Trainer`] takes steps of
//! [`AdamW`] under a [`Schedule`]; [`flipflop`] makes examples and scores, of the flip-flop task and of others. A
//! [`RunConfig`] is a whole run as data, and [`Run`] carries it out in a folder.
//!
//! A run is a pure function of its seeds and configuration: the same bits at any number of threads and
//! on every instruction set, and no generator has a state that a resumed run would need.

mod adamw;
mod architecture;
mod config;
mod draw;
mod error;
mod estimate;
pub mod flipflop;
mod lstm;
mod run;
mod saved;
mod sharpen;
mod task;
mod trainer;
mod weights;

pub use adamw::{AdamW, Schedule};
pub use architecture::{Architecture, Mlp, Norms, PositionKind};
pub use config::{DropoutRates, ModelConfig, Optimizer, Preset, RunConfig, TestSet, Watch};
pub use error::{Result, TrainError};
pub use estimate::Estimate;
pub use lstm::{Lstm, LstmShape, LstmWeights};
pub use run::{Progress, Run};
pub use saved::{Saved, checkpoint_path, load};
pub use sharpen::{Anneal, Penalty, Sharpen};
pub use task::{Documents, Language, Strings, Symbols, Task};
pub use trainer::{Config, Examples, Report, Score, Trainer, choices};
pub use weights::{Net, Tensor, Weights};
