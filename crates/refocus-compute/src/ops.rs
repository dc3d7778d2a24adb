//! The seam between the model and the arithmetic: [`Ops`] is what the forward pass is written
//! against, [`Kernels`] is what a backend provides.
//!
//! Every activation is a matrix `[rows, width]`: the rows are the tokens of all sequences of the
//! batch laid end to end, without padding. A head is a range of columns.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::dropout::Dropout;
use crate::error::Result;
use crate::kernels::Kernels;

/// Rows of a packed batch, sorted and without repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSet(Arc<[u32]>);

impl RowSet {
    /// Sorts the rows and drops repetitions.
    pub fn new(mut rows: Vec<u32>) -> Self {
        rows.sort_unstable();
        rows.dedup();
        Self(rows.into())
    }

    /// All rows `0..n`.
    pub fn all(n: usize) -> Self {
        Self((0..n as u32).collect())
    }

    /// The rows in ascending order.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no row is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Index of `row` within the set.
    pub fn position(&self, row: u32) -> Option<usize> {
        self.0.binary_search(&row).ok()
    }
}

/// One sequence (or the part of it that is computed now) inside a packed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seg {
    /// Its rows in the packed batch.
    pub rows: Range<u32>,
    /// Absolute position of its first row; positions before it must be in the key/value cache.
    pub pos0: u32,
}

/// Sequences end to end. Segments cover the rows in order without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// The segments in row order.
    pub segs: Vec<Seg>,
}

impl Batch {
    /// Fresh sequences of the given lengths, each starting at position 0.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut start = 0u32;
        let segs = lengths
            .into_iter()
            .map(|n| {
                let rows = start..start + n as u32;
                start = rows.end;
                Seg { rows, pos0: 0 }
            })
            .collect();
        Self { segs }
    }

    /// Number of rows in the batch.
    pub fn rows(&self) -> usize {
        self.segs.last().map_or(0, |s| s.rows.end as usize)
    }

    /// Absolute position of every row, in row order.
    pub fn positions(&self) -> Vec<u32> {
        self.segs.iter().flat_map(|s| (0..s.rows.end - s.rows.start).map(move |i| s.pos0 + i)).collect()
    }
}

/// Names a parameter across forward, backward and optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub u32);

impl ParamId {
    /// Of a matrix that is no parameter: it takes no gradient.
    pub const CONSTANT: Self = Self(u32::MAX);
}

/// A shared parameter: a packed matrix (`X = K::W`) or a vector (`X = K::Buf` of one row).
#[derive(Debug)]
pub struct Param<X> {
    /// Identity for gradients.
    pub id: ParamId,
    /// The value.
    pub value: Arc<X>,
}

impl<X> Clone for Param<X> {
    fn clone(&self) -> Self {
        Self { id: self.id, value: Arc::clone(&self.value) }
    }
}

/// A linear map `y = x Wᵀ + b` with `W` `[n_out, n_in]`.
#[derive(Debug)]
pub struct Linear<K: Kernels> {
    /// `[n_out, n_in]`.
    pub w: Param<K::W>,
    /// `[1, n_out]`.
    pub bias: Option<Param<K::Buf>>,
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `(x − mean) / sqrt(var + eps)`.
    Layer,
    /// `x / sqrt(mean(x²) + eps)`.
    Rms,
}

/// A normalisation over groups of columns: the whole row when `group` equals the width, each head
/// when it equals `d_head`.
#[derive(Debug)]
pub struct Norm<K: Kernels> {
    /// Which statistics.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
    /// Columns normalised together; gain and bias have this length.
    pub group: usize,
    /// `[1, group]`.
    pub gain: Option<Param<K::Buf>>,
    /// `[1, group]`.
    pub bias: Option<Param<K::Buf>>,
}

/// Pointwise non-linearities, each as `transformers` defines the named function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x Φ(x)` with the exact error function (`gelu`).
    Gelu,
    /// The tanh form (`gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`).
    GeluTanh,
    /// `x / (1 + e^{−x})` (`silu`, `swish`).
    Silu,
}

