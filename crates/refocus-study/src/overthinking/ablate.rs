//! Ablations at the slots: heads, and attention or MLP of whole blocks. A change at the last slot touches one
//! row, so all variants of a prompt run as rows of their own over its cached keys and values, each from the
//! first block that it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use refocus_compute::{Batch, Kernels, KvSeq, KvUse, Ops, Philox, Purpose, RowSet, Seg, Vocab, VocabOut};
use refocus_model::{
    Action, Applied, Intervention, Kind as SiteKind, Mode as PlanMode, Model, ModelSpec, Plan, Position,
    Reading, Readout, RunError, Site, empty_cache, forward, forward_from,
};
use serde::{Deserialize, Serialize};

use super::error::StudyError;
use super::heads::{HeadId, Means, head_mean};
use super::store::{BLOCK, Store};
use super::work::Asked;

/// Tokens of prompts whose keys and values are held together, about.
const BATCH_TOKENS: usize = 1024;
/// Rows of variants that go through a block together at most.
const ROWS: usize = 1024;
const CONTROL: Purpose = Purpose::new("overthinking: random heads");

/// A part of the model that is ablated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// One head's output.
    Head(HeadId),
    /// The output of a block's attention, its bias included.
    Attention(usize),
    /// The output of a block's MLP, its bias included.
    Mlp(usize),
}

impl Part {
    fn layer(self) -> usize {
        match self {
            Part::Head(id) => id.layer,
            Part::Attention(layer) | Part::Mlp(layer) => layer,
        }
    }
}

/// What stands in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Zero.
    Zero,
    /// The mean over other prompts at the same slot.
    Mean,
    /// Equal attention to every position so far: what the released code calls zero. Not for an MLP.
    Uniform,
}

/// Where it is ablated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// At the last slot alone.
    LastSlot,
    /// At every slot, which changes what later positions see.
    EverySlot,
}

/// A changed model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Variant {
    /// What is ablated together; nothing where empty.
    pub parts: Vec<Part>,
    /// How.
    pub how: How,
    /// Where.
    pub at: At,
}

impl Variant {
    /// Some heads together.
    pub fn heads(heads: &[HeadId], how: How, at: At) -> Self {
        Self { parts: heads.iter().copied().map(Part::Head).collect(), how, at }
    }

    /// Attention of block `from` and all after it, at the last slot.
    pub fn late_attention(from: usize, n_layers: usize, how: How) -> Self {
        Self { parts: (from..n_layers).map(Part::Attention).collect(), how, at: At::LastSlot }
    }

    /// The MLP of block `from` and of all after it, at the last slot.
    pub fn late_mlp(from: usize, n_layers: usize, how: How) -> Self {
        Self { parts: (from..n_layers).map(Part::Mlp).collect(), how, at: At::LastSlot }
    }

    /// The changes that it makes to a prompt with these slots, positions absolute.
    ///
    /// # Errors
    /// A mean is asked for, and none is given.
    pub fn interventions(
        &self,
        spec: &ModelSpec,
        slots: &[u32],
        means: Option<&Means>,
    ) -> Result<Vec<Intervention>, StudyError> {
        let first = if self.at == At::EverySlot { 0 } else { slots.len().saturating_sub(1) };
        let at = slots.iter().enumerate().skip(first);
        let all = at.flat_map(|(slot, at)| self.parts.iter().map(move |part| (slot, *at, *part)));
        all.map(|(slot, at, part)| intervention(spec, part, self.how, means, slot, Position::At(at)))
            .collect()
    }

    /// The first block that it changes; the last one where it changes nothing.
    fn start(&self, spec: &ModelSpec) -> usize {
        self.parts.iter().map(|p| p.layer()).min().unwrap_or(spec.n_layers - 1)
    }

