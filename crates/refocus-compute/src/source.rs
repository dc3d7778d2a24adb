//! Weight matrices as they lie in a checkpoint, before packing.

use crate::blocks::Block;
use crate::error::{Error, Result};

/// How numbers are stored. The blocks of the quantised types are those of llama.cpp; `q` is the integer
/// of a weight, and `s` and `m` are small integers of its sub-block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the names of the format")]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of 32, 18 bytes: `d·q`, 4 bits.
    Q4_0,
    /// Blocks of 32, 20 bytes: `d·q + m` with an f16 `m`, 4 bits.
    Q4_1,
    /// Blocks of 32, 22 bytes: `d·q`, 5 bits.
    Q5_0,
    /// Blocks of 32, 24 bytes: `d·q + m` with an f16 `m`, 5 bits.
    Q5_1,
    /// Blocks of 32, 34 bytes: `d·q`, 8 bits.
    Q8_0,
    /// Blocks of 256 in sub-blocks of 16, 84 bytes: `d·s·q − dmin·m`, 2 bits.
    Q2_K,
    /// Blocks of 256 in sub-blocks of 16, 110 bytes: `d·s·q`, 3 bits.
    Q3_K,
    /// Blocks of 256 in sub-blocks of 32, 144 bytes: `d·s·q − dmin·m`, 4 bits.
    Q4_K,
    /// Blocks of 256 in sub-blocks of 32, 176 bytes: `d·s·q − dmin·m`, 5 bits.
    Q5_K,
    /// Blocks of 256 in sub-blocks of 16, 210 bytes: `d·s·q`, 6 bits.
    Q6_K,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Dtype; 13] = [
        Dtype::F32,
        Dtype::F16,
        Dtype::Bf16,
        Dtype::Q4_0,
        Dtype::Q4_1,
        Dtype::Q5_0,
        Dtype::Q5_1,
        Dtype::Q8_0,
        Dtype::Q2_K,
        Dtype::Q3_K,
        Dtype::Q4_K,
        Dtype::Q5_K,
        Dtype::Q6_K,
    ];

    /// Values in one block, bytes of one block, the usual name.
    fn facts(self) -> (usize, usize, &'static str) {
        match self {
            Dtype::F32 => (1, 4, "f32"),
            Dtype::F16 => (1, 2, "f16"),
            Dtype::Bf16 => (1, 2, "bf16"),
            Dtype::Q4_0 => (32, 18, "q4_0"),
            Dtype::Q4_1 => (32, 20, "q4_1"),
            Dtype::Q5_0 => (32, 22, "q5_0"),
            Dtype::Q5_1 => (32, 24, "q5_1"),
            Dtype::Q8_0 => (32, 34, "q8_0"),
            Dtype::Q2_K => (256, 84, "q2_k"),
            Dtype::Q3_K => (256, 110, "q3_k"),
            Dtype::Q4_K => (256, 144, "q4_k"),
            Dtype::Q5_K => (256, 176, "q5_k"),
            Dtype::Q6_K => (256, 210, "q6_k"),
        }
    }

    /// Values in one block.
    pub fn block(self) -> usize {
        self.facts().0
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.facts().1
    }

    /// Values that share a scale.
    pub(crate) fn sub_block(self) -> usize {
        match self {
            Dtype::Q2_K | Dtype::Q3_K | Dtype::Q6_K => 16,
            Dtype::Q4_K | Dtype::Q5_K => 32,
            _ => self.block(),
        }
    }

    /// Whether a minimum is added to scale times quant.
    pub(crate) fn has_minimum(self) -> bool {
        matches!(self, Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q2_K | Dtype::Q4_K | Dtype::Q5_K)
    }

    /// Bytes of a row of `k` values; `None` when `k` is no whole number of blocks or too large.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        k.is_multiple_of(self.block())
            .then(|| k / self.block())
            .and_then(|b| b.checked_mul(self.block_bytes()))
    }

    /// The usual name.
    pub fn name(self) -> &'static str {
        self.facts().2
    }
}

