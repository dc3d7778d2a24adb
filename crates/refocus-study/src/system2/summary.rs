//! What the answers of a suite say together.

use std::collections::{BTreeMap, BTreeSet};

use refocus_measure::intervals::{holm, mcnemar, rule_of_three, wilson_of_share};
use refocus_tasks::arguments::Comment;
use refocus_tasks::planted::{Item, Judge, Part};
use serde::Serialize;

use super::answer::{Record, Rewriting};
use super::arm::Arm;
use super::removal::{Removal, Roc, Share, is_whole};
use super::run::{SuiteRun, is_right};
use super::suite::{Measure, Suite, chance, groups, halves};
use super::verdict::{Judged, floor, no_base, verdict};
use crate::Verdict;
use crate::overthinking::{Estimate, Stratum, sign_flip};

/// A suite over its arms.
#[derive(Clone, Debug, Serialize)]
pub struct SuiteSummary {
    /// Name.
    pub suite: &'static str,
    /// What it asks.
    pub about: &'static str,
    /// What its number is; more is better.
    pub measured: &'static str,
    /// All that were asked.
    pub items: usize,
    /// Those that the headline rests on.
    pub headline: usize,
    /// What guessing gets, where answers are right or wrong.
    pub chance: Option<f64>,
    /// Whether prompts have something needed beside the question: else a rewriting that removes blindly looks as
    /// good as one that judges.
    pub judges_removal: bool,
    /// Whether anything can be tested on it.
    pub counts: bool,
    /// Why not.
    pub why: Option<String>,
    /// In the order of [`Arm::all`].
    pub arms: Vec<ArmSummary>,
    /// By name of the arm: how well its scores tell planted pieces from needed ones.
    pub roc: BTreeMap<&'static str, Roc>,
}

/// One arm.
#[derive(Clone, Debug, Serialize)]
pub struct ArmSummary {
    /// Name.
    pub arm: &'static str,
    /// The suite's number over the headline's items. Shares have Wilson's interval, means that of resampled items.
    pub value: Estimate,
    /// Over the baseline, item by item.
    pub gain: Option<Estimate>,
    /// Of the paired test of the gain.
    pub p: Option<f64>,
    /// After Holm's correction over the arms of the suite.
    pub p_holm: Option<f64>,
    /// The gain by that of the oracle.
    pub gap_closed: Option<f64>,
    /// Of the claim that it helps; none for oracle and baseline.
    pub verdict: Option<Verdict>,
    /// Why it cannot be tested.
    pub why: Option<String>,
    /// Right answers over all items that have one, where the suite's number is another.
    pub right: Option<Share>,
    /// A mean item, all of them.
    pub cost: Cost,
    /// Items that the model could not be asked, or whose answer a server does not tell.
    pub failed: usize,
    /// Why, with how many of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, usize>,
    /// What became of the prompts.
    pub rewriting: Option<RewritingSummary>,
    /// By group of items.
    pub cells: Vec<CellSummary>,
}

/// Of a mean item.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// Tokens read.
    pub prompt_tokens: f64,
    /// Tokens written.
    pub completion_tokens: f64,
    /// Tokens written for the rewriting alone.
    pub rewriting_tokens: f64,
    /// Time, its share where several items were answered at the same time; as if nothing was remembered from arm to arm.
    pub seconds: f64,
}

/// What became of prompts.
#[derive(Clone, Debug, Serialize)]
pub struct RewritingSummary {
    /// Prompts.
    pub n: usize,
    /// Rewrites that were used.
    pub applied: usize,
    /// Replies that could not be read.
    pub parse_failures: usize,
    /// Rewrites that a guard refused.
    pub guarded: usize,
    /// Why the original went through, by name.
    pub reasons: BTreeMap<String, usize>,
    /// What they removed.
    pub removal: Removal,
}

/// A group of items.
#[derive(Clone, Debug, Serialize)]
pub struct CellSummary {
    /// Name.
    pub cell: String,
    /// The suite's number; on arguments the sway itself, with its sign.
    pub value: Estimate,
    /// Over the baseline.
    pub gain: Option<Estimate>,
}

