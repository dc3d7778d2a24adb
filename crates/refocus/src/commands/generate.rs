//! `model generate`.

use refocus_compute::Eager;
use refocus_model::generate::{Request, greedy};
use refocus_model::patch::Job;
use refocus_model::{Model, Patch, RunError, Tokenizer};
use serde::Serialize;

use super::Ended;
use crate::cli::{Generate, Global};
use crate::failure::{Failure, Outcome};
use crate::input::{self, Sequences};
use crate::printer::Printer;
use crate::{backend, model_arg};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    sequences: Vec<Sequence>,
}

#[derive(Serialize)]
struct Sequence {
    prompt: Vec<u32>,
    /// New ids; the one that ended the sequence is not among them.
    ids: Vec<u32>,
    /// The new ids as text, where there is a tokenizer.
    text: Option<String>,
    /// `stop` where the model ended the sequence, else `length`.
    ended: &'static str,
}

/// Runs the command.
pub(super) fn run(args: &Generate, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let spec = checkpoint.spec();
    let patch = super::patch(&args.patch, &checkpoint, Job::Generate)?;
    let Sequences { ids: prompts, tokenizer } = input::read(&args.input, &checkpoint, printer)?;
    // The last new token is not run itself.
    let too_long = |p: &Vec<u32>| p.len() + args.max_new > spec.n_ctx + 1;
    if let Some(seq) = prompts.iter().position(too_long).filter(|_| !spec.stretches()) {
        let len = prompts[seq].len() + args.max_new - 1;
        return Err(Failure::from(RunError::Context { seq, len, n_ctx: spec.n_ctx })
            .hint(format!("{} of them are new: lower --max-new", args.max_new)));
    }
    let applied = patch.as_ref().map(Patch::applied).unwrap_or_default();
    let mut cpu = backend::cpu(global, printer)?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let request = Request {
        prompts: &prompts,
        max_new: args.max_new,
        stop: if args.ignore_eos { &[] } else { &spec.eos },
        interventions: &applied,
    };
    // One prompt is printed as it grows; several would be mixed up.
    let mut stream = Stream::new(tokenizer.as_ref().filter(|_| prompts.len() == 1 && !printer.is_json()));
    let mut told = Ok(());
    let all = greedy(&mut Eager::new(cpu), &model, &request, |_, id| {
        if told.is_ok() {
            told = stream.push(id).and_then(|text| printer.text(&text));
        }
    });
    told?;
    let all = all?;
    if printer.is_json() {
        return document(
            &checkpoint.path().display().to_string(),
            &prompts,
            all,
            args.max_new,
            tokenizer,
            printer,
        );
    }
    match (&tokenizer, &all[..]) {
        (Some(t), [one]) => printer.text(&format!("{}\n", stream.rest(t, one)?))?,
        (Some(t), _) => {
            for (i, ids) in all.iter().enumerate() {
                printer.text(&format!("sequence {i}: {:?}\n", t.decode(ids, false)?))?;
            }
        }
        (None, _) => {
            for (i, ids) in all.iter().enumerate() {
                printer.text(&format!("sequence {i}: {ids:?}\n"))?;
            }
        }
    }
    Ok(Ended::Well)
}

fn document(
    model: &str,
    prompts: &[Vec<u32>],
    all: Vec<Vec<u32>>,
    max_new: usize,
    tokenizer: Option<Tokenizer>,
    printer: &Printer,
) -> Outcome<Ended> {
    let mut sequences = Vec::with_capacity(all.len());
    for (prompt, ids) in prompts.iter().zip(all) {
        let text = tokenizer.as_ref().map(|t| t.decode(&ids, false)).transpose()?;
        let ended = if ids.len() < max_new { "stop" } else { "length" };
        sequences.push(Sequence { prompt: prompt.clone(), ids, text, ended });
    }
    printer.document(&Document { schema: "refocus.model-generate/1", model: model.to_owned(), sequences })?;
    Ok(Ended::Well)
}

/// Text that grows token by token. A character may take several tokens: it is held back until it is whole.
struct Stream<'a> {
    tokenizer: Option<&'a Tokenizer>,
    ids: Vec<u32>,
    /// Bytes of text already given out.
    given: usize,
}

impl<'a> Stream<'a> {
    fn new(tokenizer: Option<&'a Tokenizer>) -> Self {
        Self { tokenizer, ids: Vec::new(), given: 0 }
    }

    /// The text that became certain with this token.
    fn push(&mut self, id: u32) -> Outcome<String> {
        let Some(tokenizer) = self.tokenizer else { return Ok(String::new()) };
        self.ids.push(id);
        let text = tokenizer.decode(&self.ids, false)?;
        let whole = text.trim_end_matches('\u{fffd}').len();
        let new = text.get(self.given..whole).unwrap_or_default().to_owned();
        self.given += new.len();
        Ok(new)
    }

    /// What was held back.
    fn rest(&self, tokenizer: &Tokenizer, ids: &[u32]) -> Outcome<String> {
        let text = tokenizer.decode(ids, false)?;
        Ok(text.get(self.given..).unwrap_or_default().to_owned())
    }
}
