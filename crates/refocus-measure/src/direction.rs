//! What the final norm does to a direction: with its statistics held fixed, a logit is a product of the
//! residual stream with one vector.

use refocus_compute::{NormKind, Ops};
use refocus_model::Model;

use crate::error::MeasureError;

/// Gain and bias of a model's final norm, on the host.
pub(crate) struct FinalNorm {
    gain: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    kind: Option<(NormKind, f32)>,
}

impl FinalNorm {
    pub(crate) fn of<O: Ops>(o: &mut O, m: &Model<O::K>) -> Result<Self, MeasureError> {
        let Some(n) = &m.ln_final else { return Ok(Self { gain: None, bias: None, kind: None }) };
        let mut host = |p: &Option<refocus_compute::Param<_>>| -> Result<Option<Vec<f32>>, MeasureError> {
            let Some(p) = p else { return Ok(None) };
            let p = o.parameter(p)?;
            Ok(Some(o.to_host(&p)?))
        };
        Ok(Self { gain: host(&n.gain)?, bias: host(&n.bias)?, kind: Some((n.kind, n.eps)) })
    }

    pub(crate) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// The direction of the residual stream whose product, over the norm's denominator, is that of the
    /// normed stream with `u`, but for the bias.
    pub(crate) fn direction(&self, u: &[f32]) -> Vec<f64> {
        let mut dir: Vec<f64> = match &self.gain {
            Some(g) => u.iter().zip(g).map(|(u, g)| f64::from(*u) * f64::from(*g)).collect(),
            None => u.iter().map(|u| f64::from(*u)).collect(),
        };
        if matches!(self.kind, Some((NormKind::Layer, _))) {
            // Subtracting the mean of a vector is the same as subtracting the mean of the direction.
            let mean = dir.iter().sum::<f64>() / dir.len() as f64;
            dir.iter_mut().for_each(|d| *d -= mean);
        }
        dir
    }

    /// What the norm does to a vector but for its denominator and bias: its products with rows of the
    /// unembedding are those of the vector with their directions.
    pub(crate) fn lens(&self, x: &[f32]) -> Vec<f32> {
        let mean = match self.kind {
            Some((NormKind::Layer, _)) => x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64,
            _ => 0.0,
        };
        let gain = |i: usize| self.gain.as_ref().map_or(1.0, |g| f64::from(g[i]));
        x.iter().enumerate().map(|(i, x)| ((f64::from(*x) - mean) * gain(i)) as f32).collect()
    }

    /// What the norm's bias adds along `u`.
    pub(crate) fn bias_along(&self, u: &[f32]) -> f64 {
        self.bias.iter().flatten().zip(u).map(|(b, u)| f64::from(*b) * f64::from(*u)).sum()
    }

    /// The denominator that the norm would have for `x`; 1 without a norm.
    pub(crate) fn denominator(&self, x: &[f32]) -> f64 {
        let n = x.len() as f64;
        let square = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / n;
        match self.kind {
            None => 1.0,
            Some((NormKind::Rms, eps)) => (square + f64::from(eps)).sqrt(),
            Some((NormKind::Layer, eps)) => {
                let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
                let var = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
                (var + f64::from(eps)).sqrt()
            }
        }
    }
}
