//! Running prompts: the logits of the labels at every slot after every layer, one pass a batch.

use std::sync::Arc;

use refocus_compute::{Batch, KvUse, Ops, RowSet, Vocab, VocabOut};
use refocus_measure::residual::unembed;
use refocus_model::{
    Kind as SiteKind, Mode as PlanMode, Model, Plan, Reading, Readout, RunError, Site, forward,
};

use super::error::StudyError;
use super::method::{Defect, Method};
use super::store::{BLOCK, Store};
use super::work::Asked;

/// Tokens that go through the model together, about.
const BATCH_TOKENS: usize = 1024;

/// Sizes of what is kept for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Embeddings and every block.
    pub layers: usize,
    /// Demonstrations.
    pub slots: usize,
    /// Labels.
    pub labels: usize,
    /// Whether the vocabulary's normaliser is kept for every layer and not for the last alone.
    pub all_norms: bool,
}

impl Shape {
    /// Numbers that one prompt has.
    pub fn numbers(&self) -> usize {
        self.layers * self.slots * self.labels + self.norm_layers() * self.slots + self.slots
    }

    fn norm_layers(&self) -> usize {
        if self.all_norms { self.layers } else { 1 }
    }
}

/// What a model answered to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Sizes.
    pub shape: Shape,
    /// Logits of the labels `[layers][slots][labels]`, then `log Σ exp` of all logits `[layers][slots]` (of
    /// the last layer alone unless all are kept), then the ids of the model's first choices `[slots]`.
    numbers: Vec<u32>,
}

impl Answers {
    /// As stored: bits of f32, and the ids.
    pub(super) fn from_words(shape: Shape, numbers: Vec<u32>) -> Option<Self> {
        (numbers.len() == shape.numbers()).then_some(Self { shape, numbers })
    }

    pub(super) fn words(&self) -> &[u32] {
        &self.numbers
    }

    /// Logits of the labels.
    pub fn logits(&self, layer: usize, slot: usize) -> impl ExactSizeIterator<Item = f32> + '_ {
        let at = (layer * self.shape.slots + slot) * self.shape.labels;
        self.numbers[at..at + self.shape.labels].iter().map(|&w| f32::from_bits(w))
    }

    /// `log Σ exp` of all logits; `None` where it was not kept.
    pub fn log_sum_exp(&self, layer: usize, slot: usize) -> Option<f32> {
        let s = self.shape;
        let row = if s.all_norms { layer } else { (layer + 1 == s.layers).then_some(0)? };
        let at = s.layers * s.slots * s.labels + row * s.slots + slot;
        Some(f32::from_bits(self.numbers[at]))
    }

    /// The id that the model would give after its last layer.
    pub fn first_choice(&self, slot: usize) -> u32 {
        self.numbers[self.numbers.len() - self.shape.slots + slot]
    }
}

/// Asks a model all prompts; `tick` is told after each pass how many more are done.
///
/// # Errors
/// What the forward pass reports.
pub fn ask<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Asked],
    label_ids: &[u32],
    method: &Method,
    mut tick: impl FnMut(usize),
) -> Result<Vec<Answers>, StudyError> {
    let mut out = Vec::with_capacity(prompts.len());
    let mut rest = prompts;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |p: &&Asked| {
            tokens += p.ids.len();
            tokens <= BATCH_TOKENS
        };
        let many = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(many);
        out.extend(pass(o, m, now, label_ids, method)?);
        tick(many);
        rest = later;
    }
    Ok(out)
}

