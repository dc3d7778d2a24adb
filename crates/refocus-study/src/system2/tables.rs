//! The evaluation as result tables: what suites and arms say, and every item in every arm.

use std::collections::BTreeMap;

use refocus_results::system2 as rows;
use refocus_results::{ResultsError, RunFolder};
use refocus_tasks::planted::{Item, Judge, Part};

use super::answer::{Record, Rewriting};
use super::arm::Arm;
use super::attention::Looked;
use super::judged_summary::JudgedArm;
use super::page::Evaluation;
use super::removal::{Share, missing};
use super::run::{SuiteRun, is_right};
use super::suite::groups;
use super::summary::{ArmSummary, CellSummary, RewritingSummary, SuiteSummary, values};
use crate::overthinking::Estimate;

/// Writes the tables of an evaluation and of the runs that it sums up.
///
/// # Errors
/// A table cannot be written.
pub fn write_tables(folder: &mut RunFolder, e: &Evaluation, runs: &[SuiteRun]) -> Result<(), ResultsError> {
    let arms = || e.suites.iter().flat_map(|s| s.arms.iter().map(move |a| (s, a)));
    folder.write(&e.suites.iter().map(|s| suite(s, &e.unfinished)).collect::<Vec<_>>())?;
    folder.write(&arms().map(|(s, a)| arm(s, a)).collect::<Vec<_>>())?;
    let rewritings = arms().filter_map(|(s, a)| Some(rewriting(s, a, a.rewriting.as_ref()?)));
    folder.write(&rewritings.collect::<Vec<_>>())?;
    let cells = arms().flat_map(|(s, a)| a.cells.iter().map(move |c| group(s, a, c)));
    folder.write(&cells.collect::<Vec<_>>())?;
    folder.write(&runs.iter().flat_map(items).collect::<Vec<_>>())?;
    folder.write(&runs.iter().flat_map(answers).collect::<Vec<_>>())?;
    if let Some(looked) = &e.attention {
        folder.write(&spans(looked))?;
    }
    if let Some(judged) = &e.judged {
        folder.write(&judged.arms.iter().map(by_a_judge).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Value and ends; nothing where nothing was counted, or what came of it is no number.
fn ends(e: Option<&Estimate>) -> [Option<f64>; 3] {
    let Some(e) = e.filter(|e| e.n > 0) else { return [None; 3] };
    [e.value, e.low, e.high].map(finite)
}

fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

fn ends_of_share(s: Option<&Share>) -> [Option<f64>; 3] {
    s.map_or([None; 3], |s| [s.value, s.low, s.high].map(Some))
}

fn suite(s: &SuiteSummary, unfinished: &[&str]) -> rows::Suite {
    rows::Suite {
        suite: s.suite.to_owned(),
        about: s.about.to_owned(),
        measured: s.measured.to_owned(),
        items: s.items as i64,
        headline: s.headline as i64,
        chance: s.chance,
        judges_removal: s.judges_removal,
        counts: s.counts,
        why: s.why.clone(),
        unfinished: unfinished.contains(&s.suite),
    }
}

fn arm(s: &SuiteSummary, a: &ArmSummary) -> rows::Arm {
    let [value, low, high] = ends(Some(&a.value));
    let [gain, gain_low, gain_high] = ends(a.gain.as_ref());
    rows::Arm {
        suite: s.suite.to_owned(),
        arm: a.arm.to_owned(),
        n: a.value.n as i64,
        value,
        low,
        high,
        gain,
        gain_low,
        gain_high,
        p: a.p.and_then(finite),
        p_holm: a.p_holm.and_then(finite),
        gap_closed: a.gap_closed.and_then(finite),
        verdict: a.verdict.map(|v| v.name().to_owned()),
        why: a.why.clone(),
        right: a.right.map(|r| r.hits as i64),
        right_of: a.right.map(|r| r.n as i64),
        failed: a.failed as i64,
        prompt_tokens: a.cost.prompt_tokens,
        completion_tokens: a.cost.completion_tokens,
        rewriting_tokens: a.cost.rewriting_tokens,
        seconds: a.cost.seconds,
    }
}

fn rewriting(s: &SuiteSummary, a: &ArmSummary, r: &RewritingSummary) -> rows::Rewriting {
    let removal = &r.removal;
    let [recall, recall_low, recall_high] = ends_of_share(removal.recall.as_ref());
    let [precision, precision_low, precision_high] = ends_of_share(removal.precision.as_ref());
    let [lost, lost_low, lost_high] = ends_of_share(removal.lost.as_ref());
    let of = |s: Option<Share>| s.map_or((0, 0), |s| (s.n as i64, s.hits as i64));
    let ((planted, planted_gone), (needed, needed_gone)) = (of(removal.recall), of(removal.lost));
    rows::Rewriting {
        suite: s.suite.to_owned(),
        arm: a.arm.to_owned(),
        n: r.n as i64,
        applied: r.applied as i64,
        parse_failures: r.parse_failures as i64,
        guarded: r.guarded as i64,
        planted,
        planted_gone,
        recall,
        recall_low,
        recall_high,
        precision,
        precision_low,
        precision_high,
        needed,
        needed_gone,
        lost,
        lost_low,
        lost_high,
    }
}

fn group(s: &SuiteSummary, a: &ArmSummary, c: &CellSummary) -> rows::Group {
    let [gain, gain_low, gain_high] = ends(c.gain.as_ref());
    rows::Group {
        suite: s.suite.to_owned(),
        group: c.cell.clone(),
        arm: a.arm.to_owned(),
        n: c.value.n as i64,
        value: c.value.value,
        low: c.value.low,
        high: c.value.high,
        gain,
        gain_low,
        gain_high,
    }
}

fn items(run: &SuiteRun) -> Vec<rows::Item> {
    let clusters = groups(run.suite, &run.items);
    let one = |(at, (item, cluster)): (usize, (&Item, usize))| rows::Item {
        suite: run.suite.name().to_owned(),
        item: at as i64,
        key: item.key.clone(),
        group: item.cell.clone(),
        cluster: cluster as i64,
        headline: run.suite.is_headline(item),
        prompt: item.prompt(),
        oracle: item.oracle(),
        answer: match &item.judge {
            Judge::Options { options, right, .. } => options.get(*right).cloned(),
            Judge::Number(n) => Some(n.to_string()),
            Judge::Kept => None,
        },
    };
    run.items.iter().zip(clusters).enumerate().map(one).collect()
}

/// Item by item, in the order of the arms.
fn answers(run: &SuiteRun) -> Vec<rows::Answer> {
    let numbers: BTreeMap<&str, Vec<Option<f64>>> =
        run.arms.iter().map(|&a| (a.name(), values(run, a))).collect();
    let mut out = Vec::new();
    for (at, (item, kept)) in run.items.iter().zip(&run.kept).enumerate() {
        for &arm in &run.arms {
            let Some(record) = kept.of(arm) else { continue };
            let value = numbers.get(arm.name()).and_then(|v| v.get(at).copied().flatten());
            out.push(rows::Answer { item: at as i64, value, ..answer(run, item, arm, record) });
        }
    }
    out
}

fn answer(run: &SuiteRun, item: &Item, arm: Arm, record: &Record) -> rows::Answer {
    let rewriting = record.rewriting.as_ref();
    let spent = rewriting.map(|r| r.usage).unwrap_or_default();
    let gone = |part| rewriting.map(|r: &Rewriting| missing(item, part, r) as i64);
    let is_told = item.judge != Judge::Kept && !record.untold;
    rows::Answer {
        suite: run.suite.name().to_owned(),
        item: 0,
        arm: arm.name().to_owned(),
        value: None,
        right: is_told.then(|| is_right(record)),
        reply: record.answered.as_ref().and_then(|a| a.reply.clone()),
        failed: record.failed.clone(),
        applied: rewriting.map(|r| r.applied),
        reason: rewriting.and_then(|r| r.reason.clone()),
        rewrite: rewriting.filter(|r| r.applied).map(|r| r.text.clone()),
        planted_gone: gone(Part::Planted),
        needed_gone: gone(Part::Needed),
        prompt_tokens: (record.usage.prompt + spent.prompt) as i64,
        completion_tokens: (record.usage.completion + spent.completion) as i64,
        rewriting_tokens: spent.completion as i64,
        seconds: record.seconds,
    }
}

fn spans(looked: &Looked) -> Vec<rows::Span> {
    let one = |r: &super::attention::SpanRow| rows::Span {
        times: r.times.clone(),
        way: r.way.clone(),
        n: r.margin.n as i64,
        margin: r.margin.value,
        low: r.margin.low,
        high: r.margin.high,
        mass: r.mass,
    };
    looked.rows.iter().map(one).collect()
}

fn by_a_judge(a: &JudgedArm) -> rows::Judged {
    let [quality, quality_low, quality_high] = ends(Some(&a.quality));
    let [sentiment, sentiment_low, sentiment_high] = ends(Some(&a.sentiment));
    let [gain, gain_low, gain_high] = ends(a.gain.as_ref());
    let [fall, fall_low, fall_high] = ends(a.fall.as_ref());
    rows::Judged {
        arm: a.arm.to_owned(),
        n: a.sentiment.n as i64,
        quality,
        quality_low,
        quality_high,
        sentiment,
        sentiment_low,
        sentiment_high,
        gain,
        gain_low,
        gain_high,
        fall,
        fall_low,
        fall_high,
        p: a.p.and_then(finite),
        p_holm: a.p_holm.and_then(finite),
        verdict: a.verdict.map(|v| v.name().to_owned()),
        unread_quality: a.unread[0] as i64,
        unread_sentiment: a.unread[1] as i64,
    }
}
