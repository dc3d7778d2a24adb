//! Small transformers as specifications, and their first parameters.

use refocus_compute::{Activation, NormKind, Philox, Purpose};
use refocus_model::{Family, ModelSpec, Params, Part, Positions, Which, Wiring};
use serde::{Deserialize, Serialize};

use crate::draw::Draw;
use crate::error::{Result, TrainError};

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionKind {
    /// A learned vector a position.
    Learned,
    /// A fixed vector a position.
    Sinusoidal,
    /// Rotation of queries and keys over whole heads, base 10,000.
    Rotary,
    /// A fixed slope by distance on the scores of each head.
    Alibi,
    /// A learned bias by distance on the scores of each head, 32 buckets up to distance 128.
    T5,
    /// `t / n_ctx` on the last coordinate of the embedding.
    Linear,
    /// The causal mask alone.
    None,
}

/// The MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mlp {
    /// `down(gelu(up(x)))`, the exact GELU.
    Gelu,
    /// `down(gelu(gate(x)) · up(x))`.
    Geglu,
    /// `down(silu(gate(x)) · up(x))`.
    Swiglu,
}

/// The norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norms {
    /// LayerNorm before attention, MLP and unembedding.
    Layer,
    /// RMSNorm there.
    Rms,
    /// No norm anywhere.
    None,
}

/// A small transformer, pre-norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Heads; they share the width evenly.
    pub heads: usize,
    /// Width of the MLP; absent: four times the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_mlp: Option<usize>,
    /// Longest sequence that the model can read; absent: as long as those it learns from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_ctx: Option<usize>,
    /// How positions enter.
    pub positions: PositionKind,
    /// The MLP.
    pub mlp: Mlp,
    /// The norms.
    pub norm: Norms,
    /// Biases of norms, MLP and unembedding; attention has none.
    pub bias: bool,
    /// Whether the unembedding has one; absent: as `bias` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unembed_bias: Option<bool>,
    /// Whether the unembedding is the embedding; absent: it is apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tied: bool,
    /// Attention's scores are divided by it, and by the root of the head's width.
    pub temperature: f64,
}

impl Architecture {
    /// The paper's model in its code base, x-transformers (`spec/flip-flop.md` 2.1): learned positions,
    /// LayerNorm, exact GELU, biases in the MLP and the unembedding but not in attention.
    pub fn paper(layers: usize, d_model: usize, heads: usize) -> Self {
        Self {
            layers,
            d_model,
            heads,
            d_mlp: None,
            n_ctx: None,
            positions: PositionKind::Learned,
            mlp: Mlp::Gelu,
            norm: Norms::Layer,
            bias: true,
            unembed_bias: None,
            tied: false,
            temperature: 1.0,
        }
    }

    /// A small Llama: rotary positions, RMSNorm, gated SiLU of width `8/3 · d_model` (rounded up to a
    /// multiple of 16), no biases.
    pub fn llama(layers: usize, d_model: usize, heads: usize) -> Self {
        Self {
            d_mlp: Some(d_model.saturating_mul(8).div_ceil(3).next_multiple_of(16)),
            positions: PositionKind::Rotary,
            mlp: Mlp::Swiglu,
            norm: Norms::Rms,
            bias: false,
            ..Self::paper(layers, d_model, heads)
        }
    }

