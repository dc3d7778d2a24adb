//! `tasks list`, `tasks show`, `tasks validate`.

use std::path::{Path, PathBuf};

use refocus_tasks::classify::{
    Budget, Dataset, Prompt, Setting, Task, TaskError, builtin_all, builtin_keys, draw, prompt, shown,
};
use serde::Serialize;

use super::Ended;
use crate::cli::{Global, TasksList, TasksShow, TasksValidate};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Side, Table, grouped};

/// Folder of data sets, where `--data` is not given.
pub(super) const DATA: &str = "REFOCUS_DATA";
/// Of it the rows of tasks.
const ROWS: &str = "tasks";

#[derive(Serialize)]
struct ListDocument {
    schema: &'static str,
    tasks: Vec<ListEntry>,
}

#[derive(Serialize)]
struct ListEntry {
    key: String,
    version: u32,
    title: String,
    control: bool,
    classes: Vec<ClassEntry>,
    variants: usize,
    /// Rows that are here, absent where the data is not.
    rows: Option<usize>,
}

#[derive(Serialize)]
struct ClassEntry {
    name: String,
    word: String,
    rows: Option<usize>,
}

#[derive(Serialize)]
struct ShowDocument {
    schema: &'static str,
    task: String,
    version: u32,
    setting: String,
    pair: u32,
    seed: u64,
    prompts: Vec<PromptEntry>,
}

#[derive(Serialize)]
struct PromptEntry {
    kind: &'static str,
    text: String,
    /// First byte of each label; the model is asked at the token before it.
    label_starts: Vec<usize>,
    truth: Vec<usize>,
    shown: Vec<usize>,
}

#[derive(Serialize)]
struct ValidateDocument {
    schema: &'static str,
    tasks: Vec<ListEntry>,
}

/// Lists the tasks that the program brings.
pub(super) fn list(args: &TasksList, printer: &Printer) -> Outcome<Ended> {
    let folder = data_folder(args.data.as_deref(), ROWS);
    if let Some(given) = folder.as_deref().filter(|f| !f.is_dir()) {
        return Err(Failure::new(format!("{}: there is no such folder", given.display()))
            .hint(format!("--data or {DATA} names the folder of data sets")));
    }
    let mut entries = Vec::new();
    for key in builtin_keys() {
        let all = builtin_all(key)?;
        let task = &all[0];
        // A list says what is here; what is wrong with a file is for `validate` to say.
        let data = Dataset::read(task, folder.as_deref()).ok();
        entries.push(entry(task, all.len() - 1, data.as_ref()));
    }
    if printer.is_json() {
        printer.document(&ListDocument { schema: "refocus.tasks-list/1", tasks: entries })?;
        return Ok(Ended::Well);
    }
    let mut table = Table::new(&[
        ("task", Side::Left),
        ("classes", Side::Right),
        ("formats", Side::Right),
        ("rows here", Side::Right),
        ("about", Side::Left),
    ]);
    for e in &entries {
        table.row([
            e.key.clone(),
            e.classes.len().to_string(),
            (1 + e.variants).to_string(),
            e.rows.map_or_else(|| "-".to_owned(), grouped),
            e.title.clone(),
        ]);
    }
    printer.text(&table.render(printer.colours()))?;
    if folder.is_none() {
        printer.note(&format!("no data folder: give --data DIR or set {DATA}"));
    }
    Ok(Ended::Well)
}

/// Shows a pair of prompts.
pub(super) fn show(args: &TasksShow, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let task = task(&args.task)?.swap_remove(0);
    let data = rows(&task, args.data.as_deref())?;
    let setting = setting(&args.setting)?;
    // Without a tokenizer there is no budget: texts of any length are shown.
    let tokens = vec![0; data.examples.len()];
    let budget = Budget { demos: args.demos, mean_text_tokens: 0 };
    let draw = draw(&task, &data, &tokens, budget, global.seed, args.pair)?;
    let truth: Vec<usize> = draw.slots.iter().map(|s| s.class).collect();
    let prompts = [
        ("true", prompt(&task, &data, &draw.slots, &truth)),
        ("false", prompt(&task, &data, &draw.slots, &shown(&draw, setting, task.n_classes(), global.seed))),
    ];
    if printer.is_json() {
        let prompts = prompts.into_iter().map(|(kind, p)| PromptEntry {
            kind,
            label_starts: p.labels.iter().map(|l| l.start).collect(),
            truth: p.truth,
            shown: p.shown,
            text: p.text,
        });
        printer.document(&ShowDocument {
            schema: "refocus.tasks-show/1",
            task: task.key,
            version: task.version,
            setting: setting.name(),
            pair: args.pair,
            seed: global.seed,
            prompts: prompts.collect(),
        })?;
        return Ok(Ended::Well);
    }
    let mut out = String::new();
    for (kind, p) in &prompts {
        let what = if *kind == "true" { "true labels".to_owned() } else { setting.name() };
        out.push_str(&format!("=== {} · pair {} · {what}\n{}\n\n", task.key, args.pair, marked(p)));
    }
    out.push_str("‹k› is scored position k: the model is asked there for the label that follows.\n");
    printer.text(&out)?;
    Ok(Ended::Well)
}

