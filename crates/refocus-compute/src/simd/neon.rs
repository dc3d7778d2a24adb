//! NEON: four registers are sixteen lanes.

use std::arch::aarch64::*;

use super::{LANES, Simd};

/// Four `float32x4_t`.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];

#[inline(always)]
fn each<T>(f: impl Fn(usize) -> T) -> [T; 4] {
    std::array::from_fn(f)
}

// SAFETY (all blocks below): NEON is part of the architecture; the pointers are valid by the
// trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Neon {
    type F = F;
    type I = I;
    const ACC: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        each(|i| unsafe { vld1q_f32(p.add(4 * i)) })
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        for (i, x) in v.into_iter().enumerate() {
            unsafe { vst1q_f32(p.add(4 * i), x) };
        }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> F {
        let mut buf = [0.0f32; LANES];
        unsafe {
            std::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), n);
            Self::load(buf.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: F, n: usize) {
        let mut buf = [0.0f32; LANES];
        unsafe {
            Self::store(buf.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(buf.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        each(|i| unsafe { vaddq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        each(|i| unsafe { vsubq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        each(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        each(|i| unsafe { vdivq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        each(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        each(|i| unsafe { vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        each(|i| unsafe { vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn select_gt(a: F, b: F, x: F, y: F) -> F {
        each(|i| unsafe { vbslq_f32(vcgtq_f32(a[i], b[i]), x[i], y[i]) })
    }
    #[inline(always)]
    unsafe fn blend_first(a: F, b: F, n: usize) -> F {
        const INDEX: [i32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        each(|i| unsafe {
            let below = vcltq_s32(vld1q_s32(INDEX.as_ptr().add(4 * i)), vdupq_n_s32(n as i32));
            vbslq_f32(below, a[i], b[i])
        })
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> I {
        unsafe { [vdupq_n_s32(x); 4] }
    }
    #[inline(always)]
    unsafe fn iload(p: *const i32) -> I {
        each(|i| unsafe { vld1q_s32(p.add(4 * i)) })
    }
    #[inline(always)]
    unsafe fn iadd(a: I, b: I) -> I {
        each(|i| unsafe { vaddq_s32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn isub(a: I, b: I) -> I {
        each(|i| unsafe { vsubq_s32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn iand(a: I, b: I) -> I {
        each(|i| unsafe { vandq_s32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn ior(a: I, b: I) -> I {
        each(|i| unsafe { vorrq_s32(a[i], b[i]) })
    }
    #[inline(always)]
    unsafe fn ishl<const N: i32>(a: I) -> I {
        each(|i| unsafe { vshlq_s32(a[i], vdupq_n_s32(N)) })
    }
    #[inline(always)]
    unsafe fn isar<const N: i32>(a: I) -> I {
        each(|i| unsafe { vshlq_s32(a[i], vdupq_n_s32(-N)) })
    }
    #[inline(always)]
    unsafe fn ishr<const N: i32>(a: I) -> I {
        each(|i| unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a[i]), vdupq_n_s32(-N))) })
    }
    #[inline(always)]
    unsafe fn bits(a: F) -> I {
        each(|i| unsafe { vreinterpretq_s32_f32(a[i]) })
    }
    #[inline(always)]
    unsafe fn from_bits(a: I) -> F {
        each(|i| unsafe { vreinterpretq_f32_s32(a[i]) })
    }
    #[inline(always)]
    unsafe fn to_int(a: F) -> I {
        each(|i| unsafe { vcvtnq_s32_f32(a[i]) })
    }
    #[inline(always)]
    unsafe fn to_float(a: I) -> F {
        each(|i| unsafe { vcvtq_f32_s32(a[i]) })
    }
    #[inline(always)]
    unsafe fn unsigned<const B: u32>(a: I) -> F {
        each(|i| unsafe { vcvtq_f32_s32(vandq_s32(a[i], vdupq_n_s32((1 << B) - 1))) })
    }
    #[inline(always)]
    unsafe fn signed<const B: u32>(a: I) -> F {
        let n = 32 - B as i32;
        each(|i| unsafe { vcvtq_f32_s32(vshlq_s32(vshlq_s32(a[i], vdupq_n_s32(n)), vdupq_n_s32(-n))) })
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> I {
        let b: [i32; LANES] = std::array::from_fn(|i| i32::from(unsafe { p.add(i).read() }));
        unsafe { Self::iload(b.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        let b: [f32; LANES] =
            std::array::from_fn(|i| half::f16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32());
        unsafe { Self::load(b.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        each(|i| unsafe {
            let wide = vmovl_u16(vld1_u16(p.add(4 * i)));
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(wide))
        })
    }
}
