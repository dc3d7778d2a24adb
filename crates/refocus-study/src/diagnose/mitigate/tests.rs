use std::path::Path;

use refocus_compute::{Cpu, Eager, Isa};
use refocus_model::{ChatTemplate, Checkpoint};

use super::super::Toy;
use super::*;

/// A tiny random model that has a chat template, and room for a judge's prompts.
fn chatty() -> Checkpoint {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
    let folder = std::env::temp_dir().join(format!("refocus-rewriting-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(name), folder.join(name)).expect("copy");
    }
    let config = std::fs::read_to_string(from.join("config.json")).expect("config");
    let config = config.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 4000");
    std::fs::write(folder.join("config.json"), config).expect("write");
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    std::fs::write(folder.join("chat_template.jinja"), template).expect("write");
    Checkpoint::open(&folder).expect("opens")
}

#[test]
fn a_rewriting_is_measured_where_it_acts_and_named_where_it_cannot() {
    let toy = Toy::of(chatty());
    let Toy { checkpoint, tokenizer, .. } = &toy;
    let template = ChatTemplate::of(checkpoint, tokenizer).expect("readable").expect("a template");
    let mut cpu = Cpu::new(Isa::detect(), 1);
    let m = &Model::load(checkpoint, &mut cpu).expect("loads");
    std::fs::remove_dir_all(checkpoint.path()).expect("removed");
    let o = &mut Eager::new(cpu);
    let subject = Subject { template: Some(&template), ..toy.subject() };
    let texts = distractors::texts(subject, 8).expect("texts");
    let [even, odd] = Texts::judge(o, m, tokenizer, &template, texts).halves();
    let cases = distractors::cases(subject, 8).expect("cases");
    let half = |from: usize| cases.part((from..8).step_by(2));
    let choose = Half::new(o, m, half(0), Some(even)).expect("a half");
    let report = Half::new(o, m, half(1), Some(odd)).expect("a half");
    let swayed = Bench { choose, report, before: 0.0, slips: false };
    let bits = flipflop::cases(subject, 8).expect("cases");
    let choose = Half::new(o, m, bits.part(0..4), None).expect("a half");
    let report = Half::new(o, m, bits.part(4..8), None).expect("a half");
    let benches = [Bench { choose, report, before: 0.0, slips: false }, swayed];

    let rewriting = "[rewrite]\nvariant = \"scored\"\nthreshold = 1000\n";
    let pieces = [vec![1, 2, 3, 4]];
    let patch = parse(rewriting, m).expect("a patch");
    let (changes, untouched) = measured(o, m, &benches, &pieces, &patch, 0).expect("measured");
    let [main, side] = benches[1].report.cases.names();
    let names: Vec<&str> = changes.iter().map(|c| c.what.as_str()).collect();
    assert_eq!(names, [main, side, TOLD]);
    assert!(changes.iter().all(|c| c.probe == Some(Probe::Distractors) && c.change.n == 4));
    // Without any sentence both are the bare question; and where it told the answer, the other one is right.
    let after = |i: usize| changes[i].after.value;
    assert_eq!((after(0), after(2)), (after(1), 1.0 - after(0)));
    let of = |probe, what: &str| Untouched { probe, what: what.to_owned() };
    assert_eq!(untouched, [of(Some(Probe::Flipflop), "wrong bits"), of(None, NATS)]);
    let price = taken(&benches, &patch).expect("counted").expect("it rewrites");
    assert_eq!((price.texts, price.applied), (12, 12));
    assert!(price.tokens > 100.0, "{price:?}");

    // With another entry all is measured.
    let more = format!("[[intervention]]\nat = \"blocks.*.attn.hook_z\"\ndo = \"zero\"\n\n{rewriting}");
    let patch = parse(&more, m).expect("a patch");
    let (changes, untouched) = measured(o, m, &benches, &pieces, &patch, 0).expect("measured");
    assert_eq!((changes.len(), untouched), (5, Vec::new()));
    let patch = parse("[[decode]]\ndo = \"temperature\"\nfactor = 2\n", m).expect("a patch");
    assert_eq!(taken(&benches, &patch).expect("counted"), None);
}

#[test]
fn the_best_patch_is_the_one_that_lowers_the_harm_of_all_probes() {
    let toy = Toy::new();
    let mut cpu = Cpu::new(Isa::detect(), 1);
    let m = &Model::load(&toy.checkpoint, &mut cpu).expect("loads");
    let o = &mut Eager::new(cpu);
    let subject = toy.subject();
    let mut benches = Vec::new();
    for cases in [flipflop::cases(subject, 32), distractors::cases(subject, 16)] {
        let cases = cases.expect("cases");
        let before = cases.harm(&say(o, m, &cases.prompts, &[]).expect("answers")).total();
        let half = |cases| Half { cases, texts: None, told: Vec::new() };
        benches.push(Bench { choose: half(cases.clone()), report: half(cases), before, slips: true });
    }
    let text = [vec![1, 2, 3, 4]];
    let mut chosen = 0;
    for b in &benches {
        // Text may cost what it will.
        let mut search = Search {
            o,
            m,
            benches: &benches,
            text: &text,
            plain: 100.0,
            tried: Vec::new(),
            gains: HashMap::new(),
            costs: HashMap::new(),
        };
        let best = search.best_of(b, &mut |_| ()).expect("searched");
        let tried = std::mem::take(&mut search.tried);
        assert!(tried.iter().any(|t| t.gain > LEAST), "this model changes its mind: {tried:?}");
        assert!(tried.iter().all(|t| t.gain_of_all.is_none() || t.gain > LEAST));
        let most = tried.iter().filter_map(|t| t.gain_of_all).fold(LEAST, f64::max);
        let Some((gain, candidate)) = best else {
            assert!(most <= LEAST);
            continue;
        };
        chosen += 1;
        let patch = parse(&candidate.body, m).expect("a patch");
        // Not by what the search remembers.
        let total = |b: &Bench<'_>| b.before - b.choose.total(search.o, m, &patch).expect("measured");
        let all: f64 = benches.iter().map(total).sum();
        assert!((gain - all).abs() < 1e-9 && (gain - most).abs() < 1e-9, "{gain} {all} {most}");
    }
    assert!(chosen > 0, "nothing is chosen, so nothing is tested");
}

#[test]
fn prompts_that_have_no_place_are_nothing_to_break() {
    let toy = Toy::new();
    let subject = toy.subject();
    let mut spec = toy.checkpoint.spec().clone();
    assert_eq!(overthinking::cases(&spec, subject, 3).expect("cases").len(), 3);
    spec.n_ctx = 16;
    assert_eq!(overthinking::cases(&spec, subject, 3).expect("cases").len(), 0);

    let mut cpu = Cpu::new(Isa::detect(), 1);
    let m = &mut Model::load(&toy.checkpoint, &mut cpu).expect("loads");
    let o = &mut Eager::new(cpu);
    let there = |b: Result<Option<Bench<'_>>, DiagnoseError>| b.expect("no error").is_some();
    assert!(there(bench(o, m, subject, Probe::Distractors, false)));
    m.spec.n_ctx = 16;
    for probe in Probe::ALL {
        assert!(!there(bench(o, m, subject, probe, false)), "{}", probe.name());
    }
}

#[test]
fn an_answer_that_is_told_is_a_control() {
    let measure = |x: f64| Measure::within(x, x - 0.1, x + 0.1, 40);
    let change = |what: &str| Change {
        probe: Some(Probe::Distractors),
        what: what.to_owned(),
        before: measure(0.9),
        after: measure(0.4),
        change: measure(-0.5),
        p: 0.001,
    };
    let [main, _] = Cases { probe: Probe::Distractors, rule: Rule::Against, prompts: Vec::new() }.names();
    assert!(repairs(&[Probe::Distractors], &change(main)));
    assert!(!repairs(&[Probe::Distractors], &change(TOLD)));
    assert!(!repairs(&[Probe::Flipflop], &change(main)));
}
