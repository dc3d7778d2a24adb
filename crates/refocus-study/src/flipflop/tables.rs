//! The study as result tables: what its page is made of.

use refocus_results::flipflop as rows;
use refocus_results::{ResultsError, RunFolder};

use super::grid::Grid;
use super::result::{BinResult, SetResult};
use super::study::Study;
use super::summary::JobResult;
use super::verdict::Judgement;

/// Writes the tables of a study and of the finished runs that it sums up.
///
/// # Errors
/// A table cannot be written.
pub fn write_tables(
    folder: &mut RunFolder,
    grid: &Grid,
    finished: &[JobResult],
    study: &Study,
) -> Result<(), ResultsError> {
    folder.write(&finished.iter().flat_map(|r| counts(grid, r)).collect::<Vec<_>>())?;
    folder.write(&finished.iter().flat_map(curve).collect::<Vec<_>>())?;
    folder.write(&finished.iter().flat_map(distances).collect::<Vec<_>>())?;
    folder.write(&study.claims.iter().map(claim).collect::<Vec<_>>())
}

fn counts(grid: &Grid, r: &JobResult) -> impl Iterator<Item = rows::Row> {
    let group = grid.rows.iter().find(|row| row.name == r.row).map(|row| row.group.clone());
    let group = group.unwrap_or_default();
    r.sets.iter().filter_map(move |s| {
        let [low, high] = s.interval?;
        Some(rows::Row {
            row: r.row.clone(),
            group: group.clone(),
            seed: r.seed as i64,
            set: s.name.clone(),
            reads: s.reads as i64,
            errors: s.errors as i64,
            low,
            high,
            seconds: r.training_seconds,
            steps: i64::from(r.steps),
        })
    })
}

fn curve(r: &JobResult) -> impl Iterator<Item = rows::TrainingPoint> {
    r.curve.iter().flat_map(move |p| {
        r.watched.iter().zip(&p.counts).map(move |(set, &[errors, reads])| rows::TrainingPoint {
            row: r.row.clone(),
            seed: r.seed as i64,
            step: i64::from(p.step),
            set: set.clone(),
            errors: errors as i64,
            reads: reads as i64,
        })
    })
}

fn distances(r: &JobResult) -> impl Iterator<Item = rows::Distance> {
    r.sets.iter().flat_map(move |s| {
        let kinds =
            [("write", &s.since_write), ("non_ignore", &s.since_either), ("stale_writes", &s.stale_other)];
        kinds.into_iter().flat_map(move |(by, bins)| bins.iter().map(move |b| distance(r, s, by, b)))
    })
}

fn distance(r: &JobResult, s: &SetResult, by: &str, b: &BinResult) -> rows::Distance {
    // No instruction of a string is further from another than all of them.
    let most = (s.tokens / 2).max(b.from);
    rows::Distance {
        row: r.row.clone(),
        seed: r.seed as i64,
        set: s.name.clone(),
        by: by.to_owned(),
        from: b.from as i64,
        to: b.to.unwrap_or(most) as i64,
        reads: b.reads as i64,
        errors: b.errors as i64,
    }
}

fn claim(j: &Judgement) -> rows::Claim {
    rows::Claim {
        claim: format!("{:?}: {}", j.claim, j.says),
        task: None,
        setting: None,
        verdict: j.verdict.name().to_owned(),
        why: Some(j.why.clone()),
        n: j.tests.iter().map(|t| t.seeds.iter().sum::<usize>()).max().unwrap_or(0) as i64,
        effect: None,
        low: None,
        high: None,
        control: Some(j.rule.to_owned()),
    }
}
