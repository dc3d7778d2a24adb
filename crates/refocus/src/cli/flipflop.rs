//! Flags of `refocus flipflop`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use refocus_tasks::flipflop::{Family, Set, WORDINGS};

use super::NamedUpstream;

const EXAMPLES: &str = "\
Examples:
  The paper's sparse test set, FFL(0.98), 100,000 strings:
    refocus flipflop generate --set sparse > sparse.txt
  Ten short strings as token ids (w 0, r 1, i 2, then the data):
    refocus flipflop generate --p-ignore 0.6 --length 32 --count 10 --form ids
  Four registers of 16 symbols:
    refocus flipflop generate --p-ignore 0.8 --length 300 --registers 4 --symbols 16
  Eight overwritten writes just before the last read, with what each read depends on:
    refocus flipflop generate --p-ignore 0.8 --family decoy --burst 8 --gap 2 --facts
  As many reads and writes as at length 512, but 16,384 symbols long:
    refocus flipflop generate --p-ignore 0.8 --length 16384 --stretch-from 512";

const CHECKS: &str = "\
Examples:
  refocus flipflop validate strings.txt
  refocus flipflop generate --set dense | refocus flipflop validate -";

const PROBES: &str = "\
Examples:
  refocus flipflop probe MODEL
  refocus flipflop probe MODEL --lengths 10,50 --p-ignore 0.1,0.9 --count 100 --forms demonstration,symbols
  refocus flipflop probe MODEL --out probe.json    again: goes on where it was interrupted
  refocus flipflop probe --upstream http://127.0.0.1:8080/v1 --model NAME --lengths 10 --count 50";

const EVALS: &str = "\
Examples:
  Everything that the model's positions allow:
    refocus flipflop eval runs/baseline --out runs/baseline/tests
  The paper's three sets in full, and strings of 4,096 symbols:
    refocus flipflop eval runs/baseline --set paper,long-4096
  A hundred strings of each of two sets:
    refocus flipflop eval runs/lstm --set sparse,piecewise --count 100 --json";

const STUDIES: &str = "\
Examples:
  What would be run, and how long it takes here:
    refocus flipflop study --plan
  The study, for two hours; the same command again goes on:
    refocus flipflop study --out study --max-hours 2
  Two rows with two seeds, and a page of Markdown:
    refocus flipflop study --out study --rows baseline,mixture --seeds 0,1 --table page.md";

const FIGURES: &str = "\
Examples:
  refocus flipflop figures --out figures --plan
  refocus flipflop figures --out figures --only a,c
  refocus flipflop figures --out figures    again: nothing is trained twice";

const ATTENDS: &str = "\
Examples:
  The sets that a run watches, at its last checkpoint, finished or not:
    refocus flipflop attend runs/cpu
  The hand-set model on strings that break others:
    refocus flipflop handset --out handset
    refocus flipflop attend handset --set sparse,decoy,piecewise --count 50";

