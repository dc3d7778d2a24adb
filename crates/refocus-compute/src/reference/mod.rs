//! The yardstick: every kernel in f64 with plain loops, no SIMD, no threads, no unsafe code.
//!
//! It serves parity (a run in f64 tells noise from a bug), gradient checks and `doctor`. Its code is
//! meant to be read beside the definition of each operation; it is slow on purpose.

mod attention;
mod dense;
mod lstm;
mod pointwise;
mod vocab;

#[cfg(test)]
pub(crate) use self::pointwise::erfc;
use std::ops::Range;
use std::sync::Arc;

use crate::KEY_BLOCK;
use crate::dropout::Dropout;
use crate::error::{Error, Result};
use crate::kernels::{AttnGrads, Kernels, LstmGrads, LstmKept, LstmOut, NormArgs, NormGrads};
use crate::ops::{
    Activation, AttnOut, AttnProbe, AttnSpec, Batch, EditOp, KvUse, Qkv, RopeTable, RowEdit, RowSet, Vocab,
    VocabOut,
};
use crate::source::MatrixSource;

/// The f64 backend. See the module's notes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// A matrix `[rows, width]` in f64, row-major. Also a vector parameter, with one row.
#[derive(Clone, Debug, PartialEq)]
pub struct RefBuf {
    rows: usize,
    width: usize,
    data: Vec<f64>,
}

impl RefBuf {
    /// A matrix from f64 numbers, row-major. [`Kernels::upload`] takes f32; this keeps every bit.
    pub fn new(rows: usize, width: usize, data: Vec<f64>) -> Result<Self> {
        check_len(rows, width, data.len())?;
        Ok(Self { rows, width, data })
    }

    /// All zeros.
    pub fn zeros(rows: usize, width: usize) -> Self {
        Self { rows, width, data: vec![0.0; rows * width] }
    }

    /// `(rows, width)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.width)
    }

    /// All elements, row-major, unrounded.
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// All elements, row-major.
    pub fn data_mut(&mut self) -> &mut [f64] {
        &mut self.data
    }

    /// Row `r`, `[width]`.
    pub fn row(&self, r: usize) -> &[f64] {
        &self.data[r * self.width..(r + 1) * self.width]
    }

    /// Row `r`, `[width]`.
    pub fn row_mut(&mut self, r: usize) -> &mut [f64] {
        &mut self.data[r * self.width..(r + 1) * self.width]
    }

    /// Element by element.
    fn map(&self, f: impl FnMut(&f64) -> f64) -> Self {
        Self { rows: self.rows, width: self.width, data: self.data.iter().map(f).collect() }
    }

    /// Element by element with another of the same shape.
    fn zip(&self, other: &Self, mut f: impl FnMut(f64, f64) -> f64) -> Self {
        debug_assert_eq!(self.shape(), other.shape());
        let data = self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect();
        Self { rows: self.rows, width: self.width, data }
    }
}

/// A weight matrix `[n, k]` (outputs by inputs) in f64, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct RefWeight {
    n: usize,
    k: usize,
    data: Vec<f64>,
}

impl RefWeight {
    /// A weight from f64 numbers, row-major `[n, k]`. [`Kernels::pack`] reads stored ones.
    pub fn new(n: usize, k: usize, data: Vec<f64>) -> Result<Self> {
        check_len(n, k, data.len())?;
        Ok(Self { n, k, data })
    }

    /// `(n, k)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    /// All elements, row-major.
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// Weights of output `i`, `[k]`.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.k..(i + 1) * self.k]
    }
}

/// Keys and values of up to [`KEY_BLOCK`] positions of one layer, each `[len, n_kv_heads · d_head]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RefPage {
    len: usize,
    keys: Vec<f64>,
    values: Vec<f64>,
}

impl RefPage {
    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn key(&self, i: usize, width: usize) -> &[f64] {
        &self.keys[i * width..(i + 1) * width]
    }

    fn value(&self, i: usize, width: usize) -> &[f64] {
        &self.values[i * width..(i + 1) * width]
    }

    fn truncate(&mut self, len: usize, width: usize) {
        self.len = len;
        self.keys.truncate(len * width);
        self.values.truncate(len * width);
    }

