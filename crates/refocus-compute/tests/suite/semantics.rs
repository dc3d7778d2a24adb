//! What each operation means, on the f64 reference through `Eager`: values worked out by hand,
//! batches, the cache, pattern edits, and errors.

use std::rc::Rc;
use std::sync::Arc;

use refocus_compute::{
    Activation, AttnOut, AttnProbe, AttnSpec, Batch, Dirs, Eager, EditOp, Error, KEY_BLOCK, Kernels, KvSeq,
    KvUse, Linear, MatrixSource, Norm, NormKind, Ops, PatternChange, PatternEdit, Qkv, RefBuf, RefPage,
    Reference, Result, RowEdit, RowSet, Seg, Then, Vocab, VocabOut,
};

use crate::support::{Rng, assert_close, buf, heads, map, plain_norm, rope_table, source, vector, weight};

type T = Rc<RefBuf>;

fn eager() -> Eager<Reference> {
    Eager::new(Reference)
}

fn message<X>(r: Result<X>) -> String {
    r.err().expect("an error").to_string()
}

#[test]
fn activations_have_the_values_of_transformers() {
    let mut o = eager();
    let x = o.constant(1, 3, &[1.0, -2.0, 0.5]).unwrap();
    for (a, want) in [
        (Activation::Relu, [1.0, 0.0, 0.5]),
        (Activation::Gelu, [0.841_344_746_068_543, -0.045_500_263_896_358_4, 0.345_731_230_634_000_6]),
        (Activation::GeluTanh, [0.841_191_990_608_276_8, -0.045_402_305_912_152_2, 0.345_714_010_153_617_7]),
        (Activation::Silu, [0.731_058_578_630_004_9, -0.238_405_844_044_234_4, 0.311_229_665_600_927_3]),
    ] {
        assert_close(&format!("{a:?}"), o.act(&x, a).unwrap().data(), &want, 1e-9);
    }
}

#[test]
fn norms_use_the_biased_variance_of_each_group() {
    let mut o = eager();
    let x = o.constant(1, 4, &[1.0, 3.0, -2.0, 4.0]).unwrap();
    let layer = Norm {
        gain: Some(vector(0, &buf(1, 2, &[2.0, 1.0]))),
        bias: Some(vector(1, &buf(1, 2, &[0.0, 10.0]))),
        eps: 0.0,
        ..plain_norm(NormKind::Layer, 2)
    };
    assert_close("layer", o.norm(&x, &layer).unwrap().data(), &[-2.0, 11.0, -2.0, 11.0], 1e-12);
    assert_close("scale", o.norm_scale(&x, &layer).unwrap().data(), &[1.0, 3.0], 1e-12);
    let rms = Norm { eps: 2.5, ..plain_norm(NormKind::Rms, 4) };
    let root = 10f64.sqrt(); // mean square 7.5
    let want = [1.0, 3.0, -2.0, 4.0].map(|v| v / root);
    assert_close("rms", o.norm(&x, &rms).unwrap().data(), &want, 1e-12);
    assert_close("scale", o.norm_scale(&x, &rms).unwrap().data(), &[root], 1e-12);
}

#[test]
fn linear_is_bias_then_activation_then_residual() {
    let mut o = eager();
    let x = o.constant(1, 2, &[1.0, 2.0]).unwrap();
    let residual = o.constant(1, 3, &[100.0, 200.0, 300.0]).unwrap();
    let mut first = map(0, &buf(2, 2, &[1.0, 1.0, -1.0, -1.0]));
    first.bias = Some(vector(1, &buf(1, 2, &[0.5, 0.5])));
    let second = map(2, &buf(1, 2, &[0.0, 3.0]));
    let then = Then { act: Some(Activation::Relu), residual: Some(&residual) };
    let y = o.linear(&x, &[&first, &second], then).unwrap();
    assert_eq!(y.data(), &[103.5, 200.0, 306.0]);
}

