//! `overthinking`: true and false demonstrations, layer by layer.
//!
//! The work is done in stages, each with blocks of its own in the folder, so that each goes on where it was
//! stopped. What the stages find comes together in [`conclude`].

use std::collections::BTreeMap;

use refocus_compute::Eager;
use refocus_model::{Model, ModelSpec};
use refocus_results::{ModelInfo, RunFolder, RunInfo, StoredRun};
use refocus_study::overthinking::{
    Claim, Comparison, Configuration, DRAWS, Defect, Defects, Detail, Method, Mode, PairEffect, Pairs,
    Published, Questions, SettingMeans, SettingSummary, Store, StudyError, claims, correct_mitigations,
    evidence, means, patches, published, summarise,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::overthinking_prompts::{Drawn, Wanted, draw, from_file};
use super::overthinking_stages::{Case, Inside, Run, Stage};
use super::overthinking_tables::{self, About};
use super::{Ended, overthinking_view};
use crate::cli::{Global, Overthinking, StudyMode, StudyStage};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::{backend, model_arg};

const STUDY: &str = "overthinking/2";
const SETTING: &str = "permuted";
const PAIRS: u32 = 100;
const DEMOS: usize = 16;
const MAP_PAIRS: usize = 20;

#[derive(Serialize)]
pub(super) struct Document {
    schema: &'static str,
    model: String,
    fingerprint: String,
    pub(super) mode: Mode,
    /// Numbers of the defects that are reproduced.
    pub(super) defects: Defects,
    seed: u64,
    /// Hash of the configuration.
    configuration: String,
    /// Hash of the prompts.
    prompts: String,
    pub(super) n_layers: usize,
    pub(super) about: Map<String, Value>,
    stages: Vec<Stage>,
    /// Task, setting.
    #[serde(skip)]
    pub(super) tasks: Vec<(String, Vec<(String, SettingSummary)>)>,
    pub(super) means: Vec<SettingMeans>,
    pub(super) claims: Vec<Claim>,
    /// Files in the folder.
    pub(super) patches: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) published: Option<Comparison>,
}

/// Runs the command.
pub(super) fn run(args: &Overthinking, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let preset = args.preset.as_deref().map(preset).transpose()?;
    let method = method(args)?;
    let stages = stages(args)?;
    let drawn = match &args.prompts {
        Some(path) => from_file(path, &checkpoint)?,
        None => draw(args, &wanted(args, preset.as_ref()), &method, global.seed, &checkpoint, printer)?,
    };
    let Some(out) = &args.out else { return Ok(Ended::Well) };

    let fingerprint = checkpoint.fingerprint()?;
    let configuration = configuration(&fingerprint, &method, global.seed, &drawn);
    let mut cpu = backend::cpu(global, printer)?;
    let mut tables = RunFolder::renew(
        out,
        RunInfo {
            study: STUDY.to_owned(),
            program: format!("refocus {}", env!("CARGO_PKG_VERSION")),
            model: Some(ModelInfo { name: model_arg::shown(&checkpoint), fingerprint: fingerprint.clone() }),
            tokenizer: None,
            tasks: versions(&drawn),
            seed: global.seed,
            precision: "f32".to_owned(),
            instruction_set: cpu.isa().name().to_owned(),
            configuration: with_stages(&configuration, &stages, args.top_heads),
        },
    )?;
    let store = Store::open(out, &configuration).map_err(|e| {
        let other = matches!(e, StudyError::Other { .. });
        let failure = Failure::from(e);
        if other { failure.hint("give another folder to --out, or the flags of that run") } else { failure }
    })?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let o = &mut Eager::new(cpu);
    let mut run =
        Run { work: &drawn.work, method: &method, store: &store, model: &model, printer, done: Vec::new() };
    let tasks = &drawn.work.tasks;
    let with =
        |task: usize| Questions { task, prompts: &tasks[task].prompts, label_ids: &tasks[task].label_ids };
    let answers = run.ask(o, ("layers", "blocks"), with)?;
    let without =
        |task: usize| Questions { task, prompts: &tasks[task].alone, label_ids: &tasks[task].label_ids };
    let alone = run.ask(o, ("without demonstrations", "alone"), without)?;

    let (mut cases, mut found) = (Vec::new(), Vec::new());
    for (number, ((task, answers), alone)) in tasks.iter().zip(&answers).zip(&alone).enumerate() {
        let control = drawn.controls.get(&task.task).copied().unwrap_or(false);
        for (which, setting) in task.settings.iter().enumerate() {
            let pairs = Pairs { task, setting, answers, alone, method: &method };
            found.push(summarise(&pairs, control, global.seed)?);
            cases.push(Case { pairs, name: format!("{number:02}-{which:02}") });
        }
    }
    let mut inside = Inside::default();
    if stages.heads {
        inside = run.heads(o, &cases, &mut found, args.top_heads as usize)?;
    }
    if stages.ablations {
        run.ablations(o, &cases, &mut inside, &mut found, global.seed)?;
    }
    if let Some(n) = stages.map {
        run.map(o, &cases, &mut inside, n)?;
    }
    let done = run.done;
    let (means, claims) = conclude(&mut found, &inside.effects, global.seed);
    let mut patches_of = Vec::new();
    for patch in patches(&found, &means, &fingerprint, model.spec.n_layers) {
        let tensors = patch.tensors().map_err(|e| Failure::because("a patch cannot be written", e))?;
        if let Some(tensors) = tensors {
            store.write_bytes(&format!("patches/{}.safetensors", patch.name), &tensors)?;
        }
        let name = format!("patches/{}.toml", patch.name);
        store.write(&name, &patch.text)?;
        patches_of.push(name);
    }
    let about = About { cases: &cases, found: &found, inside: &inside, claims: &claims, seed: global.seed };
    overthinking_tables::write(&mut tables, &about, &drawn, checkpoint.tokenizer().ok().as_ref())?;
    store.write("report.html", &refocus_report::page(&StoredRun::open(out)?)?)?;
    let mut document = Document {
        schema: "refocus.overthinking/1",
        model: model_arg::shown(&checkpoint),
        fingerprint,
        mode: method.mode,
        defects: method.defects.clone(),
        seed: global.seed,
        configuration: configuration.hash(),
        prompts: drawn.work.hash.clone(),
        n_layers: model.spec.n_layers,
        about: drawn.about,
        stages: done,
        tasks: by_task(found),
        means,
        claims,
        patches: patches_of,
        published: None,
    };
    document.published = beside(&document, preset.as_ref(), &model.spec, printer);
    let text = summary(&document)?;
    store.write("summary.json", &text)?;
    if printer.is_json() {
        printer.text(&text)?;
    } else {
        printer.text(&overthinking_view::tables(&document, printer.colours()))?;
        let (page, all) = (out.join("report.html"), out.join("summary.json"));
        printer.note(&format!("the page is {}, everything else is in {}", page.display(), all.display()));
    }
    Ok(Ended::Well)
}

