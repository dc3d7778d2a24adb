//! The one forward pass: every family, every readout, every intervention, with and without a tape.

use std::sync::Arc;

use refocus_compute::{
    AttnProbe, AttnSpec, Dropout, EditOp, Kernels, KvSeq, KvUse, Linear, Ops, PatternChange, PatternEdit,
    Purpose, Qkv, RawPattern, RowEdit, RowSet, Then, Vocab, VocabOut,
};

use crate::intervene::Action;
use crate::plan::{Edit, Noise, Plan, Rows};
use crate::positions::distance_bias;
use crate::rope::Angles;
use crate::run_error::RunError;
use crate::site::{Kind, Site};
use crate::spec::{Positions, Wiring};
use crate::weights::{Block, Model};

/// What one readout gave.
#[derive(Clone, Debug)]
pub enum Reading<T> {
    /// A matrix, one row a row asked for.
    Matrix(T),
    /// Scores and pattern of the rows in the set (all rows of the batch where absent).
    Pattern {
        /// The values.
        raw: Arc<RawPattern>,
        /// The rows they belong to.
        rows: Rows,
    },
    /// Per site, the answers in the order of the questions.
    Lens(Vec<Vec<VocabOut<T>>>),
    /// Attention by groups `[rows, heads · groups]` and statistics `[rows, heads · 3]`.
    Attention {
        /// Mass, where groups were given.
        mass: Option<T>,
        /// Entropy, ℓ2, maximum, where asked for.
        stats: Option<T>,
    },
}

impl<T> Reading<T> {
    /// The matrix of a raw readout or a projection.
    pub fn matrix(&self) -> Option<&T> {
        if let Reading::Matrix(t) = self { Some(t) } else { None }
    }

    /// The answers of a lens readout at its `site`-th site.
    pub fn lens(&self, site: usize) -> Option<&[VocabOut<T>]> {
        if let Reading::Lens(all) = self { all.get(site).map(Vec::as_slice) } else { None }
    }
}

/// The readings of a pass, in the order of the readouts.
pub type Captured<T> = Vec<Reading<T>>;

type Page<O> = <<O as Ops>::K as Kernels>::Page;

/// One pass under way.
struct Pass<'a, O: Ops> {
    o: &'a mut O,
    m: &'a Model<O::K>,
    plan: &'a Plan,
    out: Vec<Option<Reading<O::T>>>,
    /// The rows that each gate lets through.
    open: Vec<RowSet>,
    /// The rows that activations hold from the queries of the last block on.
    alive: Option<&'a RowSet>,
    /// Added to attention's scores by distance.
    bias: Option<O::T>,
}

/// Runs a plan on token ids laid end to end as the plan's batch says.
///
/// With a cache, segments continue its sequences, one sequence a segment; after `Append` their length
/// has grown by the segments' rows.
///
/// # Errors
/// Ids out of range, sequences beyond the context, or what the backend reports.
pub fn forward<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    ids: &[u32],
    plan: &Plan,
    kv: KvUse<'_, Page<O>>,
) -> Result<Captured<O::T>, RunError> {
    if plan.start.is_some() {
        return Err(RunError::Start { start: plan.start });
    }
    check_ids(m, ids, plan)?;
    check_cache(m, plan, &kv)?;
    let mut pass = Pass::new(o, m, plan)?;
    let x = pass.embed(ids)?;
    pass.run(x, kv)
}

