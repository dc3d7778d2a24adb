//! What the study does inside the model: heads chosen on one half of the pairs, and ablations of them and of
//! late blocks measured on the other.

use std::ops::Range;

use refocus_compute::Ops;
use refocus_model::{Model, ModelSpec};
use serde::Serialize;

use super::ablate::{At, How, Variant, random_heads};
use super::claims::{Effect as ClaimEffect, Evidence, Inside};
use super::effect::{AblatedPairs, AgainstRandom, Credits, ablate_pairs, against_random};
use super::error::StudyError;
use super::heads::{HeadId, HeadScore, Means, Observed, label_rows_stored, looks, observe_stored, top_heads};
use super::means::{ALL_TASKS, KNOWING_TASKS, groups, settings};
use super::measures::{Outcome, Pairs, mean, minus};
use super::method::{AblationRules, heads_as_released};
use super::resample::Stratum;
use super::rivals::{Chosen, FEWEST, Measured};
use super::store::Store;
use super::summary::Detail;
use super::work::Kind;

/// Draws of random heads beside each chosen set.
pub const DRAWS: u32 = 20;

/// Which of a setting's pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Those that choose.
    Choosing,
    /// Those that measure.
    Measuring,
}

impl Half {
    fn of(self, pairs: &Pairs<'_>) -> Vec<usize> {
        let halves = pairs.halves();
        if self == Self::Choosing { halves.choose } else { halves.measure }
    }

    /// Prompts of a half.
    pub fn prompts(self, pairs: &Pairs<'_>) -> usize {
        2 * self.of(pairs).len()
    }
}

/// What the heads did on the prompts of some pairs.
#[derive(Clone, Debug)]
pub struct Seen {
    on_true: Observed,
    on_false: Observed,
}

impl Seen {
    /// Scores of all heads on true or on false prompts.
    pub fn scores(&self, kind: Kind) -> Vec<HeadScore> {
        if kind == Kind::True { self.on_true.scores() } else { self.on_false.scores() }
    }

    /// Mean outputs over both kinds of prompts together.
    pub fn means(&self) -> Means {
        let mut all = self.on_true.clone();
        all.merge(&self.on_false);
        all.means()
    }
}

/// Looks at all heads on one half of the pairs. What is finished is kept in the store, under names that begin
/// with `name`.
///
/// # Errors
/// As [`observe_stored`].
pub fn see<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    pairs: &Pairs<'_>,
    half: Half,
    (store, name): (&Store, &str),
    mut tick: impl FnMut(usize, bool),
) -> Result<Seen, StudyError> {
    let subset = half.of(pairs);
    let mut one = |kind, which: &str| {
        let prompts = looks(pairs.task, pairs.setting, &subset, kind);
        observe_stored(o, m, pairs.task, &prompts, (store, &format!("{name}-{which}")), &mut tick)
    };
    Ok(Seen { on_true: one(Kind::True, "true")?, on_false: one(Kind::False, "false")? })
}

/// Heads, and where they were chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadChoice {
    /// The highest prefix-matching scores on false prompts, highest first.
    pub heads: Vec<HeadId>,
    /// Task whose prompts chose them.
    pub task: String,
    /// Its setting.
    pub setting: String,
    /// `even pairs` or `all pairs`.
    pub on: &'static str,
}

impl HeadChoice {
    /// The `k` heads with the highest prefix-matching score on false prompts.
    pub fn of(pairs: &Pairs<'_>, seen: &Seen, k: usize) -> Self {
        Self {
            heads: top_heads(&seen.scores(Kind::False), k),
            task: pairs.task.task.clone(),
            setting: pairs.setting.name.clone(),
            on: pairs.halves().chosen_on,
        }
    }
}

/// Whether a setting has pairs enough to choose on some and to measure on others.
pub fn can_be_ablated(pairs: &Pairs<'_>) -> bool {
    pairs.setting.pairs.len() >= FEWEST && pairs.last() > 0
}

/// The block from which on late parts are ablated: the one that writes the critical layer of all pairs, the
/// first with half of the gap. `None` unless the interval of the gap lies above 0. On the pairs that choose
/// alone it is often a layer whose gap is noise; what an ablation does has no part in it.
fn late_block(detail: &Detail) -> Option<usize> {
    let critical = detail.parting.critical.iter().find(|c| c.share == 0.5)?;
    Some(critical.layer.saturating_sub(1))
}

/// A way to answer that is an ablation, or the mean over several.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    name: String,
    family: &'static str,
    how: How,
    what: String,
    chosen: Option<Chosen>,
    variants: Range<usize>,
}

