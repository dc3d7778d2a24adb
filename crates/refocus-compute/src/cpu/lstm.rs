//! The recurrence of an LSTM layer. A tile is a few sequences over all their time steps, so threads
//! never wait for each other within a layer.

use crate::error::Result;
use crate::kernels::{LstmGrads, LstmKept, LstmOut};
use crate::ops::Batch;
use crate::simd::{Isa, LANES, Simd, exp, isa_fn, tanh};

use super::Cpu;
use super::memory::{CpuBuf, Out, Scratch};
use super::panels::Panels;
use super::product::{Epilogue, Rect, rect};

/// Sequences of one tile at most: a panel of weights then serves two tall tiles of rows from the first
/// cache level.
const TOGETHER: usize = 24;

/// `(first row, length)` of sequences that run side by side, longest first: those that are still under way
/// at a time step are the first ones.
type Block = Vec<(usize, usize)>;

fn blocks(batch: &Batch, threads: usize) -> Vec<Block> {
    let mut seqs: Block = batch.segs.iter().map(|s| (s.rows.start as usize, s.rows.len())).collect();
    seqs.retain(|s| s.1 > 0);
    seqs.sort_by_key(|s| std::cmp::Reverse(s.1));
    let size = seqs.len().div_ceil(threads).clamp(1, TOGETHER);
    seqs.chunks(size).map(<[_]>::to_vec).collect()
}

/// How many of a block's sequences are longer than `t`.
fn under_way(block: &Block, t: usize) -> usize {
    block.partition_point(|s| s.1 > t)
}

/// `c = x Wᵀ + b` for the rows of a block.
///
/// # Safety
/// `x` holds `rows · w.k` numbers and `c` `rows · w.n`.
unsafe fn product(isa: Isa, x: &[f32], rows: usize, w: &Panels, bias: Option<&[f32]>, c: &mut [f32]) {
    debug_assert!(x.len() >= rows * w.k && c.len() >= rows * w.n);
    let epi = Epilogue { bias, ..Epilogue::NONE };
    let p1 = w.n.div_ceil(LANES);
    let (x, c) = (x.as_ptr(), c.as_mut_ptr());
    // SAFETY: the caller's promise.
    unsafe { rect(isa, &Rect { x, ldx: w.k, rows, w, p0: 0, p1, c, ldc: w.n, epi }) };
}

/// See [`crate::Kernels::lstm`].
pub(super) fn lstm(
    cpu: &mut Cpu,
    pre: &CpuBuf,
    at: Option<&[u32]>,
    w: &Panels,
    bias: Option<&CpuBuf>,
    batch: &Batch,
    keep: bool,
) -> Result<LstmOut<CpuBuf>> {
    let (h, isa, rows) = (w.k, cpu.isa, batch.rows());
    let mut hidden = cpu.stale(rows, h)?;
    let mut kept = match keep {
        true => Some(LstmKept { gates: cpu.stale(rows, 4 * h)?, cells: cpu.stale(rows, h)? }),
        false => None,
    };
    let blocks = blocks(batch, cpu.team.size());
    let out = Out::new(hidden.as_mut_slice());
    let seen = kept.as_mut().map(|k| (Out::new(k.gates.as_mut_slice()), Out::new(k.cells.as_mut_slice())));
    let bias = bias.map(CpuBuf::as_slice);
    cpu.team.run(blocks.len(), |b| {
        let block = &blocks[b];
        let n = block.len();
        let mut scratch = Scratch::take(6 * n * h);
        let (state, rest) = scratch.get(6 * n * h).split_at_mut(n * h);
        let (cell, recurrent) = rest.split_at_mut(n * h);
        cell.fill(0.0);
        // Before the first step the state is zero, and so is its product.
        for row in recurrent.chunks_exact_mut(4 * h) {
            match bias {
                Some(b) => row.copy_from_slice(b),
                None => row.fill(0.0),
            }
        }
        for t in 0..block[0].1 {
            let active = under_way(block, t);
            if t > 0 {
                // SAFETY: `n` states of `h` numbers, `n` rows of `4h`.
                unsafe { product(isa, state, active, w, bias, recurrent) };
            }
            for (i, (start, _)) in block[..active].iter().enumerate() {
                let row = start + t;
                let pre = pre.row(at.map_or(row, |at| at[row] as usize));
                let (state, cell) = (&mut state[i * h..][..h], &mut cell[i * h..][..h]);
                // SAFETY: rows of this block's sequences are this tile's own; lengths are as `gates` asks.
                unsafe {
                    let kept = seen.map(|(g, c)| (g.slice(row * 4 * h, 4 * h), c.slice(row * h, h)));
                    gates(isa, pre, &recurrent[i * 4 * h..][..4 * h], cell, state, kept);
                    out.slice(row * h, h).copy_from_slice(state);
                }
            }
        }
    });
    Ok((hidden, kept))
}

