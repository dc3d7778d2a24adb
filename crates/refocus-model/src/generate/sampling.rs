//! How the next token follows from a row of logits.

use std::cmp::Ordering;

use refocus_compute::{Philox, Purpose, softmax_weights, unit_f64};

const PURPOSE: Purpose = Purpose::new("sample");
/// Of a sort by size only this many are sorted at first, then eight times as many.
const FIRST_SORTED: usize = 64;
/// Weights that are summed before their sum is added to the others: a draw then looks into one such block only.
const BLOCK: usize = 256;
/// More logits than this are not asked for when fewer than all decide.
const MOST_DECIDING: usize = 64;

/// How a token is chosen. The order is that of `transformers`: bias and penalties, what a constraint
/// forbids, temperature, top-k, top-p, min-p; each renormalises what the one before it left.
///
/// A token is a pure function of logits, seed, sample and position, so the same seed gives the same text
/// whatever runs beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the highest logit, ties to the lower id.
    pub temperature: f32,
    /// Only the `k` highest logits, ties to the lower id.
    pub top_k: Option<usize>,
    /// Only the fewest most likely tokens that have at least this probability together; 1 keeps all.
    pub top_p: f32,
    /// Only tokens with at least this share of the highest probability; 0 keeps all.
    pub min_p: f32,
    /// Names the random numbers.
    pub seed: u64,
    /// Added to logits, `(id, bias)`.
    pub logit_bias: Vec<(u32, f32)>,
    /// Subtracted once from the logit of every token that was generated before.
    pub presence_penalty: f32,
    /// Subtracted as often as the token was generated before.
    pub frequency_penalty: f32,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            logit_bias: Vec::new(),
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }
    }
}

