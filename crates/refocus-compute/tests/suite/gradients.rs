//! Every gradient against finite differences, in f64.

use refocus_compute::{
    Activation, AttnProbe, AttnSpec, Batch, Dropout, EditOp, KvUse, Linear, Norm, NormKind, Ops, Param,
    ParamId, PatternChange, PatternEdit, Purpose, Qkv, RefBuf, RefWeight, Reference, Result, RowEdit, RowSet,
    Tape, Then, Var, Vocab, VocabOut,
};

use crate::support::{Rng, heads, rope_table, vector, weight};

type V = Var<Reference>;

/// A tape with numbered inputs; each may be a watched value, a matrix or a vector parameter.
struct Graph<'a> {
    tape: Tape<Reference>,
    inputs: &'a [RefBuf],
    watched: Vec<Option<V>>,
}

impl<'a> Graph<'a> {
    fn new(inputs: &'a [RefBuf]) -> Self {
        Self { tape: Tape::new(Reference), inputs, watched: inputs.iter().map(|_| None).collect() }
    }

    fn var(&mut self, i: usize) -> V {
        if self.watched[i].is_none() {
            let x = self.tape.input(self.inputs[i].clone());
            self.watched[i] = Some(self.tape.watch(&x).unwrap());
        }
        self.watched[i].clone().unwrap()
    }

    fn weight(&self, i: usize) -> Param<RefWeight> {
        weight(i as u32, &self.inputs[i])
    }

    fn vector(&self, i: usize) -> Param<RefBuf> {
        vector(i as u32, &self.inputs[i])
    }

    fn linear(&self, w: usize, bias: Option<usize>) -> Linear<Reference> {
        Linear { w: self.weight(w), bias: bias.map(|b| self.vector(b)) }
    }

    /// Adds up the outputs with fixed random weights.
    fn loss(&mut self, outputs: &[V]) -> V {
        let mut rng = Rng::new(77);
        let mut terms = outputs.iter().map(|y| {
            let (rows, width) = self.tape.shape(y);
            self.tape.weighted_sum(y, &rng.f32s(rows * width)).unwrap()
        });
        let mut terms: Vec<V> = terms.by_ref().collect();
        let first = terms.remove(0);
        terms.iter().fold(first, |sum, t| self.tape.add(&sum, t).unwrap())
    }
}

/// Compares the gradient of every element of every input with a five-point difference quotient.
fn check(what: &str, inputs: &[RefBuf], build: impl Fn(&mut Graph<'_>) -> Result<Vec<V>>) {
    let value = |inputs: &[RefBuf]| {
        let mut g = Graph::new(inputs);
        let outputs = build(&mut g).unwrap();
        g.loss(&outputs).value().data()[0]
    };
    let mut g = Graph::new(inputs);
    let outputs = build(&mut g).unwrap();
    let loss = g.loss(&outputs);
    let grads = g.tape.backward(&loss, None).unwrap();
    for (i, x) in inputs.iter().enumerate() {
        let found =
            g.watched[i].as_ref().and_then(|v| grads.var(v)).or_else(|| grads.param(ParamId(i as u32)));
        let found = found.unwrap_or_else(|| panic!("{what}: input {i} has no gradient"));
        assert_eq!(found.shape(), x.shape(), "{what}: shape of gradient {i}");
        let mut changed = inputs.to_vec();
        for e in 0..x.data().len() {
            let h = 1e-4;
            let mut at = |step: f64| {
                changed[i].data_mut()[e] = x.data()[e] + step * h;
                value(&changed)
            };
            let slope = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * h);
            changed[i].data_mut()[e] = x.data()[e];
            let got = found.data()[e];
            assert!(
                (got - slope).abs() <= 1e-7 * slope.abs().max(1.0),
                "{what}: input {i}, element {e}: {got}, difference quotient {slope}"
            );
        }
        assert!(
            found.data().iter().any(|d| *d != 0.0),
            "{what}: the gradient of input {i} is zero everywhere"
        );
    }
}

