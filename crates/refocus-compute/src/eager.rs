//! [`Ops`] that run at once and remember nothing.

pub(crate) mod check;

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use self::check::{Dim, Past};
use crate::dropout::Dropout;
use crate::error::Result;
use crate::kernels::{Kernels, LstmKept, NormArgs};
use crate::ops::{
    Activation, AttnOut, AttnProbe, AttnSpec, Batch, Dirs, KvUse, Linear, Norm, Ops, Param, Qkv, RawPattern,
    RopeTable, RowEdit, RowSet, Then, Vocab, VocabOut,
};

/// Runs every operation on a backend after checking it. An edit happens in place where nobody else
/// holds the matrix. Kernels see at least one row, except that attention may have rows to append and
/// none to query.
#[derive(Clone, Debug, Default)]
pub struct Eager<K: Kernels> {
    /// The backend.
    pub kernels: K,
}

/// States of an LSTM and what their gradient needs.
type Kept<K> = (Rc<<K as Kernels>::Buf>, Option<LstmKept<<K as Kernels>::Buf>>);

impl<K: Kernels> Eager<K> {
    /// Over a backend.
    pub fn new(kernels: K) -> Self {
        Self { kernels }
    }

    /// `Σ x · weights` over all elements, `weights` row-major as long as `x`: `[1, 1]`.
    pub fn weighted_sum(&mut self, x: &Rc<K::Buf>, weights: &Rc<K::Buf>) -> Result<Rc<K::Buf>> {
        check::same("weighted_sum", "the weights", self.dim(weights), self.dim(x))?;
        if self.dim(x).0 == 0 {
            return self.zeros(1, 1);
        }
        self.kernels.weighted_sum(x, weights).map(Rc::new)
    }

    /// [`Ops::lstm`] and, with `keep`, what its gradient needs (nothing where there are no rows).
    pub(crate) fn lstm_kept(
        &mut self,
        pre: &Rc<K::Buf>,
        at: Option<&[u32]>,
        recurrent: &Linear<K>,
        batch: &Batch,
        keep: bool,
    ) -> Result<Kept<K>> {
        let w = self.kernels.weight_shape(&recurrent.w.value);
        let bias = recurrent.bias.as_ref().map(|b| self.dim(&b.value));
        check::lstm(self.dim(pre), at, w, bias, batch)?;
        if batch.rows() == 0 {
            return Ok((self.zeros(0, w.1)?, None));
        }
        let bias = recurrent.bias.as_ref().map(|b| &*b.value);
        let (hidden, kept) = self.kernels.lstm(pre, at, &recurrent.w.value, bias, batch, keep)?;
        Ok((Rc::new(hidden), kept))
    }

    fn dim(&self, x: &K::Buf) -> Dim {
        self.kernels.shape(x)
    }

    fn zeros(&mut self, rows: usize, width: usize) -> Result<Rc<K::Buf>> {
        self.kernels.zeros(rows, width).map(Rc::new)
    }

    fn check_norm(&self, op: &'static str, x: &K::Buf, n: &Norm<K>) -> Result<()> {
        check::divides(op, "groups", n.group, self.dim(x))?;
        for (what, p) in [("the gain", &n.gain), ("the bias", &n.bias)] {
            if let Some(p) = p {
                check::same(op, what, self.dim(&p.value), (1, n.group))?;
            }
        }
        Ok(())
    }

    fn check_map(&self, op: &'static str, x: &K::Buf, l: &Linear<K>) -> Result<Dim> {
        let w = self.kernels.weight_shape(&l.w.value);
        check::map(op, self.dim(x), w, l.bias.as_ref().map(|b| self.dim(&b.value)))?;
        Ok(w)
    }

    /// What attention gives where no row asks.
    fn no_attention(
        &mut self,
        spec: &AttnSpec,
        probe: Option<&AttnProbe<Rc<K::Buf>>>,
    ) -> Result<AttnOut<Rc<K::Buf>>> {
        let groups = probe.and_then(|p| p.groups.as_ref()).map(|g| g.first().map_or(0, Vec::len));
        Ok(AttnOut {
            z: self.zeros(0, spec.n_heads * spec.d_head)?,
            mass: groups.map(|n| self.zeros(0, spec.n_heads * n)).transpose()?,
            stats: probe.filter(|p| p.stats).map(|_| self.zeros(0, spec.n_heads * 3)).transpose()?,
            raw: probe.filter(|p| p.raw).map(|_| RawPattern::default()),
        })
    }