/// The ablations of one setting.
#[derive(Clone, Debug, PartialEq)]
pub struct AblationPlan {
    /// All of them, to be run together.
    pub variants: Vec<Variant>,
    entries: Vec<Entry>,
    choice: HeadChoice,
    late_from: Option<usize>,
    /// What removes a head; the claims are judged by it.
    removed: How,
}

fn name_of(how: How) -> &'static str {
    match how {
        How::Zero => "zero",
        How::Mean => "mean",
        How::Uniform => "uniform",
    }
}

impl AblationPlan {
    /// The chosen heads together and each by itself, random heads, and late attention and MLPs where there is
    /// a gap.
    pub fn new(
        spec: &ModelSpec,
        choice: &HeadChoice,
        detail: &Detail,
        rules: AblationRules,
        seed: u64,
    ) -> Self {
        let late_from = late_block(detail);
        let removed = if rules.uniform_for_zero { How::Uniform } else { How::Zero };
        let mut plan =
            Self { variants: Vec::new(), entries: Vec::new(), choice: choice.clone(), late_from, removed };
        let heads = &choice.heads;
        let picked =
            Chosen { what: "heads", value: heads.len() as f64, by: "prefix-matching score", on: choice.on };
        let random: Vec<Vec<HeadId>> = if rules.swapped_ranges {
            let one = |draw| heads_as_released(spec.n_layers, spec.n_heads, heads.len(), draw, seed);
            let ids = |all: Vec<Option<(usize, usize)>>| {
                all.into_iter().flatten().map(|(layer, head)| HeadId { layer, head }).collect()
            };
            (0..DRAWS).map(one).map(ids).collect()
        } else {
            random_heads(heads, spec.n_heads, DRAWS, seed)
        };
        for how in [removed, How::Mean] {
            let word = name_of(how);
            let of = |heads: &[HeadId]| Variant::heads(heads, how, At::LastSlot);
            let what = "the heads with the highest prefix-matching scores ablated together";
            plan.add((&format!("heads_{word}"), "heads", how), what, Some(picked.clone()), vec![of(heads)]);
            for head in heads {
                let name = format!("head_{}.{}_{word}", head.layer, head.head);
                plan.add((&name, "heads", how), "one of these heads ablated", None, vec![of(&[*head])]);
            }
            let name = format!("random_heads_{word}");
            let what = if rules.swapped_ranges {
                "as many heads drawn as in the released code ablated together, the mean over draws"
            } else {
                "as many random heads of the same layers ablated together, the mean over draws"
            };
            plan.add((&name, "random_heads", how), what, None, random.iter().map(|r| of(r)).collect());
        }
        let Some(from) = late_from else { return plan };
        let picked =
            Chosen { what: "from block", value: from as f64, by: "half of the gap", on: "all pairs" };
        for how in [How::Zero, How::Mean, How::Uniform] {
            let late = Variant::late_attention(from, spec.n_layers, how);
            let name = format!("late_attention_{}", name_of(how));
            let what = "attention from the critical layer on ablated";
            plan.add((&name, "late_attention", how), what, Some(picked.clone()), vec![late]);
        }
        for how in [How::Zero, How::Mean] {
            let late = Variant::late_mlp(from, spec.n_layers, how);
            let name = format!("late_mlp_{}", name_of(how));
            let what = "MLPs from the critical layer on ablated";
            plan.add((&name, "late_mlp", how), what, Some(picked.clone()), vec![late]);
        }
        plan
    }

    fn add(
        &mut self,
        (name, family, how): (&str, &'static str, How),
        what: &str,
        chosen: Option<Chosen>,
        variants: Vec<Variant>,
    ) {
        let first = self.variants.len();
        self.variants.extend(variants);
        let variants = first..self.variants.len();
        self.entries.push(Entry {
            name: name.to_owned(),
            family,
            how,
            what: what.to_owned(),
            chosen,
            variants,
        });
    }

    fn entry(&self, family: &str, how: How) -> Option<&Entry> {
        self.entries.iter().find(|e| e.family == family && e.how == how)
    }

    /// Runs the ablations on the pairs that measure. `means` are those of the pairs that choose. Finished
    /// blocks are kept in the store under the name given.
    ///
    /// # Errors
    /// As [`ablate_pairs`].
    pub fn run<O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        pairs: &Pairs<'_>,
        means: &Means,
        kept: (&Store, &str),
        tick: impl FnMut(usize, bool),
    ) -> Result<AblatedPairs, StudyError> {
        let subset = pairs.halves().measure;
        let both = (pairs.task, pairs.setting);
        ablate_pairs(o, m, both, &subset, &self.variants, Some(means), Some(kept), tick)
    }