/// Moves every element at least 0.01 away from 0, where ReLU has its kink.
fn off_zero(mut x: RefBuf) -> RefBuf {
    x.data_mut().iter_mut().for_each(|v| *v += 0.01f64.copysign(*v));
    x
}

const ACTIVATIONS: [Activation; 4] =
    [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];

#[test]
fn embed_add_and_rows() {
    for seed in 0..3 {
        let mut rng = Rng::new(seed);
        let ids = rng.ids(6, 5);
        let inputs = [rng.buf(5, 3), rng.buf(6, 3)];
        check("embed, add, rows", &inputs, |g| {
            let table = g.weight(0);
            let x = g.tape.embed(&table, &ids)?;
            let y = g.var(1);
            let sum = g.tape.add(&x, &y)?;
            let twice = g.tape.add(&sum, &sum)?;
            let some = g.tape.rows(&twice, &[4, 0, 4, 2])?;
            let right = g.tape.cols(&twice, 1..3)?;
            Ok(vec![sum, some, right])
        });
    }
}

#[test]
fn norms() {
    for seed in 0..3 {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for (group, groups) in [(7, 1), (3, 2), (5, 3)] {
                for (gain, bias) in [(true, true), (true, false), (false, false)] {
                    let mut rng = Rng::new(seed);
                    let mut inputs = vec![rng.buf(3, group * groups)];
                    inputs.extend((0..usize::from(gain) + usize::from(bias)).map(|_| rng.buf(1, group)));
                    check(&format!("{kind:?} of {groups} groups"), &inputs, |g| {
                        let (gain, bias) = (gain.then(|| g.vector(1)), bias.then(|| g.vector(2)));
                        let norm = Norm { kind, eps: 1e-3, group, gain, bias };
                        let x = g.var(0);
                        Ok(vec![g.tape.norm(&x, &norm)?])
                    });
                }
            }
        }
    }
}

#[test]
fn linear_maps_with_what_follows() {
    for seed in 0..2 {
        for act in ACTIVATIONS.map(Some).into_iter().chain([None]) {
            for residual in [false, true] {
                let mut rng = Rng::new(seed);
                // x, three weights, two biases, residual
                let mut inputs = vec![
                    rng.buf(3, 5),
                    rng.buf(4, 5),
                    rng.buf(1, 5),
                    rng.buf(7, 5),
                    rng.buf(1, 4),
                    rng.buf(1, 7),
                ];
                if residual {
                    inputs.push(rng.buf(3, 12));
                }
                check(&format!("linear, {act:?}, residual {residual}"), &inputs, |g| {
                    let x = g.var(0);
                    let maps = [g.linear(1, Some(4)), g.linear(2, None), g.linear(3, Some(5))];
                    let residual = residual.then(|| g.var(6));
                    let then = Then { act, residual: residual.as_ref() };
                    Ok(vec![g.tape.linear(&x, &[&maps[0], &maps[1], &maps[2]], then)?])
                });
            }
        }
    }
    let mut rng = Rng::new(8);
    let inputs = [rng.buf(3, 4), rng.buf(2, 4), rng.buf(1, 2), rng.buf(5, 4)];
    check("maps apart", &inputs, |g| {
        let x = g.var(0);
        let maps = [g.linear(1, Some(2)), g.linear(3, None)];
        g.tape.linear_each(&x, &[&maps[0], &maps[1]])
    });
    let mut rng = Rng::new(9);
    let inputs = [rng.buf(3, 4), rng.buf(4, 4)];
    check("a square map onto its own input", &inputs, |g| {
        let x = g.var(0);
        let map = g.linear(1, None);
        let y = g.tape.linear(&x, &[&map], Then { act: None, residual: Some(&x) })?;
        Ok(vec![g.tape.linear(&y, &[&map], Then { act: Some(Activation::Silu), residual: Some(&y) })?])
    });
}

