//! A model's parameters, packed for a backend.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use refocus_compute::{Dtype, Kernels, Linear, MatrixSource, Norm, Param, ParamId};

use crate::checkpoint::{Checkpoint, Stored};
use crate::error::{LoadError, LoadResult};
use crate::names::{Part, Which};
use crate::positions::constant_table;
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
    /// Before attention (after it in post-norm blocks); absent in blocks without norms.
    pub ln1: Option<Norm<K>>,
    /// Before the MLP (after it in post-norm blocks); absent where the MLP reads `ln1`, and in blocks without
    /// norms.
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
    /// `[n_ctx + offset, d_model]`, learned or constant ([`ParamId::CONSTANT`]).
    pub pos_embed: Option<Param<K::W>>,
    /// `[buckets, n_heads]`.
    pub rel_bias: Option<Param<K::W>>,
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

/// Where a model's parameters come from: a [`Checkpoint`], or [`crate::Params`] in memory.
pub trait ParamSource {
    /// What errors name: a file, a folder, or words in brackets.
    fn origin(&self) -> &Path;
    /// A weight `[n_out, n_in]` ([`Part::shape`]); `None` where there is none.
    fn matrix(&self, part: Part, layer: usize) -> LoadResult<Option<MatrixSource<'_>>>;
    /// Gain or bias of a norm, or bias of a linear map, `[n_out]`; `None` where there is none.
    fn vector(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Cow<'_, [f32]>>>;
    /// The type in which a parameter is stored; `None` where there is none.
    fn stored(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Dtype>>;
    /// Says that the matrix of this name has been packed and is not read again.
    fn packed(&self, _name: &str) {}
}

impl ParamSource for Checkpoint {
    fn origin(&self) -> &Path {
        self.path()
    }

    fn matrix(&self, part: Part, layer: usize) -> LoadResult<Option<MatrixSource<'_>>> {
        self.matrix(part, layer)
    }

    fn vector(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Cow<'_, [f32]>>> {
        Ok(self.vector(part, layer, which)?.map(Cow::Owned))
    }

    fn stored(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Dtype>> {
        let Some(at) = self.location(part, layer, which)? else { return Ok(None) };
        Ok(match self.entries().get(at.name).map(|e| e.dtype) {
            Some(Stored::Known(dtype)) => Some(dtype),
            _ => None,
        })
    }

    /// A file larger than memory can be loaded this way.
    fn packed(&self, name: &str) {
        self.release(name);
    }
}

struct Loader<'a, K: Kernels, S> {
    spec: &'a ModelSpec,
    source: &'a S,
    kernels: &'a mut K,
    params: Vec<ParamInfo>,
}

/// A parameter in words, such as `Up Bias of block 3`. No two have the same.
pub fn param_name(part: Part, layer: usize, which: Which) -> String {
    if Part::GLOBAL.contains(&part) {
        return format!("{part:?} {which:?}");
    }
    format!("{part:?} {which:?} of block {layer}")
}

impl<K: Kernels, S: ParamSource> Loader<'_, K, S> {
    fn param<X>(&mut self, part: Part, layer: usize, which: Which, value: X) -> Param<X> {
        let id = ParamId(self.params.len() as u32);
        self.params.push(ParamInfo { id, part, layer, which });
        Param { id, value: Arc::new(value) }
    }

    fn refused(&self, source: refocus_compute::Error) -> LoadError {
        LoadError::pack(self.source.origin(), source)
    }

    fn wrong(&self, part: Part, layer: usize, which: Which, why: String) -> LoadError {
        self.refused(refocus_compute::Error::Source { name: param_name(part, layer, which), why })
    }

    fn missing(&self, part: Part, layer: usize) -> LoadError {
        self.wrong(part, layer, Which::Weight, "there is none, but the model needs it".to_owned())
    }

    fn matrix(&mut self, part: Part, layer: usize) -> LoadResult<Option<Param<K::W>>> {
        let Some(source) = self.source.matrix(part, layer)? else { return Ok(None) };
        let ([n, k], got) = (part.shape(self.spec), source.shape());
        if got != (n, k) {
            let why = format!("shape [{}, {}], the specification asks for [{n}, {k}]", got.0, got.1);
            return Err(self.wrong(part, layer, Which::Weight, why));
        }
        let packed = self.kernels.pack(&source).map_err(|e| self.refused(e))?;
        self.source.packed(source.name);
        Ok(Some(self.param(part, layer, Which::Weight, packed)))
    }

