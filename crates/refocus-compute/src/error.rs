//! What can go wrong while computing.

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors name the operation or tensor and the shapes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two shapes that must agree do not.
    #[error("{op}: {what} is {got}, expected {want}")]
    Shape {
        /// Operation.
        op: &'static str,
        /// Which argument.
        what: String,
        /// As found.
        got: String,
        /// As required.
        want: String,
    },
    /// An index beyond its table.
    #[error("{op}: {what} {index} is out of range (there are {limit})")]
    Range {
        /// Operation.
        op: &'static str,
        /// Kind of index.
        what: &'static str,
        /// As found.
        index: usize,
        /// Number of entries.
        limit: usize,
    },
    /// A stored matrix that cannot be packed.
    #[error("tensor {name}: {why}")]
    Source {
        /// Tensor.
        name: String,
        /// Reason.
        why: String,
    },
    /// A request that an operation does not support.
    #[error("{op}: {why}")]
    Unsupported {
        /// Operation.
        op: &'static str,
        /// Reason.
        why: String,
    },
    /// Memory for an activation or weight could not be had.
    #[error("could not allocate {bytes} bytes")]
    Memory {
        /// Size asked for.
        bytes: usize,
    },
}
