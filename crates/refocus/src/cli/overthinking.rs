//! Flags of `refocus overthinking`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ModelArg;

pub(super) const EXAMPLES: &str = "\
Examples:
  The toy task, which needs no data:
    refocus overthinking MODEL --tasks unnatural --out run
  Three tasks under three settings:
    refocus overthinking MODEL --tasks unnatural,sst2,trec --data DIR --pairs 200 --demos 20 \\
      --settings permuted,half,random --out run
  What the paper did with a model, with its figures beside:
    refocus overthinking openai-community/gpt2 --preset gpt2 --data DIR --out run
  The same tasks again with a map of all heads; what was done before is not done again:
    refocus overthinking MODEL --tasks unnatural --map 20 --out run
  The prompts as ids, for another program, and a run from such a file:
    refocus overthinking MODEL --tasks unnatural --dump-prompts prompts.jsonl
    refocus overthinking MODEL --prompts prompts.jsonl --out run";

/// As on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StudyMode {
    /// As it should be.
    Correct,
    /// With the defects of the released code.
    Paper,
}

/// As on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StudyStage {
    /// What every layer would answer.
    Lens,
    /// Which heads attend to labels of the same class, and what they write.
    Heads,
    /// The chosen heads, random ones and late blocks ablated.
    Ablations,
    /// Every head by itself ablated.
    Map,
}

#[derive(Debug, Args)]
pub(crate) struct Overthinking {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Tasks of `refocus tasks list`, formats such as sst2.3, all of them (sst2.*), or task files, separated by commas.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    #[arg(required_unless_present_any = ["prompts", "preset"])]
    pub(crate) tasks: Vec<String>,
    /// Protocol of a published model, with its figures beside: gpt2, gpt2-medium, gpt2-large, gpt2-xl,
    /// pythia-410m or gpt-j. Other flags come before it.
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// Folder of data with tasks/ in it, or the folder of the tasks' rows itself [default: REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Pairs of prompts of each task [default: 100].
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) pairs: Option<u32>,
    /// Demonstrations of each prompt [default: 16].
    #[arg(long, value_name = "K")]
    pub(crate) demos: Option<usize>,
    /// Labels of false prompts: permuted, half, random, permuted_20, _40, _60 or _80 [default: permuted].
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    pub(crate) settings: Option<Vec<String>>,
    /// Tokens of a prompt at most [default: the model's context].
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
    /// How the study is done [default: correct, paper with --preset].
    #[arg(long, value_enum)]
    pub(crate) mode: Option<StudyMode>,
    /// Defects of the released code to reproduce, by number, or none [default: all in paper mode].
    #[arg(long, value_name = "1,2,…")]
    pub(crate) defects: Option<String>,
    /// What is done: lens, heads, ablations, map. Each needs those before it, but map needs no ablations.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', hide_possible_values = true)]
    #[arg(value_enum, default_value = "lens,heads,ablations")]
    pub(crate) stages: Vec<StudyStage>,
    /// Heads that are ablated: those with the highest prefix-matching scores.
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) top_heads: u32,
    /// Pairs of which the map is made, every head by itself ablated; asks for the stage map [default: 20].
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=16_777_216))]
    pub(crate) map: Option<u32>,
    /// Folder for the answers, summary.json, tables and the page report.html.
    #[arg(long, value_name = "DIR", required_unless_present = "dump_prompts")]
    pub(crate) out: Option<PathBuf>,
    /// Write the prompts as JSON lines; without --out nothing else is done.
    #[arg(long, value_name = "FILE")]
    pub(crate) dump_prompts: Option<PathBuf>,
    /// Run the prompts of such a file instead of drawing them.
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["tasks", "preset", "data", "pairs", "demos", "settings", "context", "dump_prompts"])]
    pub(crate) prompts: Option<PathBuf>,
}
