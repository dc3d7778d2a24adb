//! Factual recall on a fixture: what the study makes of the measurements.

use std::path::Path;
use std::sync::Arc;

use refocus_compute::{Batch, Cpu, Eager, Isa, KvUse, Philox, Purpose, RowSet, Vocab, VocabOut};
use refocus_measure::recall::{Frequencies, Observed, Prompt, Unembedding, observe, partners, regressors};
use refocus_model::patch::Decode;
use refocus_model::{Action, Applied, Checkpoint, Mode, Model, Patch, Plan, Readout, forward};
use refocus_study::Verdict;
use refocus_study::overthinking::{Configuration, HeadId, Store};
use refocus_study::recall::inside::{self, Inside};
use refocus_study::recall::{heads, intercept, last, mitigate, mlp, price};
use refocus_tasks::recall::Form;

const FACTS: usize = 14;

struct Subject {
    m: Model<Cpu>,
    o: Eager<Cpu>,
    prompts: Vec<Prompt>,
    seen: Observed,
    u: Unembedding,
    partners: Vec<usize>,
    ways: heads::Ways,
}

/// Random prompts in three wordings on a random model.
fn subject(name: &str) -> Subject {
    subject_at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name))
}

fn subject_at(dir: &Path) -> Subject {
    let mut cpu = Cpu::new(Isa::detect(), 1);
    let m = Model::load(&Checkpoint::open(dir).expect("opens"), &mut cpu).expect("loads");
    let mut o = Eager::new(cpu);
    let rng = Philox::new(2, Purpose::new("test"));
    let id = |a: usize, b: usize| rng.at(0, a as u32, b as u32)[0] % m.spec.vocab as u32;
    let one = |(template, fact): (usize, usize)| {
        let mut ids: Vec<u32> = (0..4 + template).map(|i| id(template, i)).collect();
        ids[1] = id(8, fact);
        Prompt { ids, answer: id(9, fact), argument: Some(id(8, fact)), argument_at: 1, fact, template }
    };
    let prompts: Vec<Prompt> = (0..3).flat_map(|t| (0..FACTS).map(move |f| (t, f))).map(one).collect();
    let seen = observe(&mut o, &m, &prompts, |_| {}).expect("observes");
    let u = Unembedding::of(&mut o, &m, &prompts).expect("reads");
    let partners = partners(&prompts, 1).expect("partners");
    let ways = heads::Ways::of(&mut o, &m, &prompts, (&seen, &u), &partners, |_, _| {}).expect("patches");
    Subject { m, o, prompts, seen, u, partners, ways }
}

#[test]
fn heads_are_chosen_on_one_half_and_judged_on_the_other() {
    let mut s = subject("gpt2");
    let table = heads::summarise(&s.prompts, &s.ways, 1);
    assert_eq!(table.len(), s.ways.paths.senders.len());
    // What heads give differs by the way in which they are replaced.
    let differs = |of: fn(&heads::SenderEffect) -> f64| {
        table.iter().any(|e| (of(e) - e.ratio_of_means.value).abs() > 1e-3)
    };
    assert!(differs(|e| e.resampled.value) && differs(|e| e.zero.value) && differs(|e| e.mean.value));
    assert!(table.iter().all(|e| e.ratio_of_means.n == FACTS && e.argument.is_some()));
    let (seen, paths) = ((&s.seen, &s.u), &s.ways.paths);
    let evens: Vec<usize> = (0..s.prompts.len()).filter(|&i| s.prompts[i].fact.is_multiple_of(2)).collect();
    let chosen = heads::top_heads(paths, &evens, heads::CHOSEN);
    let found =
        heads::passers(&mut s.o, &s.m, &s.prompts, seen, paths, &s.partners, &chosen, 1).expect("looks");
    assert_eq!(found.len(), heads::CHOSEN);
    assert!(found.iter().all(|p| p.attention.n == FACTS / 2 && p.ov.is_some()));
    assert!(found.iter().all(|p| p.p_shuffled.is_some_and(|p| (0.0..=1.0).contains(&p))));
    // Seven facts are fewer than twelve.
    let judged = heads::judge_passing(&s.prompts, &found, s.m.spec.n_layers);
    assert_eq!((judged.id.as_ref(), judged.verdict, judged.n), ("C1", Verdict::CannotBeTested, FACTS / 2));
    assert_eq!(judged.why, "7 facts to measure on, 12 are needed");
}

