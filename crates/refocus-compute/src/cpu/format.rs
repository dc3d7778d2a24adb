//! How weights lie in a panel and how a kernel reads them, one [`Format`] for each stored type.
//!
//! A panel block of a quantised type holds the same inputs as a stored block, of sixteen outputs:
//!
//! * `d` as sixteen f16, then `dmin` likewise where the type has minima;
//! * for each sub-block of a K type its sixteen scales, then its sixteen minima, a byte each (Q2_K: both
//!   in one byte);
//! * the quants: for each sub-block some words of sixteen 32-bit lanes. A word holds as many
//!   neighbouring inputs of one output as fit, so that a kernel takes them out by mask and shift. What
//!   bits stay over hold the last inputs of the sub-block, a piece in each word.
//!
//! | type | inputs in a word, left over | bytes of a block and output | stored |
//! |---|---|---|---|
//! | Q4_0, Q4_1 | 8 in each of 4 | 18, 20 | 18, 20 |
//! | Q5_0, Q5_1 | 6 in each of 5, 2 left over | 22, 24 | 22, 24 |
//! | Q8_0 | a byte each | 34 | 34 |
//! | Q2_K | 16 in one | 84 | 84 |
//! | Q3_K | 10 in 32 bits, 5 in 16 bits, 1 left over | 114 | 110 |
//! | Q4_K | 8 in each of 4 | 148 | 144 |
//! | Q5_K | 6 in each of 5, 2 left over | 180 | 176 |
//! | Q6_K | 5 in each of 3, 1 left over | 210 | 210 |
//!
//! The K types but Q2_K and Q6_K store scales of six bits, which take a byte here.

#![allow(non_camel_case_types, reason = "the names of the format")]

use crate::blocks::Block;
use crate::simd::{LANES, Simd};
use crate::source::Dtype;

/// How a kernel reads a panel: blocks of `BLOCK` inputs in `BYTES` bytes, in sub-blocks of `SUB` inputs
/// that share a head (scale and minimum). A sub-block is read in `GROUPS` groups of [`Format::steps`]
/// inputs, then `REST` inputs from what the groups left over.
///
/// # Safety
/// As [`Simd`]; pointers are to a whole panel block.
pub(crate) trait Format {
    /// Inputs a block.
    const BLOCK: usize;
    /// Inputs a sub-block.
    const SUB: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Groups a sub-block.
    const GROUPS: usize;
    /// Inputs a sub-block that are in no group.
    const REST: usize;
    /// Inputs in a group.
    fn steps(group: usize) -> usize;
    /// Scale and minimum of sixteen outputs.
    unsafe fn head<S: Simd>(block: *const u8, sub: usize) -> [S::F; 2];
    /// A group of the sub-block.
    unsafe fn group<S: Simd>(block: *const u8, sub: usize, group: usize) -> S::I;
    /// The weights of the group's current input: sixteen outputs.
    unsafe fn weight<S: Simd>(head: [S::F; 2], g: S::I) -> S::F;
    /// Moves a group on by one input.
    unsafe fn next<S: Simd>(g: S::I) -> S::I;
    /// Adds what a group left over after all its inputs to what earlier ones did.
    unsafe fn leave<S: Simd>(left: S::I, g: S::I) -> S::I;
}

/// A [`Format`] whose quants are fields of 32-bit words.
trait Fields: Format {
    /// Bits of a quant.
    const BITS: usize;
    /// Bytes before the words.
    const HEAD: usize;
    /// Whether the first input lies in the highest bits of a word; in the lowest otherwise.
    const HIGH: bool;
}

