//! GGUF metadata to a [`ModelSpec`], for the architectures `llama`, `qwen2`, `qwen3`, `gpt2` and `gptneox`.
//!
//! A GGUF file does not name the activation: it is that of the architecture, as the configuration of its
//! usual models has it (SiLU; GPT-2 the tanh form of GELU; NeoX GELU itself, as Pythia was trained, where
//! llama.cpp computes the tanh form).

use std::collections::BTreeMap;

use refocus_compute::{Activation, NormKind};

use super::{Described, Has, MOST_LAYERS, scale};
use crate::checkpoint::{Entry, View};
use crate::error::{LoadError, LoadResult};
use crate::spec::{Family, ModelSpec, Positions, RopeScaling, Wiring};

/// Divisors of the rotary frequencies, one a pair of dimensions.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Keys below the architecture's name that are read here.
const READ: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "attention.sliding_window",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.attn_factor",
    "rope.scale_linear",
    "use_parallel_residual",
    "expert_count",
    "expert_used_count",
    "tensor_data_layout",
];

struct Reader<'a> {
    view: View<'a>,
    architecture: &'a str,
}

impl Reader<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn error(&self, key: &str, why: impl Into<String>) -> LoadError {
        self.view.error(&self.key(key), why)
    }

    /// A size of at least 1 that fits the sizes of a model.
    fn option(&self, key: &str) -> LoadResult<Option<usize>> {
        match self.view.count(&self.key(key))? {
            Some(n) if n == 0 || n > i32::MAX as usize => {
                Err(self.error(key, "it must be at least 1 and below 2³¹"))
            }
            n => Ok(n),
        }
    }

    fn count(&self, key: &str) -> LoadResult<usize> {
        let missing = || LoadError::NoKey { path: self.view.path.to_owned(), key: self.key(key) };
        self.option(key)?.ok_or_else(missing)
    }

    fn positive(&self, key: &str) -> LoadResult<Option<f64>> {
        match self.view.number(&self.key(key))? {
            Some(x) if x <= 0.0 => Err(self.error(key, "it must be above zero")),
            x => Ok(x),
        }
    }
}

