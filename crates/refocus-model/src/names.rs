//! Which stored tensor is which parameter.
//!
//! The families differ here and nowhere else: in names, in what is fused into one tensor, and in the
//! order of rows. [`Checkpoint::matrix`] and [`Checkpoint::vector`] hide all of that.

mod tables;
pub(crate) mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use refocus_compute::{Dtype, MatrixSource};

use self::tables::{Layout, Place, Table};
use crate::checkpoint::{Checkpoint, Entry, Stored};
use crate::config::{Has, gguf::ROPE_FREQS};
use crate::error::{LoadError, LoadResult, shorten};
use crate::spec::{ModelSpec, Positions, Wiring};

/// A parameter of the model, or of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Token embedding `[vocab, d_embed]`.
    Embed,
    /// Learned positions `[n_ctx + offset, d_model]`.
    PosEmbed,
    /// Bias of attention by bucket of distances `[buckets, n_heads]`.
    RelBias,
    /// From the embedding's width to the model's `[d_model, d_embed]`.
    ProjectIn,
    /// From the model's width to the embedding's `[d_embed, d_model]`.
    ProjectOut,
    /// Norm before the unembedding `[d_model]`.
    FinalNorm,
    /// Unembedding `[vocab, d_embed]`.
    Unembed,
    /// Norm of attention `[d_model]`.
    Ln1,
    /// Norm of the MLP `[d_model]`.
    Ln2,
    /// Queries `[n_heads · d_head, d_model]`.
    Q,
    /// Keys `[n_kv_heads · d_head, d_model]`.
    K,
    /// Values `[n_kv_heads · d_head, d_model]`.
    V,
    /// Attention's output `[d_model, n_heads · d_head]`.
    O,
    /// Norm of each query head `[d_head]`.
    QNorm,
    /// Norm of each key head `[d_head]`.
    KNorm,
    /// The MLP's gate `[d_mlp, d_model]`.
    Gate,
    /// The MLP's input `[d_mlp, d_model]`.
    Up,
    /// The MLP's output `[d_model, d_mlp]`.
    Down,
}

impl Part {
    /// The parts that exist once.
    pub const GLOBAL: [Part; 7] = [
        Part::Embed,
        Part::PosEmbed,
        Part::RelBias,
        Part::ProjectIn,
        Part::ProjectOut,
        Part::FinalNorm,
        Part::Unembed,
    ];
    /// The parts that every block has.
    pub const BLOCK: [Part; 11] = [
        Part::Ln1,
        Part::Q,
        Part::K,
        Part::V,
        Part::QNorm,
        Part::KNorm,
        Part::O,
        Part::Ln2,
        Part::Gate,
        Part::Up,
        Part::Down,
    ];

    /// Whether it is a norm: a gain and perhaps a bias, no matrix.
    pub fn is_norm(self) -> bool {
        matches!(self, Part::FinalNorm | Part::Ln1 | Part::Ln2 | Part::QNorm | Part::KNorm)
    }

    /// Whether a model of this specification has it.
    pub fn exists(self, spec: &ModelSpec) -> bool {
        match self {
            Part::RelBias => matches!(spec.positions, Positions::T5 { .. }),
            Part::Ln1 => spec.block_norms,
            Part::Embed | Part::Q | Part::K | Part::V | Part::O | Part::Up | Part::Down => true,
            Part::Unembed => !spec.tied,
            Part::PosEmbed => matches!(spec.positions, Positions::Learned { .. }),
            Part::ProjectIn | Part::ProjectOut => spec.d_embed != spec.d_model,
            Part::FinalNorm => spec.final_norm,
            Part::Ln2 => spec.block_norms && spec.wiring != Wiring::Parallel { shared_norm: true },
            Part::QNorm | Part::KNorm => spec.qk_norm,
            Part::Gate => spec.gated_mlp,
        }
    }

