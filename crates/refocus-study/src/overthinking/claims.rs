//! The paper's claims and those of its critics, each with the number that judges it and the rule written down
//! before the run.
//!
//! - *holds*: the interval of the effect lies above 0, and a paired test against the claim's control says so
//!   after Holm's correction over all tasks and settings for which the claim is tested.
//! - *does not hold*: the interval excludes the claimed effect, that is, it ends below the smallest effect that
//!   would matter.
//! - *conditional* (means over tasks): it does not hold or cannot be told over all tasks, and holds over those
//!   whose zero-shot accuracy is above chance.
//! - *cannot be tested*: anything else. Without a gap nothing is said of layers and heads.

use refocus_measure::intervals::{holm, rule_of_three};
use serde::Serialize;

use super::means::{ALL_TASKS, Group, KNOWING_TASKS, SettingMeans, groups, settings};
use super::measures::{Outcome, minus};
use super::resample::{Estimate, Stratum, sign_flip};
use super::summary::Detail;
use crate::verdict::Verdict;

/// Differences of accuracy below this do not matter: two points, about the noise of a mean over 14 tasks of
/// 500 pairs.
const SMALLEST: f64 = 0.02;
/// How far above chance an early layer may answer where the paper finds no overthinking.
const NEAR_CHANCE: f64 = 0.05;
const SIGNIFICANT: f64 = 0.05;
const NO_GAP: &str = "the interval of the gap includes 0 or lies below it";

/// An effect with its interval and its paired test; positive where the claim is right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// How large.
    pub estimate: Estimate,
    /// Probability of an effect as large without one, against the claim's control.
    pub p: f64,
    /// After Holm's correction.
    pub p_holm: Option<f64>,
}

impl Effect {
    /// Differences of pairs, the mean over tasks.
    pub fn of(strata: &[Stratum], seed: u64) -> Self {
        Self { estimate: Estimate::stratified(strata, seed), p: sign_flip(strata, seed), p_holm: None }
    }
}

/// A claim with its verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// Short name, the same for all tasks and settings.
    pub id: &'static str,
    /// In words.
    pub claim: &'static str,
    /// Task; absent for means over tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
    /// How it fared.
    pub verdict: Verdict,
    /// Why not otherwise, where the numbers alone do not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What the effect is measured against.
    pub control: &'static str,
    /// The smallest effect that would matter.
    pub smallest: f64,
    /// Pairs.
    pub n: usize,
    /// Absent where there is nothing to measure.
    pub effect: Option<Effect>,
    /// Over the tasks with zero-shot above chance; for means over tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subgroup: Option<Effect>,
    /// The claim is that there is no such effect.
    pub of_absence: bool,
}

/// What is claimed of a model's heads and late blocks. Other stages measure it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Inside {
    /// Prefix-matching score of the chosen heads, less what their attention by distance alone earns.
    HeadsFound,
    /// FP with the chosen heads ablated, less that with random heads of the same layers ablated.
    HeadsAblated,
    /// FP with late attention ablated, less that with late MLPs ablated.
    LateAttention,
}

impl Inside {
    const ALL: [Inside; 3] = [Inside::HeadsFound, Inside::HeadsAblated, Inside::LateAttention];

    fn terms(self) -> Terms {
        match self {
            Self::HeadsFound => Terms {
                id: "heads_found",
                claim: "some heads attend to the labels of earlier texts of the same class",
                control: "attention by distance alone, on the pairs that did not choose",
                smallest: SMALLEST,
            },
            Self::HeadsAblated => Terms {
                id: "heads_ablated",
                claim: "without these heads false demonstrations mislead less than without random ones",
                control: "random heads of the same layers",
                smallest: SMALLEST,
            },
            Self::LateAttention => Terms {
                id: "late_attention",
                claim: "it is late attention and not late MLPs that false demonstrations act through",
                control: "late MLPs ablated",
                smallest: SMALLEST,
            },
        }
    }
}