/// Runs a plan of [`Plan::resume`] on the residual stream before the block where it begins,
/// `[rows, d_model]`: what [`Kind::ResidPre`] of an earlier pass gave, rows as the plan's batch says.
///
/// Rows that were not changed give the bits of the whole pass. A cache is read, never continued: many
/// segments may continue the same sequence.
///
/// # Errors
/// A plan that begins at token ids, a matrix of another shape, a cache to append to, sequences beyond the
/// context, or what the backend reports.
pub fn forward_from<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    x: O::T,
    plan: &Plan,
    kv: KvUse<'_, Page<O>>,
) -> Result<Captured<O::T>, RunError> {
    if plan.start.is_none() {
        return Err(RunError::Start { start: None });
    }
    if matches!(kv, KvUse::Append(_)) {
        return Err(RunError::Partial);
    }
    let (got, want) = (o.shape(&x), (plan.batch.rows(), m.spec.d_model));
    if got != want {
        return Err(RunError::Residual { got, want });
    }
    check_cache(m, plan, &kv)?;
    Pass::new(o, m, plan)?.run(x, kv)
}

fn check_ids<K: Kernels>(m: &Model<K>, ids: &[u32], plan: &Plan) -> Result<(), RunError> {
    let rows = plan.batch.rows();
    if ids.len() != rows {
        return Err(RunError::Rows { ids: ids.len(), rows });
    }
    match ids.iter().enumerate().find(|(_, id)| **id as usize >= m.spec.vocab) {
        Some((at, &id)) => Err(RunError::Id { id, at, vocab: m.spec.vocab }),
        None => Ok(()),
    }
}

fn check_cache<K: Kernels>(m: &Model<K>, plan: &Plan, kv: &KvUse<'_, K::Page>) -> Result<(), RunError> {
    let lengths: Vec<usize> = match kv {
        KvUse::None => vec![0; plan.batch.segs.len()],
        KvUse::Read(s) => s.iter().map(|s| s.len).collect(),
        KvUse::Append(s) => s.iter().map(|s| s.len).collect(),
    };
    if lengths.len() != plan.batch.segs.len() {
        return Err(RunError::Cache { seqs: lengths.len(), segs: plan.batch.segs.len() });
    }
    for (i, (s, len)) in plan.batch.segs.iter().zip(lengths).enumerate() {
        if s.pos0 as usize != len {
            return Err(RunError::CacheLength { seq: i, pos0: s.pos0 as usize, len });
        }
        let end = len + s.rows.len();
        if !m.spec.fits(end) {
            return Err(RunError::Context { seq: i, len: end, n_ctx: m.spec.n_ctx });
        }
    }
    Ok(())
}

impl<'a, O: Ops> Pass<'a, O> {
    fn new(o: &'a mut O, m: &'a Model<O::K>, plan: &'a Plan) -> Result<Self, RunError> {
        let bias = distance_bias(o, &m.spec, m.rel_bias.as_ref(), &plan.batch)?;
        Ok(Self {
            o,
            m,
            bias,
            plan,
            out: (0..plan.readouts).map(|_| None).collect(),
            open: vec![RowSet::all(0); plan.gates.len()],
            alive: None,
        })
    }

    /// The blocks, from the residual stream before the first of them to the readings.
    fn run(mut self, mut x: O::T, mut kv: KvUse<'_, Page<O>>) -> Result<Captured<O::T>, RunError> {
        let angles = self.m.rope.angles(&self.m.spec, &self.plan.batch)?;
        for layer in self.plan.start.unwrap_or(0)..self.plan.layers {
            let kv = match &mut kv {
                KvUse::None => KvUse::None,
                KvUse::Read(seqs) => KvUse::Read(seqs),
                KvUse::Append(seqs) => KvUse::Append(seqs),
            };
            x = self.block(layer, x, angles.as_ref(), kv)?;
        }
        if let KvUse::Append(seqs) = &mut kv {
            for (seq, seg) in seqs.iter_mut().zip(&self.plan.batch.segs) {
                seq.len += seg.rows.len();
            }
        }
        self.finish(&x)?;
        self.out.into_iter().enumerate().map(|(i, r)| r.ok_or(RunError::Unread(i))).collect()
    }

