//! Vectors that a patch names: `means.safetensors#b`, a file beside the patch and a tensor in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};

use super::error::{Doc, PatchError};
use super::file::VectorRef;
use super::keys::list;
use crate::error::shorten;
use crate::site::nearest;

/// Means of every site of a large model are far smaller.
const MOST: u64 = 1 << 30;

/// The vector files of one patch, each read once.
pub(super) struct Vectors<'a> {
    doc: Doc<'a>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl<'a> Vectors<'a> {
    pub(super) fn new(doc: Doc<'a>) -> Self {
        Self { doc, files: BTreeMap::new() }
    }

    /// The numbers of a vector `[n]`, or of a matrix of exactly the shape `rows` row by row.
    pub(super) fn read(&mut self, at: &VectorRef, rows: &[usize]) -> Result<Arc<[f32]>, PatchError> {
        let (doc, line) = (self.doc, at.line);
        let folder = doc.path.parent().unwrap_or_else(|| "".as_ref());
        let path = folder.join(&at.file);
        let shown = path.display().to_string();
        if !self.files.contains_key(&path) {
            let unreadable = |e| doc.caused(line, format!("{shown} cannot be read"), e);
            let meta = std::fs::metadata(&path).map_err(unreadable)?;
            if !meta.is_file() || meta.len() > MOST {
                let why = if meta.is_file() { "is too large" } else { "is no file" };
                return Err(doc.error(line, format!("{shown} {why}")));
            }
            self.files.insert(path.clone(), std::fs::read(&path).map_err(unreadable)?);
        }
        let bytes = self.files.get(&path).map_or(&[][..], Vec::as_slice);
        let file = SafeTensors::deserialize(bytes)
            .map_err(|e| doc.caused(line, format!("{shown} is no safetensors file"), e))?;
        let Ok(tensor) = file.tensor(&at.key) else {
            let mut names: Vec<&str> = file.names().into_iter().collect();
            names.sort_unstable();
            let hint = match nearest(&at.key, names.iter().map(|n| (*n).to_owned())) {
                Some(near) => format!("did you mean '{}'?", shorten(&near)),
                None => format!("it holds {}", shorten(&list(&names))),
            };
            return Err(doc.error(line, format!("{shown} has no tensor '{}'; {hint}", shorten(&at.key))));
        };
        let here = format!("tensor '{}' of {shown}", shorten(&at.key));
        if tensor.dtype() != Dtype::F32 {
            return Err(doc.error(line, format!("{here} is stored as {}, F32 is needed", tensor.dtype())));
        }
        if tensor.shape().len() != 1 && tensor.shape() != rows {
            let why =
                format!("{here} has the shape {:?}; a vector with one dimension is needed", tensor.shape());
            return Err(doc.error(line, why));
        }
        Ok(tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}