    fn check(&self, spec: &ModelSpec, demos: usize, means: Option<&Means>) -> Result<(), StudyError> {
        let bad = |why: String| Err(StudyError::Variant { why });
        for part in &self.parts {
            match part {
                Part::Head(id) if id.head >= spec.n_heads || id.layer >= spec.n_layers => {
                    return bad(format!("there is no head {}.{}", id.layer, id.head));
                }
                Part::Attention(layer) | Part::Mlp(layer) if *layer >= spec.n_layers => {
                    return bad(format!("there is no block {layer}"));
                }
                Part::Mlp(_) if self.how == How::Uniform => {
                    return bad("an MLP has no attention to make uniform".into());
                }
                _ => {}
            }
        }
        match means {
            None if self.how == How::Mean => bad("a mean is asked for, and none is given".into()),
            Some(m) if (m.slots, m.layers) != (demos, spec.n_layers) => {
                bad(format!("the means are of {} slots and {} blocks", m.slots, m.layers))
            }
            _ => Ok(()),
        }
    }
}

/// For each draw as many heads of each block as `heads` has there, drawn from the seed among the block's
/// other heads; from all of them where the others are too few.
pub fn random_heads(heads: &[HeadId], n_heads: usize, draws: u32, seed: u64) -> Vec<Vec<HeadId>> {
    let rng = Philox::new(seed, CONTROL);
    let mut by_layer: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for id in heads {
        by_layer.entry(id.layer).or_default().push(id.head);
    }
    let draw = |draw: u32| {
        let mut out = Vec::with_capacity(heads.len());
        for (&layer, own) in &by_layer {
            let mut pool: Vec<usize> = (0..n_heads).filter(|h| !own.contains(h)).collect();
            if pool.len() < own.len() {
                pool = (0..n_heads).collect();
            }
            for i in 0..own.len().min(pool.len()) {
                let word = rng.at(draw, layer as u32, (i / 4) as u32)[i % 4];
                let at = i + ((u64::from(word) * (pool.len() - i) as u64) >> 32) as usize;
                pool.swap(i, at);
                out.push(HeadId { layer, head: pool[i] });
            }
        }
        out
    };
    (0..draws).map(draw).collect()
}

/// Logits of the labels at a prompt's last slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Ablated {
    /// Of the unchanged model, `[labels]`.
    pub base: Vec<f32>,
    /// Of each variant, `[variants][labels]`.
    pub variants: Vec<Vec<f32>>,
}

/// Runs prompts with every variant. Means are those of other prompts than these.
///
/// # Errors
/// A variant that does not fit the model, or what the forward pass reports.
pub fn ablate<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[&Asked],
    label_ids: &[u32],
    variants: &[Variant],
    means: Option<&Means>,
    mut tick: impl FnMut(usize),
) -> Result<Vec<Ablated>, StudyError> {
    for v in variants {
        for demos in prompts.iter().map(|p| p.slots.len()) {
            v.check(&m.spec, demos, means)?;
        }
    }
    let mut out = Vec::with_capacity(prompts.len());
    let mut rest = prompts;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |p: &&&Asked| {
            tokens += p.ids.len();
            tokens <= BATCH_TOKENS
        };
        let many = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(many);
        let ask = Ask { label_ids: label_ids.into(), variants, means };
        out.extend(some(o, m, now, &ask)?);
        tick(many);
        rest = later;
    }
    Ok(out)
}

