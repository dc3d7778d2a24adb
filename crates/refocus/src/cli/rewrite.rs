//! Flags of `refocus rewrite`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use refocus_system2::{Judge, Variant};

use super::UpstreamArg;

pub(super) const EXAMPLES: &str = "\
Variants:
  extractive      the model names numbered pieces to drop; what is left are the original's bytes
  scored          pieces are judged by probabilities, no text is generated; likewise the original's bytes
  objectivity     the model writes context and question anew, without opinions (the paper's default)
  relevance       as objectivity, without what is beside the point
  single          the model writes the text anew in one piece
  keep-original   as objectivity, with the original beside it
  no-instruction  as objectivity, without an instruction to be unbiased

A rewrite never loses the question, code, links, tables or instructions on format, language and voice, and never adds \
numbers, names, quotations or many words. Where it would, or where the model refuses, fails or finds nothing, the \
original is printed and the reason told.

Examples:
  refocus rewrite --model MODEL 'I think it is Sydney, but what is the capital of Australia?'
  refocus rewrite --model MODEL --file prompt.txt --variant scored --diff
  cat prompt.txt | refocus rewrite --model MODEL - --variant objectivity --json
  refocus rewrite --upstream http://127.0.0.1:8080/v1 --model NAME --file prompt.txt --diff";

/// How the text is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RewriteVariant {
    Extractive,
    Scored,
    Objectivity,
    Relevance,
    Single,
    KeepOriginal,
    NoInstruction,
}

impl From<RewriteVariant> for Variant {
    fn from(variant: RewriteVariant) -> Self {
        match variant {
            RewriteVariant::Extractive => Variant::Extractive,
            RewriteVariant::Scored => Variant::Scored,
            RewriteVariant::Objectivity => Variant::Objectivity,
            RewriteVariant::Relevance => Variant::Relevance,
            RewriteVariant::Single => Variant::Single,
            RewriteVariant::KeepOriginal => Variant::KeepOriginal,
            RewriteVariant::NoInstruction => Variant::NoInstruction,
        }
    }
}

/// By what a piece is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScoreBy {
    /// log P(yes) − log P(no) to the question whether the piece is needed.
    Need,
    /// How much the answer's log-probability changes without the piece.
    AnswerChange,
}

impl From<ScoreBy> for Judge {
    fn from(by: ScoreBy) -> Self {
        match by {
            ScoreBy::Need => Judge::Need,
            ScoreBy::AnswerChange => Judge::AnswerChange,
        }
    }
}

/// What is rewritten.
#[derive(Debug, Args)]
#[group(id = "rewrite_input", required = true, multiple = false)]
pub(crate) struct RewriteInput {
    /// Text to rewrite; `-` for standard input.
    pub(crate) prompt: Option<String>,
    /// File with the text; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Rewrite {
    #[command(flatten)]
    pub(crate) input: RewriteInput,
    /// A folder in Hugging Face layout, a .gguf file, a hub id org/name[@revision][:FILE.gguf], or builtin;
    /// also looked for in REFOCUS_MODELS.
    ///
    /// A model that brings a chat template is asked in it, any other as a plain script of a conversation. With
    /// --upstream, the name of a model there.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) server: UpstreamArg,
    /// How the text is rewritten; see below.
    #[arg(long, value_enum, value_name = "VARIANT", default_value_t = RewriteVariant::Extractive)]
    #[arg(hide_possible_values = true)]
    pub(crate) variant: RewriteVariant,
    /// By what --variant scored judges a piece [default: need].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) score_by: Option<ScoreBy>,
    /// With --variant scored: pieces below it are removed, in nats [default: 0, or 0.05 for answer-change].
    #[arg(long, value_name = "NATS", value_parser = nats, allow_negative_numbers = true)]
    pub(crate) threshold: Option<f64>,
    /// With --score-by answer-change: an answer that is possible; may be repeated.
    ///
    /// Without any, the first token of the model's own answer is looked at.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) answer: Vec<String>,
    /// Folder of templates that replace the built-in ones: objectivity.txt, extractive.txt, step2.txt, …
    #[arg(long, value_name = "FOLDER")]
    pub(crate) template: Option<PathBuf>,
    /// Keep every number and quotation, also where the sentence that holds it could go as a whole.
    #[arg(long)]
    pub(crate) strict: bool,
    /// New tokens at most [default: by the length of the text].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_new: Option<u32>,
    /// Print the original where the rewrite takes longer than this.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) deadline: Option<Duration>,
    /// Show the original with what is removed marked, and why.
    #[arg(long)]
    pub(crate) diff: bool,
}

fn nats(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(|| "not a number".to_owned())
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|x: &f64| *x > 0.0);
    seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| "a number above 0 is needed".to_owned())
}