/// A measured effect of [`Inside`].
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// For which claim.
    pub of: Inside,
    /// Task; `None` for the mean over tasks.
    pub task: Option<String>,
    /// Setting.
    pub setting: String,
    /// The effect, on pairs that chose nothing.
    pub effect: Effect,
    /// Over the tasks with zero-shot above chance, where `task` is `None`.
    pub subgroup: Option<Effect>,
}

#[derive(Clone, Copy)]
struct Terms {
    id: &'static str,
    claim: &'static str,
    control: &'static str,
    smallest: f64,
}

impl Terms {
    const fn new(id: &'static str, claim: &'static str, control: &'static str) -> Self {
        Self { id, claim, control, smallest: SMALLEST }
    }
}

const GAP: Terms =
    Terms::new("gap", "false demonstrations lower accuracy", "true demonstrations of the same texts");
const COPIES: Terms = Terms::new(
    "copies",
    "the answers follow the classes that false demonstrations show more often than chance",
    "chance, 1/C",
);
const AGREE: Terms = Terms::new(
    "early_layers_agree",
    "in the first quarter of the layers less than half of the gap is there",
    "half of the last layer's gap",
);
const SHARP: Terms = Terms {
    id: "critical_layer",
    claim: "between a quarter and three quarters of the gap lie fewer than half of the layers",
    control: "a gap that opens evenly over the layers",
    smallest: 0.05,
};
const EXIT: Terms = Terms::new(
    "early_exit",
    "with false demonstrations an earlier layer answers better than the last",
    "the last layer",
);
const EXIT_BALANCED: Terms = Terms::new(
    "early_exit_balanced",
    "over true and false demonstrations together an earlier layer answers better",
    "the last layer",
);
const EXIT_ZERO: Terms = Terms::new(
    "early_exit_over_zero_shot",
    "with false demonstrations an earlier layer answers better than the last without any",
    "the last layer without demonstrations",
);
const DOSE: Terms = Terms::new(
    "fewer_false_labels_cost_less",
    "where only some labels are false the gap is smaller",
    "all labels false, the same texts",
);
const AB: Terms = Terms {
    id: "no_overthinking_without_meaning",
    claim: "where labels have no meaning no earlier layer answers above chance",
    control: "chance, 1/C",
    smallest: NEAR_CHANCE,
};
const AB_TASK: &str = "sst2_ab";

/// An effect, or why there is none to judge.
type Found = Result<Effect, String>;

/// Judges all claims that the run allows.
pub fn claims(details: &[Detail], means: &[SettingMeans], evidence: &[Evidence], seed: u64) -> Vec<Claim> {
    let mut out = Vec::new();
    for d in details {
        of_task(d, seed, &mut out);
    }
    for setting in settings(details) {
        of_means(details, means, setting, seed, &mut out);
    }
    dose(details, seed, &mut out);
    for inside in Inside::ALL {
        inside_claims(inside, details, means, evidence, &mut out);
    }
    correct(&mut out);
    out.iter_mut().for_each(judge);
    out
}

fn add(
    out: &mut Vec<Claim>,
    terms: Terms,
    (task, setting): (Option<&str>, Option<&str>),
    found: Found,
    subgroup: Option<Effect>,
) {
    let (effect, why) = match found {
        Ok(effect) => (Some(effect), None),
        Err(why) => (None, Some(why)),
    };
    out.push(Claim {
        id: terms.id,
        claim: terms.claim,
        task: task.map(str::to_owned),
        setting: setting.map(str::to_owned),
        verdict: Verdict::CannotBeTested,
        why,
        control: terms.control,
        smallest: terms.smallest,
        n: effect.or(subgroup).map_or(0, |e| e.estimate.n),
        effect,
        subgroup,
        of_absence: terms.id == AB.id,
    });
}

