//! A patch while generating: which of its interventions act on which part of which sequence.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::intervene::{Action, Intervention, Position};
use crate::patch::{Decode, Patch};
use crate::plan::{Applied, PlanError};

/// What is changed while a sequence is generated.
///
/// An intervention acts when a position is computed, and its effect stays in the key/value cache.
/// Positions counted from the end are meant from the end of the prompt, and [`Position::Last`] is the last
/// prompt token and every new one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Inside the model.
    pub interventions: Vec<Arc<Intervention>>,
    /// Of the final logits, in this order; those that need a second row of logits do nothing.
    pub decode: Vec<Decode>,
}

impl From<&Patch> for Changes {
    fn from(patch: &Patch) -> Self {
        let interventions = patch.interventions.iter().cloned().map(Arc::new).collect();
        Self { interventions, decode: patch.decode.clone() }
    }
}

impl Changes {
    /// Refuses changes of which one meets no position of any sequence, given by the lengths of its prompt
    /// and of the whole.
    ///
    /// # Errors
    /// The first such intervention.
    pub fn meet(&self, sequences: &[(usize, usize)]) -> Result<(), PlanError> {
        let meets = |position, (prompt, whole): &(usize, usize)| match position {
            Position::All | Position::Last => true,
            Position::At(p) => (p as usize) < *whole,
            Position::FromEnd(k) => (1..=*prompt).contains(&(k as usize)),
        };
        match self.interventions.iter().find(|i| !sequences.iter().any(|s| meets(i.position, s))) {
            Some(i) => Err(PlanError::Nothing { site: i.site, action: i.action.name() }),
            None => Ok(()),
        }
    }

    /// The block at which the pass ends, if before the last.
    pub(super) fn exit(&self) -> Option<usize> {
        let exits = self.interventions.iter().filter_map(|i| match i.action {
            Action::Exit(layer) => Some(layer),
            _ => None,
        });
        exits.min()
    }

    /// Positions before this one do not depend on how long the prompt is.
    pub(super) fn settled(&self, prompt: usize) -> usize {
        let from = |i: &Arc<Intervention>| match i.position {
            Position::All | Position::At(_) => usize::MAX,
            Position::Last => prompt - 1,
            Position::FromEnd(k) => prompt.saturating_sub(k as usize),
        };
        self.interventions.iter().map(from).min().unwrap_or(usize::MAX)
    }
}

/// A part of a sequence that is computed in one pass.
pub(super) struct Part {
    pub changes: Arc<Changes>,
    /// Tokens of the prompt.
    pub prompt: usize,
    pub positions: Range<usize>,
}

/// The interventions of a pass over these parts, whose exits are the same.
pub(super) fn applied(parts: &[Part]) -> Vec<Applied> {
    let mut out = Vec::new();
    let mut exited = false;
    let mut done: Vec<&Arc<Changes>> = Vec::new();
    for part in parts {
        if done.iter().any(|c| Arc::ptr_eq(c, &part.changes)) {
            continue;
        }
        done.push(&part.changes);
        let same: Vec<usize> =
            (0..parts.len()).filter(|&i| Arc::ptr_eq(&parts[i].changes, &part.changes)).collect();
        for what in &part.changes.interventions {
            if matches!(what.action, Action::Exit(_)) {
                // It holds for the whole pass.
                if !exited {
                    out.push(Applied { what: Arc::clone(what), segs: None });
                }
                continue;
            }
            resolve(what, parts, &same, &mut out);
        }
        exited |= part.changes.exit().is_some();
    }
    out
}

/// One intervention on the parts `segs`, its position as each of them sees it.
fn resolve(what: &Arc<Intervention>, parts: &[Part], segs: &[usize], out: &mut Vec<Applied>) {
    let (mut everywhere, mut at) = (Vec::new(), BTreeMap::<u32, Vec<usize>>::new());
    match what.position {
        Position::All | Position::At(_) => {
            return out.push(Applied { what: Arc::clone(what), segs: Some(segs.to_vec()) });
        }
        Position::FromEnd(k) => {
            for &i in segs {
                if let Some(p) = parts[i].prompt.checked_sub(k as usize) {
                    at.entry(p as u32).or_default().push(i);
                }
            }
        }
        Position::Last => {
            for &i in segs {
                let (last, positions) = (parts[i].prompt - 1, &parts[i].positions);
                if positions.start >= last {
                    everywhere.push(i);
                    continue;
                }
                for p in last..positions.end {
                    at.entry(p as u32).or_default().push(i);
                }
            }
        }
    }
    let moved = |position| Arc::new(Intervention { position, ..Intervention::clone(what) });
    if !everywhere.is_empty() {
        out.push(Applied { what: moved(Position::All), segs: Some(everywhere) });
    }
    for (p, segs) in at {
        out.push(Applied { what: moved(Position::At(p)), segs: Some(segs) });
    }
}
