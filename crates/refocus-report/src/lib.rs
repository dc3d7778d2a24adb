//! Result tables as charts and one self-contained page.
//!
//! [`page`] is a pure function of run folders, [`diagnosis`] and [`figures`] of documents: the
//! same tables give the same page. It needs no script, no server and no other file; what a run has no table for is not on its page.

pub mod chart;
mod diagnose;
mod figures;
mod flipflop;
mod overthinking;
mod recall;
mod system2;
mod view;
mod words;

use std::path::{Path, PathBuf};

use refocus_results::{ResultsError, StoredRun};

pub use self::diagnose::diagnosis;
pub use self::figures::figures;

use self::view::{Cell, Column, Grid, Head, Page, Part, Section};

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A folder or table that cannot be read.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// Nothing to show.
    #[error("{}: the run has no table that a page can show{}", dir.display(), list(found))]
    NoTables {
        /// The folder.
        dir: PathBuf,
        /// The tables it has.
        found: Vec<String>,
    },
    /// Runs of different studies do not stand side by side.
    #[error("{} is a run of {}, {} one of {}", a.display(), a_study, b.display(), b_study)]
    Studies {
        /// One folder.
        a: PathBuf,
        /// Its study.
        a_study: String,
        /// The other folder.
        b: PathBuf,
        /// Its study.
        b_study: String,
    },
    /// A document that is none of a diagnosis.
    #[error("the document cannot be read as a diagnosis")]
    Findings(#[from] serde_json::Error),
    /// A document that is none of a figure.
    #[error("the document cannot be read as a figure")]
    Figure(#[source] serde_json::Error),
    /// The template failed.
    #[error("the page cannot be put together")]
    Template(#[from] askama::Error),
}

fn list(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!("; it has {}", found.join(", ")) }
}

/// The page of a run.
///
/// # Errors
/// A table is damaged or of another schema, or there is none to show.
pub fn page(run: &StoredRun) -> Result<String, ReportError> {
    let sections = sections(run)?;
    let title = title(run);
    put_together(title, subtitle(run), sections.into_iter().map(Section::alone).collect())
}

/// The page of two runs of one study, side by side.
///
/// # Errors
/// As [`page`], and for runs of different studies.
pub fn compare(a: &StoredRun, b: &StoredRun) -> Result<String, ReportError> {
    let study = |r: &StoredRun| r.info().study.split('/').next().unwrap_or_default().to_owned();
    if study(a) != study(b) {
        return Err(ReportError::Studies {
            a: a.dir().to_owned(),
            a_study: study(a),
            b: b.dir().to_owned(),
            b_study: study(b),
        });
    }
    let names = names(a, b);
    let mut sections = Vec::new();
    sections.extend(overthinking::beside([a, b], &names)?.map(Section::alone));
    let mut left = self::sections(a)?;
    let mut right = self::sections(b)?;
    // In the order of the first run, then what only the second has.
    let order: Vec<&'static str> = left.iter().map(|s| s.id).collect();
    let more: Vec<&'static str> = right.iter().map(|s| s.id).filter(|id| !order.contains(id)).collect();
    for id in order.into_iter().chain(more) {
        let mut columns = Vec::new();
        let mut about = None;
        for (all, name) in [(&mut left, &names[0]), (&mut right, &names[1])] {
            let label = Some(name.clone());
            match all.iter().position(|s| s.id == id).map(|i| all.remove(i)) {
                Some(s) => {
                    columns.push(Column { label, parts: s.parts });
                    about.get_or_insert((s.title, s.lead));
                }
                None => columns.push(Column {
                    label,
                    parts: vec![Part::Text("This run has no such table.".to_owned())],
                }),
            }
        }
        let (title, lead) = about.unwrap_or_default();
        sections.push(Section { id, title, lead, columns });
    }
    put_together(format!("{} beside {}", names[0], names[1]), subtitle(a), sections)
}

/// A run's name, where two need to be told apart.
fn names(a: &StoredRun, b: &StoredRun) -> [String; 2] {
    let model = |r: &StoredRun| r.info().model.as_ref().map(|m| short_name(&m.name));
    if let (Some(x), Some(y)) = (model(a), model(b))
        && x != y
    {
        return [x, y];
    }
    let folder = |r: &StoredRun| {
        r.dir()
            .file_name()
            .map_or_else(|| r.dir().display().to_string(), |n| n.to_string_lossy().into_owned())
    };
    let (x, y) = (folder(a), folder(b));
    if x == y { [a.dir().display().to_string(), b.dir().display().to_string()] } else { [x, y] }
}

/// The last part of a path, without what every model file ends with.
fn short_name(name: &str) -> String {
    let path = Path::new(name);
    let last = path.file_name().map_or_else(|| name.to_owned(), |n| n.to_string_lossy().into_owned());
    last.strip_suffix(".gguf").unwrap_or(&last).to_owned()
}

fn title(run: &StoredRun) -> String {
    let info = run.info();
    match &info.model {
        Some(model) => format!("{}: {}", short_name(&model.name), subject(&info.study)),
        None => subject(&info.study).to_owned(),
    }
}

fn subject(study: &str) -> &str {
    match study.split('/').next().unwrap_or_default() {
        "overthinking" => "what false demonstrations do",
        "recall" => "how it recalls a fact",
        "system2" => "System 2 Attention",
        "flipflop" => "Flip-flop: where small models slip",
        other => other,
    }
}

fn subtitle(run: &StoredRun) -> String {
    let info = run.info();
    format!("Study {} · seed {} · {}", info.study, info.seed, info.program)
}

/// A section of one run.
pub(crate) struct RunSection {
    id: &'static str,
    title: String,
    lead: String,
    parts: Vec<Part>,
}

impl Section {
    fn alone(s: RunSection) -> Self {
        let columns = vec![Column { label: None, parts: s.parts }];
        Self { id: s.id, title: s.title, lead: s.lead, columns }
    }
}

/// What one run has to show.
fn sections(run: &StoredRun) -> Result<Vec<RunSection>, ReportError> {
    let mut all = overthinking::sections(run)?;
    all.extend(flipflop::sections(run)?);
    all.extend(recall::sections(run)?);
    all.extend(system2::sections(run)?);
    if all.is_empty() {
        let found = run.tables().iter().map(|t| t.name.clone()).collect();
        return Err(ReportError::NoTables { dir: run.dir().to_owned(), found });
    }
    all.push(provenance(run));
    Ok(all)
}

fn provenance(run: &StoredRun) -> RunSection {
    let info = run.info();
    let mut rows = vec![("study", info.study.clone(), "")];
    if let Some(model) = &info.model {
        rows.push(("model", short_name(&model.name), ""));
        rows.push(("fingerprint", model.fingerprint.clone(), "hash"));
    }
    if let Some(tokenizer) = &info.tokenizer {
        rows.push(("tokenizer", tokenizer.clone(), "hash"));
    }
    let versions: Vec<String> = info.tasks.iter().map(|(task, v)| format!("{task} v{v}")).collect();
    if !versions.is_empty() {
        rows.push(("tasks", versions.join(", "), ""));
    }
    rows.push(("seed", info.seed.to_string(), ""));
    rows.push(("precision", info.precision.clone(), ""));
    rows.push(("instruction set", info.instruction_set.clone(), ""));
    rows.push(("program", info.program.clone(), ""));
    rows.push(("configuration", run.configuration_hash().to_owned(), "hash"));
    let rows = rows.into_iter().map(|(what, is, class)| vec![Cell::text(what), Cell { text: is, class }]);
    let facts = Grid {
        caption: "What the numbers depend on".to_owned(),
        head: vec![Head::text("what"), Head::text("value")],
        rows: rows.collect(),
    };
    let settings = info.configuration.iter().map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        vec![Cell::text(key.clone()), Cell { text, class: "hash" }]
    });
    let settings = Grid {
        caption: "Configuration".to_owned(),
        head: vec![Head::text("setting"), Head::text("value")],
        rows: settings.collect(),
    };
    let tables = run.tables().iter().map(|t| {
        let checksum = Cell { text: t.checksum.clone(), class: "hash" };
        vec![Cell::text(format!("{}/{}", t.name, t.version)), Cell::number(t.rows.to_string()), checksum]
    });
    let tables = Grid {
        caption: "Tables".to_owned(),
        head: vec![Head::text("table"), Head::number("rows"), Head::text("checksum")],
        rows: tables.collect(),
    };
    let fold = view::Fold {
        title: "Configuration and tables".to_owned(),
        figures: Vec::new(),
        grids: vec![settings, tables],
    };
    RunSection {
        id: "provenance",
        title: "Provenance".to_owned(),
        lead: "The same configuration gives the same tables, and the same tables give this page.".to_owned(),
        parts: vec![Part::Grid(facts), Part::Fold(fold)],
    }
}

fn put_together(title: String, subtitle: String, sections: Vec<Section>) -> Result<String, ReportError> {
    let page = Page { title, subtitle, style: include_str!("../templates/style.css"), sections };
    Ok(askama::Template::render(&page)?)
}
