//! An MLP's output as a sum of head outputs, one number a head, and one vector common to all prompts: ridge
//! regression in closed form, from sums that are kept by cluster so that any prompts can be left out or drawn again.
//!
//! With `x_{i,c}` what component `c` writes in prompt `i` and `m_i` what the MLP writes, it minimises
//! `Σ_i ‖m_i − Σ_c w_c x_{i,c} − b‖² + λ ‖w‖²`: `w = (G + λI)⁻¹ g` with `G` and `g` the products of centred rows,
//! `b = m̄ − Σ_c w_c x̄_c`. A component's gain after the MLP is `1 + w_c`.

use std::collections::BTreeMap;

/// Diagonals below this share of the largest are no variation, but what rounding leaves.
pub(super) const CONSTANT: f64 = 1e-10;
/// Steps of the power iterations.
const STEPS: usize = 300;

/// Why there is no fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// Too little to fit.
    #[error("the regression has {clusters} facts or wordings to fit on, it needs two")]
    Few {
        /// With prompts in them.
        clusters: usize,
    },
    /// No solution.
    #[error("the regression's matrix is not positive definite: give it a ridge above 0")]
    Singular,
    /// Rows that do not belong together.
    #[error("the regression got rows of different lengths")]
    Shape,
}

/// Sums over the prompts of one cluster. The target is the last component.
#[derive(Clone, Debug)]
struct Sums {
    n: f64,
    /// `[c + 1, c + 1]`, lower triangle.
    second: Vec<f64>,
    /// `[c + 1, d]`
    first: Vec<f64>,
}

impl Sums {
    fn zero(c: usize, d: usize) -> Self {
        Self { n: 0.0, second: vec![0.0; (c + 1) * (c + 1)], first: vec![0.0; (c + 1) * d] }
    }

    fn add(&mut self, other: &Self, times: f64) {
        self.n += times * other.n;
        self.second.iter_mut().zip(&other.second).for_each(|(a, b)| *a += times * b);
        self.first.iter_mut().zip(&other.first).for_each(|(a, b)| *a += times * b);
    }
}

/// Sums by cluster.
#[derive(Clone, Debug)]
pub struct Moments {
    c: usize,
    d: usize,
    clusters: Vec<Sums>,
    /// Of each prompt.
    of: Vec<usize>,
}

/// A fitted regression.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// `[components]`; 0 for those that do not vary.
    pub weights: Vec<f64>,
    /// `[d_model]`.
    pub intercept: Vec<f64>,
    /// Which components do not vary over the prompts.
    pub constant: Vec<bool>,
    /// λ.
    pub ridge: f64,
}

impl Fit {
    /// What it says of one prompt: `rows` are the components' values there.
    pub fn predict<'a>(&self, rows: impl Iterator<Item = &'a [f32]>) -> Vec<f32> {
        let mut out = self.intercept.clone();
        for (w, row) in self.weights.iter().zip(rows) {
            out.iter_mut().zip(row).for_each(|(o, x)| *o += w * f64::from(*x));
        }
        out.into_iter().map(|x| x as f32).collect()
    }
}

impl Moments {
    /// Sums `regressors` and `target`, each `[prompts, d]`; `cluster` names each prompt's fact or wording.
    ///
    /// # Errors
    /// Rows of different lengths, or fewer than two clusters.
    pub fn of(
        regressors: &[&[f32]],
        target: &[f32],
        cluster: impl ExactSizeIterator<Item = usize>,
    ) -> Result<Self, FitError> {
        let (n, c) = (cluster.len(), regressors.len());
        if n == 0 || !target.len().is_multiple_of(n) || regressors.iter().any(|r| r.len() != target.len()) {
            return Err(FitError::Shape);
        }
        let d = target.len() / n;
        let (of, many) = numbered(cluster)?;
        let mut clusters = vec![Sums::zero(c, d); many];
        let mut rows = vec![0.0f64; (c + 1) * d];
        for (i, &at) in of.iter().enumerate() {
            for (to, from) in rows.chunks_exact_mut(d).zip(regressors.iter().copied().chain([target])) {
                to.iter_mut().zip(&from[i * d..(i + 1) * d]).for_each(|(a, b)| *a = f64::from(*b));
            }
            let sums = &mut clusters[at];
            sums.n += 1.0;
            sums.first.iter_mut().zip(&rows).for_each(|(a, b)| *a += b);
            for a in 0..=c {
                for b in 0..=a {
                    sums.second[a * (c + 1) + b] += dot(&rows[a * d..(a + 1) * d], &rows[b * d..(b + 1) * d]);
                }
            }
        }
        Ok(Self { c, d, clusters, of })
    }