    /// `[n_out, n_in]` of a matrix; of a norm, its length and 1.
    pub fn shape(self, spec: &ModelSpec) -> [usize; 2] {
        let offset = match spec.positions {
            Positions::Learned { offset } => offset,
            _ => 0,
        };
        let buckets = match spec.positions {
            Positions::T5 { buckets, .. } => buckets,
            _ => 0,
        };
        let (q, kv) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
        match self {
            Part::Embed | Part::Unembed => [spec.vocab, spec.d_embed],
            Part::PosEmbed => [spec.n_ctx + offset, spec.d_model],
            Part::RelBias => [buckets, spec.n_heads],
            Part::ProjectIn => [spec.d_model, spec.d_embed],
            Part::ProjectOut => [spec.d_embed, spec.d_model],
            Part::FinalNorm | Part::Ln1 | Part::Ln2 => [spec.d_model, 1],
            Part::QNorm | Part::KNorm => [spec.d_head, 1],
            Part::Q => [q, spec.d_model],
            Part::K | Part::V => [kv, spec.d_model],
            Part::O => [spec.d_model, q],
            Part::Gate | Part::Up => [spec.d_mlp, spec.d_model],
            Part::Down => [spec.d_model, spec.d_mlp],
        }
    }
}

/// Which tensor of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Which {
    /// The matrix of a linear map or table; the gain of a norm.
    Weight,
    /// Bias of a norm or a linear map.
    Bias,
}

/// How this checkpoint names its tensors.
#[derive(Debug)]
pub(crate) struct Names {
    table: &'static Table,
    /// What precedes every name but the unembedding's.
    prefix: &'static str,
    /// The unembedding's name.
    head: &'static str,
    /// Stored where the embedding should be, in a tied model that stores it as its unembedding.
    swapped: bool,
    pub(crate) tied: bool,
}

/// Where a parameter lies in a checkpoint's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Name of the stored tensor.
    pub name: &'a str,
    /// Its shape, outermost dimension first.
    pub shape: &'a [usize],
    /// A matrix that is stored as `[n_in, n_out]`.
    pub transposed: bool,
    /// Logical output `i` is stored row (column, if transposed; element of a vector) `rows[i]`; all of
    /// them in order where absent.
    pub rows: Option<Vec<u32>>,
}

/// A stored tensor and where in it a parameter lies.
struct Located<'a> {
    name: &'a str,
    entry: &'a Entry,
    layout: Layout,
}

impl Names {
    /// Names before the checkpoint has been looked at.
    pub(crate) fn unresolved(spec: &ModelSpec) -> Self {
        let table = tables::folder(spec.family);
        Self { table, prefix: table.prefixes[0], head: table.heads[0], swapped: false, tied: spec.tied }
    }

    /// Finds out how the checkpoint spells its names, and checks that every parameter is there with the
    /// right shape and that nothing else is.
    pub(crate) fn find(c: &Checkpoint) -> LoadResult<Self> {
        let spec = c.spec();
        let table = if c.is_gguf() { tables::gguf(spec.family) } else { tables::folder(spec.family) };
        // The first spelling under which anything of the model is found.
        let spelled = |prefix: &&&str| {
            let stems = [format!("{prefix}{}", table.embed()), format!("{prefix}{}", table.block_stem())];
            c.entries().keys().any(|n| stems.iter().any(|s| n.starts_with(s.as_str())))
        };
        let prefix = table.prefixes.iter().find(spelled).unwrap_or(&table.prefixes[0]);
        let stored = |h: &&&str| c.entries().contains_key(&format!("{h}.weight"));
        let head = table.heads.iter().find(stored).unwrap_or(&table.heads[0]);
        let mut names = Self { table, prefix, head, swapped: false, tied: spec.tied };
        // A GGUF file does not say whether it is tied; old ones repeat GPT-2's embedding.
        if spec.tied || c.is_gguf() {
            let embed = names.full(Part::Embed, 0, ".weight");
            let head = names.full(Part::Unembed, 0, ".weight");
            match (c.entries().get(&embed), c.entries().get(&head)) {
                (None, Some(_)) if !c.is_gguf() => names.swapped = true,
                (Some(_), Some(_)) => names.tied = same(c, &embed, &head)?,
                _ => {}
            }
        }
        names.check(c)?;
        Ok(names)
    }

    /// Full name of a part's tensor.
    pub(crate) fn full(&self, part: Part, layer: usize, suffix: &str) -> String {
        if part == Part::Unembed || (self.swapped && part == Part::Embed) {
            return format!("{}{suffix}", self.head);
        }
        match self.table.find(part).0 {
            Place::Global(name) => format!("{}{name}{suffix}", self.prefix),
            Place::Block(name) => format!("{}{}{layer}.{name}{suffix}", self.prefix, self.table.block_stem()),
        }
    }

