//! A model whose weights were set by hand: head 1.2 carries the argument to the last token and already writes a little
//! of the answer, the MLP of block 1 amplifies what it writes and promotes every answer, and the MLP of block 2 lowers
//! them all in favour of the most frequent word. The analysis has to find all three.

use refocus_compute::{Activation, Cpu, Eager, Isa, NormKind, Philox, Purpose};
use refocus_measure::correlation::cosine;
use refocus_measure::recall::{
    Component, Frequencies, HeadAt, Instead, Moments, Prompt, Rest, Sender, Unembedding, effects, fidelity,
    lens, movers, nudged, observe, ov_ranks, partners, regressors, senders,
};
use refocus_model::{Family, Model, ModelSpec, Params, Part, Positions, Which, Wiring};

/// Facts.
const K: usize = 16;
const LAYERS: usize = 3;
const HEADS: usize = 4;
const MLP: usize = 4 * K;
/// Where the residual stream holds: who the argument is, the argument moved, the answer, and single marks.
const IS: usize = 0;
const MOVED: usize = K;
const ANSWER: usize = 2 * K;
const ARGUMENT_MARK: usize = 3 * K;
const END_MARK: usize = 3 * K + 1;
const THE: usize = 3 * K + 2;
const WORDS: usize = 3 * K + 3;
const D: usize = WORDS + 6;
/// Ids: arguments, answers, six words, the last token, the frequent word.
const VOCAB: usize = 2 * K + 8;
const END_ID: usize = 2 * K + 6;
const THE_ID: usize = 2 * K + 7;
/// How far the function MLP amplifies, and how far it promotes the class.
const GAIN: f32 = 1.5;
const CLASS: f32 = 2.0;

fn planted() -> Params {
    let spec = ModelSpec {
        family: Family::Refocus,
        n_layers: LAYERS,
        d_model: D,
        d_embed: D,
        n_heads: HEADS,
        n_kv_heads: HEADS,
        d_head: K,
        d_mlp: MLP,
        vocab: VOCAB,
        n_ctx: 16,
        wiring: Wiring::PreNorm,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        block_norms: false,
        final_norm: false,
        positions: Positions::None,
        attn_scale: vec![1.0; LAYERS],
        window: vec![None; LAYERS],
        qk_norm: false,
        act: Activation::Relu,
        gated_mlp: false,
        tied: false,
        bos: None,
        eos: Vec::new(),
    };
    let rng = Philox::new(3, Purpose::new("planted"));
    let noise = |n: usize, part: u32, layer: usize| -> Vec<f32> {
        let one = |i: usize| {
            (f64::from(rng.at(part, layer as u32, i as u32)[0]) / f64::from(u32::MAX) - 0.5) as f32
        };
        (0..n).map(|i| 0.06 * one(i)).collect()
    };
    let mut p = Params::new(spec);
    let mut embed = vec![0.0; VOCAB * D];
    let mut unembed = vec![0.0; VOCAB * D];
    for i in 0..K {
        embed[i * D + IS + i] = 1.0;
        embed[i * D + ARGUMENT_MARK] = 1.0;
        unembed[i * D + MOVED + i] = 1.0;
        unembed[(K + i) * D + ANSWER + i] = 1.0;
    }
    for w in 0..6 {
        embed[(2 * K + w) * D + WORDS + w] = 1.0;
        unembed[(2 * K + w) * D + WORDS + w] = 1.0;
    }
    embed[END_ID * D + END_MARK] = 1.0;
    unembed[THE_ID * D + THE] = 1.0;
    p.insert(Part::Embed, 0, Which::Weight, embed).expect("fits");
    p.insert(Part::Unembed, 0, Which::Weight, unembed).expect("fits");
    for layer in 0..LAYERS {
        let mut all =
            [Part::Q, Part::K, Part::V, Part::O].map(|part| noise(HEADS * K * D, part as u32, layer));
        let mut up = noise(MLP * D, 20, layer);
        let mut down = noise(MLP * D, 21, layer);
        let mut bias = vec![0.0; D];
        if layer == 1 {
            let first = 2 * K;
            for m in &mut all[..3] {
                m[first * D..(first + K) * D].fill(0.0);
            }
            all[0][first * D + END_MARK] = 3.0;
            all[1][first * D + ARGUMENT_MARK] = 1.0;
            all[3].chunks_exact_mut(HEADS * K).for_each(|row| row[first..first + K].fill(0.0));
            for i in 0..K {
                all[2][(first + i) * D + IS + i] = 1.0;
                all[3][(MOVED + i) * HEADS * K + first + i] = 1.0;
                all[3][(ANSWER + i) * HEADS * K + first + i] = 0.5;
            }
            // Pairs of neurons carry a number through the activation unchanged.
            (up, down) = (vec![0.0; MLP * D], vec![0.0; MLP * D]);
            for (pair, at) in (MOVED..MOVED + 2 * K).enumerate() {
                for (neuron, sign) in [(2 * pair, 1.0), (2 * pair + 1, -1.0)] {
                    up[neuron * D + at] = sign;
                    down[at * MLP + neuron] = sign * GAIN;
                }
            }
            bias[MOVED..MOVED + K].fill(-CLASS);
            bias[ANSWER..ANSWER + K].fill(CLASS);
        }
        if layer == 2 {
            bias[THE] = 4.0;
            bias[ANSWER..ANSWER + K].fill(-1.0);
        }
        for (part, values) in [Part::Q, Part::K, Part::V, Part::O].into_iter().zip(all) {
            p.insert(part, layer, Which::Weight, values).expect("fits");
        }
        p.insert(Part::Up, layer, Which::Weight, up).expect("fits");
        p.insert(Part::Down, layer, Which::Weight, down).expect("fits");
        p.insert(Part::Down, layer, Which::Bias, bias).expect("fits");
    }
    p
}

