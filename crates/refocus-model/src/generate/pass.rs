//! One forward pass over parts of sequences.

use refocus_compute::{Batch, Kernels, KvSeq, KvUse, Ops, RowSet, Seg, Vocab, VocabOut, ln, softmax_weights};

use super::changes::{self, Part};
use crate::forward::{Captured, Reading, forward};
use crate::patch::Decode;
use crate::plan::{Mode, Plan, Readout};
use crate::run_error::RunError;
use crate::weights::Model;

/// The cache of a sequence on the backend of `O`.
pub(super) type Cache<O> = KvSeq<<<O as Ops>::K as Kernels>::Page>;

/// Runs parts whose exits are the same; `ids` are those of their positions, end to end.
pub(super) fn run<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    parts: &[Part],
    ids: &[u32],
    readouts: &[Readout],
    kv: KvUse<'_, <O::K as Kernels>::Page>,
) -> Result<Captured<O::T>, RunError> {
    let mut batch = Batch::default();
    let mut start = 0;
    for part in parts {
        let rows = start..start + part.positions.len() as u32;
        start = rows.end;
        batch.segs.push(Seg { rows, pos0: part.positions.start as u32 });
    }
    let mode = Mode { keeps_cache: matches!(kv, KvUse::Append(_)), decoding: true };
    let plan = Plan::compile(&m.spec, &batch, readouts, &changes::applied(parts), mode)?;
    forward(o, m, ids, &plan, kv)
}

/// What is asked of the last row of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Nothing: more of the sequence follows.
    Nothing,
    /// The highest logits.
    Top(usize),
    /// All logits.
    All,
}

/// Logits of one row as far as they were asked for, and their log-sum-exp.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub lse: f32,
    pub logits: Logits,
}

/// The logits of a [`Row`].
#[derive(Clone, Debug)]
pub(super) enum Logits {
    /// The highest, best first.
    Top(Vec<(u32, f32)>),
    /// All.
    All(Vec<f32>),
}

/// What `asked` wants of the last rows of parts: readouts for [`run`], then rows from what they gave.
pub(super) struct Questions {
    asked: Vec<Ask>,
    readouts: Vec<Readout>,
}

impl Questions {
    pub(super) fn new<K: Kernels>(m: &Model<K>, parts: &[Part], asked: Vec<Ask>) -> Self {
        let (mut some, mut all, mut most, mut end) = (Vec::new(), Vec::new(), 0, 0);
        for (part, ask) in parts.iter().zip(&asked) {
            end += part.positions.len() as u32;
            match ask {
                Ask::Nothing => {}
                Ask::Top(n) => {
                    some.push(end - 1);
                    most = most.max(*n);
                }
                Ask::All => all.push(end - 1),
            }
        }
        let mut readouts = Vec::new();
        let mut ask = |rows: Vec<u32>, what| {
            if !rows.is_empty() {
                let want = vec![what, Vocab::LogSumExp];
                readouts.push(Readout::logits(&m.spec, Some(RowSet::new(rows)), want));
            }
        };
        ask(some, Vocab::Top(most));
        ask(all, Vocab::All);
        Self { asked, readouts }
    }

    pub(super) fn readouts(&self) -> &[Readout] {
        &self.readouts
    }

    /// For each part its row, `None` where nothing was asked.
    pub(super) fn rows<O: Ops>(
        self,
        o: &mut O,
        m: &Model<O::K>,
        readings: &[Reading<O::T>],
    ) -> Result<Vec<Option<Row>>, RunError> {
        let (mut some, mut all) = (Vec::new().into_iter(), Vec::new().into_iter());
        for reading in readings {
            match reading.lens(0) {
                Some([VocabOut::Top(top), VocabOut::Values(lse)]) => {
                    let lse = o.to_host(lse)?;
                    let rows =
                        top.iter().zip(lse).map(|(t, lse)| Row { lse, logits: Logits::Top(t.clone()) });
                    some = rows.collect::<Vec<_>>().into_iter();
                }
                Some([VocabOut::Values(logits), VocabOut::Values(lse)]) => {
                    let (logits, lse) = (o.to_host(logits)?, o.to_host(lse)?);
                    let rows = logits.chunks_exact(m.spec.vocab).zip(lse);
                    let rows = rows.map(|(l, lse)| Row { lse, logits: Logits::All(l.to_vec()) });
                    all = rows.collect::<Vec<_>>().into_iter();
                }
                _ => return Err(RunError::Unread(0)),
            }
        }
        let row = |ask: Ask| match ask {
            Ask::Nothing => None,
            Ask::Top(_) => some.next(),
            Ask::All => all.next(),
        };
        Ok(self.asked.into_iter().map(row).collect())
    }
}

/// Applies `[[decode]]` entries to a row of final logits and gives their new log-sum-exp.
pub(super) fn adjust(decode: &[Decode], logits: &mut [f32]) -> f32 {
    for d in decode {
        let _done = d.apply(logits);
    }
    if logits.iter().any(|x| x.is_nan()) {
        return f32::NAN;
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = softmax_weights(logits, max, 1.0).iter().sum();
    (f64::from(max) + ln(sum)) as f32
}
