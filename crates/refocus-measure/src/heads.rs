//! What makes a false induction head (Halawi et al., "Overthinking the Truth", arXiv 2307.09476, section 5):
//! from the position before a label it attends to earlier labels, to those of the same class more than to
//! others, and it raises the logit of the class shown.

use std::ops::Range;
use std::sync::Arc;

use refocus_compute::{Dirs, Kernels, Ops};
use refocus_model::{Model, Wiring};

use crate::direction::FinalNorm;
use crate::error::MeasureError;

/// The keys that are looked at in a prompt: for each slot its label's tokens, then for each slot the token
/// before its label.
pub fn key_groups(slots: &[u32], label_tokens: &[u32]) -> Vec<Vec<Range<u32>>> {
    let labels = slots.iter().zip(label_tokens).map(|(s, n)| s + 1..s + 1 + n);
    labels.chain(slots.iter().map(|s| *s..s + 1)).map(|keys| Vec::from([keys])).collect()
}

/// Which keys a score is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All tokens of a label.
    Label,
    /// The token before a label.
    BeforeLabel,
}

/// Scores of one head by slot, means over prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Matching {
    /// Prefix-matching score: attention to keys of the same class minus `1/(C − 1)` times that to the others.
    pub score: Vec<f64>,
    /// Attention to keys of the same class.
    pub same: Vec<f64>,
    /// Attention to all keys.
    pub all: Vec<f64>,
    /// The score that the head's mean attention to each earlier slot would have with these classes, had it no
    /// regard for them: what distance alone earns.
    pub by_distance: Vec<f64>,
    /// Standard error of the score at the last slot.
    pub error: f64,
}

/// Attention of one head, summed over prompts.
#[derive(Clone, Debug, PartialEq)]
struct Sums {
    /// `[2][slots][slots]`: from the slot of the row to the key of the column.
    table: Vec<f64>,
    /// `[2][slots]`
    same: Vec<f64>,
    /// `[2][slots]`
    score: Vec<f64>,
    /// `[2]`, squares of the score at the last slot.
    square: [f64; 2],
}

/// Attention of every head to earlier labels, added up over prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelAttention {
    slots: usize,
    n_classes: usize,
    prompts: usize,
    /// `[slots][slots]`: 1 for each prompt where both show the same class, else `−1/(C − 1)`.
    weights: Vec<f64>,
    heads: Vec<Sums>,
}

impl LabelAttention {
    /// Nothing added yet.
    pub fn new(heads: usize, slots: usize, n_classes: usize) -> Self {
        let sums = Sums {
            table: vec![0.0; 2 * slots * slots],
            same: vec![0.0; 2 * slots],
            score: vec![0.0; 2 * slots],
            square: [0.0; 2],
        };
        Self { slots, n_classes, prompts: 0, weights: vec![0.0; slots * slots], heads: vec![sums; heads] }
    }

    /// Prompts added.
    pub fn prompts(&self) -> usize {
        self.prompts
    }

    fn weight(&self, classes: &[u32], t: usize, i: usize) -> f64 {
        if classes[t] == classes[i] { 1.0 } else { -1.0 / (self.n_classes as f64 - 1.0) }
    }

    /// Adds a prompt that shows `classes`, one a slot. `mass` is for each block the attention from its slots
    /// `[slots][heads][2 · slots]` to the groups of [`key_groups`], blocks in order.
    ///
    /// # Panics
    /// Where the shapes are others than those given to [`LabelAttention::new`].
    pub fn add(&mut self, classes: &[u32], mass: &[&[f32]]) {
        let k = self.slots;
        assert_eq!(classes.len(), k, "one class a slot");
        let each = self.heads.len() / mass.len().max(1);
        self.prompts += 1;
        for t in 0..k {
            for i in 0..t {
                self.weights[t * k + i] += self.weight(classes, t, i);
            }
        }
        let weights: Vec<f64> = (0..k * k).map(|at| self.weight(classes, at / k, at % k)).collect();
        for (n, sums) in self.heads.iter_mut().enumerate() {
            let block = mass[n / each];
            assert_eq!(block.len(), k * each * 2 * k, "attention from every slot to two groups a slot");
            for target in 0..2 {
                for t in 0..k {
                    let row = &block[(t * each + n % each) * 2 * k + target * k..][..t];
                    let mut score = 0.0;
                    for (i, a) in row.iter().enumerate() {
                        let (a, w) = (f64::from(*a), weights[t * k + i]);
                        sums.table[(target * k + t) * k + i] += a;
                        score += w * a;
                        if w > 0.0 {
                            sums.same[target * k + t] += a;
                        }
                    }
                    sums.score[target * k + t] += score;
                    if t + 1 == k {
                        sums.square[target] += score * score;
                    }
                }
            }
        }
    }

