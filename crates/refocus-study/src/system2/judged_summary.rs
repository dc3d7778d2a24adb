//! What judgements say together.

use std::collections::BTreeMap;

use refocus_measure::intervals::holm;
use refocus_tasks::arguments::Comment;
use serde::Serialize;

use super::arm::Arm;
use super::judged::{Judgement, Opinions};
use super::removal::is_whole;
use super::run::SuiteRun;
use super::suite::Measure;
use super::verdict::{Judged, no_base, verdict};
use crate::Verdict;
use crate::overthinking::{Estimate, Stratum, sign_flip};

/// Highest and lowest sentiment are so far from none.
const MOST: f64 = 5.0;

/// The suite *arguments* as a judge sees it.
#[derive(Clone, Debug, Serialize)]
pub struct JudgedSummary {
    /// Who judged.
    pub judge: String,
    /// Items that were judged.
    pub items: usize,
    /// Why no verdict can be had, where none can.
    pub why: Option<String>,
    /// In the order of [`Arm::all`].
    pub arms: Vec<JudgedArm>,
}

/// One arm. Items of one argument are averaged first and count as one. Sentiment, objectivity and gain are those of
/// the baseline where a rewrite lost something needed; quality, unread judgements and orders are the arm's own.
#[derive(Clone, Debug, Serialize)]
pub struct JudgedArm {
    /// Name.
    pub arm: &'static str,
    /// 1 to 5.
    pub quality: Estimate,
    /// Mean absolute sentiment |S|, 0 to 5.
    pub sentiment: Estimate,
    /// 5 − |S|.
    pub objectivity: Estimate,
    /// Gain in objectivity over the baseline, item by item, averaged by argument.
    pub gain: Option<Estimate>,
    /// By what share mean |S| is lower than the baseline's; the paper's headline is this number.
    pub fall: Option<Estimate>,
    /// Of the paired test of the gain (flipped signs), and after Holm's correction over the arms.
    pub p: Option<f64>,
    /// See `p`.
    pub p_holm: Option<f64>,
    /// Of the claim that it is more objective; none for oracle and baseline.
    pub verdict: Option<Verdict>,
    /// Objectivity by comment.
    pub comments: Vec<(&'static str, Estimate)>,
    /// Judgements that could not be read in both orders, of quality and of sentiment.
    pub unread: [usize; 2],
    /// Mean difference between both orders, of quality and of sentiment: the judge's own noise; nothing where
    /// none could be read in both.
    pub orders: [Option<f64>; 2],
}

/// Counts judgements.
pub fn summarise_judged(run: &SuiteRun, judge: &str, opinions: &[Opinions], seed: u64) -> JudgedSummary {
    let items = opinions.len();
    let sentiment = |at: usize, arm: Arm| counted(run, opinions, at, arm)?.sentiment();
    let gains: Vec<Option<(Estimate, f64, Estimate)>> = run
        .arms
        .iter()
        .map(|&arm| {
            let pair = |at: usize| Some((sentiment(at, arm)?, sentiment(at, Arm::Baseline)?));
            (arm != Arm::Baseline).then(|| gain(&numbered(items, pair), seed)).flatten()
        })
        .collect();
    let at_oracle = run.arms.iter().position(|a| *a == Arm::Oracle);
    let oracle = at_oracle.and_then(|at| gains[at]);
    let tested: Vec<usize> =
        (0..gains.len()).filter(|&i| Some(i) != at_oracle && gains[i].is_some()).collect();
    let p: Vec<f64> = tested.iter().map(|&i| gains[i].map_or(f64::NAN, |g| g.1)).collect();
    let corrected = holm(&p);
    let p_holm = |i: usize| tested.iter().position(|t| *t == i).map(|at| corrected[at]);
    let why = match oracle {
        Some((gain, p, _)) => no_base(&gain, p),
        None if at_oracle.is_none() || !run.arms.contains(&Arm::Baseline) => {
            Some("it needs the arms oracle and baseline".to_owned())
        }
        None if opinions.is_empty() => Some("no item was judged".to_owned()),
        None => Some(none_read(opinions)),
    };
    let one = |(i, &arm): (usize, &Arm)| {
        let judged = gains[i].zip(p_holm(i)).map_or(Verdict::CannotBeTested, |((gain, ..), p_holm)| {
            let judged =
                Judged { gain, p_holm, oracle: oracle.map_or(0.0, |o| o.0.value), value: (0.0, 0.0) };
            if why.is_some() { Verdict::CannotBeTested } else { verdict(Measure::Steadiness, &judged).0 }
        });
        // The same comments in all arms: a table has a column for each.
        let comments = Comment::ALL.iter().filter_map(|c| {
            let is_of = |at: usize| run.items.get(at).is_some_and(|i| i.cell == c.name());
            let objectivity = |at: usize| sentiment(at, arm).filter(|_| is_of(at)).map(|s| MOST - s);
            (0..items).any(is_of).then(|| (c.name(), mean(&numbered(items, objectivity), seed)))
        });
        let told: Vec<&Judgement> = (0..items).filter_map(|at| own(opinions, at, arm)).collect();
        let unread =
            |number: fn(&Judgement) -> Option<f64>| told.iter().filter(|j| number(j).is_none()).count();
        let apart = |pair: fn(&Judgement) -> [Option<f64>; 2]| {
            let each: Vec<f64> = told
                .iter()
                .filter_map(|j| match pair(j) {
                    [Some(a), Some(b)] => Some((a - b).abs()),
                    _ => None,
                })
                .collect();
            (!each.is_empty()).then(|| each.iter().sum::<f64>() / each.len() as f64)
        };
        let swayed = mean(&numbered(items, |at| sentiment(at, arm)), seed);
        JudgedArm {
            arm: arm.name(),
            quality: mean(&numbered(items, |at| own(opinions, at, arm)?.quality()), seed),
            sentiment: swayed,
            objectivity: objectivity(swayed),
            gain: gains[i].map(|g| g.0),
            fall: gains[i].map(|g| g.2),
            p: gains[i].map(|g| g.1),
            p_holm: p_holm(i),
            verdict: (!matches!(arm, Arm::Oracle | Arm::Baseline)).then_some(judged),
            comments: comments.collect(),
            unread: [unread(Judgement::quality), unread(Judgement::sentiment)],
            orders: [apart(|j| j.quality), apart(|j| j.sentiment)],
        }
    };
    let arms = run.arms.iter().enumerate().map(one).collect();
    JudgedSummary { judge: judge.to_owned(), items, why, arms }
}

/// What the judge said of an item in an arm.
fn own(opinions: &[Opinions], at: usize, arm: Arm) -> Option<&Judgement> {
    opinions.get(at)?.arms.get(arm.name())
}

/// What counts as the sentiment there: that of the baseline where the arm lost something needed. A reply to an
/// argument that is not there has no sentiment, and nothing is won by that.
fn counted<'o>(run: &SuiteRun, opinions: &'o [Opinions], at: usize, arm: Arm) -> Option<&'o Judgement> {
    let (item, record) = (run.items.get(at)?, run.kept.get(at)?.of(arm)?);
    let is_there = record.rewriting.as_ref().is_none_or(|r| is_whole(item, r));
    own(opinions, at, if is_there { arm } else { Arm::Baseline })
}

