//! `report`: the page of a run, from its tables alone.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use refocus_results::{ResultsError, StoredRun};
use serde::Serialize;

use super::Ended;
use crate::cli::{Open, Report};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::printer::Printer;

/// What a diagnosis leaves; a folder that has it is one.
const FINDINGS: &str = "findings.json";

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    page: PathBuf,
    bytes: usize,
    runs: Vec<Run>,
    csv: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Run {
    folder: PathBuf,
    study: String,
    configuration: String,
    tables: Vec<Table>,
}

#[derive(Serialize)]
struct Table {
    name: String,
    rows: u64,
}

/// Runs the command.
pub(super) fn run(args: &Report, printer: &Printer) -> Outcome<Ended> {
    let dirs: Vec<&Path> = match (&args.compare, &args.dir) {
        (Some(two), _) => two.iter().map(PathBuf::as_path).collect(),
        (None, dir) => dir.iter().map(PathBuf::as_path).collect(),
    };
    if let [_, _] = dirs[..]
        && let Some(dir) = dirs.iter().find(|d| d.join(FINDINGS).is_file())
    {
        let text = format!("{}: a diagnosis; --compare puts two runs of a study side by side", dir.display());
        return Err(Failure::new(text).hint(
            "a study is what overthinking, recall and system2 eval write; a diagnosis has a page of its own",
        ));
    }
    let findings = dirs.first().map(|d| d.join(FINDINGS)).filter(|p| dirs.len() == 1 && p.is_file());
    let runs = match &findings {
        Some(_) => Vec::new(),
        None => dirs.iter().map(|d| open(d)).collect::<Outcome<Vec<StoredRun>>>()?,
    };
    let (html, usual) = match runs.as_slice() {
        [] if findings.is_some() => {
            let path = findings.unwrap_or_default();
            let bytes = std::fs::read(&path)
                .map_err(|e| Failure::because(format!("{}: cannot be read", path.display()), e))?;
            let html = refocus_report::diagnosis(&bytes)
                .map_err(|e| Failure::because(path.display().to_string(), e))?;
            (html, path.with_file_name("report.html"))
        }
        [run] => (refocus_report::page(run)?, run.dir().join("report.html")),
        [a, b] => (refocus_report::compare(a, b)?, PathBuf::from("refocus-compare.html")),
        _ => return Err(Failure::new("give the folder of one run, or two with --compare")),
    };
    // Its page follows from the document; its tables are like any other run's. An earlier version wrote none.
    let runs = match (runs.as_slice(), dirs.as_slice()) {
        ([], [dir]) => match StoredRun::open(dir) {
            Ok(run) => vec![run],
            Err(ResultsError::NoRun { .. }) => Vec::new(),
            Err(e) => return Err(e.into()),
        },
        _ => runs,
    };
    if args.csv.is_some() && runs.is_empty() {
        return Err(Failure::new("this diagnosis has no tables to write as CSV")
            .hint("it was made by an earlier version; the same `diagnose` command writes them"));
    }
    let page = args.out.clone().unwrap_or(usual);
    let mut csv = Vec::new();
    if let (Some(folder), [run]) = (&args.csv, runs.as_slice()) {
        csv = write_csv(run, folder)?;
    }
    output::write(&page, &html)?;
    if printer.is_json() {
        let runs = runs.iter().map(|r| Run {
            folder: r.dir().to_owned(),
            study: r.info().study.clone(),
            configuration: r.configuration_hash().to_owned(),
            tables: r.tables().iter().map(|t| Table { name: t.name.clone(), rows: t.rows }).collect(),
        });
        let runs = runs.collect();
        let document =
            Document { schema: "refocus.report/1", page: page.clone(), bytes: html.len(), runs, csv };
        printer.document(&document)?;
    } else {
        printer.text(&format!("{}\n", page.display()))?;
        for path in csv {
            printer.text(&format!("{}\n", path.display()))?;
        }
    }
    show(&page, args.open, printer);
    Ok(Ended::Well)
}

fn open(dir: &Path) -> Outcome<StoredRun> {
    if !dir.exists() {
        return Err(Failure::new(format!("{}: there is no such folder", dir.display())));
    }
    if !dir.is_dir() {
        return Err(Failure::new(format!("{}: not a folder", dir.display()))
            .hint("give the folder that a study wrote with --out"));
    }
    Ok(StoredRun::open(dir)?)
}

/// All tables are read before one is written.
fn write_csv(run: &StoredRun, folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in run.tables() {
        if let Some(table) = run.table(&entry.name)? {
            files.push((folder.join(format!("{}.csv", entry.name)), table.to_csv()?));
        }
    }
    std::fs::create_dir_all(folder)
        .map_err(|e| Failure::because(format!("{}: cannot be made", folder.display()), e))?;
    for (path, text) in &files {
        output::write(path, text)?;
    }
    Ok(files.into_iter().map(|f| f.0).collect())
}

/// Shows the page. That it cannot be shown is no failure: it is written.
fn show(page: &Path, when: Open, printer: &Printer) {
    let screen = !cfg!(all(unix, not(target_os = "macos")))
        || ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| std::env::var_os(v).is_some_and(|v| !v.is_empty()));
    let wanted = match when {
        Open::Yes => true,
        Open::No => false,
        Open::Auto => screen && !printer.is_json() && std::io::stdout().is_terminal(),
    };
    if !wanted {
        return;
    }
    let mut command = if cfg!(target_os = "macos") {
        Command::new("open")
    } else if cfg!(windows) {
        Command::new("explorer")
    } else {
        Command::new("xdg-open")
    };
    let quiet = command.arg(page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(e) = quiet.spawn() {
        printer.note(&format!("the page cannot be shown: {e}"));
    }
}
