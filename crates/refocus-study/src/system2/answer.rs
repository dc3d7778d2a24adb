//! One item answered in one way.

use refocus_system2::{
    Ask, Chat, ChatError, Message, Options, Outcome, Reason, Request, Rewrite, Role, Template, Templates,
    Usage, Variant, rewrite,
};
use refocus_tasks::planted::{Item, Judge, last_number, says};
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
/// Before the options, where a model that tells no log-probabilities has to choose in words.
const ONE_OF: &str = "Answer with one of these and nothing else:";
/// New tokens of a thought, and of an answer that is written.
const THOUGHT: usize = 96;
const WRITTEN: usize = 200;
const CHOSEN: usize = 32;
/// So much of a probability, or so many nats of a log-probability, may be open where it counts as told.
const SMALL: f64 = 0.01;
const NEAR: f64 = 0.05;

/// Hash of everything that the arms put around an item: answers to other words are other answers.
pub fn wording() -> String {
    let templates = Templates::default();
    let texts = Template::ALL.iter().map(|t| templates.text(*t)).chain([WARNING, THINK, THEN]);
    let hashed = texts.fold(Sha256::new(), |h, t| h.chain_update(t).chain_update([0]));
    format!("sha256:{}", hex(&hashed.finalize()))
}

/// How options are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choosing {
    /// By the log-probability of each as the whole answer.
    LogProbabilities,
    /// The model reads the options and names one in words.
    Words,
}

impl Choosing {
    /// What a model can do.
    pub fn of(chat: &dyn Chat) -> Self {
        if chat.tells_choices() { Self::LogProbabilities } else { Self::Words }
    }

    /// Names it in the configuration of a run: answers to other words are other answers.
    pub fn name(self) -> String {
        match self {
            Self::LogProbabilities => "log-probabilities".to_owned(),
            Self::Words => format!("words: {ONE_OF}"),
        }
    }
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
    /// A server does not tell what the answer is: it counts neither as right nor as wrong.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub untold: bool,
    /// In arms that rewrite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewriting: Option<Rewriting>,
    /// Tokens of answering.
    pub usage: Usage,
    /// Seconds of everything, as if nothing was remembered; where a model answers several items at the same time, the
    /// item's share of it.
    pub seconds: f64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Whether it is right.
    pub right: bool,
    /// Log-probability of each option as a whole answer, in nats; none where the answer was written.
    pub scores: Vec<f64>,
    /// Log-probability of what all options begin with; 0 where scores are those of what follows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<f64>,
    /// What each score may be at most, where a server tells only what lies between.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub most: Vec<f64>,
    /// What was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

impl Answered {
    /// Probability of an option once the answer has begun as all options do; none where a server leaves more than
    /// a hundredth open.
    pub fn probability(&self, option: usize) -> Option<f64> {
        let frame = self.frame?;
        let p = (self.scores.get(option)? - frame).exp();
        (self.most(option)? - frame).exp().le(&(p + SMALL)).then_some(p)
    }

    /// By how many nats the first option is likelier than the second; none where a server leaves one of them open.
    pub fn margin(&self) -> Option<f64> {
        let told =
            |i: usize| Some(*self.scores.get(i)?).filter(|s| self.most(i).is_some_and(|m| m - s < NEAR));
        Some(told(0)? - told(1)?)
    }

    fn most(&self, option: usize) -> Option<f64> {
        self.most.get(option).or(self.scores.get(option)).copied()
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
    /// Name of the reason where nothing beside the question may be removed: the model was not asked, and no arm could
    /// have lost anything.
    pub(super) fn nothing() -> &'static str {
        Reason::NoContext.name()
    }

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
            parse_failure: reason.is_some_and(Reason::is_parse_failure),
            guard: reason.is_some_and(Reason::is_guard),
            left,
            text: r.text,
            reply: r.reply,
            judged: r.judged.iter().map(|j| (j.range.start, j.range.end, j.score)).collect(),
            usage: r.usage,
        }
    }
}

/// How the model writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Decoding {
    pub temperature: f32,
    pub top_p: f32,
    pub seed: u64,
}

