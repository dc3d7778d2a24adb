//! Changes to a running model, as data.

use std::ops::Range;
use std::sync::Arc;

use crate::site::{Kind, Site};

/// Which positions of a sequence an intervention touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Every position, while decoding too.
    All,
    /// The last prompt token, and every new token while decoding.
    Last,
    /// An absolute position from 0.
    At(u32),
    /// The n-th position from the end of the prompt, 1 being the last.
    FromEnd(u32),
}

/// Decides per position whether an intervention acts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// Acts where the lens gives its first choice more probability than this.
    pub top1_prob_above: f32,
    /// The lens reads `blocks.{lens_layer}.hook_resid_post`; a block before the intervention.
    pub lens_layer: usize,
}

/// What happens at the site. Vectors are as long as the columns they touch: a head's `d_head` where a
/// head is named, else the whole width.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Becomes zero.
    Zero,
    /// Is multiplied.
    Scale(f32),
    /// `x + alpha · vector`.
    Add {
        /// Added.
        vector: Arc<[f32]>,
        /// Its factor.
        alpha: f32,
    },
    /// Becomes this vector at every position.
    Mean(Arc<[f32]>),
    /// Becomes these rows, one a touched row in row order. In memory only.
    Set(Arc<[f32]>),
    /// Equal weight on every visible key.
    UniformAttention,
    /// The keys at these absolute positions cannot be seen.
    BlockEdge(Range<u32>),
    /// Attention scores are divided by the temperature: below 1 sharpens.
    Sharpen(f32),
    /// Blocks from this one on are skipped; the site's layer is ignored.
    Exit(usize),
}

impl Action {
    /// Its name in a patch file.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Zero => "zero",
            Action::Scale(_) => "scale",
            Action::Add { .. } => "add",
            Action::Mean(_) => "mean",
            Action::Set(_) => "set",
            Action::UniformAttention => "uniform_attention",
            Action::BlockEdge(_) => "block_edge",
            Action::Sharpen(_) => "sharpen",
            Action::Exit(_) => "exit",
        }
    }

    /// Whether it changes the attention pattern and not an activation.
    pub fn is_pattern(&self) -> bool {
        matches!(self, Action::UniformAttention | Action::BlockEdge(_) | Action::Sharpen(_))
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervention {
    /// Where.
    pub site: Site,
    /// One head of sites that have heads; all of them where absent.
    pub head: Option<usize>,
    /// Which positions.
    pub position: Position,
    /// What.
    pub action: Action,
    /// Under which condition.
    pub when: Option<Gate>,
}

impl Intervention {
    /// One head's output removed at every position.
    pub fn zero_head(layer: usize, head: usize) -> Self {
        Self {
            site: Site::new(layer, Kind::Z),
            head: Some(head),
            position: Position::All,
            action: Action::Zero,
            when: None,
        }
    }
}
