//! The engine beside plain forward passes over whole sequences, on every family.

use std::ops::ControlFlow;
use std::sync::Arc;

use refocus_compute::{Batch, Cpu, Eager, KvUse, Ops, Vocab, VocabOut};
use refocus_model::generate::{
    Changes, Engine, Event, Finish, GenerateError, Limits, Output, Request, RequestError, Sampling, Token,
    What, complete, score,
};
use refocus_model::patch::Decode;
use refocus_model::{
    Action, Applied, Checkpoint, Gate, Intervention, Kind, LoadError, Mode, Model, Plan, Position, Readout,
    RunError, Site, forward,
};

use crate::expected::{all, fixtures, isa, tokens};

const TEXT: &str = "gguf-llama-q4_1";

/// A model on a number of threads.
struct Loaded {
    checkpoint: Checkpoint,
    m: Model<Cpu>,
    o: Eager<Cpu>,
}

fn load(path: &std::path::Path, threads: usize) -> Loaded {
    let checkpoint = Checkpoint::open(path).expect("opens");
    let mut cpu = Cpu::new(isa(), threads);
    let m = Model::load(&checkpoint, &mut cpu).expect("loads");
    Loaded { checkpoint, m, o: Eager::new(cpu) }
}

fn open(name: &str) -> Loaded {
    let (_, path) = all().into_iter().find(|(n, _)| n == name).expect("a fixture");
    load(&path, 2)
}

impl Loaded {
    fn all(&mut self, requests: Vec<Request>, limits: Limits) -> Vec<Vec<Output>> {
        complete(
            &mut Engine::new(&mut self.o, &self.m, None, limits),
            requests,
            |_| ControlFlow::Continue(()),
        )
        .expect("fits")
    }

    fn one(&mut self, request: Request) -> Output {
        self.all(vec![request], Limits::default()).remove(0).remove(0)
    }
}

fn sampled(seed: u64) -> Sampling {
    Sampling { temperature: 1.4, top_k: Some(20), top_p: 0.95, seed, ..Sampling::default() }
}

fn finished(outputs: Vec<Vec<Output>>) -> Vec<Vec<(Vec<Token>, Finish)>> {
    let one = |o: Output| (o.tokens, o.finish.expect("finishes"));
    outputs.into_iter().map(|samples| samples.into_iter().map(one).collect()).collect()
}

/// Requests of several kinds within a context of `room` tokens.
fn mixture(seqs: &[Vec<u32>], room: usize) -> Vec<Request> {
    let longest = seqs.iter().max_by_key(|s| s.len()).expect("a sequence");
    let cut = |n: usize| longest[..n.min(longest.len()).min(room.saturating_sub(4)).max(1)].to_vec();
    let ask = |prompt, max_new, sampling, n, logprobs| Request {
        sampling,
        n,
        logprobs,
        ..Request::new(prompt, max_new)
    };
    vec![
        ask(cut(17), 5, Sampling::default(), 1, Some(3)),
        ask(cut(12), 7, sampled(1), 3, Some(0)),
        ask(cut(17), 3, sampled(2), 1, None),
        ask(cut(1), 6, Sampling { logit_bias: vec![(7, 3.0)], ..Sampling::default() }, 1, Some(1)),
        ask(seqs[0][..seqs[0].len().min(room - 2)].to_vec(), 4, sampled(1), 2, None),
        ask(cut(9), 40, Sampling { frequency_penalty: 0.9, ..Sampling::default() }, 1, Some(2)),
    ]
}

#[test]
fn neighbours_pieces_and_time_of_joining_change_no_bit() {
    for (name, path) in all() {
        let seqs = tokens(&path);
        let mut results = Vec::new();
        for threads in [1, 3] {
            let mut l = load(&path, threads);
            // A sequence that may grow for ever takes the reference a while.
            let room = if l.m.spec.stretches() { 24 } else { l.m.spec.n_ctx };
            let requests = mixture(&seqs, room);
            let alone: Vec<_> =
                requests.iter().flat_map(|r| finished(l.all(vec![r.clone()], Limits::default()))).collect();
            assert!(alone.iter().flatten().all(|s| !s.0.is_empty()), "{name}");
            let together = finished(l.all(requests.clone(), Limits::default()));
            assert!(alone == together, "{name}: together");
            let pieces = Limits { chunk: 3, sequences: 4, ..Limits::default() };
            assert!(alone == finished(l.all(requests.clone(), pieces)), "{name}: in pieces");
            assert!(alone == staggered(&mut l, &requests), "{name}: joining late");
            results.push(alone);
        }
        assert!(results[0] == results[1], "{name}: threads");
    }
}

