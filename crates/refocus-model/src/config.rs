//! From a configuration to a [`ModelSpec`].
//!
//! Every key of a configuration is read, or is on a list of keys that cannot change the numbers of a
//! forward pass, or is an error that names it. Missing keys mean what `transformers` 5 takes them to mean:
//!
//! | key | gpt2 | opt | gptj | gpt_neox | llama | mistral | qwen2 | qwen3 |
//! |---|---|---|---|---|---|---|---|---|
//! | layers | 12 | 12 | 28 | 44 | 32 | 32 | 32 | 32 |
//! | width | 768 | 768 | 4096 | 6144 | 4096 | 4096 | 4096 | 4096 |
//! | heads | 12 | 12 | 16 | 64 | 32 | 32 | 32 | 32 |
//! | key/value heads | – | – | – | – | heads | 8 | 32 | 32 |
//! | width of a head | – | – | – | – | width/heads | width/heads | width/heads | 128 |
//! | width of the MLP | 4·width | 3072 | 4·width | 24576 | 11008 | 14336 | 22016 | 22016 |
//! | activation | gelu_new | relu | gelu_new | gelu | silu | silu | silu | silu |
//! | context | 1024 | 2048 | 2048 | 2048 | 2048 | 131072 | 32768 | 32768 |
//! | vocabulary | 50257 | 50272 | 50400 | 50432 | 32000 | 32000 | 151936 | 151936 |
//! | epsilon | 1e-5 | 1e-5 | 1e-5 | 1e-5 | 1e-6 | 1e-6 | 1e-6 | 1e-6 |
//! | tied unembedding | yes | yes | no | no | no | no | no | no |
//! | rotary base | – | – | 10000, fixed | 10000 | 10000 | 10000 | 10000 | 10000 |
//! | rotary dimensions | – | – | 64 | ¼ of a head | a head | a head | a head | a head |
//! | sliding window | – | – | – | – | none | 4096 | off (4096 when on) | off (4096 when on) |
//! | first id, last id | 50256, 50256 | 2, 2 | 50256, 50256 | 0, 2 | 1, 2 | 1, 2 | none | none |

pub(crate) mod gguf;
mod harmless;
mod keys;
pub(crate) mod refocus;
mod rope;
#[cfg(test)]
mod tests;

use std::path::Path;

use refocus_compute::{Activation, NormKind};
use serde_json::{Map, Value};

use self::keys::Keys;
use crate::error::{LoadError, LoadResult, shorten};
use crate::spec::{Family, ModelSpec, Positions, Wiring};

pub(crate) use self::gguf::from_gguf;

/// A model and which of its optional parameters exist.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Described {
    pub(crate) spec: ModelSpec,
    pub(crate) has: Has,
}

/// Optional parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Has {
    /// Biases of queries, keys and values.
    pub(crate) qkv_bias: bool,
    /// Bias of attention's output.
    pub(crate) out_bias: bool,
    /// Biases of the MLP.
    pub(crate) mlp_bias: bool,
    /// Bias of the unembedding.
    pub(crate) unembed_bias: bool,
    /// Gains of the norms.
    pub(crate) gain: bool,
    /// Biases of the norms.
    pub(crate) norm_bias: bool,
}

/// More layers than any model has; a number above is a mistake, and tables are built per layer.
pub(super) const MOST_LAYERS: usize = 10_000;

/// The non-linearity of a name, as `transformers` names them. Names of one line are one function.
pub(crate) fn activation(name: &str) -> Option<Activation> {
    Some(match name {
        "relu" => Activation::Relu,
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_accurate" => {
            Activation::GeluTanh
        }
        "silu" | "swish" => Activation::Silu,
        _ => return None,
    })
}

