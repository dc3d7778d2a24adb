//! The flags, each defined once.

mod flipflop;
mod overthinking;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

pub(crate) use self::flipflop::{FamilyArgs, FlipflopCommand, FlipflopGenerate, FlipflopValidate, Form};
pub(crate) use self::overthinking::{Overthinking, StudyMode};

const AFTER: &str = "\
Exit codes:
  0  everything was done
  1  a check failed
  2  bad use or bad input; nothing was written

Environment:
  REFOCUS_MODELS  folders in which a MODEL is looked for by name, separated as in PATH
  REFOCUS_DATA    folder of data sets; rows of tasks are in its folder tasks
  HF_HOME         folder of the models from the hub, in hub/ [default: ~/.cache/huggingface]
  HF_TOKEN        token for gated and private models
  HF_ENDPOINT     address of the hub
  HF_HUB_OFFLINE  1: never ask the hub, use what is there
  REFOCUS_ISA     instruction set: portable, avx2, avx512 or neon; all give the same results
  NO_COLOR        no colour, where it is set";

/// Shows what a language model attends to, measures what that does, and patches it.
#[derive(Debug, Parser)]
#[command(name = "refocus", version, propagate_version = true, max_term_width = 100)]
#[command(after_long_help = AFTER, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Seed of everything random.
    ///
    /// The same seed gives the same result, at any number of threads.
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Threads to compute with [default: one for every core].
    ///
    /// Results do not depend on it.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Print errors and results only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more about what is being done.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at one model: what it is, what it computes.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Find the layers where false demonstrations lead a model astray.
    ///
    /// Each pair of prompts shows the same texts, once with their true labels and once with false ones. At
    /// every label, and after every layer, the model is asked which label follows. Shown are the accuracy
    /// that false demonstrations cost, the layer where it goes, and what answering from an earlier layer
    /// gets back. What the model answered is kept in --out: the same command goes on where it was stopped.
    ///
    /// (Halawi, Denain & Steinhardt, "Overthinking the Truth", ICLR 2024.)
    #[command(after_long_help = overthinking::EXAMPLES)]
    Overthinking(Box<Overthinking>),
    /// Patch files: changes to a running model.
    #[command(subcommand)]
    Patch(PatchCommand),
    /// Classification tasks: what a model is asked, with true and with false labels.
    #[command(subcommand)]
    Tasks(TasksCommand),
    /// Flip-flop strings: the smallest task on which attention slips.
    #[command(subcommand)]
    Flipflop(FlipflopCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Describe a checkpoint without loading its weights.
    ///
    /// Family, sizes, stored types, positions, tokenizer, fingerprint, and which sites the model lacks and
    /// why.
    Inspect(Inspect),
    /// Run token sequences and show or save what happens inside.
    ///
    /// Prints the most likely next tokens. With --capture, any activation is summarised or, with --out,
    /// saved. Several sequences run as one batch without padding; each gives the same bits as alone.
    Forward(Forward),
    /// Show what the model would answer after each block, and who wrote the answer.
    ///
    /// A table of layers by tokens: the first choice of the residual stream read through the model's own
    /// final norm. Below it, the answer's logit split into what each head and MLP wrote. With --against,
    /// each activation of the prompt is put into the run of the other prompt, to see where the answer is
    /// decided.
    #[command(after_long_help = "Examples:\n  refocus model lens MODEL 'The capital of France is'\n  \
        refocus model lens MODEL 'The capital of France is' --against 'The capital of Spain is'")]
    Lens(Lens),
    /// Continue a text.
    ///
    /// Takes the most likely token, or samples with --temperature. Prints the new text as it comes;
    /// several sequences are computed together and printed whole, in order. A sequence's tokens depend on
    /// its prompt, the flags and the seed, never on what runs beside it, the number of threads or the
    /// machine.
    ///
    /// A patch acts at every position when it is computed, and its effect stays in the key/value cache;
    /// its [[decode]] entries act before everything else here.
    #[command(after_long_help = "\
The next token is chosen in this order: --logit-bias, the constraint, --temperature, --top-k, --top-p, \
--min-p.\n\n\
Generation ends with the model's end-of-sequence token, a --stop string (the text ends before it), when \
the constraint allows nothing more, after --max-new tokens, or at the end of the model's context.\n\n\
Examples:
  refocus model generate MODEL --text 'Once upon a time' --max-new 100
  refocus model generate MODEL --text 'Once' --temperature 0.8 --top-p 0.95 --seed 7 --n 3
  refocus model generate MODEL --text 'Q: Is the sky blue? A:' --choices ' yes, no'
  refocus model generate MODEL --text 'Her age is' --regex ' [1-9][0-9]?'
  refocus model generate MODEL --text 'As JSON: ' --json-schema person.json --max-new 200
  refocus model generate MODEL --text 'One, two,' --logprobs 3 --stop .")]
    Generate(Box<Generate>),
    /// Prove on this machine that a model's results do not depend on how they are computed.
    ///
    /// Compares bits alone and in a batch, in any order, with captures, with the key/value cache, at
    /// several numbers of threads and on every instruction set of this machine, and values with a slow
    /// reference in double precision. Exits with 1 where a check fails.
    Doctor(Doctor),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PatchCommand {
    /// Check a patch against a model and show where each entry works.
    ///
    /// Reads the file and its vectors, checks every site, head, position and length, and says for each
    /// entry whether it works in forward, generate, serve and export, and why not.
    Check(Check),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// List the tasks that the program brings, and how many rows of each are here.
    List(TasksList),
    /// Print a pair of prompts exactly as a model gets them, scored positions marked.
    ///
    /// The first has true labels, the second those of the setting. Texts of any length are drawn here; a
    /// study also keeps them within the model's context.
    #[command(after_long_help = "Examples:\n  refocus tasks show unnatural --demos 6\n  \
        refocus tasks show sst2.3 --data DIR --setting half\n  refocus tasks show my-task.toml --data DIR")]
    Show(TasksShow),
    /// Check a task file and its rows.
    ///
    /// Says for each class how many rows there are, or what is wrong with the file, the key or the line.
    Validate(TasksValidate),
}

/// The model of a command.
#[derive(Debug, Args)]
pub(crate) struct ModelArg {
    /// A folder in Hugging Face layout, a .gguf file, or a hub id org/name[@revision][:FILE.gguf].
    ///
    /// What is not found as a path is looked for in the folders of REFOCUS_MODELS, with and without the
    /// suffix .gguf, and then on the hub. A model from the hub is kept in the cache that Python uses too;
    /// at a full commit hash it is used from there without asking the hub again.
    pub(crate) model: Option<PathBuf>,
}

/// What a model is run on.
#[derive(Debug, Args)]
#[group(id = "input", required = true, multiple = false)]
pub(crate) struct Input {
    /// Text to run; the model's special tokens are added.
    #[arg(long, value_name = "STR")]
    pub(crate) text: Option<String>,
    /// File with a JSON list of lists of token ids, used verbatim; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
}

/// A patch, if one is wanted.
#[derive(Debug, Args)]
pub(crate) struct PatchArg {
    /// Patch file to apply.
    #[arg(long, value_name = "FILE")]
    pub(crate) patch: Option<PathBuf>,
    /// Apply the patch although it was made for another model.
    #[arg(long, requires = "patch")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// List every site with the shape it has for a sequence of `tokens` tokens.
    #[arg(long)]
    pub(crate) sites: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Forward {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) input: Input,
    /// Site to capture, such as blocks.3.attn.hook_z or 'blocks.*.hook_resid_post'; may be repeated.
    ///
    /// `*` stands for any characters, `?` for one. Without --out, shape and range of each site are shown.
    #[arg(long, value_name = "GLOB")]
    pub(crate) capture: Vec<String>,
    #[command(flatten)]
    pub(crate) patch: PatchArg,
    /// How many of the most likely next tokens to show.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top: u32,
    /// Save logits of all positions and captured sites as a safetensors file.
    ///
    /// One f32 tensor a sequence and site: seq0/logits [tokens, vocab],
    /// seq0/blocks.0.hook_resid_post [tokens, d_model]. An existing file is replaced once the new one is
    /// complete.
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(id = "lens_input", required = true, multiple = false, args = ["prompt", "tokens"])]
pub(crate) struct Lens {
    /// A folder in Hugging Face layout, a .gguf file, or a hub id org/name[@revision][:FILE.gguf]; also
    /// looked for in REFOCUS_MODELS.
    pub(crate) model: PathBuf,
    /// Text to look at; the model's special tokens are added.
    pub(crate) prompt: Option<String>,
    /// File with a JSON list of one list of token ids, used verbatim; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
    /// Another prompt with as many tokens: patch every place of the first run into its run.
    #[arg(long, value_name = "PROMPT")]
    pub(crate) against: Option<String>,
    /// Token to follow, such as ' Paris' or '#7042' [default: the model's answer].
    #[arg(long, value_name = "TOKEN")]
    pub(crate) answer: Option<String>,
    /// Token whose logit is subtracted [default: none; with --against, the other prompt's answer].
    #[arg(long, value_name = "TOKEN")]
    pub(crate) wrong: Option<String>,
    /// How many heads and MLPs to list.
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub(crate) top: usize,
    #[command(flatten)]
    pub(crate) patch: PatchArg,
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) input: Input,
    #[command(flatten)]
    pub(crate) patch: PatchArg,
    /// New tokens at most, each; fewer where the model's context ends before.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) max_new: usize,
    /// Sample, with logits divided by T; 0 takes the most likely token.
    #[arg(long, value_name = "T", value_parser = temperature, help_heading = "Sampling")]
    #[arg(allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Only the K most likely tokens; of equals the lower ids.
    #[arg(long, value_name = "K", requires = "temperature", help_heading = "Sampling")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: Option<u32>,
    /// Only the fewest most likely tokens that have probability P together.
    #[arg(long, value_name = "P", requires = "temperature", help_heading = "Sampling")]
    #[arg(value_parser = probability)]
    pub(crate) top_p: Option<f32>,
    /// Only tokens with at least P times the highest probability.
    #[arg(long, value_name = "P", requires = "temperature", help_heading = "Sampling")]
    #[arg(value_parser = probability)]
    pub(crate) min_p: Option<f32>,
    /// Samples of every prompt, each with random numbers of its own.
    #[arg(long, value_name = "N", requires = "temperature", help_heading = "Sampling")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) n: Option<u32>,
    /// Add BIAS to the logit of a token; may be repeated.
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, help_heading = "Sampling")]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// End the text before this string; may be repeated.
    #[arg(long, value_name = "STR", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Go on after the model's end-of-sequence token.
    #[arg(long, conflicts_with = "constraint")]
    pub(crate) ignore_eos: bool,
    /// Show the log-probability of every new token and of the N most likely ones at its place.
    ///
    /// They are those of the model (and the [[decode]] entries of a patch), before bias, constraint and
    /// sampling.
    #[arg(long, value_name = "N")]
    pub(crate) logprobs: Option<usize>,
    #[command(flatten)]
    pub(crate) constraint: Constraint,
}

