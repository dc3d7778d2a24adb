//! Recall on fixtures of every wiring, against PyTorch with hooks (`fixtures/recall_paths.py`).

use refocus_compute::{Cpu, Eager};
use refocus_measure::MeasureError;
use refocus_measure::recall::{
    Component, HeadAt, Instead, Moments, Observed, Prompt, Rest, Sender, Unembedding, class_ranks, effects,
    fidelity, first_order, movers, nudged, observe, ov_ranks, partners, regressors, senders, shares,
};
use refocus_model::{Model, Wiring};
use serde_json::Value;

use super::{last_logits, open};

/// One of each wiring: serial with biases, without biases, parallel with two norms and with one, post-norm.
const WIRINGS: [&str; 5] = ["gpt2", "llama3", "neox", "gptj", "opt-350m"];

fn expected() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/recall/paths.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON")
}

fn prompts(of: &Value) -> Vec<Prompt> {
    let number = |p: &Value, key: &str| p[key].as_u64().expect("a number") as usize;
    let one = |p: &Value| Prompt {
        ids: p["ids"].as_array().expect("ids").iter().map(|x| x.as_u64().expect("an id") as u32).collect(),
        answer: number(p, "answer") as u32,
        argument: Some(number(p, "argument") as u32),
        argument_at: number(p, "argument_at"),
        fact: number(p, "fact"),
        template: number(p, "template"),
    };
    of.as_array().expect("prompts").iter().map(one).collect()
}

struct Subject {
    m: Model<Cpu>,
    o: Eager<Cpu>,
    prompts: Vec<Prompt>,
    seen: Observed,
    u: Unembedding,
}

fn subject(name: &str) -> Subject {
    let (m, mut o) = open(name);
    let all = expected();
    let from = if all[name].is_null() { "gpt2" } else { name };
    let prompts = prompts(&all[from]["prompts"]);
    let seen = observe(&mut o, &m, &prompts, |_| {}).expect("observes");
    let u = Unembedding::of(&mut o, &m, &prompts).expect("reads");
    Subject { m, o, prompts, seen, u }
}

#[test]
fn effects_are_those_of_hooks_in_pytorch() {
    for (name, of) in expected().as_object().expect("families") {
        let mut s = subject(name);
        let partners: Vec<usize> = serde_json::from_value(of["partners"].clone()).expect("partners");
        let modes = [
            ("frozen mean", (Instead::Mean, Rest::Frozen)),
            ("frozen partner", (Instead::Partner, Rest::Frozen)),
            ("live zero", (Instead::Zero, Rest::Live)),
            ("live mean", (Instead::Mean, Rest::Live)),
        ];
        for (key, mode) in modes {
            let want: Vec<Vec<[f64; 3]>> = serde_json::from_value(of[key].clone()).expect("scores");
            let (seen, chosen) = ((&s.seen, &s.u), senders(&s.m.spec));
            let got =
                effects(&mut s.o, &s.m, &s.prompts, seen, &chosen, &partners, mode, |_, _| {}).expect("runs");
            let (mut largest, mut worst) = (0.0f64, 0.0f64);
            for ((sender, got_row), want) in got.senders.iter().zip(&got.changed).zip(&want) {
                for ((g, w), base) in got_row.iter().zip(want).zip(&got.base) {
                    let off = [g.answer - w[0], g.argument.expect("an argument") - w[1], g.mean - w[2]];
                    worst = off.iter().fold(worst, |m, x| m.max(x.abs()));
                    assert!(worst < 1e-4, "{name}, {key}, {sender}: {g:?} against {w:?}");
                    largest = largest.max((g.pi() - base.pi()).abs());
                }
            }
            assert!(largest > 0.01, "{name}, {key}: nothing changes anything ({largest})");
        }
    }
}

#[test]
fn putting_in_what_was_there_changes_no_bit() {
    for name in WIRINGS {
        let mut s = subject(name);
        let partners: Vec<usize> = (0..s.prompts.len()).collect();
        for rest in [Rest::Frozen, Rest::Live] {
            let (seen, chosen) = ((&s.seen, &s.u), senders(&s.m.spec));
            let mode = (Instead::Itself, rest);
            let got =
                effects(&mut s.o, &s.m, &s.prompts, seen, &chosen, &partners, mode, |_, _| {}).expect("runs");
            for (sender, row) in got.senders.iter().zip(&got.changed) {
                assert_eq!(row, &got.base, "{name}, {sender}, {rest:?}");
            }
        }
    }
}

