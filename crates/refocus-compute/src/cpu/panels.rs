//! Weights packed once at load: `[n/16][k][16]` in the stored width.
//!
//! A panel holds sixteen outputs. Within it, one input `k` is sixteen neighbouring values, so a
//! product broadcasts `x[k]` and never sums across lanes. Quantised blocks keep their 32 inputs
//! together: sixteen scales (and minima), then the quants.

use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::MmapMut;

use crate::error::{Error, Result};
use crate::simd::{LANES, Simd};
use crate::source::{Dtype, MatrixSource};
use crate::team::Team;

/// A packed weight matrix `[n, k]`.
#[derive(Debug)]
pub struct Panels {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) dtype: Dtype,
    /// Bytes of one panel.
    pub(crate) stride: usize,
    data: MmapMut,
}

impl Panels {
    /// Packs in parallel and checks that every weight is finite.
    pub(crate) fn pack(source: &MatrixSource<'_>, team: &mut Team) -> Result<Self> {
        Self::pack_with(source, team, true)
    }

    pub(super) fn pack_with(source: &MatrixSource<'_>, team: &mut Team, finite: bool) -> Result<Self> {
        source.check()?;
        let (n, k) = source.shape();
        let dtype = source.dtype;
        let too_large = || Error::Memory { bytes: usize::MAX };
        let stride = dtype.row_bytes(k).and_then(|b| b.checked_mul(LANES)).ok_or_else(too_large)?;
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
            row if row == usize::MAX || !finite => Ok(Self { n, k, dtype, stride, data }),
            row => Err(Error::Source {
                name: source.name.to_owned(),
                why: format!("row {row} holds a value that is NaN or infinite"),
            }),
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
        self.data.len()
    }

    /// Start of panel `p`.
    pub(crate) fn panel(&self, p: usize) -> *const u8 {
        debug_assert!(p * self.stride < self.data.len());
        // SAFETY: panels lie within the mapping.
        unsafe { self.data.as_ptr().add(p * self.stride) }
    }

