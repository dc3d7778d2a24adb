//! Means over tasks. Formats of one task (`sst2`, `sst2.1`, …) count as one task together, controls not at
//! all; pairs are resampled within each task.

use std::collections::{BTreeMap, BTreeSet};

use refocus_measure::intervals::holm;
use serde::Serialize;

use super::critical::{Critical, LayerGaps, Parting, parting};
use super::measures::{Outcome, mean, minus};
use super::resample::{Estimate, Stratum, ends, resampled, sign_flip, weighted};
use super::rivals::{Chosen, FEWEST, best};
use super::summary::Detail;

/// Name of the group of all tasks.
pub const ALL_TASKS: &str = "all tasks";
/// Name of the group whose members are found before anything is claimed of it.
pub const KNOWING_TASKS: &str = "tasks with zero-shot above chance";

/// How much of the gap a way to answer closes: gain on false prompts over TP − FP.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GapClosed {
    /// Mean gain over mean gap.
    pub ratio_of_means: Estimate,
    /// Mean over tasks of gain over gap, as the paper averages; absent where a gap is 0 in a resample. A task
    /// with a small gap dominates it.
    pub mean_of_ratios: Option<Estimate>,
}

/// A way to answer, over tasks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeanMitigation {
    /// Name.
    pub name: String,
    /// In words.
    pub what: String,
    /// What was chosen once for all tasks; other choices are each task's own.
    pub chosen: Option<Chosen>,
    /// `odd pairs` or `all pairs`: all numbers here are theirs.
    pub measured_on: &'static str,
    /// Calibrated accuracy with true demonstrations.
    pub tp: f64,
    /// With false ones.
    pub fp: f64,
    /// (TP + FP)/2.
    pub balanced: f64,
    /// Gain on true prompts.
    pub tp_gain: Estimate,
    /// Gain on false prompts.
    pub fp_gain: Estimate,
    /// Gain of the balanced score.
    pub balanced_gain: Estimate,
    /// Absent where the interval of the gap includes 0.
    pub gap_closed: Option<GapClosed>,
    /// Paired test of the gain on false prompts.
    pub p_fp: f64,
    /// After Holm's correction over settings, groups and ways to answer.
    pub p_fp_holm: Option<f64>,
    /// Paired test of the balanced gain.
    pub p_balanced: f64,
    /// After Holm's correction.
    pub p_balanced_holm: Option<f64>,
    /// Gain of the balanced score on the pairs that chose; 0 where nothing was chosen for all tasks.
    #[serde(skip)]
    pub(super) chosen_gain: f64,
}

/// Means over a group of tasks under one setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupMeans {
    /// Which tasks, in words.
    pub group: &'static str,
    /// Their names.
    pub tasks: Vec<String>,
    /// What guessing gets.
    pub chance: f64,
    /// Last layer without demonstrations.
    pub zero_shot: Estimate,
    /// Calibrated accuracy with true demonstrations.
    pub tp: Estimate,
    /// With false ones.
    pub fp: Estimate,
    /// TP − FP.
    pub gap: Estimate,
    /// (TP + FP)/2.
    pub balanced: Estimate,
    /// Layers with 25, 50 and 75 % of the gap of the mean curve.
    pub critical: Vec<Critical>,
    /// TP by layer.
    pub tp_by_layer: Vec<f64>,
    /// FP by layer.
    pub fp_by_layer: Vec<f64>,
    /// Ways to answer.
    pub mitigations: Vec<MeanMitigation>,
    #[serde(skip)]
    pub(super) parting: Option<Parting>,
}

impl GroupMeans {
    /// A way to answer by its name.
    pub fn mitigation(&self, name: &str) -> Option<&MeanMitigation> {
        self.mitigations.iter().find(|m| m.name == name)
    }
}

/// Means of one setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SettingMeans {
    /// Setting.
    pub setting: String,
    /// All tasks, and those with zero-shot above chance; a group without tasks is not there.
    pub groups: Vec<GroupMeans>,
}

/// Tasks of a group with their weights.
pub(super) struct Group<'a> {
    pub(super) name: &'static str,
    pub(super) members: Vec<(f64, &'a Detail)>,
}

