//! Small models learned here. A trained model is a [`refocus_model::Model`] like any other: it learns
//! through the one forward pass, on a tape, so every readout and every patch works on it.
//!
//! [`Architecture`] says what the model is and draws its first parameters; [`Trainer`] takes steps of
//! [`AdamW`] under a [`Schedule`]; [`clean`] makes the flip-flop task's examples and scores.
//!
//! A run is a pure function of its seeds and configuration: the same bits at any number of threads and
//! on every instruction set, and no generator has a state that a resumed run would need.

mod adamw;
mod architecture;
pub mod clean;
mod draw;
mod error;
mod lstm;
mod trainer;
mod weights;

pub use adamw::{AdamW, Schedule};
pub use architecture::{Architecture, Style};
pub use error::{Result, TrainError};
pub use lstm::{Lstm, LstmShape, LstmWeights};
pub use trainer::{Config, Examples, Report, Score, Trainer, score};
pub use weights::{Net, Tensor, Weights};
