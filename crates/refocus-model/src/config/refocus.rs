//! The family of models trained here, for what no family of `transformers` can express. Every key is
//! written and every key is needed.

use super::keys::Keys;
use super::{Described, Has, Shape, activation};
use crate::error::{LoadError, LoadResult};
use crate::spec::{Family, Positions};
use refocus_compute::NormKind;

/// Numbers of a constant position table, which is made when a model is loaded.
const LARGEST: usize = 1 << 28;

/// Reads what an export wrote.
pub(super) fn read(k: &mut Keys<'_>) -> LoadResult<Described> {
    for key in NEEDED {
        if !k.has(key) {
            return Err(LoadError::NoKey { path: k.path().to_owned(), key: (*key).to_owned() });
        }
    }
    let shape = Shape {
        n_layers: k.count("n_layers", 1)?,
        d_model: k.count("d_model", 1)?,
        n_heads: k.count("n_heads", 1)?,
        n_ctx: k.count("n_ctx", 1)?,
        vocab: k.count("vocab_size", 1)?,
    };
    shape.check(k, "n_layers")?;
    let d_head = k.count("d_head", 1)?;
    let positions = match k.word("positions", "")? {
        "learned" => Positions::Learned { offset: 0 },
        "sinusoidal" => Positions::Sinusoidal,
        "linear" => Positions::Linear,
        "alibi" => Positions::Alibi,
        "none" => Positions::None,
        "rotary" => {
            let (dims, base) = (k.count("rotary_dims", d_head)?, k.positive("rotary_base", 10_000.0)?);
            if dims > d_head || !dims.is_multiple_of(2) {
                let why = format!("it must be even and at most {d_head}, the width of a head");
                return Err(k.error("rotary_dims", why));
            }
            let interleaved = k.flag("rotary_interleaved", false)?;
            Positions::Rotary { dims, base, interleaved, scaling: None }
        }
        "t5" => {
            let (buckets, max_distance) = (k.count("t5_buckets", 32)?, k.count("t5_max_distance", 128)?);
            if buckets < 2 || max_distance <= buckets / 2 {
                return Err(k.error("t5_buckets", "at least 2, and half of them below t5_max_distance"));
            }
            Positions::T5 { buckets, max_distance }
        }
        _ => {
            let why = "one of learned, sinusoidal, linear, alibi, none, rotary, t5";
            return Err(k.error("positions", why));
        }
    };
    let table = matches!(positions, Positions::Sinusoidal | Positions::Linear);
    if table && shape.n_ctx.saturating_mul(shape.d_model) > LARGEST {
        return Err(k.error("n_ctx", format!("a table of positions of more than {LARGEST} numbers")));
    }
    let mut spec = shape.spec(Family::Refocus, d_head, positions);
    spec.n_kv_heads = k.count("n_kv_heads", 1)?;
    if !spec.n_heads.is_multiple_of(spec.n_kv_heads) {
        return Err(k.error("n_kv_heads", "n_heads must be a multiple of it"));
    }
    spec.d_mlp = k.count("d_mlp", 1)?;
    spec.norm = match k.word("norm", "")? {
        "layer" => NormKind::Layer,
        "rms" => NormKind::Rms,
        _ => return Err(k.error("norm", "layer or rms")),
    };
    spec.norm_eps = super::eps(k, "norm_eps", 1e-5)?;
    spec.block_norms = k.flag("block_norms", true)?;
    spec.final_norm = k.flag("final_norm", true)?;
    let name = k.word("activation", "")?;
    spec.act = activation(name).ok_or_else(|| k.error("activation", "this activation is not supported"))?;
    spec.gated_mlp = k.flag("gated_mlp", false)?;
    let scale = k.positive("attention_scale", 1.0)? as f32;
    spec.attn_scale = vec![scale; shape.n_layers];
    spec.tied = k.flag("tie_word_embeddings", false)?;
    let has = Has {
        qkv_bias: k.flag("attention_bias", false)?,
        out_bias: k.flag("attention_out_bias", false)?,
        mlp_bias: k.flag("mlp_bias", false)?,
        unembed_bias: k.flag("unembed_bias", false)?,
        gain: true,
        norm_bias: k.flag("norm_bias", false)?,
    };
    Ok(Described { spec, has })
}

const NEEDED: &[&str] = &[
    "n_layers",
    "d_model",
    "n_heads",
    "n_kv_heads",
    "d_head",
    "d_mlp",
    "vocab_size",
    "n_ctx",
    "positions",
    "norm",
    "norm_eps",
    "block_norms",
    "final_norm",
    "activation",
    "gated_mlp",
    "attention_scale",
    "tie_word_embeddings",
];