    /// Takes in the prompts of another set.
    ///
    /// # Panics
    /// Where the shapes differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!((self.slots, self.heads.len()), (other.slots, other.heads.len()), "equal shapes");
        self.prompts += other.prompts;
        let add = |a: &mut [f64], b: &[f64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        add(&mut self.weights, &other.weights);
        for (a, b) in self.heads.iter_mut().zip(&other.heads) {
            add(&mut a.table, &b.table);
            add(&mut a.same, &b.same);
            add(&mut a.score, &b.score);
            add(&mut a.square, &b.square);
        }
    }

    /// Attention of a head, numbered through all blocks, from the last slot to the labels before it, summed over
    /// prompts: `[slots]`, the last of them 0.
    pub fn from_last_slot(&self, head: usize) -> &[f64] {
        let k = self.slots;
        &self.heads[head].table[(k - 1) * k..k * k]
    }

    /// Everything that was added up, to be kept.
    pub fn to_numbers(&self) -> Vec<f64> {
        let mut out = vec![self.prompts as f64];
        out.extend(&self.weights);
        for s in &self.heads {
            out.extend(s.table.iter().chain(&s.same).chain(&s.score).chain(&s.square));
        }
        out
    }

    /// What [`LabelAttention::to_numbers`] gave; `None` where the shape is another.
    pub fn from_numbers(heads: usize, slots: usize, n_classes: usize, numbers: &[f64]) -> Option<Self> {
        let mut out = Self::new(heads, slots, n_classes);
        let (prompts, mut rest) = numbers.split_first()?;
        out.prompts = *prompts as usize;
        let mut take = |to: &mut [f64]| {
            let (own, others) = rest.split_at_checked(to.len())?;
            to.copy_from_slice(own);
            rest = others;
            Some(())
        };
        take(&mut out.weights)?;
        for s in &mut out.heads {
            take(&mut s.table)?;
            take(&mut s.same)?;
            take(&mut s.score)?;
            take(&mut s.square)?;
        }
        rest.is_empty().then_some(out)
    }

    /// Scores of a head, numbered through all blocks. Without prompts they are not numbers.
    pub fn matching(&self, head: usize, target: Target) -> Matching {
        let (k, n) = (self.slots, self.prompts as f64);
        let (sums, which) = (&self.heads[head], usize::from(target == Target::BeforeLabel));
        let row = |x: &[f64]| x[which * k..(which + 1) * k].iter().map(|x| x / n).collect::<Vec<f64>>();
        let table = |t: usize| &sums.table[(which * k + t) * k..][..t];
        let by_distance = |t: usize| -> f64 {
            table(t).iter().zip(&self.weights[t * k..]).fold(0.0, |sum, (a, w)| sum + a / n * (w / n))
        };
        let score = row(&sums.score);
        let mean = score.last().copied().unwrap_or(0.0);
        let variance = ((sums.square[which] / n - mean * mean) * n / (n - 1.0)).max(0.0);
        Matching {
            score,
            same: row(&sums.same),
            all: (0..k).map(|t| table(t).iter().fold(0.0, |sum, a| sum + a) / n).collect(),
            by_distance: (0..k).map(by_distance).collect(),
            error: (variance / n).sqrt(),
        }
    }
}

/// What heads write towards label words.
pub struct Promotion {
    norm: FinalNorm,
    /// `[labels, d_model]`
    dirs: Arc<[f32]>,
    /// What the final norm's bias adds to each label.
    bias: Vec<f64>,
    n_labels: usize,
}

/// A head's share of the logit of one label minus another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promoted {
    /// With the final norm's denominator of the whole residual stream: a summand of the model's logits.
    pub frozen: f64,
    /// The lens on the head's output alone, normed by its own denominator, the norm's bias included.
    pub renormed: f64,
}

impl Promotion {
    /// Whether the model's residual stream is a sum of what heads write, and its unembedding reads it.
    pub fn is_defined<K: Kernels>(m: &Model<K>) -> bool {
        m.spec.wiring != Wiring::PostNorm && m.project_out.is_none()
    }

    /// Prepares the directions of label ids.
    ///
    /// # Errors
    /// Post-norm models, whose residual stream is no sum of what heads write; what the backend reports.
    pub fn new<O: Ops>(o: &mut O, m: &Model<O::K>, label_ids: &[u32]) -> Result<Self, MeasureError> {
        if !Self::is_defined(m) {
            return Err(MeasureError::PostNorm);
        }
        let norm = FinalNorm::of(o, m)?;
        let u = o.embed(&m.unembed.w, label_ids)?;
        let u = o.to_host(&u)?;
        let rows = || u.chunks_exact(m.spec.d_model);
        let dirs = rows().flat_map(|u| norm.direction(u)).map(|d| d as f32).collect();
        let bias = rows().map(|u| norm.bias_along(u)).collect();
        Ok(Self { norm, dirs, bias, n_labels: label_ids.len() })
    }

