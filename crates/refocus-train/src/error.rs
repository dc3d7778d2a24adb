//! What can go wrong while a model learns.

use std::io;
use std::path::PathBuf;

use refocus_model::export::ExportError;
use refocus_model::{LoadError, RunError};
use refocus_results::ResultsError;
use refocus_tasks::flipflop::LanguageError;
use refocus_tasks::world::WorldError;

/// A result of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// Errors name the step, counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// No such model.
    #[error("{what} is {got}: {why}")]
    Architecture {
        /// Which number.
        what: &'static str,
        /// As given.
        got: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A number of the configuration that makes no sense.
    #[error("{what} = {got}: {why}")]
    Config {
        /// Key.
        what: &'static str,
        /// As given.
        got: f64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A seed that `config.toml` cannot hold.
    #[error("{what} = {seed}: the largest seed is {}", i64::MAX)]
    Seed {
        /// Key.
        what: &'static str,
        /// As given.
        seed: u64,
    },
    /// Examples whose parts do not fit together.
    #[error("step {step}: {why}")]
    Examples {
        /// Step.
        step: u32,
        /// What is wrong.
        why: String,
    },
    /// A parameter that is not as it must be.
    #[error("{name}: {why}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A loss that is no number.
    #[error("step {step}: the loss is {loss}; a lower learning rate than {lr:e} may help")]
    Loss {
        /// Step.
        step: u32,
        /// NaN or infinite.
        loss: f32,
        /// Rate at this step.
        lr: f32,
    },
    /// Parameters that no model can be made of, mostly because they are no numbers any more.
    #[error("step {step}: the parameters cannot be used")]
    Params {
        /// Step (0: the initial ones).
        step: u32,
        /// Cause.
        #[source]
        source: LoadError,
    },
    /// The forward or backward pass failed.
    #[error("step {step}")]
    Run {
        /// Step.
        step: u32,
        /// Cause.
        #[source]
        source: RunError,
    },
    /// No such strings.
    #[error(transparent)]
    Language(#[from] LanguageError),
    /// No such world.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A configuration has no such field.
    #[error("the configuration has no field '{field}'")]
    Field {
        /// As given.
        field: String,
    },
    /// A configuration that cannot be read.
    #[error("the configuration cannot be read: {0}")]
    Toml(String),
    /// A configuration that cannot be written.
    #[error("the configuration cannot be written")]
    TomlOut(#[source] Box<toml::ser::Error>),
    /// A checkpoint or configuration that cannot be used.
    #[error("{}: {why}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The folder holds another run.
    #[error("{}: this is another run, its {field} is {there} and not {here}", path.display())]
    Other {
        /// The file that says so.
        path: PathBuf,
        /// The first field that differs.
        field: String,
        /// Its value there.
        there: String,
        /// Its value in the configuration at hand.
        here: String,
    },
    /// The folder cannot be had: another run is writing to it ([`ResultsError::Busy`]), or it takes no lock file.
    #[error(transparent)]
    Folder(#[from] ResultsError),
    /// A file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A model cannot be saved.
    #[error("the model cannot be saved")]
    Model(#[from] ExportError),
    /// A file cannot be written.
    #[error("{}: cannot be written at step {step}; what was saved before is as it was", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Step.
        step: u32,
        /// Cause.
        #[source]
        source: io::Error,
    },
}
