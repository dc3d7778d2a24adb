//! What a backend provides: forward and vector-Jacobian product of each coarse operation.
//!
//! A kernel allocates its outputs. Shapes were checked by the caller ([`crate::Eager`],
//! [`crate::Tape`]); kernels hold debug assertions and fail only for want of memory.

use std::ops::Range;

use crate::dropout::Dropout;
use crate::error::Result;
use crate::ops::{
    Activation, AttnOut, AttnProbe, AttnSpec, Batch, KvUse, NormKind, Qkv, RopeTable, RowEdit, RowSet, Vocab,
    VocabOut,
};
use crate::source::MatrixSource;

/// Statistics of a norm without its parameters, so that kernels see plain buffers.
#[derive(Debug)]
pub struct NormArgs<'a, B> {
    /// Which statistics.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
    /// Columns normalised together.
    pub group: usize,
    /// `[1, group]`.
    pub gain: Option<&'a B>,
    /// `[1, group]`.
    pub bias: Option<&'a B>,
}

/// Gradients of a norm.
#[derive(Debug)]
pub struct NormGrads<B> {
    /// `[rows, width]`.
    pub dx: B,
    /// `[1, group]`, where there is a gain.
    pub dgain: Option<B>,
    /// `[1, group]`, where there is a bias.
    pub dbias: Option<B>,
}

/// Gradients of an attention layer.
#[derive(Debug)]
pub struct AttnGrads<B> {
    /// `[q_rows, n_heads · d_head]`.
    pub dq: B,
    /// `[rows, n_kv_heads · d_head]`.
    pub dk: B,
    /// `[rows, n_kv_heads · d_head]`.
    pub dv: B,
    /// `[distances, n_heads]`, where there is a bias.
    pub dbias: Option<B>,
}

/// What the gradient of an LSTM layer needs beside its output.
#[derive(Clone, Debug)]
pub struct LstmKept<B> {
    /// `[rows, 4 · hidden]`: input, forget, cell and output gate, after their non-linearities.
    pub gates: B,
    /// `[rows, hidden]`: the cells after each step.
    pub cells: B,
}

/// States `[rows, hidden]`, and what was kept.
pub type LstmOut<B> = (B, Option<LstmKept<B>>);

/// Gradients of an LSTM's recurrence.
#[derive(Debug)]
pub struct LstmGrads<B> {
    /// `[rows, 4 · hidden]`: of the gates before their non-linearities. Inputs, both biases and, through
    /// `before`, the recurrent weight all take theirs from it.
    pub dpre: B,
    /// `[rows, hidden]`: the state that each step started from, zero at the start of a sequence.
    pub before: B,
}

/// A backend. `Cpu` computes in f32, `Reference` in f64 with plain loops.
///
/// `Buf` is a matrix `[rows, width]`; `W` is a weight matrix in the layout the backend likes;
/// `Page` holds one layer's keys and values of [`crate::KEY_BLOCK`] absolute positions.
pub trait Kernels: Sized {
    /// A matrix of activations (or a vector parameter of one row). Cloning copies.
    type Buf: Clone;
    /// A weight matrix `[n, k]`.
    type W;
    /// A block of keys and values.
    type Page;

