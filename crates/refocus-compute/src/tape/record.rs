//! The forward half of the tape: run, then remember.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::{Attention, Lstm, Measure, Op, Operand, Tape, Var};
use crate::dropout::Dropout;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::ops::{
    Activation, AttnOut, AttnProbe, AttnSpec, Batch, Dirs, KvUse, Linear, Norm, Ops, Param, PatternChange,
    Qkv, RopeTable, RowEdit, RowSet, Then, Vocab, VocabOut,
};

impl<K: Kernels> Tape<K> {
    fn wants_norm(&self, n: &Norm<K>) -> bool {
        self.wanted.has_any(&n.gain) || self.wanted.has_any(&n.bias)
    }

    fn wants_map(&self, l: &Linear<K>) -> bool {
        self.wanted.has(&l.w) || self.wanted.has_any(&l.bias)
    }

    /// A value whose gradient cannot be had; only an error if one is asked for.
    fn opaque(&mut self, value: Rc<K::Buf>, op: &'static str, depends: bool) -> Var<K> {
        if depends { self.record(value, Op::Opaque(op)) } else { self.plain(value) }
    }
}

fn copy_map<K: Kernels>(l: &Linear<K>) -> Linear<K> {
    Linear { w: l.w.clone(), bias: l.bias.clone() }
}

impl<K: Kernels> Ops for Tape<K> {
    type K = K;
    type T = Var<K>;

    fn shape(&self, x: &Var<K>) -> (usize, usize) {
        self.eager.shape(&x.value)
    }

    fn constant(&mut self, rows: usize, width: usize, data: &[f32]) -> Result<Var<K>> {
        let value = self.eager.constant(rows, width, data)?;
        Ok(self.plain(value))
    }

    fn to_host(&mut self, x: &Var<K>) -> Result<Vec<f32>> {
        self.eager.to_host(&x.value)
    }

    fn parameter(&mut self, p: &Param<K::Buf>) -> Result<Var<K>> {
        let y = self.eager.parameter(p)?;
        Ok(self.opaque(y, "parameter", self.wanted.has(p)))
    }

    fn embed(&mut self, w: &Param<K::W>, ids: &[u32]) -> Result<Var<K>> {
        let y = self.eager.embed(w, ids)?;
        if !self.wanted.has(w) {
            return Ok(self.plain(y));
        }
        Ok(self.record(y, Op::Embed { w: w.clone(), ids: ids.to_vec() }))
    }

    fn add(&mut self, x: &Var<K>, y: &Var<K>) -> Result<Var<K>> {
        let ids = (self.live("add", x)?, self.live("add", y)?);
        let sum = self.eager.add(&x.value, &y.value)?;
        Ok(match ids {
            (None, None) => self.plain(sum),
            (x, y) => self.record(sum, Op::Add { x, y }),
        })
    }

    fn norm(&mut self, x: &Var<K>, n: &Norm<K>) -> Result<Var<K>> {
        let id = self.live("norm", x)?;
        let y = self.eager.norm(&x.value, n)?;
        if id.is_none() && !self.wants_norm(n) {
            return Ok(self.plain(y));
        }
        let norm =
            Norm { kind: n.kind, eps: n.eps, group: n.group, gain: n.gain.clone(), bias: n.bias.clone() };
        Ok(self.record(y, Op::Norm { x: id, input: Rc::clone(&x.value), norm }))
    }

    fn norm_scale(&mut self, x: &Var<K>, n: &Norm<K>) -> Result<Var<K>> {
        let id = self.live("norm_scale", x)?;
        let y = self.eager.norm_scale(&x.value, n)?;
        Ok(self.opaque(y, "norm_scale", id.is_some()))
    }

    fn linear(&mut self, x: &Var<K>, ws: &[&Linear<K>], then: Then<'_, Var<K>>) -> Result<Var<K>> {
        let id = self.live("linear", x)?;
        let residual = then.residual.map(|r| self.live("linear", r)).transpose()?.flatten();
        let depends = id.is_some() || ws.iter().any(|l| self.wants_map(l));
        if let (true, Some(a)) = (depends, then.act) {
            // The activation's gradient needs what goes into it.
            let y = self.linear(x, ws, Then::default())?;
            let y = self.act(&y, a)?;
            return match then.residual {
                Some(residual) => self.add(residual, &y),
                None => Ok(y),
            };
        }
        let fused = Then { act: then.act, residual: then.residual.map(|r| &r.value) };
        let y = self.eager.linear(&x.value, ws, fused)?;
        if !depends {
            return Ok(match residual {
                None => self.plain(y),
                passed => self.record(y, Op::Add { x: passed, y: None }),
            });
        }
        let input = ws.iter().any(|l| self.wanted.has(&l.w)).then(|| Rc::clone(&x.value));
        let maps = ws.iter().map(|l| copy_map(l)).collect();
        Ok(self.record(y, Op::Linear { x: id, input, maps, residual }))
    }