/// Counts a suite.
pub fn summarise(run: &SuiteRun, seed: u64) -> SuiteSummary {
    let measure = run.suite.measure();
    let headline: Vec<usize> =
        (0..run.items.len()).filter(|&i| run.suite.is_headline(&run.items[i])).collect();
    let groups = groups(run.suite, &run.items);
    let values: Vec<Vec<Option<f64>>> = run.arms.iter().map(|&a| values(run, a)).collect();
    let of = |arm: Arm| run.arms.iter().position(|a| *a == arm).map(|at| &values[at]);
    let baseline = of(Arm::Baseline);
    let gains: Vec<Option<(Estimate, f64)>> = run
        .arms
        .iter()
        .zip(&values)
        .map(|(arm, mine)| {
            let base = baseline.filter(|_| *arm != Arm::Baseline)?;
            gain(measure, &paired(mine, base, &headline, &groups), seed)
        })
        .collect();
    let at_oracle = run.arms.iter().position(|a| *a == Arm::Oracle);
    let oracle_gain = at_oracle.and_then(|at| gains[at]);
    // The oracle is what the arms are measured by, so it is no test among theirs.
    let tested: Vec<usize> =
        (0..run.arms.len()).filter(|&i| Some(i) != at_oracle && gains[i].is_some()).collect();
    let p: Vec<f64> = tested.iter().map(|&i| gains[i].map_or(f64::NAN, |g| g.1)).collect();
    let holm: BTreeMap<usize, f64> = tested.into_iter().zip(holm(&p)).collect();

    let asked: Vec<&Item> = headline.iter().map(|&i| &run.items[i]).collect();
    let chance = (measure == Measure::Right).then(|| chance(&asked)).flatten();
    let oracle = of(Arm::Oracle).map(|v| value(measure, &taken(v, &headline, &groups), seed));
    let why = match measure {
        Measure::Kept => None,
        _ if at_oracle.is_none() || baseline.is_none() => {
            Some("it needs the arms oracle and baseline".to_owned())
        }
        Measure::Steadiness => unmoved(run, seed),
        _ => match (oracle, oracle_gain) {
            (Some(o), Some((gain, p))) if measure == Measure::Right => {
                floor((o.value, o.low), chance.unwrap_or(0.0), &gain, p)
            }
            (_, Some((gain, p))) => no_base(&gain, p),
            _ => Some("no item was answered".to_owned()),
        },
    };
    let arms = run.arms.iter().enumerate().map(|(i, &arm)| {
        let value = value(measure, &taken(&values[i], &headline, &groups), seed);
        let (gain, p) = gains[i].map_or((None, None), |(g, p)| (Some(g), Some(p)));
        let p_holm = holm.get(&i).copied().filter(|p| !p.is_nan());
        let oracle = oracle_gain.map(|g| g.0.value);
        let judged = match (arm, gain, p_holm) {
            (Arm::Oracle | Arm::Baseline, ..) => None,
            // Only what rewrites can lose anything.
            _ if measure == Measure::Kept && arm.options().is_none() => None,
            _ if why.is_some() => Some((Verdict::CannotBeTested, why.clone())),
            (_, Some(gain), Some(p_holm)) => {
                let ends = (value.low, value.high);
                Some(verdict(measure, &Judged { gain, p_holm, oracle: oracle.unwrap_or(0.0), value: ends }))
            }
            _ if measure == Measure::Kept && value.n == 0 => {
                Some((Verdict::CannotBeTested, Some("no prompt has anything to rewrite".to_owned())))
            }
            _ => Some((Verdict::CannotBeTested, Some("no item was answered".to_owned()))),
        };
        ArmSummary {
            arm: arm.name(),
            value,
            gain,
            p,
            p_holm,
            gap_closed: gain
                .zip(oracle)
                .filter(|_| why.is_none() && measure != Measure::Kept)
                .map(|(g, o)| g.value / o)
                .filter(|x| x.is_finite()),
            verdict: judged.as_ref().map(|j| j.0),
            why: judged.and_then(|j| j.1),
            right: (measure == Measure::Kept).then(|| answers(run, arm)).flatten(),
            cost: cost(run, arm),
            failed: records(run, arm).filter(|r| r.1.failed.is_some()).count(),
            failures: failures(run, arm),
            rewriting: rewriting(run, arm, &groups),
            cells: cells(run, &values[i], baseline.filter(|_| arm != Arm::Baseline), (arm, &groups), seed),
        }
    });
    SuiteSummary {
        suite: run.suite.name(),
        about: run.suite.about(),
        measured: run.suite.measured(),
        items: run.items.len(),
        headline: headline.len(),
        chance,
        judges_removal: run.items.iter().any(|i| i.parts(Part::Needed).count() > 1),
        counts: why.is_none(),
        arms: arms.collect(),
        why: why.clone(),
        roc: rocs(run, &groups),
    }
}

