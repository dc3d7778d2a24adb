//! AVX2 with FMA: two registers are sixteen lanes.

use std::arch::x86_64::*;

use super::Simd;

/// Interleaves pairs of lanes. A macro: a closure would be compiled without the instruction set.
macro_rules! pairs {
    ($unpack:ident, $a:expr, $b:expr) => {
        _mm256_castpd_ps($unpack(_mm256_castps_pd($a), _mm256_castps_pd($b)))
    };
}

/// Two `__m256`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

type F = [__m256; 2];
type I = [__m256i; 2];

/// Lanes of the half `h` that lie below `n`, as a mask.
#[inline(always)]
unsafe fn mask(n: usize, h: usize) -> __m256i {
    // SAFETY: AVX2 is available by the trait's contract.
    unsafe {
        let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32 - 8 * h as i32), index)
    }
}

// SAFETY (all blocks below): the instruction set and the pointers are valid by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type F = F;
    type I = I;
    const ACC: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> F {
        unsafe { [_mm256_maskload_ps(p, mask(n, 0)), _mm256_maskload_ps(p.wrapping_add(8), mask(n, 1))] }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: F, n: usize) {
        unsafe {
            _mm256_maskstore_ps(p, mask(n, 0), v[0]);
            _mm256_maskstore_ps(p.wrapping_add(8), mask(n, 1), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn select_gt(a: F, b: F, x: F, y: F) -> F {
        unsafe {
            [
                _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0])),
                _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn blend_first(a: F, b: F, n: usize) -> F {
        unsafe {
            [
                _mm256_blendv_ps(b[0], a[0], _mm256_castsi256_ps(mask(n, 0))),
                _mm256_blendv_ps(b[1], a[1], _mm256_castsi256_ps(mask(n, 1))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> I {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn iload(p: *const i32) -> I {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())] }
    }
    #[inline(always)]
    unsafe fn iadd(a: I, b: I) -> I {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn isub(a: I, b: I) -> I {
        unsafe { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn iand(a: I, b: I) -> I {
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn ior(a: I, b: I) -> I {
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn ishl<const N: i32>(a: I) -> I {
        unsafe {
            [_mm256_sll_epi32(a[0], _mm_cvtsi32_si128(N)), _mm256_sll_epi32(a[1], _mm_cvtsi32_si128(N))]
        }
    }
    #[inline(always)]
    unsafe fn isar<const N: i32>(a: I) -> I {
        unsafe {
            [_mm256_sra_epi32(a[0], _mm_cvtsi32_si128(N)), _mm256_sra_epi32(a[1], _mm_cvtsi32_si128(N))]
        }
    }
    #[inline(always)]
    unsafe fn ishr<const N: i32>(a: I) -> I {
        unsafe {
            [_mm256_srl_epi32(a[0], _mm_cvtsi32_si128(N)), _mm256_srl_epi32(a[1], _mm_cvtsi32_si128(N))]
        }
    }
    #[inline(always)]
    unsafe fn bits(a: F) -> I {
        unsafe { [_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])] }
    }
    #[inline(always)]
    unsafe fn from_bits(a: I) -> F {
        unsafe { [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])] }
    }
    #[inline(always)]
    unsafe fn to_int(a: F) -> I {
        unsafe { [_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])] }
    }
    #[inline(always)]
    unsafe fn to_float(a: I) -> F {
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }
    #[inline(always)]
    unsafe fn unsigned<const B: u32>(a: I) -> F {
        unsafe {
            let mask = _mm256_set1_epi32((1 << B) - 1);
            Self::to_float([_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)])
        }
    }
    #[inline(always)]
    unsafe fn signed<const B: u32>(a: I) -> F {
        unsafe {
            let n = _mm_cvtsi32_si128(32 - B as i32);
            let wide = |a| _mm256_sra_epi32(_mm256_sll_epi32(a, n), n);
            Self::to_float([wide(a[0]), wide(a[1])])
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> I {
        unsafe {
            [
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))]
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe {
            let wide = |q: *const u16| {
                let i = _mm256_cvtepu16_epi32(_mm_loadu_si128(q.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(i))
            };
            [wide(p), wide(p.add(8))]
        }
    }
    #[inline(always)]
    unsafe fn transpose(v: &mut [F; 16]) {
        unsafe {
            let mut turned = *v;
            for (rows, half) in [(0, 0), (0, 1), (8, 0), (8, 1)] {
                let mut block = [v[0][0]; 8];
                for i in 0..8 {
                    block[i] = v[rows + i][half];
                }
                transpose8(&mut block);
                for i in 0..8 {
                    turned[8 * half + i][rows / 8] = block[i];
                }
            }
            *v = turned;
        }
    }
}

/// Eight rows to eight columns.
#[inline(always)]
unsafe fn transpose8(v: &mut [__m256; 8]) {
    // SAFETY: AVX2 is available by the trait's contract.
    unsafe {
        let mut four = [v[0]; 8];
        for g in [0, 4] {
            let (lo, hi) = (_mm256_unpacklo_ps(v[g], v[g + 1]), _mm256_unpackhi_ps(v[g], v[g + 1]));
            let (lo2, hi2) = (_mm256_unpacklo_ps(v[g + 2], v[g + 3]), _mm256_unpackhi_ps(v[g + 2], v[g + 3]));
            four[g] = pairs!(_mm256_unpacklo_pd, lo, lo2);
            four[g + 1] = pairs!(_mm256_unpackhi_pd, lo, lo2);
            four[g + 2] = pairs!(_mm256_unpacklo_pd, hi, hi2);
            four[g + 3] = pairs!(_mm256_unpackhi_pd, hi, hi2);
        }
        for j in 0..4 {
            v[j] = _mm256_permute2f128_ps::<0x20>(four[j], four[j + 4]);
            v[j + 4] = _mm256_permute2f128_ps::<0x31>(four[j], four[j + 4]);
        }
    }
}