    fn cols(&mut self, x: &Var<K>, cols: Range<usize>) -> Result<Var<K>> {
        let id = self.live("cols", x)?;
        let y = self.eager.cols(&x.value, cols.clone())?;
        let shape = self.shape(x);
        Ok(match id {
            Some(x) => self.record(y, Op::Cols { x, shape, cols }),
            None => self.plain(y),
        })
    }

    fn act(&mut self, x: &Var<K>, a: Activation) -> Result<Var<K>> {
        let id = self.live("act", x)?;
        let y = self.eager.act(&x.value, a)?;
        let input = Rc::clone(&x.value);
        Ok(match id {
            Some(x) => self.record(y, Op::Act { x, input, a }),
            None => self.plain(y),
        })
    }

    fn glu(&mut self, x: &Var<K>, a: Activation) -> Result<Var<K>> {
        let id = self.live("glu", x)?;
        let y = self.eager.glu(&x.value, a)?;
        let input = Rc::clone(&x.value);
        Ok(match id {
            Some(x) => self.record(y, Op::Glu { x, input, a }),
            None => self.plain(y),
        })
    }

    fn dropout(&mut self, x: &Var<K>, d: &Dropout, at: &[(u32, u32)]) -> Result<Var<K>> {
        let id = self.live("dropout", x)?;
        let y = self.eager.dropout(&x.value, d, at)?;
        Ok(match id {
            Some(x) => self.record(y, Op::Dropout { x, d: *d, at: at.to_vec() }),
            None => self.plain(y),
        })
    }

    fn rope(&mut self, x: &Var<K>, d_head: usize, table: &Arc<RopeTable>, pos: &[u32]) -> Result<Var<K>> {
        let id = self.live("rope", x)?;
        let y = self.eager.rope(&x.value, d_head, table, pos)?;
        Ok(match id {
            Some(x) => self.record(y, Op::Rope { x, d_head, table: Arc::clone(table), pos: pos.to_vec() }),
            None => self.plain(y),
        })
    }

    fn attention(
        &mut self,
        qkv: Qkv<'_, Var<K>>,
        spec: &AttnSpec,
        layer: usize,
        batch: &Batch,
        q_rows: Option<&RowSet>,
        kv: KvUse<'_, K::Page>,
        probe: Option<&AttnProbe<Var<K>>>,
    ) -> Result<AttnOut<Var<K>>> {
        const OP: &str = "attention";
        let vars = [qkv.q, qkv.k, qkv.v];
        let ids = [self.live(OP, vars[0])?, self.live(OP, vars[1])?, self.live(OP, vars[2])?];
        let mut given = false;
        for edit in probe.iter().flat_map(|p| &p.edits) {
            if let PatternChange::Set(t) = &edit.kind {
                given |= self.live(OP, t)?.is_some();
            }
        }
        let probe = probe.map(|p| p.map(|t| Rc::clone(&t.value)));
        let cached = !matches!(kv, KvUse::None);
        let inputs = vars.map(|v| Rc::clone(&v.value));
        let bias = match qkv.bias {
            Some(b) => Some((self.live(OP, b)?, Rc::clone(&b.value))),
            None => None,
        };
        let added = bias.as_ref().map(|b| &b.1);
        let values = Qkv { q: &inputs[0], k: &inputs[1], v: &inputs[2], bias: added };
        let out = self.eager.attention(values, spec, layer, batch, q_rows, kv, probe.as_ref())?;

        if cached {
            // Even if queries, keys and values are constant: what is in the cache may not have been.
            let mut opaque = |y| self.opaque(y, "attention over a cache", true);
            let (z, mass, stats) = (opaque(out.z), out.mass.map(&mut opaque), out.stats.map(&mut opaque));
            return Ok(AttnOut { z, mass, stats, raw: out.raw });
        }
        let learned = bias.as_ref().is_some_and(|b| b.0.is_some());
        if ids.iter().all(Option::is_none) && !given && !learned {
            let plain = |y| self.plain(y);
            let (z, mass, stats) = (plain(out.z), out.mass.map(plain), out.stats.map(plain));
            return Ok(AttnOut { z, mass, stats, raw: out.raw });
        }
        let (spec, batch, q_rows) = (spec.clone(), batch.clone(), q_rows.cloned());
        let layer =
            Attention { ids, inputs, bias, spec, batch, q_rows, probe, given, dmass: None, dstats: None };
        let z = self.record(out.z, Op::Attention(Box::new(layer)));
        let mut measured = |y, what| match z.id {
            Some(of) => self.record(y, Op::Measured { of, what }),
            None => self.plain(y),
        };
        let mass = out.mass.map(|y| measured(y, Measure::Mass));
        let stats = out.stats.map(|y| measured(y, Measure::Stats));
        Ok(AttnOut { z, mass, stats, raw: out.raw })
    }

