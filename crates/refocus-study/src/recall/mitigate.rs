//! What can be done about answers that the last block lowers (claim C9), as patches, with the controls that decide
//! whether a gain is more than a known effect.
//!
//! Everything acts at every position, as it is served and exported. Hiding the first token cannot: the first token sees
//! nothing else. It acts at the last position, as while decoding.

use std::fmt::Write as _;
use std::sync::Arc;

use refocus_measure::recall::{Effects, Frequencies, Observed, Score, Sender};
use refocus_model::patch::Decode;
use refocus_model::{Action, Gate, Intervention, Kind, ModelSpec, Position, Site};

use super::intercept::random_vector;
use crate::overthinking::{HeadId, random_heads};

/// Shares of the intercept that are taken out.
pub const ALPHAS: [f32; 4] = [0.25, 0.5, 0.75, 1.0];
/// Weights of the unigram prior.
const BETAS: [f32; 2] = [0.25, 0.5];
/// A gated repair acts where the lens is at least this sure.
pub const SURE: f32 = 0.5;
/// Controls with other heads, and draws of which they are the first that differ.
const CONTROLS: usize = 2;
const DRAWS: u32 = 16;

/// Draws of as many heads of the last block that are none of these, no two of which are the same; of the block before
/// it, where the last has too few others.
fn other_heads(heads: &[HeadId], spec: &ModelSpec, seed: u64) -> (Vec<Vec<HeadId>>, &'static str) {
    let few = 2 * heads.len() > spec.n_heads;
    let (like, place) = match heads.iter().all(|h| h.layer > 0) {
        true if few => (heads.iter().map(|h| HeadId { layer: h.layer - 1, ..*h }).collect(), "last but one"),
        _ => (heads.to_vec(), "last"),
    };
    let mut out: Vec<Vec<HeadId>> = Vec::new();
    for mut drawn in random_heads(&like, spec.n_heads, DRAWS, seed) {
        drawn.sort();
        if out.len() < CONTROLS && !out.contains(&drawn) && drawn.iter().all(|h| !heads.contains(h)) {
            out.push(drawn);
        }
    }
    (out, place)
}

/// Something that is done to the model, or to its logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Repair {
    /// `intercept_0.5`.
    pub name: String,
    /// In words.
    pub what: String,
    /// Whether it is there to be compared with.
    pub is_control: bool,
    /// Inside the model.
    pub interventions: Vec<Intervention>,
    /// On the final logits.
    pub decode: Vec<Decode>,
}

/// A patch file and the vectors it names.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchFile {
    /// TOML.
    pub text: String,
    /// Tensors of `vectors` beside it, by name.
    pub vectors: Vec<(String, Arc<[f32]>)>,
}

impl Repair {
    /// The unchanged model.
    pub(super) fn nothing() -> Self {
        let (name, what) = ("none".to_owned(), "The model as it is.".to_owned());
        Self { name, what, is_control: true, interventions: Vec::new(), decode: Vec::new() }
    }

