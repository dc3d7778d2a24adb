//! What rewriting needs of a model.

use std::ops::Range;
use std::time::Instant;

use serde_json::Value;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions of whoever runs the model.
    System,
    /// The person asking.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What.
    pub content: String,
}

impl Message {
    /// A message of the person asking.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: Role::User, content: content.into() }
    }
}

/// What a model is to write.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The conversation so far.
    pub messages: &'a [Message],
    /// New tokens at most.
    pub max_new: usize,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Share of the probability that is sampled from, 1 for all.
    pub top_p: f32,
    /// Of the sampling.
    pub seed: u64,
    /// JSON schema that the answer must meet.
    pub schema: Option<&'a Value>,
}

impl<'a> Ask<'a> {
    /// Greedy and free in form.
    pub fn new(messages: &'a [Message], max_new: usize) -> Self {
        Self { messages, max_new, temperature: 0.0, top_p: 1.0, seed: 0, schema: None }
    }
}

/// Tokens that were read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Of prompts, each as often as it was read.
    pub prompt: u64,
    /// Of answers.
    pub completion: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.completion += other.completion;
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// The limit on new tokens or the context did.
    Length,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// What it took.
    pub usage: Usage,
}

/// Why a model gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// It has no place for a prompt of this length.
    #[error("the prompt has {tokens} tokens, and the model takes {room}")]
    TooLong {
        /// Of the prompt.
        tokens: usize,
        /// Of the model's context.
        room: usize,
    },
    /// It cannot do this at all: schemas, scores.
    #[error("{model} cannot {what}")]
    Cannot {
        /// Name of the model.
        model: String,
        /// What was asked for.
        what: &'static str,
    },
    /// It did not answer in time.
    #[error("no answer within {} ms", after.as_millis())]
    TimedOut {
        /// The limit.
        after: std::time::Duration,
    },
    /// It will not answer this request; others it may.
    #[error("{model}: {why}")]
    Refused {
        /// Name of the model.
        model: String,
        /// In one line.
        why: String,
    },
    /// It cannot be reached or is too busy, after all tries. The same request may be answered later.
    #[error("{model}: {why}")]
    Unreachable {
        /// Name of the model.
        model: String,
        /// In one line.
        why: String,
    },
    /// It, or the way to it, failed.
    #[error("{model}: {why}")]
    Failed {
        /// Name of the model.
        model: String,
        /// In one line.
        why: String,
    },
}

/// Log-probabilities, a row for each conversation and in it one for each answer, and what they took.
pub type Scores = (Vec<Vec<f64>>, Usage);

/// How likely whole answers are that begin alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Log-probability of what they begin with; 0 where a model tells only what follows it.
    pub frame: f64,
    /// That of each answer from its first word on, or from the end of the frame where that is 0.
    pub scores: Vec<f64>,
    /// What each may be at most, where a model tells only what lies between; empty where scores are exact.
    pub most: Vec<f64>,
    /// What it took.
    pub usage: Usage,
}

impl Choice {
    /// From the scores of the frame and of the answers.
    pub(crate) fn of(mut scores: Vec<f64>, usage: Usage) -> Self {
        let frame = if scores.is_empty() { 0.0 } else { scores.remove(0) };
        Self { frame, scores, most: Vec::new(), usage }
    }
}

/// What [`Chat::choose`] is asked.
#[derive(Clone, Copy, Debug)]
pub struct Choose<'a> {
    /// The conversation so far.
    pub messages: &'a [Message],
    /// What all answers begin with.
    pub frame: &'a str,
    /// Whole answers.
    pub options: &'a [&'a str],
}

impl<'a> Choose<'a> {
    /// The frame, then the options.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        std::iter::once(self.frame).chain(self.options.iter().copied())
    }
}

/// A chat model.
pub trait Chat {
    /// Its name in results.
    fn name(&self) -> &str;

    /// From now on a call that is not done at `until` ends with [`ChatError::TimedOut`]; `None` takes the limit
    /// away. A model that cannot be interrupted may ignore it.
    fn limit(&mut self, _until: Option<Instant>) {}

    /// Writes an answer.
    ///
    /// # Errors
    /// See [`ChatError`].
    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError>;

    /// How many askers it answers with profit at the same time: see [`together`](crate::together).
    fn at_once(&self) -> usize {
        1
    }

