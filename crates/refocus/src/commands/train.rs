//! `train flipflop` and `train world`.

use std::path::Path;

use refocus_train::{Estimate, Preset, Run, RunConfig, TrainError, checkpoint_path, load};
use serde::Serialize;

use super::Ended;
use crate::backend;
use crate::cli::{Global, PresetName, TrainFlipflop, TrainRun, TrainWorld};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Table, grouped};

/// Steps that are timed for an estimate.
const TIMED: u32 = 3;
/// Operations from which on a run says how long it will take.
const LONG: f64 = 1e14;

#[derive(Serialize)]
struct EstimateDocument {
    schema: &'static str,
    config_hash: String,
    steps: u32,
    steps_timed: u32,
    #[serde(flatten)]
    estimate: Estimate,
    hours: f64,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    out: String,
    config_hash: String,
    parameters: usize,
    steps: u32,
    /// Steps that were there before this command.
    resumed_from: u32,
    /// Of the last step, in nats; penalties aside.
    loss: Option<f32>,
    sets: Vec<Set>,
    /// Where the model was saved; an LSTM is in the checkpoint alone.
    model: Option<String>,
}

#[derive(Serialize)]
struct Set {
    name: String,
    ignore: f64,
    sequences: u32,
    reads: usize,
    errors: usize,
}

/// A run as it is asked for.
struct Asked<'a> {
    preset: Preset,
    args: &'a TrainRun,
    set: &'a [String],
    /// The command that lists the fields.
    show: &'static str,
}

/// Runs `train flipflop`.
pub(super) fn flipflop(args: &TrainFlipflop, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let preset = match args.preset {
        PresetName::Lstm => Preset::Lstm,
        PresetName::Cpu => Preset::Cpu,
        PresetName::Paper => Preset::Paper,
        PresetName::Automaton => Preset::Automaton,
    };
    let show = "refocus train flipflop --preset NAME --show";
    run(&Asked { preset, args: &args.run, set: &args.set, show }, global, printer)
}

/// Runs `train world`.
pub(super) fn world(args: &TrainWorld, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let show = "refocus train world --show";
    run(&Asked { preset: Preset::World, args: &args.run, set: &args.set, show }, global, printer)
}

/// The configuration that the flags ask for.
fn configure(asked: &Asked<'_>, global: &Global) -> Outcome<RunConfig> {
    let mut config = asked.preset.config()?;
    (config.seed, config.data_seed) = (global.seed, global.seed);
    // Before the changes, whose messages would name another field.
    config.check_seeds()?;
    if let Some(steps) = asked.args.steps {
        config.optimizer.steps = steps;
    }
    for change in asked.set {
        let Some((field, value)) = change.split_once('=') else {
            return Err(Failure::new(format!("--set {change}: a field and its value, joined by '='")));
        };
        config = config.with(field.trim(), value.trim()).map_err(|e| {
            Failure::because(format!("--set {change} cannot be used"), e)
                .hint(format!("`{}` lists the fields", asked.show))
        })?;
    }
    config.check()?;
    Ok(config)
}

fn run(asked: &Asked<'_>, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let config = configure(asked, global)?;
    let args = asked.args;
    if args.show {
        if printer.is_json() {
            printer.document(&config)?;
        } else {
            printer.text(&config.to_toml()?)?;
        }
        return Ok(Ended::Well);
    }
    if args.estimate {
        estimate(&config, global, printer)?;
        return Ok(Ended::Well);
    }
    let Some(dir) = &args.out else { return Err(Failure::new("--out is needed")) };
    let mut run = Run::open(dir, config, backend::cpu(global, printer)?).map_err(|e| {
        let other = matches!(e, TrainError::Other { .. });
        let failure = Failure::from(e);
        if other {
            failure.hint("give another folder, or the flags that the run was begun with")
        } else {
            failure
        }
    })?;
    let steps = run.config().optimizer.steps;
    if run.config().flops()? > LONG && run.resumed() < steps {
        let e = Estimate::measure(run.config(), backend::cpu(global, printer)?, TIMED)?;
        let left = e.seconds_per_step * f64::from(steps - run.resumed());
        printer.note(&format!(
            "{} symbols and {:.2e} operations in all; the steps to come take about {}, tests aside",
            grouped(e.tokens as usize),
            e.flops,
            duration(left)
        ));
    }
    if run.resumed() > 0 && run.resumed() < steps {
        printer.note(&format!("going on after step {} of {steps}", run.resumed()));
    }
    let bar = printer.count_bar(steps.into()).with_position(run.resumed().into());
    // The time left follows from the steps taken from here on.
    bar.reset_eta();
    loop {
        match run.advance() {
            Ok(Some(progress)) => {
                bar.set_message(format!("loss {:.4}, step", progress.report.loss));
                bar.set_position(progress.report.step.into());
            }
            Ok(None) => break,
            Err(e) => {
                bar.finish_and_clear();
                return Err(lost(dir, e));
            }
        }
    }
    bar.finish_and_clear();
    let model = run.save_model()?;
    report(&run, dir, model.as_deref(), printer)?;
    Ok(Ended::Well)
}