#[test]
fn a_regression_is_judged_on_facts_left_out() {
    for name in ["gpt2", "neox", "opt-350m"] {
        let mut s = subject(name);
        for at in [(1, false), (1, true)] {
            let fit = mlp::layer_fit(&mut s.o, &s.m, &s.prompts, &s.seen, &s.partners, at, 1).expect("fits");
            assert!(fit.r2_intercept <= 0.0 && fit.r2_templates.is_some(), "{name}: {fit:?}");
            assert!(fit.weights.iter().any(|w| w.is_head && w.weight.is_some()), "{name}");
            let judged = mlp::judge_regression(&fit);
            assert_eq!((judged.id.as_ref(), judged.n), ("C4", FACTS), "{name}");
        }
        let found =
            intercept::intercept(&mut s.o, &s.m, &s.prompts, (&s.seen, &s.u), (1, false), 1).expect("tests");
        assert_eq!(
            intercept::judge_intercept(&found).verdict,
            Verdict::CannotBeTested,
            "{name}: seven facts"
        );
        let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        let b = [3.0, -1.0, 2.0];
        assert!((length(&intercept::random_vector(&b, 4)) - length(&b)).abs() < 1e-5);
    }
}

#[test]
fn an_mlp_that_is_a_regression_is_found_to_be_one() {
    // Its output becomes three times one head's, less half of another's, and a vector that all prompts share.
    let mut s = subject("gpt2");
    let parts = regressors(&mut s.o, &s.m, &s.seen, 1, false).expect("parts");
    let heads: Vec<&[f32]> = parts.iter().take(2).map(|p| p.1.as_slice()).collect();
    let d = s.m.spec.d_model;
    let made = |i: usize| 3.0 * heads[0][i] - 0.5 * heads[1][i] + 0.1 * (i % d) as f32;
    s.seen.blocks[1].mlp_out = (0..heads[0].len()).map(made).collect();
    let at = (1, false);
    let fit = mlp::layer_fit(&mut s.o, &s.m, &s.prompts, &s.seen, &s.partners, at, 1).expect("fits");
    assert!(fit.r2.low > 0.9 && fit.r2_templates.is_some_and(|r| r > 0.9), "{fit:?}");
    assert!(fit.r2_permuted < 0.5 && fit.r2_intercept <= 0.0, "{fit:?}");
    let weight = |i: usize| fit.weights[i].weight.expect("a head that differs").value;
    assert!((weight(0) - 3.0).abs() < 0.3 && (weight(1) + 0.5).abs() < 0.3, "{:?}", fit.weights);
}

