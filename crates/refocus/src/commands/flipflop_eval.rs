//! `flipflop eval`.

use std::time::Instant;

use refocus_compute::Eager;
use refocus_results::Lock;
use refocus_study::flipflop::{
    BinResult, EvalSet, Kept, SetResult, Skipped, Subject, SubjectError, Wrong, evaluate, open_run, percent,
    sets_for,
};
use refocus_train::RunConfig;
use refocus_train::flipflop::Mode;
use serde::Serialize;

use super::Ended;
use crate::cli::{FlipflopEval, Global};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Side, Table, grouped};
use crate::{backend, model_arg, output};

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    model: String,
    fingerprint: String,
    /// Of a run: hash of its configuration, and steps taken so far and in all.
    config_hash: Option<String>,
    step: Option<u32>,
    steps: Option<u32>,
    /// How positions enter.
    positions: &'static str,
    seed: u64,
    sets: &'a [SetResult],
    skipped: &'a [Skipped],
    /// Of this command; not in the file of --out.
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<Speed>,
}

#[derive(Clone, Copy, Serialize)]
struct Speed {
    tokens: u64,
    seconds: f64,
    tokens_per_second: f64,
}

/// Runs the command.
pub(super) fn run(args: &FlipflopEval, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let path = model_arg::find(Some(&args.model), printer)?;
    let mut cpu = backend::cpu(global, printer)?;
    let mut subject = match open_run(&path, &mut cpu)? {
        Some(run) if run.config.as_ref().is_some_and(|c| c.task.mode == Mode::World) => {
            let text =
                format!("{}: a run of `train world` reads texts and no flip-flop strings", path.display());
            return Err(Failure::new(text).hint("`refocus flipflop probe` asks its folder model in words"));
        }
        Some(run) if run.config.as_ref().is_some_and(|c| c.task.mode == Mode::Automaton) => {
            let text = format!("{}: the run learned the automaton, which has no reads", path.display());
            return Err(Failure::new(text).hint("`refocus flipflop figures` looks into such models"));
        }
        Some(run) => run,
        None if path.join("curve.csv").is_file() => {
            let text = format!("{}: the run has no checkpoint yet", path.display());
            return Err(Failure::new(text).hint("wait until it has saved one, as its watch.save_every says"));
        }
        None => Subject::open_model(&model_arg::open_at(&path)?, &mut cpu).map_err(|e| match e {
            SubjectError::Load(e) => Failure::from(e),
            SubjectError::Flipflop(e) => Failure::from(e).hint(
                "`refocus train flipflop` trains models that read these strings; \
                       `refocus flipflop probe` asks language models in words",
            ),
        })?,
    };
    let (positions, longest) = subject.reach();
    let (mut sets, skipped) =
        sets_for(&args.set, subject.tokens, subject.config.as_ref(), longest.map(|n| (n, positions)))?;
    if sets.is_empty() {
        return Err(Failure::new("there is no set that the model has positions for"));
    }
    for s in &mut sets {
        s.strings = args.count.unwrap_or(s.strings);
    }
    let steps = subject.config.as_ref().map(|c| c.optimizer.steps);
    if let (Some(step), Some(steps)) = (subject.step, steps)
        && step < steps
    {
        printer.note(&format!("the run is at step {step} of {steps}"));
    }
    for s in &skipped {
        printer.note(&format!("skipped {}: {}", s.name, s.why));
    }
    subject.widen(sets.iter().map(|s| s.language.tokens()).max().unwrap_or(0));

    let _lock = match &args.out {
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .map_err(|e| Failure::because(format!("{}: cannot be made", dir.display()), e))?;
            Some(Lock::take(dir)?)
        }
        None => None,
    };
    let o = &mut Eager::new(cpu);
    let tokens = |s: &EvalSet, strings: u32| s.language.tokens() as u64 * u64::from(strings);
    let bar = printer.count_bar(sets.iter().map(|s| tokens(s, s.strings)).sum());
    let start = Instant::now();
    let (mut results, mut asked) = (Vec::new(), 0);
    for set in &sets {
        bar.set_message(format!("{}: tokens", set.name));
        let (kept, mut wrong) = match &args.out {
            Some(dir) => {
                let (kept, wrong) = Kept::open(dir, &subject.fingerprint, set, global.seed).map_err(|e| {
                    Failure::from(e).hint("give another --out, or what that folder was made with")
                })?;
                (Some(kept), wrong)
            }
            None => (None, Wrong::default()),
        };
        let mut done = wrong.strings;
        bar.inc(tokens(set, done));
        // Time left is judged by what is run.
        bar.reset_eta();
        evaluate(o, &subject.net, set, global.seed, &mut wrong, |wrong| {
            if let Some(kept) = &kept {
                kept.save(wrong)?;
            }
            let new = tokens(set, wrong.strings - done);
            (done, asked) = (wrong.strings, asked + new);
            bar.inc(new);
            Ok(true)
        })?;
        let errors = wrong.count(set, global.seed).map_err(|[string, at]| {
            Failure::new(format!("set {}: string {string} has no read at {at}", set.name))
        })?;
        results.push(SetResult::new(set, wrong.strings, &errors));
    }
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let speed =
        (asked > 0).then(|| Speed { tokens: asked, seconds, tokens_per_second: asked as f64 / seconds });
    let mut document = Document {
        schema: "refocus.flipflop-eval/1",
        model: args.model.display().to_string(),
        fingerprint: subject.fingerprint,
        config_hash: subject.config.as_ref().map(RunConfig::hash).transpose()?,
        step: subject.step,
        steps,
        positions,
        seed: global.seed,
        sets: &results,
        skipped: &skipped,
        speed: None,
    };
    if let Some(dir) = &args.out {
        output::write_document(&dir.join("eval.json"), &document)?;
    }
    document.speed = speed;
    if printer.is_json() {
        printer.document(&document)?;
        return Ok(Ended::Well);
    }
    printer.text(&shown(&results, printer.colours()))?;
    match speed {
        Some(s) => printer.note(&format!(
            "{} tokens in {:.1} s, {} a second",
            grouped(s.tokens as usize),
            s.seconds,
            grouped(s.tokens_per_second as usize)
        )),
        None => printer.note("every string was asked before"),
    }
    Ok(Ended::Well)
}

