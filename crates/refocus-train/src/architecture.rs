//! Small transformers as specifications, and their first parameters.

use refocus_compute::{Activation, NormKind, Philox, Purpose};
use refocus_model::{Family, ModelSpec, Params, Part, Positions, Which, Wiring};

use crate::draw::Draw;
use crate::error::{Result, TrainError};

/// What the blocks are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Learned positions, LayerNorm, exact GELU, biases in the MLP and the unembedding but not in
    /// attention: the paper's model in its code base (x-transformers, `spec/flip-flop.md` 2.1).
    Learned,
    /// Rotary positions over whole heads, RMSNorm, gated SiLU of width `8/3 · d_model` (rounded up to a
    /// multiple of 16), no biases: a small Llama.
    Rotary,
}

/// A small model; the embedding is not tied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// What the blocks are made of.
    pub style: Style,
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Heads; they share the width evenly.
    pub heads: usize,
    /// Ids.
    pub vocab: usize,
    /// Longest sequence.
    pub n_ctx: usize,
}

impl Architecture {
    /// The specification that the forward pass reads.
    ///
    /// # Errors
    /// A number is zero, heads do not divide the width, or a rotated head has an odd width.
    pub fn spec(&self) -> Result<ModelSpec> {
        let Self { style, layers, d_model, heads, vocab, n_ctx } = *self;
        let sizes = [layers, d_model, heads, vocab, n_ctx];
        let names = ["layers", "d_model", "heads", "vocab", "n_ctx"];
        for (what, got) in names.into_iter().zip(sizes) {
            if got == 0 {
                return Err(TrainError::Architecture { what, got, why: "it must not be zero" });
            }
        }
        if !d_model.is_multiple_of(heads) {
            return Err(TrainError::Architecture {
                what: "heads",
                got: heads,
                why: "they must divide d_model",
            });
        }
        let d_head = d_model / heads;
        let rotary = style == Style::Rotary;
        if rotary && !d_head.is_multiple_of(2) {
            let why = "rotary positions need an even width of the heads";
            return Err(TrainError::Architecture { what: "heads", got: heads, why });
        }
        Ok(ModelSpec {
            family: if rotary { Family::Llama } else { Family::Gpt2 },
            n_layers: layers,
            d_model,
            d_embed: d_model,
            n_heads: heads,
            n_kv_heads: heads,
            d_head,
            d_mlp: if rotary { (8 * d_model).div_ceil(3).next_multiple_of(16) } else { 4 * d_model },
            vocab,
            n_ctx,
            wiring: Wiring::PreNorm,
            norm: if rotary { NormKind::Rms } else { NormKind::Layer },
            norm_eps: 1e-5,
            final_norm: true,
            positions: if rotary {
                Positions::Rotary { dims: d_head, base: 10_000.0, interleaved: false, scaling: None }
            } else {
                Positions::Learned { offset: 0 }
            },
            attn_scale: vec![1.0 / (d_head as f32).sqrt(); layers],
            window: vec![None; layers],
            qk_norm: false,
            act: if rotary { Activation::Silu } else { Activation::Gelu },
            gated_mlp: rotary,
            tied: false,
            bos: None,
            eos: Vec::new(),
        })
    }

    /// First parameters as x-transformers and PyTorch draw theirs: token embedding `N(0, 2/d)`, positions
    /// `N(0, 1/d)`, linear maps and their biases uniform within `±1/√n_in`, gains 1, biases of norms 0.
    /// (x-transformers keeps the positions at `N(0, 1)` and multiplies by `d^−½` when it reads them: the
    /// same first values, but there AdamW moves them `√d` times slower.)
    ///
    /// # Errors
    /// As [`Architecture::spec`].
    pub fn init(&self, seed: u64) -> Result<Params> {
        let spec = self.spec()?;
        let draw = Draw::new(Philox::new(seed, Purpose::new("initial parameters")));
        draw_all(draw, spec, self.style == Style::Learned)
            .map_err(|source| TrainError::Params { step: 0, source })
    }
}

/// Every parameter of a specification.
fn draw_all(mut draw: Draw, spec: ModelSpec, biases: bool) -> Result<Params, refocus_model::LoadError> {
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
            _ if part.is_norm() => vec![1.0; n],
            _ => draw.uniform(n * k, bound),
        };
        out.insert(part, layer, Which::Weight, weight)?;
        let bias = match part {
            _ if !biases => continue,
            _ if part.is_norm() => vec![0.0; n],
            Part::Up | Part::Down | Part::Unembed => draw.uniform(n, bound),
            _ => continue,
        };
        out.insert(part, layer, Which::Bias, bias)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(layers: usize, d_model: usize, heads: usize) -> Architecture {
        Architecture { style: Style::Learned, layers, d_model, heads, vocab: 5, n_ctx: 512 }
    }

    /// `spec/flip-flop.md` 2.1: the parameter counts of the paper's code base.
    #[test]
    fn the_papers_models_have_their_number_of_parameters() {
        for (a, want) in [(learned(6, 512, 8), 19_170_309), (learned(2, 128, 4), 462_597)] {
            assert_eq!(a.init(0).expect("parameters").count(), want);
        }
    }

    #[test]
    fn first_parameters_have_the_deviations_said() {
        let p = learned(2, 64, 4).init(5).expect("parameters");
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
    fn impossible_models_are_refused() {
        let refusal = |a: Architecture| a.spec().err().map(|e| e.to_string());
        assert_eq!(refusal(learned(0, 64, 4)).as_deref(), Some("layers is 0: it must not be zero"));
        assert_eq!(refusal(learned(2, 64, 5)).as_deref(), Some("heads is 5: they must divide d_model"));
        let odd = Architecture { style: Style::Rotary, ..learned(1, 9, 3) };
        assert!(refusal(odd).is_some_and(|e| e.contains("even")));
    }
}
