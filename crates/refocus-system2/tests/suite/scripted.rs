//! Models that say what they were told to.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use refocus_system2::{Ask, Chat, ChatError, Finish, Message, Reply, Usage};

/// Says these, one after another, and scores as it is told.
#[derive(Default)]
pub struct Scripted {
    pub says: VecDeque<Result<String, ChatError>>,
    pub finish: Option<Finish>,
    /// log P of the first answer for every conversation, in order; of any other answer 0.
    pub scores: VecDeque<f64>,
    /// What it was asked.
    pub asked: Vec<String>,
    pub until: Option<Instant>,
    /// How long an answer takes.
    pub takes: Duration,
}

impl Scripted {
    pub fn says(text: &str) -> Self {
        Self { says: [Ok(text.to_owned())].into(), ..Self::default() }
    }

    pub fn fails(error: ChatError) -> Self {
        Self { says: [Err(error)].into(), ..Self::default() }
    }

    pub fn scores(scores: &[f64]) -> Self {
        Self { scores: scores.iter().copied().collect(), ..Self::default() }
    }
}

impl Chat for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn limit(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
        std::thread::sleep(self.takes);
        self.asked.push(ask.messages.last().map(|m| m.content.clone()).unwrap_or_default());
        let text = self.says.pop_front().unwrap_or_else(|| Ok(String::new()))?;
        let usage = Usage { prompt: 10, completion: 3 };
        Ok(Reply { text, finish: self.finish.unwrap_or(Finish::Stop), usage })
    }

    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        self.asked.push(messages.last().map(|m| m.content.clone()).unwrap_or_default());
        let first = self.scores.pop_front().unwrap_or(0.0);
        let row = (0..answers.len()).map(|i| if i == 0 { first } else { 0.0 }).collect();
        Ok((row, Usage { prompt: 10, completion: 0 }))
    }
}