    /// As a patch file for the model with this fingerprint; `vectors` is the name of the file of its vectors.
    pub fn patch(&self, fingerprint: &str, vectors: &str) -> PatchFile {
        let mut out = PatchFile {
            text: format!("# {}\n[model]\nfingerprint = \"{fingerprint}\"\n", self.what),
            vectors: Vec::new(),
        };
        let mut named = |v: &Arc<[f32]>| {
            let at = out.vectors.iter().position(|(_, known)| known == v).unwrap_or_else(|| {
                out.vectors.push((format!("v{}", out.vectors.len()), Arc::clone(v)));
                out.vectors.len() - 1
            });
            format!("vector = \"{vectors}#v{at}\"\n")
        };
        let mut text = String::new();
        for i in &self.interventions {
            let _ = writeln!(text, "\n[[intervention]]\nat = \"{}\"", i.site);
            if let Some(head) = i.head {
                let _ = writeln!(text, "head = {head}");
            }
            if i.position == Position::Last {
                text.push_str("position = \"last\"\n");
            }
            let _ = writeln!(text, "do = \"{}\"", i.action.name());
            match &i.action {
                Action::Add { vector, alpha } => {
                    let _ = writeln!(text, "{}alpha = {alpha:?}", named(vector));
                }
                Action::Mean(vector) => text.push_str(&named(vector)),
                Action::BlockEdge(keys) => {
                    let _ = writeln!(text, "key = [{}, {}]", keys.start, keys.end);
                }
                _ => {}
            }
            if let Some(g) = i.when {
                let _ = writeln!(
                    text,
                    "when = {{ top1_prob_above = {:?}, lens_layer = {} }}",
                    g.top1_prob_above, g.lens_layer
                );
            }
        }
        for d in &self.decode {
            let _ = writeln!(text, "\n[[decode]]\ndo = \"{}\"", d.name());
            match d {
                Decode::Temperature(t) => {
                    let _ = writeln!(text, "factor = {t:?}");
                }
                Decode::UnigramPrior { log_frequency, alpha } => {
                    let _ = writeln!(text, "{}alpha = {alpha:?}", named(log_frequency));
                }
                _ => {}
            }
        }
        out.text.push_str(&text);
        out
    }
}

/// What repairs are made of.
pub struct Parts<'a> {
    /// Heads of the last block whose replacement raises π(Y), on the facts that choose.
    pub heads: &'a [HeadId],
    /// Mean output of each of them, `[d_head]`.
    pub head_means: &'a [Arc<[f32]>],
    /// Intercept of the last MLP, fitted on the facts that choose.
    pub intercept: &'a Arc<[f32]>,
    /// Mean of the last MLP over plain text.
    pub generic: &'a Arc<[f32]>,
    /// How often tokens occur.
    pub frequencies: &'a Frequencies,
}

/// Heads of the last block whose replacement raises the answer's score on some prompts.
pub fn suppressing_heads(effects: &Effects, spec: &ModelSpec, which: &[usize]) -> Vec<HeadId> {
    let raises = |(s, changed): (&Sender, &Vec<Score>)| {
        let Sender::Head { layer, head } = *s else { return None };
        let change: f64 = which.iter().map(|&i| changed[i].pi() - effects.base[i].pi()).sum();
        (layer + 1 == spec.n_layers && change > 0.0).then_some(HeadId { layer, head })
    };
    effects.senders.iter().zip(&effects.changed).filter_map(raises).collect()
}

/// Mean output of a head at the last token of some prompts, `[d_head]`.
pub fn head_mean(spec: &ModelSpec, seen: &Observed, id: HeadId, which: &[usize]) -> Arc<[f32]> {
    let mut sum = vec![0.0f64; spec.d_head];
    for &i in which {
        let at = (i * spec.n_heads + id.head) * spec.d_head;
        let row = &seen.blocks[id.layer].z[at..at + spec.d_head];
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
    }
    sum.iter().map(|s| (s / which.len().max(1) as f64) as f32).collect()
}