impl<'a> Group<'a> {
    fn new(name: &'static str, members: Vec<&'a Detail>) -> Option<Self> {
        let stems: Vec<&str> = members.iter().map(|d| stem(&d.task)).collect();
        let of = |name: &str| stems.iter().filter(|s| **s == name).count();
        let many = stems.iter().collect::<BTreeSet<_>>().len();
        let weigh = |d: &'a Detail| (1.0 / (many * of(stem(&d.task))) as f64, d);
        (!members.is_empty()).then(|| Self { name, members: members.into_iter().map(weigh).collect() })
    }

    /// Numbers by pair of each task.
    pub(super) fn strata(&self, of: impl Fn(&Detail) -> Vec<f64>) -> Vec<Stratum> {
        self.members.iter().map(|(weight, d)| Stratum { weight: *weight, values: of(d) }).collect()
    }

    /// The same where every task has them.
    pub(super) fn strata_if(&self, of: impl Fn(&Detail) -> Option<Vec<f64>>) -> Option<Vec<Stratum>> {
        let one = |(weight, d): &(f64, &Detail)| Some(Stratum { weight: *weight, values: of(d)? });
        self.members.iter().map(one).collect()
    }

    /// The group without a task and its other formats; `None` where nothing is left.
    fn without(&self, task: &str) -> Option<Self> {
        let others = self.members.iter().map(|m| m.1).filter(|d| stem(&d.task) != stem(task)).collect();
        Group::new(self.name, others)
    }

    /// The exit layer of each task that all others choose together.
    fn exits_of_others(&self, by: impl Fn(&Outcome) -> Vec<f64>) -> Option<BTreeMap<&'a str, usize>> {
        let one = |(_, d): &(f64, &'a Detail)| Some((&d.task[..], self.without(&d.task)?.joint_exit(&by)?));
        self.members.iter().map(one).collect()
    }

    /// One exit layer for all tasks, as in the paper: the best mean on the pairs that choose.
    pub(super) fn joint_exit(&self, by: impl Fn(&Outcome) -> Vec<f64>) -> Option<usize> {
        let last = self.members.iter().map(|m| m.1.all.len()).min()? - 1;
        if self.members.iter().any(|(_, d)| d.full().tp.len() < FEWEST) {
            return None;
        }
        best((0..last).map(|l| weighted(&self.strata(|d| by(&d.choose[l])))))
    }
}

/// The task of which this is a format: `sst2` of `sst2.1`.
fn stem(task: &str) -> &str {
    task.split('.').next().unwrap_or(task)
}

/// The groups of a setting.
pub(super) fn groups<'a>(details: &'a [Detail], setting: &str, seed: u64) -> Vec<Group<'a>> {
    let mine: Vec<&Detail> = details.iter().filter(|d| d.setting == setting && !d.control).collect();
    let knows = |d: &&&Detail| Estimate::of(&d.zero_shot, seed).low > d.chance;
    let knowing = mine.iter().filter(knows).copied().collect();
    [Group::new(ALL_TASKS, mine), Group::new(KNOWING_TASKS, knowing)].into_iter().flatten().collect()
}

/// Settings in the order of the run.
pub(super) fn settings(details: &[Detail]) -> Vec<&str> {
    let mut out: Vec<&str> = Vec::new();
    for d in details {
        if !out.contains(&&d.setting[..]) {
            out.push(&d.setting);
        }
    }
    out
}

/// Means over tasks of every setting.
pub fn means(details: &[Detail], seed: u64) -> Vec<SettingMeans> {
    let mut out: Vec<SettingMeans> = settings(details)
        .into_iter()
        .map(|setting| SettingMeans {
            setting: setting.to_owned(),
            groups: groups(details, setting, seed).iter().map(|g| group_means(g, seed)).collect(),
        })
        .collect();
    out.retain(|s| !s.groups.is_empty());
    let all = || out.iter().flat_map(|s| &s.groups).flat_map(|g| &g.mitigations);
    let fp = holm(&all().map(|m| m.p_fp).collect::<Vec<_>>());
    let balanced = holm(&all().map(|m| m.p_balanced).collect::<Vec<_>>());
    let every = out.iter_mut().flat_map(|s| &mut s.groups).flat_map(|g| &mut g.mitigations);
    for ((m, fp), balanced) in every.zip(fp).zip(balanced) {
        (m.p_fp_holm, m.p_balanced_holm) = (Some(fp), Some(balanced));
    }
    out
}