fn records(run: &SuiteRun, arm: Arm) -> impl Iterator<Item = (&Item, &Record)> {
    run.items.iter().zip(&run.kept).filter_map(move |(i, k)| Some((i, k.of(arm)?)))
}

/// The suite's number of each item; nothing where it has none.
pub(super) fn values(run: &SuiteRun, arm: Arm) -> Vec<Option<f64>> {
    let number = |(i, (item, kept)): (usize, (&Item, &super::kept::Kept))| {
        let record = kept.of(arm)?;
        match run.suite.measure() {
            Measure::Right => (!record.untold).then(|| f64::from(u8::from(is_right(record)))),
            Measure::Margin => {
                let a = record.answered.as_ref()?;
                Some(a.probability(0)? - a.probability(1)?)
            }
            Measure::Steadiness => sway(run, i, arm).map(|s| -s.abs()),
            Measure::Kept => {
                reaches_a_rewriting(record).then(|| f64::from(u8::from(keeps_needed(item, record))))
            }
        }
    };
    run.items.iter().zip(&run.kept).enumerate().map(number).collect()
}

/// Whether anything could be lost in it, where its arm rewrites.
fn reaches_a_rewriting(record: &Record) -> bool {
    let reason = record.rewriting.as_ref().and_then(|r| r.reason.as_deref());
    reason != Some(Rewriting::nothing())
}

fn keeps_needed(item: &Item, record: &Record) -> bool {
    record.rewriting.as_ref().is_none_or(|r| is_whole(item, r))
}

/// By how many nats logit(good) − logit(bad) of an argument moves with its comment. That of the baseline where the
/// arm lost something needed: an argument that is not there is not swayed, and nothing is won by that.
fn sway(run: &SuiteRun, i: usize, arm: Arm) -> Option<f64> {
    let first = i - i % Comment::ALL.len();
    let whole = |i: usize| Some(keeps_needed(run.items.get(i)?, run.kept.get(i)?.of(arm)?));
    let arm = if whole(i)? && whole(first)? { arm } else { Arm::Baseline };
    let margin = |i: usize| run.kept.get(i)?.of(arm)?.answered.as_ref()?.margin();
    // Those of one argument stand together, the one without a comment first.
    Some(margin(i)? - margin(first)?)
}

/// Why no comment moves the baseline's answers, if none does.
fn unmoved(run: &SuiteRun, seed: u64) -> Option<String> {
    let tests: Vec<f64> = Comment::ALL[1..]
        .iter()
        .map(|c| {
            let of = |i: usize| sway(run, i, Arm::Baseline).filter(|_| run.items[i].cell == c.name());
            sign_flip(&one((0..run.items.len()).filter_map(of).collect()), seed)
        })
        .collect();
    let least = holm(&tests).into_iter().fold(1.0, f64::min);
    (least >= 0.05)
        .then(|| format!("no base effect: no comment moves the baseline's answers, p = {least:.3}"))
}

fn one(values: Vec<f64>) -> Vec<Stratum> {
    vec![Stratum { weight: 1.0, values }]
}

