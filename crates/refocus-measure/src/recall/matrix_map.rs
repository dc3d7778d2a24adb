//! An MLP's output as a sum of linear maps, one matrix a regressor, and one vector common to all prompts: what a matrix
//! for each regressor, learned from the other facts, gives; with fewer facts it is lower. It is no upper bound of what a
//! number a regressor ([`Moments`](super::Moments)) gives.
//!
//! The matrices have far more entries than there are prompts, so the ridge regression is solved from products of
//! prompts: with `K_ij = Σ_c x̃_{i,c} · x̃_{j,c}` (rows centred over the prompts that are fitted on) what is said of a
//! prompt is `m̄ + k (K + λI)⁻¹ M̃`, where `k` are its own products with those prompts.

use super::fit::{CONSTANT, FitError, cholesky, dot, numbered, solve};

/// Products of prompts, and the target.
#[derive(Clone, Debug)]
pub struct MatrixMap {
    /// `[n, n]`.
    products: Vec<f64>,
    /// `[n, d]`.
    target: Vec<f64>,
    d: usize,
    /// Cluster of each prompt, numbered in the order in which they were met.
    of: Vec<usize>,
    clusters: usize,
}

impl MatrixMap {
    /// Products of `regressors`, each `[prompts, d]`; `cluster` names each prompt's fact or wording.
    ///
    /// # Errors
    /// Rows of different lengths, or fewer than two clusters.
    pub fn of(
        regressors: &[&[f32]],
        target: &[f32],
        cluster: impl ExactSizeIterator<Item = usize>,
    ) -> Result<Self, FitError> {
        let n = cluster.len();
        if n == 0 || !target.len().is_multiple_of(n) || regressors.iter().any(|r| r.len() != target.len()) {
            return Err(FitError::Shape);
        }
        let d = target.len() / n;
        let (of, clusters) = numbered(cluster)?;
        let mut products = vec![0.0; n * n];
        for rows in regressors {
            let wide: Vec<f64> = rows.iter().map(|x| f64::from(*x)).collect();
            for (i, row) in wide.chunks_exact(d).enumerate() {
                for (j, other) in wide.chunks_exact(d).enumerate().take(i + 1) {
                    products[i * n + j] += dot(row, other);
                }
            }
        }
        for i in 0..n {
            for j in 0..i {
                products[j * n + i] = products[i * n + j];
            }
        }
        let target = target.iter().map(|x| f64::from(*x)).collect();
        Ok(Self { products, target, d, of, clusters })
    }

    /// The same regressors with another target, `[prompts, d]`.
    ///
    /// # Errors
    /// A target of another shape.
    pub fn with_target(&self, target: &[f32]) -> Result<Self, FitError> {
        if target.len() != self.target.len() {
            return Err(FitError::Shape);
        }
        Ok(Self { target: target.iter().map(|x| f64::from(*x)).collect(), ..self.clone() })
    }

    /// Squared errors by cluster, each of the fit that was made without its group (cluster k is in group k mod
    /// `folds`). λ is `ridge` times the mean of the diagonal of `K`.
    ///
    /// # Errors
    /// Fewer than two clusters to fit on, or a matrix that the ridge does not make regular.
    pub fn held_out(&self, folds: usize, ridge: f64) -> Result<Vec<f64>, FitError> {
        let mut out = vec![0.0; self.clusters];
        for fold in 0..folds {
            let (inside, outside): (Vec<usize>, Vec<usize>) =
                (0..self.of.len()).partition(|&i| self.of[i] % folds != fold);
            for (i, error) in self.errors(&inside, &outside, ridge)? {
                out[self.of[i]] += error;
            }
        }
        Ok(out)
    }

