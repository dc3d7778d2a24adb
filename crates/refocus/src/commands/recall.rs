//! `recall`: a fact followed through a model.
//!
//! First the facts that the model knows are found, then answer and argument of these are followed, then heads, MLPs and
//! the last blocks are looked into and repairs are measured. Each stage has a folder of its own in the run's, so that
//! each goes on where it was stopped.

use std::collections::BTreeMap;
use std::path::Path;

use refocus_compute::{Cpu, Eager};
use refocus_model::{Checkpoint, Model, ModelSpec, Tokenizer};
use refocus_results::{ModelInfo, RunFolder, RunInfo, StoredRun};
use refocus_study::overthinking::{Configuration, Store, StudyError};
use refocus_study::recall::{
    Case, Claim, Condition, Counts, Curve, Fall, Group, Item, Outcome as Became, Reach, Seen, Settings,
    Traced, claims, conditions, content_hash, curves, falls, items, know_stored, trace_stored,
};
use refocus_study::tuned_lens::{PackedLens, TunedLens};
use refocus_tasks::recall::Relation;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::recall_facts::relations;
use super::recall_inside::{Found, Stages, check, plain_text};
use super::recall_named::{Beside, Heads, preset};
use super::{Ended, recall_tables, recall_view};
use crate::cli::{Global, Recall, RecallStage};
use crate::commands::staged::Progress;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::{backend, model_arg};

const STUDY: &str = "recall/1";

#[derive(Serialize)]
pub(super) struct Document {
    schema: &'static str,
    model: String,
    fingerprint: String,
    /// Hash of the configuration.
    configuration: String,
    settings: Settings,
    n_layers: usize,
    /// Sites of the nodes that the model passes through.
    pub(super) nodes: Vec<String>,
    stages: Vec<Stage>,
    pub(super) relations: Vec<Told>,
    curves: Vec<Short>,
    pub(super) falls: Vec<Fall>,
    /// What was found inside, by relation and form.
    pub(super) inside: Vec<Found>,
    /// Heads that the paper names for this model, where they stand here.
    pub(super) named: Vec<Beside>,
    /// SHA-256 of the text that tokens were counted in; absent where it was too short, or none was needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    pub(super) claims: Vec<Claim>,
    /// Files in the folder.
    pub(super) patches: Vec<String>,
}

/// A stage that was done.
#[derive(Serialize)]
struct Stage {
    name: &'static str,
    prompts: usize,
}

