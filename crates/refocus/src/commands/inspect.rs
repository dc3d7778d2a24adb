//! `model inspect`.

use std::collections::BTreeMap;

use refocus_compute::{Activation, NormKind};
use refocus_model::checkpoint::TensorInfo;
use refocus_model::{Checkpoint, Family, Kind, ModelSpec, Part, Positions, RopeScaling, Site, Which, Wiring};
use serde::Serialize;

use super::Ended;
use crate::cli::Inspect;
use crate::failure::Outcome;
use crate::model_arg;
use crate::printer::Printer;
use crate::table::{Side, Table, bytes, grouped};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    /// `gguf` or `folder`.
    format: &'static str,
    family: &'static str,
    n_layers: usize,
    d_model: usize,
    d_embed: usize,
    n_heads: usize,
    n_kv_heads: usize,
    d_head: usize,
    d_mlp: usize,
    vocab: usize,
    context: usize,
    wiring: &'static str,
    norm: &'static str,
    norm_eps: f32,
    activation: &'static str,
    gated_mlp: bool,
    tied: bool,
    positions: String,
    /// Sliding window of each layer; absent where no layer has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: Option<Vec<Option<usize>>>,
    parameters: usize,
    /// Stored types in the order of their names.
    stored: Vec<Stored>,
    tokenizer: Tokens,
    chat_template: bool,
    bos: Option<u32>,
    eos: Vec<u32>,
    /// Number of sites.
    sites: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    site_list: Option<Vec<SiteShape>>,
    /// Kinds of sites that the model does not have.
    absent: Vec<Absent>,
    fingerprint: String,
}

#[derive(Serialize)]
struct Stored {
    dtype: &'static str,
    tensors: usize,
    bytes: usize,
}

#[derive(Serialize)]
struct Tokens {
    /// Number of tokens; absent where the tokenizer cannot be used.
    tokens: Option<usize>,
    /// Why it cannot.
    why_not: Option<String>,
}

#[derive(Serialize)]
struct SiteShape {
    site: String,
    /// Such as `[tokens, 9, 64]`.
    shape: String,
}

#[derive(Serialize)]
struct Absent {
    site: String,
    why: &'static str,
}

/// Runs the command. Weights are not loaded: only headers, norms and biases are read.
pub(super) fn run(args: &Inspect, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let document = describe(&checkpoint, args.sites)?;
    if printer.is_json() {
        printer.document(&document)?;
    } else {
        printer.text(&text(&document, checkpoint.spec(), printer.colours()))?;
    }
    Ok(Ended::Well)
}

fn describe(checkpoint: &Checkpoint, list: bool) -> Outcome<Document> {
    let spec = checkpoint.spec();
    let sites = Site::all(spec);
    let has = |name: &str| checkpoint.path().join(name).exists();
    let none =
        !checkpoint.is_gguf() && !["tokenizer.json", "vocab.json", "tokenizer.model"].into_iter().any(has);
    let tokenizer = match checkpoint.tokenizer() {
        Ok(t) => Tokens { tokens: Some(t.len()), why_not: None },
        Err(_) if none => {
            Tokens { tokens: None, why_not: Some("the folder has no tokenizer.json".to_owned()) }
        }
        Err(e) => Tokens { tokens: None, why_not: Some(e.to_string()) },
    };
    Ok(Document {
        schema: "refocus.model-inspect/1",
        model: checkpoint.path().display().to_string(),
        format: if checkpoint.is_gguf() { "gguf" } else { "folder" },
        family: family(spec.family),
        n_layers: spec.n_layers,
        d_model: spec.d_model,
        d_embed: spec.d_embed,
        n_heads: spec.n_heads,
        n_kv_heads: spec.n_kv_heads,
        d_head: spec.d_head,
        d_mlp: spec.d_mlp,
        vocab: spec.vocab,
        context: spec.n_ctx,
        wiring: wiring(spec),
        norm: match spec.norm {
            NormKind::Layer => "LayerNorm",
            NormKind::Rms => "RMSNorm",
        },
        norm_eps: spec.norm_eps,
        activation: activation(spec.act),
        gated_mlp: spec.gated_mlp,
        tied: spec.tied,
        positions: positions(spec),
        windows: spec.window.iter().any(Option::is_some).then(|| spec.window.clone()),
        parameters: parameters(checkpoint)?,
        stored: stored(checkpoint),
        tokenizer,
        chat_template: checkpoint.chat_template()?.is_some(),
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
    })
}

