//! Tables of a diagnosis: what each probe found, and what a patch that was searched does.

use crate::record::records;

records! {
    /// What one probe found.
    Finding in "findings" {
        /// flipflop, overthinking, recall or distractors.
        probe: String [""],
        /// slips, steady, unclear or cannot be tested.
        state: String [""],
        /// Name of the metric that decides.
        headline: String [""],
        /// Its value; missing where nothing was measured.
        value: Option<f64> [""],
        /// Lower end of its interval.
        low: Option<f64> [""],
        /// Upper end of its interval.
        high: Option<f64> [""],
        /// Items.
        n: Option<i64> ["items"],
        /// The verdict in words.
        verdict: String [""],
        /// What was asked.
        asked: String [""],
        /// Layers and heads, in words; missing where nothing points to any.
        place: Option<String> [""],
    }

    /// One metric of a probe, as `--list-metrics` lists them.
    Metric in "metrics" {
        /// Probe.
        probe: String [""],
        /// Full name.
        metric: String [""],
        /// Its unit.
        unit: String [""],
        /// Value.
        value: f64 [""],
        /// Lower end of its interval, where it has one.
        low: Option<f64> [""],
        /// Upper end of its interval.
        high: Option<f64> [""],
        /// Items.
        n: i64 ["items"],
    }

    /// A text that a finding is about.
    Example in "examples" {
        /// Probe.
        probe: String [""],
        /// What the model read.
        text: String [""],
        /// What is right.
        right: String [""],
        /// What it preferred.
        answer: String [""],
        /// Under which condition.
        note: String [""],
    }

    /// A patch that was tried, on the items that choose.
    Tried in "tried" {
        /// The probe it was tried against.
        probe: String [""],
        /// In words.
        patch: String [""],
        /// By how much the harm of an item of this probe fell.
        gain: f64 ["share"],
        /// By how much the harm of all probes fell; none where it was given up before.
        gain_of_all: Option<f64> ["share"],
        /// By how much plain text became less likely.
        text_cost: f64 ["nats a token"],
        /// Whether the patch that is measured has it.
        chosen: bool [""],
    }

    /// One number before and after the chosen patch, on the items that did not choose it.
    Change in "changes" {
        /// Whose items; missing for plain text.
        probe: Option<String> [""],
        /// What is counted.
        what: String [""],
        /// Items or pieces of text.
        n: i64 ["items"],
        /// Mean without the patch.
        before: f64 [""],
        /// Mean with it.
        after: f64 [""],
        /// After minus before.
        change: f64 [""],
        /// Lower end of its interval.
        low: Option<f64> [""],
        /// Upper end of its interval.
        high: Option<f64> [""],
        /// Paired sign-flip test, after Holm's correction over all rows.
        p: f64 ["probability"],
    }
}