    /// Decodes row `row` into `out` (`k` long), with the values the product uses.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let lane = row % LANES;
        // SAFETY: the panel is `stride` bytes of the mapping.
        let p = unsafe { std::slice::from_raw_parts(self.panel(row / LANES), self.stride) };
        let u16_at = |i: usize| u16::from_le_bytes([p[i], p[i + 1]]);
        let f16_at = |i: usize| half::f16::from_bits(u16_at(i)).to_f32();
        for (k, o) in out.iter_mut().enumerate() {
            *o = match self.dtype {
                Dtype::F32 => {
                    let i = (k * LANES + lane) * 4;
                    f32::from_le_bytes([p[i], p[i + 1], p[i + 2], p[i + 3]])
                }
                Dtype::F16 => f16_at((k * LANES + lane) * 2),
                Dtype::Bf16 => half::bf16::from_bits(u16_at((k * LANES + lane) * 2)).to_f32(),
                Dtype::Q8_0 => {
                    let b = k / 32 * Q8_0::BYTES;
                    f16_at(b + 2 * lane) * f32::from(p[b + 32 + (k % 32) * LANES + lane] as i8)
                }
                Dtype::Q4_1 => {
                    let b = k / 32 * Q4_1::BYTES;
                    let at = b + 64 + (k % 32 / 8) * 64 + lane * 4;
                    let word = u32::from_le_bytes([p[at], p[at + 1], p[at + 2], p[at + 3]]);
                    let q = (word >> (4 * (k % 8))) & 15;
                    f16_at(b + 2 * lane).mul_add(q as f32, f16_at(b + 32 + 2 * lane))
                }
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
            let bb = source.dtype.block_bytes();
            let row = &source.bytes[r * (inner / 32) * bb..][..inner / 32 * bb];
            let mut finite = true;
            for (block, out) in row.chunks_exact(bb).zip(dst.chunks_exact_mut(bb * LANES)) {
                finite &= pack_block(source.dtype, block, lane, out);
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

/// Spreads one stored block of 32 inputs of one output over its panel block.
fn pack_block(dtype: Dtype, block: &[u8], lane: usize, out: &mut [u8]) -> bool {
    out[2 * lane..2 * lane + 2].copy_from_slice(&block[..2]);
    let finite = is_finite(Dtype::F16, &block[..2]);
    if dtype == Dtype::Q8_0 {
        for (k, &q) in block[2..].iter().enumerate() {
            out[32 + k * LANES + lane] = q;
        }
        return finite;
    }
    // Q4_1: byte j holds inputs j (low) and j + 16 (high); here eight neighbours share a word.
    out[32 + 2 * lane..34 + 2 * lane].copy_from_slice(&block[2..4]);
    let q = |k: usize| u32::from(if k < 16 { block[4 + k] & 15 } else { block[4 + k - 16] >> 4 });
    for g in 0..4 {
        let word = (0..8).fold(0u32, |w, i| w | q(8 * g + i) << (4 * i));
        out[64 + g * 64 + lane * 4..][..4].copy_from_slice(&word.to_le_bytes());
    }
    finite && is_finite(Dtype::F16, &block[2..4])
}

/// How a kernel reads a panel: blocks of `BLOCK` inputs in `BYTES` bytes, each with a head (scales),
/// read in groups of `GROUP` inputs.
///
/// # Safety
/// As [`Simd`]; pointers are to a whole panel block.
pub(crate) trait Format {
    /// Inputs a block.
    const BLOCK: usize;
    /// Inputs read by one [`Format::group`].
    const GROUP: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What a group holds.
    type G<S: Simd>: Copy;
    /// Scale and minimum of sixteen outputs.
    unsafe fn head<S: Simd>(block: *const u8) -> [S::F; 2];
    /// Group `g` of the block.
    unsafe fn group<S: Simd>(block: *const u8, g: usize) -> Self::G<S>;
    /// Moves a group on by one input.
    unsafe fn next<S: Simd>(g: Self::G<S>) -> Self::G<S>;
    /// The weights of the group's current input: sixteen outputs.
    unsafe fn weight<S: Simd>(head: [S::F; 2], g: Self::G<S>) -> S::F;
}

/// f32 panels.
pub(crate) struct F32;
/// f16 panels.
pub(crate) struct F16;
/// bfloat16 panels.
pub(crate) struct Bf16;
/// Q8_0 panels.
pub(crate) struct Q8_0;
/// Q4_1 panels.
pub(crate) struct Q4_1;

macro_rules! plain_format {
    ($name:ident, $bytes:literal, $load:ident) => {
        // SAFETY (all blocks): the caller's instruction set and pointer.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Format for $name {
            const BLOCK: usize = 1;
            const GROUP: usize = 1;
            const BYTES: usize = $bytes;
            type G<S: Simd> = S::F;
            #[inline(always)]
            unsafe fn head<S: Simd>(_: *const u8) -> [S::F; 2] {
                unsafe { [S::splat(0.0); 2] }
            }
            #[inline(always)]
            unsafe fn group<S: Simd>(block: *const u8, _: usize) -> S::F {
                unsafe { S::$load(block.cast()) }
            }
            #[inline(always)]
            unsafe fn next<S: Simd>(g: S::F) -> S::F {
                g
            }
            #[inline(always)]
            unsafe fn weight<S: Simd>(_: [S::F; 2], g: S::F) -> S::F {
                g
            }
        }
    };
}
plain_format!(F32, 64, load);
plain_format!(F16, 32, load_f16);
plain_format!(Bf16, 32, load_bf16);

// SAFETY (all blocks): the caller's instruction set and pointer.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Format for Q8_0 {
    const BLOCK: usize = 32;
    const GROUP: usize = 1;
    const BYTES: usize = 34 * LANES;
    type G<S: Simd> = S::I;
    #[inline(always)]
    unsafe fn head<S: Simd>(block: *const u8) -> [S::F; 2] {
        unsafe { [S::load_f16(block.cast()), S::splat(0.0)] }
    }
    #[inline(always)]
    unsafe fn group<S: Simd>(block: *const u8, g: usize) -> S::I {
        unsafe { S::load_i8(block.add(32 + g * LANES).cast()) }
    }
    #[inline(always)]
    unsafe fn next<S: Simd>(g: S::I) -> S::I {
        g
    }
    #[inline(always)]
    unsafe fn weight<S: Simd>(head: [S::F; 2], g: S::I) -> S::F {
        unsafe { S::mul(head[0], S::to_float(g)) }
    }
}

// SAFETY (all blocks): the caller's instruction set and pointer.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Format for Q4_1 {
    const BLOCK: usize = 32;
    const GROUP: usize = 8;
    const BYTES: usize = 20 * LANES;
    type G<S: Simd> = S::I;
    #[inline(always)]
    unsafe fn head<S: Simd>(block: *const u8) -> [S::F; 2] {
        unsafe { [S::load_f16(block.cast()), S::load_f16(block.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn group<S: Simd>(block: *const u8, g: usize) -> S::I {
        unsafe { S::iload(block.add(64 + g * 64).cast()) }
    }
    #[inline(always)]
    unsafe fn next<S: Simd>(g: S::I) -> S::I {
        unsafe { S::ishr::<4>(g) }
    }
    #[inline(always)]
    unsafe fn weight<S: Simd>(head: [S::F; 2], g: S::I) -> S::F {
        unsafe { S::fma(head[0], S::nibble(g), head[1]) }
    }
}
