//! Head scores and ablations beside PyTorch, and beside whole reruns.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use refocus_compute::{Batch, Cpu, Eager, Isa, KvUse, Ops, RowSet, Vocab, VocabOut};
use refocus_model::{Applied, Checkpoint, Mode, Model, Plan, Readout, forward};
use refocus_study::overthinking::{
    Asked, At, Configuration, Half, HeadChoice, HeadId, How, Kind, Line, Means, Method, Pairs, Part, Request,
    Store, StudyError, TaskWork, Variant, Work, ablate, ablate_pairs, ablate_stored, ask, build, causal_map,
    heads_found, looks, observe, observe_stored, see, single_heads,
};
use refocus_tasks::classify::{Dataset, Setting, builtin};
use serde_json::{Map, Value};

const SMOLLM2: &str = "smollm2-135m-instruct.gguf";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking")
}

fn load(path: &Path) -> (Eager<Cpu>, Model<Cpu>) {
    let mut cpu = Cpu::new(Isa::detect(), 2);
    let m = Model::load(&Checkpoint::open(path).expect("opens"), &mut cpu).expect("loads");
    (Eager::new(cpu), m)
}

fn work(m: &Model<Cpu>) -> TaskWork {
    let work = Work::read(&fixture().join("prompts.jsonl"), &m.spec).expect("prompts");
    work.tasks.into_iter().next().expect("a task")
}

