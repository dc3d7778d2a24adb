//! [`Ops`] that run and remember, and the gradients of what they ran.
//!
//! ```text
//! let mut tape = Tape::new(kernels);
//! let loss = …;                              // the forward pass, over Ops
//! let grads = tape.backward(&loss, None)?;   // empties the tape
//! grads.param(id)                            // Option<&Buf>
//! ```
//!
//! Each operation keeps only what its gradient needs, and only if a wanted parameter or a watched
//! value lies behind it. Operations without a gradient (`norm_scale`, `head_dot`, `head_result`,
//! attention over a cache) run all the same; a loss that depends on one is an error in
//! [`Tape::backward`], so no gradient is ever cut silently. What leaves by `to_host`, the vocabulary
//! answers `Top` and `RankOf` and the raw pattern are host data and have no gradient.

mod backward;
mod record;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dropout::Dropout;
use crate::eager::{Eager, check};
use crate::error::Result;
use crate::kernels::{Kernels, LstmKept};
use crate::ops::{
    Activation, AttnProbe, AttnSpec, Batch, Linear, Norm, Ops, Param, ParamId, RopeTable, RowEdit, RowSet,
    Vocab,
};

/// Names a recorded operation. Never used twice in a process, so a value of an emptied tape or of
/// another one is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeId(u64);

/// First id of the next tape; each has room for 2⁴⁰ operations.
static NEXT_TAPE: AtomicU64 = AtomicU64::new(0);

/// A matrix on the tape.
pub struct Var<K: Kernels> {
    /// The operation that made it; none for what no wanted gradient passes through.
    id: Option<NodeId>,
    value: Rc<K::Buf>,
}

impl<K: Kernels> Var<K> {
    /// The matrix.
    pub fn value(&self) -> &K::Buf {
        &self.value
    }

    /// The matrix, off the tape.
    pub fn into_value(self) -> Rc<K::Buf> {
        self.value
    }
}

impl<K: Kernels> Clone for Var<K> {
    fn clone(&self) -> Self {
        Self { id: self.id, value: Rc::clone(&self.value) }
    }
}

impl<K: Kernels> fmt::Debug for Var<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Var").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Gradients of one backward pass. What is absent is zero: nothing reached it.
pub struct Grads<K: Kernels> {
    params: BTreeMap<ParamId, K::Buf>,
    watched: HashMap<NodeId, K::Buf>,
}

impl<K: Kernels> Grads<K> {
    /// Gradient of a parameter: a matrix `[n, k]` row-major, a vector `[1, n]`.
    pub fn param(&self, id: ParamId) -> Option<&K::Buf> {
        self.params.get(&id)
    }

    /// Gradient of a value that [`Tape::watch`] returned, shaped like it.
    pub fn var(&self, x: &Var<K>) -> Option<&K::Buf> {
        x.id.and_then(|id| self.watched.get(&id))
    }

    /// All parameters' gradients in the order of their ids.
    pub fn into_params(self) -> BTreeMap<ParamId, K::Buf> {
        self.params
    }
}

/// Which parameters get a gradient.
enum Wanted {
    All,
    Only(HashSet<ParamId>),
}

impl Wanted {
    fn has<X>(&self, p: &Param<X>) -> bool {
        match self {
            _ if p.id == ParamId::CONSTANT => false,
            Wanted::All => true,
            Wanted::Only(ids) => ids.contains(&p.id),
        }
    }

    fn has_any<X>(&self, p: &Option<Param<X>>) -> bool {
        p.as_ref().is_some_and(|p| self.has(p))
    }
}

/// Runs every operation as [`Eager`] does and records it for [`Tape::backward`]. Where a gradient
/// needs a pre-activation, the fused operation runs as its parts, which by contract gives the same
/// bits.
pub struct Tape<K: Kernels> {
    eager: Eager<K>,
    nodes: Vec<Node<K>>,
    /// Id of `nodes[0]`.
    base: u64,
    wanted: Wanted,
}

/// One recorded operation.
struct Node<K: Kernels> {
    op: Op<K>,
    /// Its gradient is reported.
    watched: bool,
}

