//! What the study says of one task and setting.

use std::sync::Arc;

use refocus_measure::intervals::holm;
use serde::Serialize;

use super::critical::{Critical, LayerGaps, Parting, parting};
use super::error::StudyError;
use super::heads::HeadId;
use super::inside::InsideSummary;
use super::measures::{Credit, Curves, Outcome, Pairs, curves, mean};
use super::predictions::{Behaviour, Predictions, predictions};
use super::resample::Estimate;
use super::rivals::{Measured, Mitigation, rivals};
use super::work::Kind;

/// One task under one setting. Where no slot is named, the last is meant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SettingSummary {
    /// `[layers][slots]`
    #[serde(flatten)]
    pub curves: Curves,
    /// Pairs.
    pub pairs: usize,
    /// What guessing gets.
    pub chance: f64,
    /// Calibrated accuracy of the last layer at slot 0, where no demonstration was seen.
    pub zero_shot: Estimate,
    /// TP − FP after the last layer.
    pub gap: Estimate,
    /// (TP + FP)/2 after the last layer.
    pub balanced: f64,
    /// What false demonstrations do to the last layer's answers.
    pub behaviour: Behaviour,
    /// First layers with 25, 50 and 75 % of the gap; empty unless the gap's interval lies above 0.
    pub critical: Vec<Critical>,
    /// Ways to answer against false demonstrations; none with fewer than four pairs.
    pub mitigations: Vec<Mitigation>,
    /// What is predicted, by layer and slot.
    pub predictions: Predictions,
    /// Heads and their ablation; absent where these were not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<InsideSummary>,
    /// Mean probability of all labels together after the last layer, `[slots]`, true prompts.
    pub label_mass_tp: Vec<f64>,
    /// False prompts.
    pub label_mass_fp: Vec<f64>,
    /// Share of pairs whose first choice in the whole vocabulary is the true label, `[slots]`, true prompts.
    pub top1_tp: Vec<f64>,
    /// False prompts.
    pub top1_fp: Vec<f64>,
}

impl SettingSummary {
    /// A way to answer by its name.
    pub fn mitigation(&self, name: &str) -> Option<&Mitigation> {
        self.mitigations.iter().find(|m| m.name == name)
    }

    /// The first layer with half of the gap.
    pub fn critical_layer(&self) -> Option<usize> {
        self.critical.iter().find(|c| c.share == 0.5).map(|c| c.layer)
    }
}

/// What a summary was made of, pair by pair: means over tasks and claims are made of it too.
#[derive(Clone, Debug)]
pub struct Detail {
    /// Task.
    pub task: String,
    /// Setting.
    pub setting: String,
    /// Not one of the tasks that means are taken over.
    pub control: bool,
    /// What guessing gets.
    pub chance: f64,
    /// Number of classes.
    pub classes: usize,
    /// Every layer on all pairs.
    pub all: Vec<Outcome>,
    /// Every layer on the pairs that choose.
    pub choose: Vec<Outcome>,
    /// Every layer on the pairs that measure.
    pub measure: Vec<Outcome>,
    /// Credit of the last layer without demonstrations, of all pairs.
    pub zero_shot: Vec<f64>,
    /// Credit of the last layer for the classes that false prompts show, of all pairs.
    pub shown: Vec<f64>,
    /// Ways to answer, on the pairs that measure.
    pub mitigations: Vec<Measured>,
    /// What the chosen heads write before the last label, mean over the pairs that choose, each `[d_head]`; empty
    /// where nothing was ablated.
    pub head_means: Vec<(HeadId, Arc<[f32]>)>,
    pub(super) parting: Parting,
    pub(super) gap: Estimate,
    /// `even pairs` or `all pairs`.
    pub(super) chosen_on: &'static str,
    /// `odd pairs` or `all pairs`.
    pub(super) measured_on: &'static str,
}

impl Detail {
    /// The last layer on all pairs.
    pub(super) fn full(&self) -> &Outcome {
        &self.all[self.all.len() - 1]
    }