/// Which stages are done after the lens.
struct Wants {
    heads: bool,
    ablations: bool,
    /// Pairs of the map.
    map: Option<usize>,
}

fn stages(args: &Overthinking) -> Outcome<Wants> {
    let asked = |stage| args.stages.contains(&stage);
    let map = asked(StudyStage::Map) || args.map.is_some();
    let missing = if !asked(StudyStage::Lens) {
        Some(("every other stage", "lens"))
    } else if asked(StudyStage::Heads) {
        None
    } else if asked(StudyStage::Ablations) {
        Some(("the stage ablations", "heads"))
    } else {
        map.then_some(("the stage map", "heads"))
    };
    if let Some((stage, needed)) = missing {
        return Err(Failure::new(format!("{stage} needs the stage {needed}")).hint("name it in --stages too"));
    }
    Ok(Wants {
        heads: asked(StudyStage::Heads),
        ablations: asked(StudyStage::Ablations),
        map: map.then(|| args.map.map_or(MAP_PAIRS, |n| n as usize)),
    })
}

/// What the tables depend on: the configuration of the answers, which stay as they are whatever else is asked
/// for, and that of the later stages.
fn with_stages(configuration: &Configuration, stages: &Wants, top_heads: u32) -> Map<String, Value> {
    let mut out = configuration.0.clone();
    out.insert("top_heads".into(), json!(stages.heads.then_some(top_heads)));
    out.insert("random_draws".into(), json!(stages.ablations.then_some(DRAWS)));
    out.insert("map_pairs".into(), json!(stages.map));
    out
}

/// Version of each task; none of prompts from a file.
fn versions(drawn: &Drawn) -> BTreeMap<String, u32> {
    let all = drawn.configuration.get("tasks").and_then(Value::as_object);
    let one = |(task, v): (&String, &Value)| Some((task.clone(), u32::try_from(v.as_u64()?).ok()?));
    all.into_iter().flatten().filter_map(one).collect()
}