    /// Facts or wordings.
    pub fn clusters(&self) -> usize {
        self.clusters.len()
    }

    /// The cluster of a prompt, numbered in the order in which they were met.
    pub fn cluster_of(&self, prompt: usize) -> usize {
        self.of[prompt]
    }

    /// Fits with each cluster counted `times[cluster]` times. λ is `ridge` times the mean of the diagonal of `G`
    /// over the components that vary.
    ///
    /// # Errors
    /// Fewer than two clusters counted, or a matrix that no ridge makes regular.
    pub fn fit(&self, times: &[f64], ridge: f64) -> Result<Fit, FitError> {
        let all = self.sum(times)?;
        let (c, d, n) = (self.c, self.d, all.n);
        let g = self.centred(&all);
        let (constant, index) = varying(&g, c);
        let k = index.len();
        let mean = index.iter().map(|&i| g[i * (c + 1) + i]).sum::<f64>() / k.max(1) as f64;
        let lambda = ridge * mean;
        let mut a = vec![0.0; k * k];
        for (i, &ci) in index.iter().enumerate() {
            for (j, &cj) in index.iter().enumerate().take(i + 1) {
                a[i * k + j] = g[ci * (c + 1) + cj];
            }
            a[i * k + i] += lambda;
        }
        let right: Vec<f64> = index.iter().map(|&i| g[c * (c + 1) + i]).collect();
        cholesky(&mut a, k).ok_or(FitError::Singular)?;
        let mut weights = vec![0.0; c];
        for (&i, w) in index.iter().zip(solve(&a, k, right)) {
            weights[i] = w;
        }
        let mut intercept: Vec<f64> = all.first[c * d..].iter().map(|x| x / n).collect();
        for (w, row) in weights.iter().zip(all.first.chunks_exact(d)) {
            intercept.iter_mut().zip(row).for_each(|(b, x)| *b -= w * x / n);
        }
        Ok(Fit { weights, intercept, constant, ridge: lambda })
    }

    /// All clusters, each once, but for those of which `out` is true.
    pub fn without(&self, out: impl Fn(usize) -> bool) -> Vec<f64> {
        (0..self.clusters.len()).map(|k| if out(k) { 0.0 } else { 1.0 }).collect()
    }

    /// Fits on the clusters outside each of `folds` groups (cluster k is in group k mod folds).
    ///
    /// # Errors
    /// As [`Moments::fit`].
    pub fn folds(&self, folds: usize, ridge: f64) -> Result<Vec<Fit>, FitError> {
        (0..folds).map(|f| self.fit(&self.without(|k| k % folds == f), ridge)).collect()
    }

    /// Squared errors of a fit by cluster, summed over its prompts.
    pub fn errors(&self, fit: &Fit) -> Vec<f64> {
        let (c, d) = (self.c, self.d);
        let v: Vec<f64> = fit.weights.iter().map(|w| -w).chain([1.0]).collect();
        let one = |s: &Sums| {
            let mut sum = s.n * dot(&fit.intercept, &fit.intercept);
            for a in 0..=c {
                sum -= 2.0 * v[a] * dot(&s.first[a * d..(a + 1) * d], &fit.intercept);
                for b in 0..a {
                    sum += 2.0 * v[a] * v[b] * s.second[a * (c + 1) + b];
                }
                sum += v[a] * v[a] * s.second[a * (c + 1) + a];
            }
            sum
        };
        self.clusters.iter().map(one).collect()
    }

    /// Squares of the target by cluster, about the mean of all prompts and about 0.
    pub fn totals(&self) -> Vec<(f64, f64)> {
        let (c, d) = (self.c, self.d);
        let (mut mean, n) = (vec![0.0; d], self.of.len() as f64);
        for s in &self.clusters {
            mean.iter_mut().zip(&s.first[c * d..]).for_each(|(m, x)| *m += x / n);
        }
        let one = |s: &Sums| {
            let square = s.second[c * (c + 1) + c];
            let about = square - 2.0 * dot(&mean, &s.first[c * d..]) + s.n * dot(&mean, &mean);
            (about, square)
        };
        self.clusters.iter().map(one).collect()
    }