/// For people.
fn shown(results: &[SetResult], colour: bool) -> String {
    let columns = ["T", "strings", "reads", "errors", "rate", "95 %"];
    let mut head = vec![("set", Side::Left)];
    head.extend(columns.map(|c| (c, Side::Right)));
    let mut table = Table::new(&head);
    for s in results {
        let interval = s
            .interval
            .map_or_else(String::new, |[low, high]| format!("{} to {}", percent(low), percent(high)));
        table.row([
            s.name.clone(),
            s.tokens.to_string(),
            grouped(s.strings as usize),
            grouped(s.reads as usize),
            grouped(s.errors as usize),
            s.rate.map_or_else(String::new, percent),
            interval,
        ]);
    }
    let mut text = table.render(colour);
    let wrong: Vec<&SetResult> = results.iter().filter(|s| s.errors > 0).collect();
    if wrong.is_empty() {
        return text;
    }
    type Part = fn(&SetResult) -> &[BinResult];
    let parts: [(&str, Part); 3] = [
        ("instructions since the last write", |s| &s.since_write),
        ("since the last write or read", |s| &s.since_either),
        ("overwritten writes of the other bit", |s| &s.stale_other),
    ];
    for (what, part) in parts {
        let mut bins: Vec<&BinResult> = wrong.iter().flat_map(|s| part(s)).collect();
        bins.sort_by_key(|b| b.from);
        bins.dedup_by_key(|b| b.from);
        let mut head = vec![(what, Side::Left)];
        head.extend(wrong.iter().map(|s| (s.name.as_str(), Side::Right)));
        let mut table = Table::new(&head);
        for bin in bins {
            let of = |s: &&SetResult| {
                let found = part(s).iter().find(|b| b.from == bin.from);
                found.map_or_else(String::new, |b| format!("{} of {}", b.errors, grouped(b.reads as usize)))
            };
            table.row([numbers(bin)].into_iter().chain(wrong.iter().map(of)));
        }
        text.push('\n');
        text.push_str(&table.render(colour));
    }
    text
}

fn numbers(b: &BinResult) -> String {
    match b.to {
        Some(to) if to == b.from => to.to_string(),
        Some(to) => format!("{}–{to}", b.from),
        None => format!("{} and more", b.from),
    }
}
