//! Heads at the slots: how they attend to earlier labels, what they write towards labels, and what they give
//! in the mean. One pass a prompt gathers all of it.

use std::sync::Arc;

use refocus_compute::{Batch, Kernels, KvUse, Ops, RowSet};
use refocus_measure::heads::{LabelAttention, Matching, Promoted, Promotion, Target, key_groups};
use refocus_model::{
    Kind as SiteKind, Mode as PlanMode, Model, Plan, Reading, Readout, RunError, Site, forward,
};
use serde::{Deserialize, Serialize};

use super::error::StudyError;
use super::store::{BLOCK, Store};
use super::work::{Asked, Kind, SettingWork, TaskWork};

/// Tokens that go through the model together, about.
const BATCH_TOKENS: usize = 1024;

/// A head by its block, both from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeadId {
    /// Block.
    pub layer: usize,
    /// Query head.
    pub head: usize,
}

/// A prompt to look at.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Its ids and slots.
    pub prompt: &'a Asked,
    /// The classes whose words it shows, one a slot.
    pub shown: &'a [u32],
    /// At the last slot the class that false demonstrations suggest, and the true one.
    pub last: (u32, u32),
}

/// The prompts of one kind of some pairs of a setting, in the order of `subset`.
pub fn looks<'a>(
    task: &'a TaskWork,
    setting: &'a SettingWork,
    subset: &[usize],
    kind: Kind,
) -> Vec<Look<'a>> {
    let end = task.demos - 1;
    let one = |&i: &usize| {
        let p = &setting.pairs[i];
        let (prompt, shown) =
            if kind == Kind::True { (p.true_prompt, &p.truth) } else { (p.false_prompt, &p.shown) };
        Look { prompt: &task.prompts[prompt], shown, last: (p.shown[end], p.truth[end]) }
    };
    subset.iter().map(one).collect()
}

/// Scores of a head at one kind of key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetScores {
    /// Prefix-matching score by slot: attention to keys of the class shown at the slot, minus 1/(C − 1) times
    /// that to the others; mean over prompts.
    pub score: Vec<f64>,
    /// What the head's mean attention by distance earns with these classes.
    pub by_distance: Vec<f64>,
    /// Attention to keys of the same class by slot.
    pub same: Vec<f64>,
    /// Attention to all these keys by slot.
    pub all: Vec<f64>,
    /// Mean of `same` over mean of `all`; absent where no attention is.
    pub ratio: Vec<Option<f64>>,
    /// Standard error of the score at the last slot.
    pub error: f64,
}

impl From<Matching> for TargetScores {
    fn from(m: Matching) -> Self {
        let ratio = m.same.iter().zip(&m.all).map(|(s, a)| (*a > 0.0).then(|| s / a)).collect();
        Self { score: m.score, by_distance: m.by_distance, same: m.same, all: m.all, ratio, error: m.error }
    }
}

/// How much a head raises the class that false demonstrations suggest over the true one, at the last slot;
/// mean over the prompts where these differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Promoting {
    /// With the final norm's denominator held: its share of logit(shown) − logit(true).
    pub frozen: f64,
    /// The lens on the head's output alone.
    pub renormed: f64,
    /// Prompts.
    pub n: usize,
}

/// What is found of one head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadScore {
    /// Which.
    #[serde(flatten)]
    pub id: HeadId,
    /// Prefix-matching score at the last slot.
    pub matching: f64,
    /// The same less what distance alone earns.
    pub controlled: f64,
    /// Attention to the tokens of labels.
    pub label: TargetScores,
    /// Attention to the tokens before labels.
    pub before_label: TargetScores,
    /// Absent for post-norm models, and where no prompt suggests another class than the true one.
    pub promoting: Option<Promoting>,
    /// Prompts.
    pub n: usize,
}