    /// What the ablations do. They are compared with the unchanged model on the same pairs, or, where the
    /// defect is reproduced, with `level`: TP and FP of another average.
    ///
    /// # Errors
    /// The model gave no number.
    pub fn effects(
        &self,
        ablated: &AblatedPairs,
        detail: &Detail,
        level: Option<(f64, f64)>,
        seed: u64,
    ) -> Result<(Vec<Measured>, InsideSummary), StudyError> {
        let credits =
            (0..self.variants.len()).map(|v| Credits::of(ablated, v)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = credits.first() else {
            return Err(StudyError::Variant { why: "no ablation is asked for".to_owned() });
        };
        let mut before = Outcome { tp: first.tp.clone(), fp: first.fp.clone() };
        if let Some((tp, fp)) = level {
            let lift = |all: &mut Vec<f64>, to: f64| {
                let by = to - mean(all);
                all.iter_mut().for_each(|x| *x += by);
            };
            lift(&mut before.tp, tp);
            lift(&mut before.fp, fp);
        }
        let after = |e: &Entry| {
            let all = &credits[e.variants.clone()];
            let over = |of: fn(&Credits) -> &Vec<f64>| -> Vec<f64> {
                (0..before.tp.len())
                    .map(|i| all.iter().map(|c| of(c)[i]).sum::<f64>() / all.len() as f64)
                    .collect()
            };
            Outcome { tp: over(|c| &c.ablated_tp), fp: over(|c| &c.ablated_fp) }
        };
        let measured = self.entries.iter().map(|e| {
            let name = (&e.name[..], e.family, Some(e.how));
            Measured::of(
                name,
                e.what.clone(),
                e.chosen.clone(),
                detail.measured_on,
                (&before, after(e)),
                seed,
            )
        });
        let beside = |how: How| {
            let (own, random) = (self.entry("heads", how)?, self.entry("random_heads", how)?);
            let found =
                against_random(&credits[own.variants.start], &credits[random.variants.clone()], seed)?;
            Some(BesideRandom { how, found })
        };
        let summary = InsideSummary {
            chosen: self.choice.clone(),
            scores: Vec::new(),
            late_from: self.late_from,
            against_random: [self.removed, How::Mean].into_iter().filter_map(beside).collect(),
        };
        Ok((measured.collect(), summary))
    }

    /// What the claims about heads and late blocks are judged by, pair by pair.
    pub fn evidence(&self, detail: &Detail) -> Vec<PairEffect> {
        let fp = |family: &str, how: How| {
            let name = &self.entry(family, how)?.name;
            detail.mitigation(name).map(|m| &m.after.fp)
        };
        let less = |of: Inside, a: (&str, How), b: (&str, How)| {
            let values = minus(fp(a.0, a.1)?, fp(b.0, b.1)?);
            Some(PairEffect { of, task: detail.task.clone(), setting: detail.setting.clone(), values })
        };
        [
            less(Inside::HeadsAblated, ("heads", self.removed), ("random_heads", self.removed)),
            less(Inside::LateAttention, ("late_attention", How::Zero), ("late_mlp", How::Zero)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Chosen heads beside random ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BesideRandom {
    /// How they were ablated.
    pub how: How,
    /// What came of it.
    #[serde(flatten)]
    pub found: AgainstRandom,
}

/// What is told of heads and late blocks of one task and setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InsideSummary {
    /// The heads that are ablated, and what chose them.
    pub chosen: HeadChoice,
    /// Their scores on this task's and setting's own false prompts, on the pairs that choose.
    pub scores: Vec<HeadScore>,
    /// The block from which on late parts are ablated; absent without a gap.
    pub late_from: Option<usize>,
    /// The heads beside random ones of the same layers; empty where nothing was ablated.
    pub against_random: Vec<BesideRandom>,
}

/// TP and FP of the last layer over all formats of a task, on the pairs that measure: what the released code
/// compares ablations of the first format with. `None` where `detail` is not of the first format.
pub fn level_of_formats(details: &[Detail], detail: &Detail) -> Option<(f64, f64)> {
    let stem = |task: &str| task.split('.').next().unwrap_or(task).to_owned();
    let mine = |d: &&Detail| d.setting == detail.setting && stem(&d.task) == stem(&detail.task);
    let formats: Vec<&Detail> = details.iter().filter(mine).collect();
    formats.first().filter(|d| d.task == detail.task)?;
    let level = |of: fn(&Outcome) -> &Vec<f64>| {
        let each: Vec<f64> = formats.iter().filter_map(|d| d.measure.last()).map(|o| mean(of(o))).collect();
        mean(&each)
    };
    Some((level(|o| &o.tp), level(|o| &o.fp)))
}

/// One number a pair for a claim about the inside of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct PairEffect {
    /// Which claim.
    pub of: Inside,
    /// Task.
    pub task: String,
    /// Setting.
    pub setting: String,
    /// By pair, positive where the claim is right.
    pub values: Vec<f64>,
}

/// How much more the heads attend to labels of the class shown than their mean attention by distance earns:
/// prefix-matching score less its control, on the false prompts of the pairs that measure, mean over the heads.
///
/// # Errors
/// As [`observe_stored`].
pub fn heads_found<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    pairs: &Pairs<'_>,
    heads: &[HeadId],
    kept: (&Store, &str),
    tick: impl FnMut(usize, bool),
) -> Result<PairEffect, StudyError> {
    let prompts = looks(pairs.task, pairs.setting, &Half::Measuring.of(pairs), Kind::False);
    let rows = label_rows_stored(o, m, pairs.task, &prompts, heads, kept, tick)?;
    let (k, others) = (pairs.task.demos, pairs.classes() as f64 - 1.0);
    let n = rows.len() as f64;
    let each = heads.len() * k;
    let by_distance: Vec<f64> = (0..each).map(|at| rows.iter().map(|r| r[at]).sum::<f64>() / n).collect();
    let one = |(row, p): (&Vec<f64>, &super::heads::Look<'_>)| {
        let weight = |slot: usize| if p.shown[slot] == p.shown[k - 1] { 1.0 } else { -1.0 / others };
        let all = row.iter().zip(&by_distance).enumerate();
        // From the last slot to those before it.
        let matched: f64 =
            all.filter(|(at, _)| at % k + 1 < k).map(|(at, (a, d))| weight(at % k) * (a - d)).sum();
        matched / heads.len() as f64
    };
    let values = rows.iter().zip(&prompts).map(one).collect();
    let (task, setting) = (pairs.task.task.clone(), pairs.setting.name.clone());
    Ok(PairEffect { of: Inside::HeadsFound, task, setting, values })
}

/// Evidence of each task and setting, and of the means over tasks where every task has it.
pub fn evidence(details: &[Detail], found: &[PairEffect], seed: u64) -> Vec<Evidence> {
    let mut out = Vec::new();
    for e in found {
        let strata = [Stratum { weight: 1.0, values: e.values.clone() }];
        let effect = ClaimEffect::of(&strata, seed);
        let (task, setting) = (Some(e.task.clone()), e.setting.clone());
        out.push(Evidence { of: e.of, task, setting, effect, subgroup: None });
    }
    for setting in settings(details) {
        let groups = groups(details, setting, seed);
        for of in [Inside::HeadsFound, Inside::HeadsAblated, Inside::LateAttention] {
            let values = |d: &Detail| {
                let mine = |e: &&PairEffect| e.of == of && e.task == d.task && e.setting == setting;
                found.iter().find(mine).map(|e| e.values.clone())
            };
            let effect = |name: &str| {
                let group = groups.iter().find(|g| g.name == name)?;
                Some(ClaimEffect::of(&group.strata_if(values)?, seed))
            };
            if let Some(all) = effect(ALL_TASKS) {
                let subgroup = effect(KNOWING_TASKS);
                out.push(Evidence { of, task: None, setting: setting.to_owned(), effect: all, subgroup });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::ablate::{Ablated, Part};
    use super::super::critical::{Critical, Parting};
    use super::super::resample::Estimate;
    use super::*;

    fn detail(task: &str, critical: Option<usize>, fp: f64) -> Detail {
        let outcome = Outcome { tp: vec![1.0; 4], fp: vec![fp; 4] };
        let critical = critical.map(|layer| Critical { share: 0.5, layer, low: 0, high: 2 });
        Detail {
            task: task.to_owned(),
            setting: "permuted".to_owned(),
            control: false,
            chance: 0.5,
            classes: 2,
            all: vec![outcome.clone(); 3],
            choose: vec![outcome.clone(); 3],
            measure: vec![outcome; 3],
            zero_shot: vec![1.0; 4],
            shown: vec![0.0; 4],
            mitigations: Vec::new(),
            head_means: Vec::new(),
            parting: Parting {
                critical: critical.into_iter().collect(),
                sharpness: None,
                early_agreement: Vec::new(),
            },
            gap: Estimate { value: 0.5, low: 0.1, high: 0.9, n: 4 },
            chosen_on: "even pairs",
            measured_on: "odd pairs",
        }
    }

    fn plan(detail: &Detail, rules: AblationRules) -> AblationPlan {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
        let spec = refocus_model::Checkpoint::open(folder).expect("the fixture").spec().clone();
        let choice = HeadChoice {
            heads: vec![HeadId { layer: 1, head: 2 }],
            task: "t".to_owned(),
            setting: "permuted".to_owned(),
            on: "even pairs",
        };
        AblationPlan::new(&spec, &choice, detail, rules, 1)
    }

    const RIGHT: AblationRules =
        AblationRules { uniform_for_zero: false, swapped_ranges: false, first_format_only: false };

    #[test]
    fn late_parts_begin_with_the_block_that_writes_the_critical_layer() {
        let p = plan(&detail("t", Some(2), 0.0), RIGHT);
        assert_eq!((p.late_from, p.entries.len()), (Some(1), 2 * 3 + 5));
        let late = p.entry("late_mlp", How::Mean).expect("there is a gap");
        assert_eq!(p.variants[late.variants.start].parts, [Part::Mlp(1)]);
        let p = plan(&detail("t", None, 0.0), RIGHT);
        assert_eq!((p.late_from, p.entries.len()), (None, 2 * 3));
        let random = p.entry("random_heads", How::Zero).expect("random heads");
        let draws = &p.variants[random.variants.clone()];
        assert!(
            draws.len() == 20 && draws.iter().all(|v| matches!(v.parts[..], [Part::Head(h)] if h.layer == 1))
        );
        let released = plan(&detail("t", None, 0.0), AblationRules { swapped_ranges: true, ..RIGHT });
        let random = released.entry("random_heads", How::Zero).expect("random heads");
        let draws = &released.variants[random.variants.clone()];
        assert!(draws.iter().any(|v| v.parts.is_empty()), "void draws ablate nothing");
    }

    #[test]
    fn an_ablation_is_compared_with_the_unchanged_model_or_with_the_level_asked_for() {
        let d = detail("t", None, 0.0);
        let p = plan(&d, RIGHT);
        // The label of logit 1 is credited where the true class is it; the ablation turns false prompts round.
        let truth = vec![0, 1, 0, 1];
        let logits = |class: u32| if class == 0 { vec![1.0, 0.0] } else { vec![0.0, 1.0] };
        let own = p.entry("heads", How::Zero).expect("the heads").variants.start;
        let one = |truth: u32, wrong: bool| {
            let base = logits(if wrong { 1 - truth } else { truth });
            let mut variants = vec![base.clone(); p.variants.len()];
            variants[own] = logits(truth);
            Ablated { base, variants }
        };
        let pairs = AblatedPairs {
            task: "t".to_owned(),
            honest: truth.iter().map(|&c| one(c, false)).collect(),
            wrong: truth.iter().map(|&c| one(c, true)).collect(),
            shown: truth.iter().map(|c| 1 - c).collect(),
            truth,
        };
        let (measured, told) = p.effects(&pairs, &d, None, 0).expect("effects");
        let of = |measured: &[Measured], name: &str| {
            let m = measured.iter().find(|m| m.mitigation.name == name).expect(name).mitigation.clone();
            (m.tp_gain.value, m.fp_gain.value, m.gap_reduction.map(|g| g.value))
        };
        assert_eq!(of(&measured, "heads_zero"), (0.0, 1.0, Some(1.0)));
        assert_eq!(of(&measured, "head_1.2_mean"), (0.0, 0.0, Some(0.0)));
        assert_eq!(told.against_random[0].found.fp_over_random.value, 1.0);
        let mut d = d;
        d.mitigations = measured;
        let evidence = p.evidence(&d);
        assert_eq!((evidence.len(), &evidence[0].values[..]), (1, &[1.0; 4][..]));
        // Another format is answered half right: the average is what the first format is compared with.
        let level = level_of_formats(&[d.clone(), detail("t.1", None, 1.0)], &d);
        assert_eq!(level, Some((1.0, 0.5)));
        assert_eq!(level_of_formats(&[d.clone(), detail("t.1", None, 1.0)], &detail("t.1", None, 1.0)), None);
        let (measured, _) = p.effects(&pairs, &d, level, 0).expect("effects");
        assert_eq!(of(&measured, "heads_zero").1, 0.5);
    }
}
