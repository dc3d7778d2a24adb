//! Flags of `refocus diagnose`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use refocus_study::diagnose::{Budget, CAPITAL, Probe, TOY};

use super::ModelArg;

pub(super) const EXAMPLES: &str = "\
Without MODEL it is builtin: a small model that the program brings.

Examples:
  See in seconds what a diagnosis is, on the built-in model:
    refocus diagnose
  What slips in a model, in about two minutes:
    refocus diagnose MODEL --out run
  As a gate: exit code 1 where a bound is crossed:
    refocus diagnose MODEL --out run --fail-on 'overthinking.gap.low > 0.2 or flipflop.error > 0.1'
  Find a patch as well, and bake it into plain weights:
    refocus diagnose MODEL --mitigate --budget 20m --out run
    refocus patch export MODEL --patch run/patch.toml --out repaired
  On data of your own in place of the words and capitals that the program brings:
    refocus diagnose MODEL --task sst2 --relation product_by_company --data DIR --mitigate --out run-data
  One probe, with more questions:
    refocus diagnose MODEL --probes recall --budget 20m --out run-recall";

/// As on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BudgetName {
    /// About two minutes for a model of 135 million parameters on two cores.
    #[value(name = "2m")]
    TwoMinutes,
    /// About twenty minutes.
    #[value(name = "20m")]
    TwentyMinutes,
    /// About two hours.
    #[value(name = "2h")]
    TwoHours,
}

impl From<BudgetName> for Budget {
    fn from(name: BudgetName) -> Self {
        match name {
            BudgetName::TwoMinutes => Self::TwoMinutes,
            BudgetName::TwentyMinutes => Self::TwentyMinutes,
            BudgetName::TwoHours => Self::TwoHours,
        }
    }
}

/// As on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeName {
    /// Does it keep one bit over a distance?
    Flipflop,
    /// Does it follow false demonstrations against what it knows?
    Overthinking,
    /// Do its last layers take back what it knows?
    Recall,
    /// Is it swayed by sentences that do not matter?
    Distractors,
}

impl From<ProbeName> for Probe {
    fn from(name: ProbeName) -> Self {
        match name {
            ProbeName::Flipflop => Self::Flipflop,
            ProbeName::Overthinking => Self::Overthinking,
            ProbeName::Recall => Self::Recall,
            ProbeName::Distractors => Self::Distractors,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Diagnose {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// How long it may take, about; it says how much is asked.
    ///
    /// Sizes depend on this and on the model, never on a clock: the same command asks the same.
    #[arg(long, value_enum, default_value_t = BudgetName::TwoMinutes)]
    pub(crate) budget: BudgetName,
    /// Probes to run, separated by commas [default: all].
    #[arg(long, value_enum, value_name = "A,B,…", value_delimiter = ',')]
    pub(crate) probes: Vec<ProbeName>,
    /// Task whose labels demonstrations show, of `refocus tasks list`: the toy task needs no data.
    #[arg(long, value_name = "NAME", default_value = TOY)]
    pub(crate) task: String,
    /// Facts that are asked for, by recall and among distractors: capital or language, which need no data, the name of
    /// a file below facts/relations in --data (product_by_company), an id of its known facts (P30), or a JSON file.
    #[arg(long, value_name = "NAME", default_value = CAPITAL)]
    pub(crate) relation: String,
    /// Folder of data with tasks/ and facts/ in it [default: REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Search a patch for what slips, and measure it on questions that did not choose it.
    ///
    /// Tried are sharper attention, without the heads that push wrong answers, earlier exits, a weaker last
    /// layer, rewriting: each on one half of the questions. What lowers all failures together most and costs
    /// plain text little is measured on the other half, and written to patch.toml. Findings are kept on the way, the
    /// search is not: stopped, it begins anew.
    #[arg(long)]
    pub(crate) mitigate: bool,
    /// Folder for findings.json; the same command goes on in it.
    #[arg(long, value_name = "DIR", default_value = "diagnosis")]
    pub(crate) out: PathBuf,
    /// End with exit code 1 where this holds: METRIC (< > <= >=) NUMBER, joined by and / or.
    ///
    /// METRIC.low and METRIC.high are the ends of its interval. Where a probe could not be run, what it would
    /// have measured is an error: it never passes in silence.
    #[arg(long, value_name = "CONDITION")]
    pub(crate) fail_on: Option<String>,
    /// List every metric with its unit, and run nothing.
    #[arg(long)]
    pub(crate) list_metrics: bool,
}
