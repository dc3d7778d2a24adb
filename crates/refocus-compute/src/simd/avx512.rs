//! AVX-512: one register is sixteen lanes.

use std::arch::{asm, x86_64::*};

use super::Simd;

/// Interleaves pairs of lanes. A macro: a closure would be compiled without the instruction set.
macro_rules! pairs {
    ($unpack:ident, $a:expr, $b:expr) => {
        _mm512_castpd_ps($unpack(_mm512_castps_pd($a), _mm512_castps_pd($b)))
    };
}

/// `__m512`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// What the numbers from `first` on stand for, of which `b` bits count.
const fn levels(b: u32, signed: bool, first: i32) -> __m512 {
    let mut out = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        let q = (first + i as i32) & ((1 << b) - 1);
        out[i] = (if signed && q >> (b - 1) == 1 { q - (1 << b) } else { q }) as f32;
        i += 1;
    }
    // SAFETY: both are sixteen floats.
    unsafe { std::mem::transmute::<[f32; 16], __m512>(out) }
}

// SAFETY (all blocks below): the instruction set and the pointers are valid by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const ACC: usize = 24;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn select_gt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    unsafe fn blend_first(a: __m512, b: __m512, n: usize) -> __m512 {
        unsafe { _mm512_mask_blend_ps(mask(n), b, a) }
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn iload(p: *const i32) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn iadd(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn isub(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn iand(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn ior(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn ishl<const N: i32>(a: __m512i) -> __m512i {
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn isar<const N: i32>(a: __m512i) -> __m512i {
        unsafe { _mm512_sra_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn ishr<const N: i32>(a: __m512i) -> __m512i {
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn bits(a: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    unsafe fn from_bits(a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    unsafe fn to_int(a: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    unsafe fn to_float(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn times_pow2(a: __m512, _n: __m512i, nf: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, nf) }
    }
    #[inline(always)]
    unsafe fn unsigned<const B: u32>(a: __m512i) -> __m512 {
        // A permutation reads only the low bits of an index, four with one register and five with two.
        unsafe {
            if B <= 4 {
                return _mm512_permutexvar_ps(a, const { levels(B, false, 0) });
            }
            _mm512_permutex2var_ps(const { levels(B, false, 0) }, a, const { levels(B, false, 16) })
        }
    }
    #[inline(always)]
    unsafe fn signed<const B: u32>(a: __m512i) -> __m512 {
        unsafe {
            if B <= 4 {
                return _mm512_permutexvar_ps(a, const { levels(B, true, 0) });
            }
            _mm512_permutex2var_ps(const { levels(B, true, 0) }, a, const { levels(B, true, 16) })
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn at_once(v: __m512) {
        // No instruction. A quarter of the register stands for all of it: the whole needs a function that
        // is compiled for the instruction set. To the compiler memory may change, so no load moves across.
        unsafe { asm!("/* {} */", in(xmm_reg) _mm512_castps512_ps128(v), options(nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn transpose(v: &mut [__m512; 16]) {
        unsafe {
            // Columns of four rows, in each quarter of a register those of its own.
            let mut four = [v[0]; 16];
            for g in (0..16).step_by(4) {
                let (lo, hi) = (_mm512_unpacklo_ps(v[g], v[g + 1]), _mm512_unpackhi_ps(v[g], v[g + 1]));
                let (lo2, hi2) =
                    (_mm512_unpacklo_ps(v[g + 2], v[g + 3]), _mm512_unpackhi_ps(v[g + 2], v[g + 3]));
                four[g] = pairs!(_mm512_unpacklo_pd, lo, lo2);
                four[g + 1] = pairs!(_mm512_unpackhi_pd, lo, lo2);
                four[g + 2] = pairs!(_mm512_unpacklo_pd, hi, hi2);
                four[g + 3] = pairs!(_mm512_unpackhi_pd, hi, hi2);
            }
            // Then the quarters themselves.
            for j in 0..4 {
                let (a, b, c, d) = (four[j], four[j + 4], four[j + 8], four[j + 12]);
                let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                v[j] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
                v[j + 8] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
                let (ab, cd) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                v[j + 4] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
                v[j + 12] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
            }
        }
    }
}