/// Every fact in three wordings.
fn prompts() -> Vec<Prompt> {
    let word = |w: usize| (2 * K + w) as u32;
    let one = |(template, fact): (usize, usize)| {
        let (x, end) = (fact as u32, END_ID as u32);
        let (ids, argument_at) = match template {
            0 => (vec![word(0), word(1), x, end], 2),
            1 => (vec![word(2), word(3), word(4), x, word(5), word(1), end], 3),
            _ => (vec![x, word(3), end], 0),
        };
        Prompt { ids, answer: (K + fact) as u32, argument: Some(x), argument_at, fact, template }
    };
    (0..3).flat_map(|t| (0..K).map(move |f| (t, f))).map(one).collect()
}

#[test]
fn the_planted_mover_function_and_suppressor_are_found() {
    let (params, prompts) = (planted(), prompts());
    let mut cpu = Cpu::new(Isa::detect(), 2);
    let m = Model::from_params(params.spec(), &mut cpu, &params).expect("a model");
    let mut o = Eager::new(cpu);
    let seen = observe(&mut o, &m, &prompts, |_| {}).expect("observes");
    let u = Unembedding::of(&mut o, &m, &prompts).expect("reads");
    let with = partners(&prompts, 1).expect("partners");

    // The mover: the head that matters most, which attends to the argument and writes it as it attends.
    let all = senders(&m.spec);
    let mode = (Instead::Mean, Rest::Frozen);
    let paths = effects(&mut o, &m, &prompts, (&seen, &u), &all, &with, mode, |_, _| {}).expect("patches");
    let change = |i: usize| {
        let pairs = paths.base.iter().zip(&paths.changed[i]);
        pairs.map(|(a, b)| b.pi() - a.pi()).sum::<f64>() / prompts.len() as f64
    };
    let best = |of: &dyn Fn(&Sender) -> bool| {
        (0..all.len()).filter(|&i| of(&all[i])).min_by(|&a, &b| change(a).total_cmp(&change(b))).expect("one")
    };
    let head = best(&|s| matches!(s, Sender::Head { .. }));
    assert_eq!(all[head], Sender::Head { layer: 1, head: 2 });
    let mover = &movers(&mut o, &m, &prompts, &seen, &u).expect("movers")[HEADS + 2];
    assert!(mover.attention.iter().all(|a| *a > 0.5) && mover.r.expect("varies") > 0.95, "{:?}", mover.r);
    let ov = ov_ranks(&mut o, &m, &prompts, &[HeadAt { layer: 1, head: 2 }], &with).expect("ranks");
    assert!(ov[0].argument.iter().all(|r| *r == Some(0)) && ov[0].answer.iter().all(|r| *r == 1));

    // The function: the MLP that matters most amplifies the mover by its gain and promotes the class.
    let mlp = best(&|s| matches!(s, Sender::Mlp(_)));
    assert_eq!(all[mlp], Sender::Mlp(1));
    let parts = regressors(&mut o, &m, &seen, 1, false).expect("regressors");
    let rows: Vec<&[f32]> = parts.iter().map(|p| p.1.as_slice()).collect();
    let fit_of = |rows: &[&[f32]], layer: usize| {
        let target = &seen.blocks[layer].mlp_out;
        let moments = Moments::of(rows, target, prompts.iter().map(|p| p.fact)).expect("sums");
        let fit = moments.fit(&moments.without(|_| false), 1e-6).expect("fits");
        (moments, fit)
    };
    let (moments, fit) = fit_of(&rows, 1);
    let at = parts.iter().position(|p| p.0 == Component::Head { layer: 1, head: 2 }).expect("the mover");
    assert!((fit.weights[at] - f64::from(GAIN)).abs() < 0.02, "{:?}", fit.weights);
    let folds = moments.folds(8, 1e-6).expect("fits");
    let errors: f64 = (0..K).map(|k| moments.errors(&folds[k % 8])[k]).sum();
    let total: f64 = moments.totals().iter().map(|t| t.0).sum();
    assert!(errors < 0.05 * total, "R² {}", 1.0 - errors / total);
    let towards = u.direction_between(&mut o, &m, &prompts).expect("reads").expect("one space");
    assert!(cosine(&fit.intercept, &towards).expect("an angle") > 0.99);

    // The suppressor: the last MLP takes the answer's place away for the frequent word, all by its intercept.
    let before = lens(&mut o, &m, &prompts, &seen.blocks[2].mlp_in).expect("reads");
    let after = lens(&mut o, &m, &prompts, &seen.resid_post).expect("reads");
    assert!(before.iter().zip(&after).all(|(b, a)| b.1 == 0 && a.1 == 1 && a.0 < 0.5 * b.0));
    let parts = regressors(&mut o, &m, &seen, 2, true).expect("regressors");
    let rows: Vec<&[f32]> = parts.iter().map(|p| p.1.as_slice()).collect();
    let (_, fit) = fit_of(&rows, 2);
    let less: Vec<f32> = fit.intercept.iter().map(|b| -b as f32).collect();
    let repaired = fidelity(&mut o, &m, &prompts, &seen, 2, &nudged(&seen, 2, &less)).expect("runs");
    assert!(repaired.iter().all(|f| f.rank == [1, 0] && f.prob[1] > 2.0 * f.prob[0]));
    let mut text: Vec<u32> =
        (0..VOCAB as u32).flat_map(|id| vec![id; if id < K as u32 { 2 } else { 1 }]).collect();
    text.extend([THE_ID as u32; 90]);
    let often = Frequencies::of(&text, VOCAB).expect("counts");
    let b: Vec<f32> = fit.intercept.iter().map(|b| *b as f32).collect();
    let [_, removed] = often.alignment(&mut o, &m, &b).expect("reads");
    assert!(
        removed.expect("an angle") > 0.7
            && often.correlation(&mut o, &m, &b).expect("reads").expect("ρ") > 0.3
    );
}
