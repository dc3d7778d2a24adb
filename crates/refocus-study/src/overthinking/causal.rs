//! The exact causal map: each head by itself removed or held at its mean, on true and false prompts.

use refocus_compute::Ops;
use refocus_model::{Model, ModelSpec};
use serde::Serialize;

use super::ablate::{Ablated, At, How, Variant};
use super::effect::{AblatedPairs, ablate_pairs, credits_of};
use super::error::StudyError;
use super::heads::{HeadId, Means};
use super::store::Store;
use super::work::{SettingWork, TaskWork};

/// How a head is ablated for the map.
pub const MAPPED: [How; 2] = [How::Zero, How::Mean];

/// Every head by itself, block by block; for each head one variant for each of [`MAPPED`].
pub fn single_heads(spec: &ModelSpec) -> Vec<Variant> {
    let heads =
        (0..spec.n_layers).flat_map(|layer| (0..spec.n_heads).map(move |head| HeadId { layer, head }));
    heads.flat_map(|id| MAPPED.map(|how| Variant::heads(&[id], how, At::LastSlot))).collect()
}

/// A mean over pairs with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Mean; ablated less unchanged.
    pub value: f64,
    /// Standard error; absent of fewer than two pairs.
    pub error: Option<f64>,
    /// Pairs.
    pub n: usize,
}

impl Change {
    /// Of one number a pair; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let value = values.iter().sum::<f64>() / n;
        let var = values.iter().map(|v| (v - value).powi(2)).sum::<f64>() / (n - 1.0);
        let error = (values.len() > 1).then(|| (var / n).sqrt());
        (!values.is_empty()).then_some(Self { value, error, n: values.len() })
    }
}

/// What an ablation changes on the prompts of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moved {
    /// Of logit(shown) − logit(true) at the last slot, over the pairs where the false prompt suggests another
    /// class than the true one: above 0, the ablation makes the false class likelier. Absent without such.
    pub logit_difference: Option<Change>,
    /// Of calibrated accuracy, thresholds recomputed. Absent without pairs.
    pub accuracy: Option<Change>,
}

/// A cell of the map.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CausalCell {
    /// Which head.
    #[serde(flatten)]
    pub id: HeadId,
    /// How it is ablated.
    pub how: How,
    /// On prompts with true demonstrations.
    pub on_true: Moved,
    /// On prompts with false ones.
    pub on_false: Moved,
}

/// The map of all pairs of a setting. `means` are those of the pairs at even places and of those at odd places;
/// each half is ablated with the other's. With a store, blocks are kept under the name given; `tick` is told
/// how many more prompts are done, and whether they were there.
///
/// # Errors
/// As [`ablate_pairs`].
pub fn causal_map<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    (task, setting): (&TaskWork, &SettingWork),
    [even, odd]: [&Means; 2],
    store: Option<(&Store, &str)>,
    mut tick: impl FnMut(usize, bool),
) -> Result<Vec<CausalCell>, StudyError> {
    let variants = single_heads(&m.spec);
    let mut all: Option<AblatedPairs> = None;
    for (from, means) in [(0, odd), (1, even)] {
        let half: Vec<usize> = (from..setting.pairs.len()).step_by(2).collect();
        let name = store.map(|(store, name)| (store, format!("{name}-{}", ["even", "odd"][from])));
        let name = name.as_ref().map(|(store, name)| (*store, &name[..]));
        let got = ablate_pairs(o, m, (task, setting), &half, &variants, Some(means), name, &mut tick)?;
        match &mut all {
            None => all = Some(got),
            Some(all) => all.extend(got),
        }
    }
    all.map_or_else(|| Ok(Vec::new()), |all| causal_cells(&all, &variants, 0))
}

/// The cells of variants of one head each, which stand from `first` on among those of the pairs.
///
/// # Errors
/// The model gave no number.
pub fn causal_cells(
    pairs: &AblatedPairs,
    variants: &[Variant],
    first: usize,
) -> Result<Vec<CausalCell>, StudyError> {
    let base = |all: &[Ablated]| credits_of(pairs, &all.iter().map(|a| &a.base[..]).collect::<Vec<_>>());
    let credits = [base(&pairs.honest)?, base(&pairs.wrong)?];
    let mut out = Vec::with_capacity(variants.len());
    for (i, v) in variants.iter().enumerate() {
        let [super::ablate::Part::Head(id)] = v.parts[..] else { continue };
        let moved = |all: &[Ablated], base: &[f64]| -> Result<Moved, StudyError> {
            let changed: Vec<&[f32]> = all.iter().map(|a| &a.variants[first + i][..]).collect();
            let credit = credits_of(pairs, &changed)?;
            let accuracy: Vec<f64> = credit.iter().zip(base).map(|(a, b)| a - b).collect();
            let difference = |l: &[f32], p: usize| {
                f64::from(l[pairs.shown[p] as usize]) - f64::from(l[pairs.truth[p] as usize])
            };
            let logit: Vec<f64> = (0..all.len())
                .filter(|&p| pairs.shown[p] != pairs.truth[p])
                .map(|p| difference(changed[p], p) - difference(&all[p].base, p))
                .collect();
            Ok(Moved { logit_difference: Change::of(&logit), accuracy: Change::of(&accuracy) })
        };
        let on_true = moved(&pairs.honest, &credits[0])?;
        let on_false = moved(&pairs.wrong, &credits[1])?;
        out.push(CausalCell { id, how: v.how, on_true, on_false });
    }
    Ok(out)
}
