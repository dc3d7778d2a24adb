//! From a [`ModelSpec`] to a `config.json`.
//!
//! Keys are spelled so that `transformers` 4 and 5 both read them (`rope_theta` with `rope_scaling`,
//! `torch_dtype`). What comes out is read back by the reader of configurations and compared, so a
//! specification that the family cannot express is an error and never a model that computes something else.

use std::path::Path;

use refocus_compute::{Activation, NormKind};
use serde_json::{Map, Number, Value, json};

use super::error::{ExportError, ExportResult};
use super::llama3;
use crate::config::{Described, Has, from_json};
use crate::spec::{Family, ModelSpec, Positions, RopeScaling, Wiring};

/// A specification that a folder can express, the parameters that its tensors then have, and the keys.
pub(super) struct Configured {
    pub(super) described: Described,
    pub(super) keys: Map<String, Value>,
}

/// The configuration of a model whose optional parameters are `found`. A parameter that the family always
/// has is added to them (a bias of zeros, a gain of ones).
///
/// # Errors
/// The family's configuration cannot say something that the specification says.
pub(super) fn configure(spec: &ModelSpec, found: Has) -> ExportResult<Configured> {
    let spec = with_named_scaling(spec)?;
    let has = completed(&spec, found)?;
    let keys = keys(&spec, has);
    // What a reader makes of it decides.
    let read = from_json(Path::new("config.json"), &keys)
        .map_err(|e| ExportError::inexpressible(spec.family, format!("{e}")))?;
    match difference(&spec, &read.spec) {
        Some(what) => Err(ExportError::inexpressible(
            spec.family,
            format!("its configuration has no way to say {what}"),
        )),
        None if read.has != has => {
            Err(ExportError::inexpressible(spec.family, "its set of biases is not one of this family"))
        }
        None => Ok(Configured { described: read, keys }),
    }
}

/// Divisors of frequencies become the `llama3` scaling that they were made from.
fn with_named_scaling(spec: &ModelSpec) -> ExportResult<ModelSpec> {
    let mut spec = spec.clone();
    if let Positions::Rotary { dims, base, scaling: scaling @ Some(RopeScaling::Divisors(_)), .. } =
        &mut spec.positions
        && let Some(RopeScaling::Divisors(divisors)) = scaling
    {
        *scaling = Some(llama3::fit(*dims, *base, divisors, spec.n_ctx).ok_or_else(|| {
            let why = "its rotary frequencies are divided by a table that is not llama3 scaling, which \
                       config.json cannot express";
            ExportError::inexpressible(spec.family, why)
        })?);
    }
    Ok(spec)
}

/// The optional parameters of a folder that has at least those found.
fn completed(spec: &ModelSpec, found: Has) -> ExportResult<Has> {
    let no = |what: &str| Err(ExportError::inexpressible(spec.family, format!("it has {what}")));
    let attention = found.qkv_bias || found.out_bias;
    let mut has = Has { gain: true, ..found };
    match spec.family {
        Family::Gpt2 => {
            (has.qkv_bias, has.out_bias, has.mlp_bias, has.norm_bias) = (true, true, true, true);
        }
        Family::Opt => {
            let any = attention || found.mlp_bias;
            (has.qkv_bias, has.out_bias, has.mlp_bias) = (any, any, any);
            has.gain = found.gain || found.norm_bias;
            has.norm_bias = has.gain;
        }
        Family::GptJ => {
            if attention {
                return no("biases in attention");
            }
            (has.mlp_bias, has.unembed_bias, has.norm_bias) = (true, true, true);
        }
        Family::NeoX => {
            (has.qkv_bias, has.out_bias, has.mlp_bias, has.norm_bias) = (attention, attention, true, true);
        }
        Family::Llama | Family::Qwen3 => (has.qkv_bias, has.out_bias) = (attention, attention),
        Family::Mistral if attention => return no("biases in attention"),
        Family::Qwen2 if found.out_bias => return no("a bias of attention's output"),
        Family::Mistral | Family::Refocus => {}
        Family::Qwen2 => has.qkv_bias = true,
    }
    let llama = matches!(spec.family, Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3);
    if llama && found.norm_bias {
        return no("biases of norms");
    }
    if llama && spec.family != Family::Llama && found.mlp_bias {
        return no("biases in the MLP");
    }
    if !matches!(spec.family, Family::GptJ | Family::Refocus) && found.unembed_bias {
        return no("a bias of the unembedding");
    }
    Ok(has)
}

