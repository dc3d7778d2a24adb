//! AdamW as PyTorch defines it, and the schedule of its rate.

use crate::error::{Result, TrainError};

/// A rate that rises and falls in straight lines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest rate, reached at step `warmup`.
    pub lr: f32,
    /// Steps of the rise: step 1 has `lr / warmup`. 0 starts at the top.
    pub warmup: u32,
    /// Steps of the run: the rate would be 0 at step `steps + 1`.
    pub steps: u32,
}

impl Schedule {
    /// The rate at a step counted from 1 (`spec/flip-flop.md` 2.1).
    pub fn at(&self, step: u32) -> f32 {
        let (step, warmup, end) = (f64::from(step), f64::from(self.warmup), f64::from(self.steps) + 1.0);
        let share = if step <= warmup { step / warmup } else { ((end - step) / (end - warmup)).max(0.0) };
        (f64::from(self.lr) * share) as f32
    }
}

/// The optimizer of Loshchilov & Hutter (2019): moments corrected for their start at zero, weight decay
/// apart from the gradient. All parameters decay, norms and biases too, as in PyTorch and (as far as it
/// says) in the paper.
#[derive(Clone, Debug)]
pub struct AdamW {
    betas: (f32, f32),
    eps: f32,
    weight_decay: f32,
    /// Steps taken.
    step: u32,
    /// `β₁^step`, `β₂^step`.
    powers: (f64, f64),
    /// First and second moment of each parameter.
    moments: Vec<(Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    /// For parameters of these lengths.
    ///
    /// # Errors
    /// A beta outside `[0, 1)`, or an epsilon or decay that is negative or no number.
    pub fn new(
        lengths: impl IntoIterator<Item = usize>,
        betas: (f32, f32),
        eps: f32,
        weight_decay: f32,
    ) -> Result<Self> {
        for (what, beta) in [("beta1", betas.0), ("beta2", betas.1)] {
            if !(0.0..1.0).contains(&beta) {
                let (got, why) = (f64::from(beta), "it must lie in [0, 1)");
                return Err(TrainError::Config { what, got, why });
            }
        }
        for (what, x) in [("eps", eps), ("weight_decay", weight_decay)] {
            if !(x >= 0.0 && x.is_finite()) {
                return Err(TrainError::Config { what, got: f64::from(x), why: "it must not be negative" });
            }
        }
        let moments = lengths.into_iter().map(|n| (vec![0.0; n], vec![0.0; n])).collect();
        Ok(Self { betas, eps, weight_decay, step: 0, powers: (1.0, 1.0), moments })
    }

    /// Steps taken.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// First and second moment of each parameter.
    pub(crate) fn moments(&self) -> &[(Vec<f32>, Vec<f32>)] {
        &self.moments
    }

    /// Goes on where `step` steps have been taken with these moments.
    pub(crate) fn resume(&mut self, step: u32, moments: Vec<(Vec<f32>, Vec<f32>)>) {
        self.step = 0;
        self.powers = (1.0, 1.0);
        for _ in 0..step {
            self.advance();
        }
        self.moments = moments;
    }

    /// Starts the next step; [`AdamW::update`] then takes each parameter once.
    pub fn advance(&mut self) {
        self.step += 1;
        // Products and not powers: `powi` may differ between machines.
        self.powers.0 *= f64::from(self.betas.0);
        self.powers.1 *= f64::from(self.betas.1);
    }

    /// One step of parameter number `i` with its gradient, both as long as was said.
    pub fn update(&mut self, i: usize, x: &mut [f32], d: &[f32], lr: f32) {
        let (b1, b2) = self.betas;
        let (eps, keep) = (self.eps, 1.0 - lr * self.weight_decay);
        let rate = (f64::from(lr) / (1.0 - self.powers.0)) as f32;
        let root = (1.0 - self.powers.1).sqrt() as f32;
        let (m, v) = &mut self.moments[i];
        debug_assert!(x.len() == d.len() && x.len() == m.len());
        for (((x, &d), m), v) in x.iter_mut().zip(d).zip(m).zip(v) {
            *m += (1.0 - b1) * (d - *m);
            *v = b2 * *v + (1.0 - b2) * d * d;
            *x = *x * keep - rate * (*m / (v.sqrt() / root + eps));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_its_top_and_ends_at_nothing() {
        // The paper's: 50 steps up, and 0 at step 10,001.
        let s = Schedule { lr: 3e-4, warmup: 50, steps: 10_000 };
        assert_eq!((s.at(1), s.at(25), s.at(50)), (6e-6, 1.5e-4, 3e-4));
        assert!(s.at(51) < 3e-4 && s.at(10_000) > 0.0 && s.at(10_000) < 4e-8);
        assert_eq!((s.at(10_001), s.at(20_000)), (0.0, 0.0));
        let flat = Schedule { lr: 1.0, warmup: 0, steps: 4 };
        assert_eq!([1, 2, 3, 4].map(|t| flat.at(t)), [0.8, 0.6, 0.4, 0.2]);
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert!(AdamW::new([1], (1.0, 0.9), 1e-8, 0.0).is_err());
        assert!(AdamW::new([1], (0.9, -0.1), 1e-8, 0.0).is_err());
        assert!(AdamW::new([1], (0.9, 0.9), f32::NAN, 0.0).is_err());
        let e = AdamW::new([1], (0.9, 0.9), 1e-8, -1.0).err().map(|e| e.to_string());
        assert_eq!(e.as_deref(), Some("weight_decay = -1: it must not be negative"));
    }

    /// torch 2.15.0: `AdamW([x], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)`, rate set before each step.
    #[test]
    fn five_steps_equal_pytorchs() {
        let mut x = [1.0, -2.0, 0.5, 0.0f32];
        let mut o = AdamW::new([4], (0.9, 0.999), 1e-8, 0.1).expect("an optimizer");
        for (d, lr, want) in [
            ([0.3, -1.0, 0.0, 1e-6], 0.05, [0.944_999_993, -1.940_000_06, 0.497_500_002, -0.049_504_946_9]),
            ([-0.2, 0.5, 0.0, 2e-6], 0.1, [0.921_097_934, -1.893_966_32, 0.492_525_011, -0.144_921_601]),
            ([0.1, 4.0, -3.0, -1e-6], 0.075, [0.893_301_547, -1.921_754, 0.536_742_091, -0.175_120_175]),
            ([0.0, 0.25, 1.0, 0.0], 0.05, [0.877_428_174, -1.936_782_36, 0.549_685_776, -0.191_310_763]),
            (
                [7.0, -0.5, 0.125, 3e-6],
                0.025,
                [0.861_359_894, -1.940_649_15, 0.554_371_655, -0.205_909_804f64],
            ),
        ] {
            o.advance();
            o.update(0, &mut x, &d, lr);
            for (x, want) in x.iter().zip(want) {
                assert!((f64::from(*x) - want).abs() <= 2e-7 * want.abs().max(1.0), "{x} instead of {want}");
            }
        }
        assert_eq!(o.step(), 5);
    }
}