    fn vector(&mut self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Param<K::Buf>>> {
        let Some(v) = self.source.vector(part, layer, which)? else { return Ok(None) };
        let n = part.shape(self.spec)[0];
        if v.len() != n {
            let why = format!("{} values, the specification asks for {n}", v.len());
            return Err(self.wrong(part, layer, which, why));
        }
        if let Some(i) = v.iter().position(|x| !x.is_finite()) {
            return Err(self.wrong(part, layer, which, format!("value {i} is {}", v[i])));
        }
        let buf = self.kernels.upload(1, n, &v).map_err(|e| self.refused(e))?;
        Ok(Some(self.param(part, layer, which, buf)))
    }

    fn constant_positions(&mut self) -> LoadResult<Option<Param<K::W>>> {
        let Some(table) = constant_table(self.spec) else { return Ok(None) };
        let source = MatrixSource::from_f32("positions", self.spec.n_ctx, self.spec.d_model, &table);
        let packed = self.kernels.pack(&source).map_err(|e| self.refused(e))?;
        Ok(Some(Param { id: ParamId::CONSTANT, value: Arc::new(packed) }))
    }

    fn linear(&mut self, part: Part, layer: usize) -> LoadResult<Option<Linear<K>>> {
        let Some(w) = self.matrix(part, layer)? else { return Ok(None) };
        Ok(Some(Linear { w, bias: self.vector(part, layer, Which::Bias)? }))
    }

    fn need(&mut self, part: Part, layer: usize) -> LoadResult<Linear<K>> {
        self.linear(part, layer)?.ok_or_else(|| self.missing(part, layer))
    }

    /// A linear map that some models have.
    fn part(&mut self, part: Part, layer: usize) -> LoadResult<Option<Linear<K>>> {
        if part.exists(self.spec) { self.need(part, layer).map(Some) } else { Ok(None) }
    }

    fn norm(&mut self, part: Part, layer: usize) -> LoadResult<Option<Norm<K>>> {
        let spec = self.spec;
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
    pub fn load(checkpoint: &Checkpoint, kernels: &mut K) -> LoadResult<Self> {
        Self::from_params(checkpoint.spec(), kernels, checkpoint)
    }

    /// Packs every parameter that `spec` asks for. Ids follow from the specification and from which
    /// biases and gains there are, so models built from the same kind of parameters have the same ids.
    ///
    /// # Errors
    /// A parameter is missing, has another shape than `spec` says, or holds NaN or infinity.
    pub fn from_params(spec: &ModelSpec, kernels: &mut K, source: &impl ParamSource) -> LoadResult<Self> {
        let mut l = Loader { spec, source, kernels, params: Vec::new() };
        let embed = l.matrix(Part::Embed, 0)?.ok_or_else(|| l.missing(Part::Embed, 0))?;
        let pos_embed = match spec.positions {
            Positions::Learned { .. } => {
                Some(l.matrix(Part::PosEmbed, 0)?.ok_or_else(|| l.missing(Part::PosEmbed, 0))?)
            }
            _ => l.constant_positions()?,
        };
        let rel_bias = match spec.positions {
            Positions::T5 { .. } => {
                Some(l.matrix(Part::RelBias, 0)?.ok_or_else(|| l.missing(Part::RelBias, 0))?)
            }
            _ => None,
        };
        let project_in = l.part(Part::ProjectIn, 0)?;
        let mut blocks = Vec::with_capacity(spec.n_layers);
        for layer in 0..spec.n_layers {
            blocks.push(Block {
                ln1: l.norm(Part::Ln1, layer)?,
                ln2: l.norm(Part::Ln2, layer)?,
                q: l.need(Part::Q, layer)?,
                k: l.need(Part::K, layer)?,
                v: l.need(Part::V, layer)?,
                q_norm: l.norm(Part::QNorm, layer)?,
                k_norm: l.norm(Part::KNorm, layer)?,
                o: l.need(Part::O, layer)?,
                gate: l.part(Part::Gate, layer)?,
                up: l.need(Part::Up, layer)?,
                down: l.need(Part::Down, layer)?,
            });
        }
        let ln_final = l.norm(Part::FinalNorm, 0)?;
        let project_out = l.part(Part::ProjectOut, 0)?;
        let unembed = if spec.tied {
            Linear { w: embed.clone(), bias: l.vector(Part::Unembed, 0, Which::Bias)? }
        } else {
            l.need(Part::Unembed, 0)?
        };
        let params = l.params;
        Ok(Self {
            rope: RopeCache::default(),
            spec: spec.clone(),
            embed,
            pos_embed,
            rel_bias,
            project_in,
            project_out,
            blocks,
            ln_final,
            unembed,
            params,
        })
    }
}
