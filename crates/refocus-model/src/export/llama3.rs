//! From a table of divisors back to the `llama3` scaling that made it.
//!
//! GGUF files store Llama 3's scaling as one divisor a frequency and none of its four numbers. The scaling
//! leaves short wavelengths λ alone, divides long ones by `factor`, and between them, where
//! s = (original/λ − low) / (high − low) runs from 1 to 0, divides by 1 / ((1 − s)/factor + s). So `factor`
//! is the greatest divisor, and 1/λ against s is a line.

use std::f64::consts::TAU;

use crate::spec::RopeScaling;

/// How far divisors may be from the fitted ones, relative: they were computed and stored in f32.
const NEAR: f64 = 4e-6;

/// The scaling whose divisors for `dims` rotated dimensions at this base are the given ones.
pub(super) fn fit(dims: usize, base: f64, divisors: &[f32], n_ctx: usize) -> Option<RopeScaling> {
    let wavelength = |i: usize| TAU * base.powf(2.0 * i as f64 / dims as f64);
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    let factor = f64::from(factor);
    // The blended ones, as (1/λ, s).
    let blended: Vec<(f64, f64)> = (0..divisors.len())
        .filter_map(|i| {
            let d = f64::from(divisors[i]);
            let s = (1.0 / d - 1.0 / factor) / (1.0 - 1.0 / factor);
            (s > 1e-4 && s < 1.0 - 1e-4).then(|| (1.0 / wavelength(i), s))
        })
        .collect();
    let matches = |low: f64, high: f64, original: usize| {
        original > 0
            && (0..divisors.len()).all(|i| {
                let want = divisor(wavelength(i), factor, low, high, original as f64);
                (f64::from(divisors[i]) - want).abs() <= NEAR * want
            })
    };
    let found = |low: f64, high: f64, original: usize| {
        matches(low, high, original).then_some(RopeScaling::Llama3 { factor, low, high, original })
    };
    // As Llama 3 has it: from 1 to 4. One blended frequency then gives the original context.
    let (low, high) = (1.0, 4.0);
    let originals: Vec<usize> = match blended.first() {
        Some((x, s)) => vec![((s * (high - low) + low) / x).round() as usize],
        None => (4..=24).map(|bits| 1 << bits).chain([n_ctx]).collect(),
    };
    if let Some(scaling) = originals.into_iter().find_map(|original| found(low, high, original)) {
        return Some(scaling);
    }
    // Any other pair: the line through the outermost blended frequencies. Its three numbers can be
    // multiplied by one number without a change, so the first that makes the context whole is taken.
    let ((x0, s0), (x1, s1)) = (blended.first()?, blended.last()?);
    let slope = (s0 - s1) / (x0 - x1);
    let offset = slope * x0 - s0;
    (1..=8).map(f64::from).find_map(|low| {
        let high = low + (low / offset * 1024.0).round() / 1024.0;
        found(low, high, (slope * (high - low)).round() as usize)
    })
}

fn divisor(wavelength: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    if wavelength < original / high {
        1.0
    } else if wavelength > original / low {
        factor
    } else {
        let s = (original / wavelength - low) / (high - low);
        1.0 / ((1.0 - s) / factor + s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What llama.cpp's converter writes.
    fn table(dims: usize, base: f64, factor: f64, low: f64, high: f64, original: usize) -> Vec<f32> {
        let divide = |i: usize| {
            divisor(TAU * base.powf(2.0 * i as f64 / dims as f64), factor, low, high, original as f64) as f32
        };
        (0..dims / 2).map(divide).collect()
    }

    #[test]
    fn the_numbers_of_known_models_come_back() {
        for (dims, base, factor, original) in
            [(128, 500_000.0, 8.0, 8192), (64, 500_000.0, 32.0, 8192), (12, 10000.0, 8.0, 128)]
        {
            let divisors = table(dims, base, factor, 1.0, 4.0, original);
            let want = RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original };
            assert_eq!(fit(dims, base, &divisors, 131_072), Some(want));
        }
    }

    #[test]
    fn other_bands_come_back_as_the_same_frequencies() {
        for (low, high) in [(1.0, 2.5), (2.0, 3.0), (2.0, 8.0)] {
            let divisors = table(128, 500_000.0, 16.0, low, high, 4096);
            let Some(RopeScaling::Llama3 { factor, low, high, original }) =
                fit(128, 500_000.0, &divisors, 65536)
            else {
                panic!("{low} to {high}: not found");
            };
            let again = table(128, 500_000.0, factor, low, high, original);
            assert!(divisors.iter().zip(&again).all(|(a, b)| (a - b).abs() <= 1e-5 * a));
        }
    }

    #[test]
    fn other_tables_are_told_apart() {
        let mut divisors = table(128, 500_000.0, 8.0, 1.0, 4.0, 8192);
        divisors[40] *= 1.001;
        assert_eq!(fit(128, 500_000.0, &divisors, 131_072), None);
        assert_eq!(fit(8, 10000.0, &[1.0, 2.0, 1.0, 4.0], 1024), None);
        // A constant divisor is no band.
        assert_eq!(fit(8, 10000.0, &[3.0, 5.0, 2.0, 7.0], 1024), None);
    }
}
