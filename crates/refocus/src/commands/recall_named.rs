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
    /// What is said of it, second-hand.
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

#[cfg(test)]
mod tests {
    use refocus_model::Checkpoint;
    use refocus_study::recall::inside::HeadsFound;

    use super::*;
    use crate::cli::Global;

    /// Heads of a relation, with what becomes of π(Y) without them.
    fn found(relation: &str, effects: &[(usize, usize, f64)]) -> Found {
        let sender = |&(layer, head, value): &(usize, usize, f64)| {
            let about = Estimate { value, low: value, high: value, n: 20 };
            SenderEffect {
                sender: format!("{layer}.{head}"),
                layer,
                head: Some(head),
                ratio_of_means: about,
                mean_of_ratios: value,
                argument: None,
                logit: about,
                resampled: about,
                zero: about,
                mean: about,
            }
        };
        let heads = HeadsFound {
            senders: effects.iter().map(sender).collect(),
            parts: Vec::new(),
            off: None,
            passers: Vec::new(),
            named: Vec::new(),
            function: 0,
            suppressing: Vec::new(),
            claims: Vec::new(),
        };
        Found {
            relation: relation.to_owned(),
            form: Form::Open,
            prompts: 20,
            with_facts: 0,
            heads: Some(heads),
            mlp: None,
            swap: None,
            shots: None,
            last: None,
            mitigate: None,
        }
    }

    #[test]
    fn named_heads_stand_beside_those_of_a_model_of_these_sizes_alone() {
        let global = Global { json: false, seed: 0, threads: None, quiet: true, verbose: 0 };
        let printer = Printer::new(&global);
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gpt2");
        let small = Checkpoint::open(folder).expect("a fixture").spec().clone();
        let spec = ModelSpec { n_layers: 12, d_model: 768, n_heads: 12, ..small.clone() };
        let effects = [(9, 8, -0.1), (3, 1, -0.4), (10, 0, 0.2)];
        let inside = [found("capital", &effects), found("language", &effects)];
        let preset = || named().into_iter().next();

        let heads = Heads::of(preset(), &spec, &printer);
        let beside = heads.beside(&inside);
        let places: Vec<_> = beside.iter().map(|b| (b.id.layer, b.id.head, b.place, b.of)).collect();
        assert_eq!(places, [(9, 8, 2, 3), (10, 0, 3, 3)]);
        assert!(beside.iter().all(|b| b.relation == "capital" && !b.said.is_empty()));
        assert_eq!(heads.of_relation("capital").len(), 2);
        assert!(heads.of_relation("language").is_empty());

        let heads = Heads::of(preset(), &small, &printer);
        assert!(heads.beside(&inside).is_empty() && heads.of_relation("capital").is_empty());
    }
}