/// Runs prompts with every variant, block by block: blocks that the store holds under `name` are read, others
/// are run and kept. `tick` is told how many more prompts are done, and whether they were there.
///
/// # Errors
/// As [`ablate`] and [`Store`].
#[allow(clippy::too_many_arguments)]
pub fn ablate_stored<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[&Asked],
    label_ids: &[u32],
    variants: &[Variant],
    means: Option<&Means>,
    (store, name): (&Store, &str),
    mut tick: impl FnMut(usize, bool),
) -> Result<Vec<Ablated>, StudyError> {
    let c = label_ids.len();
    let each = (1 + variants.len()) * c;
    let mut key = serde_json::to_vec(variants).unwrap_or_default();
    for values in means.iter().flat_map(|m| &m.values) {
        key.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    for p in prompts {
        key.extend(p.ids.iter().chain(&p.slots).flat_map(|x| x.to_le_bytes()));
    }
    let key = store.key_of(&key);
    let mut out = Vec::with_capacity(prompts.len());
    for (block, prompts) in prompts.chunks(BLOCK).enumerate() {
        let name = format!("{name}-{block:05}");
        if let Some(words) = store.load_words(&name, &key, each, prompts.len())? {
            tick(prompts.len(), true);
            out.extend(words.iter().map(|w| {
                let mut rows = w.chunks_exact(c).map(|r| r.iter().map(|x| f32::from_bits(*x)).collect());
                Ablated { base: rows.next().unwrap_or_default(), variants: rows.collect() }
            }));
            continue;
        }
        let got = ablate(o, m, prompts, label_ids, variants, means, |n| tick(n, false))?;
        let words: Vec<Vec<u32>> = got
            .iter()
            .map(|a| a.base.iter().chain(a.variants.iter().flatten()).map(|x| x.to_bits()).collect())
            .collect();
        store.save_words(&name, &key, words.iter().map(Vec::as_slice))?;
        out.extend(got);
    }
    Ok(out)
}

struct Ask<'a> {
    label_ids: Arc<[u32]>,
    variants: &'a [Variant],
    means: Option<&'a Means>,
}

type Page<O> = <<O as Ops>::K as Kernels>::Page;

/// What the unchanged pass of some prompts leaves for their variants.
struct Base<O: Ops> {
    /// Up to the last slot.
    caches: Vec<KvSeq<Page<O>>>,
    /// Residual streams before each block at the last slots: `[layers][prompts · d_model]`.
    last: Vec<Vec<f32>>,
    /// All rows before some blocks, for variants at every slot.
    whole: BTreeMap<usize, O::T>,
    batch: Batch,
}

fn some<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[&Asked],
    ask: &Ask<'_>,
) -> Result<Vec<Ablated>, StudyError> {
    let (base, logits) = unchanged(o, m, prompts, ask)?;
    let c = ask.label_ids.len();
    let mut out: Vec<Ablated> = logits
        .chunks_exact(c)
        .map(|l| Ablated { base: l.to_vec(), variants: vec![Vec::new(); ask.variants.len()] })
        .collect();
    let mut jobs = Vec::new();
    for (variant, v) in ask.variants.iter().enumerate() {
        for prompt in 0..prompts.len() {
            match v.at {
                At::LastSlot => jobs.push(Job { start: v.start(&m.spec), prompt, variant }),
                At::EverySlot => {
                    out[prompt].variants[variant] = everywhere(o, m, prompts[prompt], prompt, v, &base, ask)?;
                }
            }
        }
    }
    // Those that begin late join those that began before.
    jobs.sort_by_key(|j| (j.start, j.prompt, j.variant));
    for jobs in jobs.chunks(ROWS) {
        let logits = sweep(o, m, prompts, jobs, &base, ask)?;
        for (job, logits) in jobs.iter().zip(logits.chunks_exact(c)) {
            out[job.prompt].variants[job.variant] = logits.to_vec();
        }
    }
    Ok(out)
}

