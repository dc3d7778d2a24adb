//! What [`super::Eager`] checks before a kernel runs: shapes, ids and ranges. Kernels trust it.

use std::collections::HashSet;
use std::fmt::Display;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::ops::{
    AttnProbe, AttnSpec, Batch, EditOp, KvSeq, PatternChange, RopeTable, RowEdit, RowSet, Vocab,
};

/// `(rows, width)`.
pub(crate) type Dim = (usize, usize);

/// How a shape is written in errors.
fn show((rows, width): Dim) -> String {
    format!("[{rows}, {width}]")
}

/// A shape error in words.
pub(crate) fn mismatch(op: &'static str, what: impl Display, got: impl Display, want: impl Display) -> Error {
    Error::Shape { op, what: what.to_string(), got: got.to_string(), want: want.to_string() }
}

/// A request that cannot be met, in words.
pub(crate) fn unsupported(op: &'static str, why: impl Display) -> Error {
    Error::Unsupported { op, why: why.to_string() }
}

/// Two shapes must be equal.
pub(crate) fn same(op: &'static str, what: impl Display, got: Dim, want: Dim) -> Result<()> {
    if got == want { Ok(()) } else { Err(mismatch(op, what, show(got), show(want))) }
}

/// Every index must be below `limit`.
pub(crate) fn within(op: &'static str, what: &'static str, ids: &[u32], limit: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= limit) {
        None => Ok(()),
        Some(&id) => Err(Error::Range { op, what, index: id as usize, limit }),
    }
}

/// Columns must lie within a matrix.
pub(crate) fn columns(op: &'static str, cols: &Range<usize>, x: Dim) -> Result<()> {
    if cols.start <= cols.end && cols.end <= x.1 {
        return Ok(());
    }
    Err(mismatch(
        op,
        format!("the matrix, for columns {}..{},", cols.start, cols.end),
        show(x),
        "wide enough",
    ))
}

/// A width must be a whole number of parts.
pub(crate) fn divides(op: &'static str, what: impl Display, part: usize, x: Dim) -> Result<()> {
    if part > 0 && x.1.is_multiple_of(part) {
        return Ok(());
    }
    Err(mismatch(op, "the input", show(x), format!("a whole number of {what} of {part} columns")))
}

/// Checks a weight `[n, k]` and its bias `[1, n]` against an input.
pub(crate) fn map(op: &'static str, x: Dim, w: Dim, bias: Option<Dim>) -> Result<()> {
    if w.1 != x.1 {
        return Err(mismatch(op, "the input", show(x), format!("[rows, {}] for a weight {}", w.1, show(w))));
    }
    bias.map_or(Ok(()), |b| same(op, "the bias", b, (1, w.0)))
}

/// See [`crate::Ops::rope`].
pub(crate) fn rope(x: Dim, d_head: usize, table: &RopeTable, pos: &[u32]) -> Result<()> {
    divides("rope", "heads", d_head, x)?;
    let half = table.rotary / 2;
    if !table.rotary.is_multiple_of(2) || table.rotary > d_head {
        let want = format!("even and at most {d_head}");
        return Err(mismatch("rope", "the number of rotated dimensions", table.rotary, want));
    }
    if table.cos.len() != table.sin.len() {
        return Err(mismatch("rope", "the number of sines", table.sin.len(), table.cos.len()));
    }
    if pos.len() != x.0 {
        return Err(mismatch("rope", "the number of positions", pos.len(), x.0));
    }
    // Without rotated dimensions the table is empty and positions do not matter.
    let limit = table.cos.len().checked_div(half);
    limit.map_or(Ok(()), |limit| within("rope", "position", pos, limit))
}

/// See [`crate::Ops::edit`]; `shape` gives the shape of an operand.
pub(crate) fn edit<T>(x: Dim, e: &RowEdit<T>, shape: impl Fn(&T) -> Dim) -> Result<()> {
    within("edit", "row", e.rows.as_slice(), x.0)?;
    columns("edit", &e.cols, x)?;
    match &e.op {
        EditOp::Zero | EditOp::Scale(_) => Ok(()),
        EditOp::Add(t) | EditOp::Set(t) => {
            let got = shape(t);
            let one = (1, e.cols.len());
            if got == one { Ok(()) } else { same("edit", "the operand", got, (e.rows.len(), one.1)) }
        }
    }
}