fn numbers(v: &Value) -> Vec<f64> {
    match v {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        v => vec![v.as_f64().expect("a number")],
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * b.abs().max(1.0)
}

/// `fixtures/overthinking_heads.py`: attention patterns and outputs of `transformers`, every ablation a whole
/// run with hooks.
#[test]
fn scores_and_ablations_are_those_of_pytorch() {
    let (mut o, m) = load(&fixture());
    let o = &mut o;
    let task = work(&m);
    let setting = task.settings.iter().find(|s| s.name == "permuted").expect("a setting");
    let text = std::fs::read_to_string(fixture().join("heads.json")).expect("a file");
    let want: Value = serde_json::from_str(&text).expect("JSON");
    let all: Vec<usize> = (0..setting.pairs.len()).collect();
    let mut compared = 0;
    for (kind, name) in [(Kind::True, "true"), (Kind::False, "false")] {
        let scores =
            observe(o, &m, &task, &looks(&task, setting, &all, kind), |_| {}).expect("runs").scores();
        assert_eq!(scores.len(), m.spec.n_layers * m.spec.n_heads);
        let want = &want["scores"][name];
        for s in &scores {
            let of = |v: &Value| v[s.id.layer][s.id.head].clone();
            let promoting = s.promoting.expect("pairs differ");
            assert_eq!(Some(promoting.n as u64), want["n"].as_u64());
            assert!(near(promoting.frozen, numbers(&of(&want["frozen"]))[0]), "{name} {s:?}");
            assert!(near(promoting.renormed, numbers(&of(&want["renormed"]))[0]), "{name} {s:?}");
            for (target, got) in [("label", &s.label), ("before_label", &s.before_label)] {
                for (what, got) in [
                    ("score", &got.score),
                    ("same", &got.same),
                    ("all", &got.all),
                    ("by_distance", &got.by_distance),
                ] {
                    let want = numbers(&of(&want[target][what]));
                    assert_eq!(got.len(), want.len());
                    for (a, b) in got.iter().zip(want) {
                        assert!((a - b).abs() < 1e-5, "{name} {target} {what} of {:?}: {a} is not {b}", s.id);
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, 2 * 6 * 2 * 4 * 3);

    let variants: Vec<Variant> = serde_json::from_value(want["variants"].clone()).expect("variants");
    let half = |from: usize| all.iter().copied().skip(from).step_by(2).collect::<Vec<usize>>();
    let others = [Kind::True, Kind::False].map(|kind| looks(&task, setting, &half(1), kind)).concat();
    let means = observe(o, &m, &task, &others, |_| {}).expect("runs").means();
    let got = ablate_pairs(o, &m, (&task, setting), &half(0), &variants, Some(&means), None, |_, _| {});
    let got = got.expect("runs");
    let (mut compared, mut moved) = (0, 0);
    for (pair, want) in want["ablated"].as_array().expect("pairs").iter().enumerate() {
        for (kind, a) in [&got.honest[pair], &got.wrong[pair]].into_iter().enumerate() {
            let rows = [&a.base].into_iter().chain(&a.variants);
            for (variant, row) in rows.enumerate() {
                let want = numbers(&want[kind][variant]);
                assert!(
                    row.iter().zip(&want).all(|(a, b)| near(f64::from(*a), *b)),
                    "pair {pair}: variant {variant} of {variants:?}: {row:?} is not {want:?}"
                );
                compared += row.len();
                moved += usize::from(*row != a.base);
            }
        }
    }
    assert_eq!(compared, 4 * 2 * (1 + variants.len()) * 3);
    assert_eq!(moved, 4 * 2 * variants.len(), "every variant changes the answer");
}

/// The labels' logits of a whole pass with the variant's changes.
fn rerun(o: &mut Eager<Cpu>, m: &Model<Cpu>, p: &Asked, ids: &[u32], v: &Variant, means: &Means) -> Vec<f32> {
    let batch = Batch::from_lengths([p.ids.len()]);
    let end = RowSet::new(vec![p.slots[p.slots.len() - 1]]);
    let readout = Readout::logits(&m.spec, Some(end), vec![Vocab::Ids(ids.into())]);
    let what = v.interventions(&m.spec, &p.slots, Some(means)).expect("changes");
    let applied: Vec<Applied> = what.into_iter().map(|w| Applied { what: Arc::new(w), segs: None }).collect();
    let plan = Plan::compile(&m.spec, &batch, &[readout], &applied, Mode::default()).expect("plan");
    let got = forward(o, m, &p.ids, &plan, KvUse::None).expect("runs");
    let Some([VocabOut::Values(t)]) = got[0].lens(0) else { panic!("no logits") };
    o.to_host(t).expect("values")
}

#[test]
fn cached_ablation_equals_whole_reruns_on_a_real_model() {
    let folders = std::env::var_os("REFOCUS_MODELS").unwrap_or_default();
    let Some(path) = std::env::split_paths(&folders).map(|f| f.join(SMOLLM2)).find(|p| p.is_file()) else {
        eprintln!("skipped: REFOCUS_MODELS names no folder with {SMOLLM2}");
        return;
    };
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let (mut o, m) = load(&path);
    let o = &mut o;
    let toy = builtin("unnatural").expect("a task");
    let data = Dataset::read(&toy, None).expect("rows");
    let request = Request { pairs: 10, demos: 3, context: 512, settings: vec![Setting::Permuted], seed: 3 };
    let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
    let built = build(&toy, &data, &tokenizer, checkpoint.spec(), &request).expect("prompts");
    let mut words: Vec<u32> = Vec::new();
    for class in &toy.classes {
        words.push(tokenizer.encode(&format!(" {}", class.word), false).expect("tokens").len() as u32);
    }
    assert!(words.iter().any(|n| *n > 1), "a word of several tokens: {words:?}");
    assert_eq!(built.lines[0].label_lens, Some(words));
    let lines: Vec<(usize, Line)> = built.lines.into_iter().enumerate().collect();
    let work = Work::new(Path::new("drawn"), &lines, &m.spec).expect("work");
    let task = &work.tasks[0];
    let setting = &task.settings[0];
    let one = |layer, head| HeadId { layer, head };
    let means =
        observe(o, &m, task, &looks(task, setting, &[0, 1], Kind::False), |_| {}).expect("runs").means();
    let variants = [
        Variant::heads(&[one(17, 4)], How::Zero, At::LastSlot),
        Variant::heads(&[one(3, 0), one(21, 8)], How::Mean, At::LastSlot),
        Variant::late_attention(25, m.spec.n_layers, How::Uniform),
        Variant::heads(&[one(12, 2)], How::Zero, At::EverySlot),
    ];
    let prompts: Vec<&Asked> = task.prompts.iter().collect();
    assert!(prompts.len() >= 20);
    let got = ablate(o, &m, &prompts, &task.label_ids, &variants, Some(&means), |_| {}).expect("runs");
    for (i, (p, got)) in prompts.iter().zip(&got).enumerate() {
        for (v, got) in variants.iter().zip(&got.variants) {
            let want = rerun(o, &m, p, &task.label_ids, v, &means);
            assert_eq!(*got, want, "prompt {i}, {v:?}");
        }
    }
}

#[test]
fn the_evidence_for_heads_is_their_controlled_score_and_is_kept() {
    let (mut o, m) = load(&fixture());
    let o = &mut o;
    let (task, method) = (work(&m), Method::correct());
    let setting = &task.settings[0];
    let answers = ask(o, &m, &task.prompts, &task.label_ids, &method, |_| {}).expect("runs");
    let pairs = Pairs { task: &task, setting, answers: &answers, alone: &[], method: &method };
    let dir = std::env::temp_dir().join(format!("refocus-found-{}", std::process::id()));
    let store = Store::open(&dir, &Configuration(Map::new())).expect("a folder");
    let seen = see(o, &m, &pairs, Half::Choosing, (&store, "choosing"), |_, _| {}).expect("runs");
    let choice = HeadChoice::of(&pairs, &seen, 2);
    assert_eq!((choice.heads.len(), choice.on), (2, "even pairs"));
    let mut found = |there: &mut usize| {
        let tick = |n, stored| *there += if stored { n } else { 0 };
        heads_found(o, &m, &pairs, &choice.heads, (&store, "found"), tick).expect("runs")
    };
    let mut there = 0;
    let first = found(&mut there);
    assert_eq!((first.values.len(), there), (setting.pairs.len() / 2, 0));
    assert_eq!((found(&mut there), there), (first.clone(), setting.pairs.len() / 2));
    // The same number as from sums over all prompts of the half.
    let half: Vec<usize> = (1..setting.pairs.len()).step_by(2).collect();
    let scores =
        observe(o, &m, &task, &looks(&task, setting, &half, Kind::False), |_| {}).expect("runs").scores();
    let of = |id: &HeadId| scores.iter().find(|s| s.id == *id).expect("a head").controlled;
    let want = choice.heads.iter().map(of).sum::<f64>() / 2.0;
    let got = first.values.iter().sum::<f64>() / first.values.len() as f64;
    assert!((got - want).abs() < 1e-9 && want.abs() > 1e-6, "{got} is not {want}");
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn what_cannot_be_ablated_is_refused() {
    let (mut o, m) = load(&fixture());
    let task = work(&m);
    let mut told = |parts, how| {
        let v = [Variant { parts, how, at: At::LastSlot }];
        let got = ablate(&mut o, &m, &[&task.prompts[0]], &task.label_ids, &v, None, |_| {});
        got.expect_err("refused").to_string()
    };
    let head = Part::Head(HeadId { layer: 1, head: 3 });
    assert_eq!(told(vec![head], How::Zero), "ablation: there is no head 1.3");
    assert_eq!(told(vec![Part::Attention(2)], How::Zero), "ablation: there is no block 2");
    assert_eq!(told(vec![Part::Mlp(1)], How::Uniform), "ablation: an MLP has no attention to make uniform");
    assert_eq!(told(vec![Part::Mlp(1)], How::Mean), "ablation: a mean is asked for, and none is given");
}

#[test]
fn a_stopped_map_goes_on_to_the_same_numbers() {
    let (mut o, m) = load(&fixture());
    let o = &mut o;
    let task = work(&m);
    let setting = &task.settings[0];
    let dir = std::env::temp_dir().join(format!("refocus-heads-{}", std::process::id()));
    let store = Store::open(&dir, &Configuration(Map::new())).expect("a folder");
    let means = |o: &mut Eager<Cpu>, from: usize| {
        let half: Vec<usize> = (from..setting.pairs.len()).step_by(2).collect();
        observe(o, &m, &task, &looks(&task, setting, &half, Kind::False), |_| {}).expect("runs").means()
    };
    let (even, odd) = (means(o, 0), means(o, 1));
    let mut there = Vec::new();
    let mut map = |o: &mut Eager<Cpu>, store| {
        there.push(0);
        let tick = |n, stored| *there.last_mut().expect("a run") += if stored { n } else { 0 };
        causal_map(o, &m, (&task, setting), [&even, &odd], store, tick).expect("a map")
    };
    let whole = map(o, None);
    let first = map(o, Some((&store, "map")));
    std::fs::remove_file(dir.join("blocks/map-odd-00000.bin")).expect("remove");
    let again = map(o, Some((&store, "map")));
    assert_eq!((&first, &again), (&whole, &whole));
    assert_eq!(there, [0, 0, setting.pairs.len()], "the first half was kept");
    assert_eq!(whole.len(), 2 * m.spec.n_layers * m.spec.n_heads);
    assert!(whole.iter().any(|c| c.on_false.logit_difference.is_some_and(|d| d.value.abs() > 1e-3)));
    // What was looked at before is taken up, and goes on to the same sums.
    let looks = looks(&task, setting, &[0, 1, 2, 3, 4, 5, 6, 7], Kind::False);
    let looked = |o: &mut Eager<Cpu>, tick: &mut dyn FnMut(usize, bool)| {
        observe_stored(o, &m, &task, &looks, (&store, "heads"), tick).expect("runs")
    };
    let first = looked(o, &mut |_, _| {});
    let mut there = 0;
    assert_eq!(looked(o, &mut |n, stored| there += if stored { n } else { 100 }), first);
    assert_eq!((there, first.scores()), (8, observe(o, &m, &task, &looks, |_| {}).expect("runs").scores()));
    // Blocks of other variants under the same name are not taken for these.
    let others = &single_heads(&m.spec)[..1];
    let got = ablate_stored(
        o,
        &m,
        &[&task.prompts[0]],
        &task.label_ids,
        others,
        None,
        (&store, "map-even"),
        |_, _| {},
    );
    assert!(matches!(got, Err(StudyError::Stored { .. })), "{got:?}");
    std::fs::remove_dir_all(&dir).expect("removed");
}