    /// Token embeddings and learned positions: the first residual stream.
    fn embed(&mut self, ids: &[u32]) -> Result<O::T, RunError> {
        let m = self.m;
        let mut x = self.o.embed(&m.embed, ids)?;
        if let Some(p) = &m.project_in {
            x = self.o.linear(&x, &[p], Then::default())?;
        }
        x = self.visit(0, Kind::Embed, x)?;
        if let Some(table) = &m.pos_embed {
            let offset = if let Positions::Learned { offset } = m.spec.positions { offset } else { 0 };
            let rows: Vec<u32> = self.plan.batch.positions().iter().map(|p| p + offset as u32).collect();
            let p = self.o.embed(table, &rows)?;
            let p = self.visit(0, Kind::PosEmbed, p)?;
            x = self.o.add(&x, &p)?;
        }
        self.drop_out(x, |n| n.embedding, "embedding dropout")
    }

    /// Dropout of an activation, where the plan asks for it.
    fn drop_out(&mut self, x: O::T, rate: fn(&Noise) -> f64, place: &str) -> Result<O::T, RunError> {
        let Some(noise) = &self.plan.noise else { return Ok(x) };
        let Some(d) = Dropout::new(rate(noise), noise.seed, Purpose::new(place), noise.step) else {
            return Ok(x);
        };
        let segs = self.plan.batch.segs.iter().enumerate();
        let all = segs.flat_map(|(i, s)| s.rows.clone().map(move |r| (i as u32, s.pos0 + r - s.rows.start)));
        let at: Vec<(u32, u32)> = match self.alive {
            None => all.collect(),
            Some(alive) => {
                let all: Vec<_> = all.collect();
                alive.as_slice().iter().map(|&r| all[r as usize]).collect()
            }
        };
        Ok(self.o.dropout(&x, &d, &at)?)
    }

    /// One block: `[rows, d_model]` to `[alive rows, d_model]`.
    fn block(
        &mut self,
        layer: usize,
        x: O::T,
        angles: Option<&Angles>,
        kv: KvUse<'_, Page<O>>,
    ) -> Result<O::T, RunError> {
        let m = self.m;
        let b = &m.blocks[layer];
        let x = self.visit(layer, Kind::ResidPre, x)?;
        let post_norm = m.spec.wiring == Wiring::PostNorm;
        let h = if post_norm { x.clone() } else { self.norm(layer, Kind::Ln1, &x)? };
        let z = self.attention(layer, b, &h, angles, kv)?;
        // From here on only the rows that someone needs.
        let (x, h) = match self.alive {
            Some(alive) => (self.o.rows(&x, alive.as_slice())?, self.o.rows(&h, alive.as_slice())?),
            None => (x, h),
        };
        let mid = self.add_output(layer, Kind::AttnOut, &z, &b.o, &x)?;
        let y = match m.spec.wiring {
            Wiring::PreNorm => {
                let mid = self.visit(layer, Kind::ResidMid, mid)?;
                let h = self.norm(layer, Kind::Ln2, &mid)?;
                self.mlp(layer, b, &h, &mid)?
            }
            Wiring::PostNorm => {
                let mid = self.norm(layer, Kind::Ln1, &mid)?;
                let mid = self.visit(layer, Kind::ResidMid, mid)?;
                let y = self.mlp(layer, b, &mid, &mid)?;
                self.norm(layer, Kind::Ln2, &y)?
            }
            Wiring::Parallel { shared_norm: true } => self.mlp(layer, b, &h, &mid)?,
            Wiring::Parallel { shared_norm: false } => {
                let h = self.norm(layer, Kind::Ln2, &x)?;
                self.mlp(layer, b, &h, &mid)?
            }
        };
        self.visit(layer, Kind::ResidPost, y)
    }