/// Every request joins one step after the one before it.
fn staggered(l: &mut Loaded, requests: &[Request]) -> Vec<Vec<(Vec<Token>, Finish)>> {
    let mut engine = Engine::new(&mut l.o, &l.m, None, Limits { chunk: 5, ..Limits::default() });
    let mut out: Vec<Vec<(Vec<Token>, Option<Finish>)>> =
        requests.iter().map(|r| vec![(Vec::new(), None); r.n as usize]).collect();
    let mut coming = requests.iter();
    loop {
        match coming.next() {
            Some(r) => drop(engine.submit(r.clone()).expect("fits")),
            None if engine.is_idle() => break,
            None => {}
        }
        for Event { request, sample, what } in engine.step() {
            let at = &mut out[request.0 as usize][sample as usize];
            match what {
                What::Token(t) => at.0.push(t),
                What::Finished { finish, .. } => at.1 = Some(finish),
                What::Failed(e) => panic!("{e}"),
            }
        }
    }
    let ended = |(tokens, finish): (Vec<Token>, Option<Finish>)| (tokens, finish.expect("ended"));
    out.into_iter().map(|r| r.into_iter().map(ended).collect()).collect()
}

/// Logits after the last token, and their log-sum-exp, from a pass over the whole sequence.
fn whole(l: &mut Loaded, ids: &[u32], applied: &[Applied]) -> (Vec<f32>, f32) {
    let batch = Batch::from_lengths([ids.len()]);
    let last = refocus_compute::RowSet::new(vec![ids.len() as u32 - 1]);
    let readouts = [Readout::logits(&l.m.spec, Some(last), vec![Vocab::All, Vocab::LogSumExp])];
    let mode = Mode { keeps_cache: false, decoding: true };
    let plan = Plan::compile(&l.m.spec, &batch, &readouts, applied, mode).expect("a plan");
    let got = forward(&mut l.o, &l.m, ids, &plan, KvUse::None).expect("runs");
    let Some([VocabOut::Values(logits), VocabOut::Values(lse)]) = got[0].lens(0) else { panic!("no logits") };
    (l.o.to_host(logits).expect("host"), l.o.to_host(lse).expect("host")[0])
}

/// What the changes mean for a sequence of which the first `prompt` tokens are the prompt.
fn meant(changes: &Changes, prompt: usize, len: usize) -> Vec<Applied> {
    let mut out = Vec::new();
    for i in &changes.interventions {
        let positions: Vec<Position> = match i.position {
            Position::All | Position::At(_) => vec![i.position],
            Position::FromEnd(k) => vec![Position::At((prompt - k as usize) as u32)],
            Position::Last => (prompt - 1..len).map(|p| Position::At(p as u32)).collect(),
        };
        for position in positions {
            let what = Arc::new(Intervention { position, ..Intervention::clone(i) });
            out.push(Applied { what, segs: None });
        }
    }
    out
}

fn highest(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b }) as u32
}

