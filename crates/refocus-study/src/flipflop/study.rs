//! The study as one document.

use serde::Serialize;

use super::grid::{Grid, Job};
use super::summary::{JobResult, RowSummary, summarise};
use super::verdict::{Judgement, judge};

/// Everything that a study gave: the file `study.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Study {
    /// `refocus.flipflop-study/1`.
    pub schema: &'static str,
    /// Name.
    pub study: String,
    /// Version of its rows.
    pub version: u32,
    /// Seed of the test strings.
    pub test_seed: u64,
    /// Runs that are not finished.
    pub unfinished: Vec<String>,
    /// Rows with a finished seed.
    pub rows: Vec<RowSummary>,
    /// Claims.
    pub claims: Vec<Judgement>,
    /// Error over training, for charts.
    pub series: Vec<Series>,
}

/// The error of one run on one watched set over training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// `ROW, seed N, SET`.
    pub name: String,
    /// Row.
    pub row: String,
    /// Seed.
    pub seed: u64,
    /// Set.
    pub set: String,
    /// Steps that were tested.
    pub steps: Vec<u32>,
    /// Errors by reads at each of them.
    pub rates: Vec<f64>,
}

impl Study {
    /// Puts the finished jobs together.
    pub fn new(grid: &Grid, jobs: &[Job], results: Vec<Option<JobResult>>, seed: u64) -> Self {
        let missing = jobs.iter().zip(&results).filter(|(_, r)| r.is_none());
        let unfinished = missing.map(|(j, _)| j.name()).collect();
        let finished: Vec<JobResult> = results.into_iter().flatten().collect();
        let rows = summarise(grid, &finished);
        Self {
            schema: "refocus.flipflop-study/1",
            study: grid.name.clone(),
            version: grid.version,
            test_seed: seed,
            unfinished,
            claims: judge(&rows),
            rows,
            series: finished.iter().flat_map(series).collect(),
        }
    }
}

fn series(r: &JobResult) -> impl Iterator<Item = Series> {
    r.watched.iter().enumerate().map(|(i, set)| {
        let points = r.curve.iter().filter_map(|p| {
            let [errors, reads] = *p.counts.get(i)?;
            (reads > 0).then(|| (p.step, errors as f64 / reads as f64))
        });
        let (steps, rates) = points.unzip();
        let name = format!("{}, seed {}, {set}", r.row, r.seed);
        Series { name, row: r.row.clone(), seed: r.seed, set: set.clone(), steps, rates }
    })
}
