//! Linear maps: how a product is cut into tiles for the team.

use crate::error::Result;
use crate::ops::Activation;
use crate::simd::LANES;

use super::Cpu;
use super::memory::{CpuBuf, Out};
use super::panels::Panels;
use super::product::{Epilogue, FEW_ROWS, Rect, rect};

/// Rows of one tile at most: its repacked inputs (240 × 256 × 4 bytes) stay in a 1 MiB L2 beside a
/// strip of weights.
const ROW_BLOCK: usize = 240;

/// From this many rows on, rows are split before columns.
const MANY_ROWS: usize = 96;

/// Tiles a thread: more even out a shared machine, fewer repack less.
const TILES_PER_THREAD: usize = 3;

/// One tile: rows and panels of one of the weights.
pub(super) struct Tile {
    weight: usize,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) p0: usize,
    pub(super) p1: usize,
}

/// Cuts the product of `rows` inputs with weights of these numbers of outputs into tiles.
pub(super) fn tiles(rows: usize, outputs: &[usize], threads: usize) -> Vec<Tile> {
    let panels: usize = outputs.iter().map(|n| n.div_ceil(LANES)).sum();
    let want = threads * TILES_PER_THREAD;
    let (block, strips) = if rows < MANY_ROWS {
        (rows, want)
    } else {
        let blocks = rows.div_ceil(ROW_BLOCK).next_multiple_of(threads.min(rows.div_ceil(48)));
        (rows.div_ceil(blocks).next_multiple_of(12), want.div_ceil(blocks))
    };
    // Panels that a register tile spans.
    let least = if rows <= FEW_ROWS {
        8
    } else if rows <= 4 {
        4
    } else {
        2
    };
    let strip = if threads == 1 && rows >= MANY_ROWS {
        panels
    } else {
        panels.div_ceil(strips).next_multiple_of(least)
    };
    let mut out = Vec::new();
    for row in (0..rows).step_by(block.max(1)) {
        for (weight, n) in outputs.iter().enumerate() {
            let count = n.div_ceil(LANES);
            for p0 in (0..count).step_by(strip.max(1)) {
                out.push(Tile { weight, row, rows: block.min(rows - row), p0, p1: count.min(p0 + strip) });
            }
        }
    }
    out
}

/// Where the outputs of one weight go.
struct Target {
    out: Out,
    /// Distance of rows, and the first column.
    ld: usize,
    col: usize,
}

/// `residual + act(x Wᵀ + b)`, the outputs of several weights side by side.
pub(super) fn linear(
    cpu: &mut Cpu,
    x: &CpuBuf,
    ws: &[(&Panels, Option<&CpuBuf>)],
    act: Option<Activation>,
    residual: Option<&CpuBuf>,
) -> Result<CpuBuf> {
    let n: usize = ws.iter().map(|(w, _)| w.n).sum();
    let mut y = cpu.stale(x.rows, n)?;
    let out = Out::new(y.as_mut_slice());
    let mut col = 0;
    let targets: Vec<_> = ws
        .iter()
        .map(|(w, _)| {
            col += w.n;
            Target { out, ld: n, col: col - w.n }
        })
        .collect();
    product(cpu, x, ws, &targets, act, residual.map(CpuBuf::as_slice));
    Ok(y)
}

/// `x Wᵀ + b` of several weights, a matrix each.
pub(super) fn linear_each(
    cpu: &mut Cpu,
    x: &CpuBuf,
    ws: &[(&Panels, Option<&CpuBuf>)],
) -> Result<Vec<CpuBuf>> {
    let mut ys = ws.iter().map(|(w, _)| cpu.stale(x.rows, w.n)).collect::<Result<Vec<_>>>()?;
    let target = |y: &mut CpuBuf| Target { ld: y.width, out: Out::new(y.as_mut_slice()), col: 0 };
    let targets: Vec<_> = ys.iter_mut().map(target).collect();
    product(cpu, x, ws, &targets, None, None);
    Ok(ys)
}

/// `residual` is laid out as the targets.
fn product(
    cpu: &mut Cpu,
    x: &CpuBuf,
    ws: &[(&Panels, Option<&CpuBuf>)],
    targets: &[Target],
    act: Option<Activation>,
    residual: Option<&[f32]>,
) {
    if x.rows == 0 {
        return;
    }
    let outputs: Vec<usize> = ws.iter().map(|(w, _)| w.n).collect();
    let plan = tiles(x.rows, &outputs, cpu.team.size());
    let isa = cpu.isa;
    let input = x.as_slice();
    cpu.team.run(plan.len(), |i| {
        let t = &plan[i];
        let (w, bias) = ws[t.weight];
        let to = &targets[t.weight];
        let at = t.row * to.ld + to.col + t.p0 * LANES;
        let epi = Epilogue {
            bias: bias.map(CpuBuf::as_slice),
            act,
            residual: residual.map(|r| (r[at..].as_ptr(), to.ld)),
        };
        let x = input[t.row * w.k..].as_ptr();
        // SAFETY: tiles are disjoint rectangles inside `x` and the targets.
        unsafe {
            let c = to.out.at(at);
            let r = Rect { x, ldx: w.k, rows: t.rows, w, p0: t.p0, p1: t.p1, c, ldc: to.ld, epi };
            rect(isa, &r);
        }
    });
}