macro_rules! plain_format {
    ($name:ident, $doc:literal, $bytes:literal, $load:ident) => {
        #[doc = $doc]
        pub(crate) struct $name;
        // SAFETY (all blocks): the caller's instruction set and pointer.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Format for $name {
            const BLOCK: usize = 1;
            const SUB: usize = 1;
            const BYTES: usize = $bytes * LANES;
            const GROUPS: usize = 1;
            const REST: usize = 0;
            #[inline(always)]
            fn steps(_: usize) -> usize {
                1
            }
            #[inline(always)]
            unsafe fn head<S: Simd>(_: *const u8, _: usize) -> [S::F; 2] {
                unsafe { [S::splat(0.0); 2] }
            }
            #[inline(always)]
            unsafe fn group<S: Simd>(block: *const u8, _: usize, _: usize) -> S::I {
                unsafe { S::bits(S::$load(block.cast())) }
            }
            #[inline(always)]
            unsafe fn weight<S: Simd>(_: [S::F; 2], g: S::I) -> S::F {
                unsafe { S::from_bits(g) }
            }
            #[inline(always)]
            unsafe fn next<S: Simd>(g: S::I) -> S::I {
                g
            }
            #[inline(always)]
            unsafe fn leave<S: Simd>(left: S::I, _: S::I) -> S::I {
                left
            }
        }
    };
}
plain_format!(F32, "f32 panels.", 4, load);
plain_format!(F16, "f16 panels.", 2, load_f16);
plain_format!(Bf16, "bfloat16 panels.", 2, load_bf16);

// Heads: where scale and minimum lie. Scales and minima are exact (see `crate::blocks`).

/// Bytes of sixteen f16.
const HALVES: usize = 2 * LANES;

/// `d` alone.
#[inline(always)]
unsafe fn scale<S: Simd>(block: *const u8, _: usize) -> [S::F; 2] {
    // SAFETY: the caller's promise: a panel block starts with its scales.
    unsafe { [S::load_f16(block.cast()), S::splat(0.0)] }
}

/// `d` and `dmin`.
#[inline(always)]
unsafe fn scale_and_min<S: Simd>(block: *const u8, _: usize) -> [S::F; 2] {
    // SAFETY: the caller's promise.
    unsafe { [S::load_f16(block.cast()), S::load_f16(block.add(HALVES).cast())] }
}

/// `d`, and a signed byte for each sub-block.
#[inline(always)]
unsafe fn sub_scale<S: Simd>(block: *const u8, sub: usize) -> [S::F; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let s = S::to_float(S::load_i8(block.add(HALVES + sub * LANES).cast()));
        [S::mul(S::load_f16(block.cast()), s), S::splat(0.0)]
    }
}

/// `d` and `dmin`, and two bytes for each sub-block.
#[inline(always)]
unsafe fn sub_scale_and_min<S: Simd>(block: *const u8, sub: usize) -> [S::F; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let [d, dmin] = scale_and_min::<S>(block, 0);
        let at = block.add(2 * HALVES + sub * 2 * LANES);
        let s = S::to_float(S::load_i8(at.cast()));
        let m = S::to_float(S::load_i8(at.add(LANES).cast()));
        [S::mul(d, s), S::mul(dmin, m)]
    }
}

/// `d` and `dmin`, and two halves of a byte for each sub-block.
#[inline(always)]
unsafe fn sub_nibbles<S: Simd>(block: *const u8, sub: usize) -> [S::F; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let [d, dmin] = scale_and_min::<S>(block, 0);
        let both = S::load_i8(block.add(2 * HALVES + sub * LANES).cast());
        [S::mul(d, S::unsigned::<4>(both)), S::mul(dmin, S::unsigned::<4>(S::ishr::<4>(both)))]
    }
}

/// What takes one input out of a word and moves on by one, with the first input in the lowest bits.
macro_rules! from_low_bits {
    (unsigned $bits:literal) => {
        #[inline(always)]
        unsafe fn weight<S: Simd>(head: [S::F; 2], g: S::I) -> S::F {
            unsafe { S::fma(head[0], S::unsigned::<$bits>(g), head[1]) }
        }
        from_low_bits!($bits);
    };
    (signed $bits:literal) => {
        #[inline(always)]
        unsafe fn weight<S: Simd>(head: [S::F; 2], g: S::I) -> S::F {
            unsafe { S::mul(head[0], S::signed::<$bits>(g)) }
        }
        from_low_bits!($bits);
    };
    ($bits:literal) => {
        #[inline(always)]
        unsafe fn next<S: Simd>(g: S::I) -> S::I {
            unsafe { S::ishr::<$bits>(g) }
        }
    };
}

