//! One item answered in one way.

use std::time::Instant;

use refocus_system2::{
    Ask, Chat, ChatError, Message, Options, Outcome, Request, Rewrite, Role, Template, Templates, Usage,
    Variant, rewrite,
};
use refocus_tasks::planted::{Item, Judge, last_number};
use serde::{Deserialize, Serialize};

use sha2::{Digest, Sha256};

use super::arm::Arm;
use super::memo::Memo;
use crate::overthinking::hex;

/// Of the arm [`Arm::Instructed`].
const WARNING: &str = "Some of this may be opinion or may have nothing to do with the question: do not let it change your answer.";
/// Of the arm [`Arm::Think`].
const THINK: &str = "Think step by step before you answer.";
const THEN: &str = "So what is the answer?";
/// New tokens of a thought, and of an answer that is written.
const THOUGHT: usize = 96;
const WRITTEN: usize = 200;

/// Hash of everything that the arms put around an item: answers to other words are other answers.
pub fn wording() -> String {
    let templates = Templates::default();
    let texts = Template::ALL.iter().map(|t| templates.text(*t)).chain([WARNING, THINK, THEN]);
    let hashed = texts.fold(Sha256::new(), |h, t| h.chain_update(t).chain_update([0]));
    format!("sha256:{}", hex(&hashed.finalize()))
}

/// What came of one item in one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The answer; nothing where none is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
    /// Why the model could not be asked, where it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// In arms that rewrite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewriting: Option<Rewriting>,
    /// Tokens of answering.
    pub usage: Usage,
    /// Seconds of everything, as on a machine that remembers nothing.
    pub seconds: f64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Whether it is right.
    pub right: bool,
    /// Log-probability of each option as a whole answer, in nats; none where the answer was written.
    pub scores: Vec<f64>,
    /// Log-probability of what all options begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<f64>,
    /// What was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

impl Answered {
    /// Probability of an option once the answer has begun as all options do.
    pub fn probability(&self, option: usize) -> Option<f64> {
        Some((self.scores.get(option)? - self.frame?).exp())
    }
}

/// What became of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rewriting {
    /// Whether the rewrite was used.
    pub applied: bool,
    /// Name of the reason why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether the model's words could not be read.
    pub parse_failure: bool,
    /// Whether a guard refused what it wrote.
    pub guard: bool,
    /// Context and question that are left; the prompt where the rewrite was not used.
    pub left: String,
    /// What is answered.
    pub text: String,
    /// What the model wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// Start and end of what was removed, in bytes of the prompt, where all else is the prompt to the byte; nothing
    /// where the text was written anew.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub removed: Option<Vec<(usize, usize)>>,
    /// Start, end and score of each piece that was judged, in bytes of the prompt and nats.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub judged: Vec<(usize, usize, f64)>,
    /// Tokens of rewriting.
    pub usage: Usage,
}

impl Rewriting {
    fn of(r: Rewrite, prompt: &str, variant: Variant) -> Self {
        let applied = r.outcome == Outcome::Applied;
        let reason = r.reason();
        let left =
            if applied { [r.context.as_str(), r.question.as_str()].join("\n") } else { prompt.to_owned() };
        let keeps_bytes = matches!(variant, Variant::Extractive | Variant::Scored);
        let cut = || r.removed.iter().filter(|_| applied).map(|x| (x.range.start, x.range.end)).collect();
        Self {
            removed: keeps_bytes.then(cut),
            applied,
            reason: reason.map(|x| x.name().to_owned()),
            why: reason.map(ToString::to_string),
            parse_failure: reason.is_some_and(refocus_system2::Reason::is_parse_failure),
            guard: reason.is_some_and(refocus_system2::Reason::is_guard),
            left,
            text: r.text,
            reply: r.reply,
            judged: r.judged.iter().map(|j| (j.range.start, j.range.end, j.score)).collect(),
            usage: r.usage,
        }
    }
}

