//! Checkpoints: a folder in Hugging Face layout (safetensors or PyTorch's pickles), or a GGUF file.
//!
//! Opening reads headers only. The configuration becomes a [`ModelSpec`], and every parameter that the
//! specification asks for is found and its shape checked, so that a model either opens whole or not at
//! all. Values are read when they are asked for, from files mapped into memory.

mod fingerprint;
mod folder;
mod gguf;
mod json;
mod map;
mod metadata;
mod overview;
mod parts;
mod pytorch;
mod safetensors;
mod strided;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use refocus_compute::Dtype;
use serde_json::{Map, Value};

use self::map::Mapped;
use self::strided::Strided;
use crate::config::gguf::ROPE_FREQS;
use crate::config::{self, Described};
use crate::error::{LoadError, LoadResult, shorten};
use crate::names::Names;
use crate::spec::ModelSpec;

pub(crate) use self::folder::read_json;
pub(crate) use self::metadata::View;
pub use self::overview::{ChatTemplate, Overview, Sizes, StoredAs};

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A type that can be computed with.
    Known(Dtype),
    /// Another type of the format; only constant buffers that no model reads may have it.
    Other(&'static str),
}

impl Stored {
    /// The usual name.
    pub fn name(self) -> &'static str {
        match self {
            Stored::Known(d) => d.name(),
            Stored::Other(name) => name,
        }
    }
}

/// One stored tensor: where it lies and what it is.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Index into the checkpoint's files.
    pub(crate) file: usize,
    pub(crate) dtype: Stored,
    /// Outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// Bytes of the file, from the first element to the last.
    pub(crate) range: Range<usize>,
    /// Where the elements do not lie one after another in the order of the shape.
    pub(crate) strided: Option<Strided>,
}

impl Entry {
    /// Bytes of all elements.
    fn bytes(&self) -> usize {
        match &self.strided {
            None => self.range.len(),
            Some(s) => s.bytes(&self.shape),
        }
    }
}

/// How the weights of a checkpoint are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `model.safetensors`, whole or in shards.
    Safetensors,
    /// `pytorch_model.bin`, whole or in shards.
    PyTorch,
    /// A `.gguf` file, whole or in parts.
    Gguf,
}

impl Format {
    /// `safetensors`, `pytorch` or `gguf`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::PyTorch => "pytorch",
            Format::Gguf => "gguf",
        }
    }
}

/// Name, type and shape of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Stored type.
    pub dtype: Stored,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Stored bytes.
    pub bytes: usize,
}

/// A stored tensor with its bytes.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Stored type.
    pub dtype: Dtype,
    /// Outermost dimension first (the dimensions of GGUF are reversed).
    pub shape: &'a [usize],
    /// The stored bytes, little-endian, rows one after another.
    pub bytes: &'a [u8],
}

#[derive(Debug)]
enum Source {
    Folder { config: Map<String, Value>, format: Format },
    Gguf(metadata::Keys),
}