    /// Every parameter is there, and nothing else but buffers that no model reads.
    fn check(&self, c: &Checkpoint) -> LoadResult<()> {
        let spec = &ModelSpec { tied: self.tied, ..c.spec().clone() };
        let mut used = BTreeSet::new();
        let mut visit = |part: Part, layer: usize| -> LoadResult<()> {
            if !part.exists(spec) {
                return Ok(());
            }
            if !part.is_norm() {
                used.insert(self.locate(c, spec, part, layer, Which::Weight)?.name);
            }
            for which in [Which::Weight, Which::Bias] {
                if has(c.described().has, part, which) {
                    used.insert(self.locate(c, spec, part, layer, which)?.name);
                }
            }
            Ok(())
        };
        for part in Part::GLOBAL {
            visit(part, 0)?;
        }
        for layer in 0..spec.n_layers {
            for part in Part::BLOCK {
                visit(part, layer)?;
            }
        }
        let left = |n: &&String| !used.contains(n.as_str()) && !self.harmless(n, spec);
        let tensors: Vec<String> = c.entries().keys().filter(left).cloned().collect();
        if tensors.is_empty() {
            Ok(())
        } else {
            Err(LoadError::Leftover { path: c.path().to_owned(), tensors })
        }
    }

    /// Whether this is the stored unembedding of a tied model, which repeats its embedding. Pickles have
    /// one, safetensors files do not.
    pub(crate) fn repeats_embedding(&self, name: &str) -> bool {
        self.tied && !self.swapped && name == self.full(Part::Unembed, 0, ".weight")
    }

    /// Constant buffers that checkpoints carry and no model reads, and the unembedding of a tied model.
    fn harmless(&self, name: &str, spec: &ModelSpec) -> bool {
        if name == ROPE_FREQS || self.repeats_embedding(name) {
            return true;
        }
        let Some(name) = name.strip_prefix(self.prefix) else { return false };
        let inner = name.strip_prefix(self.table.block_stem()).and_then(|rest| {
            let (layer, inner) = rest.split_once('.')?;
            layer.parse::<usize>().ok().filter(|&l| l < spec.n_layers).map(|_| inner)
        });
        match inner {
            Some(inner) => self.table.harmless_block.contains(&inner),
            None => self.table.harmless_global.contains(&name),
        }
    }

    /// The stored tensor of a part, its shape checked.
    fn locate<'a>(
        &self,
        c: &'a Checkpoint,
        spec: &ModelSpec,
        part: Part,
        layer: usize,
        which: Which,
    ) -> LoadResult<Located<'a>> {
        let suffix = match which {
            Which::Weight => ".weight",
            Which::Bias => ".bias",
        };
        let name = self.full(part, layer, suffix);
        let Some((name, entry)) = c.entries().get_key_value(&name) else {
            return Err(LoadError::Missing { path: c.path().to_owned(), tensor: name });
        };
        let path = c.file_of(entry);
        let Stored::Known(dtype) = entry.dtype else {
            return Err(LoadError::TensorType {
                path: path.to_owned(),
                tensor: shorten(name),
                dtype: entry.dtype.name().to_owned(),
                supported: c.supported(),
            });
        };
        let (_, layout) = self.table.find(part);
        let [n, k] = part.shape(spec);
        let outputs = if layout.fused() { 3 * n } else { n };
        let want = match which {
            Which::Weight if !part.is_norm() && layout.transposed() => vec![k, outputs],
            Which::Weight if !part.is_norm() => vec![outputs, k],
            _ => vec![outputs],
        };
        if entry.shape != want {
            let got = entry.shape.clone();
            return Err(LoadError::Shape { path: path.to_owned(), tensor: shorten(name), got, want });
        }
        if layout.transposed() && want.len() == 2 && dtype.block() != 1 {
            let why = format!("{} cannot be stored transposed", dtype.name());
            return Err(LoadError::tensor(path, name, why));
        }
        Ok(Located { name, entry, layout })
    }
}

/// Whether a part has a vector of this kind.
fn has(has: Has, part: Part, which: Which) -> bool {
    let head_norm = matches!(part, Part::QNorm | Part::KNorm);
    match (which, part) {
        (Which::Weight, _) => part.is_norm() && has.gain,
        (Which::Bias, Part::Q | Part::K | Part::V) => has.qkv_bias,
        (Which::Bias, Part::O) => has.out_bias,
        (Which::Bias, Part::Gate | Part::Up | Part::Down) => has.mlp_bias,
        (Which::Bias, Part::Unembed) => has.unembed_bias,
        (Which::Bias, Part::ProjectIn | Part::ProjectOut | Part::Embed | Part::PosEmbed | Part::RelBias) => {
            false
        }
        (Which::Bias, _) => part.is_norm() && !head_norm && has.norm_bias,
    }
}

