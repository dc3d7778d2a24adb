//! Weights packed once at load: `[n/16][k][16]` in the stored width.
//!
//! A panel holds sixteen outputs. Within it, one input `k` is sixteen neighbouring values, so a
//! product broadcasts `x[k]` and never sums across lanes. Quantised blocks keep their inputs
//! together: scales (and minima) of sixteen outputs, then the quants, as [`super::format`] lays them out.

use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;

use crate::blocks::Block;
use crate::error::{Error, Result};
use crate::simd::{Isa, LANES};
use crate::source::{Dtype, MatrixSource};
use crate::team::Team;

use super::format::{block_bytes, pack_block};
use super::memory::CpuBuf;
use super::product::{K_BLOCK, decode};

/// A packed weight matrix `[n, k]`.
#[derive(Debug)]
pub struct Panels {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) dtype: Dtype,
    /// Bytes of one panel.
    pub(crate) stride: usize,
    data: Data,
}

/// Where panels lie.
#[derive(Debug)]
enum Data {
    /// Of weights that stay.
    Mapped(MmapMut),
    /// Of those made for one product.
    Pooled(CpuBuf),
}

impl Panels {
    /// Packs in parallel and checks that every weight is finite.
    pub(crate) fn pack(source: &MatrixSource<'_>, team: &mut Team) -> Result<Self> {
        source.check()?;
        let (n, k) = source.shape();
        let dtype = source.dtype;
        let too_large = || Error::Memory { bytes: usize::MAX };
        let stride = (k / dtype.block()).checked_mul(block_bytes(dtype)).ok_or_else(too_large)?;
        let bytes = stride.checked_mul(n.div_ceil(LANES)).ok_or_else(too_large)?.max(1);
        // Anonymous pages: zeroed, aligned, and on Linux large where the kernel allows.
        let mut data = MmapMut::map_anon(bytes).map_err(|_| Error::Memory { bytes })?;
        #[cfg(target_os = "linux")]
        // Advice only; a refusal costs nothing but speed.
        let _ = data.advise(memmap2::Advice::HugePage);
        let panels = n.div_ceil(LANES);
        let bad = AtomicUsize::new(usize::MAX);
        let out = Bytes(data.as_mut_ptr());
        team.run(panels, |p| {
            // SAFETY: panel `p` is this tile's own `stride` bytes of the mapping.
            let dst = unsafe { std::slice::from_raw_parts_mut(out.at(p * stride), stride) };
            if let Some(row) = pack_panel(source, p * LANES, LANES.min(n - p * LANES), dst) {
                bad.fetch_min(row, Ordering::Relaxed);
            }
        });
        match bad.load(Ordering::Relaxed) {
            usize::MAX => Ok(Self { n, k, dtype, stride, data: Data::Mapped(data) }),
            row => Err(Error::Source {
                name: source.name.to_owned(),
                why: format!("row {row} holds a value that is NaN or infinite"),
            }),
        }
    }

    /// `[n, k]` in f32 from packed values, one panel a row.
    pub(super) fn packed(n: usize, k: usize, data: CpuBuf) -> Self {
        debug_assert_eq!((data.rows, data.width), (n.div_ceil(LANES), k * LANES));
        Self { n, k, dtype: Dtype::F32, stride: 4 * data.width, data: Data::Pooled(data) }
    }