    /// The specification that the forward pass reads, for `vocab` ids and sequences of `tokens`.
    ///
    /// # Errors
    /// A number is zero, heads do not divide the width, or a rotated head has an odd width.
    pub fn spec(&self, vocab: usize, tokens: usize) -> Result<ModelSpec> {
        let n_ctx = self.n_ctx.unwrap_or(tokens);
        let Self { layers, d_model, heads, .. } = *self;
        let d_mlp = self.d_mlp.unwrap_or(d_model.saturating_mul(4));
        let sizes = [layers, d_model, heads, d_mlp, vocab, n_ctx];
        let names = ["layers", "d_model", "heads", "d_mlp", "vocab", "n_ctx"];
        for (what, got) in names.into_iter().zip(sizes) {
            let why = match got {
                0 => "it must not be zero",
                1..=16_777_216 => continue,
                _ => "no model is that large",
            };
            return Err(TrainError::Architecture { what, got, why });
        }
        let refuse = |what, got, why| Err(TrainError::Architecture { what, got, why });
        if !d_model.is_multiple_of(heads) {
            return refuse("heads", heads, "they must divide d_model");
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let (what, got) = ("temperature", self.temperature);
            return Err(TrainError::Config { what, got, why: "it must be positive" });
        }
        if n_ctx < tokens {
            return refuse("n_ctx", n_ctx, "it is shorter than the sequences of the task");
        }
        let d_head = d_model / heads;
        let rotary = self.positions == PositionKind::Rotary;
        if rotary && !d_head.is_multiple_of(2) {
            return refuse("heads", heads, "rotary positions need an even width of the heads");
        }
        // GPT-2 and Llama have no bias of the unembedding; what GPT-2 has more is saved as zeros.
        let plain = !self.has_unembed_bias() && self.temperature == 1.0;
        let llama = rotary && plain && !self.bias && self.norm == Norms::Rms && self.mlp != Mlp::Gelu;
        let learned = self.positions == PositionKind::Learned;
        let gpt2 = learned && plain && self.norm == Norms::Layer && self.mlp == Mlp::Gelu;
        let family = match (llama, gpt2) {
            (true, _) => Family::Llama,
            (_, true) => Family::Gpt2,
            _ => Family::Refocus,
        };
        let scale = 1.0 / ((d_head as f64).sqrt() * self.temperature);
        Ok(ModelSpec {
            family,
            n_layers: layers,
            d_model,
            d_embed: d_model,
            n_heads: heads,
            n_kv_heads: heads,
            d_head,
            d_mlp,
            vocab,
            n_ctx,
            wiring: Wiring::PreNorm,
            norm: if self.norm == Norms::Rms { NormKind::Rms } else { NormKind::Layer },
            norm_eps: 1e-5,
            block_norms: self.norm != Norms::None,
            final_norm: self.norm != Norms::None,
            positions: match self.positions {
                PositionKind::Sinusoidal => Positions::Sinusoidal,
                PositionKind::Alibi => Positions::Alibi,
                PositionKind::T5 => Positions::T5 { buckets: 32, max_distance: 128 },
                PositionKind::Linear => Positions::Linear,
                PositionKind::None => Positions::None,
                PositionKind::Rotary => {
                    Positions::Rotary { dims: d_head, base: 10_000.0, interleaved: false, scaling: None }
                }
                PositionKind::Learned => Positions::Learned { offset: 0 },
            },
            attn_scale: vec![scale as f32; layers],
            window: vec![None; layers],
            qk_norm: false,
            act: if self.mlp == Mlp::Swiglu { Activation::Silu } else { Activation::Gelu },
            gated_mlp: self.mlp != Mlp::Gelu,
            tied: self.tied,
            bos: None,
            eos: Vec::new(),
        })
    }

    fn has_unembed_bias(&self) -> bool {
        self.unembed_bias.unwrap_or(self.bias)
    }

    /// First parameters as x-transformers and PyTorch draw theirs: token embedding `N(0, 2/d)`, positions
    /// `N(0, 1/d)`, T5's biases `N(0, 1)`, linear maps and their biases uniform within `±1/√n_in`, gains 1,
    /// biases of norms 0.
    /// (x-transformers keeps the positions at `N(0, 1)` and multiplies by `d^−½` when it reads them: the
    /// same first values, but there AdamW moves them `√d` times slower.)
    ///
    /// # Errors
    /// As [`Architecture::spec`].
    pub fn init(&self, vocab: usize, tokens: usize, seed: u64) -> Result<Params> {
        let spec = self.spec(vocab, tokens)?;
        let draw = Draw::new(Philox::new(seed, Purpose::new("initial parameters")));
        draw_all(draw, spec, self.bias, self.has_unembed_bias())
            .map_err(|source| TrainError::Params { step: 0, source })
    }
}

