//! The diagnosis: each study's question at a size that fits a time, one finding a probe.
//!
//! A [`Probe`] that is [`run`] gives a [`Finding`]: measures with intervals, a verdict, and where in the model it
//! happens. [`METRICS`] names every measure; [`Condition`] is a test on
//! them. Sizes follow from [`Budget`] and the model alone, never from a clock, so that the same command gives
//! the same numbers.

mod condition;
mod distractors;
mod error;
mod finding;
mod flipflop;
mod metrics;
mod mitigate;
mod overthinking;
mod recall;
mod size;
mod tables;

pub use self::condition::{Condition, ConditionError};
pub use self::error::DiagnoseError;
pub use self::finding::{Example, Finding, Measure, State};
pub use self::metrics::{METRICS, Metric, known};
pub use self::mitigate::{Change, Mitigation, Rewriting, TEXT_COST, Tried, Untouched, mitigate};
pub use self::size::Budget;
pub use self::tables::write_tables;

use refocus_compute::Ops;
use refocus_model::{ChatTemplate, Model, Tokenizer};
use refocus_tasks::classify::{Dataset, Task};
use refocus_tasks::recall::Relation;
use serde::{Deserialize, Serialize};

/// One study's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Does the model keep one bit over a distance?
    Flipflop,
    /// Does it follow false demonstrations against what it knows?
    Overthinking,
    /// Do its last layers take back what it knows?
    Recall,
    /// Is it swayed by sentences that do not matter?
    Distractors,
}

impl Probe {
    /// In the order in which they run.
    pub const ALL: [Self; 4] = [Self::Flipflop, Self::Overthinking, Self::Recall, Self::Distractors];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flipflop => "flipflop",
            Self::Overthinking => "overthinking",
            Self::Recall => "recall",
            Self::Distractors => "distractors",
        }
    }
}

/// The task of [`Probe::Overthinking`] that the project brings: words of three kinds.
pub const TOY: &str = "unnatural";

/// The relation of [`Probe::Recall`] and [`Probe::Distractors`] that the project brings.
pub const CAPITAL: &str = "capital";

/// What a probe runs on.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The chat template, where the model has one and a patch is searched: without one nothing is rewritten.
    pub template: Option<&'a ChatTemplate>,
    /// Seed of everything drawn.
    pub seed: u64,
    /// How much may be asked.
    pub budget: Budget,
    /// What is sorted where demonstrations mislead, and its rows: [`TOY`], where nothing else is chosen.
    pub task: (&'a Task, &'a Dataset),
    /// The facts that are asked for: [`CAPITAL`], where nothing else is chosen.
    pub relation: &'a Relation,
}

/// A model to be diagnosed, without a template, with the toy task and the capitals.
#[cfg(test)]
struct Toy {
    checkpoint: refocus_model::Checkpoint,
    tokenizer: Tokenizer,
    task: Task,
    data: Dataset,
    relation: Relation,
}

#[cfg(test)]
impl Toy {
    /// The tiny random model.
    fn new() -> Self {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
        Self::of(refocus_model::Checkpoint::open(folder).expect("a fixture"))
    }

    fn of(checkpoint: refocus_model::Checkpoint) -> Self {
        let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
        let task = refocus_tasks::classify::builtin(TOY).expect("a task");
        let data = Dataset::read(&task, None).expect("rows");
        let relation = refocus_tasks::recall::builtin(CAPITAL).expect("a relation");
        Self { checkpoint, tokenizer, task, data, relation }
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            tokenizer: &self.tokenizer,
            template: None,
            seed: 0,
            budget: Budget::TwoMinutes,
            task: (&self.task, &self.data),
            relation: &self.relation,
        }
    }
}

/// Runs one probe. `tick` is told how much of the probe's work is done, and how much there is.
///
/// # Errors
/// What the forward pass reports. What a model cannot be asked is a finding that says so, not an error.
pub fn run<O: Ops>(
    probe: Probe,
    o: &mut O,
    m: &Model<O::K>,
    subject: Subject<'_>,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<Finding, DiagnoseError> {
    match probe {
        Probe::Flipflop => flipflop::run(o, m, subject, tick),
        Probe::Overthinking => overthinking::run(o, m, subject, tick),
        Probe::Recall => recall::run(o, m, subject, tick),
        Probe::Distractors => distractors::run(o, m, subject, tick),
    }
}