/// See [`crate::Ops::vocab`]; `u` is `[vocab, width]`.
pub(crate) fn vocab(x: Dim, u: Dim, bias: Option<Dim>, want: &[Vocab]) -> Result<()> {
    map("vocab", x, u, bias)?;
    for question in want {
        match question {
            Vocab::Ids(ids) => within("vocab", "id", ids, u.0)?,
            Vocab::Nll(ids) | Vocab::RankOf(ids) => {
                within("vocab", "id", ids, u.0)?;
                if ids.len() != x.0 {
                    return Err(mismatch("vocab", "the number of ids, one a row,", ids.len(), x.0));
                }
            }
            Vocab::LogSumExp | Vocab::Top(_) | Vocab::All => {}
        }
    }
    Ok(())
}

/// Segments must cover the rows in order without gaps; gives the number of rows.
fn covered(op: &'static str, batch: &Batch) -> Result<usize> {
    let mut next = 0;
    for seg in &batch.segs {
        if seg.rows.start != next || seg.rows.end < next {
            let got = format!("{}..{}", seg.rows.start, seg.rows.end);
            return Err(mismatch(op, "a segment's row range", got, format!("one that starts at {next}")));
        }
        next = seg.rows.end;
    }
    Ok(next as usize)
}

/// See [`crate::Ops::lstm`]; `w` is the shape of the recurrent weight, `bias` that of its bias.
pub(crate) fn lstm(pre: Dim, at: Option<&[u32]>, w: Dim, bias: Option<Dim>, batch: &Batch) -> Result<()> {
    const OP: &str = "lstm";
    let gates = w.1.saturating_mul(4);
    if w.1 == 0 || w.0 != gates {
        return Err(mismatch(OP, "the recurrent weight", show(w), "[4 · hidden, hidden]"));
    }
    if let Some(seg) = batch.segs.iter().find(|s| s.pos0 != 0) {
        return Err(unsupported(
            OP,
            format!("a segment starts at position {}: states are not kept", seg.pos0),
        ));
    }
    let rows = covered(OP, batch)?;
    match at {
        Some(at) => {
            same(OP, "the table", pre, (pre.0, gates))?;
            if at.len() != rows {
                return Err(mismatch(OP, "the rows of the table", at.len(), rows));
            }
            within(OP, "row", at, pre.0)?;
        }
        None => same(OP, "the input", pre, (rows, gates))?,
    }
    bias.map_or(Ok(()), |b| same(OP, "the bias", b, (1, gates)))
}

