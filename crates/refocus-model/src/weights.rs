//! A model's parameters, packed for a backend.

use std::sync::Arc;

use refocus_compute::{Kernels, Linear, Norm, Param, ParamId};

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::names::{Part, Which};
use crate::rope::RopeCache;
use crate::spec::{ModelSpec, Positions};

/// One parameter of a loaded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// Its identity in gradients.
    pub id: ParamId,
    /// What it is.
    pub part: Part,
    /// Its block (0 for parts that exist once).
    pub layer: usize,
    /// Weight or bias.
    pub which: Which,
}

/// The parameters of one block.
pub struct Block<K: Kernels> {
    /// Before attention (after it in post-norm blocks).
    pub ln1: Norm<K>,
    /// Before the MLP (after it in post-norm blocks); absent where the MLP reads `ln1`.
    pub ln2: Option<Norm<K>>,
    /// `[n_heads · d_head, d_model]`.
    pub q: Linear<K>,
    /// `[n_kv_heads · d_head, d_model]`.
    pub k: Linear<K>,
    /// `[n_kv_heads · d_head, d_model]`.
    pub v: Linear<K>,
    /// Over each head of q.
    pub q_norm: Option<Norm<K>>,
    /// Over each head of k.
    pub k_norm: Option<Norm<K>>,
    /// `[d_model, n_heads · d_head]`.
    pub o: Linear<K>,
    /// `[d_mlp, d_model]`.
    pub gate: Option<Linear<K>>,
    /// `[d_mlp, d_model]`.
    pub up: Linear<K>,
    /// `[d_model, d_mlp]`.
    pub down: Linear<K>,
}

/// A model ready to run on backend `K`.
pub struct Model<K: Kernels> {
    /// Shape and wiring.
    pub spec: ModelSpec,
    /// `[vocab, d_embed]`.
    pub embed: Param<K::W>,
    /// `[n_ctx + offset, d_model]`.
    pub pos_embed: Option<Param<K::W>>,
    /// OPT-350m: `[d_model, d_embed]`.
    pub project_in: Option<Linear<K>>,
    /// OPT-350m: `[d_embed, d_model]`.
    pub project_out: Option<Linear<K>>,
    /// The blocks.
    pub blocks: Vec<Block<K>>,
    /// Before the unembedding.
    pub ln_final: Option<Norm<K>>,
    /// `[vocab, d_embed]`; shares the embedding where tied.
    pub unembed: Linear<K>,
    /// Every parameter, by id.
    pub params: Vec<ParamInfo>,
    pub(crate) rope: RopeCache,
}

struct Loader<'a, K: Kernels> {
    checkpoint: &'a Checkpoint,
    kernels: &'a mut K,
    params: Vec<ParamInfo>,
}