/// What follows a linear map, in this order: activation, then the residual is added.
/// Fused or not, the bits are those of the separate operations.
#[derive(Debug)]
pub struct Then<'a, T> {
    /// Applied to the output with its bias.
    pub act: Option<Activation>,
    /// `[rows, n_out]`, added last: `residual + y`.
    pub residual: Option<&'a T>,
}

impl<T> Default for Then<'_, T> {
    fn default() -> Self {
        Self { act: None, residual: None }
    }
}

/// Rotary angles: cosine and sine by absolute position.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[positions, rotary/2]`.
    pub cos: Vec<f32>,
    /// `[positions, rotary/2]`.
    pub sin: Vec<f32>,
    /// Dimensions rotated, from the start of each head.
    pub rotary: usize,
    /// Neighbouring pairs (GPT-J) instead of halves (NeoX, Llama).
    pub interleaved: bool,
}

/// Shape and mask of one attention layer. Causal always.
#[derive(Clone, Debug, PartialEq)]
pub struct AttnSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; `n_heads` is a multiple.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Scores are `(q·k) * scale`.
    pub scale: f32,
    /// A query sees keys at distance `< window` (itself included) where set.
    pub window: Option<usize>,
    /// Weights that are dropped after the softmax, while training. What is measured and stored of a
    /// pattern is what it was before.
    pub dropout: Option<Dropout>,
}

/// A change of the attention pattern at some query rows of one head.
#[derive(Clone, Debug)]
pub struct PatternEdit<T> {
    /// Query head.
    pub head: usize,
    /// Packed rows.
    pub rows: RowSet,
    /// What is done; several edits on one row apply in the order given.
    pub kind: PatternChange<T>,
}

/// The kinds of pattern edits.
#[derive(Clone, Debug)]
pub enum PatternChange<T> {
    /// Keys at absolute positions in the range are masked. Masking every key a row sees is an error.
    Block(Range<u32>),
    /// Equal weight on every key that is visible so far (in the window, not blocked before): its
    /// score becomes 0.
    Uniform,
    /// Scores divided by the temperature.
    Temperature(f32),
    /// The given pattern as it is, one row an edited row: `[rows, keys]`, zero beyond `keys`; what the row
    /// does not see (after its position, outside the window) counts as zero. Earlier edits of the row no
    /// longer matter, later ones are an error.
    Set(T),
}

/// Groups of keys: for each segment, for each group, absolute ranges. Every segment has equally many.
pub type KeyGroups = Vec<Vec<Vec<Range<u32>>>>;

/// Which attention rows are measured, and what is asked of them.
#[derive(Clone, Debug)]
pub struct AttnProbe<T> {
    /// Pattern edits.
    pub edits: Vec<PatternEdit<T>>,
    /// Groups of keys a segment: `groups[seg][g]` is a list of absolute ranges. The number of
    /// groups is the same for every segment. Gives `mass`.
    pub groups: Option<KeyGroups>,
    /// Entropy (nats), ℓ2 and maximum of each row. Gives `stats`.
    pub stats: bool,
    /// Store scores and pattern of all heads. Gives `raw`.
    pub raw: bool,
}

impl<T> AttnProbe<T> {
    /// The same probe with its matrices mapped (groups are copied).
    pub fn map<'a, U>(&'a self, mut f: impl FnMut(&'a T) -> U) -> AttnProbe<U> {
        let edits = self
            .edits
            .iter()
            .map(|e| PatternEdit {
                head: e.head,
                rows: e.rows.clone(),
                kind: match &e.kind {
                    PatternChange::Block(keys) => PatternChange::Block(keys.clone()),
                    PatternChange::Uniform => PatternChange::Uniform,
                    PatternChange::Temperature(t) => PatternChange::Temperature(*t),
                    PatternChange::Set(t) => PatternChange::Set(f(t)),
                },
            })
            .collect();
        AttnProbe { edits, groups: self.groups.clone(), stats: self.stats, raw: self.raw }
    }
}