    /// The condition number of `G` with its diagonal scaled to 1, over the components that vary: how far they can
    /// be told apart. Infinite where they cannot.
    ///
    /// # Errors
    /// As [`Moments::fit`].
    pub fn condition(&self) -> Result<f64, FitError> {
        let all = self.sum(&vec![1.0; self.clusters.len()])?;
        let (c, g) = (self.c, self.centred(&all));
        let (_, index) = varying(&g, c);
        let k = index.len();
        let at = |i: usize, j: usize| {
            let (a, b) = (index[i].max(index[j]), index[i].min(index[j]));
            g[a * (c + 1) + b] / (g[a * (c + 1) + a] * g[b * (c + 1) + b]).sqrt()
        };
        let scaled: Vec<f64> = (0..k * k).map(|x| at(x / k, x % k)).collect();
        let largest = power(k, |v| scaled.chunks_exact(k).map(|row| dot(row, v)).collect());
        let mut factor = scaled.clone();
        if cholesky(&mut factor, k).is_none() {
            return Ok(f64::INFINITY);
        }
        Ok(largest * power(k, |v| solve(&factor, k, v.to_vec())))
    }

    fn sum(&self, times: &[f64]) -> Result<Sums, FitError> {
        let mut all = Sums::zero(self.c, self.d);
        let counted = self.clusters.iter().zip(times).filter(|(_, t)| **t != 0.0);
        let mut clusters = 0;
        for (s, &t) in counted {
            all.add(s, t);
            clusters += 1;
        }
        if clusters < 2 { Err(FitError::Few { clusters }) } else { Ok(all) }
    }

    /// Products of centred rows, `[c + 1, c + 1]`, lower triangle.
    fn centred(&self, all: &Sums) -> Vec<f64> {
        let (c, d) = (self.c, self.d);
        let mut g = all.second.clone();
        for a in 0..=c {
            for b in 0..=a {
                let means = dot(&all.first[a * d..(a + 1) * d], &all.first[b * d..(b + 1) * d]) / all.n;
                let both = &mut g[a * (c + 1) + b];
                // What is left of a difference of large numbers is no variation.
                *both = if a == b && *both - means < CONSTANT * *both { 0.0 } else { *both - means };
            }
        }
        g
    }
}

/// Clusters numbered in the order in which they are met, and how many there are.
pub(super) fn numbered(cluster: impl Iterator<Item = usize>) -> Result<(Vec<usize>, usize), FitError> {
    let mut index: BTreeMap<usize, usize> = BTreeMap::new();
    let mut number = |name: usize| {
        let next = index.len();
        *index.entry(name).or_insert(next)
    };
    let of: Vec<usize> = cluster.map(&mut number).collect();
    if index.len() < 2 {
        return Err(FitError::Few { clusters: index.len() });
    }
    Ok((of, index.len()))
}

/// Which components do not vary, and the others' numbers.
fn varying(g: &[f64], c: usize) -> (Vec<bool>, Vec<usize>) {
    let diagonal = |i: usize| g[i * (c + 1) + i];
    let largest = (0..c).map(diagonal).fold(0.0, f64::max);
    let constant: Vec<bool> = (0..c).map(|i| diagonal(i) <= CONSTANT * largest).collect();
    let index = (0..c).filter(|&i| !constant[i]).collect();
    (constant, index)
}

