//! Any backend beside the f64 reference: every kernel, forward and backward, on odd shapes.

use std::fmt::Debug;
use std::sync::Arc;

use refocus_compute::{
    Activation, AttnProbe, AttnSpec, Batch, Cpu, Dropout, EditOp, Isa, Kernels, KvSeq, KvUse, NormArgs,
    NormKind, PatternChange, PatternEdit, Purpose, Qkv, RefBuf, RefWeight, Reference, Result, RowEdit,
    RowSet, Seg, Vocab, VocabOut,
};

use crate::support::{Rng, heads, rope_table, source};

/// The same numbers on both sides.
struct Both<K: Kernels> {
    k: K,
    r: Reference,
    rng: Rng,
    tol: f64,
}

type Pair<K> = (<K as Kernels>::Buf, RefBuf);
type Weights<K> = (<K as Kernels>::W, RefWeight);

impl<K: Kernels> Both<K> {
    fn given(&mut self, rows: usize, width: usize, data: &[f32]) -> Result<Pair<K>> {
        Ok((self.k.upload(rows, width, data)?, self.r.upload(rows, width, data)?))
    }

    fn buf(&mut self, rows: usize, width: usize) -> Result<Pair<K>> {
        let data = self.rng.f32s(rows * width);
        self.given(rows, width, &data)
    }

    fn weight(&mut self, n: usize, k: usize) -> Result<Weights<K>> {
        let data = self.rng.f32s(n * k);
        Ok((self.k.pack(&source(n, k, &data))?, self.r.pack(&source(n, k, &data))?))
    }

    #[track_caller]
    fn same(&mut self, what: impl Debug, got: &K::Buf, want: &RefBuf) -> Result<()> {
        assert_eq!(self.k.shape(got), want.shape(), "{what:?}");
        let got: Vec<f64> = self.k.download(got)?.into_iter().map(f64::from).collect();
        self.near(what, &got, want.data());
        Ok(())
    }

    #[track_caller]
    fn near(&self, what: impl Debug, got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len(), "{what:?}");
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let near = g == w || (g - w).abs() <= self.tol * w.abs().max(1.0);
            assert!(near, "{what:?}, element {i}: {g}, reference {w}");
        }
    }
}

/// Runs every kernel of a backend against the reference.
pub fn agree<K: Kernels>(kernels: K, seed: u64, tol: f64) -> Result<()> {
    let mut b = Both { k: kernels, r: Reference, rng: Rng::new(seed), tol };
    for rows in [1, 2, 13] {
        pointwise(&mut b, rows)?;
        products(&mut b, rows)?;
        vocabulary(&mut b, rows)?;
        selections(&mut b, rows)?;
    }
    for hidden in [1, 7, 24, 130] {
        lstm(&mut b, hidden)?;
    }
    for spec in [
        heads(1, 1, 3),
        heads(4, 2, 16),
        AttnSpec { window: Some(5), ..heads(3, 3, 17) },
        AttnSpec { window: Some(70), scale: 0.2, ..heads(6, 2, 40) },
        AttnSpec {
            dropout: Dropout::new(0.25, 6, Purpose::new("attention"), 2),
            window: Some(80),
            ..heads(4, 2, 24)
        },
    ] {
        attention(&mut b, &spec)?;
        cache(&mut b, &spec)?;
    }
    Ok(())
}