/// A type whose words all hold `32 / BITS` inputs, the first in the lowest bits.
macro_rules! words_format {
    ($name:ident, $block:literal in $sub:literal, $sign:ident $bits:literal, $head:ident $bytes:expr) => {
        #[doc = concat!(stringify!($name), " panels.")]
        pub(crate) struct $name;
        // SAFETY (all blocks): the caller's instruction set and pointer.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Format for $name {
            const BLOCK: usize = $block;
            const SUB: usize = $sub;
            const BYTES: usize = Self::HEAD + $block * $bits / 8 * LANES;
            const GROUPS: usize = $sub * $bits / 32;
            const REST: usize = $sub - Self::GROUPS * (32 / $bits);
            #[inline(always)]
            fn steps(_: usize) -> usize {
                32 / $bits
            }
            #[inline(always)]
            unsafe fn head<S: Simd>(block: *const u8, sub: usize) -> [S::F; 2] {
                unsafe { $head::<S>(block, sub) }
            }
            #[inline(always)]
            unsafe fn group<S: Simd>(block: *const u8, sub: usize, group: usize) -> S::I {
                unsafe { S::iload(block.add(Self::HEAD + (sub * Self::GROUPS + group) * 4 * LANES).cast()) }
            }
            from_low_bits!($sign $bits);
            #[inline(always)]
            unsafe fn leave<S: Simd>(left: S::I, g: S::I) -> S::I {
                // Two bits a word.
                unsafe { if Self::REST > 0 { S::ior(S::ishl::<2>(left), g) } else { left } }
            }
        }
        impl Fields for $name {
            const BITS: usize = $bits;
            const HEAD: usize = $bytes;
            const HIGH: bool = false;
        }
    };
}
words_format!(Q4_0, 32 in 32, signed 4, scale HALVES);
words_format!(Q4_1, 32 in 32, unsigned 4, scale_and_min 2 * HALVES);
words_format!(Q5_0, 32 in 32, signed 5, scale HALVES);
words_format!(Q5_1, 32 in 32, unsigned 5, scale_and_min 2 * HALVES);
words_format!(Q2_K, 256 in 16, unsigned 2, sub_nibbles 2 * HALVES + 16 * LANES);
words_format!(Q4_K, 256 in 32, unsigned 4, sub_scale_and_min 2 * HALVES + 16 * LANES);
words_format!(Q5_K, 256 in 32, unsigned 5, sub_scale_and_min 2 * HALVES + 16 * LANES);

/// Q8_0 panels.
pub(crate) struct Q8_0;

// SAFETY (all blocks): the caller's instruction set and pointer.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Format for Q8_0 {
    const BLOCK: usize = 32;
    const SUB: usize = 32;
    const BYTES: usize = 34 * LANES;
    const GROUPS: usize = 32;
    const REST: usize = 0;
    #[inline(always)]
    fn steps(_: usize) -> usize {
        1
    }
    #[inline(always)]
    unsafe fn head<S: Simd>(block: *const u8, sub: usize) -> [S::F; 2] {
        unsafe { scale::<S>(block, sub) }
    }
    #[inline(always)]
    unsafe fn group<S: Simd>(block: *const u8, _: usize, group: usize) -> S::I {
        unsafe { S::load_i8(block.add(HALVES + group * LANES).cast()) }
    }
    #[inline(always)]
    unsafe fn weight<S: Simd>(head: [S::F; 2], g: S::I) -> S::F {
        unsafe { S::mul(head[0], S::to_float(g)) }
    }
    #[inline(always)]
    unsafe fn next<S: Simd>(g: S::I) -> S::I {
        g
    }
    #[inline(always)]
    unsafe fn leave<S: Simd>(left: S::I, _: S::I) -> S::I {
        left
    }
}

/// Q3_K panels: sixteen inputs are a word and a half.
pub(crate) struct Q3_K;

impl Q3_K {
    const HEAD: usize = HALVES + 16 * LANES;
    /// Bytes of the quants of a sub-block.
    const QUANTS: usize = 6 * LANES;
}