/// Changes of all kinds; for a model of one block those that it can have.
fn patches(m: &Model<Cpu>) -> Vec<Changes> {
    let d = m.spec.d_model;
    let direction: Arc<[f32]> = (0..d).map(|i| ((i * 5) % 7) as f32 - 3.0).collect();
    let add = || Action::Add { vector: Arc::clone(&direction), alpha: 0.7 };
    let at = |layer, kind, position, action, when| {
        Arc::new(Intervention { site: Site::new(layer, kind), head: None, position, action, when })
    };
    let gate = Some(Gate { top1_prob_above: 0.02, lens_layer: 0 });
    let prior: Arc<[f32]> = (0..m.spec.vocab).map(|i| -((i % 11) as f32)).collect();
    let of = |interventions, decode| Changes { interventions, decode };
    let mut all = vec![
        of(vec![at(1, Kind::ResidPost, Position::Last, add(), None)], vec![]),
        of(vec![at(0, Kind::Z, Position::All, Action::Zero, None)], vec![]),
        of(vec![at(0, Kind::ResidPost, Position::FromEnd(2), add(), None)], vec![]),
        of(
            vec![
                at(1, Kind::Z, Position::Last, Action::Scale(-2.0), gate),
                at(0, Kind::AttnOut, Position::At(6), Action::Scale(3.0), None),
            ],
            vec![],
        ),
        of(vec![at(1, Kind::Pattern, Position::All, Action::Sharpen(0.4), None)], vec![]),
        of(vec![at(0, Kind::ResidPost, Position::All, Action::Exit(1), None)], vec![]),
        of(
            vec![at(0, Kind::Z, Position::Last, Action::Zero, None)],
            vec![Decode::Temperature(0.6), Decode::UnigramPrior { log_frequency: prior, alpha: 0.3 }],
        ),
    ];
    if m.spec.n_layers < 2 {
        let plain = |i: &Arc<Intervention>| {
            i.site.layer == 0 && i.when.is_none() && !matches!(i.action, Action::Exit(_))
        };
        all.retain(|c| c.interventions.iter().all(plain));
    }
    all
}

#[test]
fn a_patched_continuation_equals_full_passes_step_by_step() {
    for (name, path) in all() {
        let mut l = load(&path, 2);
        let patches: Vec<Arc<Changes>> =
            [Changes::default()].into_iter().chain(patches(&l.m)).map(Arc::new).collect();
        let prompt: Vec<u32> = (0..5).map(|i| (i * 13 + 5) % l.m.spec.vocab as u32).collect();
        let ask = |changes: &Arc<Changes>| Request {
            logprobs: Some(0),
            changes: Arc::clone(changes),
            ..Request::new(prompt.clone(), 6)
        };
        // All patches in one batch, prompts in pieces.
        let requests = patches.iter().map(ask).collect();
        let got = l.all(requests, Limits { chunk: 7, ..Limits::default() });
        for (i, (changes, got)) in patches.iter().zip(got).enumerate() {
            let mut ids = prompt.clone();
            for token in &got[0].tokens {
                let (mut logits, lse) = whole(&mut l, &ids, &meant(changes, prompt.len(), ids.len()));
                let plain = changes.decode.is_empty();
                changes.decode.iter().for_each(|d| assert!(d.apply(&mut logits)));
                assert_eq!(token.id, highest(&logits), "{name}: patch {i}");
                let logit = logits[token.id as usize];
                if plain {
                    assert_eq!(token.logprob.map(f32::to_bits), Some((logit - lse).to_bits()), "{name}");
                } else {
                    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
                    let want = f64::from(logit) - max - sum.ln();
                    assert!((f64::from(token.logprob.expect("asked")) - want).abs() < 1e-5, "{name}");
                }
                ids.push(token.id);
            }
            assert_eq!(got[0].tokens.len(), 6, "{name}: patch {i}");
        }
    }
}

#[test]
fn scores_equal_the_likelihood_of_a_full_pass() {
    for (name, path) in all() {
        let mut l = load(&path, 2);
        let vocab = l.m.spec.vocab as u32;
        let prompt: Vec<u32> = (0..9).map(|i| (i * 13 + 5) % vocab).collect();
        let continuations: Vec<Vec<u32>> =
            vec![vec![3, 9, 1, 4], vec![8], vec![], (0..11).map(|i| (i * 29) % vocab).collect()];
        for changes in [Changes::default()].into_iter().chain(patches(&l.m)).map(Arc::new) {
            let got = score(&mut l.o, &l.m, &prompt, &continuations, &changes).expect("scores");
            for (c, got) in continuations.iter().zip(got) {
                let want = nll(&mut l, &prompt, c, &changes);
                let bits = |all: &[f32]| all.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                if changes.decode.is_empty() {
                    assert_eq!(bits(&got.tokens), bits(&want), "{name}");
                }
                // A generated token has the same log-probability as a given one, unless the angles of
                // what comes before it change with what comes after.
                let Some(&id) = c.first().filter(|_| !l.m.spec.stretches()) else { continue };
                let request = Request {
                    logprobs: Some(l.m.spec.vocab),
                    changes: Arc::clone(&changes),
                    ..Request::new(prompt.clone(), 1)
                };
                let top = l.one(request).tokens.remove(0).top;
                let generated = top.iter().find(|t| t.0 == id).expect("every token").1;
                assert_eq!(generated.to_bits(), got.tokens[0].to_bits(), "{name}");
            }
        }
    }
}

