//! What the tests of this crate build checkpoints from.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};

/// A committed fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Names of the fixtures that exist and hold `file`.
pub(crate) fn fixtures_with(file: &str) -> Vec<String> {
    let entries = fs::read_dir(fixture("")).unwrap().map(|e| e.unwrap().path());
    let mut names: Vec<_> = entries
        .filter(|p| p.join(file).is_file())
        .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// A folder that is removed in the end.
pub(crate) struct Temp(PathBuf);

impl Temp {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("refocus-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file of a header and the bytes after it.
pub(crate) fn safetensors_raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A safetensors file of f32 tensors whose values count upwards, each from its own number on.
pub(crate) fn safetensors(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (i, (name, shape)) in tensors.iter().enumerate() {
        let from = data.len();
        for j in 0..shape.iter().product() {
            data.extend(((i * 1000 + j) as f32).to_le_bytes());
        }
        let info = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
        header.insert((*name).to_owned(), info);
    }
    safetensors_raw(&Value::Object(header).to_string(), &data)
}

/// The tensors of a Llama model of one block without its prefix: width 4, two heads, one key/value head,
/// an MLP of 6, a vocabulary of 5.
pub(crate) const LLAMA: [(&str, &[usize]); 11] = [
    ("embed_tokens.weight", &[5, 4]),
    ("layers.0.input_layernorm.weight", &[4]),
    ("layers.0.self_attn.q_proj.weight", &[4, 4]),
    ("layers.0.self_attn.k_proj.weight", &[2, 4]),
    ("layers.0.self_attn.v_proj.weight", &[2, 4]),
    ("layers.0.self_attn.o_proj.weight", &[4, 4]),
    ("layers.0.post_attention_layernorm.weight", &[4]),
    ("layers.0.mlp.gate_proj.weight", &[6, 4]),
    ("layers.0.mlp.up_proj.weight", &[6, 4]),
    ("layers.0.mlp.down_proj.weight", &[4, 6]),
    ("norm.weight", &[4]),
];

/// The configuration of [`LLAMA`], with changes; `null` removes a key.
pub(crate) fn llama_config(changes: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": 1, "vocab_size": 5, "max_position_embeddings": 8,
        "tie_word_embeddings": true,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A folder with that model, its tensors changed by `edit`.
pub(crate) fn llama_folder(changes: Value, edit: impl FnOnce(&mut Vec<(String, Vec<usize>)>)) -> Temp {
    let mut tensors: Vec<_> = LLAMA.iter().map(|(n, s)| (format!("model.{n}"), s.to_vec())).collect();
    edit(&mut tensors);
    let borrowed: Vec<_> = tensors.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    let temp = Temp::new();
    temp.write("config.json", llama_config(changes).to_string());
    temp.write("model.safetensors", safetensors(&borrowed));
    temp
}

/// Writes a GGUF file piece by piece.
#[derive(Clone, Default)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    keys: Vec<u8>,
    n_keys: u64,
    tensors: Vec<u8>,
    n_tensors: u64,
    data: Vec<u8>,
}

impl Gguf {
    pub(crate) fn new() -> Self {
        Self { version: 3, ..Self::default() }
    }

    fn string(out: &mut Vec<u8>, s: &str) {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    }

    /// A key of any type with its stored bytes.
    pub(crate) fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        Self::string(&mut self.keys, name);
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(value);
        self.n_keys += 1;
        self
    }

    pub(crate) fn u32(self, name: &str, value: u32) -> Self {
        self.key(name, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, name: &str, value: f32) -> Self {
        self.key(name, 6, &value.to_le_bytes())
    }

    pub(crate) fn flag(self, name: &str, value: bool) -> Self {
        self.key(name, 7, &[value.into()])
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        let mut bytes = Vec::new();
        Self::string(&mut bytes, value);
        self.key(name, 8, &bytes)
    }

    pub(crate) fn texts(self, name: &str, values: &[&str]) -> Self {
        let mut bytes = [8u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| Self::string(&mut bytes, v));
        self.key(name, 9, &bytes)
    }

    pub(crate) fn ints(self, name: &str, values: &[i32]) -> Self {
        let mut bytes = [5u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        self.key(name, 9, &bytes)
    }

    /// An entry of the tensor table as it stands; dimensions innermost first.
    pub(crate) fn entry(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        Self::string(&mut self.tensors, name);
        self.tensors.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.tensors.extend(d.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.n_tensors += 1;
        self
    }

    /// Bytes after the header.
    pub(crate) fn data(mut self, bytes: &[u8]) -> Self {
        self.data.extend(bytes);
        self
    }

    /// An f32 tensor, shape outermost first, its values counting upwards from `first`.
    pub(crate) fn f32s(mut self, name: &str, shape: &[usize], first: usize) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        let dims: Vec<u64> = shape.iter().rev().map(|&d| d as u64).collect();
        for i in 0..shape.iter().product() {
            self.data.extend(((first + i) as f32).to_le_bytes());
        }
        self.entry(name, &dims, 0, offset)
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        self.build_with(self.n_tensors, self.n_keys)
    }

    /// With other counts than the true ones.
    pub(crate) fn build_with(&self, n_tensors: u64, n_keys: u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(n_tensors.to_le_bytes());
        out.extend(n_keys.to_le_bytes());
        out.extend(&self.keys);
        out.extend(&self.tensors);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

/// The head of a tiny Llama GGUF: keys, no tensors.
pub(crate) fn llama_keys() -> Gguf {
    Gguf::new()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 8)
        .u32("llama.embedding_length", 8)
        .u32("llama.feed_forward_length", 6)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .texts("tokenizer.ggml.tokens", &["a", "b", "ab", "<s>"])
}

/// The tensors of [`llama_keys`]: name, shape and first value.
pub(crate) const LLAMA_GGUF: [(&str, &[usize], usize); 11] = [
    ("token_embd.weight", &[4, 8], 0),
    ("blk.0.attn_norm.weight", &[8], 100),
    ("blk.0.attn_q.weight", &[8, 8], 200),
    ("blk.0.attn_k.weight", &[4, 8], 300),
    ("blk.0.attn_v.weight", &[4, 8], 400),
    ("blk.0.attn_output.weight", &[8, 8], 500),
    ("blk.0.ffn_norm.weight", &[8], 600),
    ("blk.0.ffn_gate.weight", &[6, 8], 700),
    ("blk.0.ffn_up.weight", &[6, 8], 800),
    ("blk.0.ffn_down.weight", &[8, 6], 900),
    ("output_norm.weight", &[8], 1000),
];

/// Adds them.
pub(crate) fn llama_tensors(gguf: Gguf) -> Gguf {
    LLAMA_GGUF.iter().fold(gguf, |g, (name, shape, first)| g.f32s(name, shape, *first))
}