/// Numbers in all parameters; a tied unembedding counts once, constant buffers do not count.
fn parameters(checkpoint: &Checkpoint) -> Outcome<usize> {
    let spec = checkpoint.spec();
    let blocks = (0..spec.n_layers).flat_map(|layer| Part::BLOCK.map(|part| (part, layer)));
    let mut n = 0;
    for (part, layer) in Part::GLOBAL.map(|part| (part, 0)).into_iter().chain(blocks) {
        if part.exists(spec) && !part.is_norm() {
            let [rows, cols] = part.shape(spec);
            n += rows * cols;
        }
        for which in [Which::Weight, Which::Bias] {
            n += checkpoint.vector(part, layer, which)?.map_or(0, |v| v.len());
        }
    }
    Ok(n)
}

fn stored(checkpoint: &Checkpoint) -> Vec<Stored> {
    let mut by_type: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
    for TensorInfo { dtype, bytes, .. } in checkpoint.tensors() {
        let (tensors, sum) = by_type.entry(dtype.name()).or_default();
        *tensors += 1;
        *sum += bytes;
    }
    by_type.into_iter().map(|(dtype, (tensors, bytes))| Stored { dtype, tensors, bytes }).collect()
}

fn family(family: Family) -> &'static str {
    match family {
        Family::Gpt2 => "gpt2",
        Family::Opt => "opt",
        Family::GptJ => "gptj",
        Family::NeoX => "gpt_neox",
        Family::Llama => "llama",
        Family::Mistral => "mistral",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
    }
}

fn wiring(spec: &ModelSpec) -> &'static str {
    match spec.wiring {
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

fn text(d: &Document, spec: &ModelSpec, colour: bool) -> String {
    let mut t = Table::pairs();
    t.pair("model", d.model.as_str());
    t.pair("family", format!("{} ({})", d.family, if d.format == "gguf" { "GGUF file" } else { "folder" }));
    t.pair("blocks", format!("{}, {}, {} (ε {})", d.n_layers, d.wiring, d.norm, d.norm_eps));
    let embed = if d.d_embed == d.d_model { String::new() } else { format!(", embedding {}", d.d_embed) };
    t.pair("width", format!("{}{embed}", d.d_model));
    let kv = match d.n_kv_heads {
        n if n == d.n_heads => String::new(),
        n => format!(", {n} for keys and values"),
    };
    let norm = if spec.qk_norm { ", normed queries and keys" } else { "" };
    t.pair("heads", format!("{} of {}{kv}{norm}", d.n_heads, d.d_head));
    let gated = if d.gated_mlp { ", gated" } else { "" };
    t.pair("mlp", format!("{}, {}{gated}", d.d_mlp, d.activation));
    let tied = if d.tied { "tied" } else { "untied" };
    t.pair("vocabulary", format!("{} tokens, unembedding {tied}", grouped(d.vocab)));
    t.pair("positions", d.positions.as_str());
    if let Some(w) = &d.windows {
        t.pair("windows", windows(w));
    }
    t.pair("context", format!("{} tokens", grouped(d.context)));
    t.pair("parameters", grouped(d.parameters));
    for (i, s) in d.stored.iter().enumerate() {
        let name = if i == 0 { "stored" } else { "" };
        let plural = if s.tensors == 1 { "" } else { "s" };
        t.pair(name, format!("{} {}, {} tensor{plural}", s.dtype, bytes(s.bytes), s.tensors));
    }
    t.pair(
        "tokenizer",
        match (&d.tokenizer.tokens, &d.tokenizer.why_not) {
            (Some(n), _) => format!("{} tokens", grouped(*n)),
            (None, why) => format!("none: {}", why.as_deref().unwrap_or("not found")),
        },
    );
    t.pair("chat template", if d.chat_template { "yes" } else { "no" });
    let ids = |ids: &[u32]| match ids {
        [] => "none".to_owned(),
        _ => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    };
    t.pair("first, last id", format!("{}; {}", ids(&Vec::from_iter(d.bos)), ids(&d.eos)));
    t.pair("sites", format!("{} (--sites lists them)", grouped(d.sites)));
    for (i, a) in d.absent.iter().enumerate() {
        t.pair(if i == 0 { "absent sites" } else { "" }, format!("{}: {}", a.site, a.why));
    }
    t.pair("fingerprint", d.fingerprint.as_str());
    let mut out = t.render(colour);
    if let Some(list) = &d.site_list {
        let mut t = Table::new(&[("site", Side::Left), ("shape", Side::Left)]);
        list.iter().for_each(|s| t.row([&s.site, &s.shape].map(String::clone)));
        out.push('\n');
        out.push_str(&t.render(colour));
    }
    out
}

/// `5 in layers 1 to 3`.
fn windows(all: &[Option<usize>]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    for run in all.chunk_by(|a, b| a == b) {
        let last = at + run.len() - 1;
        let what = run[0].map_or_else(|| "none".to_owned(), |w| w.to_string());
        out.push(match run.len() {
            n if n == all.len() => format!("{what} in every layer"),
            1 => format!("{what} in layer {at}"),
            _ => format!("{what} in layers {at} to {last}"),
        });
        at = last + 1;
    }
    out.join(", ")
}
