//! Flags of `refocus system2`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ModelArg, NamedUpstream};

const EVAL_EXAMPLES: &str = "\
Examples:
  Everything that needs no data:
    refocus system2 eval MODEL --out run
  Two suites and four arms, 60 items each, with a page:
    refocus system2 eval MODEL --suites facts,ladder --arms oracle,baseline,objectivity,extractive \\
      --items 60 --out run --table page.md
  More items of the same run; what was answered is not asked again:
    refocus system2 eval MODEL --items 300 --out run
  A model behind a server:
    refocus system2 eval --upstream http://127.0.0.1:8080/v1 --model NAME --suites facts,harm --out run";

#[derive(Debug, Subcommand)]
pub(crate) enum System2Command {
    /// Judge System 2 Attention on a model: what it wins, what it loses, what it costs.
    ///
    /// Suites: facts, questions (a file of data), ladder, gsm8k (a file of data), arguments, spurious, harm.
    /// Each item has a piece that must not matter and pieces that must not be lost, both known. Arms: oracle
    /// (without that piece), baseline, instructed, think, and the rewritings objectivity, relevance, single,
    /// keep_original, no_instruction, extractive, scored and scored_change. Shown are answers, paired gains with
    /// intervals, verdicts whose rules were written before, what the rewriting removed and lost, and tokens.
    ///
    /// Where the oracle answers less than 30 % rightly there is nothing to win: the other arms are not asked.
    /// The projected time is told first. What was answered is kept in --out, item by item.
    ///
    /// A server gives no attention and lets no keys be hidden: with --upstream the look into heads is left out, and
    /// so is `block_edge`. Options are scored behind the beginning of the answer where the server tells
    /// log-probabilities there, and else named in words; which it is stands in the results.
    ///
    /// (Weston & Sukhbaatar, "System 2 Attention", 2023.)
    #[command(after_long_help = EVAL_EXAMPLES)]
    Eval(System2Eval),
}

#[derive(Debug, Args)]
pub(crate) struct System2Eval {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) upstream: NamedUpstream,
    /// Suites, separated by commas [default: all; those that read a file only where there is a data folder].
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    pub(crate) suites: Vec<String>,
    /// Arms, separated by commas [default: all].
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    pub(crate) arms: Vec<String>,
    /// Items of each suite; fewer are the first of more.
    #[arg(long, value_name = "N", default_value_t = 300)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) items: u32,
    /// Folder of data with bias/truthfulqa_suggested_answer.jsonl and math/gsm8k_test.jsonl in it [default: REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Items of the suite spurious whose attention is measured, head by head; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) look: u32,
    /// Have what the model writes on the suite arguments judged by a model at this base URL: quality, sentiment and
    /// objectivity, each argument and reply in both orders.
    ///
    /// Its key is read from REFOCUS_JUDGE_KEY or --judge-key-file, never from the command line.
    #[arg(long, value_name = "URL")]
    pub(crate) judge: Option<String>,
    /// Name of the model that judges [default: the first that the server of --judge lists].
    #[arg(long, value_name = "NAME", requires = "judge")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) judge_model: Option<String>,
    /// File with the key for the judge [default: REFOCUS_JUDGE_KEY].
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) judge_key_file: Option<PathBuf>,
    /// Folder for the answers, system2.json, tables and the page report.html; the same command goes on in it.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Stop after this many hours; items that were asked in all arms are shown, the same command goes on.
    #[arg(long, value_name = "H")]
    pub(crate) max_hours: Option<f64>,
    /// Write a page of Markdown; its section "Read with care", if somebody wrote one, stays.
    #[arg(long, value_name = "FILE")]
    pub(crate) table: Option<PathBuf>,
}
