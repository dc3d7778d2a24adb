use super::super::summary::SeedCount;
use super::*;

const READS: u64 = 70_000;

/// A row whose seeds made these errors in distribution, on sparse and on dense strings, in 70,000 reads each.
fn row(name: &str, group: &str, claims: &[Claim], errors: &[[u64; 3]]) -> RowSummary {
    let roles = [Role::In, Role::Sparse, Role::Dense];
    let set = |(i, role): (usize, Role)| {
        let seeds: Vec<SeedCount> = errors
            .iter()
            .enumerate()
            .map(|(seed, e)| {
                let c = refocus_measure::Count { errors: e[i], asked: READS };
                let interval = c.interval().expect("reads");
                let rate = c.rate().expect("reads");
                let interval = [interval.low, interval.high];
                SeedCount { seed: seed as u64, errors: e[i], reads: READS, rate, interval }
            })
            .collect();
        let mut rates: Vec<f64> = seeds.iter().map(|s| s.rate).collect();
        rates.sort_by(f64::total_cmp);
        SetSummary {
            name: role.name().to_owned(),
            role,
            median: median(&rates).expect("seeds"),
            lowest: rates[0],
            highest: rates[rates.len() - 1],
            without_error: seeds.iter().filter(|s| s.errors == 0).count(),
            seeds,
        }
    };
    RowSummary {
        name: name.to_owned(),
        group: group.to_owned(),
        title: String::new(),
        set: Vec::new(),
        claims: claims.to_vec(),
        seeds: (0..errors.len() as u64).collect(),
        steps: 2_000,
        parameters: 1,
        training_seconds: vec![None; errors.len()],
        testing_seconds: vec![0.0; errors.len()],
        sets: roles.into_iter().enumerate().map(set).collect(),
        entropy: Vec::new(),
    }
}

fn verdict(rows: &[RowSummary], claim: Claim) -> (Verdict, String) {
    let j = judge(rows).into_iter().find(|j| j.claim == claim).expect("a judgement");
    (j.verdict, j.why)
}

fn five(errors: [u64; 3], spread: u64) -> Vec<[u64; 3]> {
    (0..5).map(|i| [errors[0], errors[1] + i * spread, errors[2] + i * (spread / 10)]).collect()
}

use Claim::{R1, R2, R4, R5, R6, R7, R8};
use Verdict::{CannotBeTested, Conditional, DoesNotHold, Holds};

#[test]
fn the_rank_test_counts_all_assignments() {
    // 5 against 5, fully apart: one of 252. The other way round: certain.
    let (low, high) = ([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]);
    assert!((rank_test(&low, &high) - 1.0 / 252.0).abs() < 1e-12);
    assert!((rank_test(&high, &low) - 1.0).abs() < 1e-12);
    assert!((rank_test(&[1.0, 2.0], &high) - 1.0 / 21.0).abs() < 1e-12);
    // Nothing but ties says nothing.
    assert!((rank_test(&[1.0; 3], &[1.0; 4]) - 1.0).abs() < 1e-12);
    // Of the 35 choices of 3 ranks out of 7, seven have a sum of at most 1 + 3 + 5.
    assert!((rank_test(&[1.0, 4.0, 6.0], &[2.0, 5.0, 7.0, 8.0]) - 7.0 / 35.0).abs() < 1e-12);
}

#[test]
fn a_long_tail_needs_both_sets_and_a_spread() {
    let base = |errors: &[[u64; 3]]| [row("baseline", "baseline", &[R1], errors)];
    assert_eq!(verdict(&base(&five([0, 1_000, 100], 3_000)), R1).0, Holds);
    assert_eq!(verdict(&base(&five([0, 10_000, 0], 100)), R1).0, Conditional);
    assert_eq!(verdict(&base(&five([0, 0, 0], 0)), R1).0, DoesNotHold);
    let (v, why) = verdict(&base(&five([700, 10_000, 0], 100)), R1);
    assert_eq!((v, why.as_str()), (CannotBeTested, "0 of 5 seeds learned the task"));
    assert_eq!(verdict(&base(&five([0, 1_000, 100], 3_000)[..4]), R1).0, CannotBeTested);
    assert_eq!(verdict(&[], R1).0, CannotBeTested);
}