/// What a generated text must be.
#[derive(Debug, Args)]
#[group(id = "constraint", multiple = false)]
#[command(next_help_heading = "Constraint")]
pub(crate) struct Constraint {
    /// One of these texts, separated by commas, spaces kept; also shows how likely each is.
    ///
    /// The text is chosen token by token. Beside it stands the log-probability of each choice as a whole.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    pub(crate) choices: Vec<String>,
    /// As --choices, for texts with commas; may be repeated.
    #[arg(long, value_name = "STR")]
    pub(crate) choice: Vec<String>,
    /// A text that matches a regular expression from its first to its last character.
    ///
    /// Syntax of the Rust crate `regex`, without look-around and word boundaries.
    #[arg(long, value_name = "RE")]
    pub(crate) regex: Option<String>,
    /// JSON that a schema describes.
    ///
    /// JSON Schema draft 2020-12 without not, if, contains, dependent…, propertyNames and uniqueItems, and
    /// oneOf only where its parts exclude each other; what is not supported is an error.
    #[arg(long, value_name = "FILE")]
    pub(crate) json_schema: Option<PathBuf>,
}

fn number(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite()).ok_or_else(|| "not a number".to_owned())
}

fn temperature(text: &str) -> Result<f32, String> {
    match number(text)? {
        t if t >= 0.0 => Ok(t),
        _ => Err("it must be 0 or above".to_owned()),
    }
}

