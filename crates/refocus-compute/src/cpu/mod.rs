//! The f32 backend.

mod attention;
mod attention_vjp;
mod format;
mod heads;
mod linear;
mod lstm;
mod memory;
mod pages;
mod panels;
mod product;
mod rows;
mod several;
mod vjp;
mod vocab;

use std::ops::Range;

pub use memory::CpuBuf;
pub use pages::CpuPage;
pub use panels::Panels;

use crate::dropout::Dropout;
use crate::error::Result;
use crate::kernels::{AttnGrads, Kernels, LstmGrads, LstmKept, LstmOut, NormArgs, NormGrads};
use crate::ops::{
    Activation, AttnOut, AttnProbe, AttnSpec, Batch, EditOp, KvUse, Qkv, RopeTable, RowEdit, RowSet, Vocab,
    VocabOut,
};
use crate::simd::Isa;
use crate::source::MatrixSource;
use crate::team::Team;
use memory::Pool;

/// The f32 backend: one instruction set, one team of threads, one pool of memory.
pub struct Cpu {
    isa: Isa,
    team: Team,
    pool: Pool,
}

impl Cpu {
    /// A backend with its own team of `threads`.
    ///
    /// # Panics
    /// If this machine cannot run `isa`.
    pub fn new(isa: Isa, threads: usize) -> Self {
        assert!(isa.available(), "this machine cannot run {}", isa.name());
        Self { isa, team: Team::new(threads), pool: Pool::default() }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads in the team.
    pub fn threads(&self) -> usize {
        self.team.size()
    }

    /// Fused multiply-adds a second × 2 that the team reaches on registers alone, in GFLOP/s: the
    /// floor that benchmarks are held against. Takes about `millis` milliseconds.
    pub fn peak_gflops(&mut self, millis: u32) -> f64 {
        let (isa, threads) = (self.isa, self.team.size());
        let rounds = 100_000;
        let flops = (threads * rounds * 24 * 16 * 2) as f64;
        let start = std::time::Instant::now();
        let mut best = f64::MAX;
        while start.elapsed().as_millis() < u128::from(millis) {
            let t = std::time::Instant::now();
            // SAFETY: no condition beyond a valid `Isa`.
            self.team.run(threads, |_| unsafe { product::burn(isa, rounds) });
            best = best.min(t.elapsed().as_secs_f64());
        }
        flops / best / 1e9
    }

    /// A buffer with stale contents.
    fn stale(&self, rows: usize, width: usize) -> Result<CpuBuf> {
        CpuBuf::stale(&self.pool, rows, width)
    }

    fn zeroed(&self, rows: usize, width: usize) -> Result<CpuBuf> {
        let mut b = self.stale(rows, width)?;
        b.as_mut_slice().fill(0.0);
        Ok(b)
    }

    fn filled(&self, rows: usize, width: usize, data: &[f32]) -> Result<CpuBuf> {
        let mut b = self.stale(rows, width)?;
        b.as_mut_slice().copy_from_slice(data);
        Ok(b)
    }

    /// `[1, n]`.
    fn row_of(&self, data: &[f32]) -> Result<CpuBuf> {
        self.filled(1, data.len(), data)
    }

    /// `[n, 1]`.
    fn column(&self, data: &[f32]) -> Result<CpuBuf> {
        self.filled(data.len(), 1, data)
    }
}

impl Kernels for Cpu {
    type Buf = CpuBuf;
    type W = Panels;
    type Page = CpuPage;

    fn shape(&self, x: &CpuBuf) -> (usize, usize) {
        (x.rows, x.width)
    }

    fn upload(&mut self, rows: usize, width: usize, data: &[f32]) -> Result<CpuBuf> {
        self.filled(rows, width, data)
    }

    fn download(&mut self, x: &CpuBuf) -> Result<Vec<f32>> {
        Ok(x.as_slice().to_vec())
    }

    fn zeros(&mut self, rows: usize, width: usize) -> Result<CpuBuf> {
        self.zeroed(rows, width)
    }

    fn pack(&mut self, source: &MatrixSource<'_>) -> Result<Panels> {
        Panels::pack(source, &mut self.team)
    }

    fn weight_shape(&self, w: &Panels) -> (usize, usize) {
        w.shape()
    }