/// The `k` heads with the highest prefix-matching score, ties to the earlier head.
pub fn top_heads(scores: &[HeadScore], k: usize) -> Vec<HeadId> {
    let mut order: Vec<&HeadScore> = scores.iter().collect();
    order.sort_by(|a, b| b.matching.total_cmp(&a.matching).then(a.id.cmp(&b.id)));
    order.into_iter().take(k).map(|s| s.id).collect()
}

/// Mean outputs at the slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Means {
    pub(super) slots: usize,
    pub(super) layers: usize,
    /// Sites of [`MEAN_SITES`], for each `[slots][layers][width]`.
    pub(super) values: [Vec<f32>; 3],
    pub(super) widths: [usize; 3],
}

/// Where means are taken.
pub(super) const MEAN_SITES: [SiteKind; 3] = [SiteKind::Z, SiteKind::AttnOut, SiteKind::MlpOut];

impl Means {
    /// The mean of the `site`-th of [`MEAN_SITES`] at a slot of a block.
    pub(super) fn at(&self, site: usize, slot: usize, layer: usize) -> &[f32] {
        &self.values[site][(slot * self.layers + layer) * self.widths[site]..][..self.widths[site]]
    }

    /// What a head writes before the last label, `[d_head]`.
    pub fn before_last_label(&self, id: HeadId, d_head: usize) -> Arc<[f32]> {
        head_mean(self, self.slots.saturating_sub(1), id, d_head)
    }
}

/// What some prompts gave, added up.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    heads: usize,
    layers: usize,
    slots: usize,
    attention: LabelAttention,
    /// `[layers · heads]`
    promoted: Option<Vec<Promoted>>,
    /// Prompts whose last slot suggests another class than the true one.
    differing: usize,
    /// For each of [`MEAN_SITES`] `[slots][layers][width]`.
    sums: [Vec<f64>; 3],
    widths: [usize; 3],
}

impl Observed {
    /// Nothing looked at yet.
    fn new<K: Kernels>(m: &Model<K>, task: &TaskWork) -> Self {
        let spec = &m.spec;
        let widths = [spec.n_heads * spec.d_head, spec.d_model, spec.d_model];
        let heads = spec.n_layers * spec.n_heads;
        Self {
            heads: spec.n_heads,
            layers: spec.n_layers,
            slots: task.demos,
            attention: LabelAttention::new(heads, task.demos, task.label_ids.len()),
            promoted: Promotion::is_defined(m).then(|| vec![Promoted { frozen: 0.0, renormed: 0.0 }; heads]),
            differing: 0,
            sums: widths.map(|w| vec![0.0; task.demos * spec.n_layers * w]),
            widths,
        }
    }

    /// As stored: bits of f64.
    fn words(&self) -> Vec<u32> {
        let mut numbers = vec![self.differing as f64];
        numbers.extend(self.promoted.iter().flatten().flat_map(|p| [p.frozen, p.renormed]));
        numbers.extend(self.sums.iter().flatten());
        numbers.extend(self.attention.to_numbers());
        numbers.iter().flat_map(|x| [x.to_bits() as u32, (x.to_bits() >> 32) as u32]).collect()
    }

    /// What [`Observed::words`] gave, in the shape of `self`.
    fn filled(mut self, words: &[u32], n_classes: usize) -> Option<Self> {
        let all: Vec<f64> =
            words.chunks_exact(2).map(|w| f64::from_bits(u64::from(w[0]) | u64::from(w[1]) << 32)).collect();
        let mut numbers = all.iter().copied();
        self.differing = numbers.next()? as usize;
        for p in self.promoted.iter_mut().flatten() {
            (p.frozen, p.renormed) = (numbers.next()?, numbers.next()?);
        }
        for sum in self.sums.iter_mut().flatten() {
            *sum = numbers.next()?;
        }
        let rest: Vec<f64> = numbers.collect();
        self.attention =
            LabelAttention::from_numbers(self.layers * self.heads, self.slots, n_classes, &rest)?;
        Some(self)
    }

