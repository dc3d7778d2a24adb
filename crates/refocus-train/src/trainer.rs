//! The training step: forward on a tape, backward, AdamW, pack again.

use refocus_compute::{Batch, Eager, Kernels, KvUse, Ops, RowSet, Tape, Vocab, VocabOut};
use refocus_model::{Mode, Model, Params, Plan, Reading, Readout, RunError, forward};

use crate::adamw::{AdamW, Schedule};
use crate::error::{Result, TrainError};

/// How to train. The default is the paper's canonical run (`spec/flip-flop.md` 2.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Rate, warm-up and number of steps: 3e-4, 50, 10,000.
    pub schedule: Schedule,
    /// Decay of the two moments: 0.9, 0.999.
    pub betas: (f32, f32),
    /// Added to the root of the second moment: 1e-8.
    pub eps: f32,
    /// Decoupled decay of every parameter: 0.1.
    pub weight_decay: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schedule: Schedule { lr: 3e-4, warmup: 50, steps: 10_000 },
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.1,
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

    /// Runs a model on them with one question at the rows asked. In the last layer only these rows have
    /// queries, an MLP and logits.
    fn ask<O: Ops>(&self, o: &mut O, m: &Model<O::K>, want: Vocab) -> Result<VocabOut<O::T>, RunError> {
        let batch = Batch::from_lengths(self.lengths.iter().copied());
        let readout = Readout::logits(&m.spec, Some(RowSet::new(self.rows.clone())), vec![want]);
        let plan = Plan::compile(&m.spec, &batch, &[readout], &[], Mode::default())?;
        let mut readings = forward(o, m, &self.ids, &plan, KvUse::None)?;
        match readings.pop() {
            Some(Reading::Lens(mut sites)) => {
                sites.pop().and_then(|mut answers| answers.pop()).ok_or(RunError::Unread(0))
            }
            _ => Err(RunError::Unread(0)),
        }
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Counted from 1.
    pub step: u32,
    /// Mean negative log-likelihood (nats) of the targets before the step.
    pub loss: f32,
    /// Rate.
    pub lr: f32,
}

/// A model that learns.
pub struct Trainer<K: Kernels> {
    config: Config,
    params: Params,
    optimizer: AdamW,
    model: Model<K>,
    tape: Tape<K>,
}

impl<K: Kernels> Trainer<K> {
    /// Starts from the given parameters.
    ///
    /// # Errors
    /// Parameters or settings that cannot be used.
    pub fn new(params: Params, config: Config, mut kernels: K) -> Result<Self> {
        let model = pack(&params, &mut kernels, 0)?;
        let lr = config.schedule.lr;
        if !(lr >= 0.0 && lr.is_finite()) {
            let (got, why) = (f64::from(lr), "it must not be negative");
            return Err(TrainError::Config { what: "lr", got, why });
        }
        let lengths =
            model.params.iter().map(|p| params.get(p.part, p.layer, p.which).map_or(0, <[f32]>::len));
        let optimizer = AdamW::new(lengths, config.betas, config.eps, config.weight_decay)?;
        Ok(Self { config, params, optimizer, model, tape: Tape::new(kernels) })
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
        let (loss, grads) = self.gradients(examples).map_err(|source| TrainError::Run { step, source })?;
        if !loss.is_finite() {
            return Err(TrainError::Loss { step, loss, lr });
        }
        self.optimizer.advance();
        for (i, (p, d)) in self.model.params.iter().zip(&grads).enumerate() {
            if let Some(x) = self.params.get_mut(p.part, p.layer, p.which) {
                self.optimizer.update(i, x, d, lr);
            }
        }
        self.model = pack(&self.params, self.tape.kernels(), step)?;
        Ok(Report { step, loss, lr })
    }

    /// The loss, and the gradient of each of the model's parameters in their order.
    fn gradients(&mut self, examples: &Examples) -> Result<(f32, Vec<Vec<f32>>), RunError> {
        let nll = match examples.ask(
            &mut self.tape,
            &self.model,
            Vocab::Nll(examples.targets.as_slice().into()),
        )? {
            VocabOut::Values(nll) => nll,
            VocabOut::Top(_) | VocabOut::Ranks(_) => return Err(RunError::Unread(0)),
        };
        let mean = self.tape.mean(&nll)?;
        let loss = self.tape.to_host(&mean)?.first().copied().unwrap_or(f32::NAN);
        let grads = self.tape.backward(&mean, None)?;
        let kernels = self.tape.kernels();
        let mut out = Vec::with_capacity(self.model.params.len());
        for p in &self.model.params {
            out.push(match grads.param(p.id) {
                Some(d) => kernels.download(d)?,
                // Nothing of this batch reached it.
                None => vec![0.0; self.params.get(p.part, p.layer, p.which).map_or(0, <[f32]>::len)],
            });
        }
        Ok((loss, out))
    }

    /// Steps taken.
    pub fn steps(&self) -> u32 {
        self.optimizer.step()
    }

    /// The parameters as they are now.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The model as it is now, and operations to run it with.
    pub fn model(&mut self) -> (&Model<K>, &mut Eager<K>) {
        (&self.model, self.tape.eager())
    }
}

fn pack<K: Kernels>(params: &Params, kernels: &mut K, step: u32) -> Result<Model<K>> {
    Model::from_params(params.spec(), kernels, params).map_err(|source| TrainError::Params { step, source })
}

/// First choices that were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Rows whose highest logit is the target's.
    pub right: usize,
    /// Rows asked.
    pub asked: usize,
}

impl Score {
    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }
}

/// Asks a model for its first choice at the rows of some examples.
///
/// # Errors
/// As [`forward`].
pub fn score<O: Ops>(o: &mut O, m: &Model<O::K>, examples: &Examples) -> Result<Score, RunError> {
    let VocabOut::Top(top) = examples.ask(o, m, Vocab::Top(1))? else { return Err(RunError::Unread(0)) };
    let first = top.iter().map(|row| row.first().map(|choice| choice.0));
    let right = first.zip(&examples.targets).filter(|(choice, target)| *choice == Some(**target)).count();
    Ok(Score { right, asked: examples.rows.len() })
}