/// Numbers with those of their groups.
type Grouped = Vec<(usize, f64)>;

fn taken(values: &[Option<f64>], at: &[usize], groups: &[usize]) -> Grouped {
    at.iter().filter_map(|&i| Some((groups[i], values[i]?))).collect()
}

/// The mean of each group: its items depend on each other, so only whole groups are drawn or flipped.
fn by_group(values: &[(usize, f64)]) -> Vec<f64> {
    let mut all: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    values.iter().for_each(|(group, v)| all.entry(*group).or_default().push(*v));
    all.into_values().map(|v| v.iter().sum::<f64>() / v.len() as f64).collect()
}

/// The numbers of two arms on the items that both have.
fn paired(
    mine: &[Option<f64>],
    base: &[Option<f64>],
    at: &[usize],
    groups: &[usize],
) -> Vec<(usize, (f64, f64))> {
    at.iter().filter_map(|&i| Some((groups[i], (mine[i]?, base[i]?)))).collect()
}

/// A mean over groups, or a share of items with the interval of as many independent cases as there are groups.
fn value(measure: Measure, values: &[(usize, f64)], seed: u64) -> Estimate {
    let n = values.len();
    if n == 0 {
        return Estimate { value: 0.0, low: 0.0, high: 0.0, n };
    }
    match measure {
        Measure::Right | Measure::Kept => {
            let hits = values.iter().filter(|v| v.1 > 0.5).count();
            let share = hits as f64 / n as f64;
            let groups = values.iter().map(|v| v.0).collect::<BTreeSet<_>>().len();
            let i = wilson_of_share(share, groups as u64);
            let (low, high) = i.map_or((0.0, 1.0), |i| (i.low, i.high));
            Estimate { value: share, low, high, n }
        }
        Measure::Margin | Measure::Steadiness => Estimate::of(&by_group(values), seed),
    }
}

/// By how much the first of a pair is better, and how likely that is by chance.
fn gain(measure: Measure, pairs: &[(usize, (f64, f64))], seed: u64) -> Option<(Estimate, f64)> {
    if pairs.is_empty() {
        return None;
    }
    let diffs: Grouped = pairs.iter().map(|(group, (a, b))| (*group, a - b)).collect();
    let diffs = by_group(&diffs);
    let mut e = Estimate::of(&diffs, seed);
    let of_shares = matches!(measure, Measure::Right | Measure::Kept);
    // McNemar's test counts pairs that do not depend on each other.
    let p = if of_shares && diffs.len() == pairs.len() {
        let only = |sign: f64| diffs.iter().filter(|d| **d * sign > 0.5).count() as u64;
        mcnemar(only(1.0), only(-1.0))
    } else {
        sign_flip(&one(diffs.clone()), seed)
    };
    // Pairs that never differ are no proof that none would: the rule of three bounds them.
    if of_shares && diffs.iter().all(|d| *d == 0.0) {
        let bound = rule_of_three(diffs.len() as u64).unwrap_or(1.0);
        (e.low, e.high) = (-bound, bound);
    }
    Some((e, p))
}

/// Right answers of all items that have options or a number, but for those of which a server does not tell enough.
fn answers(run: &SuiteRun, arm: Arm) -> Option<Share> {
    let asked: Vec<&Record> =
        records(run, arm).filter(|(i, r)| i.judge != Judge::Kept && !r.untold).map(|(_, r)| r).collect();
    Share::of(asked.iter().filter(|r| is_right(r)).count() as u64, asked.len() as u64)
}

fn cost(run: &SuiteRun, arm: Arm) -> Cost {
    let (mut sum, mut n) = (Cost::default(), 0.0);
    for (_, r) in records(run, arm) {
        let rewriting = r.rewriting.as_ref().map(|x| x.usage).unwrap_or_default();
        sum.prompt_tokens += (r.usage.prompt + rewriting.prompt) as f64;
        sum.completion_tokens += (r.usage.completion + rewriting.completion) as f64;
        sum.rewriting_tokens += rewriting.completion as f64;
        sum.seconds += r.seconds;
        n += 1.0;
    }
    let each = |x: f64| if n > 0.0 { x / n } else { 0.0 };
    Cost {
        prompt_tokens: each(sum.prompt_tokens),
        completion_tokens: each(sum.completion_tokens),
        rewriting_tokens: each(sum.rewriting_tokens),
        seconds: each(sum.seconds),
    }
}

