//! Learning the flip-flop language with small models.

use refocus_compute::{Cpu, Isa, Kernels, Reference};
use refocus_model::{Params, capture};
use refocus_tasks::flipflop::{Alphabet, FlipFlop, Split, VOCAB};
use refocus_train::flipflop::Mode;
use refocus_train::{
    Architecture, Config, Examples, LstmShape, Report, Schedule, TrainError, Trainer, Weights, flipflop,
};

const TOKENS: usize = 32;
const DATA_SEED: u64 = 2;

/// `FFL(32, 0.6)`: 16 instructions, of which four read.
fn language() -> FlipFlop {
    FlipFlop::ignoring(TOKENS, 0.6).expect("a language")
}

/// Two layers, four heads.
/// A maker of an architecture, and its name.
type Style = (&'static str, fn(usize, usize, usize) -> Architecture);
const PAPER: Style = ("paper", Architecture::paper);
const LLAMA: Style = ("llama", Architecture::llama);

fn first_params(style: Style, d_model: usize, seed: u64) -> Params {
    style.1(2, d_model, 4).init(VOCAB, TOKENS, seed).expect("parameters")
}

fn config(lr: f32, steps: u32) -> Config {
    Config { schedule: Schedule { lr, warmup: 20, steps }, ..Config::default() }
}

/// Runs a whole schedule and gives the reports.
fn train<K: Kernels>(kernels: K, first: Params, config: Config, batch: usize) -> (Trainer<K>, Vec<Report>) {
    let mut t = Trainer::new(first, config, kernels).expect("a trainer");
    let step = |step| {
        t.step(&flipflop::batch(&language().into(), Mode::Clean, DATA_SEED, step, batch))
            .unwrap_or_else(|e| panic!("{e}"))
    };
    let reports = (0..config.schedule.steps).map(step).collect();
    (t, reports)
}

fn mean(reports: &[Report]) -> f32 {
    reports.iter().map(|r| r.loss).sum::<f32>() / reports.len() as f32
}

/// How often the test strings' more frequent answer, and the bit just before a read, are right.
fn baselines(strings: usize) -> (f64, f64) {
    let e = flipflop::examples(
        &Alphabet::BINARY,
        Mode::Clean,
        language().strings(DATA_SEED, Split::Test, 0).take(strings),
    );
    let share = |hits: usize| hits as f64 / e.rows.len() as f64;
    let ones = share(e.targets.iter().filter(|&&t| t == e.targets[0]).count());
    let copied = e.rows.iter().zip(&e.targets).filter(|(r, t)| e.ids[**r as usize - 1] == **t).count();
    (ones.max(1.0 - ones), share(copied))
}

/// Width 64, 200 steps of 16 strings, rate 3e-3 (the best of 1e-3, 3e-3, 6e-3 and 1e-2 over two seeds).
///
/// Right on 942 reads of fresh strings with first parameters of seeds 1, 2, 3: learned positions 0.981,
/// 0.986, 0.897, loss 1.1–1.5 to 0.07–0.25; rotary 1.000 each, loss 1.3–1.4 to 0.003–0.012. To give the
/// more frequent answer is right in 0.50, to copy the bit before the read in 0.72 of them. That learned
/// positions take longer is what `spec/measured.md` saw in PyTorch.
#[test]
fn two_hundred_steps_learn_the_language() {
    let strings = 256;
    let (majority, copied) = baselines(strings);
    assert!(majority < 0.53 && copied < 0.74, "baselines {majority:.3}, {copied:.3}");
    for (style, loss, accuracy) in [(PAPER, 0.3, 0.9), (LLAMA, 0.05, 0.98)] {
        let first = first_params(style, 64, 1);
        let (mut t, reports) = train(Cpu::new(Isa::detect(), 1), first, config(3e-3, 200), 16);
        let (first, last) = (mean(&reports[..5]), mean(&reports[190..]));
        let (m, o) = t.model();
        let s = flipflop::test(o, m, &language().into(), DATA_SEED, strings).expect("a score");
        let what = format!(
            "{}: loss {first:.3} to {last:.3}, {}/{} = {:.3} right; majority {majority:.3}, copying {copied:.3}",
            style.0,
            s.right,
            s.asked,
            s.accuracy()
        );
        println!("{what}");
        assert!(last < loss && last < first / 4.0 && s.accuracy() > accuracy, "{what}");

        // It is a model like any other: every site can be read.
        let m = m.transformer().expect("a transformer");
        let ids: Vec<Vec<u32>> = language().strings(DATA_SEED, Split::Test, 0).take(2).collect();
        let sites = refocus_model::Site::all(&m.spec);
        let seen = capture(o, m, &ids, &sites, true, &[]).expect("sites");
        assert_eq!(seen[0].len(), sites.len() + 1);
    }
}

fn bits(p: &Weights) -> Vec<u32> {
    p.values().flat_map(|(_, x)| x.iter().map(|x| x.to_bits())).collect()
}

#[test]
fn a_run_has_the_same_bits_at_any_number_of_threads_and_on_any_instruction_set() {
    for style in [PAPER, LLAMA] {
        let run = |isa, threads, seed| {
            let first = first_params(style, 32, seed);
            let (t, reports) = train(Cpu::new(isa, threads), first, config(3e-3, 6), 8);
            (bits(t.weights()), reports)
        };
        let want = run(Isa::detect(), 1, 1);
        assert!(run(Isa::detect(), 1, 1) == want, "{} twice", style.0);
        for isa in
            [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon].into_iter().filter(|isa| isa.available())
        {
            for threads in [1, 2, 3] {
                assert!(run(isa, threads, 1) == want, "{} on {} with {threads} threads", style.0, isa.name());
            }
        }
        assert!(run(Isa::detect(), 1, 9) != want, "another seed, the same model");
    }
}

/// The same run in f64 arithmetic (parameters stay f32).
#[test]
fn the_reference_learns_the_same() {
    for style in [PAPER, LLAMA] {
        let first = first_params(style, 32, 1);
        let (_, cpu) = train(Cpu::new(Isa::detect(), 1), first.clone(), config(1e-3, 8), 2);
        let (_, reference) = train(Reference, first, config(1e-3, 8), 2);
        for (a, b) in cpu.iter().zip(&reference) {
            assert!((a.loss - b.loss).abs() <= 2e-4, "{}: {a:?} and {b:?}", style.0);
        }
    }
}

#[test]
fn numbers_that_are_none_are_errors_that_name_the_step() {
    let cpu = || Cpu::new(Isa::detect(), 1);
    let batch = flipflop::batch(&language().into(), Mode::Clean, DATA_SEED, 0, 1);
    // Steps this large leave the numbers whose squares are numbers. LayerNorm makes NaN of them.
    let mut t = Trainer::new(first_params(PAPER, 32, 1), config(1e30, 20), cpu()).expect("a trainer");
    assert!(t.step(&batch).is_ok());
    let e = t.step(&batch).expect_err("an error");
    assert!(matches!(e, TrainError::Loss { step: 2, loss, .. } if !loss.is_finite()), "{e:?}");
    let text = e.to_string();
    assert!(text.starts_with("step 2: the loss is ") && text.contains("lower learning rate"), "{text}");
    assert_eq!(t.steps(), 1, "no step was taken from it");

    // RMSNorm makes zeros of them: the loss is a number, its gradient is not.
    let cause = |e: &TrainError| {
        let cause = std::error::Error::source(e).and_then(|e| e.source()).map(ToString::to_string);
        assert!(cause.is_some_and(|c| c.contains("NaN or infinite")), "{e:?}");
    };
    let mut t = Trainer::new(first_params(LLAMA, 32, 1), config(1e30, 20), cpu()).expect("a trainer");
    assert!(t.step(&batch).is_ok());
    let e = t.step(&batch).expect_err("an error");
    assert!(matches!(e, TrainError::Params { step: 2, .. }), "{e:?}");
    cause(&e);

    // A step beyond all numbers.
    let schedule = Schedule { lr: f32::MAX, warmup: 0, steps: 1 };
    let settings = Config { schedule, ..Config::default() };
    let mut t = Trainer::new(first_params(PAPER, 32, 1), settings, cpu()).expect("a trainer");
    let e = t.step(&batch).expect_err("an error");
    assert!(matches!(e, TrainError::Params { step: 1, .. }), "{e:?}");
    cause(&e);

    // An LSTM is told in the same way.
    let lstm = LstmShape { vocab: 5, hidden: 8 }.init(0).expect("parameters");
    let mut t = Trainer::new(lstm, settings, cpu()).expect("a trainer");
    let e = t.step(&batch).expect_err("an error");
    assert!(matches!(e, TrainError::Params { step: 1, .. }), "{e:?}");
    cause(&e);
}

#[test]
fn examples_that_do_not_fit_are_named() {
    let first = first_params(LLAMA, 32, 1);
    let mut t = Trainer::new(first, config(1e-3, 9), Cpu::new(Isa::detect(), 1)).expect("a trainer");
    let good = flipflop::batch(&language().into(), Mode::Clean, 0, 0, 2);
    assert_eq!(t.step(&good).expect("a step").step, 1);
    let mut refusal = |change: fn(&mut Examples)| {
        let mut e = good.clone();
        change(&mut e);
        t.step(&e).err().map(|e| e.to_string()).expect("an error")
    };
    assert_eq!(refusal(|e| e.ids.truncate(63)), "step 2: 63 ids for sequences of 64 in all");
    assert!(refusal(|e| e.targets.truncate(1)).starts_with("step 2: "));
    assert_eq!(refusal(|e| e.rows.reverse()), "step 2: the rows that are asked do not ascend");
    assert_eq!(refusal(|e| e.ids[5] = 7), "step 2");
    assert_eq!(t.step(&good).expect("a step").step, 2, "what was refused is not a step");
}

#[test]
fn clean_examples_ask_at_reads_and_nowhere_else() {
    let strings: Vec<Vec<u32>> = language().strings(4, Split::Train, 3).take(3).collect();
    let e = flipflop::batch(&language().into(), Mode::Clean, 4, 3, 3);
    assert_eq!(e.ids, strings.concat());
    assert_eq!(e.lengths, [TOKENS; 3]);
    let reads: Vec<u32> = (0..e.ids.len() as u32).filter(|&i| e.ids[i as usize] == 1).collect();
    assert_eq!(e.rows, reads);
    assert!(e.rows.iter().zip(&e.targets).all(|(&r, &t)| e.ids[r as usize + 1] == t));
}
