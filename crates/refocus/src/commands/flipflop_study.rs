//! `flipflop study`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use refocus_results::{ResultsError, RunFolder, RunInfo, StoredRun};
use refocus_study::flipflop::{
    Cost, EvalSet, FlipflopError, Grid, Job, JobResult, Role, Stage, Study, csv, job_sets, markdown, measure,
    percent, read_results, run_job, write_tables,
};
use refocus_train::TrainError;
use serde::Serialize;
use serde_json::json;

use super::{Ended, deadline};
use crate::cli::{FlipflopStudy, Global, StudySize};
use crate::failure::{Failure, Outcome};
use crate::output::Pending;
use crate::printer::Printer;
use crate::table::{Side, Table};
use crate::{backend, output};

/// What would be run.
#[derive(Serialize)]
struct Plan {
    schema: &'static str,
    study: String,
    version: u32,
    rows: Vec<PlannedRow>,
    /// Of all runs that are left, one after another.
    hours: f64,
}

#[derive(Serialize)]
struct PlannedRow {
    row: String,
    group: String,
    title: String,
    set: Vec<String>,
    steps: u32,
    /// Runs of the row, and those that are left.
    runs: usize,
    left: usize,
    /// Of one training step, one training and the tests of one run; none where nothing is left, or the model's
    /// numbers run away before that is known.
    step_seconds: Option<f64>,
    training_minutes: Option<f64>,
    testing_minutes: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: &FlipflopStudy, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let StudySize::Cpu = args.preset;
    let mut grid = match args.grid.to_str() {
        Some("short") => Grid::short(),
        Some("full") => Grid::full(),
        _ => Grid::read(&args.grid),
    }?;
    grid.keep(&args.rows)?;
    let deadline = deadline(args.max_hours)?;
    if let Some((i, seed)) = args.seeds.iter().enumerate().find(|(i, s)| args.seeds[..*i].contains(s)) {
        return Err(Failure::new(format!("--seeds: {seed} is given twice, at place {}", i + 1)));
    }
    let jobs = grid.jobs((!args.seeds.is_empty()).then_some(args.seeds.as_slice()));
    let seed = global.seed;
    let there = match &args.out {
        Some(dir) => read_results(&grid, &jobs, dir, seed).map_err(other)?,
        None => vec![None; jobs.len()],
    };
    let left: Vec<&Job> = jobs.iter().zip(&there).filter(|(_, r)| r.is_none()).map(|(j, _)| j).collect();
    let plan = plan(&grid, &jobs, &left, global, printer)?;
    if args.plan {
        if printer.is_json() {
            printer.document(&plan)?;
        } else {
            printer.text(&planned(&plan, printer.colours()))?;
        }
        return Ok(Ended::Well);
    }
    let Some(dir) = &args.out else { return Err(Failure::new("--out is needed")) };
    // A folder of another study, and a table that cannot be written, are found before the work is done.
    let isa = backend::isa()?.name().to_owned();
    drop(tables(dir, info(&grid, &jobs, isa.clone(), seed))?);
    let table = args.table.as_deref().map(Pending::create).transpose()?;
    if !left.is_empty() {
        printer.note(&format!(
            "{} of {} runs are left: about {} on this machine, one after another",
            left.len(),
            jobs.len(),
            hours(plan.hours)
        ));
    }
    let failed = work(&grid, &left, dir, (deadline, &plan), global, printer)?;

    let results = read_results(&grid, &jobs, dir, seed).map_err(other)?;
    let finished: Vec<JobResult> = results.iter().flatten().cloned().collect();
    let study = Study::new(&grid, &jobs, results, seed);
    std::fs::create_dir_all(dir)
        .map_err(|e| Failure::because(format!("{}: cannot be written", dir.display()), e))?;
    output::write_document(&dir.join("study.json"), &study)?;
    output::write(&dir.join("study.csv"), csv(&study))?;
    if !finished.is_empty() {
        match tables(dir, info(&grid, &jobs, isa, seed))? {
            Some(mut folder) => {
                write_tables(&mut folder, &grid, &finished, &study)?;
                output::write(&dir.join("report.html"), refocus_report::page(&StoredRun::open(dir)?)?)?;
            }
            None => {
                printer.note("another process writes the tables and the page; the same command does it again")
            }
        }
    }
    if let Some(table) = table {
        table.page(&markdown(&study, &command(args)))?;
    }
    if printer.is_json() {
        printer.document(&study)?;
    } else {
        printer.text(&shown(&study, printer.colours()))?;
    }
    if !study.unfinished.is_empty() {
        printer.note(&format!("not finished: {}; the same command goes on", study.unfinished.join(", ")));
    }
    Ok(if failed { Ended::CheckFailed } else { Ended::Well })
}