    fn push(&mut self, key: &[f64], value: &[f64]) {
        debug_assert!(self.len < KEY_BLOCK);
        self.len += 1;
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(value);
    }
}

fn check_len(rows: usize, width: usize, got: usize) -> Result<()> {
    if rows.checked_mul(width) == Some(got) {
        return Ok(());
    }
    Err(Error::Shape {
        op: "reference",
        what: "the number of elements".to_owned(),
        got: got.to_string(),
        want: format!("that of [{rows}, {width}]"),
    })
}

/// `Σ a·b` in ascending order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `y += s · x`.
fn axpy(y: &mut [f64], s: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

impl Kernels for Reference {
    type Buf = RefBuf;
    type W = RefWeight;
    type Page = RefPage;

    fn shape(&self, x: &RefBuf) -> (usize, usize) {
        x.shape()
    }

    fn upload(&mut self, rows: usize, width: usize, data: &[f32]) -> Result<RefBuf> {
        RefBuf::new(rows, width, data.iter().map(|&v| f64::from(v)).collect())
    }

    /// Rounds to f32; [`RefBuf::data`] has all bits.
    fn download(&mut self, x: &RefBuf) -> Result<Vec<f32>> {
        Ok(x.data.iter().map(|&v| v as f32).collect())
    }

    fn zeros(&mut self, rows: usize, width: usize) -> Result<RefBuf> {
        Ok(RefBuf::zeros(rows, width))
    }

    fn pack(&mut self, source: &MatrixSource<'_>) -> Result<RefWeight> {
        source.check()?;
        let (n, k) = source.shape();
        let mut row = vec![0.0f32; k];
        let mut data = Vec::with_capacity(n * k);
        for i in 0..n {
            source.row_f32(i, &mut row);
            if !row.iter().all(|v| v.is_finite()) {
                let why = format!("row {i} holds a value that is NaN or infinite");
                return Err(Error::Source { name: source.name.to_owned(), why });
            }
            data.extend(row.iter().map(|&v| f64::from(v)));
        }
        RefWeight::new(n, k, data)
    }

    fn weight_shape(&self, w: &RefWeight) -> (usize, usize) {
        w.shape()
    }

    fn embed(&mut self, w: &RefWeight, ids: &[u32]) -> Result<RefBuf> {
        let data = ids.iter().flat_map(|&id| w.row(id as usize)).copied().collect();
        RefBuf::new(ids.len(), w.k, data)
    }

    fn embed_vjp(&mut self, w: &RefWeight, ids: &[u32], dy: &RefBuf) -> Result<RefBuf> {
        let mut dw = RefBuf::zeros(w.n, w.k);
        self.rows_vjp(&mut dw, ids, dy)?;
        Ok(dw)
    }

    fn add(&mut self, x: &RefBuf, y: &RefBuf) -> Result<RefBuf> {
        Ok(x.zip(y, |a, b| a + b))
    }

    fn add_assign(&mut self, x: &mut RefBuf, y: &RefBuf) -> Result<()> {
        debug_assert_eq!(x.shape(), y.shape());
        axpy(&mut x.data, 1.0, &y.data);
        Ok(())
    }

    fn scale(&mut self, x: &mut RefBuf, s: f32) -> Result<()> {
        x.data.iter_mut().for_each(|v| *v *= f64::from(s));
        Ok(())
    }

    fn norm(&mut self, x: &RefBuf, n: &NormArgs<'_, RefBuf>) -> Result<RefBuf> {
        Ok(pointwise::norm(x, n))
    }

    fn norm_scale(&mut self, x: &RefBuf, n: &NormArgs<'_, RefBuf>) -> Result<RefBuf> {
        Ok(pointwise::norm_scale(x, n))
    }

    fn norm_vjp(&mut self, x: &RefBuf, n: &NormArgs<'_, RefBuf>, dy: &RefBuf) -> Result<NormGrads<RefBuf>> {
        Ok(pointwise::norm_vjp(x, n, dy))
    }

    fn linear(
        &mut self,
        x: &RefBuf,
        ws: &[(&RefWeight, Option<&RefBuf>)],
        act: Option<Activation>,
        residual: Option<&RefBuf>,
    ) -> Result<RefBuf> {
        Ok(dense::linear(x, ws, act, residual))
    }

    fn linear_vjp_input(&mut self, w: &RefWeight, dy: &RefBuf) -> Result<RefBuf> {
        Ok(dense::linear_vjp_input(w, dy))
    }

    fn linear_vjp_weight(&mut self, x: &RefBuf, dy: &RefBuf) -> Result<RefBuf> {
        Ok(dense::linear_vjp_weight(x, dy))
    }

    fn sum_rows(&mut self, dy: &RefBuf) -> Result<RefBuf> {
        let mut sum = RefBuf::zeros(1, dy.width);
        for r in 0..dy.rows {
            axpy(&mut sum.data, 1.0, dy.row(r));
        }
        Ok(sum)
    }

    fn cols(&mut self, x: &RefBuf, cols: Range<usize>) -> Result<RefBuf> {
        let data = (0..x.rows).flat_map(|r| &x.row(r)[cols.clone()]).copied().collect();
        RefBuf::new(x.rows, cols.len(), data)
    }

    fn cols_vjp(&mut self, dx: &mut RefBuf, cols: Range<usize>, dy: &RefBuf) -> Result<()> {
        for r in 0..dy.rows {
            axpy(&mut dx.row_mut(r)[cols.clone()], 1.0, dy.row(r));
        }
        Ok(())
    }

    fn act(&mut self, x: &RefBuf, a: Activation) -> Result<RefBuf> {
        Ok(x.map(|&v| pointwise::act(a, v)))
    }

    fn act_vjp(&mut self, x: &RefBuf, a: Activation, dy: &RefBuf) -> Result<RefBuf> {
        Ok(x.zip(dy, |v, d| d * pointwise::act_slope(a, v)))
    }

    fn glu(&mut self, x: &RefBuf, a: Activation) -> Result<RefBuf> {
        Ok(pointwise::glu(x, a))
    }

    fn glu_vjp(&mut self, x: &RefBuf, a: Activation, dy: &RefBuf) -> Result<RefBuf> {
        Ok(pointwise::glu_vjp(x, a, dy))
    }

    fn dropout(&mut self, x: &RefBuf, d: &Dropout, at: &[(u32, u32)]) -> Result<RefBuf> {
        let mut y = x.clone();
        let mut factors = vec![0.0f32; x.width];
        for (r, &(sequence, position)) in at.iter().enumerate() {
            d.factors(sequence, position, 0, &mut factors);
            for (y, f) in y.row_mut(r).iter_mut().zip(&factors) {
                *y *= f64::from(*f);
            }
        }
        Ok(y)
    }

    fn rope(
        &mut self,
        x: &RefBuf,
        d_head: usize,
        table: &RopeTable,
        pos: &[u32],
        inverse: bool,
    ) -> Result<RefBuf> {
        Ok(pointwise::rope(x, d_head, table, pos, inverse))
    }

    fn attention(
        &mut self,
        qkv: Qkv<'_, RefBuf>,
        spec: &AttnSpec,
        layer: usize,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        kv: KvUse<'_, RefPage>,
        probe: Option<&AttnProbe<&RefBuf>>,
    ) -> Result<AttnOut<RefBuf>> {
        let layer_of = |s: &crate::ops::KvSeq<RefPage>| s.layers[layer].clone();
        let past: Option<Vec<Vec<Arc<RefPage>>>> = match &kv {
            KvUse::None => None,
            KvUse::Read(seqs) => Some(seqs.iter().map(layer_of).collect()),
            KvUse::Append(seqs) => Some(seqs.iter().map(layer_of).collect()),
        };
        let out = attention::forward(&qkv, spec, batch, q_rows, past.as_deref(), probe)?;
        drop(past); // or no page would be unique
        // Appended last, so that an error leaves the cache as it was.
        if let KvUse::Append(seqs) = kv {
            for (seg, seq) in batch.segs.iter().zip(seqs) {
                attention::append(&mut seq.layers[layer], seg, qkv.k, qkv.v);
            }
        }
        Ok(out)
    }

    fn attention_vjp(
        &mut self,
        qkv: Qkv<'_, RefBuf>,
        spec: &AttnSpec,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        probe: Option<&AttnProbe<&RefBuf>>,
        dz: &RefBuf,
        dmass: Option<&RefBuf>,
        dstats: Option<&RefBuf>,
    ) -> Result<AttnGrads<RefBuf>> {
        attention::backward(&qkv, spec, batch, q_rows, probe, dz, dmass, dstats)
    }

    fn lstm(
        &mut self,
        pre: &RefBuf,
        at: Option<&[u32]>,
        w: &RefWeight,
        bias: Option<&RefBuf>,
        batch: &Batch,
        keep: bool,
    ) -> Result<LstmOut<RefBuf>> {
        let (hidden, kept) = lstm::forward(pre, at, w, bias, batch);
        Ok((hidden, keep.then_some(kept)))
    }

    fn lstm_vjp(
        &mut self,
        hidden: &RefBuf,
        kept: &LstmKept<RefBuf>,
        w: &RefWeight,
        batch: &Batch,
        dh: &RefBuf,
    ) -> Result<LstmGrads<RefBuf>> {
        Ok(lstm::backward(hidden, kept, w, batch, dh))
    }

    fn rows(&mut self, x: &RefBuf, r: &[u32]) -> Result<RefBuf> {
        let data = r.iter().flat_map(|&r| x.row(r as usize)).copied().collect();
        RefBuf::new(r.len(), x.width, data)
    }

    fn rows_vjp(&mut self, dx: &mut RefBuf, r: &[u32], dy: &RefBuf) -> Result<()> {
        for (i, &r) in r.iter().enumerate() {
            axpy(dx.row_mut(r as usize), 1.0, dy.row(i));
        }
        Ok(())
    }

    fn edit(&mut self, x: &mut RefBuf, edit: &RowEdit<&RefBuf>) -> Result<()> {
        for (i, &r) in edit.rows.as_slice().iter().enumerate() {
            // One row of the operand serves all edited rows.
            let operand = |t: &RefBuf| t.row(if t.rows == 1 { 0 } else { i }).to_vec();
            let cells = &mut x.row_mut(r as usize)[edit.cols.clone()];
            match &edit.op {
                EditOp::Zero => cells.fill(0.0),
                EditOp::Scale(s) => cells.iter_mut().for_each(|v| *v *= f64::from(*s)),
                EditOp::Add(t) => axpy(cells, 1.0, &operand(t)),
                EditOp::Set(t) => cells.copy_from_slice(&operand(t)),
            }
        }
        Ok(())
    }

    fn vocab(
        &mut self,
        x: &RefBuf,
        u: &RefWeight,
        bias: Option<&RefBuf>,
        want: &[Vocab],
    ) -> Result<Vec<VocabOut<RefBuf>>> {
        vocab::answers(x, u, bias, want)
    }

    fn vocab_vjp_logits(
        &mut self,
        x: &RefBuf,
        u: &RefWeight,
        bias: Option<&RefBuf>,
        want: &Vocab,
        dy: &RefBuf,
    ) -> Result<RefBuf> {
        vocab::vjp_logits(x, u, bias, want, dy)
    }

    fn weighted_sum(&mut self, x: &RefBuf, weights: &RefBuf) -> Result<RefBuf> {
        RefBuf::new(1, 1, vec![dot(&x.data, &weights.data)])
    }

    fn weighted_sum_vjp(&mut self, weights: &RefBuf, dy: &RefBuf) -> Result<RefBuf> {
        Ok(weights.map(|w| w * dy.data[0]))
    }

    fn head_dot(&mut self, z: &RefBuf, wo: &RefWeight, dirs: &RefBuf, n_heads: usize) -> Result<RefBuf> {
        Ok(dense::head_dot(z, wo, dirs, n_heads))
    }

    fn head_result(&mut self, z: &RefBuf, wo: &RefWeight, n_heads: usize) -> Result<RefBuf> {
        Ok(dense::head_result(z, wo, n_heads))
    }
}