fn group_means(group: &Group<'_>, seed: u64) -> GroupMeans {
    let of = |of: &dyn Fn(&Detail) -> Vec<f64>| Estimate::stratified(&group.strata(of), seed);
    let gap = of(&|d| d.full().gap());
    let layers = group.members.iter().map(|m| m.1.all.len()).min().unwrap_or(0);
    let curve = |of: &dyn Fn(&Outcome) -> Vec<f64>| -> Vec<f64> {
        (0..layers).map(|l| weighted(&group.strata(|d| of(&d.all[l])))).collect()
    };
    let gaps: Vec<LayerGaps> = group.members.iter().map(|(w, d)| LayerGaps::of(*w, &d.all)).collect();
    let parting = parting(&gaps, &gap, seed);
    GroupMeans {
        group: group.name,
        tasks: group.members.iter().map(|m| m.1.task.clone()).collect(),
        chance: group.members.iter().map(|(w, d)| w * d.chance).sum(),
        zero_shot: of(&|d| d.zero_shot.clone()),
        tp: of(&|d| d.full().tp.clone()),
        fp: of(&|d| d.full().fp.clone()),
        gap,
        balanced: of(&|d| d.full().balanced()),
        critical: parting.critical.clone(),
        tp_by_layer: curve(&|o| o.tp.clone()),
        fp_by_layer: curve(&|o| o.fp.clone()),
        mitigations: mitigations(group, seed),
        parting: Some(parting),
    }
}

fn mitigations(group: &Group<'_>, seed: u64) -> Vec<MeanMitigation> {
    let Some((_, first)) = group.members.first() else { return Vec::new() };
    let mut out = Vec::new();
    for m in &first.mitigations {
        let name = &m.mitigation.name;
        let of = |d: &Detail| d.mitigation(name).map(|m| (m.before.clone(), m.after.clone()));
        out.extend(over(group, (name, &m.mitigation.what), None, of, seed));
    }
    for (name, what, by, score) in [
        (
            "early_exit_joint",
            "one earlier layer for all tasks, the best on false prompts",
            "accuracy on false prompts",
            (|o: &Outcome| o.fp.clone()) as fn(&Outcome) -> Vec<f64>,
        ),
        (
            "early_exit_joint_balanced",
            "one earlier layer for all tasks, the best over both kinds of prompts",
            "balanced score",
            Outcome::balanced,
        ),
    ] {
        let Some(layer) = group.joint_exit(score) else { continue };
        let chosen = Chosen { what: "layer", value: layer as f64, by, on: first.chosen_on };
        let of = |d: &Detail| Some((d.measure.last()?.clone(), d.measure[layer].clone()));
        let at = |d: &Detail, l: usize| d.choose[l].balanced();
        let gain = group.strata(|d| minus(&at(d, layer), &at(d, d.choose.len() - 1)));
        let found = over(group, (name, what), Some(chosen), of, seed);
        out.extend(found.map(|m| MeanMitigation { chosen_gain: weighted(&gain), ..m }));
    }
    if let Some(layers) = group.exits_of_others(Outcome::balanced) {
        let of = |d: &Detail| Some((d.measure.last()?.clone(), d.measure[*layers.get(&d.task[..])?].clone()));
        let (first, last) = (layers.values().min(), layers.values().max());
        let span = first.zip(last).map_or_else(String::new, |(a, b)| {
            if a == b { format!(" ({a})") } else { format!(" ({a} to {b})") }
        });
        let what = format!(
            "for each task the earlier layer{span} that is best over all others, by the balanced score"
        );
        out.extend(over(group, ("early_exit_others_balanced", &what), None, of, seed));
    }
    out
}