#[test]
fn one_error_is_enough_against_the_lstm() {
    let lstm = |errors: &[[u64; 3]]| [row("lstm", "recurrence", &[R2], errors)];
    let (v, why) = verdict(&lstm(&[[0; 3]; 5]), R2);
    assert_eq!((v, why.as_str()), (Holds, "0 errors in 1050000 reads of 5 seeds after 2000 steps"));
    assert_eq!(verdict(&lstm(&[[0; 3], [0; 3], [0, 0, 1], [0; 3], [0; 3]]), R2).0, DoesNotHold);
    assert_eq!(verdict(&lstm(&[[0; 3]; 4]), R2).0, CannotBeTested);
}

#[test]
fn rare_sequences_must_win_tenfold() {
    let rows = |mixture: &[[u64; 3]]| {
        [
            row("baseline", "baseline", &[R4], &five([0, 10_000, 0], 500)),
            row("mixture", "rare sequences", &[R4], mixture),
        ]
    };
    let (v, why) = verdict(&rows(&five([0, 0, 0], 1)), R4);
    assert_eq!(v, Holds, "{why}");
    assert!(why.contains("1 of 5 seeds of mixture without an error"), "{why}");
    assert_eq!(verdict(&rows(&five([0, 0, 500], 1)), R4).0, Conditional);
    // Lower in every seed, but not by an order of magnitude.
    assert_eq!(verdict(&rows(&five([0, 5_000, 0], 1)), R4).0, DoesNotHold);
    // One seed of five reaches it.
    let mixed = [[0, 10, 0], [0, 9_000, 0], [0, 9_100, 0], [0, 9_200, 0], [0, 9_300, 0]];
    assert_eq!(verdict(&rows(&mixed), R4).0, CannotBeTested);
    let no_errors =
        [row("baseline", "b", &[], &[[0; 3]; 5]), row("mixture", "rare sequences", &[], &[[0; 3]; 5])];
    let (v, why) = verdict(&no_errors, R4);
    assert_eq!(v, CannotBeTested);
    assert!(why.contains("nothing to lower"), "{why}");
}

#[test]
fn scale_is_held_against_rare_sequences() {
    let rows = |steps: &[[u64; 3]], depth: &[[u64; 3]]| {
        [
            row("baseline", "baseline", &[], &five([0, 10_000, 50], 500)),
            row("mixture", "rare sequences", &[R5], &five([0, 0, 0], 10)),
            row("steps-3x", "data and steps", &[R5], steps),
            row("depth", "depth and width", &[R5], depth),
        ]
    };
    let more = [[0, 8_000, 900], [0, 8_500, 950]];
    assert_eq!(verdict(&rows(&more, &[[0, 9_000, 5], [0, 12_000, 5]]), R5).0, Holds);
    assert_eq!(verdict(&rows(&[[0, 8_000, 0]; 2], &[[0, 9_000, 5]; 2]), R5).0, Conditional);
    assert_eq!(verdict(&rows(&more, &[[0, 10, 5]; 2]), R5).0, Conditional);
    assert_eq!(verdict(&rows(&[[0, 10, 5]; 2], &[[0, 10, 5]; 2]), R5).0, DoesNotHold);
    assert_eq!(verdict(&rows(&more, &more)[..2], R5).0, CannotBeTested);
}

/// Where rare sequences do not win, nothing can lie above them, and that says nothing about scale.
#[test]
fn scale_needs_rare_sequences_that_win() {
    let rows = |mixture: &[[u64; 3]], scaled: &[[u64; 3]]| {
        [
            row("baseline", "baseline", &[], &five([0, 10_000, 50], 500)),
            row("mixture", "rare sequences", &[R5], mixture),
            row("steps-3x", "data and steps", &[R5], scaled),
        ]
    };
    let scaled = [[0, 8_000, 900], [0, 8_500, 950]];
    let mut mixture = five([0, 10, 0], 10);
    assert_eq!(verdict(&rows(&mixture, &scaled), R5).0, Holds);
    // One seed did not learn its task.
    mixture[0] = [2_500, 24_000, 13];
    for scaled in [&scaled, &[[0, 10, 5]; 2]] {
        let (v, why) = verdict(&rows(&mixture, scaled), R5);
        assert_eq!(v, CannotBeTested, "{why}");
        assert!(why.starts_with("4 of 5 seeds of mixture learned the task; mixture sparse "), "{why}");
    }
    // All learned it, and made as many sparse errors as before.
    let (v, why) = verdict(&rows(&five([0, 9_000, 0], 10), &scaled), R5);
    assert_eq!(v, CannotBeTested, "{why}");
    assert!(why.starts_with("the sparse part of R4 does not hold; mixture sparse "), "{why}");
}