/// A relation.
#[derive(Serialize)]
pub(super) struct Told {
    pub(super) relation: String,
    #[serde(flatten)]
    pub(super) counts: Counts,
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// A curve without its intervals, which are in the tables.
#[derive(Serialize)]
struct Short {
    relation: String,
    #[serde(flatten)]
    condition: Condition,
    group: Group,
    lens: &'static str,
    token: &'static str,
    facts: usize,
    /// Numbers of the nodes.
    at: Vec<usize>,
    prob: Vec<f64>,
    rank: Vec<f64>,
}

/// What one condition of one case gave.
struct Done {
    case: usize,
    condition: Condition,
    items: Vec<Item>,
    traced: Vec<Traced>,
}

/// Runs the command.
pub(super) fn run(args: &Recall, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let trace = args.stages.contains(&RecallStage::Trace);
    check(&args.stages)?;
    let preset = args.preset.as_deref().map(preset).transpose()?;
    let wanted = match &preset {
        Some(p) if args.relation.is_empty() => vec![p.relation.clone()],
        _ => args.relation.clone(),
    };
    let (relations, note) = relations(&wanted, args.data.as_deref())?;
    if let Some(note) = note {
        printer.note(&note);
    }
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let tokenizer = checkpoint.tokenizer().map_err(|e| {
        Failure::from(e).hint("facts are asked for in text: it needs a model that brings its tokenizer")
    })?;
    let settings = Settings {
        facts: args.facts as usize,
        wordings: args.wordings.or(preset.as_ref().map(|p| p.wordings)).unwrap_or(1) as usize,
        shots: args.shots.into(),
        first_token: args.first_token,
        seed: global.seed,
    };
    let fingerprint = checkpoint.fingerprint()?;
    let tuned =
        args.lens.as_deref().map(|dir| tuned_lens(dir, checkpoint.spec(), &fingerprint)).transpose()?;
    let maps = tuned.as_ref().map(|l| l.about.maps.as_str());
    let plain = plain_text(args.text.as_deref(), &tokenizer, checkpoint.spec())?;
    let configuration = configuration(&fingerprint, &settings, &relations, maps);
    let mut cases = Vec::new();
    for relation in relations {
        cases.push(Case::new(relation, &tokenizer, &settings)?);
    }

    let mut cpu = backend::cpu(global, printer)?;
    let instruction_set = cpu.isa().name().to_owned();
    let info = info(&checkpoint, &fingerprint, &configuration, instruction_set, global.seed);
    let mut tables = RunFolder::renew(&args.out, info)?;
    let store = Store::open(&args.out, &configuration).map_err(|e| {
        let other = matches!(e, StudyError::Other { .. });
        let failure = Failure::from(e);
        if other { failure.hint("give another folder to --out, or the flags of that run") } else { failure }
    })?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let lens = tuned.map(|l| PackedLens::new(&mut cpu, &l.maps)).transpose()?;
    let o = &mut Eager::new(cpu);
    let mut run = Run {
        tokenizer: &tokenizer,
        settings: &settings,
        model: &model,
        lens: lens.as_ref(),
        printer,
        stages: Vec::new(),
    };
    run.facts(o, &mut cases, &store.stage("facts")?)?;
    let done = if trace { run.trace(o, &cases, &store.stage("trace")?)? } else { Vec::new() };
    let heads = Heads::of(preset, &model.spec, printer);
    let stages = Stages { wanted: &args.stages, plain: &plain, heads: &heads, fingerprint: &fingerprint };
    let inside = run.inside(o, &cases, &stages, &store)?;
    for name in ["heads", "mlp", "shots", "last", "mitigate"] {
        let with = inside.iter().filter(|f| f.stages().any(|s| s == name));
        let prompts = with.map(|f| f.prompts + if name == "shots" { f.with_facts } else { 0 }).sum();
        if prompts > 0 {
            run.stages.push(Stage { name, prompts });
        }
    }
    let seen: Vec<Seen<'_>> = done
        .iter()
        .map(|d| Seen {
            relation: &cases[d.case].relation.key,
            condition: d.condition,
            items: &d.items,
            traced: &d.traced,
        })
        .collect();

    let all_curves = curves(&seen, &model.spec, global.seed);
    let reach = Reach::of(&model.spec);
    let real = reach.nodes.iter().filter(|n| n.is_real(&model.spec));
    let mut judged: Vec<Claim> = inside.iter().flat_map(Found::claims).collect();
    judged.extend(claims(&seen, &model.spec, global.seed));
    judged.sort_by(|a, b| a.id.cmp(&b.id));
    let patches = inside.iter().filter_map(|f| f.mitigate.as_ref()?.patch.as_ref());
    let document = Document {
        schema: "refocus.recall/1",
        model: model_arg::shown(&checkpoint),
        fingerprint,
        configuration: configuration.hash(),
        settings,
        n_layers: model.spec.n_layers,
        nodes: real.map(|n| n.name(&model.spec)).collect(),
        stages: run.stages,
        relations: cases.iter().map(|c| told(c, &settings)).collect(),
        curves: all_curves.iter().map(short).collect(),
        falls: falls(&seen, &model.spec, global.seed),
        text: plain.hash().filter(|_| inside.iter().any(|f| f.last.is_some() || f.mitigate.is_some())),
        patches: patches.map(|p| format!("patches/{}.toml", p.name)).collect(),
        claims: judged,
        named: heads.beside(&inside),
        inside,
    };
    recall_tables::write(&mut tables, &document, &all_curves)?;
    store.write("report.html", &refocus_report::page(&StoredRun::open(&args.out)?)?)?;
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    store.write("summary.json", &text)?;
    if printer.is_json() {
        printer.text(&text)?;
    } else {
        printer.text(&recall_view::tables(&document, printer.colours()))?;
        let (page, all) = (args.out.join("report.html"), args.out.join("summary.json"));
        printer.note(&format!("the page is {}, everything else is in {}", page.display(), all.display()));
    }
    Ok(Ended::Well)
}

/// What every stage works with.
pub(super) struct Run<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) settings: &'a Settings,
    pub(super) model: &'a Model<Cpu>,
    lens: Option<&'a PackedLens<Cpu>>,
    pub(super) printer: &'a Printer,
    stages: Vec<Stage>,
}

