//! A patch file: changes to a running model as data, in TOML.
//!
//! ```toml
//! [model]                      # optional guard: another model is refused
//! fingerprint = "sha256:…"
//!
//! [[intervention]]
//! at = "blocks.9.attn.hook_z"  # a site; `*` and `?` match several
//! head = 8                     # one head, where the site has heads
//! position = "last"            # "all" (the default), "last", "5" from the start, "-2" from the end
//! do = "zero"
//! when = { top1_prob_above = 0.6, lens_layer = 4 }
//! ```
//!
//! | `do` | keys | |
//! |---|---|---|
//! | `zero` | | |
//! | `mean` | `vector` | becomes the vector |
//! | `scale` | `factor` | |
//! | `add` | `vector`, `alpha` | `x + alpha · vector` |
//! | `uniform_attention` | | equal weight on every visible key |
//! | `block_edge` | `key` | hides keys: `"first"` or `[from, to)` |
//! | `sharpen` | `factor` | attention scores are divided by it |
//! | `exit` | `layer` | blocks from this one on are skipped; `at` may be left out |
//!
//! `[[decode]]` changes the final logits, while generating before anything that sampling does:
//! `temperature` (`factor`), `unigram_prior` (`vector` of log frequencies, `alpha`), `contrast_context`
//! (`alpha`), `contrast_layer` (`layer`, `alpha`). `[rewrite]` names a `variant` of System 2 Attention, and for
//! `scored` the `threshold` below which a sentence goes.
//! Vectors are `"file.safetensors#tensor"`, the file beside the patch. An unknown key is an error, and so
//! is a key that an action does not take.

mod decode;
mod error;
mod file;
mod keys;
mod support;
#[cfg(test)]
mod tests;
mod vectors;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use refocus_compute::{Batch, Seg};

pub use self::decode::Decode;
pub use self::error::{OtherModel, PatchError};
pub(crate) use self::support::bake;
pub use self::support::{EntrySupport, Job, Support};

use self::error::Doc;
use self::file::{Act, DecodeAct, VectorRef};
use self::vectors::Vectors;
use crate::intervene::{Action, Gate, Intervention, Position};
use crate::plan::{Applied, Mode, Plan, PlanError};
use crate::site::{Kind, Site};
use crate::spec::ModelSpec;

/// Longer files are a mistake.
const MOST_BYTES: u64 = 1 << 20;
/// A pattern can match every site of a model; more changes than this are a mistake.
const MOST_INTERVENTIONS: usize = 100_000;
/// Longest pattern of a site.
const MOST_PATTERN: usize = 100;

/// A patch, checked against a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// The fingerprint of the model it was made for.
    pub guard: Option<String>,
    /// Changes inside the model, in the order of the file, patterns expanded.
    pub interventions: Vec<Intervention>,
    /// Changes of the final logits, in the order of the file.
    pub decode: Vec<Decode>,
    /// System 2 Attention before answering.
    pub rewrite: Option<Rewrite>,
    path: PathBuf,
    guard_line: usize,
    /// For each `[[intervention]]` its place, and which interventions it became.
    entries: Vec<Entry>,
    decode_lines: Vec<usize>,
    rewrite_line: usize,
}

/// One `[[intervention]]` of the file.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    line: usize,
    at: String,
    range: Range<usize>,
}

/// `[rewrite]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rewrite {
    /// How the context is rewritten.
    pub variant: Variant,
    /// For [`Variant::Scored`]: a sentence whose score is below it goes, in nats. `None` is the threshold that
    /// rewriting has by itself.
    pub threshold: Option<f32>,
}

/// `scored`, `scored, threshold -2.4`.
impl std::fmt::Display for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.variant.name())?;
        self.threshold.map_or(Ok(()), |t| write!(f, ", threshold {t}"))
    }
}

/// The ways to rewrite a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The model writes context and question anew, without opinions.
    Objectivity,
    /// As above, keeping what is relevant.
    Relevance,
    /// Context and question in one piece.
    Single,
    /// The original stays beside the rewrite.
    KeepOriginal,
    /// No instruction when answering.
    NoInstruction,
    /// The model names what to drop, nothing is written anew.
    Extractive,
    /// Sentences are judged by probabilities.
    Scored,
}