/// Reads a `config.json`.
///
/// # Errors
/// The family is not supported; a key is unknown, has a value of the wrong type, a value that makes no
/// sense, or one that would ask for something that is not supported.
pub(crate) fn from_json(path: &Path, map: &Map<String, Value>) -> LoadResult<Described> {
    let mut keys = Keys::new(path, "", map);
    let k = &mut keys;
    if !k.has("model_type") {
        return Err(LoadError::NoKey { path: path.to_owned(), key: "model_type".to_owned() });
    }
    let family = match k.word("model_type", "")? {
        "gpt2" => Family::Gpt2,
        "opt" => Family::Opt,
        "gptj" => Family::GptJ,
        "gpt_neox" => Family::NeoX,
        "llama" => Family::Llama,
        "mistral" => Family::Mistral,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "refocus" => Family::Refocus,
        _ => {
            let why = "supported are gpt2, opt, gptj, gpt_neox, llama, mistral, qwen2, qwen3 and refocus";
            return Err(k.error("model_type", why));
        }
    };
    let described = match family {
        Family::Gpt2 => gpt2(k),
        Family::Opt => opt(k),
        Family::GptJ => gptj(k),
        Family::NeoX => neox(k),
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama_like(k, family),
        Family::Refocus => refocus::read(k).and_then(|mut d| {
            ids(k, &mut d.spec, None, None)?;
            Ok(d)
        }),
    }?;
    // What no family may have.
    for key in
        ["add_cross_attention", "is_encoder_decoder", "rope_interleaved", "tie_encoder_decoder", "use_mrope"]
    {
        k.only(key, false)?;
    }
    k.only("pruned_heads", Value::Object(Map::new()))?;
    for key in ["quantization_config", "per_layer_config", "cross_attention_hidden_size"] {
        if k.given(key).is_some() {
            return Err(k.error(key, "it is not supported"));
        }
    }
    k.finish(|key| harmless::is_harmless(key, family))?;
    Ok(described)
}

/// The common part of all families, with the values that most of them have.
struct Shape {
    n_layers: usize,
    d_model: usize,
    n_heads: usize,
    n_ctx: usize,
    vocab: usize,
}

impl Shape {
    fn check(&self, k: &Keys<'_>, layers: &'static str) -> LoadResult<()> {
        if self.n_layers > MOST_LAYERS {
            return Err(k.error(layers, format!("more than {MOST_LAYERS} layers")));
        }
        Ok(())
    }

    /// Width of a head where heads divide the model.
    fn d_head(&self, k: &Keys<'_>, heads: &'static str) -> LoadResult<usize> {
        if self.d_model.is_multiple_of(self.n_heads) {
            return Ok(self.d_model / self.n_heads);
        }
        Err(k.error(heads, format!("the model's width {} is no multiple of it", self.d_model)))
    }

    fn spec(&self, family: Family, d_head: usize, positions: Positions) -> ModelSpec {
        ModelSpec {
            family,
            n_layers: self.n_layers,
            d_model: self.d_model,
            d_embed: self.d_model,
            n_heads: self.n_heads,
            n_kv_heads: self.n_heads,
            d_head,
            d_mlp: 4 * self.d_model,
            vocab: self.vocab,
            n_ctx: self.n_ctx,
            wiring: Wiring::PreNorm,
            norm: NormKind::Layer,
            norm_eps: 1e-5,
            block_norms: true,
            final_norm: true,
            positions,
            attn_scale: vec![scale(d_head) as f32; self.n_layers],
            window: vec![None; self.n_layers],
            qk_norm: false,
            act: Activation::GeluTanh,
            gated_mlp: false,
            tied: false,
            bos: None,
            eos: Vec::new(),
        }
    }
}

/// `1/√d_head`.
fn scale(d_head: usize) -> f64 {
    (d_head as f64).powf(-0.5)
}

fn act(k: &mut Keys<'_>, key: &'static str, default: &'static str) -> LoadResult<Activation> {
    let name = k.word(key, default)?;
    activation(name).ok_or_else(|| k.error(key, "this activation is not supported"))
}

fn eps(k: &mut Keys<'_>, key: &'static str, default: f64) -> LoadResult<f32> {
    let eps = k.number(key, default)? as f32;
    if eps >= 0.0 && eps.is_finite() {
        Ok(eps)
    } else {
        Err(k.error(key, "it must be a small number, not below zero"))
    }
}

