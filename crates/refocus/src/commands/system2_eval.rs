//! `system2 eval`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use refocus_compute::Eager;
use refocus_model::Model;
use refocus_model::template::ChatTemplate;
use refocus_results::{ModelInfo, RunFolder, RunInfo, StoredRun};
use refocus_serve::HttpChat;
use refocus_serve::client::Tells;
use refocus_study::overthinking::{Configuration, Store, StudyError};
use refocus_study::system2::{
    Arm, Choosing, Evaluation, JudgedSummary, Local, Progress, STUDY, Served, Suite, SuiteRun, System2Error,
    judge_suite, look, markdown, projected, run_suite, summarise, summarise_judged, wording, write_tables,
};
use refocus_system2::Chat;
use refocus_tasks::planted::Item;
use serde_json::{Map, Value, json};

use super::tasks::DATA;
use super::{Ended, deadline, upstream};
use crate::cli::{Global, System2Eval};
use crate::failure::{Failure, Outcome};
use crate::output::Pending;
use crate::printer::Printer;
use crate::table::{Side, Table};
use crate::{backend, model_arg, output};

/// Of what only a server knows.
const UNKNOWN: &str = "unknown";

/// What is asked of whom.
struct Wanted {
    arms: Vec<Arm>,
    suites: Vec<(Suite, Vec<Item>)>,
}

/// Runs the command.
pub(super) fn run(args: &System2Eval, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let deadline = deadline(args.max_hours)?;
    match &args.upstream.server.upstream {
        Some(url) => at_a_server(args, url, deadline, global, printer),
        None => here(args, deadline, global, printer),
    }
}

/// On a model of this machine.
fn here(args: &System2Eval, deadline: Option<Instant>, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let wanted = wanted(args, global.seed)?;
    let judge = judge(args, &wanted)?;
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
    let path = checkpoint.path();
    let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut cpu = backend::cpu(global, printer)?;
    let configuration = configuration(json!({"model": fingerprint}), global.seed);
    let mut info = info(args, &wanted, &configuration, global.seed);
    info.model = Some(ModelInfo { name: model_arg::shown(&checkpoint), fingerprint: fingerprint.clone() });
    (info.precision, info.instruction_set) = ("f32".to_owned(), cpu.isa().name().to_owned());
    let mut folder = RunFolder::renew(&args.out, info)?;
    let store = Store::open(&args.out, &configuration).map_err(other)?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let o = &mut Eager::new(cpu);
    let (runs, mut evaluation) = {
        let mut chat = refocus_system2::Local::new(name.as_str(), o, &model, &tokenizer, template.as_ref());
        let place = (&store, args.out.as_path());
        all_suites(&mut chat, wanted, judge, place, (args, global.seed, deadline), printer)?
    };
    evaluation.fingerprint = Some(fingerprint);
    if let Some(run) = runs.iter().find(|r| r.suite == Suite::Spurious).filter(|_| args.look > 0) {
        let local = Local { tokenizer: &tokenizer, template: template.as_ref() };
        evaluation.attention = Some(looked(o, &model, local, run, args.look as usize, global.seed, printer)?);
    }
    keep(args, &evaluation, &runs, &mut folder)?;
    show(args, &evaluation, table, printer)
}