/// Every parameter of a specification.
fn draw_all(
    mut draw: Draw,
    spec: ModelSpec,
    biases: bool,
    unembed: bool,
) -> Result<Params, refocus_model::LoadError> {
    let mut out = Params::new(spec.clone());
    let blocks = (0..spec.n_layers).flat_map(|l| Part::BLOCK.map(|p| (p, l)));
    for (part, layer) in Part::GLOBAL.map(|p| (p, 0)).into_iter().chain(blocks) {
        if !part.exists(&spec) {
            continue;
        }
        let [n, k] = part.shape(&spec);
        let bound = 1.0 / (k as f64).sqrt();
        let weight = match part {
            Part::Embed => draw.normal(n * k, 2f64.sqrt() * bound),
            Part::PosEmbed => draw.normal(n * k, bound),
            Part::RelBias => draw.normal(n * k, 1.0),
            _ if part.is_norm() => vec![1.0; n],
            _ => draw.uniform(n * k, bound),
        };
        out.insert(part, layer, Which::Weight, weight)?;
        let bias = match part {
            Part::Unembed if unembed => draw.uniform(n, bound),
            Part::Unembed => continue,
            _ if !biases => continue,
            // RMSNorm has none.
            _ if part.is_norm() && spec.norm == NormKind::Rms => continue,
            _ if part.is_norm() => vec![0.0; n],
            Part::Gate | Part::Up | Part::Down => draw.uniform(n, bound),
            _ => continue,
        };
        out.insert(part, layer, Which::Bias, bias)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `spec/flip-flop.md` 2.1: the parameter counts of the paper's code base.
    #[test]
    fn the_papers_models_have_their_number_of_parameters() {
        for (a, want) in
            [(Architecture::paper(6, 512, 8), 19_170_309), (Architecture::paper(2, 128, 4), 462_597)]
        {
            assert_eq!(a.init(5, 512, 0).expect("parameters").count(), want);
        }
    }

    #[test]
    fn first_parameters_have_the_deviations_said() {
        let p = Architecture::paper(2, 64, 4).init(5, 512, 5).expect("parameters");
        let deviation = |part, layer, which| {
            let x = p.get(part, layer, which).expect("values");
            (x.iter().map(|x| f64::from(x * x)).sum::<f64>() / x.len() as f64).sqrt()
        };
        let d = 64f64;
        for (part, want) in [
            (Part::Embed, (2.0 / d).sqrt()),
            (Part::PosEmbed, (1.0 / d).sqrt()),
            (Part::Q, (1.0 / (3.0 * d)).sqrt()),
            (Part::Down, (1.0 / (12.0 * d)).sqrt()),
            (Part::Ln1, 1.0),
        ] {
            let got = deviation(part, 0, Which::Weight);
            let n = p.get(part, 0, Which::Weight).expect("values").len() as f64;
            assert!((got / want - 1.0).abs() <= 4.0 / (2.0 * n).sqrt(), "{part:?}: {got} instead of {want}");
        }
        assert_eq!(deviation(Part::Ln2, 1, Which::Bias), 0.0);
        assert!(p.get(Part::Q, 0, Which::Bias).is_none());
        let bound = 1.0 / (4.0 * d).sqrt() as f32;
        assert!(p.get(Part::Down, 1, Which::Bias).expect("values").iter().all(|x| x.abs() <= bound));
        assert_ne!(p.get(Part::Q, 0, Which::Weight), p.get(Part::Q, 1, Which::Weight));
        assert_ne!(p.get(Part::Q, 0, Which::Weight), p.get(Part::K, 0, Which::Weight));
    }

    #[test]
    fn a_tied_model_has_one_embedding() {
        let apart = Architecture::llama(1, 16, 2);
        let tied = Architecture { tied: true, ..apart.clone() };
        let count = |a: &Architecture| a.init(50, 8, 0).expect("parameters").count();
        assert_eq!(count(&apart) - count(&tied), 50 * 16);
        assert!(tied.spec(50, 8).expect("a model").tied);
    }

    #[test]
    fn impossible_models_are_refused() {
        let refusal = |a: Architecture| a.spec(5, 512).err().map(|e| e.to_string());
        let paper = Architecture::paper;
        assert_eq!(refusal(paper(0, 64, 4)).as_deref(), Some("layers is 0: it must not be zero"));
        assert_eq!(refusal(paper(2, 64, 5)).as_deref(), Some("heads is 5: they must divide d_model"));
        assert!(refusal(paper(2, usize::MAX, 5)).is_some_and(|e| e.contains("d_model")));
        assert!(refusal(Architecture::llama(1, 9, 3)).is_some_and(|e| e.contains("even")));
        assert!(refusal(Architecture { temperature: 0.0, ..paper(1, 8, 1) }).is_some());
    }
}
