//! One row with one seed: trained in a folder, tested, and its result kept.

use std::path::Path;
use std::time::Instant;

use refocus_compute::Kernels;
use refocus_results::atomic::write_whole;
use refocus_train::Run;

use super::attention::sharpness;
use super::curve::read_curve;
use super::error::{FlipflopError, Result};
use super::eval::evaluate;
use super::grid::{Grid, Job};
use super::kept::{Kept, write_json};
use super::result::SetResult;
use super::sets::{EvalSet, Role, has_sets, sets_for};
use super::summary::{JobResult, RESULT_SCHEMA, result_path};

/// Where a job is.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// After a training step.
    Training {
        /// Step.
        step: u32,
        /// Of how many.
        of: u32,
    },
    /// After a chunk of a set.
    Testing {
        /// Set.
        set: String,
        /// Strings done.
        done: u32,
        /// Of how many.
        of: u32,
    },
}

/// The sets that a job is tested on. All rows of one length are tested on the same strings.
///
/// # Errors
/// As [`sets_for`].
pub fn job_sets(grid: &Grid, job: &Job) -> Result<Vec<EvalSet>> {
    let config = &job.row.config;
    // A run of another length has the sets that it watches alone.
    let names: Vec<String> = if has_sets(config)? {
        grid.sets.clone()
    } else {
        let has = |n: &&String| config.watch.sets.iter().any(|s| s.name.trim_start_matches("half-") == **n);
        grid.sets.iter().filter(has).cloned().collect()
    };
    let (mut sets, _) = sets_for(&names, config.task.tokens, Some(config), None)?;
    for s in &mut sets {
        s.strings = grid.strings.map_or(s.strings, |n| n.min(s.strings));
    }
    Ok(sets)
}

/// Carries a job out, from where it was left, in the folder `runs/NAME` of `dir`, and keeps its result in
/// `rows/NAME.json`. `seed` is that of the test strings. `tick` hears of every stage and says whether to go
/// on; without, the job is left as it is, and `None` returned.
///
/// # Errors
/// As [`Run::open`] and [`Run::advance`] ([`refocus_train::TrainError::Folder`] where another process works on it),
/// or what cannot be written.
pub fn run_job<K: Kernels>(
    grid: &Grid,
    job: &Job,
    dir: &Path,
    seed: u64,
    kernels: K,
    mut tick: impl FnMut(Stage) -> bool,
) -> Result<Option<JobResult>> {
    let run_dir = dir.join("runs").join(job.name());
    let sets = job_sets(grid, job)?;
    let mut run = Run::open(&run_dir, job.config(), kernels)?;
    let steps = job.row.config.optimizer.steps;
    // A run that was begun by `train flipflop` has nobody who took its time.
    let untimed = Seconds { training: (run.resumed() == 0).then_some(0.0), testing: 0.0 };
    let seconds = Seconds::open(&run_dir)?.unwrap_or(untimed);
    let mut trained = seconds.training;
    let mut since = Instant::now();
    while let Some(progress) = run.advance()? {
        if progress.saved {
            // What a killed sitting took after its last checkpoint is taken again, and counts once.
            trained = trained.map(|t| t + since.elapsed().as_secs_f64());
            since = Instant::now();
            Seconds { training: trained, ..seconds }.save(&run_dir)?;
        }
        let step = progress.report.step;
        if !tick(Stage::Training { step, of: steps }) && step < steps {
            return Ok(None);
        }
    }
    run.save_model()?;
    let config_hash = run.config().hash()?;
    let parameters = run.parameters();
    let (net, o) = run.trainer().model();
    let mut tested = seconds.testing;
    let (mut results, mut sharp) = (Vec::new(), Vec::new());
    for set in &sets {
        let (kept, mut wrong) = Kept::open(&run_dir.join("tests"), &config_hash, set, seed)?;
        let mut since = Instant::now();
        let all = evaluate(o, net, set, seed, &mut wrong, |wrong| {
            kept.save(wrong)?;
            tested += since.elapsed().as_secs_f64();
            since = Instant::now();
            Seconds { training: trained, testing: tested }.save(&run_dir)?;
            Ok(tick(Stage::Testing { set: set.name.clone(), done: wrong.strings, of: set.strings }))
        })?;
        if !all {
            return Ok(None);
        }
        let errors = wrong.count(set, seed).map_err(|[string, at]| FlipflopError::Stored {
            path: run_dir.join("tests"),
            why: format!("set {}: string {string} has no read at {at}", set.name),
        })?;
        results.push(SetResult::new(set, wrong.strings, &errors));
        if matches!(set.role, Role::In | Role::Sparse) {
            let found = sharpness(o, net, set, seed)
                .map_err(|source| FlipflopError::Run { set: set.name.clone(), source })?;
            sharp.extend(found);
        }
    }
    let (watched, curve) = read_curve(&run_dir.join("curve.csv"))?;
    let result = JobResult {
        schema: RESULT_SCHEMA.to_owned(),
        study: grid.name.clone(),
        version: grid.version,
        row: job.row.name.clone(),
        seed: job.seed,
        test_seed: seed,
        config_hash,
        parameters,
        steps,
        training_seconds: trained.map(millis),
        testing_seconds: millis(tested),
        sets: results,
        attention: sharp,
        watched,
        curve,
    };
    let rows = dir.join("rows");
    std::fs::create_dir_all(&rows).map_err(|source| FlipflopError::Write { path: rows, source })?;
    write_json(&result_path(dir, job), &result)?;
    Ok(Some(result))
}

/// More is noise.
fn millis(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// What a run took so far, over all sittings.
#[derive(Clone, Copy)]
struct Seconds {
    /// Where it is known.
    training: Option<f64>,
    testing: f64,
}

impl Seconds {
    fn open(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("seconds");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FlipflopError::Read { path, source }),
        };
        let mut words = text.split_whitespace();
        let training = words.next().map(|w| if w == "unknown" { Ok(None) } else { w.parse().map(Some) });
        match (training, words.next().map(str::parse)) {
            (Some(Ok(training)), Some(Ok(testing))) => Ok(Some(Self { training, testing })),
            _ => Err(FlipflopError::Stored { path, why: "it does not hold two numbers".to_owned() }),
        }
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let path = dir.join("seconds");
        let training = self.training.map_or_else(|| "unknown".to_owned(), |t| format!("{t:.3}"));
        let text = format!("{training} {:.3}\n", self.testing);
        write_whole(&path, text.as_bytes()).map_err(|source| FlipflopError::Write { path, source })
    }
}
