//! Calibrated accuracy and the permuted score by layer and slot (section 2 of the paper, as the released
//! code computes them).

use refocus_measure::calibrated::{credits, guarded_shares, shares, thresholds};
use serde::Serialize;

use super::ask::Answers;
use super::error::StudyError;
use super::work::{Kind, SettingWork, TaskWork};

/// How the study is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As it should be.
    Correct,
    /// With defects of the released code: the final norm is applied twice at the last layer, shares have its
    /// guard, and the early exit is chosen on the pairs that measure it.
    Paper,
}

/// The answers to the pairs of one setting.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// The task.
    pub task: &'a TaskWork,
    /// Its setting.
    pub setting: &'a SettingWork,
    /// One for each prompt of the task.
    pub answers: &'a [Answers],
    /// How shares are computed.
    pub mode: Mode,
}

/// Which classes earn credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credit {
    /// The true ones: calibrated accuracy.
    Truth,
    /// Those that the false prompt shows: the permuted score.
    Shown,
}

/// Means over pairs, each `[layers][slots]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curves {
    /// Calibrated accuracy with true demonstrations.
    pub tp: Vec<Vec<f64>>,
    /// With false ones, against the true classes.
    pub fp: Vec<Vec<f64>>,
    /// With false ones, against the classes that were shown.
    pub permuted: Vec<Vec<f64>>,
}

impl Pairs<'_> {
    pub(super) fn layers(&self) -> usize {
        self.answers.first().map_or(0, |a| a.shape.layers)
    }

    fn prompt(&self, pair: usize, kind: Kind) -> usize {
        let p = &self.setting.pairs[pair];
        if kind == Kind::True { p.true_prompt } else { p.false_prompt }
    }

    /// Credit of each of the pairs `subset` at a layer and slot. Thresholds are those of the subset.
    pub(super) fn credits(
        &self,
        subset: &[usize],
        kind: Kind,
        credit: Credit,
        layer: usize,
        slot: usize,
    ) -> Result<Vec<f64>, StudyError> {
        let mut q = Vec::with_capacity(subset.len());
        for &pair in subset {
            let prompt = self.prompt(pair, kind);
            let a = &self.answers[prompt];
            let one: Vec<f64> = match (self.mode, a.log_sum_exp(layer, slot)) {
                (Mode::Paper, Some(norm)) => guarded_shares(
                    &a.logits(layer, slot).map(|l| f64::from(l) - f64::from(norm)).collect::<Vec<_>>(),
                ),
                _ => shares(&a.logits(layer, slot).map(f64::from).collect::<Vec<_>>()),
            };
            if one.iter().any(|x| x.is_nan()) {
                return Err(StudyError::NotANumber { task: self.task.task.clone(), layer, prompt, slot });
            }
            q.push(one);
        }
        // There is a threshold wherever there is an input, all numbers.
        let Some(t) = thresholds(&q) else { return Ok(Vec::new()) };
        let class = |&pair: &usize| {
            let p = &self.setting.pairs[pair];
            (if credit == Credit::Truth { p.truth[slot] } else { p.shown[slot] }) as usize
        };
        Ok(credits(&q, &t, &subset.iter().map(class).collect::<Vec<_>>()))
    }

    /// What the whole vocabulary says after the last layer, by slot: mean probability of all labels
    /// together, and the share of pairs where the first choice is the true label.
    pub(super) fn whole(&self, kind: Kind) -> (Vec<f64>, Vec<f64>) {
        let (n, last) = (self.setting.pairs.len() as f64, self.layers().saturating_sub(1));
        let slot = |slot: usize| {
            let (mut mass, mut right) = (0.0, 0.0);
            for (i, pair) in self.setting.pairs.iter().enumerate() {
                let a = &self.answers[self.prompt(i, kind)];
                let norm = a.log_sum_exp(last, slot).map_or(f64::NAN, f64::from);
                mass += a.logits(last, slot).map(|l| (f64::from(l) - norm).exp()).sum::<f64>();
                let label = self.task.label_ids[pair.truth[slot] as usize];
                right += f64::from(u8::from(a.first_choice(slot) == label));
            }
            (mass / n, right / n)
        };
        (0..self.task.demos).map(slot).unzip()
    }
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The study's curves over all pairs.
///
/// # Errors
/// The model gave no number somewhere.
pub fn curves(pairs: &Pairs<'_>) -> Result<Curves, StudyError> {
    let all: Vec<usize> = (0..pairs.setting.pairs.len()).collect();
    let grid = |kind, credit| -> Result<Vec<Vec<f64>>, StudyError> {
        let at = |layer, slot| Ok(mean(&pairs.credits(&all, kind, credit, layer, slot)?));
        let row = |layer| (0..pairs.task.demos).map(|slot| at(layer, slot)).collect();
        (0..pairs.layers()).map(row).collect()
    };
    Ok(Curves {
        tp: grid(Kind::True, Credit::Truth)?,
        fp: grid(Kind::False, Credit::Truth)?,
        permuted: grid(Kind::False, Credit::Shown)?,
    })
}
