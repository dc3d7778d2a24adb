//! `diagnose`: the main job.

use std::collections::BTreeMap;
use std::path::Path;

use refocus_compute::Eager;
use refocus_model::{ChatTemplate, Model};
use refocus_results::{ModelInfo, RunFolder, RunInfo};
use refocus_study::diagnose::{
    Budget, CAPITAL, Condition, Finding, METRICS, Measure, Mitigation, Probe, Rewriting, State, Subject, TOY,
    mitigate, run as probe, write_tables,
};
use refocus_study::recall::content_hash;
use refocus_tasks::classify::{Dataset, Task};
use refocus_tasks::recall::{Relation, builtin as builtin_relation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Ended, recall_facts, tasks};
use crate::cli::{Diagnose, Global};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Side, Table};
use crate::{backend, builtin, model_arg, output};

const SCHEMA: &str = "refocus.findings/1";

/// What the numbers depend on. A folder with others is another diagnosis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    fingerprint: String,
    seed: u64,
    budget: Budget,
    /// Of the probe that has a choice.
    #[serde(default = "toy")]
    task: String,
    /// SHA-256 of another task and its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<String>,
    /// Of the probes that ask for facts.
    #[serde(default = "capital")]
    relation: String,
    /// SHA-256 of another relation's facts and wordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    facts: Option<String>,
    version: String,
}

fn capital() -> String {
    CAPITAL.to_owned()
}

fn toy() -> String {
    TOY.to_owned()
}

/// The task and the rows that were read, whatever files they were in.
fn hash(task: &Task, rows: &Dataset) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{task:?}"));
    for e in &rows.examples {
        for text in [e.text.as_str(), e.text2.as_deref().unwrap_or_default(), &e.class.to_string()] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
    }
    hash.finalize().iter().fold("sha256:".to_owned(), |text, b| text + &format!("{b:02x}"))
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    schema: String,
    model: String,
    settings: Settings,
    findings: Vec<Finding>,
    /// What `--mitigate` found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mitigation: Option<Mitigation>,
}