/// One pass over a few prompts with equally many slots.
fn pass<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Asked],
    label_ids: &[u32],
    method: &Method,
) -> Result<Vec<Answers>, StudyError> {
    let (twice, all_norms) = (method.defects.has(Defect::TwiceNormed), method.wants_all_norms());
    let batch = Batch::from_lengths(prompts.iter().map(|p| p.ids.len()));
    let ids: Vec<u32> = prompts.iter().flat_map(|p| p.ids.iter().copied()).collect();
    let row = |(p, seg): (&Asked, &refocus_compute::Seg)| {
        p.slots.iter().map(|s| seg.rows.start + s).collect::<Vec<u32>>()
    };
    // Rows ascend: prompts stand one after the other, and so do the slots of each.
    let rows = RowSet::new(prompts.iter().zip(&batch.segs).flat_map(row).collect());
    let labels: Arc<[u32]> = label_ids.into();
    let last = Site::new(m.spec.n_layers - 1, SiteKind::ResidPost);
    let mut early = vec![Site::new(0, SiteKind::ResidPre)];
    early.extend((0..m.spec.n_layers - 1).map(|l| Site::new(l, SiteKind::ResidPost)));
    let at_last = vec![Vocab::Ids(labels.clone()), Vocab::LogSumExp, Vocab::Top(1)];
    let mut want = vec![Vocab::Ids(labels)];
    want.extend(all_norms.then_some(Vocab::LogSumExp));
    let some = Some(rows.clone());
    let readouts = [
        Readout::Lens { sites: early, rows: some.clone(), want },
        if twice {
            Readout::Raw { site: last, rows: some }
        } else {
            Readout::Lens { sites: vec![last], rows: some, want: at_last.clone() }
        },
    ];
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], PlanMode::default())?;
    let got = forward(o, m, &ids, &plan, KvUse::None)?;
    let final_answers = match &got[1] {
        Reading::Matrix(x) => twice_normed(o, m, x, &at_last)?,
        other => other.lens(0).ok_or(RunError::Unread(1))?.to_vec(),
    };

    let shape = Shape {
        layers: m.spec.n_layers + 1,
        slots: prompts.first().map_or(0, |p| p.slots.len()),
        labels: label_ids.len(),
        all_norms,
    };
    // By layer: `[rows, labels]` and `[rows]`.
    let (mut logits, mut norms) = (Vec::new(), Vec::new());
    for layer in 0..m.spec.n_layers {
        match got[0].lens(layer) {
            Some([VocabOut::Values(l)]) => logits.push(o.to_host(l)?),
            Some([VocabOut::Values(l), VocabOut::Values(n)]) => {
                logits.push(o.to_host(l)?);
                norms.push(o.to_host(n)?);
            }
            _ => return Err(RunError::Unread(0).into()),
        }
    }
    let [VocabOut::Values(l), VocabOut::Values(n), VocabOut::Top(top)] = &final_answers[..] else {
        return Err(RunError::Unread(1).into());
    };
    logits.push(o.to_host(l)?);
    norms.push(o.to_host(n)?);
    let mut out = Vec::with_capacity(prompts.len());
    for i in 0..prompts.len() {
        let mine = i * shape.slots..(i + 1) * shape.slots;
        let wide = mine.start * shape.labels..mine.end * shape.labels;
        let mut numbers: Vec<u32> = Vec::with_capacity(shape.numbers());
        logits.iter().for_each(|l| numbers.extend(l[wide.clone()].iter().map(|x| x.to_bits())));
        norms.iter().for_each(|n| numbers.extend(n[mine.clone()].iter().map(|x| x.to_bits())));
        numbers.extend(top[mine].iter().map(|t| t.first().map_or(u32::MAX, |t| t.0)));
        out.push(Answers::from_words(shape, numbers).ok_or(RunError::Unread(0))?);
    }
    Ok(out)
}

/// What the released code reads at the last layer: the final norm of the final norm.
fn twice_normed<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    x: &O::T,
    want: &[Vocab],
) -> Result<Vec<VocabOut<O::T>>, StudyError> {
    let once = match &m.ln_final {
        Some(n) => o.norm(x, n)?,
        None => x.clone(),
    };
    Ok(unembed(o, m, &once, want)?)
}

/// Prompts of a task that are asked together; all have equally many slots.
#[derive(Clone, Copy, Debug)]
pub struct Questions<'a> {
    /// Number of the task, which names its blocks.
    pub task: usize,
    /// Prompts.
    pub prompts: &'a [Asked],
    /// First token of each class's word.
    pub label_ids: &'a [u32],
}

/// Asks prompts block by block: blocks that a folder holds are read, others are run and kept. `tick` is told
/// how many more prompts are done, and whether they were there.
///
/// # Errors
/// As [`ask`] and [`Store`].
pub fn ask_stored<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    questions: Questions<'_>,
    method: &Method,
    store: &Store,
    mut tick: impl FnMut(usize, bool),
) -> Result<Vec<Answers>, StudyError> {
    let Questions { task, prompts, label_ids } = questions;
    let shape = Shape {
        layers: m.spec.n_layers + 1,
        slots: prompts.first().map_or(0, |p| p.slots.len()),
        labels: label_ids.len(),
        all_norms: method.wants_all_norms(),
    };
    let mut out = Vec::with_capacity(prompts.len());
    for (block, prompts) in prompts.chunks(BLOCK).enumerate() {
        if let Some(answers) = store.load(task, block, shape, prompts.len())? {
            tick(answers.len(), true);
            out.extend(answers);
            continue;
        }
        let answers = ask(o, m, prompts, label_ids, method, |n| tick(n, false))?;
        store.save(task, block, &answers)?;
        out.extend(answers);
    }
    Ok(out)
}
