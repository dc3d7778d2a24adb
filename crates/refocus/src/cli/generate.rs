//! Flags of `model generate`.

use std::path::PathBuf;

use clap::Args;

use super::{ModelArg, PatchArg};

/// What is continued.
#[derive(Debug, Args)]
#[group(id = "prompt", required = true, multiple = false)]
pub(crate) struct Prompt {
    /// Text to continue; the model's special tokens are added.
    #[arg(long, value_name = "STR")]
    pub(crate) text: Option<String>,
    /// File with a JSON list of lists of token ids, used verbatim; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens: Option<PathBuf>,
    /// Message of a user to answer, put into the model's chat template.
    #[arg(long, value_name = "STR", help_heading = "Chat")]
    pub(crate) message: Option<String>,
    /// File with a JSON list of messages to answer, objects with role and content; `-` for standard input.
    #[arg(long, value_name = "FILE", help_heading = "Chat")]
    pub(crate) messages: Option<PathBuf>,
}

/// What else the chat template gets.
#[derive(Debug, Args)]
#[command(next_help_heading = "Chat")]
pub(crate) struct ChatArgs {
    /// System message before --message.
    #[arg(long, value_name = "STR", conflicts_with_all = ["text", "tokens", "messages"])]
    pub(crate) system: Option<String>,
    /// File with a JSON list of descriptions of tools that the model may call.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "tokens"])]
    pub(crate) tools: Option<PathBuf>,
    /// Print the prompt that the chat template makes, and generate nothing.
    #[arg(long, conflicts_with_all = ["text", "tokens"])]
    pub(crate) show_prompt: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) prompt: Prompt,
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
    pub(crate) chat: ChatArgs,
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