/// Reads the metadata of a GGUF file. `divisors` are the bytes of [`ROPE_FREQS`], where it has them.
///
/// # Errors
/// The architecture is not supported; a key is missing, unknown, or has a value that makes no sense or
/// would ask for something that is not supported.
pub(crate) fn from_gguf(
    view: &View<'_>,
    tensors: &BTreeMap<String, Entry>,
    divisors: Option<&[u8]>,
) -> LoadResult<Described> {
    let no_key = |key: &str| LoadError::NoKey { path: view.path.to_owned(), key: key.to_owned() };
    let architecture = view.string("general.architecture")?.ok_or_else(|| no_key("general.architecture"))?;
    let family = match architecture {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gpt2" => Family::Gpt2,
        "gptneox" => Family::NeoX,
        _ => {
            let why = "supported architectures of GGUF files are llama, qwen2, qwen3, gpt2 and gptneox";
            return Err(view.error("general.architecture", why));
        }
    };
    let r = Reader { view: *view, architecture };
    refuse(&r)?;

    let n_layers = r.count("block_count")?;
    if n_layers > MOST_LAYERS {
        return Err(r.error("block_count", format!("more than {MOST_LAYERS} layers")));
    }
    let d_model = r.count("embedding_length")?;
    let n_heads = r.count("attention.head_count")?;
    let n_kv_heads = r.option("attention.head_count_kv")?.unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        let why = format!("{n_heads} heads are no multiple of {n_kv_heads} key/value heads");
        return Err(r.error("attention.head_count_kv", why));
    }
    // Layer norms with biases, a plain MLP, one tensor for q, k and v.
    let gpt = matches!(family, Family::Gpt2 | Family::NeoX);
    if gpt && n_kv_heads != n_heads {
        return Err(
            r.error("attention.head_count_kv", format!("{architecture} has as many as heads, {n_heads}"))
        );
    }
    let d_head = match r.option("attention.key_length")? {
        Some(d) => d,
        None if d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            return Err(r.error("attention.head_count", format!("the width {d_model} is no multiple of it")));
        }
    };
    if r.option("attention.value_length")?.is_some_and(|d| d != d_head) {
        let why = format!("only {d_head}, the width of a head, is supported");
        return Err(r.error("attention.value_length", why));
    }
    let n_ctx = r.count("context_length")?;
    let eps_key = if gpt { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let eps = r.view.number(&r.key(eps_key))?;
    let norm_eps = eps.ok_or_else(|| no_key(&r.key(eps_key)))? as f32;
    if !(norm_eps >= 0.0 && norm_eps.is_finite()) {
        return Err(r.error(eps_key, "it must be a small number, not below zero"));
    }
    let tokens = view.len("tokenizer.ggml.tokens")?.filter(|&n| n > 0);
    let rows = tensors.get("token_embd.weight").map(|e| e.shape[0]);
    let vocab = r.option("vocab_size")?.or(tokens).or(rows).ok_or_else(|| no_key(&r.key("vocab_size")))?;

    let positions = match family {
        Family::Gpt2 => Positions::Learned { offset: 0 },
        _ => rotary(&r, family, d_head, divisors)?,
    };
    let wiring = match view.flag(&r.key("use_parallel_residual"))? {
        None if family == Family::NeoX => Wiring::Parallel { shared_norm: false },
        Some(true) if family == Family::NeoX => Wiring::Parallel { shared_norm: false },
        Some(true) => {
            return Err(r.error("use_parallel_residual", format!("{architecture} has no parallel blocks")));
        }
        _ => Wiring::PreNorm,
    };
    let spec = ModelSpec {
        family,
        n_layers,
        d_model,
        d_embed: d_model,
        n_heads,
        n_kv_heads,
        d_head,
        d_mlp: r.count("feed_forward_length")?,
        vocab,
        n_ctx,
        wiring,
        norm: if gpt { NormKind::Layer } else { NormKind::Rms },
        norm_eps,
        block_norms: true,
        final_norm: true,
        positions,
        attn_scale: vec![scale(d_head) as f32; n_layers],
        window: vec![None; n_layers],
        qk_norm: family == Family::Qwen3,
        act: match family {
            Family::Gpt2 => Activation::GeluTanh,
            Family::NeoX => Activation::Gelu,
            _ => Activation::Silu,
        },
        gated_mlp: !gpt,
        tied: !tensors.contains_key("output.weight"),
        bos: id(view, "tokenizer.ggml.bos_token_id", vocab)?,
        eos: ends(view, vocab)?,
    };
    let bias = |name: &str| tensors.contains_key(&format!("blk.0.{name}.bias"));
    let has = Has {
        qkv_bias: matches!(family, Family::Gpt2 | Family::Qwen2) || bias("attn_q") || bias("attn_qkv"),
        out_bias: family == Family::Gpt2 || bias("attn_output"),
        mlp_bias: gpt || bias("ffn_up"),
        unembed_bias: false,
        gain: true,
        norm_bias: gpt,
    };
    Ok(Described { spec, has })
}

/// What ends a text: the end of the text, of a turn and of a message, as far as a file names them.
fn ends(view: &View<'_>, vocab: usize) -> LoadResult<Vec<u32>> {
    let mut out = Vec::new();
    for role in ["eos", "eot", "eom"] {
        let end = id(view, &format!("tokenizer.ggml.{role}_token_id"), vocab)?;
        out.extend(end.filter(|id| !out.contains(id)));
    }
    Ok(out)
}

fn id(view: &View<'_>, key: &str, vocab: usize) -> LoadResult<Option<u32>> {
    Ok(view.count(key)?.filter(|&id| id < vocab).and_then(|id| u32::try_from(id).ok()))
}

