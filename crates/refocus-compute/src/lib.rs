//! The arithmetic of refocus: about ten coarse operations, forward and backward, on ragged batches.
//!
//! * [`Ops`] is the seam the forward pass is written against; [`Eager`] runs it, [`Tape`] runs and
//!   remembers it for the backward pass.
//! * [`Kernels`] is a backend: [`Cpu`] in f32 (AVX-512, AVX2, NEON or portable, equal bits on all of
//!   them), [`Reference`] in f64 with plain loops.
//!
//! The contract on bits is in `docs/determinism.md`: every output is one fixed chain of operations,
//! whatever the batch, the number of threads, the cache or the instruction set.

mod blocks;
mod cpu;
mod dropout;
mod eager;
mod error;
mod kernels;
mod ops;
mod philox;
mod reference;
mod simd;
mod source;
mod tape;
mod team;

pub use cpu::{Cpu, CpuBuf, CpuPage, Panels};
pub use dropout::Dropout;
pub use eager::Eager;
pub use error::{Error, Result};
pub use kernels::{AttnGrads, Kernels, LstmGrads, LstmKept, LstmOut, NormArgs, NormGrads};
pub use ops::*;
pub use philox::{Philox, Purpose, TILE, philox4x32, unit_f64};
pub use reference::{RefBuf, RefPage, RefWeight, Reference};
pub use simd::{Isa, exp64, ln, softmax_weights};
pub use source::{Dtype, MatrixSource};
pub use tape::{Grads, Tape, Var};
pub use team::Team;

/// Absolute positions in one block of keys and values.
pub const KEY_BLOCK: usize = 64;