/// The cache as attention uses it.
pub(crate) enum Past<'a, P> {
    /// No cache.
    None,
    /// Read only.
    Read(&'a [KvSeq<P>]),
    /// Continued.
    Append(&'a [KvSeq<P>]),
}

/// See [`crate::Ops::attention`]: `q`, `k` and `v` against the heads and the batch.
pub(crate) fn attention(
    qkv: [Dim; 3],
    spec: &AttnSpec,
    batch: &Batch,
    q_rows: Option<&RowSet>,
) -> Result<()> {
    const OP: &str = "attention";
    let [q, k, v] = qkv;
    if spec.n_kv_heads == 0 || !spec.n_heads.is_multiple_of(spec.n_kv_heads) {
        let want = format!("a multiple of {} key/value heads", spec.n_kv_heads);
        return Err(mismatch(OP, "the number of heads", spec.n_heads, want));
    }
    if spec.window == Some(0) {
        return Err(unsupported(OP, "a window of 0 hides every key"));
    }
    let rows = covered(OP, batch)?;
    same(OP, "keys", k, (rows, spec.n_kv_heads * spec.d_head))?;
    same(OP, "values", v, k)?;
    same(OP, "queries", q, (q_rows.map_or(rows, RowSet::len), spec.n_heads * spec.d_head))?;
    q_rows.map_or(Ok(()), |set| within(OP, "query row", set.as_slice(), rows))
}

/// A bias by distance against heads and batch.
pub(crate) fn bias(bias: Dim, spec: &AttnSpec, batch: &Batch) -> Result<()> {
    let end = |s: &crate::ops::Seg| s.pos0 as usize + s.rows.len();
    let longest = batch.segs.iter().map(end).max().unwrap_or(0);
    if bias.0 >= longest && bias.1 == spec.n_heads {
        return Ok(());
    }
    let want = format!("[{longest} or more, {}]", spec.n_heads);
    Err(mismatch("attention", "the bias", show(bias), want))
}

/// The cache of a layer against the batch.
pub(crate) fn past<P>(layer: usize, batch: &Batch, past: &Past<'_, P>) -> Result<()> {
    const OP: &str = "attention";
    let seqs = match past {
        Past::None => {
            return match batch.segs.iter().find(|s| s.pos0 != 0) {
                None => Ok(()),
                Some(seg) => {
                    Err(unsupported(OP, format!("a segment starts at position {} without a cache", seg.pos0)))
                }
            };
        }
        Past::Read(seqs) | Past::Append(seqs) => *seqs,
    };
    if seqs.len() != batch.segs.len() {
        return Err(mismatch(OP, "the number of cached sequences", seqs.len(), batch.segs.len()));
    }
    for (seg, seq) in batch.segs.iter().zip(seqs) {
        if layer >= seq.layers.len() {
            return Err(Error::Range { op: OP, what: "cached layer", index: layer, limit: seq.layers.len() });
        }
        // A reader may recompute the end of a sequence; a writer must continue it.
        let fits = match past {
            Past::Append(_) => seg.pos0 as usize == seq.len,
            _ => seg.pos0 as usize <= seq.len,
        };
        if !fits {
            return Err(mismatch(
                OP,
                "a segment's first position",
                seg.pos0,
                format!("{} as cached", seq.len),
            ));
        }
    }
    Ok(())
}

/// Pattern edits and key groups against heads and batch; `shape` gives the shape of a given pattern.
pub(crate) fn probe<T>(
    spec: &AttnSpec,
    batch: &Batch,
    probe: &AttnProbe<T>,
    shape: impl Fn(&T) -> Dim,
) -> Result<()> {
    const OP: &str = "attention";
    let mut given: HashSet<(usize, u32)> = HashSet::new();
    for e in &probe.edits {
        if e.head >= spec.n_heads {
            return Err(Error::Range { op: OP, what: "edited head", index: e.head, limit: spec.n_heads });
        }
        let rows = e.rows.as_slice();
        within(OP, "edited row", rows, batch.rows())?;
        if let PatternChange::Set(t) = &e.kind {
            let got = shape(t);
            if got.0 != rows.len() {
                return Err(mismatch(OP, "a given pattern", show(got), format!("[{}, keys]", rows.len())));
            }
            given.extend(rows.iter().map(|&row| (e.head, row)));
        } else if let Some(row) = rows.iter().find(|&&row| given.contains(&(e.head, row))) {
            let why = format!("the pattern of row {row}, head {} is given and then edited again", e.head);
            return Err(unsupported(OP, why));
        }
        if let PatternChange::Temperature(t) = &e.kind
            && !(*t > 0.0 && t.is_finite())
        {
            return Err(unsupported(OP, format!("temperature {t} of head {}: it must be positive", e.head)));
        }
    }
    if let Some(groups) = &probe.groups {
        if groups.len() != batch.segs.len() {
            return Err(mismatch(
                OP,
                "the number of segments with key groups",
                groups.len(),
                batch.segs.len(),
            ));
        }
        let n = groups.first().map_or(0, Vec::len);
        if let Some(other) = groups.iter().find(|g| g.len() != n) {
            return Err(mismatch(OP, "the number of key groups of a segment", other.len(), n));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_table_of_gate_inputs_is_named() {
        let batch = Batch::from_lengths([2, 1]);
        let refusal =
            |pre, at: &[u32]| lstm(pre, Some(at), (8, 2), None, &batch).err().map(|e| e.to_string());
        assert_eq!(refusal((5, 8), &[0, 4, 4]), None);
        for (pre, at, says) in [
            ((5, 7), [0, 4, 4].as_slice(), "the table"),
            ((5, 8), &[0, 4], "the rows of the table"),
            ((5, 8), &[0, 5, 4], "row 5"),
        ] {
            let e = refusal(pre, at).unwrap_or_default();
            assert!(e.contains("lstm") && e.contains(says), "{e}");
        }
    }
}