/// The folder as one of tables; nothing while another process writes them, since several may work at one study.
fn tables(dir: &Path, info: RunInfo) -> Outcome<Option<RunFolder>> {
    match RunFolder::renew(dir, info) {
        Ok(folder) => Ok(Some(folder)),
        Err(ResultsError::Busy { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What the tables depend on.
fn info(grid: &Grid, jobs: &[Job], instruction_set: String, seed: u64) -> RunInfo {
    let runs: Vec<String> = jobs.iter().map(Job::name).collect();
    let configuration = json!({ "study": grid.name, "version": grid.version, "runs": runs });
    RunInfo {
        study: "flipflop/1".to_owned(),
        program: format!("refocus {}", env!("CARGO_PKG_VERSION")),
        model: None,
        tokenizer: None,
        tasks: BTreeMap::new(),
        seed,
        precision: "f32".to_owned(),
        instruction_set,
        configuration: configuration.as_object().cloned().unwrap_or_default(),
    }
}

/// Results of another study are not mixed with these.
fn other(e: FlipflopError) -> Failure {
    let is_other = matches!(e, FlipflopError::Other { .. });
    let failure = Failure::from(e);
    if is_other { failure.hint("give another --out, or the flags and rows of that study") } else { failure }
}

/// Measures a run of every row that has something left.
fn plan(grid: &Grid, jobs: &[Job], left: &[&Job], global: &Global, printer: &Printer) -> Outcome<Plan> {
    let bar = printer.count_bar(grid.rows.len() as u64);
    bar.set_message("measuring rows");
    let mut rows = Vec::new();
    for row in &grid.rows {
        let of_row = |j: &&Job| j.row.name == row.name;
        let mine: Vec<&&Job> = left.iter().filter(|j| of_row(j)).collect();
        let cost: Option<Cost> = match mine.first() {
            Some(job) => {
                let sets: Vec<EvalSet> = job_sets(grid, job)?;
                match measure(&row.config, &sets, backend::cpu(global, printer)?) {
                    Ok(cost) => Some(cost),
                    // Which of its runs fail is found out when they are trained.
                    Err(e) if e.is_divergence() => {
                        bar.suspend(|| printer.note(&format!("{}: its time is not known: {e}", row.name)));
                        None
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            None => None,
        };
        rows.push(PlannedRow {
            row: row.name.clone(),
            group: row.group.clone(),
            title: row.title.clone(),
            set: row.set.clone(),
            steps: row.config.optimizer.steps,
            runs: jobs.iter().filter(of_row).count(),
            left: mine.len(),
            step_seconds: cost.map(|c| c.step),
            training_minutes: cost.map(|c| c.training / 60.0),
            testing_minutes: cost.map(|c| c.evaluation / 60.0),
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    let minutes = |r: &PlannedRow| r.left as f64 * r.minutes();
    let hours = rows.iter().map(minutes).sum::<f64>() / 60.0;
    Ok(Plan {
        schema: "refocus.flipflop-study-plan/1",
        study: grid.name.clone(),
        version: grid.version,
        rows,
        hours,
    })
}

impl PlannedRow {
    /// Of one run.
    fn minutes(&self) -> f64 {
        self.training_minutes.unwrap_or(0.0) + self.testing_minutes.unwrap_or(0.0)
    }
}

/// Does the jobs that nobody else is at, until the deadline. Gives whether one failed for good.
fn work(
    grid: &Grid,
    left: &[&Job],
    dir: &Path,
    (deadline, plan): (Option<Instant>, &Plan),
    global: &Global,
    printer: &Printer,
) -> Outcome<bool> {
    let minutes =
        |job: &Job| plan.rows.iter().find(|r| r.row == job.row.name).map_or(0.0, PlannedRow::minutes);
    // The bar counts seconds as they were projected, so that time left takes every row's length into account.
    let whole = |job: &Job| (60.0 * minutes(job)).ceil() as u64;
    let bar = printer.count_bar(left.iter().map(|j| whole(j)).sum());
    let (mut failed, mut before) = (false, 0);
    let in_time = || deadline.is_none_or(|d| Instant::now() < d);
    for (i, job) in left.iter().enumerate() {
        if !in_time() {
            break;
        }
        let place = format!("run {} of {}, {}", i + 1, left.len(), job.name());
        let sets = job_sets(grid, job)?;
        let symbols = |s: &EvalSet| s.language.tokens() as f64 * f64::from(s.strings);
        let all: f64 = sets.iter().map(symbols).sum();
        let training = plan.rows.iter().find(|r| r.row == job.row.name).and_then(|r| r.training_minutes);
        let trained = 60.0 * training.unwrap_or(0.0);
        let tick = |stage: Stage| {
            let (at, text) = match &stage {
                Stage::Training { step, of } => {
                    (trained * f64::from(*step) / f64::from(*of), format!("step {step} of {of}"))
                }
                Stage::Testing { set, done, of } => {
                    let place = sets.iter().position(|s| s.name == *set).unwrap_or(0);
                    let finished: f64 = sets[..place].iter().map(symbols).sum();
                    let part = symbols(&sets[place]) * f64::from(*done) / f64::from(*of);
                    let testing = 60.0 * minutes(job) - trained;
                    (trained + testing * (finished + part) / all, format!("{set}, string {done} of {of}"))
                }
            };
            bar.set_message(format!("{place}: {text}; seconds of work:"));
            bar.set_position(before + at as u64);
            in_time()
        };
        match run_job(grid, job, dir, global.seed, backend::cpu(global, printer)?, tick) {
            Ok(_) => {}
            Err(FlipflopError::Train(e)) if matches!(*e, TrainError::Folder(ResultsError::Busy { .. })) => {
                bar.suspend(|| printer.note(&format!("{}: another process is at it", job.name())));
            }
            // The other rows can still be had.
            Err(e) if e.is_divergence() => {
                failed = true;
                bar.suspend(|| printer.note(&format!("{} failed and is left out: {e}", job.name())));
            }
            Err(e) => {
                bar.finish_and_clear();
                return Err(other(e));
            }
        }
        before += whole(job);
        bar.set_position(before);
    }
    bar.finish_and_clear();
    Ok(failed)
}

/// The command as the page names it.
fn command(args: &FlipflopStudy) -> String {
    let name = |p: &Path| p.file_name().unwrap_or(OsStr::new("FILE")).to_string_lossy().into_owned();
    let mut text = format!("refocus flipflop study --grid {} --out DIR", name(&args.grid));
    if !args.rows.is_empty() {
        text.push_str(&format!(" --rows {}", args.rows.join(",")));
    }
    if !args.seeds.is_empty() {
        let seeds: Vec<String> = args.seeds.iter().map(u64::to_string).collect();
        text.push_str(&format!(" --seeds {}", seeds.join(",")));
    }
    if let Some(table) = &args.table {
        text.push_str(&format!(" --table {}", name(table)));
    }
    text
}

fn hours(h: f64) -> String {
    match (60.0 * h).ceil() {
        m if m <= 1.0 => "a minute".to_owned(),
        m if m < 60.0 => format!("{m:.0} minutes"),
        _ => format!("{h:.1} hours"),
    }
}

fn planned(plan: &Plan, colour: bool) -> String {
    let mut table = Table::new(&[
        ("row", Side::Left),
        ("group", Side::Left),
        ("what", Side::Left),
        ("steps", Side::Right),
        ("left", Side::Right),
        ("s a step", Side::Right),
        ("training", Side::Right),
        ("tests", Side::Right),
    ]);
    let minutes = |m: Option<f64>| m.map_or_else(String::new, |m| format!("{m:.1} min"));
    for r in &plan.rows {
        table.row([
            r.row.clone(),
            r.group.clone(),
            r.title.clone(),
            r.steps.to_string(),
            format!("{} of {}", r.left, r.runs),
            r.step_seconds.map_or_else(String::new, |s| format!("{s:.3}")),
            minutes(r.training_minutes),
            minutes(r.testing_minutes),
        ]);
    }
    let all = hours(plan.hours);
    format!("{}\nall that is left, one run after another: about {all}\n", table.render(colour))
}

/// For people.
fn shown(study: &Study, colour: bool) -> String {
    let roles = [Role::In, Role::Sparse, Role::Dense, Role::Piecewise];
    let mut head = vec![("row", Side::Left), ("seeds", Side::Right)];
    head.extend(roles.map(|r| (r.name(), Side::Right)));
    let mut table = Table::new(&head);
    for r in &study.rows {
        let mut cells = vec![r.name.clone(), r.seeds.len().to_string()];
        cells.extend(roles.map(|role| {
            r.set(role).map_or_else(String::new, |s| {
                format!("{} ({} to {})", percent(s.median), percent(s.lowest), percent(s.highest))
            })
        }));
        table.row(cells);
    }
    let mut claims = Table::pairs();
    for c in &study.claims {
        claims.pair(&format!("{:?}: {}", c.claim, c.says), c.verdict.name());
    }
    let rates = "rates of wrong reads: median of the seeds (lowest to highest)";
    format!("{}\n{rates}\n\n{}", table.render(colour), claims.render(colour))
}
