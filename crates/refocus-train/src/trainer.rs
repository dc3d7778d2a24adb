//! The training step: forward on a tape, backward, AdamW, pack again.

use refocus_compute::{Eager, Kernels, Ops, ParamId, Tape, Vocab, VocabOut};
use refocus_model::{Noise, RunError};

use crate::adamw::{AdamW, Schedule};
use crate::error::{Result, TrainError};
use crate::sharpen::Sharpen;
use crate::weights::{Net, Weights};

/// How to train. The default is the paper's canonical run (`spec/flip-flop.md` 2.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Rate, warm-up and number of steps: 3e-4, 50, 10,000.
    pub schedule: Schedule,
    /// Decay of the two moments: 0.9, 0.999.
    pub betas: (f32, f32),
    /// Added to the root of the second moment: 1e-8.
    pub eps: f32,
    /// Decoupled decay of every parameter, norms, biases and embeddings among them: 0.1. The paper names
    /// no exception, and its code base has none.
    pub weight_decay: f32,
    /// Longest gradient, all parameters together; longer ones are shortened to it. None (the default): as
    /// they are.
    pub clip: Option<f32>,
    /// Dropout of a transformer; its step is that of the run. None (the default): none.
    pub noise: Option<Noise>,
    /// A penalty on soft attention. None (the default): none.
    pub sharpen: Option<Sharpen>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schedule: Schedule { lr: 3e-4, warmup: 50, steps: 10_000 },
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.1,
            clip: None,
            noise: None,
            sharpen: None,
        }
    }
}

/// Sequences end to end, and what is asked of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examples {
    /// Ids of all sequences, one after another.
    pub ids: Vec<u32>,
    /// Length of each sequence.
    pub lengths: Vec<usize>,
    /// The rows (indices into `ids`) that are asked for the next id, ascending.
    pub rows: Vec<u32>,
    /// What follows each of them.
    pub targets: Vec<u32>,
}

impl Examples {
    /// What is wrong with them, apart from what the forward pass will find.
    fn defect(&self) -> Option<String> {
        let sum: usize = self.lengths.iter().sum();
        if sum != self.ids.len() {
            return Some(format!("{} ids for sequences of {sum} in all", self.ids.len()));
        }
        if self.rows.is_empty() || self.rows.len() != self.targets.len() {
            return Some(format!("{} rows are asked, for {} targets", self.rows.len(), self.targets.len()));
        }
        let ascending = self.rows.windows(2).all(|w| w[0] < w[1]);
        (!ascending).then(|| "the rows that are asked do not ascend".to_owned())
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Counted from 1.
    pub step: u32,
    /// Mean negative log-likelihood (nats) of the targets before the step, penalties aside.
    pub loss: f32,
    /// Rate.
    pub lr: f32,
}

/// A model that learns.
pub struct Trainer<K: Kernels> {
    config: Config,
    weights: Weights,
    optimizer: AdamW,
    net: Net<K>,
    /// Of each parameter, in the order of the weights.
    ids: Vec<ParamId>,
    tape: Tape<K>,
}

impl<K: Kernels> Trainer<K> {
    /// Starts from the given parameters.
    ///
    /// # Errors
    /// Parameters or settings that cannot be used.
    pub fn new(weights: impl Into<Weights>, config: Config, mut kernels: K) -> Result<Self> {
        let weights = weights.into();
        let net = weights.pack(&mut kernels, 0)?;
        let lr = config.schedule.lr;
        if !(lr >= 0.0 && lr.is_finite()) {
            let (got, why) = (f64::from(lr), "it must not be negative");
            return Err(TrainError::Config { what: "lr", got, why });
        }
        if let Some(clip) = config.clip
            && !(clip > 0.0 && clip.is_finite())
        {
            let (got, why) = (f64::from(clip), "it must be positive");
            return Err(TrainError::Config { what: "clip", got, why });
        }
        let lengths = weights.values().map(|(_, x)| x.len());
        let optimizer = AdamW::new(lengths, config.betas, config.eps, config.weight_decay)?;
        let ids = net.ids(&weights);
        Ok(Self { config, weights, optimizer, net, ids, tape: Tape::new(kernels) })
    }