/// On a model behind a server.
fn at_a_server(
    args: &System2Eval,
    url: &str,
    deadline: Option<Instant>,
    global: &Global,
    printer: &Printer,
) -> Outcome<Ended> {
    let wanted = wanted(args, global.seed)?;
    let judge = judge(args, &wanted)?;
    let mut chat = upstream::open(&args.upstream.server, url, args.upstream.name.as_deref(), at_once(args))?;
    let table = args.table.as_deref().map(Pending::create).transpose()?;
    let tells = chat.find_out()?;
    let choosing = Choosing::of(&chat);
    let (wanted, left_out) = without_what_is_not_told(wanted, tells)?;
    if judge.is_some() {
        has_something_to_judge(&wanted)?;
    }
    printer.note(&format!("a server does not give this, and it is left out: {}", left_out.join("; ")));
    if choosing == Choosing::Words {
        printer.note("the server tells no log-probabilities of whole answers: options are named in words");
    }
    let (name, url) = (chat.name().to_owned(), upstream::told(url).to_owned());
    let of_model = json!({"model": name, "upstream": url, "choosing": choosing.name()});
    let configuration = configuration(of_model, global.seed);
    let mut folder = RunFolder::renew(&args.out, info(args, &wanted, &configuration, global.seed))?;
    let store = Store::open(&args.out, &configuration).map_err(other)?;
    let place = (&store, args.out.as_path());
    let asked = all_suites(&mut chat, wanted, judge, place, (args, global.seed, deadline), printer);
    let (runs, mut evaluation) = asked.map_err(|e| {
        e.hint(format!("what was answered is kept in {}: the same command goes on", args.out.display()))
    })?;
    let fingerprints = chat.fingerprints().into_iter().collect();
    evaluation.served = Some(Served { url, fingerprints, choosing, left_out });
    keep(args, &evaluation, &runs, &mut folder)?;
    show(args, &evaluation, table, printer)
}

/// What can be asked of a server that tells so much, and in words what cannot.
fn without_what_is_not_told(mut wanted: Wanted, tells: Tells) -> Outcome<(Wanted, Vec<String>)> {
    let mut left_out = vec![
        "attention to what was planted".to_owned(),
        "block_edge".to_owned(),
        "hidden keys (scored_change cuts pieces out of the prompt instead)".to_owned(),
    ];
    if tells == Tells::Nothing {
        let arms: Vec<&str> =
            wanted.arms.iter().filter(|a| a.needs_log_probabilities()).map(|a| a.name()).collect();
        left_out.extend(arms.iter().map(|a| format!("arm {a} (no log-probabilities)")));
        wanted.arms.retain(|a| !a.needs_log_probabilities());
    }
    if !matches!(tells, Tells::Behind(_)) {
        let suites = wanted.suites.iter().filter(|s| s.0.needs_log_probabilities());
        left_out.extend(suites.map(|s| format!("suite {} (made of log-probabilities)", s.0.name())));
        wanted.suites.retain(|s| !s.0.needs_log_probabilities());
    }
    if wanted.arms.is_empty() || wanted.suites.is_empty() {
        return Err(Failure::new("nothing that was asked for can be had from this server")
            .hint(format!("it does not give: {}", left_out.join("; "))));
    }
    Ok((wanted, left_out))
}

/// A judge is not left without work in silence.
fn has_something_to_judge(wanted: &Wanted) -> Outcome<()> {
    if wanted.suites.iter().any(|s| s.0 == Suite::Arguments) {
        return Ok(());
    }
    let why = "--judge has nothing to judge: the suite arguments is made of log-probabilities of whole answers, and this \
               server does not tell them";
    Err(Failure::new(why).hint("leave --judge out, or ask a local model or a server that tells them"))
}

/// Who judges the suite *arguments*, with the name in results, if anybody does.
fn judge(args: &System2Eval, wanted: &Wanted) -> Outcome<Option<(HttpChat, String)>> {
    let Some(url) = &args.judge else { return Ok(None) };
    if !wanted.suites.iter().any(|s| s.0 == Suite::Arguments) {
        return Err(Failure::new("--judge is for the suite arguments").hint("add arguments to --suites"));
    }
    let chat =
        upstream::judge(url, args.judge_model.as_deref(), args.judge_key_file.as_deref(), at_once(args))?;
    let name = format!("{} at {}", chat.name(), upstream::told(url));
    Ok(Some((chat, name)))
}

fn at_once(args: &System2Eval) -> u16 {
    args.upstream.at_once.questions
}

