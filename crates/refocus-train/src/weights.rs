//! What learns: the parameters of a transformer or an LSTM, as plain numbers and packed.

use refocus_compute::{Batch, Kernels, KvUse, Ops, ParamId, RowSet, Vocab, VocabOut};
use refocus_model::{
    LoadError, Mode, Model, Noise, Params, Plan, Reading, Readout, RunError, forward, param_name,
};

use crate::error::{Result, TrainError};
use crate::lstm::{Lstm, LstmWeights};
use crate::trainer::Examples;

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// `[n_out, n_in]`; a vector `[n, 1]`.
    pub shape: [usize; 2],
    /// Row-major.
    pub data: Vec<f32>,
}

/// The parameters of one of the two kinds of models.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// A transformer.
    Transformer(Box<Params>),
    /// An LSTM.
    Lstm(LstmWeights),
}

impl From<Params> for Weights {
    fn from(p: Params) -> Self {
        Weights::Transformer(Box::new(p))
    }
}

impl From<LstmWeights> for Weights {
    fn from(w: LstmWeights) -> Self {
        Weights::Lstm(w)
    }
}

impl Weights {
    /// How many numbers they are.
    pub fn count(&self) -> usize {
        self.values().map(|(_, x)| x.len()).sum()
    }

    /// The transformer, if it is one.
    pub fn params(&self) -> Option<&Params> {
        if let Weights::Transformer(p) = self { Some(p) } else { None }
    }

    /// Every parameter's name and values, in one fixed order.
    pub fn values(&self) -> Box<dyn Iterator<Item = (String, &[f32])> + '_> {
        match self {
            Weights::Transformer(p) => {
                Box::new(p.iter().map(|(part, layer, which, x)| (param_name(part, layer, which), x)))
            }
            Weights::Lstm(w) => Box::new(w.tensors.iter().map(|t| (t.name.clone(), t.data.as_slice()))),
        }
    }

    /// The values in the same order.
    pub(crate) fn values_mut(&mut self) -> Vec<&mut [f32]> {
        match self {
            Weights::Transformer(p) => p.values_mut().collect(),
            Weights::Lstm(w) => w.tensors.iter_mut().map(|t| t.data.as_mut_slice()).collect(),
        }
    }

    /// Packs them for a backend; `step` is for messages.
    ///
    /// # Errors
    /// A value is no number.
    pub fn pack<K: Kernels>(&self, kernels: &mut K, step: u32) -> Result<Net<K>> {
        match self {
            Weights::Transformer(p) => Model::from_params(p.spec(), kernels, &**p)
                .map(|m| Net::Transformer(Box::new(m)))
                .map_err(|source| TrainError::Params { step, source }),
            Weights::Lstm(w) => w.pack(kernels).map(Net::Lstm).map_err(|source| {
                let source = LoadError::Pack { path: "(parameters in memory)".into(), source };
                TrainError::Params { step, source }
            }),
        }
    }
}

/// An answer, and the statistics of each layer.
type Learned<T> = (VocabOut<T>, Vec<T>);

/// A model of either kind, ready to run.
pub enum Net<K: Kernels> {
    /// A transformer; every readout and patch works on it.
    Transformer(Box<Model<K>>),
    /// An LSTM.
    Lstm(Lstm<K>),
}

impl<K: Kernels> Net<K> {
    /// The transformer, if it is one.
    pub fn transformer(&self) -> Option<&Model<K>> {
        if let Net::Transformer(m) = self { Some(m) } else { None }
    }

    /// Symbols that are best read in one pass, of as many sequences as that takes.
    pub fn pass(&self) -> usize {
        match self {
            // Rows enough for every kernel, even of one string; more only take memory.
            Net::Transformer(_) => 1 << 13,
            Net::Lstm(m) => m.pass(),
        }
    }

    /// The id of each parameter, in the order of [`Weights::values`].
    pub(crate) fn ids(&self, weights: &Weights) -> Vec<ParamId> {
        match (self, weights) {
            (Net::Transformer(m), Weights::Transformer(p)) => {
                let id = |part, layer, which| {
                    m.params.iter().find(|i| (i.part, i.layer, i.which) == (part, layer, which)).map(|i| i.id)
                };
                p.iter().filter_map(|(part, layer, which, _)| id(part, layer, which)).collect()
            }
            (_, weights) => (0..weights.values().count() as u32).map(ParamId).collect(),
        }
    }

    /// Asks one question at the rows of some examples. In a transformer's last layer only these rows have
    /// queries, an MLP and logits.
    pub(crate) fn ask<O: Ops<K = K>>(
        &self,
        o: &mut O,
        examples: &Examples,
        want: Vocab,
    ) -> Result<VocabOut<O::T>, RunError> {
        Ok(self.learn(o, examples, want, None, false)?.0)
    }

    /// As [`Net::ask`], with dropout, and with the statistics of every attention row where they are wanted:
    /// `[tokens, heads · 3]` a layer. They need the last layer's other queries as well, but not the rest.
    pub(crate) fn learn<O: Ops<K = K>>(
        &self,
        o: &mut O,
        examples: &Examples,
        want: Vocab,
        noise: Option<Noise>,
        stats: bool,
    ) -> Result<Learned<O::T>, RunError> {
        let batch = Batch::from_lengths(examples.lengths.iter().copied());
        let m = match self {
            Net::Transformer(m) => m,
            Net::Lstm(m) => {
                let answer = m.ask(o, &examples.ids, &batch, &examples.rows, want)?;
                return Ok((answer.ok_or(RunError::Unread(0))?, Vec::new()));
            }
        };
        let rows = Some(RowSet::new(examples.rows.clone()));
        let mut readouts = vec![Readout::logits(&m.spec, rows, vec![want])];
        if stats {
            let of = |layer| Readout::Attention { layer, rows: None, groups: None, stats: true };
            readouts.extend((0..m.spec.n_layers).map(of));
        }
        let mut plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default())?;
        if let Some(noise) = noise {
            plan = plan.with_noise(noise);
        }
        let (mut answer, mut measured) = (None, Vec::new());
        for reading in forward(o, m, &examples.ids, &plan, KvUse::None)? {
            match reading {
                Reading::Lens(mut sites) => answer = sites.pop().and_then(|mut answers| answers.pop()),
                Reading::Attention { stats, .. } => measured.extend(stats),
                _ => {}
            }
        }
        Ok((answer.ok_or(RunError::Unread(0))?, measured))
    }
}
