//! Dropout masks: pure functions of (seed, purpose, step, sequence, row, column), so that nothing is stored
//! and the backward pass draws them again.

use crate::philox::{Philox, Purpose};

/// Columns that one counter decides.
const GROUP: usize = 8;
/// Counters that are worked out side by side: a block of keys takes as many.
const SIDE: usize = 8;
/// Columns of a row at most (keys of an attention row, features of an activation).
const COLUMNS: u32 = 1 << 16;

/// Which elements are set to zero, and what the others are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    rng: Philox,
    step: u32,
    /// Of 65,536: an element whose 16 random bits are below it is dropped.
    below: u32,
    scale: f32,
}

impl Dropout {
    /// Drops a share `rate` of the elements, in steps of 1/65,536; `None` for a rate that drops nothing.
    /// Rates outside `[0, 1)` are taken to the nearest that is inside.
    ///
    /// Each place of a model has a purpose of its own; `step` is that of the training run.
    pub fn new(rate: f64, seed: u64, purpose: Purpose, step: u32) -> Option<Self> {
        let below = (rate.clamp(0.0, 1.0) * 65_536.0).round().min(65_535.0) as u32;
        let scale = (65_536.0 / f64::from(65_536 - below)) as f32;
        (below > 0).then_some(Self { rng: Philox::new(seed, purpose), step, below, scale })
    }

    /// What elements `first ..` of a row are multiplied by: 0, or the inverse of the share that is kept.
    /// `first` is a multiple of 8. Up to 65,536 columns and rows have numbers of their own.
    #[inline(always)]
    pub(crate) fn factors(&self, sequence: u32, row: u32, first: usize, out: &mut [f32]) {
        debug_assert!(first.is_multiple_of(GROUP));
        let groups = COLUMNS / GROUP as u32;
        for (i, out) in out.chunks_mut(GROUP * SIDE).enumerate() {
            let group = ((first + i * GROUP * SIDE) / GROUP) as u32;
            let start = row.wrapping_mul(groups).wrapping_add(group);
            let words = self.rng.tile::<SIDE>(self.step, sequence, start);
            // Side by side first, so that it can be vectorised.
            let mut all = [0.0f32; GROUP * SIDE];
            for (w, lanes) in words.iter().enumerate() {
                for (lane, &word) in lanes.iter().enumerate() {
                    let keep = |bits: u32| if bits < self.below { 0.0 } else { self.scale };
                    all[lane * GROUP + 2 * w] = keep(word & 0xffff);
                    all[lane * GROUP + 2 * w + 1] = keep(word >> 16);
                }
            }
            out.copy_from_slice(&all[..out.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(d: &Dropout, sequence: u32, row: u32, n: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; n];
        d.factors(sequence, row, 0, &mut out);
        out
    }

    #[test]
    fn the_share_is_that_asked_for_and_the_mean_stays() {
        for rate in [0.05, 0.5, 0.75] {
            let d = Dropout::new(rate, 3, Purpose::new("test"), 7).expect("a mask");
            let all: Vec<f32> = (0..200).flat_map(|row| draw(&d, 1, row, 1000)).collect();
            let n = all.len() as f64;
            let dropped = all.iter().filter(|f| **f == 0.0).count() as f64 / n;
            assert!(
                (dropped - rate).abs() < 4.0 * (rate * (1.0 - rate) / n).sqrt() + 1e-5,
                "{rate}: {dropped}"
            );
            assert!(all.iter().all(|&f| f == 0.0 || (f64::from(f) * (1.0 - rate) - 1.0).abs() < 1e-4));
        }
        assert_eq!(Dropout::new(0.0, 3, Purpose::new("test"), 7), None);
    }

    #[test]
    fn masks_do_not_depend_on_how_much_is_drawn_and_everything_else_counts() {
        let at = |seed, purpose, step| Dropout::new(0.5, seed, Purpose::new(purpose), step).expect("a mask");
        let d = at(3, "test", 7);
        let all = draw(&d, 1, 5, 200);
        assert_eq!(draw(&d, 1, 5, 77), all[..77]);
        let mut tail = vec![0.0; 40];
        d.factors(1, 5, 128, &mut tail);
        assert_eq!(tail, all[128..168]);
        let others = [
            draw(&d, 2, 5, 200),
            draw(&d, 1, 6, 200),
            draw(&at(4, "test", 7), 1, 5, 200),
            draw(&at(3, "other", 7), 1, 5, 200),
            draw(&at(3, "test", 8), 1, 5, 200),
        ];
        for other in others {
            let equal = other.iter().zip(&all).filter(|(a, b)| a == b).count();
            assert!((60..140).contains(&equal), "{equal} of 200 are equal");
        }
    }
}
