//! What a probe found.

use std::collections::BTreeMap;

use refocus_measure::intervals::wilson;
use refocus_measure::probe::Answer;
use serde::{Deserialize, Serialize};

use super::Probe;

/// How a model fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The failure is there: its interval excludes what would be none.
    Slips,
    /// It is small at most: its interval excludes what would matter.
    Steady,
    /// The interval allows both.
    Unclear,
    /// The model cannot be asked, or does not know enough to be misled.
    CannotBeTested,
}

impl State {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slips => "slips",
            Self::Steady => "steady",
            Self::Unclear => "unclear",
            Self::CannotBeTested => "cannot be tested",
        }
    }
}

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The number.
    pub value: f64,
    /// Lower end; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Items.
    pub n: usize,
}

/// Six decimals: numbers are read from a file as they were written.
fn rounded(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

impl Measure {
    /// A number with its interval.
    pub fn within(value: f64, low: f64, high: f64, n: usize) -> Self {
        Self { value: rounded(value), low: Some(rounded(low)), high: Some(rounded(high)), n }
    }

    /// `k` of `n`, with Wilson's interval.
    pub fn share(k: usize, n: usize) -> Self {
        let share = k as f64 / n.max(1) as f64;
        match wilson(k as u64, n as u64) {
            Some(i) => Self::within(share, i.low, i.high, n),
            None => Self::plain(share, n),
        }
    }

    /// A number alone.
    pub fn plain(value: f64, n: usize) -> Self {
        Self { value: rounded(value), low: None, high: None, n }
    }

    /// `0.200 [0.120, 0.310]`.
    pub fn text(&self) -> String {
        match (self.low, self.high) {
            (Some(low), Some(high)) => format!("{:.3} [{low:.3}, {high:.3}]", self.value),
            _ => format!("{:.3}", self.value),
        }
    }
}

/// The head that attends most to the evidence over some answers, `[layer, head]`, with its mean mass.
pub(super) fn watchful(answers: &[&Answer], n_heads: usize) -> Option<([usize; 2], f64)> {
    let width = answers.first()?.mass.len();
    let mean = |i: usize| answers.iter().map(|a| f64::from(a.mass[i])).sum::<f64>() / answers.len() as f64;
    let best = (0..width).map(|i| (i, mean(i))).reduce(|a, b| if b.1 > a.1 { b } else { a });
    best.map(|(i, mass)| ([i / n_heads, i % n_heads], mass))
}

/// Text that a number is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// What the model read.
    pub text: String,
    /// What is right.
    pub right: String,
    /// What it preferred.
    pub answer: String,
    /// Under which condition.
    pub note: String,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which probe.
    pub probe: Probe,
    /// What was asked, with counts.
    pub asked: String,
    /// Name of the measure that decides.
    pub headline: String,
    /// The verdict.
    pub state: State,
    /// The verdict in words.
    pub verdict: String,
    /// Layers and heads; absent where nothing points to any.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// By full name.
    pub measures: BTreeMap<String, Measure>,
    /// A few texts.
    pub examples: Vec<Example>,
}

impl Finding {
    /// A finding that says why there is none.
    pub(super) fn untestable(probe: Probe, headline: &str, asked: String, why: String) -> Self {
        Self {
            probe,
            asked,
            headline: headline.to_owned(),
            state: State::CannotBeTested,
            verdict: why,
            place: None,
            measures: BTreeMap::new(),
            examples: Vec::new(),
        }
    }

    /// The deciding measure.
    pub fn value(&self) -> Option<&Measure> {
        self.measures.get(&self.headline)
    }
}