impl Decoding {
    /// The most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, seed: 0 };

    fn ask<'a>(&self, messages: &'a [Message], max_new: usize) -> Ask<'a> {
        let &Self { temperature, top_p, seed } = self;
        Ask { temperature, top_p, seed, ..Ask::new(messages, max_new) }
    }
}

/// Asks one item in one way. A prompt that is too long for the model, or that it refuses, is a result, not an error.
///
/// # Errors
/// The model, or the way to it, failed.
pub(super) fn ask(
    chat: &mut Memo<'_>,
    item: &Item,
    arm: Arm,
    decoding: Decoding,
) -> Result<Record, ChatError> {
    let start = chat.seconds();
    let Decoding { temperature, top_p, seed } = decoding;
    let options = arm.options().map(|o| Options { temperature, top_p, seed, ..o });
    let rewriting = options.map(|options| rewritten(chat, item, &options));
    // A server that was gone during the rewriting says nothing about the rewriting.
    if let Some(why) = chat.take_lost() {
        return Err(ChatError::Unreachable { model: chat.name().to_owned(), why });
    }
    let text = put(item, arm, rewriting.as_ref());
    let mut usage = Usage::default();
    let (answered, failed, untold) = match answer(chat, item, text, (arm, decoding), &mut usage) {
        Ok(answered) => (answered, None, false),
        Err(e @ ChatError::Cannot { .. }) => (None, Some(e.to_string()), true),
        Err(e @ (ChatError::TooLong { .. } | ChatError::Refused { .. })) => {
            (None, Some(e.to_string()), false)
        }
        Err(e) => return Err(e),
    };
    let seconds = chat.seconds() - start + chat.take_spared();
    Ok(Record { answered, failed, untold, rewriting, usage, seconds })
}

/// What is answered in an arm.
fn put(item: &Item, arm: Arm, rewriting: Option<&Rewriting>) -> String {
    match (arm, rewriting) {
        (Arm::Oracle, _) => item.oracle(),
        (Arm::Instructed, _) => format!("{}\n{WARNING}", item.prompt()),
        (_, Some(r)) => r.text.clone(),
        _ => item.prompt(),
    }
}

impl Record {
    /// What a free answer is asked with in this arm.
    pub(super) fn asked(&self, item: &Item, arm: Arm) -> String {
        let text = put(item, arm, self.rewriting.as_ref());
        if arm == Arm::Think { format!("{text}\n{THINK}") } else { text }
    }
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
    (arm, decoding): (Arm, Decoding),
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
        let reply = chat.complete(&decoding.ask(&messages, most))?;
        *usage += reply.usage;
        written = Some(reply.text);
    }
    let Some((frame, options, right)) = options else {
        let is = match (&item.judge, &written) {
            (Judge::Number(n), Some(text)) => last_number(text) == Some(*n),
            _ => false,
        };
        return Ok(Some(Answered::written(is, written)));
    };
    if let Some(thought) = &written {
        messages.push(Message { role: Role::Assistant, content: thought.clone() });
        messages.push(Message::user(THEN));
    }
    if !chat.tells_choices() {
        let named: Vec<&str> = options.iter().map(|o| bare(frame, o)).collect();
        if let Some(last) = messages.last_mut() {
            last.content.push_str(&format!("\n{ONE_OF} {}.", listed(&named)));
        }
        let reply = chat.complete(&decoding.ask(&messages, CHOSEN))?;
        *usage += reply.usage;
        return Ok(Some(Answered::written(chosen(&reply.text, &named) == Some(right), Some(reply.text))));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let choice = chat.choose(&messages, frame, &options)?;
    *usage += choice.usage;
    let scores: Vec<f64> = choice.scores.iter().map(|s| possible(*s)).collect();
    let most: Vec<f64> = choice.most.iter().map(|s| possible(*s)).collect();
    let right = match most.as_slice() {
        [] => is_best(&scores, right),
        most => is_surely_best(&scores, most, right).ok_or(ChatError::Cannot {
            model: chat.name().to_owned(),
            what: "tell which option is likeliest",
        })?,
    };
    let frame = Some(possible(choice.frame));
    Ok(Some(Answered { right, scores, frame, most, reply: written }))
}

