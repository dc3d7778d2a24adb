//! Which model this is, cheaply.

use std::fmt::Write;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Checkpoint, Source, json};
use crate::error::LoadResult;

/// Bytes from head and tail of each tensor.
const PIECE: usize = 4096;

/// See [`Checkpoint::fingerprint`].
pub(super) fn fingerprint(c: &Checkpoint) -> LoadResult<String> {
    let mut hash = Sha256::new();
    // Every field is preceded by its length, so that no two different sequences hash the same bytes.
    let mut put = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    match &c.source {
        Source::Folder { config, .. } => {
            let mut text = String::new();
            json::canonical(&Value::Object(config.clone()), &mut text);
            put(text.as_bytes());
        }
        Source::Gguf(keys) => {
            let file = &c.files[0];
            let view = keys.view(file.path(), file.bytes());
            // What describes the model; the tokenizer, the model's name and its licence do not.
            let architecture = view.string("general.architecture")?.unwrap_or_default();
            put(architecture.as_bytes());
            for key in
                view.names().filter(|k| k.strip_prefix(architecture).is_some_and(|r| r.starts_with('.')))
            {
                put(key.as_bytes());
                put(&view.raw(key));
            }
        }
    }
    for file in &c.files {
        file.check_length()?;
    }
    for (name, e) in c.tensors.iter().filter(|(name, _)| !c.names.repeats_embedding(name)) {
        put(name.as_bytes());
        put(e.dtype.name().as_bytes());
        for &d in &e.shape {
            put(&(d as u64).to_le_bytes());
        }
        let bytes = c.stored(e);
        put(&bytes[..bytes.len().min(PIECE)]);
        put(&bytes[bytes.len().saturating_sub(PIECE)..]);
        c.files[e.file].release(e.range.clone());
    }
    let mut text = "sha256:".to_owned();
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
