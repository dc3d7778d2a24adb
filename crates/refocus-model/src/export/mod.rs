//! A model as a folder in Hugging Face layout. `transformers` loads all families but
//! [`crate::Family::Refocus`], whose folders only refocus reads.
//!
//! Weights come from any [`ParamSource`] and are written one tensor at a time; the configuration is the
//! checkpoint's own or follows from the specification; the tokenizer's files come along. The folder is
//! complete or not there: nothing stands under its name before everything is on the disk and has been
//! opened again.

mod bake;
mod config;
mod error;
mod llama3;
mod shards;
mod staging;
#[cfg(test)]
mod tests;
mod values;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use self::config::Configured;
use self::shards::{Shard, Tensor};
use self::staging::{Comparison, Sink, Staging};
use self::values::Float;
use crate::checkpoint::Checkpoint;
use crate::config::{Described, Has};
use crate::names::target::{Target, targets};
use crate::names::{Part, Which};
use crate::spec::ModelSpec;
use crate::weights::ParamSource;

pub use self::bake::Baked;
pub use self::error::{ExportError, ExportResult};

/// The type in which weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As stored; quantised weights as f32, which holds their values exactly.
    #[default]
    Keep,
    /// f32.
    F32,
    /// IEEE half, rounded to the nearest, ties to even. A weight beyond its range is an error.
    F16,
    /// bfloat16, rounded to the nearest, ties to even.
    Bf16,
}

/// A file beside the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// Name, perhaps in one folder: `chat_template.jinja`.
    pub name: String,
    /// Content.
    pub bytes: Vec<u8>,
}

/// A model to be written as a folder.
pub struct Export<'a> {
    described: Described,
    source: &'a dyn ParamSource,
    config: Map<String, Value>,
    beside: Vec<Beside>,
    /// The model's own file or folder, which is never written into or over.
    origin: Option<PathBuf>,
    precision: Precision,
    max_shard: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The folder was there already, byte for byte, and has not been touched.
    pub already: bool,
    /// Files in the order of their names, with their bytes.
    pub files: Vec<(String, u64)>,
    /// Number of tensors.
    pub tensors: usize,
    /// Type of the weights as configurations spell it; `float32` where tensors differ.
    pub dtype: &'static str,
    /// Fingerprint of the new folder.
    pub fingerprint: String,
}

/// Called with the bytes of weights done and to be done.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

impl<'a> Export<'a> {
    /// Largest weights file where nothing else is said: 5 GB.
    pub const MAX_SHARD: u64 = 5_000_000_000;

    /// A checkpoint as it is. A folder keeps its `config.json`, its `generation_config.json` and the files
    /// of its tokenizer; those of a GGUF file are made from its metadata.
    ///
    /// # Errors
    /// Something that the file says has no place in such a folder; its tokenizer cannot be built.
    pub fn of(checkpoint: &'a Checkpoint) -> ExportResult<Self> {
        let mut export = match checkpoint.config() {
            None => Self::new(checkpoint.spec(), checkpoint)?,
            Some(config) => {
                let described = checkpoint.described().clone();
                let mut config = config.clone();
                // A file may hold an unembedding of its own although its configuration ties it. Not every
                // version of every reader looks.
                if config.get("tie_word_embeddings").is_some_and(|t| t == true) && !described.spec.tied {
                    config.insert("tie_word_embeddings".to_owned(), false.into());
                }
                Self::bare(described, checkpoint, config)
            }
        };
        export.origin = Some(checkpoint.path().to_owned());
        export.beside(checkpoint.beside()?);
        Ok(export)
    }

    /// A model from parameters in memory, without a tokenizer.
    ///
    /// # Errors
    /// The family's `config.json` cannot say what the specification says.
    pub fn new(spec: &ModelSpec, source: &'a dyn ParamSource) -> ExportResult<Self> {
        let Configured { described, keys } = config::configure(spec, found(spec, source)?)?;
        Ok(Self::bare(described, source, keys))
    }

