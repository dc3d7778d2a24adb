//! Tables of a run of `refocus recall`.
//!
//! Nodes of the residual stream are numbered in the order in which the model passes through them, the embeddings
//! first; what is seen there is seen at the last token of a prompt. Intervals are 95 %, by resampling facts.

use crate::record::records;

records! {
    /// One relation: its facts, and what became of it.
    Relation in "relations" {
        /// Its name.
        relation: String [""],
        /// Different arguments in the relation.
        facts: i64 ["facts"],
        /// Rows left out because their argument was there before.
        repeated: i64 ["rows"],
        /// Facts whose answer has several tokens.
        several_tokens: i64 ["facts"],
        /// Facts that the model was asked for.
        asked: i64 ["facts"],
        /// Facts that it knows.
        known: i64 ["facts"],
        /// measured or too few.
        outcome: String [""],
        /// What is missing, and what would help.
        why: Option<String> [""],
    }

    /// A token at a node: means over the facts of one relation under one condition.
    Point in "trace" {
        /// Name of the relation.
        relation: String [""],
        /// What may follow the prompts: open or forced.
        form: String [""],
        /// Other facts that are stated before.
        shots: i64 ["facts"],
        /// What stands first: bos or bare.
        beginning: String [""],
        /// Which prompts: all, right_at_the_end or right_before.
        group: String [""],
        /// Which lens: logit or tuned.
        lens: String [""],
        /// answer, argument, other_answer or other_argument.
        token: String [""],
        /// Number of the node.
        node: i64 [""],
        /// Its site.
        site: String [""],
        /// Mean probability.
        prob: f64 ["probability"],
        /// Lower end of its interval.
        low: f64 ["probability"],
        /// Upper end of its interval.
        high: f64 ["probability"],
        /// Median over facts of the rank, 0 being the first.
        rank: f64 ["tokens"],
        /// Facts.
        n: i64 ["facts"],
    }

    /// What the answer loses over the last two layers, or a part of it.
    Fall in "falls" {
        /// Name of the relation.
        relation: String [""],
        /// What may follow the prompts: open or forced.
        form: String [""],
        /// Other facts that are stated before.
        shots: i64 ["facts"],
        /// What stands first: bos or bare.
        beginning: String [""],
        /// Which prompts: all, right_at_the_end, right_before, sure or unsure.
        group: String [""],
        /// Which lens reads what stands before: logit or tuned.
        lens: String [""],
        /// total, attention 28 and the like, matched (what matched tokens lose) or beyond (total less matched, on
        /// the facts that have such tokens).
        part: String [""],
        /// Probability of the answer two layers before the end; of the whole fall alone.
        before: Option<f64> ["probability"],
        /// Probability of the answer at the end; of the whole fall alone.
        after: Option<f64> ["probability"],
        /// What is lost.
        value: f64 ["probability"],
        /// Lower end of its interval.
        low: f64 ["probability"],
        /// Upper end of its interval.
        high: f64 ["probability"],
        /// Of a paired test, of beyond alone.
        p: Option<f64> ["probability"],
        /// Facts.
        n: i64 ["facts"],
    }

    /// A claim, with the numbers that it is judged by.
    Claim in "recall_claims" {
        /// Number in the study's list.
        id: String [""],
        /// In words.
        claim: String [""],
        /// Name of the relation; missing where all are meant.
        relation: Option<String> [""],
        /// What may follow the prompts: open or forced.
        form: String [""],
        /// holds, does not hold, conditional or cannot be tested.
        verdict: String [""],
        /// Which tests were passed and which not.
        why: String [""],
        /// Facts that the number rests on.
        n: i64 ["facts"],
        /// Of the test with the smallest effect.
        effect: Option<f64> ["as in unit"],
        /// Lower end of its interval.
        low: Option<f64> ["as in unit"],
        /// Upper end of its interval.
        high: Option<f64> ["as in unit"],
        /// The effect less its control's.
        beyond: Option<f64> ["as in unit"],
        /// Lower end of its interval.
        beyond_low: Option<f64> ["as in unit"],
        /// Upper end of its interval.
        beyond_high: Option<f64> ["as in unit"],
        /// probability or nats.
        unit: String [""],
        /// What it was compared with.
        control: String [""],
    }
    /// A number found inside the model, for the known facts of one relation in prompts of one form.
    Number in "inside" {
        /// Where it was found: heads, chosen or named (heads that were looked at closely), mlp (regressions), weights,
        /// intercept, shots, last (blocks), last_heads or alignment.
        stage: String [""],
        /// Name of the relation.
        relation: String [""],
        /// What may follow the prompts: open or forced.
        form: String [""],
        /// Other facts that are stated before.
        shots: i64 ["facts"],
        /// What it is about: a part of the model (9.8, mlp 9, embedding), what an MLP is fitted on (block or
        /// everything), what is added to it, or a bin of confidence.
        about: String [""],
        /// Block, where it is about one.
        layer: Option<i64> [""],
        /// Query head, where it is about one.
        head: Option<i64> [""],
        /// Which number; docs/recall.md lists them.
        measure: String [""],
        /// As measured.
        value: f64 ["as in unit"],
        /// Lower end of its interval.
        low: Option<f64> ["as in unit"],
        /// Upper end of its interval.
        high: Option<f64> ["as in unit"],
        /// Probability by chance alone, after the correction that belongs to it.
        p: Option<f64> ["probability"],
        /// Facts that it rests on.
        n: Option<i64> ["facts"],
        /// share (of π(Y)), probability, logits, nats, log₁₀ rank, heads or empty.
        unit: String [""],
    }

    /// What a repair of the last block gains, and what it costs.
    Repair in "repairs" {
        /// Name of the relation.
        relation: String [""],
        /// What may follow the prompts: open or forced.
        form: String [""],
        /// Its name.
        name: String [""],
        /// In words.
        what: String [""],
        /// Whether it is there to be compared with.
        is_control: bool [""],
        /// Probability of the answer.
        prob: f64 ["probability"],
        /// Its gain.
        gain: f64 ["probability"],
        /// Lower end of its interval.
        gain_low: f64 ["probability"],
        /// Upper end of its interval.
        gain_high: f64 ["probability"],
        /// Probability that chance alone gives as large a gain, after Holm's correction over all repairs.
        p: f64 ["probability"],
        /// Gain where the unchanged model gives the answer less than 0.1.
        gain_below: Option<f64> ["probability"],
        /// From 0.1 to 0.5.
        gain_middle: Option<f64> ["probability"],
        /// Above 0.5.
        gain_above: Option<f64> ["probability"],
        /// Gain of the share of prompts whose answer is the first choice.
        first: f64 ["share"],
        /// Change of log₁₀(rank + 1) of the answer.
        rank: f64 ["log₁₀ rank"],
        /// Mean entropy of the next token.
        entropy: f64 ["nats"],
        /// Of plain text.
        perplexity: f64 [""],
        /// Expected calibration error on it.
        ece: f64 ["probability"],
        /// Brier score on it.
        brier: f64 [""],
        /// Function words of it that are the first choice; missing where it has none.
        function_words: Option<f64> ["share"],
        /// Tokens of it.
        tokens: i64 ["tokens"],
        /// Facts.
        n: i64 ["facts"],
    }
}
