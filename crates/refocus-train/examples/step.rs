//! How long a training step takes: milliseconds of each of some steps.
//!
//! `cargo run --release --example step -- LAYERS WIDTH HEADS TOKENS BATCH THREADS STEPS [generative|all]`:
//! flip-flop strings, asked at reads; with `generative` at every position; with `all` a vocabulary of 1,024
//! ids, asked at every position (the shape of `spec/measured.md`). 0 layers are an LSTM of that width.

use refocus_compute::{Cpu, Isa};
use refocus_tasks::flipflop::{FlipFlop, VOCAB};
use refocus_train::flipflop::Mode;
use refocus_train::{Architecture, Config, LstmShape, Trainer, Weights, flipflop};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let last = arguments.last().map_or("", String::as_str);
    let (all, generative) = (last == "all", last == "generative");
    let words = usize::from(all || generative);
    let numbers = arguments[..arguments.len() - words].iter().map(|x| x.parse());
    let numbers: Vec<usize> = numbers.collect::<Result<_, _>>()?;
    let [layers, d_model, heads, n_ctx, batch, threads, steps] = numbers[..] else {
        return Err("seven numbers: layers, width, heads, tokens, batch, threads, steps".into());
    };
    let vocab = if all { 1024 } else { VOCAB };
    let first: Weights = match layers {
        0 => LstmShape { vocab, hidden: d_model }.init(1)?.into(),
        _ => Architecture::paper(layers, d_model, heads).init(vocab, n_ctx, 1)?.into(),
    };
    let mode = if generative { Mode::Generative } else { Mode::Clean };
    let language = FlipFlop::ignoring(n_ctx, 0.8)?.into();
    let mut cpu = Cpu::new(Isa::detect(), threads);
    let name = cpu.isa().name();
    println!("{name}, {threads} threads, peak {:.0} GFLOP/s", cpu.peak_gflops(300));
    let mut trainer = Trainer::new(first, Config::default(), cpu)?;
    for step in 0..steps as u32 {
        let mut e = flipflop::batch(&language, mode, 1, step, batch);
        if all {
            e.ids.iter_mut().enumerate().for_each(|(i, id)| *id = (*id + 7 * i as u32) % 1024);
            e.rows = (0..e.ids.len() as u32).collect();
            e.targets.clone_from(&e.ids);
            e.targets.rotate_left(1);
        }
        let start = std::time::Instant::now();
        let report = trainer.step(&e)?;
        println!(
            "step {} loss {:.4}: {:.1} ms",
            report.step,
            report.loss,
            start.elapsed().as_secs_f64() * 1e3
        );
    }
    Ok(())
}