/// The first thing that two specifications say differently.
fn difference(a: &ModelSpec, b: &ModelSpec) -> Option<String> {
    let same = [
        ("how blocks are wired", a.wiring == b.wiring),
        ("the sizes of the model", {
            let sizes = |s: &ModelSpec| {
                [
                    s.n_layers,
                    s.d_model,
                    s.d_embed,
                    s.n_heads,
                    s.n_kv_heads,
                    s.d_head,
                    s.d_mlp,
                    s.vocab,
                    s.n_ctx,
                ]
            };
            sizes(a) == sizes(b)
        }),
        ("the kind and epsilon of its norms", a.norm == b.norm && a.norm_eps == b.norm_eps),
        ("whether its blocks have norms", a.block_norms == b.block_norms),
        ("whether there is a final norm", a.final_norm == b.final_norm),
        ("its positions", a.positions == b.positions),
        ("the scale of its attention scores", near(&a.attn_scale, &b.attn_scale)),
        ("its sliding windows", a.window == b.window),
        ("norms of queries and keys", a.qk_norm == b.qk_norm),
        ("its activation", a.act == b.act),
        ("whether its MLP has a gate", a.gated_mlp == b.gated_mlp),
        ("whether its unembedding is tied", a.tied == b.tied),
        ("its first and last ids", a.bos == b.bos && a.eos == b.eos),
    ];
    same.iter().find(|(_, same)| !same).map(|(what, _)| (*what).to_owned())
}

/// Equal but for the rounding of 1/√d, which can be computed in two ways.
fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2.0 * f32::EPSILON * b.abs())
}

/// The class that `transformers` makes of the family, where it knows it.
fn architecture(family: Family) -> Option<&'static str> {
    Some(match family {
        Family::Gpt2 => "GPT2LMHeadModel",
        Family::Opt => "OPTForCausalLM",
        Family::GptJ => "GPTJForCausalLM",
        Family::NeoX => "GPTNeoXForCausalLM",
        Family::Llama => "LlamaForCausalLM",
        Family::Mistral => "MistralForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Refocus => return None,
    })
}

/// An epsilon with the digits of its f32: 0.00001 and not 0.000009999999747378752.
fn short(x: f32) -> Value {
    let digits = x.to_string().parse::<f64>().ok().and_then(Number::from_f64);
    digits.map_or(Value::Null, Value::Number)
}

fn activation(act: Activation) -> &'static str {
    match act {
        Activation::Relu => "relu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::Silu => "silu",
    }
}

/// The keys of a family, those that every family has first.
fn keys(spec: &ModelSpec, has: Has) -> Map<String, Value> {
    let eos = match spec.eos.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let mut out = Map::new();
    if let Some(class) = architecture(spec.family) {
        out.insert("architectures".to_owned(), json!([class]));
    }
    let common = json!({
        "model_type": spec.family.model_type(),
        "vocab_size": spec.vocab,
        "bos_token_id": spec.bos,
        "eos_token_id": eos,
        "tie_word_embeddings": spec.tied,
    });
    let own = match spec.family {
        Family::Gpt2 => gpt2(spec),
        Family::Opt => opt(spec, has),
        Family::GptJ => gptj(spec),
        Family::NeoX => neox(spec, has),
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama(spec, has),
        Family::Refocus => refocus(spec, has),
    };
    for part in [common, own] {
        if let Value::Object(keys) = part {
            out.extend(keys);
        }
    }
    out
}

/// The width of the MLP where it is not the usual one.
fn inner(spec: &ModelSpec) -> Option<usize> {
    (spec.d_mlp != 4 * spec.d_model).then_some(spec.d_mlp)
}

fn gpt2(spec: &ModelSpec) -> Value {
    let scale = |layer: usize| spec.attn_scale.get(layer).copied().unwrap_or(1.0);
    json!({
        "n_layer": spec.n_layers,
        "n_embd": spec.d_model,
        "n_head": spec.n_heads,
        "n_positions": spec.n_ctx,
        "n_inner": inner(spec),
        "activation_function": activation(spec.act),
        "layer_norm_epsilon": short(spec.norm_eps),
        "scale_attn_weights": scale(0) != 1.0 || spec.d_head == 1,
        "scale_attn_by_inverse_layer_idx": spec.n_layers > 1 && scale(0) != scale(1),
    })
}

fn opt(spec: &ModelSpec, has: Has) -> Value {
    let before = spec.wiring == Wiring::PreNorm;
    json!({
        "num_hidden_layers": spec.n_layers,
        "hidden_size": spec.d_model,
        "word_embed_proj_dim": spec.d_embed,
        "num_attention_heads": spec.n_heads,
        "max_position_embeddings": spec.n_ctx,
        "ffn_dim": spec.d_mlp,
        "activation_function": activation(spec.act),
        "do_layer_norm_before": before,
        "_remove_final_layer_norm": before && !spec.final_norm,
        "enable_bias": has.qkv_bias,
        "layer_norm_elementwise_affine": has.gain,
    })
}

fn gptj(spec: &ModelSpec) -> Value {
    let dims = match spec.positions {
        Positions::Rotary { dims, .. } => dims,
        _ => 0,
    };
    json!({
        "n_layer": spec.n_layers,
        "n_embd": spec.d_model,
        "n_head": spec.n_heads,
        "n_positions": spec.n_ctx,
        "n_inner": inner(spec),
        "rotary_dim": dims,
        "activation_function": activation(spec.act),
        "layer_norm_epsilon": short(spec.norm_eps),
    })
}