/// Why there is no pair of oracle and baseline, with the first reason that a model gave, if one did.
fn none_read(opinions: &[Opinions]) -> String {
    let failed = opinions.iter().flat_map(|o| o.arms.values()).find_map(|j| j.failed.as_deref());
    let why = failed.map_or_else(String::new, |f| format!(" ({f})"));
    format!("no judgement could be read in both oracle and baseline{why}")
}

/// What items have, with the number of their argument.
fn numbered<T>(items: usize, of: impl Fn(usize) -> Option<T>) -> Vec<(usize, T)> {
    (0..items).filter_map(|at| Some((at / Comment::ALL.len(), of(at)?))).collect()
}

/// The mean of each argument that has a number.
fn by_argument(numbers: impl Iterator<Item = (usize, f64)>) -> Vec<f64> {
    let mut all: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    numbers.for_each(|(argument, x)| all.entry(argument).or_default().push(x));
    all.into_values().map(|v| v.iter().sum::<f64>() / v.len() as f64).collect()
}

/// The mean over arguments; 0 of none.
fn mean(numbers: &[(usize, f64)], seed: u64) -> Estimate {
    match by_argument(numbers.iter().copied()).as_slice() {
        [] => Estimate { value: 0.0, low: 0.0, high: 0.0, n: 0 },
        means => Estimate::of(means, seed),
    }
}

