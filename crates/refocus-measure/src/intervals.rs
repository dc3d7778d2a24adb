//! How sure a share is, and whether two shares differ.
//!
//! Intervals have 95 % confidence. Sources: Wilson, "Probable inference, the law of succession, and
//! statistical inference" (JASA 22, 1927); Clopper & Pearson, "The use of confidence or fiducial limits
//! illustrated in the case of the binomial" (Biometrika 26, 1934); Hanley & Lippman-Hand, "If nothing goes
//! wrong, is everything all right?" (JAMA 249, 1983) for the rule of three; McNemar, "Note on the sampling
//! error of the difference between correlated proportions" (Psychometrika 12, 1947), in its exact form;
//! Holm, "A simple sequentially rejective multiple test procedure" (Scand. J. Statist. 6, 1979).

/// The quantile of the standard normal distribution at 97.5 %.
const Z: f64 = 1.959_963_984_540_054;
/// What lies outside an interval on each side.
const TAIL: f64 = 0.025;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Wilson's score interval of `hits` out of `n`; `None` where there is nothing to count or more hits than
/// there can be.
pub fn wilson(hits: u64, n: u64) -> Option<Interval> {
    if n == 0 || hits > n {
        return None;
    }
    wilson_of_share(hits as f64 / n as f64, n)
}

/// As [`wilson`], of a share that is a mean over `n` cases of which each may have hit in part, such as a fact that is
/// asked several times; `None` where there is no case or no share. Parts spread less than wholes do, so it is
/// rather too long.
pub fn wilson_of_share(share: f64, n: u64) -> Option<Interval> {
    if n == 0 || !(0.0..=1.0).contains(&share) {
        return None;
    }
    let (p, n, zz) = (share, n as f64, Z * Z);
    let centre = (p + zz / (2.0 * n)) / (1.0 + zz / n);
    let half = Z / (1.0 + zz / n) * (p * (1.0 - p) / n + zz / (4.0 * n * n)).sqrt();
    // The ends are exact where nothing or everything hit.
    let low = if p == 0.0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if p == 1.0 { 1.0 } else { (centre + half).min(1.0) };
    Some(Interval { low, high })
}

/// The exact interval of Clopper and Pearson, never too short; `None` as for [`wilson`].
pub fn clopper_pearson(hits: u64, n: u64) -> Option<Interval> {
    if n == 0 || hits > n {
        return None;
    }
    let (x, n) = (hits as f64, n as f64);
    let low = if hits == 0 { 0.0 } else { beta_quantile(TAIL, x, n - x + 1.0) };
    let high = if x == n { 1.0 } else { beta_quantile(1.0 - TAIL, x + 1.0, n - x) };
    Some(Interval { low, high })
}

/// The rule of three: with no error in `n` tries, 95 % sure that the rate is not above `3/n`. It stays
/// an upper bound of the exact `1 − 0.05^(1/n)`. `None` without tries.
pub fn rule_of_three(n: u64) -> Option<f64> {
    (n > 0).then(|| (3.0 / n as f64).min(1.0))
}

/// McNemar's exact test of two ways to answer the same questions: the probability that chance alone makes
/// them differ as much, where `only_first` questions were answered right by the first alone and
/// `only_second` by the second alone. Two-sided.
pub fn mcnemar(only_first: u64, only_second: u64) -> f64 {
    let (fewer, n) = (only_first.min(only_second) as f64, (only_first + only_second) as f64);
    if n == 0.0 {
        return 1.0;
    }
    // P(X ≤ fewer) of a fair coin thrown n times.
    (2.0 * incomplete_beta(0.5, n - fewer, fewer + 1.0)).min(1.0)
}

/// Probabilities of several tests as they count together (Holm's correction): each is multiplied by the
/// number of tests that are not below it, and none becomes smaller than one before it. What is no number
/// stays none, and counts as a test that shows nothing.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    // NaN comes last, so it takes nothing from the others.
    order.sort_by(|&a, &b| p[a].is_nan().cmp(&p[b].is_nan()).then(p[a].total_cmp(&p[b])));
    let (mut out, mut highest) = (vec![f64::NAN; p.len()], 0.0f64);
    for (rank, &i) in order.iter().enumerate() {
        if !p[i].is_nan() {
            highest = highest.max(((p.len() - rank) as f64 * p[i]).min(1.0));
            out[i] = highest;
        }
    }
    out
}

/// Where the incomplete beta function reaches `p`.
fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    // Until neighbouring numbers are left.
    for _ in 0..1100 {
        let x = f64::midpoint(low, high);
        if x <= low || x >= high {
            break;
        }
        if incomplete_beta(x, a, b) < p { low = x } else { high = x }
    }
    f64::midpoint(low, high)
}

/// The regularised incomplete beta function of `x` in [0, 1], by its continued fraction (NIST Digital
/// Library of Mathematical Functions, 8.17.22), evaluated with Lentz's method.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    // The fraction converges fast on this side; the other follows by symmetry.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - fraction(1.0 - x, x, b, a);
    }
    fraction(x, 1.0 - x, a, b)
}

/// `y` is `1 − x`: each may be too small to be got from the other.
fn fraction(x: f64, y: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let apart = |v: f64| if v.abs() < TINY { TINY } else { v };
    let ln = |x: f64, y: f64| if x < y { x.ln() } else { (-y).ln_1p() };
    let front = a * ln(x, y) + b * ln(y, x) - ln_beta(a, b) - a.ln();
    let (mut c, mut d) = (1.0, 1.0 / apart(1.0 - (a + b) * x / (a + 1.0)));
    let mut value = d;
    // About √(a + b) steps are needed.
    for m in 1..100_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / apart(1.0 + term * d);
            c = apart(1.0 + term / c);
            value *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    front.exp() * value
}

/// Where Stirling's series takes over from the recurrence.
const LARGE: f64 = 15.0;

/// `ln B(a, b)`. The logarithms of Γ are as large as counts are, and what they leave is small, so they
/// are subtracted in their series and not as numbers.
fn ln_beta(a: f64, b: f64) -> f64 {
    let (small, large) = (a.min(b), a.max(b));
    let sum = small + large;
    if large < LARGE {
        return ln_gamma(small) + ln_gamma(large) - ln_gamma(sum);
    }
    // ln Γ(large) − ln Γ(sum)
    let rest = stirling(large) - stirling(sum) - (large - 0.5) * (small / large).ln_1p();
    if small < LARGE {
        return ln_gamma(small) + small - small * sum.ln() + rest;
    }
    let root = (2.0 * std::f64::consts::PI / small).ln() / 2.0;
    small * (small / sum).ln() + root + stirling(small) + rest
}

/// `ln Γ(x)` of a positive number.
fn ln_gamma(mut x: f64) -> f64 {
    let mut below = 1.0;
    while x < LARGE {
        below *= x;
        x += 1.0;
    }
    (x - 0.5) * x.ln() - x + (2.0 * std::f64::consts::PI).ln() / 2.0 + stirling(x) - below.ln()
}

/// What Stirling's formula lacks (NIST Digital Library of Mathematical Functions, 5.11.1).
fn stirling(x: f64) -> f64 {
    let terms = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0];
    let square = 1.0 / (x * x);
    terms.iter().rev().fold(0.0, |sum, c| sum * square + c) / x
}