    /// Prompts looked at.
    pub fn prompts(&self) -> usize {
        self.attention.prompts()
    }

    /// Takes in what other prompts of the same task gave.
    pub fn merge(&mut self, other: &Self) {
        self.attention.merge(&other.attention);
        self.differing += other.differing;
        for (a, b) in self.sums.iter_mut().zip(&other.sums) {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        for (a, b) in self.promoted.iter_mut().flatten().zip(other.promoted.iter().flatten()) {
            a.frozen += b.frozen;
            a.renormed += b.renormed;
        }
    }

    /// Scores of all heads, block by block; empty without prompts.
    pub fn scores(&self) -> Vec<HeadScore> {
        if self.prompts() == 0 {
            return Vec::new();
        }
        let one = |i: usize| {
            let label: TargetScores = self.attention.matching(i, Target::Label).into();
            let end = self.slots - 1;
            let n = self.differing as f64;
            let promoting = self.promoted.as_ref().filter(|_| self.differing > 0).map(|p| Promoting {
                frozen: p[i].frozen / n,
                renormed: p[i].renormed / n,
                n: self.differing,
            });
            HeadScore {
                id: HeadId { layer: i / self.heads, head: i % self.heads },
                matching: label.score[end],
                controlled: label.score[end] - label.by_distance[end],
                before_label: self.attention.matching(i, Target::BeforeLabel).into(),
                label,
                promoting,
                n: self.prompts(),
            }
        };
        (0..self.layers * self.heads).map(one).collect()
    }

    /// Mean outputs over the prompts looked at.
    pub fn means(&self) -> Means {
        let n = self.prompts() as f64;
        let mean = |s: &Vec<f64>| s.iter().map(|x| (x / n) as f32).collect();
        let values = [mean(&self.sums[0]), mean(&self.sums[1]), mean(&self.sums[2])];
        Means { slots: self.slots, layers: self.layers, values, widths: self.widths }
    }
}

/// Looks at prompts of a task, a few in each pass; `tick` is told how many more are done.
///
/// # Errors
/// What the forward pass reports.
pub fn observe<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    task: &TaskWork,
    prompts: &[Look<'_>],
    mut tick: impl FnMut(usize),
) -> Result<Observed, StudyError> {
    let promotion = Promotion::is_defined(m).then(|| Promotion::new(o, m, &task.label_ids)).transpose()?;
    let mut out = Observed::new(m, task);
    let mut rest = prompts;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |p: &&Look<'_>| {
            tokens += p.prompt.ids.len();
            tokens <= BATCH_TOKENS
        };
        let many = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(many);
        pass(o, m, task, now, promotion.as_ref(), &mut out)?;
        tick(many);
        rest = later;
    }
    Ok(out)
}

/// The same, kept in the store under `name` after every few prompts: what was looked at before is not looked at
/// again. `tick` is told how many more are done, and whether they were before.
///
/// # Errors
/// As [`observe`] and [`Store`].
pub fn observe_stored<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    task: &TaskWork,
    prompts: &[Look<'_>],
    (store, name): (&Store, &str),
    mut tick: impl FnMut(usize, bool),
) -> Result<Observed, StudyError> {
    let mut key: Vec<u8> = task.label_lens.iter().flat_map(|n| n.to_le_bytes()).collect();
    for p in prompts {
        let words = p.prompt.ids.iter().chain(&p.prompt.slots).chain(p.shown).chain([&p.last.0, &p.last.1]);
        key.extend(words.flat_map(|x| x.to_le_bytes()));
    }
    let key = store.key_of(&key);
    let mut out = Observed::new(m, task);
    if let Some(words) = store.load_words(name, &key, out.words().len(), 1)? {
        let filled = words.first().and_then(|w| out.clone().filled(w, task.label_ids.len()));
        out = filled.ok_or(StudyError::Run(RunError::Unread(0)))?;
        tick(out.prompts(), true);
    }
    for prompts in prompts[out.prompts().min(prompts.len())..].chunks(BLOCK) {
        out.merge(&observe(o, m, task, prompts, |n| tick(n, false))?);
        store.save_words(name, &key, [&out.words()[..]].into_iter())?;
    }
    Ok(out)
}

