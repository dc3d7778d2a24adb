//! A chat model that is not asked the same thing twice.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

use refocus_system2::{Ask, Chat, ChatError, Choice, Message, Reply, Scores, Usage};

/// Remembers what was written for one item: the variants of one rewriting begin with the same step, and answers
/// are deterministic. A remembered answer counts with its tokens and its time as if it had been made.
pub(super) struct Memo<'a> {
    chat: &'a mut dyn Chat,
    replies: HashMap<String, (Reply, f64)>,
    scores: HashMap<String, (Vec<f64>, Usage, f64)>,
    choices: HashMap<String, (Choice, f64)>,
    /// Seconds that were not spent because of it.
    spared: f64,
    /// Why the model could not be reached since this was last asked.
    lost: Option<String>,
    began: Instant,
}

impl<'a> Memo<'a> {
    pub(super) fn new(chat: &'a mut dyn Chat) -> Self {
        let (replies, scores, choices) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { chat, replies, scores, choices, spared: 0.0, lost: None, began: Instant::now() }
    }

    /// Seconds so far: those that the model worked for this asker, where it has others too.
    pub(super) fn seconds(&self) -> f64 {
        self.chat.worked().unwrap_or_else(|| self.began.elapsed().as_secs_f64())
    }

    /// Why the model could not be reached at some time since this was last asked, if it could not.
    pub(super) fn take_lost(&mut self) -> Option<String> {
        self.lost.take()
    }

    /// Remembers that the model was out of reach: whoever asked may make something else of that.
    fn heard<T>(lost: &mut Option<String>, outcome: Result<T, ChatError>) -> Result<T, ChatError> {
        if let Err(
            e @ (ChatError::Unreachable { .. } | ChatError::TimedOut { .. } | ChatError::Failed { .. }),
        ) = &outcome
        {
            *lost = Some(match e {
                ChatError::Unreachable { why, .. } => why.clone(),
                e => e.to_string(),
            });
        }
        outcome
    }

    /// Seconds that were spared since this was last asked.
    pub(super) fn take_spared(&mut self) -> f64 {
        std::mem::take(&mut self.spared)
    }
}

fn words(messages: &[Message]) -> String {
    // Messages are plain text and can always be written.
    serde_json::to_string(messages).unwrap_or_default()
}

impl Chat for Memo<'_> {
    fn name(&self) -> &str {
        self.chat.name()
    }

    fn limit(&mut self, until: Option<Instant>) {
        self.chat.limit(until);
    }

    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
        let key = format!(
            "{} {} {} {} {:?} {}",
            ask.max_new,
            ask.temperature,
            ask.top_p,
            ask.seed,
            ask.schema.map(ToString::to_string),
            words(ask.messages)
        );
        if let Some((reply, seconds)) = self.replies.get(&key) {
            self.spared += seconds;
            return Ok(reply.clone());
        }
        let start = self.seconds();
        let reply = Self::heard(&mut self.lost, self.chat.complete(ask))?;
        let took = self.seconds() - start;
        self.replies.insert(key, (reply.clone(), took));
        Ok(reply)
    }

    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        let key = format!("{answers:?} {}", words(messages));
        if let Some((scores, usage, seconds)) = self.scores.get(&key) {
            self.spared += seconds;
            return Ok((scores.clone(), *usage));
        }
        let start = self.seconds();
        let (scores, usage) = Self::heard(&mut self.lost, self.chat.score(messages, answers))?;
        let took = self.seconds() - start;
        self.scores.insert(key, (scores.clone(), usage, took));
        Ok((scores, usage))
    }

    fn tells_choices(&self) -> bool {
        self.chat.tells_choices()
    }

    fn choose(&mut self, messages: &[Message], frame: &str, options: &[&str]) -> Result<Choice, ChatError> {
        let key = format!("{frame:?} {options:?} {}", words(messages));
        if let Some((choice, seconds)) = self.choices.get(&key) {
            self.spared += seconds;
            return Ok(choice.clone());
        }
        let start = self.seconds();
        let choice = Self::heard(&mut self.lost, self.chat.choose(messages, frame, options))?;
        let took = self.seconds() - start;
        self.choices.insert(key, (choice.clone(), took));
        Ok(choice)
    }

    fn score_each(&mut self, conversations: &[Vec<Message>], answers: &[&str]) -> Result<Scores, ChatError> {
        Self::heard(&mut self.lost, self.chat.score_each(conversations, answers))
    }

    fn score_hidden(
        &mut self,
        messages: &[Message],
        answers: &[&str],
        hidden: &[Range<usize>],
        most: usize,
    ) -> Result<Scores, ChatError> {
        Self::heard(&mut self.lost, self.chat.score_hidden(messages, answers, hidden, most))
    }
}