    /// Every head of a block at some positions. `z` `[rows, n_heads · d_head]` are the heads' outputs there,
    /// `scale` the final norm's denominators (1 without a norm), `labels` the two labels of each row: the
    /// first's logit is taken minus the second's. `[rows][heads]`.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn heads<O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        layer: usize,
        z: &O::T,
        scale: &[f32],
        labels: &[(u32, u32)],
    ) -> Result<Vec<Vec<Promoted>>, MeasureError> {
        let (heads, d, c) = (m.spec.n_heads, m.spec.d_model, self.n_labels);
        let wo = &m.blocks[layer].o;
        let dirs = o.constant(c, d, &self.dirs)?;
        let dots = o.head_dot(z, wo, Dirs { dirs: &dirs, n_heads: heads })?;
        let dots = o.to_host(&dots)?;
        let results = o.head_result(z, wo, heads)?;
        let results = o.to_host(&results)?;
        let head = |row: usize, h: usize| {
            let (first, second) = (labels[row].0 as usize, labels[row].1 as usize);
            let own = &dots[(row * heads + h) * c..][..c];
            let dot = f64::from(own[first]) - f64::from(own[second]);
            let denominator = self.norm.denominator(&results[(row * heads + h) * d..][..d]);
            Promoted {
                frozen: dot / f64::from(scale[row]),
                renormed: dot / denominator + self.bias[first] - self.bias[second],
            }
        };
        Ok((0..labels.len()).map(|row| (0..heads).map(|h| head(row, h)).collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attention of two heads in one block at three slots: the first to the label of the same class, the
    /// second half to each of the last two labels.
    fn mass(classes: &[u32]) -> Vec<f32> {
        let k = classes.len();
        let mut out = vec![0.0; k * 2 * 2 * k];
        for t in 0..k {
            for i in 0..t {
                if classes[i] == classes[t] {
                    out[(t * 2) * 2 * k + i] = 0.5;
                }
                if i + 2 >= t {
                    out[(t * 2 + 1) * 2 * k + i] = 0.5;
                }
            }
        }
        out
    }

    #[test]
    fn a_head_that_looks_at_the_same_class_has_its_attention_as_score() {
        let mut all = LabelAttention::new(2, 3, 2);
        for classes in [[0, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]] {
            all.add(&classes, &[&mass(&classes)]);
        }
        let looks = all.matching(0, Target::Label);
        // At the last slot: one, two, one and no earlier label of the same class.
        assert_eq!(looks.score[2], (0.5 + 1.0 + 0.5 + 0.0) / 4.0);
        assert_eq!((looks.same[2], looks.all[2]), (0.5, 0.5));
        assert_eq!((looks.score[0], looks.all[0]), (0.0, 0.0));
        // Each earlier slot shows the same class in half of the prompts.
        assert_eq!(looks.by_distance[2], 0.0);
        assert_eq!(all.matching(0, Target::BeforeLabel).all, [0.0; 3]);
    }

    #[test]
    fn a_head_that_looks_back_by_distance_scores_what_distance_earns() {
        let mut all = LabelAttention::new(2, 3, 3);
        let mut half = all.clone();
        for (n, classes) in [[0, 1, 0], [2, 1, 1], [0, 2, 2], [2, 0, 0], [1, 0, 2]].iter().enumerate() {
            if n < 2 { &mut all } else { &mut half }.add(classes, &[&mass(classes)]);
        }
        all.merge(&half);
        assert_eq!(LabelAttention::from_numbers(2, 3, 3, &all.to_numbers()), Some(all.clone()));
        assert_eq!(LabelAttention::from_numbers(2, 4, 3, &all.to_numbers()), None);
        let m = all.matching(1, Target::Label);
        assert_eq!(all.prompts(), 5);
        // In four prompts half of the attention is on the same class, in the fifth none.
        assert!((m.score[2] - 0.1).abs() < 1e-12, "{m:?}");
        assert!((m.score[2] - m.by_distance[2]).abs() < 1e-12, "{m:?}");
    }

    #[test]
    fn groups_are_the_tokens_of_labels_and_those_before() {
        let groups = key_groups(&[3, 9], &[2, 1]);
        assert!(groups.iter().all(|keys| keys.len() == 1));
        assert_eq!(groups.concat(), [4..6, 10..11, 3..4, 9..10]);
    }
}