/// Attention of some heads from the last slot to the labels before it, prompt by prompt: `[prompts][heads ·
/// slots]`. Kept in the store as [`observe_stored`].
///
/// # Errors
/// As [`observe`] and [`Store`].
pub(super) fn label_rows_stored<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    task: &TaskWork,
    prompts: &[Look<'_>],
    heads: &[HeadId],
    (store, name): (&Store, &str),
    mut tick: impl FnMut(usize, bool),
) -> Result<Vec<Vec<f64>>, StudyError> {
    let mut key: Vec<u8> = task.label_lens.iter().flat_map(|n| n.to_le_bytes()).collect();
    key.extend(heads.iter().flat_map(|h| [h.layer as u32, h.head as u32]).flat_map(u32::to_le_bytes));
    for p in prompts {
        let words = p.prompt.ids.iter().chain(&p.prompt.slots).chain(p.shown);
        key.extend(words.flat_map(|x| x.to_le_bytes()));
    }
    let key = store.key_of(&key);
    let each = 2 * heads.len() * task.demos;
    let mut out = Vec::with_capacity(prompts.len());
    for (block, prompts) in prompts.chunks(BLOCK).enumerate() {
        let name = format!("{name}-{block:05}");
        let words = match store.load_words(&name, &key, each, prompts.len())? {
            Some(words) => {
                tick(prompts.len(), true);
                words
            }
            None => {
                let mut words = Vec::with_capacity(prompts.len());
                for p in prompts {
                    let seen = observe(o, m, task, std::slice::from_ref(p), |n| tick(n, false))?;
                    let row = |h: &HeadId| seen.attention.from_last_slot(h.layer * seen.heads + h.head);
                    let bits = heads.iter().flat_map(row).map(|x| x.to_bits());
                    words.push(bits.flat_map(|b| [b as u32, (b >> 32) as u32]).collect());
                }
                store.save_words(&name, &key, words.iter().map(Vec::as_slice))?;
                words
            }
        };
        let number = |w: &[u32]| f64::from_bits(u64::from(w[0]) | u64::from(w[1]) << 32);
        out.extend(words.iter().map(|w| w.chunks_exact(2).map(number).collect()));
    }
    Ok(out)
}

/// Scores of all heads on some pairs' prompts of one kind.
///
/// # Errors
/// As [`observe`].
pub fn head_scores<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    task: &TaskWork,
    setting: &SettingWork,
    subset: &[usize],
    kind: Kind,
    tick: impl FnMut(usize),
) -> Result<Vec<HeadScore>, StudyError> {
    Ok(observe(o, m, task, &looks(task, setting, subset, kind), tick)?.scores())
}

