//! What can go wrong while a model is read from disk.

use std::path::{Path, PathBuf};

/// A result of reading a checkpoint.
pub type LoadResult<T> = Result<T, LoadError>;

/// Errors name the file and, where they apply, the byte, the tensor, the key and both shapes.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A parameter that cannot be packed.
    #[error("{}", path.display())]
    Pack {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: refocus_compute::Error,
    },
    /// A file cannot be opened, measured or mapped.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A path that holds no model.
    #[error("{}: {why}", path.display())]
    NotAModel {
        /// As given.
        path: PathBuf,
        /// What was looked for.
        why: String,
    },
    /// A file whose text is no JSON, or JSON with a key given twice.
    #[error("{}: not valid JSON", path.display())]
    Json {
        /// File.
        path: PathBuf,
        /// Cause, with line and column.
        source: serde_json::Error,
    },
    /// A file that breaks its own format.
    #[error("{}: at byte {offset}: {why}", path.display())]
    Format {
        /// File.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A file that became shorter or longer while it was open.
    #[error("{}: changed while it was open: {was} bytes before, {is} bytes now", path.display())]
    Changed {
        /// File.
        path: PathBuf,
        /// Length when opened.
        was: u64,
        /// Length now.
        is: u64,
    },
    /// A shard that the index names does not exist.
    #[error("{}: names shard {shard} for tensor {tensor}, which cannot be read", path.display())]
    Shard {
        /// The index.
        path: PathBuf,
        /// File name of the shard.
        shard: String,
        /// First tensor that it should hold.
        tensor: String,
        /// Cause.
        source: std::io::Error,
    },
    /// A tensor that cannot be what it says.
    #[error("{}: tensor {tensor}: {why}", path.display())]
    Tensor {
        /// File.
        path: PathBuf,
        /// Name.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// A tensor stored in a type that cannot be read.
    #[error("{}: tensor {tensor} is stored as {dtype}, which is not supported ({supported} are)", path.display())]
    TensorType {
        /// File.
        path: PathBuf,
        /// Name.
        tensor: String,
        /// Stored type.
        dtype: String,
        /// Types that can be read.
        supported: &'static str,
    },
    /// A tensor that the model needs is not there.
    #[error("{}: tensor {tensor} is missing", path.display())]
    Missing {
        /// File or folder.
        path: PathBuf,
        /// Name.
        tensor: String,
    },
    /// A tensor whose shape is not the one that the configuration asks for.
    #[error("{}: tensor {tensor} has shape {got:?}, the configuration asks for {want:?}", path.display())]
    Shape {
        /// File.
        path: PathBuf,
        /// Name.
        tensor: String,
        /// As stored.
        got: Vec<usize>,
        /// As the configuration asks.
        want: Vec<usize>,
    },
    /// Tensors that no part of the model reads.
    #[error("{}: the checkpoint holds tensors that the model would not use: {}", path.display(), some(tensors))]
    Leftover {
        /// File or folder.
        path: PathBuf,
        /// Names.
        tensors: Vec<String>,
    },
    /// A key that must be there is not.
    #[error("{}: key {key} is missing", path.display())]
    NoKey {
        /// File.
        path: PathBuf,
        /// Key.
        key: String,
    },
    /// A key whose value cannot be used.
    #[error("{}: {key} = {value}: {why}", path.display())]
    Key {
        /// File.
        path: PathBuf,
        /// Key.
        key: String,
        /// Value, shortened where long.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// A tokenizer that cannot be built or used.
    #[error("{}: tokenizer: {why}", path.display())]
    Tokenizer {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// Cause, where there is one.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl LoadError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn format(path: &Path, offset: usize, why: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), offset: offset as u64, why: why.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, why: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_owned(), tensor: shorten(tensor), why: why.into() }
    }

    pub(crate) fn key(path: &Path, key: &str, value: impl std::fmt::Display, why: impl Into<String>) -> Self {
        Self::Key {
            path: path.to_owned(),
            key: shorten(key),
            value: shorten(&value.to_string()),
            why: why.into(),
        }
    }

    pub(crate) fn tokenizer(path: &Path, why: impl Into<String>) -> Self {
        Self::Tokenizer { path: path.to_owned(), why: why.into(), source: None }
    }
}

/// At most 120 characters of a text that came from a file, control characters escaped.
pub(crate) fn shorten(text: &str) -> String {
    const MOST: usize = 120;
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MOST {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The first eight names and how many more there are.
fn some(names: &[String]) -> String {
    const MOST: usize = 8;
    let mut text = names.iter().take(MOST).map(|n| shorten(n)).collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text.push_str(&format!(" and {} more", names.len() - MOST));
    }
    text
}

impl LoadError {
    /// A parameter of the checkpoint at `path` that the backend refuses.
    pub(crate) fn pack(path: &Path, source: refocus_compute::Error) -> Self {
        Self::Pack { path: path.to_owned(), source }
    }
}