isa_fn! {
    /// One step of one sequence: the cell and the state move on.
    ///
    /// # Safety
    /// `pre` and `recurrent` are `4h` long, `cell` and `state` `h`; so are the gates and cells to keep.
    unsafe fn gates = gates_body(
        pre: &[f32], recurrent: &[f32], cell: &mut [f32], state: &mut [f32],
        kept: Option<(&mut [f32], &mut [f32])>,
    )
}

#[inline(always)]
unsafe fn gates_body<S: Simd>(
    pre: &[f32],
    recurrent: &[f32],
    cell: &mut [f32],
    state: &mut [f32],
    mut kept: Option<(&mut [f32], &mut [f32])>,
) {
    let h = cell.len();
    // SAFETY: `n` numbers are left in every part.
    unsafe {
        for j in (0..h).step_by(LANES) {
            let n = LANES.min(h - j);
            let mut gate = [S::splat(0.0); 4];
            for (g, gate) in gate.iter_mut().enumerate() {
                let at = g * h + j;
                let x = S::add(
                    S::load_part(pre.as_ptr().add(at), n),
                    S::load_part(recurrent.as_ptr().add(at), n),
                );
                *gate = if g == 2 { tanh::<S>(x) } else { sigmoid::<S>(x) };
            }
            let [input, forget, new, output] = gate;
            let c = S::fma(forget, S::load_part(cell.as_ptr().add(j), n), S::mul(input, new));
            S::store_part(cell.as_mut_ptr().add(j), c, n);
            S::store_part(state.as_mut_ptr().add(j), S::mul(output, tanh::<S>(c)), n);
            if let Some((gates, cells)) = &mut kept {
                for (g, gate) in gate.iter().enumerate() {
                    S::store_part(gates.as_mut_ptr().add(g * h + j), *gate, n);
                }
                S::store_part(cells.as_mut_ptr().add(j), c, n);
            }
        }
    }
}

/// `1 / (1 + e^{−x})`.
#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's instruction set.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