    fn no_vocab(&mut self, n: usize, want: &[Vocab]) -> Result<Vec<VocabOut<Rc<K::Buf>>>> {
        let answer = |question: &Vocab| {
            let width = match question {
                Vocab::Ids(ids) => ids.len(),
                Vocab::LogSumExp | Vocab::Nll(_) => 1,
                Vocab::All => n,
                Vocab::Top(_) => return Ok(VocabOut::Top(Vec::new())),
                Vocab::RankOf(_) => return Ok(VocabOut::Ranks(Vec::new())),
            };
            self.zeros(0, width).map(VocabOut::Values)
        };
        want.iter().map(answer).collect()
    }
}

/// The plain buffers of a norm.
pub(crate) fn norm_args<K: Kernels>(n: &Norm<K>) -> NormArgs<'_, K::Buf> {
    let gain = n.gain.as_ref().map(|p| &*p.value);
    NormArgs { kind: n.kind, eps: n.eps, group: n.group, gain, bias: n.bias.as_ref().map(|p| &*p.value) }
}

impl<K: Kernels> Ops for Eager<K> {
    type K = K;
    type T = Rc<K::Buf>;

    fn shape(&self, x: &Self::T) -> (usize, usize) {
        self.dim(x)
    }

    fn constant(&mut self, rows: usize, width: usize, data: &[f32]) -> Result<Self::T> {
        if rows.checked_mul(width) != Some(data.len()) {
            let want = format!("that of [{rows}, {width}]");
            return Err(check::mismatch("constant", "the number of elements", data.len(), want));
        }
        self.kernels.upload(rows, width, data).map(Rc::new)
    }

    fn to_host(&mut self, x: &Self::T) -> Result<Vec<f32>> {
        self.kernels.download(x)
    }

    fn parameter(&mut self, p: &Param<K::Buf>) -> Result<Self::T> {
        Ok(Rc::new((*p.value).clone()))
    }

    fn embed(&mut self, w: &Param<K::W>, ids: &[u32]) -> Result<Self::T> {
        let (n, width) = self.kernels.weight_shape(&w.value);
        check::within("embed", "id", ids, n)?;
        if ids.is_empty() {
            return self.zeros(0, width);
        }
        self.kernels.embed(&w.value, ids).map(Rc::new)
    }

    fn add(&mut self, x: &Self::T, y: &Self::T) -> Result<Self::T> {
        check::same("add", "the second summand", self.dim(y), self.dim(x))?;
        if self.dim(x).0 == 0 {
            return Ok(Rc::clone(x));
        }
        self.kernels.add(x, y).map(Rc::new)
    }

    fn norm(&mut self, x: &Self::T, n: &Norm<K>) -> Result<Self::T> {
        self.check_norm("norm", x, n)?;
        if self.dim(x).0 == 0 {
            return Ok(Rc::clone(x));
        }
        self.kernels.norm(x, &norm_args(n)).map(Rc::new)
    }

    fn norm_scale(&mut self, x: &Self::T, n: &Norm<K>) -> Result<Self::T> {
        self.check_norm("norm_scale", x, n)?;
        let (rows, width) = self.dim(x);
        if rows == 0 {
            return self.zeros(0, width / n.group);
        }
        self.kernels.norm_scale(x, &norm_args(n)).map(Rc::new)
    }

    fn linear(&mut self, x: &Self::T, ws: &[&Linear<K>], then: Then<'_, Self::T>) -> Result<Self::T> {
        let rows = self.dim(x).0;
        let mut width = 0;
        for l in ws {
            width += self.check_map("linear", x, l)?.0;
        }
        if let Some(residual) = then.residual {
            check::same("linear", "the residual", self.dim(residual), (rows, width))?;
        }
        if ws.is_empty() {
            return Err(check::unsupported("linear", "no map was given"));
        }
        if rows == 0 {
            return self.zeros(0, width);
        }
        let maps: Vec<(&K::W, Option<&K::Buf>)> =
            ws.iter().map(|l| (&*l.w.value, l.bias.as_ref().map(|b| &*b.value))).collect();
        self.kernels.linear(x, &maps, then.act, then.residual.map(|r| &**r)).map(Rc::new)
    }