impl<T> Default for AttnProbe<T> {
    fn default() -> Self {
        Self { edits: Vec::new(), groups: None, stats: false, raw: false }
    }
}

/// Queries, keys and values as computed, after rotary and q/k norms.
#[derive(Debug)]
pub struct Qkv<'a, T> {
    /// `[q_rows, n_heads · d_head]`.
    pub q: &'a T,
    /// `[rows, n_kv_heads · d_head]`.
    pub k: &'a T,
    /// `[rows, n_kv_heads · d_head]`.
    pub v: &'a T,
    /// Added to the scaled scores by how far the key lies behind the query: `[distances, n_heads]`, as
    /// many distances as the longest sequence has positions, or more.
    pub bias: Option<&'a T>,
}

/// Result of one attention layer.
#[derive(Debug)]
pub struct AttnOut<T> {
    /// `[q_rows, n_heads · d_head]`.
    pub z: T,
    /// `[q_rows, n_heads · groups]`, head-major, where groups were asked for.
    pub mass: Option<T>,
    /// `[q_rows, n_heads · 3]`, head-major: entropy, ℓ2, maximum.
    pub stats: Option<T>,
    /// Scores (edited, scaled, −inf where masked) and pattern.
    pub raw: Option<RawPattern>,
}

/// Attention of every head of some query rows on the host, ragged: row `r` (in query-row order)
/// has `keys[r]` keys (its position + 1) and starts at `offset[r]` in a block `[n_heads, keys[r]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawPattern {
    /// Number of keys of each query row.
    pub keys: Vec<u32>,
    /// Start of each query row's block.
    pub offset: Vec<usize>,
    /// Scaled scores, −inf where masked.
    pub scores: Vec<f32>,
    /// Weights after softmax.
    pub pattern: Vec<f32>,
}

/// Keys and values of one sequence over all layers, in blocks of [`crate::KEY_BLOCK`] absolute
/// positions. Cloning shares the blocks; appending copies the last, partly filled one.
#[derive(Debug)]
pub struct KvSeq<P> {
    /// `layers[layer][block]`.
    pub layers: Vec<Vec<Arc<P>>>,
    /// Positions held by every layer (a layer being appended may be ahead).
    pub len: usize,
}

impl<P> Clone for KvSeq<P> {
    fn clone(&self) -> Self {
        Self { layers: self.layers.clone(), len: self.len }
    }
}

impl<P> KvSeq<P> {
    /// An empty sequence.
    pub fn new(n_layers: usize) -> Self {
        Self { layers: (0..n_layers).map(|_| Vec::new()).collect(), len: 0 }
    }

    /// The first `n` positions, which share their blocks with this: all positions, or whole blocks.
    pub fn beginning(&self, n: usize) -> Self {
        let mut out = self.clone();
        if n < out.len {
            let blocks = n / crate::KEY_BLOCK;
            out.layers.iter_mut().for_each(|l| l.truncate(blocks));
            out.len = blocks * crate::KEY_BLOCK;
        }
        out
    }
}