/// In eight chains, so that a compiler can keep them side by side.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (x, y) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = x.remainder().iter().zip(y.remainder()).map(|(a, b)| a * b).sum();
    for (x, y) in x.zip(y) {
        for l in 0..8 {
            lanes[l] += x[l] * y[l];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// Replaces the lower triangle of a symmetric matrix by its factor; `None` where it has none.
pub(super) fn cholesky(a: &mut [f64], n: usize) -> Option<()> {
    for i in 0..n {
        let (above, own) = a.split_at_mut(i * n);
        for j in 0..i {
            let row = &above[j * n..j * n + j];
            own[j] = (own[j] - dot(&own[..j], row)) / above[j * n + j];
        }
        let left = own[i] - dot(&own[..i], &own[..i]);
        if !(left > 0.0 && left.is_finite()) {
            return None;
        }
        own[i] = left.sqrt();
    }
    Some(())
}

/// Solves with the factor.
pub(super) fn solve(l: &[f64], n: usize, mut x: Vec<f64>) -> Vec<f64> {
    for i in 0..n {
        x[i] = (x[i] - dot(&l[i * n..i * n + i], &x[..i])) / l[i * n + i];
    }
    for i in (0..n).rev() {
        x[i] /= l[i * n + i];
        let own = x[i];
        for j in 0..i {
            x[j] -= own * l[i * n + j];
        }
    }
    x
}

/// The largest eigenvalue of a positive map.
fn power(n: usize, map: impl Fn(&[f64]) -> Vec<f64>) -> f64 {
    // No eigenvector is likely to be at a right angle to this.
    let mut v: Vec<f64> = (0..n).map(|i| 1.0 + ((i * 7919) % 101) as f64 / 101.0).collect();
    let mut value = 0.0;
    for _ in 0..STEPS {
        let length = dot(&v, &v).sqrt();
        v.iter_mut().for_each(|x| *x /= length);
        let next = map(&v);
        value = dot(&v, &next);
        v = next;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use refocus_compute::{Philox, Purpose};

    /// Ten facts in three wordings, four components of width 5, the last of which never varies.
    fn data(noise: f32) -> (Vec<Vec<f32>>, Vec<f32>, Vec<usize>) {
        let (n, d) = (30, 5);
        let rng = Philox::new(5, Purpose::new("test"));
        let number =
            |a: u32, i: usize| (f64::from(rng.at(a, 0, i as u32)[0]) / f64::from(u32::MAX) - 0.5) as f32;
        let mut x: Vec<Vec<f32>> = (0..3).map(|c| (0..n * d).map(|i| number(c, i)).collect()).collect();
        x.push((0..n * d).map(|i| (i % d) as f32).collect());
        let target = (0..n * d)
            .map(|i| 1.5 * x[0][i] - 1.0 * x[1][i] + (i % d) as f32 * 0.25 + noise * number(9, i))
            .collect();
        (x, target, (0..n).map(|i| i % 10).collect())
    }

    fn moments(noise: f32) -> Moments {
        let (x, y, of) = data(noise);
        let x: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
        Moments::of(&x, &y, of.into_iter()).expect("sums")
    }

    #[test]
    fn known_weights_and_intercept_come_back() {
        let m = moments(0.0);
        let fit = m.fit(&[1.0; 10], 1e-9).expect("fits");
        for (w, want) in fit.weights.iter().zip([1.5, -1.0, 0.0, 0.0]) {
            assert!((w - want).abs() < 1e-6, "{fit:?}");
        }
        for (i, b) in fit.intercept.iter().enumerate() {
            assert!((b - i as f64 * 0.25).abs() < 1e-6, "{fit:?}");
        }
        assert_eq!(fit.constant, [false, false, false, true]);
        let (total, _) = m.totals().iter().fold((0.0, 0.0), |s, t| (s.0 + t.0, s.1 + t.1));
        assert!(m.errors(&fit).iter().sum::<f64>() < 1e-9 * total);
    }

    #[test]
    fn errors_from_sums_are_those_of_the_predictions() {
        let (x, y, of) = data(0.4);
        let m = moments(0.4);
        for fit in m.folds(3, 0.1).expect("fits") {
            let mut want = [0.0; 10];
            for i in 0..30 {
                let p = fit.predict(x.iter().map(|x| &x[i * 5..(i + 1) * 5]));
                let off = p.iter().zip(&y[i * 5..]).map(|(p, y)| f64::from(p - y).powi(2)).sum::<f64>();
                want[m.cluster_of(i)] += off;
            }
            assert!(of.iter().enumerate().all(|(i, &k)| m.cluster_of(i) == k));
            for (got, want) in m.errors(&fit).iter().zip(want) {
                assert!((got - want).abs() < 1e-5 * want.max(1.0), "{got} {want}");
            }
        }
    }

    #[test]
    fn a_left_out_cluster_counts_for_nothing() {
        let (mut x, mut y, of) = data(0.4);
        let before = moments(0.4).fit(&moments(0.4).without(|k| k == 3), 0.01).expect("fits");
        for i in (0..30).filter(|i| of[*i] == 3) {
            x.iter_mut().for_each(|x| x[i * 5..(i + 1) * 5].fill(17.0));
            y[i * 5..(i + 1) * 5].fill(-9.0);
        }
        let x: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
        let m = Moments::of(&x, &y, of.into_iter()).expect("sums");
        assert_eq!(m.fit(&m.without(|k| k == 3), 0.01).expect("fits"), before);
    }

    #[test]
    fn components_that_follow_each_other_have_no_condition() {
        let (x, y, of) = data(0.1);
        let two: Vec<&[f32]> = vec![&x[0], &x[1]];
        let apart =
            Moments::of(&two, &y, of.clone().into_iter()).expect("sums").condition().expect("a number");
        assert!((1.0..2.0).contains(&apart), "{apart}");
        let near: Vec<f32> = x[0].iter().zip(&x[1]).map(|(a, b)| a + 0.01 * b).collect();
        let close: Vec<&[f32]> = vec![&x[0], &near];
        let close =
            Moments::of(&close, &y, of.clone().into_iter()).expect("sums").condition().expect("a number");
        assert!((1e4..1e5).contains(&close), "{close}");
        let same: Vec<&[f32]> = vec![&x[0], &x[0]];
        let same = Moments::of(&same, &y, of.into_iter()).expect("sums");
        assert!(same.condition().expect("a number") > 1e12);
        assert_eq!(same.fit(&[0.0; 10], 0.1), Err(FitError::Few { clusters: 0 }));
    }
}