/// The unchanged pass, and the labels' logits at each last slot.
fn unchanged<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[&Asked],
    ask: &Ask<'_>,
) -> Result<(Base<O>, Vec<f32>), StudyError> {
    let spec = &m.spec;
    let length = |p: &&Asked| p.slots.last().map_or(0, |s| *s as usize + 1);
    let batch = Batch::from_lengths(prompts.iter().map(length));
    let ids: Vec<u32> = prompts.iter().flat_map(|p| p.ids[..length(p)].iter().copied()).collect();
    let ends = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
    let pre = |layer| Site::new(layer, SiteKind::ResidPre);
    let mut readouts =
        vec![Readout::logits(spec, Some(ends.clone()), vec![Vocab::Ids(ask.label_ids.clone())])];
    readouts.extend((0..spec.n_layers).map(|l| Readout::Raw { site: pre(l), rows: Some(ends.clone()) }));
    let mut starts: Vec<usize> =
        ask.variants.iter().filter(|v| v.at == At::EverySlot).map(|v| v.start(spec)).collect();
    starts.sort_unstable();
    starts.dedup();
    readouts.extend(starts.iter().map(|&l| Readout::Raw { site: pre(l), rows: None }));
    let mode = PlanMode { keeps_cache: true, decoding: false };
    let plan = Plan::compile(spec, &batch, &readouts, &[], mode)?;
    let mut caches: Vec<_> = prompts.iter().map(|_| empty_cache(m)).collect();
    let mut got = forward(o, m, &ids, &plan, KvUse::Append(&mut caches))?;
    // The last slot itself is computed anew by each variant.
    caches.iter_mut().for_each(|c| c.len -= 1);
    let mut whole = BTreeMap::new();
    for &start in starts.iter().rev() {
        let Some(Reading::Matrix(t)) = got.pop() else { return Err(RunError::Unread(start).into()) };
        whole.insert(start, t);
    }
    let mut last = Vec::with_capacity(spec.n_layers);
    for (i, reading) in got.iter().enumerate().skip(1) {
        last.push(o.to_host(reading.matrix().ok_or(RunError::Unread(i))?)?);
    }
    let logits = labels(o, &got[0])?;
    Ok((Base { caches, last, whole, batch }, logits))
}

fn labels<O: Ops>(o: &mut O, reading: &Reading<O::T>) -> Result<Vec<f32>, StudyError> {
    match reading.lens(0) {
        Some([VocabOut::Values(t)]) => Ok(o.to_host(t)?),
        _ => Err(RunError::Unread(0).into()),
    }
}

/// One variant of one prompt.
struct Job {
    start: usize,
    prompt: usize,
    variant: usize,
}

/// Variants at the last slot, sorted by the block where they begin: every block runs the rows of all that have
/// begun. Gives the labels' logits of each.
fn sweep<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[&Asked],
    jobs: &[Job],
    base: &Base<O>,
    ask: &Ask<'_>,
) -> Result<Vec<f32>, StudyError> {
    let (spec, d) = (&m.spec, m.spec.d_model);
    let mut x: Vec<f32> = Vec::with_capacity(jobs.len() * d);
    let mut begun = 0;
    for layer in 0..spec.n_layers {
        while let Some(job) = jobs.get(begun).filter(|j| j.start == layer) {
            x.extend(&base.last[layer][job.prompt * d..(job.prompt + 1) * d]);
            begun += 1;
        }
        if begun == 0 {
            continue;
        }
        let jobs = &jobs[..begun];
        let seg = |(i, j): (usize, &Job)| Seg {
            rows: i as u32..i as u32 + 1,
            pos0: base.caches[j.prompt].len as u32,
        };
        let batch = Batch { segs: jobs.iter().enumerate().map(seg).collect() };
        // Only this block's keys and values are shared out.
        let cache = |j: &Job| {
            let all = &base.caches[j.prompt];
            let mut layers = vec![Vec::new(); spec.n_layers];
            layers[layer].clone_from(&all.layers[layer]);
            KvSeq { layers, len: all.len }
        };
        let caches: Vec<_> = jobs.iter().map(cache).collect();
        let mut changes: BTreeMap<(Part, How), Vec<usize>> = BTreeMap::new();
        for (row, job) in jobs.iter().enumerate() {
            let v = &ask.variants[job.variant];
            for part in v.parts.iter().filter(|p| p.layer() == layer) {
                changes.entry((*part, v.how)).or_default().push(row);
            }
        }
        let mut applied = Vec::with_capacity(changes.len());
        for ((part, how), rows) in changes {
            // Prompts of one task have equally many slots.
            let slot = prompts.first().map_or(0, |p| p.slots.len() - 1);
            let what = intervention(spec, part, how, ask.means, slot, Position::Last)?;
            applied.push(Applied { what: Arc::new(what), segs: Some(rows) });
        }
        let readout = if layer + 1 == spec.n_layers {
            Readout::logits(spec, None, vec![Vocab::Ids(ask.label_ids.clone())])
        } else {
            Readout::Raw { site: Site::new(layer, SiteKind::ResidPost), rows: None }
        };
        let plan = Plan::resume(spec, &batch, layer, &[readout], &applied)?;
        let given = o.constant(begun, d, &x)?;
        let got = forward_from(o, m, given, &plan, KvUse::Read(&caches))?;
        if layer + 1 == spec.n_layers {
            return labels(o, &got[0]);
        }
        x = o.to_host(got[0].matrix().ok_or(RunError::Unread(0))?)?;
    }
    Ok(Vec::new())
}

