//! The logit lens: what the model would answer if it stopped after each block.

use refocus_compute::{Batch, KvUse, Ops, Vocab, VocabOut};
use refocus_model::{Applied, Kind, Mode, Model, Plan, Readout, RunError, Site, forward};

use crate::error::MeasureError;

/// The first choice at one layer and position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Token id.
    pub id: u32,
    /// Its probability over the whole vocabulary.
    pub prob: f32,
}

/// First choices by layer and position.
#[derive(Clone, Debug, PartialEq)]
pub struct LensGrid {
    /// What each row of `cells` read, from the embeddings to the last block.
    pub sites: Vec<Site>,
    /// `[sites][tokens]`.
    pub cells: Vec<Vec<Cell>>,
    /// At the last position, for each site: probability and rank (0 = first) of `target`.
    pub target: Vec<(f32, u32)>,
    /// The id followed in `target`: the model's own last answer unless one was given.
    pub target_id: u32,
}

/// Reads the residual stream before the first block and after every block, at every position.
///
/// # Errors
/// What [`Plan::compile`] and [`forward`] report.
pub fn lens_grid<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    ids: &[u32],
    target: Option<u32>,
    interventions: &[Applied],
) -> Result<LensGrid, MeasureError> {
    if ids.is_empty() {
        return Err(RunError::Empty { seq: 0 }.into());
    }
    let mut sites = vec![Site::new(0, Kind::ResidPre)];
    sites.extend((0..m.spec.n_layers).map(|l| Site::new(l, Kind::ResidPost)));
    let batch = Batch::from_lengths([ids.len()]);
    let last = Some(refocus_compute::RowSet::new(vec![ids.len() as u32 - 1]));
    let target_id = match target {
        Some(id) => id,
        None => {
            let want = [Readout::logits(&m.spec, last.clone(), vec![Vocab::Top(1)])];
            let plan = Plan::compile(&m.spec, &batch, &want, interventions, Mode::default())?;
            let got = forward(o, m, ids, &plan, KvUse::None)?;
            match got[0].lens(0) {
                Some([VocabOut::Top(top)]) => top[0].first().map_or(0, |t| t.0),
                _ => return Err(RunError::Unread(0).into()),
            }
        }
    };
    let readouts = [
        Readout::Lens { sites: sites.clone(), rows: None, want: vec![Vocab::Top(1), Vocab::LogSumExp] },
        Readout::Lens {
            sites: sites.clone(),
            rows: last,
            want: vec![Vocab::Nll([target_id].into()), Vocab::RankOf([target_id].into())],
        },
    ];
    let plan = Plan::compile(&m.spec, &batch, &readouts, interventions, Mode::default())?;
    let got = forward(o, m, ids, &plan, KvUse::None)?;
    let mut grid = LensGrid { cells: Vec::new(), target: Vec::new(), target_id, sites };
    for i in 0..grid.sites.len() {
        let (
            Some([VocabOut::Top(top), VocabOut::Values(lse)]),
            Some([VocabOut::Values(nll), VocabOut::Ranks(rank)]),
        ) = (got[0].lens(i), got[1].lens(i))
        else {
            return Err(RunError::Unread(0).into());
        };
        let lse = o.to_host(lse)?;
        if let Some(position) = lse.iter().position(|x| x.is_nan()) {
            let what = format!("the lens at {}", grid.sites[i]);
            return Err(RunError::NotANumber { what, seq: 0, position }.into());
        }
        let cell = |(t, lse): (&Vec<(u32, f32)>, &f32)| {
            let (id, logit) = t.first().copied().unwrap_or((0, f32::NEG_INFINITY));
            Cell { id, prob: (logit - lse).exp() }
        };
        grid.cells.push(top.iter().zip(&lse).map(cell).collect());
        let nll = o.to_host(nll)?;
        grid.target.push(((-nll[0]).exp(), rank[0]));
    }
    Ok(grid)
}
