//! The flags, each defined once.

mod convert;
mod diagnose;
mod flipflop;
mod generate;
mod overthinking;
mod recall;
mod report;
mod rewrite;
mod serve;
mod shell;
mod system2;
mod tasks;
mod train;
mod upstream;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

pub(crate) use self::convert::{Convert, Folder, WeightType};
pub(crate) use self::diagnose::Diagnose;
pub(crate) use self::flipflop::{
    FamilyArgs, FlipflopAttend, FlipflopCommand, FlipflopEval, FlipflopFigures, FlipflopGenerate,
    FlipflopHandset, FlipflopProbe, FlipflopStudy, FlipflopValidate, Form, ProbeForm, StudySize,
};
pub(crate) use self::generate::{ChatArgs, Generate, Prompt};
pub(crate) use self::overthinking::{Overthinking, StudyMode, StudyStage};
pub(crate) use self::recall::{Recall, RecallStage};
pub(crate) use self::report::{Open, Report};
pub(crate) use self::rewrite::Rewrite;
pub(crate) use self::serve::Serve;
pub(crate) use self::shell::{Completions, Man};
pub(crate) use self::system2::{System2Command, System2Eval};
pub(crate) use self::tasks::{TasksCommand, TasksList, TasksShow, TasksValidate};
pub(crate) use self::train::{PresetName, TrainCommand, TrainFlipflop, TrainLens, TrainRun, TrainWorld};
pub(crate) use self::upstream::{NamedUpstream, UpstreamArg};

const AFTER: &str = "\
Exit codes:
  0  everything was done
  1  a check failed
  2  bad use or bad input; nothing was written, but for what was finished before it