fn pointwise<K: Kernels>(b: &mut Both<K>, rows: usize) -> Result<()> {
    let (x, y) = (b.buf(rows, 38)?, b.buf(rows, 38)?);
    let sum = (b.k.add(&x.0, &y.0)?, b.r.add(&x.1, &y.1)?);
    b.same("add", &sum.0, &sum.1)?;
    let mut grown = x.clone();
    b.k.add_assign(&mut grown.0, &y.0)?;
    b.r.add_assign(&mut grown.1, &y.1)?;
    b.k.scale(&mut grown.0, -1.5)?;
    b.r.scale(&mut grown.1, -1.5)?;
    b.same("add_assign, scale", &grown.0, &grown.1)?;
    let zeros = (b.k.zeros(rows, 3)?, b.r.zeros(rows, 3)?);
    b.same("zeros", &zeros.0, &zeros.1)?;

    for a in [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        let out = (b.k.act(&x.0, a)?, b.r.act(&x.1, a)?);
        b.same(a, &out.0, &out.1)?;
        let d = (b.k.act_vjp(&x.0, a, &y.0)?, b.r.act_vjp(&x.1, a, &y.1)?);
        b.same((a, "vjp"), &d.0, &d.1)?;
        let out = (b.k.glu(&x.0, a)?, b.r.glu(&x.1, a)?);
        b.same((a, "glu"), &out.0, &out.1)?;
        let dy = b.buf(rows, 19)?;
        let d = (b.k.glu_vjp(&x.0, a, &dy.0)?, b.r.glu_vjp(&x.1, a, &dy.1)?);
        b.same((a, "glu_vjp"), &d.0, &d.1)?;
    }
    for kind in [NormKind::Layer, NormKind::Rms] {
        for (group, params) in [(38, 2), (19, 1), (2, 0)] {
            let (gain, bias) = (b.buf(1, group)?, b.buf(1, group)?);
            let (with_gain, with_bias) = (params > 0, params > 1);
            let n = NormArgs {
                kind,
                eps: 1e-3,
                group,
                gain: with_gain.then_some(&gain.0),
                bias: with_bias.then_some(&bias.0),
            };
            let m = NormArgs {
                kind,
                eps: 1e-3,
                group,
                gain: with_gain.then_some(&gain.1),
                bias: with_bias.then_some(&bias.1),
            };
            let what = |part| (kind, group, part);
            let out = (b.k.norm(&x.0, &n)?, b.r.norm(&x.1, &m)?);
            b.same(what("norm"), &out.0, &out.1)?;
            let out = (b.k.norm_scale(&x.0, &n)?, b.r.norm_scale(&x.1, &m)?);
            b.same(what("scale"), &out.0, &out.1)?;
            let d = (b.k.norm_vjp(&x.0, &n, &y.0)?, b.r.norm_vjp(&x.1, &m, &y.1)?);
            b.same(what("dx"), &d.0.dx, &d.1.dx)?;
            assert_eq!((d.0.dgain.is_some(), d.0.dbias.is_some()), (with_gain, with_bias));
            for (got, want) in [(&d.0.dgain, &d.1.dgain), (&d.0.dbias, &d.1.dbias)] {
                if let (Some(got), Some(want)) = (got, want) {
                    b.same(what("dgain, dbias"), got, want)?;
                }
            }
        }
    }
    let pos = b.rng.ids(rows, 50);
    for (rotary, interleaved) in [(18, false), (18, true), (8, false), (8, true)] {
        let table = rope_table(50, rotary, interleaved);
        for inverse in [false, true] {
            let out =
                (b.k.rope(&x.0, 19, &table, &pos, inverse)?, b.r.rope(&x.1, 19, &table, &pos, inverse)?);
            b.same(("rope", rotary, interleaved, inverse), &out.0, &out.1)?;
        }
    }
    let loss = (b.k.weighted_sum(&x.0, &y.0)?, b.r.weighted_sum(&x.1, &y.1)?);
    b.same("weighted_sum", &loss.0, &loss.1)?;
    let d = (b.k.weighted_sum_vjp(&y.0, &loss.0)?, b.r.weighted_sum_vjp(&y.1, &loss.1)?);
    b.same("weighted_sum_vjp", &d.0, &d.1)
}

