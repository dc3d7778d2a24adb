//! From what the engine says about a choice to the parts of an answer. Streams and whole answers are made of the
//! same parts.

use std::sync::Arc;

use refocus_model::Tokenizer;
use refocus_model::generate::{Finish, GenerateError, Token, What};

use crate::error::ApiError;
use crate::openai::{Calls, Likely, Piece, Said, TokenLogprob};

/// The tokens of a model with their bytes.
#[derive(Debug)]
pub(super) struct Words {
    tokenizer: Arc<Tokenizer>,
    bytes: Vec<Option<Vec<u8>>>,
}

impl Words {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, vocab: usize) -> Self {
        let bytes = tokenizer.token_bytes(vocab);
        Self { tokenizer, bytes }
    }

    fn likely(&self, id: u32, logprob: f32) -> Likely {
        let bytes = match self.bytes.get(id as usize) {
            Some(Some(bytes)) => bytes.clone(),
            // A special token is written out, as in the text.
            _ => self.tokenizer.token(id).into_bytes(),
        };
        Likely { token: String::from_utf8_lossy(&bytes).into_owned(), bytes, logprob }
    }
}

/// Makes the parts of one choice.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    words: Arc<Words>,
    logprobs: bool,
    calls: Option<Calls>,
    /// Tokens whose text is not certain yet.
    held: Vec<TokenLogprob>,
    /// Characters before the next token.
    offset: usize,
    tokens: usize,
}

impl Writer {
    /// `offset`: characters of the answer before its first token.
    pub(super) fn new(words: Arc<Words>, logprobs: bool, calls: Option<Calls>, offset: usize) -> Self {
        Self { words, logprobs, calls, held: Vec::new(), offset, tokens: 0 }
    }

    /// New tokens so far.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// What follows from an event.
    ///
    /// # Errors
    /// The choice cannot go on.
    pub(super) fn push(&mut self, what: What) -> Result<Vec<Piece>, ApiError> {
        match what {
            What::Token(token) => {
                self.tokens += 1;
                self.hold(&token);
                // Log-probabilities of tokens wait until it is certain that their text belongs to the answer.
                if token.text.is_empty() { Ok(Vec::new()) } else { Ok(self.say(&token.text)) }
            }
            What::Finished { finish, text, .. } => {
                if finish == Finish::StopString {
                    self.held.clear();
                }
                let mut pieces = self.say(&text);
                let mut reason = if finish == Finish::Length { "length" } else { "stop" };
                if let Some(calls) = &mut self.calls {
                    pieces.extend(calls.finish().into_iter().map(part));
                    if calls.made() > 0 && finish != Finish::Length {
                        reason = "tool_calls";
                    }
                }
                pieces.push(Piece::End(reason));
                Ok(pieces)
            }
            What::Failed(error) => Err(failure(&error)),
        }
    }

    fn hold(&mut self, token: &Token) {
        let Some(logprob) = token.logprob.filter(|_| self.logprobs) else { return };
        let this = self.words.likely(token.id, logprob);
        let top = token.top.iter().map(|&(id, l)| self.words.likely(id, l)).collect();
        let begun = this.bytes.iter().filter(|b| **b & 0xc0 != 0x80).count();
        self.held.push(TokenLogprob { this, top, offset: self.offset });
        self.offset += begun;
    }

    fn say(&mut self, text: &str) -> Vec<Piece> {
        let logprobs = std::mem::take(&mut self.held);
        if text.is_empty() && logprobs.is_empty() {
            return Vec::new();
        }
        let Some(calls) = &mut self.calls else {
            return vec![Piece::Text { text: text.to_owned(), logprobs }];
        };
        let mut pieces: Vec<Piece> = calls.push(text).into_iter().map(part).collect();
        if !logprobs.is_empty() {
            match pieces.first_mut() {
                Some(Piece::Text { logprobs: of_text, .. }) => *of_text = logprobs,
                _ => pieces.insert(0, Piece::Text { text: String::new(), logprobs }),
            }
        }
        pieces
    }
}

fn part(said: Said) -> Piece {
    match said {
        Said::Text(text) => Piece::Text { text, logprobs: Vec::new() },
        Said::Call(call) => Piece::Call(call),
    }
}

pub(super) fn failure(error: &GenerateError) -> ApiError {
    match error {
        GenerateError::Constraint(e) => {
            ApiError::invalid("response_format", format!("the model cannot go on within the format: {e}"))
        }
        // Its message names files of this machine.
        GenerateError::Text(_) => ApiError::internal("the tokenizer failed"),
        GenerateError::Run(_) | GenerateError::Nothing { .. } => {
            ApiError::internal(format!("the model failed: {error}"))
        }
    }
}
