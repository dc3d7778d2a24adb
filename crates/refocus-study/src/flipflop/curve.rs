//! The tests of a run on its way, read from its `curve.csv`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{FlipflopError, Result};

/// What the tests at one step gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Counted from 1.
    pub step: u32,
    /// Of the step, nats.
    pub loss: f32,
    /// Errors and reads of each watched set, in the order of [`crate::flipflop::JobResult::watched`].
    pub counts: Vec<[u64; 2]>,
}

/// The names of the watched sets and the steps that were tested.
pub(super) fn read_curve(path: &Path) -> Result<(Vec<String>, Vec<CurvePoint>)> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| FlipflopError::Read { path: path.to_owned(), source })?;
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let names = head.split(',').filter_map(|c| c.strip_suffix("_errors")).map(str::to_owned).collect();
    let mut points = Vec::new();
    for (i, line) in lines.enumerate() {
        let bad = || FlipflopError::Stored {
            path: path.to_owned(),
            why: format!("line {} is no row of a curve", i + 2),
        };
        let cells: Vec<&str> = line.split(',').collect();
        let [step, loss, _, counts @ ..] = cells.as_slice() else { return Err(bad()) };
        if counts.iter().all(|c| c.is_empty()) {
            continue;
        }
        let counts: Option<Vec<[u64; 2]>> = counts
            .chunks(2)
            .map(|pair| {
                let [errors, reads] = pair else { return None };
                Some([errors.parse().ok()?, reads.parse().ok()?])
            })
            .collect();
        points.push(CurvePoint {
            step: step.parse().map_err(|_| bad())?,
            loss: loss.parse().map_err(|_| bad())?,
            counts: counts.ok_or_else(bad)?,
        });
    }
    Ok((names, points))
}