fn of_task(d: &Detail, seed: u64, out: &mut Vec<Claim>) {
    let one = |values: Vec<f64>| Effect::of(&[Stratum { weight: 1.0, values }], seed);
    let mut tell = |terms, found| add(out, terms, (Some(&d.task), Some(&d.setting)), found, None);
    tell(GAP, Ok(one(d.full().gap())));
    // With two classes the class shown is the other one, and this says what the gap says.
    if d.classes > 2 {
        tell(COPIES, Ok(one(d.shown.iter().map(|c| c - d.chance).collect())));
    }
    let gap = if d.gap.low > 0.0 { Ok(()) } else { Err(NO_GAP.to_owned()) };
    let layers = |found: Found| gap.clone().and(found);
    tell(AGREE, layers(Ok(Effect::of(&d.parting.early_agreement, seed))));
    tell(SHARP, layers(sharp(d.parting.sharpness)));
    let few = || "fewer than four pairs".to_owned();
    let exit = d.mitigation("early_exit").ok_or_else(few);
    tell(EXIT, layers(exit.clone().map(|m| one(minus(&m.after.fp, &m.before.fp)))));
    let both = d.mitigation("early_exit_balanced").ok_or_else(few);
    let gain = |b: &Outcome, a: &Outcome| one(minus(&a.balanced(), &b.balanced()));
    tell(EXIT_BALANCED, layers(both.map(|m| gain(&m.before, &m.after))));
    let zero = d.mitigation("zero_shot").ok_or_else(|| "no text was asked alone".to_owned());
    let over = exit.and_then(|e| Ok(one(minus(&e.after.fp, &zero?.after.fp))));
    tell(EXIT_ZERO, layers(over));
    if d.task == AB_TASK {
        let found = d.mitigation("early_exit").ok_or_else(few);
        let above = |v: &[f64]| one(v.iter().map(|c| c - d.chance).collect());
        tell(AB, layers(found.map(|m| above(&m.after.fp))));
    }
}

fn sharp(found: Option<(Estimate, f64)>) -> Found {
    found.map(|(estimate, p)| Effect { estimate, p, p_holm: None }).ok_or_else(|| NO_GAP.to_owned())
}

fn of_means(details: &[Detail], means: &[SettingMeans], setting: &str, seed: u64, out: &mut Vec<Claim>) {
    let groups = groups(details, setting, seed);
    let Some(all) = groups.iter().find(|g| g.name == ALL_TASKS) else { return };
    let sub = groups.iter().find(|g| g.name == KNOWING_TASKS);
    let gap_of = |name: &str| {
        let m = means.iter().find(|m| m.setting == setting)?.groups.iter().find(|g| g.group == name)?;
        Some((m.gap, m.parting.clone()?))
    };
    let mut tell = |terms, needs_gap: bool, of: &dyn Fn(&Group<'_>) -> Found| {
        let found = |g: &Group<'_>| {
            if needs_gap && gap_of(g.name).is_none_or(|(gap, _)| gap.low <= 0.0) {
                return Err(NO_GAP.to_owned());
            }
            of(g)
        };
        add(out, terms, (None, Some(setting)), found(all), sub.and_then(|g| found(g).ok()));
    };
    let effect = |strata: Vec<Stratum>| Effect::of(&strata, seed);
    let few = || "fewer than four pairs".to_owned();
    tell(GAP, false, &|g| Ok(effect(g.strata(|d| d.full().gap()))));
    tell(AGREE, true, &|g| {
        let (_, parting) = gap_of(g.name).ok_or_else(|| NO_GAP.to_owned())?;
        Ok(effect(parting.early_agreement))
    });
    tell(SHARP, true, &|g| sharp(gap_of(g.name).and_then(|(_, p)| p.sharpness)));
    tell(EXIT, true, &|g| {
        let layer = g.joint_exit(|o| o.fp.clone()).ok_or_else(few)?;
        let gain = |d: &Detail| minus(&d.measure[layer].fp, &d.measure[d.measure.len() - 1].fp);
        Ok(effect(g.strata(gain)))
    });
    tell(EXIT_BALANCED, true, &|g| {
        let layer = g.joint_exit(Outcome::balanced).ok_or_else(few)?;
        let last = |d: &Detail| d.measure[d.measure.len() - 1].balanced();
        Ok(effect(g.strata(|d| minus(&d.measure[layer].balanced(), &last(d)))))
    });
    tell(EXIT_ZERO, true, &|g| {
        let layer = g.joint_exit(|o| o.fp.clone()).ok_or_else(few)?;
        let over =
            |d: &Detail| d.mitigation("zero_shot").map(|zero| minus(&d.measure[layer].fp, &zero.after.fp));
        g.strata_if(over).map(effect).ok_or_else(|| "no text was asked alone".to_owned())
    });
}

