//! `model inspect`.

use std::collections::BTreeMap;

use refocus_compute::{Activation, NormKind};
use refocus_model::checkpoint::{ChatTemplate, Overview};
use refocus_model::tokenizer::{Named, Summary};
use refocus_model::{Checkpoint, Kind, ModelSpec, Part, Positions, RopeScaling, Site, Which, Wiring};
use serde::Serialize;

use super::{Ended, inspect_view};
use crate::cli::Inspect;
use crate::failure::{Failure, Outcome};
use crate::model_arg;
use crate::printer::Printer;

/// What is known of every checkpoint; what is not known is `null`.
#[derive(Serialize)]
pub(super) struct Document {
    schema: &'static str,
    pub(super) model: String,
    /// `safetensors`, `pytorch` or `gguf`.
    pub(super) format: &'static str,
    /// Of the GGUF format.
    pub(super) format_version: Option<u32>,
    /// Files of weights.
    pub(super) files: Vec<FileSize>,
    pub(super) runs: bool,
    /// Why it does not run.
    pub(super) why_not: Option<String>,
    /// As the checkpoint names it.
    pub(super) family: Option<String>,
    pub(super) n_layers: Option<usize>,
    pub(super) d_model: Option<usize>,
    pub(super) n_heads: Option<usize>,
    pub(super) n_kv_heads: Option<usize>,
    pub(super) d_head: Option<usize>,
    pub(super) d_mlp: Option<usize>,
    pub(super) vocab: Option<usize>,
    pub(super) context: Option<usize>,
    pub(super) parameters: usize,
    /// Stored types in the order of their names.
    pub(super) stored: Vec<Stored>,
    /// `null` where there is none.
    pub(super) tokenizer: Option<Tokens>,
    pub(super) chat_templates: Vec<ChatTemplate>,
    /// What is known of a checkpoint that runs; these keys are absent where it does not.
    #[serde(flatten)]
    pub(super) details: Option<Details>,
}

/// What the specification says.
#[derive(Serialize)]
pub(super) struct Details {
    pub(super) d_embed: usize,
    pub(super) wiring: &'static str,
    pub(super) norm: &'static str,
    pub(super) norm_eps: f32,
    pub(super) qk_norm: bool,
    pub(super) activation: &'static str,
    pub(super) gated_mlp: bool,
    pub(super) tied: bool,
    pub(super) positions: String,
    /// Sliding window of each layer; absent where no layer has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) windows: Option<Vec<Option<usize>>>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Vec<u32>,
    /// Number of sites.
    pub(super) sites: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) site_list: Option<Vec<SiteShape>>,
    /// Kinds of sites that the model does not have.
    pub(super) absent: Vec<Absent>,
    pub(super) fingerprint: String,
}

#[derive(Serialize)]
pub(super) struct FileSize {
    pub(super) name: String,
    pub(super) bytes: u64,
}

#[derive(Serialize)]
pub(super) struct Stored {
    pub(super) dtype: String,
    pub(super) tensors: usize,
    pub(super) bytes: usize,
}

#[derive(Serialize)]
pub(super) struct Tokens {
    /// Such as `byte-level BPE`.
    pub(super) kind: String,
    /// Number of tokens, added ones included.
    pub(super) tokens: usize,
    /// The tokens with a role: `bos`, `eos`, `unk`, `pad`.
    pub(super) roles: BTreeMap<&'static str, Named>,
    /// Special tokens in the order of their ids.
    pub(super) special: Vec<Named>,
    /// Tokens put before a text.
    pub(super) before: Vec<String>,
    /// Tokens put after it.
    pub(super) after: Vec<String>,
    /// Why it cannot be used.
    pub(super) why_not: Option<String>,
}

impl From<Summary> for Tokens {
    fn from(s: Summary) -> Self {
        let Summary { kind, tokens, special, roles, before, after, why_not } = s;
        Self { kind, tokens, roles, special, before, after, why_not }
    }
}

#[derive(Serialize)]
pub(super) struct SiteShape {
    pub(super) site: String,
    /// Such as `[tokens, 9, 64]`.
    pub(super) shape: String,
}

