//! Patch files that a run proposes.

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

/// A patch file, with the vectors that it names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposed {
    /// Name without its ending.
    pub name: String,
    /// TOML.
    pub text: String,
    /// Tensors of the file `NAME.safetensors` beside it; empty: it needs none.
    pub vectors: Vec<(String, Vec<f32>)>,
}

impl Proposed {
    /// Its vectors as a safetensors file; `None` where it needs none.
    ///
    /// # Errors
    /// What the format does not allow.
    pub fn tensors(&self) -> Result<Option<Vec<u8>>, SafeTensorError> {
        if self.vectors.is_empty() {
            return Ok(None);
        }
        let bytes = |v: &Vec<f32>| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let all: Vec<(&String, usize, Vec<u8>)> =
            self.vectors.iter().map(|(name, v)| (name, v.len(), bytes(v))).collect();
        let views: Result<Vec<_>, SafeTensorError> =
            all.iter().map(|(name, n, b)| Ok((name, TensorView::new(Dtype::F32, vec![*n], b)?))).collect();
        safetensors::serialize(views?, None).map(Some)
    }
}