    /// A norm with its sites.
    fn norm(&mut self, layer: usize, kind: Kind, x: &O::T) -> Result<O::T, RunError> {
        let (m, scale) = (
            self.m,
            match kind {
                Kind::Ln1 => Kind::Ln1Scale,
                Kind::Ln2 => Kind::Ln2Scale,
                _ => Kind::FinalScale,
            },
        );
        let norm = match kind {
            Kind::Ln1 => m.blocks[layer].ln1.as_ref(),
            Kind::Ln2 => m.blocks[layer].ln2.as_ref(),
            _ => m.ln_final.as_ref(),
        };
        let Some(norm) = norm else { return Ok(x.clone()) };
        if self.plan.touches(layer, scale) {
            let s = self.o.norm_scale(x, norm)?;
            self.visit(layer, scale, s)?;
        }
        let y = self.o.norm(x, norm)?;
        self.visit(layer, kind, y)
    }

    /// Queries, keys, values, rotary positions, attention: `[alive rows, n_heads · d_head]`.
    fn attention(
        &mut self,
        layer: usize,
        b: &Block<O::K>,
        h: &O::T,
        angles: Option<&Angles>,
        kv: KvUse<'_, Page<O>>,
    ) -> Result<O::T, RunError> {
        let spec = &self.m.spec;
        let narrow = if layer + 1 == self.plan.layers { self.plan.alive.as_ref() } else { None };
        let (q, k, v) = match narrow {
            None => {
                let mut qkv = self.o.linear_each(h, &[&b.q, &b.k, &b.v])?.into_iter();
                match (qkv.next(), qkv.next(), qkv.next()) {
                    (Some(q), Some(k), Some(v)) => (q, k, v),
                    _ => return Err(RunError::Unread(layer)),
                }
            }
            Some(alive) => {
                let mut kv = self.o.linear_each(h, &[&b.k, &b.v])?.into_iter();
                let few = self.o.rows(h, alive.as_slice())?;
                let q = self.o.linear(&few, &[&b.q], Then::default())?;
                match (kv.next(), kv.next()) {
                    (Some(k), Some(v)) => (q, k, v),
                    _ => return Err(RunError::Unread(layer)),
                }
            }
        };
        let k = self.visit(layer, Kind::K, k)?;
        let v = self.visit(layer, Kind::V, v)?;
        let k = self.turn(layer, Kind::RotK, k, b.k_norm.as_ref(), angles)?;
        self.alive = narrow;
        let q = self.visit(layer, Kind::Q, q)?;
        let q = self.turn(layer, Kind::RotQ, q, b.q_norm.as_ref(), angles)?;
        let shape = AttnSpec {
            n_heads: spec.n_heads,
            n_kv_heads: spec.n_kv_heads,
            d_head: spec.d_head,
            scale: spec.attn_scale[layer],
            window: spec.window[layer],
            dropout: self.plan.noise.as_ref().and_then(|n| {
                let place = Purpose::new(&format!("attention dropout {layer}"));
                Dropout::new(n.attention, n.seed, place, n.step)
            }),
        };
        let probe = self.probe(layer)?;
        let bias = self.bias.clone();
        let qkv = Qkv { q: &q, k: &k, v: &v, bias: bias.as_ref() };
        let out = self.o.attention(qkv, &shape, layer, &self.plan.batch, narrow, kv, probe.as_ref())?;
        if let Some(raw) = out.raw {
            let raw = Arc::new(raw);
            for kind in [Kind::Scores, Kind::Pattern] {
                let raws = self.plan.sites.get(&Site::new(layer, kind)).map_or(&[][..], |s| &s.raws);
                for (i, _) in raws {
                    self.out[*i] = Some(Reading::Pattern { raw: Arc::clone(&raw), rows: narrow.cloned() });
                }
            }
        }
        let z = self.visit(layer, Kind::Z, out.z)?;
        if let Some(at) = self.plan.attention.get(&layer) {
            for (i, rows, stats) in &at.wants {
                let mine = at.groups.as_ref().is_some_and(|g| g.0 == *i);
                let mass = out.mass.as_ref().filter(|_| mine).map(|t| self.select(t, rows)).transpose()?;
                let stats =
                    out.stats.as_ref().filter(|_| *stats).map(|t| self.select(t, rows)).transpose()?;
                self.out[*i] = Some(Reading::Attention { mass, stats });
            }
            for (i, rows, dirs) in &at.dots {
                let z = self.select(&z, rows)?;
                let n = dirs.len() / spec.d_model;
                let dirs = self.o.constant(n, spec.d_model, dirs)?;
                let dirs = refocus_compute::Dirs { dirs: &dirs, n_heads: spec.n_heads };
                self.out[*i] = Some(Reading::Matrix(self.o.head_dot(&z, &b.o, dirs)?));
            }
        }
        if self.plan.touches(layer, Kind::Result) {
            let r = self.o.head_result(&z, &b.o, spec.n_heads)?;
            self.visit(layer, Kind::Result, r)?;
        }
        Ok(z)
    }

