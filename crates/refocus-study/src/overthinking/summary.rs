//! What the study says of one task and setting.

use serde::Serialize;

use super::error::StudyError;
use super::measures::{Credit, Curves, Mode, Pairs, curves, mean};
use super::resample::Estimate;
use super::work::Kind;
use crate::verdict::Verdict;

/// The interval lies above 0, below it, or on both sides.
fn verdict(effect: &Estimate) -> Verdict {
    if effect.low > 0.0 {
        Verdict::Holds
    } else if effect.high < 0.0 {
        Verdict::DoesNotHold
    } else {
        Verdict::CannotBeTested
    }
}

/// A claim of the paper, or of its critics, with the number that it is judged by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// In words.
    pub claim: &'static str,
    /// How it fared.
    pub verdict: Verdict,
    /// Why it cannot be tested, where the number alone does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// Positive where the claim is right; absent where there is nothing to measure.
    pub effect: Option<Estimate>,
}

/// Answering from an earlier layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EarlyExit {
    /// Layer with the best calibrated accuracy on the false prompts of the pairs `chosen_on`, the last
    /// layer excepted, the earliest of equals.
    pub layer: usize,
    /// `even pairs` (the first, third, …) or `all pairs`.
    pub chosen_on: &'static str,
    /// `odd pairs` or `all pairs`: all numbers here are theirs.
    pub measured_on: &'static str,
    /// Calibrated accuracy there with true demonstrations.
    pub tp: f64,
    /// With false ones.
    pub fp: f64,
    /// (TP + FP)/2.
    pub balanced: f64,
    /// The same at the last layer.
    pub full_tp: f64,
    /// The same at the last layer.
    pub full_fp: f64,
    /// The same at the last layer.
    pub full_balanced: f64,
    /// Without demonstrations, at the last layer.
    pub zero_shot: f64,
    /// Gain on true prompts against the last layer.
    pub tp_gain: Estimate,
    /// Gain on false prompts against the last layer.
    pub fp_gain: Estimate,
    /// Gain of the balanced score.
    pub balanced_gain: Estimate,
    /// False prompts at the exit layer against no demonstrations at the last.
    pub fp_over_zero_shot: Estimate,
}

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
    pub zero_shot: f64,
    /// TP − FP after the last layer.
    pub gap: Estimate,
    /// (TP + FP)/2 after the last layer.
    pub balanced: f64,
    /// First layer with at least half of the gap; absent unless the gap's interval lies above 0.
    pub critical_layer: Option<usize>,
    /// Absent with fewer than four pairs.
    pub early_exit: Option<EarlyExit>,
    /// Mean probability of all labels together after the last layer, `[slots]`, true prompts.
    pub label_mass_tp: Vec<f64>,
    /// False prompts.
    pub label_mass_fp: Vec<f64>,
    /// Share of pairs whose first choice in the whole vocabulary is the true label, `[slots]`, true prompts.
    pub top1_tp: Vec<f64>,
    /// False prompts.
    pub top1_fp: Vec<f64>,
    /// Claims and verdicts.
    pub claims: Vec<Claim>,
}