/// How attention uses the cache; one entry a segment, in order.
#[derive(Debug)]
pub enum KvUse<'a, P> {
    /// All segments start at position 0 and nothing is kept.
    None,
    /// Segments continue these sequences; nothing is kept.
    Read(&'a [KvSeq<P>]),
    /// Segments continue these sequences (`pos0 == len`), and the new keys and values are appended. What
    /// the layer already held from `pos0` on is dropped first, so a run that failed midway can be repeated.
    /// The caller raises `len` when every layer has been appended.
    Append(&'a mut [KvSeq<P>]),
}

/// A change of some rows and columns of an activation.
#[derive(Clone, Debug)]
pub struct RowEdit<T> {
    /// Rows of the matrix at hand.
    pub rows: RowSet,
    /// Columns; one head is a range of columns of `z`.
    pub cols: Range<usize>,
    /// What happens.
    pub op: EditOp<T>,
}

impl<T> RowEdit<T> {
    /// The same edit with its matrix mapped.
    pub fn map<'a, U>(&'a self, f: impl FnOnce(&'a T) -> U) -> RowEdit<U> {
        let op = match &self.op {
            EditOp::Zero => EditOp::Zero,
            EditOp::Scale(s) => EditOp::Scale(*s),
            EditOp::Add(t) => EditOp::Add(f(t)),
            EditOp::Set(t) => EditOp::Set(f(t)),
        };
        RowEdit { rows: self.rows.clone(), cols: self.cols.clone(), op }
    }
}

/// The kinds of edits.
#[derive(Clone, Debug)]
pub enum EditOp<T> {
    /// Becomes zero.
    Zero,
    /// Is multiplied.
    Scale(f32),
    /// `x + t`, `t` of one row (broadcast) or one row an edited row, `cols` wide.
    Add(T),
    /// Becomes `t`, shaped as for `Add`.
    Set(T),
}

/// What is asked of the vocabulary product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocab {
    /// Logits of these ids: `[rows, ids]`.
    Ids(Arc<[u32]>),
    /// `log Σ exp` over the vocabulary: `[rows, 1]`.
    LogSumExp,
    /// The `n` highest logits with their ids, ties to the lower id; all where there are fewer.
    Top(usize),
    /// For each row the rank (0 = top, ties to the lower id) of one id.
    RankOf(Arc<[u32]>),
    /// Negative log-likelihood of one id a row: `[rows, 1]`.
    Nll(Arc<[u32]>),
    /// All logits: `[rows, vocab]`.
    All,
}

/// Answer to one [`Vocab`].
#[derive(Clone, Debug)]
pub enum VocabOut<T> {
    /// `Ids`, `LogSumExp`, `Nll`, `All`.
    Values(T),
    /// `Top`: per row `n` pairs, best first.
    Top(Vec<Vec<(u32, f32)>>),
    /// `RankOf`.
    Ranks(Vec<u32>),
}

/// Directions for [`Ops::head_dot`]: what head `h` writes along `u`, `z_h · (W_Oʰ u)`.
#[derive(Debug)]
pub struct Dirs<'a, T> {
    /// `[n_dirs, d_model]`.
    pub dirs: &'a T,
    /// Query heads.
    pub n_heads: usize,
}

/// What the forward pass is written against. Two implementations exist: [`crate::Eager`] runs,
/// [`crate::Tape`] runs and remembers.
pub trait Ops {
    /// The backend.
    type K: Kernels;
    /// A matrix `[rows, width]`.
    type T: Clone;

    /// `(rows, width)`.
    fn shape(&self, x: &Self::T) -> (usize, usize);
    /// A constant from the host, row-major.
    fn constant(&mut self, rows: usize, width: usize, data: &[f32]) -> Result<Self::T>;
    /// Copies a matrix to the host, row-major. The only way out.
    fn to_host(&mut self, x: &Self::T) -> Result<Vec<f32>>;

    /// A vector parameter as a constant matrix `[1, n]`, for measurements. Not differentiable.
    fn parameter(&mut self, p: &Param<<Self::K as Kernels>::Buf>) -> Result<Self::T>;

