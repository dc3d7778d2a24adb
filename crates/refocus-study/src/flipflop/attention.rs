//! How hard a model's attention is at reads (claim R8 of the paper).

use refocus_compute::{Batch, KvUse, Ops, RowSet};
use refocus_model::{Mode as PlanMode, Plan, Reading, Readout, RunError, forward};
use refocus_tasks::flipflop::Split;
use refocus_train::Net;
use refocus_train::flipflop::{Mode, examples};
use serde::{Deserialize, Serialize};

use super::sets::EvalSet;

/// Strings that are looked at.
const STRINGS: usize = 32;

/// Attention at reads, means over reads of the first strings of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sharpness {
    /// Set.
    pub set: String,
    /// Reads.
    pub reads: usize,
    /// Entropy of a row of weights in nats, `[layers][heads]`.
    pub entropy: Vec<Vec<f64>>,
    /// Greatest weight, `[layers][heads]`.
    pub greatest: Vec<Vec<f64>>,
}

impl Sharpness {
    /// Mean entropy over layers and heads.
    pub fn mean_entropy(&self) -> f64 {
        let n = self.entropy.iter().map(Vec::len).sum::<usize>().max(1);
        self.entropy.iter().flatten().sum::<f64>() / n as f64
    }
}

/// Looks at the attention of a transformer; an LSTM has none.
///
/// # Errors
/// As [`forward`].
pub fn sharpness<O: Ops>(
    o: &mut O,
    net: &Net<O::K>,
    set: &EvalSet,
    seed: u64,
) -> Result<Option<Sharpness>, RunError> {
    let Net::Transformer(m) = net else { return Ok(None) };
    let alphabet = set.language.alphabet();
    let strings = set.language.strings(seed, Split::Test, 0).take(STRINGS);
    let asked = examples(alphabet, Mode::Clean, strings);
    let batch = Batch::from_lengths(asked.lengths.iter().copied());
    // Where the first symbol of each read's datum is asked.
    let reads: Vec<u32> = asked.rows.iter().step_by(alphabet.width()).copied().collect();
    let rows = Some(RowSet::new(reads.clone()));
    let of = |layer| Readout::Attention { layer, rows: rows.clone(), groups: None, stats: true };
    let readouts: Vec<Readout> = (0..m.spec.n_layers).map(of).collect();
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], PlanMode::default())?;
    let (mut entropy, mut greatest) = (Vec::new(), Vec::new());
    for reading in forward(o, m, &asked.ids, &plan, KvUse::None)? {
        let Reading::Attention { stats: Some(stats), .. } = reading else { return Err(RunError::Unread(0)) };
        let (rows, width) = o.shape(&stats);
        let values = o.to_host(&stats)?;
        // Entropy, ℓ2 norm and maximum of each head.
        let mean = |which: usize| -> Vec<f64> {
            let head =
                |h: usize| values.chunks_exact(width).map(|r| f64::from(r[3 * h + which])).sum::<f64>();
            (0..width / 3).map(|h| head(h) / rows.max(1) as f64).collect()
        };
        entropy.push(mean(0));
        greatest.push(mean(2));
    }
    Ok(Some(Sharpness { set: set.name.clone(), reads: reads.len(), entropy, greatest }))
}
