//! Tables of a run of `refocus overthinking`.
//!
//! TP and FP are calibrated accuracies with true and with false demonstrations, at the last slot unless a slot
//! is named; slot `k` has seen `k` demonstrations. Layer 0 is the embedding, layer `L` the whole model.
//! Intervals are 95 %.

use crate::record::records;

records! {
    /// One task under one setting: the headline numbers.
    Setting in "settings" {
        /// Key of the task.
        task: String [""],
        /// How the labels of false demonstrations were chosen.
        setting: String [""],
        /// Pairs of prompts.
        pairs: i64 ["pairs"],
        /// What guessing gets.
        chance: f64 ["share"],
        /// Calibrated accuracy without demonstrations.
        zero_shot: f64 ["share"],
        /// Calibrated accuracy with true demonstrations.
        tp: f64 ["share"],
        /// Calibrated accuracy with false demonstrations.
        fp: f64 ["share"],
        /// TP − FP after the last layer.
        gap: f64 ["share"],
        /// Lower end of its interval.
        gap_low: f64 ["share"],
        /// Upper end of its interval.
        gap_high: f64 ["share"],
        /// First layer with at least half of the gap; missing unless the gap's interval lies above 0.
        critical_layer: Option<i64> ["layer"],
        /// Layer to answer from, chosen on other pairs than those it is measured on.
        exit_layer: Option<i64> ["layer"],
    }

    /// One point of a curve over layers or slots.
    Curve in "curves" {
        /// Key of the task.
        task: String [""],
        /// How the labels of false demonstrations were chosen.
        setting: String [""],
        /// Layer that was read.
        layer: i64 ["layer"],
        /// Demonstrations seen.
        slot: i64 ["demonstrations"],
        /// tp, fp, permuted, share_true, share_shown, share_other, agreement or another name.
        measure: String [""],
        /// Prompts it was measured on, true or false, where the measure does not say it.
        kind: Option<String> [""],
        /// Its value.
        value: f64 ["share"],
        /// Lower end of its interval, where one was worked out.
        low: Option<f64> ["share"],
        /// Upper end of its interval, where one was worked out.
        high: Option<f64> ["share"],
    }

    /// One number of one head.
    Head in "heads" {
        /// Key of the task.
        task: String [""],
        /// How the labels of false demonstrations were chosen.
        setting: String [""],
        /// Layer, from 0.
        layer: i64 ["layer"],
        /// Head, from 0.
        head: i64 ["head"],
        /// prefix_matching, prefix_matching_controlled, label_promoting_raw, label_promoting_ln, causal_zero,
        /// causal_mean or another name.
        measure: String [""],
        /// Prompts it was measured on: true or false.
        kind: Option<String> [""],
        /// Its value: attention share, or change of logits.
        value: f64 ["share or logits"],
        /// Lower end of its interval.
        low: Option<f64> ["share or logits"],
        /// Upper end of its interval.
        high: Option<f64> ["share or logits"],
    }

    /// One mitigation on one task under one setting, against the unchanged model on the same pairs.
    Mitigation in "mitigations" {
        /// Key of the task.
        task: String [""],
        /// How the labels of false demonstrations were chosen.
        setting: String [""],
        /// Name for people, such as `layer 16` or `heads 9.8 12.4`.
        name: String [""],
        /// none, zero_shot, early_exit, heads, random_heads, late_attention, late_mlp, cad or dola.
        family: String [""],
        /// zero, mean, uniform or another way of changing, where there are several.
        how: Option<String> [""],
        /// Calibrated accuracy with true demonstrations.
        tp: f64 ["share"],
        /// Calibrated accuracy with false demonstrations.
        fp: f64 ["share"],
        /// (TP + FP)/2.
        balanced: f64 ["share"],
        /// Gain of TP; missing for the unchanged model.
        tp_gain: Option<f64> ["share"],
        /// Lower end of its interval.
        tp_gain_low: Option<f64> ["share"],
        /// Upper end of its interval.
        tp_gain_high: Option<f64> ["share"],
        /// Gain of FP.
        fp_gain: Option<f64> ["share"],
        /// Lower end of its interval.
        fp_gain_low: Option<f64> ["share"],
        /// Upper end of its interval.
        fp_gain_high: Option<f64> ["share"],
        /// Gain of the balanced score.
        balanced_gain: Option<f64> ["share"],
        /// Lower end of its interval.
        balanced_gain_low: Option<f64> ["share"],
        /// Upper end of its interval.
        balanced_gain_high: Option<f64> ["share"],
        /// Of a paired test of the balanced score.
        p: Option<f64> ["probability"],
        /// The same after Holm's correction over everything that the run tried.
        p_holm: Option<f64> ["probability"],
    }

    /// A claim, with the number that it is judged by.
    Claim in "claims" {
        /// In words.
        claim: String [""],
        /// Key of the task; missing where all are meant.
        task: Option<String> [""],
        /// How the labels of false demonstrations were chosen.
        setting: Option<String> [""],
        /// holds, does not hold, conditional or cannot be tested.
        verdict: String [""],
        /// Why it cannot be tested, or under which condition it holds.
        why: Option<String> [""],
        /// Items that the number rests on.
        n: i64 ["items"],
        /// Positive where the claim is right.
        effect: Option<f64> ["share"],
        /// Lower end of its interval.
        low: Option<f64> ["share"],
        /// Upper end of its interval.
        high: Option<f64> ["share"],
        /// What it was compared with.
        control: Option<String> [""],
    }

    /// One demonstration of one prompt that is shown as an example; the last slot is the question.
    Example in "examples" {
        /// Key of the task.
        task: String [""],
        /// How the labels of false demonstrations were chosen.
        setting: String [""],
        /// Which pair.
        pair: i64 [""],
        /// Labels of the prompt: true or false.
        kind: String [""],
        /// Demonstrations before this one.
        slot: i64 ["demonstrations"],
        /// The text that was to be classified.
        text: String [""],
        /// Its true label.
        label_true: String [""],
        /// The label that the prompt shows.
        label_shown: String [""],
        /// What the model answers here without demonstrations.
        answer_zero_shot: Option<String> [""],
        /// What it answers at the exit layer.
        answer_early: Option<String> [""],
        /// What it answers after the last layer.
        answer_final: Option<String> [""],
    }
}
