//! The LSTM that the flip-flop paper holds against transformers (`spec/flip-flop.md` 2.3): embedding, one
//! layer, head. Parameters carry the names of PyTorch's `Embedding`, `LSTM` and `Linear`.

use std::sync::Arc;

use refocus_compute::{
    Batch, Error, Kernels, Linear, MatrixSource, Ops, Param, ParamId, Philox, Purpose, Then, Vocab, VocabOut,
};

use crate::draw::Draw;
use crate::error::{Result, TrainError};
use crate::weights::Tensor;

/// Sizes of an LSTM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LstmShape {
    /// Ids.
    pub vocab: usize,
    /// Width of embedding and state.
    pub hidden: usize,
}

/// Names and shapes `[n, k]` (a vector: `[n, 1]`) in the order of their ids.
const NAMES: [&str; 7] = [
    "embedding.weight",
    "lstm.weight_ih_l0",
    "lstm.weight_hh_l0",
    "lstm.bias_ih_l0",
    "lstm.bias_hh_l0",
    "head.weight",
    "head.bias",
];

impl LstmShape {
    fn shapes(self) -> [[usize; 2]; 7] {
        let Self { vocab, hidden } = self;
        let gates = 4 * hidden;
        [
            [vocab, hidden],
            [gates, hidden],
            [gates, hidden],
            [gates, 1],
            [gates, 1],
            [vocab, hidden],
            [vocab, 1],
        ]
    }

    /// First parameters as PyTorch draws them: the embedding `N(0, 1)`, the rest uniform within
    /// `±1/√hidden`.
    ///
    /// # Errors
    /// A size is zero, or larger than any memory.
    pub fn init(self, seed: u64) -> Result<LstmWeights> {
        for (what, got) in [("vocab", self.vocab), ("hidden", self.hidden)] {
            let why = match got {
                0 => "it must not be zero",
                1..=65_536 => continue,
                _ => "at most 65536 make sense",
            };
            return Err(TrainError::Architecture { what, got, why });
        }
        let mut draw = Draw::new(Philox::new(seed, Purpose::new("initial parameters")));
        let bound = 1.0 / (self.hidden as f64).sqrt();
        let tensors = NAMES
            .iter()
            .zip(self.shapes())
            .enumerate()
            .map(|(i, (&name, shape))| {
                let n = shape[0] * shape[1];
                let data = if i == 0 { draw.normal(n, 1.0) } else { draw.uniform(n, bound) };
                Tensor { name: name.to_owned(), shape, data }
            })
            .collect();
        Ok(LstmWeights { shape: self, tensors })
    }
}

/// Parameters of an LSTM as plain numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct LstmWeights {
    shape: LstmShape,
    pub(crate) tensors: Vec<Tensor>,
}

impl LstmWeights {
    /// From tensors of PyTorch's names and shapes; their order does not matter.
    ///
    /// # Errors
    /// Names the tensor that is missing or has another number of values.
    pub fn from_tensors(shape: LstmShape, mut given: Vec<Tensor>) -> Result<Self> {
        let tensors = NAMES
            .iter()
            .zip(shape.shapes())
            .map(|(&name, shape)| {
                let found = given.iter().position(|t| t.name == name && t.data.len() == shape[0] * shape[1]);
                let at = found.ok_or_else(|| {
                    let why = format!("there is no such tensor of {} values", shape[0] * shape[1]);
                    TrainError::Tensor { name: name.to_owned(), why }
                })?;
                Ok(Tensor { shape, ..given.swap_remove(at) })
            })
            .collect::<Result<_>>()?;
        Ok(Self { shape, tensors })
    }

    /// Sizes.
    pub fn shape(&self) -> LstmShape {
        self.shape
    }

