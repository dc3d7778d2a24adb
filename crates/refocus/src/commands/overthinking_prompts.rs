//! The prompts of `overthinking`: drawn from tasks, or read from a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use refocus_model::Checkpoint;
use refocus_study::overthinking::{Defect, Line, Method, Request, Work, build};
use refocus_tasks::classify::{Setting, Task, builtin};
use serde_json::{Map, Value, json};

use super::tasks;
use crate::cli::Overthinking;
use crate::failure::{Failure, Outcome};
use crate::output::Pending;
use crate::printer::Printer;

/// The task whose words are mixed up by a defect.
const TREC: &str = "trec";

/// Prompts, and what is worth knowing about them, by task.
pub(super) struct Drawn {
    pub(super) work: Work,
    pub(super) about: Map<String, Value>,
    /// What the numbers depend on.
    pub(super) configuration: Map<String, Value>,
    /// Whether a task is left out of means; what is not here is not.
    pub(super) controls: BTreeMap<String, bool>,
    /// The classes' words by task, where they are known.
    pub(super) words: BTreeMap<String, Vec<String>>,
}

/// What is asked for, with the values of a preset where no flag says otherwise.
pub(super) struct Wanted {
    pub(super) tasks: Vec<String>,
    pub(super) pairs: u32,
    pub(super) demos: usize,
    pub(super) settings: Vec<String>,
    pub(super) context: Option<usize>,
}

/// Reads a file of prompts.
pub(super) fn from_file(path: &Path, checkpoint: &Checkpoint) -> Outcome<Drawn> {
    let work = Work::read(path, checkpoint.spec())?;
    let (mut about, mut controls) = (Map::new(), BTreeMap::new());
    for t in &work.tasks {
        about.insert(t.task.clone(), json!({ "demos": t.demos, "label_ids": t.label_ids }));
        controls.insert(t.task.clone(), builtin(&t.task).is_ok_and(|t| t.control));
    }
    let mut configuration = Map::new();
    configuration.insert("source".into(), json!("a file of prompts"));
    Ok(Drawn { work, about, configuration, controls, words: BTreeMap::new() })
}

/// Tasks by their names; `x.*` is a task with all its formats.
fn named(name: &str, method: &Method) -> Outcome<Vec<Task>> {
    let defects = &method.defects;
    if let Some(stem) = name.strip_suffix(".*").filter(|s| *s != TREC) {
        let mut all = tasks::task(stem)?;
        all.retain(|t| !t.inverted || defects.has(Defect::InvertedFormat));
        return Ok(all);
    }
    let mut all = tasks::task(name.strip_suffix(".*").unwrap_or(name))?;
    let task = all.remove(0);
    if task.key == TREC && defects.has(Defect::TrecWords) {
        let mixed = all.into_iter().find(|t| t.inverted);
        return Ok(vec![mixed.map(|m| Task { key: task.key.clone(), ..m }).unwrap_or(task)]);
    }
    let needed = if task.key.starts_with(TREC) { Defect::TrecWords } else { Defect::InvertedFormat };
    if task.inverted && !defects.has(needed) {
        return Err(Failure::new(format!("words of {} are not those of their classes", task.key))
            .hint(format!("it exists for --mode paper, or --defects {}", needed.number())));
    }
    Ok(vec![task])
}

/// Draws the prompts of all tasks, and writes them where they are wanted.
pub(super) fn draw(
    args: &Overthinking,
    wanted: &Wanted,
    method: &Method,
    seed: u64,
    checkpoint: &Checkpoint,
    printer: &Printer,
) -> Outcome<Drawn> {
    let spec = checkpoint.spec();
    let mut settings: Vec<Setting> = Vec::new();
    for name in &wanted.settings {
        let setting = tasks::setting(name)?;
        if settings.contains(&setting) {
            return Err(Failure::new(format!("the setting {name} is given twice")));
        }
        settings.push(setting);
    }
    let context = match wanted.context {
        Some(n) if !spec.fits(n) => {
            return Err(Failure::new(format!(
                "--context {n} is more than the model's context of {} tokens",
                spec.n_ctx
            )));
        }
        Some(n) => n,
        None => spec.n_ctx,
    };
    let request = Request { pairs: wanted.pairs, demos: wanted.demos, context, settings, seed };
    let tokenizer = checkpoint.tokenizer()?;
    let pending = args.dump_prompts.as_deref().map(Pending::create).transpose()?;
    let mut lines: Vec<Line> = Vec::new();
    let (mut about, mut versions) = (Map::new(), Map::new());
    let (mut keys, mut controls, mut words_of) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    let mut all = Vec::new();
    for name in &wanted.tasks {
        all.extend(named(name, method)?);
    }
    let bar = printer.count_bar(all.len() as u64);
    for task in all {
        bar.set_message(format!("drawing prompts of {}", task.key));
        if !keys.insert(task.key.clone()) {
            return Err(Failure::new(format!("the task {} is given twice", task.key)));
        }
        controls.insert(task.key.clone(), task.control);
        let data = tasks::rows(&task, args.data.as_deref())?;
        let built = build(&task, &data, &tokenizer, spec, &request)?;
        let words: Vec<&str> = task.classes.iter().map(|c| c.word.as_str()).collect();
        about.insert(
            task.key.clone(),
            json!({
                "version": task.version,
                "control": task.control,
                "demos": request.demos,
                "words": words,
                "label_ids": built.lines[0].label_ids,
                "rows": data.examples.len(),
                "mean_text_tokens": built.mean_text_tokens,
                "special_tokens": built.special_tokens,
                "drawn_again": { "merged": built.merged, "too_long": built.too_long },
            }),
        );
        if built.merged + built.too_long > 0 {
            bar.suspend(|| {
                printer.note(&format!(
                    "{}: {} draws not used because of merged tokens, {} because they were too long",
                    task.key, built.merged, built.too_long
                ));
            });
        }
        words_of.insert(task.key.clone(), words.iter().map(|w| (*w).to_owned()).collect());
        versions.insert(task.key.clone(), json!(task.version));
        lines.extend(built.lines);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(pending) = pending {
        write_lines(pending, &lines)?;
    }
    let path = PathBuf::from("the prompts drawn");
    let numbered: Vec<(usize, Line)> = lines.into_iter().enumerate().collect();
    let work = Work::new(&path, &numbered, spec)?;
    let mut configuration = Map::new();
    configuration.insert("tasks".into(), Value::Object(versions));
    configuration.insert("pairs".into(), json!(request.pairs));
    configuration.insert("demos".into(), json!(request.demos));
    let names: Vec<String> = request.settings.iter().map(|s| s.name()).collect();
    configuration.insert("settings".into(), json!(names));
    configuration.insert("context".into(), json!(context));
    Ok(Drawn { work, about, configuration, controls, words: words_of })
}

fn write_lines(mut out: Pending, lines: &[Line]) -> Outcome<()> {
    for line in lines {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        out.write(&text)?;
    }
    out.finish()
}
