//! What `model generate` shows.

use refocus_model::Tokenizer;
use refocus_model::generate::{Finish, Output, Score, Token};
use serde::Serialize;

use crate::failure::Outcome;
use crate::printer::Printer;
use crate::table::{Side, Table};

/// What all sequences have in common.
pub(super) struct Report<'a> {
    pub model: String,
    pub seed: u64,
    pub prompts: &'a [Vec<u32>],
    /// Of each prompt.
    pub samples: u32,
    pub max_new: usize,
    pub n_ctx: usize,
    pub with_logprobs: bool,
    pub tokenizer: Option<&'a Tokenizer>,
}

/// How likely a choice is as a whole.
#[derive(Debug, Serialize)]
pub(super) struct ScoredChoice {
    text: String,
    ids: Vec<u32>,
    logprob: f64,
    logprobs: Vec<f32>,
}

impl ScoredChoice {
    pub(super) fn new(text: &str, ids: Vec<u32>, score: Score) -> Self {
        Self { text: text.to_owned(), ids, logprob: score.sum(), logprobs: score.tokens }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    model: &'a str,
    seed: u64,
    sequences: Vec<Sequence>,
    /// By prompt, with `--choices` or `--choice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    choices: Option<&'a [Vec<ScoredChoice>]>,
}

#[derive(Serialize)]
struct Sequence {
    prompt: Vec<u32>,
    sample: u32,
    /// New ids; a stop id that ended the sequence is not among them.
    ids: Vec<u32>,
    /// The new ids as text, without a stop string, where there is a tokenizer.
    text: Option<String>,
    ended: &'static str,
    /// Why it could not go on, where it ended with an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// With a constraint: whether the text meets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    whole: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Line>>,
}

#[derive(Serialize)]
struct Line {
    id: u32,
    token: Option<String>,
    logprob: Option<f32>,
    top: Vec<Likely>,
}

#[derive(Serialize)]
struct Likely {
    id: u32,
    token: Option<String>,
    logprob: f32,
}

impl Report<'_> {
    /// Whether there is one sequence only.
    pub(super) fn is_one(&self) -> bool {
        self.prompts.len() == 1 && self.samples == 1
    }

    /// Shows everything; `streamed` says that the text has been printed.
    pub(super) fn print(
        &self,
        outputs: &[Vec<Output>],
        scores: &[Vec<ScoredChoice>],
        streamed: bool,
        printer: &Printer,
    ) -> Outcome<()> {
        let finished = |o: &Output| o.finish.is_ok();
        if printer.is_json() {
            // Where nothing finished there is nothing to keep beside the error.
            if outputs.iter().flatten().any(finished) {
                printer.document(&self.document(outputs, scores))?;
            }
            return Ok(());
        }
        if streamed {
            printer.text("\n")?;
        }
        for (i, samples) in outputs.iter().enumerate() {
            for (sample, output) in samples.iter().enumerate() {
                let name = match self.samples {
                    1 => format!("sequence {i}"),
                    _ => format!("sequence {i} sample {sample}"),
                };
                if !streamed {
                    let text = match self.tokenizer {
                        Some(_) => format!("{:?}", output.text),
                        None => format!("{:?}", output.ids()),
                    };
                    printer.text(&format!("{name}: {text}\n"))?;
                }
                if self.with_logprobs {
                    let table = self.logprobs(&output.tokens).render(printer.colours());
                    let last = (i + 1, sample + 1) == (outputs.len(), samples.len());
                    printer.text(&format!("\n{table}{}", if last { "" } else { "\n" }))?;
                }
                self.note(&name, output, printer);
            }
            if let Some(scores) = scores.get(i) {
                let of = if self.prompts.len() == 1 { String::new() } else { format!("sequence {i}\n") };
                printer.text(&format!("\n{of}{}", likely(scores).render(printer.colours())))?;
            }
        }
        Ok(())
    }

    /// What a reader of the text should know about its end.
    fn note(&self, name: &str, output: &Output, printer: &Printer) {
        if !matches!(output.finish, Ok(Finish::Length)) {
            return;
        }
        let cut = output.tokens.len() < self.max_new;
        if cut {
            let n = output.tokens.len();
            let context = self.n_ctx;
            printer.note(&format!(
                "{name} ended after {n} new tokens: the model's context of {context} is full"
            ));
        }
        if output.whole == Some(false) {
            let at = if cut { "" } else { "; raise --max-new" };
            printer.note(&format!("{name} ended before its text met the constraint{at}"));
        }
    }

    fn document<'a>(&'a self, outputs: &[Vec<Output>], scores: &'a [Vec<ScoredChoice>]) -> Document<'a> {
        let of_prompt = |(prompt, samples): (&Vec<u32>, &Vec<Output>)| {
            let one = |(sample, o): (u32, &Output)| Sequence {
                prompt: prompt.clone(),
                sample,
                ids: o.ids(),
                text: self.tokenizer.map(|_| o.text.clone()),
                ended: o.finish.as_ref().map_or("error", |f| f.name()),
                error: o.finish.as_ref().err().map(ToString::to_string),
                whole: o.whole,
                logprobs: self.with_logprobs.then(|| o.tokens.iter().map(|t| self.line(t)).collect()),
            };
            (0..).zip(samples).map(one).collect::<Vec<_>>()
        };
        Document {
            schema: "refocus.model-generate/1",
            model: &self.model,
            seed: self.seed,
            sequences: self.prompts.iter().zip(outputs).flat_map(of_prompt).collect(),
            choices: Some(scores).filter(|s| !s.is_empty()),
        }
    }

    fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.map(|t| t.token(id))
    }

    fn line(&self, t: &Token) -> Line {
        let likely = |&(id, logprob): &(u32, f32)| Likely { id, token: self.token(id), logprob };
        Line {
            id: t.id,
            token: self.token(t.id),
            logprob: t.logprob,
            top: t.top.iter().map(likely).collect(),
        }
    }

    /// A line a token: its log-probability, and the most likely ones at its place.
    fn logprobs(&self, tokens: &[Token]) -> Table {
        let shown = |id: u32| self.token(id).map_or_else(|| format!("#{id}"), |t| format!("{t:?}"));
        let mut table =
            Table::new(&[("token", Side::Left), ("logprob", Side::Right), ("most likely", Side::Left)]);
        for t in tokens {
            let logprob = t.logprob.map_or_else(String::new, |l| format!("{l:.4}"));
            let top: Vec<_> = t.top.iter().map(|(id, l)| format!("{} {l:.4}", shown(*id))).collect();
            table.row([shown(t.id), logprob, top.join("  ")]);
        }
        table
    }
}

/// A line a choice, the most likely first.
fn likely(scores: &[ScoredChoice]) -> Table {
    let best = scores.iter().map(|s| s.logprob).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s.logprob - best).exp()).sum();
    let mut table = Table::new(&[
        ("choice", Side::Left),
        ("tokens", Side::Right),
        ("logprob", Side::Right),
        ("share", Side::Right),
    ]);
    let mut order: Vec<&ScoredChoice> = scores.iter().collect();
    order.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    for s in order {
        let share = 100.0 * (s.logprob - best).exp() / total;
        table.row([
            format!("{:?}", s.text),
            s.ids.len().to_string(),
            format!("{:.4}", s.logprob),
            format!("{share:.1}%"),
        ]);
    }
    table
}
