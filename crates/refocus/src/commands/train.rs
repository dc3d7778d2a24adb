//! `train flipflop`.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use refocus_train::{Preset, Progress, Run, RunConfig, TrainError, checkpoint_path, load};
use serde::Serialize;

use super::Ended;
use crate::backend;
use crate::cli::{Global, PresetName, TrainFlipflop};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Table, grouped};

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

/// The configuration that the flags ask for.
fn configure(args: &TrainFlipflop, global: &Global) -> Outcome<RunConfig> {
    let mut config = match args.preset {
        PresetName::Lstm => Preset::Lstm,
        PresetName::Cpu => Preset::Cpu,
        PresetName::Paper => Preset::Paper,
    }
    .config();
    (config.seed, config.data_seed) = (global.seed, global.seed);
    if let Some(steps) = args.steps {
        config.optimizer.steps = steps;
    }
    for change in &args.set {
        let Some((field, value)) = change.split_once('=') else {
            return Err(Failure::new(format!("--set {change}: a field and its value, joined by '='")));
        };
        config = config.with(field.trim(), value.trim()).map_err(|e| {
            Failure::because(format!("--set {change} cannot be used"), e)
                .hint("`refocus train flipflop --preset NAME --show` lists the fields")
        })?;
    }
    config.check()?;
    Ok(config)
}

/// Runs the command.
pub(super) fn flipflop(args: &TrainFlipflop, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let config = configure(args, global)?;
    if args.show {
        if printer.is_json() {
            printer.document(&config)?;
        } else {
            printer.text(&config.to_toml()?)?;
        }
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
    if run.resumed() > 0 && run.resumed() < steps {
        printer.note(&format!("going on after step {} of {steps}", run.resumed()));
    }
    let mut line = Line::new(printer, run.resumed(), steps);
    loop {
        match run.advance() {
            Ok(Some(progress)) => line.show(&progress),
            Ok(None) => break,
            Err(e) => {
                drop(line);
                return Err(lost(dir, e));
            }
        }
    }
    drop(line);
    let model = run.save_model()?;
    report(&run, dir, model.as_deref(), printer)?;
    Ok(Ended::Well)
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

/// A line on standard error that says how far the run is.
struct Line {
    live: bool,
    first: u32,
    steps: u32,
    begun: Instant,
    shown: Option<Instant>,
}

impl Line {
    fn new(printer: &Printer, first: u32, steps: u32) -> Self {
        Self { live: printer.is_live(), first, steps, begun: Instant::now(), shown: None }
    }

    fn show(&mut self, p: &Progress) {
        let now = Instant::now();
        let due = self
            .shown
            .map_or(now - self.begun > Duration::from_secs(2), |s| now - s > Duration::from_millis(200));
        if !self.live || !due {
            return;
        }
        self.shown = Some(now);
        let done = f64::from(p.report.step - self.first);
        let left = f64::from(self.steps - p.report.step) * (now - self.begun).as_secs_f64() / done;
        let text = format!(
            "\r\x1b[Kstep {} of {}  loss {:.4}  {} left",
            p.report.step,
            self.steps,
            p.report.loss,
            clock(left)
        );
        write(&text);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown.is_some() {
            write("\r\x1b[K");
        }
    }
}

fn write(text: &str) {
    let mut err = io::stderr().lock();
    // Nothing can be done about a closed standard error.
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Seconds as `1 h 05 min`, `2 min 10 s` or `9 s`.
fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::clock;

    #[test]
    fn times_are_told_in_two_units() {
        assert_eq!([8.6, 130.0, 3900.0].map(clock), ["9 s", "2 min 10 s", "1 h 05 min"]);
    }
}