fn products<K: Kernels>(b: &mut Both<K>, rows: usize) -> Result<()> {
    let (x, residual) = (b.buf(rows, 21)?, b.buf(rows, 58)?);
    let (u, v, w) = (b.weight(17, 21)?, b.weight(1, 21)?, b.weight(40, 21)?);
    let (bu, bw) = (b.buf(1, 17)?, b.buf(1, 40)?);
    assert_eq!(b.k.weight_shape(&w.0), (40, 21));
    for act in [None, Some(Activation::Relu), Some(Activation::Gelu)] {
        for with in [false, true] {
            let r = (with.then_some(&residual.0), with.then_some(&residual.1));
            let y = (
                b.k.linear(&x.0, &[(&u.0, Some(&bu.0)), (&v.0, None), (&w.0, Some(&bw.0))], act, r.0)?,
                b.r.linear(&x.1, &[(&u.1, Some(&bu.1)), (&v.1, None), (&w.1, Some(&bw.1))], act, r.1)?,
            );
            b.same(("linear", act, with), &y.0, &y.1)?;
        }
    }
    let each = (
        b.k.linear_each(&x.0, &[(&u.0, Some(&bu.0)), (&v.0, None), (&w.0, Some(&bw.0))])?,
        b.r.linear_each(&x.1, &[(&u.1, Some(&bu.1)), (&v.1, None), (&w.1, Some(&bw.1))])?,
    );
    assert_eq!(each.0.len(), 3);
    for (got, want) in each.0.iter().zip(&each.1) {
        b.same("linear_each", got, want)?;
    }
    let dy = b.buf(rows, 40)?;
    let d = (b.k.linear_vjp_input(&w.0, &dy.0)?, b.r.linear_vjp_input(&w.1, &dy.1)?);
    b.same("linear_vjp_input", &d.0, &d.1)?;
    let d = (b.k.linear_vjp_weight(&x.0, &dy.0)?, b.r.linear_vjp_weight(&x.1, &dy.1)?);
    b.same("linear_vjp_weight", &d.0, &d.1)?;
    let d = (b.k.sum_rows(&dy.0)?, b.r.sum_rows(&dy.1)?);
    b.same("sum_rows", &d.0, &d.1)?;

    let wo = b.weight(9, 21)?;
    let dirs = b.buf(2, 9)?;
    let y = (b.k.head_dot(&x.0, &wo.0, &dirs.0, 3)?, b.r.head_dot(&x.1, &wo.1, &dirs.1, 3)?);
    b.same("head_dot", &y.0, &y.1)?;
    let y = (b.k.head_result(&x.0, &wo.0, 3)?, b.r.head_result(&x.1, &wo.1, 3)?);
    b.same("head_result", &y.0, &y.1)
}

fn vocabulary<K: Kernels>(b: &mut Both<K>, rows: usize) -> Result<()> {
    for (vocab, with_bias) in [(5, false), (131, true)] {
        let (x, u, bias) = (b.buf(rows, 21)?, b.weight(vocab, 21)?, b.buf(1, vocab)?);
        let bias = (with_bias.then_some(&bias.0), with_bias.then_some(&bias.1));
        let ids: Arc<[u32]> = b.rng.ids(rows, vocab).into();
        let want = [
            Vocab::Ids(vec![4, 0, 4].into()),
            Vocab::LogSumExp,
            Vocab::Top(7),
            Vocab::RankOf(Arc::clone(&ids)),
            Vocab::Nll(ids),
            Vocab::All,
        ];
        let got = b.k.vocab(&x.0, &u.0, bias.0, &want)?;
        let reference = b.r.vocab(&x.1, &u.1, bias.1, &want)?;
        for (question, (got, reference)) in want.iter().zip(got.iter().zip(&reference)) {
            match (got, reference) {
                (VocabOut::Values(got), VocabOut::Values(reference)) => {
                    b.same(question, got, reference)?;
                    let (rows, width) = reference.shape();
                    let dy = b.buf(rows, width)?;
                    let d = (
                        b.k.vocab_vjp_logits(&x.0, &u.0, bias.0, question, &dy.0)?,
                        b.r.vocab_vjp_logits(&x.1, &u.1, bias.1, question, &dy.1)?,
                    );
                    b.same((question, "vjp"), &d.0, &d.1)?;
                }
                (VocabOut::Top(got), VocabOut::Top(reference)) => {
                    for (got, reference) in got.iter().zip(reference) {
                        assert_eq!(
                            got.iter().map(|t| t.0).collect::<Vec<_>>(),
                            reference.iter().map(|t| t.0).collect::<Vec<_>>()
                        );
                        let numbers =
                            |top: &[(u32, f32)]| top.iter().map(|t| f64::from(t.1)).collect::<Vec<_>>();
                        b.near(question, &numbers(got), &numbers(reference));
                    }
                }
                (VocabOut::Ranks(got), VocabOut::Ranks(reference)) => assert_eq!(got, reference),
                _ => panic!("{question:?}: another kind of answer"),
            }
        }
    }
    Ok(())
}

