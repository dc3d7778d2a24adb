//! A model that learns, and what is timed on it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Instant;

use refocus_compute::Cpu;
use refocus_tasks::flipflop::{FlipFlop, Split, VOCAB};
use refocus_train::flipflop::Mode;
use refocus_train::{Architecture, Config, Examples, LstmShape, Trainer, Weights, choices, flipflop};

use crate::{Outcome, median};

/// Batches that both sides of a comparison go through, over and over.
const BATCHES: u32 = 50;

/// Flip-flop strings: the share of ignored bits, and the seed.
const IGNORE: f64 = 0.8;
const SEED: u64 = 1;

/// A trainer and its batches.
pub struct Learner {
    trainer: Trainer<Cpu>,
    batches: Vec<Examples>,
    /// Of the next step.
    next: usize,
}

/// `layers width heads vocab tokens batch`; no layers: an LSTM.
pub type Shape = [usize; 6];

/// Strings asked at reads, or everywhere; with another vocabulary they are ids of that instead.
fn batch(language: &FlipFlop, step: u32, shape: Shape, everywhere: bool) -> Examples {
    let [_, _, _, vocab, _, batch] = shape;
    let mut e = flipflop::batch(&language.clone().into(), Mode::Clean, SEED, step, batch);
    if vocab != VOCAB {
        let turned = |i: usize, id: u32| (id as usize + 7 * i) % vocab;
        e.ids.iter_mut().enumerate().for_each(|(i, id)| *id = turned(i, *id) as u32);
    }
    if everywhere {
        e.rows = (0..e.ids.len() as u32).collect();
        e.targets.clone_from(&e.ids);
        e.targets.rotate_left(1);
    }
    e
}

impl Learner {
    /// A model of its first parameters. These and the batches go to a file for the other side.
    pub fn new(cpu: Cpu, shape: Shape, ask: &str, file: &str) -> Outcome<Self> {
        let [layers, width, heads, vocab, tokens, _] = shape;
        let everywhere = match ask {
            "all" => true,
            "reads" => false,
            other => return Err(format!("'{other}' cannot be asked: all, reads").into()),
        };
        let first: Weights = match layers {
            0 => LstmShape { vocab, hidden: width }.init(SEED)?.into(),
            _ => Architecture::paper(layers, width, heads).init(vocab, tokens, SEED)?.into(),
        };
        let language = FlipFlop::ignoring(tokens, IGNORE)?;
        let batches: Vec<_> = (0..BATCHES).map(|step| batch(&language, step, shape, everywhere)).collect();
        write(file, &first, &batches)?;
        Ok(Self { trainer: Trainer::new(first, Config::default(), cpu)?, batches, next: 0 })
    }

    fn step(&mut self) -> Outcome<f32> {
        let e = &self.batches[self.next % self.batches.len()];
        self.next += 1;
        Ok(self.trainer.step(e)?.loss)
    }

    /// The losses of the next steps.
    pub fn losses(&mut self, steps: usize) -> Outcome<String> {
        let losses = (0..steps).map(|_| Ok(self.step()?.to_string())).collect::<Outcome<Vec<_>>>()?;
        Ok(losses.join(" "))
    }

    /// Seconds of a step.
    pub fn steps(&mut self, reps: usize) -> Outcome<f64> {
        median(reps, || self.step().map(|_| ()))
    }

    /// Seconds to score a batch.
    pub fn scores(&mut self, reps: usize) -> Outcome<f64> {
        let mut next = 0;
        median(reps, || {
            let (net, ops) = self.trainer.model();
            choices(ops, net, &self.batches[next % self.batches.len()])?;
            next += 1;
            Ok(())
        })
    }
}

/// Every parameter, then every batch: a line `name length` of text and so many 32-bit numbers each.
fn write(file: &str, weights: &Weights, batches: &[Examples]) -> Outcome<()> {
    let mut out = BufWriter::new(File::create(file)?);
    for (name, x) in weights.values() {
        writeln!(out, "{name}\t{}", x.len())?;
        x.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?;
    }
    for e in batches {
        for (name, x) in [("ids", &e.ids), ("rows", &e.rows), ("targets", &e.targets)] {
            writeln!(out, "{name}\t{}", x.len())?;
            x.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?;
        }
    }
    Ok(out.flush()?)
}

/// Seconds of one thread to generate `count` strings of `tokens` ids.
pub fn generate(tokens: usize, count: u32) -> Outcome<f64> {
    let language = FlipFlop::ignoring(tokens, IGNORE)?;
    let mut ids = Vec::new();
    let start = Instant::now();
    for sequence in 0..count {
        ids.clear();
        language.append(SEED, Split::Train, 0, sequence, &mut ids);
        std::hint::black_box(&ids);
    }
    Ok(start.elapsed().as_secs_f64())
}
