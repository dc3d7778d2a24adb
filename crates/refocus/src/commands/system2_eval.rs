//! `system2 eval`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use refocus_compute::Eager;
use refocus_model::Model;
use refocus_model::template::ChatTemplate;
use refocus_study::overthinking::{Configuration, Store, StudyError};
use refocus_study::system2::{
    Arm, Evaluation, Local, Progress, STUDY, Suite, SuiteRun, SuiteSummary, System2Error, look, markdown,
    projected, run_suite, summarise, wording,
};
use refocus_system2::Chat;
use refocus_tasks::planted::Item;
use serde_json::{Map, json};

use super::Ended;
use super::tasks::DATA;
use crate::cli::{Global, System2Eval};
use crate::failure::{Failure, Outcome};
use crate::output::Pending;
use crate::printer::Printer;
use crate::table::{Side, Table};
use crate::{backend, model_arg, output};

/// What is asked of whom.
struct Wanted {
    arms: Vec<Arm>,
    suites: Vec<(Suite, Vec<Item>)>,
}

/// Runs the command.
pub(super) fn run(args: &System2Eval, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let deadline = match args.max_hours {
        None => None,
        Some(h) if h > 0.0 && h <= 10_000.0 => Some(Instant::now() + Duration::from_secs_f64(h * 3600.0)),
        Some(h) => return Err(Failure::new(format!("--max-hours {h}: from 0 to 10000 make sense"))),
    };
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let wanted = wanted(args, global.seed)?;
    let tokenizer = checkpoint.tokenizer().map_err(|e| {
        Failure::from(e).hint("the suites ask in text: this needs a model that brings its tokenizer")
    })?;
    let template = ChatTemplate::of(&checkpoint, &tokenizer)?;
    if template.is_none() {
        printer
            .note("the model brings no chat template: it is asked in a plain script (User: …, Assistant:)");
    }
    let table = args.table.as_deref().map(Pending::create).transpose()?;
    let fingerprint = checkpoint.fingerprint()?;
    let store = Store::open(&args.out, &configuration(&fingerprint, global.seed)).map_err(other)?;
    let path = checkpoint.path();
    let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut cpu = backend::cpu(global, printer)?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let o = &mut Eager::new(cpu);

    let arms = wanted.arms.clone();
    let (mut runs, mut unfinished) = (Vec::new(), Vec::new());
    {
        let mut chat = refocus_system2::Local::new(name.as_str(), o, &model, &tokenizer, template.as_ref());
        tell_time(&mut chat, &wanted, &args.out, printer)?;
        for (suite, items) in wanted.suites {
            let run = one_suite(&mut chat, (suite, items), &arms, (&store, &args.out), deadline, printer)?;
            if !run.whole {
                unfinished.push(suite.name());
            }
            if !run.items.is_empty() {
                runs.push(run);
            }
        }
    }
    let suites: Vec<SuiteSummary> = runs.iter().map(|r| summarise(r, global.seed)).collect();
    let mut evaluation = Evaluation {
        schema: "refocus.system2-eval/1",
        model: name,
        fingerprint,
        seed: global.seed,
        items: args.items as usize,
        suites,
        attention: None,
        unfinished,
    };
    if let Some(run) = runs.iter().find(|r| r.suite == Suite::Spurious).filter(|_| args.look > 0) {
        let local = Local { tokenizer: &tokenizer, template: template.as_ref() };
        evaluation.attention = Some(looked(o, &model, local, run, args.look as usize, global.seed, printer)?);
    }
    output::write_document(&args.out.join("system2.json"), &evaluation)?;
    if let Some(mut table) = table {
        table.write(markdown(&evaluation, &command(args)).as_bytes())?;
        table.finish()?;
    }
    if printer.is_json() {
        printer.document(&evaluation)?;
    } else {
        printer.text(&shown(&evaluation, printer.colours()))?;
        printer.note(&format!("everything else is in {}", args.out.join("system2.json").display()));
    }
    if !evaluation.unfinished.is_empty() {
        printer
            .note(&format!("not finished: {}; the same command goes on", evaluation.unfinished.join(", ")));
    }
    Ok(Ended::Well)
}

/// Results of another model or seed are not mixed with these.
fn other(e: StudyError) -> Failure {
    let is_other = matches!(e, StudyError::Other { .. });
    let failure = Failure::from(e);
    if is_other {
        failure.hint("give another folder to --out, or the model and seed of that run")
    } else {
        failure
    }
}

fn configuration(fingerprint: &str, seed: u64) -> Configuration {
    let mut out = Map::new();
    out.insert("study".into(), json!(STUDY));
    out.insert("model".into(), json!(fingerprint));
    out.insert("seed".into(), json!(seed));
    out.insert("wording".into(), json!(wording()));
    Configuration(out)
}

/// The folder of data: that of the flag, else that of the environment.
fn data(args: &System2Eval) -> Option<PathBuf> {
    args.data.clone().or_else(|| std::env::var_os(DATA).filter(|v| !v.is_empty()).map(PathBuf::from))
}

