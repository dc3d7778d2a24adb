//! An evaluation of System 2 Attention with every kind of row. The numbers are made up and mean nothing.

use std::path::Path;

use refocus_results::system2::{Arm, Group, Judged, Rewriting, Span, Suite};
use refocus_results::{RunFolder, StoredRun};

use crate::made_up::info;

fn suite(suite: &str, about: &str, why: Option<&str>) -> Suite {
    Suite {
        suite: suite.to_owned(),
        about: about.to_owned(),
        measured: "share of right answers".to_owned(),
        items: 40,
        headline: 30,
        chance: Some(0.25),
        judges_removal: why.is_some(),
        counts: why.is_none(),
        why: why.map(str::to_owned),
        unfinished: why.is_some(),
    }
}

fn arm(arm: &str, value: Option<f64>, verdict: Option<&str>) -> Arm {
    let gain = value.filter(|_| verdict.is_some()).map(|v| v - 0.3);
    Arm {
        suite: "facts".to_owned(),
        arm: arm.to_owned(),
        n: 30,
        value,
        low: value.map(|v| v - 0.1),
        high: value.map(|v| v + 0.1),
        gain,
        gain_low: gain.map(|g| g - 0.1),
        gain_high: gain.map(|g| g + 0.1),
        p: gain.map(|_| 0.01),
        p_holm: gain.map(|_| 0.02),
        gap_closed: gain,
        verdict: verdict.map(str::to_owned),
        why: None,
        right: None,
        right_of: None,
        failed: 0,
        prompt_tokens: 100.0,
        completion_tokens: 10.0,
        rewriting_tokens: 5.0,
        seconds: 0.5,
    }
}

/// An evaluation of two suites, one of which cannot be tested.
pub fn system2(dir: &Path) -> StoredRun {
    let mut run = RunFolder::create(dir, info("system2/3", Some("models/small.gguf"))).expect("create");
    run.write(&[suite("facts", "capitals", None), suite("ladder", "sums", Some("floor: <low>"))])
        .expect("suites");
    let arms = [
        arm("oracle", Some(0.6), None),
        arm("baseline", Some(0.3), None),
        arm("think", None, Some("cannot be tested")),
        arm("objectivity", Some(0.5), Some("holds")),
        arm("scored", Some(0.3), Some("does not hold")),
    ];
    run.write(&arms).expect("arms");
    let rewriting = Rewriting {
        suite: "facts".to_owned(),
        arm: "scored".to_owned(),
        n: 40,
        applied: 30,
        parse_failures: 2,
        guarded: 1,
        planted: 40,
        planted_gone: 20,
        recall: Some(0.5),
        recall_low: Some(0.4),
        recall_high: Some(0.6),
        precision: None,
        precision_low: None,
        precision_high: None,
        needed: 0,
        needed_gone: 0,
        lost: None,
        lost_low: None,
        lost_high: None,
    };
    run.write(&[rewriting]).expect("rewritings");
    let group = |group: &str| Group {
        suite: "facts".to_owned(),
        group: group.to_owned(),
        arm: "scored".to_owned(),
        n: 10,
        value: 0.4,
        low: 0.2,
        high: 0.6,
        gain: None,
        gain_low: None,
        gain_high: None,
    };
    run.write(&[group("a <b>"), group("c")]).expect("groups");
    let way = "as it is".to_owned();
    let span = Span { times: "8".to_owned(), way, n: 9, margin: 0.1, low: 0.0, high: 0.2, mass: 0.07 };
    run.write(&[span]).expect("spans");
    let judged = Judged {
        arm: "objectivity".to_owned(),
        n: 20,
        quality: Some(3.0),
        quality_low: Some(2.0),
        quality_high: Some(4.0),
        sentiment: Some(1.0),
        sentiment_low: Some(0.5),
        sentiment_high: Some(1.5),
        gain: Some(0.5),
        gain_low: Some(0.1),
        gain_high: Some(0.9),
        fall: Some(0.3),
        fall_low: Some(0.1),
        fall_high: Some(0.5),
        p: Some(0.01),
        p_holm: Some(0.02),
        verdict: Some("holds".to_owned()),
        unread_quality: 1,
        unread_sentiment: 2,
    };
    run.write(&[judged]).expect("judged");
    drop(run);
    StoredRun::open(dir).expect("open")
}