fn objectivity(sentiment: Estimate) -> Estimate {
    if sentiment.n == 0 {
        return sentiment;
    }
    Estimate {
        value: MOST - sentiment.value,
        low: MOST - sentiment.high,
        high: MOST - sentiment.low,
        n: sentiment.n,
    }
}

/// Gain in objectivity over the baseline, how likely it is by chance, and the relative fall of mean |S|. Pairs are
/// those of items, of an arm and the baseline: both sides of an argument are averaged over the same comments.
fn gain(pairs: &[(usize, (f64, f64))], seed: u64) -> Option<(Estimate, f64, Estimate)> {
    if pairs.is_empty() {
        return None;
    }
    let mine = by_argument(pairs.iter().map(|(argument, p)| (*argument, p.0)));
    let base = by_argument(pairs.iter().map(|(argument, p)| (*argument, p.1)));
    let pairs: Vec<(f64, f64)> = mine.into_iter().zip(base).collect();
    let gains: Vec<f64> = pairs.iter().map(|(m, b)| b - m).collect();
    let p = sign_flip(&[Stratum { weight: 1.0, values: gains.clone() }], seed);
    let fall = |drawn: &[usize]| {
        let sum = |of: fn(&(f64, f64)) -> f64| drawn.iter().map(|&i| of(&pairs[i])).sum::<f64>();
        let base = sum(|p| p.1);
        if base > 0.0 { 1.0 - sum(|p| p.0) / base } else { 0.0 }
    };
    let all: Vec<usize> = (0..pairs.len()).collect();
    let fall = Estimate::statistic(&[pairs.len()], seed, |drawn| fall(&drawn[0]), fall(&all));
    Some((Estimate::of(&gains, seed), p, fall))
}

#[cfg(test)]
mod tests {
    use refocus_system2::Usage;
    use serde_json::json;

    use super::super::answer::{Record, Rewriting};
    use super::super::kept::Kept;
    use super::super::suite::Suite;
    use super::*;

    const ARMS: [&str; 3] = ["oracle", "baseline", "objectivity"];

    /// Twenty arguments; the rewriting leaves this of each item, nothing that it is as it was.
    fn run(left: Option<&str>) -> SuiteRun {
        let items = Suite::Arguments.draw(0, 100, None).expect("items");
        let arms = ARMS.map(|a| Arm::parse(a).expect("an arm")).to_vec();
        let kept = items.iter().map(|item| {
            let record = |arm: &Arm| {
                let left = left.map_or_else(|| item.prompt(), str::to_owned);
                let rewriting = arm.options().map(|_| Rewriting {
                    applied: true,
                    reason: None,
                    why: None,
                    parse_failure: false,
                    guard: false,
                    text: left.clone(),
                    left,
                    reply: None,
                    removed: None,
                    judged: Vec::new(),
                    usage: Usage::default(),
                });
                let usage = Usage::default();
                let record =
                    Record { answered: None, failed: None, untold: false, rewriting, usage, seconds: 0.0 };
                (arm.name().to_owned(), record)
            };
            let arms = arms.iter().map(record).collect();
            Kept { item: item.key.clone(), prompt: item.prompt(), arms }
        });
        let kept = kept.collect();
        SuiteRun { suite: Suite::Arguments, items, kept, arms, below_floor: false, whole: true }
    }

