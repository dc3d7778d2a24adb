//! Critical layers: from which layer on true and false demonstrations part.

use serde::Serialize;

use super::measures::Outcome;
use super::resample::{Estimate, Stratum, ends, resampled, weighted};

/// Shares of the gap that a critical layer is asked for. The paper's is the second.
const SHARES: [f64; 3] = [0.25, 0.5, 0.75];

/// The first layer with a share of the gap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Critical {
    /// Share of the last layer's gap.
    pub share: f64,
    /// Layer, 0 for the embeddings.
    pub layer: usize,
    /// Where its 95 % interval begins.
    pub low: usize,
    /// Where it ends.
    pub high: usize,
}

/// What the layers' gaps say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parting {
    /// At 25, 50 and 75 % of the gap; empty unless the gap's interval lies above 0.
    pub(super) critical: Vec<Critical>,
    /// Half of the depth less the layers between 25 and 75 % of the gap, over the depth: above 0 where the gap
    /// opens faster than evenly.
    pub(super) sharpness: Option<(Estimate, f64)>,
    /// Half of the gap less the mean gap of the first quarter of the layers.
    pub(super) early_agreement: Vec<Stratum>,
}

/// Gaps by layer, then by pair, of a task, and its weight.
pub(super) struct LayerGaps {
    pub(super) weight: f64,
    /// `[layers][pairs]`
    pub(super) gaps: Vec<Vec<f64>>,
}

impl LayerGaps {
    /// From what each layer answers.
    pub(super) fn of(weight: f64, layers: &[Outcome]) -> Self {
        Self { weight, gaps: layers.iter().map(Outcome::gap).collect() }
    }
}

/// First layer whose gap reaches a share of the last one.
fn first(curve: &[f64], share: f64) -> Option<usize> {
    let last = curve.last().copied().filter(|g| *g > 0.0)?;
    curve.iter().position(|g| *g >= share * last)
}

/// Works out where the layers part.
pub(super) fn parting(tasks: &[LayerGaps], gap: &Estimate, seed: u64) -> Parting {
    let layers = tasks.first().map_or(0, |t| t.gaps.len());
    // The quarter of the blocks that comes first, with the embeddings.
    let early = layers.saturating_sub(1) / 4 + 1;
    let early_agreement = tasks
        .iter()
        .map(|t| {
            let last = &t.gaps[layers - 1];
            let of = |pair: usize| {
                let sum: f64 = t.gaps[..early].iter().map(|g| g[pair]).sum();
                0.5 * last[pair] - sum / early as f64
            };
            Stratum { weight: t.weight, values: (0..last.len()).map(of).collect() }
        })
        .collect();
    let curve: Vec<f64> = (0..layers)
        .map(|l| {
            let at = |t: &LayerGaps| Stratum { weight: t.weight, values: t.gaps[l].clone() };
            weighted(&tasks.iter().map(at).collect::<Vec<_>>())
        })
        .collect();
    let found: Vec<Option<usize>> = SHARES.iter().map(|s| first(&curve, *s)).collect();
    let [Some(quarter), Some(half), Some(three)] = found[..] else {
        return Parting { critical: Vec::new(), sharpness: None, early_agreement };
    };
    if gap.low <= 0.0 {
        return Parting { critical: Vec::new(), sharpness: None, early_agreement };
    }
    let depth = (layers - 1).max(1) as f64;
    let sharp = |quarter: usize, three: usize| 0.5 - three.saturating_sub(quarter) as f64 / depth;
    let sizes: Vec<usize> = tasks.iter().map(|t| t.gaps[0].len()).collect();
    let mut layers_of: [Vec<f64>; 3] = Default::default();
    let mut sharps = Vec::new();
    let mut curve = vec![0.0; layers];
    resampled(&sizes, seed, |drawn| {
        for (l, c) in curve.iter_mut().enumerate() {
            let part = |(t, d): (&LayerGaps, &Vec<usize>)| {
                t.weight * d.iter().map(|&i| t.gaps[l][i]).sum::<f64>() / d.len() as f64
            };
            *c = tasks.iter().zip(drawn).map(part).sum();
        }
        // A resample without a gap has no layer: it counts as the last one.
        let at = SHARES.map(|s| first(&curve, s).unwrap_or(layers - 1));
        layers_of.iter_mut().zip(at).for_each(|(all, l)| all.push(l as f64));
        sharps.push(sharp(at[0], at[2]));
    });
    let critical = SHARES
        .iter()
        .zip([quarter, half, three])
        .zip(&mut layers_of)
        .map(|((&share, layer), all)| {
            let (low, high) = ends(all);
            Critical { share, layer, low: low as usize, high: high as usize }
        })
        .collect();
    let not_above = sharps.iter().filter(|s| **s <= 0.0).count() as f64;
    let p = (2.0 * (not_above + 1.0) / (sharps.len() as f64 + 1.0)).min(1.0);
    let (low, high) = ends(&mut sharps);
    let sharpness = Estimate { value: sharp(quarter, three), low, high, n: gap.n };
    Parting { critical, sharpness: Some((sharpness, p)), early_agreement }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(curve: &[f64]) -> Vec<LayerGaps> {
        vec![LayerGaps { weight: 1.0, gaps: curve.iter().map(|g| vec![*g; 12]).collect() }]
    }

    fn certain(value: f64) -> Estimate {
        Estimate { value, low: value, high: value, n: 12 }
    }

    #[test]
    fn a_step_is_sharp_and_a_ramp_is_not() {
        let step: Vec<f64> = (0..=12).map(|l| f64::from(u8::from(l >= 7))).collect();
        let p = parting(&gaps(&step), &certain(1.0), 0);
        assert_eq!(p.critical.iter().map(|c| c.layer).collect::<Vec<_>>(), [7, 7, 7]);
        assert_eq!((p.critical[1].low, p.critical[1].high), (7, 7));
        assert_eq!(p.sharpness.map(|s| s.0.value), Some(0.5));
        assert_eq!(p.early_agreement[0].values[0], 0.5);
        let ramp: Vec<f64> = (0..=12).map(|l| f64::from(l) / 12.0).collect();
        let p = parting(&gaps(&ramp), &certain(1.0), 0);
        assert_eq!(p.critical.iter().map(|c| c.layer).collect::<Vec<_>>(), [3, 6, 9]);
        assert_eq!(p.sharpness.map(|s| s.0.value), Some(0.0));
    }

    #[test]
    fn without_a_gap_there_is_no_layer() {
        let none = Estimate { value: 0.1, low: -0.1, high: 0.3, n: 12 };
        assert!(parting(&gaps(&[0.0, 0.0, 0.1]), &none, 0).critical.is_empty());
        assert!(parting(&gaps(&[0.0, 0.0, -0.1]), &certain(-0.1), 0).critical.is_empty());
    }
}
