//! What can go wrong while a model runs.

use crate::plan::PlanError;

/// Errors name the sequence, the position and the limit.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The request does not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The backend failed.
    #[error(transparent)]
    Compute(#[from] refocus_compute::Error),
    /// A token id beyond the vocabulary.
    #[error("token id {id} at row {at} is not in the vocabulary of {vocab}")]
    Id {
        /// As given.
        id: u32,
        /// Packed row.
        at: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A sequence longer than the model takes.
    #[error("sequence {seq} has {len} tokens, the model's context is {n_ctx}")]
    Context {
        /// Which.
        seq: usize,
        /// Its length with what is cached.
        len: usize,
        /// The limit.
        n_ctx: usize,
    },
    /// An empty sequence.
    #[error("sequence {seq} has no tokens")]
    Empty {
        /// Which.
        seq: usize,
    },
    /// Ids and plan do not belong together.
    #[error("{ids} token ids for a batch of {rows} rows")]
    Rows {
        /// Ids given.
        ids: usize,
        /// Rows planned.
        rows: usize,
    },
    /// Token ids for a plan that begins at a block, or a residual stream for one that begins at token ids.
    #[error("{}", match start {
        Some(layer) => format!("the plan begins at block {layer}: it takes a residual stream, not token ids"),
        None => "the plan begins at the embeddings: it takes token ids, not a residual stream".to_owned(),
    })]
    Start {
        /// Where the plan begins.
        start: Option<usize>,
    },
    /// A residual stream of another shape than the plan's batch.
    #[error("a residual stream [{}, {}] where [{}, {}] is needed", got.0, got.1, want.0, want.1)]
    Residual {
        /// As given.
        got: (usize, usize),
        /// Rows of the batch, width of the model.
        want: (usize, usize),
    },
    /// A cache that would lack the blocks before the first one that is run.
    #[error("a pass that begins at a block can read a cache but not append to it")]
    Partial,
    /// Cache and batch do not belong together.
    #[error("the cache holds {seqs} sequences, the batch has {segs}")]
    Cache {
        /// In the cache.
        seqs: usize,
        /// In the batch.
        segs: usize,
    },
    /// A segment that does not start where its cached part ends.
    #[error("sequence {seq} continues at position {pos0}, but {len} positions are cached")]
    CacheLength {
        /// Which.
        seq: usize,
        /// Its first position.
        pos0: usize,
        /// Positions cached.
        len: usize,
    },
    /// Cached keys whose angles would no longer be right.
    #[error(
        "dynamic rotary scaling changes all angles past {original} positions, so cached keys cannot be \
         continued to {end}; run the sequence whole"
    )]
    DynamicRope {
        /// The context without scaling.
        original: usize,
        /// Where the sequence would end.
        end: usize,
    },
    /// A value that is not a number.
    #[error("{what} of sequence {seq} holds NaN at position {position}")]
    NotANumber {
        /// Site or logits.
        what: String,
        /// Which sequence.
        seq: usize,
        /// Which position.
        position: usize,
    },
    /// A readout that the pass did not reach: a defect of the plan.
    #[error("internal: readout {0} was not reached")]
    Unread(usize),
}
