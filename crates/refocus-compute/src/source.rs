//! Weight matrices as they lie in a checkpoint, before packing.

use crate::error::{Error, Result};

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of 32: f16 scale `d`, f16 minimum `m`, 32 nibbles `q`; `d·q + m`. 20 bytes.
    Q4_1,
    /// Blocks of 32: f16 scale `d`, 32 signed bytes `q`; `d·q`. 34 bytes.
    Q8_0,
}

impl Dtype {
    /// Values in one block.
    pub fn block(self) -> usize {
        match self {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => 1,
            Dtype::Q4_1 | Dtype::Q8_0 => 32,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::Q4_1 => 20,
            Dtype::Q8_0 => 34,
        }
    }

    /// Bytes of a row of `k` values; `None` when `k` is no whole number of blocks or too large.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        k.is_multiple_of(self.block())
            .then(|| k / self.block())
            .and_then(|b| b.checked_mul(self.block_bytes()))
    }

    /// The usual name.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::Q4_1 => "q4_1",
            Dtype::Q8_0 => "q8_0",
        }
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

    /// Decodes logical row `i` into `out` (`k` long), exactly: the f32 nearest to `d·q + m` in one
    /// rounding (the product is exact).
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
        let bb = self.dtype.block_bytes();
        let row = &self.bytes[r * (inner / 32) * bb..(r + 1) * (inner / 32) * bb];
        for (block, o) in row.chunks_exact(bb).zip(out.chunks_exact_mut(32)) {
            decode_block(self.dtype, block, o);
        }
    }

    fn scalar(&self, at: usize) -> f32 {
        match self.dtype {
            Dtype::F32 => {
                let b = &self.bytes[at * 4..at * 4 + 4];
                f32::from_le_bytes([b[0], b[1], b[2], b[3]])
            }
            Dtype::F16 => half::f16::from_le_bytes([self.bytes[at * 2], self.bytes[at * 2 + 1]]).to_f32(),
            Dtype::Bf16 => half::bf16::from_le_bytes([self.bytes[at * 2], self.bytes[at * 2 + 1]]).to_f32(),
            Dtype::Q4_1 | Dtype::Q8_0 => f32::NAN,
        }
    }
}

/// Decodes one stored block of 32 values.
pub(crate) fn decode_block(dtype: Dtype, block: &[u8], out: &mut [f32]) {
    let f16 = |i: usize| half::f16::from_le_bytes([block[i], block[i + 1]]).to_f32();
    match dtype {
        Dtype::Q4_1 => {
            let (d, m) = (f16(0), f16(2));
            for j in 0..16 {
                let byte = block[4 + j];
                out[j] = d.mul_add(f32::from(byte & 15), m);
                out[j + 16] = d.mul_add(f32::from(byte >> 4), m);
            }
        }
        Dtype::Q8_0 => {
            let d = f16(0);
            for j in 0..32 {
                out[j] = d * f32::from(block[2 + j] as i8);
            }
        }
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => out.fill(f32::NAN),
    }
}