/// All suites in turn, judged where there is a judge, and what they say.
fn all_suites(
    chat: &mut dyn Chat,
    wanted: Wanted,
    mut judge: Option<(HttpChat, String)>,
    place: (&Store, &Path),
    (args, seed, deadline): (&System2Eval, u64, Option<Instant>),
    printer: &Printer,
) -> Outcome<(Vec<SuiteRun>, Evaluation)> {
    let (mut runs, mut unfinished, mut by_a_judge) = (Vec::new(), Vec::new(), None);
    tell_time(chat, &wanted, place.1, printer)?;
    for (suite, items) in wanted.suites {
        let run = one_suite(chat, (suite, items), &wanted.arms, place, deadline, printer)?;
        let mut whole = run.whole;
        if let (Suite::Arguments, Some((judge, name))) = (suite, &mut judge) {
            let (summary, all) = judged(chat, (judge, name), &run, place, (seed, deadline), printer)?;
            by_a_judge = Some(summary);
            whole &= all;
        }
        if !whole {
            unfinished.push(suite.name());
        }
        if !run.items.is_empty() {
            runs.push(run);
        }
    }
    let name = chat.name().to_owned();
    let evaluation = Evaluation {
        schema: "refocus.system2-eval/1",
        model: name,
        fingerprint: None,
        served: None,
        seed,
        items: args.items as usize,
        suites: runs.iter().map(|r| summarise(r, seed)).collect(),
        judged: by_a_judge,
        attention: None,
        unfinished,
    };
    Ok((runs, evaluation))
}

/// What a judge says of a suite, and whether of all of it.
fn judged(
    chat: &mut dyn Chat,
    (judge, name): (&mut HttpChat, &str),
    run: &SuiteRun,
    place: (&Store, &Path),
    (seed, deadline): (u64, Option<Instant>),
    printer: &Printer,
) -> Outcome<(JudgedSummary, bool)> {
    let bar = printer.count_bar((run.items.len() * run.arms.len()) as u64);
    let mut tick = |p: Progress| {
        bar.set_message(format!("{}, judged, {}", run.suite.name(), p.arm));
        bar.set_position(p.done as u64);
        deadline.is_none_or(|d| Instant::now() < d)
    };
    let outcome = judge_suite(chat, (judge, name), run, place, &mut tick);
    bar.finish_and_clear();
    let (opinions, whole) = outcome?;
    Ok((summarise_judged(run, name, &opinions, seed), whole))
}

/// Keeps the document, the tables and their page.
fn keep(
    args: &System2Eval,
    evaluation: &Evaluation,
    runs: &[SuiteRun],
    folder: &mut RunFolder,
) -> Outcome<()> {
    output::write_document(&args.out.join("system2.json"), evaluation)?;
    write_tables(folder, evaluation, runs)?;
    output::write(&args.out.join("report.html"), refocus_report::page(&StoredRun::open(&args.out)?)?)
}

