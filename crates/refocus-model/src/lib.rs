//! A model from a real checkpoint, and the one forward pass over it.
//!
//! [`Checkpoint`] reads files, [`Model`] packs them for a backend, [`Plan`] checks what is wanted and
//! changed, [`forward`] runs it.

mod capture;
pub mod checkpoint;
pub mod config;
pub mod doctor;
mod error;
pub mod export;
mod forward;
pub mod generate;
mod intervene;
mod names;
mod params;
pub mod patch;
mod plan;
mod positions;
mod rope;
mod run_error;
mod site;
mod spec;
pub mod template;
pub mod tokenizer;
mod weights;

pub use capture::{HostTensor, SeqTensors, capture, collect};
pub use checkpoint::Checkpoint;
pub use error::LoadError;
pub use forward::{Captured, Reading, empty_cache, forward, forward_from};
pub use intervene::{Action, Gate, Intervention, Position};
pub use names::*;
pub use params::Params;
pub use patch::{Patch, PatchError};
pub use plan::{Applied, Mode, Noise, Plan, PlanError, Readout, Rows};
pub use run_error::RunError;
pub use site::{Kind, Site, SiteError};
pub use spec::*;
pub use template::{Chat, ChatTemplate, TemplateError};
pub use tokenizer::Tokenizer;
pub use weights::{Block, Model, ParamInfo, ParamSource, param_name};