/// What all stages found, judged together. A stage has added its ways to answer to the details; `inside` is for
/// the claims about heads and late blocks.
fn conclude(
    found: &mut [(SettingSummary, Detail)],
    inside: &[PairEffect],
    seed: u64,
) -> (Vec<SettingMeans>, Vec<Claim>) {
    correct_mitigations(found);
    let details: Vec<Detail> = found.iter().map(|f| f.1.clone()).collect();
    let means = means(&details, seed);
    let claims = claims(&details, &means, &evidence(&details, inside, seed), seed);
    (means, claims)
}

fn method(args: &Overthinking) -> Outcome<Method> {
    let mode = match args.mode {
        Some(StudyMode::Correct) => Mode::Correct,
        None if args.preset.is_none() => Mode::Correct,
        Some(StudyMode::Paper) | None => Mode::Paper,
    };
    let defects = match &args.defects {
        None if mode == Mode::Paper => Defects::all(),
        None => Defects::none(),
        Some(given) if given == "none" => Defects::none(),
        Some(given) => given
            .split(',')
            .map(|n| n.trim().parse().ok().and_then(Defect::of_number))
            .collect::<Option<Defects>>()
            .ok_or_else(|| {
                let known = Defect::ALL.map(|d| format!("{} {}", d.number(), d.words())).join("; ");
                Failure::new(format!("--defects {given}: give numbers from 1 to 7, or none")).hint(known)
            })?,
    };
    Ok(Method { mode, defects })
}

/// The protocol of a published model.
fn preset(name: &str) -> Outcome<Published> {
    let all = published();
    let names: Vec<String> = all.iter().map(|p| p.name.clone()).collect();
    all.into_iter().find(|p| p.name == name).ok_or_else(|| {
        Failure::new(format!("there is no preset {name}")).hint(format!("one of {}", names.join(", ")))
    })
}

/// What the flags ask for, then what the preset does.
fn wanted(args: &Overthinking, preset: Option<&Published>) -> Wanted {
    let tasks = match preset {
        Some(p) if args.tasks.is_empty() => p.tasks(),
        _ => args.tasks.clone(),
    };
    let settings = args.settings.clone().or_else(|| preset.map(Published::settings));
    Wanted {
        tasks,
        pairs: args.pairs.or(preset.map(|p| p.pairs)).unwrap_or(PAIRS),
        demos: args.demos.or(preset.map(|p| p.demos)).unwrap_or(DEMOS),
        settings: settings.unwrap_or_else(|| vec![SETTING.to_owned()]),
        context: args.context.or(preset.map(|p| p.context)),
    }
}

/// The figures of the preset, or of the one published model that has these sizes; none of another model.
fn beside(
    document: &Document,
    preset: Option<&Published>,
    spec: &ModelSpec,
    printer: &Printer,
) -> Option<Comparison> {
    let known = published();
    let fitting = known.iter().find(|p| p.fits(spec));
    let theirs = match preset {
        Some(p) if p.fits(spec) => p,
        Some(p) => {
            printer.note(&format!("the published figures of {} are of another model: not shown", p.name));
            return None;
        }
        None => fitting?,
    };
    let tasks = overthinking_view::each(document);
    let as_published = document.mode == Mode::Paper && document.defects == Defects::all();
    Some(theirs.compare(tasks, &document.means, as_published)).filter(|c| !c.numbers.is_empty())
}

fn configuration(fingerprint: &str, method: &Method, seed: u64, drawn: &Drawn) -> Configuration {
    let mut out = Map::new();
    out.insert("study".into(), json!(STUDY));
    out.insert("model".into(), json!(fingerprint));
    out.insert("mode".into(), json!(method.mode));
    out.insert("defects".into(), json!(method.defects));
    out.insert("seed".into(), json!(seed));
    out.extend(drawn.configuration.clone());
    out.insert("prompts".into(), json!(drawn.work.hash));
    Configuration(out)
}

/// Summaries of the settings of each task, in the order of the run.
fn by_task(found: Vec<(SettingSummary, Detail)>) -> Vec<(String, Vec<(String, SettingSummary)>)> {
    let mut out: Vec<(String, Vec<(String, SettingSummary)>)> = Vec::new();
    for (summary, detail) in found {
        match out.last_mut().filter(|t| t.0 == detail.task) {
            Some((_, settings)) => settings.push((detail.setting, summary)),
            None => out.push((detail.task, vec![(detail.setting, summary)])),
        }
    }
    out
}

/// `tasks` as objects in the order in which they were asked for.
fn summary(document: &Document) -> Outcome<String> {
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
    let mut text = serde_json::to_string_pretty(&value)?;
    text.push('\n');
    Ok(text)
}
