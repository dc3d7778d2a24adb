//! What the tape keeps, frees, reports and refuses.

use std::rc::Rc;

use refocus_compute::{
    Activation, AttnProbe, Batch, Dirs, Eager, Kernels, KvSeq, KvUse, NormKind, Ops, ParamId, PatternChange,
    PatternEdit, Qkv, RefBuf, Reference, Result, RowSet, Tape, Then, Var, Vocab, VocabOut,
};

use crate::support::{Rng, assert_close, buf, heads, map, plain_norm, vector};

type V = Var<Reference>;

fn watched(tape: &mut Tape<Reference>, x: RefBuf) -> V {
    let x = tape.input(x);
    tape.watch(&x).unwrap()
}

fn refusal(tape: &mut Tape<Reference>, y: &V) -> String {
    let loss = tape.mean(y).unwrap();
    tape.backward(&loss, None).err().expect("an error").to_string()
}

#[test]
fn a_seed_scales_and_several_values_add_up() {
    let mut tape = Tape::new(Reference);
    let x = watched(&mut tape, buf(1, 2, &[1.0, 2.0]));
    let loss = tape.weighted_sum(&x, &[3.0, 5.0]).unwrap();
    let grads = tape.backward(&loss, Some(-2.0)).unwrap();
    assert_eq!(grads.var(&x).unwrap().data(), &[-6.0, -10.0]);

    let x = watched(&mut tape, buf(1, 2, &[1.0, 2.0]));
    let y = tape.add(&x, &x).unwrap();
    let seeds = [(&y, buf(1, 2, &[1.0, 0.0])), (&x, buf(1, 2, &[0.0, 7.0])), (&y, buf(1, 2, &[0.0, 1.0]))];
    let grads = tape.backward_from(seeds).unwrap();
    assert_eq!(grads.var(&x).unwrap().data(), &[2.0, 9.0]);
}

#[test]
fn values_between_can_be_watched() {
    let mut tape = Tape::new(Reference);
    let w = map(0, &buf(1, 2, &[2.0, -3.0]));
    let x = tape.constant(1, 2, &[1.0, 1.0]).unwrap();
    let h = tape.linear(&x, &[&w], Then::default()).unwrap();
    let y = tape.act(&h, Activation::Relu).unwrap();
    let h = tape.watch(&h).unwrap();
    let z = tape.add(&h, &y).unwrap();
    let grads = tape.backward(&z, None).unwrap();
    assert_eq!(grads.var(&h).unwrap().data(), &[1.0], "the unit is off, the bypass is not");
    assert!(grads.var(&y).is_none(), "not watched");
    assert_eq!(grads.param(ParamId(0)).unwrap().data(), &[1.0, 1.0]);
}

#[test]
fn only_wanted_parameters_get_gradients() {
    let mut rng = Rng::new(1);
    let (a, mut b) = (map(0, &rng.buf(3, 2)), map(1, &rng.buf(2, 3)));
    b.bias = Some(vector(2, &rng.buf(1, 2)));
    let input = rng.buf(4, 2);
    let run = |only: Option<&[u32]>, watch: bool| {
        let mut tape = Tape::new(Reference);
        if let Some(ids) = only {
            tape.want_only(ids.iter().map(|&id| ParamId(id)));
        }
        let mut x = tape.input(input.clone());
        if watch {
            x = tape.watch(&x).unwrap();
        }
        let h = tape.linear(&x, &[&a], Then { act: Some(Activation::Gelu), residual: None }).unwrap();
        let y = tape.linear(&h, &[&b], Then { act: None, residual: Some(&x) }).unwrap();
        let loss = tape.mean(&y).unwrap();
        tape.backward(&loss, None).map(|g| (g.var(&x).cloned(), g.into_params()))
    };
    let (dx, all) = run(None, true).unwrap();
    let dx = dx.unwrap();
    assert_eq!(all.keys().map(|id| id.0).collect::<Vec<_>>(), [0, 1, 2]);
    for (only, watch) in [(&[0][..], false), (&[1], false), (&[2], true), (&[], true), (&[0, 2], true)] {
        let (d, some) = run(Some(only), watch).unwrap();
        assert_eq!(d.is_some(), watch);
        assert!(d.is_none_or(|d| d == dx));
        assert_eq!(some.keys().map(|id| id.0).collect::<Vec<_>>(), only);
        assert!(some.iter().all(|(id, d)| *d == all[id]));
    }
    let nothing = run(Some(&[]), false).err().unwrap().to_string();
    assert_eq!(nothing, "backward: the value depends on no parameter and nothing watched");
}

#[test]
fn the_tape_runs_as_eager_does_bit_for_bit() {
    let mut rng = Rng::new(2);
    let (w, x) = (map(0, &rng.buf(4, 4)), rng.buf(3, 4));
    fn then<T>(residual: &T) -> Then<'_, T> {
        Then { act: Some(Activation::GeluTanh), residual: Some(residual) }
    }
    let mut eager = Eager::new(Reference);
    let plain = Rc::new(x.clone());
    let want = eager.linear(&plain, &[&w], then(&plain)).unwrap();
    let mut tape = Tape::new(Reference);
    let input = tape.input(x);
    let got = tape.linear(&input, &[&w], then(&input)).unwrap();
    assert_eq!(got.value(), &*want);
}

