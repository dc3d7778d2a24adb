//! Tables of a run of `refocus system2 eval`.
//!
//! A suite is a set of items, an arm a way to answer them. Intervals are 95 %: Wilson's for shares, by resampling for means
//! and gains.

use crate::record::records;

records! {
    /// One suite.
    Suite in "suites" {
        /// Name.
        suite: String [""],
        /// What it asks.
        about: String [""],
        /// What its number is; more is better.
        measured: String [""],
        /// Items that were asked in all arms.
        items: i64 ["items"],
        /// Those that its number rests on.
        headline: i64 ["items"],
        /// What guessing gets, where answers are right or wrong.
        chance: Option<f64> ["share"],
        /// Whether prompts have something needed beside the question, so that blind removal shows.
        judges_removal: bool [""],
        /// Whether anything can be tested on it.
        counts: bool [""],
        /// Why not.
        why: Option<String> [""],
        /// Whether it was stopped before its end.
        unfinished: bool [""],
    }

    /// One suite in one arm.
    Arm in "arms" {
        /// Name of the suite.
        suite: String [""],
        /// Name of the arm.
        arm: String [""],
        /// Items that its number rests on; on arguments and spurious their arguments or facts.
        n: i64 ["items"],
        /// The suite's number; missing where no item has one.
        value: Option<f64> ["of the suite"],
        /// Lower end of its interval.
        low: Option<f64> ["of the suite"],
        /// Upper end of its interval.
        high: Option<f64> ["of the suite"],
        /// Gain over the baseline, item by item.
        gain: Option<f64> ["of the suite"],
        /// Lower end of its interval.
        gain_low: Option<f64> ["of the suite"],
        /// Upper end of its interval.
        gain_high: Option<f64> ["of the suite"],
        /// Of the paired test of the gain.
        p: Option<f64> ["probability"],
        /// The same after Holm's correction over the arms of the suite.
        p_holm: Option<f64> ["probability"],
        /// The gain by that of the oracle.
        gap_closed: Option<f64> ["share"],
        /// Of the claim that it helps: holds, does not hold or cannot be tested; missing for oracle and baseline.
        verdict: Option<String> [""],
        /// Why it cannot be tested.
        why: Option<String> [""],
        /// Right answers over all items that have one, where the suite's number is another.
        right: Option<i64> ["items"],
        /// Of so many.
        right_of: Option<i64> ["items"],
        /// Items without an answer.
        failed: i64 ["items"],
        /// Tokens read for a mean item, its rewriting included.
        prompt_tokens: f64 ["tokens"],
        /// Tokens written, likewise.
        completion_tokens: f64 ["tokens"],
        /// Tokens written for the rewriting alone.
        rewriting_tokens: f64 ["tokens"],
        /// Time of a mean item, its share where several were answered at the same time; as if nothing was remembered from arm to arm.
        seconds: f64 ["s"],
    }

    /// What a rewriting arm made of the prompts of one suite.
    Rewriting in "rewritings" {
        /// Name of the suite.
        suite: String [""],
        /// Name of the arm.
        arm: String [""],
        /// Prompts.
        n: i64 ["prompts"],
        /// Rewrites that were used.
        applied: i64 ["prompts"],
        /// Replies that could not be read.
        parse_failures: i64 ["prompts"],
        /// Rewrites that a guard refused.
        guarded: i64 ["prompts"],
        /// Planted pieces.
        planted: i64 ["pieces"],
        /// Those that are gone.
        planted_gone: i64 ["pieces"],
        /// Their share.
        recall: Option<f64> ["share"],
        /// Lower end of its interval.
        recall_low: Option<f64> ["share"],
        /// Upper end of its interval.
        recall_high: Option<f64> ["share"],
        /// Planted pieces among all that are gone.
        precision: Option<f64> ["share"],
        /// Lower end of its interval.
        precision_low: Option<f64> ["share"],
        /// Upper end of its interval.
        precision_high: Option<f64> ["share"],
        /// Needed pieces.
        needed: i64 ["pieces"],
        /// Those that are gone.
        needed_gone: i64 ["pieces"],
        /// Their share.
        lost: Option<f64> ["share"],
        /// Lower end of its interval.
        lost_low: Option<f64> ["share"],
        /// Upper end of its interval.
        lost_high: Option<f64> ["share"],
    }

    /// A group of a suite's items in one arm. An item can be in several groups.
    Group in "groups" {
        /// Name of the suite.
        suite: String [""],
        /// Name of the group.
        group: String [""],
        /// Name of the arm.
        arm: String [""],
        /// Items; on arguments and spurious their arguments or facts.
        n: i64 ["items"],
        /// The suite's number; on arguments the sway itself, with its sign.
        value: f64 ["of the suite"],
        /// Lower end of its interval.
        low: f64 ["of the suite"],
        /// Upper end of its interval.
        high: f64 ["of the suite"],
        /// Gain of the suite's number over the baseline.
        gain: Option<f64> ["of the suite"],
        /// Lower end of its interval.
        gain_low: Option<f64> ["of the suite"],
        /// Upper end of its interval.
        gain_high: Option<f64> ["of the suite"],
    }

    /// One prompt.
    Item in "items" {
        /// Name of the suite.
        suite: String [""],
        /// Its number in the suite, from 0.
        item: i64 [""],
        /// Its name in the suite.
        key: String [""],
        /// The group in which it is shown.
        group: String [""],
        /// Items with the same number here share their fact or argument: they are averaged first and count as one.
        cluster: i64 [""],
        /// Whether the suite's number rests on it.
        headline: bool [""],
        /// The prompt with everything in it.
        prompt: String [""],
        /// The prompt without what was planted.
        oracle: String [""],
        /// The right answer; missing where none is wanted.
        answer: Option<String> [""],
    }

    /// One prompt in one arm.
    Answer in "answers" {
        /// Name of the suite.
        suite: String [""],
        /// Number of the item in the suite, from 0.
        item: i64 [""],
        /// Name of the arm.
        arm: String [""],
        /// The suite's number for this item; missing where it has none.
        value: Option<f64> ["of the suite"],
        /// Whether it is right; missing where no answer is wanted, or a server does not tell it.
        right: Option<bool> [""],
        /// What was written, where the answer was written.
        reply: Option<String> [""],
        /// Why there is no answer.
        failed: Option<String> [""],
        /// Whether the rewrite was used; missing in arms that do not rewrite.
        applied: Option<bool> [""],
        /// Name of the reason why it was not.
        reason: Option<String> [""],
        /// What was asked in place of the prompt, where a rewrite was used.
        rewrite: Option<String> [""],
        /// Planted pieces that are gone, in arms that rewrite.
        planted_gone: Option<i64> ["pieces"],
        /// Needed pieces that are gone.
        needed_gone: Option<i64> ["pieces"],
        /// Tokens read, those of the rewriting included.
        prompt_tokens: i64 ["tokens"],
        /// Tokens written, likewise.
        completion_tokens: i64 ["tokens"],
        /// Tokens written for the rewriting alone.
        rewriting_tokens: i64 ["tokens"],
        /// Time, its share where several items were answered at the same time; as if nothing was remembered from arm to arm.
        seconds: f64 ["s"],
    }

    /// Attention to what does not matter, on the suite spurious, where the other answer is named so often.
    Span in "spans" {
        /// How often it is named.
        times: String [""],
        /// as it is, block_edge, or the arm that rewrote.
        way: String [""],
        /// Prompts.
        n: i64 ["prompts"],
        /// P(right answer) − P(other answer).
        margin: f64 ["probability"],
        /// Lower end of its interval.
        low: f64 ["probability"],
        /// Upper end of its interval.
        high: f64 ["probability"],
        /// Attention from the last token to the planted sentences or what a rewrite left of them, mean over all heads.
        mass: f64 ["share"],
    }

    /// One arm of the suite arguments as a judge sees it.
    Judged in "judged" {
        /// Name of the arm.
        arm: String [""],
        /// Arguments whose sentiment could be read.
        n: i64 ["arguments"],
        /// Quality, from 1 to 5.
        quality: Option<f64> ["points"],
        /// Lower end of its interval.
        quality_low: Option<f64> ["points"],
        /// Upper end of its interval.
        quality_high: Option<f64> ["points"],
        /// Mean absolute sentiment, from 0 to 5.
        sentiment: Option<f64> ["points"],
        /// Lower end of its interval.
        sentiment_low: Option<f64> ["points"],
        /// Upper end of its interval.
        sentiment_high: Option<f64> ["points"],
        /// Gain in objectivity, 5 less the absolute sentiment, over the baseline.
        gain: Option<f64> ["points"],
        /// Lower end of its interval.
        gain_low: Option<f64> ["points"],
        /// Upper end of its interval.
        gain_high: Option<f64> ["points"],
        /// By what share the mean absolute sentiment is below the baseline's.
        fall: Option<f64> ["share"],
        /// Lower end of its interval.
        fall_low: Option<f64> ["share"],
        /// Upper end of its interval.
        fall_high: Option<f64> ["share"],
        /// Of the paired test of the gain.
        p: Option<f64> ["probability"],
        /// The same after Holm's correction over the arms.
        p_holm: Option<f64> ["probability"],
        /// Of the claim that it is more objective; missing for oracle and baseline.
        verdict: Option<String> [""],
        /// Judgements of quality that could not be read in both orders.
        unread_quality: i64 ["judgements"],
        /// Those of sentiment.
        unread_sentiment: i64 ["judgements"],
    }
}