/// A logical matrix `[n, k]` (outputs by inputs) inside stored bytes.
#[derive(Clone, Debug)]
pub struct MatrixSource<'a> {
    /// Name for errors.
    pub name: &'a str,
    /// Stored type.
    pub dtype: Dtype,
    /// The whole stored tensor.
    pub bytes: &'a [u8],
    /// Stored outer and inner dimension.
    pub stored: [usize; 2],
    /// Stored as `[k, n]` (GPT-2's Conv1D). Only for types with blocks of one.
    pub transposed: bool,
    /// Logical row `i` is stored row (column, if transposed) `rows[i]`; all of them in order where absent.
    pub rows: Option<Vec<u32>>,
}

impl<'a> MatrixSource<'a> {
    /// An f32 matrix from memory, `[n, k]` row-major.
    pub fn from_f32(name: &'a str, n: usize, k: usize, data: &'a [f32]) -> Self {
        // SAFETY: any f32 is four readable bytes, and the slice's length is exact.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) };
        Self { name, dtype: Dtype::F32, bytes, stored: [n, k], transposed: false, rows: None }
    }

    /// `(n, k)`.
    pub fn shape(&self) -> (usize, usize) {
        let [outer, inner] = self.stored;
        let (n, k) = if self.transposed { (inner, outer) } else { (outer, inner) };
        (self.rows.as_ref().map_or(n, Vec::len), k)
    }

    /// Checks that bytes, shape and row map agree. Packing calls it.
    pub fn check(&self) -> Result<()> {
        let [outer, inner] = self.stored;
        let want = self.dtype.row_bytes(inner).and_then(|r| r.checked_mul(outer));
        if want != Some(self.bytes.len()) {
            return Err(Error::Source {
                name: self.name.to_owned(),
                why: format!(
                    "{} bytes for shape [{outer}, {inner}] of {}, expected {}",
                    self.bytes.len(),
                    self.dtype.name(),
                    want.map_or_else(|| "a whole number of blocks a row".to_owned(), |w| w.to_string())
                ),
            });
        }
        if self.transposed && self.dtype.block() != 1 {
            return Err(Error::Source {
                name: self.name.to_owned(),
                why: format!("{} cannot be stored transposed", self.dtype.name()),
            });
        }
        let limit = if self.transposed { inner } else { outer };
        if let Some(bad) = self.rows.iter().flatten().find(|&&r| r as usize >= limit) {
            return Err(Error::Source { name: self.name.to_owned(), why: format!("row {bad} of {limit}") });
        }
        Ok(())
    }

    /// Decodes logical row `i` into `out` (`k` long): of a quantised weight the f32 nearest to scale times
    /// quant plus minimum.
    pub fn row_f32(&self, i: usize, out: &mut [f32]) {
        let r = self.rows.as_ref().map_or(i, |m| m[i] as usize);
        let [_, inner] = self.stored;
        if self.transposed {
            for (kk, o) in out.iter_mut().enumerate() {
                *o = self.scalar(kk * inner + r);
            }
            return;
        }
        if self.dtype.block() == 1 {
            for (kk, o) in out.iter_mut().enumerate() {
                *o = self.scalar(r * inner + kk);
            }
            return;
        }
        for (block, o) in self.blocks(r).zip(out.chunks_exact_mut(self.dtype.block())) {
            Block::read(self.dtype, block).decode(self.dtype, o);
        }
    }

    /// The blocks of stored row `r`.
    pub(crate) fn blocks(&self, r: usize) -> std::slice::ChunksExact<'a, u8> {
        let bytes = self.dtype.block_bytes();
        let row = self.stored[1] / self.dtype.block() * bytes;
        self.bytes[r * row..(r + 1) * row].chunks_exact(bytes)
    }

    fn scalar(&self, at: usize) -> f32 {
        match self.dtype {
            Dtype::F32 => {
                let b = &self.bytes[at * 4..at * 4 + 4];
                f32::from_le_bytes([b[0], b[1], b[2], b[3]])
            }
            Dtype::F16 => half::f16::from_le_bytes([self.bytes[at * 2], self.bytes[at * 2 + 1]]).to_f32(),
            Dtype::Bf16 => half::bf16::from_le_bytes([self.bytes[at * 2], self.bytes[at * 2 + 1]]).to_f32(),
            _ => f32::NAN,
        }
    }
}
