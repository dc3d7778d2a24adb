//! exp, tanh and erf as polynomials of our own (weighted minimax fits, coefficients rounded to f32),
//! the same chain of operations on every instruction set. Errors against f64 are tested in
//! this file: exp 1 ulp, tanh 2 ulp, erf 1e-7 absolute, log as it says.

use super::{Isa, Simd, isa_fn};

/// `e^x`; exactly 1 at 0, 0 at −∞, ∞ above 88.73, NaN stays NaN.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's instruction set.
    unsafe {
        // In this order of arguments NaN passes through both clamps.
        let x = S::min(S::splat(89.0), S::max(S::splat(-104.0), x));
        let n = S::to_int(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let nf = S::to_float(n);
        // ln 2 in two parts, the first short enough that n·hi is exact.
        let r = S::fma(nf, S::splat(-0.693_145_75), x);
        let r = S::fma(nf, S::splat(-1.428_606_8e-6), r);
        let mut p = S::splat(0.001_395_06);
        p = S::fma(p, r, S::splat(0.008_368_954));
        p = S::fma(p, r, S::splat(0.041_666_206));
        p = S::fma(p, r, S::splat(0.166_665_18));
        p = S::fma(p, r, S::splat(0.5));
        let y = S::add(S::fma(S::mul(r, r), p, r), S::splat(1.0));
        S::times_pow2(y, n, nf)
    }
}

/// `|x|`.
#[inline(always)]
unsafe fn abs<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's instruction set.
    unsafe { S::from_bits(S::iand(S::bits(x), S::isplat(0x7fff_ffff))) }
}

/// The magnitude of `m ≥ 0` with the sign of `s`.
#[inline(always)]
unsafe fn copysign<S: Simd>(m: S::F, s: S::F) -> S::F {
    // SAFETY: the caller's instruction set.
    unsafe { S::from_bits(S::ior(S::bits(m), S::iand(S::bits(s), S::isplat(i32::MIN)))) }
}

/// `tanh x`.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's instruction set.
    unsafe {
        let t = abs::<S>(x);
        let s = S::mul(x, x);
        let mut p = S::splat(-0.005_717_037);
        p = S::fma(p, s, S::splat(0.020_650_579));
        p = S::fma(p, s, S::splat(-0.053_743_497));
        p = S::fma(p, s, S::splat(0.133_314_91));
        p = S::fma(p, s, S::splat(-0.333_332_84));
        let small = S::fma(S::mul(x, s), p, x);
        let e = exp::<S>(S::add(t, t));
        let big = S::sub(S::splat(1.0), S::div(S::splat(2.0), S::add(e, S::splat(1.0))));
        let big = copysign::<S>(big, x);
        S::select_gt(t, S::splat(0.625), big, small)
    }
}

/// The error function.
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's instruction set.
    unsafe {
        let t = S::min(S::splat(4.2), abs::<S>(x));
        let s = S::mul(x, x);
        let mut p = S::splat(7.889_119e-5);
        p = S::fma(p, s, S::splat(-0.000_802_084_1));
        p = S::fma(p, s, S::splat(0.005_189_535));
        p = S::fma(p, s, S::splat(-0.026_854_444));
        p = S::fma(p, s, S::splat(0.112_836));
        p = S::fma(p, s, S::splat(-0.376_126_26));
        p = S::fma(p, s, S::splat(0.128_379_17));
        let small = S::fma(p, x, x);
        // log erfc(t) + t² as a polynomial.
        let mut q = S::splat(-2.149_612_2e-5);
        q = S::fma(q, t, S::splat(0.000_439_106_46));
        q = S::fma(q, t, S::splat(-0.004_193_611_4));
        q = S::fma(q, t, S::splat(0.025_178_969));
        q = S::fma(q, t, S::splat(-0.108_372_48));
        q = S::fma(q, t, S::splat(0.366_737_4));
        q = S::fma(q, t, S::splat(-1.129_556_8));
        q = S::fma(q, t, S::splat(0.000_183_444_28));
        let q = S::sub(q, S::mul(t, t));
        let big = copysign::<S>(S::sub(S::splat(1.0), exp::<S>(q)), x);
        S::select_gt(t, S::splat(1.0), big, small)
    }
}

