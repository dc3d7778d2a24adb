//! Results of jobs, and what they say together.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::attention::Sharpness;
use super::curve::CurvePoint;
use super::error::{FlipflopError, Result};
use super::grid::{Grid, Job};
use super::job::job_sets;
use super::result::SetResult;
use super::sets::Role;
use super::verdict::Claim;

pub(super) const RESULT_SCHEMA: &str = "refocus.flipflop-row/1";

/// What one row with one seed gave: the file `rows/ROW-seedN.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// `refocus.flipflop-row/1`.
    pub schema: String,
    /// Name of the study.
    pub study: String,
    /// Version of its rows.
    pub version: u32,
    /// Row.
    pub row: String,
    /// Seed of first parameters and training strings.
    pub seed: u64,
    /// Seed of the test strings.
    pub test_seed: u64,
    /// Of the run's configuration.
    pub config_hash: String,
    /// Numbers learned.
    pub parameters: usize,
    /// Training steps.
    pub steps: u32,
    /// Over all sittings; none where `train flipflop` trained it.
    pub training_seconds: Option<f64>,
    /// Over all sittings.
    pub testing_seconds: f64,
    /// After the last step.
    pub sets: Vec<SetResult>,
    /// Attention at reads of the in-distribution and the sparse set; nothing for an LSTM.
    pub attention: Vec<Sharpness>,
    /// Names of the sets of the curve.
    pub watched: Vec<String>,
    /// On the way.
    pub curve: Vec<CurvePoint>,
}

/// Where a job's result is.
pub(super) fn result_path(dir: &Path, job: &Job) -> PathBuf {
    dir.join("rows").join(format!("{}.json", job.name()))
}

/// The results that are there, in the order of the jobs.
///
/// # Errors
/// A result that cannot be read, or belongs to another configuration or other test strings.
pub fn read_results(grid: &Grid, jobs: &[Job], dir: &Path, seed: u64) -> Result<Vec<Option<JobResult>>> {
    jobs.iter().map(|job| read_result(grid, job, dir, seed)).collect()
}

fn read_result(grid: &Grid, job: &Job, dir: &Path, seed: u64) -> Result<Option<JobResult>> {
    let path = result_path(dir, job);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FlipflopError::Read { path, source }),
    };
    let result: JobResult = serde_json::from_slice(&text)
        .map_err(|e| FlipflopError::Stored { path: path.clone(), why: format!("no result of a row: {e}") })?;
    let test = |name: &str, strings: u32, alphabet: Option<String>| {
        format!("{strings} of {name}{}", alphabet.map_or_else(String::new, |a| format!(" ({a})")))
    };
    let there: Vec<String> =
        result.sets.iter().map(|s| test(&s.name, s.strings, s.alphabet.clone())).collect();
    let here: Vec<String> =
        job_sets(grid, job)?.iter().map(|s| test(&s.name, s.strings, s.alphabet())).collect();
    for (what, there, here) in [
        ("form", result.schema.clone(), RESULT_SCHEMA.to_owned()),
        (
            "row",
            format!("{} with seed {}", result.row, result.seed),
            format!("{} with seed {}", job.row.name, job.seed),
        ),
        ("configuration", result.config_hash.clone(), job.config().hash()?),
        ("seed of the test strings", result.test_seed.to_string(), seed.to_string()),
        ("choice of test strings", there.join(", "), here.join(", ")),
    ] {
        if there != here {
            return Err(FlipflopError::Other { path, what, there, here });
        }
    }
    Ok(Some(result))
}

/// One set over the seeds of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetSummary {
    /// Set.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Each seed's.
    pub seeds: Vec<SeedCount>,
    /// Of the seeds' rates.
    pub median: f64,
    /// Lowest rate of a seed.
    pub lowest: f64,
    /// Highest rate of a seed.
    pub highest: f64,
    /// Seeds without an error.
    pub without_error: usize,
}

/// One seed on one set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeedCount {
    /// Seed.
    pub seed: u64,
    /// Wrong answers.
    pub errors: u64,
    /// Reads.
    pub reads: u64,
    /// Errors by reads.
    pub rate: f64,
    /// 95 %.
    pub interval: [f64; 2],
}

/// A row over its finished seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowSummary {
    /// Row.
    pub name: String,
    /// Group.
    pub group: String,
    /// In words.
    pub title: String,
    /// Changes of its preset.
    pub set: Vec<String>,
    /// The claims it serves.
    pub claims: Vec<Claim>,
    /// Finished.
    pub seeds: Vec<u64>,
    /// Training steps.
    pub steps: u32,
    /// Numbers learned.
    pub parameters: usize,
    /// Of each seed, where known.
    pub training_seconds: Vec<Option<f64>>,
    /// Of each seed.
    pub testing_seconds: Vec<f64>,
    /// By set.
    pub sets: Vec<SetSummary>,
    /// Mean entropy of attention at reads of the sparse set, nats, of each seed; empty for an LSTM.
    pub entropy: Vec<f64>,
}

impl RowSummary {
    /// The set of a role.
    pub fn set(&self, role: Role) -> Option<&SetSummary> {
        self.sets.iter().find(|s| s.role == role)
    }
}

/// The rows that have a finished seed, in the order of the grid.
pub fn summarise(grid: &Grid, results: &[JobResult]) -> Vec<RowSummary> {
    let rows = grid.rows.iter().filter_map(|row| {
        let mine: Vec<&JobResult> = results.iter().filter(|r| r.row == row.name).collect();
        let first = mine.first()?;
        let set = |at: usize| {
            let seeds: Vec<SeedCount> = mine.iter().filter_map(|r| seed_count(r, at)).collect();
            let mut rates: Vec<f64> = seeds.iter().map(|s| s.rate).collect();
            rates.sort_by(f64::total_cmp);
            Some(SetSummary {
                name: first.sets[at].name.clone(),
                role: first.sets[at].role,
                median: median(&rates)?,
                lowest: *rates.first()?,
                highest: *rates.last()?,
                without_error: seeds.iter().filter(|s| s.errors == 0).count(),
                seeds,
            })
        };
        let entropy = |r: &&JobResult| {
            let sparse = r.sets.iter().find(|s| s.role == Role::Sparse)?;
            r.attention.iter().find(|a| a.set == sparse.name).map(Sharpness::mean_entropy)
        };
        Some(RowSummary {
            name: row.name.clone(),
            group: row.group.clone(),
            title: row.title.clone(),
            set: row.set.clone(),
            claims: row.claims.clone(),
            seeds: mine.iter().map(|r| r.seed).collect(),
            steps: first.steps,
            parameters: first.parameters,
            training_seconds: mine.iter().map(|r| r.training_seconds).collect(),
            testing_seconds: mine.iter().map(|r| r.testing_seconds).collect(),
            sets: (0..first.sets.len()).filter_map(set).collect(),
            entropy: mine.iter().filter_map(entropy).collect(),
        })
    });
    rows.collect()
}

fn seed_count(r: &JobResult, at: usize) -> Option<SeedCount> {
    let s = r.sets.get(at)?;
    let (errors, reads) = (s.errors, s.reads);
    Some(SeedCount { seed: r.seed, errors, reads, rate: s.rate?, interval: s.interval? })
}

/// Of sorted numbers; `None` without any.
pub(super) fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