    /// Head norm and rotation of queries or keys.
    fn turn(
        &mut self,
        layer: usize,
        kind: Kind,
        mut x: O::T,
        norm: Option<&refocus_compute::Norm<O::K>>,
        angles: Option<&Angles>,
    ) -> Result<O::T, RunError> {
        if let Some(n) = norm {
            x = self.o.norm(&x, n)?;
        }
        let Some((table, pos)) = angles else { return Ok(x) };
        let own: Vec<u32>;
        let pos = match self.alive {
            Some(alive) => {
                own = alive.as_slice().iter().map(|&r| pos[r as usize]).collect();
                &own
            }
            None => pos,
        };
        let x = self.o.rope(&x, self.m.spec.d_head, table, pos)?;
        self.visit(layer, kind, x)
    }

    /// Pattern edits and measurements of a layer; `None` keeps attention fused.
    fn probe(&mut self, layer: usize) -> Result<Option<AttnProbe<O::T>>, RunError> {
        let raw = self.plan.touches(layer, Kind::Scores) || self.plan.touches(layer, Kind::Pattern);
        let at = self.plan.attention.get(&layer);
        if at.is_none() && !raw {
            return Ok(None);
        }
        let mut probe = AttnProbe { raw, ..AttnProbe::default() };
        let Some(at) = at else { return Ok(Some(probe)) };
        probe.groups = at.groups.as_ref().map(|g| g.1.clone());
        probe.stats = at.wants.iter().any(|w| w.2);
        for e in &at.edits {
            let rows = self.open_rows(&e.rows, e.gate);
            if rows.is_empty() {
                continue;
            }
            for head in e.heads.clone() {
                let kind = match &e.action {
                    Action::UniformAttention => PatternChange::Uniform,
                    Action::BlockEdge(r) => PatternChange::Block(r.clone()),
                    Action::Sharpen(t) => PatternChange::Temperature(*t),
                    Action::Set(p) => {
                        let n = rows.len().max(1);
                        PatternChange::Set(self.o.constant(n, p.len() / n, p)?)
                    }
                    _ => continue,
                };
                probe.edits.push(PatternEdit { head, rows: rows.clone(), kind });
            }
        }
        Ok(Some(probe))
    }

    /// `to + x Wᵀ + b`, fused unless the sum's second part is looked at.
    fn add_output(
        &mut self,
        layer: usize,
        kind: Kind,
        x: &O::T,
        w: &Linear<O::K>,
        to: &O::T,
    ) -> Result<O::T, RunError> {
        if !self.plan.touches(layer, kind) {
            return Ok(self.o.linear(x, &[w], Then { act: None, residual: Some(to) })?);
        }
        let y = self.o.linear(x, &[w], Then::default())?;
        let y = self.visit(layer, kind, y)?;
        Ok(self.o.add(to, &y)?)
    }