/// Whether two tensors hold the same values. Only for files that store a tied unembedding: all of it is
/// read, unless both are the same bytes of the file or differ early.
fn same(c: &Checkpoint, a: &str, b: &str) -> LoadResult<bool> {
    const PIECE: usize = 1 << 20;
    let (x, y) = (c.tensor(a)?, c.tensor(b)?);
    if x.dtype != y.dtype || x.shape != y.shape || x.bytes.len() != y.bytes.len() {
        return Ok(false);
    }
    if std::ptr::eq(x.bytes, y.bytes) {
        return Ok(true);
    }
    let mut equal = true;
    for (at, (p, q)) in x.bytes.chunks(PIECE).zip(y.bytes.chunks(PIECE)).enumerate() {
        equal &= p == q;
        c.release_part(a, at * PIECE..at * PIECE + p.len());
        c.release_part(b, at * PIECE..at * PIECE + p.len());
        if !equal {
            break;
        }
    }
    Ok(equal)
}

impl Checkpoint {
    /// A weight as a logical matrix `[n_out, n_in]` ([`Part::shape`]), whatever the order in which it is
    /// stored; embeddings are `[vocab, width]`. `layer` counts for parts of a block only. `None` where
    /// the model has no such matrix: a norm, the unembedding of a tied model, the gate of a plain MLP.
    ///
    /// # Errors
    /// The layer does not exist, or the file changed its length. What else could be wrong was found when
    /// the checkpoint was opened.
    pub fn matrix(&self, part: Part, layer: usize) -> LoadResult<Option<MatrixSource<'_>>> {
        if part.is_norm() {
            return Ok(None);
        }
        let Some(at) = self.location(part, layer, Which::Weight)? else { return Ok(None) };
        let view = self.tensor(at.name)?;
        let &[outer, inner] = view.shape else { return Ok(None) };
        Ok(Some(MatrixSource {
            name: at.name,
            dtype: view.dtype,
            bytes: view.bytes,
            stored: [outer, inner],
            transposed: at.transposed,
            rows: at.rows,
        }))
    }

    /// Gain or bias of a norm, or bias of a linear map, as f32 `[n_out]`. `None` where there is none.
    ///
    /// # Errors
    /// As for [`Checkpoint::matrix`].
    pub fn vector(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Vec<f32>>> {
        if !part.is_norm() && which == Which::Weight {
            return Ok(None);
        }
        let Some(at) = self.location(part, layer, which)? else { return Ok(None) };
        let view = self.tensor(at.name)?;
        let all = floats(&view.dtype, view.bytes, at.shape[0]);
        self.release(at.name);
        Ok(Some(match at.rows {
            None => all,
            Some(rows) => rows.into_iter().map(|r| all[r as usize]).collect(),
        }))
    }

    /// The stored tensor of a parameter and where in it the parameter lies. `None` where the model has no
    /// such parameter.
    ///
    /// # Errors
    /// As for [`Checkpoint::matrix`].
    pub fn location(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Location<'_>>> {
        let spec = self.spec();
        let matrix = !part.is_norm() && which == Which::Weight;
        // A tied model may still have a bias of its unembedding.
        let exists = part.exists(spec) || (part == Part::Unembed && !matrix);
        if !exists || !(matrix || has(self.described().has, part, which)) {
            return Ok(None);
        }
        let at = self.names().locate(self, spec, part, layer, which)?;
        Ok(Some(Location {
            name: at.name,
            shape: &at.entry.shape,
            transposed: matrix && at.layout.transposed(),
            rows: at.layout.rows(spec, part).filter(|_| !part.is_norm()),
        }))
    }
}

/// Stored values as f32, each exactly.
fn floats(dtype: &Dtype, bytes: &[u8], n: usize) -> Vec<f32> {
    let row = MatrixSource { name: "", dtype: *dtype, bytes, stored: [1, n], transposed: false, rows: None };
    let mut out = vec![0.0; n];
    row.row_f32(0, &mut out);
    out
}
