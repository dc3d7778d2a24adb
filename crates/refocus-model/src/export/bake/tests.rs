#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use refocus_compute::{Cpu, Eager, Isa};

use super::*;
use crate::checkpoint::testing::{Temp, fixture, fixtures_with};
use crate::intervene::Position;
use crate::plan::Applied;
use crate::site::Site;
use crate::{Model, capture};

/// Largest difference of a logit between a patched run and a run of weights that hold the patch.
const TOLERANCE: f32 = 1e-4;

fn open(name: &str) -> Checkpoint {
    let folder = fixture(name);
    let gguf = folder.join("model.gguf");
    Checkpoint::open(if gguf.exists() { gguf } else { folder }).unwrap()
}

fn wave(n: usize, phase: usize) -> Arc<[f32]> {
    (0..n).map(|i| 0.3 * ((i * 7 + phase * 3) as f32).sin()).collect()
}

/// Every action at every site of a model, for all heads and for one, at all positions.
fn candidates(spec: &ModelSpec) -> Vec<Intervention> {
    let last = spec.n_layers - 1;
    let mut out = Vec::new();
    for kind in Kind::all().filter(|k| !k.is_global() && k.check(spec).is_ok()) {
        let shape = kind.token_shape(spec);
        let heads = if matches!(kind, Kind::Z | Kind::Pattern) { vec![None, Some(1)] } else { vec![None] };
        for head in heads {
            let width = head.map_or(shape.iter().product(), |_| spec.d_head);
            let actions = [
                Action::Zero,
                Action::Scale(0.7),
                Action::Mean(wave(width, 1)),
                Action::Add { vector: wave(width, 2), alpha: 0.5 },
                Action::Sharpen(0.6),
                Action::UniformAttention,
            ];
            for action in actions.into_iter().filter(|a| a.is_pattern() == (kind == Kind::Pattern)) {
                let site = Site::new(last, kind);
                out.push(Intervention { site, head, position: Position::All, action, when: None });
            }
        }
    }
    if last > 0 {
        let site = Site::new(last - 1, Kind::ResidPost);
        let action = Action::Exit(last);
        out.push(Intervention { site, head: None, position: Position::All, action, when: None });
    }
    out
}

fn logits(o: &mut Eager<Cpu>, m: &Model<Cpu>, interventions: &[Intervention]) -> Vec<f32> {
    let applied: Vec<Applied> =
        interventions.iter().map(|i| Applied { what: Arc::new(i.clone()), segs: None }).collect();
    let ids: Vec<u32> = (0..9).map(|i| (i * 11 + 3) % m.spec.vocab as u32).collect();
    capture(o, m, &[ids], &[], true, &applied).unwrap().swap_remove(0)["logits"].data.clone()
}

#[track_caller]
fn close(got: &[f32], want: &[f32], what: &str) {
    let scale = want.iter().fold(1.0f32, |a, x| a.max(x.abs()));
    let off = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= TOLERANCE * scale, "{what}: off by {off}");
}

#[test]
fn baked_weights_give_what_the_patch_gives() {
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    for name in fixtures_with("expected.safetensors") {
        let c = open(&name);
        let mut cpu = Cpu::new(Isa::from_env().unwrap(), 1);
        let model = Model::load(&c, &mut cpu).unwrap();
        let mut o = Eager::new(cpu);
        let plain = logits(&mut o, &model, &[]);
        for i in candidates(c.spec()) {
            if bake(c.spec(), &i).is_err() {
                assert!(Baked::new(&c, std::slice::from_ref(&i)).is_err());
                continue;
            }
            let one = std::slice::from_ref(&i);
            let want = logits(&mut o, &model, one);
            let baked = Baked::new(&c, one).unwrap();
            let mut cpu = Cpu::new(Isa::from_env().unwrap(), 1);
            let again = Model::from_params(baked.spec(), &mut cpu, &baked).unwrap();
            let got = logits(&mut Eager::new(cpu), &again, &[]);
            close(&got, &want, &format!("{name}: {i:?}"));
            if plain != want {
                *kinds.entry(i.action.name()).or_default() += 1;
            }
        }
    }
    // Each action changed something in some model.
    for action in ["zero", "scale", "mean", "add", "sharpen", "exit"] {
        assert!(kinds.get(action).is_some_and(|&n| n >= 5), "{action}: {kinds:?}");
    }
}

#[test]
fn a_folder_with_everything_baked_loads_and_gives_the_same() {
    let temp = Temp::new();
    for name in fixtures_with("expected.safetensors") {
        let c = open(&name);
        // An exit would hide the rest.
        let good = |i: &Intervention| !matches!(i.action, Action::Exit(_)) && bake(c.spec(), i).is_ok();
        let all: Vec<Intervention> = candidates(c.spec()).into_iter().filter(good).collect();
        let mut cpu = Cpu::new(Isa::from_env().unwrap(), 1);
        let model = Model::load(&c, &mut cpu).unwrap();
        let want = logits(&mut Eager::new(cpu), &model, &all);
        let dir = temp.path().join(&name);
        let baked = Baked::new(&c, &all).unwrap();
        baked.export().unwrap().write(&dir, false, &mut |_, _| {}).unwrap();
        let mut cpu = Cpu::new(Isa::from_env().unwrap(), 1);
        let again = Model::load(&Checkpoint::open(&dir).unwrap(), &mut cpu).unwrap();
        close(&logits(&mut Eager::new(cpu), &again, &[]), &want, &name);
    }
}

#[test]
fn what_weights_cannot_hold_is_named() {
    let c = open("gpt2");
    let mut i = Intervention::zero_head(0, 1);
    i.position = Position::Last;
    let told = Baked::new(&c, &[i]).err().unwrap().to_string();
    assert_eq!(
        told,
        "zero at blocks.0.attn.hook_z cannot be baked into plain weights: weights act at every position"
    );
}
