//! Files that are complete or not there.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use refocus_model::{HostTensor, SeqTensors};
use refocus_results::atomic;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// A file being written beside its final place, with errors for people ([`atomic::Pending`]).
#[derive(Debug)]
pub(crate) struct Pending {
    path: PathBuf,
    file: atomic::Pending,
}

impl Pending {
    /// Creates the file, so that a place that cannot be written to is found before the work is done.
    pub(crate) fn create(path: &Path) -> Outcome<Self> {
        match atomic::Pending::create(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file }),
            // These say all there is to say.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                Err(Failure::new(format!("{}: {e}", path.display())))
            }
            Err(e) => Err(failed(path, e)),
        }
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.file.write_all(bytes).map_err(|e| failed(&self.path, e))
    }

    /// Writes a page of Markdown and moves it to its place. What people wrote on the page that is there stays on it.
    pub(crate) fn page(mut self, text: &str) -> Outcome<()> {
        let old = match std::fs::read_to_string(&self.path) {
            Ok(old) => old,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            // What cannot be read might hold notes, and is not written over.
            Err(e) => {
                return Err(Failure::because(format!("{}: cannot be read", self.path.display()), e));
            }
        };
        self.write(with_notes(text, &old).as_bytes())?;
        self.finish()
    }

    /// Writes everything to the disk and moves the file to its place.
    pub(crate) fn finish(self) -> Outcome<()> {
        self.file.finish().map_err(|e| failed(&self.path, e))
    }
}

/// The section of a page that is written by hand.
const BY_HAND: &str = "\n## Read with care\n";
const SECTION: &str = "\n## ";

/// A new page with the notes of the old one before its first section.
fn with_notes(new: &str, old: &str) -> String {
    let notes = old.find(BY_HAND).map(|from| {
        let behind = from + BY_HAND.len();
        let to = old[behind - 1..].find(SECTION).map_or(old.len(), |at| behind - 1 + at);
        format!("{}\n", old[from..to].trim_end())
    });
    let at = new.find(SECTION).unwrap_or(new.len());
    [&new[..at], notes.as_deref().unwrap_or_default(), &new[at..]].concat()
}

fn failed(path: &Path, e: io::Error) -> Failure {
    Failure::because(format!("{}: cannot be written", path.display()), e)
}

/// Writes a file, whole or not at all.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Outcome<()> {
    let mut out = Pending::create(path)?;
    out.write(bytes.as_ref())?;
    out.finish()
}

/// Writes a JSON document, whole or not at all.
pub(crate) fn write_document(path: &Path, document: &impl Serialize) -> Outcome<()> {
    let mut text = serde_json::to_vec_pretty(document)?;
    text.push(b'\n');
    write(path, text)
}

/// The document that an earlier run with the same settings left at a place, if there is one.
///
/// A file of another kind, or made with other settings, is an error: it is never written over.
pub(crate) fn kept<D: DeserializeOwned>(
    path: &Path,
    schema: &str,
    command: &str,
    settings: &impl Serialize,
) -> Outcome<Option<D>> {
    let name = path.display();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // A place that cannot be written to is found before the work is done.
            drop(Pending::create(path)?);
            return Ok(None);
        }
        Err(e) => return Err(Failure::because(format!("{name}: cannot be read"), e)),
    };
    let other = |e: serde_json::Error| {
        Failure::because(format!("{name}: not a result of `{command}`"), e).hint("give another --out")
    };
    let old: Value = serde_json::from_slice(&bytes).map_err(other)?;
    if let Some(had) = old.get("schema").filter(|had| **had != schema) {
        return Err(
            Failure::new(format!("{name}: its schema is {had}, not {schema}")).hint("give another --out")
        );
    }
    for (field, value) in serde_json::to_value(settings)?.as_object().into_iter().flatten() {
        let had = &old["settings"][field];
        if had.is_null() {
            continue;
        }
        if had != value {
            let text = format!("{name}: made with {field} {had}, not {value}");
            return Err(Failure::new(text).hint("give another --out, or the settings of that run"));
        }
    }
    serde_json::from_value(old).map(Some).map_err(other)
}

/// One tensor in the header of a safetensors file.
#[derive(Serialize)]
struct Header<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

/// Writes tensors as `seq{i}/{name}`, all f32, in the order of their names.
pub(crate) fn write_sequences(out: &mut Pending, sequences: &[SeqTensors]) -> Outcome<()> {
    let tensors: BTreeMap<String, &HostTensor> = sequences
        .iter()
        .enumerate()
        .flat_map(|(i, s)| s.iter().map(move |(name, t)| (format!("seq{i}/{name}"), t)))
        .collect();
    write_safetensors(&mut out.file, &tensors).map_err(|e| failed(&out.path, e))
}

fn write_safetensors(out: &mut impl Write, tensors: &BTreeMap<String, &HostTensor>) -> io::Result<()> {
    let mut at = 0;
    let header: BTreeMap<&str, Header<'_>> = tensors
        .iter()
        .map(|(name, t)| {
            let start = at;
            at += t.data.len() * 4;
            (name.as_str(), Header { dtype: "F32", shape: &t.shape, data_offsets: [start, at] })
        })
        .collect();
    let mut header = serde_json::to_vec(&header)?;
    // The data begins at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut bytes = Vec::new();
    for t in tensors.values() {
        for part in t.data.chunks(1 << 16) {
            bytes.clear();
            bytes.extend(part.iter().flat_map(|x| x.to_le_bytes()));
            out.write_all(&bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("refocus-output-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("folder");
        dir
    }

    #[test]
    fn what_people_wrote_on_a_page_stays() {
        let dir = folder("page");
        let path = dir.join("page.md");
        let write = |text: &str| {
            Pending::create(&path).expect("create").page(text).expect("a page");
            std::fs::read_to_string(&path).expect("read")
        };
        assert_eq!(write("# T\n\n## A\n1\n"), "# T\n\n## A\n1\n");
        let noted = "# T\n\n## Read with care\n\nIt was noisy.\n\n### So\n\n## A\n1\n";
        std::fs::write(&path, noted).expect("write");
        let again = "# T\n\n## Read with care\n\nIt was noisy.\n\n### So\n\n## A\n2\n";
        assert_eq!(write("# T\n\n## A\n2\n"), again);
        assert_eq!(write("# T\n\n## A\n2\n"), again, "once");
        assert_eq!(write("# T\n"), "# T\n\n## Read with care\n\nIt was noisy.\n\n### So\n");
        assert_eq!(write("# T\n\n## A\n2\n"), again, "at the end too");
        std::fs::write(&path, b"\xff").expect("write");
        assert!(Pending::create(&path).expect("create").page("# T\n").is_err());
        assert_eq!(std::fs::read(&path).expect("read"), b"\xff", "not written over");
        std::fs::remove_dir_all(dir).expect("remove");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let dir = folder("written");
        let path = dir.join("a.safetensors");
        let t = HostTensor { shape: vec![2, 3], data: vec![1.0, -0.0, f32::NEG_INFINITY, 3.5, 1e-40, 2.0] };
        let seq = SeqTensors::from([("logits".to_owned(), t.clone())]);
        let mut pending = Pending::create(&path).expect("create");
        write_sequences(&mut pending, &[seq]).expect("write");
        pending.finish().expect("finish");
        let bytes = std::fs::read(&path).expect("read");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let got = file.tensor("seq0/logits").expect("tensor");
        assert_eq!(got.shape(), t.shape);
        let want: Vec<u8> = t.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(got.data(), want);
        std::fs::remove_dir_all(dir).expect("remove");
    }
}
