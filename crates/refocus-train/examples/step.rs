//! How long a training step takes. Arguments: layers d heads T batch threads steps.
use refocus_compute::{Cpu, Isa};
use refocus_tasks::flipflop::FlipFlop;
use refocus_train::*;

fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let [layers, d_model, heads, t, batch, threads, steps, dense] = a[..] else { panic!() };
    let arch = Architecture { style: Style::Learned, layers, d_model, heads, vocab: if dense == 1 { 1024 } else { 5 }, n_ctx: t };
    let lang = FlipFlop::ignoring(t, 0.8).unwrap();
    let mut cpu = Cpu::new(Isa::detect(), threads);
    println!("{} {} threads, peak {:.0} GFLOP/s", cpu.isa().name(), threads, cpu.peak_gflops(300));
    let mut tr = Trainer::new(arch.init(1).unwrap(), Config::default(), cpu).unwrap();
    for s in 0..steps as u32 {
        let mut ex = clean::batch(&lang, 1, s, batch);
        if dense == 1 {
            // every token predicts, vocabulary 1024
            ex.rows = (0..ex.ids.len() as u32).collect();
            ex.ids.iter_mut().enumerate().for_each(|(i, x)| *x = (*x + 7 * i as u32) % 1024);
            ex.targets = ex.ids.clone();
        }
        let start = std::time::Instant::now();
        let r = tr.step(&ex).unwrap();
        println!("step {} loss {:.4} {:.0} ms", r.step, r.loss, start.elapsed().as_secs_f64() * 1e3);
    }
}