    /// Packs the parameters; their ids are their indices.
    ///
    /// # Errors
    /// A value is no number.
    pub fn pack<K: Kernels>(&self, kernels: &mut K) -> refocus_compute::Result<Lstm<K>> {
        let mut matrix = |i: usize| -> refocus_compute::Result<Param<K::W>> {
            let Tensor { name, shape: [n, k], data } = &self.tensors[i];
            let w = kernels.pack(&MatrixSource::from_f32(name, *n, *k, data))?;
            Ok(Param { id: ParamId(i as u32), value: Arc::new(w) })
        };
        let [embedding, input, recurrent, head] = [matrix(0)?, matrix(1)?, matrix(2)?, matrix(5)?];
        let mut vector = |i: usize| -> refocus_compute::Result<Option<Param<K::Buf>>> {
            let t = &self.tensors[i];
            if let Some(at) = t.data.iter().position(|x| !x.is_finite()) {
                let why = format!("value {at} is NaN or infinite");
                return Err(Error::Source { name: t.name.clone(), why });
            }
            let value = Arc::new(kernels.upload(1, t.data.len(), &t.data)?);
            Ok(Some(Param { id: ParamId(i as u32), value }))
        };
        Ok(Lstm {
            vocab: self.shape.vocab,
            hidden: self.shape.hidden,
            embedding,
            input: Linear { w: input, bias: vector(3)? },
            recurrent: Linear { w: recurrent, bias: vector(4)? },
            head: Linear { w: head, bias: vector(6)? },
        })
    }
}

/// An LSTM ready to run.
pub struct Lstm<K: Kernels> {
    vocab: usize,
    hidden: usize,
    embedding: Param<K::W>,
    input: Linear<K>,
    recurrent: Linear<K>,
    head: Linear<K>,
}

impl<K: Kernels> Lstm<K> {
    /// Ids.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Symbols that are best read in one pass: a step takes all weights whether for one sequence or for many, so
    /// many, as long as their states (f32) take no more than 128 MiB.
    pub(crate) fn pass(&self) -> usize {
        ((128 << 20) / 4 / self.hidden.max(1)).max(1)
    }

    /// One question at some rows of sequences end to end.
    ///
    /// # Errors
    /// Ids out of range, or what the backend reports.
    pub fn ask<O: Ops<K = K>>(
        &self,
        o: &mut O,
        ids: &[u32],
        batch: &Batch,
        rows: &[u32],
        want: Vocab,
    ) -> refocus_compute::Result<Option<VocabOut<O::T>>> {
        // An id gives the same gate inputs wherever it stands: they are computed once and looked up.
        let looked_up = self.vocab < ids.len();
        let every: Vec<u32> = if looked_up { (0..self.vocab as u32).collect() } else { Vec::new() };
        let x = o.embed(&self.embedding, if looked_up { &every } else { ids })?;
        let pre = o.linear(&x, &[&self.input], Then::default())?;
        let states = o.lstm(&pre, looked_up.then_some(ids), &self.recurrent, batch)?;
        let asked = o.rows(&states, rows)?;
        Ok(o.vocab(&asked, &self.head, &[want])?.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_lstm_has_its_number_of_parameters() {
        let w = LstmShape { vocab: 5, hidden: 128 }.init(0).expect("parameters");
        assert_eq!(w.tensors.iter().map(|t| t.data.len()).sum::<usize>(), 133_381);
        let spread = |i: usize| {
            let x = &w.tensors[i].data;
            (x.iter().map(|x| f64::from(x * x)).sum::<f64>() / x.len() as f64).sqrt()
        };
        assert!((spread(0) - 1.0).abs() < 0.1, "{}", spread(0));
        assert!((spread(2) * 384f64.sqrt() - 1.0).abs() < 0.02, "{}", spread(2));
    }

    #[test]
    fn impossible_sizes_and_missing_tensors_are_named() {
        let refusal = |vocab, hidden| LstmShape { vocab, hidden }.init(0).err().map(|e| e.to_string());
        assert_eq!(refusal(5, 0).as_deref(), Some("hidden is 0: it must not be zero"));
        assert!(refusal(1 << 40, 8).is_some_and(|e| e.contains("65536")));
        let shape = LstmShape { vocab: 5, hidden: 4 };
        let mut all = shape.init(0).expect("parameters").tensors;
        all.rotate_left(3);
        assert!(LstmWeights::from_tensors(shape, all.clone()).is_ok());
        all.retain(|t| t.name != "lstm.weight_hh_l0");
        let e = LstmWeights::from_tensors(shape, all).err().map(|e| e.to_string());
        assert_eq!(e.as_deref(), Some("lstm.weight_hh_l0: there is no such tensor of 64 values"));
    }
}