    /// `to + mlp(h)`.
    fn mlp(&mut self, layer: usize, b: &Block<O::K>, h: &O::T, to: &O::T) -> Result<O::T, RunError> {
        let spec = &self.m.spec;
        let post = match &b.gate {
            Some(gate) => {
                let both = self.o.linear(h, &[gate, &b.up], Then::default())?;
                let both = self.visit_part(layer, Kind::MlpPre, both, 0, 2)?;
                let both = self.visit_part(layer, Kind::MlpPreLinear, both, 1, 2)?;
                self.o.glu(&both, spec.act)?
            }
            None if self.plan.touches(layer, Kind::MlpPre) => {
                let pre = self.o.linear(h, &[&b.up], Then::default())?;
                let pre = self.visit(layer, Kind::MlpPre, pre)?;
                self.o.act(&pre, spec.act)?
            }
            None => self.o.linear(h, &[&b.up], Then { act: Some(spec.act), residual: None })?,
        };
        let post = self.visit(layer, Kind::MlpPost, post)?;
        let post = self.drop_out(post, |n| n.mlp, &format!("mlp dropout {layer}"))?;
        self.add_output(layer, Kind::MlpOut, &post, &b.down, to)
    }

    /// After the last block: readings of the final norm.
    fn finish(&mut self, x: &O::T) -> Result<(), RunError> {
        let last = self.m.spec.n_layers;
        if self.plan.touches(last, Kind::Final) || self.plan.touches(last, Kind::FinalScale) {
            self.norm(last, Kind::Final, x)?;
        }
        Ok(())
    }

    /// The rows of a matrix that a readout wants.
    fn select(&mut self, x: &O::T, rows: &Rows) -> Result<O::T, RunError> {
        let Some(rows) = rows else { return Ok(x.clone()) };
        let local: Vec<u32> = match self.alive {
            Some(alive) => {
                rows.as_slice().iter().filter_map(|&r| alive.position(r).map(|i| i as u32)).collect()
            }
            None => rows.as_slice().to_vec(),
        };
        Ok(self.o.rows(x, &local)?)
    }

    fn visit(&mut self, layer: usize, kind: Kind, x: O::T) -> Result<O::T, RunError> {
        self.visit_part(layer, kind, x, 0, 1)
    }

    /// Edits and readings at a site that is part `part` of `parts` equal ranges of columns of `x`.
    fn visit_part(
        &mut self,
        layer: usize,
        kind: Kind,
        x: O::T,
        part: usize,
        parts: usize,
    ) -> Result<O::T, RunError> {
        if !self.plan.touches(layer, kind) {
            return Ok(x);
        }
        let plan = self.plan;
        let Some(at) = plan.sites.get(&Site::new(layer, kind)) else { return Ok(x) };
        let width = self.o.shape(&x).1 / parts;
        let edits =
            at.edits.iter().map(|e| self.lower(e, part * width)).collect::<Result<Vec<_>, _>>()?.into_iter();
        let edits: Vec<_> = edits.flatten().collect();
        let x = if edits.is_empty() { x } else { self.o.edit(x, &edits)? };
        if kind == Kind::ResidPost {
            // Before the readings: of the last block they are the logits, which a gated edit may change.
            self.decide_gates(layer, &x)?;
        }
        if !at.raws.is_empty() {
            let own = match parts {
                1 => x.clone(),
                _ => self.o.cols(&x, part * width..(part + 1) * width)?,
            };
            for (i, rows) in &at.raws {
                self.out[*i] = Some(Reading::Matrix(self.select(&own, rows)?));
            }
        }
        let output = kind == Kind::ResidPost && layer + 1 == plan.exit;
        for (i, j, rows, want) in &at.lenses {
            let answers = self.lens(&x, rows, want, output)?;
            let reading = self.out[*i].get_or_insert_with(|| Reading::Lens(Vec::new()));
            if let Reading::Lens(all) = reading {
                all.resize_with(all.len().max(j + 1), Vec::new);
                all[*j] = answers;
            }
        }
        Ok(x)
    }

