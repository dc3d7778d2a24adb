//! What becomes of the answer when one head or MLP gives something else at the last token.
//!
//! With [`Rest::Frozen`] this is path patching as released (Lv et al. 2024; after Wang et al. 2023): queries, keys
//! and values of every head stay those of the unchanged run, MLPs are recomputed, and what arrives at the last
//! residual stream is the effect of the paths sender → MLPs → output. With [`Rest::Live`] it is ablation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use refocus_compute::{Ops, Philox, Purpose};
use refocus_model::{Kind, Model, ModelSpec, Site};

use super::observe::{batches, caches};
use super::variants::{Swap, Variant, run};
use super::{Observed, Prompt, Score, Unembedding};
use crate::error::MeasureError;

const PARTNERS: Purpose = Purpose::new("recall: partners");

/// What is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sender {
    /// One head's output.
    Head {
        /// Block.
        layer: usize,
        /// Query head.
        head: usize,
    },
    /// The output of a block's MLP.
    Mlp(usize),
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sender::Head { layer, head } => write!(f, "{layer}.{head}"),
            Sender::Mlp(layer) => write!(f, "mlp {layer}"),
        }
    }
}

/// All heads and MLPs of a model, block by block.
pub fn senders(spec: &ModelSpec) -> Vec<Sender> {
    let block =
        |layer| (0..spec.n_heads).map(move |head| Sender::Head { layer, head }).chain([Sender::Mlp(layer)]);
    (0..spec.n_layers).flat_map(block).collect()
}

/// What stands in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instead {
    /// Zero.
    Zero,
    /// The mean over the corrupted prompts, the same vector for all prompts.
    Mean,
    /// What it gives in the prompt's own corrupted prompt.
    Partner,
    /// What it gave: nothing may change.
    Itself,
}

/// What the blocks after it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rest {
    /// Heads give what they gave, MLPs are recomputed.
    Frozen,
    /// Everything is recomputed.
    Live,
}

/// Scores with and without the change.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects {
    /// What was replaced.
    pub senders: Vec<Sender>,
    /// Of the unchanged model, `[prompts]`.
    pub base: Vec<Score>,
    /// `[senders][prompts]`.
    pub changed: Vec<Vec<Score>>,
}

/// For each prompt its corrupted prompt: another fact in the same wording. Where every fact is asked once in each
/// wording, each prompt is the corrupted one of just one other.
///
/// # Errors
/// A wording with one fact alone.
pub fn partners(prompts: &[Prompt], seed: u64) -> Result<Vec<usize>, MeasureError> {
    let mut by_template: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, p) in prompts.iter().enumerate() {
        by_template.entry(p.template).or_default().push(i);
    }
    let rng = Philox::new(seed, PARTNERS);
    let mut out = vec![0; prompts.len()];
    for (template, mut all) in by_template {
        let n = all.len();
        for i in (1..n).rev() {
            let word = rng.at(0, template as u32, i as u32)[0];
            all.swap(i, ((u64::from(word) * (i as u64 + 1)) >> 32) as usize);
        }
        for (i, &at) in all.iter().enumerate() {
            let other = (1..n).map(|step| all[(i + step) % n]).find(|&j| prompts[j].fact != prompts[at].fact);
            out[at] = other.ok_or(MeasureError::OneFact { template })?;
        }
    }
    Ok(out)
}

/// Replaces every sender, one at a time, in every prompt. `partners` gives each prompt's corrupted prompt
/// ([`partners`]); `tick` is told how many changed runs are done and how many there are.
///
/// # Errors
/// Senders that the model does not have; what the forward pass reports.
#[allow(clippy::too_many_arguments)]
pub fn effects<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    (seen, u): (&Observed, &Unembedding),
    chosen: &[Sender],
    partners: &[usize],
    (instead, rest): (Instead, Rest),
    mut tick: impl FnMut(usize, usize),
) -> Result<Effects, MeasureError> {
    let n = prompts.len();
    if seen.n != n || partners.len() != n || partners.iter().any(|&p| p >= n) {
        return Err(MeasureError::Observed { prompts: n, seen: seen.n });
    }
    let there = |s: &Sender| match *s {
        Sender::Head { layer, head } => layer < m.spec.n_layers && head < m.spec.n_heads,
        Sender::Mlp(layer) => layer < m.spec.n_layers,
    };
    if let Some(sender) = chosen.iter().find(|s| !there(s)) {
        return Err(MeasureError::Absent { what: sender.to_string() });
    }
    let base = u.scores(o, m, &seen.resid_post, prompts.iter())?;
    let mut out = Effects { senders: chosen.to_vec(), base, changed: vec![Vec::new(); chosen.len()] };
    let means: Vec<Option<Arc<[f32]>>> = chosen
        .iter()
        .map(|s| (instead == Instead::Mean).then(|| mean(&m.spec, seen, *s, partners)))
        .collect();
    let (total, mut done, mut first) = (n * chosen.len(), 0, 0);
    for some in batches(prompts) {
        let kept = if rest == Rest::Live { Some(caches(o, m, some)?) } else { None };
        let range = first..first + some.len();
        // As many senders at once as fill a few passes.
        for (at, few) in chosen.chunks(m.spec.n_heads + 1).enumerate() {
            let at = at * (m.spec.n_heads + 1);
            let mut variants = Vec::with_capacity(few.len() * some.len());
            for (k, sender) in few.iter().enumerate() {
                for prompt in range.clone() {
                    let value = match (&means[at + k], instead) {
                        (Some(mean), _) => Arc::clone(mean),
                        (None, Instead::Partner) => given(&m.spec, seen, *sender, partners[prompt]).into(),
                        (None, Instead::Itself) => given(&m.spec, seen, *sender, prompt).into(),
                        (None, _) => vec![0.0; given(&m.spec, seen, *sender, prompt).len()].into(),
                    };
                    let (site, head) = match *sender {
                        Sender::Head { layer, head } => (Site::new(layer, Kind::Z), Some(head)),
                        Sender::Mlp(layer) => (Site::new(layer, Kind::MlpOut), None),
                    };
                    variants.push(Variant { prompt, swaps: vec![Swap { site, head, value }] });
                }
            }
            let live = kept.as_deref().map(|c| (first, c));
            let resid = run(o, m, seen, &variants, live)?;
            let which: Vec<&Prompt> = variants.iter().map(|v| &prompts[v.prompt]).collect();
            let scores = u.scores(o, m, &resid, which.into_iter())?;
            for (to, scores) in out.changed[at..].iter_mut().zip(scores.chunks(some.len())) {
                to.extend(scores);
            }
            done += variants.len();
            tick(done, total);
        }
        first = range.end;
    }
    Ok(out)
}

/// What a sender gives in one prompt.
fn given<'a>(spec: &ModelSpec, seen: &'a Observed, sender: Sender, prompt: usize) -> &'a [f32] {
    match sender {
        Sender::Head { layer, head } => {
            let at = (prompt * spec.n_heads + head) * spec.d_head;
            &seen.blocks[layer].z[at..at + spec.d_head]
        }
        Sender::Mlp(layer) => &seen.blocks[layer].mlp_out[prompt * spec.d_model..(prompt + 1) * spec.d_model],
    }
}

/// Mean over the corrupted prompts.
fn mean(spec: &ModelSpec, seen: &Observed, sender: Sender, partners: &[usize]) -> Arc<[f32]> {
    let mut sum = vec![0.0f64; given(spec, seen, sender, 0).len()];
    for &p in partners {
        let row = given(spec, seen, sender, p);
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
    }
    sum.iter().map(|s| (s / partners.len() as f64) as f32).collect()
}