/// Reads the metadata of a GGUF file, whatever its tensors are.
pub(crate) fn with_metadata<T>(path: &Path, read: impl FnOnce(&View<'_>) -> LoadResult<T>) -> LoadResult<T> {
    let file = Mapped::open(path).map_err(LoadError::io(path))?;
    let keys = gguf::metadata(path, file.bytes())?;
    read(&keys.view(path, file.bytes()))
}

/// An open checkpoint.
///
/// Its files are mapped into memory and must not be changed or truncated while it lives. A length that
/// changed is noticed whenever a tensor is handed out; a change that keeps the length is not.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mapped>,
    tensors: BTreeMap<String, Entry>,
    source: Source,
    described: Described,
    names: Names,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and `*.safetensors` or `pytorch_model.bin` (the former where both
    /// are there, as `transformers` does), or a `.gguf` file (of several parts, the first). Nothing in a pickle is ever run.
    ///
    /// # Errors
    /// The path is no model; a file is truncated or contradicts itself; the configuration has an unknown
    /// key or a value that is not supported; a parameter is missing or has another shape than the
    /// configuration asks for; a tensor is left over.
    pub fn open(path: impl AsRef<Path>) -> LoadResult<Self> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(LoadError::io(path))?;
        let mut checkpoint = if meta.is_dir() {
            Self::open_folder(path)?
        } else if meta.is_file() {
            Self::open_file(path)?
        } else {
            return Err(LoadError::NotAModel {
                path: path.to_owned(),
                why: "neither a file nor a folder".to_owned(),
            });
        };
        checkpoint.names = Names::find(&checkpoint)?;
        checkpoint.described.spec.tied = checkpoint.names.tied;
        Ok(checkpoint)
    }

    fn open_folder(path: &Path) -> LoadResult<Self> {
        let folder = folder::open(path)?;
        let described = config::from_json(&folder.config_path, &folder.config)?;
        Ok(Self {
            path: path.to_owned(),
            files: folder.files,
            tensors: folder.tensors,
            source: Source::Folder { config: folder.config, format: folder.format },
            names: Names::unresolved(&described.spec),
            described,
        })
    }

    fn open_file(path: &Path) -> LoadResult<Self> {
        let mut magic = Vec::new();
        let file = std::fs::File::open(path).map_err(LoadError::io(path))?;
        file.take(4).read_to_end(&mut magic).map_err(LoadError::io(path))?;
        if magic != b"GGUF" {
            let tensors = path.extension().is_some_and(|e| e == "safetensors") || pytorch::looks_like(&magic);
            let hint = if tensors {
                "; to open this one, give the folder that holds it and its config.json"
            } else {
                ""
            };
            let why = format!(
                "this is no GGUF file{hint}; a model is a folder in Hugging Face layout or a .gguf file"
            );
            return Err(LoadError::NotAModel { path: path.to_owned(), why });
        }
        let parts::Parts { files, keys, tensors } = parts::open(path)?;
        let divisors = match tensors.get(ROPE_FREQS) {
            None => None,
            Some(e) if e.dtype == Stored::Known(Dtype::F32) && e.shape.len() == 1 => {
                Some(&files[e.file].bytes()[e.range.clone()])
            }
            Some(e) => {
                let why = format!("it is {:?} of {}, a list of f32 is needed", e.shape, e.dtype.name());
                return Err(LoadError::tensor(files[e.file].path(), ROPE_FREQS, why));
            }
        };
        let described = config::from_gguf(&keys.view(path, files[0].bytes()), &tensors, divisors)?;
        Ok(Self {
            path: path.to_owned(),
            files,
            tensors,
            source: Source::Gguf(keys),
            names: Names::unresolved(&described.spec),
            described,
        })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model is. `tied` is as `transformers` decides it: a model whose configuration ties the
    /// unembedding but whose file holds another unembedding than its embedding is not tied.
    pub fn spec(&self) -> &ModelSpec {
        &self.described.spec
    }

    /// Whether this is a GGUF file (else a folder).
    pub fn is_gguf(&self) -> bool {
        matches!(self.source, Source::Gguf(_))
    }

    /// How the weights are stored.
    pub fn format(&self) -> Format {
        match self.source {
            Source::Folder { format, .. } => format,
            Source::Gguf(_) => Format::Gguf,
        }
    }

    /// All stored tensors in the order of their names, also constant buffers that the model ignores.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, e)| TensorInfo {
            name,
            dtype: e.dtype,
            shape: &e.shape,
            bytes: e.bytes(),
        })
    }

    /// A stored tensor by its name in the file.
    ///
    /// # Errors
    /// There is none of this name, its type cannot be computed with, or the file changed its length.
    pub fn tensor(&self, name: &str) -> LoadResult<TensorView<'_>> {
        let Some((name, entry)) = self.tensors.get_key_value(name) else {
            return Err(LoadError::Missing { path: self.path.clone(), tensor: shorten(name) });
        };
        let file = &self.files[entry.file];
        let Stored::Known(dtype) = entry.dtype else {
            return Err(LoadError::TensorType {
                path: file.path().to_owned(),
                tensor: shorten(name),
                dtype: entry.dtype.name().to_owned(),
                supported: self.supported(),
            });
        };
        file.check_length()?;
        Ok(TensorView { name, dtype, shape: &entry.shape, bytes: self.stored(entry) })
    }

    /// The bytes of a tensor, its elements in the order of its shape.
    fn stored<'a>(&'a self, entry: &'a Entry) -> &'a [u8] {
        let file = &self.files[entry.file];
        let bytes = &file.bytes()[entry.range.clone()];
        let Some(strided) = &entry.strided else { return bytes };
        let ordered = strided.ordered(&entry.shape, bytes);
        file.release(entry.range.clone());
        ordered
    }

    /// Lets the system drop the pages of a tensor that has been copied elsewhere. Harmless for a tensor
    /// that is used again, and for a name that does not exist.
    pub fn release(&self, name: &str) {
        if let Some(entry) = self.tensors.get(name) {
            self.files[entry.file].release(entry.range.clone());
        }
    }

    /// The same for some bytes of a tensor.
    pub(crate) fn release_part(&self, name: &str, part: Range<usize>) {
        if let Some(Entry { file, range, strided: None, .. }) = self.tensors.get(name) {
            self.files[*file].release(range.start + part.start..range.start + part.end);
        }
    }

    /// `sha256:…` over the configuration, the names, shapes and types of all tensors, and four KiB from
    /// head and tail of each. Order of keys and white space in `config.json` do not matter, nor does the
    /// division into shards, nor whether safetensors or a pickle holds the same tensors, nor whether a tied
    /// unembedding is stored too. A GGUF file has other names, shapes and keys, so the same weights in one
    /// have another fingerprint.
    ///
    /// # Errors
    /// A file changed its length.
    pub fn fingerprint(&self) -> LoadResult<String> {
        fingerprint::fingerprint(self)
    }

    pub(crate) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.tensors
    }

    pub(crate) fn described(&self) -> &Described {
        &self.described
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Types of tensors that can be computed with in this format, for errors.
    pub(crate) fn supported(&self) -> &'static str {
        if self.is_gguf() { gguf::SUPPORTED } else { "F32, F16 and BF16" }
    }

    /// The `config.json` of a folder.
    pub(crate) fn config(&self) -> Option<&Map<String, Value>> {
        match &self.source {
            Source::Folder { config, .. } => Some(config),
            Source::Gguf(_) => None,
        }
    }

    /// The file that holds a tensor, for errors.
    pub(crate) fn file_of(&self, entry: &Entry) -> &Path {
        self.files[entry.file].path()
    }

    /// Metadata of a GGUF file.
    pub(crate) fn gguf(&self) -> Option<View<'_>> {
        match &self.source {
            Source::Folder { .. } => None,
            Source::Gguf(keys) => Some(keys.view(self.files[0].path(), self.files[0].bytes())),
        }
    }
}