fn selections<K: Kernels>(b: &mut Both<K>, rows: usize) -> Result<()> {
    let table = b.weight(7, 19)?;
    let ids = b.rng.ids(rows, 7);
    let x = (b.k.embed(&table.0, &ids)?, b.r.embed(&table.1, &ids)?);
    b.same("embed", &x.0, &x.1)?;
    let dy = b.buf(rows, 19)?;
    let d = (b.k.embed_vjp(&table.0, &ids, &dy.0)?, b.r.embed_vjp(&table.1, &ids, &dy.1)?);
    b.same("embed_vjp", &d.0, &d.1)?;

    let picked = b.rng.ids(5, rows);
    let y = (b.k.rows(&x.0, &picked)?, b.r.rows(&x.1, &picked)?);
    b.same("rows", &y.0, &y.1)?;
    let at: Vec<(u32, u32)> = (0..rows as u32).map(|r| (r / 3, 7 * r)).collect();
    let d = Dropout::new(0.5, 1, Purpose::new("rows"), 2).expect("a mask");
    let z = (b.k.dropout(&x.0, &d, &at)?, b.r.dropout(&x.1, &d, &at)?);
    b.same("dropout", &z.0, &z.1)?;
    let mut d = x.clone();
    b.k.rows_vjp(&mut d.0, &picked, &y.0)?;
    b.r.rows_vjp(&mut d.1, &picked, &y.1)?;
    b.same("rows_vjp", &d.0, &d.1)?;
    let y = (b.k.cols(&x.0, 3..18)?, b.r.cols(&x.1, 3..18)?);
    b.same("cols", &y.0, &y.1)?;
    b.k.cols_vjp(&mut d.0, 3..18, &y.0)?;
    b.r.cols_vjp(&mut d.1, 3..18, &y.1)?;
    b.same("cols_vjp", &d.0, &d.1)?;

    let set = RowSet::new(picked);
    let (one, each) = (b.buf(1, 6)?, b.buf(set.len(), 6)?);
    for t in [&one, &each] {
        for (op_k, op_r) in [
            (EditOp::Zero, EditOp::Zero),
            (EditOp::Scale(0.3), EditOp::Scale(0.3)),
            (EditOp::Add(&t.0), EditOp::Add(&t.1)),
            (EditOp::Set(&t.0), EditOp::Set(&t.1)),
        ] {
            let mut y = x.clone();
            b.k.edit(&mut y.0, &RowEdit { rows: set.clone(), cols: 11..17, op: op_k })?;
            let edit = RowEdit { rows: set.clone(), cols: 11..17, op: op_r };
            b.r.edit(&mut y.1, &edit)?;
            b.same(&edit, &y.0, &y.1)?;
        }
    }
    Ok(())
}