    /// One step on one batch. After an error the parameters may be half updated: the run is over.
    ///
    /// # Errors
    /// Names the step: examples that do not fit, a loss or parameters that are no numbers.
    pub fn step(&mut self, examples: &Examples) -> Result<Report> {
        let step = self.optimizer.step() + 1;
        let lr = self.config.schedule.at(step);
        if let Some(why) = examples.defect() {
            return Err(TrainError::Examples { step, why });
        }
        let (loss, mut grads) =
            self.gradients(examples).map_err(|source| TrainError::Run { step, source })?;
        if !loss.is_finite() {
            return Err(TrainError::Loss { step, loss, lr });
        }
        if let Some(longest) = self.config.clip {
            shorten(&mut grads, longest);
        }
        self.optimizer.advance();
        for (i, (x, d)) in self.weights.values_mut().into_iter().zip(&grads).enumerate() {
            self.optimizer.update(i, x, d, lr);
        }
        self.net = self.weights.pack(self.tape.kernels(), step)?;
        Ok(Report { step, loss, lr })
    }

    /// The loss, and the gradient of each parameter in their order.
    fn gradients(&mut self, examples: &Examples) -> Result<(f32, Vec<Vec<f32>>), RunError> {
        let step = self.optimizer.step();
        let noise = self.config.noise.map(|n| Noise { step, ..n });
        let sharpen = self.config.sharpen.map(|s| (s, s.at(step + 1, self.config.schedule.steps)));
        let sharpen = sharpen.filter(|(_, weight)| *weight != 0.0);
        let want = Vocab::Nll(examples.targets.as_slice().into());
        let (answer, stats) = self.net.learn(&mut self.tape, examples, want, noise, sharpen.is_some())?;
        let VocabOut::Values(nll) = answer else { return Err(RunError::Unread(0)) };
        let mean = self.tape.mean(&nll)?;
        let loss = self.tape.to_host(&mean)?.first().copied().unwrap_or(f32::NAN);
        let total = match sharpen {
            Some((s, weight)) => s.add_to(&mut self.tape, &mean, &stats, weight)?,
            None => mean,
        };
        let grads = self.tape.backward(&total, None)?;
        let kernels = self.tape.kernels();
        let mut out = Vec::with_capacity(self.ids.len());
        for (id, (_, x)) in self.ids.iter().zip(self.weights.values()) {
            out.push(match grads.param(*id) {
                Some(d) => kernels.download(d)?,
                // Nothing of this batch reached it.
                None => vec![0.0; x.len()],
            });
        }
        Ok((loss, out))
    }

    /// Steps taken.
    pub fn steps(&self) -> u32 {
        self.optimizer.step()
    }

    /// The parameters as they are now.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The optimizer as it is now.
    pub(crate) fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Goes on from values and moments of `step` steps ago, each as long as the parameters they belong to.
    pub(crate) fn resume(
        &mut self,
        step: u32,
        values: Vec<Vec<f32>>,
        moments: Vec<(Vec<f32>, Vec<f32>)>,
    ) -> Result<()> {
        for (x, value) in self.weights.values_mut().into_iter().zip(values) {
            x.copy_from_slice(&value);
        }
        self.optimizer.resume(step, moments);
        self.net = self.weights.pack(self.tape.kernels(), step)?;
        Ok(())
    }

    /// The model as it is now, and operations to run it with.
    pub fn model(&mut self) -> (&Net<K>, &mut Eager<K>) {
        (&self.net, self.tape.eager())
    }
}

/// Scales all gradients together so that their length is at most `longest`.
fn shorten(grads: &mut [Vec<f32>], longest: f32) {
    let square: f64 = grads.iter().flatten().map(|&d| f64::from(d) * f64::from(d)).sum();
    let length = square.sqrt();
    if length > f64::from(longest) {
        let by = (f64::from(longest) / length) as f32;
        grads.iter_mut().flatten().for_each(|d| *d *= by);
    }
}

/// First choices that were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Questions whose answer had the highest logit.
    pub right: usize,
    /// Questions.
    pub asked: usize,
}

impl Score {
    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }
}

/// A model's first choice at each row of some examples.
///
/// # Errors
/// As [`refocus_model::forward`].
pub fn choices<O: Ops>(o: &mut O, m: &Net<O::K>, examples: &Examples) -> Result<Vec<u32>, RunError> {
    let VocabOut::Top(top) = m.ask(o, examples, Vocab::Top(1))? else { return Err(RunError::Unread(0)) };
    top.iter().map(|row| row.first().map(|c| c.0).ok_or(RunError::Unread(0))).collect()
}