impl Run<'_> {
    fn end(&mut self, p: &Progress) {
        p.end(self.printer);
        self.stages.push(Stage { name: p.name, prompts: p.all });
    }

    /// Finds the facts that are known, in the cases that have enough to ask for.
    fn facts(&mut self, o: &mut Eager<Cpu>, cases: &mut [Case], store: &Store) -> Outcome<()> {
        let enough = |c: &&mut Case| c.has_enough_to_ask();
        let all = cases.iter_mut().filter(enough).map(|c| c.asked.len()).sum();
        let mut p = Progress::begin(self.printer, "facts", all);
        for case in cases.iter_mut().filter(enough) {
            p.on(&case.relation.key);
            let how = (self.tokenizer, self.settings);
            know_stored(o, self.model, case, how, store, |n, stored| p.tick(n, stored))?;
        }
        self.end(&p);
        Ok(())
    }

    /// Follows the known facts of the cases that have enough of them.
    fn trace(&mut self, o: &mut Eager<Cpu>, cases: &[Case], store: &Store) -> Outcome<Vec<Done>> {
        let spec = &self.model.spec;
        let mut todo = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            if case.outcome(self.settings) != Became::Measured {
                continue;
            }
            for condition in conditions(case, self.tokenizer, self.settings)? {
                let items = items(case, condition, self.tokenizer, spec, self.settings)?;
                todo.push((number, condition, items));
            }
        }
        let all = todo.iter().map(|t| t.2.len()).sum();
        let mut p = Progress::begin(self.printer, "trace", all);
        let mut out = Vec::new();
        for (case, condition, items) in todo {
            let key = &cases[case].relation.key;
            p.on(&format!("{key}, {} shots", condition.shots));
            let tick = |n, stored| p.tick(n, stored);
            let traced = trace_stored(o, (self.model, self.lens), &items, (key, condition), store, tick)?;
            out.push(Done { case, condition, items, traced });
        }
        self.end(&p);
        Ok(out)
    }
}

/// The lens of a folder.
fn tuned_lens(dir: &Path, spec: &ModelSpec, fingerprint: &str) -> Outcome<TunedLens> {
    TunedLens::load(dir, spec, fingerprint).map_err(|e| {
        Failure::from(e).hint("`refocus train lens MODEL --text FILE --out DIR` makes the lens of a model")
    })
}

fn told(case: &Case, settings: &Settings) -> Told {
    let (outcome, why) = match case.outcome(settings) {
        Became::Measured => ("measured", None),
        Became::TooFew(why) => ("too few", Some(why)),
    };
    Told { relation: case.relation.key.clone(), counts: case.counts, outcome, why }
}

fn short(c: &Curve) -> Short {
    Short {
        relation: c.relation.clone(),
        condition: c.condition,
        group: c.group,
        lens: c.lens,
        token: c.token,
        at: c.nodes.clone(),
        facts: c.prob.first().map_or(0, |e| e.n),
        prob: c.prob.iter().map(|e| e.value).collect(),
        rank: c.rank.clone(),
    }
}

/// Everything that the numbers depend on.
fn configuration(
    fingerprint: &str,
    settings: &Settings,
    relations: &[Relation],
    lens: Option<&str>,
) -> Configuration {
    let of = |r: &Relation| (r.key.clone(), Value::String(content_hash(r)));
    let mut out = Map::new();
    out.insert("study".into(), json!(STUDY));
    out.insert("model".into(), json!(fingerprint));
    out.insert("seed".into(), json!(settings.seed));
    out.insert("facts".into(), json!(settings.facts));
    out.insert("wordings".into(), json!(settings.wordings));
    out.insert("shots".into(), json!(settings.shots));
    out.insert("first_token".into(), json!(settings.first_token));
    out.extend(lens.map(|hash| ("lens".to_owned(), json!(hash))));
    out.insert("relations".into(), Value::Object(relations.iter().map(of).collect()));
    Configuration(out)
}

fn info(
    checkpoint: &Checkpoint,
    fingerprint: &str,
    configuration: &Configuration,
    instruction_set: String,
    seed: u64,
) -> RunInfo {
    let name = model_arg::shown(checkpoint);
    RunInfo {
        study: STUDY.to_owned(),
        program: format!("refocus {}", env!("CARGO_PKG_VERSION")),
        model: Some(ModelInfo { name, fingerprint: fingerprint.to_owned() }),
        tokenizer: None,
        tasks: BTreeMap::new(),
        seed,
        precision: "f32".to_owned(),
        instruction_set,
        configuration: configuration.0.clone(),
    }
}
