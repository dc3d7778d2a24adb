//! What becomes of the claim that an arm helps. The rules were written before the runs, but for one that says so.

use super::suite::Measure;
use crate::Verdict;
use crate::overthinking::Estimate;

/// The share of right answers below which there is nothing to win.
pub(super) const FLOOR: f64 = 0.3;
const SURE: f64 = 0.05;
/// Of what the oracle gains over the baseline: an arm that gains less than this for sure does not do what is claimed.
const CLAIMED: f64 = 0.5;
/// Of the prompts of the suite *harm* that have something to rewrite: those that have to keep everything needed.
const WHOLE: f64 = 0.95;
/// Items below which nothing is concluded.
const FEWEST: usize = 20;

/// In words, for the page.
pub const RULES: [&str; 6] = [
    "A suite counts where the oracle answers at least 30 % rightly and above chance (suites of right answers), and \
     the baseline differs from the oracle in a paired test, p < 0.05; on arguments: where a comment moves the \
     baseline's answer, p < 0.05 after Holm's correction over the comments. Else it is a floor, and nothing on it \
     can be tested.",
    "An arm *holds* where its paired gain over the baseline is above 0 with its whole interval and p < 0.05 after \
     Holm's correction over the arms of the suite (McNemar's exact test for right and wrong, flipped signs else and \
     where a fact is asked several times). Items of one fact or argument are averaged first and count as one. It \
     *does not hold* where the whole interval lies below half of what the oracle gains. Else it cannot be tested: \
     the interval has both.",
    "On harm an arm *holds* where the lower end of the share of whole prompts is at least 95 %, and *does not hold* \
     where the upper end is below that. Prompts with nothing to rewrite are left out, as no arm can harm them (the first \
     pages still counted them).",
    "On arguments a rewrite that lost something needed, with the comment or without it, gets the baseline's sway: an \
     argument that is not there is not swayed.",
    "With a judge, arguments count where the oracle is more objective (5 − |S|, S the judge's sentiment) than the \
     baseline in a paired test, p < 0.05. An arm is then judged by its paired gain in objectivity as above. Only what \
     could be read in both orders, in the arm and in the baseline, makes a pair. A rewrite that lost something needed \
     gets the sentiment of the baseline's reply.",
    "Below 20 items (facts, arguments) nothing is concluded.",
];

/// What an arm is judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    /// Over the baseline.
    pub gain: Estimate,
    /// After Holm's correction.
    pub p_holm: f64,
    /// What the oracle gains.
    pub oracle: f64,
    /// Of the arm itself.
    pub value: (f64, f64),
}

/// The verdict on one arm of a suite that counts, and why, where it cannot be tested.
pub(super) fn verdict(measure: Measure, j: &Judged) -> (Verdict, Option<String>) {
    let n = j.gain.n;
    if n < FEWEST {
        return (Verdict::CannotBeTested, Some(format!("{n} items are too few")));
    }
    if measure == Measure::Kept {
        let (low, high) = j.value;
        return match (low >= WHOLE, high < WHOLE) {
            (true, _) => (Verdict::Holds, None),
            (_, true) => (Verdict::DoesNotHold, None),
            _ => (Verdict::CannotBeTested, Some("the interval has 95 % in it".to_owned())),
        };
    }
    if j.gain.low > 0.0 && j.p_holm < SURE {
        return (Verdict::Holds, None);
    }
    if j.gain.high < CLAIMED * j.oracle {
        return (Verdict::DoesNotHold, None);
    }
    let why = "the interval has nothing and half of the oracle's gain in it, or p is too large".to_owned();
    (Verdict::CannotBeTested, Some(why))
}

/// Why a suite of right answers does not count, if it does not.
pub(super) fn floor(oracle: (f64, f64), chance: f64, gain: &Estimate, p: f64) -> Option<String> {
    let (value, low) = oracle;
    if value < FLOOR {
        return Some(format!("floor: the oracle answers {:.0} % rightly", 100.0 * value));
    }
    if low <= chance {
        return Some(format!(
            "floor: the oracle answers {:.0} % rightly, and its interval does not lie above the {:.0} % of guessing",
            100.0 * value,
            100.0 * chance
        ));
    }
    no_base(gain, p)
}

/// Why there is no effect to undo, if there is none.
pub(super) fn no_base(gain: &Estimate, p: f64) -> Option<String> {
    let there = gain.value > 0.0 && p < SURE;
    (!there).then(|| format!("no base effect: what was planted costs {:.3}, p = {p:.3}", gain.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(value: f64, half: f64, p_holm: f64) -> Judged {
        let gain = Estimate { value, low: value - half, high: value + half, n: 60 };
        Judged { gain, p_holm, oracle: 0.2, value: (0.96, 0.99) }
    }

    #[test]
    fn a_gain_needs_its_interval_and_its_test() {
        let told = |j: &Judged| verdict(Measure::Right, j).0;
        assert_eq!(told(&judged(0.15, 0.05, 0.01)), Verdict::Holds);
        assert_eq!(told(&judged(0.15, 0.05, 0.2)), Verdict::CannotBeTested);
        assert_eq!(told(&judged(0.02, 0.05, 0.9)), Verdict::DoesNotHold);
        assert_eq!(told(&judged(0.05, 0.1, 0.9)), Verdict::CannotBeTested);
        let mut few = judged(0.15, 0.05, 0.01);
        few.gain.n = 12;
        assert_eq!(verdict(Measure::Right, &few).1.as_deref(), Some("12 items are too few"));
    }

    #[test]
    fn harm_is_judged_by_what_is_kept() {
        let told = |value| verdict(Measure::Kept, &Judged { value, ..judged(0.0, 0.0, 1.0) }).0;
        assert_eq!(told((0.96, 0.99)), Verdict::Holds);
        assert_eq!(told((0.5, 0.7)), Verdict::DoesNotHold);
        assert_eq!(told((0.9, 0.99)), Verdict::CannotBeTested);
    }

    #[test]
    fn a_floor_is_told() {
        let gain = Estimate { value: 0.2, low: 0.1, high: 0.3, n: 60 };
        assert_eq!(floor((0.6, 0.5), 0.25, &gain, 0.001), None);
        let told = |o, p| floor(o, 0.25, &gain, p).unwrap_or_default();
        assert_eq!(told((0.2, 0.1), 0.001), "floor: the oracle answers 20 % rightly");
        assert_eq!(
            told((0.32, 0.2), 0.001),
            "floor: the oracle answers 32 % rightly, and its interval does not lie above the 25 % of guessing"
        );
        assert_eq!(told((0.6, 0.5), 0.4), "no base effect: what was planted costs 0.200, p = 0.400");
    }
}