#[derive(Serialize)]
pub(super) struct Absent {
    pub(super) site: String,
    pub(super) why: &'static str,
}

/// Runs the command. Weights are not loaded and the tokenizer is not built: only headers are read, and a
/// little of each tensor for the fingerprint.
pub(super) fn run(args: &Inspect, printer: &Printer) -> Outcome<Ended> {
    let path = model_arg::find(args.model.model.as_deref(), printer)?;
    let document = match (Overview::of(&path), model_arg::open_at(&path)) {
        (Ok(overview), Ok(checkpoint)) => {
            describe(&path.display().to_string(), overview, &checkpoint, args.sites)?
        }
        // What the files say can be told although nothing can be run.
        (Ok(overview), Err(Failure::Told(told))) => {
            let why = told.lines().into_iter().filter(|(word, _)| *word != "hint").map(|(_, line)| line);
            let why = why.collect::<Vec<_>>().join(": ");
            if args.sites {
                printer.note("the sites of a model that cannot be run are not known");
            }
            let model = path.display().to_string();
            let why_not = Some(without(&model, why));
            Document { why_not, ..common(&model, overview) }
        }
        (_, Err(e)) => return Err(e),
        (Err(e), Ok(_)) => return Err(e.into()),
    };
    if printer.is_json() {
        printer.document(&document)?;
    } else {
        printer.text(&inspect_view::text(&document, printer.colours()))?;
    }
    Ok(Ended::Well)
}

/// A reason without the path that the document names already.
fn without(model: &str, why: String) -> String {
    why.strip_prefix(model).and_then(|w| w.strip_prefix(": ")).map(str::to_owned).unwrap_or(why)
}

/// What the files say.
fn common(model: &str, o: Overview) -> Document {
    let sizes = o.sizes;
    Document {
        schema: "refocus.model-inspect/2",
        model: model.to_owned(),
        format: o.format,
        format_version: o.version,
        files: o.files.into_iter().map(|(name, bytes)| FileSize { name, bytes }).collect(),
        runs: false,
        why_not: None,
        family: o.architecture,
        n_layers: sizes.n_layers,
        d_model: sizes.d_model,
        n_heads: sizes.n_heads,
        n_kv_heads: sizes.n_kv_heads,
        d_head: sizes.d_head,
        d_mlp: sizes.d_mlp,
        vocab: sizes.vocab,
        context: sizes.context,
        parameters: o.values,
        stored: o
            .stored
            .into_iter()
            .map(|s| Stored { dtype: s.dtype, tensors: s.tensors, bytes: s.bytes })
            .collect(),
        tokenizer: o.tokenizer.map(|mut s| {
            s.why_not = s.why_not.map(|why| without(model, why));
            Tokens::from(s)
        }),
        chat_templates: o.templates,
        details: None,
    }
}

/// What the specification says beside it.
fn describe(model: &str, overview: Overview, checkpoint: &Checkpoint, list: bool) -> Outcome<Document> {
    let spec = checkpoint.spec();
    let sites = Site::all(spec);
    let details = Details {
        d_embed: spec.d_embed,
        wiring: wiring(spec),
        norm: match spec.norm {
            NormKind::Layer => "LayerNorm",
            NormKind::Rms => "RMSNorm",
        },
        norm_eps: spec.norm_eps,
        qk_norm: spec.qk_norm,
        activation: activation(spec.act),
        gated_mlp: spec.gated_mlp,
        tied: spec.tied,
        positions: positions(spec),
        windows: spec.window.iter().any(Option::is_some).then(|| spec.window.clone()),
        bos: spec.bos,
        eos: spec.eos.clone(),
        sites: sites.len(),
        site_list: list.then(|| {
            sites.iter().map(|s| SiteShape { site: s.to_string(), shape: shape(*s, spec) }).collect()
        }),
        absent: Kind::all()
            .filter_map(|k| {
                let why = k.check(spec).err()?;
                let name = if k.is_global() { k.name().to_owned() } else { format!("blocks.*.{}", k.name()) };
                Some(Absent { site: name, why })
            })
            .collect(),
        fingerprint: checkpoint.fingerprint()?,
    };
    Ok(Document {
        runs: true,
        family: Some(spec.family.model_type().to_owned()),
        n_layers: Some(spec.n_layers),
        d_model: Some(spec.d_model),
        n_heads: Some(spec.n_heads),
        n_kv_heads: Some(spec.n_kv_heads),
        d_head: Some(spec.d_head),
        d_mlp: Some(spec.d_mlp),
        vocab: Some(spec.vocab),
        context: Some(spec.n_ctx),
        parameters: parameters(checkpoint)?,
        details: Some(details),
        ..common(model, overview)
    })
}

