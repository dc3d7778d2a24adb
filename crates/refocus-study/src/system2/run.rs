//! One suite asked in all arms.

use std::path::Path;

use refocus_system2::Chat;
use refocus_tasks::planted::Item;

use super::answer::{Record, ask};
use super::arm::Arm;
use super::error::System2Error;
use super::kept::Kept;
use super::memo::Memo;
use super::suite::{Measure, Suite};
use super::verdict::FLOOR;
use crate::overthinking::Store;

/// How far a suite is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Answers that are there.
    pub done: usize,
    /// Answers that will be.
    pub of: usize,
    /// The arm that comes next.
    pub arm: &'static str,
}

/// A suite with what came of it.
#[derive(Clone, Debug)]
pub struct SuiteRun {
    /// Which.
    pub suite: Suite,
    /// What was asked.
    pub items: Vec<Item>,
    /// By item.
    pub kept: Vec<Kept>,
    /// Arms that were asked; only oracle and baseline where the oracle stays below the floor.
    pub arms: Vec<Arm>,
    /// Whether the oracle stayed below the floor.
    pub below_floor: bool,
    /// Whether it was not stopped. What was, has the items that were asked in all arms, or where there are none, all
    /// items in the first two arms.
    pub whole: bool,
}

/// Asks every item in every arm, what is in the folder already left as it is. Oracle and baseline come first: where
/// the oracle answers less than 30 % rightly there is nothing to win, and the other arms are not asked.
///
/// `tick` hears of every answer and ends the run by `false`.
///
/// # Errors
/// The model or the folder failed; what was answered before is kept.
pub fn run_suite(
    chat: &mut dyn Chat,
    (suite, items): (Suite, Vec<Item>),
    arms: &[Arm],
    (store, dir): (&Store, &Path),
    tick: &mut dyn FnMut(Progress) -> bool,
) -> Result<SuiteRun, System2Error> {
    let mut kept = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        kept.push(Kept::load(dir, suite, at, item)?);
    }
    let (first, rest): (Vec<Arm>, Vec<Arm>) =
        arms.iter().partition(|a| matches!(a, Arm::Oracle | Arm::Baseline));
    let mut run = SuiteRun { suite, items, kept, arms: first.clone(), below_floor: false, whole: true };
    let mut memo = Memo::new(chat);
    let of = run.items.len() * arms.len();
    run.whole = run.fill(&mut memo, store, 0, of, tick)?;
    run.below_floor = run.whole && is_below_floor(suite, &run.kept);
    if run.whole && !run.below_floor {
        run.arms = rest.clone();
        run.whole = run.fill(&mut memo, store, run.items.len() * first.len(), of, tick)?;
    }
    if !run.below_floor {
        run.arms = [first.as_slice(), &rest].concat();
    }
    if !run.whole {
        if run.answered() == 0 {
            run.arms = first;
        }
        let answered = run.answered();
        run.items.truncate(answered);
        run.kept.truncate(answered);
    }
    Ok(run)
}

impl SuiteRun {
    /// Asks what is missing in the run's arms. `false` where it was stopped.
    fn fill(
        &mut self,
        memo: &mut Memo<'_>,
        store: &Store,
        mut done: usize,
        of: usize,
        tick: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<bool, System2Error> {
        for (at, item) in self.items.iter().enumerate() {
            memo.clear();
            let kept = &mut self.kept[at];
            let (before, mut ended) = (kept.arms.len(), Ok(true));
            for &arm in &self.arms {
                if kept.of(arm).is_none() {
                    if !tick(Progress { done, of, arm: arm.name() }) {
                        ended = Ok(false);
                        break;
                    }
                    match ask(memo, item, arm) {
                        Ok(record) => kept.arms.insert(arm.name().to_owned(), record),
                        Err(source) => {
                            let (suite, item) = (self.suite.name(), item.key.clone());
                            ended = Err(System2Error::Chat { suite, item, arm: arm.name(), source });
                            break;
                        }
                    };
                }
                done += 1;
            }
            // What was answered before something failed is not lost.
            if kept.arms.len() > before {
                kept.save(store, self.suite, at)?;
            }
            if !matches!(ended, Ok(true)) {
                return ended;
            }
        }
        Ok(true)
    }

    /// Items from the first on that were asked in all arms.
    fn answered(&self) -> usize {
        let all = |k: &&Kept| self.arms.iter().all(|a| k.of(*a).is_some());
        self.kept.iter().take_while(all).count()
    }
}

/// Whether the oracle answered all of these and stayed below the floor, which only answers that are right or wrong
/// have.
pub(super) fn is_below_floor(suite: Suite, kept: &[Kept]) -> bool {
    let answers: Option<Vec<&Record>> = kept.iter().map(|k| k.of(Arm::Oracle)).collect();
    let below = |all: Vec<&Record>| {
        let told: Vec<&Record> = all.into_iter().filter(|r| !r.untold).collect();
        (told.iter().filter(|r| is_right(r)).count() as f64) < FLOOR * told.len() as f64
    };
    suite.measure() == Measure::Right && answers.is_some_and(below)
}

pub(super) fn is_right(record: &Record) -> bool {
    record.answered.as_ref().is_some_and(|a| a.right)
}
