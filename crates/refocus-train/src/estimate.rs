//! How much work a run is, and how long this machine takes for it.

use std::time::Instant;

use refocus_compute::Kernels;
use refocus_model::{ModelSpec, Part};
use serde::Serialize;

use crate::config::{ModelConfig, RunConfig};
use crate::error::Result;
use crate::flipflop;
use crate::trainer::{Examples, Trainer};

/// The work of a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Symbols learned from.
    pub tokens: f64,
    /// Operations of all matrix products, forward and backward, with causal attention and as if every
    /// position were asked (in clean mode the last layer does less).
    pub flops: f64,
    /// Mean time of a step, the first one aside.
    pub seconds_per_step: f64,
    /// Of all steps, tests and checkpoints aside.
    pub seconds: f64,
}

impl Estimate {
    /// Takes some steps of a run, of which nothing is kept, and times them.
    ///
    /// # Errors
    /// As [`RunConfig::check`] and [`Trainer::step`].
    pub fn measure<K: Kernels>(config: &RunConfig, kernels: K, steps: u32) -> Result<Self> {
        config.check()?;
        let (task, steps) = (&config.task, steps.max(1));
        let language = task.language()?;
        let mut trainer = Trainer::new(config.init()?, config.trainer(), kernels)?;
        let mut start = Instant::now();
        for step in 0..=steps {
            trainer.step(&flipflop::batch(&language, task.mode, config.data_seed, step, task.batch))?;
            if step == 0 {
                start = Instant::now();
            }
        }
        let seconds_per_step = start.elapsed().as_secs_f64() / f64::from(steps);
        Ok(Self {
            tokens: config.symbols()?,
            flops: config.flops()?,
            seconds_per_step,
            seconds: seconds_per_step * f64::from(config.optimizer.steps),
        })
    }
}

impl RunConfig {
    /// Symbols that the run learns from: each step as many as the first.
    fn symbols(&self) -> Result<f64> {
        Ok(self.first_step()?.ids.len() as f64 * f64::from(self.optimizer.steps))
    }

    fn first_step(&self) -> Result<Examples> {
        let (language, task) = (self.task.language()?, &self.task);
        Ok(flipflop::batch(&language, task.mode, self.data_seed, 0, task.batch))
    }

    /// Operations of the run: see [`Estimate::flops`].
    ///
    /// # Errors
    /// Sizes that make no model.
    pub fn flops(&self) -> Result<f64> {
        let first = self.first_step()?;
        let (vocab, tokens) = (self.task.language()?.vocab(), first.ids.len() / first.lengths.len().max(1));
        let forward = match &self.model {
            ModelConfig::Transformer(a) => forward(&a.spec(vocab, self.task.tokens)?, tokens),
            ModelConfig::Lstm { hidden } => {
                let h = *hidden as f64;
                2.0 * (8.0 * h * h + h * vocab as f64)
            }
        };
        Ok(3.0 * forward * self.symbols()?)
    }
}

/// Operations of one symbol's forward pass.
fn forward(spec: &ModelSpec, tokens: usize) -> f64 {
    let size = |part: Part| {
        let [n, k] = part.shape(spec);
        if part.exists(spec) { 2.0 * n as f64 * k as f64 } else { 0.0 }
    };
    let linear = [Part::Q, Part::K, Part::V, Part::O, Part::Gate, Part::Up, Part::Down];
    // Half of all keys on average, for scores and for values.
    let attention = 2.0 * tokens as f64 * (spec.n_heads * spec.d_head) as f64;
    let block: f64 = linear.into_iter().map(size).sum::<f64>() + attention;
    spec.n_layers as f64 * block + size(Part::Unembed)
}

#[cfg(test)]
mod tests {
    use crate::config::Preset;

    /// `spec/flip-flop.md` 7.1.
    #[test]
    fn published_work_is_counted() {
        for (preset, want) in [(Preset::Paper, 1.01e16), (Preset::Lstm, 3.2e12)] {
            let got = preset.config().expect("a preset").flops().expect("a number");
            assert!((got / want - 1.0).abs() < 0.02, "{preset:?}: {got:e}");
        }
    }
}