    fn linear_each(&mut self, x: &Self::T, ws: &[&Linear<K>]) -> Result<Vec<Self::T>> {
        for l in ws {
            self.check_map("linear", x, l)?;
        }
        if self.dim(x).0 == 0 {
            return ws.iter().map(|l| self.linear(x, &[l], Then::default())).collect();
        }
        let maps: Vec<(&K::W, Option<&K::Buf>)> =
            ws.iter().map(|l| (&*l.w.value, l.bias.as_ref().map(|b| &*b.value))).collect();
        Ok(self.kernels.linear_each(x, &maps)?.into_iter().map(Rc::new).collect())
    }

    fn cols(&mut self, x: &Self::T, cols: Range<usize>) -> Result<Self::T> {
        check::columns("cols", &cols, self.dim(x))?;
        if self.dim(x).0 == 0 {
            return self.zeros(0, cols.len());
        }
        self.kernels.cols(x, cols).map(Rc::new)
    }

    fn act(&mut self, x: &Self::T, a: Activation) -> Result<Self::T> {
        if self.dim(x).0 == 0 {
            return Ok(Rc::clone(x));
        }
        self.kernels.act(x, a).map(Rc::new)
    }

    fn glu(&mut self, x: &Self::T, a: Activation) -> Result<Self::T> {
        let (rows, width) = self.dim(x);
        if !width.is_multiple_of(2) {
            return Err(check::mismatch("glu", "the width of the input", width, "even"));
        }
        if rows == 0 {
            return self.zeros(0, width / 2);
        }
        self.kernels.glu(x, a).map(Rc::new)
    }

    fn dropout(&mut self, x: &Self::T, d: &Dropout, at: &[(u32, u32)]) -> Result<Self::T> {
        let rows = self.dim(x).0;
        if at.len() != rows {
            return Err(check::mismatch("dropout", "the number of positions", at.len(), rows));
        }
        if rows == 0 {
            return Ok(Rc::clone(x));
        }
        self.kernels.dropout(x, d, at).map(Rc::new)
    }

    fn rope(&mut self, x: &Self::T, d_head: usize, table: &Arc<RopeTable>, pos: &[u32]) -> Result<Self::T> {
        check::rope(self.dim(x), d_head, table, pos)?;
        if self.dim(x).0 == 0 {
            return Ok(Rc::clone(x));
        }
        self.kernels.rope(x, d_head, table, pos, false).map(Rc::new)
    }

    fn attention(
        &mut self,
        qkv: Qkv<'_, Self::T>,
        spec: &AttnSpec,
        layer: usize,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        kv: KvUse<'_, K::Page>,
        probe: Option<&AttnProbe<Self::T>>,
    ) -> Result<AttnOut<Self::T>> {
        check::attention([self.dim(qkv.q), self.dim(qkv.k), self.dim(qkv.v)], spec, batch, q_rows)?;
        if let Some(bias) = qkv.bias {
            check::bias(self.dim(bias), spec, batch)?;
        }
        let past = match &kv {
            KvUse::None => Past::None,
            KvUse::Read(seqs) => Past::Read(seqs),
            KvUse::Append(seqs) => Past::Append(seqs),
        };
        check::past(layer, batch, &past)?;
        if let Some(probe) = probe {
            check::probe(spec, batch, probe, |t| self.dim(t))?;
        }
        let nothing_to_do = match &kv {
            KvUse::Append(_) => batch.rows() == 0,
            KvUse::None | KvUse::Read(_) => self.dim(qkv.q).0 == 0,
        };
        if nothing_to_do {
            return self.no_attention(spec, probe);
        }
        let qkv = Qkv { q: &**qkv.q, k: &**qkv.k, v: &**qkv.v, bias: qkv.bias.map(|b| &**b) };
        let probe = probe.map(|p| p.map(|t| &**t));
        let out = self.kernels.attention(qkv, spec, layer, batch, q_rows, kv, probe.as_ref())?;
        Ok(AttnOut {
            z: Rc::new(out.z),
            mass: out.mass.map(Rc::new),
            stats: out.stats.map(Rc::new),
            raw: out.raw,
        })
    }