#[test]
fn activations_and_gates() {
    for seed in 0..3 {
        for a in ACTIVATIONS {
            let mut rng = Rng::new(seed);
            let inputs = [off_zero(rng.buf(3, 10))];
            check(&format!("{a:?}"), &inputs, |g| {
                let x = g.var(0);
                Ok(vec![g.tape.act(&x, a)?, g.tape.glu(&x, a)?])
            });
        }
    }
}

#[test]
fn rope() {
    for seed in 0..2 {
        for (d_head, rotary, interleaved) in
            [(6, 6, false), (6, 6, true), (7, 4, false), (7, 4, true), (3, 0, false)]
        {
            let mut rng = Rng::new(seed);
            let inputs = [rng.buf(4, 3 * d_head)];
            check("rope", &inputs, |g| {
                let x = g.var(0);
                Ok(vec![g.tape.rope(&x, d_head, &rope_table(9, rotary, interleaved), &[0, 1, 8, 3])?])
            });
        }
    }
}

/// Attention over a ragged batch, with one-token and empty sequences.
fn attention(
    what: &str,
    spec: &AttnSpec,
    lengths: &[usize],
    q_rows: Option<Vec<u32>>,
    probe: impl Fn(&mut Graph<'_>) -> Option<AttnProbe<V>>,
) {
    for seed in 0..2 {
        let mut rng = Rng::new(seed);
        let batch = Batch::from_lengths(lengths.iter().copied());
        let q_rows = q_rows.clone().map(RowSet::new);
        let kv = spec.n_kv_heads * spec.d_head;
        let rows = batch.rows();
        let inputs = [
            rng.buf(q_rows.as_ref().map_or(rows, RowSet::len), spec.n_heads * spec.d_head),
            rng.buf(rows, kv),
            rng.buf(rows, kv),
        ];
        check(what, &inputs, |g| {
            let (q, k, v) = (g.var(0), g.var(1), g.var(2));
            let probe = probe(g);
            let qkv = Qkv { q: &q, k: &k, v: &v, bias: None };
            let out = g.tape.attention(qkv, spec, 0, &batch, q_rows.as_ref(), KvUse::None, probe.as_ref())?;
            Ok([Some(out.z), out.mass, out.stats].into_iter().flatten().collect())
        });
    }
}

#[test]
fn attention_of_all_shapes() {
    let lengths = [3, 1, 0, 4];
    attention("one head", &heads(1, 1, 3), &lengths, None, |_| None);
    attention("several heads", &heads(3, 3, 2), &lengths, None, |_| None);
    attention("grouped heads", &heads(6, 2, 3), &lengths, None, |_| None);
    attention("one key head", &heads(3, 1, 5), &lengths, None, |_| None);
    attention("some queries", &heads(4, 2, 3), &lengths, Some(vec![1, 2, 6]), |_| None);
    let window = AttnSpec { window: Some(2), ..heads(4, 2, 3) };
    attention("window", &window, &[5, 1, 3], None, |_| None);
    attention("window, some queries", &window, &[5, 1, 3], Some(vec![4, 6, 8]), |_| None);
}

#[test]
fn attention_statistics_and_mass() {
    let groups = |_: &mut Graph<'_>| {
        // The second group overlaps the first and reaches beyond the sequence.
        let groups = vec![vec![0..2], vec![1..2, 3..9], vec![]];
        Some(AttnProbe { groups: Some(vec![groups; 3]), stats: true, ..Default::default() })
    };
    attention("statistics", &heads(2, 2, 3), &[4, 1, 2], None, groups);
    attention("statistics, grouped heads", &heads(4, 2, 3), &[4, 1, 2], Some(vec![2, 3, 6]), groups);
    let window = AttnSpec { window: Some(3), ..heads(2, 1, 3) };
    attention("statistics, window", &window, &[5, 1, 2], None, groups);
}

