//! Learning the flip-flop language.

use refocus_compute::{Cpu, Isa, Kernels, Reference};
use refocus_model::{LoadError, Params, Part, Which};
use refocus_tasks::flipflop::{FlipFlop, VOCAB};
use refocus_train::{Architecture, Config, Examples, Report, Schedule, Style, TrainError, Trainer, clean};

const TOKENS: usize = 32;

fn language() -> FlipFlop {
    FlipFlop::ignoring(TOKENS, 0.6).expect("a language")
}

fn architecture(style: Style) -> Architecture {
    Architecture { style, layers: 2, d_model: 32, heads: 4, vocab: VOCAB, n_ctx: TOKENS }
}

fn config(lr: f32, steps: u32) -> Config {
    Config { schedule: Schedule { lr, warmup: 20, steps }, ..Config::default() }
}

/// Trains for some steps and gives the reports.
fn train<K: Kernels>(kernels: K, style: Style, config: Config, batch: usize, steps: u32) -> (Trainer<K>, Vec<Report>) {
    let params = architecture(style).init(1).expect("parameters");
    let mut t = Trainer::new(params, config, kernels).expect("a trainer");
    let reports = (0..steps)
        .map(|step| t.step(&clean::batch(&language(), 2, step, batch)).unwrap_or_else(|e| panic!("{e}")))
        .collect();
    (t, reports)
}

fn mean(reports: &[Report]) -> f32 {
    reports.iter().map(|r| r.loss).sum::<f32>() / reports.len() as f32
}

#[test]
fn two_hundred_steps_learn_most_of_the_language() {
    for style in [Style::Learned, Style::Rotary] {
        for threads in [1, 2] { let lr = 3e-3;
            for seed in 3..4 {
                let start = std::time::Instant::now();
                let (mut t, reports) = train(Cpu::new(Isa::detect(), threads), style, config(lr, 200), 32, 200);
                let secs = start.elapsed().as_secs_f64();
                let (m, o) = t.model();
                let s = clean::test(o, m, &language(), seed, 128).expect("a score");
                println!("{style:?} lr {lr} {:.3} -> {:.3}; {}/{} = {:.3}; {secs:.2} s", mean(&reports[..5]), mean(&reports[190..]), s.right, s.asked, s.accuracy());
            }
        }
    }
}

fn bits(p: &Params) -> Vec<u32> {
    p.iter().flat_map(|(.., x)| x.iter().map(|x| x.to_bits())).collect()
}

#[test]
fn a_run_has_the_same_bits_at_any_number_of_threads_and_on_any_instruction_set() {
    for style in [Style::Learned, Style::Rotary] {
        let run = |isa, threads| {
            let (t, reports) = train(Cpu::new(isa, threads), style, config(3e-3, 12), 8, 12);
            (bits(t.params()), reports)
        };
        let want = run(Isa::detect(), 1);
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.available()) {
            for threads in [1, 2, 3] {
                assert!(run(isa, threads) == want, "{style:?} on {} with {threads} threads", isa.name());
            }
        }
    }
}