/// More sequences than run side by side.
fn lstm<K: Kernels>(b: &mut Both<K>, hidden: usize) -> Result<()> {
    let lengths = [3, 0, 1, 17].into_iter().chain((0..27).map(|i| i % 5));
    let batch = Batch::from_lengths(lengths);
    let pre = b.buf(batch.rows(), 4 * hidden)?;
    // Small enough that rounding does not grow from step to step.
    let data: Vec<f32> = b.rng.f32s(4 * hidden * hidden).iter().map(|x| x / (hidden as f32).sqrt()).collect();
    let w = (b.k.pack(&source(4 * hidden, hidden, &data))?, b.r.pack(&source(4 * hidden, hidden, &data))?);
    let (bias, dh) = (b.buf(1, 4 * hidden)?, b.buf(batch.rows(), hidden)?);
    for bias in [None, Some(&bias)] {
        let got = b.k.lstm(&pre.0, None, &w.0, bias.map(|b| &b.0), &batch, true)?;
        let want = b.r.lstm(&pre.1, None, &w.1, bias.map(|b| &b.1), &batch, true)?;
        b.same(("lstm", hidden), &got.0, &want.0)?;
        assert!(b.k.lstm(&pre.0, None, &w.0, bias.map(|b| &b.0), &batch, false)?.1.is_none());
        let (mine, theirs) = (got.1.expect("kept"), want.1.expect("kept"));
        b.same(("gates", hidden), &mine.gates, &theirs.gates)?;
        b.same(("cells", hidden), &mine.cells, &theirs.cells)?;
        let got = b.k.lstm_vjp(&got.0, &mine, &w.0, &batch, &dh.0)?;
        let want = b.r.lstm_vjp(&want.0, &theirs, &w.1, &batch, &dh.1)?;
        b.same(("dpre", hidden), &got.dpre, &want.dpre)?;
        b.same(("before", hidden), &got.before, &want.before)?;
    }
    Ok(())
}

/// All kinds of pattern edits on some rows; `given` is `[3, 60]`.
fn probe<T>(spec: &AttnSpec, given: T) -> AttnProbe<T> {
    let last = spec.n_heads - 1;
    let edit = |head, rows: &[u32], kind| PatternEdit { head, rows: RowSet::new(rows.to_vec()), kind };
    let edits = vec![
        edit(0, &[3, 150, 222], PatternChange::Temperature(0.6)),
        edit(0, &[3, 150], PatternChange::Block(1..3)),
        edit(0, &[149, 150], PatternChange::Uniform),
        edit(0, &[149, 150], PatternChange::Block(140..149)),
        edit(last, &[2, 66, 140], PatternChange::Set(given)),
        edit(last, &[221], PatternChange::Block(0..67)),
    ];
    let groups = vec![vec![0..2, 60..70], vec![], vec![100..1000]];
    AttnProbe { edits, groups: Some(vec![groups; 4]), stats: true, raw: true }
}

fn attention<K: Kernels>(b: &mut Both<K>, spec: &AttnSpec) -> Result<()> {
    let batch = Batch::from_lengths([151, 1, 0, 71]);
    let (wide, kv) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
    let some = RowSet::new(vec![0, 2, 3, 66, 149, 150, 151, 221]);
    let given = b.buf(3, 60)?;
    for q_rows in [None, Some(&some)] {
        for probed in [false, true] {
            let rows = q_rows.map_or(batch.rows(), RowSet::len);
            let (q, k, v) = (b.buf(rows, wide)?, b.buf(batch.rows(), kv)?, b.buf(batch.rows(), kv)?);
            let p = (probe(spec, &given.0), probe(spec, &given.1));
            let p = (probed.then_some(&p.0), probed.then_some(&p.1));
            let bias = b.buf(160, spec.n_heads)?;
            // Biased where it is measured: both ways meet every kind of heads.
            let (x, y) = (probed.then_some(&bias.0), probed.then_some(&bias.1));
            let one = || Qkv { q: &q.0, k: &k.0, v: &v.0, bias: x };
            let two = || Qkv { q: &q.1, k: &k.1, v: &v.1, bias: y };
            let got = b.k.attention(one(), spec, 0, &batch, q_rows, KvUse::None, p.0)?;
            let want = b.r.attention(two(), spec, 0, &batch, q_rows, KvUse::None, p.1)?;
            let what = |part| (spec.clone(), q_rows.is_some(), probed, part);
            b.same(what("z"), &got.z, &want.z)?;
            let (mut dmass, mut dstats) = (None, None);
            if let (Some(mass), Some(stats)) = (&want.mass, &want.stats) {
                b.same(what("mass"), got.mass.as_ref().expect("mass"), mass)?;
                b.same(what("stats"), got.stats.as_ref().expect("stats"), stats)?;
                dmass = Some(b.buf(rows, mass.shape().1)?);
                dstats = Some(b.buf(rows, stats.shape().1)?);
            }
            assert_eq!(got.raw.is_some(), probed);
            if let (Some(got), Some(want)) = (got.raw, want.raw) {
                assert_eq!((got.keys, got.offset), (want.keys, want.offset));
                let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<_>>();
                b.near(what("scores"), &wide(got.scores), &wide(want.scores));
                b.near(what("pattern"), &wide(got.pattern), &wide(want.pattern));
            }
            let dz = b.buf(rows, wide)?;
            let (m, s) = (dmass.as_ref().map(|d| &d.0), dstats.as_ref().map(|d| &d.0));
            let got = b.k.attention_vjp(one(), spec, &batch, q_rows, p.0, &dz.0, m, s)?;
            let (m, s) = (dmass.as_ref().map(|d| &d.1), dstats.as_ref().map(|d| &d.1));
            let want = b.r.attention_vjp(two(), spec, &batch, q_rows, p.1, &dz.1, m, s)?;
            b.same(what("dq"), &got.dq, &want.dq)?;
            b.same(what("dk"), &got.dk, &want.dk)?;
            b.same(what("dv"), &got.dv, &want.dv)?;
            assert_eq!((got.dbias.is_some(), want.dbias.is_some()), (probed, probed));
            if let (Some(got), Some(want)) = (got.dbias, want.dbias) {
                b.same(what("dbias"), &got, &want)?;
            }
        }
    }
    Ok(())
}