/// Log-probabilities of a continuation from one pass over everything.
fn nll(l: &mut Loaded, prompt: &[u32], continuation: &[u32], changes: &Changes) -> Vec<f32> {
    let Some((_, before)) = continuation.split_last() else { return Vec::new() };
    let ids = [prompt, before].concat();
    let rows = refocus_compute::RowSet::new((prompt.len() as u32 - 1..ids.len() as u32).collect());
    let readouts = [Readout::logits(&l.m.spec, Some(rows), vec![Vocab::Nll(continuation.into())])];
    let mode = Mode { keeps_cache: false, decoding: true };
    let applied = meant(changes, prompt.len(), ids.len());
    let batch = Batch::from_lengths([ids.len()]);
    let plan = Plan::compile(&l.m.spec, &batch, &readouts, &applied, mode).expect("a plan");
    let got = forward(&mut l.o, &l.m, &ids, &plan, KvUse::None).expect("runs");
    let Some([VocabOut::Values(nll)]) = got[0].lens(0) else { panic!("no answer") };
    l.o.to_host(nll).expect("host").into_iter().map(|x| -x).collect()
}

#[test]
fn what_prompts_share_is_computed_once() {
    let mut l = open("llama2");
    let common: Vec<u32> = (0..20).map(|i| i * 3 % 60).collect();
    let prompt = |tail: &[u32]| [&common, tail].concat();
    let mut engine = Engine::new(&mut l.o, &l.m, None, Limits::default());
    let ask = |p: Vec<u32>, n| Request { n, sampling: sampled(3), ..Request::new(p, 1) };
    let requests =
        vec![ask(prompt(&[1, 2]), 1), ask(prompt(&[5]), 4), ask(vec![9, 9], 1), ask(common.clone(), 1)];
    complete(&mut engine, requests, |_| ControlFlow::Continue(())).expect("fits");
    // 20 + 2, 1, 2, and the last token of what is nothing but the beginning.
    assert_eq!(engine.computed(), 22 + 1 + 2 + 1);
}

#[test]
fn room_in_the_cache_is_shared_out_and_given_back() {
    let mut l = open(TEXT);
    let limits = Limits { cache_tokens: Some(256), ..Limits::default() };
    let long = |n: usize, max_new| Request::new((0..n).map(|i| i as u32 % 90 + 3).collect(), max_new);
    let mut engine = Engine::new(&mut l.o, &l.m, None, limits);
    let refused = engine.submit(long(200, 200)).expect_err("too long");
    assert!(matches!(refused, RequestError::NeverFits { tokens: 448, limit: 256 }), "{refused}");
    let many = engine.submit(Request { n: 65, ..long(3, 1) }).expect_err("too many");
    assert!(matches!(many, RequestError::TooMany { n: 65, most: 64 }));

    let first = engine.submit(long(100, 20)).expect("fits");
    let second = engine.submit(long(120, 60)).expect("fits");
    let third = engine.submit(long(4, 4)).expect("fits");
    let mut events = engine.step();
    // 128 of 256 are taken, 192 do not fit; the small one does not overtake.
    assert_eq!((engine.running(), engine.waiting()), (1, 2));
    while !engine.is_idle() {
        events.extend(engine.step());
    }
    let ended: Vec<_> = events.iter().filter(|e| matches!(e.what, What::Finished { .. })).collect();
    assert_eq!(ended.iter().map(|e| e.request).collect::<Vec<_>>(), [first, third, second]);

    // All the room is there again, also after a request was taken back.
    let fourth = engine.submit(long(190, 60)).expect("fits");
    engine.step();
    assert!(engine.cancel(fourth) && !engine.cancel(fourth));
    assert!(engine.is_idle());
    engine.submit(long(190, 60)).expect("fits");
    engine.step();
    assert_eq!(engine.running(), 1);
}

