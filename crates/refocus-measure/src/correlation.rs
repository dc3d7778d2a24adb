//! How two lists of numbers go together.

/// Pearson's correlation; `None` for fewer than two pairs or where one list does not vary.
///
/// # Panics
/// Lists of different lengths.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "pairs of numbers");
    if x.len() < 2 {
        return None;
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (mx, my) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mx, y - my);
        (xy, xx, yy) = (xy + x * y, xx + x * x, yy + y * y);
    }
    let r = xy / (xx * yy).sqrt();
    r.is_finite().then_some(r)
}

/// Spearman's correlation: Pearson's of the ranks, equal numbers sharing theirs.
///
/// # Panics
/// Lists of different lengths.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Cosine of the angle between two vectors; `None` where one is 0.
pub fn cosine(x: &[f64], y: &[f64]) -> Option<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let c = dot(x, y) / (dot(x, x) * dot(y, y)).sqrt();
    c.is_finite().then_some(c)
}

fn ranks(v: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|&a, &b| v[a].total_cmp(&v[b]));
    let mut out = vec![0.0; v.len()];
    let mut at = 0;
    for same in order.chunk_by(|&a, &b| v[a] == v[b]) {
        let shared = at as f64 + (same.len() - 1) as f64 / 2.0;
        same.iter().for_each(|&i| out[i] = shared);
        at += same.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_of_known_lists() {
        let x = [1.0, 2.0, 3.0, 4.0];
        assert!((pearson(&x, &[2.0, 4.0, 6.0, 8.0]).expect("r") - 1.0).abs() < 1e-12);
        let r = pearson(&x, &[1.0, 3.0, 2.0, 5.0]).expect("r");
        assert!((r - 5.5 / (5.0f64 * 8.75).sqrt()).abs() < 1e-12);
        assert_eq!(pearson(&x, &[1.0; 4]), None);
        assert_eq!(pearson(&[1.0], &[2.0]), None);
        assert!((spearman(&x, &[1.0, 10.0, 100.0, 1e6]).expect("ρ") - 1.0).abs() < 1e-12);
        // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
        let rho = spearman(&x, &[0.0, 7.0, 7.0, 9.0]).expect("ρ");
        assert!((rho - 4.5 / (5.0f64 * 4.5).sqrt()).abs() < 1e-12);
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]).expect("an angle") - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine(&[0.0], &[1.0]), None);
    }
}