#[test]
fn attention_under_pattern_edits() {
    let spec = heads(4, 2, 3);
    let edits = |edits: Vec<(usize, Vec<u32>, PatternChange<V>)>| {
        let edits = edits
            .into_iter()
            .map(|(head, rows, kind)| PatternEdit { head, rows: RowSet::new(rows), kind })
            .collect();
        Some(AttnProbe { edits, stats: true, ..Default::default() })
    };
    let run = |what: &str, probe: &dyn Fn(&mut Graph<'_>) -> Option<AttnProbe<V>>| {
        attention(what, &spec, &[4, 1, 3], None, probe);
        attention(what, &spec, &[4, 1, 3], Some(vec![1, 3, 4, 7]), probe);
    };
    run("block", &|_| {
        edits(vec![(0, vec![1, 3, 7], PatternChange::Block(1..9)), (3, vec![3], PatternChange::Block(0..2))])
    });
    run("uniform", &|_| {
        edits(vec![(0, vec![1, 3, 4], PatternChange::Uniform), (2, vec![7], PatternChange::Uniform)])
    });
    run("temperature", &|_| {
        edits(vec![
            (1, vec![0, 3, 7], PatternChange::Temperature(0.7)),
            (3, vec![3], PatternChange::Temperature(2.5)),
        ])
    });
    run("several on one row", &|_| {
        edits(vec![
            (0, vec![3], PatternChange::Temperature(0.5)),
            (0, vec![3], PatternChange::Block(0..1)),
            (0, vec![3, 7], PatternChange::Temperature(3.0)),
            (1, vec![3], PatternChange::Block(1..3)),
            (1, vec![3], PatternChange::Uniform),
            (2, vec![3], PatternChange::Uniform),
            (2, vec![3], PatternChange::Block(1..3)),
        ])
    });
    run("given", &|g| {
        let t = g.tape.input(Rng::new(5).buf(2, 3));
        edits(vec![(1, vec![3, 7], PatternChange::Set(t))])
    });
}

#[test]
fn attention_with_a_bias_and_dropout() {
    let lengths = [3, 1, 0, 5];
    let dropout = Dropout::new(0.4, 9, Purpose::new("attention"), 3);
    for (spec, q_rows) in [
        (heads(2, 2, 3), None),
        (heads(4, 2, 3), Some(vec![1, 2, 6, 8])),
        (AttnSpec { window: Some(2), ..heads(2, 1, 3) }, None),
    ] {
        for dropout in [None, dropout] {
            let spec = AttnSpec { dropout, ..spec.clone() };
            let mut rng = Rng::new(1);
            let batch = Batch::from_lengths(lengths);
            let q_rows = q_rows.clone().map(RowSet::new);
            let (kv, rows) = (spec.n_kv_heads * spec.d_head, batch.rows());
            let inputs = [
                rng.buf(q_rows.as_ref().map_or(rows, RowSet::len), spec.n_heads * spec.d_head),
                rng.buf(rows, kv),
                rng.buf(rows, kv),
                // More distances than the longest sequence has.
                rng.buf(7, spec.n_heads),
            ];
            check(&format!("{spec:?} with a bias"), &inputs, |g| {
                let (q, k, v, bias) = (g.var(0), g.var(1), g.var(2), g.var(3));
                let probe = AttnProbe { stats: true, ..Default::default() };
                let qkv = Qkv { q: &q, k: &k, v: &v, bias: Some(&bias) };
                let out =
                    g.tape.attention(qkv, &spec, 0, &batch, q_rows.as_ref(), KvUse::None, Some(&probe))?;
                Ok([Some(out.z), out.stats].into_iter().flatten().collect())
            });
        }
    }
}

#[test]
fn dropout() {
    let mut rng = Rng::new(4);
    check("dropout", &[rng.buf(4, 70)], |g| {
        let x = g.var(0);
        let d = Dropout::new(0.3, 5, Purpose::new("test"), 1).expect("a mask");
        let y = g.tape.dropout(&x, &d, &[(0, 0), (0, 1), (1, 0), (9, 70)])?;
        Ok(vec![g.tape.act(&y, Activation::Silu)?])
    });
}