/// Prints the work and the projected time of a run.
fn estimate(config: &RunConfig, global: &Global, printer: &Printer) -> Outcome<()> {
    let e = Estimate::measure(config, backend::cpu(global, printer)?, TIMED)?;
    if printer.is_json() {
        return printer.document(&EstimateDocument {
            schema: "refocus.train-estimate/1",
            config_hash: config.hash()?,
            steps: config.optimizer.steps,
            steps_timed: TIMED,
            estimate: e,
            hours: e.seconds / 3600.0,
        });
    }
    let mut t = Table::pairs();
    t.pair("steps", grouped(config.optimizer.steps as usize));
    t.pair("symbols", grouped(e.tokens as usize));
    t.pair("operations", format!("{:.2e}", e.flops));
    t.pair("a step", format!("{:.3} s (mean of {TIMED})", e.seconds_per_step));
    t.pair("in all", format!("{}, tests aside", duration(e.seconds)));
    printer.text(&t.render(printer.colours()))
}

/// `3.4 hours`.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} seconds"),
        s if s < 7200.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}

/// What is left after an error.
fn lost(dir: &Path, error: TrainError) -> Failure {
    let failure = Failure::from(error);
    match load(&checkpoint_path(dir)) {
        Ok(saved) => failure.hint(format!("the checkpoint of step {} is as it was", saved.step)),
        Err(_) => failure,
    }
}

fn report<K: refocus_compute::Kernels>(
    run: &Run<K>,
    dir: &Path,
    model: Option<&Path>,
    printer: &Printer,
) -> Outcome<()> {
    let last = run.last();
    let counts = last.and_then(|p| p.scores.as_ref());
    let sets = run.config().watch.sets.iter().zip(counts.into_iter().flatten());
    let sets: Vec<Set> = sets
        .map(|(s, c)| Set {
            name: s.name.clone(),
            ignore: s.ignore,
            sequences: s.sequences,
            reads: c.asked,
            errors: c.asked - c.right,
        })
        .collect();
    let d = Document {
        schema: "refocus.train/1",
        out: dir.display().to_string(),
        config_hash: run.config().hash()?,
        parameters: run.parameters(),
        steps: run.steps(),
        resumed_from: run.resumed(),
        loss: last.map(|p| p.report.loss),
        sets,
        model: model.map(|p| p.display().to_string()),
    };
    if printer.is_json() {
        return printer.document(&d);
    }
    let mut t = Table::pairs();
    t.pair("run", d.out.as_str());
    t.pair("parameters", grouped(d.parameters));
    let before =
        if d.resumed_from > 0 { format!(", {} of them before", d.resumed_from) } else { String::new() };
    t.pair("steps", format!("{}{before}", d.steps));
    if let Some(loss) = d.loss {
        t.pair("loss", format!("{loss:.5} nats"));
    }
    for s in &d.sets {
        let what =
            format!("{} errors in {} reads (ignoring {})", grouped(s.errors), grouped(s.reads), s.ignore);
        t.pair(&s.name, what);
    }
    match &d.model {
        Some(path) => t.pair("model", path.as_str()),
        None => t.pair("model", format!("in {}", checkpoint_path(dir).display())),
    };
    printer.text(&t.render(printer.colours()))
}