impl Variant {
    /// All of them.
    pub const ALL: [Variant; 7] = [
        Variant::Objectivity,
        Variant::Relevance,
        Variant::Single,
        Variant::KeepOriginal,
        Variant::NoInstruction,
        Variant::Extractive,
        Variant::Scored,
    ];

    /// Its name in a patch file.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Objectivity => "objectivity",
            Variant::Relevance => "relevance",
            Variant::Single => "single",
            Variant::KeepOriginal => "keep_original",
            Variant::NoInstruction => "no_instruction",
            Variant::Extractive => "extractive",
            Variant::Scored => "scored",
        }
    }
}

impl Patch {
    /// Reads a patch file and checks every entry against a model. The guard is checked by
    /// [`Patch::check_guard`], because a fingerprint takes longer than a specification.
    ///
    /// # Errors
    /// The file or a file of vectors cannot be read; a key is unknown or missing; a site, head, position,
    /// number or vector does not fit the model.
    pub fn load(path: &Path, spec: &ModelSpec) -> Result<Self, PatchError> {
        let unreadable = |source| PatchError::Io { path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(unreadable)?;
        if !meta.is_file() || meta.len() > MOST_BYTES {
            let why = if meta.is_file() { "the file is too large for a patch" } else { "not a file" };
            return Err(unreadable(std::io::Error::new(std::io::ErrorKind::InvalidInput, why)));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path, spec),
            Err(e) => {
                let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
                let why = "the text is not UTF-8".to_owned();
                Err(PatchError::Line { path: path.to_owned(), line, why, source: None })
            }
        }
    }

    /// As [`Patch::load`], from text. Vectors are looked for beside `path`.
    ///
    /// # Errors
    /// As for [`Patch::load`].
    pub fn parse(text: &str, path: &Path, spec: &ModelSpec) -> Result<Self, PatchError> {
        let doc = Doc { path, text };
        let file = file::parse(doc)?;
        let mut vectors = Vectors::new(doc);
        let mut patch = Patch {
            guard_line: file.guard.as_ref().map_or(0, |g| g.0),
            guard: file.guard.map(|g| g.1),
            interventions: Vec::new(),
            decode: Vec::new(),
            rewrite: file.rewrite.map(|r| r.1),
            rewrite_line: file.rewrite.map_or(0, |r| r.0),
            path: path.to_owned(),
            entries: Vec::new(),
            decode_lines: Vec::new(),
        };
        for e in &file.interventions {
            patch.add(doc, spec, e, &mut vectors)?;
        }
        patch.check(doc, spec, &file.interventions)?;
        for d in &file.decode {
            patch.decode.push(decode(doc, spec, d, &mut vectors)?);
            patch.decode_lines.push(d.line);
        }
        Ok(patch)
    }

    /// One entry, its pattern expanded.
    fn add(
        &mut self,
        doc: Doc<'_>,
        spec: &ModelSpec,
        e: &file::Entry,
        vectors: &mut Vectors<'_>,
    ) -> Result<(), PatchError> {
        let sites = sites(doc, spec, e)?;
        let start = self.interventions.len();
        if start + sites.len() > MOST_INTERVENTIONS {
            return Err(doc.error(e.line, format!("the patch changes more than {MOST_INTERVENTIONS} places")));
        }
        let mut vector = |at: &VectorRef, site: Site| {
            // A matrix `[heads, d_head]` may stand for the whole width.
            let rows = if e.head.is_none() { site.kind.token_shape(spec) } else { Vec::new() };
            vectors.read(at, &rows)
        };
        for site in sites {
            let action = match &e.act {
                Act::Zero => Action::Zero,
                Act::Mean(v) => Action::Mean(vector(v, site)?),
                Act::Scale(f) => Action::Scale(*f),
                Act::Add { vector: v, alpha } => Action::Add { vector: vector(v, site)?, alpha: *alpha },
                Act::UniformAttention => Action::UniformAttention,
                Act::BlockEdge(keys) => Action::BlockEdge(keys.clone()),
                Act::Sharpen(t) => Action::Sharpen(*t),
                Act::Exit(layer) => Action::Exit(*layer),
            };
            self.interventions.push(Intervention {
                site,
                head: e.head,
                position: e.position,
                action,
                when: e.when,
            });
        }
        let at = e.at.as_ref().map_or_else(String::new, |a| a.1.clone());
        self.entries.push(Entry { line: e.line, at, range: start..self.interventions.len() });
        Ok(())
    }