    fn bare(described: Described, source: &'a dyn ParamSource, config: Map<String, Value>) -> Self {
        Self {
            described,
            source,
            config,
            beside: Vec::new(),
            origin: None,
            precision: Precision::Keep,
            max_shard: Self::MAX_SHARD,
        }
    }

    /// Adds files, such as [`Checkpoint::beside`] of the checkpoint that parameters in memory came from.
    pub fn beside(&mut self, files: Vec<Beside>) -> &mut Self {
        self.beside.extend(files);
        self
    }

    /// The type in which weights are written.
    pub fn precision(&mut self, precision: Precision) -> &mut Self {
        self.precision = precision;
        self
    }

    /// Weights are divided into files of at most so many bytes; a single tensor may be larger.
    pub fn max_shard(&mut self, bytes: u64) -> &mut Self {
        self.max_shard = bytes;
        self
    }

    /// Writes the folder. One that is there already with the same bytes is left alone; one that holds
    /// something else is refused, or replaced with `force`.
    ///
    /// # Errors
    /// See [`ExportError`]. Nothing is left half-written, whatever happens.
    pub fn write(&self, dir: &Path, force: bool, progress: &mut Progress<'_>) -> ExportResult<Written> {
        self.check_place(dir)?;
        let tensors = self.tensors()?;
        let shards = shards::divide(&tensors, self.max_shard);
        let dtype = dtype(&tensors);
        let files = self.files(&shards, &tensors, dtype);
        let written = |folder: &Path, already| {
            let spec = &self.described.spec;
            let opened = Checkpoint::open(folder).map_err(ExportError::Reopened)?;
            if opened.spec() != spec {
                return Err(ExportError::inexpressible(spec.family, "the folder would be another model"));
            }
            Ok(Written {
                already,
                files: listed(&files, &shards, &tensors),
                tensors: tensors.len(),
                dtype: dtype.word(),
                fingerprint: opened.fingerprint()?,
            })
        };
        let replace = taken(dir)?;
        if replace {
            let mut comparison = Comparison::new(dir);
            self.produce(&files, &shards, &tensors, &mut comparison, &mut |_, _| {})?;
            comparison.finish()?;
            match comparison.differs {
                None => return written(dir, true),
                Some(what) => {
                    replaceable(dir)?;
                    if !force {
                        return Err(ExportError::Exists { path: dir.to_owned(), what });
                    }
                }
            }
        }
        let mut staging = Staging::create(dir)?;
        self.produce(&files, &shards, &tensors, &mut staging, progress)?;
        let written = written(staging.path(), false)?;
        staging.finish(replace)?;
        Ok(written)
    }

    /// The tensors in the types in which they are written.
    fn tensors(&self) -> ExportResult<Vec<Tensor>> {
        let spec = &self.described.spec;
        let typed = |target: Target| {
            let float = match self.precision {
                Precision::F32 => Float::F32,
                Precision::F16 => Float::F16,
                Precision::Bf16 => Float::Bf16,
                Precision::Keep => {
                    let mut float = None::<Float>;
                    for p in &target.pieces {
                        if let Some(dtype) = self.source.stored(p.part, p.layer, p.which)? {
                            let next = Float::of(dtype);
                            float = Some(float.map_or(next, |f| f.both(next)));
                        }
                    }
                    float.unwrap_or(Float::F32)
                }
            };
            Ok(Tensor { target, float })
        };
        targets(spec, self.described.has).into_iter().map(typed).collect()
    }

    /// Everything but the weights.
    fn files(&self, shards: &[Shard], tensors: &[Tensor], dtype: Float) -> Vec<Beside> {
        let mut config = self.config.clone();
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        // A folder's own word stands where its weights stay as they are.
        if self.precision != Precision::Keep || !config.contains_key(key) {
            config.insert(key.to_owned(), dtype.word().into());
        }
        let mut files = vec![json_file("config.json", &Value::Object(config))];
        if shards.len() > 1 {
            files.push(json_file("model.safetensors.index.json", &shards::index(shards, tensors)));
        }
        files.extend(self.beside.iter().cloned());
        files
    }