#[derive(Debug, Subcommand)]
pub(crate) enum FlipflopCommand {
    /// Draw strings of the flip-flop language, one a line.
    ///
    /// A string alternates instructions and data: `w` writes the datum after it, `i` ignores it, and the
    /// datum after `r` is the one written last. The first instruction writes, the last reads, the others
    /// are drawn. String number I depends on the settings, --seed and I alone, so a set can be drawn in
    /// parts and on any number of machines.
    #[command(after_long_help = EXAMPLES)]
    Generate(Box<FlipflopGenerate>),
    /// Check that every line is a string of the flip-flop language.
    ///
    /// Names the first line and column that is wrong, and exits with 1.
    #[command(after_long_help = CHECKS)]
    Validate(FlipflopValidate),
    /// Ask a language model for the last written bit, in words and in symbols.
    ///
    /// Draws strings of the flip-flop language, puts them into words about a light that is turned on and
    /// off, and asks for the final read. An answer is right if the model gives it a higher log-probability
    /// than the other one: by their first tokens where these differ, else by the whole answers. Texts are
    /// given raw, without a chat template. Beside the model's accuracy stand those of copying the datum of
    /// the instruction just before the read, whatever that is, and of always giving the point's more
    /// frequent answer; and how much the model attends from the place of the answer to the word of the last
    /// write that decides it.
    ///
    /// With --upstream the raw texts go to a server's /completions: log-probabilities of its likeliest tokens decide
    /// where it tells them, else the words it writes; attention is left out, a server does not tell it.
    #[command(after_long_help = PROBES)]
    Probe(FlipflopProbe),
    /// Count the reads that a trained model gets wrong.
    ///
    /// Asks a run of `refocus train flipflop`, or any model over the five symbols, at every read of test
    /// strings (of a run: over its own registers and data), and counts wrong first choices: in all, by
    /// instructions since the last write and since the last write or read, and by overwritten writes of the
    /// other bit. Intervals have 95 % confidence (Wilson; without an error from 0 to 3 by the number of reads).
    /// --seed chooses other strings.
    #[command(after_long_help = EVALS)]
    Eval(FlipflopEval),
    /// Train and test the paper's mitigations, and judge its claims.
    ///
    /// A row is one training configuration; each of its seeds is trained and tested in a folder of --out. Rows
    /// that are done are not done again, and a run that was stopped goes on at its last checkpoint. Several
    /// of these commands may work in one --out: each takes runs that no other is at. Rules that turn the
    /// counts into verdicts were written before the runs. --seed is the seed of the test strings.
    ///
    /// (Liu et al., "Exposing Attention Glitches with Flip-Flop Language Modeling", NeurIPS 2023.)
    #[command(after_long_help = STUDIES)]
    Study(FlipflopStudy),
    /// Look where a trained model attends at reads, apart for right and wrong answers.
    ///
    /// For each head: attention on the datum of the last write, on that of a read since (both hold the
    /// answer), on overwritten data of the same and of other value, on ignored data, on all else, and on
    /// the first eight symbols whatever they are; entropy in nats; the share of both right places in the sum of
    /// weight times length of the value. Then: logit of the answer minus the best other one; answers after
    /// one written datum is changed (a changed last write must change the answer, a changed stale one must not);
    /// wrong reads at other temperatures of attention (mended below 1: attention was too soft; not mended: it
    /// looks at a wrong place); and Proposition 3 of the paper: the largest weight that the head's singular
    /// values allow.
    #[command(after_long_help = ATTENDS)]
    Attend(FlipflopAttend),
    /// Write a model that makes no error, its weights set by hand.
    ///
    /// The construction of Proposition 2 of the paper: two layers of one head, width 7.
    Handset(FlipflopHandset),
    /// Train small models on the automaton task and look into them.
    ///
    /// The figures of the paper's mechanistic study: (a) attention of one head without and with sharpening;
    /// (b) sharpened models that are wrong because they are locked on early positions; (c) drift from the last
    /// write, linear positions; (d) norms of weights by sharpening; (e) distances between heads over training;
    /// (f) first-layer heads beside the ideal map. A model that is trained is not trained again, and one that was
    /// stopped goes on. Models have seeds from --seed on; test strings take it too.
    #[command(after_long_help = FIGURES)]
    Figures(FlipflopFigures),
}

#[derive(Debug, Args)]
pub(crate) struct FlipflopEval {
    /// Folder of a run, or a model: a folder in Hugging Face layout, also looked for in REFOCUS_MODELS.
    pub(crate) model: PathBuf,
    /// Sets: in, sparse, dense, piecewise, decoy or length (strings of up to 16,384 symbols with as many
    /// writes), as long as those of training; a set of `flipflop generate`; long-N; or all, paper, half.
    ///
    /// all is each of the first six that the model has positions for. paper and half are the paper's three sets
    /// at 512 symbols and at 256. Strings of more registers or other data have as many instructions. A model that
    /// does not come from a run here counts as trained on 512 symbols, or 256 where its context is shorter.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "all")]
    pub(crate) set: Vec<String>,
    /// Strings of each set [default: as many as the set has].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// Folder to keep the wrong reads in; the same command again goes on where it was.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FlipflopFigures {
    /// Folder of the models and of the figures' data, a.json to f.json.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// These figures alone.
    #[arg(long, value_name = "LETTER,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Models of each setting in (b) and (d); three at most in (c), one in the others.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,
    /// Steps of each model.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(10..))]
    pub(crate) steps: u32,
    /// List the models with the time that they will take on this machine, and train nothing.
    #[arg(long)]
    pub(crate) plan: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FlipflopAttend {
    /// Folder of a run, or a model: a folder in Hugging Face layout, also looked for in REFOCUS_MODELS.
    pub(crate) model: PathBuf,
    /// Sets of `flipflop generate` [default: those that the run watches, else the paper's].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    #[arg(value_parser = PossibleValuesParser::new(Set::ALL.map(Set::name)), hide_possible_values = true)]
    pub(crate) set: Vec<String>,
    /// Strings of each set.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Keep the document here, as attend.json.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FlipflopStudy {
    /// Size of the study.
    #[arg(long, value_enum, default_value_t = StudySize::Cpu)]
    pub(crate) preset: StudySize,
    /// Rows: short, one setting of each group but MLP dropout, AdamW and larger registers; full, every value
    /// of every group; or a file of rows.
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "short")]
    pub(crate) grid: PathBuf,
    /// Folder of the runs and results.
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    pub(crate) out: Option<PathBuf>,
    /// These rows alone.
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    pub(crate) rows: Vec<String>,
    /// These seeds, for every row [default: those of each row].
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) seeds: Vec<u64>,
    /// Stop after so many hours, at a place where the same command goes on.
    #[arg(long, value_name = "H")]
    pub(crate) max_hours: Option<f64>,
    /// Write the tables as a page of Markdown; its section "Read with care", if somebody wrote one, stays.
    #[arg(long, value_name = "FILE.md")]
    pub(crate) table: Option<PathBuf>,
    /// List the rows with the time that they will take on this machine, and train nothing.
    #[arg(long)]
    pub(crate) plan: bool,
}

