//! `model generate`.

mod report;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use refocus_compute::Eager;
use refocus_model::generate::{
    Changes, Constraint, Engine, Event, Grammars, Limits, Output, Request, Sampling, What, complete, score,
};
use refocus_model::patch::Job;
use refocus_model::{Model, ModelSpec, Tokenizer};
use serde_json::{Value, json};

use self::report::{Report, ScoredChoice};
use super::Ended;
use crate::cli::{Generate, Global};
use crate::failure::{Failure, Outcome};
use crate::input::{self, Sequences};
use crate::printer::Printer;
use crate::{backend, model_arg};

/// Bytes of key/value cache, if no single request needs more.
const CACHE_BYTES: usize = 4 << 30;
/// A longer schema is a mistake.
const MOST_SCHEMA_BYTES: u64 = 1 << 20;

/// Runs the command.
pub(super) fn run(args: &Generate, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let spec = checkpoint.spec();
    let patch = super::patch(&args.patch, &checkpoint, Job::Generate)?;
    if args.chat.show_prompt {
        let text = input::rendered(&args.prompt, &args.chat, &checkpoint)?.unwrap_or_default();
        if printer.is_json() {
            printer.document(&json!({"schema": "refocus.model-generate-prompt/1", "prompt": text}))?;
        } else {
            printer.text(&format!("{text}\n"))?;
        }
        return Ok(Ended::Well);
    }
    let Sequences { ids: prompts, tokenizer } =
        input::read_prompt(&args.prompt, &args.chat, &checkpoint, printer)?;
    let needs_text = !args.stop.is_empty() || constrained(args);
    let tokenizer = match tokenizer {
        // Why there is none is an error here.
        None if needs_text => Some(checkpoint.tokenizer().map_err(|e| {
            Failure::from(e).hint("--stop and constraints are about text and need the model's tokenizer")
        })?),
        other => other,
    };
    if let Some((id, _)) = args.logit_bias.iter().find(|(id, _)| *id as usize >= spec.vocab) {
        let text = format!("--logit-bias: the vocabulary has no token {id}, only 0 to {}", spec.vocab - 1);
        return Err(Failure::new(text));
    }
    let constraint = tokenizer.as_ref().map(|t| constraint(args, spec, t)).transpose()?.flatten();
    let changes = Arc::new(patch.as_ref().map(Changes::from).unwrap_or_default());
    let requests = requests(args, global, spec, &prompts, constraint.as_ref(), &changes);
    let lengths: Vec<_> = prompts.iter().map(|p| (p.len(), p.len().saturating_add(args.max_new))).collect();
    changes.meet(&lengths)?;

    let mut cpu = backend::cpu(global, printer)?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let mut o = Eager::new(cpu);
    let report = Report {
        model: model_arg::shown(&checkpoint),
        seed: global.seed,
        prompts: &prompts,
        samples: args.n.unwrap_or(1),
        max_new: args.max_new,
        n_ctx: if spec.stretches() { usize::MAX } else { spec.n_ctx },
        with_logprobs: args.logprobs.is_some(),
        tokenizer: tokenizer.as_ref(),
    };
    // One sequence is printed as it grows; several would be mixed up.
    let streams = report.is_one() && tokenizer.is_some() && !printer.is_json();
    let mut told = Ok(());
    let outputs = {
        let limits = Limits::within(CACHE_BYTES, spec, &requests);
        let mut engine = Engine::new(&mut o, &model, tokenizer.as_ref(), limits);
        let on_event = |event: &Event| {
            if streams {
                told = printer.text(new_text(event));
            }
            if told.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        complete(&mut engine, requests, on_event)?
    };
    told?;
    let choices = choices(args);
    let mut scores = Vec::new();
    if let (Some(tokenizer), false) = (&tokenizer, choices.is_empty()) {
        for ids in &prompts {
            let continuations = continuations(args.prompt.text.as_deref(), ids, choices, tokenizer)?;
            let scored = score(&mut o, &model, ids, &continuations, &changes)?;
            let each = choices.iter().zip(continuations).zip(scored);
            scores.push(each.map(|((text, ids), s)| ScoredChoice::new(text, ids, s)).collect());
        }
    }
    report.print(&outputs, &scores, streams, printer)?;
    failure(outputs)
}

fn constrained(args: &Generate) -> bool {
    let c = &args.constraint;
    !choices(args).is_empty() || c.regex.is_some() || c.json_schema.is_some()
}

fn choices(args: &Generate) -> &[String] {
    let c = &args.constraint;
    if c.choices.is_empty() { &c.choice } else { &c.choices }
}

/// The constraint that the flags ask for.
fn constraint(args: &Generate, spec: &ModelSpec, tokenizer: &Tokenizer) -> Outcome<Option<Constraint>> {
    if !constrained(args) {
        return Ok(None);
    }
    let schema = args.constraint.json_schema.as_deref().map(|path| Ok::<_, Failure>((path, schema(path)?)));
    let schema = schema.transpose()?;
    let grammars = Grammars::new(tokenizer, spec)?;
    Ok(Some(if let Some((path, schema)) = schema {
        let named = |e| Failure::because(path.display().to_string(), e);
        grammars.json_schema(&schema).map_err(named)?
    } else if let Some(regex) = &args.constraint.regex {
        grammars.regex(regex)?
    } else {
        grammars.choices(choices(args))?
    }))
}

fn schema(path: &Path) -> Outcome<Value> {
    let unreadable = |e| Failure::because(format!("{}: cannot be read", path.display()), e);
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if meta.len() > MOST_SCHEMA_BYTES {
        return Err(Failure::new(format!("{}: too large for a schema", path.display())));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&bytes).map_err(|e| Failure::because(format!("{}: not JSON", path.display()), e))
}

fn requests(
    args: &Generate,
    global: &Global,
    spec: &ModelSpec,
    prompts: &[Vec<u32>],
    constraint: Option<&Constraint>,
    changes: &Arc<Changes>,
) -> Vec<Request> {
    let sampling = Sampling {
        temperature: args.temperature.unwrap_or(0.0),
        top_k: args.top_k.map(|k| k as usize),
        top_p: args.top_p.unwrap_or(1.0),
        min_p: args.min_p.unwrap_or(0.0),
        seed: global.seed,
        logit_bias: args.logit_bias.clone(),
        ..Sampling::default()
    };
    let stop_strings: Arc<[String]> = args.stop.clone().into();
    let request = |prompt: &Vec<u32>| Request {
        sampling: sampling.clone(),
        n: args.n.unwrap_or(1),
        stop: if args.ignore_eos { Vec::new() } else { spec.eos.clone() },
        stop_strings: Arc::clone(&stop_strings),
        logprobs: args.logprobs,
        constraint: constraint.cloned(),
        changes: Arc::clone(changes),
        ..Request::new(prompt.clone(), args.max_new)
    };
    prompts.iter().map(request).collect()
}

fn new_text(event: &Event) -> &str {
    match &event.what {
        What::Token(token) => &token.text,
        What::Finished { text, .. } => text,
        What::Failed(_) => "",
    }
}

/// Ids of choices as they would follow the prompt: where a text was given, those that it and the choice
/// have together, if the prompt keeps its own.
fn continuations(
    text: Option<&str>,
    prompt: &[u32],
    choices: &[String],
    tokenizer: &Tokenizer,
) -> Outcome<Vec<Vec<u32>>> {
    let ids = |choice: &String| {
        if let Some(text) = text {
            let whole = tokenizer.encode(&format!("{text}{choice}"), true)?;
            if let Some(rest) = whole.strip_prefix(prompt).filter(|r| !r.is_empty()) {
                return Ok(rest.to_vec());
            }
        }
        Ok(tokenizer.encode(choice, false)?)
    };
    choices.iter().map(ids).collect()
}

/// The first error of a sequence, told once everything else has been printed.
fn failure(outputs: Vec<Vec<Output>>) -> Outcome<Ended> {
    match outputs.into_iter().flatten().find_map(|o| o.finish.err()) {
        Some(e) => Err(e.into()),
        None => Ok(Ended::Well),
    }
}
