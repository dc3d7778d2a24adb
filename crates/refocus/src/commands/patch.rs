//! `patch check`.

use refocus_model::patch::{EntrySupport, Job, Support};
use refocus_model::{Checkpoint, ModelSpec, Patch};
use serde::Serialize;

use super::Ended;
use crate::cli::Check;
use crate::failure::Outcome;
use crate::model_arg;
use crate::printer::Printer;
use crate::table::{Side, Table};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    patch: String,
    model: String,
    fingerprint: String,
    /// `none`, `same` or `forced`.
    guard: &'static str,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    line: usize,
    action: &'static str,
    says: String,
    /// Places of the model that it changes.
    places: Option<usize>,
    forward: Cell,
    generate: Cell,
    serve: Cell,
    export: Cell,
}

#[derive(Serialize)]
struct Cell {
    /// `yes`, `not yet` or `no`.
    works: &'static str,
    why: Option<String>,
}

/// A patch that fits a model.
pub(super) struct Opened {
    pub(super) patch: Patch,
    /// Of the model.
    pub(super) fingerprint: String,
    /// `none`, `same` or `forced`.
    pub(super) guard: &'static str,
}

/// Reads a patch and checks it against a model, its guard too.
pub(super) fn open(args: &Check, checkpoint: &Checkpoint) -> Outcome<Opened> {
    let patch = Patch::load(&args.patch, checkpoint.spec())?;
    let fingerprint = checkpoint.fingerprint()?;
    let guard = match (&patch.guard, patch.check_guard(&fingerprint)) {
        (None, _) => "none",
        (Some(_), Ok(())) => "same",
        (Some(_), Err(_)) if args.force => "forced",
        (Some(_), Err(e)) => return Err(e.into()),
    };
    Ok(Opened { patch, fingerprint, guard })
}

/// Runs the command.
pub(super) fn check(args: &Check, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let Opened { patch, fingerprint, guard } = open(args, &checkpoint)?;
    let document = Document {
        schema: "refocus.patch-check/1",
        patch: args.patch.display().to_string(),
        model: model_arg::shown(&checkpoint),
        fingerprint,
        guard,
        entries: entries(&patch, checkpoint.spec()),
    };
    if printer.is_json() {
        printer.document(&document)?;
    } else {
        printer.text(&text(&document, printer.colours()))?;
    }
    Ok(Ended::Well)
}

fn entries(patch: &Patch, spec: &ModelSpec) -> Vec<Entry> {
    let cell = |e: &EntrySupport, job: Job| {
        let support = &e.jobs[job as usize];
        let works = match support {
            Support::Yes => "yes",
            Support::NotYet(_) => "not yet",
            Support::No(_) => "no",
        };
        Cell { works, why: support.why().map(str::to_owned) }
    };
    let entry = |e: EntrySupport| Entry {
        forward: cell(&e, Job::Forward),
        generate: cell(&e, Job::Generate),
        serve: cell(&e, Job::Serve),
        export: cell(&e, Job::Export),
        line: e.line,
        action: e.action,
        says: e.says,
        places: e.places,
    };
    patch.support(spec).into_iter().map(entry).collect()
}

/// That a patch fits a model, and whether it was made for it.
pub(super) fn headline(patch: &str, model: &str, guard: &str) -> String {
    let made = match guard {
        "same" => ", the model it was made for",
        "forced" => ", though it was made for another model",
        _ => "",
    };
    format!("{patch} fits {model}{made}\n\n")
}

/// The table, and below it every reason once.
fn text(d: &Document, colour: bool) -> String {
    let mut out = headline(&d.patch, &d.model, d.guard);
    let mut columns = vec![("line", Side::Right)];
    columns.extend(Job::ALL.map(|j| (j.name(), Side::Left)));
    // Entries are as long as they are, so they come last.
    columns.push(("entry", Side::Left));
    let mut table = Table::new(&columns);
    let mut reasons: Vec<String> = Vec::new();
    let mut mark = |cell: &Cell| match &cell.why {
        None => cell.works.to_owned(),
        Some(why) => {
            let n = reasons.iter().position(|r| r == why).unwrap_or_else(|| {
                reasons.push(why.clone());
                reasons.len() - 1
            });
            format!("{} [{}]", cell.works, n + 1)
        }
    };
    for e in &d.entries {
        let entry = match e.places {
            Some(n) if n != 1 => format!("{} ({n} places)", e.says),
            _ => e.says.clone(),
        };
        let [forward, generate, serve, export] =
            [&e.forward, &e.generate, &e.serve, &e.export].map(&mut mark);
        table.row([e.line.to_string(), forward, generate, serve, export, entry]);
    }
    out.push_str(&table.render(colour));
    if !reasons.is_empty() {
        out.push('\n');
    }
    for (i, why) in reasons.iter().enumerate() {
        out.push_str(&format!("[{}] {why}\n", i + 1));
    }
    out
}