    fn embed(&mut self, w: &Panels, ids: &[u32]) -> Result<CpuBuf> {
        rows::embed(self, w, ids)
    }

    fn embed_vjp(&mut self, w: &Panels, ids: &[u32], dy: &CpuBuf) -> Result<CpuBuf> {
        let mut dw = self.zeroed(w.n, w.k)?;
        vjp::add_rows(&mut dw, ids, dy);
        Ok(dw)
    }

    fn add(&mut self, x: &CpuBuf, y: &CpuBuf) -> Result<CpuBuf> {
        rows::add(self, x, y)
    }

    fn add_assign(&mut self, x: &mut CpuBuf, y: &CpuBuf) -> Result<()> {
        rows::add_assign(self, x, y);
        Ok(())
    }

    fn scale(&mut self, x: &mut CpuBuf, s: f32) -> Result<()> {
        x.as_mut_slice().iter_mut().for_each(|x| *x *= s);
        Ok(())
    }

    fn norm(&mut self, x: &CpuBuf, n: &NormArgs<'_, CpuBuf>) -> Result<CpuBuf> {
        rows::norm(self, x, n)
    }

    fn norm_scale(&mut self, x: &CpuBuf, n: &NormArgs<'_, CpuBuf>) -> Result<CpuBuf> {
        rows::norm_scale(self, x, n)
    }

    fn norm_vjp(&mut self, x: &CpuBuf, n: &NormArgs<'_, CpuBuf>, dy: &CpuBuf) -> Result<NormGrads<CpuBuf>> {
        vjp::norm(self, x, n, dy)
    }

    fn linear(
        &mut self,
        x: &CpuBuf,
        ws: &[(&Panels, Option<&CpuBuf>)],
        act: Option<Activation>,
        residual: Option<&CpuBuf>,
    ) -> Result<CpuBuf> {
        linear::linear(self, x, ws, act, residual)
    }

    fn linear_each(&mut self, x: &CpuBuf, ws: &[(&Panels, Option<&CpuBuf>)]) -> Result<Vec<CpuBuf>> {
        linear::linear_each(self, x, ws)
    }

    fn linear_vjp_input(&mut self, w: &Panels, dy: &CpuBuf) -> Result<CpuBuf> {
        vjp::linear_input(self, w, dy)
    }

    fn linear_vjp_weight(&mut self, x: &CpuBuf, dy: &CpuBuf) -> Result<CpuBuf> {
        vjp::linear_weight(self, x, dy)
    }

    fn sum_rows(&mut self, dy: &CpuBuf) -> Result<CpuBuf> {
        vjp::sum_rows(self, dy)
    }

    fn cols(&mut self, x: &CpuBuf, cols: Range<usize>) -> Result<CpuBuf> {
        rows::cols(self, x, cols)
    }

    fn cols_vjp(&mut self, dx: &mut CpuBuf, cols: Range<usize>, dy: &CpuBuf) -> Result<()> {
        vjp::add_cols(dx, cols, dy);
        Ok(())
    }

    fn act(&mut self, x: &CpuBuf, a: Activation) -> Result<CpuBuf> {
        rows::act(self, x, a)
    }

    fn act_vjp(&mut self, x: &CpuBuf, a: Activation, dy: &CpuBuf) -> Result<CpuBuf> {
        vjp::act(self, x, a, dy)
    }

    fn glu(&mut self, x: &CpuBuf, a: Activation) -> Result<CpuBuf> {
        rows::glu(self, x, a)
    }

    fn glu_vjp(&mut self, x: &CpuBuf, a: Activation, dy: &CpuBuf) -> Result<CpuBuf> {
        vjp::glu(self, x, a, dy)
    }

    fn dropout(&mut self, x: &CpuBuf, d: &Dropout, at: &[(u32, u32)]) -> Result<CpuBuf> {
        rows::dropout(self, x, d, at)
    }

    fn rope(
        &mut self,
        x: &CpuBuf,
        d_head: usize,
        table: &RopeTable,
        pos: &[u32],
        inverse: bool,
    ) -> Result<CpuBuf> {
        rows::rope(self, x, d_head, table, pos, inverse)
    }