#[test]
fn scores_are_the_models_logits() {
    for name in WIRINGS {
        let mut s = subject(name);
        let scores = s.u.scores(&mut s.o, &s.m, &s.seen.resid_post, s.prompts.iter()).expect("scores");
        for (p, score) in s.prompts.iter().zip(scores) {
            let logits = last_logits(&mut s.o, &s.m, &p.ids, &[]);
            let mean = logits.iter().map(|x| f64::from(*x)).sum::<f64>() / logits.len() as f64;
            let want = f64::from(logits[p.answer as usize]);
            assert!((score.answer - want).abs() < 1e-5 && (score.mean - mean).abs() < 1e-5, "{name}");
        }
    }
}

#[test]
fn parts_add_up_to_the_residual_stream_and_to_the_logit() {
    for name in WIRINGS {
        let mut s = subject(name);
        let got = shares(&mut s.o, &s.m, &s.prompts, &s.seen, &s.u);
        if s.m.spec.wiring == Wiring::PostNorm {
            assert!(matches!(got, Err(MeasureError::PostNorm)));
            continue;
        }
        let got = got.expect("shares");
        assert!(got.worst < 1e-5, "{name}: {}", got.worst);
        let biases = got.parts.iter().filter(|p| matches!(p, Component::AttentionBias(_))).count();
        let has = s.m.blocks.iter().filter(|b| b.o.bias.is_some()).count();
        assert_eq!(biases, has, "{name}");
        let p = &s.prompts[0];
        let one =
            refocus_measure::direct_logit_attribution(&mut s.o, &s.m, &p.ids, p.answer, p.argument, &[])
                .expect("attributes");
        let own = |i: usize| got.answer[i][0] - got.argument[i][0].expect("an argument");
        for (i, part) in got.parts.iter().enumerate() {
            if let Component::Head { layer, head } = part {
                assert!((own(i) - f64::from(one.heads[*layer][*head])).abs() < 1e-4, "{name}, {part}");
            }
        }
        let constant = one.parts.iter().find(|p| p.part == "constant").map_or(0.0, |p| p.share);
        let sum: f64 = (0..got.parts.len()).map(own).sum();
        assert!((sum - f64::from(one.logit - constant)).abs() < 1e-4, "{name}");
    }
}

#[test]
fn regressors_add_up_to_what_the_mlp_reads() {
    for name in ["gpt2", "llama3", "neox", "gptj"] {
        let mut s = subject(name);
        for layer in 0..2 {
            for cumulative in [false, true] {
                let all = regressors(&mut s.o, &s.m, &s.seen, layer, cumulative).expect("regressors");
                let mut left: Vec<f64> = s.seen.blocks[layer].mlp_in.iter().map(|x| f64::from(*x)).collect();
                for (_, rows) in &all {
                    left.iter_mut().zip(rows).for_each(|(l, x)| *l -= f64::from(*x));
                }
                // What is left is the same for all prompts: biases.
                let d = s.m.spec.d_model;
                let spread =
                    left.chunks_exact(d).flat_map(|r| r.iter().zip(&left[..d]).map(|(a, b)| (a - b).abs()));
                assert!(spread.fold(0.0, f64::max) < 1e-5, "{name}, {layer}, {cumulative}");
            }
        }
    }
}

#[test]
fn what_an_mlp_wrote_may_stand_in_its_place() {
    for name in WIRINGS {
        let mut s = subject(name);
        let own = s.seen.blocks[0].mlp_out.clone();
        for f in fidelity(&mut s.o, &s.m, &s.prompts, &s.seen, 0, &own).expect("runs") {
            assert!(f.kl == 0.0 && f.prob[0] == f.prob[1] && f.rank[0] == f.rank[1], "{name}: {f:?}");
        }
        let vector: Vec<f32> = (0..s.m.spec.d_model).map(|i| (i % 3) as f32 - 0.5).collect();
        let moved: Vec<f32> = nudged(&s.seen, 0, &vector);
        let all = fidelity(&mut s.o, &s.m, &s.prompts, &s.seen, 0, &moved).expect("runs");
        let ranks = class_ranks(&mut s.o, &s.m, &s.prompts, &s.seen, 0, &vector, &[6, 7, 8]).expect("runs");
        assert!(all.iter().all(|f| f.kl > 0.0) && ranks.len() == s.prompts.len(), "{name}");
        let still = class_ranks(&mut s.o, &s.m, &s.prompts, &s.seen, 0, &vec![0.0; vector.len()], &[6, 7, 8]);
        assert!(
            still.expect("runs").iter().all(|r| r.answer[0] == r.answer[1] && r.others[0] == r.others[1])
        );
    }
}