    /// Squared errors at the prompts `outside` of the fit on those `inside`; of the mean where no regressor varies there.
    fn errors(&self, inside: &[usize], outside: &[usize], ridge: f64) -> Result<Vec<(usize, f64)>, FitError> {
        let (n, k, d) = (self.of.len(), inside.len(), self.d);
        let mut clusters: Vec<usize> = inside.iter().map(|&i| self.of[i]).collect();
        clusters.sort_unstable();
        clusters.dedup();
        if clusters.len() < 2 {
            return Err(FitError::Few { clusters: clusters.len() });
        }
        // Of every prompt the mean product with those inside; of these the mean of all.
        let with = |i: usize| inside.iter().map(|&j| self.products[i * n + j]).sum::<f64>() / k as f64;
        let own: Vec<f64> = inside.iter().map(|&i| with(i)).collect();
        let all = own.iter().sum::<f64>() / k as f64;
        let centred = |i: usize, mean: f64, b: usize| self.products[i * n + inside[b]] - mean - own[b] + all;
        let mut a: Vec<f64> = (0..k * k).map(|x| centred(inside[x / k], own[x / k], x % k)).collect();
        let trace = (0..k).map(|i| a[i * k + i]).sum::<f64>();
        let varies = trace > CONSTANT * inside.iter().map(|&i| self.products[i * n + i]).sum::<f64>();
        if varies {
            (0..k).for_each(|i| a[i * k + i] += ridge * trace / k as f64);
            cholesky(&mut a, k).ok_or(FitError::Singular)?;
        }
        let mut mean = vec![0.0; d];
        for &i in inside {
            mean.iter_mut().zip(&self.target[i * d..(i + 1) * d]).for_each(|(m, x)| *m += x / k as f64);
        }
        let one = |&i: &usize| {
            let of_mean = with(i);
            let shares = match varies {
                true => solve(&a, k, (0..k).map(|b| centred(i, of_mean, b)).collect()),
                false => Vec::new(),
            };
            let mut off: Vec<f64> =
                self.target[i * d..(i + 1) * d].iter().zip(&mean).map(|(x, m)| x - m).collect();
            for (share, &j) in shares.iter().zip(inside) {
                let row = self.target[j * d..(j + 1) * d].iter().zip(&mean);
                off.iter_mut().zip(row).for_each(|(o, (x, m))| *o -= share * (x - m));
            }
            (i, dot(&off, &off))
        };
        Ok(outside.iter().map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::Moments;

    fn number(a: usize, b: usize) -> f32 {
        ((a * 7919 + b * 104_729 + (a * b) % 13 * 31) % 1009) as f32 / 1009.0 - 0.5
    }

    /// What two regressors write in 60 prompts of 12 facts, and a rotation of the first with a vector.
    fn data() -> (Vec<Vec<f32>>, Vec<f32>, Vec<usize>) {
        let (n, d) = (60, 4);
        let x: Vec<Vec<f32>> = (0..2).map(|c| (0..n * d).map(|i| number(c + 1, i)).collect()).collect();
        let turned = |i: usize| x[0][i / d * d + (i + 1) % d] * if i.is_multiple_of(2) { 2.0 } else { -1.0 };
        let target = (0..n * d).map(|i| turned(i) + (i % d) as f32).collect();
        (x, target, (0..n).map(|i| i % 12).collect())
    }

    #[test]
    fn a_rotation_is_found_that_no_number_a_regressor_gives() {
        let (x, y, of) = data();
        let x: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
        let map = MatrixMap::of(&x, &y, of.clone().into_iter()).expect("products");
        let numbers = Moments::of(&x, &y, of.into_iter()).expect("sums");
        let total: f64 = numbers.totals().iter().map(|t| t.0).sum();
        let r2 = |errors: &[f64]| 1.0 - errors.iter().sum::<f64>() / total;
        assert!(r2(&map.held_out(4, 1e-6).expect("fits")) > 0.999);
        let scalars: Vec<Vec<f64>> =
            numbers.folds(4, 1e-6).expect("fits").iter().map(|f| numbers.errors(f)).collect();
        let scalars: Vec<f64> = (0..12).map(|k| scalars[k % 4][k]).collect();
        assert!(r2(&scalars) < 0.3, "{}", r2(&scalars));
        // A ridge without end leaves the mean.
        let mean = map.held_out(4, 1e12).expect("fits");
        assert!(r2(&mean) <= 0.0 && r2(&mean) > -0.2, "{}", r2(&mean));
    }

    #[test]
    fn regressors_that_do_not_vary_leave_the_mean() {
        let (_, y, of) = data();
        let same: Vec<f32> = (0..y.len()).map(|i| 0.1 + (i % 4) as f32).collect();
        let errors = |x: &[&[f32]]| {
            MatrixMap::of(x, &y, of.clone().into_iter()).expect("products").held_out(4, 0.1).expect("fits")
        };
        assert_eq!(errors(&[&same[..]]), errors(&[]));
    }

    #[test]
    fn rows_that_do_not_belong_together_are_refused() {
        let (x, y, of) = data();
        let x: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
        let map = |y: &[f32], of: Vec<usize>| MatrixMap::of(&x, y, of.into_iter()).map(|_| ());
        assert_eq!(map(&y[..4], of.clone()), Err(FitError::Shape));
        assert_eq!(map(&y, vec![0; 60]), Err(FitError::Few { clusters: 1 }));
        let map = MatrixMap::of(&x, &y, of.into_iter()).expect("products");
        assert!(map.with_target(&y[..4]).is_err() && map.with_target(&y).is_ok());
        assert_eq!(map.held_out(1, 0.1), Err(FitError::Few { clusters: 0 }));
    }
}