#[test]
fn stages_are_kept_and_read_to_the_same_bytes() {
    let Subject { m, mut o, prompts, .. } = subject("gpt2");
    let o = &mut o;
    let dir = std::env::temp_dir().join(format!("refocus-recall-inside-{}", std::process::id()));
    let store = Store::open(&dir, &Configuration(serde_json::Map::new())).expect("a folder");
    let stage = store.stage("heads").expect("a folder");
    let new = || Inside::new("a relation", Form::Open, prompts.clone(), 1);
    let mut ticks = 0;
    let (first, there) = new().heads(o, &m, &[], &stage, |_, _| ticks += 1).expect("looks");
    assert!(!there && ticks > 0 && first.senders.len() == 2 * (m.spec.n_heads + 1));
    assert_eq!((first.function, first.claims.len()), (0, 2));
    let (again, there) = new().heads(o, &m, &[], &stage, |_, _| panic!("it was done")).expect("reads");
    let text = |f: &inside::HeadsFound| serde_json::to_string(f).expect("JSON");
    assert!(there && text(&first) == text(&again));
    // Other prompts are another stage, and take its place.
    let fewer = prompts[..2 * FACTS].to_vec();
    let mut fewer = Inside::new("a relation", Form::Open, fewer, 1);
    assert!(!fewer.heads(o, &m, &[], &stage, |_, _| {}).expect("looks").1);
    assert!(!new().heads(o, &m, &[], &stage, |_, _| {}).expect("looks").1);

    let stage = store.stage("mlp").expect("a folder");
    let (found, _) = new().mlp(o, &m, first.function, &stage).expect("fits");
    let ids: Vec<&str> = found.claims.iter().map(|j| j.id.as_ref()).collect();
    assert_eq!((found.fits.len(), &ids[..]), (3, &["C3", "C4", "C5"][..]));
    let claim = found.claims[0].about("a relation", Form::Open);
    assert_eq!((claim.facts, claim.relation.as_deref()), (FACTS, Some("a relation")));

    let path = dir.join("mlp/a-relation-open.kept");
    let damaged = std::fs::read_to_string(&path).expect("kept").replace("0.", "1.");
    std::fs::write(&path, damaged).expect("written");
    let e = new().mlp(o, &m, first.function, &stage).expect_err("refused").to_string();
    assert!(e.ends_with("it is damaged; remove the file, and its stage is run again"), "{e}");

    let stage = store.stage("shots").expect("a folder");
    let longer = |p: &Prompt| {
        let ids = [&[7, 8, 9], &p.ids[..]].concat();
        Prompt { ids, argument_at: p.argument_at + 3, ..p.clone() }
    };
    let with = [
        (1, prompts.iter().map(longer).collect::<Vec<_>>()),
        (2, prompts.iter().filter(|p| p.fact < 11).cloned().collect()),
    ];
    let with = (first.function, &with[..]);
    let (found, _) = new().shots(o, &m, with, &stage, |_, _| {}).expect("looks");
    // Eleven facts are too few.
    assert_eq!(found.at.iter().map(|a| a.shots).collect::<Vec<_>>(), [0, 1]);
    let none = &found.at[0];
    assert!((none.correlation.value - 1.0).abs() < 1e-9 && none.kept == heads::CHOSEN);
    assert!(none.cosine.is_some_and(|c| (c - 1.0).abs() < 1e-6));
    assert!(found.at[1].correlation.value < 1.0 && found.at[1].cosine.is_some_and(|c| c < 1.0));
    assert_eq!((found.claims[0].id.as_ref(), found.claims[0].n), ("C7c", FACTS));
    let why = &found.claims[0].why;
    assert!(why.ends_with("; k = 2 left out: fewer than 12 facts"), "{why}");
    assert!(new().shots(o, &m, with, &stage, |_, _| panic!("it was done")).expect("reads").1);

    let stage = store.stage("swap").expect("a folder");
    let mut same = Inside::new("the same", Form::Open, prompts.clone(), 1);
    let answers: Vec<Option<u32>> = prompts.iter().map(|p| (p.fact < 7).then_some(p.answer)).collect();
    let facts: Vec<Option<usize>> = prompts.iter().map(|p| Some(p.fact)).collect();
    let other = (&mut same, &answers[..], &facts[..]);
    let (found, _) = new().swap(o, &m, first.function, other, &stage).expect("swaps");
    // Its own intercept in its place changes nothing.
    assert_eq!((found.swapped.own.value, found.swapped.random.value), (0.0, 0.0));
    let half = prompts.iter().filter(|p| p.fact % 2 == 1 && p.fact < 7).count();
    assert_eq!((found.with.as_str(), found.shared), ("the same", half));
    let moved = prompts.iter().map(|p| Prompt { ids: [&[3], &p.ids[..]].concat(), ..p.clone() });
    let mut moved = Inside::new("another", Form::Open, moved.collect(), 1);
    let other = (&mut moved, &answers[..], &facts[..]);
    let (found, there) = new().swap(o, &m, first.function, other, &stage).expect("swaps");
    assert!(!there && found.swapped.own.value != 0.0 && found.swapped.random.value != 0.0);
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn last_blocks_are_told_by_bin() {
    let mut s = subject("llama3");
    let text: Vec<u32> = (0..400u32).map(|i| i * i % s.m.spec.vocab as u32).collect();
    let f = Frequencies::of(&text, s.m.spec.vocab);
    let Ok(f) = f else { panic!("{f:?}") };
    let found = last::last_blocks(&mut s.o, &s.m, &s.prompts, &s.seen, &f, 1).expect("looks");
    assert_eq!(found[0].bin, "all");
    assert_eq!(found[1..].iter().map(|b| b.prompts).sum::<usize>(), s.prompts.len());
    let b = &found[0];
    let parts = b.by_attention.expect("serial").value + b.by_mlp.expect("serial").value;
    let first = b.prob[1].value - b.prob[0].value;
    assert!((first + parts - b.change.value).abs() < 1e-9);
    let b = vec![1.0; s.m.spec.d_model];
    let all = last::alignments(&mut s.o, &s.m, &b, &b, &f).expect("looks");
    assert_eq!((all.len(), all[0].frequency), (2, all[1].frequency));
    let chance = last::by_chance(&mut s.o, &s.m, &f, 1).expect("draws");
    assert!(-1.0 <= chance.0 && chance.0 < 0.0 && 0.0 < chance.1 && chance.1 <= 1.0, "{chance:?}");
    assert_eq!(last::judge_heads(&found[0], chance).n, FACTS);
    assert_eq!(last::judge_intercept(&all, (-0.1, 2.0), FACTS).verdict, Verdict::DoesNotHold);
    assert_eq!(last::judge_intercept(&all, (-0.1, -2.0), FACTS).verdict, Verdict::Conditional);
}

/// The fixture's first block as a model.
fn one_block(dir: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gpt2");
    std::fs::create_dir_all(dir).expect("a folder");
    let config = std::fs::read_to_string(from.join("config.json")).expect("read");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["n_layer"] = 1.into();
    std::fs::write(dir.join("config.json"), config.to_string()).expect("written");
    let bytes = std::fs::read(from.join("model.safetensors")).expect("read");
    let all = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let own = all.tensors().into_iter().filter(|(name, _)| !name.contains("h.1."));
    let bytes = safetensors::serialize(own, None).expect("tensors");
    std::fs::write(dir.join("model.safetensors"), bytes).expect("written");
}

#[test]
fn a_model_of_one_block_has_a_last_block() {
    let dir = std::env::temp_dir().join(format!("refocus-recall-one-{}", std::process::id()));
    one_block(&dir);
    let Subject { m, mut o, prompts, seen, .. } = subject_at(&dir);
    let text: Vec<u32> = (0..400u32).map(|i| i * i % m.spec.vocab as u32).collect();
    let f = Frequencies::of(&text, m.spec.vocab).expect("counts");
    let found = last::last_blocks(&mut o, &m, &prompts, &seen, &f, 1).expect("looks");
    let all = &found[0];
    // Before the block, after its attention, after it.
    assert_eq!((all.prob.len(), all.heads.len()), (3, m.spec.n_heads));
    let parts = all.by_attention.expect("serial").value + all.by_mlp.expect("serial").value;
    assert!((parts - all.change.value).abs() < 1e-9 && all.change.value != 0.0);

    let store = Store::open(&dir.join("run"), &Configuration(serde_json::Map::new())).expect("a folder");
    let new = || Inside::new("a relation", Form::Open, prompts.clone(), 1);
    let heads = store.stage("heads").expect("a folder");
    let (heads, _) = new().heads(&mut o, &m, &[], &heads, |_, _| {}).expect("looks");
    let stage = store.stage("mlp").expect("a folder");
    let (found, _) = new().mlp(&mut o, &m, heads.function, &stage).expect("fits");
    assert_eq!((heads.function, found.fits.len()), (0, 3));
    std::fs::remove_dir_all(&dir).expect("removed");
}

/// What the prompts' answers get in a whole run with some changes.
fn whole(s: &mut Subject, which: &[Prompt], applied: &[Applied]) -> Vec<f64> {
    let mut out = Vec::new();
    for p in which {
        let batch = Batch::from_lengths([p.ids.len()]);
        let end = RowSet::new(vec![p.ids.len() as u32 - 1]);
        let want = [Readout::logits(&s.m.spec, Some(end), vec![Vocab::Nll([p.answer].into())])];
        let plan = Plan::compile(&s.m.spec, &batch, &want, applied, Mode::default()).expect("plans");
        let got = forward(&mut s.o, &s.m, &p.ids, &plan, KvUse::None).expect("runs");
        let Some([VocabOut::Values(t)]) = got[0].lens(0) else { panic!("no logits") };
        out.push(f64::from(-t.as_slice()[0]).exp());
    }
    out
}

#[test]
fn repairs_are_measured_as_whole_runs_and_written_as_patches() {
    let mut s = subject("gpt2");
    let spec = s.m.spec.clone();
    let all: Vec<usize> = (0..s.prompts.len()).collect();
    let found = mitigate::suppressing_heads(&s.ways.paths, &spec, &all);
    assert!(found.iter().all(|h| h.layer == 1));
    let chosen = [HeadId { layer: 1, head: 2 }];
    let means: Vec<_> = chosen.iter().map(|&h| mitigate::head_mean(&spec, &s.seen, h, &all)).collect();
    let text: Vec<u32> = (0..300u32).map(|i| i * 7 % spec.vocab as u32).collect();
    let frequencies = Frequencies::of(&text, spec.vocab).expect("counts");
    let generic = price::generic_mean(&mut s.o, &s.m, &text[..20]).expect("runs");
    let intercept: Arc<[f32]> =
        intercept::intercept_of(&mut s.o, &s.m, &s.prompts, &s.seen, (1, true), &all).expect("fits");
    let parts = mitigate::Parts {
        heads: &chosen,
        head_means: &means,
        intercept: &intercept,
        generic: &generic,
        frequencies: &frequencies,
    };
    let repairs = mitigate::repairs(&spec, &parts, 1);
    let names: Vec<&str> = repairs.iter().map(|r| r.name.as_str()).collect();
    assert!(names.contains(&"heads_first") && names.contains(&"both_0.5") && names.contains(&"unigram_0.25"));
    let paid = price::Text { ids: &text[..40], function_words: &[7, 14] };
    let found = price::measure(&mut s.o, &s.m, &s.prompts, &paid, &repairs, 1, |_, _| {}).expect("measures");
    assert_eq!((found[0].name.as_str(), found[0].gain.value, found[0].p_gain), ("none", 0.0, 1.0));
    let prompts = s.prompts.clone();
    for (repair, found) in repairs.iter().zip(&found).filter(|(r, _)| r.decode.is_empty()) {
        let applied: Vec<Applied> =
            repair.interventions.iter().map(|i| Applied { what: Arc::new(i.clone()), segs: None }).collect();
        let want = whole(&mut s, &prompts, &applied);
        let mean = want.iter().sum::<f64>() / want.len() as f64;
        assert!((found.prob.value - mean).abs() < 1e-6, "{}: {} {mean}", repair.name, found.prob.value);
    }
    // A temperature that gives as much entropy gives it.
    for hot in found.iter().filter(|f| f.name.starts_with("temperature_")) {
        let of = found.iter().find(|f| hot.name == format!("temperature_{}", f.name)).expect("its repair");
        assert!((hot.entropy - of.entropy).abs() < 1e-3 && hot.is_control, "{}", hot.name);
    }
    let judged = price::judge(&s.prompts, &found, 1);
    assert_eq!((judged.id.as_ref(), judged.n), ("C9", FACTS));

    let dir = std::env::temp_dir().join(format!("refocus-recall-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    for repair in &repairs[1..] {
        let file = repair.patch(&format!("sha256:{}", "0".repeat(64)), "vectors.safetensors");
        write_vectors(&dir.join("vectors.safetensors"), &file.vectors);
        let patch = Patch::parse(&file.text, &dir.join("p.toml"), &spec)
            .unwrap_or_else(|e| panic!("{}: {e}\n{}", repair.name, file.text));
        assert_eq!(patch.interventions, repair.interventions, "{}", repair.name);
        assert_eq!(patch.decode, repair.decode, "{}", repair.name);
    }
    std::fs::remove_dir_all(&dir).expect("removed");
    assert!(repairs.iter().any(|r| matches!(r.decode.first(), Some(Decode::UnigramPrior { .. }))));
    assert!(repairs.iter().flat_map(|r| &r.interventions).any(|i| matches!(i.action, Action::BlockEdge(_))));
}

/// Tensors of one dimension, as the format has them: the header's length, the header, the numbers.
fn write_vectors(path: &Path, vectors: &[(String, Arc<[f32]>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, v) in vectors {
        let start = data.len();
        data.extend(v.iter().flat_map(|x| x.to_le_bytes()));
        let tensor =
            serde_json::json!({"dtype": "F32", "shape": [v.len()], "data_offsets": [start, data.len()]});
        header.insert(name.clone(), tensor);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(path, bytes).expect("written");
}
