//! How much is asked.

use refocus_model::ModelSpec;
use serde::{Deserialize, Serialize};

/// Operations a second that a size is made for: what two cores of a small server do. A slower machine takes
/// longer; the sizes stay.
const OPERATIONS: f64 = 1.5e11;
/// Share of the time that one probe gets; the rest is loading and reporting.
const SHARE: f64 = 0.2;

/// How long a diagnosis may take, about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Budget {
    /// Two minutes.
    #[serde(rename = "2m")]
    TwoMinutes,
    /// Twenty minutes.
    #[serde(rename = "20m")]
    TwentyMinutes,
    /// Two hours.
    #[serde(rename = "2h")]
    TwoHours,
}

impl Budget {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoMinutes => "2m",
            Self::TwentyMinutes => "20m",
            Self::TwoHours => "2h",
        }
    }

    fn seconds(self) -> f64 {
        match self {
            Self::TwoMinutes => 120.0,
            Self::TwentyMinutes => 1200.0,
            Self::TwoHours => 7200.0,
        }
    }

    /// One of three values, from the smallest budget to the largest.
    pub(super) fn choose<T: Copy>(self, [small, medium, large]: [T; 3]) -> T {
        match self {
            Self::TwoMinutes => small,
            Self::TwentyMinutes => medium,
            Self::TwoHours => large,
        }
    }

    /// Tokens that one probe may put through a model.
    pub(super) fn tokens(self, spec: &ModelSpec) -> usize {
        let attention = spec.d_model * spec.d_head * 2 * (spec.n_heads + spec.n_kv_heads);
        let mlp = spec.d_model * spec.d_mlp * if spec.gated_mlp { 3 } else { 2 };
        let each = 2.0 * (spec.n_layers * (attention + mlp)) as f64;
        (self.seconds() * SHARE * OPERATIONS / each.max(1.0)) as usize
    }

    /// How many items of `each` tokens fit, within bounds: fewer than `least` say nothing.
    pub(super) fn items(self, spec: &ModelSpec, each: usize, least: usize, most: usize) -> usize {
        (self.tokens(spec) / each.max(1)).clamp(least, most)
    }
}