#[test]
fn a_gradient_is_never_cut_silently() {
    let mut rng = Rng::new(3);
    let mut tape = Tape::new(Reference);
    let (x, dirs) = (rng.buf(3, 4), rng.buf(2, 5));
    let wo = map(0, &rng.buf(5, 4));

    let v = watched(&mut tape, x.clone());
    let y = tape.norm_scale(&v, &plain_norm(NormKind::Rms, 4)).unwrap();
    assert_eq!(refusal(&mut tape, &y), "norm_scale: it has no gradient, but the loss depends on it");
    let v = watched(&mut tape, x.clone());
    let dirs = tape.input(dirs);
    let y = tape.head_dot(&v, &wo, Dirs { dirs: &dirs, n_heads: 2 }).unwrap();
    assert!(refusal(&mut tape, &y).starts_with("head_dot"));
    let c = tape.input(x.clone());
    let y = tape.head_result(&c, &wo, 2).unwrap();
    assert!(refusal(&mut tape, &y).starts_with("head_result"), "its parameter wants a gradient");

    // Beside the loss they do no harm.
    let v = watched(&mut tape, x);
    tape.norm_scale(&v, &plain_norm(NormKind::Rms, 4)).unwrap();
    tape.head_result(&v, &wo, 2).unwrap();
    let loss = tape.mean(&v).unwrap();
    let grads = tape.backward(&loss, None).unwrap();
    assert_close("mean", grads.var(&v).unwrap().data(), &[1.0 / 12.0; 12], 1e-7);
}

#[test]
fn attention_over_a_cache_or_to_a_given_pattern_has_no_gradient() {
    let mut rng = Rng::new(4);
    let mut tape = Tape::new(Reference);
    let spec = heads(2, 1, 2);
    let (q, kv, given) = (rng.buf(3, 4), rng.buf(3, 2), rng.buf(1, 3));
    let batch = Batch::from_lengths([3]);
    let mut cache = [KvSeq::new(1)];
    for append in [false, true] {
        let (q, k) = (watched(&mut tape, q.clone()), tape.input(kv.clone()));
        let cached = if append { KvUse::Append(&mut cache) } else { KvUse::Read(&cache) };
        let out = tape
            .attention(Qkv { q: &q, k: &k, v: &k, bias: None }, &spec, 0, &batch, None, cached, None)
            .unwrap();
        assert!(refusal(&mut tape, &out.z).starts_with("attention over a cache"));
    }
    let (q, k) = (tape.input(q), tape.input(kv));
    let t = watched(&mut tape, given);
    let set = PatternEdit { head: 0, rows: RowSet::new(vec![2]), kind: PatternChange::Set(t) };
    let probe = AttnProbe { edits: vec![set], ..Default::default() };
    let qkv = Qkv { q: &q, k: &k, v: &k, bias: None };
    let out = tape.attention(qkv, &spec, 0, &batch, None, KvUse::None, Some(&probe)).unwrap();
    assert!(refusal(&mut tape, &out.z).contains("a given pattern has no gradient"));
}

#[test]
fn values_of_an_emptied_or_another_tape_are_refused() {
    let mut tape = Tape::new(Reference);
    let x = watched(&mut tape, buf(1, 1, &[1.0]));
    tape.backward(&x, None).unwrap();
    assert!(tape.add(&x, &x).err().unwrap().to_string().contains("before the tape was emptied"));
    assert!(tape.backward(&x, None).is_err());
    let y = watched(&mut tape, buf(1, 1, &[1.0]));
    tape.clear();
    assert!(tape.mean(&y).is_err());
    let z = watched(&mut tape, buf(1, 1, &[1.0]));
    assert!(Tape::new(Reference).mean(&z).is_err());
    assert!(tape.mean(&z).is_ok());
    let wide = watched(&mut tape, buf(1, 2, &[1.0, 2.0]));
    let err = tape.backward(&wide, None).err().unwrap().to_string();
    assert_eq!(err, "backward: the loss is [1, 2], expected [1, 1]");
}

#[test]
fn sequences_without_rows_are_no_obstacle() {
    let mut rng = Rng::new(5);
    let mut tape = Tape::new(Reference);
    let w = map(0, &rng.buf(3, 3));
    let x = watched(&mut tape, rng.buf(2, 3));
    let none = tape.rows(&x, &[]).unwrap();
    let none = tape.linear(&none, &[&w], Then { act: Some(Activation::Silu), residual: None }).unwrap();
    let answers = tape.vocab(&none, &w, &[Vocab::LogSumExp, Vocab::Top(1)]).unwrap();
    assert!(
        matches!(&answers[..], [VocabOut::Values(v), VocabOut::Top(t)] if v.value().shape() == (0, 1) && t.is_empty())
    );
    assert!(tape.mean(&none).is_err());
    let loss = tape.mean(&x).unwrap();
    assert!(tape.backward(&loss, None).unwrap().param(ParamId(0)).is_none());
}

#[test]
fn what_a_node_saved_is_freed_by_the_sweep() {
    let mut tape = Tape::new(Reference);
    let x = watched(&mut tape, buf(1, 2, &[1.0, 2.0]));
    let mut y = tape.act(&x, Activation::Silu).unwrap();
    let mut saved = Vec::new();
    for _ in 0..3 {
        saved.push(Rc::downgrade(&y.clone().into_value()));
        y = tape.act(&y, Activation::Silu).unwrap();
    }
    let loss = tape.mean(&y).unwrap();
    assert!(saved.iter().all(|s| s.upgrade().is_some()));
    tape.backward(&loss, None).unwrap();
    assert!(saved.iter().all(|s| s.upgrade().is_none()));
}

#[test]
fn kernels_are_reachable() -> Result<()> {
    let mut tape = Tape::new(Reference);
    let x = tape.kernels().upload(1, 1, &[2.0])?;
    let x = tape.input(x);
    assert_eq!(tape.to_host(&x)?, [2.0]);
    let y = tape.eager().constant(1, 1, &[3.0])?;
    assert_eq!(tape.into_kernels().download(&y)?, [3.0]);
    Ok(())
}