impl<K: Kernels> Loader<'_, K> {
    fn param<X>(&mut self, part: Part, layer: usize, which: Which, value: X) -> Param<X> {
        let id = ParamId(self.params.len() as u32);
        self.params.push(ParamInfo { id, part, layer, which });
        Param { id, value: Arc::new(value) }
    }

    fn matrix(&mut self, part: Part, layer: usize) -> Result<Option<Param<K::W>>, LoadError> {
        let Some(source) = self.checkpoint.matrix(part, layer)? else { return Ok(None) };
        let packed = self.kernels.pack(&source).map_err(|e| LoadError::pack(self.checkpoint.path(), e))?;
        let stored = source.name.to_owned();
        // What was packed is not needed again; a file larger than memory can be loaded this way.
        self.checkpoint.release(&stored);
        Ok(Some(self.param(part, layer, Which::Weight, packed)))
    }

    fn vector(&mut self, part: Part, layer: usize, which: Which) -> Result<Option<Param<K::Buf>>, LoadError> {
        let Some(v) = self.checkpoint.vector(part, layer, which)? else { return Ok(None) };
        if let Some(i) = v.iter().position(|x| !x.is_finite()) {
            return Err(LoadError::pack(
                self.checkpoint.path(),
                refocus_compute::Error::Source {
                    name: format!("{part:?} {which:?} of block {layer}"),
                    why: format!("value {i} is {}", v[i]),
                },
            ));
        }
        let buf =
            self.kernels.upload(1, v.len(), &v).map_err(|e| LoadError::pack(self.checkpoint.path(), e))?;
        Ok(Some(self.param(part, layer, which, buf)))
    }

    fn linear(&mut self, part: Part, layer: usize) -> Result<Option<Linear<K>>, LoadError> {
        let Some(w) = self.matrix(part, layer)? else { return Ok(None) };
        Ok(Some(Linear { w, bias: self.vector(part, layer, Which::Bias)? }))
    }

    fn need(&mut self, part: Part, layer: usize) -> Result<Linear<K>, LoadError> {
        self.linear(part, layer)?.ok_or_else(|| self.missing(part, layer))
    }

    fn missing(&self, part: Part, layer: usize) -> LoadError {
        LoadError::pack(
            self.checkpoint.path(),
            refocus_compute::Error::Source {
                name: format!("{part:?} of block {layer}"),
                why: "the checkpoint has none".to_owned(),
            },
        )
    }

    fn norm(&mut self, part: Part, layer: usize) -> Result<Option<Norm<K>>, LoadError> {
        let spec = self.checkpoint.spec();
        if !part.exists(spec) {
            return Ok(None);
        }
        let (kind, eps, group) = (spec.norm, spec.norm_eps, part.shape(spec)[0]);
        let gain = self.vector(part, layer, Which::Weight)?;
        let bias = self.vector(part, layer, Which::Bias)?;
        Ok(Some(Norm { kind, eps, group, gain, bias }))
    }
}

impl<K: Kernels> Model<K> {
    /// Packs every parameter of a checkpoint, tensor by tensor; source pages are released as it goes.
    ///
    /// # Errors
    /// A tensor is missing, has another shape than the configuration says, or holds NaN or infinity.
    pub fn load(checkpoint: &Checkpoint, kernels: &mut K) -> Result<Self, LoadError> {
        let spec = checkpoint.spec().clone();
        let mut l = Loader { checkpoint, kernels, params: Vec::new() };
        let embed = l.matrix(Part::Embed, 0)?.ok_or_else(|| l.missing(Part::Embed, 0))?;
        let pos_embed = match spec.positions {
            Positions::Learned { .. } => l.matrix(Part::PosEmbed, 0)?,
            Positions::Rotary { .. } => None,
        };
        let project_in = l.linear(Part::ProjectIn, 0)?;
        let mut blocks = Vec::with_capacity(spec.n_layers);
        for layer in 0..spec.n_layers {
            blocks.push(Block {
                ln1: l.norm(Part::Ln1, layer)?.ok_or_else(|| l.missing(Part::Ln1, layer))?,
                ln2: l.norm(Part::Ln2, layer)?,
                q: l.need(Part::Q, layer)?,
                k: l.need(Part::K, layer)?,
                v: l.need(Part::V, layer)?,
                q_norm: l.norm(Part::QNorm, layer)?,
                k_norm: l.norm(Part::KNorm, layer)?,
                o: l.need(Part::O, layer)?,
                gate: l.linear(Part::Gate, layer)?,
                up: l.need(Part::Up, layer)?,
                down: l.need(Part::Down, layer)?,
            });
        }
        let ln_final = l.norm(Part::FinalNorm, 0)?;
        let project_out = l.linear(Part::ProjectOut, 0)?;
        let unembed = if spec.tied {
            Linear { w: embed.clone(), bias: l.vector(Part::Unembed, 0, Which::Bias)? }
        } else {
            l.need(Part::Unembed, 0)?
        };
        let params = l.params;
        Ok(Self {
            rope: RopeCache::default(),
            spec,
            embed,
            pos_embed,
            project_in,
            project_out,
            blocks,
            ln_final,
            unembed,
            params,
        })
    }
}