    fn lstm(
        &mut self,
        pre: &Self::T,
        at: Option<&[u32]>,
        recurrent: &Linear<K>,
        batch: &Batch,
    ) -> Result<Self::T> {
        Ok(self.lstm_kept(pre, at, recurrent, batch, false)?.0)
    }

    fn rows(&mut self, x: &Self::T, r: &[u32]) -> Result<Self::T> {
        let (rows, width) = self.dim(x);
        check::within("rows", "row", r, rows)?;
        if r.is_empty() {
            return self.zeros(0, width);
        }
        self.kernels.rows(x, r).map(Rc::new)
    }

    fn edit(&mut self, x: Self::T, edits: &[RowEdit<Self::T>]) -> Result<Self::T> {
        for e in edits {
            check::edit(self.dim(&x), e, |t| self.dim(t))?;
        }
        let mut todo = edits.iter().filter(|e| !e.rows.is_empty() && !e.cols.is_empty()).peekable();
        if todo.peek().is_none() {
            return Ok(x);
        }
        // In place where this is the only holder.
        let mut x = Rc::try_unwrap(x).unwrap_or_else(|shared| (*shared).clone());
        for e in todo {
            self.kernels.edit(&mut x, &e.map(|t| &**t))?;
        }
        Ok(Rc::new(x))
    }

    fn vocab(&mut self, x: &Self::T, u: &Linear<K>, want: &[Vocab]) -> Result<Vec<VocabOut<Self::T>>> {
        let shape = self.kernels.weight_shape(&u.w.value);
        check::vocab(self.dim(x), shape, u.bias.as_ref().map(|b| self.dim(&b.value)), want)?;
        if self.dim(x).0 == 0 {
            return self.no_vocab(shape.0, want);
        }
        let answers = self.kernels.vocab(x, &u.w.value, u.bias.as_ref().map(|b| &*b.value), want)?;
        let wrap = |answer| match answer {
            VocabOut::Values(v) => VocabOut::Values(Rc::new(v)),
            VocabOut::Top(top) => VocabOut::Top(top),
            VocabOut::Ranks(ranks) => VocabOut::Ranks(ranks),
        };
        Ok(answers.into_iter().map(wrap).collect())
    }

    fn head_dot(&mut self, z: &Self::T, wo: &Linear<K>, d: Dirs<'_, Self::T>) -> Result<Self::T> {
        let (d_model, heads) = self.check_map("head_dot", z, wo)?;
        let n_dirs = self.dim(d.dirs).0;
        check::same("head_dot", "the directions", self.dim(d.dirs), (n_dirs, d_model))?;
        heads_divide("head_dot", heads, d.n_heads)?;
        if self.dim(z).0 == 0 || n_dirs == 0 {
            return self.zeros(self.dim(z).0, d.n_heads * n_dirs);
        }
        self.kernels.head_dot(z, &wo.w.value, d.dirs, d.n_heads).map(Rc::new)
    }

    fn head_result(&mut self, z: &Self::T, wo: &Linear<K>, n_heads: usize) -> Result<Self::T> {
        let (d_model, heads) = self.check_map("head_result", z, wo)?;
        heads_divide("head_result", heads, n_heads)?;
        if self.dim(z).0 == 0 {
            return self.zeros(0, n_heads * d_model);
        }
        self.kernels.head_result(z, &wo.w.value, n_heads).map(Rc::new)
    }
}

fn heads_divide(op: &'static str, width: usize, n_heads: usize) -> Result<()> {
    if n_heads > 0 && width.is_multiple_of(n_heads) {
        return Ok(());
    }
    Err(check::mismatch(op, "the width of z", width, format!("a multiple of {n_heads} heads")))
}
