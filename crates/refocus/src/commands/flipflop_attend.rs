//! `flipflop attend`.

use std::path::Path;

use refocus_compute::{Cpu, Eager};
use refocus_model::{Model, Params};
use refocus_study::flipflop::{
    Counterfactual, Dilution, FIRST, GROUPS, Look, Pairs, Reads, Temperatures, TieBreak, counterfactual,
    look, temperatures, tie_break,
};
use refocus_tasks::flipflop::{FlipFlop, Set};
use refocus_train::{Language, RunConfig, checkpoint_path, load};
use serde::Serialize;

use super::Ended;
use crate::cli::{FlipflopAttend, Global};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Side, Table, grouped};
use crate::{backend, model_arg, output};

/// Strings between two words on progress.
const STEP: u32 = 8;
/// Strings with wrong reads that are run at every temperature.
const SWEPT: usize = 64;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    /// Of the run's checkpoint.
    step: Option<u32>,
    seed: u64,
    groups: [&'static str; 6],
    first: usize,
    sets: Vec<SetDocument>,
    tie_break: Vec<TieBreak>,
}

#[derive(Serialize)]
struct SetDocument {
    name: String,
    tokens: usize,
    strings: u32,
    reads: u64,
    errors: u64,
    answers: [Reads; 2],
    counterfactual: Counterfactual,
    temperatures: Option<Temperatures>,
    dilution: Vec<Dilution>,
}

/// A model, and what is known of its training.
struct Opened {
    params: Params,
    run: Option<(RunConfig, u32)>,
}

/// The last checkpoint of a run, or a model.
fn open(path: &Path, printer: &Printer) -> Outcome<Opened> {
    let checkpoint = checkpoint_path(path);
    if !checkpoint.is_file() {
        let params = Params::read(&model_arg::open(Some(path), printer)?)?;
        return Ok(Opened { params, run: None });
    }
    let saved = load(&checkpoint)?;
    let run = Some((saved.config.clone(), saved.step));
    match saved.into_weights().params() {
        Some(params) => Ok(Opened { params: params.clone(), run }),
        None => Err(Failure::new(format!("{}: an LSTM has no attention to look at", path.display()))),
    }
}

/// The sets asked for, else those that the run watches, else those of the model's length.
fn sets(args: &FlipflopAttend, opened: &Opened) -> Outcome<Vec<(String, FlipFlop)>> {
    if args.set.is_empty()
        && let Some((config, _)) = &opened.run
        && !config.watch.sets.is_empty()
    {
        let mut out = Vec::new();
        for set in &config.watch.sets {
            let Language::Strings(l) = config.task.test_language(set.ignore)? else {
                return Err(Failure::new("this run learned the automaton, which has no reads")
                    .hint("`refocus flipflop figures` looks into such models"));
            };
            out.push((set.name.clone(), l));
        }
        return Ok(out);
    }
    let usual = match opened.params.spec().n_ctx {
        512.. => &Set::PAPER[..],
        256.. => &Set::HALF[..],
        short if args.set.is_empty() => {
            return Err(Failure::new(format!("the model reads {short} symbols, and no set is so short")));
        }
        _ => &[],
    };
    let named: Vec<Set> = args.set.iter().filter_map(|name| Set::named(name)).collect();
    let wanted = if named.is_empty() { usual } else { &named[..] };
    wanted.iter().map(|s| Ok((s.name().to_owned(), s.language()?))).collect()
}

/// Runs the command.
pub(super) fn run(args: &FlipflopAttend, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let opened = open(&args.model, printer)?;
    let sets = sets(args, &opened)?;
    let mut cpu = backend::cpu(global, printer)?;
    let model = Model::from_params(opened.params.spec(), &mut cpu, &opened.params)?;
    let mut o = Eager::new(cpu);
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::because(format!("{}: cannot be made", dir.display()), e))?;
    }
    let bar = printer.count_bar(u64::from(args.count) * sets.len() as u64);
    let mut results = Vec::new();
    for (name, language) in sets {
        bar.set_message(format!("{name}, string"));
        let one =
            look_at(&mut o, &model, &opened.params, &name, &language, args, global, &mut |n| bar.inc(n));
        results.push(one.inspect_err(|_| bar.finish_and_clear())?);
    }
    bar.finish_and_clear();
    let d = Document {
        schema: "refocus.flipflop-attend/1",
        model: args.model.display().to_string(),
        step: opened.run.as_ref().map(|r| r.1),
        seed: global.seed,
        groups: GROUPS,
        first: FIRST,
        sets: results,
        tie_break: tie_break(&opened.params),
    };
    if let Some(dir) = &args.out {
        output::write_document(&dir.join("attend.json"), &d)?;
    }
    if printer.is_json() {
        printer.document(&d)?;
    } else {
        printer.text(&text(&d, printer.colours()))?;
    }
    Ok(Ended::Well)
}

