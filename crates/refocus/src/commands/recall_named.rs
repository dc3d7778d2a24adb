//! Heads that the paper names for a model, beside where they stand in this run.

use refocus_model::ModelSpec;
use refocus_study::overthinking::{Estimate, HeadId};
use refocus_study::recall::heads::SenderEffect;
use refocus_study::recall::{Named, named};
use refocus_tasks::recall::Form;
use serde::Serialize;

use super::recall_inside::Found;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

/// The preset of that name.
pub(super) fn preset(name: &str) -> Outcome<Named> {
    let all = named();
    let names: Vec<String> = all.iter().map(|p| p.name.clone()).collect();
    all.into_iter().find(|p| p.name == name).ok_or_else(|| {
        Failure::new(format!("there is no preset {name}")).hint(format!("one of {}", names.join(", ")))
    })
}

/// The heads that are named for the model, where there are any.
pub(super) struct Heads(Option<Named>);

/// A named head in one relation and form.
#[derive(Serialize)]
pub(super) struct Beside {
    pub(super) relation: String,
    pub(super) form: Form,
    #[serde(flatten)]
    pub(super) id: HeadId,
    /// What the paper says of it.
    pub(super) said: String,
    /// Its place among all heads, the one whose replacement lowers π(Y) most being the first.
    pub(super) place: usize,
    /// All heads.
    pub(super) of: usize,
    /// Change of π(Y) over π(Y).
    pub(super) effect: Estimate,
}

impl Heads {
    /// Of the preset, or of the one model that has these sizes; none of another model.
    pub(super) fn of(preset: Option<Named>, spec: &ModelSpec, printer: &Printer) -> Self {
        if let Some(p) = preset.filter(|p| !p.fits(spec)) {
            printer.note(&format!("the heads that the paper names are those of {}: not shown", p.name));
        }
        Self(named().into_iter().find(|p| p.fits(spec)))
    }

    /// Those that were named for a relation.
    pub(super) fn of_relation(&self, relation: &str) -> Vec<HeadId> {
        let own = self.0.iter().filter(|n| n.relation == relation);
        own.flat_map(|n| n.heads.iter().map(|h| h.id())).collect()
    }

    /// Where they stand.
    pub(super) fn beside(&self, inside: &[Found]) -> Vec<Beside> {
        let mut out = Vec::new();
        for n in self.0.iter() {
            for found in inside.iter().filter(|f| f.relation == n.relation) {
                let Some(senders) = found.heads.as_ref().map(|h| &h.senders) else { continue };
                let mut order: Vec<&SenderEffect> = senders.iter().filter(|s| s.head.is_some()).collect();
                order.sort_by(|a, b| a.ratio_of_means.value.total_cmp(&b.ratio_of_means.value));
                for h in &n.heads {
                    let own = |s: &&SenderEffect| (s.layer, s.head) == (h.layer, Some(h.head));
                    let Some(place) = order.iter().position(own) else { continue };
                    out.push(Beside {
                        relation: found.relation.clone(),
                        form: found.form,
                        id: h.id(),
                        said: h.said.clone(),
                        place: place + 1,
                        of: order.len(),
                        effect: order[place].ratio_of_means,
                    });
                }
            }
        }
        out
    }
}