/// The gap of `permuted` less that of the other settings, on the same pairs.
fn dose(details: &[Detail], seed: u64, out: &mut Vec<Claim>) {
    let full = "permuted";
    for setting in settings(details).into_iter().filter(|s| *s != full) {
        let others = groups(details, setting, seed);
        let less = |d: &Detail| {
            let all = details.iter().find(|o| o.task == d.task && o.setting == full)?;
            let (a, b) = (all.full().gap(), d.full().gap());
            (a.len() == b.len()).then(|| minus(&a, &b))
        };
        let effect = |g: &Group<'_>| g.strata_if(less).map(|strata| Effect::of(&strata, seed));
        let of = |name: &str| others.iter().find(|g| g.name == name).and_then(effect);
        if let Some(all) = of(ALL_TASKS) {
            add(out, DOSE, (None, Some(setting)), Ok(all), of(KNOWING_TASKS));
        }
    }
}

fn inside_claims(
    inside: Inside,
    details: &[Detail],
    means: &[SettingMeans],
    evidence: &[Evidence],
    out: &mut Vec<Claim>,
) {
    let mut any = false;
    for e in evidence.iter().filter(|e| e.of == inside) {
        any = true;
        let gap = match &e.task {
            Some(task) => details.iter().find(|d| &d.task == task && d.setting == e.setting).map(|d| d.gap),
            None => means
                .iter()
                .find(|m| m.setting == e.setting)
                .and_then(|m| m.groups.iter().find(|g| g.group == ALL_TASKS))
                .map(|g| g.gap),
        };
        let found = if gap.is_some_and(|g| g.low > 0.0) { Ok(e.effect) } else { Err(NO_GAP.to_owned()) };
        add(out, inside.terms(), (e.task.as_deref(), Some(&e.setting)), found, e.subgroup);
    }
    if !any {
        add(out, inside.terms(), (None, None), Err("not measured in this run".to_owned()), None);
    }
}

