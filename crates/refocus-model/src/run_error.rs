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