    fn data(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map) => map,
            Data::Pooled(buf) => buf.as_bytes(),
        }
    }

    /// `(n, k)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    /// How the values are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data().len()
    }

    /// Start of panel `p`.
    pub(crate) fn panel(&self, p: usize) -> *const u8 {
        let data = self.data();
        debug_assert!(p * self.stride < data.len());
        // SAFETY: panels lie within the data.
        unsafe { data.as_ptr().add(p * self.stride) }
    }

    /// Decodes row `row` into `out` (`k` long), with the values the product uses.
    pub(crate) fn row(&self, isa: Isa, row: usize, out: &mut [f32]) {
        let (panel, lane) = (self.panel(row / LANES), row % LANES);
        if self.dtype.block() > 1 {
            let mut decoded = [0.0; K_BLOCK * LANES];
            for (i, out) in out.chunks_mut(K_BLOCK).enumerate() {
                let decoded = &mut decoded[..out.len() * LANES];
                let at = i * K_BLOCK / self.dtype.block() * block_bytes(self.dtype);
                // SAFETY: `out` is whole blocks, which the panel holds from `at` on.
                unsafe { decode(isa, self.dtype, panel.add(at), 0, decoded) };
                out.iter_mut().zip(decoded[lane..].iter().step_by(LANES)).for_each(|(o, &w)| *o = w);
            }
            return;
        }
        // SAFETY: the panel is `stride` bytes of the data.
        let p = unsafe { std::slice::from_raw_parts(panel, self.stride) };
        let u16_at = |i: usize| u16::from_le_bytes([p[i], p[i + 1]]);
        for (k, o) in out.iter_mut().enumerate() {
            let i = k * LANES + lane;
            *o = match self.dtype {
                Dtype::F16 => half::f16::from_bits(u16_at(2 * i)).to_f32(),
                Dtype::Bf16 => half::bf16::from_bits(u16_at(2 * i)).to_f32(),
                _ => f32::from_le_bytes([p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]]),
            };
        }
    }
}

#[derive(Clone, Copy)]
struct Bytes(*mut u8);
// SAFETY: tiles write disjoint panels.
unsafe impl Sync for Bytes {}
impl Bytes {
    /// # Safety
    /// `at` lies within the mapping.
    unsafe fn at(self, at: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(at) }
    }
}

/// Packs rows `r0 .. r0 + rows`; gives the first row with a value that is not finite.
fn pack_panel(source: &MatrixSource<'_>, r0: usize, rows: usize, dst: &mut [u8]) -> Option<usize> {
    if source.transposed && source.rows.is_none() {
        return pack_transposed(source, r0, rows, dst);
    }
    let [_, inner] = source.stored;
    let (_, k) = source.shape();
    let mut bad = None;
    for lane in 0..rows {
        let r = source.rows.as_ref().map_or(r0 + lane, |m| m[r0 + lane] as usize);
        let finite = if source.dtype.block() == 1 {
            let w = source.dtype.block_bytes();
            let (start, step) = if source.transposed { (r, inner) } else { (r * inner, 1) };
            let mut finite = true;
            for i in 0..k {
                let value = &source.bytes[(start + i * step) * w..][..w];
                dst[(i * LANES + lane) * w..][..w].copy_from_slice(value);
                finite &= is_finite(source.dtype, value);
            }
            finite
        } else {
            let mut finite = true;
            for (block, out) in source.blocks(r).zip(dst.chunks_exact_mut(block_bytes(source.dtype))) {
                let block = Block::read(source.dtype, block);
                finite &= block.finite();
                pack_block(source.dtype, &block, lane, out);
            }
            finite
        };
        if !finite && bad.is_none() {
            bad = Some(r0 + lane);
        }
    }
    bad
}

/// As [`pack_panel`] where the sixteen outputs of one input lie side by side.
fn pack_transposed(source: &MatrixSource<'_>, r0: usize, rows: usize, dst: &mut [u8]) -> Option<usize> {
    let [k, inner] = source.stored;
    let w = source.dtype.block_bytes();
    let mut bad = None;
    for i in 0..k {
        let values = &source.bytes[(i * inner + r0) * w..][..rows * w];
        dst[i * LANES * w..][..rows * w].copy_from_slice(values);
        if let Some(lane) = values.chunks_exact(w).position(|v| !is_finite(source.dtype, v)) {
            bad = Some(bad.map_or(r0 + lane, |b: usize| b.min(r0 + lane)));
        }
    }
    bad
}

fn is_finite(dtype: Dtype, v: &[u8]) -> bool {
    match dtype {
        Dtype::F16 => v[1] & 0x7c != 0x7c,
        Dtype::Bf16 => !(v[1] & 0x7f == 0x7f && v[0] & 0x80 != 0),
        _ => !(v[3] & 0x7f == 0x7f && v[2] & 0x80 != 0),
    }
}
