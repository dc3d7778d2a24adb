//! Every measure of a diagnosis, by name.

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// `probe.measure`.
    pub name: &'static str,
    /// Unit of its numbers.
    pub unit: &'static str,
    /// What it is.
    pub what: &'static str,
}

const fn metric(name: &'static str, unit: &'static str, what: &'static str) -> Metric {
    Metric { name, unit, what }
}

/// All of them, in the order of the probes.
pub const METRICS: &[Metric] = &[
    metric("flipflop.error", "share", "final reads answered wrong, all lengths"),
    metric("flipflop.error_longest", "share", "the same at the greatest length"),
    metric("flipflop.error_copy_last", "share", "errors of the rule that copies the last word seen"),
    metric("flipflop.attention", "share", "attention of the best head on the last write"),
    metric("overthinking.gap", "share", "accuracy after true minus after false demonstrations"),
    metric("overthinking.accuracy_true", "share", "calibrated accuracy after true demonstrations"),
    metric("overthinking.accuracy_false", "share", "calibrated accuracy after false demonstrations"),
    metric("overthinking.zero_shot", "share", "calibrated accuracy without demonstrations"),
    metric(
        "overthinking.exit_gain",
        "share",
        "what an earlier layer gains after false demonstrations, held out",
    ),
    metric(
        "recall.fall",
        "probability",
        "fall of the right answer from its best late layer to the end, held out",
    ),
    metric("recall.known", "share", "facts answered right where a name is forced"),
    metric("recall.right_open", "share", "of those, right where anything may follow"),
    metric("distractors.drop", "share", "accuracy lost to sentences that name another answer, four of them"),
    metric("distractors.accuracy_neutral", "share", "accuracy after four sentences that name none"),
    metric("distractors.accuracy_swayed", "share", "accuracy after four sentences that name another answer"),
    metric(
        "distractors.margin_drop",
        "nats",
        "fall of log P(right) − log P(named) from the one to the other",
    ),
];

/// The metric of a name.
pub fn known(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == name)
}