/// Shows what was found.
fn show(
    args: &System2Eval,
    evaluation: &Evaluation,
    table: Option<Pending>,
    printer: &Printer,
) -> Outcome<Ended> {
    if let Some(table) = table {
        table.page(&markdown(evaluation, &command(args)))?;
    }
    if printer.is_json() {
        printer.document(evaluation)?;
    } else {
        printer.text(&shown(evaluation, printer.colours()))?;
        let (page, all) = (args.out.join("report.html"), args.out.join("system2.json"));
        printer.note(&format!("the page is {}, everything else is in {}", page.display(), all.display()));
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

fn configuration(of_model: Value, seed: u64) -> Configuration {
    let mut out = Map::new();
    out.insert("study".into(), json!(STUDY));
    if let Value::Object(fields) = of_model {
        out.extend(fields);
    }
    out.insert("seed".into(), json!(seed));
    out.insert("wording".into(), json!(wording()));
    Configuration(out)
}

/// What the tables depend on. Precision and instruction set of a model behind a server are not known.
fn info(args: &System2Eval, wanted: &Wanted, configuration: &Configuration, seed: u64) -> RunInfo {
    let mut configuration = configuration.0.clone();
    let suites: Vec<&str> = wanted.suites.iter().map(|s| s.0.name()).collect();
    let arms: Vec<&str> = wanted.arms.iter().map(|a| a.name()).collect();
    configuration.insert("suites".into(), json!(suites));
    configuration.insert("arms".into(), json!(arms));
    configuration.insert("items".into(), json!(args.items));
    configuration.insert("look".into(), json!(args.look));
    configuration.extend(args.judge.iter().map(|url| ("judge".to_owned(), json!(upstream::told(url)))));
    RunInfo {
        study: STUDY.to_owned(),
        program: format!("refocus {}", env!("CARGO_PKG_VERSION")),
        model: None,
        tokenizer: None,
        tasks: BTreeMap::new(),
        seed,
        precision: UNKNOWN.to_owned(),
        instruction_set: UNKNOWN.to_owned(),
        configuration,
    }
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
    let bar = printer.count_bar(0);
    let mut tick = |p: Progress| {
        bar.set_message(format!("{}, {}", suite.name(), p.arm));
        bar.set_length(p.of as u64);
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
    if let (Some(url), Some(name)) = (&args.upstream.server.upstream, &args.upstream.name) {
        text.push_str(&format!(" --upstream {} --model {name}", upstream::told(url)));
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
    if let Some(url) = &args.judge {
        text.push_str(&format!(" --judge {}", upstream::told(url)));
        if let Some(model) = &args.judge_model {
            text.push_str(&format!(" --judge-model {model}"));
        }
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
                if a.value.n == 0 { String::new() } else { format!("{:.3}", a.value.value) },
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
    if e.served.as_ref().is_some_and(|s| s.choosing == Choosing::Words) {
        text.push_str("\noptions are named in words, and matched by a program");
    }
    for s in &e.suites {
        text.push_str(&format!("\n{}: {}", s.suite, s.measured));
        if let Some(why) = &s.why {
            text.push_str(&format!("; {why}"));
        }
    }
    text.push_str("\nread, written: tokens of a mean item\n");
    if let Some(judged) = &e.judged {
        text.push_str(&by_a_judge(judged, colour));
    }
    text
}

/// The suite *arguments* by a judge, for people.
fn by_a_judge(judged: &JudgedSummary, colour: bool) -> String {
    let columns = ["n", "quality", "mean |S|", "objectivity", "fall of mean |S|"].map(|c| (c, Side::Right));
    let mut head = vec![("arm", Side::Left)];
    head.extend(columns);
    head.extend([("verdict", Side::Left), ("unread", Side::Right)]);
    let mut table = Table::new(&head);
    for a in &judged.arms {
        let fall = a
            .fall
            .map(|f| format!("{:+.0} % ({:+.0} to {:+.0})", 100.0 * f.value, 100.0 * f.low, 100.0 * f.high));
        table.row([
            a.arm.to_owned(),
            a.sentiment.n.to_string(),
            if a.quality.n == 0 { String::new() } else { format!("{:.2}", a.quality.value) },
            if a.sentiment.n == 0 { String::new() } else { format!("{:.2}", a.sentiment.value) },
            match a.objectivity {
                o if o.n == 0 => String::new(),
                o => format!("{:.2} ({:.2} to {:.2})", o.value, o.low, o.high),
            },
            fall.unwrap_or_default(),
            a.verdict.map_or_else(String::new, |v| v.name().to_owned()),
            format!("{}, {}", a.unread[0], a.unread[1]),
        ]);
    }
    let why = judged.why.as_ref().map_or_else(String::new, |why| format!("; {why}"));
    format!(
        "\narguments, judged by {}: both orders; objectivity is 5 − |S|{why}\n{}",
        judged.judge,
        table.render(colour)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: System2Eval,
    }

    #[test]
    fn the_command_names_the_model_that_judges() {
        let line = ["eval", "m.gguf", "--out", "run", "--judge", "http://h/v1", "--judge-model", "j"];
        let args = Line::try_parse_from(line).expect("a command").args;
        let text = command(&args);
        assert!(text.contains(" --judge http://h/v1 --judge-model j"), "{text}");
    }

    #[test]
    fn a_judge_without_arguments_is_an_error() {
        let wanted = || {
            let suites = vec![(Suite::Facts, Vec::new()), (Suite::Arguments, Vec::new())];
            Wanted { arms: vec![Arm::Oracle, Arm::Baseline], suites }
        };
        has_something_to_judge(&wanted()).expect("arguments");
        let (left, _) = without_what_is_not_told(wanted(), Tells::Nothing).expect("facts");
        let Err(Failure::Told(told)) = has_something_to_judge(&left) else { panic!("no error") };
        let lines = told.lines();
        assert!(lines[0].1.starts_with("--judge has nothing to judge: the suite arguments"), "{lines:?}");
    }
}
