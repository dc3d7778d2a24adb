//! Parameters in memory to a folder that [`Checkpoint::open`](crate::Checkpoint::open) reads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use refocus_compute::Activation;
use serde_json::{Map, Value, json};

use crate::config::{Described, Has, from_json, refocus};
use crate::error::{LoadError, LoadResult};
use crate::names::{Names, Part, Which};
use crate::params::Params;
use crate::spec::{Family, ModelSpec, Positions};

/// Writes `config.json` and `model.safetensors` (f32) into a folder, which is made where it is missing.
/// Models of the Llama family are written as `transformers` writes them, others with
/// `model_type: "refocus"`; a model of another family whose specification has a key there becomes one. A
/// file is complete or not there.
///
/// # Errors
/// The configuration cannot say what the specification says, or the folder cannot be written to.
pub fn save(params: &Params, dir: &Path) -> LoadResult<()> {
    let path = dir.join("config.json");
    let has = optional(params);
    let llama = llama(params.spec(), has).filter(|keys| says(&path, keys, params.spec(), has));
    let (spec, keys) = match llama {
        Some(keys) => (params.spec().clone(), Some(keys)),
        None => {
            let spec = ModelSpec { family: Family::Refocus, ..params.spec().clone() };
            let keys = refocus::write(&spec, has).filter(|keys| says(&path, keys, &spec, has));
            (spec, keys)
        }
    };
    let Some(keys) = keys else {
        let why = "no configuration that is written here can express this model";
        return Err(LoadError::NotAModel { path: dir.to_owned(), why: why.to_owned() });
    };
    fs::create_dir_all(dir).map_err(LoadError::io(dir))?;
    let names = Names::unresolved(&spec);
    let mut tensors: BTreeMap<String, (Vec<usize>, &[f32])> = BTreeMap::new();
    for (part, layer, which, data) in params.iter() {
        let [n, k] = part.shape(&spec);
        let (suffix, shape) = match which {
            Which::Weight if part.is_norm() => (".weight", vec![n]),
            Which::Weight => (".weight", vec![n, k]),
            Which::Bias => (".bias", vec![n]),
        };
        tensors.insert(names.full(part, layer, suffix), (shape, data));
    }
    // First the weights: a folder with a configuration is a whole one.
    let weights = dir.join("model.safetensors");
    write_whole(&weights, |out| safetensors(out, &tensors)).map_err(LoadError::io(&weights))?;
    let mut text = serde_json::to_string_pretty(&keys)
        .map_err(|source| LoadError::Json { path: path.clone(), source })?;
    text.push('\n');
    write_whole(&path, |out| out.write_all(text.as_bytes())).map_err(LoadError::io(&path))
}

/// Whether the reader of configurations makes the same of the keys.
fn says(path: &Path, keys: &Map<String, Value>, spec: &ModelSpec, has: Has) -> bool {
    from_json(path, keys).is_ok_and(|read| read == Described { spec: spec.clone(), has })
}

/// Which optional parameters there are.
fn optional(params: &Params) -> Has {
    let bias = |part| params.get(part, 0, Which::Bias).is_some();
    Has {
        qkv_bias: bias(Part::Q),
        out_bias: bias(Part::O),
        mlp_bias: bias(Part::Up),
        unembed_bias: bias(Part::Unembed),
        gain: true,
        norm_bias: bias(Part::Ln1) || bias(Part::FinalNorm),
    }
}

/// The keys of `transformers` for what looks like a Llama; whether they say the same must be checked.
fn llama(spec: &ModelSpec, has: Has) -> Option<Map<String, Value>> {
    let Positions::Rotary { base, scaling: None, .. } = spec.positions else { return None };
    if spec.family != Family::Llama {
        return None;
    }
    let keys = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": spec.n_layers,
        "hidden_size": spec.d_model,
        "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_kv_heads,
        "head_dim": spec.d_head,
        "intermediate_size": spec.d_mlp,
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.n_ctx,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": base,
        "hidden_act": match spec.act {
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            Activation::Silu => "silu",
        },
        "attention_bias": has.qkv_bias,
        "mlp_bias": has.mlp_bias,
        "tie_word_embeddings": spec.tied,
        "bos_token_id": spec.bos,
        "eos_token_id": spec.eos,
        "torch_dtype": "float32",
    });
    if let Value::Object(keys) = keys { Some(keys) } else { None }
}

fn safetensors(out: &mut dyn Write, tensors: &BTreeMap<String, (Vec<usize>, &[f32])>) -> io::Result<()> {
    let mut at = 0;
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for (name, (shape, data)) in tensors {
        let start = at;
        at += data.len() * 4;
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, at]}));
    }
    let mut header = serde_json::to_vec(&header)?;
    // The data begins at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, data) in tensors.values() {
        for part in data.chunks(1 << 14) {
            let bytes: Vec<u8> = part.iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}

/// Writes a file beside its place, brings it to the disk, and moves it there. Whatever fails, what stood
/// there before still does, and nothing else is left behind.
///
/// # Errors
/// What `fill` or the file system reports.
pub fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let attempt = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        drop(out);
        fs::rename(&temporary, path)
    };
    let result = attempt();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result?;
    // The new name itself must survive a power cut too; not every system lets folders be synced.
    if let Some(folder) = path.parent().and_then(|p| File::open(p).ok()) {
        let _ = folder.sync_all();
    }
    Ok(())
}
