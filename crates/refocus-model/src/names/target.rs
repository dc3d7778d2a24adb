//! The other direction: which tensors a folder in Hugging Face layout holds for a model.

use super::tables::Layout;
use super::{Names, Part, Which, has};
use crate::config::Has;
use crate::spec::ModelSpec;

/// A parameter inside a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) part: Part,
    pub(crate) layer: usize,
    pub(crate) which: Which,
    layout: Layout,
}

impl Piece {
    /// Where logical output `i` goes: row (column, if transposed; element of a vector) `rows[i]`; all of
    /// them in order where absent.
    pub(crate) fn rows(&self, spec: &ModelSpec) -> Option<Vec<u32>> {
        self.layout.rows(spec, self.part).filter(|_| !self.part.is_norm())
    }
}

/// A tensor of a folder and the parameters that lie in it: one, or queries, keys and values.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// Outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// A matrix that lies as `[n_in, n_out]`.
    pub(crate) transposed: bool,
    pub(crate) pieces: Vec<Piece>,
}

/// Every tensor of a folder, in the order in which a forward pass reads them.
pub(crate) fn targets(spec: &ModelSpec, optional: Has) -> Vec<Target> {
    use Part::{Embed, FinalNorm, PosEmbed, ProjectIn, ProjectOut, RelBias, Unembed};
    let names = Names::unresolved(spec);
    let mut out: Vec<Target> = Vec::new();
    let once = |part: Part| (part, 0);
    let blocks = (0..spec.n_layers).flat_map(|layer| Part::BLOCK.map(|part| (part, layer)));
    let order = [Embed, PosEmbed, RelBias, ProjectIn].map(once).into_iter().chain(blocks);
    for (part, layer) in order.chain([FinalNorm, ProjectOut, Unembed].map(once)) {
        let matrix = !part.is_norm() && part.exists(spec);
        // A tied model may still have a bias of its unembedding.
        let vectors = part.exists(spec) || part == Unembed;
        if matrix {
            names.push(&mut out, spec, part, layer, Which::Weight);
        }
        for which in [Which::Weight, Which::Bias] {
            if vectors && has(optional, part, which) {
                names.push(&mut out, spec, part, layer, which);
            }
        }
    }
    out
}

impl Names {
    fn push(&self, out: &mut Vec<Target>, spec: &ModelSpec, part: Part, layer: usize, which: Which) {
        let suffix = match which {
            Which::Weight => ".weight",
            Which::Bias => ".bias",
        };
        let name = self.full(part, layer, suffix);
        let (_, layout) = self.table.find(part);
        let piece = Piece { part, layer, which, layout };
        // The pieces of a fused tensor follow each other, but a bias stands between two weights.
        if layout.fused()
            && let Some(t) = out.iter_mut().rev().take(4).find(|t| t.name == name)
        {
            t.pieces.push(piece);
            return;
        }
        let [n, k] = part.shape(spec);
        let outputs = if layout.fused() { 3 * n } else { n };
        let matrix = !part.is_norm() && which == Which::Weight;
        let transposed = matrix && layout.transposed();
        let shape = match (matrix, transposed) {
            (false, _) => vec![outputs],
            (true, false) => vec![outputs, k],
            (true, true) => vec![k, outputs],
        };
        out.push(Target { name, shape, transposed, pieces: vec![piece] });
    }
}
