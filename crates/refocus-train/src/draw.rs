//! First parameters from counter-based random numbers.

use refocus_compute::Philox;

/// Draws parameter after parameter; its number is the step of the generator.
pub(crate) struct Draw {
    rng: Philox,
    number: u32,
}

impl Draw {
    pub(crate) fn new(rng: Philox) -> Self {
        Self { rng, number: 0 }
    }

    /// `n` numbers of `N(0, deviation²)`.
    pub(crate) fn normal(&mut self, n: usize, deviation: f64) -> Vec<f32> {
        self.number += 1;
        (0..n).map(|i| (deviation * self.rng.normal(self.number, i as u32)) as f32).collect()
    }

    /// `n` numbers within `±bound`.
    pub(crate) fn uniform(&mut self, n: usize, bound: f64) -> Vec<f32> {
        self.number += 1;
        let share = |w: u32| (f64::from(w) + 0.5) / f64::from(1u32 << 31) - 1.0;
        (0..n)
            .step_by(4)
            .flat_map(|i| self.rng.at(self.number, 0, (i / 4) as u32).into_iter().take(n - i))
            .map(|w| (bound * share(w)) as f32)
            .collect()
    }
}