impl Sampling {
    /// What is wrong with the numbers, for a vocabulary of this size.
    pub(super) fn check(&self, vocab: usize) -> Result<(), String> {
        let wrong = |what: String| Err(what);
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return wrong(format!("the temperature is {}, it must be 0 or above", self.temperature));
        }
        if self.top_k == Some(0) {
            return wrong("top-k is 0, it must be 1 or above".to_owned());
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong(format!("top-p is {}, it must be above 0 and at most 1", self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return wrong(format!("min-p is {}, it must be from 0 to 1", self.min_p));
        }
        for (name, x) in [("presence", self.presence_penalty), ("frequency", self.frequency_penalty)] {
            if !x.is_finite() {
                return wrong(format!("the {name} penalty is {x}"));
            }
        }
        for (id, bias) in &self.logit_bias {
            if *id as usize >= vocab {
                return wrong(format!("the bias is for token {id}, the vocabulary has {vocab}"));
            }
            if !bias.is_finite() {
                return wrong(format!("the bias of token {id} is {bias}"));
            }
        }
        Ok(())
    }

    /// How many of the model's highest logits decide, whatever the others are; `None` where all may. Biases that
    /// only lower logits leave one of the highest as it was.
    pub(super) fn decided_by(&self) -> Option<usize> {
        let n = if self.temperature > 0.0 {
            self.top_k.filter(|_| self.logit_bias.is_empty())?
        } else {
            self.logit_bias.iter().all(|(_, bias)| *bias <= 0.0).then_some(self.logit_bias.len() + 1)?
        };
        let penalties = self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
        (!penalties && n <= MOST_DECIDING).then_some(n)
    }

    /// The token that as many of the highest logits decide as [`decided_by`](Self::decided_by) says, or more, best
    /// first, with its own logit; ties to the lower id.
    pub(super) fn decide(&self, top: &[(u32, f32)], sample: u32, position: u32) -> Option<(u32, f32)> {
        if self.temperature > 0.0 {
            let best = top.first()?.1;
            let possible = top.iter().take(self.top_k?).filter(|t| t.1 > f32::NEG_INFINITY);
            let mut some: Vec<(u32, f32)> = possible.copied().collect();
            some.sort_unstable_by_key(|t| t.0);
            let logits: Vec<f32> = some.iter().map(|t| t.1).collect();
            return self.draw(&logits, best, self.unit(sample, position)).map(|i| some[i]);
        }
        let biased = |&(id, logit): &(u32, f32)| {
            let biases = self.logit_bias.iter().filter(|b| b.0 == id);
            biases.fold(logit, |sum, (_, bias)| sum + bias)
        };
        let better = |a: &&(u32, f32), b: &&(u32, f32)| {
            biased(a).partial_cmp(&biased(b)).unwrap_or(Ordering::Equal).then(b.0.cmp(&a.0))
        };
        top.iter().max_by(better).copied()
    }

    /// Bias and penalties; `generated` are the tokens so far without the prompt.
    pub(super) fn bias(&self, logits: &mut [f32], generated: &[u32]) {
        for &(id, bias) in &self.logit_bias {
            logits[id as usize] += bias;
        }
        if self.presence_penalty == 0.0 && self.frequency_penalty == 0.0 {
            return;
        }
        let mut seen = generated.to_vec();
        seen.sort_unstable();
        for same in seen.chunk_by(|a, b| a == b) {
            logits[same[0] as usize] -= self.presence_penalty + self.frequency_penalty * same.len() as f32;
        }
    }

    /// The next token; what must not be chosen is −∞. `None` where everything is.
    pub(super) fn choose(&self, logits: &[f32], sample: u32, position: u32) -> Option<u32> {
        let best = best(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        let (best, unit) = (logits[best as usize], self.unit(sample, position));
        let Some(k) = self.top_k else {
            return self.draw(logits, best, unit).map(|i| i as u32);
        };
        let mut ids = highest(logits, k);
        ids.sort_unstable();
        let some: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
        self.draw(&some, best, unit).map(|i| ids[i])
    }

    /// The random number of a token, from 0 to below 1.
    fn unit(&self, sample: u32, position: u32) -> f64 {
        let words = Philox::new(self.seed, PURPOSE).at(0, sample, position);
        unit_f64(words[0], words[1])
    }

    /// Where `unit` falls among these logits, of which top-k left all.
    fn draw(&self, logits: &[f32], best: f32, unit: f64) -> Option<usize> {
        let weights = softmax_weights(logits, best, f64::from(self.temperature));
        if self.top_p == 1.0 && self.min_p == 0.0 {
            return drawn(&weights, unit);
        }
        let kept = self.kept(logits, &weights);
        let weights: Vec<f64> = kept.iter().map(|&i| weights[i as usize]).collect();
        drawn(&weights, unit).map(|i| kept[i] as usize)
    }

    /// What top-p and min-p leave, in ascending order; `weights` are those of the logits.
    fn kept(&self, logits: &[f32], weights: &[f64]) -> Vec<u32> {
        let weight = |i: &u32| weights[*i as usize];
        let better = better(logits);
        // What is impossible has weight 0.
        let above = |least: f64| {
            let all = (0..).zip(weights);
            all.filter(|(_, w)| **w >= least && **w > 0.0).map(|(i, _)| i).collect::<Vec<u32>>()
        };
        let mut kept = above(f64::from(self.min_p));
        if self.top_p < 1.0 {
            let total = sum(weights);
            let enough = f64::from(self.top_p) * total;
            // All that are less likely than this have no more than what may be missing, even together.
            let mut likely = above((1.0 - f64::from(self.top_p)) * total / weights.len() as f64);
            let reached = reaching(&mut likely, enough, &better, weight).or_else(|| {
                // Rounding may leave a hair.
                likely = above(0.0);
                reaching(&mut likely, enough, &better, weight)
            });
            likely.truncate(reached.unwrap_or(likely.len()));
            // Either limit leaves the best.
            if likely.len() < kept.len() {
                kept = likely;
                kept.sort_unstable();
            }
        }
        kept
    }
}

/// How many of the best of these have `enough` weight together, these now first and in order; nothing where all
/// have less.
fn reaching(
    ids: &mut [u32],
    enough: f64,
    better: &impl Fn(&u32, &u32) -> Ordering,
    weight: impl Fn(&u32) -> f64,
) -> Option<usize> {
    let mut sorted = FIRST_SORTED;
    loop {
        if sorted < ids.len() {
            ids.select_nth_unstable_by(sorted - 1, better);
        }
        let head = sorted.min(ids.len());
        ids[..head].sort_unstable_by(better);
        let mut sum = 0.0;
        let reached = ids[..head].iter().position(|id| {
            sum += weight(id);
            sum >= enough
        });
        match reached {
            Some(i) => return Some(i + 1),
            None if head == ids.len() => return None,
            None => sorted *= 8,
        }
    }
}

/// Sums of every eighth weight first: eight that do not wait for each other.
fn sum(weights: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    for some in weights.chunks(sums.len()) {
        sums.iter_mut().zip(some).for_each(|(s, w)| *s += w);
    }
    sums.iter().sum()
}

/// The place among these weights where `unit`, from 0 to below 1, falls; nothing where all are 0.
fn drawn(weights: &[f64], unit: f64) -> Option<usize> {
    let sums: Vec<f64> = weights.chunks(BLOCK).map(sum).collect();
    let mut left = unit * sums.iter().sum::<f64>();
    for (b, (block, sum)) in weights.chunks(BLOCK).zip(sums).enumerate() {
        if left >= sum {
            left -= sum;
            continue;
        }
        let inside = block.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        // Rounding may leave a hair.
        let at = inside.or_else(|| block.iter().rposition(|w| *w > 0.0))?;
        return Some(b * BLOCK + at);
    }
    weights.iter().rposition(|w| *w > 0.0)
}

/// Higher logits first, ties to the lower id.
fn better(logits: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + '_ {
    |a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b))
}