impl Answered {
    /// An answer in words.
    fn written(right: bool, reply: Option<String>) -> Self {
        Self { right, scores: Vec::new(), frame: None, most: Vec::new(), reply }
    }
}

/// An option without what all begin and end with.
fn bare<'o>(frame: &str, option: &'o str) -> &'o str {
    option.strip_prefix(frame).unwrap_or(option).trim().trim_end_matches('.')
}

/// Options in an order that does not show which one is right.
fn listed(named: &[&str]) -> String {
    let mut all = named.to_vec();
    all.sort_unstable();
    all.join("; ")
}

/// The one option that a reply names; nothing where it names none or several.
fn chosen(reply: &str, named: &[&str]) -> Option<usize> {
    let reply = reply.trim();
    // A letter in parentheses may come without them, but not in the middle of a sentence: "A" is a word.
    let bare = reply.trim_matches(|c: char| !c.is_alphanumeric());
    let is = |option: &str| says(reply, option) || option == format!("({bare})");
    let mut said = (0..named.len()).filter(|&i| is(named[i]));
    let first = said.next()?;
    said.next().is_none().then_some(first)
}

/// Whether an option is likelier than every other, where log-probabilities lie between two numbers; nothing where
/// that leaves it open.
fn is_surely_best(scores: &[f64], most: &[f64], right: usize) -> Option<bool> {
    let (low, high) = (scores.get(right)?, most.get(right)?);
    let others = || (0..scores.len()).filter(|i| *i != right);
    if others().all(|i| most.get(i).is_some_and(|m| m < low)) {
        return Some(true);
    }
    others().any(|i| scores[i] >= *high).then_some(false)
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
        let most = Vec::new();
        let a = Answered { right: true, scores: vec![-3.0, -4.0], frame: Some(-2.5), most, reply: None };
        assert!((a.probability(0).expect("a number") - (-0.5f64).exp()).abs() < 1e-12);
        assert_eq!((a.probability(2), a.margin()), (None, Some(1.0)));
        // What is open counts where it is little.
        let open =
            |s, m| Answered { scores: vec![-3.0, s], most: vec![-3.0, m], frame: Some(0.0), ..a.clone() };
        assert_eq!((open(-1e9, -8.0).probability(1), open(-1e9, -8.0).margin()), (Some(0.0), None));
        assert_eq!((open(-1e9, -4.0).probability(1), open(-4.0, -3.99).margin()), (None, Some(1.0)));
    }

    #[test]
    fn what_is_only_bounded_decides_where_it_can() {
        assert_eq!(is_surely_best(&[-1.0, -9.0, -9.0], &[-0.9, -2.0, -3.0], 0), Some(true));
        assert_eq!(is_surely_best(&[-1.0, -9.0, -9.0], &[-0.9, -2.0, -3.0], 1), Some(false));
        assert_eq!(is_surely_best(&[-2.0, -9.0], &[-2.0, -1.0], 0), None, "the other may be likelier");
        assert_eq!(is_surely_best(&[-2.0, -2.0], &[-2.0, -2.0], 0), Some(false), "a tie");
    }

    #[test]
    fn an_option_is_named_in_words() {
        let cities = ["Rome", "New York", "York"];
        assert_eq!(chosen("It is rome.", &cities), Some(0));
        assert_eq!(chosen("New York", &cities), None, "that names two");
        assert_eq!(chosen("Oslo", &cities), None);
        let letters = ["(A)", "(B)"];
        assert_eq!(
            [chosen("A", &letters), chosen("B.", &letters), chosen("(B) a fish", &letters)],
            [Some(0), Some(1), Some(1)]
        );
        assert_eq!(chosen("A fish", &letters), None);
        assert_eq!(bare("The answer is", "The answer is 10."), "10");
        assert_eq!(listed(&["Rome", "Oslo"]), "Oslo; Rome");
    }
}