#[expect(clippy::too_many_arguments, reason = "one set of one command")]
fn look_at(
    o: &mut Eager<Cpu>,
    model: &Model<Cpu>,
    params: &Params,
    name: &str,
    language: &FlipFlop,
    args: &FlipflopAttend,
    global: &Global,
    progress: &mut dyn FnMut(u64),
) -> Outcome<SetDocument> {
    let mut seen = Look::default();
    for first in (0..args.count).step_by(STEP as usize) {
        let numbers = first..args.count.min(first + STEP);
        let n = u64::from(numbers.end - numbers.start);
        look(o, model, language, global.seed, numbers, &mut seen)?;
        progress(n);
    }
    let answers = seen.reads();
    Ok(SetDocument {
        name: name.to_owned(),
        tokens: language.tokens(),
        strings: args.count,
        reads: answers.iter().map(|a| a.reads).sum(),
        errors: answers[1].reads,
        answers,
        counterfactual: counterfactual(o, model, language, global.seed, 0..args.count)?,
        temperatures: temperatures(o, model, language, global.seed, seen.wrong(), SWEPT)?,
        dilution: seen.dilution(params),
    })
}

fn text(d: &Document, colours: bool) -> String {
    let mut out = String::new();
    for set in &d.sets {
        out.push_str(&format!(
            "{}: {} strings of {} symbols, {} errors in {} reads\n",
            set.name,
            grouped(set.strings as usize),
            set.tokens,
            grouped(set.errors as usize),
            grouped(set.reads as usize)
        ));
        out.push_str(&masses(set).render(colours));
        out.push('\n');
        out.push_str(&reactions(set).render(colours));
        out.push('\n');
        out.push_str(&dilutions(set).render(colours));
        out.push('\n');
    }
    for t in &d.tie_break {
        out.push_str(&format!("head 0.{}: position times position {:.4e}\n", t.head, t.product));
    }
    out
}

fn masses(set: &SetDocument) -> Table {
    let right = |name| (name, Side::Right);
    let mut t = Table::new(&[
        ("head", Side::Left),
        ("answers", Side::Left),
        right("write"),
        right("read"),
        right("both"),
        right("stale same"),
        right("stale other"),
        right("ignore"),
        right("rest"),
        right("first 8"),
        right("entropy"),
        right("both, by value"),
    ]);
    let heads = set.answers.iter().map(|a| a.heads.len()).max().unwrap_or(0);
    for i in 0..heads {
        for answers in &set.answers {
            let Some(h) = answers.heads.get(i) else { continue };
            let [write, read, same, other, ignore, rest] = h.mass;
            let numbers = [
                write,
                read,
                h.union,
                same,
                other,
                ignore,
                rest,
                h.first,
                h.entropy,
                h.value_weighted[0] + h.value_weighted[1],
            ];
            let names = [format!("{}.{}", h.layer, h.head), answers.answers.to_owned()];
            t.row(names.into_iter().chain(numbers.map(|x| format!("{x:.3}"))));
        }
    }
    t
}

/// Margins, changed strings and temperatures.
fn reactions(set: &SetDocument) -> Table {
    let mut t = Table::pairs();
    for a in &set.answers {
        if let (Some(margin), Some(least)) = (a.margin, a.least_margin) {
            let what = format!("mean {margin:.3}, least {least:.3} ({} reads)", grouped(a.reads as usize));
            t.pair(&format!("margin of {} answers", a.answers), what);
        }
    }
    let pairs = |p: &Pairs| {
        format!(
            "{} of {} right answers change, {} of {} wrong ones",
            grouped(p.right_changed as usize),
            grouped(p.right as usize),
            grouped(p.wrong_changed as usize),
            grouped(p.wrong as usize)
        )
    };
    t.pair("another last write", pairs(&set.counterfactual.last_write));
    t.pair("another stale write", pairs(&set.counterfactual.stale_write));
    if let Some(s) = &set.temperatures {
        for at in &s.at {
            t.pair(
                &format!("temperature {}", at.temperature),
                format!(
                    "{} of {} wrong reads mended, {} of {} right ones broken, {:.0} % the same answer",
                    grouped(at.mended as usize),
                    grouped(s.wrong as usize),
                    grouped(at.broken as usize),
                    grouped(s.right as usize),
                    100.0 * at.commonest
                ),
            );
        }
        let share = format!("{} of {} wrong reads", s.mended_by_sharpening, s.wrong);
        t.pair("mended by some temperature below 1", share);
    }
    t
}

/// Proposition 3.
fn dilutions(set: &SetDocument) -> Table {
    let right = |name| (name, Side::Right);
    let mut t = Table::new(&[
        ("head", Side::Left),
        right("sigma"),
        right("longest input"),
        right("reach"),
        right("needed"),
        right("largest weight"),
        right("bound"),
        right("bound at length 1"),
    ]);
    for d in &set.dilution {
        let bound = |b: Option<f64>| b.map_or_else(|| "none".to_owned(), |b| format!("{b:.4}"));
        let numbers = [d.sigma, d.norm, d.reach, d.needed].map(|x| format!("{x:.3}"));
        let head = [format!("{}.{}", d.layer, d.head)].into_iter().chain(numbers);
        t.row(head.chain([format!("{:.4}", d.largest), bound(d.bound), bound(d.bound_unit)]));
    }
    t
}