#[test]
fn three_mitigations_are_judged_together() {
    let rows = |dropout: u64, sharpen: u64, learned: u64| {
        [
            row("baseline", "baseline", &[], &five([0, 10_000, 100], 500)),
            row("embedding-dropout", "embedding dropout", &[], &five([0, dropout, 0], 10)),
            row("sharpen", "attention sharpening", &[], &five([0, sharpen, 0], 10)),
            row("learned", "position encoding", &[], &five([0, 20_000, learned], 500)),
        ]
    };
    assert_eq!(verdict(&rows(100, 200, 5_000), R6).0, Holds);
    assert_eq!(verdict(&rows(100, 9_000, 5_000), R6).0, Conditional);
    assert_eq!(verdict(&rows(9_000, 9_000, 110), R6).0, DoesNotHold);
    let tests = &judge(&rows(100, 200, 5_000))[5].tests;
    assert_eq!(tests.len(), 3);
    assert!(tests.iter().all(|t| (t.p - 1.0 / 252.0).abs() < 1e-12 && t.p_holm > t.p), "{tests:?}");
}

#[test]
fn one_clean_row_refutes_that_nothing_helps() {
    let rows = |last: &[[u64; 3]]| {
        let mut rows: Vec<RowSummary> =
            (0..5).map(|i| row(&format!("row{i}"), "g", &[R7], &[[0, 100, 0], [0, 5, 1]])).collect();
        rows.push(row("last", "g", &[R7], last));
        // Does not count.
        rows.push(row("mixture", "rare sequences", &[R7], &[[0; 3]; 2]));
        rows
    };
    assert_eq!(verdict(&rows(&[[0, 1, 0], [0, 0, 1]]), R7).0, Holds);
    assert_eq!(verdict(&rows(&[[0, 1, 0], [0, 0, 0]]), R7).0, Conditional);
    let (v, why) = verdict(&rows(&[[0; 3]; 2]), R7);
    assert_eq!((v, why.as_str()), (DoesNotHold, "12 runs of 6 rows; no error: every seed of last"));
    assert_eq!(verdict(&rows(&[[0; 3]; 2])[..3], R7).0, CannotBeTested);
}

#[test]
fn sharp_attention_that_still_errs() {
    let rows = |entropy: f64, errors: u64| {
        let mut rows = [
            row("baseline", "baseline", &[], &five([0, 10_000, 10], 500)),
            row("sharpen", "attention sharpening", &[], &five([0, errors, 0], 0)),
        ];
        rows[0].entropy = (0..5).map(|i| 2.0 + f64::from(i) / 10.0).collect();
        rows[1].entropy = (0..5).map(|i| entropy + f64::from(i) / 10.0).collect();
        rows
    };
    assert_eq!(verdict(&rows(0.5, 300), R8).0, Holds);
    assert_eq!(verdict(&rows(0.5, 0), R8).0, Conditional);
    assert_eq!(verdict(&rows(3.5, 0), R8).0, DoesNotHold);
    assert_eq!(verdict(&rows(2.0, 0), R8).0, CannotBeTested);
    let mut few = rows(0.5, 300);
    few.iter_mut().for_each(|r| r.entropy.truncate(1));
    let (v, why) = verdict(&few, R8);
    assert!(
        v == CannotBeTested && why.ends_with("1 and 1 seeds of sharpen and baseline are too few"),
        "{why}"
    );
}

#[test]
fn few_seeds_say_nothing_about_a_factor() {
    let rows = |mixture: usize, baseline: usize| {
        let of = |name: &str, errors: [u64; 3], n: usize| row(name, name, &[R4], &vec![errors; n]);
        [of("mixture", [0, 9_000, 0], mixture), of("baseline", [0, 9_000, 0], baseline)]
    };
    let (v, why) = verdict(&rows(1, 5), R4);
    assert_eq!(v, CannotBeTested, "{why}");
    assert!(why.starts_with("mixture below baseline, sparse: 1 and 5 seeds are too few"), "{why}");
    // Of two against five one order in 21 is the lowest.
    assert_eq!(verdict(&rows(2, 5), R4).0, DoesNotHold);
}
