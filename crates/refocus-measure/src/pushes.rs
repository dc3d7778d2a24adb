//! Which heads push a wrong answer: the direct attribution of `wrong − right`, averaged over prompts.

use std::sync::Arc;

use refocus_compute::{Batch, KvUse, Ops, RowSet};
use refocus_model::{Kind, Mode, Model, Plan, Readout, RunError, Site, Wiring, forward};

use crate::direction::FinalNorm;
use crate::error::MeasureError;

/// Prompts that go through the model together: each has a direction of its own, and every head is read along all.
const BATCH: usize = 8;

/// A prompt with what should follow it and what should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contrast {
    /// The whole prompt.
    pub ids: Vec<u32>,
    /// The right next token.
    pub right: u32,
    /// The wrong one.
    pub wrong: u32,
}

/// What each head adds to `logit(wrong) − logit(right)` at the last position, in logits, the final norm's
/// statistics held fixed: the mean over the prompts, `[layers · heads]`.
///
/// # Errors
/// Post-norm models; no prompts; what [`forward`] reports.
pub fn pushes<O: Ops>(o: &mut O, m: &Model<O::K>, prompts: &[Contrast]) -> Result<Vec<f64>, MeasureError> {
    let spec = &m.spec;
    if spec.wiring == Wiring::PostNorm {
        return Err(MeasureError::PostNorm);
    }
    if let Some(seq) = prompts.iter().position(|p| p.ids.is_empty()) {
        return Err(RunError::Empty { seq }.into());
    }
    let norm = FinalNorm::of(o, m)?;
    let mut sum = vec![0.0; spec.n_layers * spec.n_heads];
    for some in prompts.chunks(BATCH) {
        let ids: Vec<u32> = some.iter().flat_map(|p| p.ids.iter().copied()).collect();
        let batch = Batch::from_lengths(some.iter().map(|p| p.ids.len()));
        let rows = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
        let answers: Vec<u32> = some.iter().flat_map(|p| [p.wrong, p.right]).collect();
        let u = o.embed(&m.unembed.w, &answers)?;
        let u = o.to_host(&u)?;
        let width = u.len() / answers.len().max(1);
        let direction = |pair: &[f32]| {
            let (wrong, right) = pair.split_at(width);
            let d: Vec<f32> = wrong.iter().zip(right).map(|(a, b)| a - b).collect();
            norm.direction(&d).into_iter().map(|x| x as f32).collect::<Vec<f32>>()
        };
        let dirs: Arc<[f32]> = u.chunks_exact(2 * width).flat_map(direction).collect();
        let mut readouts =
            vec![Readout::Raw { site: Site::new(0, Kind::FinalScale), rows: Some(rows.clone()) }];
        readouts.extend((0..spec.n_layers).map(|layer| Readout::HeadDot {
            layer,
            rows: Some(rows.clone()),
            dirs: Arc::clone(&dirs),
        }));
        let plan = Plan::compile(spec, &batch, &readouts, &[], Mode::default())?;
        let got = forward(o, m, &ids, &plan, KvUse::None)?;
        let mut host = |i: usize| -> Result<Vec<f32>, MeasureError> {
            Ok(o.to_host(got[i].matrix().ok_or(RunError::Unread(i))?)?)
        };
        let scales = host(0)?;
        for layer in 0..spec.n_layers {
            // `[prompts, heads, prompts]`: each prompt is asked along its own direction.
            let all = host(layer + 1)?;
            for (p, row) in all.chunks_exact(spec.n_heads * some.len()).enumerate() {
                for (h, along) in row.chunks_exact(some.len()).enumerate() {
                    sum[layer * spec.n_heads + h] += f64::from(along[p]) / f64::from(scales[p]);
                }
            }
        }
    }
    let n = prompts.len().max(1) as f64;
    sum.iter_mut().for_each(|x| *x /= n);
    if let Some(at) = sum.iter().position(|x| x.is_nan()) {
        let what = format!("what head {}.{} writes", at / spec.n_heads, at % spec.n_heads);
        return Err(RunError::NotANumber { what, seq: 0, position: 0 }.into());
    }
    Ok(sum)
}