/// Of two prompts the second lies where the first does not: a whole step each way meets both, and the slope between
/// them is what the MLP itself says.
#[test]
fn a_whole_step_of_the_first_order_meets_both_of_two_prompts() {
    for name in ["gpt2", "llama3", "neox", "opt-350m"] {
        let mut s = subject(name);
        let two = s.prompts[..2].to_vec();
        let seen = observe(&mut s.o, &s.m, &two, |_| {}).expect("observes");
        let d = s.m.spec.d_model;
        let near = first_order(&mut s.o, &s.m, &seen, 1, 1.0).expect("runs");
        let out = &seen.blocks[1].mlp_out;
        for i in 0..d {
            let (got, want) = (near[i] - near[d + i], out[i] - out[d + i]);
            assert!((got - want).abs() < 1e-4, "{name}: {got} against {want}");
        }
        assert!((0..d).any(|i| (out[i] - out[d + i]).abs() > 0.1), "{name}: both prompts are alike");
    }
}

#[test]
fn movers_and_matrices_of_heads() {
    for name in ["gpt2", "llama3", "neox", "gptj"] {
        let mut s = subject(name);
        let all = movers(&mut s.o, &s.m, &s.prompts, &s.seen, &s.u).expect("movers");
        assert_eq!(all.len(), s.m.spec.n_layers * s.m.spec.n_heads, "{name}");
        assert!(all.iter().all(|h| h.attention.iter().all(|a| (0.0..=1.0).contains(a))), "{name}");
        let with = partners(&s.prompts, 3).expect("partners");
        let chosen: Vec<HeadAt> = all.iter().map(|h| h.head).collect();
        let ov = ov_ranks(&mut s.o, &s.m, &s.prompts, &chosen, &with).expect("ranks");
        for h in &ov {
            for (i, &other) in with.iter().enumerate() {
                assert_eq!(h.shuffled.len(), s.prompts.len());
                assert!(s.prompts[i].fact != s.prompts[other].fact);
                assert!(h.answer[i] < s.m.spec.vocab as u32);
            }
        }
        let absent = [HeadAt { layer: 0, head: 99 }];
        let refused = ov_ranks(&mut s.o, &s.m, &s.prompts, &absent, &with);
        assert!(matches!(refused, Err(MeasureError::Absent { .. })), "{name}");
    }
}

#[test]
fn the_last_layers_mlp_is_fitted_on_every_wiring() {
    for name in WIRINGS {
        let mut s = subject(name);
        for cumulative in [false, true] {
            let all = regressors(&mut s.o, &s.m, &s.seen, 1, cumulative).expect("regressors");
            let rows: Vec<&[f32]> = all.iter().map(|r| r.1.as_slice()).collect();
            let target = &s.seen.blocks[1].mlp_out;
            let moments = Moments::of(&rows, target, s.prompts.iter().map(|p| p.fact)).expect("sums");
            let fit = moments.fit(&[1.0; 3], 1e-3).expect("fits");
            let errors: f64 = moments.errors(&fit).iter().sum();
            let total: f64 = moments.totals().iter().map(|t| t.0).sum();
            assert!(errors >= 0.0 && errors < total, "{name}: {errors} of {total}");
        }
    }
}

#[test]
fn prompts_that_cannot_be_measured_are_named() {
    let mut s = subject("gpt2");
    let none = observe(&mut s.o, &s.m, &[], |_| {});
    assert!(matches!(none, Err(MeasureError::NoPrompts)));
    let mut bad = s.prompts.clone();
    bad[2].argument_at = 40;
    let e = observe(&mut s.o, &s.m, &bad, |_| {}).expect_err("refused").to_string();
    assert_eq!(e, "prompt 2: its argument is not in it");
    let lone: Vec<Prompt> = s.prompts.iter().filter(|p| p.fact == 0).cloned().collect();
    let e = partners(&lone, 0).expect_err("refused").to_string();
    assert!(e.starts_with("wording 0 asks for one fact alone"), "{e}");
    let absent = [Sender::Mlp(7)];
    let mode = (Instead::Zero, Rest::Live);
    let seen = (&s.seen, &s.u);
    let e = effects(&mut s.o, &s.m, &s.prompts, seen, &absent, &[0; 6], mode, |_, _| {});
    assert_eq!(e.expect_err("refused").to_string(), "the model has no mlp 7");
}
