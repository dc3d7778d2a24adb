//! Calibrated accuracy and its relatives (Halawi et al., "Overthinking the Truth", arXiv 2307.09476,
//! section 2; the definitions are those of the released code).
//!
//! A label counts as predicted when its share of the labels' probability lies above the label's own
//! (C − 1)/C quantile over all inputs, so a model that always prefers one word gains nothing by it: chance
//! is exactly 1/C. Everything here is per kind of prompt, layer and slot; the caller says which.

/// What the released code adds to each probability before it divides.
const GUARD: f64 = 1e-14;

/// Shares `q` of the labels from their log-probabilities over the whole vocabulary, with the guard of the
/// released code: `(p_c + 1e-14) / (Σ p + C · 1e-14)`.
pub fn guarded_shares(log_probs: &[f64]) -> Vec<f64> {
    let p: Vec<f64> = log_probs.iter().map(|l| l.exp() + GUARD).collect();
    let sum: f64 = p.iter().sum();
    p.into_iter().map(|p| p / sum).collect()
}

/// Shares `q` of the labels from their logits: a softmax over the labels alone. The vocabulary's
/// normaliser cancels, so nothing but the labels' rows of the unembedding is needed.
pub fn shares(logits: &[f64]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = logits.iter().map(|l| (l - most).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

/// The quantile of order `order` in `[0, 1]` with linear interpolation between neighbours, as
/// `torch.quantile`. `values` is reordered. `None` of no values or a NaN among them.
pub fn quantile(values: &mut [f64], order: f64) -> Option<f64> {
    if values.is_empty() || values.iter().any(|v| v.is_nan()) || !(0.0..=1.0).contains(&order) {
        return None;
    }
    let at = order * (values.len() - 1) as f64;
    let (below, rest) = (at.floor() as usize, at - at.floor());
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = above.iter().copied().fold(f64::INFINITY, f64::min);
    Some(if rest > 0.0 { low + (high - low) * rest } else { low })
}

/// Each label's threshold: the (C − 1)/C quantile of its share over the inputs. `shares` is
/// `[inputs][C]`. `None` where there is no input, a NaN, or inputs of different length.
pub fn thresholds(shares: &[Vec<f64>]) -> Option<Vec<f64>> {
    let c = shares.first()?.len();
    if shares.iter().any(|s| s.len() != c) {
        return None;
    }
    let order = (c as f64 - 1.0) / c as f64;
    let mut column = vec![0.0; shares.len()];
    let one = |class: usize| {
        column.iter_mut().zip(shares).for_each(|(x, s)| *x = s[class]);
        quantile(&mut column, order)
    };
    (0..c).map(one).collect()
}

/// The credit of an input for a class: 1 above the threshold, 1/C at it, else 0.
pub fn credit(shares: &[f64], thresholds: &[f64], class: usize) -> f64 {
    match shares[class].total_cmp(&thresholds[class]) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 1.0 / shares.len() as f64,
        std::cmp::Ordering::Less => 0.0,
    }
}

/// Credit of every input for the class given for it: with the true classes calibrated accuracy, with
/// the classes that a false prompt showed the permuted score.
pub fn credits(shares: &[Vec<f64>], thresholds: &[f64], classes: &[usize]) -> Vec<f64> {
    shares.iter().zip(classes).map(|(s, &c)| credit(s, thresholds, c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_torch() {
        // torch.quantile(torch.tensor([3., 1., 4., 1., 5., 9., 2., 6.]), q), float64.
        let values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
        for (order, want) in
            [(0.0, 1.0), (0.5, 3.5), (2.0 / 3.0, 4.666_666_666_666_666), (0.9, 6.9), (1.0, 9.0)]
        {
            let got = quantile(&mut values.to_vec(), order).expect("finite values");
            assert!((got - want).abs() < 1e-12, "{order}: {got}");
        }
        assert_eq!(quantile(&mut [], 0.5), None);
        assert_eq!(quantile(&mut [1.0, f64::NAN], 0.5), None);
        assert_eq!(quantile(&mut [7.0], 0.3), Some(7.0));
    }

    #[test]
    fn a_model_that_says_always_the_same_is_at_chance() {
        for c in [2usize, 3, 14] {
            let mut always = vec![0.0; c];
            always[1] = 5.0;
            let all = vec![shares(&always); 30 * c];
            let t = thresholds(&all).expect("finite values");
            let classes: Vec<usize> = (0..all.len()).map(|i| i % c).collect();
            let sum: f64 = credits(&all, &t, &classes).iter().sum();
            assert!((sum / all.len() as f64 - 1.0 / c as f64).abs() < 1e-12);
        }
    }

    #[test]
    fn a_preference_for_one_word_does_not_hide_what_the_model_knows() {
        // Two labels, the first always far ahead, but further where it is true.
        let logit = |i: usize| if i.is_multiple_of(2) { vec![9.0, 0.0] } else { vec![7.0, 0.0] };
        let all: Vec<Vec<f64>> = (0..100).map(|i| shares(&logit(i))).collect();
        let classes: Vec<usize> = (0..100).map(|i| i % 2).collect();
        let t = thresholds(&all).expect("finite values");
        assert_eq!(credits(&all, &t, &classes).iter().sum::<f64>(), 100.0);
    }

    #[test]
    fn the_guard_matters_only_where_all_labels_are_improbable() {
        let logs = [-3.0, -5.0, -4.0];
        for (a, b) in shares(&logs).into_iter().zip(guarded_shares(&logs)) {
            assert!((a - b).abs() < 1e-10);
        }
        let far = guarded_shares(&[-200.0, -100.0]);
        assert!((far[0] - 0.5).abs() < 1e-9 && (far[1] - 0.5).abs() < 1e-9, "{far:?}");
    }

    #[test]
    fn shares_of_large_logits_do_not_overflow() {
        assert_eq!(shares(&[1e4, -1e4]), [1.0, 0.0]);
        assert_eq!(thresholds(&[vec![f64::NAN, 0.0]]), None);
        assert_eq!(thresholds(&[]), None);
    }
}
