//! Which tensors go into which file, and the heads of those files.

use serde_json::{Map, Value, json};

use super::values::Float;
use crate::names::target::Target;

/// A tensor and the type in which it is written.
pub(super) struct Tensor {
    pub(super) target: Target,
    pub(super) float: Float,
}

impl Tensor {
    pub(super) fn bytes(&self) -> u64 {
        self.target.shape.iter().map(|&d| d as u64).product::<u64>() * self.float.bytes() as u64
    }
}

/// A weights file.
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) tensors: std::ops::Range<usize>,
}

/// Tensors in order, a new file where the next one would make it larger than `most`. A tensor is never
/// divided. One file is `model.safetensors`, several are numbered.
pub(super) fn divide(tensors: &[Tensor], most: u64) -> Vec<Shard> {
    let mut starts = vec![0];
    let mut size = 0u64;
    for (i, t) in tensors.iter().enumerate() {
        if size > 0 && size.saturating_add(t.bytes()) > most {
            starts.push(i);
            size = 0;
        }
        size = size.saturating_add(t.bytes());
    }
    let count = starts.len();
    let ends = starts.iter().skip(1).copied().chain([tensors.len()]);
    let name = |i: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    starts
        .iter()
        .zip(ends)
        .enumerate()
        .map(|(i, (&from, to))| Shard { name: name(i), tensors: from..to })
        .collect()
}

/// What precedes the tensors' bytes: the length of the header and the header.
pub(super) fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut map = Map::new();
    // Readers of `transformers` before 5 insist on it.
    map.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for t in tensors {
        let end = at + t.bytes();
        let info = json!({"dtype": t.float.tag(), "shape": t.target.shape, "data_offsets": [at, end]});
        map.insert(t.target.name.clone(), info);
        at = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    // The data begins at a multiple of eight bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    [(text.len() as u64).to_le_bytes().as_slice(), &text].concat()
}

/// `model.safetensors.index.json` of several shards.
pub(super) fn index(shards: &[Shard], tensors: &[Tensor]) -> Value {
    let mut map = Map::new();
    for shard in shards {
        for t in &tensors[shard.tensors.clone()] {
            map.insert(t.target.name.clone(), shard.name.as_str().into());
        }
    }
    let total: u64 = tensors.iter().map(Tensor::bytes).sum();
    json!({"metadata": {"total_size": total}, "weight_map": map})
}