    /// Hands every file to a sink, the small ones first.
    fn produce(
        &self,
        files: &[Beside],
        shards: &[Shard],
        tensors: &[Tensor],
        sink: &mut dyn Sink,
        progress: &mut Progress<'_>,
    ) -> ExportResult<()> {
        for Beside { name, bytes } in files {
            sink.file(name, &mut |out| Ok(out.write_all(bytes)))?;
        }
        let total: u64 = tensors.iter().map(Tensor::bytes).sum();
        let mut done = 0;
        for shard in shards {
            let inside = &tensors[shard.tensors.clone()];
            sink.file(&shard.name, &mut |out| {
                if let Err(e) = out.write_all(&shards::header(inside)) {
                    return Ok(Err(e));
                }
                for t in inside {
                    let spec = &self.described.spec;
                    if let Err(e) = values::write(&t.target, t.float, spec, self.source, out)? {
                        return Ok(Err(e));
                    }
                    done += t.bytes();
                    progress(done, total);
                }
                Ok(Ok(()))
            })?;
        }
        Ok(())
    }

    /// Fails on a place that is the model itself, lies in it, or holds it.
    fn check_place(&self, dir: &Path) -> ExportResult<()> {
        let parent = match dir.parent() {
            Some(p) if p.as_os_str().is_empty() => Path::new("."),
            Some(p) => p,
            None => return Err(ExportError::place(dir, "this is not the name of a folder")),
        };
        let Some(name) = dir.file_name() else {
            return Err(ExportError::place(dir, "this is not the name of a folder"));
        };
        if !parent.is_dir() {
            return Err(ExportError::place(dir, format!("there is no folder {}", parent.display())));
        }
        let whole = |p: &Path| p.canonicalize().map_err(ExportError::io(p));
        let place = if dir.exists() { whole(dir)? } else { whole(parent)?.join(name) };
        let Some(origin) = &self.origin else { return Ok(()) };
        let origin = whole(origin)?;
        if place == origin {
            return Err(ExportError::place(dir, "this is the model itself"));
        }
        if place.starts_with(&origin) {
            return Err(ExportError::place(dir, "this lies inside the model's own folder"));
        }
        if origin.starts_with(&place) {
            return Err(ExportError::place(dir, "the model itself lies in this folder"));
        }
        Ok(())
    }
}

/// Whether there is a folder with something in it.
fn taken(dir: &Path) -> ExportResult<bool> {
    match std::fs::symlink_metadata(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(ExportError::io(dir)(e)),
        Ok(meta) if meta.is_dir() => {}
        Ok(meta) if meta.is_symlink() => {
            return Err(ExportError::place(dir, "this is a link; give the folder itself"));
        }
        Ok(_) => return Err(ExportError::place(dir, "this is a file; a folder is written")),
    }
    let mut entries = std::fs::read_dir(dir).map_err(ExportError::io(dir))?;
    Ok(entries.next().is_some())
}

/// Only a folder that looks like a model and nothing else is ever removed.
fn replaceable(dir: &Path) -> ExportResult<()> {
    let refuse = |why: String| Err(ExportError::place(dir, format!("{why}; it is not replaced")));
    if !dir.join("config.json").is_file() {
        return refuse("the folder has no config.json".to_owned());
    }
    for entry in std::fs::read_dir(dir).map_err(ExportError::io(dir))? {
        let entry = entry.map_err(ExportError::io(dir))?;
        if entry.path().is_dir() && entry.file_name() != TEMPLATES {
            return refuse(format!("it has a folder {}", entry.file_name().display()));
        }
    }
    Ok(())
}

/// The folder of named chat templates.
pub(crate) const TEMPLATES: &str = "additional_chat_templates";