// SAFETY (all blocks): the caller's instruction set and pointer.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Format for Q3_K {
    const BLOCK: usize = 256;
    const SUB: usize = 16;
    const BYTES: usize = Self::HEAD + 16 * Self::QUANTS;
    const GROUPS: usize = 2;
    const REST: usize = 1;
    #[inline(always)]
    fn steps(group: usize) -> usize {
        if group == 0 { 10 } else { 5 }
    }
    #[inline(always)]
    unsafe fn head<S: Simd>(block: *const u8, sub: usize) -> [S::F; 2] {
        unsafe { sub_scale::<S>(block, sub) }
    }
    #[inline(always)]
    unsafe fn group<S: Simd>(block: *const u8, sub: usize, group: usize) -> S::I {
        unsafe {
            let at = block.add(Self::HEAD + sub * Self::QUANTS);
            if group == 0 {
                S::iload(at.cast())
            } else {
                // Sixteen bits, which a bfloat16 has in its upper half.
                S::ishr::<16>(S::bits(S::load_bf16(at.add(4 * LANES).cast())))
            }
        }
    }
    from_low_bits!(signed 3);
    #[inline(always)]
    unsafe fn leave<S: Simd>(left: S::I, g: S::I) -> S::I {
        // Two bits of the word, then one of the half.
        unsafe { S::ior(S::ishl::<1>(left), g) }
    }
}

/// Q6_K panels. Six bits are too many for a table, so an input is the top of a word, sign included: a
/// float after one mask, 2²⁶ times too large, which the scale makes good (powers of two are exact).
pub(crate) struct Q6_K;

impl Q6_K {
    const TOP: i32 = 63 << 26;
    const MAKE_GOOD: f32 = 1.0 / (1u32 << 26) as f32;
}

// SAFETY (all blocks): the caller's instruction set and pointer.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Format for Q6_K {
    const BLOCK: usize = 256;
    const SUB: usize = 16;
    const BYTES: usize = Self::HEAD + 192 * LANES;
    const GROUPS: usize = 3;
    const REST: usize = 1;
    #[inline(always)]
    fn steps(_: usize) -> usize {
        5
    }
    #[inline(always)]
    unsafe fn head<S: Simd>(block: *const u8, sub: usize) -> [S::F; 2] {
        unsafe {
            let [scale, none] = sub_scale::<S>(block, sub);
            [S::mul(scale, S::splat(Self::MAKE_GOOD)), none]
        }
    }
    #[inline(always)]
    unsafe fn group<S: Simd>(block: *const u8, sub: usize, group: usize) -> S::I {
        unsafe { S::iload(block.add(Self::HEAD + (sub * 3 + group) * 4 * LANES).cast()) }
    }
    #[inline(always)]
    unsafe fn weight<S: Simd>(head: [S::F; 2], g: S::I) -> S::F {
        unsafe { S::mul(head[0], S::to_float(S::iand(g, S::isplat(Self::TOP)))) }
    }
    #[inline(always)]
    unsafe fn next<S: Simd>(g: S::I) -> S::I {
        unsafe { S::ishl::<6>(g) }
    }
    #[inline(always)]
    unsafe fn leave<S: Simd>(left: S::I, g: S::I) -> S::I {
        // Two bits a word.
        unsafe { S::ior(S::ishr::<2>(left), g) }
    }
}

impl Fields for Q6_K {
    const BITS: usize = 6;
    const HEAD: usize = HALVES + 16 * LANES;
    const HIGH: bool = true;
}

/// Evaluates an expression with `$q` as the [`Format`] of a type.
macro_rules! with_format {
    ($dtype:expr, $q:ident => $body:expr) => {
        $crate::cpu::format::with_format!(
            $dtype, $q => $body;
            F32 F16 Bf16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K
        )
    };
    ($dtype:expr, $q:ident => $body:expr; $($name:ident)*) => {
        match $dtype {
            $($crate::source::Dtype::$name => {
                type $q = $crate::cpu::format::$name;
                $body
            })*
        }
    };
}
pub(crate) use with_format;

/// Bytes of a panel block.
pub(crate) fn block_bytes(dtype: Dtype) -> usize {
    with_format!(dtype, Q => Q::BYTES)
}

