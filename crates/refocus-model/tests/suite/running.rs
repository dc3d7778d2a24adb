//! Decoding and the doctor on the fixtures.

use std::sync::Arc;

use refocus_compute::{Cpu, Eager};
use refocus_model::doctor::doctor;
use refocus_model::generate::{Request, greedy};
use refocus_model::{Action, Applied, Checkpoint, Intervention, Kind, Model, Position, Site};

use crate::expected::{all, fixtures, isa, tokens};

fn open(name: &str) -> (Checkpoint, Model<Cpu>, Eager<Cpu>) {
    let dir = fixtures().join(name);
    let path = if dir.join("model.gguf").exists() { dir.join("model.gguf") } else { dir };
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let mut cpu = Cpu::new(isa(), 2);
    let m = Model::load(&checkpoint, &mut cpu).expect("loads");
    (checkpoint, m, Eager::new(cpu))
}

#[test]
fn the_doctor_finds_every_fixture_sound() {
    for (name, path) in all() {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let checks = doctor(&checkpoint, &tokens(&path), isa(), 2, |_| {}).expect("runs");
        assert!(checks.len() >= 12, "{name}: {} checks", checks.len());
        for c in checks {
            assert_ne!(c.passed, Some(false), "{name}: {}: {}", c.name, c.detail);
        }
    }
}

#[test]
fn batched_greedy_decoding_equals_single_and_uncached() {
    for name in ["gpt2", "opt-350m", "gptj", "neox", "mistral", "qwen3", "llama-dynamic", "gguf-llama-q4_1"] {
        let (_, m, mut o) = open(name);
        let prompts: Vec<Vec<u32>> = vec![vec![5, 9, 2], vec![5, 9, 2, 7, 1], vec![5, 9]];
        let ask = |prompts: &[Vec<u32>], o: &mut Eager<Cpu>| {
            let request = Request { prompts, max_new: 8, stop: &[], interventions: &[] };
            greedy(o, &m, &request, |_, _| {}).expect("generates")
        };
        let together = ask(&prompts, &mut o);
        for (p, t) in prompts.iter().zip(&together) {
            assert_eq!(&ask(std::slice::from_ref(p), &mut o)[0], t, "{name}");
            // Without a cache: each token from the whole sequence anew.
            let mut ids = p.clone();
            for &next in t {
                let again = Request { prompts: &[ids.clone()], max_new: 1, stop: &[], interventions: &[] };
                assert_eq!(greedy(&mut o, &m, &again, |_, _| {}).expect("generates"), [[next]], "{name}");
                ids.push(next);
            }
        }
    }
}

#[test]
fn an_intervention_acts_on_every_new_token_while_decoding() {
    let (_, m, mut o) = open("gpt2");
    let prompt = vec![vec![5, 9, 2, 40, 7]];
    let run = |o: &mut Eager<Cpu>, position, action| {
        let site = Site::new(1, Kind::ResidPost);
        let what = Arc::new(Intervention { site, head: None, position, action, when: None });
        let applied = [Applied { what, segs: None }];
        let request = Request { prompts: &prompt, max_new: 6, stop: &[], interventions: &applied };
        greedy(o, &m, &request, |_, _| {}).expect("generates").remove(0)
    };
    let mut direction = vec![0.0; m.spec.d_model];
    direction[3] = 40.0;
    let add = || Action::Add { vector: direction.clone().into(), alpha: 1.0 };
    let changed = run(&mut o, Position::Last, add());
    // `last` acts on the last prompt token and on every new one, so the tokens equal those of a run
    // in which each step is a prompt of its own.
    let mut ids = prompt[0].clone();
    for &id in &changed {
        let site = Site::new(1, Kind::ResidPost);
        let what =
            Arc::new(Intervention { site, head: None, position: Position::Last, action: add(), when: None });
        let applied = [Applied { what, segs: None }];
        let one = Request { prompts: &[ids.clone()], max_new: 1, stop: &[], interventions: &applied };
        assert_eq!(greedy(&mut o, &m, &one, |_, _| {}).expect("generates"), [[id]]);
        ids.push(id);
    }
    assert_ne!(changed, run(&mut o, Position::All, Action::Scale(1.0)));
}