/// A matrix that a gradient reads.
type Saved<K> = Rc<<K as Kernels>::Buf>;

/// What an operation's gradient needs. Inputs without an id take no gradient.
enum Op<K: Kernels> {
    Leaf,
    /// Cannot be differentiated; the name is that of the operation.
    Opaque(&'static str),
    Embed {
        w: Param<K::W>,
        ids: Vec<u32>,
    },
    Add {
        x: Option<NodeId>,
        y: Option<NodeId>,
    },
    Norm {
        x: Option<NodeId>,
        input: Saved<K>,
        norm: Norm<K>,
    },
    /// Without activation.
    Linear {
        x: Option<NodeId>,
        /// Where a weight's gradient is wanted.
        input: Option<Saved<K>>,
        maps: Vec<Linear<K>>,
        residual: Option<NodeId>,
    },
    Cols {
        x: NodeId,
        shape: check::Dim,
        cols: Range<usize>,
    },
    Act {
        x: NodeId,
        input: Saved<K>,
        a: Activation,
    },
    Glu {
        x: NodeId,
        input: Saved<K>,
        a: Activation,
    },
    Dropout {
        x: NodeId,
        d: Dropout,
        at: Vec<(u32, u32)>,
    },
    Rope {
        x: NodeId,
        d_head: usize,
        table: Arc<RopeTable>,
        pos: Vec<u32>,
    },
    Attention(Box<Attention<K>>),
    Lstm(Box<Lstm<K>>),
    /// Mass or statistics of the attention at `of`, which takes their gradients together.
    Measured {
        of: NodeId,
        what: Measure,
    },
    Rows {
        x: NodeId,
        shape: check::Dim,
        rows: Vec<u32>,
    },
    Edit {
        x: Option<NodeId>,
        edits: Vec<RowEdit<Operand>>,
    },
    /// The vocabulary product. Nobody holds its value; its gradient `[rows, vocab]` is the sum over
    /// the questions asked.
    Logits {
        x: Option<NodeId>,
        input: Saved<K>,
        u: Linear<K>,
    },
    Answer {
        of: NodeId,
        want: Vocab,
    },
    WeightedSum {
        x: NodeId,
        weights: Saved<K>,
    },
}

/// An attention layer on fresh sequences.
struct Attention<K: Kernels> {
    /// Queries, keys, values.
    ids: [Option<NodeId>; 3],
    inputs: [Saved<K>; 3],
    bias: Option<(Option<NodeId>, Saved<K>)>,
    spec: AttnSpec,
    batch: Batch,
    q_rows: Option<RowSet>,
    probe: Option<AttnProbe<Saved<K>>>,
    /// A given pattern lies on the path of a wanted gradient.
    given: bool,
    /// Gradients that [`Op::Measured`] left here.
    dmass: Option<K::Buf>,
    dstats: Option<K::Buf>,
}

/// The recurrence of an LSTM layer.
struct Lstm<K: Kernels> {
    pre: Option<NodeId>,
    /// Where `pre` is a table: its shape, and the row of each position.
    at: Option<(check::Dim, Vec<u32>)>,
    recurrent: Linear<K>,
    batch: Batch,
    hidden: Saved<K>,
    kept: LstmKept<K::Buf>,
}

/// What was read off an attention pattern.
enum Measure {
    Mass,
    Stats,
}

/// The matrix of an edit, as far as its gradient is concerned.
struct Operand {
    id: Option<NodeId>,
    /// One row for all edited rows.
    one_row: bool,
}

impl<K: Kernels> Tape<K> {
    /// An empty tape over a backend; every parameter gets a gradient.
    pub fn new(kernels: K) -> Self {
        let base = NEXT_TAPE.fetch_add(1 << 40, Ordering::Relaxed);
        Self { eager: Eager::new(kernels), nodes: Vec::new(), base, wanted: Wanted::All }
    }