fn ids(k: &mut Keys<'_>, spec: &mut ModelSpec, bos: Option<u32>, eos: Option<u32>) -> LoadResult<()> {
    spec.bos = k.ids("bos_token_id", bos, spec.vocab)?.first().copied();
    spec.eos = k.ids("eos_token_id", eos, spec.vocab)?;
    Ok(())
}

const ALL_BIASES: Has =
    Has { qkv_bias: true, out_bias: true, mlp_bias: true, unembed_bias: false, gain: true, norm_bias: true };

fn gpt2(k: &mut Keys<'_>) -> LoadResult<Described> {
    let shape = Shape {
        n_layers: k.count_as("n_layer", "num_hidden_layers", 12)?,
        d_model: k.count_as("n_embd", "hidden_size", 768)?,
        n_heads: k.count_as("n_head", "num_attention_heads", 12)?,
        n_ctx: k.count_as("n_positions", "max_position_embeddings", 1024)?,
        vocab: k.count("vocab_size", 50257)?,
    };
    shape.check(k, "n_layer")?;
    let d_head = shape.d_head(k, "n_head")?;
    let mut spec = shape.spec(Family::Gpt2, d_head, Positions::Learned { offset: 0 });
    spec.d_mlp = k.option("n_inner", None)?.unwrap_or(4 * shape.d_model);
    spec.act = act(k, "activation_function", "gelu_new")?;
    spec.norm_eps = eps(k, "layer_norm_epsilon", 1e-5)?;
    let base = if k.flag("scale_attn_weights", true)? { scale(d_head) } else { 1.0 };
    if k.flag("scale_attn_by_inverse_layer_idx", false)? {
        spec.attn_scale = (1..=shape.n_layers).map(|i| (base / i as f64) as f32).collect();
    } else {
        spec.attn_scale = vec![base as f32; shape.n_layers];
    }
    k.only("reorder_and_upcast_attn", false)?;
    spec.tied = k.flag("tie_word_embeddings", true)?;
    ids(k, &mut spec, Some(50256), Some(50256))?;
    Ok(Described { spec, has: ALL_BIASES })
}

fn opt(k: &mut Keys<'_>) -> LoadResult<Described> {
    let shape = Shape {
        n_layers: k.count("num_hidden_layers", 12)?,
        d_model: k.count("hidden_size", 768)?,
        n_heads: k.count("num_attention_heads", 12)?,
        n_ctx: k.count("max_position_embeddings", 2048)?,
        vocab: k.count("vocab_size", 50272)?,
    };
    shape.check(k, "num_hidden_layers")?;
    let d_head = shape.d_head(k, "num_attention_heads")?;
    let mut spec = shape.spec(Family::Opt, d_head, Positions::Learned { offset: 2 });
    spec.d_embed = k.option("word_embed_proj_dim", None)?.unwrap_or(shape.d_model);
    spec.d_mlp = k.count("ffn_dim", 3072)?;
    spec.act = act(k, "activation_function", "relu")?;
    let before = k.flag("do_layer_norm_before", true)?;
    if !before {
        spec.wiring = Wiring::PostNorm;
    }
    spec.final_norm = !k.flag("_remove_final_layer_norm", false)? && before;
    let bias = k.flag("enable_bias", true)?;
    let affine = k.flag("layer_norm_elementwise_affine", true)?;
    spec.tied = k.flag("tie_word_embeddings", true)?;
    ids(k, &mut spec, Some(2), Some(2))?;
    let has =
        Has { qkv_bias: bias, out_bias: bias, mlp_bias: bias, gain: affine, norm_bias: affine, ..ALL_BIASES };
    Ok(Described { spec, has })
}

