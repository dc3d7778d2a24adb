//! Direct logit attribution: the last residual stream is the sum of what embeddings, heads and MLPs
//! wrote, so with the final norm's statistics held fixed the logit is the sum of their shares.

use std::sync::Arc;

use refocus_compute::{Batch, KvUse, Ops, RowSet};
use refocus_model::{Applied, Kind, Mode, Model, Plan, Readout, RunError, Site, Wiring, forward};

use crate::direction::FinalNorm;
use crate::error::MeasureError;

/// One part's share.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// `embed`, `pos_embed`, `9.8` (a head), `attn 9 bias`, `mlp 9`, `constant`.
    pub part: String,
    /// Share of the logit (difference).
    pub share: f32,
}

/// Shares of one logit, or of the difference of two.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    /// The id whose logit is split.
    pub id: u32,
    /// Its logit is taken minus this one's, where given.
    pub minus: Option<u32>,
    /// All parts, in the order of the model. `constant` is the bias of the final norm and the head.
    pub parts: Vec<Contribution>,
    /// Shares of single heads: `[layers][heads]`.
    pub heads: Vec<Vec<f32>>,
    /// The logit (difference) that the model gives.
    pub logit: f32,
}

/// Splits the logit of `id` (minus that of `minus`) at the last position.
///
/// # Errors
/// Post-norm models; ids out of range; what [`forward`] reports.
pub fn direct_logit_attribution<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    ids: &[u32],
    id: u32,
    minus: Option<u32>,
    interventions: &[Applied],
) -> Result<Attribution, MeasureError> {
    let spec = &m.spec;
    if spec.wiring == Wiring::PostNorm {
        return Err(MeasureError::PostNorm);
    }
    if ids.is_empty() {
        return Err(RunError::Empty { seq: 0 }.into());
    }
    for id in [Some(id), minus].into_iter().flatten() {
        if id as usize >= spec.vocab {
            return Err(RunError::Id { id, at: 0, vocab: spec.vocab }.into());
        }
    }
    let batch = Batch::from_lengths([ids.len()]);
    let last: Option<RowSet> = Some(RowSet::new(vec![ids.len() as u32 - 1]));
    let raw = |site: Site| Readout::Raw { site, rows: last.clone() };

    // The row of the unembedding (difference), and what the final norm does to a direction.
    let mut u = o.embed(&m.unembed.w, &[id])?;
    if let Some(minus) = minus {
        let v = o.embed(&m.unembed.w, &[minus])?;
        let (a, b) = (o.to_host(&u)?, o.to_host(&v)?);
        let d: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        u = o.constant(1, d.len(), &d)?;
    }
    let u = o.to_host(&u)?;
    let norm = FinalNorm::of(o, m)?;
    let dir = norm.direction(&u);
    let dir32: Arc<[f32]> = dir.iter().map(|&d| d as f32).collect();

    let mut readouts = vec![raw(Site::new(0, Kind::Embed)), raw(Site::new(0, Kind::FinalScale))];
    let learned = Kind::PosEmbed.check(spec).is_ok();
    if learned {
        readouts.push(raw(Site::new(0, Kind::PosEmbed)));
    }
    let first_layer = readouts.len();
    for layer in 0..spec.n_layers {
        readouts.push(Readout::HeadDot { layer, rows: last.clone(), dirs: Arc::clone(&dir32) });
        readouts.push(raw(Site::new(layer, Kind::AttnOut)));
        readouts.push(raw(Site::new(layer, Kind::MlpOut)));
    }
    let want = refocus_compute::Vocab::Ids([id].into_iter().chain(minus).collect());
    readouts.push(Readout::logits(spec, last.clone(), vec![want]));
    let plan = Plan::compile(spec, &batch, &readouts, interventions, Mode::default())?;
    let got = forward(o, m, ids, &plan, KvUse::None)?;
    let mut row = |i: usize| -> Result<Vec<f32>, MeasureError> {
        let t = got[i].matrix().ok_or(RunError::Unread(i))?;
        Ok(o.to_host(t)?)
    };
    let scale = f64::from(row(1)?[0]);
    let share = |x: &[f32]| (x.iter().zip(&dir).map(|(x, d)| f64::from(*x) * d).sum::<f64>() / scale) as f32;
    let mut parts = vec![Contribution { part: "embed".into(), share: share(&row(0)?) }];
    if learned {
        parts.push(Contribution { part: "pos_embed".into(), share: share(&row(2)?) });
    }
    let mut heads = Vec::with_capacity(spec.n_layers);
    for layer in 0..spec.n_layers {
        let at = first_layer + 3 * layer;
        let own: Vec<f32> = row(at)?.iter().map(|x| (f64::from(*x) / scale) as f32).collect();
        let all = share(&row(at + 1)?);
        for (h, &share) in own.iter().enumerate() {
            parts.push(Contribution { part: format!("{layer}.{h}"), share });
        }
        if m.blocks[layer].o.bias.is_some() {
            let rest = all - own.iter().sum::<f32>();
            parts.push(Contribution { part: format!("attn {layer} bias"), share: rest });
        }
        parts.push(Contribution { part: format!("mlp {layer}"), share: share(&row(at + 2)?) });
        heads.push(own);
    }
    let answers = got.last().and_then(|r| r.lens(0));
    let Some([refocus_compute::VocabOut::Values(t)]) = answers else {
        return Err(RunError::Unread(readouts.len() - 1).into());
    };
    let logits = o.to_host(t)?;
    let logit = logits[0] - logits.get(1).copied().unwrap_or(0.0);
    let norm_bias = norm.bias_along(&u);
    let head_bias = match &m.unembed.bias {
        Some(b) => {
            let b = o.parameter(b)?;
            let b = o.to_host(&b)?;
            b[id as usize] - minus.map_or(0.0, |m| b[m as usize])
        }
        None => 0.0,
    };
    if norm.has_bias() || m.unembed.bias.is_some() {
        parts.push(Contribution { part: "constant".into(), share: norm_bias as f32 + head_bias });
    }
    Ok(Attribution { id, minus, parts, heads, logit })
}