    /// `(rows, width)` of a buffer.
    fn shape(&self, x: &Self::Buf) -> (usize, usize);
    /// A buffer from host numbers, row-major.
    fn upload(&mut self, rows: usize, width: usize, data: &[f32]) -> Result<Self::Buf>;
    /// Row-major copy on the host.
    fn download(&mut self, x: &Self::Buf) -> Result<Vec<f32>>;
    /// All zeros.
    fn zeros(&mut self, rows: usize, width: usize) -> Result<Self::Buf>;
    /// Packs a weight matrix.
    fn pack(&mut self, source: &MatrixSource<'_>) -> Result<Self::W>;
    /// `(n, k)` of a packed weight.
    fn weight_shape(&self, w: &Self::W) -> (usize, usize);

    /// `[ids, width]`.
    fn embed(&mut self, w: &Self::W, ids: &[u32]) -> Result<Self::Buf>;
    /// Gradient of the table: row `ids[i]` gains `dy[i]`, in ascending `i`. `[n, k]`.
    fn embed_vjp(&mut self, w: &Self::W, ids: &[u32], dy: &Self::Buf) -> Result<Self::Buf>;

    /// `x + y`.
    fn add(&mut self, x: &Self::Buf, y: &Self::Buf) -> Result<Self::Buf>;
    /// `x += y`.
    fn add_assign(&mut self, x: &mut Self::Buf, y: &Self::Buf) -> Result<()>;
    /// `x *= s`.
    fn scale(&mut self, x: &mut Self::Buf, s: f32) -> Result<()>;

    /// See [`crate::Ops::norm`].
    fn norm(&mut self, x: &Self::Buf, n: &NormArgs<'_, Self::Buf>) -> Result<Self::Buf>;
    /// See [`crate::Ops::norm_scale`].
    fn norm_scale(&mut self, x: &Self::Buf, n: &NormArgs<'_, Self::Buf>) -> Result<Self::Buf>;
    /// Gradients of [`Kernels::norm`].
    fn norm_vjp(
        &mut self,
        x: &Self::Buf,
        n: &NormArgs<'_, Self::Buf>,
        dy: &Self::Buf,
    ) -> Result<NormGrads<Self::Buf>>;

    /// Linear maps of one input, outputs side by side; each with its optional bias `[1, n]`; then
    /// the activation; then `residual + y`.
    fn linear(
        &mut self,
        x: &Self::Buf,
        ws: &[(&Self::W, Option<&Self::Buf>)],
        act: Option<Activation>,
        residual: Option<&Self::Buf>,
    ) -> Result<Self::Buf>;
    /// Linear maps of one input, each to a matrix of its own.
    fn linear_each(
        &mut self,
        x: &Self::Buf,
        ws: &[(&Self::W, Option<&Self::Buf>)],
    ) -> Result<Vec<Self::Buf>> {
        ws.iter().map(|&w| self.linear(x, &[w], None, None)).collect()
    }
    /// `dy W`: gradient of the input of one linear map, `dy` `[rows, n]`.
    fn linear_vjp_input(&mut self, w: &Self::W, dy: &Self::Buf) -> Result<Self::Buf>;
    /// `dyᵀ x` `[n, k]`: gradient of the weight.
    fn linear_vjp_weight(&mut self, x: &Self::Buf, dy: &Self::Buf) -> Result<Self::Buf>;
    /// Column sums `[1, n]`: gradient of a bias.
    fn sum_rows(&mut self, dy: &Self::Buf) -> Result<Self::Buf>;

    /// Columns as a matrix of their own.
    fn cols(&mut self, x: &Self::Buf, cols: Range<usize>) -> Result<Self::Buf>;
    /// Adds `dy` into columns `cols` of `dx`.
    fn cols_vjp(&mut self, dx: &mut Self::Buf, cols: Range<usize>, dy: &Self::Buf) -> Result<()>;

    /// Pointwise.
    fn act(&mut self, x: &Self::Buf, a: Activation) -> Result<Self::Buf>;
    /// `dy · a'(x)`.
    fn act_vjp(&mut self, x: &Self::Buf, a: Activation, dy: &Self::Buf) -> Result<Self::Buf>;
    /// `a(x[:, ..h]) * x[:, h..]`.
    fn glu(&mut self, x: &Self::Buf, a: Activation) -> Result<Self::Buf>;
    /// Gradient of [`Kernels::glu`], as wide as `x`.
    fn glu_vjp(&mut self, x: &Self::Buf, a: Activation, dy: &Self::Buf) -> Result<Self::Buf>;

    /// See [`crate::Ops::dropout`]; its gradient is the same function of the output's.
    fn dropout(&mut self, x: &Self::Buf, d: &Dropout, at: &[(u32, u32)]) -> Result<Self::Buf>;
    /// Rotation by the table's angles; `inverse` turns back (the gradient).
    fn rope(
        &mut self,
        x: &Self::Buf,
        d_head: usize,
        table: &RopeTable,
        pos: &[u32],
        inverse: bool,
    ) -> Result<Self::Buf>;

    /// See [`crate::Ops::attention`].
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &mut self,
        qkv: Qkv<'_, Self::Buf>,
        spec: &AttnSpec,
        layer: usize,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        kv: KvUse<'_, Self::Page>,
        probe: Option<&AttnProbe<&Self::Buf>>,
    ) -> Result<AttnOut<Self::Buf>>;
    /// Gradients of [`Kernels::attention`] on fresh sequences ([`KvUse::None`]). `dz` is the gradient
    /// of `z`; `dmass` and `dstats` those of `mass` (groups a head) and `stats` (entropy, ℓ2, maximum a
    /// head), where they were asked for and something depends on them. The maximum passes its gradient
    /// to the first maximal key; `0 · ln 0` has gradient 0; rows under [`crate::PatternChange::Set`] and
    /// [`crate::PatternChange::Uniform`] pass none to queries and keys.
    #[allow(clippy::too_many_arguments)]
    fn attention_vjp(
        &mut self,
        qkv: Qkv<'_, Self::Buf>,
        spec: &AttnSpec,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        probe: Option<&AttnProbe<&Self::Buf>>,
        dz: &Self::Buf,
        dmass: Option<&Self::Buf>,
        dstats: Option<&Self::Buf>,
    ) -> Result<AttnGrads<Self::Buf>>;

    /// See [`crate::Ops::lstm`]; `w` `[4 · hidden, hidden]`. With `keep`, what [`Kernels::lstm_vjp`] needs.
    fn lstm(
        &mut self,
        pre: &Self::Buf,
        at: Option<&[u32]>,
        w: &Self::W,
        bias: Option<&Self::Buf>,
        batch: &Batch,
        keep: bool,
    ) -> Result<LstmOut<Self::Buf>>;
    /// Gradient of [`Kernels::lstm`] through all time steps, with respect to the gate inputs of every position;
    /// `hidden` is its output, `dh` the gradient of that.
    fn lstm_vjp(
        &mut self,
        hidden: &Self::Buf,
        kept: &LstmKept<Self::Buf>,
        w: &Self::W,
        batch: &Batch,
        dh: &Self::Buf,
    ) -> Result<LstmGrads<Self::Buf>>;

    /// Rows of the matrix, in the order given.
    fn rows(&mut self, x: &Self::Buf, r: &[u32]) -> Result<Self::Buf>;
    /// Scatter-add: row `r[i]` of `dx` gains `dy[i]`, in ascending `i`.
    fn rows_vjp(&mut self, dx: &mut Self::Buf, r: &[u32], dy: &Self::Buf) -> Result<()>;

    /// Applies one edit in place.
    fn edit(&mut self, x: &mut Self::Buf, edit: &RowEdit<&Self::Buf>) -> Result<()>;

    /// See [`crate::Ops::vocab`].
    fn vocab(
        &mut self,
        x: &Self::Buf,
        u: &Self::W,
        bias: Option<&Self::Buf>,
        want: &[Vocab],
    ) -> Result<Vec<VocabOut<Self::Buf>>>;
    /// Gradient of all logits `[rows, vocab]` for one question, so that the gradients of several
    /// questions add up before one product ([`Vocab::Ids`] scatters into zeros, repeated ids add up).
    /// `dy` is shaped like the answer. Not called for [`Vocab::Top`] and [`Vocab::RankOf`].
    fn vocab_vjp_logits(
        &mut self,
        x: &Self::Buf,
        u: &Self::W,
        bias: Option<&Self::Buf>,
        want: &Vocab,
        dy: &Self::Buf,
    ) -> Result<Self::Buf>;

    /// `Σ x · weights` over all elements: `[1, 1]`. Losses end here.
    fn weighted_sum(&mut self, x: &Self::Buf, weights: &Self::Buf) -> Result<Self::Buf>;
    /// `weights · dy`, `dy` `[1, 1]`: gradient of `x` in [`Kernels::weighted_sum`].
    fn weighted_sum_vjp(&mut self, weights: &Self::Buf, dy: &Self::Buf) -> Result<Self::Buf>;

    /// See [`crate::Ops::head_dot`]; `dirs` `[n_dirs, d_model]`.
    fn head_dot(
        &mut self,
        z: &Self::Buf,
        wo: &Self::W,
        dirs: &Self::Buf,
        n_heads: usize,
    ) -> Result<Self::Buf>;
    /// See [`crate::Ops::head_result`].
    fn head_result(&mut self, z: &Self::Buf, wo: &Self::W, n_heads: usize) -> Result<Self::Buf>;
}
