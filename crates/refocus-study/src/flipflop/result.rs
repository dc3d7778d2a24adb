//! The counts of one set.

use refocus_measure::{Bins, Count, ReadErrors};
use serde::{Deserialize, Serialize};

use super::sets::{EvalSet, Role};

/// Errors of one model on one set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetResult {
    /// Name of the set.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Symbols of a string.
    pub tokens: usize,
    /// Registers and symbols of data; absent: one register of a bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alphabet: Option<String>,
    /// How its language deviates from `FFL(T, p)`.
    pub family: String,
    /// Probabilities to write, read and ignore.
    pub p: [f64; 3],
    /// Strings asked.
    pub strings: u32,
    /// Reads asked.
    pub reads: u64,
    /// Wrong answers.
    pub errors: u64,
    /// Errors by reads; nothing without reads.
    pub rate: Option<f64>,
    /// 95 %: Wilson; without an error from 0 to 3/reads.
    pub interval: Option<[f64; 2]>,
    /// By instructions since the last write.
    pub since_write: Vec<BinResult>,
    /// By instructions since the last write or read.
    pub since_either: Vec<BinResult>,
    /// By older writes of the other bit.
    pub stale_other: Vec<BinResult>,
}

/// Counts of a range; ranges without reads are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinResult {
    /// Smallest number.
    pub from: usize,
    /// Largest; none: no end.
    pub to: Option<usize>,
    /// Reads.
    pub reads: u64,
    /// Wrong answers.
    pub errors: u64,
}

fn bins(bins: &Bins) -> Vec<BinResult> {
    let one = |b: refocus_measure::Bin| BinResult {
        from: b.from,
        to: b.to,
        reads: b.count.asked,
        errors: b.count.errors,
    };
    bins.iter().map(one).filter(|b| b.reads > 0).collect()
}

impl SetResult {
    /// From the counts of `strings` strings.
    pub fn new(set: &EvalSet, strings: u32, errors: &ReadErrors) -> Self {
        let p = set.language.probabilities();
        Self {
            name: set.name.clone(),
            role: set.role,
            tokens: set.language.tokens(),
            alphabet: set.alphabet(),
            family: set.language.family().name().to_owned(),
            p: [p.write(), p.read(), p.ignore()],
            strings,
            reads: errors.all.asked,
            errors: errors.all.errors,
            rate: errors.all.rate(),
            interval: errors.all.interval().map(|i| [i.low, i.high]),
            since_write: bins(&errors.since_write),
            since_either: bins(&errors.since_either),
            stale_other: bins(&errors.stale_other),
        }
    }

    /// Errors and reads.
    pub fn count(&self) -> Count {
        Count { errors: self.errors, asked: self.reads }
    }
}