/// Ids of the `k` highest logits in any order, fewer where others are −∞; ties to the lower id.
fn highest(logits: &[f32], k: usize) -> Vec<u32> {
    /// Of so many neighbours the highest is looked at first.
    const NEIGHBOURS: usize = 16;
    let highest_of = |c: &[f32]| c.iter().fold(f32::NEG_INFINITY, |h, &x| if x > h { x } else { h });
    let maxima: Vec<f32> = logits.chunks(NEIGHBOURS).map(highest_of).collect();
    // As many neighbourhoods reach this, so as many logits do, and all that are wanted.
    let mut least = f32::NEG_INFINITY;
    if (1..maxima.len()).contains(&k) {
        let mut sorted = maxima.clone();
        least = *sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
    }
    let mut out = Vec::with_capacity(k.min(logits.len()));
    for (c, (logits, max)) in logits.chunks(NEIGHBOURS).zip(&maxima).enumerate() {
        if *max >= least {
            let ids = (c * NEIGHBOURS) as u32..;
            out.extend(ids.zip(logits).filter(|(_, x)| **x >= least && **x > f32::NEG_INFINITY).map(|x| x.0));
        }
    }
    if (1..out.len()).contains(&k) {
        out.select_nth_unstable_by(k - 1, better(logits));
    }
    out.truncate(k);
    out
}

/// The id of the highest logit, ties to the lower id; `None` where all are −∞.
fn best(logits: &[f32]) -> Option<u32> {
    // A maximum of every sixteenth logit first: sixteen that do not wait for each other.
    let mut highest = [f32::NEG_INFINITY; 16];
    for some in logits.chunks(highest.len()) {
        for (h, &x) in highest.iter_mut().zip(some) {
            *h = if x > *h { x } else { *h };
        }
    }
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let first = || logits.iter().position(|&x| x == highest).map(|i| i as u32);
    (highest > f32::NEG_INFINITY).then(first).flatten()
}