/// Spreads one stored block of one output over its panel block.
pub(crate) fn pack_block(dtype: Dtype, block: &Block, lane: usize, out: &mut [u8]) {
    let quants = &block.quants[..dtype.block()];
    out[2 * lane..][..2].copy_from_slice(&block.d.to_le_bytes());
    let mut head = HALVES;
    if dtype.has_minimum() {
        out[HALVES + 2 * lane..][..2].copy_from_slice(&block.dmin.to_le_bytes());
        head += HALVES;
    }
    let scales = block.scales.iter().zip(&block.mins).take(dtype.block() / dtype.sub_block());
    for (sub, (&scale, &min)) in scales.enumerate() {
        match dtype {
            Dtype::Q2_K => out[head + sub * LANES + lane] = (scale | min << 4) as u8,
            Dtype::Q3_K | Dtype::Q6_K => out[head + sub * LANES + lane] = scale as u8,
            Dtype::Q4_K | Dtype::Q5_K => {
                out[head + sub * 2 * LANES + lane] = scale as u8;
                out[head + (sub * 2 + 1) * LANES + lane] = min as u8;
            }
            _ => {}
        }
    }
    match dtype {
        Dtype::Q4_0 => pack_words::<Q4_0>(quants, lane, out),
        Dtype::Q4_1 => pack_words::<Q4_1>(quants, lane, out),
        Dtype::Q5_0 => pack_words::<Q5_0>(quants, lane, out),
        Dtype::Q5_1 => pack_words::<Q5_1>(quants, lane, out),
        Dtype::Q2_K => pack_words::<Q2_K>(quants, lane, out),
        Dtype::Q4_K => pack_words::<Q4_K>(quants, lane, out),
        Dtype::Q5_K => pack_words::<Q5_K>(quants, lane, out),
        Dtype::Q6_K => pack_words::<Q6_K>(quants, lane, out),
        Dtype::Q3_K => {
            for (quants, out) in quants.chunks_exact(16).zip(out[Q3_K::HEAD..].chunks_exact_mut(Q3_K::QUANTS))
            {
                let rest = field(quants[15], 3);
                let word = fields(&quants[..10], 3) | rest >> 1 << 30;
                let half = (fields(&quants[10..15], 3) | (rest & 1) << 15) as u16;
                out[4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
                out[4 * LANES + 2 * lane..][..2].copy_from_slice(&half.to_le_bytes());
            }
        }
        Dtype::Q8_0 => {
            for (at, &q) in out[HALVES + lane..].iter_mut().step_by(LANES).zip(quants) {
                *at = q as u8;
            }
        }
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => debug_assert!(false, "{dtype:?} has no blocks"),
    }
}

/// The low bits of a quant.
fn field(q: i8, bits: usize) -> u32 {
    u32::from(q as u8) & ((1 << bits) - 1)
}

/// Quants side by side, the first in the lowest bits.
fn fields(quants: &[i8], bits: usize) -> u32 {
    quants.iter().rev().fold(0, |word, &q| word << bits | field(q, bits))
}

/// The words of one output, sub-block by sub-block.
fn pack_words<Q: Fields>(quants: &[i8], lane: usize, out: &mut [u8]) {
    let per = 32 / Q::BITS;
    let spare = 32 - per * Q::BITS;
    for (sub, quants) in quants.chunks_exact(Q::SUB).enumerate() {
        let (whole, rest) = quants.split_at(Q::GROUPS * per);
        let rest = if Q::HIGH { reversed(rest, Q::BITS) } else { fields(rest, Q::BITS) };
        for (g, quants) in whole.chunks_exact(per).enumerate() {
            let later = if Q::HIGH { g } else { Q::GROUPS - 1 - g };
            let piece = rest >> (spare * later) & ((1 << spare) - 1);
            let word = if Q::HIGH {
                reversed(quants, Q::BITS) << spare | piece
            } else {
                // Without spare bits `piece` is zero.
                fields(quants, Q::BITS) | piece.wrapping_shl(32 - spare as u32)
            };
            let at = Q::HEAD + (sub * Q::GROUPS + g) * 4 * LANES + 4 * lane;
            out[at..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Quants side by side, the last in the lowest bits.
fn reversed(quants: &[i8], bits: usize) -> u32 {
    quants.iter().fold(0, |word, &q| word << bits | field(q, bits))
}