    /// From now on only these parameters get gradients; none for an empty list, where only
    /// watched values matter. Saves the memory and the products of the others.
    pub fn want_only(&mut self, params: impl IntoIterator<Item = ParamId>) {
        self.wanted = Wanted::Only(params.into_iter().collect());
    }

    /// From now on every parameter gets a gradient.
    pub fn want_all(&mut self) {
        self.wanted = Wanted::All;
    }

    /// Runs operations without recording them.
    pub fn eager(&mut self) -> &mut Eager<K> {
        &mut self.eager
    }

    /// The backend.
    pub fn kernels(&mut self) -> &mut K {
        &mut self.eager.kernels
    }

    /// The backend back, the recording dropped.
    pub fn into_kernels(self) -> K {
        self.eager.kernels
    }

    /// Forgets what was recorded. Values made before can no longer be used.
    pub fn clear(&mut self) {
        self.base += self.nodes.len() as u64;
        self.nodes.clear();
    }

    /// A constant in the backend's own numbers; [`Ops::constant`] takes f32.
    pub fn input(&mut self, x: K::Buf) -> Var<K> {
        Var { id: None, value: Rc::new(x) }
    }

    /// Marks a value whose gradient [`Grads::var`] shall report, and returns it. What comes after
    /// must use the returned value: a constant has no place on the tape before.
    pub fn watch(&mut self, x: &Var<K>) -> Result<Var<K>> {
        let id = match self.live("watch", x)? {
            Some(id) => id,
            None => self.push(Op::Leaf),
        };
        let at = self.index(id);
        self.nodes[at].watched = true;
        Ok(Var { id: Some(id), value: Rc::clone(&x.value) })
    }

    /// `Σ x · weights` over all elements, `weights` row-major as long as `x`: `[1, 1]`. Losses are
    /// made with it: masks, means, single columns, signs and factors are all weights.
    pub fn weighted_sum(&mut self, x: &Var<K>, weights: &[f32]) -> Result<Var<K>> {
        let id = self.live("weighted_sum", x)?;
        let (rows, width) = self.shape(x);
        if weights.len() != rows * width {
            return Err(check::mismatch(
                "weighted_sum",
                "the number of weights",
                weights.len(),
                rows * width,
            ));
        }
        let weights = self.eager.constant(rows, width, weights)?;
        let y = self.eager.weighted_sum(&x.value, &weights)?;
        Ok(match id {
            Some(x) => self.record(y, Op::WeightedSum { x, weights }),
            None => self.plain(y),
        })
    }

    /// Mean over all elements: `[1, 1]`.
    pub fn mean(&mut self, x: &Var<K>) -> Result<Var<K>> {
        let (rows, width) = self.shape(x);
        if rows * width == 0 {
            return Err(check::unsupported("mean", "of no elements"));
        }
        self.weighted_sum(x, &vec![1.0 / (rows * width) as f32; rows * width])
    }

    /// The operation behind a value, if it is recorded; an error if it was, on an emptied tape.
    fn live(&self, op: &'static str, x: &Var<K>) -> Result<Option<NodeId>> {
        match x.id {
            Some(NodeId(id)) if id < self.base || id >= self.base + self.nodes.len() as u64 => {
                Err(check::unsupported(
                    op,
                    "an input was recorded before the tape was emptied, or on another tape",
                ))
            }
            id => Ok(id),
        }
    }

    fn index(&self, id: NodeId) -> usize {
        (id.0 - self.base) as usize
    }

    fn push(&mut self, op: Op<K>) -> NodeId {
        self.nodes.push(Node { op, watched: false });
        NodeId(self.base + self.nodes.len() as u64 - 1)
    }

    /// A value that no wanted gradient passes through.
    fn plain(&self, value: Rc<K::Buf>) -> Var<K> {
        Var { id: None, value }
    }

    /// A value and how it came about. One without rows has no gradient to pass on.
    fn record(&mut self, value: Rc<K::Buf>, op: Op<K>) -> Var<K> {
        if self.eager.shape(&value).0 == 0 {
            return self.plain(value);
        }
        Var { id: Some(self.push(op)), value }
    }
}