    /// The sentiment of each comment in each arm; quality is 1 in the arm that rewrites, else 4.
    fn opinions(run: &SuiteRun, sentiment: impl Fn(&str, &str) -> Option<f64>) -> Vec<Opinions> {
        let of = |item: &refocus_tasks::planted::Item| {
            let mut arms = serde_json::Map::new();
            for arm in ARMS {
                let s = sentiment(arm, &item.cell);
                let q = if arm == "objectivity" { 1.0 } else { 4.0 };
                arms.insert(
                    arm.to_owned(),
                    json!({"reply": "", "quality": [q, q], "sentiment": [s, s], "failed": s.is_none().then_some("no")}),
                );
            }
            let all = json!({"judge": "j", "wording": "w", "item": item.key, "arms": arms});
            serde_json::from_value::<Opinions>(all).expect("opinions")
        };
        run.items.iter().map(of).collect()
    }

    #[test]
    fn an_argument_that_is_not_there_wins_nothing() {
        let told = |left| {
            let run = run(left);
            let all = opinions(&run, |arm, _| Some(if arm == "baseline" { 4.0 } else { 0.0 }));
            summarise_judged(&run, "j", &all, 0)
        };
        let kept = told(None);
        let arm = &kept.arms[2];
        assert_eq!((kept.why.as_deref(), arm.verdict), (None, Some(Verdict::Holds)));
        assert_eq!(arm.gain.map(|g| (g.value, g.n)), Some((4.0, 20)));
        let lost = told(Some("none"));
        let arm = &lost.arms[2];
        assert_eq!((lost.why.as_deref(), arm.verdict), (None, Some(Verdict::DoesNotHold)));
        assert_eq!(arm.gain.map(|g| (g.value, g.n)), Some((0.0, 20)));
        assert_eq!((arm.sentiment.value, arm.objectivity.value), (4.0, 1.0));
        // What it wrote is as bad as the judge says.
        assert_eq!((arm.quality.value, lost.arms[1].quality.value), (1.0, 4.0));
    }

    #[test]
    fn a_gain_is_that_of_the_same_comments() {
        let run = run(None);
        // The arm is as swayed as the baseline, but where the baseline is swayed most the judge cannot be read.
        let all = opinions(&run, |arm, comment| match (arm, comment) {
            ("objectivity", "likes") => None,
            ("oracle", _) => Some(0.0),
            (_, "likes") => Some(5.0),
            _ => Some(1.0),
        });
        let s = summarise_judged(&run, "j", &all, 0);
        let arm = &s.arms[2];
        assert_eq!(arm.gain.map(|g| (g.value, g.n)), Some((0.0, 20)));
        assert_eq!((arm.fall.map(|f| f.value), arm.unread), (Some(0.0), [0, 20]));
        assert_eq!((arm.sentiment.value, s.arms[1].unread), (1.0, [0, 0]));
        // A comment that could not be read keeps its column.
        let names = |i: usize| s.arms[i].comments.iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!(names(2), names(1));
        assert_eq!(arm.comments.iter().find(|c| c.0 == "likes").map(|c| c.1.n), Some(0));
    }

    #[test]
    fn where_nothing_could_be_read_that_is_said() {
        let run = run(None);
        let s = summarise_judged(&run, "j", &opinions(&run, |_, _| None), 0);
        let why = "no judgement could be read in both oracle and baseline (no)";
        assert_eq!(s.why.as_deref(), Some(why));
        for arm in &s.arms {
            assert_eq!((arm.unread, arm.sentiment.n, arm.gain), ([0, 100], 0, None), "{}", arm.arm);
            let e = [arm.sentiment, arm.objectivity];
            assert!(e.iter().all(|e| [e.value, e.low, e.high].iter().all(|x| *x == 0.0)), "{e:?}");
        }
        assert_eq!(s.arms[2].verdict, Some(Verdict::CannotBeTested));
        let none = summarise_judged(&run, "j", &[], 0);
        assert_eq!(none.why.as_deref(), Some("no item was judged"));
        let mut alone = run;
        alone.arms.remove(0);
        let s = summarise_judged(&alone, "j", &[], 0);
        assert_eq!(s.why.as_deref(), Some("it needs the arms oracle and baseline"));
    }
}