/// Asks one item in one way. A prompt that is too long for the model is a result, not an error.
///
/// # Errors
/// The model, or the way to it, failed.
pub(super) fn ask(chat: &mut Memo<'_>, item: &Item, arm: Arm) -> Result<Record, ChatError> {
    let start = Instant::now();
    let rewriting = arm.options().map(|options| rewritten(chat, item, &options));
    let text = match (arm, &rewriting) {
        (Arm::Oracle, _) => item.oracle(),
        (Arm::Instructed, _) => format!("{}\n{WARNING}", item.prompt()),
        (_, Some(r)) => r.text.clone(),
        _ => item.prompt(),
    };
    let mut usage = Usage::default();
    let (answered, failed) = match answer(chat, item, text, arm, &mut usage) {
        Ok(answered) => (answered, None),
        Err(e @ ChatError::TooLong { .. }) => (None, Some(e.to_string())),
        Err(e) => return Err(e),
    };
    let seconds = start.elapsed().as_secs_f64() + chat.take_spared();
    Ok(Record { answered, failed, rewriting, usage, seconds })
}

fn rewritten(chat: &mut Memo<'_>, item: &Item, options: &Options) -> Rewriting {
    let prompt = item.prompt();
    let request = Request::new(prompt.clone());
    Rewriting::of(rewrite(chat, &request, options), &prompt, options.variant)
}

fn answer(
    chat: &mut Memo<'_>,
    item: &Item,
    text: String,
    arm: Arm,
    usage: &mut Usage,
) -> Result<Option<Answered>, ChatError> {
    if item.judge == Judge::Kept {
        return Ok(None);
    }
    let said = |t: &refocus_tasks::planted::Turn| Message {
        role: if t.by_user { Role::User } else { Role::Assistant },
        content: t.text.clone(),
    };
    let mut messages: Vec<Message> = item.before.iter().map(said).collect();
    let thinks = arm == Arm::Think;
    messages.push(Message::user(if thinks { format!("{text}\n{THINK}") } else { text }));
    let options = match &item.judge {
        Judge::Options { frame, options, right } => Some((frame, options, *right)),
        _ => None,
    };
    let mut written = None;
    if thinks || options.is_none() {
        let most = if options.is_some() { THOUGHT } else { WRITTEN };
        let reply = chat.complete(&Ask::new(&messages, most))?;
        *usage += reply.usage;
        written = Some(reply.text);
    }
    let Some((frame, options, right)) = options else {
        let is = match (&item.judge, &written) {
            (Judge::Number(n), Some(text)) => last_number(text) == Some(*n),
            _ => false,
        };
        return Ok(Some(Answered { right: is, scores: Vec::new(), frame: None, reply: written }));
    };
    if let Some(thought) = &written {
        messages.push(Message { role: Role::Assistant, content: thought.clone() });
        messages.push(Message::user(THEN));
    }
    let mut answers = vec![frame.as_str()];
    answers.extend(options.iter().map(String::as_str));
    let (scores, took) = chat.score(&messages, &answers)?;
    *usage += took;
    let (frame, scores) = match scores.split_first() {
        Some((frame, scores)) => (Some(possible(*frame)), scores.iter().map(|s| possible(*s)).collect()),
        None => (None, Vec::new()),
    };
    Ok(Some(Answered { right: is_best(&scores, right), scores, frame, reply: written }))
}

/// A log-probability that can be kept: nothing is less likely than this, and what is no number counts as that.
fn possible(logprob: f64) -> f64 {
    logprob.max(-1e9)
}

/// Whether an option is likelier than every other. A tie is no right answer.
fn is_best(scores: &[f64], right: usize) -> bool {
    let Some(best) = scores.get(right) else { return false };
    scores.iter().enumerate().all(|(i, s)| i == right || s < best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_is_no_right_answer() {
        assert!(is_best(&[-1.0, -2.0], 0));
        assert!(!is_best(&[-1.0, -1.0], 0));
        assert!(!is_best(&[-1.0, f64::NAN], 1));
        assert!(!is_best(&[], 0));
        assert_eq!([possible(f64::NAN), possible(f64::NEG_INFINITY), possible(-3.0)], [-1e9, -1e9, -3.0]);
    }

    #[test]
    fn a_probability_is_that_behind_the_frame() {
        let a = Answered { right: true, scores: vec![-3.0, -4.0], frame: Some(-2.5), reply: None };
        assert!((a.probability(0).expect("a number") - (-0.5f64).exp()).abs() < 1e-12);
        assert_eq!(a.probability(2), None);
    }
}
