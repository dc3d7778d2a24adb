//! Rotary positions in both spellings: `rope_theta` with `rope_scaling`, and `rope_parameters`.

use serde_json::{Map, Value};

use super::keys::Keys;
use crate::error::LoadResult;
use crate::spec::{Positions, RopeScaling};

/// The base where none is given.
const BASE: f64 = 10000.0;

/// The nested object, under either name.
fn nested<'a>(k: &mut Keys<'a>) -> LoadResult<Option<(&'static str, &'a Map<String, Value>)>> {
    let object = |k: &mut Keys<'a>, key: &'static str| match k.given(key) {
        None => Ok(None),
        Some(v) => v.as_object().map(Some).ok_or_else(|| k.error(key, "an object is needed")),
    };
    let old = object(k, "rope_scaling")?;
    let new = object(k, "rope_parameters")?;
    match (old, new) {
        (Some(a), Some(b)) if a != b => Err(k.error("rope_scaling", "it disagrees with rope_parameters")),
        (_, Some(b)) => Ok(Some(("rope_parameters.", b))),
        (Some(a), None) => Ok(Some(("rope_scaling.", a))),
        (None, None) => Ok(None),
    }
}

/// What an outer key says must be what the nested object says.
fn agree(k: &mut Keys<'_>, key: &'static str, value: f64) -> LoadResult<()> {
    if k.has(key) && k.number(key, value)? != value {
        return Err(k.error(key, format!("the model uses {value}")));
    }
    Ok(())
}

/// GPT-NeoX: part of each head, the base under a name of its own.
pub(super) fn neox(k: &mut Keys<'_>, d_head: usize, n_ctx: usize) -> LoadResult<Positions> {
    let base = k.positive("rotary_emb_base", BASE)?;
    let part = k.number("rotary_pct", 0.25)?;
    let (mut base, mut part, mut scaling) = (base, part, None);
    if let Some((prefix, map)) = nested(k)? {
        let inner = &mut k.inside(prefix, map);
        let given = inner.has("rope_theta");
        let theta = inner.positive("rope_theta", base)?;
        if given && k.has("rotary_emb_base") && theta != base {
            return Err(k.error("rotary_emb_base", format!("{prefix}rope_theta says {theta}")));
        }
        base = theta;
        let given = inner.has("partial_rotary_factor");
        let factor = inner.number("partial_rotary_factor", part)?;
        if given && k.has("rotary_pct") && factor != part {
            return Err(k.error("rotary_pct", format!("{prefix}partial_rotary_factor says {factor}")));
        }
        part = factor;
        scaling = self::scaling(inner, n_ctx)?;
    }
    agree(k, "rope_theta", base)?;
    agree(k, "partial_rotary_factor", part)?;
    if !(part > 0.0 && part <= 1.0) {
        return Err(k.error("rotary_pct", format!("{part} of a head cannot be rotated")));
    }
    rotary(k, "rotary_pct", (d_head as f64 * part) as usize, d_head, base, scaling)
}

/// Llama and its kin: whole heads.
pub(super) fn llama(k: &mut Keys<'_>, d_head: usize, n_ctx: usize) -> LoadResult<Positions> {
    let (mut base, mut scaling) = (k.positive("rope_theta", BASE)?, None);
    if let Some((prefix, map)) = nested(k)? {
        let inner = &mut k.inside(prefix, map);
        let given = inner.has("rope_theta");
        let theta = inner.positive("rope_theta", base)?;
        if given && k.has("rope_theta") && theta != base {
            return Err(k.error("rope_theta", format!("{prefix}rope_theta says {theta}")));
        }
        base = theta;
        inner.only("partial_rotary_factor", 1.0)?;
        scaling = self::scaling(inner, n_ctx)?;
    }
    agree(k, "partial_rotary_factor", 1.0)?;
    rotary(k, "head_dim", d_head, d_head, base, scaling)
}

/// `transformers` rounds an odd number of rotated dimensions up but divides exponents by the odd number:
/// frequency `i` is `base^(−2i/dims)` over `dims + 1` dimensions. A larger base says the same.
fn rotary(
    k: &Keys<'_>,
    key: &'static str,
    dims: usize,
    d_head: usize,
    base: f64,
    scaling: Option<RopeScaling>,
) -> LoadResult<Positions> {
    let odd = dims % 2;
    if dims == 0 || dims + odd > d_head {
        return Err(
            k.error(key, format!("{dims} of the {d_head} dimensions of a head cannot be rotated in pairs"))
        );
    }
    // Its exponent is dims / (dims − 2), from the number before rounding.
    if matches!(scaling, Some(RopeScaling::Dynamic { .. })) && (odd == 1 || dims == 2) {
        return Err(k.error(key, format!("dynamic scaling of {dims} dimensions is not supported")));
    }
    let base = if odd == 1 { base.powf((dims + 1) as f64 / dims as f64) } else { base };
    Ok(Positions::Rotary { dims: dims + odd, base, interleaved: false, scaling })
}

/// The kind of scaling and its numbers; every other key is an error.
fn scaling(k: &mut Keys<'_>, n_ctx: usize) -> LoadResult<Option<RopeScaling>> {
    let old = k.given("type").cloned();
    let new = k.given("rope_type").cloned();
    if old.is_some() && new.is_some() && old != new {
        return Err(k.error("type", "it disagrees with rope_type"));
    }
    let key = if new.is_some() { "rope_type" } else { "type" };
    let kind = new.or(old).unwrap_or_else(|| "default".into());
    let factor = |k: &mut Keys<'_>, key: &'static str| {
        if k.given(key).is_none() {
            return Err(k.error(key, "a number is needed for this kind of rotary scaling"));
        }
        k.positive(key, 1.0)
    };
    let scaling = match kind.as_str() {
        Some("default") => None,
        Some("linear") => Some(RopeScaling::Linear { factor: factor(k, "factor")? }),
        Some("dynamic") => {
            if k.given("original_max_position_embeddings").is_some()
                && k.count("original_max_position_embeddings", n_ctx)? != n_ctx
            {
                let why = format!("dynamic scaling starts from max_position_embeddings, {n_ctx}");
                return Err(k.error("original_max_position_embeddings", why));
            }
            Some(RopeScaling::Dynamic { factor: factor(k, "factor")?, original: n_ctx })
        }
        Some("llama3") => {
            let (low, high) = (factor(k, "low_freq_factor")?, factor(k, "high_freq_factor")?);
            if high <= low {
                return Err(k.error("high_freq_factor", format!("it must be above low_freq_factor, {low}")));
            }
            let original = k.count("original_max_position_embeddings", n_ctx)?;
            Some(RopeScaling::Llama3 { factor: factor(k, "factor")?, low, high, original })
        }
        _ => return Err(k.error(key, "supported rotary types are default, linear, dynamic and llama3")),
    };
    k.finish(|_| false)?;
    Ok(scaling)
}
