//! A tuned lens: one affine map a layer, after which the model's own final norm and unembedding say nearly what
//! the whole model will say (Belrose et al., "Eliciting latent predictions from transformers with the tuned lens",
//! 2023, arXiv 2303.08112).
//!
//! The map of layer `l` reads the residual stream before block `l` and adds `x Aᵀ + b` to it, so that nothing added
//! is the logit lens. [`fit`] learns the maps of a frozen model from a text, [`TunedLens`] is the result as a
//! folder, [`PackedLens`] applies it.

mod file;
mod fit;

pub use self::file::{About, LensError, TunedLens, text_hash};
pub use self::fit::{FitSettings, LayerScore, fit};

use std::sync::Arc;

use refocus_compute::{Kernels, Linear, MatrixSource, Ops, Param, ParamId, Then};
use refocus_measure::residual::Node;
use refocus_model::RunError;

/// What is added to one residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// `[d_model, d_model]`, outputs first.
    pub weight: Vec<f32>,
    /// `[d_model]`.
    pub bias: Vec<f32>,
}

impl Affine {
    /// The map for a backend; `ids` name its weight and bias where gradients are wanted.
    fn pack<K: Kernels>(
        &self,
        kernels: &mut K,
        layer: usize,
        ids: [ParamId; 2],
    ) -> refocus_compute::Result<Linear<K>> {
        let d = self.bias.len();
        let name = format!("the lens of layer {layer}");
        let w = kernels.pack(&MatrixSource::from_f32(&name, d, d, &self.weight))?;
        let b = kernels.upload(1, d, &self.bias)?;
        Ok(Linear {
            w: Param { id: ids[0], value: Arc::new(w) },
            bias: Some(Param { id: ids[1], value: Arc::new(b) }),
        })
    }
}

/// A lens ready to be applied.
pub struct PackedLens<K: Kernels> {
    /// By layer.
    maps: Vec<Linear<K>>,
}

impl<K: Kernels> PackedLens<K> {
    /// Packs maps, one a layer.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn new(kernels: &mut K, maps: &[Affine]) -> Result<Self, RunError> {
        let one = |(l, m): (usize, &Affine)| m.pack(kernels, l, [ParamId::CONSTANT; 2]);
        Ok(Self { maps: maps.iter().enumerate().map(one).collect::<Result<_, _>>()? })
    }

    /// The stream that the final norm is to read instead of `x` `[rows, d_model]`; nothing at a node inside a
    /// block. After the last block it is `x` itself.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn apply<O: Ops<K = K>>(&self, o: &mut O, node: Node, x: &O::T) -> Result<Option<O::T>, RunError> {
        let layer = match node {
            Node::Embedded => 0,
            Node::Block(l) => l + 1,
            Node::Attention(_) | Node::Mlp(_) => return Ok(None),
        };
        match self.maps.get(layer) {
            Some(map) => Ok(Some(o.linear(x, &[map], Then { act: None, residual: Some(x) })?)),
            None => Ok(Some(x.clone())),
        }
    }
}