    fn attention(
        &mut self,
        qkv: Qkv<'_, CpuBuf>,
        spec: &AttnSpec,
        layer: usize,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        kv: KvUse<'_, CpuPage>,
        probe: Option<&AttnProbe<&CpuBuf>>,
    ) -> Result<AttnOut<CpuBuf>> {
        attention::attention(self, qkv, spec, layer, batch, q_rows, kv, probe)
    }

    fn attention_vjp(
        &mut self,
        qkv: Qkv<'_, CpuBuf>,
        spec: &AttnSpec,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        probe: Option<&AttnProbe<&CpuBuf>>,
        dz: &CpuBuf,
        dmass: Option<&CpuBuf>,
        dstats: Option<&CpuBuf>,
    ) -> Result<AttnGrads<CpuBuf>> {
        attention_vjp::attention_vjp(self, qkv, spec, batch, q_rows, probe, dz, dmass, dstats)
    }

    fn lstm(
        &mut self,
        pre: &CpuBuf,
        at: Option<&[u32]>,
        w: &Panels,
        bias: Option<&CpuBuf>,
        batch: &Batch,
        keep: bool,
    ) -> Result<LstmOut<CpuBuf>> {
        lstm::lstm(self, pre, at, w, bias, batch, keep)
    }

    fn lstm_vjp(
        &mut self,
        hidden: &CpuBuf,
        kept: &LstmKept<CpuBuf>,
        w: &Panels,
        batch: &Batch,
        dh: &CpuBuf,
    ) -> Result<LstmGrads<CpuBuf>> {
        lstm::lstm_vjp(self, hidden, kept, w, batch, dh)
    }

    fn rows(&mut self, x: &CpuBuf, r: &[u32]) -> Result<CpuBuf> {
        rows::gather(self, x, r)
    }

    fn rows_vjp(&mut self, dx: &mut CpuBuf, r: &[u32], dy: &CpuBuf) -> Result<()> {
        vjp::add_rows(dx, r, dy);
        Ok(())
    }

    fn edit(&mut self, x: &mut CpuBuf, edit: &RowEdit<&CpuBuf>) -> Result<()> {
        let width = x.width;
        for (i, &r) in edit.rows.as_slice().iter().enumerate() {
            let row = &mut x.as_mut_slice()[r as usize * width..(r as usize + 1) * width];
            let part = &mut row[edit.cols.clone()];
            let operand = |t: &'_ CpuBuf| if t.rows == 1 { 0 } else { i };
            match &edit.op {
                EditOp::Zero => part.fill(0.0),
                EditOp::Scale(s) => part.iter_mut().for_each(|x| *x *= s),
                EditOp::Add(t) => part.iter_mut().zip(t.row(operand(t))).for_each(|(x, t)| *x += t),
                EditOp::Set(t) => part.copy_from_slice(t.row(operand(t))),
            }
        }
        Ok(())
    }

    fn vocab(
        &mut self,
        x: &CpuBuf,
        u: &Panels,
        bias: Option<&CpuBuf>,
        want: &[Vocab],
    ) -> Result<Vec<VocabOut<CpuBuf>>> {
        vocab::vocab(self, x, u, bias, want)
    }

    fn vocab_vjp_logits(
        &mut self,
        x: &CpuBuf,
        u: &Panels,
        bias: Option<&CpuBuf>,
        want: &Vocab,
        dy: &CpuBuf,
    ) -> Result<CpuBuf> {
        vjp::vocab_logits(self, x, u, bias, want, dy)
    }

    fn weighted_sum(&mut self, x: &CpuBuf, weights: &CpuBuf) -> Result<CpuBuf> {
        let terms = x.as_slice().iter().zip(weights.as_slice());
        let sum: f64 = terms.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        self.row_of(&[sum as f32])
    }

    fn weighted_sum_vjp(&mut self, weights: &CpuBuf, dy: &CpuBuf) -> Result<CpuBuf> {
        let mut dx = weights.clone();
        self.scale(&mut dx, dy.as_slice()[0])?;
        Ok(dx)
    }

    fn head_dot(&mut self, z: &CpuBuf, wo: &Panels, dirs: &CpuBuf, n_heads: usize) -> Result<CpuBuf> {
        heads::head_dot(self, z, wo, dirs, n_heads)
    }

    fn head_result(&mut self, z: &CpuBuf, wo: &Panels, n_heads: usize) -> Result<CpuBuf> {
        heads::head_result(self, z, wo, n_heads)
    }
}