/// Works out everything for one task and setting.
///
/// # Errors
/// The model gave no number somewhere.
pub fn summarise(pairs: &Pairs<'_>, seed: u64) -> Result<SettingSummary, StudyError> {
    let curves = curves(pairs)?;
    let (last, end) = (pairs.layers() - 1, pairs.task.demos - 1);
    let all: Vec<usize> = (0..pairs.setting.pairs.len()).collect();
    let tp = pairs.credits(&all, Kind::True, Credit::Truth, last, end)?;
    let fp = pairs.credits(&all, Kind::False, Credit::Truth, last, end)?;
    let gap = Estimate::of(&minus(&tp, &fp), seed);
    let half = |l: usize| curves.tp[l][end] - curves.fp[l][end] >= 0.5 * gap.value;
    let critical_layer = if gap.low > 0.0 { (0..=last).find(|&l| half(l)) } else { None };
    let early_exit = early_exit(pairs, &all, seed)?;
    let (label_mass_tp, top1_tp) = pairs.whole(Kind::True);
    let (label_mass_fp, top1_fp) = pairs.whole(Kind::False);
    Ok(SettingSummary {
        pairs: all.len(),
        chance: 1.0 / pairs.task.label_ids.len() as f64,
        zero_shot: curves.tp[last][0],
        balanced: f64::midpoint(mean(&tp), mean(&fp)),
        critical_layer,
        claims: claims(&gap, early_exit.as_ref()),
        early_exit,
        label_mass_tp,
        label_mass_fp,
        top1_tp,
        top1_fp,
        gap,
        curves,
    })
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn early_exit(pairs: &Pairs<'_>, all: &[usize], seed: u64) -> Result<Option<EarlyExit>, StudyError> {
    let (last, end) = (pairs.layers() - 1, pairs.task.demos - 1);
    if all.len() < 4 || last == 0 {
        return Ok(None);
    }
    let every_second = |from: usize| all.iter().copied().skip(from).step_by(2).collect::<Vec<usize>>();
    let (choose, measure, names) = match pairs.mode {
        Mode::Correct => (every_second(0), every_second(1), ["even pairs", "odd pairs"]),
        Mode::Paper => (all.to_vec(), all.to_vec(), ["all pairs", "all pairs"]),
    };
    let mut best = (0, f64::NEG_INFINITY);
    for layer in 0..last {
        let fp = mean(&pairs.credits(&choose, Kind::False, Credit::Truth, layer, end)?);
        if fp > best.1 {
            best = (layer, fp);
        }
    }
    let at = |kind, layer, slot| pairs.credits(&measure, kind, Credit::Truth, layer, slot);
    let (tp, fp) = (at(Kind::True, best.0, end)?, at(Kind::False, best.0, end)?);
    let (full_tp, full_fp) = (at(Kind::True, last, end)?, at(Kind::False, last, end)?);
    let zero = at(Kind::True, last, 0)?;
    let (tp_gain, fp_gain) = (minus(&tp, &full_tp), minus(&fp, &full_fp));
    let both: Vec<f64> = tp_gain.iter().zip(&fp_gain).map(|(a, b)| f64::midpoint(*a, *b)).collect();
    Ok(Some(EarlyExit {
        layer: best.0,
        chosen_on: names[0],
        measured_on: names[1],
        tp: mean(&tp),
        fp: mean(&fp),
        balanced: f64::midpoint(mean(&tp), mean(&fp)),
        full_tp: mean(&full_tp),
        full_fp: mean(&full_fp),
        full_balanced: f64::midpoint(mean(&full_tp), mean(&full_fp)),
        zero_shot: mean(&zero),
        tp_gain: Estimate::of(&tp_gain, seed),
        fp_gain: Estimate::of(&fp_gain, seed),
        balanced_gain: Estimate::of(&both, seed),
        fp_over_zero_shot: Estimate::of(&minus(&fp, &zero), seed),
    }))
}

/// Judges the claims. Without a gap there is nothing for a layer to repair.
fn claims(gap: &Estimate, exit: Option<&EarlyExit>) -> Vec<Claim> {
    let no_gap = (gap.low <= 0.0).then_some("the interval of the gap includes 0 or lies below it");
    let layer = |claim, effect: Option<Estimate>| {
        let why = no_gap.or(effect.is_none().then_some("fewer than four pairs"));
        let verdict = match (&effect, why) {
            (Some(effect), None) => verdict(effect),
            _ => Verdict::CannotBeTested,
        };
        Claim { claim, verdict, why, effect }
    };
    vec![
        Claim {
            claim: "false demonstrations lower accuracy",
            verdict: verdict(gap),
            why: None,
            effect: Some(*gap),
        },
        layer(
            "with false demonstrations an earlier layer answers better than the last",
            exit.map(|e| e.fp_gain),
        ),
        layer("over true and false ones together it answers better", exit.map(|e| e.balanced_gain)),
        layer(
            "with false demonstrations it answers better than the last without any",
            exit.map(|e| e.fp_over_zero_shot),
        ),
    ]
}
