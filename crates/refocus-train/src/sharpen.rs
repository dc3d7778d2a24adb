//! Penalties on soft attention (`spec/flip-flop.md` 3.2): `loss + λ R`, R averaged over all heads, queries
//! and sequences.

use refocus_compute::{Kernels, Ops, Tape, Var};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// What of a row of attention weights is made small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Penalty {
    /// Its entropy in nats.
    Entropy,
    /// Minus its ℓ2 norm.
    L2,
    /// Minus its greatest weight.
    Max,
}

/// How λ changes over the run. The paper names both and gives no shape; these are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anneal {
    /// λ from the first step on.
    Constant,
    /// From 0 in a straight line to λ at the last step.
    Linear,
    /// `λ (1 − cos φ) / 2`, ten periods up to the last step.
    Oscillating,
}

/// A penalty and its weight over time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharpen {
    /// What is penalised.
    pub by: Penalty,
    /// λ.
    pub lambda: f64,
    /// How it changes.
    pub anneal: Anneal,
    /// Steps without penalty before.
    pub start: u32,
}

impl Sharpen {
    pub(crate) fn check(&self, steps: u32) -> Result<()> {
        if !(self.lambda > 0.0 && self.lambda.is_finite()) {
            let (what, got) = ("sharpen.lambda", self.lambda);
            return Err(TrainError::Config { what, got, why: "it must be positive" });
        }
        if self.start >= steps {
            let (what, got) = ("sharpen.start", f64::from(self.start));
            return Err(TrainError::Config { what, got, why: "the run ends before" });
        }
        Ok(())
    }

    /// λ at a step counted from 1, of a run of `steps`.
    pub fn at(&self, step: u32, steps: u32) -> f32 {
        if step <= self.start {
            return 0.0;
        }
        let share = f64::from(step - self.start) / f64::from((steps - self.start).max(1));
        let shape = match self.anneal {
            Anneal::Constant => 1.0,
            Anneal::Linear => share,
            Anneal::Oscillating => wave(10.0 * share),
        };
        (self.lambda * shape) as f32
    }

    /// `loss + weight · R` of the statistics `[tokens, heads · 3]` of each layer.
    pub(crate) fn add_to<K: Kernels>(
        &self,
        tape: &mut Tape<K>,
        loss: &Var<K>,
        stats: &[Var<K>],
        weight: f32,
    ) -> refocus_compute::Result<Var<K>> {
        let (column, sign) = match self.by {
            Penalty::Entropy => (0, 1.0),
            Penalty::L2 => (1, -1.0),
            Penalty::Max => (2, -1.0),
        };
        let mut total = loss.clone();
        for s in stats {
            let (rows, width) = tape.shape(s);
            let each = sign * weight / (stats.len() * rows * width / 3).max(1) as f32;
            let weights: Vec<f32> =
                (0..rows * width).map(|i| if i % 3 == column { each } else { 0.0 }).collect();
            let r = tape.weighted_sum(s, &weights)?;
            total = tape.add(&total, &r)?;
        }
        Ok(total)
    }
}

/// `(1 − cos 2πx) / 2` from its series, so that it has the same bits on every machine.
fn wave(x: f64) -> f64 {
    // sin²(πx), and that of 1 − x is the same.
    let x = x - x.floor();
    let y = std::f64::consts::PI * if x > 0.5 { 1.0 - x } else { x };
    let (mut term, mut sum) = (y, y);
    for i in 1..12 {
        term *= -y * y / f64::from(2 * i * (2 * i + 1));
        sum += term;
    }
    sum * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_their_shapes() {
        let s = |anneal, start| Sharpen { by: Penalty::Entropy, lambda: 2.0, anneal, start };
        let constant = s(Anneal::Constant, 3);
        assert_eq!([3, 4, 10].map(|t| constant.at(t, 10)), [0.0, 2.0, 2.0]);
        let linear = s(Anneal::Linear, 0);
        assert_eq!([1, 5, 10].map(|t| linear.at(t, 10)), [0.2, 1.0, 2.0]);
        let oscillating = s(Anneal::Oscillating, 100);
        let near = |t, want: f32| (oscillating.at(t, 1100) - want).abs() < 1e-6;
        assert!(near(100, 0.0) && near(150, 2.0) && near(125, 1.0) && near(200, 0.0) && near(650, 2.0));
        for i in 0..100 {
            let x = f64::from(i) / 37.0;
            let want = (1.0 - (2.0 * std::f64::consts::PI * x).cos()) / 2.0;
            assert!((wave(x) - want).abs() < 1e-12, "{x}");
        }
        assert!(s(Anneal::Linear, 10).check(10).is_err());
        assert!(Sharpen { lambda: -1.0, ..constant }.check(10).is_err());
    }
}
