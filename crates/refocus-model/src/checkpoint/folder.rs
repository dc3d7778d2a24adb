//! A folder in Hugging Face layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::map::Mapped;
use super::{Entry, Format, json, pytorch, safetensors};
use crate::error::{LoadError, LoadResult, shorten};

/// The whole file and the index of shards of each format, in the order in which `transformers` looks.
const FORMATS: [(Format, &str, &str); 2] = [
    (Format::Safetensors, "model.safetensors", "model.safetensors.index.json"),
    (Format::PyTorch, "pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// What a folder holds.
pub(crate) struct Folder {
    pub(crate) config_path: PathBuf,
    pub(crate) config: Map<String, Value>,
    pub(crate) files: Vec<Mapped>,
    pub(crate) tensors: BTreeMap<String, Entry>,
    pub(crate) format: Format,
}

/// Reads configuration and headers.
pub(crate) fn open(path: &Path) -> LoadResult<Folder> {
    let config_path = path.join("config.json");
    if !config_path.is_file() {
        let why = "the folder has no config.json; a model is a folder in Hugging Face layout or a .gguf file";
        return Err(LoadError::NotAModel { path: path.to_owned(), why: why.to_owned() });
    }
    let Value::Object(config) = read_json(&config_path)? else {
        return Err(LoadError::format(&config_path, 0, "a configuration is a JSON object"));
    };
    let there = |name: &str| path.join(name).is_file();
    let Some((format, whole, index)) = FORMATS.into_iter().find(|f| there(f.1) || there(f.2)) else {
        let names: Vec<_> = FORMATS.iter().flat_map(|f| [f.1, f.2]).collect();
        let why = format!("the folder has no weights: none of {}", names.join(", "));
        return Err(LoadError::NotAModel { path: path.to_owned(), why });
    };
    let mut folder = Folder { config_path, config, files: Vec::new(), tensors: BTreeMap::new(), format };
    if there(whole) {
        folder.add(&path.join(whole)).map_err(|e| e.or_io(&path.join(whole)))?;
    } else {
        folder.add_shards(path, index)?;
    }
    Ok(folder)
}

/// Failing to map a file is told apart from a bad file, so that the caller can say why it was opened.
enum AddError {
    Map(std::io::Error),
    Bad(LoadError),
}

impl AddError {
    fn or_io(self, path: &Path) -> LoadError {
        match self {
            AddError::Map(source) => LoadError::Io { path: path.to_owned(), source },
            AddError::Bad(e) => e,
        }
    }
}

impl Folder {
    fn add(&mut self, path: &Path) -> Result<(), AddError> {
        let file = Mapped::open(path).map_err(AddError::Map)?;
        let number = self.files.len();
        let tensors = match self.format {
            Format::PyTorch => pytorch::parse(&file),
            Format::Safetensors | Format::Gguf => safetensors::parse(path, file.bytes()),
        };
        for (name, entry) in tensors.map_err(AddError::Bad)? {
            if let Some(other) = self.tensors.get(&name) {
                let why = format!("it is in {} too", self.files[other.file].path().display());
                return Err(AddError::Bad(LoadError::tensor(path, &name, why)));
            }
            self.tensors.insert(name, Entry { file: number, ..entry });
        }
        self.files.push(file);
        Ok(())
    }

    fn add_shards(&mut self, folder: &Path, index_name: &str) -> LoadResult<()> {
        let path = folder.join(index_name);
        let index = read_json(&path)?;
        let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
            return Err(LoadError::NoKey { path, key: "weight_map".to_owned() });
        };
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in map {
            let plain = shard.as_str().filter(|s| Path::new(s).file_name().is_some_and(|f| f == *s));
            let Some(shard) = plain else {
                let key = format!("weight_map.{tensor}");
                return Err(LoadError::key(
                    &path,
                    &key,
                    shard,
                    "a shard is the name of a file in the same folder",
                ));
            };
            shards.entry(shard).or_default().push(tensor);
        }
        for (shard, names) in shards {
            let file = folder.join(shard);
            self.add(&file).map_err(|e| match e {
                AddError::Map(source) => LoadError::Shard {
                    path: path.clone(),
                    shard: shorten(shard),
                    tensor: shorten(names[0]),
                    source,
                },
                AddError::Bad(e) => e,
            })?;
            let number = self.files.len() - 1;
            let here = |name: &&&str| self.tensors.get(**name).is_some_and(|e| e.file == number);
            if let Some(name) = names.iter().find(|n| !here(n)) {
                return Err(LoadError::tensor(
                    &file,
                    name,
                    format!("{index_name} says that it is here, but it is not"),
                ));
            }
        }
        Ok(())
    }
}

/// Reads a JSON file whole.
pub(crate) fn read_json(path: &Path) -> LoadResult<Value> {
    /// Configurations and indices are far smaller.
    const MOST: u64 = 16 << 20;
    let length = std::fs::metadata(path).map_err(LoadError::io(path))?.len();
    if length > MOST {
        return Err(LoadError::format(path, 0, format!("{length} bytes are too many for a configuration")));
    }
    let bytes = std::fs::read(path).map_err(LoadError::io(path))?;
    json::parse(&bytes).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}
