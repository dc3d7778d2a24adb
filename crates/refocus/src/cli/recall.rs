//! Flags of `refocus recall`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ModelArg;

pub(super) const EXAMPLES: &str = "\
Examples:
  Capitals and languages, which need no data:
    refocus recall MODEL --relation capital,language --out run
  All relations that the study names, with up to 60 facts each:
    refocus recall MODEL --data DIR --facts 60 --out run
  Everything, with a text for the last two stages:
    refocus recall MODEL --relation capital --text FILE --out run
  A relation of your own, and facts known to other models:
    refocus recall MODEL --relation mine.json --out run
    refocus recall MODEL --data DIR --relation P30,P127 --out run";

/// As on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecallStage {
    /// Which facts the model knows.
    Facts,
    /// Answer and argument, followed through the residual stream.
    Trace,
    /// Who carries answer and argument to the last token.
    Heads,
    /// What an MLP makes of the heads before it.
    Mlp,
    /// Heads, MLP and intercept again with other facts before the question.
    Shots,
    /// Who lowers the answer in the last two blocks.
    Last,
    /// What can be done about that, and its price.
    Mitigate,
}

#[derive(Debug, Args)]
pub(crate) struct Recall {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Relations: capital, language, names of files in --data (product_by_company), ids of its known facts (P30),
    /// or JSON files [default: capital, language, and of --data product_by_company, landmark_on_continent,
    /// adj_antonym and verb_past_tense].
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    pub(crate) relation: Vec<String>,
    /// Folder of data with facts/ in it, or itself the folder with relations/ and known_1000.json [default:
    /// REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Most other facts stated before a question; all fewer are asked too.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) shots: u16,
    /// Facts of a relation to ask for at most, drawn where there are more.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) facts: u32,
    /// Wordings of each fact, drawn where there are more [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) wordings: Option<u32>,
    /// Ask as the paper asked this model (gpt2: capitals in 15 wordings), unless other flags say otherwise. The heads
    /// that it names are looked at with every model of these sizes that is asked for its relation.
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// Ask for the first token of answers that have several, instead of leaving these out.
    #[arg(long)]
    pub(crate) first_token: bool,
    /// Read the stream with this tuned lens too, as `refocus train lens` writes it.
    #[arg(long, value_name = "DIR")]
    pub(crate) lens: Option<PathBuf>,
    /// Text in which tokens are counted and on which repairs are paid for, with 500 different tokens or more [default:
    /// a text of about 700 words, too short for most tokenizers: without a longer one the stages last and mitigate are
    /// left out].
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// What is done: facts, trace, heads, mlp, shots, last, mitigate. All need facts; mlp, shots and mitigate need
    /// heads.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', hide_possible_values = true)]
    #[arg(value_enum, default_value = "facts,trace,heads,mlp,shots,last,mitigate")]
    pub(crate) stages: Vec<RecallStage>,
    /// Folder for what the model answered, summary.json, tables and the page report.html.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