/// Natural logarithm of positive numbers, within 2 ulp or 1e-7; what is below the normal range, 0 too, counts as its
/// lower end (−87.3).
#[inline(always)]
pub(crate) unsafe fn log<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's instruction set.
    unsafe {
        let bits = S::bits(S::max(S::splat(f32::MIN_POSITIVE), x));
        // x = m · 2^n with m from √½ to √2.
        let n = S::isar::<23>(S::isub(bits, S::isplat(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32)));
        let f = S::sub(S::from_bits(S::isub(bits, S::ishl::<23>(n))), S::splat(1.0));
        // ln m = 2 artanh s; |s| ≤ 0.172, so five terms leave less than 1e-9.
        let s = S::div(f, S::add(f, S::splat(2.0)));
        let s2 = S::mul(s, s);
        let mut p = S::splat(2.0 / 9.0);
        p = S::fma(p, s2, S::splat(2.0 / 7.0));
        p = S::fma(p, s2, S::splat(2.0 / 5.0));
        p = S::fma(p, s2, S::splat(2.0 / 3.0));
        let y = S::fma(S::mul(s, s2), p, S::add(s, s));
        let nf = S::to_float(n);
        // ln 2 in two parts, the first short enough that n·hi is exact.
        S::fma(nf, S::splat(0.693_145_75), S::fma(nf, S::splat(1.428_606_8e-6), y))
    }
}

/// Natural logarithm in f64, the same bits on every machine (the system's differs between libraries).
/// Within 2 ulp of the true value for positive normal numbers.
pub fn ln(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    // Below the normal range: scale up first.
    let (x, shift) = if x < f64::MIN_POSITIVE { (x * 2f64.powi(60), 60) } else { (x, 0) };
    let bits = x.to_bits();
    let mut e = ((bits >> 52) & 0x7ff) as i64 - 1023 - shift;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    // ln m = 2 artanh s; |s| ≤ 0.172, so twelve terms leave less than 1e-19.
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let mut sum = 0.0f64;
    for i in (0..12).rev() {
        sum = sum.mul_add(s2, 1.0 / f64::from(2 * i + 1));
    }
    (e as f64).mul_add(std::f64::consts::LN_2, 2.0 * s * sum)
}

/// `1 / i!` for the powers of a series.
const INVERSE_FACTORIALS: [f64; 14] = {
    let mut all = [1.0; 14];
    let (mut i, mut factorial) = (1, 1.0);
    while i < all.len() {
        factorial *= i as f64;
        all[i] = 1.0 / factorial;
        i += 1;
    }
    all
};

/// `e^x` in f64, the same bits on every machine. Within 2 ulp for results in the normal range; 0 below
/// −745.2, ∞ above 709.8, NaN stays NaN.
#[inline(always)]
pub fn exp64(x: f64) -> f64 {
    /// Added to a small number it leaves the nearest whole one in the last bits.
    const WHOLE: f64 = 1.5 * (1u64 << 52) as f64;
    // Two factors of 2^n cover results below the normal range.
    let x = x.clamp(-750.0, 710.0);
    let whole = x * std::f64::consts::LOG2_E + WHOLE;
    let n = whole.to_bits().wrapping_sub(WHOLE.to_bits()) as i64;
    let nf = whole - WHOLE;
    // ln 2 in two parts, the first short enough that n·hi is exact.
    let r = (x - nf * 0.693_147_180_369_123_8) - nf * 1.908_214_929_270_587_7e-10;
    // |r| ≤ 0.347, so fourteen terms leave less than 1e-17.
    let mut sum = 0.0;
    for c in INVERSE_FACTORIALS.into_iter().rev() {
        sum = c + sum * r;
    }
    let power = |n: i64| f64::from_bits((n.wrapping_add(1023) as u64) << 52);
    let half = n >> 1;
    sum * power(half) * power(n.wrapping_sub(half))
}

/// `e^((x − highest) / temperature)` of each, in f64: [`exp64`] of as many at a time as the machine can.
pub fn softmax_weights(x: &[f32], highest: f32, temperature: f64) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    // SAFETY: `detect` gives what this machine has.
    unsafe { weights(Isa::detect(), x, f64::from(highest), temperature, &mut out) };
    out
}

isa_fn! {
    /// # Safety
    /// None beyond a valid `Isa`.
    unsafe fn weights = weights_body(x: &[f32], highest: f64, temperature: f64, out: &mut [f64])
}