/// The text with each scored position marked; a label that is not the true one is followed by `(false)`.
fn marked(p: &Prompt) -> String {
    let mut out = String::new();
    let mut at = 0;
    for (k, label) in p.labels.iter().enumerate() {
        out.push_str(&p.text[at..label.start]);
        out.push_str(&format!("‹{k}›"));
        out.push_str(&p.text[label.clone()]);
        if p.truth[k] != p.shown[k] {
            out.push_str(" (false)");
        }
        at = label.end;
    }
    out.push_str(&p.text[at..]);
    out
}

/// Checks a task and its rows.
pub(super) fn validate(args: &TasksValidate, printer: &Printer) -> Outcome<Ended> {
    let all = task(&args.task)?;
    let first = &all[0];
    let data = rows(first, args.data.as_deref())?;
    let mut entries = vec![entry(first, all.len() - 1, Some(&data))];
    entries.extend(all[1..].iter().map(|t| entry(t, 0, Some(&data))));
    if printer.is_json() {
        printer.document(&ValidateDocument { schema: "refocus.tasks-validate/1", tasks: entries })?;
        return Ok(Ended::Well);
    }
    let mut table = Table::new(&[("class", Side::Left), ("word", Side::Left), ("rows", Side::Right)]);
    for c in &entries[0].classes {
        table.row([c.name.clone(), c.word.clone(), c.rows.map(grouped).unwrap_or_default()]);
    }
    let mut out = format!("{}, version {}: {}\n\n", first.key, first.version, first.title);
    out.push_str(&table.render(printer.colours()));
    if data.skipped > 0 {
        out.push_str(&format!("\nrows of skipped classes, left out: {}\n", grouped(data.skipped)));
    }
    if all.len() > 1 {
        out.push_str(&format!("\n{} more formats\n", all.len() - 1));
    }
    out.push_str(&format!("\nrows from {}\n", data.path.display()));
    printer.text(&out)?;
    Ok(Ended::Well)
}

fn entry(task: &Task, variants: usize, data: Option<&Dataset>) -> ListEntry {
    let rows = |class: usize| data.map(|d| d.by_class[class].len());
    let class = |(i, c): (usize, &refocus_tasks::classify::Class)| ClassEntry {
        name: c.name.clone(),
        word: c.word.clone(),
        rows: rows(i),
    };
    ListEntry {
        key: task.key.clone(),
        version: task.version,
        title: task.title.clone(),
        control: task.control,
        classes: task.classes.iter().enumerate().map(class).collect(),
        variants,
        rows: data.map(|d| d.examples.len()),
    }
}

/// A task file with its variants, or a shipped task: `x.toml` or anything with a separator is a path.
pub(super) fn task(arg: &str) -> Outcome<Vec<Task>> {
    let path = Path::new(arg);
    if path.extension().is_some_and(|e| e == "toml") || path.components().count() > 1 {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::because(format!("{arg}: cannot be read"), e))?;
        return Ok(Task::parse(path, &text)?);
    }
    builtin_all(arg)
        .map_err(|e| Failure::from(e).hint("`refocus tasks list` shows all; a file ends in .toml"))
}

/// The setting of a name.
pub(super) fn setting(name: &str) -> Outcome<Setting> {
    Setting::parse(name).ok_or_else(|| {
        let all: Vec<String> = Setting::ALL.iter().map(|s| s.name()).collect();
        Failure::new(format!("there is no setting {name}")).hint(format!("one of {}", all.join(", ")))
    })
}

/// The rows of a task.
pub(super) fn rows(task: &Task, data: Option<&Path>) -> Outcome<Dataset> {
    let folder = data_folder(data, ROWS);
    Dataset::read(task, folder.as_deref()).map_err(|e| match e {
        TaskError::Rows { .. } if folder.is_none() => {
            Failure::from(e).hint(format!("give --data DIR or set {DATA}"))
        }
        e => e.into(),
    })
}

/// A part of the data: the folder `part` in the one that is given, or that one where it has none; else the one in
/// `REFOCUS_DATA`.
pub(super) fn data_folder(given: Option<&Path>, part: &str) -> Option<PathBuf> {
    let inside = |given: &Path| Some(given.join(part)).filter(|p| p.is_dir()).unwrap_or(given.to_owned());
    given.map(inside).or_else(|| std::env::var_os(DATA).map(|d| PathBuf::from(d).join(part)))
}
