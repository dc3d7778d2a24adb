//! Calibrated accuracy and the permuted score by layer and slot (section 2 of the paper, as the released
//! code computes them).

use refocus_measure::calibrated::{credits, guarded_shares, shares, thresholds};
use serde::Serialize;

use super::ask::Answers;
use super::error::StudyError;
use super::method::{Defect, Method, Mode};
use super::rivals::best;
use super::work::{Kind, SettingWork, TaskWork};

/// The answers to the pairs of one setting.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// The task.
    pub task: &'a TaskWork,
    /// Its setting.
    pub setting: &'a SettingWork,
    /// One for each prompt of the task.
    pub answers: &'a [Answers],
    /// One for each prompt of the task without demonstrations; may be empty.
    pub alone: &'a [Answers],
    /// How shares are computed.
    pub method: &'a Method,
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

/// Credit for the true class at the last slot, by pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// With true demonstrations.
    pub tp: Vec<f64>,
    /// With false ones.
    pub fp: Vec<f64>,
}

impl Outcome {
    /// Half of each, by pair.
    pub fn balanced(&self) -> Vec<f64> {
        self.tp.iter().zip(&self.fp).map(|(a, b)| f64::midpoint(*a, *b)).collect()
    }

    /// TP − FP, by pair.
    pub fn gap(&self) -> Vec<f64> {
        minus(&self.tp, &self.fp)
    }
}

/// Which pairs something is chosen on, and which measure it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halves {
    pub(super) choose: Vec<usize>,
    pub(super) measure: Vec<usize>,
    /// Of the pairs that choose, in words.
    pub(super) chosen_on: &'static str,
    /// Of those that measure.
    pub(super) measured_on: &'static str,
}

