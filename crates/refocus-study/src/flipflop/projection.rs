//! How long a row will take on this machine.

use std::time::Instant;

use refocus_compute::Kernels;
use refocus_tasks::flipflop::FlipFlop;
use refocus_train::flipflop::{batch, test};
use refocus_train::{RunConfig, Trainer};

use super::error::{FlipflopError, Result};
use super::sets::EvalSet;

/// Steps that are timed, after one that is not.
const STEPS: u32 = 2;
/// Strings of a slice of evaluation.
const STRINGS: usize = 32;

/// Seconds of one run of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// One training step.
    pub step: f64,
    /// All steps, tests on the way included.
    pub training: f64,
    /// The tests after it.
    pub evaluation: f64,
}

impl Cost {
    /// A whole run.
    pub fn total(&self) -> f64 {
        self.training + self.evaluation
    }
}

/// Takes a few steps and runs a slice of evaluation, in memory.
///
/// # Errors
/// As training does.
pub fn measure<K: Kernels>(config: &RunConfig, sets: &[EvalSet], kernels: K) -> Result<Cost> {
    let language = config.task.language()?;
    let mut trainer = Trainer::new(config.init()?, config.trainer(), kernels)?;
    let draw = |step| batch(&language, config.task.mode, config.data_seed, step, config.task.batch);
    trainer.step(&draw(0))?;
    let start = Instant::now();
    for step in 1..=STEPS {
        trainer.step(&draw(step))?;
    }
    let step = start.elapsed().as_secs_f64() / f64::from(STEPS);
    let mut per_token = |language: &FlipFlop, strings: usize| -> Result<f64> {
        let (net, o) = trainer.model();
        let start = Instant::now();
        test(o, net, &language.clone().into(), config.data_seed, strings)
            .map_err(|source| FlipflopError::Run { set: "a slice of it".to_owned(), source })?;
        Ok(start.elapsed().as_secs_f64() / (strings * language.tokens()) as f64)
    };
    // Once to warm up.
    let mut evaluation = 0.0;
    if let Some(first) = sets.first() {
        per_token(&first.language, 1)?;
    }
    let mut last = 0.0;
    for set in sets {
        let slice = STRINGS.min(set.strings as usize).max(1);
        last = per_token(&set.language, slice)?;
        evaluation += last * set.language.tokens() as f64 * f64::from(set.strings);
    }
    let watched: u32 = config.watch.sets.iter().map(|s| s.sequences).sum();
    let tests = config.optimizer.steps.checked_div(config.watch.every).unwrap_or(1).max(1);
    let watching = last * (watched as usize * config.task.tokens) as f64 * f64::from(tests);
    let training = step * f64::from(config.optimizer.steps) + watching;
    Ok(Cost { step, training, evaluation })
}
