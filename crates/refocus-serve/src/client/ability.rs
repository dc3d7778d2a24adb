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
/// Nats by which a server may differ from itself: other batches sum in another order.
const ALIKE: f64 = 0.05;

impl HttpChat {
    /// Finds out what the server tells: it writes a short answer, and is then given the beginning of that. A server
    /// that goes on must say the next token as it did before, and as surely; one that begins a new answer does not.
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
            let body = exchange::scoring(&self.upstream.model, self.limit, &messages, top);
            match self.ask(body) {
                Ok(_) => {
                    self.top = top;
                    break;
                }
                Err(ChatError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut body = exchange::scoring(&self.upstream.model, self.limit, &messages, exchange::TOP);
        body[self.limit] = TOKENS.into();
        let answer = match self.ask(body) {
            Ok(answer) => answer,
            Err(ChatError::Refused { .. }) => return Ok(Tells::Nothing),
            Err(error) => return Err(error),
        };
        let Some(written) = exchange::written(&answer).filter(|w| !w.is_empty()) else {
            return Ok(Tells::Nothing);
        };
        if exchange::first(&answer).is_none_or(|top| top.is_empty()) {
            return Ok(Tells::Nothing);
        }
        for way in [Way::Fields, Way::LastMessage] {
            for (begun, next) in beginnings(&written).take(TRIES) {
                let body = exchange::behind(
                    &self.upstream.model,
                    self.limit,
                    &messages,
                    &begun,
                    way == Way::Fields,
                    exchange::TOP,
                );
                let answer = match self.ask(body) {
                    Ok(answer) => answer,
                    Err(ChatError::Refused { .. }) => break,
                    Err(error) => return Err(error),
                };
                let again = exchange::written(&answer).and_then(|w| w.into_iter().next());
                if again.is_some_and(|a| a.bytes == next.bytes && (a.logprob - next.logprob).abs() < ALIKE) {
                    return Ok(Tells::Behind(way));
                }
            }
        }
        Ok(Tells::First)
    }
}

/// Beginnings of an answer that can be sent, each with the token behind it, where that is not also the first one.
fn beginnings(written: &[Likely]) -> impl Iterator<Item = (String, &Likely)> {
    (1..written.len()).filter_map(|n| {
        let begun = written[..n].iter().flat_map(|l| l.bytes.iter().copied()).collect();
        // Templates may take white space away at the end.
        let begun = String::from_utf8(begun).ok().filter(|b| b.trim_end() == b && !b.is_empty())?;
        (written[n].bytes != written[0].bytes).then_some((begun, &written[n]))
    })
}