fn gptj(k: &mut Keys<'_>) -> LoadResult<Described> {
    let shape = Shape {
        n_layers: k.count_as("n_layer", "num_hidden_layers", 28)?,
        d_model: k.count_as("n_embd", "hidden_size", 4096)?,
        n_heads: k.count_as("n_head", "num_attention_heads", 16)?,
        n_ctx: k.count_as("n_positions", "max_position_embeddings", 2048)?,
        vocab: k.count("vocab_size", 50400)?,
    };
    shape.check(k, "n_layer")?;
    let d_head = shape.d_head(k, "n_head")?;
    let dims = k.count("rotary_dim", 64)?;
    if dims > d_head || !dims.is_multiple_of(2) {
        return Err(
            k.error("rotary_dim", format!("it must be even and at most {d_head}, the width of a head"))
        );
    }
    let rotary = Positions::Rotary { dims, base: 10000.0, interleaved: true, scaling: None };
    let mut spec = shape.spec(Family::GptJ, d_head, rotary);
    spec.wiring = Wiring::Parallel { shared_norm: true };
    spec.d_mlp = k.option("n_inner", None)?.unwrap_or(4 * shape.d_model);
    spec.act = act(k, "activation_function", "gelu_new")?;
    spec.norm_eps = eps(k, "layer_norm_epsilon", 1e-5)?;
    k.only("rotary", true)?;
    k.only("scale_attn_weights", true)?;
    spec.tied = k.flag("tie_word_embeddings", false)?;
    ids(k, &mut spec, Some(50256), Some(50256))?;
    Ok(Described { spec, has: Has { qkv_bias: false, out_bias: false, unembed_bias: true, ..ALL_BIASES } })
}

fn neox(k: &mut Keys<'_>) -> LoadResult<Described> {
    let shape = Shape {
        n_layers: k.count("num_hidden_layers", 44)?,
        d_model: k.count("hidden_size", 6144)?,
        n_heads: k.count("num_attention_heads", 64)?,
        n_ctx: k.count("max_position_embeddings", 2048)?,
        vocab: k.count("vocab_size", 50432)?,
    };
    shape.check(k, "num_hidden_layers")?;
    let d_head = shape.d_head(k, "num_attention_heads")?;
    let rotary = rope::neox(k, d_head, shape.n_ctx)?;
    let mut spec = shape.spec(Family::NeoX, d_head, rotary);
    spec.wiring = match k.flag("use_parallel_residual", true)? {
        true => Wiring::Parallel { shared_norm: false },
        false => Wiring::PreNorm,
    };
    spec.d_mlp = k.count("intermediate_size", 24576)?;
    spec.act = act(k, "hidden_act", "gelu")?;
    spec.norm_eps = eps(k, "layer_norm_eps", 1e-5)?;
    let bias = k.flag("attention_bias", true)?;
    spec.tied = k.flag("tie_word_embeddings", false)?;
    ids(k, &mut spec, Some(0), Some(2))?;
    Ok(Described { spec, has: Has { qkv_bias: bias, out_bias: bias, ..ALL_BIASES } })
}

