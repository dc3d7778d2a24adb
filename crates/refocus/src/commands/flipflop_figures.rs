//! `flipflop figures`.

use std::collections::BTreeMap;
use std::path::Path;

use refocus_study::flipflop::{Automata, Drawn, Figure, draw};
use refocus_train::Estimate;
use serde::Serialize;

use super::Ended;
use super::train::duration;
use crate::cli::{FlipflopFigures, Global};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Side, Table, grouped};
use crate::{backend, output};

/// Steps that are timed for an estimate.
const TIMED: u32 = 2;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    out: String,
    seeds: u64,
    steps: u32,
    figures: Vec<Summary>,
    page: String,
}

#[derive(Serialize)]
struct Summary {
    figure: &'static str,
    title: &'static str,
    finding: String,
    file: String,
}

#[derive(Serialize)]
struct PlanDocument {
    schema: &'static str,
    models: Vec<Planned>,
    seconds: f64,
}

#[derive(Serialize)]
struct Planned {
    name: String,
    steps: u32,
    /// That are not done yet.
    left: u32,
    seconds: f64,
}

/// The figures asked for, in order and once.
fn figures(args: &FlipflopFigures) -> Outcome<Vec<Figure>> {
    if args.only.is_empty() {
        return Ok(Figure::ALL.to_vec());
    }
    let named = |name: &String| {
        let found = Figure::ALL.into_iter().find(|f| f.letter() == name);
        found.ok_or_else(|| Failure::new(format!("--only {name}: figures are a to f")))
    };
    let mut wanted = args.only.iter().map(named).collect::<Outcome<Vec<_>>>()?;
    wanted.sort_unstable();
    wanted.dedup();
    Ok(wanted)
}

/// What is left to be trained, with the time of it: models of one shape take the same for a step.
fn plan(models: &[Automata], out: &Path, global: &Global, printer: &Printer) -> Outcome<Vec<Planned>> {
    let mut per_step: BTreeMap<String, f64> = BTreeMap::new();
    let mut all = Vec::new();
    for a in models {
        let left = a.left(out);
        let shape = format!("{:?} {} {}", a.config.model, a.config.task.tokens, a.config.sharpen.is_some());
        let seconds = match per_step.get(&shape) {
            _ if left == 0 => 0.0,
            Some(s) => *s,
            None => {
                let e = Estimate::measure(&a.config, backend::cpu(global, printer)?, TIMED)?;
                per_step.insert(shape, e.seconds_per_step);
                e.seconds_per_step
            }
        };
        let (name, steps) = (a.name.clone(), a.config.optimizer.steps);
        all.push(Planned { name, steps, left, seconds: seconds * f64::from(left) });
    }
    Ok(all)
}

/// Runs the command.
pub(super) fn run(args: &FlipflopFigures, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let wanted = figures(args)?;
    let mut models: Vec<Automata> = Vec::new();
    for figure in &wanted {
        for a in figure.models(global.seed, args.seeds, args.steps)? {
            if !models.contains(&a) {
                models.push(a);
            }
        }
    }
    let planned = plan(&models, &args.out, global, printer)?;
    let seconds: f64 = planned.iter().map(|p| p.seconds).sum();
    if args.plan {
        show_plan(planned, seconds, printer)?;
        return Ok(Ended::Well);
    }
    let left = planned.iter().filter(|p| p.left > 0).count();
    if left > 0 {
        printer.note(&format!(
            "{left} of {} models are to be trained: about {}",
            models.len(),
            duration(seconds)
        ));
    }
    let bar = printer.count_bar(planned.iter().map(|p| u64::from(p.left)).sum());
    for a in &models {
        bar.set_message(format!("{}, step", a.name));
        // A backend of its own, so that what one model leaves behind is gone.
        let cpu = backend::cpu(global, printer)?;
        a.train(&args.out, cpu, &mut || bar.inc(1)).inspect_err(|_| bar.finish_and_clear())?;
    }
    bar.finish_and_clear();
    let (mut summaries, mut documents) = (Vec::new(), Vec::new());
    for figure in wanted {
        let isa = backend::isa()?;
        let threads = backend::threads(global);
        let mut kernels = || refocus_compute::Cpu::new(isa, threads);
        let drawn = draw(figure, &args.out, (global.seed, args.seeds), args.steps, &mut kernels)?;
        documents.push(serde_json::to_vec(&drawn)?);
        summaries.push(save(drawn, &args.out)?);
    }
    let page = args.out.join("report.html");
    let from = if global.seed == 0 { String::new() } else { format!(" from {} on", global.seed) };
    let version = env!("CARGO_PKG_VERSION");
    let subtitle = format!("{} seeds{from} · {} steps · refocus {version}", args.seeds, args.steps);
    output::write(&page, refocus_report::figures(subtitle, &documents)?)?;
    let d = Document {
        schema: "refocus.flipflop-figures/1",
        out: args.out.display().to_string(),
        seeds: args.seeds,
        steps: args.steps,
        figures: summaries,
        page: page.display().to_string(),
    };
    if printer.is_json() {
        printer.document(&d)?;
        return Ok(Ended::Well);
    }
    for f in &d.figures {
        printer.text(&format!("({}) {}: {}\n    {}\n", f.figure, f.title, f.file, f.finding))?;
    }
    printer.note(&format!("the page is {}", d.page));
    Ok(Ended::Well)
}

fn save(drawn: Drawn, out: &Path) -> Outcome<Summary> {
    let path = out.join(format!("{}.json", drawn.figure));
    output::write_document(&path, &drawn)?;
    let Drawn { figure, title, finding, .. } = drawn;
    Ok(Summary { figure, title, finding, file: path.display().to_string() })
}

fn show_plan(planned: Vec<Planned>, seconds: f64, printer: &Printer) -> Outcome<()> {
    if printer.is_json() {
        let schema = "refocus.flipflop-figures-plan/1";
        return printer.document(&PlanDocument { schema, models: planned, seconds });
    }
    let heads = [("model", Side::Left), ("steps", Side::Right), ("left", Side::Right), ("time", Side::Right)];
    let mut t = Table::new(&heads);
    for p in &planned {
        let [steps, left] = [p.steps, p.left].map(|n| grouped(n as usize));
        t.row([p.name.clone(), steps, left, duration(p.seconds)]);
    }
    t.row(["in all".to_owned(), String::new(), String::new(), duration(seconds)]);
    printer.text(&t.render(printer.colours()))
}