#[test]
fn rope_turns_pairs_and_leaves_the_rest() {
    let mut o = eager();
    let x = o.constant(1, 5, &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let turn = |a: f64, b: f64, t: f64| [a * t.cos() - b * t.sin(), b * t.cos() + a * t.sin()];
    let (fast, slow) = (3.0, 3.0 / 10f64.sqrt());
    let y = o.rope(&x, 5, &rope_table(4, 4, false), &[3]).unwrap();
    let ([a, c], [b, d]) = (turn(1.0, 3.0, fast), turn(2.0, 4.0, slow));
    assert_close("halves", y.data(), &[a, b, c, d, 5.0], 1e-6);
    let y = o.rope(&x, 5, &rope_table(4, 4, true), &[3]).unwrap();
    let ([a, b], [c, d]) = (turn(1.0, 2.0, fast), turn(3.0, 4.0, slow));
    assert_close("neighbours", y.data(), &[a, b, c, d, 5.0], 1e-6);
}

#[test]
fn packing_reads_rows_transposes_and_maps() {
    let mut k = Reference;
    let data: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let plain = k.pack(&source(2, 3, &data)).unwrap();
    assert_eq!(plain.data(), &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let transposed = MatrixSource { transposed: true, ..source(2, 3, &data) };
    let transposed = k.pack(&transposed).unwrap();
    assert_eq!((transposed.shape(), transposed.row(1)), ((3, 2), &[1.0, 4.0][..]));
    let picked = MatrixSource { rows: Some(vec![1, 1, 0]), ..source(2, 3, &data) };
    assert_eq!(k.pack(&picked).unwrap().row(1), &[3.0, 4.0, 5.0]);
    assert!(message(k.pack(&MatrixSource { stored: [2, 4], ..source(2, 3, &data) })).contains("test"));
}

/// Random queries, keys and values of a batch.
struct Layer {
    q: T,
    k: T,
    v: T,
}

impl Layer {
    fn new(rng: &mut Rng, spec: &AttnSpec, rows: usize) -> Self {
        let kv = spec.n_kv_heads * spec.d_head;
        let mut random = |width| Rc::new(rng.buf(rows, width));
        Self { q: random(spec.n_heads * spec.d_head), k: random(kv), v: random(kv) }
    }

    fn rows(&self, o: &mut Eager<Reference>, r: &[u32]) -> Self {
        let mut pick = |x| o.rows(x, r).unwrap();
        Self { q: pick(&self.q), k: pick(&self.k), v: pick(&self.v) }
    }

    fn run(
        &self,
        o: &mut Eager<Reference>,
        spec: &AttnSpec,
        batch: &Batch,
        kv: KvUse<'_, RefPage>,
        probe: Option<&AttnProbe<T>>,
    ) -> Result<AttnOut<T>> {
        let qkv = Qkv { q: &self.q, k: &self.k, v: &self.v, bias: None };
        o.attention(qkv, spec, 0, batch, None, kv, probe)
    }
}

#[test]
fn attention_weighs_what_a_row_sees() {
    let mut o = eager();
    let spec = AttnSpec { scale: 2.0, ..heads(1, 1, 1) };
    let q = o.constant(2, 1, &[1.0, 0.5]).unwrap();
    let k = o.constant(2, 1, &[3.0, 1.0]).unwrap();
    let v = o.constant(2, 1, &[10.0, 20.0]).unwrap();
    let layer = Layer { q, k, v };
    let probe = AttnProbe {
        stats: true,
        raw: true,
        groups: Some(vec![vec![vec![0..1], vec![0..9]]]),
        ..Default::default()
    };
    let out = layer.run(&mut o, &spec, &Batch::from_lengths([2]), KvUse::None, Some(&probe)).unwrap();
    // scores 3 and 1
    let (a, b) = (1.0 / (1.0 + (-2f64).exp()), 1.0 / (1.0 + 2f64.exp()));
    assert_close("z", out.z.data(), &[10.0, 10.0 * a + 20.0 * b], 1e-12);
    let stats = [0.0, 1.0, 1.0, -a * a.ln() - b * b.ln(), a.hypot(b), a];
    assert_close("stats", out.stats.unwrap().data(), &stats, 1e-12);
    assert_close("mass", out.mass.unwrap().data(), &[1.0, 1.0, a, 1.0], 1e-12);
    let raw = out.raw.unwrap();
    assert_eq!((raw.keys, raw.offset), (vec![1, 2], vec![0, 1]));
    assert_eq!(raw.scores, vec![6.0, 3.0, 1.0]);
    assert_eq!(raw.pattern, vec![1.0, a as f32, b as f32]);
}

#[test]
fn a_sequence_is_the_same_alone_and_in_a_batch() {
    let mut o = eager();
    let mut rng = Rng::new(3);
    let spec = AttnSpec { window: Some(4), ..heads(4, 2, 3) };
    let batch = Batch::from_lengths([1, 6, 0, 3]);
    let layer = Layer::new(&mut rng, &spec, batch.rows());
    let together = layer.run(&mut o, &spec, &batch, KvUse::None, None).unwrap().z;
    for seg in &batch.segs {
        let rows: Vec<u32> = seg.rows.clone().collect();
        let one = layer.rows(&mut o, &rows);
        let alone = one.run(&mut o, &spec, &Batch::from_lengths([rows.len()]), KvUse::None, None).unwrap().z;
        assert_eq!(alone, o.rows(&together, &rows).unwrap());
        // The last row alone as a query.
        if let Some(last) = seg.rows.clone().last() {
            let q = o.rows(&layer.q, &[last]).unwrap();
            let (qkv, set) = (Qkv { q: &q, k: &layer.k, v: &layer.v, bias: None }, RowSet::new(vec![last]));
            let z = o.attention(qkv, &spec, 0, &batch, Some(&set), KvUse::None, None).unwrap().z;
            assert_eq!(z, o.rows(&together, &[last]).unwrap());
        }
    }
}

fn segment(rows: std::ops::Range<u32>, pos0: u32) -> Seg {
    Seg { rows, pos0 }
}

#[test]
fn the_cache_changes_nothing() {
    let mut o = eager();
    let mut rng = Rng::new(4);
    let spec = AttnSpec { window: Some(70), ..heads(2, 1, 3) };
    let n = 2 * KEY_BLOCK + 5;
    let layer = Layer::new(&mut rng, &spec, n);
    let whole = layer.run(&mut o, &spec, &Batch::from_lengths([n]), KvUse::None, None).unwrap().z;
    for chunk in [1, KEY_BLOCK - 1, KEY_BLOCK, KEY_BLOCK + 1, n] {
        let mut cache = [KvSeq::new(1)];
        for start in (0..n).step_by(chunk) {
            let end = n.min(start + chunk);
            let rows: Vec<u32> = (start as u32..end as u32).collect();
            let part = layer.rows(&mut o, &rows);
            let batch = Batch { segs: vec![segment(0..rows.len() as u32, start as u32)] };
            let want = o.rows(&whole, &rows).unwrap();
            let read = part.run(&mut o, &spec, &batch, KvUse::Read(&cache), None).unwrap();
            assert_eq!(read.z, want, "read, chunk {chunk} at {start}");
            // A run that failed after this layer left it ahead; repeating it must not matter.
            for _ in 0..2 {
                let appended = part.run(&mut o, &spec, &batch, KvUse::Append(&mut cache), None).unwrap();
                assert_eq!(appended.z, want, "append, chunk {chunk} at {start}");
            }
            cache[0].len = end;
        }
        let pages: Vec<usize> = cache[0].layers[0].iter().map(|p| p.len()).collect();
        assert_eq!(pages, [KEY_BLOCK, KEY_BLOCK, 5]);
    }
}

#[test]
fn a_shared_prefix_is_copied_only_where_it_is_continued() {
    let mut o = eager();
    let mut rng = Rng::new(5);
    let spec = heads(2, 2, 2);
    let n = KEY_BLOCK + 3;
    let layer = Layer::new(&mut rng, &spec, n);
    let mut cache = [KvSeq::new(1)];
    layer.run(&mut o, &spec, &Batch::from_lengths([n]), KvUse::Append(&mut cache), None).unwrap();
    cache[0].len = n;
    let [prefix] = cache;
    let before: Vec<RefPage> = prefix.layers[0].iter().map(|p| (**p).clone()).collect();

    let next = Layer::new(&mut rng, &spec, 3);
    let at = n as u32;
    let mut both = [prefix.clone(), prefix.clone()];
    let batch = Batch { segs: vec![segment(0..2, at), segment(2..3, at)] };
    next.run(&mut o, &spec, &batch, KvUse::Append(&mut both), None).unwrap();
    assert!(
        both.iter().all(|s| Arc::ptr_eq(&s.layers[0][0], &prefix.layers[0][0])),
        "the full page is shared"
    );
    assert_eq!(both.each_ref().map(|s| s.layers[0][1].len()), [5, 4]);
    assert!(
        prefix.layers[0].iter().zip(&before).all(|(now, then)| **now == *then),
        "the prefix is as it was"
    );

    // A unique page grows in place.
    let page = Arc::as_ptr(&both[1].layers[0][1]);
    both[1].len = n + 1;
    let more = Layer::new(&mut rng, &spec, 1);
    let batch = Batch { segs: vec![segment(0..1, at + 1)] };
    more.run(&mut o, &spec, &batch, KvUse::Append(&mut both[1..]), None).unwrap();
    assert_eq!(Arc::as_ptr(&both[1].layers[0][1]), page);
}

/// The pattern of one head at one row after some edits.
fn edited(spec: &AttnSpec, edits: Vec<(u32, PatternChange<T>)>, at: u32) -> Result<Vec<f32>> {
    let mut o = eager();
    let layer = Layer::new(&mut Rng::new(6), spec, 4);
    let edits = edits
        .into_iter()
        .map(|(row, kind)| PatternEdit { head: 1, rows: RowSet::new(vec![row]), kind })
        .collect();
    let probe = AttnProbe { edits, raw: true, ..Default::default() };
    let out = layer.run(&mut o, spec, &Batch::from_lengths([4]), KvUse::None, Some(&probe))?;
    let raw = out.raw.unwrap();
    let n = raw.keys[at as usize] as usize;
    let start = raw.offset[at as usize] + n; // head 1
    Ok(raw.pattern[start..start + n].to_vec())
}

#[test]
fn pattern_edits_apply_in_order() {
    let spec = heads(2, 1, 3);
    let plain = edited(&spec, vec![], 3).unwrap();
    let rest = plain[2] + plain[3];
    let blocked = edited(&spec, vec![(3, PatternChange::Block(0..2))], 3).unwrap();
    let want = [0.0, 0.0, f64::from(plain[2] / rest), f64::from(plain[3] / rest)];
    assert_close("block", &blocked.iter().map(|&p| f64::from(p)).collect::<Vec<_>>(), &want, 1e-6);
    assert_eq!(edited(&spec, vec![(2, PatternChange::Block(0..2))], 3).unwrap(), plain, "another row");

    let uniform = |window, block: bool| {
        let mut edits = vec![];
        if block {
            edits.push((3, PatternChange::Block(2..3)));
        }
        edits.push((3, PatternChange::Uniform));
        edited(&AttnSpec { window, ..spec.clone() }, edits, 3).unwrap()
    };
    assert_eq!(uniform(None, false), [0.25; 4]);
    assert_eq!(uniform(Some(3), false), [0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]);
    assert_eq!(uniform(Some(3), true), [0.0, 0.5, 0.0, 0.5]);
    let hot = edited(&spec, vec![(3, PatternChange::Temperature(1e9))], 3).unwrap();
    assert!(hot.iter().all(|p| (p - 0.25).abs() < 1e-6));

    let given = || Rc::new(buf(1, 2, &[0.9, 0.2]));
    let edits = vec![(3, PatternChange::Block(0..1)), (3, PatternChange::Set(given()))];
    assert_eq!(edited(&spec, edits, 3).unwrap(), [0.9, 0.2, 0.0, 0.0], "as it is, even where blocked");
    assert_eq!(edited(&spec, vec![(0, PatternChange::Set(given()))], 0).unwrap(), [0.9], "clipped");
    let window = AttnSpec { window: Some(3), ..spec.clone() };
    let seen = edited(&window, vec![(3, PatternChange::Set(given()))], 3).unwrap();
    assert_eq!(seen, [0.0, 0.2, 0.0, 0.0], "outside the window");
}

#[test]
fn pattern_edits_that_cannot_be_are_errors() {
    let spec = heads(2, 1, 3);
    let all = message(edited(&spec, vec![(2, PatternChange::Block(0..3))], 2));
    assert_eq!(all, "attention: every key that row 2 (position 2) sees in head 1 is blocked");
    let window = AttnSpec { window: Some(2), ..spec.clone() };
    assert!(edited(&window, vec![(2, PatternChange::Block(1..3)), (2, PatternChange::Uniform)], 2).is_err());
    let given = PatternChange::Set(Rc::new(buf(1, 2, &[0.9, 0.2])));
    let after = message(edited(&spec, vec![(1, given.clone()), (1, PatternChange::Uniform)], 1));
    assert_eq!(after, "attention: the pattern of row 1, head 1 is given and then edited again");
    assert!(edited(&spec, vec![(1, given), (2, PatternChange::Uniform)], 1).is_ok(), "different rows");
    assert!(message(edited(&spec, vec![(1, PatternChange::Temperature(0.0))], 1)).contains("temperature 0"));
    assert!(matches!(
        edited(&spec, vec![(4, PatternChange::Uniform)], 1),
        Err(Error::Range { index: 4, .. })
    ));
}

#[test]
fn vocabulary_ties_go_to_the_lower_id() {
    let mut o = eager();
    let x = o.constant(2, 1, &[1.0, -1.0]).unwrap();
    let u = map(0, &buf(5, 1, &[1.0, 2.0, -0.0, 2.0, 0.0]));
    let want = [
        Vocab::Top(3),
        Vocab::RankOf(vec![3, 4].into()),
        Vocab::Top(99),
        Vocab::Ids(vec![1, 1].into()),
        Vocab::LogSumExp,
        Vocab::Nll(vec![0, 1].into()),
    ];
    let [top, ranks, all, ids, total, nll]: [VocabOut<T>; 6] =
        o.vocab(&x, &u, &want).unwrap().try_into().unwrap();
    let (VocabOut::Top(top), VocabOut::Ranks(ranks), VocabOut::Top(all)) = (top, ranks, all) else {
        panic!()
    };
    assert_eq!(top[0], [(1, 2.0), (3, 2.0), (0, 1.0)]);
    assert_eq!(top[1].iter().map(|t| t.0).collect::<Vec<_>>(), [2, 4, 0], "−0 and 0 tie");
    assert_eq!(all[1].iter().map(|t| t.0).collect::<Vec<_>>(), [2, 4, 0, 1, 3]);
    assert_eq!(ranks, [1, 1]);
    let (VocabOut::Values(ids), VocabOut::Values(total), VocabOut::Values(nll)) = (ids, total, nll) else {
        panic!()
    };
    assert_eq!(ids.data(), &[2.0, 2.0, -2.0, -2.0]);
    let sum = |l: [f64; 5]| l.iter().map(|v| v.exp()).sum::<f64>().ln();
    let want = [sum([1.0, 2.0, 0.0, 2.0, 0.0]), sum([-1.0, -2.0, 0.0, -2.0, 0.0])];
    assert_close("log-sum-exp", total.data(), &want, 1e-12);
    assert_close("nll", nll.data(), &[want[0] - 1.0, want[1] + 2.0], 1e-12);
}

#[test]
fn heads_write_what_their_sum_is() {
    let mut o = eager();
    let mut rng = Rng::new(7);
    let (z, dirs) = (Rc::new(rng.buf(3, 6)), Rc::new(rng.buf(2, 5)));
    let mut wo = map(0, &rng.buf(5, 6));
    let sum = o.linear(&z, &[&wo], Then::default()).unwrap();
    wo.bias = Some(vector(1, &rng.buf(1, 5)));
    let written = o.head_result(&z, &wo, 3).unwrap();
    let along = o.head_dot(&z, &wo, Dirs { dirs: &dirs, n_heads: 3 }).unwrap();
    for r in 0..3 {
        let added: Vec<f64> = (0..5).map(|d| (0..3).map(|h| written.row(r)[h * 5 + d]).sum()).collect();
        assert_close("sum over heads", &added, sum.row(r), 1e-12);
        for i in 0..2 {
            let got: f64 = (0..3).map(|h| along.row(r)[h * 2 + i]).sum();
            let want: f64 = sum.row(r).iter().zip(dirs.row(i)).map(|(a, b)| a * b).sum();
            assert!((got - want).abs() < 1e-12);
        }
    }
}

#[test]
fn an_edit_happens_in_place_where_nobody_else_looks() {
    let mut o = eager();
    let zero = |rows: Vec<u32>| RowEdit { rows: RowSet::new(rows), cols: 1..2, op: EditOp::<T>::Zero };
    let x = o.constant(2, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let before = x.data().as_ptr();
    let x = o.edit(x, &[zero(vec![1])]).unwrap();
    assert_eq!((x.data().as_ptr(), x.data()), (before, &[1.0, 2.0, 3.0, 0.0][..]));
    let y = o.edit(Rc::clone(&x), &[zero(vec![0])]).unwrap();
    assert_eq!((x.data()[1], y.data()[1]), (2.0, 0.0));
    // The operand may be the matrix itself: it is read as it was.
    let both = RowEdit { rows: RowSet::all(2), cols: 0..2, op: EditOp::Add(Rc::clone(&x)) };
    let y = o.edit(x, &[both.clone(), both]).unwrap();
    assert_eq!(y.data(), &[3.0, 6.0, 9.0, 0.0]);
}

#[test]
fn nothing_in_gives_nothing_out() {
    let mut o = eager();
    let mut rng = Rng::new(8);
    let spec = heads(2, 1, 4);
    let batch = Batch::from_lengths([0, 0]);
    let x = o.embed(&weight(0, &rng.buf(3, 8)), &[]).unwrap();
    let x = o.norm(&x, &plain_norm(NormKind::Rms, 8)).unwrap();
    let maps = [map(0, &rng.buf(8, 8)), map(1, &rng.buf(4, 8))];
    let qkv = o.linear(&x, &[&maps[0], &maps[1], &maps[1]], Then { act: None, residual: None }).unwrap();
    let mut part = |cols| o.cols(&qkv, cols).unwrap();
    let layer = Layer { q: part(0..8), k: part(8..12), v: part(12..16) };
    let q = o.rope(&layer.q, 4, &rope_table(2, 4, false), &[]).unwrap();
    let layer = Layer { q, ..layer };
    let probe =
        AttnProbe { stats: true, raw: true, groups: Some(vec![vec![vec![0..1]]; 2]), ..Default::default() };
    let mut cache = [KvSeq::new(1), KvSeq::new(1)];
    for cached in [false, true] {
        let kv = if cached { KvUse::Append(&mut cache) } else { KvUse::None };
        let out = layer.run(&mut o, &spec, &batch, kv, Some(&probe)).unwrap();
        let shapes = (out.z.shape(), out.mass.unwrap().shape(), out.stats.unwrap().shape());
        assert_eq!(shapes, ((0, 8), (0, 2), (0, 6)));
        assert_eq!(out.raw, Some(Default::default()));
    }
    let z = o.edit(layer.q, &[]).unwrap();
    assert_eq!(o.head_result(&z, &maps[0], 2).unwrap().shape(), (0, 16));
    let y = o.glu(&z, Activation::Silu).unwrap();
    assert_eq!(o.rows(&y, &[]).unwrap().shape(), (0, 4));
    let want = [Vocab::All, Vocab::Top(2), Vocab::RankOf([].into()), Vocab::Nll([].into())];
    let answers = o.vocab(&z, &maps[1], &want).unwrap();
    let shapes: Vec<_> =
        answers.iter().map(|a| if let VocabOut::Values(v) = a { v.shape() } else { (9, 9) }).collect();
    assert_eq!(shapes, [(0, 4), (9, 9), (9, 9), (0, 1)]);

    // Rows to append, none to query.
    let (k, v) = (Rc::new(rng.buf(2, 4)), Rc::new(rng.buf(2, 4)));
    let (qkv, batch) = (Qkv { q: &z, k: &k, v: &v, bias: None }, Batch::from_lengths([2, 0]));
    let none = RowSet::new(vec![]);
    o.attention(qkv, &spec, 0, &batch, Some(&none), KvUse::Append(&mut cache), None).unwrap();
    assert_eq!(cache[0].layers[0][0].len(), 2);
}

#[test]
fn wrong_shapes_are_named() {
    let mut o = eager();
    let mut rng = Rng::new(9);
    let x = Rc::new(rng.buf(2, 3));
    let y = Rc::new(rng.buf(3, 2));
    assert_eq!(message(o.add(&x, &y)), "add: the second summand is [3, 2], expected [2, 3]");
    let w: Linear<Reference> = map(0, &rng.buf(4, 5));
    let wrong = message(o.linear(&x, &[&w], Then::default()));
    assert_eq!(wrong, "linear: the input is [2, 3], expected [rows, 5] for a weight [4, 5]");
    let w = map(0, &rng.buf(4, 3));
    let wrong = message(o.linear(&x, &[&w], Then { act: None, residual: Some(&x) }));
    assert_eq!(wrong, "linear: the residual is [2, 3], expected [2, 4]");
    let biased = Linear { bias: Some(vector(1, &rng.buf(1, 3))), ..map(0, &rng.buf(4, 3)) };
    assert!(
        message(o.linear(&x, &[&biased], Then::default())).contains("the bias is [1, 3], expected [1, 4]")
    );
    assert_eq!(message(o.embed(&w.w, &[0, 4])), "embed: id 4 is out of range (there are 4)");
    assert_eq!(message(o.rows(&x, &[2])), "rows: row 2 is out of range (there are 2)");
    assert!(message(o.cols(&x, 2..4)).contains("2..4"));
    assert!(message(o.glu(&x, Activation::Silu)).contains("even"));
    assert!(message(o.norm(&x, &plain_norm(NormKind::Layer, 2))).contains("groups of 2 columns"));
    assert!(message(o.constant(2, 2, &[0.0; 3])).contains("that of [2, 2]"));
    assert!(message(o.rope(&x, 3, &rope_table(4, 2, false), &[0, 4])).contains("position 4"));
    assert!(message(o.rope(&x, 3, &rope_table(4, 4, false), &[0, 1])).contains("at most 3"));
    let edit = RowEdit { rows: RowSet::new(vec![0, 1]), cols: 0..2, op: EditOp::Set(Rc::clone(&y)) };
    assert_eq!(message(o.edit(Rc::clone(&x), &[edit])), "edit: the operand is [3, 2], expected [2, 2]");
    let nll = Vocab::Nll(vec![1].into());
    assert!(message(o.vocab(&x, &w, &[nll])).contains("one a row"));
    assert!(message(o.vocab(&x, &w, &[Vocab::Ids(vec![7].into())])).contains("id 7"));
    assert!(message(o.head_result(&x, &w, 2)).contains("multiple of 2 heads"));
    assert!(message(o.head_dot(&x, &w, Dirs { dirs: &y, n_heads: 3 })).contains("the directions is [3, 2]"));
}

#[test]
fn attention_over_the_wrong_batch_or_cache_is_an_error() {
    let mut o = eager();
    let mut rng = Rng::new(10);
    let spec = heads(2, 1, 2);
    let layer = Layer::new(&mut rng, &spec, 3);
    let mut run = |spec: &AttnSpec, batch: Batch, kv: KvUse<'_, RefPage>, probe: Option<AttnProbe<T>>| {
        message(layer.run(&mut o, spec, &batch, kv, probe.as_ref()))
    };
    let three = || Batch::from_lengths([3]);
    assert!(run(&heads(3, 2, 2), three(), KvUse::None, None).contains("multiple of 2 key/value heads"));
    assert!(run(&heads(4, 1, 2), three(), KvUse::None, None).contains("queries is [3, 4], expected [3, 8]"));
    assert!(
        run(&spec, Batch::from_lengths([2]), KvUse::None, None).contains("keys is [3, 2], expected [2, 2]")
    );
    let gap = Batch { segs: vec![segment(0..1, 0), segment(2..3, 0)] };
    assert!(run(&spec, gap, KvUse::None, None).contains("starts at 1"));
    let later = || Batch { segs: vec![segment(0..3, 5)] };
    assert!(run(&spec, later(), KvUse::None, None).contains("position 5 without a cache"));
    assert!(run(&spec, later(), KvUse::Read(&[]), None).contains("cached sequences is 0, expected 1"));
    assert!(run(&spec, later(), KvUse::Read(&[KvSeq::new(1)]), None).contains("5, expected 0 as cached"));
    assert!(run(&spec, three(), KvUse::Append(&mut [KvSeq::new(0)]), None).contains("cached layer 0"));
    assert!(
        run(&AttnSpec { window: Some(0), ..spec.clone() }, three(), KvUse::None, None).contains("window")
    );
    let groups = AttnProbe { groups: Some(vec![vec![], vec![]]), ..Default::default() };
    assert!(run(&spec, three(), KvUse::None, Some(groups)).contains("key groups is 2, expected 1"));
    let head = PatternEdit { head: 2, rows: RowSet::all(1), kind: PatternChange::Uniform };
    let probe = AttnProbe { edits: vec![head], ..Default::default() };
    assert!(run(&spec, three(), KvUse::None, Some(probe)).contains("edited head 2"));
}
