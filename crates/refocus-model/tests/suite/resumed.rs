//! A pass that begins at a middle block gives the bits of the whole pass.

use std::sync::Arc;

use refocus_compute::{Batch, Cpu, Eager, KvUse, Ops, RowSet, Seg, Vocab, VocabOut};
use refocus_model::{
    Applied, Checkpoint, Intervention, Kind, Mode, Model, Plan, PlanError, Position, Reading, Readout,
    RunError, Site, empty_cache, forward, forward_from,
};

use crate::expected::{all, fixtures, isa, tokens};

type Ran = Eager<Cpu>;

fn zero(layer: usize, segs: Option<Vec<usize>>) -> Applied {
    let what = Intervention { position: Position::Last, ..Intervention::zero_head(layer, 0) };
    Applied { what: Arc::new(what), segs }
}

fn logits(o: &mut Ran, reading: &Reading<<Ran as Ops>::T>) -> Vec<u32> {
    let Some([VocabOut::Values(t)]) = reading.lens(0) else { panic!("no logits") };
    o.to_host(t).expect("values").iter().map(|x| x.to_bits()).collect()
}

/// The bits of the logits after the last token, and the residual stream before `layer`.
fn whole(o: &mut Ran, m: &Model<Cpu>, ids: &[u32], layer: usize, what: &[Applied]) -> (Vec<u32>, Vec<f32>) {
    let batch = Batch::from_lengths([ids.len()]);
    let last = Some(RowSet::new(vec![ids.len() as u32 - 1]));
    let readouts = [
        Readout::logits(&m.spec, last, vec![Vocab::All]),
        Readout::Raw { site: Site::new(layer, Kind::ResidPre), rows: None },
    ];
    let plan = Plan::compile(&m.spec, &batch, &readouts, what, Mode::default()).expect("plan");
    let got = forward(o, m, ids, &plan, KvUse::None).expect("runs");
    let x = o.to_host(got[1].matrix().expect("a matrix")).expect("values");
    (logits(o, &got[0]), x)
}

#[test]
fn a_pass_from_a_middle_block_gives_the_bits_of_the_whole() {
    let mut changed = 0;
    for (name, path) in all() {
        let mut cpu = Cpu::new(isa(), 2);
        let m = Model::load(&Checkpoint::open(&path).expect("opens"), &mut cpu).expect("loads");
        let o = &mut Eager::new(cpu);
        let ids = tokens(&path).into_iter().max_by_key(Vec::len).expect("a sequence");
        let (n, d) = (ids.len(), m.spec.d_model);
        let mut cache = [empty_cache(&m)];
        let batch = Batch::from_lengths([n - 1]);
        let mode = Mode { keeps_cache: true, decoding: false };
        let plan = Plan::compile(&m.spec, &batch, &[], &[], mode).expect("plan");
        forward(o, &m, &ids[..n - 1], &plan, KvUse::Append(&mut cache)).expect("runs");
        for layer in 0..m.spec.n_layers {
            let (want, x) = whole(o, &m, &ids, layer, &[]);
            let (ablated, _) = whole(o, &m, &ids, layer, &[zero(layer, None)]);
            // All rows again.
            let batch = Batch::from_lengths([n]);
            let end = Some(RowSet::new(vec![n as u32 - 1]));
            let readout = [Readout::logits(&m.spec, end, vec![Vocab::All])];
            let plan = Plan::resume(&m.spec, &batch, layer, &readout, &[]).expect("plan");
            let given = o.constant(n, d, &x).expect("a matrix");
            let got = forward_from(o, &m, given, &plan, KvUse::None).expect("runs");
            assert_eq!(logits(o, &got[0]), want, "{name}, block {layer}");
            // The last row alone, three times over one cache, changed in the second.
            let rows = x[(n - 1) * d..].repeat(3);
            let seg = |i: u32| Seg { rows: i..i + 1, pos0: n as u32 - 1 };
            let batch = Batch { segs: (0..3).map(seg).collect() };
            let readout = [Readout::logits(&m.spec, None, vec![Vocab::All])];
            let plan = Plan::resume(&m.spec, &batch, layer, &readout, &[zero(layer, Some(vec![1]))]);
            let given = o.constant(3, d, &rows).expect("a matrix");
            let shared = vec![cache[0].clone(); 3];
            let got = match forward_from(o, &m, given, &plan.expect("plan"), KvUse::Read(&shared)) {
                // Cached keys were turned by other angles than the longer sequence has.
                Err(RunError::DynamicRope { .. }) => continue,
                got => got.expect("runs"),
            };
            let got = logits(o, &got[0]);
            let wants = [&want, &ablated, &want];
            for (i, (got, want)) in got.chunks(m.spec.vocab).zip(wants).enumerate() {
                assert_eq!(got, &want[..], "{name}, block {layer}, variant {i}");
            }
            changed += usize::from(want != ablated);
        }
    }
    assert!(changed > 20, "a head that is removed is missed: {changed}");
}

#[test]
fn what_lies_before_the_first_block_is_refused() {
    let mut cpu = Cpu::new(isa(), 1);
    let m = Model::load(&Checkpoint::open(fixtures().join("gpt2")).expect("opens"), &mut cpu).expect("loads");
    let o = &mut Eager::new(cpu);
    let batch = Batch::from_lengths([2]);
    let resume = |layer, readouts: &[Readout], what: &[Applied]| {
        Plan::resume(&m.spec, &batch, layer, readouts, what).map(|_| ()).expect_err("refused")
    };
    let early = Site::new(0, Kind::ResidPost);
    assert_eq!(
        resume(1, &[Readout::Raw { site: early, rows: None }], &[]),
        PlanError::Skipped { site: early, start: 1 }
    );
    let z = Site::new(0, Kind::Z);
    assert_eq!(resume(1, &[], &[zero(0, None)]), PlanError::Skipped { site: z, start: 1 });
    assert!(matches!(resume(m.spec.n_layers, &[], &[]), PlanError::Site(_)));
    let plan = Plan::resume(&m.spec, &batch, 1, &[], &[]).expect("plan");
    let told = forward(o, &m, &[1, 2], &plan, KvUse::None).expect_err("refused");
    assert!(matches!(told, RunError::Start { start: Some(1) }), "{told}");
    let narrow = o.constant(2, 3, &[0.0; 6]).expect("a matrix");
    let told = forward_from(o, &m, narrow, &plan, KvUse::None).expect_err("refused");
    assert!(matches!(told, RunError::Residual { got: (2, 3), .. }), "{told}");
}