fn failures(run: &SuiteRun, arm: Arm) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for why in records(run, arm).filter_map(|r| r.1.failed.as_deref()) {
        // Numbers of tokens differ from prompt to prompt.
        let words = why
            .split_inclusive(' ')
            .map(|w| if w.starts_with(|c: char| c.is_ascii_digit()) { "… " } else { w });
        let why = words.collect::<String>().trim_end().to_owned();
        *out.entry(why).or_insert(0) += 1;
    }
    out
}

fn rewriting(run: &SuiteRun, arm: Arm, groups: &[usize]) -> Option<RewritingSummary> {
    arm.options()?;
    let all = grouped(run, arm, groups);
    let mut reasons = BTreeMap::new();
    for reason in all.iter().filter_map(|(.., r)| r.reason.clone()) {
        *reasons.entry(reason).or_insert(0) += 1;
    }
    Some(RewritingSummary {
        n: all.len(),
        applied: all.iter().filter(|(.., r)| r.applied).count(),
        parse_failures: all.iter().filter(|(.., r)| r.parse_failure).count(),
        guarded: all.iter().filter(|(.., r)| r.guard).count(),
        reasons,
        removal: Removal::of(all.into_iter()),
    })
}

/// The items that an arm rewrites or could have, with what belongs to each, such as the number of its group.
fn grouped<'r, T: Copy>(run: &'r SuiteRun, arm: Arm, of: &[T]) -> Vec<(T, &'r Item, &'r Rewriting)> {
    let all = of.iter().zip(run.items.iter().zip(&run.kept));
    all.filter_map(|(of, (i, k))| Some((*of, i, k.of(arm)?.rewriting.as_ref()?))).collect()
}

/// By each part of the items' group names, in the order in which they come.
fn cells(
    run: &SuiteRun,
    mine: &[Option<f64>],
    base: Option<&Vec<Option<f64>>>,
    (arm, groups): (Arm, &[usize]),
    seed: u64,
) -> Vec<CellSummary> {
    let parts = |i: &Item| i.cell.split([':', ',']).map(|s| s.trim().to_owned()).collect::<Vec<_>>();
    let mut names: Vec<String> = Vec::new();
    for name in run.items.iter().flat_map(parts) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let measure = run.suite.measure();
    let cell = |name: String| {
        let at: Vec<usize> = (0..run.items.len()).filter(|&i| parts(&run.items[i]).contains(&name)).collect();
        let signed: Grouped = match measure {
            Measure::Steadiness => at.iter().filter_map(|&i| Some((groups[i], sway(run, i, arm)?))).collect(),
            _ => taken(mine, &at, groups),
        };
        let value = value(measure, &signed, seed);
        let gain = base.and_then(|b| gain(measure, &paired(mine, b, &at, groups), seed)).map(|g| g.0);
        (value.n > 0).then_some(CellSummary { cell: name, value, gain })
    };
    names.into_iter().filter_map(cell).collect()
}

fn rocs(run: &SuiteRun, groups: &[usize]) -> BTreeMap<&'static str, Roc> {
    let sides = halves(run.suite, &run.items).into_iter().zip(groups);
    let sides: Vec<[usize; 2]> = sides.map(|(half, group)| [half, *group]).collect();
    let one = |&arm: &Arm| {
        let of = grouped(run, arm, &sides);
        // On what must not be lost nothing but an injected order is planted: too few for a curve.
        let roc = Roc::of(of.into_iter()).filter(|_| run.suite != Suite::Harm)?;
        Some((arm.name(), roc))
    };
    run.arms.iter().filter_map(one).collect()
}