/// How large a study is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StudySize {
    /// Transformers of 2 layers on strings of 256 symbols: minutes a run on two cores.
    Cpu,
}

#[derive(Debug, Args)]
pub(crate) struct FlipflopHandset {
    /// Folder of the model.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Symbols of the longest string.
    #[arg(long, value_name = "T", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    pub(crate) length: u32,
    /// Replace another model in that folder.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FlipflopProbe {
    /// A folder in Hugging Face layout, a .gguf file, a hub id org/name[@revision][:FILE.gguf], or builtin;
    /// also looked for in REFOCUS_MODELS.
    #[arg(required_unless_present = "upstream")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) upstream: NamedUpstream,
    /// Symbols of a string, instructions and data together.
    #[arg(long, value_name = "T,…", value_delimiter = ',', default_values_t = [10, 20, 50, 100, 200])]
    pub(crate) lengths: Vec<usize>,
    /// Probabilities to ignore; reads and writes share the rest equally.
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_values_t = [0.1, 0.6, 0.9])]
    pub(crate) p_ignore: Vec<f64>,
    /// How strings are put to the model.
    #[arg(long, value_name = "FORM,…", value_delimiter = ',', value_enum)]
    #[arg(default_values_t = [ProbeForm::Demonstration, ProbeForm::Words, ProbeForm::Symbols])]
    pub(crate) forms: Vec<ProbeForm>,
    /// Strings of each form, length and probability.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Keep the result here as it comes, for all lengths of a form and probability; with the same settings again, only what is missing is done.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) out: Option<PathBuf>,
}

/// How a string is put to a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeForm {
    /// In words, after another string of 16 symbols in words.
    Demonstration,
    /// In words alone.
    Words,
    /// As characters: w0i1r.
    Symbols,
}