/// Runs the command.
pub(super) fn run(args: &Diagnose, global: &Global, printer: &Printer) -> Outcome<Ended> {
    if args.list_metrics {
        return list_metrics(printer);
    }
    let condition = args.fail_on.as_deref().map(Condition::parse).transpose().map_err(|e| {
        Failure::from(e).hint("`refocus diagnose --list-metrics` lists the metrics; a condition is such as 'overthinking.gap.low > 0.1'")
    })?;
    let mut probes: Vec<Probe> = args.probes.iter().map(|&p| p.into()).collect();
    if probes.is_empty() {
        probes.extend(Probe::ALL);
    }
    probes.sort();
    probes.dedup();
    // The task itself comes before its other formats.
    let task = tasks::task(&args.task)?.swap_remove(0);
    let rows = tasks::rows(&task, args.data.as_deref())?;
    let relation = relation(&args.relation, args.data.as_deref())?;
    let model = args.model.model.as_deref().unwrap_or(Path::new(builtin::NAME));
    let checkpoint = model_arg::open(Some(model), printer)?;
    let tokenizer = checkpoint.tokenizer().map_err(|e| {
        Failure::from(e).hint("a diagnosis asks in text: it needs a model that brings its tokenizer")
    })?;
    let settings = Settings {
        fingerprint: checkpoint.fingerprint()?,
        seed: global.seed,
        budget: args.budget.into(),
        task: task.key.clone(),
        rows: (args.task != TOY).then(|| hash(&task, &rows)),
        relation: relation.key.clone(),
        facts: (args.relation != CAPITAL).then(|| content_hash(&relation)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let path = args.out.join("findings.json");
    std::fs::create_dir_all(&args.out)
        .map_err(|e| Failure::because(format!("{}: cannot be made", args.out.display()), e))?;
    // Before anything is read: another run may still be writing.
    let shown_as = model_arg::shown(&checkpoint);
    let isa = backend::isa()?.name().to_owned();
    let mut folder = RunFolder::renew(&args.out, info(&shown_as, &settings, &task, isa)?)?;
    let old: Option<Document> = output::kept(&path, SCHEMA, "diagnose", &settings)?;
    let (findings, mitigation) = old.map_or_else(Default::default, |d| (d.findings, d.mitigation));
    let mut document =
        Document { schema: SCHEMA.to_owned(), model: shown_as, settings, findings, mitigation };
    let has = |d: &Document, p: Probe| d.findings.iter().any(|f| f.probe == p);
    let there = probes.iter().filter(|p| has(&document, **p)).count();
    if there > 0 {
        printer.note(&format!("{}: {there} of {} probes are there already", path.display(), probes.len()));
    }
    let searched = |d: &Document| d.mitigation.as_ref().is_some_and(|m| m.probes == probes);
    let search = args.mitigate && !(there == probes.len() && searched(&document));
    if there < probes.len() || search {
        let mut cpu = backend::cpu(global, printer)?;
        let model = Model::load(&checkpoint, &mut cpu)?;
        let o = &mut Eager::new(cpu);
        // A diagnosis needs no template, so one that cannot be used ends none.
        let template = if search { ChatTemplate::of(&checkpoint, &tokenizer) } else { Ok(None) };
        let template = template.unwrap_or_else(|e| {
            printer.note(&format!("rewriting is not tried: {e}"));
            None
        });
        let subject = Subject {
            tokenizer: &tokenizer,
            template: template.as_ref(),
            seed: global.seed,
            budget: document.settings.budget,
            task: (&task, &rows),
            relation: &relation,
        };
        for &p in &probes {
            if has(&document, p) {
                continue;
            }
            let bar = printer.count_bar(0);
            bar.set_message(p.name());
            let finding = probe(p, o, &model, subject, &mut |done, all| {
                bar.set_length(all);
                bar.set_position(done);
            })?;
            bar.finish_and_clear();
            if finding.state == State::CannotBeTested {
                printer.note(&format!("{} cannot be tested: {}", p.name(), finding.verdict));
            }
            document.findings.push(finding);
            document.findings.sort_by_key(|f| f.probe);
            // After every probe, so that a stop loses one at most.
            output::write_document(&path, &document)?;
        }
        if search {
            let bar = printer.count_bar(0);
            bar.set_message("patches");
            let mine: Vec<Finding> =
                document.findings.iter().filter(|f| probes.contains(&f.probe)).cloned().collect();
            let found = mitigate(o, &model, subject, &mine, &mut |done, all| {
                bar.set_length(all);
                bar.set_position(done);
            })?;
            bar.finish_and_clear();
            document.mitigation = Some(found);
            output::write_document(&path, &document)?;
        }
    }
    if let Some(found) = document.mitigation.as_ref().filter(|_| args.mitigate) {
        propose(&args.out.join("patch.toml"), found, &document, printer)?;
    }
    let page = refocus_report::diagnosis(&serde_json::to_vec(&document)?)?;
    output::write(&args.out.join("report.html"), page)?;
    write_tables(&mut folder, &document.findings, document.mitigation.as_ref())?;
    document.findings.retain(|f| probes.contains(&f.probe));
    document.mitigation.take_if(|_| !args.mitigate);
    if printer.is_json() {
        printer.document(&document)?;
    } else {
        printer.text(&shown(&document, printer.colours()))?;
        printer
            .note(&format!("numbers and texts are in {}, the page is report.html beside it", path.display()));
    }
    let Some(condition) = condition else { return Ok(Ended::Well) };
    let measures: BTreeMap<String, Measure> =
        document.findings.iter().flat_map(|f| f.measures.clone()).collect();
    match condition.met(&measures) {
        Some(false) => Ok(Ended::Well),
        Some(true) => {
            printer.note(&format!("--fail-on: {} holds", args.fail_on.as_deref().unwrap_or_default()));
            Ok(Ended::CheckFailed)
        }
        None => Err(Failure::new(format!(
            "--fail-on cannot be decided: {} was not measured",
            condition.missing(&measures).join(", ")
        ))
        .hint("the findings say why; run the probe, or drop it from the condition")),
    }
}

/// What is asked for: of the data only where the program has none of this name.
fn relation(name: &str, data: Option<&Path>) -> Outcome<Relation> {
    if let Ok(known) = builtin_relation(name) {
        return Ok(known);
    }
    let (mut found, _) = recall_facts::relations(&[name.to_owned()], data)?;
    Ok(found.swap_remove(0))
}

/// What the tables depend on.
fn info(model: &str, settings: &Settings, task: &Task, instruction_set: String) -> Outcome<RunInfo> {
    let configuration = serde_json::to_value(settings)?;
    Ok(RunInfo {
        study: "diagnosis/1".to_owned(),
        program: format!("refocus {}", env!("CARGO_PKG_VERSION")),
        model: Some(ModelInfo { name: model.to_owned(), fingerprint: settings.fingerprint.clone() }),
        tokenizer: None,
        tasks: BTreeMap::from([(task.key.clone(), task.version)]),
        seed: settings.seed,
        precision: "f32".to_owned(),
        instruction_set,
        configuration: configuration.as_object().cloned().unwrap_or_default(),
    })
}

fn list_metrics(printer: &Printer) -> Outcome<Ended> {
    if printer.is_json() {
        let all: Vec<_> =
            METRICS.iter().map(|m| json!({ "name": m.name, "unit": m.unit, "what": m.what })).collect();
        printer.document(&json!({ "schema": "refocus.metrics/1", "metrics": all }))?;
        return Ok(Ended::Well);
    }
    let mut table = Table::new(&[("metric", Side::Left), ("unit", Side::Left), ("what", Side::Left)]);
    for m in METRICS {
        table.row([m.name, m.unit, m.what].map(str::to_owned));
    }
    printer.text(&table.render(printer.colours()))?;
    Ok(Ended::Well)
}

/// For people.
fn shown(document: &Document, colour: bool) -> String {
    let columns = ["probe", "state", "value", "verdict"];
    let mut table = Table::new(&columns.map(|c| (c, Side::Left)));
    for f in &document.findings {
        let value = f.value().map_or_else(|| "-".to_owned(), Measure::text);
        table.row([f.probe.name().to_owned(), f.state.name().to_owned(), value, f.verdict.clone()]);
    }
    let mut text = table.render(colour);
    for f in &document.findings {
        text.push_str(&format!("\n{} ({})\n  asked: {}\n", f.probe.name(), f.headline, f.asked));
        if let Some(place) = &f.place {
            text.push_str(&format!("  where: {place}\n"));
        }
        if let Some(e) = f.examples.first() {
            text.push_str(&format!("  for example: …{}\n", tail(&e.text)));
            text.push_str(&format!("    right: {}; preferred: {} ({})\n", e.right, e.answer, e.note));
        }
    }
    if let Some(m) = &document.mitigation {
        text.push_str(&format!("\npatch: {}\n", m.verdict));
        m.chosen.iter().for_each(|c| text.push_str(&format!("  {c}\n")));
        if let Some(what) = &m.left_out {
            text.push_str(&format!("  not tried: {what}\n"));
        }
        if let Some(r) = &m.rewriting {
            text.push_str(&format!("  {}\n", price(r)));
        }
        if !m.changes.is_empty() {
            text.push('\n');
            text.push_str(&changes(m).render(colour));
        }
    }
    text
}

fn changes(m: &Mitigation) -> Table {
    let columns = [
        ("probe", Side::Left),
        ("what", Side::Left),
        ("before", Side::Right),
        ("after", Side::Right),
        ("change", Side::Left),
        ("p", Side::Right),
    ];
    let mut table = Table::new(&columns);
    for c in &m.changes {
        let probe = c.probe.map_or("text", Probe::name).to_owned();
        let number = |m: &Measure| format!("{:.3}", m.value);
        let p = if c.p < 0.001 { "< 0.001".to_owned() } else { format!("{:.3}", c.p) };
        table.row([probe, c.what.clone(), number(&c.before), number(&c.after), c.change.text(), p]);
    }
    for u in &m.untouched {
        let probe = u.probe.map_or("text", Probe::name).to_owned();
        let [none, same] = ["-", "none: no message, so not rewritten"].map(str::to_owned);
        table.row([probe, u.what.clone(), none.clone(), none.clone(), same, none]);
    }
    table
}

/// What rewriting costs.
fn price(r: &Rewriting) -> String {
    format!(
        "rewriting reads {:.0} tokens a question before it is answered, and writes none; {} of {} texts lost a \
         sentence",
        r.tokens, r.applied, r.texts
    )
}

/// How a patch file begins that this command wrote.
const PROPOSED: &str = "# Proposed by `refocus diagnose --mitigate`";

/// Writes the patch that helps, each time, so that it is there whenever the findings are. What does not help is no
/// proposal: an older one that other probes led to goes.
fn propose(path: &Path, found: &Mitigation, document: &Document, printer: &Printer) -> Outcome<()> {
    if found.helps {
        output::write(path, patch_text(found, document))?;
        printer.note(&format!("the patch is in {}", path.display()));
    } else if std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(PROPOSED)) {
        std::fs::remove_file(path)
            .map_err(|e| Failure::because(format!("{}: cannot be removed", path.display()), e))?;
    }
    Ok(())
}

/// The patch file, with what was measured.
fn patch_text(m: &Mitigation, document: &Document) -> String {
    let mut out = format!("{PROPOSED}, seed {}: {}.\n", document.settings.seed, m.verdict);
    m.chosen.iter().for_each(|c| out.push_str(&format!("# - {c}\n")));
    out.push_str("#\n# Measured with exactly these entries on questions that did not choose them:\n");
    for line in changes(m).render(false).lines() {
        out.push_str(&format!("# {line}\n"));
    }
    if let Some(r) = &m.rewriting {
        out.push_str(&format!("# {}\n", price(r)));
    }
    out.push_str(&format!("\n[model]\nfingerprint = \"{}\"\n\n{}", document.settings.fingerprint, m.patch));
    out
}

/// The end of a text, on one line.
fn tail(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let n = line.chars().count();
    line.chars().skip(n.saturating_sub(90)).collect()
}