/// Holm's correction within each claim, over tasks and settings, and over settings and groups for means.
fn correct(claims: &mut [Claim]) {
    let families: Vec<(&'static str, bool)> = claims.iter().map(|c| (c.id, c.task.is_some())).collect();
    let mut done: Vec<(&'static str, bool)> = Vec::new();
    for family in families {
        if done.contains(&family) {
            continue;
        }
        done.push(family);
        let mut effects: Vec<&mut Effect> = claims
            .iter_mut()
            .filter(|c| (c.id, c.task.is_some()) == family)
            .flat_map(|c| c.effect.iter_mut().chain(c.subgroup.iter_mut()))
            .collect();
        let together = holm(&effects.iter().map(|e| e.p).collect::<Vec<_>>());
        effects.iter_mut().zip(together).for_each(|(e, p)| e.p_holm = Some(p));
    }
}

/// What one effect says, and why it says nothing.
fn verdict(effect: &Effect, smallest: f64, of_absence: bool) -> (Verdict, Option<String>) {
    let e = &effect.estimate;
    // Where no pair differs the bootstrap's interval has no width; the rule of three still bounds the effect.
    let high = if e.low == 0.0 && e.high == 0.0 { rule_of_three(e.n as u64).unwrap_or(1.0) } else { e.high };
    if of_absence {
        return if high < smallest {
            (Verdict::Holds, None)
        } else if e.low > 0.0 && effect.p_holm.is_some_and(|p| p < SIGNIFICANT) {
            (Verdict::DoesNotHold, None)
        } else {
            (Verdict::CannotBeTested, Some(format!("the interval includes {smallest}")))
        };
    }
    if e.low > 0.0 {
        return match effect.p_holm {
            Some(p) if p < SIGNIFICANT => (Verdict::Holds, None),
            _ => (
                Verdict::CannotBeTested,
                Some("the paired test is not significant after Holm's correction".to_owned()),
            ),
        };
    }
    if high < smallest {
        return (Verdict::DoesNotHold, None);
    }
    if high > e.high {
        let why = format!("no pair differs, and {} pairs are too few to exclude {smallest}", e.n);
        return (Verdict::CannotBeTested, Some(why));
    }
    (Verdict::CannotBeTested, Some(format!("the interval includes 0 and {smallest}")))
}

fn judge(claim: &mut Claim) {
    let told = claim.effect.as_ref().map(|e| verdict(e, claim.smallest, claim.of_absence));
    if let Some((v, why)) = told {
        (claim.verdict, claim.why) = (v, why);
    }
    let sub = claim.subgroup.as_ref().map(|e| verdict(e, claim.smallest, claim.of_absence).0);
    if claim.verdict != Verdict::Holds && sub == Some(Verdict::Holds) {
        claim.verdict = Verdict::Conditional;
        claim.why = Some(format!("it holds over {KNOWING_TASKS}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(low: f64, high: f64, p: f64) -> Effect {
        let estimate = Estimate { value: f64::midpoint(low, high), low, high, n: 100 };
        Effect { estimate, p, p_holm: None }
    }

    fn judged(all: Vec<(Found, Option<Effect>)>) -> Vec<(Verdict, Option<String>)> {
        let mut out = Vec::new();
        for (found, sub) in all {
            add(&mut out, GAP, (None, Some("permuted")), found, sub);
        }
        correct(&mut out);
        out.iter_mut().for_each(judge);
        out.into_iter().map(|c| (c.verdict, c.why)).collect()
    }

    #[test]
    fn verdicts_follow_the_rules() {
        let told = judged(vec![
            (Ok(effect(0.1, 0.3, 0.001)), None),
            (Ok(effect(-0.1, 0.01, 0.4)), None),
            (Ok(effect(-0.1, 0.1, 0.9)), None),
            (Err(NO_GAP.to_owned()), None),
            (Ok(effect(-0.1, 0.1, 0.9)), Some(effect(0.1, 0.3, 0.001))),
        ]);
        let verdicts: Vec<Verdict> = told.iter().map(|t| t.0).collect();
        use Verdict::{CannotBeTested, Conditional, DoesNotHold, Holds};
        assert_eq!(verdicts, [Holds, DoesNotHold, CannotBeTested, CannotBeTested, Conditional]);
        assert_eq!(told[2].1.as_deref(), Some("the interval includes 0 and 0.02"));
        assert_eq!(told[3].1.as_deref(), Some(NO_GAP));
    }

    #[test]
    fn pairs_that_never_differ_say_no_more_than_their_number() {
        let none = |n: usize| {
            let mut e = effect(0.0, 0.0, 1.0);
            e.estimate.n = n;
            verdict(&e, 0.02, false)
        };
        assert_eq!(none(151).0, Verdict::DoesNotHold);
        let (v, why) = none(12);
        assert_eq!(v, Verdict::CannotBeTested);
        assert_eq!(why.as_deref(), Some("no pair differs, and 12 pairs are too few to exclude 0.02"));
    }

    #[test]
    fn one_of_many_small_chances_is_no_finding() {
        let mut all = vec![(Ok(effect(0.01, 0.2, 0.03)), None)];
        assert_eq!(judged(all.clone())[0].0, Verdict::Holds);
        all.extend((0..4).map(|_| (Ok(effect(-0.2, 0.2, 0.5)), None)));
        let (verdict, why) = judged(all).swap_remove(0);
        assert_eq!(verdict, Verdict::CannotBeTested);
        assert!(why.is_some_and(|w| w.contains("Holm")));
    }

    #[test]
    fn an_absence_must_be_shown_too() {
        let of =
            |low, high| verdict(&Effect { p_holm: Some(0.001), ..effect(low, high, 0.001) }, 0.05, true).0;
        assert_eq!(of(-0.03, 0.03), Verdict::Holds);
        assert_eq!(of(0.06, 0.2), Verdict::DoesNotHold);
        assert_eq!(of(-0.1, 0.1), Verdict::CannotBeTested);
    }

    #[test]
    fn what_was_not_measured_cannot_be_tested() {
        let all = claims(&[], &[], &[], 0);
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|c| c.why.as_deref() == Some("not measured in this run")));
    }
}