fn wanted(args: &System2Eval, seed: u64) -> Outcome<Wanted> {
    let data = data(args);
    let mut arms = args.arms.iter().map(|a| Arm::parse(a)).collect::<Result<Vec<Arm>, _>>()?;
    if arms.is_empty() {
        arms.extend(Arm::all());
    }
    let mut names = args.suites.iter().map(|s| Suite::parse(s)).collect::<Result<Vec<Suite>, _>>()?;
    if names.is_empty() {
        names.extend(Suite::ALL.into_iter().filter(|s| s.file().is_none() || data.is_some()));
    }
    // In the order in which they run, each once.
    let arms = Arm::all().into_iter().filter(|a| arms.contains(a)).collect();
    names.sort();
    names.dedup();
    let draw = |s: Suite| match s.draw(seed, args.items as usize, data.as_deref()) {
        Ok(items) => Ok((s, items)),
        Err(e) => Err(mend(e)),
    };
    Ok(Wanted { arms, suites: names.into_iter().map(draw).collect::<Outcome<_>>()? })
}

fn mend(e: System2Error) -> Failure {
    let hint = match &e {
        System2Error::NoData { .. } => Some("give its folder with --data, or set REFOCUS_DATA".to_owned()),
        System2Error::NoFile { packed: true, path, .. } => {
            Some(format!("unpack it: gzip -dk {}.gz", path.display()))
        }
        _ => None,
    };
    let failure = Failure::from(e);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Says how long the rest will take, measured on a first answer.
fn tell_time(chat: &mut dyn Chat, wanted: &Wanted, dir: &Path, printer: &Printer) -> Outcome<()> {
    if let Some((left, seconds)) = projected(chat, &wanted.suites, &wanted.arms, dir)? {
        let time = match seconds / 60.0 {
            m if m < 1.0 => "less than a minute".to_owned(),
            m if m < 90.0 => format!("about {m:.0} minutes"),
            m => format!("about {:.1} hours", m / 60.0),
        };
        printer.note(&format!("{left} answers are to be had: {time} on this machine at most"));
    }
    Ok(())
}

fn one_suite(
    chat: &mut dyn Chat,
    (suite, items): (Suite, Vec<Item>),
    arms: &[Arm],
    place: (&Store, &Path),
    deadline: Option<Instant>,
    printer: &Printer,
) -> Outcome<SuiteRun> {
    let bar = printer.count_bar((items.len() * arms.len()) as u64);
    let mut tick = |p: Progress| {
        bar.set_message(format!("{}, {}", suite.name(), p.arm));
        bar.set_position(p.done as u64);
        deadline.is_none_or(|d| Instant::now() < d)
    };
    let run = run_suite(chat, (suite, items), arms, place, &mut tick);
    bar.finish_and_clear();
    let run = run?;
    if run.below_floor {
        printer
            .note(&format!("{}: the oracle stays below the floor; other arms are not asked", suite.name()));
    }
    Ok(run)
}

fn looked<O: refocus_compute::Ops>(
    o: &mut O,
    model: &Model<O::K>,
    local: Local<'_>,
    run: &SuiteRun,
    most: usize,
    seed: u64,
    printer: &Printer,
) -> Outcome<refocus_study::system2::Looked> {
    let bar = printer.count_bar(0);
    bar.set_message("attention");
    let looked = look(o, model, local, run, (most, seed), &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(looked?)
}

/// The command as the page names it.
fn command(args: &System2Eval) -> String {
    let name = |p: &Path| p.file_name().unwrap_or(OsStr::new("FILE")).to_string_lossy().into_owned();
    let mut text = "refocus system2 eval".to_owned();
    if let Some(model) = &args.model.model {
        text.push_str(&format!(" {}", name(model)));
    }
    for (flag, list) in [("suites", &args.suites), ("arms", &args.arms)] {
        if !list.is_empty() {
            text.push_str(&format!(" --{flag} {}", list.join(",")));
        }
    }
    text.push_str(&format!(" --items {} --look {} --out DIR", args.items, args.look));
    if data(args).is_some() {
        text.push_str(" --data DATA");
    }
    if let Some(table) = &args.table {
        text.push_str(&format!(" --table {}", name(table)));
    }
    text
}

/// For people.
fn shown(e: &Evaluation, colour: bool) -> String {
    let columns = [
        ("suite", Side::Left),
        ("arm", Side::Left),
        ("n", Side::Right),
        ("number", Side::Right),
        ("gain over baseline", Side::Right),
        ("verdict", Side::Left),
        ("planted gone", Side::Right),
        ("needed lost", Side::Right),
        ("read", Side::Right),
        ("written", Side::Right),
    ];
    let mut table = Table::new(&columns);
    let share = |s: Option<refocus_study::system2::Share>| {
        s.map_or_else(String::new, |s| format!("{} of {}", s.hits, s.n))
    };
    for s in &e.suites {
        for a in &s.arms {
            let removal = a.rewriting.as_ref().map(|r| r.removal);
            let gain = |g: refocus_study::overthinking::Estimate| {
                format!("{:+.3} ({:+.3} to {:+.3})", g.value, g.low, g.high)
            };
            table.row([
                s.suite.to_owned(),
                a.arm.to_owned(),
                a.value.n.to_string(),
                format!("{:.3}", a.value.value),
                a.gain.map_or_else(String::new, gain),
                a.verdict.map_or_else(String::new, |v| v.name().to_owned()),
                removal.map_or_else(String::new, |r| share(r.recall)),
                removal.map_or_else(String::new, |r| share(r.lost)),
                format!("{:.0}", a.cost.prompt_tokens),
                format!("{:.1}", a.cost.completion_tokens),
            ]);
        }
    }
    let mut text = table.render(colour);
    for s in &e.suites {
        text.push_str(&format!("\n{}: {}", s.suite, s.measured));
        if let Some(why) = &s.why {
            text.push_str(&format!("; {why}"));
        }
    }
    text.push_str("\nread, written: tokens of a mean item\n");
    text
}
