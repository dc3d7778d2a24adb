//! `overthinking`: true and false demonstrations, layer by layer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use refocus_compute::Eager;
use refocus_model::{Checkpoint, Model};
use refocus_study::overthinking::{
    Configuration, Line, Mode, Pairs, Request, SettingSummary, Store, StudyError, Work, ask_stored, build,
    summarise,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Ended, overthinking_view, tasks};
use crate::cli::{Global, Overthinking, StudyMode};
use crate::failure::{Failure, Outcome};
use crate::output::Pending;
use crate::printer::Printer;
use crate::{backend, model_arg};

/// What paper mode does as the released code, and what it does not.
const REPRODUCED: [&str; 3] = [
    "1: the final norm is applied twice at the last layer",
    "shares of labels have the guard 1e-14 of the released code",
    "7: the early-exit layer is chosen on the pairs that measure it",
];
const NOT_REPRODUCED: [&str; 5] = [
    "2: words of TREC classes in another order",
    "3: an average of SST-2 over formats with an inverted one (the inverted format can be run by itself)",
    "4 to 6: defects of ablations, which are not there yet",
    "8, 9, 11: slips of scripts that change no number here",
    "10: true prompts drawn anew for each setting",
];

#[derive(Serialize)]
pub(super) struct Document {
    schema: &'static str,
    model: String,
    fingerprint: String,
    pub(super) mode: Mode,
    #[serde(skip_serializing_if = "Option::is_none")]
    reproduced: Option<[&'static str; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_reproduced: Option<[&'static str; 5]>,
    seed: u64,
    /// Hash of the configuration.
    configuration: String,
    /// Hash of the prompts.
    prompts: String,
    pub(super) n_layers: usize,
    pub(super) about: Map<String, Value>,
    /// Task, setting.
    pub(super) tasks: Vec<(String, Vec<(String, SettingSummary)>)>,
}

/// Prompts, and what is worth knowing about how they were drawn, by task.
struct Drawn {
    work: Work,
    about: Map<String, Value>,
    configuration: Map<String, Value>,
}

/// Runs the command.
pub(super) fn run(args: &Overthinking, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let mode = match args.mode {
        StudyMode::Correct => Mode::Correct,
        StudyMode::Paper => Mode::Paper,
    };
    let drawn = match &args.prompts {
        Some(path) => from_file(path, &checkpoint)?,
        None => draw(args, mode, global, &checkpoint, printer)?,
    };
    let Some(out) = &args.out else { return Ok(Ended::Well) };

    let fingerprint = checkpoint.fingerprint()?;
    let mut configuration = Map::new();
    configuration.insert("study".into(), json!("overthinking/1"));
    configuration.insert("model".into(), json!(fingerprint));
    configuration.insert("mode".into(), json!(mode));
    configuration.insert("seed".into(), json!(global.seed));
    configuration.extend(drawn.configuration);
    configuration.insert("prompts".into(), json!(drawn.work.hash));
    let configuration = Configuration(configuration);
    let store = Store::open(out, &configuration).map_err(|e| {
        let other = matches!(e, StudyError::Other { .. });
        let failure = Failure::from(e);
        if other { failure.hint("give another folder to --out, or the flags of that run") } else { failure }
    })?;

    let mut cpu = backend::cpu(global, printer)?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let o = &mut Eager::new(cpu);
    let bar = printer.count_bar(drawn.work.n_prompts() as u64);
    let mut there = 0;
    let mut all = Vec::new();
    for (number, task) in drawn.work.tasks.iter().enumerate() {
        bar.set_message(task.task.clone());
        let tick = |n: usize, stored: bool| {
            bar.inc(n as u64);
            if stored {
                there += n;
                // Time left is judged by what is run.
                bar.reset_eta();
            }
        };
        let answers = ask_stored(o, &model, (number, task), mode, &store, tick)?;
        let mut settings = Vec::new();
        for setting in &task.settings {
            let pairs = Pairs { task, setting, answers: &answers, mode };
            settings.push((setting.name.clone(), summarise(&pairs, global.seed)?));
        }
        all.push((task.task.clone(), settings));
    }
    bar.finish_and_clear();
    if there > 0 {
        printer.note(&format!("{there} of {} prompts were answered before", drawn.work.n_prompts()));
    }
    let paper = mode == Mode::Paper;
    let document = Document {
        schema: "refocus.overthinking/1",
        model: checkpoint.path().display().to_string(),
        fingerprint,
        mode,
        reproduced: paper.then_some(REPRODUCED),
        not_reproduced: paper.then_some(NOT_REPRODUCED),
        seed: global.seed,
        configuration: configuration.hash(),
        prompts: drawn.work.hash,
        n_layers: model.spec.n_layers,
        about: drawn.about,
        tasks: all,
    };
    let summary = summary(&document)?;
    let mut text = serde_json::to_string_pretty(&summary)?;
    text.push('\n');
    store.write("summary.json", &text)?;
    if printer.is_json() {
        printer.text(&text)?;
    } else {
        printer.text(&overthinking_view::table(&document, printer.colours()))?;
        printer.note(&format!("everything else is in {}", out.join("summary.json").display()));
    }
    Ok(Ended::Well)
}