Environment:
  REFOCUS_MODELS  folders in which a MODEL is looked for by name, separated as in PATH
  REFOCUS_DATA    folder of data sets, as --data takes it: tasks/, facts/, bias/, math/
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
    /// Find where a model's attention slips: the main job.
    ///
    /// Four probes, each with the project's own texts: does the model keep one bit over a distance, does it
    /// follow false demonstrations, do its last layers take back what it knows, is it swayed by sentences
    /// that do not matter? For each: what was asked, the number with its 95 % interval, the verdict, and the
    /// layers and heads it points to. What is done is kept in --out: the same command goes on.
    #[command(after_long_help = diagnose::EXAMPLES)]
    Diagnose(Diagnose),
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
    /// Follow a fact through a model: where the answer rises, and what the last layers take from it.
    ///
    /// Facts count as known where the model gives the answer after three other facts. They are then asked for
    /// openly and so that a name has to follow, after 0 to K other facts; answer and argument are followed
    /// through the residual stream, node by node. Shown are the fall over the last two layers, by attention
    /// and MLP, beside tokens that were as likely, and a verdict for each claim of the study. What was seen is
    /// kept in --out: the same command goes on where it was stopped.
    ///
    /// (Lv et al., "Interpreting Key Mechanisms of Factual Recall in Transformer-Based Language Models", 2024.)
    #[command(after_long_help = recall::EXAMPLES)]
    Recall(Box<Recall>),
    /// Patch files: changes to a running model.
    #[command(subcommand)]
    Patch(PatchCommand),
    /// Classification tasks: what a model is asked, with true and with false labels.
    #[command(subcommand)]
    Tasks(TasksCommand),
    /// Flip-flop strings: the smallest task on which attention slips.
    #[command(subcommand)]
    Flipflop(FlipflopCommand),
    /// System 2 Attention: rewrite the context, then answer.
    #[command(subcommand)]
    System2(System2Command),
    /// Train small models from nothing.
    #[command(subcommand)]
    Train(TrainCommand),
    /// Take opinions and what does not matter out of a prompt, before a model answers it.
    ///
    /// System 2 Attention: the model first rewrites its context, then answers from the rewrite alone. Printed is
    /// the rewrite, or the original where there is nothing to remove or the rewrite cannot be trusted.
    ///
    /// (Weston & Sukhbaatar, "System 2 Attention", 2023.)
    #[command(after_long_help = rewrite::EXAMPLES)]
    Rewrite(Box<Rewrite>),
    /// Write the page of a run, or of two side by side.
    ///
    /// One HTML file that needs nothing else: findings in words, charts, tables, examples, method and
    /// provenance. It is made from the tables of the run alone, so it can be made again at any time.
    #[command(after_long_help = report::EXAMPLES)]
    Report(Report),
    /// Serve a model to programs that speak OpenAI's interface.
    ///
    /// Chats and completions, whole and streamed, with stop strings, log-probabilities, JSON schemas and tools
    /// where the model's chat template knows them. Requests are computed together as they come; what one gets
    /// does not depend on the others. A patch acts while generating. What is not supported is refused with an
    /// error that names it. Ctrl-C lets answers under way end; a second one cuts them.
    ///
    /// With --upstream it is a proxy in front of another server instead: everything passes byte for byte, and
    /// requests that ask for it have their newest prompt rewritten by System 2 Attention first.
    #[command(after_long_help = serve::EXAMPLES)]
    Serve(Serve),
    /// Print the completions of a shell.
    ///
    /// For example: refocus completions bash > ~/.local/share/bash-completion/completions/refocus
    Completions(Completions),
    /// Print the manual page, or write one a command.
    Man(Man),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Describe a checkpoint without loading its weights.
    ///
    /// Family, sizes, stored types, positions, tokenizer, chat templates, fingerprint, and which sites the
    /// model lacks and why. A checkpoint that refocus cannot run is described too, with the reason; only what
    /// cannot be read is an error.
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
  refocus model generate MODEL --text 'One, two,' --logprobs 3 --stop .
  refocus model generate MODEL --message 'Name a fruit.' --system 'Answer in one word.'")]
    Generate(Box<Generate>),
    /// Prove on this machine that a model's results do not depend on how they are computed.
    ///
    /// Compares bits alone and in a batch, in any order, with captures, with the key/value cache, at
    /// several numbers of threads and on every instruction set of this machine, and values with a slow
    /// reference in double precision. Exits with 1 where a check fails.
    Doctor(Doctor),
    /// Write a checkpoint as a folder in Hugging Face layout, which transformers loads.
    ///
    /// Weights become safetensors, quantised ones are decoded. Configuration and tokenizer of a folder are
    /// kept as they are; those of a GGUF file are made from its metadata. The folder is complete or not
    /// there. The same command again finds it and writes nothing.
    #[command(after_long_help = "Examples:\n  refocus model convert model.gguf --out model\n  \
        refocus model convert model --out model-f16 --dtype f16")]
    Convert(Convert),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PatchCommand {
    /// Check a patch against a model and show where each entry works.
    ///
    /// Reads the file and its vectors, checks every site, head, position and length, and says for each
    /// entry whether it works in forward, generate, serve and export, and why not.
    Check(Check),
    /// Say in words what a patch does to a model.
    ///
    /// One sentence an entry: where it acts, what it does there, at which positions and under which
    /// condition, and in which commands it works.
    Show(Check),
    /// Bake a patch into plain weights, as a folder that transformers loads.
    ///
    /// The folder gives the logits that refocus gives with --patch, without refocus. Heads and outputs that
    /// are zeroed, scaled or replaced, added vectors, sharpening and exits become changed weights, biases
    /// and fewer blocks. An entry with a position, a gate or a key mask cannot: it is named, and nothing is
    /// written unless --partial leaves it out. Changed tensors are written as f32 unless --dtype says
    /// otherwise; all others keep their type.
    #[command(
        after_long_help = "Examples:\n  refocus patch export model.gguf --patch p.toml --out repaired\n  \
        refocus patch export MODEL --patch p.toml --out repaired --dtype bf16 --partial"
    )]
    Export(PatchExport),
}

/// The model of a command.
#[derive(Debug, Args)]
pub(crate) struct ModelArg {
    /// A folder in Hugging Face layout, a .gguf file, a hub id org/name[@revision][:FILE.gguf], or builtin.
    ///
    /// builtin is a small model that the program brings (a folder of that name is ./builtin); its files are put
    /// into refocus/ of XDG_CACHE_HOME [default: ~/.cache]. What is not found as a path is looked for in the folders of REFOCUS_MODELS, with and without the
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
    /// A folder in Hugging Face layout, a .gguf file, a hub id org/name[@revision][:FILE.gguf], or builtin;
    /// also looked for in REFOCUS_MODELS.
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
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// File with a JSON list of lists of token ids to check with; `-` for standard input [default: ids
    /// drawn from the seed].
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PatchExport {
    #[command(flatten)]
    pub(crate) patch: Check,
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Leave out the entries that plain weights cannot hold, and name them.
    #[arg(long)]
    pub(crate) partial: bool,
    /// Replace a model that is there already.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Patch file.
    #[arg(long, value_name = "FILE")]
    pub(crate) patch: PathBuf,
    /// Go on although the patch was made for another model.
    #[arg(long)]
    pub(crate) force: bool,
}
