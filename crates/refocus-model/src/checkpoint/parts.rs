//! A GGUF file, or all parts of a model that llama.cpp's `gguf-split` divided.
//!
//! The first part holds the metadata; each part describes and holds its own tensors, and says which part
//! of how many it is. Parts are found by their names, `NAME-00001-of-00003.gguf`, beside the first.

use std::collections::BTreeMap;
use std::path::Path;

use super::map::Mapped;
use super::metadata::Keys;
use super::{Entry, gguf};
use crate::error::{LoadError, LoadResult};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// What all parts hold together.
pub(super) struct Parts {
    pub(super) files: Vec<Mapped>,
    /// Metadata of the first.
    pub(super) keys: Keys,
    pub(super) tensors: BTreeMap<String, Entry>,
}

/// Opens a file and, if it is the first of several, the others.
pub(super) fn open(path: &Path) -> LoadResult<Parts> {
    let file = Mapped::open(path).map_err(LoadError::io(path))?;
    let (keys, tensors) = gguf::parse(path, file.bytes())?;
    forget_head(&file, &tensors);
    let mut parts = Parts { files: vec![file], keys, tensors: tensors.into_iter().collect() };
    let view = parts.keys.view(path, parts.files[0].bytes());
    let (number, count) = (view.count(NUMBER)?.unwrap_or(0), view.count(COUNT)?.unwrap_or(1));
    if count <= 1 {
        return Ok(parts);
    }
    let Some(stem) = stem(path, number, count) else {
        let why = format!("its name does not say so: {} is needed", name("NAME", number, count));
        return Err(view.error(COUNT, why));
    };
    if number != 0 {
        return Err(view.error(NUMBER, format!("open the first part, {}", name(&stem, 0, count))));
    }
    let total = view.count(TENSORS)?;
    for number in 1..count {
        let name = name(&stem, number, count);
        parts.add(path, &path.with_file_name(&name), number, count)?;
    }
    let view = parts.keys.view(path, parts.files[0].bytes());
    match total {
        Some(n) if n != parts.tensors.len() => {
            Err(view.error(TENSORS, format!("its {count} parts hold {}", parts.tensors.len())))
        }
        _ => Ok(parts),
    }
}

impl Parts {
    fn add(&mut self, first: &Path, path: &Path, number: usize, count: usize) -> LoadResult<()> {
        let file = Mapped::open(path).map_err(|e| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            LoadError::key(first, COUNT, count, format!("part {} cannot be read, {name}: {e}", number + 1))
        })?;
        let (keys, tensors) = gguf::parse(path, file.bytes())?;
        forget_head(&file, &tensors);
        let view = keys.view(path, file.bytes());
        if view.count(NUMBER)? != Some(number) || view.count(COUNT)? != Some(count) {
            return Err(
                view.error(NUMBER, format!("part {} of {count} should be numbered {number}", number + 1))
            );
        }
        for (name, entry) in tensors {
            if let Some(other) = self.tensors.get(&name) {
                let why = format!("it is in {} too", self.files[other.file].path().display());
                return Err(LoadError::tensor(path, &name, why));
            }
            self.tensors.insert(name, Entry { file: self.files.len(), ..entry });
        }
        self.files.push(file);
        Ok(())
    }
}

/// Drops the pages of what precedes the tensors: a vocabulary may take megabytes.
fn forget_head(file: &Mapped, tensors: &[(String, Entry)]) {
    let start = tensors.iter().map(|(_, e)| e.range.start).min();
    file.release(0..start.unwrap_or(file.bytes().len()));
}

fn name(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}-{:05}-of-{count:05}.gguf", number.saturating_add(1))
}

/// What stands before the number in the name of a part.
fn stem(path: &Path, number: usize, count: usize) -> Option<String> {
    let stem = path.file_name()?.to_str()?.strip_suffix(&name("", number, count))?;
    Some(stem.to_owned())
}