/// Numbers in all parameters; a tied unembedding counts once, constant buffers do not count.
fn parameters(checkpoint: &Checkpoint) -> Outcome<usize> {
    let spec = checkpoint.spec();
    let blocks = (0..spec.n_layers).flat_map(|layer| Part::BLOCK.map(|part| (part, layer)));
    let mut n = 0;
    for (part, layer) in Part::GLOBAL.map(|part| (part, 0)).into_iter().chain(blocks) {
        let [rows, cols] = part.shape(spec);
        for which in [Which::Weight, Which::Bias] {
            if checkpoint.location(part, layer, which)?.is_some() {
                n += if which == Which::Weight { rows * cols } else { rows };
            }
        }
    }
    Ok(n)
}

fn wiring(spec: &ModelSpec) -> &'static str {
    match spec.wiring {
        Wiring::PreNorm if !spec.block_norms => "without norms",
        Wiring::PreNorm => "pre-norm",
        Wiring::PostNorm => "post-norm",
        Wiring::Parallel { shared_norm: true } => "parallel, one norm",
        Wiring::Parallel { shared_norm: false } => "parallel, two norms",
    }
}

fn activation(act: Activation) -> &'static str {
    match act {
        Activation::Relu => "relu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_tanh",
        Activation::Silu => "silu",
    }
}

fn positions(spec: &ModelSpec) -> String {
    let (dims, base, interleaved, scaling) = match &spec.positions {
        Positions::Learned { offset: 0 } => return "learned".to_owned(),
        Positions::Learned { offset } => return format!("learned, rows from {offset}"),
        Positions::Sinusoidal => return "sinusoidal".to_owned(),
        Positions::Linear => return "linear".to_owned(),
        Positions::Alibi => return "none but a bias by distance (ALiBi)".to_owned(),
        Positions::T5 { buckets, .. } => {
            return format!("a learned bias by distance (T5, {buckets} buckets)");
        }
        Positions::None => return "none".to_owned(),
        Positions::Rotary { dims, base, interleaved, scaling } => (dims, base, interleaved, scaling),
    };
    let pairs = if *interleaved { ", neighbouring pairs" } else { "" };
    let mut out = format!("rotary over {dims} of {} dimensions, base {base}{pairs}", spec.d_head);
    match scaling {
        None => {}
        Some(RopeScaling::Linear { factor }) => out.push_str(&format!(", linear scaling by {factor}")),
        Some(RopeScaling::Dynamic { factor, original }) => {
            out.push_str(&format!(", dynamic scaling by {factor} beyond {original} tokens"));
        }
        Some(RopeScaling::Llama3 { factor, original, .. }) => {
            out.push_str(&format!(", llama3 scaling by {factor} from {original} tokens"));
        }
        Some(RopeScaling::Divisors(_)) => out.push_str(", frequencies divided by a stored table"),
    }
    out
}

fn shape(site: Site, spec: &ModelSpec) -> String {
    if matches!(site.kind, Kind::Scores | Kind::Pattern) {
        return format!("[{}, tokens, tokens]", spec.n_heads);
    }
    let rest = site.kind.token_shape(spec);
    let sizes: Vec<_> =
        std::iter::once("tokens".to_owned()).chain(rest.iter().map(usize::to_string)).collect();
    format!("[{}]", sizes.join(", "))
}