fn llama_like(k: &mut Keys<'_>, family: Family) -> LoadResult<Described> {
    let qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
    let shape = Shape {
        n_layers: k.count("num_hidden_layers", 32)?,
        d_model: k.count("hidden_size", 4096)?,
        n_heads: k.count("num_attention_heads", 32)?,
        n_ctx: k.count(
            "max_position_embeddings",
            match family {
                Family::Mistral => 131_072,
                Family::Qwen2 | Family::Qwen3 => 32768,
                _ => 2048,
            },
        )?,
        vocab: k.count("vocab_size", if qwen { 151_936 } else { 32000 })?,
    };
    shape.check(k, "num_hidden_layers")?;
    let d_head = match k.option("head_dim", (family == Family::Qwen3).then_some(128))? {
        Some(d) => d,
        None => shape.d_head(k, "num_attention_heads")?,
    };
    let rotary = rope::llama(k, d_head, shape.n_ctx)?;
    let mut spec = shape.spec(family, d_head, rotary);
    let kv = match family {
        Family::Llama => None,
        Family::Mistral => Some(8),
        _ => Some(32),
    };
    spec.n_kv_heads = k.option("num_key_value_heads", kv)?.unwrap_or(shape.n_heads);
    if !shape.n_heads.is_multiple_of(spec.n_kv_heads) {
        let why = format!("{} heads are no multiple of {} key/value heads", shape.n_heads, spec.n_kv_heads);
        return Err(k.error("num_key_value_heads", why));
    }
    spec.d_mlp = k.count(
        "intermediate_size",
        match family {
            Family::Llama => 11008,
            Family::Mistral => 14336,
            _ => 22016,
        },
    )?;
    spec.norm = NormKind::Rms;
    spec.norm_eps = eps(k, "rms_norm_eps", 1e-6)?;
    spec.act = act(k, "hidden_act", "silu")?;
    spec.gated_mlp = true;
    spec.qk_norm = family == Family::Qwen3;
    windows(k, &mut spec)?;
    spec.tied = k.flag("tie_word_embeddings", false)?;
    ids(k, &mut spec, (!qwen).then_some(1), (!qwen).then_some(2))?;
    let attention_bias = match family {
        Family::Llama | Family::Qwen3 => k.flag("attention_bias", false)?,
        _ => {
            k.only("attention_bias", false)?;
            false
        }
    };
    let mlp_bias = match family {
        Family::Llama => k.flag("mlp_bias", false)?,
        _ => {
            k.only("mlp_bias", false)?;
            false
        }
    };
    let has = Has {
        qkv_bias: attention_bias || family == Family::Qwen2,
        out_bias: attention_bias,
        mlp_bias,
        unembed_bias: false,
        gain: true,
        norm_bias: false,
    };
    Ok(Described { spec, has })
}

/// Sliding windows, by layer.
fn windows(k: &mut Keys<'_>, spec: &mut ModelSpec) -> LoadResult<()> {
    let qwen = matches!(spec.family, Family::Qwen2 | Family::Qwen3);
    let (window, from) = match spec.family {
        Family::Mistral => (k.option("sliding_window", Some(4096))?, 0),
        Family::Qwen2 | Family::Qwen3 => {
            let window = k.option("sliding_window", Some(4096))?;
            let slides = k.flag("use_sliding_window", false)?;
            let from = match k.get("max_window_layers").map(|v| v.as_u64()) {
                None => 28,
                Some(Some(n)) => n as usize,
                Some(None) => return Err(k.error("max_window_layers", "a whole number is needed")),
            };
            (window.filter(|_| slides), from)
        }
        _ => {
            if k.given("sliding_window").is_some() {
                return Err(k.error("sliding_window", "this family has no sliding window"));
            }
            (None, 0)
        }
    };
    if !qwen {
        k.only("use_sliding_window", false)?;
    }
    let sliding = |layer: usize| window.filter(|_| layer >= from);
    spec.window = (0..spec.n_layers).map(sliding).collect();
    let Some(types) = k.given("layer_types") else { return Ok(()) };
    let Some(types) = types.as_array().filter(|t| t.len() == spec.n_layers) else {
        return Err(k.error("layer_types", format!("a list of {} kinds of layers is needed", spec.n_layers)));
    };
    for (layer, kind) in types.iter().enumerate() {
        let listed = match (kind.as_str(), window) {
            (Some("full_attention"), _) => None,
            (Some("sliding_attention"), Some(w)) => Some(w),
            (Some("sliding_attention"), None) => {
                return Err(
                    k.error("layer_types", format!("layer {layer} slides, but there is no sliding window"))
                );
            }
            _ => {
                return Err(
                    k.error("layer_types", format!("{} is not supported", shorten(&kind.to_string())))
                );
            }
        };
        // Only the Qwen models look at the list; elsewhere it must agree with the rest.
        if qwen {
            spec.window[layer] = listed;
        } else if listed != spec.window[layer] {
            return Err(k.error("layer_types", format!("layer {layer} disagrees with sliding_window")));
        }
    }
    Ok(())
}
