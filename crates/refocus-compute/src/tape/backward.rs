//! The backward half of the tape: one sweep from the last operation to the first.

use super::{Attention, Grads, Lstm, Measure, Node, NodeId, Op, Operand, Tape, Var, Wanted};
use crate::eager::{check, norm_args};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::ops::{AttnProbe, EditOp, Linear, Ops, Param, ParamId, Qkv, RowEdit, Vocab};

impl<K: Kernels> Tape<K> {
    /// Gradients of a loss `[1, 1]`, times `seed` (1 where absent). Empties the tape.
    pub fn backward(&mut self, loss: &Var<K>, seed: Option<f32>) -> Result<Grads<K>> {
        check::same("backward", "the loss", self.shape(loss), (1, 1))?;
        let seed = self.kernels().upload(1, 1, &[seed.unwrap_or(1.0)])?;
        self.backward_from([(loss, seed)])
    }

    /// Gradients of `Σ value · seed` over the given values, each with a seed of its shape. Empties
    /// the tape. A value that depends on no wanted parameter and nothing watched is an error.
    pub fn backward_from<'a>(
        &mut self,
        seeds: impl IntoIterator<Item = (&'a Var<K>, K::Buf)>,
    ) -> Result<Grads<K>>
    where
        K: 'a,
    {
        const OP: &str = "backward";
        let mut starts = Vec::new();
        for (x, seed) in seeds {
            check::same(OP, "the seed", self.kernels().shape(&seed), self.shape(x))?;
            match self.live(OP, x)? {
                Some(id) => starts.push((id, seed)),
                None => {
                    return Err(check::unsupported(
                        OP,
                        "the value depends on no parameter and nothing watched",
                    ));
                }
            }
        }
        let nodes = std::mem::take(&mut self.nodes);
        let base = self.base;
        self.base += nodes.len() as u64;
        let slots = nodes.iter().map(|_| None).collect();
        let grads = Grads { params: Default::default(), watched: Default::default() };
        let mut sweep =
            Sweep { kernels: &mut self.eager.kernels, wanted: &self.wanted, base, nodes, slots, grads };
        for (id, seed) in starts {
            sweep.give(Some(id), seed)?;
        }
        sweep.run()?;
        Ok(sweep.grads)
    }
}

/// A sweep in progress. `nodes` and `slots` shrink from the end, so that what an operation saved and
/// the gradient of its result are freed as soon as it is done.
struct Sweep<'t, K: Kernels> {
    kernels: &'t mut K,
    wanted: &'t Wanted,
    base: u64,
    nodes: Vec<Node<K>>,
    /// The gradient of each node's result, as far as it has been added up.
    slots: Vec<Option<K::Buf>>,
    grads: Grads<K>,
}