fn neox(spec: &ModelSpec, has: Has) -> Value {
    let mut keys = json!({
        "num_hidden_layers": spec.n_layers,
        "hidden_size": spec.d_model,
        "num_attention_heads": spec.n_heads,
        "max_position_embeddings": spec.n_ctx,
        "intermediate_size": spec.d_mlp,
        "hidden_act": activation(spec.act),
        "layer_norm_eps": short(spec.norm_eps),
        "use_parallel_residual": spec.wiring != Wiring::PreNorm,
        "attention_bias": has.qkv_bias,
    });
    if let Positions::Rotary { dims, base, scaling, .. } = &spec.positions {
        // The reader multiplies and rounds down.
        let mut part = *dims as f64 / spec.d_head as f64;
        if ((spec.d_head as f64 * part) as usize) < *dims {
            part = part.next_up();
        }
        keys["rotary_pct"] = json!(part);
        keys["rotary_emb_base"] = json!(base);
        scale(&mut keys, scaling.as_ref());
    }
    keys
}

fn llama(spec: &ModelSpec, has: Has) -> Value {
    let mut keys = json!({
        "num_hidden_layers": spec.n_layers,
        "hidden_size": spec.d_model,
        "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_kv_heads,
        "head_dim": spec.d_head,
        "max_position_embeddings": spec.n_ctx,
        "intermediate_size": spec.d_mlp,
        "hidden_act": activation(spec.act),
        "rms_norm_eps": short(spec.norm_eps),
    });
    if let Positions::Rotary { base, scaling, .. } = &spec.positions {
        keys["rope_theta"] = json!(base);
        scale(&mut keys, scaling.as_ref());
    }
    match spec.family {
        Family::Llama => {
            keys["attention_bias"] = json!(has.qkv_bias);
            keys["mlp_bias"] = json!(has.mlp_bias);
        }
        Family::Mistral => keys["sliding_window"] = json!(spec.window.first().copied().flatten()),
        Family::Qwen3 => {
            keys["attention_bias"] = json!(has.qkv_bias);
            windows(&mut keys, spec);
        }
        _ => windows(&mut keys, spec),
    }
    keys
}

/// What the reader needs, all of it. There are no keys for other wiring than pre-norm, windows, norms of
/// queries and keys, a projected embedding, scaled rotation, or scales that differ by layer.
fn refocus(spec: &ModelSpec, has: Has) -> Value {
    let (word, more) = match &spec.positions {
        Positions::Learned { .. } => ("learned", json!({})),
        Positions::Sinusoidal => ("sinusoidal", json!({})),
        Positions::Linear => ("linear", json!({})),
        Positions::Alibi => ("alibi", json!({})),
        Positions::None => ("none", json!({})),
        Positions::Rotary { dims, base, interleaved, .. } => {
            ("rotary", json!({"rotary_dims": dims, "rotary_base": base, "rotary_interleaved": interleaved}))
        }
        Positions::T5 { buckets, max_distance } => {
            ("t5", json!({"t5_buckets": buckets, "t5_max_distance": max_distance}))
        }
    };
    let mut keys = json!({
        "n_layers": spec.n_layers,
        "d_model": spec.d_model,
        "n_heads": spec.n_heads,
        "n_kv_heads": spec.n_kv_heads,
        "d_head": spec.d_head,
        "d_mlp": spec.d_mlp,
        "n_ctx": spec.n_ctx,
        "positions": word,
        "norm": match spec.norm { NormKind::Layer => "layer", NormKind::Rms => "rms" },
        "norm_eps": short(spec.norm_eps),
        "block_norms": spec.block_norms,
        "final_norm": spec.final_norm,
        "activation": activation(spec.act),
        "gated_mlp": spec.gated_mlp,
        "attention_scale": spec.attn_scale.first(),
        "attention_bias": has.qkv_bias,
        "attention_out_bias": has.out_bias,
        "mlp_bias": has.mlp_bias,
        "unembed_bias": has.unembed_bias,
        "norm_bias": has.norm_bias,
    });
    if let (Value::Object(keys), Value::Object(more)) = (&mut keys, more) {
        keys.extend(more);
    }
    keys
}

/// Sliding windows of the Qwen models, by layer.
fn windows(keys: &mut Value, spec: &ModelSpec) {
    let window = spec.window.iter().flatten().next();
    keys["use_sliding_window"] = json!(window.is_some());
    keys["sliding_window"] = json!(window);
    let from = spec.window.iter().position(Option::is_some).unwrap_or(spec.n_layers);
    keys["max_window_layers"] = json!(from);
    if window.is_some() {
        let kind = |w: &Option<usize>| if w.is_some() { "sliding_attention" } else { "full_attention" };
        keys["layer_types"] = spec.window.iter().map(kind).collect();
    }
}

fn scale(keys: &mut Value, scaling: Option<&RopeScaling>) {
    let value = match scaling {
        None | Some(RopeScaling::Divisors(_)) => return,
        Some(RopeScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RopeScaling::Dynamic { factor, .. }) => json!({"rope_type": "dynamic", "factor": factor}),
        Some(RopeScaling::Llama3 { factor, low, high, original }) => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }),
    };
    keys["rope_scaling"] = value;
}