fn pass<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    task: &TaskWork,
    prompts: &[Look<'_>],
    promotion: Option<&Promotion>,
    out: &mut Observed,
) -> Result<(), StudyError> {
    let (spec, k) = (&m.spec, task.demos);
    // Nothing after the last slot is looked at.
    let length = |p: &Look<'_>| p.prompt.slots[k - 1] as usize + 1;
    let batch = Batch::from_lengths(prompts.iter().map(length));
    let ids: Vec<u32> = prompts.iter().flat_map(|p| p.prompt.ids[..length(p)].iter().copied()).collect();
    let slots = |(p, seg): (&Look<'_>, &refocus_compute::Seg)| -> Vec<u32> {
        p.prompt.slots.iter().map(|s| seg.rows.start + s).collect()
    };
    // Rows ascend: prompts stand one after the other, and so do the slots of each.
    let rows = Some(RowSet::new(prompts.iter().zip(&batch.segs).flat_map(slots).collect()));
    let groups = |p: &Look<'_>| {
        let tokens: Vec<u32> = p.shown.iter().map(|&c| task.label_lens[c as usize]).collect();
        key_groups(&p.prompt.slots, &tokens)
    };
    let groups: Vec<_> = prompts.iter().map(groups).collect();
    let mut readouts = Vec::new();
    for layer in 0..spec.n_layers {
        let groups = Some(groups.clone());
        readouts.push(Readout::Attention { layer, rows: rows.clone(), groups, stats: false });
        for kind in MEAN_SITES {
            readouts.push(Readout::Raw { site: Site::new(layer, kind), rows: rows.clone() });
        }
    }
    let scale = Site::new(0, SiteKind::FinalScale);
    if m.ln_final.is_some() {
        readouts.push(Readout::Raw { site: scale, rows: rows.clone() });
    }
    let plan = Plan::compile(spec, &batch, &readouts, &[], PlanMode::default())?;
    let got = forward(o, m, &ids, &plan, KvUse::None)?;

    let mut mass = Vec::with_capacity(spec.n_layers);
    for layer in 0..spec.n_layers {
        let Reading::Attention { mass: Some(t), .. } = &got[4 * layer] else {
            return Err(RunError::Unread(4 * layer).into());
        };
        mass.push(o.to_host(t)?);
    }
    let each = spec.n_heads * 2 * k;
    for (i, p) in prompts.iter().enumerate() {
        let own: Vec<&[f32]> = mass.iter().map(|m| &m[i * k * each..(i + 1) * k * each]).collect();
        out.attention.add(p.shown, &own);
    }
    for layer in 0..spec.n_layers {
        for (site, (sums, &width)) in out.sums.iter_mut().zip(&out.widths).enumerate() {
            let at = 4 * layer + 1 + site;
            let values = o.to_host(got[at].matrix().ok_or(RunError::Unread(at))?)?;
            for (row, values) in values.chunks_exact(width).enumerate() {
                let sums = &mut sums[((row % k) * spec.n_layers + layer) * width..][..width];
                sums.iter_mut().zip(values).for_each(|(s, v)| *s += f64::from(*v));
            }
        }
    }

    let differing: Vec<usize> =
        (0..prompts.len()).filter(|&i| prompts[i].last.0 != prompts[i].last.1).collect();
    out.differing += differing.len();
    let (Some(promotion), Some(promoted), false) = (promotion, &mut out.promoted, differing.is_empty())
    else {
        return Ok(());
    };
    let last: Vec<u32> = differing.iter().map(|i| (i * k + k - 1) as u32).collect();
    let labels: Vec<(u32, u32)> = differing.iter().map(|&i| prompts[i].last).collect();
    let scales = match got.get(4 * spec.n_layers) {
        Some(reading) => {
            let all = o.to_host(reading.matrix().ok_or(RunError::Unread(4 * spec.n_layers))?)?;
            last.iter().map(|&row| all[row as usize]).collect()
        }
        None => vec![1.0; last.len()],
    };
    for layer in 0..spec.n_layers {
        let z = got[4 * layer + 1].matrix().ok_or(RunError::Unread(4 * layer + 1))?;
        let z = o.rows(z, &last)?;
        for heads in promotion.heads(o, m, layer, &z, &scales, &labels)? {
            for (sum, p) in promoted[layer * spec.n_heads..].iter_mut().zip(heads) {
                sum.frozen += p.frozen;
                sum.renormed += p.renormed;
            }
        }
    }
    Ok(())
}

/// For interventions: the mean of one head's output.
pub(super) fn head_mean(means: &Means, slot: usize, id: HeadId, d_head: usize) -> Arc<[f32]> {
    means.at(0, slot, id.layer)[id.head * d_head..(id.head + 1) * d_head].into()
}