    /// Rows `ids` of the table `w` `[vocab, width]`.
    fn embed(&mut self, w: &Param<<Self::K as Kernels>::W>, ids: &[u32]) -> Result<Self::T>;
    /// `x + y`.
    fn add(&mut self, x: &Self::T, y: &Self::T) -> Result<Self::T>;
    /// Normalisation over groups of columns.
    fn norm(&mut self, x: &Self::T, n: &Norm<Self::K>) -> Result<Self::T>;
    /// The denominators that [`Ops::norm`] divides by: `[rows, width / group]`. Not differentiable.
    fn norm_scale(&mut self, x: &Self::T, n: &Norm<Self::K>) -> Result<Self::T>;
    /// Linear maps of one input, outputs side by side: `[rows, Σ n_out]`.
    fn linear(&mut self, x: &Self::T, ws: &[&Linear<Self::K>], then: Then<'_, Self::T>) -> Result<Self::T>;
    /// Linear maps of one input, each to a matrix of its own.
    fn linear_each(&mut self, x: &Self::T, ws: &[&Linear<Self::K>]) -> Result<Vec<Self::T>> {
        ws.iter().map(|w| self.linear(x, &[w], Then::default())).collect()
    }
    /// Columns `cols` as a matrix of its own.
    fn cols(&mut self, x: &Self::T, cols: Range<usize>) -> Result<Self::T>;
    /// Pointwise activation.
    fn act(&mut self, x: &Self::T, a: Activation) -> Result<Self::T>;
    /// `act(x[:, ..h]) * x[:, h..]` with `h` half the width.
    fn glu(&mut self, x: &Self::T, a: Activation) -> Result<Self::T>;
    /// Sets elements to zero and scales the rest up; `at` is (sequence, position) of each row.
    fn dropout(&mut self, x: &Self::T, d: &Dropout, at: &[(u32, u32)]) -> Result<Self::T>;
    /// Rotates every head of `x` `[rows, heads · d_head]`; `pos` is the position of each row.
    fn rope(&mut self, x: &Self::T, d_head: usize, table: &Arc<RopeTable>, pos: &[u32]) -> Result<Self::T>;
    /// Causal attention. `q_rows`: the packed rows that `q` holds (all where absent).
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &mut self,
        qkv: Qkv<'_, Self::T>,
        spec: &AttnSpec,
        layer: usize,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        kv: KvUse<'_, <Self::K as Kernels>::Page>,
        probe: Option<&AttnProbe<Self::T>>,
    ) -> Result<AttnOut<Self::T>>;
    /// The recurrence of an LSTM layer over fresh sequences, each from a zero state: `[rows, hidden]`.
    ///
    /// `pre` `[rows, 4 · hidden]` is `x W_ihᵀ + b_ih` of all positions, or with `at` a table in which that of
    /// position i is row `at[i]`; `recurrent` is `W_hh` `[4 · hidden, hidden]` and `b_hh`. Gates in PyTorch's
    /// order (input, forget, cell, output): `(i, f, g, o) = pre_t + (h_{t−1} W_hhᵀ + b_hh)`,
    /// `c_t = σ(f) c_{t−1} + σ(i) tanh(g)`, `h_t = σ(o) tanh(c_t)`.
    fn lstm(
        &mut self,
        pre: &Self::T,
        at: Option<&[u32]>,
        recurrent: &Linear<Self::K>,
        batch: &Batch,
    ) -> Result<Self::T>;
    /// Rows of the matrix at hand.
    fn rows(&mut self, x: &Self::T, r: &[u32]) -> Result<Self::T>;
    /// Edits in order.
    fn edit(&mut self, x: Self::T, edits: &[RowEdit<Self::T>]) -> Result<Self::T>;
    /// Answers questions about `x Uᵀ + b` without storing it, unless all of it is asked for.
    fn vocab(&mut self, x: &Self::T, u: &Linear<Self::K>, want: &[Vocab]) -> Result<Vec<VocabOut<Self::T>>>;
    /// `[rows, n_heads · n_dirs]`, head-major: what each head writes along each direction through
    /// the output map `wo` `[d_model, n_heads · d_head]`. Not differentiable.
    fn head_dot(&mut self, z: &Self::T, wo: &Linear<Self::K>, d: Dirs<'_, Self::T>) -> Result<Self::T>;
    /// `[rows, n_heads · d_model]`: each head's own output, without bias. Not differentiable.
    fn head_result(&mut self, z: &Self::T, wo: &Linear<Self::K>, n_heads: usize) -> Result<Self::T>;
}

/// Gradient of one operation with respect to its activation inputs.
pub type Grad<B> = Option<Rc<B>>;