/// All repairs and controls of a model, the unchanged model first.
pub fn repairs(spec: &ModelSpec, parts: &Parts<'_>, seed: u64) -> Vec<Repair> {
    let last = spec.n_layers - 1;
    let at = |kind, head, action| Intervention {
        site: Site::new(last, kind),
        head,
        position: Position::All,
        action,
        when: None,
    };
    let mut out = Vec::new();
    let mut add = |name: &str, what: String, is_control: bool, interventions, decode| {
        out.push(Repair { name: name.to_owned(), what, is_control, interventions, decode });
    };
    let nothing = Repair::nothing();
    add(&nothing.name, nothing.what, true, vec![], vec![]);
    let zero = |heads: &[HeadId]| -> Vec<Intervention> {
        let one = |h: &HeadId| Intervention {
            site: Site::new(h.layer, Kind::Z),
            ..at(Kind::Z, Some(h.head), Action::Zero)
        };
        heads.iter().map(one).collect()
    };
    let minus = |v: &Arc<[f32]>, alpha: f32| {
        at(Kind::MlpOut, None, Action::Add { vector: Arc::clone(v), alpha: -alpha })
    };
    if !parts.heads.is_empty() {
        let n = parts.heads.len();
        let what = format!("{n} heads of the last block that lower the answer");
        add("heads_zero", format!("Sets to zero {what}."), false, zero(parts.heads), vec![]);
        let means = parts.heads.iter().zip(parts.head_means);
        let mean = means.map(|(h, v)| at(Kind::Z, Some(h.head), Action::Mean(Arc::clone(v)))).collect();
        add("heads_mean", format!("Sets to their mean {what}."), false, mean, vec![]);
        let edge = |h: &HeadId| Intervention {
            position: Position::Last,
            ..at(Kind::Pattern, Some(h.head), Action::BlockEdge(0..1))
        };
        let blind = parts.heads.iter().map(edge).collect();
        add("heads_first", format!("Hides the first token from {what}."), false, blind, vec![]);
        let (drawn, place) = other_heads(parts.heads, spec, seed);
        for (draw, heads) in drawn.iter().enumerate() {
            let what = format!("Sets to zero {n} other heads of the {place} block.");
            add(&format!("random_heads_{draw}"), what, true, zero(heads), vec![]);
        }
    }
    for alpha in ALPHAS {
        let what = format!("Takes {alpha} of its intercept out of the last MLP.");
        add(&format!("intercept_{alpha}"), what, false, vec![minus(parts.intercept, alpha)], vec![]);
    }
    let mut both = zero(parts.heads);
    both.push(minus(parts.intercept, 0.5));
    if !parts.heads.is_empty() {
        let what = "Sets to zero the heads of the last block that lower the answer, and takes half of its intercept out of the last MLP.";
        add("both_0.5", what.to_owned(), false, both.clone(), vec![]);
    }
    if let Some(lens_layer) = spec.n_layers.checked_sub(3) {
        let when = Some(Gate { top1_prob_above: SURE, lens_layer });
        let gated = |i: Intervention| Intervention { when, ..i };
        let what = format!(
            "Takes half of its intercept out of the last MLP where the lens after block {lens_layer} is sure."
        );
        add("gated_0.5", what, false, vec![gated(minus(parts.intercept, 0.5))], vec![]);
        let what = format!(
            "Takes its intercept out of the last MLP where the lens after block {lens_layer} is sure."
        );
        add("gated_1", what, false, vec![gated(minus(parts.intercept, 1.0))], vec![]);
    }
    let random = random_vector(parts.intercept, seed);
    add(
        "random_vector_0.5",
        "Takes half of a random vector as long as the intercept out.".to_owned(),
        true,
        vec![minus(&random, 0.5)],
        vec![],
    );
    add(
        "generic_mean_0.5",
        "Takes half of the last MLP's mean over plain text out.".to_owned(),
        true,
        vec![minus(parts.generic, 0.5)],
        vec![],
    );
    let log_frequency: Arc<[f32]> = parts.frequencies.log_smoothed().into();
    for alpha in BETAS {
        let prior = Decode::UnigramPrior { log_frequency: Arc::clone(&log_frequency), alpha };
        let what = format!("Subtracts {alpha} of the log frequency of tokens from the logits.");
        add(&format!("unigram_{alpha}"), what, true, vec![], vec![prior]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_heads_differ_from_the_heads_and_from_each_other() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gpt2");
        let spec = refocus_model::Checkpoint::open(folder).expect("a fixture").spec().clone();
        let layer = spec.n_layers - 1;
        let heads = |n: usize| (0..n).map(|head| HeadId { layer, head }).collect::<Vec<_>>();
        for n in 1..=spec.n_heads {
            for seed in 0..5 {
                let (drawn, place) = other_heads(&heads(n), &spec, seed);
                let here = 2 * n <= spec.n_heads;
                assert_eq!(place, if here { "last" } else { "last but one" });
                assert!(!drawn.is_empty() && drawn.len() <= CONTROLS, "{n}: {drawn:?}");
                assert!(drawn.iter().all(|d| d.len() == n && d.iter().all(|h| !heads(n).contains(h))));
                assert!(drawn.len() < 2 || drawn[0] != drawn[1]);
            }
        }
    }
}