    /// Asks [`Plan::compile`] about every intervention together with the exits, so that what a patch may
    /// say is decided where it is carried out. The batch has just the positions that the entry names.
    fn check(&self, doc: Doc<'_>, spec: &ModelSpec, from: &[file::Entry]) -> Result<(), PatchError> {
        let exits: Vec<Applied> =
            self.applied().into_iter().filter(|a| matches!(a.what.action, Action::Exit(_))).collect();
        for (entry, from) in self.entries.iter().zip(from) {
            for what in &self.interventions[entry.range.clone()] {
                let batch = batch_for(spec, what.position).map_err(|why| doc.error(entry.line, why))?;
                let mut all = exits.clone();
                if !matches!(what.action, Action::Exit(_)) {
                    all.push(Applied { what: Arc::new(what.clone()), segs: None });
                }
                let refused = Plan::compile(spec, &batch, &[], &all, Mode::default()).err();
                if let Some(e) = refused {
                    return Err(doc.error(line_of(&e, from), named(&e, from)));
                }
            }
        }
        Ok(())
    }

    /// Refuses a model that the patch was not made for.
    ///
    /// # Errors
    /// The patch names another fingerprint.
    pub fn check_guard(&self, fingerprint: &str) -> Result<(), PatchError> {
        match &self.guard {
            Some(wanted) if wanted != fingerprint => Err(PatchError::Guard {
                path: self.path.clone(),
                line: self.guard_line,
                source: OtherModel { wanted: wanted.clone(), found: fingerprint.to_owned() },
            }),
            _ => Ok(()),
        }
    }

    /// The interventions as [`Plan::compile`] takes them, on every sequence.
    pub fn applied(&self) -> Vec<Applied> {
        self.interventions.iter().map(|i| Applied { what: Arc::new(i.clone()), segs: None }).collect()
    }

    /// Applies the `[[decode]]` entries to one row of final logits, in the order of the file. Entries
    /// that need more than the row do nothing here: [`Patch::require`] refuses them beforehand.
    pub fn adjust(&self, logits: &mut [f32]) {
        for d in &self.decode {
            let _done = d.apply(logits);
        }
    }

    /// For every `[[intervention]]` its line, its site as it is written there, and what it became.
    pub fn entries(&self) -> impl Iterator<Item = (usize, &str, &[Intervention])> {
        self.entries.iter().map(|e| (e.line, e.at.as_str(), &self.interventions[e.range.clone()]))
    }

    /// The line of each `[[decode]]`, and of `[rewrite]` where there is one.
    pub fn lines(&self) -> (&[usize], Option<usize>) {
        (&self.decode_lines, self.rewrite.map(|_| self.rewrite_line))
    }