#[test]
fn lstm() {
    for seed in 0..2 {
        for (lengths, bias) in [(vec![4, 1, 0, 3], true), (vec![6], false), (vec![2, 5], true)] {
            let mut rng = Rng::new(seed);
            let (batch, h) = (Batch::from_lengths(lengths), 3);
            // x, W_ih, W_hh, biases
            let mut inputs = vec![rng.buf(batch.rows(), 2), rng.buf(4 * h, 2), rng.buf(4 * h, h)];
            if bias {
                inputs.extend([rng.buf(1, 4 * h), rng.buf(1, 4 * h)]);
            }
            check("lstm", &inputs, |g| {
                let x = g.var(0);
                let (input, recurrent) = (g.linear(1, bias.then_some(3)), g.linear(2, bias.then_some(4)));
                let pre = g.tape.linear(&x, &[&input], Then::default())?;
                let y = g.tape.lstm(&pre, None, &recurrent, &batch)?;
                // Another layer on top, of the same weights.
                let deep = g.linear(2, bias.then_some(4));
                let pre = g.tape.linear(&y, &[&deep], Then::default())?;
                let deep = g.tape.lstm(&pre, None, &recurrent, &batch)?;
                // Rows looked up, most of them several times.
                let at: Vec<u32> = (0..batch.rows() as u32).map(|i| i * i % 4).collect();
                let looked_up = g.tape.lstm(&pre, Some(&at), &recurrent, &batch)?;
                Ok(vec![deep, looked_up, y])
            });
        }
    }
}

#[test]
fn edits() {
    for seed in 0..3 {
        let mut rng = Rng::new(seed);
        // x, one row to add, one row each to add, one row to set, one row each to set
        let inputs = [rng.buf(5, 7), rng.buf(1, 3), rng.buf(2, 3), rng.buf(1, 2), rng.buf(3, 2)];
        check("edits", &inputs, |g| {
            let [x, add_one, add, set_one, set] = [0, 1, 2, 3, 4].map(|i| g.var(i));
            let edit = |rows: &[u32], cols, op| RowEdit { rows: RowSet::new(rows.to_vec()), cols, op };
            let y = g.tape.edit(
                x.clone(),
                &[
                    edit(&[0, 2, 4], 1..4, EditOp::Add(add_one.clone())),
                    edit(&[1, 3], 2..5, EditOp::Add(add)),
                    edit(&[0, 1], 0..7, EditOp::Scale(-1.5)),
                    edit(&[2], 3..6, EditOp::Zero),
                    edit(&[4, 0], 0..2, EditOp::Set(set_one)),
                    edit(&[1, 2, 3], 5..7, EditOp::Set(set)),
                    edit(&[3], 4..6, EditOp::Scale(0.25)),
                    edit(&[], 0..3, EditOp::Add(add_one)),
                ],
            );
            Ok(vec![y?, x])
        });
    }
}

fn values(answers: Vec<VocabOut<V>>) -> Vec<V> {
    answers
        .into_iter()
        .filter_map(|a| match a {
            VocabOut::Values(v) => Some(v),
            _ => None,
        })
        .collect()
}

#[test]
fn vocabulary() {
    for seed in 0..3 {
        for bias in [false, true] {
            let mut rng = Rng::new(seed);
            let mut inputs = vec![rng.buf(3, 4), rng.buf(7, 4)];
            if bias {
                inputs.push(rng.buf(1, 7));
            }
            let questions = [
                vec![Vocab::Ids(vec![6, 0, 3, 0].into())],
                vec![Vocab::LogSumExp],
                vec![Vocab::Nll(rng.ids(3, 7).into())],
                vec![Vocab::All],
                vec![
                    Vocab::Top(2),
                    Vocab::Ids(vec![1, 5].into()),
                    Vocab::RankOf(vec![0, 1, 2].into()),
                    Vocab::Nll(vec![1, 2, 2].into()),
                    Vocab::LogSumExp,
                    Vocab::All,
                ],
            ];
            for want in &questions {
                check(&format!("{want:?}"), &inputs, |g| {
                    let x = g.var(0);
                    let u = g.linear(1, bias.then_some(2));
                    Ok(values(g.tape.vocab(&x, &u, want)?))
                });
            }
        }
    }
}