/// The `n` highest logits, best first, ties to the lower id.
pub(super) fn top(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut ids = highest(logits, n);
    ids.sort_unstable_by(better(logits));
    ids.into_iter().map(|id| (id, logits[id as usize])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Probabilities after all limits, written down plainly in f64.
    fn plain(logits: &[f32], s: &Sampling) -> Vec<f64> {
        let n = logits.len();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.truncate(s.top_k.unwrap_or(n));
        let scaled: Vec<f64> = logits.iter().map(|&l| f64::from(l) / f64::from(s.temperature)).collect();
        let top = order.iter().map(|&i| scaled[i]).fold(f64::NEG_INFINITY, f64::max);
        let softmax = |order: &[usize]| -> Vec<f64> {
            let sum: f64 = order.iter().map(|&i| (scaled[i] - top).exp()).sum();
            order.iter().map(|&i| (scaled[i] - top).exp() / sum).collect()
        };
        if s.top_p < 1.0 {
            let p = softmax(&order);
            let mut sum = 0.0;
            let cut = p.iter().position(|p| {
                sum += p;
                sum >= f64::from(s.top_p)
            });
            order.truncate(cut.map_or(order.len(), |i| i + 1));
        }
        let p = softmax(&order);
        let likely = p.iter().filter(|&&x| x >= f64::from(s.min_p) * p[0]).count();
        order.truncate(likely);
        let mut out = vec![0.0; n];
        order.iter().zip(softmax(&order)).for_each(|(&i, p)| out[i] = p);
        out
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_a_plain_sort_keeps(
            logits in proptest::collection::vec(-8i8..8, 1..600),
            temperature in 1u8..40,
            top_k in proptest::option::of(1usize..40),
            top_p in 1u8..=20,
            min_p in 0u8..10,
        ) {
            // Coarse logits make many ties; odd fractions keep sums away from the limits.
            let logits: Vec<f32> = logits.iter().map(|&x| f32::from(x) * 0.37).collect();
            let s = Sampling {
                temperature: f32::from(temperature) * 0.1,
                top_k,
                top_p: if top_p == 20 { 1.0 } else { f32::from(top_p) * 0.049_7 },
                min_p: f32::from(min_p) * 0.031,
                ..Sampling::default()
            };
            let mut ids = highest(&logits, top_k.unwrap_or(logits.len()));
            ids.sort_unstable();
            let some: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
            let best = some.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights = softmax_weights(&some, best, f64::from(s.temperature));
            let kept = s.kept(&some, &weights);
            let total: f64 = kept.iter().map(|&i| weights[i as usize]).sum();
            let want = plain(&logits, &s);
            prop_assert_eq!(kept.len(), want.iter().filter(|p| **p > 0.0).count());
            for (i, id) in kept.iter().map(|&i| (i as usize, ids[i as usize] as usize)) {
                prop_assert!((weights[i] / total - want[id]).abs() < 1e-12);
            }
            let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
            sorted.sort_by(better(&logits));
            let n = top_k.unwrap_or(7).min(logits.len());
            let ids: Vec<u32> = top(&logits, n).into_iter().map(|t| t.0).collect();
            prop_assert_eq!(&ids, &sorted[..n]);
        }

        #[test]
        fn a_draw_falls_where_a_plain_walk_falls(
            weights in proptest::collection::vec(0u8..4, 1..900),
            place in 0u32..1000,
        ) {
            // Small whole numbers, whose sums are exact in any order.
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let total: f64 = weights.iter().sum();
            let unit = f64::from(place) / 1000.0;
            let mut left = unit * total;
            let want = weights.iter().position(|w| {
                left -= w;
                left < 0.0
            });
            prop_assert_eq!(drawn(&weights, unit), want);
        }

        #[test]
        fn without_temperature_the_highest_wins(logits in proptest::collection::vec(-8i8..8, 1..200)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let want = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
            prop_assert_eq!(Sampling::default().choose(&logits, 0, 0), Some(want as u32));
            prop_assert_eq!(top(&logits, 1)[0].0, want as u32);
        }

        #[test]
        fn the_highest_few_draw_what_all_draw(
            logits in proptest::collection::vec(-4i8..4, 1..60),
            top_k in 1usize..20,
            more in 0usize..5,
            top_p in 1u8..=10,
            seed in 0u64..1000,
        ) {
            let impossible = |x: i8| if x == -4 { f32::NEG_INFINITY } else { f32::from(x) * 0.5 };
            let logits: Vec<f32> = logits.into_iter().map(impossible).collect();
            let top_p = f32::from(top_p) / 10.0;
            let s = Sampling { temperature: 1.3, top_k: Some(top_k), top_p, seed, ..Sampling::default() };
            let want = s.choose(&logits, 3, 5).map(|id| (id, logits[id as usize]));
            prop_assert_eq!(s.decided_by(), Some(top_k));
            prop_assert_eq!(s.decide(&top(&logits, top_k + more), 3, 5), want);
        }

        #[test]
        fn where_biases_only_lower_few_logits_decide(
            logits in proptest::collection::vec(-4i8..4, 1..60),
            biases in proptest::collection::vec((0u32..60, 0u8..5), 0..9),
        ) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let known = biases.into_iter().filter(|b| (b.0 as usize) < logits.len());
            let logit_bias = known.map(|(id, b)| (id, -f32::from(b))).collect();
            let s = Sampling { logit_bias, ..Sampling::default() };
            let mut biased = logits.clone();
            s.bias(&mut biased, &[]);
            let want = s.choose(&biased, 0, 0).expect("a token");
            let few = top(&logits, s.decided_by().expect("few"));
            prop_assert_eq!(s.decide(&few, 0, 0), Some((want, logits[want as usize])));
        }
    }

    /// 20,000 draws at seed 11 beside the distribution: chi-square below its 99.9 % quantile.
    #[test]
    fn draws_follow_the_distribution() {
        let logits: Vec<f32> = (0..12).map(|i| ((i * 7) % 12) as f32 * 0.3).collect();
        for (top_k, top_p, min_p, degrees, quantile) in [
            (None, 1.0, 0.0, 11, 31.26),
            (Some(5), 1.0, 0.0, 4, 18.47),
            (None, 0.85, 0.0, 6, 22.46),
            (None, 1.0, 0.15, 8, 26.12),
        ] {
            let s = Sampling { temperature: 1.3, top_k, top_p, min_p, seed: 11, ..Sampling::default() };
            let want = plain(&logits, &s);
            let n = 20_000;
            let mut counts = vec![0u32; logits.len()];
            for i in 0..n {
                counts[s.choose(&logits, i % 7, i / 7).expect("a token") as usize] += 1;
            }
            let mut chi = 0.0;
            for (&c, &p) in counts.iter().zip(&want) {
                let expected = p * f64::from(n);
                if p == 0.0 {
                    assert_eq!(c, 0);
                } else {
                    chi += (f64::from(c) - expected).powi(2) / expected;
                }
            }
            assert_eq!(want.iter().filter(|p| **p > 0.0).count() - 1, degrees);
            assert!(chi < quantile, "{top_k:?} {top_p} {min_p}: chi-square {chi}");
        }
    }

    #[test]
    fn seed_sample_and_position_name_the_draw() {
        let logits = vec![0.0f32; 1000];
        let at = |seed, sample, position| {
            Sampling { temperature: 1.0, seed, ..Sampling::default() }.choose(&logits, sample, position)
        };
        assert_eq!(at(1, 2, 3), at(1, 2, 3));
        let others = [at(2, 2, 3), at(1, 3, 3), at(1, 2, 4)];
        assert!(others.iter().all(|o| *o != at(1, 2, 3)), "{others:?}");
    }

    #[test]
    fn penalties_count_what_was_generated() {
        let s = Sampling {
            presence_penalty: 1.0,
            frequency_penalty: 0.5,
            logit_bias: vec![(3, 2.0)],
            ..Sampling::default()
        };
        let mut logits = [0.0; 4];
        s.bias(&mut logits, &[1, 2, 1]);
        assert_eq!(logits, [0.0, -2.0, -1.5, 2.0]);
    }

    #[test]
    fn where_nothing_is_possible_nothing_is_chosen() {
        let s = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(s.choose(&[f32::NEG_INFINITY; 3], 0, 0), None);
        assert_eq!(s.choose(&[f32::NEG_INFINITY, -1.0, f32::NEG_INFINITY], 0, 0), Some(1));
    }

    #[test]
    fn wrong_numbers_are_named() {
        let check = |s: Sampling| s.check(10).expect_err("refused");
        assert!(check(Sampling { temperature: -1.0, ..Sampling::default() }).contains("temperature"));
        assert!(check(Sampling { temperature: f32::NAN, ..Sampling::default() }).contains("temperature"));
        assert!(check(Sampling { top_k: Some(0), ..Sampling::default() }).contains("top-k"));
        assert!(check(Sampling { top_p: 0.0, ..Sampling::default() }).contains("top-p"));
        assert!(check(Sampling { min_p: 1.5, ..Sampling::default() }).contains("min-p"));
        assert!(check(Sampling { logit_bias: vec![(10, 1.0)], ..Sampling::default() }).contains("token 10"));
        assert!(check(Sampling { logit_bias: vec![(1, f32::NAN)], ..Sampling::default() }).contains("NaN"));
    }
}
