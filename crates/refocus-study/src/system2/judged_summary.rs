//! What judgements say together.

use refocus_measure::intervals::holm;
use refocus_tasks::arguments::Comment;
use serde::Serialize;

use super::arm::Arm;
use super::judged::{Judgement, Opinions};
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

/// One arm. Items of one argument are averaged first and count as one.
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
    /// Gain in objectivity over the baseline, argument by argument.
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
    /// Mean difference between both orders, of quality and of sentiment: the judge's own noise.
    pub orders: [f64; 2],
}

/// Counts judgements.
pub fn summarise_judged(run: &SuiteRun, judge: &str, opinions: &[Opinions], seed: u64) -> JudgedSummary {
    let baseline = by_argument(&of(opinions, Arm::Baseline, None), Judgement::sentiment);
    let gains: Vec<Option<(Estimate, f64, Estimate)>> = run
        .arms
        .iter()
        .map(|&arm| {
            let mine = by_argument(&of(opinions, arm, None), Judgement::sentiment);
            (arm != Arm::Baseline).then(|| gain(&mine, &baseline, seed)).flatten()
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
        None => Some("it needs the arms oracle and baseline".to_owned()),
        Some((gain, p, _)) => no_base(&gain, p),
    };
    let one = |(i, &arm): (usize, &Arm)| {
        let all = of(opinions, arm, None);
        let means = |number: fn(&Judgement) -> Option<f64>| {
            Estimate::of(&by_argument(&all, number).into_iter().flatten().collect::<Vec<_>>(), seed)
        };
        let judged = gains[i].zip(p_holm(i)).map(|((gain, ..), p_holm)| {
            let judged =
                Judged { gain, p_holm, oracle: oracle.map_or(0.0, |o| o.0.value), value: (0.0, 0.0) };
            if why.is_some() { Verdict::CannotBeTested } else { verdict(Measure::Steadiness, &judged).0 }
        });
        let comments = Comment::ALL.iter().filter_map(|c| {
            let of_comment = of(opinions, arm, Some((run, c.name())));
            let values: Vec<f64> = by_argument(&of_comment, Judgement::sentiment)
                .into_iter()
                .flatten()
                .map(|s| MOST - s)
                .collect();
            (!values.is_empty()).then(|| (c.name(), Estimate::of(&values, seed)))
        });
        let told = all.iter().map(|(_, j)| *j);
        let unread =
            |number: fn(&Judgement) -> Option<f64>| told.clone().filter(|j| number(j).is_none()).count();
        let apart = |pair: fn(&Judgement) -> [Option<f64>; 2]| {
            let each: Vec<f64> = told
                .clone()
                .filter_map(|j| match pair(j) {
                    [Some(a), Some(b)] => Some((a - b).abs()),
                    _ => None,
                })
                .collect();
            each.iter().sum::<f64>() / each.len().max(1) as f64
        };
        let sentiment = means(Judgement::sentiment);
        JudgedArm {
            arm: arm.name(),
            quality: means(Judgement::quality),
            sentiment,
            objectivity: Estimate {
                value: MOST - sentiment.value,
                low: MOST - sentiment.high,
                high: MOST - sentiment.low,
                n: sentiment.n,
            },
            gain: gains[i].map(|g| g.0),
            fall: gains[i].map(|g| g.2),
            p: gains[i].map(|g| g.1),
            p_holm: p_holm(i),
            verdict: judged.filter(|_| !matches!(arm, Arm::Oracle | Arm::Baseline)),
            comments: comments.collect(),
            unread: [unread(Judgement::quality), unread(Judgement::sentiment)],
            orders: [apart(|j| j.quality), apart(|j| j.sentiment)],
        }
    };
    let arms = run.arms.iter().enumerate().map(one).collect();
    JudgedSummary { judge: judge.to_owned(), items: opinions.len(), why, arms }
}

/// Judgements of an arm with the number of their argument, all or those of one comment.
fn of<'o>(
    opinions: &'o [Opinions],
    arm: Arm,
    comment: Option<(&SuiteRun, &str)>,
) -> Vec<(usize, &'o Judgement)> {
    let wanted =
        |at: &usize| comment.is_none_or(|(run, name)| run.items.get(*at).is_some_and(|i| i.cell == name));
    let with = opinions.iter().enumerate().filter(|(at, _)| wanted(at));
    with.filter_map(|(at, o)| Some((at / Comment::ALL.len(), o.arms.get(arm.name())?))).collect()
}

/// The mean of each argument; nothing where none of its judgements could be read.
fn by_argument(
    judgements: &[(usize, &Judgement)],
    number: impl Fn(&Judgement) -> Option<f64>,
) -> Vec<Option<f64>> {
    let arguments = judgements.iter().map(|(at, _)| at + 1).max().unwrap_or(0);
    let mean = |argument: usize| {
        let of = judgements.iter().filter(|(at, _)| *at == argument).filter_map(|(_, j)| number(j));
        let of: Vec<f64> = of.collect();
        (!of.is_empty()).then(|| of.iter().sum::<f64>() / of.len() as f64)
    };
    (0..arguments).map(mean).collect()
}

/// Gain in objectivity over the baseline, how likely it is by chance, and the relative fall of mean |S|.
fn gain(mine: &[Option<f64>], base: &[Option<f64>], seed: u64) -> Option<(Estimate, f64, Estimate)> {
    let pairs: Vec<(f64, f64)> = mine.iter().zip(base).filter_map(|(m, b)| Some(((*m)?, (*b)?))).collect();
    if pairs.is_empty() {
        return None;
    }
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
