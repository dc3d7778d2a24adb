//! How the study is done: as it should be, or as the released code does it.

use std::collections::BTreeSet;
use std::fmt;

use refocus_compute::{Philox, Purpose};
use serde::{Serialize, Serializer};

/// Whose definitions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Shares of the labels are a softmax over the labels.
    Correct,
    /// Shares are computed with the guard of the released code, `(p + 1e-14)/(Σp + C·1e-14)`, from
    /// probabilities over the whole vocabulary.
    Paper,
}

/// A defect of the released code that can be reproduced, with its number in the list of docs/overthinking.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// The final norm is applied twice at the last layer.
    TwiceNormed = 1,
    /// TREC's words stand in the order of another version of the data.
    TrecWords = 2,
    /// A format of SST-2 whose words say the opposite is in the average over formats.
    InvertedFormat = 3,
    /// A head is "zeroed" by zeroing q, k and v at the last position, so it attends uniformly.
    UniformForZero = 4,
    /// Random heads are drawn with the ranges of layers and heads swapped.
    SwappedRanges = 5,
    /// Ablations are measured on the first format and compared with an average over all.
    FirstFormat = 6,
    /// The exit layer is chosen on the pairs that measure it.
    ChosenWhereMeasured = 7,
}

impl Defect {
    /// All of them, by number.
    pub const ALL: [Defect; 7] = [
        Defect::TwiceNormed,
        Defect::TrecWords,
        Defect::InvertedFormat,
        Defect::UniformForZero,
        Defect::SwappedRanges,
        Defect::FirstFormat,
        Defect::ChosenWhereMeasured,
    ];

    /// Its number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The defect of a number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.number() == number)
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::TwiceNormed => "the final norm is applied twice at the last layer",
            Self::TrecWords => "the words of four of TREC's six classes are mixed up",
            Self::InvertedFormat => "an inverted format counts in the average over formats",
            Self::UniformForZero => "a head set to zero attends uniformly instead",
            Self::SwappedRanges => "random heads are drawn with layers and heads swapped",
            Self::FirstFormat => "ablations of the first format are compared with the average over all",
            Self::ChosenWhereMeasured => "what is chosen is chosen on the pairs that measure it",
        }
    }
}

/// Which defects are reproduced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defects(BTreeSet<Defect>);

impl Defects {
    /// None: how the study should be done.
    pub fn none() -> Self {
        Self::default()
    }

    /// All seven.
    pub fn all() -> Self {
        Defect::ALL.into_iter().collect()
    }

    /// Whether this one is reproduced.
    pub fn has(&self, defect: Defect) -> bool {
        self.0.contains(&defect)
    }

    /// By number.
    pub fn iter(&self) -> impl Iterator<Item = Defect> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Defect> for Defects {
    fn from_iter<I: IntoIterator<Item = Defect>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Serialize for Defects {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter().map(Defect::number))
    }
}

impl fmt::Display for Defects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.iter().map(|d| d.number().to_string()).collect();
        f.write_str(&numbers.join(","))
    }
}

/// Definitions and defects of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Definitions.
    pub mode: Mode,
    /// Defects.
    pub defects: Defects,
}

impl Method {
    /// As it should be.
    pub fn correct() -> Self {
        Self { mode: Mode::Correct, defects: Defects::none() }
    }

    /// As the released code does it.
    pub fn paper() -> Self {
        Self { mode: Mode::Paper, defects: Defects::all() }
    }

    /// Whether `log Σ exp` of all logits is needed at every layer and not at the last alone.
    pub(super) fn wants_all_norms(&self) -> bool {
        self.mode == Mode::Paper
    }

    /// How heads are ablated.
    pub fn ablation(&self) -> AblationRules {
        AblationRules {
            uniform_for_zero: self.defects.has(Defect::UniformForZero),
            swapped_ranges: self.defects.has(Defect::SwappedRanges),
            first_format_only: self.defects.has(Defect::FirstFormat),
        }
    }
}

/// What an ablation has to know of the defects 4, 5 and 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AblationRules {
    /// "Zero" is uniform attention at the ablated position, and not a head output of 0.
    pub uniform_for_zero: bool,
    /// Control heads come from [`heads_as_released`], and not from the layers of the ablated ones.
    pub swapped_ranges: bool,
    /// Of a task with several formats the first alone is ablated; its baseline stays their average.
    pub first_format_only: bool,
}

const RELEASED: Purpose = Purpose::new("overthinking: random heads as released");

/// Random heads as the released code draws them: the layer from 0 to the number of heads and the head from 0
/// to the number of layers, both ends included. `(layer, head)` pairs outside of the model are void draws,
/// which ablate nothing; they are returned as `None`.
pub fn heads_as_released(
    n_layers: usize,
    n_heads: usize,
    many: usize,
    draw: u32,
    seed: u64,
) -> Vec<Option<(usize, usize)>> {
    let rng = Philox::new(seed, RELEASED);
    let below = |word: u32, n: usize| ((u64::from(word) * n as u64) >> 32) as usize;
    let one = |i: usize| {
        let words = rng.at(0, draw, i as u32);
        let (layer, head) = (below(words[0], n_heads + 1), below(words[1], n_layers + 1));
        (layer < n_layers && head < n_heads).then_some((layer, head))
    };
    (0..many).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defects_are_told_by_number() {
        assert_eq!(Defects::all().to_string(), "1,2,3,4,5,6,7");
        assert_eq!(Defect::of_number(8), None);
        let some: Defects = [Defect::FirstFormat, Defect::TwiceNormed].into_iter().collect();
        assert_eq!(serde_json::to_value(&some).expect("JSON"), serde_json::json!([1, 6]));
        let method = Method { mode: Mode::Paper, defects: some };
        let rules = method.ablation();
        assert!(rules.first_format_only && !rules.uniform_for_zero && !rules.swapped_ranges);
    }

    #[test]
    fn the_released_draw_misses_late_layers_and_is_often_void() {
        // GPT-J: 28 layers of 16 heads. The layer is at most 16, and 13 of 29 draws of the head are void.
        let all: Vec<_> = (0..4000).flat_map(|d| heads_as_released(28, 16, 5, d, 3)).collect();
        let void = all.iter().filter(|h| h.is_none()).count() as f64 / all.len() as f64;
        assert!((void - 13.0 / 29.0).abs() < 0.015, "{void}");
        let late = all.iter().flatten().map(|h| h.0).max();
        assert_eq!(late, Some(16));
    }
}