    fn lstm(
        &mut self,
        pre: &Var<K>,
        at: Option<&[u32]>,
        recurrent: &Linear<K>,
        batch: &Batch,
    ) -> Result<Var<K>> {
        let id = self.live("lstm", pre)?;
        let depends = id.is_some() || self.wants_map(recurrent);
        let (hidden, kept) = self.eager.lstm_kept(&pre.value, at, recurrent, batch, depends)?;
        let Some(kept) = kept else { return Ok(self.plain(hidden)) };
        let (recurrent, batch) = (copy_map(recurrent), batch.clone());
        let at = at.map(|at| (self.shape(pre), at.to_vec()));
        let layer = Lstm { pre: id, at, recurrent, batch, hidden: Rc::clone(&hidden), kept };
        Ok(self.record(hidden, Op::Lstm(Box::new(layer))))
    }

    fn rows(&mut self, x: &Var<K>, r: &[u32]) -> Result<Var<K>> {
        let id = self.live("rows", x)?;
        let y = self.eager.rows(&x.value, r)?;
        let shape = self.shape(x);
        Ok(match id {
            Some(x) => self.record(y, Op::Rows { x, shape, rows: r.to_vec() }),
            None => self.plain(y),
        })
    }

    fn edit(&mut self, x: Var<K>, edits: &[RowEdit<Var<K>>]) -> Result<Var<K>> {
        let id = self.live("edit", &x)?;
        let mut depends = id.is_some();
        let mut recorded = Vec::with_capacity(edits.len());
        for e in edits {
            let mut operand = Ok(None);
            recorded.push(e.map(|t| {
                operand = self.live("edit", t);
                Operand { id: t.id, one_row: self.shape(t).0 == 1 }
            }));
            depends |= operand?.is_some();
        }
        let values: Vec<RowEdit<Rc<K::Buf>>> = edits.iter().map(|e| e.map(|t| Rc::clone(&t.value))).collect();
        let y = self.eager.edit(x.value, &values)?;
        if !depends {
            return Ok(self.plain(y));
        }
        Ok(self.record(y, Op::Edit { x: id, edits: recorded }))
    }

    fn vocab(&mut self, x: &Var<K>, u: &Linear<K>, want: &[Vocab]) -> Result<Vec<VocabOut<Var<K>>>> {
        let id = self.live("vocab", x)?;
        let answers = self.eager.vocab(&x.value, u, want)?;
        let differentiable = answers.iter().any(|a| matches!(a, VocabOut::Values(_))) && self.shape(x).0 > 0;
        let logits = (differentiable && (id.is_some() || self.wants_map(u)))
            .then(|| self.push(Op::Logits { x: id, input: Rc::clone(&x.value), u: copy_map(u) }));
        let mut out = Vec::with_capacity(want.len());
        for (answer, want) in answers.into_iter().zip(want) {
            out.push(match (answer, logits) {
                (VocabOut::Values(y), Some(of)) => {
                    VocabOut::Values(self.record(y, Op::Answer { of, want: want.clone() }))
                }
                (VocabOut::Values(y), None) => VocabOut::Values(self.plain(y)),
                (VocabOut::Top(top), _) => VocabOut::Top(top),
                (VocabOut::Ranks(ranks), _) => VocabOut::Ranks(ranks),
            });
        }
        Ok(out)
    }

    fn head_dot(&mut self, z: &Var<K>, wo: &Linear<K>, d: Dirs<'_, Var<K>>) -> Result<Var<K>> {
        let ids = (self.live("head_dot", z)?, self.live("head_dot", d.dirs)?);
        let y = self.eager.head_dot(&z.value, wo, Dirs { dirs: &d.dirs.value, n_heads: d.n_heads })?;
        let depends = ids.0.is_some() || ids.1.is_some() || self.wanted.has(&wo.w);
        Ok(self.opaque(y, "head_dot", depends))
    }

    fn head_result(&mut self, z: &Var<K>, wo: &Linear<K>, n_heads: usize) -> Result<Var<K>> {
        let id = self.live("head_result", z)?;
        let y = self.eager.head_result(&z.value, wo, n_heads)?;
        let depends = id.is_some() || self.wanted.has(&wo.w);
        Ok(self.opaque(y, "head_result", depends))
    }
}