#[inline(always)]
unsafe fn weights_body<S: Simd>(x: &[f32], highest: f64, temperature: f64, out: &mut [f64]) {
    // Plain Rust: a loop without branches is compiled to whatever vectors of f64 there are.
    for (out, &x) in out.iter_mut().zip(x) {
        *out = exp64((f64::from(x) - highest) / temperature);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::LANES;

    /// The four functions of this file.
    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Tanh,
        Erf,
        Log,
    }

    isa_fn! {
        /// # Safety
        /// None beyond a valid `Isa`.
        unsafe fn apply = apply_body(f: Function, x: &mut [f32; LANES])
    }

    #[inline(always)]
    unsafe fn apply_body<S: Simd>(f: Function, x: &mut [f32; LANES]) {
        // SAFETY: one vector.
        unsafe {
            let v = S::load(x.as_ptr());
            let y = match f {
                Function::Exp => exp::<S>(v),
                Function::Tanh => tanh::<S>(v),
                Function::Erf => erf::<S>(v),
                Function::Log => log::<S>(v),
            };
            S::store(x.as_mut_ptr(), y);
        }
    }

    /// The function on every instruction set, which must agree, beside `want` with an error of at most `near`.
    fn agree(f: Function, numbers: &[f32], want: impl Fn(f64) -> f64, near: impl Fn(f64) -> f64) {
        let all = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon];
        let isas: Vec<Isa> = all.into_iter().filter(|i| i.available()).collect();
        for some in numbers.chunks_exact(LANES) {
            let on = |&isa: &Isa| {
                let mut x: [f32; LANES] = some.try_into().expect("a vector");
                // SAFETY: available.
                unsafe { apply(isa, f, &mut x) };
                x
            };
            let all: Vec<_> = isas.iter().map(on).collect();
            assert!(all.iter().all(|x| x.map(f32::to_bits) == all[0].map(f32::to_bits)), "{f:?} of {some:?}");
            for (&x, &got) in some.iter().zip(&all[0]) {
                let want = want(f64::from(x));
                let error = (f64::from(got) - want).abs();
                assert!(error <= near(want) || f64::from(got) == want, "{f:?}({x}): {got} beside {want}");
            }
        }
    }

    /// `n` units in the last place of an f32.
    fn ulps(n: f64) -> impl Fn(f64) -> f64 {
        move |want| {
            n * f64::from(f32::EPSILON) * want.abs().log2().floor().exp2().max(f64::from(f32::MIN_POSITIVE))
        }
    }

    #[test]
    fn functions_are_near_the_system_on_every_instruction_set() {
        let from_to = |from: f32, to: f32| -> Vec<f32> {
            (0..40_000).map(|i| from + (to - from) * i as f32 / 40_000.0).collect()
        };
        agree(Function::Exp, &from_to(-87.0, 88.0), f64::exp, ulps(1.0));
        // Below the normal range, and beyond every range.
        agree(Function::Exp, &from_to(-110.0, -87.0), f64::exp, ulps(1.0));
        let ends =
            [f32::NEG_INFINITY, -1e30, -104.0, -103.9, -0.0, 0.0, 88.7, 88.73, 89.0, 1e30, f32::INFINITY];
        let ends: Vec<f32> = ends.into_iter().cycle().take(LANES).collect();
        agree(Function::Exp, &ends, |x| f64::from(x.exp() as f32), ulps(1.0));
        agree(Function::Tanh, &from_to(-10.0, 10.0), f64::tanh, ulps(2.0));
        agree(Function::Erf, &from_to(-5.0, 5.0), |x| 1.0 - crate::reference::erfc(x), |_| 1e-7);
        let positive: Vec<f32> = (0..0x7f80_0000u32).step_by(9973).map(f32::from_bits).collect();
        let lowest = |x: f64| x.max(f64::from(f32::MIN_POSITIVE)).ln();
        agree(Function::Log, &positive, lowest, |want| ulps(2.0)(want).max(1e-7));
    }

    #[test]
    fn exp64_is_near_the_system() {
        for i in -7000..7000 {
            let x = f64::from(i) * 0.1013;
            let (got, want) = (exp64(x), x.exp());
            assert!((got - want).abs() <= want.abs() * 4.5e-16 + 5e-324, "{x}: {got} beside {want}");
        }
        assert_eq!(exp64(0.0), 1.0);
        assert_eq!(exp64(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp64(-1e300), 0.0);
        assert_eq!(exp64(f64::INFINITY), f64::INFINITY);
        assert!(exp64(f64::NAN).is_nan());
    }

    #[test]
    fn weights_are_the_same_on_every_machine() {
        let mut x: Vec<f32> = (0..1003).map(|i| -0.0371 * i as f32).collect();
        x.extend([f32::NEG_INFINITY, -1e30, 0.25]);
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon].into_iter().filter(|i| i.available()) {
            let mut out = vec![0.0; x.len()];
            // SAFETY: the machine has it.
            unsafe { weights(isa, &x, 0.25, 0.7, &mut out) };
            for (x, w) in x.iter().zip(&out) {
                assert_eq!(w.to_bits(), exp64((f64::from(*x) - 0.25) / 0.7).to_bits(), "{isa:?} {x}");
            }
            assert_eq!(out[1003..], [0.0, 0.0, 1.0]);
        }
    }
}
