//! The residual stream at the last token of prompts, node by node, and what would be answered there.
//!
//! A node stands before or after attention or an MLP. Where both read the same stream (parallel blocks) there is
//! none between them; then the stream before the block with only one of the two outputs added stands for it, and
//! what each adds is the mean over both orders of adding (the Shapley value of two).

use std::sync::Arc;

use refocus_compute::{Batch, KvUse, Ops, RowSet, Then, Vocab, VocabOut};
use refocus_model::{Kind, Mode, Model, ModelSpec, Plan, Readout, RunError, Site, Wiring, forward};

use crate::error::MeasureError;

/// A place in the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// Before the first block.
    Embedded,
    /// After the attention of a block; in parallel blocks the stream before it with attention's output alone.
    Attention(usize),
    /// Parallel blocks only: the stream before the block with the MLP's output alone.
    Mlp(usize),
    /// After a block.
    Block(usize),
}

impl Node {
    /// All nodes of a model, in order.
    pub fn all(spec: &ModelSpec) -> Vec<Self> {
        let parallel = is_parallel(spec);
        let of = |l| [Some(Self::Attention(l)), parallel.then_some(Self::Mlp(l)), Some(Self::Block(l))];
        std::iter::once(Self::Embedded).chain((0..spec.n_layers).flat_map(of).flatten()).collect()
    }

    /// Those before the first block and after each.
    pub fn blocks(spec: &ModelSpec) -> Vec<Self> {
        std::iter::once(Self::Embedded).chain((0..spec.n_layers).map(Self::Block)).collect()
    }

    /// The node before a block.
    pub fn before(layer: usize) -> Self {
        layer.checked_sub(1).map_or(Self::Embedded, Self::Block)
    }

    /// The sites whose sum it is.
    fn sites(self, spec: &ModelSpec) -> (Site, Option<Site>) {
        let pre = |l| Site::new(l, Kind::ResidPre);
        match self {
            Self::Embedded => (pre(0), None),
            Self::Attention(l) if is_parallel(spec) => (pre(l), Some(Site::new(l, Kind::AttnOut))),
            Self::Attention(l) => (Site::new(l, Kind::ResidMid), None),
            Self::Mlp(l) => (pre(l), Some(Site::new(l, Kind::MlpOut))),
            Self::Block(l) => (Site::new(l, Kind::ResidPost), None),
        }
    }

    /// Whether the model passes through it.
    pub fn is_real(self, spec: &ModelSpec) -> bool {
        self.sites(spec).1.is_none()
    }

    /// Its site, or the sum that stands for it: `blocks.3.hook_resid_pre + blocks.3.hook_attn_out`.
    pub fn name(self, spec: &ModelSpec) -> String {
        match self.sites(spec) {
            (site, None) => site.to_string(),
            (site, Some(more)) => format!("{site} + {more}"),
        }
    }
}

/// Whether attention and MLP of a block read the same stream.
fn is_parallel(spec: &ModelSpec) -> bool {
    matches!(spec.wiring, Wiring::Parallel { .. })
}

/// What attention and MLP of a block add to a quantity, given its value at each node.
pub fn split(spec: &ModelSpec, layer: usize, at: impl Fn(Node) -> f64) -> (f64, f64) {
    let (pre, mid, post) = (at(Node::before(layer)), at(Node::Attention(layer)), at(Node::Block(layer)));
    if !is_parallel(spec) {
        return (mid - pre, post - mid);
    }
    let other = at(Node::Mlp(layer));
    (f64::midpoint(mid - pre, post - other), f64::midpoint(other - pre, post - mid))
}

/// The streams at the last tokens of prompts, `[prompts, d_model]` for each node.
///
/// # Errors
/// An empty prompt, one that is longer than the context, or what the forward pass reports.
pub fn last_streams<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[&[u32]],
    nodes: &[Node],
) -> Result<Vec<O::T>, MeasureError> {
    if let Some(seq) = prompts.iter().position(|p| p.is_empty()) {
        return Err(RunError::Empty { seq }.into());
    }
    let batch = Batch::from_lengths(prompts.iter().map(|p| p.len()));
    let ids: Vec<u32> = prompts.concat();
    let rows = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
    let mut sites: Vec<Site> = Vec::new();
    let mut place = |site: Site| {
        sites.iter().position(|s| *s == site).unwrap_or_else(|| {
            sites.push(site);
            sites.len() - 1
        })
    };
    let sums: Vec<(usize, Option<usize>)> = nodes
        .iter()
        .map(|n| {
            let (site, more) = n.sites(&m.spec);
            (place(site), more.map(&mut place))
        })
        .collect();
    let readouts: Vec<Readout> =
        sites.iter().map(|&site| Readout::Raw { site, rows: Some(rows.clone()) }).collect();
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default())?;
    let got = forward(o, m, &ids, &plan, KvUse::None)?;
    let matrix = |i: usize| got[i].matrix().ok_or(RunError::Unread(i));
    let mut out = Vec::with_capacity(nodes.len());
    for (site, more) in sums {
        let x = matrix(site)?;
        out.push(match more {
            Some(more) => o.add(x, matrix(more)?)?,
            None => x.clone(),
        });
    }
    Ok(out)
}

/// Questions about the vocabulary, asked of rows of residual streams `[rows, d_model]` through the model's own
/// final norm: the logit lens, with the bits of [`Readout::Lens`].
///
/// # Errors
/// What the backend reports.
pub fn unembed<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    x: &O::T,
    want: &[Vocab],
) -> Result<Vec<VocabOut<O::T>>, RunError> {
    let mut h = match &m.ln_final {
        Some(norm) => o.norm(x, norm)?,
        None => x.clone(),
    };
    if let Some(p) = &m.project_out {
        h = o.linear(&h, &[p], Then::default())?;
    }
    Ok(o.vocab(&h, &m.unembed, want)?)
}

/// A token at a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Negative log-likelihood (nats).
    pub nll: f32,
    /// Tokens that are more likely.
    pub rank: u32,
}

impl Seen {
    /// Its probability.
    pub fn prob(self) -> f64 {
        f64::from((-self.nll).exp())
    }
}

/// Likelihood and rank of the tokens of each row, `[rows][tokens]`; every row has equally many.
///
/// # Errors
/// A likelihood that is no number (`place` names the node), or what the backend reports.
pub fn follow<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    x: &O::T,
    tokens: &[&[u32]],
    place: &dyn Fn() -> String,
) -> Result<Vec<Vec<Seen>>, MeasureError> {
    let each = tokens.first().map_or(0, |t| t.len());
    let column = |t: usize| -> Arc<[u32]> { tokens.iter().filter_map(|row| row.get(t).copied()).collect() };
    let want: Vec<Vocab> =
        (0..each).flat_map(|t| [Vocab::Nll(column(t)), Vocab::RankOf(column(t))]).collect();
    let answers = unembed(o, m, x, &want)?;
    let mut out = vec![Vec::with_capacity(each); tokens.len()];
    for two in answers.chunks(2) {
        let [VocabOut::Values(nll), VocabOut::Ranks(ranks)] = two else {
            return Err(RunError::Unread(0).into());
        };
        let nll = o.to_host(nll)?;
        for (seq, ((out, &nll), &rank)) in out.iter_mut().zip(&nll).zip(ranks).enumerate() {
            if nll.is_nan() {
                let what = format!("a token's likelihood at {}", place());
                return Err(RunError::NotANumber { what, seq, position: 0 }.into());
            }
            out.push(Seen { nll, rank });
        }
    }
    Ok(out)
}
