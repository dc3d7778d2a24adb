//! A run's checkpoint: one safetensors file with parameters, the optimizer's moments, the step and the
//! configuration. The same state gives the same bytes.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use refocus_results::atomic::write_whole;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::error::{Result, TrainError};
use crate::trainer::Trainer;
use crate::weights::Weights;
use refocus_compute::Kernels;

/// What tells this kind of file from other safetensors files.
const FORMAT: &str = "refocus training checkpoint 1";
/// The only key of the file's metadata, so that its order is fixed.
const KEY: &str = "refocus";
/// What precedes a parameter's name: its value, first and second moment.
const KINDS: [&str; 3] = ["parameter", "moment 1", "moment 2"];

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    step: u32,
    config_hash: String,
    config: String,
    /// Of a world's texts and tokens, which no configuration says; absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    texts: Option<String>,
}

/// What a checkpoint holds.
pub struct Saved {
    /// Steps taken.
    pub step: u32,
    /// Of the run that wrote it.
    pub config: RunConfig,
    /// Hash of the texts of the world that it learned from, where it did.
    pub(crate) texts: Option<String>,
    /// Values, first and second moments of every parameter, in the order of the weights.
    pub(crate) values: [Vec<Vec<f32>>; 3],
    weights: Weights,
}

impl Saved {
    /// The parameters.
    pub fn into_weights(mut self) -> Weights {
        for (x, value) in self.weights.values_mut().into_iter().zip(&self.values[0]) {
            x.copy_from_slice(value);
        }
        self.weights
    }
}

fn unusable(path: &Path, why: impl ToString) -> TrainError {
    TrainError::Checkpoint { path: path.to_owned(), why: why.to_string() }
}

/// Little-endian bytes.
fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Saves a trainer's state. A failed attempt leaves the file that was there.
pub(crate) fn save<K: Kernels>(
    path: &Path,
    t: &Trainer<K>,
    config: &RunConfig,
    texts: Option<&str>,
) -> Result<()> {
    let head = Head {
        format: FORMAT.to_owned(),
        step: t.steps(),
        config_hash: config.hash()?,
        config: config.to_toml()?,
        texts: texts.map(str::to_owned),
    };
    let mut tensors = Vec::new();
    for ((name, x), (m, v)) in t.weights().values().zip(t.optimizer().moments()) {
        for (kind, x) in KINDS.into_iter().zip([x, m, v]) {
            tensors.push((format!("{kind}: {name}"), bytes(x)));
        }
    }
    let failed = |source: io::Error| TrainError::Write { path: path.to_owned(), step: t.steps(), source };
    let head = serde_json::to_string(&head).map_err(|e| failed(e.into()))?;
    let views = tensors
        .iter()
        .map(|(name, data)| Ok((name, TensorView::new(Dtype::F32, vec![data.len() / 4], data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let file = views
        .and_then(|views| safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), head)]))))
        .map_err(|e| failed(io::Error::other(e)))?;
    write_whole(path, &file).map_err(failed)
}

/// Reads a checkpoint.
///
/// # Errors
/// No such file, another kind of file, a damaged one, or one whose tensors are not those of its
/// configuration.
pub fn load(path: &Path) -> Result<Saved> {
    let file = std::fs::read(path).map_err(|source| TrainError::Read { path: path.to_owned(), source })?;
    let (_, meta) = SafeTensors::read_metadata(&file).map_err(|e| unusable(path, e))?;
    let head = meta.metadata().as_ref().and_then(|m| m.get(KEY));
    let head = head.ok_or_else(|| unusable(path, "it is no checkpoint of a training run"))?;
    let head: Head = serde_json::from_str(head).map_err(|e| unusable(path, e))?;
    if head.format != FORMAT {
        return Err(unusable(path, format!("its format is '{}', not '{FORMAT}'", head.format)));
    }
    let config = RunConfig::parse(&head.config).map_err(|e| unusable(path, e))?;
    config.check().map_err(|e| unusable(path, e))?;
    let tensors = SafeTensors::deserialize(&file).map_err(|e| unusable(path, e))?;
    let weights = config.init()?;
    let mut values = [Vec::new(), Vec::new(), Vec::new()];
    for (name, x) in weights.values() {
        for (kind, values) in KINDS.into_iter().zip(&mut values) {
            let name = format!("{kind}: {name}");
            let t = tensors.tensor(&name).map_err(|e| unusable(path, format!("{name}: {e}")))?;
            if t.dtype() != Dtype::F32 || t.data().len() != 4 * x.len() {
                return Err(unusable(path, format!("{name}: it does not have {} f32 values", x.len())));
            }
            let data: Vec<f32> = t.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if let Some(at) = data.iter().position(|x| !x.is_finite()) {
                return Err(unusable(path, format!("{name}: value {at} is {}", data[at])));
            }
            values.push(data);
        }
    }
    if tensors.len() != KINDS.len() * values[0].len() {
        return Err(unusable(path, "it holds tensors that its configuration does not know"));
    }
    Ok(Saved { step: head.step, config, texts: head.texts, values, weights })
}

/// Where a run keeps its checkpoint.
pub fn checkpoint_path(dir: &Path) -> PathBuf {
    dir.join("checkpoint.safetensors")
}