    /// Final norm and questions about the vocabulary at some rows. Where the residual stream is the
    /// model's `output`, interventions at the final norm count.
    fn lens(
        &mut self,
        x: &O::T,
        rows: &Rows,
        want: &[Vocab],
        output: bool,
    ) -> Result<Vec<VocabOut<O::T>>, RunError> {
        let m = self.m;
        let last = m.spec.n_layers;
        let mut h = match &m.ln_final {
            Some(_) if output && self.plan.touches(last, Kind::Final) => {
                let h = self.norm(last, Kind::Final, x)?;
                self.select(&h, rows)?
            }
            Some(n) => {
                let x = self.select(x, rows)?;
                self.o.norm(&x, n)?
            }
            None => self.select(x, rows)?,
        };
        if let Some(p) = &m.project_out {
            h = self.o.linear(&h, &[p], Then::default())?;
        }
        Ok(self.o.vocab(&h, &m.unembed, want)?)
    }

    /// The rows among `rows` that a gate lets through and that are still there, as local rows.
    fn open_rows(&self, rows: &RowSet, gate: Option<usize>) -> RowSet {
        let open = |r: &u32| gate.is_none_or(|g| self.open[g].position(*r).is_some());
        let here = |r: &u32| self.alive.is_none_or(|a| a.position(*r).is_some());
        RowSet::new(rows.as_slice().iter().copied().filter(|r| open(r) && here(r)).collect())
    }

    /// A planned edit on the rows at hand.
    fn lower(&mut self, e: &Edit, col0: usize) -> Result<Option<RowEdit<O::T>>, RunError> {
        let rows = self.open_rows(&e.rows, e.gate);
        if rows.is_empty() {
            return Ok(None);
        }
        let n = e.cols.len();
        let op = match &e.action {
            Action::Zero => EditOp::Zero,
            Action::Scale(f) => EditOp::Scale(*f),
            Action::Add { vector, alpha } => {
                let v: Vec<f32> = vector.iter().map(|x| x * alpha).collect();
                EditOp::Add(self.o.constant(1, n, &v)?)
            }
            Action::Mean(v) => EditOp::Set(self.o.constant(1, n, v)?),
            Action::Set(all) => {
                let given = rows.as_slice().iter().filter_map(|&r| e.rows.position(r));
                let v: Vec<f32> = given.flat_map(|i| all[i * n..(i + 1) * n].iter().copied()).collect();
                EditOp::Set(self.o.constant(rows.len(), n, &v)?)
            }
            _ => return Ok(None),
        };
        let local = match self.alive {
            Some(a) => {
                RowSet::new(rows.as_slice().iter().filter_map(|&r| a.position(r).map(|i| i as u32)).collect())
            }
            None => rows,
        };
        Ok(Some(RowEdit { rows: local, cols: col0 + e.cols.start..col0 + e.cols.end, op }))
    }

    /// Lets the gates that read this block decide.
    fn decide_gates(&mut self, layer: usize, x: &O::T) -> Result<(), RunError> {
        for g in 0..self.plan.gates.len() {
            let gate = &self.plan.gates[g];
            if gate.gate.lens_layer != layer {
                continue;
            }
            // After the last block only the rows that someone needs are left.
            let rows = self.open_rows(&RowSet::new(gate.rows.iter().copied().collect()), None);
            let answers = self.lens(x, &Some(rows.clone()), &[Vocab::Top(1), Vocab::LogSumExp], false)?;
            let [VocabOut::Top(top), VocabOut::Values(lse)] = &answers[..] else { continue };
            let lse = self.o.to_host(lse)?;
            let passes =
                |i: usize| top[i].first().is_some_and(|t| (t.1 - lse[i]).exp() > gate.gate.top1_prob_above);
            let open = rows.as_slice().iter().enumerate().filter(|(i, _)| passes(*i)).map(|(_, &r)| r);
            self.open[g] = RowSet::new(open.collect());
        }
        Ok(())
    }
}

/// An empty cache for a model.
pub fn empty_cache<K: Kernels>(m: &Model<K>) -> KvSeq<K::Page> {
    KvSeq::new(m.spec.n_layers)
}
