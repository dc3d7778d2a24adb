//! Intervals and tests against SciPy and statsmodels (`fixtures/intervals.py`).

use std::path::Path;

use refocus_measure::intervals::{
    Interval, clopper_pearson, holm, mcnemar, rule_of_three, wilson, wilson_of_share,
};
use serde_json::Value;

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/intervals.json");
    serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("JSON")
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// SciPy's exact interval of 0 in 353,875 is itself off by 5e-9.
fn close(what: &str, got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-8 * want.abs() + 1e-15, "{what}: {got:e} instead of {want:e}");
}

#[test]
fn intervals_are_those_of_scipy() {
    let fixture = fixture();
    for s in fixture["shares"].as_array().expect("a list") {
        let (hits, n) = (s["hits"].as_u64().expect("a count"), s["n"].as_u64().expect("a count"));
        for (name, got) in [("wilson", wilson(hits, n)), ("exact", clopper_pearson(hits, n))] {
            let (got, want) = (got.expect("an interval"), numbers(&s[name]));
            close(&format!("{name} of {hits}/{n}, low"), got.low, want[0]);
            close(&format!("{name} of {hits}/{n}, high"), got.high, want[1]);
        }
    }
    for f in [wilson, clopper_pearson] {
        assert_eq!((f(0, 0), f(2, 1)), (None, None));
        assert_eq!(f(0, 5).expect("an interval").low, 0.0);
        assert_eq!(f(5, 5).expect("an interval").high, 1.0);
    }
    // A case that hit by half lies between its neighbours.
    let (two, three) = (wilson(2, 10).expect("an interval"), wilson(3, 10).expect("an interval"));
    let half = wilson_of_share(0.25, 10).expect("an interval");
    assert!(two.low < half.low && half.low < three.low && two.high < half.high && half.high < three.high);
    for (share, n) in [(0.5, 0), (1.25, 4), (-0.25, 4), (f64::NAN, 4)] {
        assert_eq!(wilson_of_share(share, n), None);
    }
    // Without a hit the exact interval has a closed form.
    for n in [1, 10, 353_875, 1 << 26] {
        let want = -((0.025f64.ln() / n as f64).exp_m1());
        let got = clopper_pearson(0, n).expect("an interval").high;
        assert!((got / want - 1.0).abs() < 1e-9, "{n}: {got:e} instead of {want:e}");
    }
    let Interval { low, high } = wilson(1, u64::MAX).expect("an interval");
    assert!(low > 0.0 && high < 1e-17);
}

#[test]
fn paired_tests_are_those_of_scipy() {
    for p in fixture()["pairs"].as_array().expect("a list") {
        let pair = numbers(&p["pair"]);
        let got = mcnemar(pair[0] as u64, pair[1] as u64);
        close(&format!("{pair:?}"), got, p["p"].as_f64().expect("a number"));
    }
}

#[test]
fn corrected_tests_are_those_of_statsmodels() {
    for p in fixture()["holm"].as_array().expect("a list") {
        let (given, want) = (numbers(&p["p"]), numbers(&p["holm"]));
        let got = holm(&given);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.into_iter().zip(want) {
            close(&format!("{given:?}"), got, want);
        }
    }
    let got = holm(&[f64::NAN, 0.01, 0.04]);
    assert!(got[0].is_nan() && (got[1] - 0.03).abs() < 1e-15 && (got[2] - 0.08).abs() < 1e-15, "{got:?}");
    assert!(holm(&[]).is_empty());
}

/// Spec 1.3: what 0 errors on the three full sets say.
#[test]
fn the_rule_of_three_gives_the_bounds_of_the_paper_s_sets() {
    for (reads, bound) in [(26_508, 1.1e-4), (353_875, 8.5e-6), (345_781, 8.7e-6)] {
        let got = rule_of_three(reads).expect("a bound");
        assert!((got - bound).abs() < 0.06 * bound, "{got}");
        // Never below the exact one-sided bound.
        let exact = 1.0 - 0.05f64.powf(1.0 / reads as f64);
        assert!(got >= exact && got < 1.002 * exact, "{got} and {exact}");
    }
    assert_eq!((rule_of_three(0), rule_of_three(1)), (None, Some(1.0)));
}