/// The optional parameters that some layer has.
fn found(spec: &ModelSpec, source: &dyn ParamSource) -> ExportResult<Has> {
    let any = |parts: &[Part], which: Which| -> ExportResult<bool> {
        for &part in parts {
            let layers = if Part::GLOBAL.contains(&part) { 1 } else { spec.n_layers };
            for layer in 0..layers {
                if source.stored(part, layer, which)?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    };
    let norms = [Part::Ln1, Part::Ln2, Part::FinalNorm, Part::QNorm, Part::KNorm];
    Ok(Has {
        qkv_bias: any(&[Part::Q, Part::K, Part::V], Which::Bias)?,
        out_bias: any(&[Part::O], Which::Bias)?,
        mlp_bias: any(&[Part::Gate, Part::Up, Part::Down], Which::Bias)?,
        unembed_bias: any(&[Part::Unembed], Which::Bias)?,
        gain: any(&norms, Which::Weight)?,
        norm_bias: any(&norms, Which::Bias)?,
    })
}

/// The type that holds all tensors.
fn dtype(tensors: &[Tensor]) -> Float {
    tensors.iter().map(|t| t.float).reduce(Float::both).unwrap_or(Float::F32)
}

fn listed(files: &[Beside], shards: &[Shard], tensors: &[Tensor]) -> Vec<(String, u64)> {
    let weights = |s: &Shard| {
        let inside = &tensors[s.tensors.clone()];
        let bytes = inside.iter().map(Tensor::bytes).sum::<u64>() + shards::header(inside).len() as u64;
        (s.name.clone(), bytes)
    };
    let small = files.iter().map(|f| (f.name.clone(), f.bytes.len() as u64));
    let mut all: Vec<_> = small.chain(shards.iter().map(weights)).collect();
    all.sort();
    all
}

/// A JSON file as `transformers` lays it out.
pub(crate) fn json_file(name: &str, value: &Value) -> Beside {
    Beside { name: name.to_owned(), bytes: format!("{value:#}\n").into_bytes() }
}

impl Checkpoint {
    /// The files that stand beside a model's weights and configuration: tokenizer, chat templates, settings
    /// for generation. A folder's own are taken as they are; those of a GGUF file are made from its metadata.
    ///
    /// # Errors
    /// A file cannot be read, or the tokenizer inside a GGUF file cannot be built.
    pub fn beside(&self) -> ExportResult<Vec<Beside>> {
        let Some(view) = self.gguf() else { return copied(self.path()) };
        let mut generation = json!({"_from_model_config": true});
        if let Some(bos) = self.spec().bos {
            generation["bos_token_id"] = bos.into();
        }
        match self.spec().eos.as_slice() {
            [] => {}
            [one] => generation["eos_token_id"] = (*one).into(),
            several => generation["eos_token_id"] = several.into(),
        }
        if let Some(pad) = view.count("tokenizer.ggml.padding_token_id")? {
            generation["pad_token_id"] = pad.into();
        }
        let mut files = vec![json_file("generation_config.json", &generation)];
        files.extend(crate::tokenizer::save::files(self, &view)?);
        Ok(files)
    }
}

/// Names of the files that are copied from a folder.
const COPIED: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

fn copied(folder: &Path) -> ExportResult<Vec<Beside>> {
    let mut names: Vec<String> = COPIED.iter().map(|&n| n.to_owned()).collect();
    if let Ok(entries) = std::fs::read_dir(folder.join(TEMPLATES)) {
        let mut inside: Vec<_> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        inside.retain(|n| n.ends_with(".jinja"));
        inside.sort();
        names.extend(inside.into_iter().map(|n| format!("{TEMPLATES}/{n}")));
    }
    let mut files = Vec::new();
    for name in names {
        let path = folder.join(&name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(crate::error::LoadError::io(&path))?;
            files.push(Beside { name, bytes });
        }
    }
    Ok(files)
}
