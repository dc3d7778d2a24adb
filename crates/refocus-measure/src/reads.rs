//! Errors at the reads of flip-flop strings: counted, and by what makes a read hard
//! (`spec/flip-flop.md` 4.3).

use refocus_tasks::flipflop::Read;

use crate::intervals::{Interval, rule_of_three, wilson};

/// Errors among questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Wrong answers.
    pub errors: u64,
    /// Questions.
    pub asked: u64,
}

impl Count {
    /// Counts one question.
    pub fn add(&mut self, wrong: bool) {
        self.errors += u64::from(wrong);
        self.asked += 1;
    }

    /// Errors by question; `None` without questions.
    pub fn rate(&self) -> Option<f64> {
        (self.asked > 0).then(|| self.errors as f64 / self.asked as f64)
    }

    /// What the rate can be with 95 % confidence: Wilson's interval, and without an error from 0 to the
    /// bound of the rule of three. `None` without questions.
    pub fn interval(&self) -> Option<Interval> {
        match self.errors {
            0 => rule_of_three(self.asked).map(|high| Interval { low: 0.0, high }),
            _ => wilson(self.errors, self.asked),
        }
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.errors += other.errors;
        self.asked += other.asked;
    }
}

/// Counts by a whole number. Each bin reaches from its bound to the next; the last has no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bins {
    bounds: &'static [usize],
    counts: Vec<Count>,
}

/// One bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bin {
    /// Smallest number in it.
    pub from: usize,
    /// Largest number in it; `None` in the last.
    pub to: Option<usize>,
    /// What was counted.
    pub count: Count,
}

impl Bins {
    fn new(bounds: &'static [usize]) -> Self {
        Self { bounds, counts: vec![Count::default(); bounds.len()] }
    }

    fn add(&mut self, number: usize, wrong: bool) {
        // Bounds start at the smallest number there is.
        let at = self.bounds.partition_point(|&b| b <= number).saturating_sub(1);
        self.counts[at].add(wrong);
    }

    /// The bins in order, empty ones as well.
    pub fn iter(&self) -> impl Iterator<Item = Bin> + '_ {
        let to = self.bounds.iter().skip(1).map(|b| Some(b - 1)).chain([None]);
        let bin = |((&from, to), &count)| Bin { from, to, count };
        self.bounds.iter().zip(to).zip(&self.counts).map(bin)
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += *theirs;
        }
    }
}

/// Distances: 145 is half way beyond what one training run of the paper shows; the last are of strings
/// longer than the paper's.
const DISTANCES: [usize; 12] = [1, 2, 3, 6, 11, 21, 51, 101, 146, 256, 1024, 4096];
/// Numbers of stale writes.
const STALE: [usize; 10] = [0, 1, 2, 3, 5, 9, 17, 33, 65, 129];

/// Errors at reads, in all and by what precedes a read. Parts of a set, counted anywhere in any order,
/// merge to the same counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadErrors {
    /// All reads: errors by reads is the paper's glitch rate.
    pub all: Count,
    /// By instructions since the last write, where a model that looks for writes has to look.
    pub since_write: Bins,
    /// By instructions since the last write or read, the nearest place that has the answer.
    pub since_either: Bins,
    /// By older writes of another datum.
    pub stale_other: Bins,
}

impl ReadErrors {
    /// Nothing counted.
    pub fn new() -> Self {
        Self {
            all: Count::default(),
            since_write: Bins::new(&DISTANCES),
            since_either: Bins::new(&DISTANCES),
            stale_other: Bins::new(&STALE),
        }
    }

    /// Counts the answer to a read.
    pub fn add(&mut self, read: &Read, wrong: bool) {
        self.all.add(wrong);
        self.since_write.add(read.since_write, wrong);
        self.since_either.add(read.since_either, wrong);
        self.stale_other.add(read.stale_other, wrong);
    }

    /// Takes in what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.all += other.all;
        self.since_write.merge(&other.since_write);
        self.since_either.merge(&other.since_either);
        self.stale_other.merge(&other.stale_other);
    }
}

impl Default for ReadErrors {
    fn default() -> Self {
        Self::new()
    }
}
