//! One suite asked in all arms.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use refocus_system2::{Chat, together};
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

/// Hears how far a suite is, from whichever thread asks; `false` ends it.
pub type Tick<'t> = &'t mut (dyn FnMut(Progress) -> bool + Send);

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
/// As many items are asked at the same time as the model answers with profit; that changes no answer. `tick` hears of
/// every answer and ends the run by `false`.
///
/// # Errors
/// The model or the folder failed; what was answered before is kept.
pub fn run_suite(
    chat: &mut dyn Chat,
    (suite, items): (Suite, Vec<Item>),
    arms: &[Arm],
    (store, dir): (&Store, &Path),
    tick: Tick<'_>,
) -> Result<SuiteRun, System2Error> {
    let mut kept = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        kept.push(Kept::load(dir, suite, at, item)?);
    }
    let (first, rest): (Vec<Arm>, Vec<Arm>) = arms
        .iter()
        .copied()
        .filter(|a| suite.asks(*a))
        .partition(|a| matches!(a, Arm::Oracle | Arm::Baseline));
    let mut run = SuiteRun { suite, items, kept, arms: first.clone(), below_floor: false, whole: true };
    let of = run.items.len() * (first.len() + rest.len());
    run.whole = run.fill(chat, store, 0, of, tick)?;
    run.below_floor = run.whole && is_below_floor(suite, &run.kept);
    if run.whole && !run.below_floor {
        run.arms = rest.clone();
        run.whole = run.fill(chat, store, run.items.len() * first.len(), of, tick)?;
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
        chat: &mut dyn Chat,
        store: &Store,
        done: usize,
        of: usize,
        tick: Tick<'_>,
    ) -> Result<bool, System2Error> {
        let Self { suite, items, kept, arms, .. } = self;
        let (suite, arms) = (*suite, arms.as_slice());
        let course = Course { of, state: Mutex::new(State { done, on: true, tick }) };
        let size = chat.at_once().max(1);
        for (first, (items, kept)) in items.chunks(size).zip(kept.chunks_mut(size)).enumerate() {
            let (mut askers, course) = (Vec::with_capacity(size), &course);
            for (i, (item, kept)) in items.iter().zip(kept).enumerate() {
                let place = (suite, first * size + i, item);
                askers.push(move |chat: &mut dyn Chat| one_item(chat, place, arms, kept, store, course));
            }
            // The first that failed is told; what the others were answered is kept.
            together(chat, askers).into_iter().collect::<Result<Vec<()>, _>>()?;
            if !course.state().on {
                return Ok(false);
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

/// How far the items are that are asked at the same time, and whether they go on.
struct Course<'t> {
    of: usize,
    state: Mutex<State<'t>>,
}

struct State<'t> {
    /// Answers that are there.
    done: usize,
    on: bool,
    tick: Tick<'t>,
}

impl<'t> Course<'t> {
    fn state(&self) -> MutexGuard<'_, State<'t>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an arm is to be asked. Once it is not, no other is.
    fn goes_on(&self, arm: Arm) -> bool {
        let mut state = self.state();
        let progress = Progress { done: state.done, of: self.of, arm: arm.name() };
        state.on = state.on && (state.tick)(progress);
        state.on
    }
}

/// Asks one item in the arms that are missing, and keeps each answer as soon as it is there. Where it fails its
/// neighbours ask nothing more.
fn one_item(
    chat: &mut dyn Chat,
    (suite, at, item): (Suite, usize, &Item),
    arms: &[Arm],
    kept: &mut Kept,
    store: &Store,
    course: &Course<'_>,
) -> Result<(), System2Error> {
    let mut memo = Memo::new(chat);
    for &arm in arms {
        if kept.of(arm).is_none() {
            if !course.goes_on(arm) {
                return Ok(());
            }
            let asked = ask(&mut memo, item, arm, suite.decoding(at)).map_err(|source| {
                let (suite, item) = (suite.name(), item.key.clone());
                System2Error::Chat { suite, item, arm: arm.name(), source }
            });
            let saved = asked.and_then(|record| {
                kept.arms.insert(arm.name().to_owned(), record);
                kept.save(store, suite, at)
            });
            if saved.is_err() {
                course.state().on = false;
                return saved;
            }
        }
        course.state().done += 1;
    }
    Ok(())
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