#[test]
fn a_sequence_that_fails_takes_no_other_with_it() {
    let mut l = open("gpt2");
    let breaks = |layer, kind, position, action| {
        let what = Intervention { site: Site::new(layer, kind), head: None, position, action, when: None };
        Arc::new(Changes { interventions: vec![Arc::new(what)], decode: vec![] })
    };
    let good = Request { n: 2, sampling: sampled(5), ..Request::new(vec![5, 9, 2], 6) };
    let alone = finished(l.all(vec![good.clone()], Limits::default()));
    // Values beyond f32 at the first new token; a row that sees no key.
    let overflow = breaks(0, Kind::ResidPost, Position::At(3), Action::Scale(3e38));
    let blind = breaks(1, Kind::Pattern, Position::At(4), Action::BlockEdge(0..100));
    let ask = |changes| Request { changes, ..Request::new(vec![1, 2, 3], 6) };
    let requests = vec![ask(overflow), good, ask(blind)];
    let mut out = l.all(requests, Limits::default());
    let blind = out.pop().expect("three").remove(0);
    let good = out.pop().expect("two");
    let overflow = out.pop().expect("one").remove(0);
    assert!(finished(vec![good]) == alone);
    // What came before is kept.
    assert_eq!((overflow.tokens.len(), blind.tokens.len()), (1, 2));
    let Err(GenerateError::Run(e)) = overflow.finish else { panic!("it fails") };
    assert!(matches!(&*e, RunError::NotANumber { seq: 0, position: 3, .. }), "{e}");
    assert!(matches!(blind.finish, Err(GenerateError::Run(_))));
}

#[test]
fn generation_ends_with_the_context() {
    let mut l = open("gpt2");
    let got = l.one(Request::new(vec![1; 20], 100));
    // The last token is not run itself.
    assert_eq!((got.tokens.len(), got.finish.expect("ends")), (5, Finish::Length));
    let mut engine = Engine::new(&mut l.o, &l.m, None, Limits::default());
    let refuse = |engine: &mut Engine<'_, _>, r| engine.submit(r).expect_err("refused").to_string();
    assert_eq!(
        refuse(&mut engine, Request::new(vec![1; 25], 1)),
        "the prompt has 25 tokens, the model's context is 24"
    );
    assert_eq!(refuse(&mut engine, Request::new(vec![], 1)), "the prompt has no tokens");
    assert_eq!(
        refuse(&mut engine, Request::new(vec![3, 101], 1)),
        "the prompt has the token id 101 at position 1; the vocabulary has 101 tokens"
    );
    let stop = Request { stop_strings: Arc::from(["x".to_owned()]), ..Request::new(vec![1], 1) };
    assert_eq!(refuse(&mut engine, stop), "stop strings need a tokenizer");
    let site = Site::new(7, Kind::ResidPost);
    let what = Intervention { site, head: None, position: Position::All, action: Action::Zero, when: None };
    let changes = Arc::new(Changes { interventions: vec![Arc::new(what)], decode: vec![] });
    let wrong = refuse(&mut engine, Request { changes, ..Request::new(vec![1], 1) });
    assert!(wrong.contains("blocks.7"), "{wrong}");
}

/// A server submits from other threads than the one that steps.
#[test]
fn requests_and_events_may_cross_threads() {
    fn send<T: Send>() {}
    fn share<T: Send + Sync>() {}
    send::<Request>();
    send::<Event>();
    send::<Output>();
    share::<refocus_model::generate::Grammars>();
}