/// Two sequences computed in pieces, the second repeated after a run that failed midway.
fn cache<K: Kernels>(b: &mut Both<K>, spec: &AttnSpec) -> Result<()> {
    let (wide, kv) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
    let mut seqs = ([KvSeq::new(1), KvSeq::new(1)], [KvSeq::new(1), KvSeq::new(1)]);
    let mut at = [0, 0];
    for (piece, keep) in
        [([63, 1], true), ([3, 0], true), ([70, 200], false), ([1, 2], true), ([64, 64], true)]
    {
        let rows = piece[0] + piece[1];
        let segs = vec![Seg { rows: 0..piece[0], pos0: at[0] }, Seg { rows: piece[0]..rows, pos0: at[1] }];
        let (batch, n) = (Batch { segs }, rows as usize);
        let (q, k, v) = (b.buf(n, wide)?, b.buf(n, kv)?, b.buf(n, kv)?);
        let bias = b.buf(300, spec.n_heads)?;
        let one = || Qkv { q: &q.0, k: &k.0, v: &v.0, bias: Some(&bias.0) };
        let two = || Qkv { q: &q.1, k: &k.1, v: &v.1, bias: Some(&bias.1) };
        let want = b.r.attention(two(), spec, 0, &batch, None, KvUse::Append(&mut seqs.1), None)?;
        let got = b.k.attention(one(), spec, 0, &batch, None, KvUse::Read(&seqs.0), None)?;
        b.same(("read", spec.clone(), piece), &got.z, &want.z)?;
        let shared = seqs.0.clone();
        let got = b.k.attention(one(), spec, 0, &batch, None, KvUse::Append(&mut seqs.0), None)?;
        b.same(("append", spec.clone(), piece), &got.z, &want.z)?;
        // What was shared before is as it was.
        let got = b.k.attention(one(), spec, 0, &batch, None, KvUse::Read(&shared), None)?;
        b.same(("shared", spec.clone(), piece), &got.z, &want.z)?;
        if keep {
            for i in 0..2 {
                at[i] += piece[i];
                (seqs.0[i].len, seqs.1[i].len) = (at[i] as usize, at[i] as usize);
            }
        }
    }
    Ok(())
}

#[test]
fn the_reference_agrees_with_itself() {
    agree(Reference, 0, 1e-6).unwrap();
}

#[test]
fn the_cpu_agrees_on_every_instruction_set() {
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon] {
        if !isa.available() {
            continue;
        }
        for (seed, threads) in [1, 3].into_iter().enumerate() {
            agree(Cpu::new(isa, threads), seed as u64, 1e-5).unwrap();
        }
    }
}
