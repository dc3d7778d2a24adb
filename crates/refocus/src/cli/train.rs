//! Flags of `train`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::ModelArg;

#[derive(Debug, Subcommand)]
pub(crate) enum TrainCommand {
    /// Train a small model on the flip-flop task.
    ///
    /// A run is a folder: its configuration, the curve, a checkpoint, and at the end the model. The same
    /// command again goes on where the last checkpoint is; a run that was killed ends with the same bytes
    /// as one that was not, at any number of threads. --seed is the seed of the first parameters and of
    /// the strings.
    #[command(after_long_help = "Examples:\n  refocus train flipflop --preset lstm --out runs/lstm\n  \
        refocus train flipflop --preset cpu --seed 3 --out runs/mixture --set task.ignore=[0.1,0.6,0.96]\n  \
        refocus train flipflop --preset cpu --out runs/t5 --set model.positions=t5 --set dropout.embedding=0.5\n  \
        refocus train flipflop --preset cpu --out runs/decoy --set task.family=decoy --set task.family.burst=4\n  \
        refocus train flipflop --preset automaton --out runs/linear --set model.positions=linear --set model.norm=none")]
    Flipflop(TrainFlipflop),
    /// Train the built-in model, or another on the same kind of texts.
    ///
    /// The texts are drawn from --seed: facts, lists of words with their classes, a light that is turned on and
    /// off, questions after sentences that do or do not matter. The folder of the run is as that of `train
    /// flipflop`; its folder model has a tokenizer and weights as f16, and loads in transformers. The recipe
    /// is models/world.toml in the repository.
    #[command(after_long_help = "Examples:\n  refocus train world --out runs/world\n  \
        refocus train world --seed 1 --out runs/world-1 --set task.world.named_right=0.5\n  \
        refocus diagnose runs/world/model --out runs/world/diagnosis")]
    World(TrainWorld),
    /// Learn the tuned lens of a model from a text.
    ///
    /// One affine map a layer, after which the model's own final norm and unembedding say nearly what the whole
    /// model will say. Each begins as a ridge regression to the last residual stream; AdamW then lowers the
    /// divergence KL(model ‖ lens). Shown is the divergence on text that was not learned from, beside the logit
    /// lens. The same command again finds the lens and learns nothing.
    ///
    /// (Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023.)
    #[command(after_long_help = "Examples:\n  refocus train lens MODEL --text wiki.txt --out lens\n  \
        refocus recall MODEL --lens lens --out run")]
    Lens(TrainLens),
}

#[derive(Debug, Args)]
pub(crate) struct TrainLens {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Text to learn from; its last tenth is kept apart to measure with.
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// Windows of 128 tokens to learn from.
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) windows: u32,
    /// Steps of the optimizer after the regression.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) steps: u32,
    /// Folder for lens.safetensors and lens.toml.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct TrainFlipflop {
    /// The configuration to start from.
    #[arg(long, value_enum)]
    pub(crate) preset: PresetName,
    #[command(flatten)]
    pub(crate) run: TrainRun,
    /// Change any field of the configuration, such as optimizer.lr=0.001; may be repeated.
    ///
    /// --show lists the fields. Those that a preset leaves out: task.symbols (M, or M*W), task.registers,
    /// task.family (with fields of its own, such as task.family.burst), optimizer.clip, model.d_mlp,
    /// model.n_ctx, model.unembed_bias, model.tied, and sharpen.by, sharpen.lambda, sharpen.anneal and sharpen.start
    /// together.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TrainWorld {
    #[command(flatten)]
    pub(crate) run: TrainRun,
    /// Change any field of the recipe, such as optimizer.lr=0.001; may be repeated. --show lists the fields.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
}

/// What every run in a folder is told.
#[derive(Debug, Args)]
pub(crate) struct TrainRun {
    /// Folder of the run.
    #[arg(long, value_name = "DIR", required_unless_present_any = ["show", "estimate"])]
    pub(crate) out: Option<PathBuf>,
    /// Steps of the run; the learning rate falls to zero over them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: Option<u32>,
    /// Print the configuration as TOML and train nothing.
    #[arg(long)]
    pub(crate) show: bool,
    /// Take a few steps, print how long the whole run would take, and keep nothing.
    ///
    /// A run of more than 10^14 operations says so by itself before it starts.
    #[arg(long, conflicts_with = "show")]
    pub(crate) estimate: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PresetName {
    /// The paper's LSTM in full: strings of 512 symbols, 133,381 parameters, 500 steps.
    Lstm,
    /// A transformer of 2 layers on strings of 256 symbols: minutes on two cores.
    Cpu,
    /// The paper's transformer: 6 layers of width 512, 10,000 steps; days on a CPU.
    Paper,
    /// One layer with one head on the automaton task: inputs 0, 1 or nothing, and the state at every
    /// position.
    Automaton,
}
