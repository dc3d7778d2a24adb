//! What a document is drawn with: random numbers by their count, so that a document is a pure function of its
//! seed and number.

use refocus_compute::{Philox, Purpose, unit_f64};

/// The random numbers of one document.
pub(super) struct Draw {
    rng: Philox,
    /// Step and number of the document.
    document: (u32, u32),
    next: u32,
}

impl Draw {
    pub(super) fn new(seed: u64, purpose: Purpose, step: u32, number: u32) -> Self {
        Self { rng: Philox::new(seed, purpose), document: (step, number), next: 0 }
    }

    /// In `[0, 1)`.
    pub(super) fn share(&mut self) -> f64 {
        let w = self.rng.at(self.document.0, self.document.1, self.next);
        self.next += 1;
        unit_f64(w[0], w[1])
    }

    /// Below `n`, which is not 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((self.share() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// From `least` to `most`, both included.
    pub(super) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    pub(super) fn chance(&mut self, p: f64) -> bool {
        self.share() < p
    }

    /// One of a list that is not empty.
    pub(super) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// The place of one of some weights, by weight.
    pub(super) fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut at = self.share() * weights.iter().sum::<f64>();
        for (i, w) in weights.iter().enumerate() {
            at -= w;
            if at < 0.0 {
                return i;
            }
        }
        weights.len().saturating_sub(1)
    }

    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let j = self.below(i + 1);
            list.swap(i, j);
        }
    }

    /// `n` different numbers below `of`, in any order; all of them where there are fewer.
    pub(super) fn some(&mut self, n: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..of).collect();
        for i in 0..n.min(of) {
            let j = i + self.below(of - i);
            all.swap(i, j);
        }
        all.truncate(n);
        all
    }
}