    /// A way of its own to the same model for one more asker at the same time, where there is such: a server is
    /// asked by several. The answers of a model that has none are computed [`together`](crate::together).
    fn beside(&self) -> Option<Box<dyn Chat + Send>> {
        None
    }

    /// Seconds that the model has worked for this asker, where it answers others beside; nothing where the clock
    /// on the wall tells.
    fn worked(&self) -> Option<f64> {
        None
    }

    /// Writes an answer to each, as [`complete`](Self::complete) does one after another; which others are there
    /// changes none of them.
    fn complete_all(&mut self, asks: &[Ask<'_>]) -> Vec<Result<Reply, ChatError>> {
        asks.iter().map(|ask| self.complete(ask)).collect()
    }

    /// Log-probability of each text as the beginning of the answer, in natural logarithm. The conversation is
    /// read once.
    ///
    /// # Errors
    /// See [`ChatError`].
    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError>;

    /// Whether [`choose`](Self::choose) can be asked.
    fn tells_choices(&self) -> bool {
        true
    }

    /// How likely each of these is as the whole answer. All of them begin with `frame`.
    ///
    /// # Errors
    /// See [`ChatError`].
    fn choose(&mut self, messages: &[Message], frame: &str, options: &[&str]) -> Result<Choice, ChatError> {
        let answers: Vec<&str> = Choose { messages, frame, options }.answers().collect();
        let (scores, usage) = self.score(messages, &answers)?;
        Ok(Choice::of(scores, usage))
    }

    /// Answers each as [`choose`](Self::choose) does one after another; which others are there changes none.
    fn choose_all(&mut self, asked: &[Choose<'_>]) -> Vec<Result<Choice, ChatError>> {
        asked.iter().map(|a| self.choose(a.messages, a.frame, a.options)).collect()
    }

    /// As [`score`](Self::score), for several conversations: `[conversations][answers]`. What they begin with
    /// in common is read once where the model can do that.
    ///
    /// # Errors
    /// See [`ChatError`]; the first that fails ends all.
    fn score_each(&mut self, conversations: &[Vec<Message>], answers: &[&str]) -> Result<Scores, ChatError> {
        let mut usage = Usage::default();
        let mut rows = Vec::with_capacity(conversations.len());
        for messages in conversations {
            let (row, took) = self.score(messages, answers)?;
            usage += took;
            rows.push(row);
        }
        Ok((rows, usage))
    }

    /// As [`score`](Self::score), with everything to be seen and then with each of these byte ranges of the
    /// last message hidden: `[1 + hidden][answers]`. Without answers, the token that the model would begin its
    /// answer with stands for one.
    ///
    /// A local model hides a range from the attention of what is behind byte `from` of the last message, which
    /// is read again for each range; what is before is read once, with everything to be seen. Any other cuts
    /// the range out of the message.
    ///
    /// # Errors
    /// See [`ChatError`].
    fn score_hidden(
        &mut self,
        messages: &[Message],
        answers: &[&str],
        hidden: &[Range<usize>],
        _from: usize,
    ) -> Result<Scores, ChatError> {
        scores_without(self, messages, answers, hidden)
    }
}

/// [`Chat::score_hidden`] by cutting ranges out of the message.
pub(crate) fn scores_without<C: Chat + ?Sized>(
    chat: &mut C,
    messages: &[Message],
    answers: &[&str],
    hidden: &[Range<usize>],
) -> Result<Scores, ChatError> {
    let mut usage = Usage::default();
    let mut own = String::new();
    if answers.is_empty() {
        let reply = chat.complete(&Ask::new(messages, 1))?;
        usage += reply.usage;
        own = reply.text;
    }
    let own = [own.as_str()];
    let answers = if answers.is_empty() { &own } else { answers };
    let mut conversations = vec![messages.to_vec()];
    for range in hidden {
        let mut without = messages.to_vec();
        if let Some(last) = without.last_mut() {
            let before = last.content.get(..range.start).unwrap_or_default();
            last.content = [before, last.content.get(range.end..).unwrap_or_default()].concat();
        }
        conversations.push(without);
    }
    let (rows, took) = chat.score_each(&conversations, answers)?;
    usage += took;
    Ok((rows, usage))
}