/// A way to answer over the tasks of a group; `None` where a task lacks it.
fn over(
    group: &Group<'_>,
    (name, what): (&str, &str),
    chosen: Option<Chosen>,
    of: impl Fn(&Detail) -> Option<(Outcome, Outcome)>,
    seed: u64,
) -> Option<MeanMitigation> {
    let take = |f: &dyn Fn(&Outcome, &Outcome) -> Vec<f64>| {
        group.strata_if(|d| of(d).filter(|(b, _)| !b.tp.is_empty()).map(|(b, a)| f(&b, &a)))
    };
    let fp_gain = take(&|b, a| minus(&a.fp, &b.fp))?;
    let balanced_gain = take(&|b, a| minus(&a.balanced(), &b.balanced()))?;
    let gap = take(&|b, _| b.gap())?;
    Some(MeanMitigation {
        name: name.to_owned(),
        what: what.to_owned(),
        chosen,
        measured_on: group.members.first()?.1.measured_on,
        tp: weighted(&take(&|_, a| a.tp.clone())?),
        fp: weighted(&take(&|_, a| a.fp.clone())?),
        balanced: weighted(&take(&|_, a| a.balanced())?),
        tp_gain: Estimate::stratified(&take(&|b, a| minus(&a.tp, &b.tp))?, seed),
        fp_gain: Estimate::stratified(&fp_gain, seed),
        balanced_gain: Estimate::stratified(&balanced_gain, seed),
        gap_closed: gap_closed(&fp_gain, &gap, seed),
        p_fp: sign_flip(&fp_gain, seed),
        p_fp_holm: None,
        p_balanced: sign_flip(&balanced_gain, seed),
        p_balanced_holm: None,
        chosen_gain: 0.0,
    })
}

fn gap_closed(gain: &[Stratum], gap: &[Stratum], seed: u64) -> Option<GapClosed> {
    if Estimate::stratified(gap, seed).low <= 0.0 {
        return None;
    }
    let sizes: Vec<usize> = gap.iter().map(|s| s.values.len()).collect();
    let (mut of_means, mut of_ratios) = (Vec::new(), Vec::new());
    let ratios = |gains: &[f64], gaps: &[f64]| {
        let weights = || gap.iter().map(|s| s.weight);
        let sum = |x: &[f64]| weights().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let each: Vec<f64> = gains.iter().zip(gaps).map(|(a, b)| a / b).collect();
        (sum(gains) / sum(gaps), sum(&each))
    };
    resampled(&sizes, seed, |drawn| {
        let at =
            |(s, d): (&Stratum, &Vec<usize>)| d.iter().map(|&i| s.values[i]).sum::<f64>() / d.len() as f64;
        let gains: Vec<f64> = gain.iter().zip(drawn).map(at).collect();
        let gaps: Vec<f64> = gap.iter().zip(drawn).map(at).collect();
        let (a, b) = ratios(&gains, &gaps);
        of_means.push(a);
        of_ratios.push(b);
    });
    let of = |s: &[Stratum]| s.iter().map(|s| mean(&s.values)).collect::<Vec<f64>>();
    let (a, b) = ratios(&of(gain), &of(gap));
    let n = sizes.iter().sum();
    let estimate = |value: f64, mut all: Vec<f64>| {
        let finite = value.is_finite() && all.iter().all(|x| x.is_finite());
        let (low, high) = ends(&mut all);
        finite.then_some(Estimate { value, low, high, n })
    };
    Some(GapClosed { ratio_of_means: estimate(a, of_means)?, mean_of_ratios: estimate(b, of_ratios) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stratum(weight: f64, values: &[f64]) -> Stratum {
        Stratum { weight, values: values.to_vec() }
    }

    #[test]
    fn a_task_with_a_small_gap_rules_the_mean_of_ratios() {
        // Gaps 0.8 and 0.1, gains 0.2 and 0.1: 0.3/0.9 against (0.25 + 1)/2.
        let gain = [stratum(0.5, &[0.2; 10]), stratum(0.5, &[0.1; 10])];
        let gap = [stratum(0.5, &[0.8; 10]), stratum(0.5, &[0.1; 10])];
        let c = gap_closed(&gain, &gap, 0).expect("a gap");
        assert!((c.ratio_of_means.value - 1.0 / 3.0).abs() < 1e-12);
        assert!((c.mean_of_ratios.expect("finite").value - 0.625).abs() < 1e-12);
        let none = [stratum(1.0, &[0.5, -0.5, 0.5, -0.5])];
        assert_eq!(gap_closed(&gain[..1], &none, 0), None);
    }
}
