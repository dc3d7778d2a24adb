//! What rewriting needs of a model.

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
    /// It, or the way to it, failed.
    #[error("{model}: {why}")]
    Failed {
        /// Name of the model.
        model: String,
        /// In one line.
        why: String,
    },
}

/// A chat model.
pub trait Chat {
    /// Its name in results.
    fn name(&self) -> &str;

    /// Writes an answer.
    ///
    /// # Errors
    /// See [`ChatError`].
    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError>;

    /// Log-probability of each text as the beginning of the answer, in natural logarithm. The conversation is
    /// read once.
    ///
    /// # Errors
    /// See [`ChatError`].
    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError>;
}