fn probability(text: &str) -> Result<f32, String> {
    match number(text)? {
        p if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err("it must be above 0 and at most 1".to_owned()),
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) =
        text.split_once('=').ok_or("a token id, '=' and a number are needed, such as 50=-2.5")?;
    let id = id.parse().map_err(|_| format!("{id:?} is not a token id"))?;
    Ok((id, number(bias)?))
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// File with a JSON list of lists of token ids to check with; `-` for standard input [default: ids
    /// drawn from the seed].
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Patch file to check.
    #[arg(long, value_name = "FILE")]
    pub(crate) patch: PathBuf,
    /// Check the patch although it was made for another model.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TasksList {
    /// Folder of the tasks' rows [default: the folder tasks in REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TasksShow {
    /// A task of `refocus tasks list`, one of its formats such as sst2.3, or a task file.
    pub(crate) task: String,
    /// Folder of the tasks' rows [default: the folder tasks in REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Demonstrations of the prompt.
    #[arg(long, value_name = "K", default_value_t = 4)]
    pub(crate) demos: usize,
    /// Labels of the false prompt: permuted, half, random, permuted_20, _40, _60 or _80.
    #[arg(long, value_name = "SETTING", default_value = "permuted")]
    pub(crate) setting: String,
    /// Which pair of prompts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) pair: u32,
}

#[derive(Debug, Args)]
pub(crate) struct TasksValidate {
    /// A task of `refocus tasks list`, or a task file.
    pub(crate) task: String,
    /// Folder of the tasks' rows [default: the folder tasks in REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}