/// Fails on what is not supported and on keys that are unknown.
fn refuse(r: &Reader<'_>) -> LoadResult<()> {
    let view = &r.view;
    if view.string("general.type")?.is_some_and(|t| t != "model") {
        return Err(view.error("general.type", "only files of type model are supported"));
    }
    let prefix = r.key("");
    for key in view.names() {
        if let Some(inner) = key.strip_prefix(&prefix)
            && !READ.contains(&inner)
        {
            return Err(view.error(key, "this key is unknown here and may change the numbers"));
        }
    }
    for key in ["expert_count", "expert_used_count", "attention.sliding_window"] {
        if view.count(&r.key(key))?.is_some_and(|n| n > 0) {
            return Err(r.error(key, "it is not supported"));
        }
    }
    if view.number(&r.key("rope.scaling.attn_factor"))?.is_some_and(|f| f != 1.0) {
        return Err(r.error("rope.scaling.attn_factor", "only 1 is supported"));
    }
    if view.flag(&r.key("attention.causal"))? == Some(false) {
        return Err(r.error("attention.causal", "only causal attention is supported"));
    }
    // The one layout there is: rows of q and k interleaved, as all converters write them.
    if view.string(&r.key("tensor_data_layout"))?.is_some_and(|l| l != "Meta AI original pth") {
        return Err(r.error("tensor_data_layout", "this layout is not supported"));
    }
    Ok(())
}

/// Rotary positions. Only NeoX may rotate less than a whole head.
fn rotary(r: &Reader<'_>, family: Family, d_head: usize, divisors: Option<&[u8]>) -> LoadResult<Positions> {
    let dims = r.option("rope.dimension_count")?.unwrap_or(d_head);
    if dims > d_head || (dims != d_head && family != Family::NeoX) {
        let upto = if family == Family::NeoX { "up to " } else { "" };
        let why = format!("only {upto}{d_head}, the width of a head, is supported");
        return Err(r.error("rope.dimension_count", why));
    }
    if !dims.is_multiple_of(2) {
        let key = if dims == d_head { "attention.head_count" } else { "rope.dimension_count" };
        return Err(r.error(key, format!("heads of odd width {dims} cannot be rotated")));
    }
    Ok(Positions::Rotary {
        dims,
        base: r.positive("rope.freq_base")?.unwrap_or(10000.0),
        interleaved: false,
        scaling: scaling(r, dims, divisors)?,
    })
}

fn scaling(r: &Reader<'_>, dims: usize, divisors: Option<&[u8]>) -> LoadResult<Option<RopeScaling>> {
    let kind = r.view.string(&r.key("rope.scaling.type"))?;
    let old = r.positive("rope.scale_linear")?;
    let factor = r.positive("rope.scaling.factor")?;
    let linear = match (kind, factor.or(old)) {
        (Some("linear"), Some(factor)) | (None, Some(factor)) => Some(factor).filter(|&f| f != 1.0),
        (Some("linear"), None) => {
            return Err(LoadError::NoKey { path: r.view.path.to_owned(), key: r.key("rope.scaling.factor") });
        }
        (Some("none"), _) | (None, None) => None,
        (Some(_), _) => {
            return Err(r.error("rope.scaling.type", "supported rotary types are none and linear"));
        }
    };
    let Some(bytes) = divisors else {
        return Ok(linear.map(|factor| RopeScaling::Linear { factor }));
    };
    let tensor = |why: String| LoadError::tensor(r.view.path, ROPE_FREQS, why);
    if linear.is_some() {
        return Err(tensor("it stands beside linear scaling; only one of the two is supported".to_owned()));
    }
    let read = |b: &[u8]| b.first_chunk().map_or(f32::NAN, |b| f32::from_le_bytes(*b));
    let divisors: Vec<f32> = bytes.chunks_exact(4).map(read).collect();
    if divisors.len() != dims / 2 {
        let why = format!(
            "it holds {} divisors, one for each of {} rotated pairs is needed",
            divisors.len(),
            dims / 2
        );
        return Err(tensor(why));
    }
    if let Some(bad) = divisors.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        return Err(tensor(format!("it holds {bad}; divisors of frequencies are finite and above zero")));
    }
    Ok((divisors.iter().any(|&x| x != 1.0)).then_some(RopeScaling::Divisors(divisors)))
}