impl ProbeForm {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ProbeForm::Demonstration => "demonstration",
            ProbeForm::Words => "words",
            ProbeForm::Symbols => "symbols",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FlipflopGenerate {
    /// Draw a set with a name, with its length and number of strings.
    ///
    /// in, sparse and dense are the paper's test sets FFL(0.8), FFL(0.98) and FFL(0.1); half-in,
    /// half-sparse and half-dense have half the length and as many writes; rare and rare-b3 are the
    /// paper's two mixtures to train on; piecewise (many writes, then hardly any), decoy and long (16,384
    /// symbols) are not in the paper.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Set::ALL.map(Set::name)))]
    #[arg(hide_possible_values = true, conflicts_with_all = LANGUAGE)]
    pub(crate) set: Option<String>,
    /// Probability to ignore; reads and writes share the rest equally unless told otherwise.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) p_ignore: Option<f64>,
    /// Probability to write.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) p_write: Option<f64>,
    /// Probability to read.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) p_read: Option<f64>,
    /// Symbols of a string, instructions and data together [default: 512].
    #[arg(long, value_name = "T")]
    pub(crate) length: Option<usize>,
    /// Take the probabilities as those of strings of T symbols, and read and write less often in longer
    /// ones, so that a string has as many reads and writes; not with read-run and churn.
    #[arg(long, value_name = "T")]
    pub(crate) stretch_from: Option<usize>,
    /// How many strings [default: 10, or as many as the set has].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// Number of the first string.
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub(crate) first: u32,
    /// Registers; with several, each instruction names one: wa0.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub(crate) registers: usize,
    /// Symbols that data are made of, 2 to 256; 2*2 makes every datum two bits.
    #[arg(long, value_name = "M[*W]", default_value = "2", value_parser = symbols)]
    pub(crate) symbols: (usize, usize),
    /// How strings are written.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Form::Text)]
    pub(crate) form: Form,
    /// Words of the natural form.
    #[arg(long, value_name = "NAME", default_value = "light")]
    #[arg(value_parser = PossibleValuesParser::new(WORDINGS.map(|w| w.name)))]
    pub(crate) wording: String,
    /// Print a JSON object a line: the string, its writes, and of each read where it is asked, its answer,
    /// distances in instructions and the number of stale writes.
    #[arg(long)]
    pub(crate) facts: bool,
    #[command(flatten)]
    pub(crate) family: FamilyArgs,
}

/// Flags that say which language: a set has them already.
const LANGUAGE: [&str; 16] = [
    "p_ignore",
    "p_write",
    "p_read",
    "length",
    "stretch_from",
    "registers",
    "symbols",
    "family",
    "mix",
    "tail_ignore",
    "tail_from",
    "burst",
    "gap",
    "run",
    "changes",
    "rate",
];

/// How strings deviate from the paper's.
#[derive(Debug, Args)]
#[command(next_help_heading = "Families")]
pub(crate) struct FamilyArgs {
    /// How strings deviate from the paper's.
    ///
    /// ffl: not at all. mixture: each string with one of the --mix. piecewise: from --tail-from on, other
    /// probabilities. decoy: --burst writes of other data, one write, --gap ignores, the last read.
    /// read-run: reads come --run in a row. churn: the stored datum changes --changes times, at random
    /// places. write-flip: a write changes the datum with probability --rate. anti-correlated: an ignore's
    /// datum differs from the stored one with probability --rate. markov: a datum differs from the one
    /// before with probability --rate.
    #[arg(long, value_name = "NAME", default_value = "ffl")]
    #[arg(value_parser = PossibleValuesParser::new(Family::NAMES), hide_possible_values = true)]
    pub(crate) family: String,
    /// mixture: probabilities to ignore, such as 0.9,0.98,0.1.
    #[arg(long, value_name = "P,…", value_delimiter = ',')]
    pub(crate) mix: Vec<f64>,
    /// piecewise: probability to ignore in the tail [default: 0.984].
    #[arg(long, value_name = "P")]
    pub(crate) tail_ignore: Option<f64>,
    /// piecewise: share of the string before the tail [default: 0.75].
    #[arg(long, value_name = "X")]
    pub(crate) tail_from: Option<f64>,
    /// decoy: writes that are overwritten [default: 8].
    #[arg(long, value_name = "N")]
    pub(crate) burst: Option<usize>,
    /// decoy: ignores before the last read [default: 8].
    #[arg(long, value_name = "N")]
    pub(crate) gap: Option<usize>,
    /// read-run: reads in a row [default: 4].
    #[arg(long, value_name = "N")]
    pub(crate) run: Option<usize>,
    /// churn: changes of the stored datum in a string.
    #[arg(long, value_name = "N")]
    pub(crate) changes: Option<usize>,
    /// write-flip, anti-correlated, markov: probability.
    #[arg(long, value_name = "P")]
    pub(crate) rate: Option<f64>,
}

/// How strings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// One character a symbol, without spaces.
    Text,
    /// Token ids with spaces between them: w 0, r 1, i 2, data from 3 on, then registers.
    Ids,
    /// English sentences about a light that is turned on and off.
    Natural,
}

impl Form {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Form::Text => "text",
            Form::Ids => "ids",
            Form::Natural => "natural",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FlipflopValidate {
    /// File with one string a line; `-` for standard input.
    pub(crate) file: PathBuf,
    /// Registers that instructions name.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub(crate) registers: usize,
    /// Symbols that data are made of, 2 to 64; 2*2 for data of two bits.
    #[arg(long, value_name = "M[*W]", default_value = "2", value_parser = symbols)]
    pub(crate) symbols: (usize, usize),
}

/// `M`, or `M*W`.
fn symbols(text: &str) -> Result<(usize, usize), String> {
    let number = |part: &str| part.trim().parse().map_err(|_| format!("'{part}' is not a number"));
    match text.split_once('*') {
        None => Ok((number(text)?, 1)),
        Some((symbols, width)) => Ok((number(symbols)?, number(width)?)),
    }
}