    /// Gain of the balanced score of an exit on the pairs that chose its layer; 0 of anything else.
    pub(super) fn chosen_gain(&self, m: &Mitigation) -> f64 {
        let layer = m.chosen.as_ref().filter(|c| c.what == "layer").map(|c| c.value as usize);
        let at = |layer: usize| mean(&self.choose[layer].balanced());
        layer.map_or(0.0, |l| at(l) - at(self.choose.len() - 1))
    }

    /// A way to answer by its name.
    pub fn mitigation(&self, name: &str) -> Option<&Measured> {
        self.mitigations.iter().find(|m| m.mitigation.name == name)
    }
}

/// Works out everything for one task and setting. `control`: means over tasks leave it out.
///
/// # Errors
/// The model gave no number somewhere.
pub fn summarise(
    pairs: &Pairs<'_>,
    control: bool,
    seed: u64,
) -> Result<(SettingSummary, Detail), StudyError> {
    let curves = curves(pairs)?;
    let (last, halves, everything) = (pairs.last(), pairs.halves(), pairs.all());
    let by_layer = |subset: &[usize]| -> Result<Vec<Outcome>, StudyError> {
        (0..=last).map(|layer| pairs.outcome(subset, layer)).collect()
    };
    let (all, choose, measure) =
        (by_layer(&everything)?, by_layer(&halves.choose)?, by_layer(&halves.measure)?);
    let full = &all[last];
    let gap = Estimate::of(&full.gap(), seed);
    let chance = 1.0 / pairs.classes() as f64;
    let parting = parting(&[LayerGaps::of(1.0, &all)], &gap, seed);
    let zero_shot = pairs.credits(&everything, Kind::True, Credit::Truth, last, 0)?;
    let shown = pairs.credits(&everything, Kind::False, Credit::Shown, last, pairs.end())?;
    let mitigations = rivals(pairs, &halves, (&choose, &measure), seed)?;
    let (label_mass_tp, top1_tp) = pairs.whole(Kind::True);
    let (label_mass_fp, top1_fp) = pairs.whole(Kind::False);
    let summary = SettingSummary {
        pairs: everything.len(),
        chance,
        zero_shot: Estimate::of(&zero_shot, seed),
        balanced: mean(&full.balanced()),
        behaviour: Behaviour::of(&Estimate::of(&full.fp, seed), &gap, chance),
        critical: parting.critical.clone(),
        mitigations: mitigations.iter().map(|m| m.mitigation.clone()).collect(),
        predictions: predictions(pairs)?,
        inside: None,
        label_mass_tp,
        label_mass_fp,
        top1_tp,
        top1_fp,
        gap,
        curves,
    };
    let detail = Detail {
        task: pairs.task.task.clone(),
        setting: pairs.setting.name.clone(),
        control,
        chance,
        classes: pairs.classes(),
        all,
        choose,
        measure,
        zero_shot,
        shown,
        mitigations,
        head_means: Vec::new(),
        parting,
        gap,
        chosen_on: halves.chosen_on,
        measured_on: halves.measured_on,
    };
    Ok((summary, detail))
}

/// Holm's correction of the tests of all ways to answer, over everything that the run tried; call it when the
/// last of them is measured. The summaries get what the details have.
pub fn correct_mitigations(all: &mut [(SettingSummary, Detail)]) {
    let every = || all.iter().flat_map(|(_, d)| &d.mitigations).map(|m| &m.mitigation);
    let fp = holm(&every().map(|m| m.p_fp).collect::<Vec<_>>());
    let balanced = holm(&every().map(|m| m.p_balanced).collect::<Vec<_>>());
    let mut together = fp.into_iter().zip(balanced);
    for (summary, detail) in all {
        for (measured, (fp, balanced)) in detail.mitigations.iter_mut().zip(&mut together) {
            measured.mitigation.p_fp_holm = Some(fp);
            measured.mitigation.p_balanced_holm = Some(balanced);
        }
        summary.mitigations = detail.mitigations.iter().map(|m| m.mitigation.clone()).collect();
    }
}