/// See [`crate::Kernels::lstm_vjp`].
pub(super) fn lstm_vjp(
    cpu: &mut Cpu,
    hidden: &CpuBuf,
    kept: &LstmKept<CpuBuf>,
    w: &Panels,
    batch: &Batch,
    dh: &CpuBuf,
) -> Result<LstmGrads<CpuBuf>> {
    let (h, isa) = (w.k, cpu.isa);
    let back = super::vjp::transpose(cpu, w)?;
    let mut dpre = cpu.stale(hidden.rows, 4 * h)?;
    let mut before = cpu.stale(hidden.rows, h)?;
    let blocks = blocks(batch, cpu.team.size());
    let (out, shifted) = (Out::new(dpre.as_mut_slice()), Out::new(before.as_mut_slice()));
    cpu.team.run(blocks.len(), |b| {
        let block = &blocks[b];
        let n = block.len();
        let mut scratch = Scratch::take(7 * n * h);
        let (dstate, rest) = scratch.get(7 * n * h).split_at_mut(n * h);
        let (dcell, rest) = rest.split_at_mut(n * h);
        let (dgates, zero) = rest.split_at_mut(4 * n * h);
        // What comes back from beyond a sequence's end is nothing.
        dstate.fill(0.0);
        dcell.fill(0.0);
        zero.fill(0.0);
        for t in (0..block[0].1).rev() {
            let active = under_way(block, t);
            for (i, (start, _)) in block[..active].iter().enumerate() {
                let row = start + t;
                let (dstate, dcell) = (&dstate[i * h..][..h], &mut dcell[i * h..][..h]);
                let dgates = &mut dgates[i * 4 * h..][..4 * h];
                let (c, h_before) = if t > 0 {
                    (kept.cells.row(row - 1), hidden.row(row - 1))
                } else {
                    (&zero[..h], &zero[..h])
                };
                // SAFETY: rows of this block's sequences are this tile's own; lengths are as
                // `gates_back` asks.
                unsafe {
                    gates_back(
                        isa,
                        kept.gates.row(row),
                        kept.cells.row(row),
                        c,
                        dh.row(row),
                        dstate,
                        dcell,
                        dgates,
                    );
                    out.slice(row * 4 * h, 4 * h).copy_from_slice(dgates);
                    shifted.slice(row * h, h).copy_from_slice(h_before);
                }
            }
            if t > 0 {
                // SAFETY: `n` rows of `4h` numbers, `n` states of `h`.
                unsafe { product(isa, dgates, active, &back, None, dstate) };
            }
        }
    });
    Ok(LstmGrads { dpre, before })
}

isa_fn! {
    /// One step back of one sequence: the gradient of its gates before their non-linearities; `dcell`
    /// becomes that of the cell one step earlier.
    ///
    /// # Safety
    /// `gates` and `dgates` are `4h` long, the others `h`.
    unsafe fn gates_back = gates_back_body(
        gates: &[f32], cell: &[f32], cell_before: &[f32], dh: &[f32], dstate: &[f32], dcell: &mut [f32],
        dgates: &mut [f32],
    )
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn gates_back_body<S: Simd>(
    gates: &[f32],
    cell: &[f32],
    cell_before: &[f32],
    dh: &[f32],
    dstate: &[f32],
    dcell: &mut [f32],
    dgates: &mut [f32],
) {
    let h = cell.len();
    // SAFETY: `n` numbers are left in every part.
    unsafe {
        let one = S::splat(1.0);
        for j in (0..h).step_by(LANES) {
            let n = LANES.min(h - j);
            let gate = |g: usize| gates.as_ptr().add(g * h + j);
            let input = S::load_part(gate(0), n);
            let forget = S::load_part(gate(1), n);
            let new = S::load_part(gate(2), n);
            let output = S::load_part(gate(3), n);
            let tc = tanh::<S>(S::load_part(cell.as_ptr().add(j), n));
            let d = S::add(S::load_part(dh.as_ptr().add(j), n), S::load_part(dstate.as_ptr().add(j), n));
            let through = S::mul(S::mul(d, output), S::sub(one, S::mul(tc, tc)));
            let dc = S::add(S::load_part(dcell.as_ptr().add(j), n), through);
            S::store_part(dcell.as_mut_ptr().add(j), S::mul(dc, forget), n);
            // σ' = σ (1 − σ), tanh' = 1 − tanh².
            let slope = |g: S::F| S::mul(g, S::sub(one, g));
            let before = S::load_part(cell_before.as_ptr().add(j), n);
            let each = [
                S::mul(S::mul(dc, new), slope(input)),
                S::mul(S::mul(dc, before), slope(forget)),
                S::mul(S::mul(dc, input), S::sub(one, S::mul(new, new))),
                S::mul(S::mul(d, tc), slope(output)),
            ];
            for (g, v) in each.into_iter().enumerate() {
                S::store_part(dgates.as_mut_ptr().add(g * h + j), v, n);
            }
        }
    }
}