#[test]
fn means() {
    let mut rng = Rng::new(0);
    check("mean", &[rng.buf(3, 5)], |g| {
        let x = g.var(0);
        let y = g.tape.mean(&x)?;
        Ok(vec![g.tape.act(&y, Activation::Silu)?])
    });
}

/// Two pre-norm layers with grouped heads, rotary, a gate, an edit of one head, a tied head, a
/// likelihood and a sharpening penalty: everything meets.
#[test]
fn a_small_model() {
    for seed in 0..2 {
        let mut rng = Rng::new(seed);
        let (d, vocab, batch) = (6, 5, Batch::from_lengths([3, 1, 2]));
        let spec = AttnSpec { scale: 0.7, ..heads(2, 1, 4) };
        let mut inputs = vec![rng.buf(vocab, d), rng.buf(1, d)];
        for _ in 0..2 {
            inputs.extend([rng.buf(1, d), rng.buf(8, d), rng.buf(4, d), rng.buf(4, d), rng.buf(1, 4)]);
            inputs.extend([rng.buf(d, 8), rng.buf(6, d), rng.buf(d, 3)]);
        }
        let (ids, next) = (rng.ids(6, vocab), rng.ids(4, vocab));
        let table = rope_table(4, 4, false);
        check("a small model", &inputs, |g| {
            let embedding = g.weight(0);
            let rms = |g: &Graph<'_>, i| Norm {
                kind: NormKind::Rms,
                eps: 1e-3,
                group: d,
                gain: Some(g.vector(i)),
                bias: None,
            };
            let mut x = g.tape.embed(&embedding, &ids)?;
            let mut read = Vec::new();
            for layer in 0..2 {
                let p = 2 + 8 * layer;
                let norm = rms(g, p);
                let h = g.tape.norm(&x, &norm)?;
                let maps = [g.linear(p + 1, None), g.linear(p + 2, None), g.linear(p + 3, Some(p + 4))];
                let qkv = g.tape.linear(&h, &[&maps[0], &maps[1], &maps[2]], Then::default())?;
                let (q, k, v) =
                    (g.tape.cols(&qkv, 0..8)?, g.tape.cols(&qkv, 8..12)?, g.tape.cols(&qkv, 12..16)?);
                let q = g.tape.rope(&q, 4, &table, &batch.positions())?;
                let k = g.tape.rope(&k, 4, &table, &batch.positions())?;
                let probe = AttnProbe { stats: true, ..Default::default() };
                let qkv = Qkv { q: &q, k: &k, v: &v, bias: None };
                let out = g.tape.attention(qkv, &spec, layer, &batch, None, KvUse::None, Some(&probe))?;
                read.extend(out.stats);
                let half = RowEdit { rows: RowSet::new(vec![2, 3]), cols: 4..8, op: EditOp::Scale(0.5) };
                let z = g.tape.edit(out.z, &[half])?;
                let wo = g.linear(p + 5, None);
                x = g.tape.linear(&z, &[&wo], Then { act: None, residual: Some(&x) })?;
                let gate = g.linear(p + 6, None);
                let h = g.tape.linear(&x, &[&gate], Then::default())?;
                let h = g.tape.glu(&h, Activation::Silu)?;
                let down = g.linear(p + 7, None);
                x = g.tape.linear(&h, &[&down], Then { act: None, residual: Some(&x) })?;
            }
            let norm = rms(g, 1);
            let x = g.tape.rows(&x, &[0, 1, 3, 4])?;
            let x = g.tape.norm(&x, &norm)?;
            let head = Linear { w: embedding, bias: None };
            read.extend(values(g.tape.vocab(&x, &head, &[Vocab::Nll(next.clone().into())])?));
            Ok(read)
        });
    }
}
