//! Counter-based random numbers: Philox 4×32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A number is a pure function of (seed, purpose, step, sequence, position), so there is no generator
//! state: threads may draw in any order, a mask is recomputed and not stored, and a resumed run needs
//! nothing but its step.

use crate::simd::ln;

/// Rounds of the standard variant.
const ROUNDS: usize = 10;
/// Multipliers of the two halves of the counter.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the key grows by each round (golden ratio, √3 − 1).
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The bijection itself: 128 bits of counter to 128 random bits under a key of 64.
pub const fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    let mut round = 0;
    while round < ROUNDS {
        let a = MULTIPLIERS[0] as u64 * c0 as u64;
        let b = MULTIPLIERS[1] as u64 * c2 as u64;
        (c0, c1, c2, c3) = ((b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
        round += 1;
    }
    [c0, c1, c2, c3]
}

/// Positions of a [`Philox::tile`] that fills vector registers on every machine.
pub const TILE: usize = 16;

/// What random numbers are used for. Different purposes draw independent numbers from one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Purpose(u32);

impl Purpose {
    /// A purpose by its name (FNV-1a of it): no list of all purposes has to exist anywhere.
    pub const fn new(name: &str) -> Self {
        let (bytes, mut hash, mut i) = (name.as_bytes(), 0x811c_9dc5_u32, 0);
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
            i += 1;
        }
        Self(hash)
    }
}

/// The random numbers of one seed and purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
    purpose: Purpose,
}

impl Philox {
    /// Nothing is drawn yet, ever: this is a name for numbers.
    pub const fn new(seed: u64, purpose: Purpose) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], purpose }
    }

    /// Four words, each uniform over all of `u32`.
    pub const fn at(&self, step: u32, sequence: u32, position: u32) -> [u32; 4] {
        philox4x32([position, sequence, step, self.purpose.0], self.key)
    }

    /// The words of `N` positions from `first` on: `tile[w][l]` is word `w` of position `first + l`.
    /// Written so that a compiler keeps the positions side by side in vector registers.
    #[inline(always)]
    pub fn tile<const N: usize>(&self, step: u32, sequence: u32, first: u32) -> [[u32; N]; 4] {
        let mut c = [[0; N], [sequence; N], [step; N], [self.purpose.0; N]];
        for (l, position) in c[0].iter_mut().enumerate() {
            *position = first.wrapping_add(l as u32);
        }
        let [mut k0, mut k1] = self.key;
        for _ in 0..ROUNDS {
            let mut next = [[0; N]; 4];
            for l in 0..N {
                let a = u64::from(MULTIPLIERS[0]) * u64::from(c[0][l]);
                let b = u64::from(MULTIPLIERS[1]) * u64::from(c[2][l]);
                next[0][l] = (b >> 32) as u32 ^ c[1][l] ^ k0;
                next[1][l] = b as u32;
                next[2][l] = (a >> 32) as u32 ^ c[3][l] ^ k1;
                next[3][l] = a as u32;
            }
            c = next;
            k0 = k0.wrapping_add(WEYL[0]);
            k1 = k1.wrapping_add(WEYL[1]);
        }
        c
    }

    /// One number of the standard normal distribution, the same bits on every machine. It takes the
    /// place of `sequence` in the counter: (step, position) names the number.
    pub fn normal(&self, step: u32, position: u32) -> f64 {
        // Marsaglia's polar method: four tries in five succeed, so 64 failures (1e-43) do not happen.
        for attempt in 0..64 {
            let w = self.at(step, attempt, position);
            let (x, y) = (2.0 * unit_f64(w[0], w[1]) - 1.0, 2.0 * unit_f64(w[2], w[3]) - 1.0);
            let s = x * x + y * y;
            if s > 0.0 && s < 1.0 {
                return x * (-2.0 * ln(s) / s).sqrt();
            }
        }
        0.0
    }
}

/// A number in `[0, 1)` from 53 of 64 random bits.
pub const fn unit_f64(high: u32, low: u32) -> f64 {
    const STEP: f64 = 1.0 / (1u64 << 53) as f64;
    ((((high as u64) << 32) | low as u64) >> 11) as f64 * STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with Random123 (`tests/kat_vectors`, `philox4x32 10`).
    #[test]
    fn known_answers_of_random123() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox4x32(counter, key), want);
        }
    }

    #[test]
    fn a_tile_holds_the_words_of_its_positions() {
        let p = Philox::new(0x1234_5678_9abc_def0, Purpose::new("tile"));
        for first in [0, 16, u32::MAX - 3] {
            let tile = p.tile::<TILE>(5, 7, first);
            let positions = (0..TILE as u32).map(|l| first.wrapping_add(l));
            for (l, position) in positions.enumerate() {
                assert_eq!(tile.map(|word| word[l]), p.at(5, 7, position), "{first} + {l}");
            }
        }
    }

    #[test]
    fn every_coordinate_counts() {
        let p = Philox::new(1 << 32, Purpose::new("a"));
        let all = [
            p.at(0, 0, 0),
            p.at(1, 0, 0),
            p.at(0, 1, 0),
            p.at(0, 0, 1),
            Philox::new(0, Purpose::new("a")).at(0, 0, 0),
            Philox::new(1 << 32, Purpose::new("b")).at(0, 0, 0),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
    }

    #[test]
    fn unit_f64_covers_its_range() {
        assert_eq!(unit_f64(0, 0), 0.0);
        assert_eq!(unit_f64(0, 0x7ff), 0.0);
        assert_eq!(unit_f64(1 << 31, 0), 0.5);
        assert_eq!(unit_f64(u32::MAX, u32::MAX), 1.0 - f64::EPSILON / 2.0);
    }

    /// Mean, variance, third and fourth moment of 40,000 draws within four standard errors.
    #[test]
    fn normal_has_its_moments() {
        let (p, n) = (Philox::new(7, Purpose::new("normal")), 40_000);
        let draws: Vec<f64> = (0..n).map(|i| p.normal(i / 1000, i % 1000)).collect();
        // (moment, value, variance of one term)
        for (k, want, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
            let got = draws.iter().map(|x| x.powi(k)).sum::<f64>() / f64::from(n);
            assert!((got - want).abs() < 4.0 * (variance / f64::from(n)).sqrt(), "moment {k}: {got}");
        }
    }
}
