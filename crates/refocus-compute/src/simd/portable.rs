//! Plain Rust: what every other implementation must equal, bit for bit.

use super::{LANES, Simd};

/// Arrays of sixteen.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type F = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn izip(a: I, b: I, f: impl Fn(i32, i32) -> i32) -> I {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY (all blocks below): pointers are valid by the trait's contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Portable {
    type F = F;
    type I = I;
    const ACC: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F) {
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> F {
        std::array::from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: F, n: usize) {
        for (i, x) in v.into_iter().take(n).enumerate() {
            unsafe { p.add(i).write(x) };
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn select_gt(a: F, b: F, x: F, y: F) -> F {
        std::array::from_fn(|i| if a[i] > b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn blend_first(a: F, b: F, n: usize) -> F {
        std::array::from_fn(|i| if i < n { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn iload(p: *const i32) -> I {
        unsafe { p.cast::<I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn iadd(a: I, b: I) -> I {
        izip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn isub(a: I, b: I) -> I {
        izip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    unsafe fn iand(a: I, b: I) -> I {
        izip(a, b, |x, y| x & y)
    }
    #[inline(always)]
    unsafe fn ior(a: I, b: I) -> I {
        izip(a, b, |x, y| x | y)
    }
    #[inline(always)]
    unsafe fn ishl<const N: i32>(a: I) -> I {
        a.map(|x| x << N)
    }
    #[inline(always)]
    unsafe fn isar<const N: i32>(a: I) -> I {
        a.map(|x| x >> N)
    }
    #[inline(always)]
    unsafe fn ishr<const N: i32>(a: I) -> I {
        a.map(|x| ((x as u32) >> N) as i32)
    }
    #[inline(always)]
    unsafe fn bits(a: F) -> I {
        a.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    unsafe fn from_bits(a: I) -> F {
        a.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    unsafe fn to_int(a: F) -> I {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn to_float(a: I) -> F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn unsigned<const B: u32>(a: I) -> F {
        a.map(|x| (x & ((1 << B) - 1)) as f32)
    }
    #[inline(always)]
    unsafe fn signed<const B: u32>(a: I) -> F {
        a.map(|x| ((x << (32 - B)) >> (32 - B)) as f32)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> I {
        std::array::from_fn(|i| i32::from(unsafe { p.add(i).read() }))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        std::array::from_fn(|i| half::f16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        std::array::from_fn(|i| f32::from_bits(u32::from(unsafe { p.add(i).read_unaligned() }) << 16))
    }
}
