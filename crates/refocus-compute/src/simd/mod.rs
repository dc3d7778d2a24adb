//! Sixteen f32 lanes, the same on every machine.
//!
//! Kernels are written once over [`Simd`] and compiled for each instruction set by [`isa_fn!`].
//! Each method is one correctly rounded IEEE operation (or an exact one) on every implementation,
//! so a kernel's bits do not depend on the instruction set.

mod math;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use math::{erf, exp, log, tanh};
pub use math::{exp64, ln, softmax_weights};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Instruction sets a kernel can be compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, any machine.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// 64-bit Arm.
    Neon,
}

impl Isa {
    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if Self::has_avx512() {
                return Isa::Avx512;
            }
            if Self::has_avx2() {
                return Isa::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            return Isa::Neon;
        }
        #[allow(unreachable_code)]
        Isa::Portable
    }

    /// Parses `portable`, `avx2`, `avx512` or `neon`; an error says what this machine can do.
    pub fn parse(name: &str) -> Result<Self, String> {
        let isa = match name {
            "portable" => Isa::Portable,
            "avx2" => Isa::Avx2,
            "avx512" => Isa::Avx512,
            "neon" => Isa::Neon,
            _ => {
                return Err(format!("no instruction set is called '{name}' (portable, avx2, avx512, neon)"));
            }
        };
        if isa.available() { Ok(isa) } else { Err(format!("this machine cannot run {name}")) }
    }

    /// What the environment variable `REFOCUS_ISA` names, else [`Isa::detect`].
    ///
    /// # Errors
    /// As [`Isa::parse`].
    pub fn from_env() -> Result<Self, String> {
        match std::env::var_os("REFOCUS_ISA") {
            Some(name) if !name.is_empty() => {
                Self::parse(&name.to_string_lossy()).map_err(|e| format!("REFOCUS_ISA: {e}"))
            }
            _ => Ok(Self::detect()),
        }
    }

    /// Whether this machine can run it.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Self::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Self::has_avx512(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The name [`Isa::parse`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }

    #[cfg(target_arch = "x86_64")]
    fn has_avx512() -> bool {
        Self::has_avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }
}

/// Sixteen f32 lanes and sixteen i32 lanes.
///
/// # Safety
/// Every method must only be called where the instruction set is available: inside a function made
/// by [`isa_fn!`]. Pointers must be valid for the lanes read or written; no alignment is needed.
pub(crate) trait Simd: Copy + 'static {
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// Vector accumulators a product tile may use.
    const ACC: usize;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Reads `n ≤ 16` values; the other lanes are zero.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F;
    unsafe fn store_part(p: *mut f32, v: Self::F, n: usize);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`, one rounding.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`, so `b` where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? x : y`.
    unsafe fn select_gt(a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Lanes `< n` of `a`, the rest of `b`.
    unsafe fn blend_first(a: Self::F, b: Self::F, n: usize) -> Self::F;

    unsafe fn isplat(x: i32) -> Self::I;
    unsafe fn iload(p: *const i32) -> Self::I;
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn isub(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn iand(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn ior(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn ishl<const N: i32>(a: Self::I) -> Self::I;
    /// Arithmetic shift.
    unsafe fn isar<const N: i32>(a: Self::I) -> Self::I;
    /// Logical shift.
    unsafe fn ishr<const N: i32>(a: Self::I) -> Self::I;
    unsafe fn bits(a: Self::F) -> Self::I;
    unsafe fn from_bits(a: Self::I) -> Self::F;
    /// Round to nearest, ties to even. Undefined value (no trap) outside i32.
    unsafe fn to_int(a: Self::F) -> Self::I;
    unsafe fn to_float(a: Self::I) -> Self::F;
    /// `a · 2^n` for −252 ≤ n ≤ 254, one rounding. `n` is a whole number, once as `nf` too: a machine takes what it has use
    /// for.
    #[inline(always)]
    unsafe fn times_pow2(a: Self::F, n: Self::I, _nf: Self::F) -> Self::F {
        // In two factors, so that results below the normal range round once.
        // SAFETY: the caller's instruction set.
        unsafe {
            let power = |n| Self::from_bits(Self::ishl::<23>(Self::iadd(n, Self::isplat(127))));
            let half = Self::isar::<1>(n);
            Self::mul(Self::mul(a, power(half)), power(Self::isub(n, half)))
        }
    }
    /// The low `B ≤ 5` bits of each lane as a float, exact.
    unsafe fn unsigned<const B: u32>(a: Self::I) -> Self::F;
    /// The same in two's complement: −2^(B − 1) … 2^(B − 1) − 1.
    unsafe fn signed<const B: u32>(a: Self::I) -> Self::F;
    /// 16 signed bytes, sign-extended.
    unsafe fn load_i8(p: *const i8) -> Self::I;
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// The upper halves of 16 values; the lower ones are zero.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// Asks for the line at `p`, which need not be readable, ahead of its use.
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    /// Has the compiler compute `v` before whatever is read from here on.
    #[inline(always)]
    unsafe fn at_once(_: Self::F) {}

    /// The lanes as an array.
    #[inline(always)]
    unsafe fn lanes(v: Self::F) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: `out` holds 16 values.
        unsafe { Self::store(out.as_mut_ptr(), v) };
        out
    }

    /// Sixteen rows to sixteen columns: lane j of vector i becomes lane i of vector j.
    #[inline(always)]
    unsafe fn transpose(v: &mut [Self::F; LANES]) {
        let mut turned = [[0.0; LANES]; LANES];
        for (i, row) in v.iter().enumerate() {
            // SAFETY: the caller's instruction set.
            let row = unsafe { Self::lanes(*row) };
            for (j, x) in row.into_iter().enumerate() {
                turned[j][i] = x;
            }
        }
        for (v, row) in v.iter_mut().zip(&turned) {
            // SAFETY: a row is sixteen values.
            *v = unsafe { Self::load(row.as_ptr()) };
        }
    }

    /// Sum of the lanes by a fixed tree: lane i with i+8, then +4, +2, +1.
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        // SAFETY: the caller's instruction set.
        let mut l = unsafe { Self::lanes(v) };
        let mut step = LANES / 2;
        while step > 0 {
            for i in 0..step {
                l[i] += l[i + step];
            }
            step /= 2;
        }
        l[0]
    }

    /// Greatest lane (any order gives the same value, NaN aside).
    #[inline(always)]
    unsafe fn max_lane(v: Self::F) -> f32 {
        // SAFETY: the caller's instruction set.
        let l = unsafe { Self::lanes(v) };
        l.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}

/// Compiles a generic kernel `unsafe fn body<S: Simd>(args)` for every instruction set and makes a
/// function `name(isa, args)` that picks one.
macro_rules! isa_fn {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident = $body:ident ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)?) => {
        $(#[$doc])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function enables the features of `Avx512`; the rest is the caller's.
                unsafe { $body::<$crate::simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function enables the features of `Avx2`; the rest is the caller's.
                unsafe { $body::<$crate::simd::Avx2>($($arg),*) }
            }
            // SAFETY: an `Isa` value exists only where the machine can run it (`Isa::available`);
            // the rest is the caller's.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Isa::Avx2 => avx2($($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    $crate::simd::Isa::Neon => $body::<$crate::simd::Neon>($($arg),*),
                    _ => $body::<$crate::simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use isa_fn;