/// `tasks` as objects in the order in which they were asked for.
fn summary(document: &Document) -> Outcome<Value> {
    let mut value = serde_json::to_value(document)?;
    let mut by_task = Map::new();
    for (task, settings) in &document.tasks {
        let mut by_setting = Map::new();
        for (setting, s) in settings {
            by_setting.insert(setting.clone(), serde_json::to_value(s)?);
        }
        by_task.insert(task.clone(), Value::Object(by_setting));
    }
    value["tasks"] = Value::Object(by_task);
    Ok(value)
}

fn from_file(path: &Path, checkpoint: &Checkpoint) -> Outcome<Drawn> {
    let work = Work::read(path, checkpoint.spec())?;
    let mut about = Map::new();
    for t in &work.tasks {
        about.insert(t.task.clone(), json!({ "demos": t.demos, "label_ids": t.label_ids }));
    }
    let mut configuration = Map::new();
    configuration.insert("source".into(), json!("a file of prompts"));
    Ok(Drawn { work, about, configuration })
}

/// Draws the prompts of all tasks, and writes them where they are wanted.
fn draw(
    args: &Overthinking,
    mode: Mode,
    global: &Global,
    checkpoint: &Checkpoint,
    printer: &Printer,
) -> Outcome<Drawn> {
    let spec = checkpoint.spec();
    let mut settings = Vec::new();
    for name in &args.settings {
        let setting = tasks::setting(name)?;
        if settings.contains(&setting) {
            return Err(Failure::new(format!("the setting {name} is given twice")));
        }
        settings.push(setting);
    }
    let context = match args.context {
        Some(n) if n > spec.n_ctx && !spec.stretches() => {
            return Err(Failure::new(format!(
                "--context {n} is more than the model's context of {} tokens",
                spec.n_ctx
            )));
        }
        Some(n) => n,
        None => spec.n_ctx,
    };
    let request = Request { pairs: args.pairs, demos: args.demos, context, settings, seed: global.seed };
    let tokenizer = checkpoint.tokenizer()?;
    let pending = args.dump_prompts.as_deref().map(Pending::create).transpose()?;
    let mut lines: Vec<Line> = Vec::new();
    let (mut about, mut versions) = (Map::new(), Map::new());
    let mut keys = BTreeSet::new();
    for name in &args.tasks {
        let task = tasks::task(name)?.swap_remove(0);
        if !keys.insert(task.key.clone()) {
            return Err(Failure::new(format!("the task {} is given twice", task.key)));
        }
        if task.inverted && mode == Mode::Correct {
            return Err(Failure::new(format!("the words of {} say the opposite of their class", task.key))
                .hint("it exists for --mode paper alone"));
        }
        let data = tasks::rows(&task, args.data.as_deref())?;
        printer.detail(&format!("drawing prompts of {}", task.key));
        let built = build(&task, &data, &tokenizer, spec, &request)?;
        let words: Vec<&str> = task.classes.iter().map(|c| c.word.as_str()).collect();
        about.insert(
            task.key.clone(),
            json!({
                "version": task.version,
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
            printer.note(&format!(
                "{}: {} draws not used because of merged tokens, {} because they were too long",
                task.key, built.merged, built.too_long
            ));
        }
        versions.insert(task.key.clone(), json!(task.version));
        lines.extend(built.lines);
    }
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
    Ok(Drawn { work, about, configuration })
}

fn write_lines(mut out: Pending, lines: &[Line]) -> Outcome<()> {
    for line in lines {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        out.write(&text)?;
    }
    out.finish()
}