impl<K: Kernels> Sweep<'_, K> {
    fn run(&mut self) -> Result<()> {
        while let Some(node) = self.nodes.pop() {
            let dy = self.slots.pop().flatten();
            let id = NodeId(self.base + self.nodes.len() as u64);
            if let (Some(dy), true) = (&dy, node.watched) {
                self.grads.watched.insert(id, dy.clone());
            }
            match (node.op, dy) {
                (Op::Attention(layer), dz) => self.attention(*layer, dz)?,
                (op, Some(dy)) => self.step(op, dy)?,
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// Adds to the gradient of an input.
    fn give(&mut self, id: Option<NodeId>, d: K::Buf) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        match &mut self.slots[(id.0 - self.base) as usize] {
            Some(sum) => self.kernels.add_assign(sum, &d),
            empty => {
                *empty = Some(d);
                Ok(())
            }
        }
    }

    /// Lets a kernel add into the gradient of an input of shape `[rows, width]`.
    fn give_into(
        &mut self,
        id: NodeId,
        (rows, width): check::Dim,
        add: impl FnOnce(&mut K, &mut K::Buf) -> Result<()>,
    ) -> Result<()> {
        let slot = &mut self.slots[(id.0 - self.base) as usize];
        if slot.is_none() {
            *slot = Some(self.kernels.zeros(rows, width)?);
        }
        match slot {
            Some(sum) => add(self.kernels, sum),
            None => Ok(()),
        }
    }

    /// Adds to the gradient of a parameter.
    fn give_param(&mut self, id: ParamId, d: K::Buf) -> Result<()> {
        match self.grads.params.get_mut(&id) {
            Some(sum) => self.kernels.add_assign(sum, &d),
            None => {
                self.grads.params.insert(id, d);
                Ok(())
            }
        }
    }

    fn wanted<'p, X>(&self, p: &'p Option<Param<X>>) -> Option<&'p Param<X>> {
        p.as_ref().filter(|p| self.wanted.has(p))
    }

    fn step(&mut self, op: Op<K>, dy: K::Buf) -> Result<()> {
        match op {
            Op::Leaf => Ok(()),
            Op::Opaque(name) => {
                Err(check::unsupported(name, "it has no gradient, but the loss depends on it"))
            }
            Op::Embed { w, ids } => {
                let d = self.kernels.embed_vjp(&w.value, &ids, &dy)?;
                self.give_param(w.id, d)
            }
            Op::Add { x, y } => {
                if x.is_some() && y.is_some() {
                    self.give(x, dy.clone())?;
                    return self.give(y, dy);
                }
                self.give(x.or(y), dy)
            }
            Op::Norm { x, input, norm } => {
                let d = self.kernels.norm_vjp(&input, &norm_args(&norm), &dy)?;
                for (p, d) in [(&norm.gain, d.dgain), (&norm.bias, d.dbias)] {
                    if let (Some(p), Some(d)) = (self.wanted(p), d) {
                        self.give_param(p.id, d)?;
                    }
                }
                self.give(x, d.dx)
            }
            Op::Linear { x, input, maps, residual } => {
                match &maps[..] {
                    [map] => self.map(map, x, input.as_deref(), &dy)?,
                    maps => {
                        let mut at = 0;
                        for map in maps {
                            let n = self.kernels.weight_shape(&map.w.value).0;
                            let part = self.kernels.cols(&dy, at..at + n)?;
                            self.map(map, x, input.as_deref(), &part)?;
                            at += n;
                        }
                    }
                }
                self.give(residual, dy)
            }
            Op::Cols { x, shape, cols } => self.give_into(x, shape, |k, dx| k.cols_vjp(dx, cols, &dy)),
            Op::Rows { x, shape, rows } => self.give_into(x, shape, |k, dx| k.rows_vjp(dx, &rows, &dy)),
            Op::Act { x, input, a } => {
                let d = self.kernels.act_vjp(&input, a, &dy)?;
                self.give(Some(x), d)
            }
            Op::Glu { x, input, a } => {
                let d = self.kernels.glu_vjp(&input, a, &dy)?;
                self.give(Some(x), d)
            }
            Op::Dropout { x, d, at } => {
                let d = self.kernels.dropout(&dy, &d, &at)?;
                self.give(Some(x), d)
            }
            Op::Rope { x, d_head, table, pos } => {
                let d = self.kernels.rope(&dy, d_head, &table, &pos, true)?;
                self.give(Some(x), d)
            }
            Op::Attention(layer) => self.attention(*layer, Some(dy)),
            Op::Lstm(layer) => self.lstm(*layer, &dy),
            Op::Measured { of, what } => {
                if let Op::Attention(layer) = &mut self.nodes[(of.0 - self.base) as usize].op {
                    match what {
                        Measure::Mass => layer.dmass = Some(dy),
                        Measure::Stats => layer.dstats = Some(dy),
                    }
                }
                Ok(())
            }
            Op::Edit { x, edits } => self.edits(x, edits, dy),
            Op::Answer { of, want } => self.answer(of, &want, &dy),
            Op::Logits { x, input, u } => self.map(&u, x, Some(&input), &dy),
            Op::WeightedSum { x, weights } => {
                let d = self.kernels.weighted_sum_vjp(&weights, &dy)?;
                self.give(Some(x), d)
            }
        }
    }

    /// One linear map: bias, weight, input. `dy` `[rows, n]`.
    fn map(&mut self, l: &Linear<K>, x: Option<NodeId>, input: Option<&K::Buf>, dy: &K::Buf) -> Result<()> {
        if let Some(bias) = self.wanted(&l.bias) {
            let d = self.kernels.sum_rows(dy)?;
            self.give_param(bias.id, d)?;
        }
        if let Some(input) = input.filter(|_| self.wanted.has(&l.w)) {
            let d = self.kernels.linear_vjp_weight(input, dy)?;
            self.give_param(l.w.id, d)?;
        }
        if x.is_some() {
            let d = self.kernels.linear_vjp_input(&l.w.value, dy)?;
            self.give(x, d)?;
        }
        Ok(())
    }

    /// All time steps at once; the weight's gradient is one product over all positions.
    fn lstm(&mut self, layer: Lstm<K>, dh: &K::Buf) -> Result<()> {
        let Lstm { pre, at, recurrent, batch, hidden, kept } = layer;
        let d = self.kernels.lstm_vjp(&hidden, &kept, &recurrent.w.value, &batch, dh)?;
        self.map(&recurrent, None, Some(&d.before), &d.dpre)?;
        match (pre, at) {
            (Some(pre), Some((shape, at))) => {
                self.give_into(pre, shape, |k, dx| k.rows_vjp(dx, &at, &d.dpre))
            }
            _ => self.give(pre, d.dpre),
        }
    }

    /// The output's gradient and those of what was measured, at once.
    fn attention(&mut self, layer: Attention<K>, dz: Option<K::Buf>) -> Result<()> {
        let Attention { ids, inputs, bias, spec, batch, q_rows, probe, given, dmass, dstats } = layer;
        if dz.is_none() && dmass.is_none() && dstats.is_none() {
            return Ok(());
        }
        if given {
            let why = "a given pattern has no gradient, but it depends on a parameter or a watched value";
            return Err(check::unsupported("attention", why));
        }
        let dz = match dz {
            Some(dz) => dz,
            None => {
                let (rows, width) = self.kernels.shape(&inputs[0]);
                self.kernels.zeros(rows, width)?
            }
        };
        let probe: Option<AttnProbe<&K::Buf>> = probe.as_ref().map(|p| p.map(|t| &**t));
        let added = bias.as_ref().map(|b| &*b.1);
        let qkv = Qkv { q: &*inputs[0], k: &*inputs[1], v: &*inputs[2], bias: added };
        let (dmass, dstats) = (dmass.as_ref(), dstats.as_ref());
        let d = self.kernels.attention_vjp(
            qkv,
            &spec,
            &batch,
            q_rows.as_ref(),
            probe.as_ref(),
            &dz,
            dmass,
            dstats,
        )?;
        self.give(ids[0], d.dq)?;
        self.give(ids[1], d.dk)?;
        self.give(ids[2], d.dv)?;
        match (bias, d.dbias) {
            (Some((id, _)), Some(d)) => self.give(id, d),
            _ => Ok(()),
        }
    }

    /// Undoes the edits from the last to the first.
    fn edits(&mut self, x: Option<NodeId>, edits: Vec<RowEdit<Operand>>, mut dy: K::Buf) -> Result<()> {
        for e in edits.into_iter().rev().filter(|e| !e.rows.is_empty() && !e.cols.is_empty()) {
            let (rows, cols) = (e.rows, e.cols);
            let (operand, op) = match e.op {
                EditOp::Zero => (None, Some(EditOp::Zero)),
                EditOp::Scale(s) => (None, Some(EditOp::Scale(s))),
                EditOp::Add(t) => (Some(t), None),
                EditOp::Set(t) => (Some(t), Some(EditOp::Zero)),
            };
            if let Some(Operand { id: id @ Some(_), one_row }) = operand {
                let edited = self.kernels.rows(&dy, rows.as_slice())?;
                let mut d = self.kernels.cols(&edited, cols.clone())?;
                if one_row {
                    d = self.kernels.sum_rows(&d)?;
                }
                self.give(id, d)?;
            }
            if let Some(op) = op {
                self.kernels.edit(&mut dy, &RowEdit { rows, cols, op })?;
            }
        }
        self.give(x, dy)
    }

    /// One question's share in the gradient of the logits.
    fn answer(&mut self, of: NodeId, want: &Vocab, dy: &K::Buf) -> Result<()> {
        if let Op::Logits { input, u, .. } = &self.nodes[(of.0 - self.base) as usize].op {
            let bias = u.bias.as_ref().map(|b| &*b.value);
            let d = self.kernels.vocab_vjp_logits(input, &u.w.value, bias, want, dy)?;
            self.give(Some(of), d)?;
        }
        Ok(())
    }
}