/// A variant at every slot: all rows from the first block that it changes.
fn everywhere<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompt: &Asked,
    number: usize,
    variant: &Variant,
    base: &Base<O>,
    ask: &Ask<'_>,
) -> Result<Vec<f32>, StudyError> {
    let (spec, start) = (&m.spec, variant.start(&m.spec));
    let rows: Vec<u32> = base.batch.segs[number].rows.clone().collect();
    let whole = base.whole.get(&start).ok_or(RunError::Unread(start))?;
    let x = o.rows(whole, &rows)?;
    let batch = Batch::from_lengths([rows.len()]);
    let end = RowSet::new(vec![rows.len() as u32 - 1]);
    let what = variant.interventions(spec, &prompt.slots, ask.means)?;
    let applied: Vec<Applied> =
        what.into_iter().map(|what| Applied { what: Arc::new(what), segs: None }).collect();
    let readout = Readout::logits(spec, Some(end), vec![Vocab::Ids(ask.label_ids.clone())]);
    let plan = Plan::resume(spec, &batch, start, &[readout], &applied)?;
    let got = forward_from(o, m, x, &plan, KvUse::None)?;
    labels(o, &got[0])
}

/// The change of one part, as the model's interventions have it.
fn intervention(
    spec: &ModelSpec,
    part: Part,
    how: How,
    means: Option<&Means>,
    slot: usize,
    position: Position,
) -> Result<Intervention, StudyError> {
    let layer = part.layer();
    let (kind, head) = match (part, how) {
        (Part::Head(id), How::Uniform) => (SiteKind::Pattern, Some(id.head)),
        (Part::Attention(_), How::Uniform) => (SiteKind::Pattern, None),
        (Part::Head(id), _) => (SiteKind::Z, Some(id.head)),
        (Part::Attention(_), _) => (SiteKind::AttnOut, None),
        (Part::Mlp(_), _) => (SiteKind::MlpOut, None),
    };
    let action = match (how, means) {
        (How::Zero, _) => Action::Zero,
        (How::Uniform, _) => Action::UniformAttention,
        (How::Mean, Some(means)) => Action::Mean(match part {
            Part::Head(id) => head_mean(means, slot, id, spec.d_head),
            Part::Attention(_) => means.at(1, slot, layer).into(),
            Part::Mlp(_) => means.at(2, slot, layer).into(),
        }),
        (How::Mean, None) => {
            return Err(StudyError::Variant { why: "a mean is asked for, and none is given".into() });
        }
    };
    Ok(Intervention { site: Site::new(layer, kind), head, position, action, when: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_heads_stand_in_the_same_blocks_and_are_others() {
        let id = |layer, head| HeadId { layer, head };
        let heads = [id(3, 1), id(3, 4), id(7, 0)];
        let draws = random_heads(&heads, 9, 50, 1);
        assert_eq!((draws.len(), draws.clone()), (50, random_heads(&heads, 9, 50, 1)));
        assert_ne!(draws, random_heads(&heads, 9, 50, 2));
        let mut seen = std::collections::BTreeSet::new();
        for draw in &draws {
            assert_eq!(draw.iter().map(|h| h.layer).collect::<Vec<_>>(), [3, 3, 7]);
            assert!(draw.iter().all(|h| h.head < 9 && !heads.contains(h)) && draw[0] != draw[1]);
            seen.extend(draw.iter().copied());
        }
        assert_eq!(seen.len(), 7 + 8, "every other head is drawn at some time");
        // A block without enough others.
        let all = [id(0, 0), id(0, 1)];
        assert!(random_heads(&all, 2, 3, 1).iter().all(|d| d.len() == 2));
    }
}
