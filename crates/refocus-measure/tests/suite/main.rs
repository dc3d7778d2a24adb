//! Measurements on the fixtures.

mod intervals;
mod planted;
mod probe;
mod reads;
mod recall;

use std::path::Path;
use std::sync::Arc;

use refocus_compute::{Batch, Cpu, Eager, Isa, KvUse, RowSet, Vocab, VocabOut};
use refocus_measure::{MeasureError, activation_patching, direct_logit_attribution, lens_grid};
use refocus_model::{Applied, Checkpoint, Intervention, Kind, Mode, Model, Plan, Readout, forward};

const FAMILIES: [&str; 8] =
    ["gpt2", "opt", "gptj", "neox", "neox-serial", "llama3", "qwen3", "gguf-llama-q4_1"];

fn open(name: &str) -> (Model<Cpu>, Eager<Cpu>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let gguf = dir.join("model.gguf");
    let checkpoint = Checkpoint::open(if gguf.exists() { &gguf } else { &dir }).expect("opens");
    let mut cpu = Cpu::new(Isa::detect(), 2);
    let m = Model::load(&checkpoint, &mut cpu).expect("loads");
    (m, Eager::new(cpu))
}

fn last_logits(o: &mut Eager<Cpu>, m: &Model<Cpu>, ids: &[u32], applied: &[Applied]) -> Vec<f32> {
    let batch = Batch::from_lengths([ids.len()]);
    let last = RowSet::new(vec![ids.len() as u32 - 1]);
    let want = [Readout::logits(&m.spec, Some(last), vec![Vocab::All])];
    let plan = Plan::compile(&m.spec, &batch, &want, applied, Mode::default()).expect("plans");
    let got = forward(o, m, ids, &plan, KvUse::None).expect("runs");
    match got[0].lens(0) {
        Some([VocabOut::Values(t)]) => t.as_slice().to_vec(),
        _ => panic!("no logits"),
    }
}

#[test]
fn shares_add_up_to_the_logit() {
    for name in FAMILIES {
        let (m, mut o) = open(name);
        let ids = [3, 8, 1, 20, 11];
        for minus in [None, Some(9)] {
            let a = direct_logit_attribution(&mut o, &m, &ids, 4, minus, &[]).expect("attributes");
            let sum: f32 = a.parts.iter().map(|p| p.share).sum();
            assert!(
                (sum - a.logit).abs() < 1e-4 * a.logit.abs().max(1.0),
                "{name}: {sum} against {}",
                a.logit
            );
            let logits = last_logits(&mut o, &m, &ids, &[]);
            let want = logits[4] - minus.map_or(0.0, |m| logits[m as usize]);
            assert_eq!(a.logit, want, "{name}");
        }
    }
}

#[test]
fn a_removed_head_loses_its_share() {
    let (m, mut o) = open("llama3");
    let applied = [Applied { what: Arc::new(Intervention::zero_head(0, 1)), segs: None }];
    let a = direct_logit_attribution(&mut o, &m, &[3, 8, 1], 4, None, &applied).expect("attributes");
    assert_eq!(a.heads[0][1], 0.0);
    assert_ne!(a.heads[0][0], 0.0);
}

#[test]
fn post_norm_blocks_cannot_be_attributed() {
    let (m, mut o) = open("opt-350m");
    let e = direct_logit_attribution(&mut o, &m, &[3, 8, 1], 4, None, &[]);
    assert!(matches!(e, Err(MeasureError::PostNorm)));
}

#[test]
fn the_lens_ends_at_the_models_answer() {
    for name in FAMILIES.into_iter().chain(["opt-350m"]) {
        let (m, mut o) = open(name);
        let ids = [3, 8, 1, 20, 11];
        let grid = lens_grid(&mut o, &m, &ids, None, &[]).expect("reads");
        let logits = last_logits(&mut o, &m, &ids, &[]);
        let best = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
        let sum: f32 = logits.iter().map(|l| (l - logits[best]).exp()).sum();
        let last = grid.cells.last().and_then(|r| r.last()).expect("cell");
        assert_eq!((grid.target_id, last.id), (best as u32, best as u32), "{name}");
        assert!((last.prob - 1.0 / sum).abs() < 1e-5, "{name}");
        let (prob, rank) = *grid.target.last().expect("target");
        assert_eq!(rank, 0, "{name}");
        assert!((prob - last.prob).abs() < 1e-5, "{name}");
        assert_eq!(grid.cells.len(), m.spec.n_layers + 1);
    }
}

#[test]
fn patching_restores_what_the_patched_place_carries() {
    for name in ["gpt2", "llama3", "neox"] {
        let (m, mut o) = open(name);
        let (clean, corrupted) = ([3, 8, 1, 20, 11], [3, 60, 1, 20, 11]);
        let p = activation_patching(&mut o, &m, &clean, &corrupted, Some(4), Some(9), |_, _| {})
            .expect("patches");
        let at = |k: Kind| &p.grids.iter().find(|g| g.kind == k).expect("grid").restored;
        let resid = at(Kind::ResidPre);
        // Before the first block the prompts differ at position 1 alone: it carries everything.
        assert!((resid[0][1] - 1.0).abs() < 1e-4, "{name}: {}", resid[0][1]);
        for unchanged in [0, 2, 3, 4] {
            assert_eq!(resid[0][unchanged], 0.0, "{name}");
        }
        // A position before the change can never differ.
        assert!(resid.iter().all(|layer| layer[0] == 0.0), "{name}");
        assert_eq!(at(Kind::Z)[0].len(), m.spec.n_heads);
        let logits = last_logits(&mut o, &m, &clean, &[]);
        assert_eq!(p.clean, logits[4] - logits[9], "{name}");
    }
}

#[test]
fn prompts_that_cannot_be_patched_are_named() {
    let (m, mut o) = open("gpt2");
    let e = activation_patching(&mut o, &m, &[1, 2], &[1], None, None, |_, _| {});
    assert!(matches!(e, Err(MeasureError::Lengths { clean: 2, corrupted: 1 })));
    let e = activation_patching(&mut o, &m, &[1, 2], &[1, 2], Some(3), Some(4), |_, _| {});
    assert!(matches!(e, Err(MeasureError::NoEffect(_))));
}
