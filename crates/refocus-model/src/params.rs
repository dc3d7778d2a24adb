//! A model's parameters as plain numbers in memory: what an optimizer changes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use refocus_compute::{Dtype, Error, MatrixSource};

use crate::checkpoint::Checkpoint;
use crate::error::{LoadError, LoadResult};
use crate::names::{Part, Which};
use crate::spec::ModelSpec;
use crate::weights::{ParamSource, param_name};

/// What errors name in place of a file.
const ORIGIN: &str = "(parameters in memory)";

/// One parameter's values.
#[derive(Clone, Debug, PartialEq)]
struct Values {
    /// How errors name it.
    label: String,
    /// A matrix `[n_out, n_in]` row-major, a vector `[n_out]`.
    data: Vec<f32>,
}

/// Parameters of one model as f32, by part, block and kind. Whether the model has a certain bias is
/// decided by whether it is here.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    spec: ModelSpec,
    values: BTreeMap<(Part, usize, Which), Values>,
}

impl Params {
    /// No parameters yet.
    pub fn new(spec: ModelSpec) -> Self {
        Self { spec, values: BTreeMap::new() }
    }

    /// All parameters of a checkpoint, decoded exactly.
    ///
    /// # Errors
    /// As for [`Checkpoint::matrix`].
    pub fn read(checkpoint: &Checkpoint) -> LoadResult<Self> {
        let mut params = Self::new(checkpoint.spec().clone());
        let blocks = (0..params.spec.n_layers).flat_map(|l| Part::BLOCK.map(|p| (p, l)));
        for (part, layer) in Part::GLOBAL.map(|p| (p, 0)).into_iter().chain(blocks) {
            if let Some(source) = checkpoint.matrix(part, layer)? {
                let (n, k) = source.shape();
                let mut data = vec![0.0; n * k];
                for (i, row) in data.chunks_exact_mut(k.max(1)).enumerate() {
                    source.row_f32(i, row);
                }
                params.insert(part, layer, Which::Weight, data)?;
            }
            for which in [Which::Weight, Which::Bias] {
                if let Some(data) = checkpoint.vector(part, layer, which)? {
                    params.insert(part, layer, which, data)?;
                }
            }
        }
        Ok(params)
    }

    /// Adds or replaces a parameter.
    ///
    /// # Errors
    /// The model has no such part, or another number of values is needed.
    pub fn insert(&mut self, part: Part, layer: usize, which: Which, data: Vec<f32>) -> LoadResult<()> {
        let label = param_name(part, layer, which);
        let [n, k] = part.shape(&self.spec);
        let want = if which == Which::Weight { n * k } else { n };
        let blocks = if Part::GLOBAL.contains(&part) { 1 } else { self.spec.n_layers };
        // A tied model may have a bias of its unembedding.
        let exists = part.exists(&self.spec) || (part == Part::Unembed && which == Which::Bias);
        let why = if !exists || layer >= blocks {
            "the model has no such part".to_owned()
        } else if data.len() != want {
            format!("{} values, the specification asks for {want}", data.len())
        } else {
            self.values.insert((part, layer, which), Values { label, data });
            return Ok(());
        };
        Err(LoadError::pack(Path::new(ORIGIN), Error::Source { name: label, why }))
    }

    /// The model they belong to.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// A parameter's values.
    pub fn get(&self, part: Part, layer: usize, which: Which) -> Option<&[f32]> {
        self.values.get(&(part, layer, which)).map(|v| v.data.as_slice())
    }

    /// A parameter's values.
    pub fn get_mut(&mut self, part: Part, layer: usize, which: Which) -> Option<&mut [f32]> {
        self.values.get_mut(&(part, layer, which)).map(|v| v.data.as_mut_slice())
    }

    /// Every parameter, in one fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (Part, usize, Which, &[f32])> {
        self.values.iter().map(|(&(part, layer, which), v)| (part, layer, which, v.data.as_slice()))
    }

    /// The values in the order of [`Params::iter`].
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.values.values_mut().map(|v| v.data.as_mut_slice())
    }

    /// How many numbers they are.
    pub fn count(&self) -> usize {
        self.values.values().map(|v| v.data.len()).sum()
    }
}

impl ParamSource for Params {
    fn origin(&self) -> &Path {
        Path::new(ORIGIN)
    }

    fn matrix(&self, part: Part, layer: usize) -> LoadResult<Option<MatrixSource<'_>>> {
        if part.is_norm() {
            return Ok(None);
        }
        let [n, k] = part.shape(&self.spec);
        let values = self.values.get(&(part, layer, Which::Weight));
        Ok(values.map(|v| MatrixSource::from_f32(&v.label, n, k, &v.data)))
    }

    fn vector(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Cow<'_, [f32]>>> {
        if !part.is_norm() && which == Which::Weight {
            return Ok(None);
        }
        Ok(self.get(part, layer, which).map(Cow::Borrowed))
    }

    fn stored(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Dtype>> {
        Ok(self.get(part, layer, which).map(|_| Dtype::F32))
    }
}
