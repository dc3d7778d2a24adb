//! What a server can tell, found out by asking it.

use refocus_system2::{ChatError, Message};

use super::{HttpChat, TOP};
use crate::exchange::{self, Likely};

/// What a server tells of log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// Those of the likeliest tokens behind any beginning of an answer: whole answers can be scored.
    Behind(Way),
    /// Those of the first token of an answer.
    First,
    /// None.
    Nothing,
}

/// How a server is told that the last message is the beginning of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the fields `continue_final_message` and `add_generation_prompt`, as vLLM and refocus have them.
    Fields,
    /// By nothing else than that it is the assistant's, as llama.cpp takes it.
    LastMessage,
}

/// Says something of several tokens whatever the model.
const QUESTION: &str = "Count from one to ten in words.";
/// Tokens of the answer that the server is to go on with.
const TOKENS: usize = 10;
/// Beginnings of it that are tried for each way.
const TRIES: usize = 4;
/// Answers that are written, if need be.
const SAMPLES: u64 = 8;
/// Nats by which a server may differ from itself: other batches sum in another order.
const ALIKE: f64 = 0.05;
/// Nats by which what it says behind a beginning has to differ from what it says at first.
const APART: f64 = 0.2;

impl HttpChat {
    /// Finds out what the server tells: it writes a short answer, and is then given the beginning of that. A server
    /// that goes on must hold the next token as likely as it did before; one that begins a new answer does not.
    ///
    /// # Errors
    /// The server does not answer at all.
    pub fn find_out(&mut self) -> Result<Tells, ChatError> {
        self.tells = self.found_out()?;
        Ok(self.tells)
    }

    fn found_out(&mut self) -> Result<Tells, ChatError> {
        let messages = [Message::user(QUESTION)];
        // More than the interface allows make whole answers better known, where the server tells them.
        for top in TOP {
            let body = exchange::scoring(&self.upstream.model, self.limit_name(), &messages, top);
            match self.ask(body) {
                Ok(_) => {
                    self.learned().top = top;
                    break;
                }
                Err(ChatError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // An answer may have no beginning that tells anything; others are drawn then.
        for sample in 0..SAMPLES {
            let mut body =
                exchange::scoring(&self.upstream.model, self.limit_name(), &messages, exchange::TOP);
            body[self.limit_name()] = TOKENS.into();
            if sample > 0 {
                body["temperature"] = 1.into();
                body["seed"] = sample.into();
            }
            let answer = match self.ask(body) {
                Ok(answer) => answer,
                Err(ChatError::Refused { .. }) => return Ok(Tells::Nothing),
                Err(error) => return Err(error),
            };
            let told = exchange::written(&answer).zip(exchange::first(&answer));
            let Some((written, first)) = told.filter(|(w, f)| !w.is_empty() && !f.is_empty()) else {
                return Ok(Tells::Nothing);
            };
            let beginnings: Vec<_> = beginnings(&written, &first).take(TRIES).collect();
            for way in [Way::Fields, Way::LastMessage] {
                for (begun, next) in &beginnings {
                    match self.goes_on_with(&messages, begun, next, way) {
                        Ok(true) => return Ok(Tells::Behind(way)),
                        Ok(false) => {}
                        Err(ChatError::Refused { .. }) => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            if !beginnings.is_empty() {
                break;
            }
        }
        Ok(Tells::First)
    }

    /// Whether the server says of a token behind a beginning what it said when it wrote it.
    fn goes_on_with(
        &mut self,
        messages: &[Message],
        begun: &str,
        next: &Likely,
        way: Way,
    ) -> Result<bool, ChatError> {
        let (model, fields) = (&self.upstream.model, way == Way::Fields);
        let body = exchange::behind(model, self.limit_name(), messages, begun, fields, self.top());
        let answer = self.ask(body)?;
        let again = exchange::first(&answer).unwrap_or_default();
        Ok(again.iter().any(|l| l.bytes == next.bytes && (l.logprob - next.logprob).abs() < ALIKE))
    }
}

/// Beginnings of an answer that can be sent, each with the token behind it, where that is not about as likely as the
/// first token of an answer.
fn beginnings<'w>(written: &'w [Likely], first: &[Likely]) -> impl Iterator<Item = (String, &'w Likely)> {
    let least = first.iter().map(|l| l.logprob).fold(0.0, f64::min);
    (1..written.len()).filter_map(move |n| {
        let begun = written[..n].iter().flat_map(|l| l.bytes.iter().copied()).collect();
        // Templates may take white space away at the end.
        let begun = String::from_utf8(begun).ok().filter(|b| b.trim_end() == b && !b.is_empty())?;
        let next = &written[n];
        let at_first = first.iter().find(|l| l.bytes == next.bytes);
        let apart = match at_first {
            Some(l) => (l.logprob - next.logprob).abs() > APART,
            None => next.logprob > least + APART,
        };
        apart.then_some((begun, next))
    })
}