#[test]
fn stop_ids_and_stop_strings_end_a_text() {
    let mut l = open(TEXT);
    let tokenizer = l.checkpoint.tokenizer().expect("a tokenizer");
    let prompt = tokenizer.encode("one", false).expect("encodes");
    let mut run = |request: Request| {
        let mut engine = Engine::new(&mut l.o, &l.m, Some(&tokenizer), Limits::default());
        let mut streamed = String::new();
        let out = complete(&mut engine, vec![request], |e| {
            match &e.what {
                What::Token(t) => streamed.push_str(&t.text),
                What::Finished { text, .. } => streamed.push_str(text),
                What::Failed(e) => panic!("{e}"),
            }
            ControlFlow::Continue(())
        });
        let out = out.expect("fits").remove(0).remove(0);
        assert_eq!(streamed, out.text);
        out
    };
    let sampling = Sampling { temperature: 3.0, seed: 4, ..Sampling::default() };
    let ask = |max_new| Request { sampling: sampling.clone(), ..Request::new(prompt.clone(), max_new) };
    let free = run(ask(40));
    assert_eq!(free.finish.as_ref().ok(), Some(&Finish::Length));
    assert_eq!(free.text, tokenizer.decode(&free.ids(), false).expect("decodes"));
    // Any piece of the text, across tokens, ends it where it first occurs.
    let chars: Vec<char> = free.text.chars().collect();
    for (from, to) in [(5, 6), (9, 13), (2, 20), (chars.len() - 3, chars.len())] {
        let stop: String = chars[from..to].iter().collect();
        let got = run(Request { stop_strings: Arc::from(["\u{1}".to_owned(), stop.clone()]), ..ask(40) });
        assert_eq!(got.finish.ok(), Some(Finish::StopString), "{stop:?}");
        assert_eq!(Some(got.text.as_str()), free.text.split(stop.as_str()).next(), "{stop:?}");
    }
    let id = free.tokens[7].id;
    let at = free.tokens.iter().position(|t| t.id == id).expect("there");
    let got = run(Request { stop: vec![id], ..ask(40) });
    assert_eq!((got.ids(), got.finish.ok()), (free.ids()[..at].to_vec(), Some(Finish::Stop)));
}

/// One sequence of `fixtures/generation/*.json`.
#[derive(serde::Deserialize)]
struct Continued {
    text: String,
    prompt: Vec<u32>,
    ids: Vec<u32>,
    leads: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct Continuations {
    model: String,
    sequences: Vec<Continued>,
}

/// A lead of `transformers`' best logit over its second below which f32 rounding may decide otherwise.
const NOISE: f64 = 1e-3;

#[test]
fn greedy_tokens_of_real_models_are_those_of_transformers() {
    let folders: Vec<_> =
        std::env::var_os("REFOCUS_MODELS").map(|v| std::env::split_paths(&v).collect()).unwrap_or_default();
    let mut files: Vec<_> = std::fs::read_dir(fixtures().join("generation"))
        .expect("fixtures/generation")
        .map(|e| e.expect("entry").path())
        .collect();
    files.sort();
    for file in files {
        let wanted: Continuations =
            serde_json::from_slice(&std::fs::read(&file).expect("reads")).expect("parses");
        let found = folders.iter().map(|f: &std::path::PathBuf| f.join(&wanted.model)).find(|p| p.is_file());
        let Some(path) = found else {
            eprintln!("skipped: {} is not in a folder of REFOCUS_MODELS", wanted.model);
            continue;
        };
        if let Err(e @ LoadError::TensorType { .. }) = Checkpoint::open(&path) {
            eprintln!("skipped: {e}");
            continue;
        }
        let mut l = load(&path, 2);
        let tokenizer = l.checkpoint.tokenizer().expect("a tokenizer");
        assert_eq!(wanted.sequences.len(), 20);
        let requests = wanted.sequences.iter().map(|s| {
            assert_eq!(tokenizer.encode(&s.text, true).expect("encodes"), s.prompt, "{:?}", s.text);
            Request { logprobs: Some(2), ..Request::new(s.prompt.clone(), s.ids.len()) }
        });
        let requests: Vec<_> = requests.collect();
        let together = finished(l.all(requests.clone(), Limits::default()));
        for (i, s) in wanted.sequences.iter().enumerate() {
            let got: Vec<u32> = together[i][0].0.iter().map(|t| t.id).collect();
            assert_eq!(got.len(), 64);
            if let Some(at) = (0..64).find(|&t| got[t] != s.ids[t]) {
                let top = &together[i][0].0[at].top;
                eprintln!(
                    "{}: prompt {i} differs from token {at} on: {} and not {}; lead there {}, ours {}",
                    wanted.model,
                    got[at],
                    s.ids[at],
                    s.leads[at],
                    top[0].1 - top[1].1
                );
                assert!(s.leads[at] < NOISE, "{}: prompt {i}, token {at}", wanted.model);
            }
        }
        // Single: three of them again.
        for i in [1, 7, 16] {
            assert!(finished(l.all(vec![requests[i].clone()], Limits::default()))[0] == together[i], "{i}");
        }
    }
}