impl Pairs<'_> {
    pub(super) fn layers(&self) -> usize {
        self.answers.first().map_or(0, |a| a.shape.layers)
    }

    /// The last layer.
    pub(super) fn last(&self) -> usize {
        self.layers().saturating_sub(1)
    }

    /// The last slot.
    pub(super) fn end(&self) -> usize {
        self.task.demos - 1
    }

    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.setting.pairs.len()).collect()
    }

    pub(super) fn classes(&self) -> usize {
        self.task.label_ids.len()
    }

    /// The pairs at even places choose and the others measure, unless that defect is reproduced.
    pub(super) fn halves(&self) -> Halves {
        let every_second = |from: usize| self.all().into_iter().skip(from).step_by(2).collect();
        if self.method.defects.has(Defect::ChosenWhereMeasured) {
            let (choose, measure) = (self.all(), self.all());
            return Halves { choose, measure, chosen_on: "all pairs", measured_on: "all pairs" };
        }
        Halves {
            choose: every_second(0),
            measure: every_second(1),
            chosen_on: "even pairs",
            measured_on: "odd pairs",
        }
    }

    fn prompt(&self, pair: usize, kind: Kind) -> usize {
        let p = &self.setting.pairs[pair];
        if kind == Kind::True { p.true_prompt } else { p.false_prompt }
    }

    fn answers_of(&self, pair: usize, kind: Kind) -> &Answers {
        &self.answers[self.prompt(pair, kind)]
    }

    fn nan(&self, layer: usize, prompt: usize, slot: usize) -> StudyError {
        StudyError::NotANumber { task: self.task.task.clone(), layer, prompt, slot }
    }

    /// Shares of the labels in one answer.
    fn share(&self, a: &Answers, layer: usize, slot: usize) -> Option<Vec<f64>> {
        let one: Vec<f64> = match (self.method.mode, a.log_sum_exp(layer, slot)) {
            (Mode::Paper, Some(norm)) => guarded_shares(
                &a.logits(layer, slot).map(|l| f64::from(l) - f64::from(norm)).collect::<Vec<_>>(),
            ),
            _ => shares(&a.logits(layer, slot).map(f64::from).collect::<Vec<_>>()),
        };
        (!one.iter().any(|x| x.is_nan())).then_some(one)
    }

    /// Shares of the labels for each of the pairs `subset`.
    pub(super) fn shares(
        &self,
        subset: &[usize],
        kind: Kind,
        layer: usize,
        slot: usize,
    ) -> Result<Vec<Vec<f64>>, StudyError> {
        let one = |&pair: &usize| {
            self.share(self.answers_of(pair, kind), layer, slot)
                .ok_or_else(|| self.nan(layer, self.prompt(pair, kind), slot))
        };
        subset.iter().map(one).collect()
    }

    /// Logits of the labels at the last slot.
    pub(super) fn layer_logits(&self, pair: usize, kind: Kind, layer: usize) -> Vec<f64> {
        self.answers_of(pair, kind).logits(layer, self.end()).map(f64::from).collect()
    }

    /// The same at the last layer.
    pub(super) fn final_logits(&self, pair: usize, kind: Kind) -> Vec<f64> {
        self.layer_logits(pair, kind, self.last())
    }

    /// What the model answers to the text of slot `alone_slots[which]` without demonstrations, after its last
    /// layer; `None` where that was not asked.
    pub(super) fn alone(&self, pair: usize, which: usize) -> Option<&Answers> {
        self.alone.get(*self.setting.pairs[pair].alone.get(which)?)
    }

    /// Logits of the labels for the last text without demonstrations.
    pub(super) fn alone_logits(&self, pair: usize) -> Option<Vec<f64>> {
        let which = self.task.alone_slots.len().checked_sub(1)?;
        Some(self.alone(pair, which)?.logits(self.last(), 0).map(f64::from).collect())
    }

    /// The class with the most probability at the last slot of a pair's prompt: without demonstrations, after a
    /// layer, after the last layer.
    pub fn answers_to(&self, pair: usize, kind: Kind, layer: usize) -> [Option<usize>; 3] {
        let most = |logits: Vec<f64>| best(logits);
        [
            self.alone_logits(pair).and_then(most),
            most(self.layer_logits(pair, kind, layer)),
            most(self.final_logits(pair, kind)),
        ]
    }

    /// The class of each pair that earns credit.
    pub(super) fn credited(&self, subset: &[usize], credit: Credit, slot: usize) -> Vec<usize> {
        let class = |&pair: &usize| {
            let p = &self.setting.pairs[pair];
            (if credit == Credit::Truth { p.truth[slot] } else { p.shown[slot] }) as usize
        };
        subset.iter().map(class).collect()
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
        let q = self.shares(subset, kind, layer, slot)?;
        Ok(credits_of(&q, &self.credited(subset, credit, slot)))
    }

    /// Both kinds of prompts at the last slot of a layer.
    pub(super) fn outcome(&self, subset: &[usize], layer: usize) -> Result<Outcome, StudyError> {
        let of = |kind| self.credits(subset, kind, Credit::Truth, layer, self.end());
        Ok(Outcome { tp: of(Kind::True)?, fp: of(Kind::False)? })
    }

    /// The same of answers that something else gave: `logits` has the labels' for a pair and kind of prompt,
    /// at the last slot. Thresholds are those of these answers on the subset.
    ///
    /// # Errors
    /// They are no numbers.
    pub fn outcome_of(
        &self,
        subset: &[usize],
        logits: impl Fn(usize, Kind) -> Vec<f64>,
    ) -> Result<Outcome, StudyError> {
        let classes = self.credited(subset, Credit::Truth, self.end());
        let of = |kind: Kind| {
            let q: Vec<Vec<f64>> = subset.iter().map(|&pair| shares(&logits(pair, kind))).collect();
            match q.iter().position(|q| q.iter().any(|x| x.is_nan())) {
                Some(i) => Err(self.nan(self.last(), self.prompt(subset[i], kind), self.end())),
                None => Ok(credits_of(&q, &classes)),
            }
        };
        Ok(Outcome { tp: of(Kind::True)?, fp: of(Kind::False)? })
    }

    /// What the whole vocabulary says after the last layer, by slot: mean probability of all labels
    /// together, and the share of pairs where the first choice is the true label.
    pub(super) fn whole(&self, kind: Kind) -> (Vec<f64>, Vec<f64>) {
        let (n, last) = (self.setting.pairs.len() as f64, self.last());
        let slot = |slot: usize| {
            let (mut mass, mut right) = (0.0, 0.0);
            for (i, pair) in self.setting.pairs.iter().enumerate() {
                let a = self.answers_of(i, kind);
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

/// Credit for the class of each pair, with the thresholds of these shares.
fn credits_of(q: &[Vec<f64>], classes: &[usize]) -> Vec<f64> {
    // There is a threshold wherever there is an input, all numbers.
    thresholds(q).map_or_else(Vec::new, |t| credits(q, &t, classes))
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(super) fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The study's curves over all pairs.
///
/// # Errors
/// The model gave no number somewhere.
pub fn curves(pairs: &Pairs<'_>) -> Result<Curves, StudyError> {
    let all = pairs.all();
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