    /// Where the patch was read.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The sites of an entry.
fn sites(doc: Doc<'_>, spec: &ModelSpec, e: &file::Entry) -> Result<Vec<Site>, PatchError> {
    if let Act::Exit(layer) = e.act {
        let after = Site::new(layer.saturating_sub(1), Kind::ResidPost);
        let before = Site::new(layer, Kind::ResidPre).to_string();
        return match &e.at {
            Some((line, at)) if *at != after.to_string() && *at != before => {
                let why = format!(
                    "'exit' at layer {layer} happens at {before}; leave 'at' out or give that, not '{}'",
                    crate::error::shorten(at)
                );
                Err(doc.error(*line, why))
            }
            _ => Ok(vec![after]),
        };
    }
    let Some((line, at)) = &e.at else { return Ok(Vec::new()) };
    if at.len() > MOST_PATTERN {
        return Err(doc.error(*line, format!("the name of a site has at most {MOST_PATTERN} characters")));
    }
    Site::glob(at, spec).map_err(|e| doc.error(*line, e.to_string()))
}

/// A batch in which an intervention finds its position, however far it lies, in few rows.
fn batch_for(spec: &ModelSpec, position: Position) -> Result<Batch, String> {
    // Models with dynamic rotary scaling go beyond their context; some end is needed all the same.
    let longest = if spec.stretches() { 1 << 24 } else { spec.n_ctx };
    let fits = |n: u32| {
        let why = format!("the position is beyond the model's context of {longest} tokens");
        if (n as usize) < longest { Ok(()) } else { Err(why) }
    };
    Ok(match position {
        Position::At(p) => {
            fits(p)?;
            Batch { segs: vec![Seg { rows: 0..1, pos0: p }] }
        }
        Position::FromEnd(k) => {
            fits(k.saturating_sub(1))?;
            Batch::from_lengths([k as usize])
        }
        Position::All | Position::Last => Batch::from_lengths([1]),
    })
}

/// The line that an error is about: that of the vector where it is to blame.
fn line_of(e: &PlanError, from: &file::Entry) -> usize {
    match (e, vector_of(from)) {
        (PlanError::Width { .. }, Some(v)) => v.line,
        _ => from.line,
    }
}

/// The error with the name of the vector that it is about.
fn named(e: &PlanError, from: &file::Entry) -> String {
    match (e, vector_of(from)) {
        (PlanError::Width { .. } | PlanError::Value { .. }, Some(v)) => format!("{e} ({}#{})", v.file, v.key),
        _ => e.to_string(),
    }
}

fn vector_of(from: &file::Entry) -> Option<&VectorRef> {
    match &from.act {
        Act::Mean(v) | Act::Add { vector: v, .. } => Some(v),
        _ => None,
    }
}

fn decode(
    doc: Doc<'_>,
    spec: &ModelSpec,
    d: &file::DecodeEntry,
    vectors: &mut Vectors<'_>,
) -> Result<Decode, PatchError> {
    Ok(match &d.act {
        DecodeAct::Temperature(t) => Decode::Temperature(*t),
        DecodeAct::UnigramPrior { vector, alpha } => {
            let log_frequency = vectors.read(vector, &[])?;
            let (got, want) = (log_frequency.len(), spec.vocab);
            if got != want {
                let why = format!(
                    "'unigram_prior': {}#{} has {got} numbers, one for each of the {want} tokens is needed",
                    vector.file, vector.key
                );
                return Err(doc.error(vector.line, why));
            }
            if let Some(i) = log_frequency.iter().position(|x| !x.is_finite()) {
                let why = format!("'unigram_prior': the frequency of token {i} is {}", log_frequency[i]);
                return Err(doc.error(vector.line, why));
            }
            Decode::UnigramPrior { log_frequency, alpha: *alpha }
        }
        DecodeAct::ContrastContext { alpha } => Decode::ContrastContext { alpha: *alpha },
        DecodeAct::ContrastLayer { layer, alpha } => {
            if *layer >= spec.n_layers {
                let why = format!(
                    "'contrast_layer': layer {layer} is not among 0 to {}",
                    spec.n_layers.saturating_sub(1)
                );
                return Err(doc.error(d.line, why));
            }
            Decode::ContrastLayer { layer: *layer, alpha: *alpha }
        }
    })
}

/// How an entry reads: `zero blocks.9.attn.hook_z, head 8, last`.
fn summary(at: &str, what: &Intervention) -> String {
    let mut text = match &what.action {
        Action::Exit(layer) => return format!("exit before block {layer}"),
        Action::Scale(f) => format!("scale {at} by {f}"),
        Action::Sharpen(t) => format!("sharpen {at} by {t}"),
        Action::BlockEdge(keys) if *keys == (0..1) => format!("block_edge {at} to the first key"),
        Action::BlockEdge(keys) => format!("block_edge {at} to keys {} to {}", keys.start, keys.end - 1),
        Action::Add { alpha, .. } => format!("add {alpha} times a vector at {at}"),
        other => format!("{} {at}", other.name()),
    };
    if let Some(head) = what.head {
        text.push_str(&format!(", head {head}"));
    }
    match what.position {
        Position::All => {}
        Position::Last => text.push_str(", last position"),
        Position::At(p) => text.push_str(&format!(", position {p}")),
        Position::FromEnd(k) => text.push_str(&format!(", position -{k}")),
    }
    if let Some(Gate { top1_prob_above, lens_layer }) = what.when {
        text.push_str(&format!(", when the lens of block {lens_layer} is above {top1_prob_above} sure"));
    }
    text
}
