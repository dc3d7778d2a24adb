//! Generation: an [`Engine`] that computes many sequences together, and scores of given continuations.
//!
//! The engine is synchronous: [`Engine::submit`] takes a [`Request`], [`Engine::step`] runs one pass over
//! everything that is under way and says what came of it. Sequences join and leave between steps. A long
//! prompt is computed in pieces, so that it does not hold up the others, and what several prompts begin
//! with is computed once. None of this changes a bit of a result: tokens and log-probabilities of a
//! sequence follow from its own request alone (`docs/determinism.md`).

mod changes;
mod constraint;
mod engine;
mod error;
mod pass;
mod sampling;
mod score;
mod sequence;
mod text;

use std::ops::ControlFlow;
use std::sync::Arc;

use refocus_compute::Ops;

pub use self::changes::Changes;
pub use self::constraint::{Constraint, ConstraintError, Grammars};
pub use self::engine::{Engine, Limits};
pub use self::error::{GenerateError, RequestError};
pub use self::sampling::Sampling;
pub use self::score::{Score, score};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, used as they are.
    pub prompt: Vec<u32>,
    /// New tokens at most. Where the context of the model is shorter, generation ends there.
    pub max_new: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How many samples of the same prompt; sample `i` draws other random numbers than sample `j`.
    pub n: u32,
    /// Ids that end a sequence; they are not part of the result.
    pub stop: Vec<u32>,
    /// Strings that end a sequence; the text ends before them. They need the engine to have a tokenizer.
    pub stop_strings: Arc<[String]>,
    /// `None`: no log-probabilities. `Some(n)`: of each token, and of the `n` most likely ones at its
    /// place. They are those of the model (with the `[[decode]]` entries of a patch), before bias,
    /// penalties, constraint, temperature and the limits of sampling.
    pub logprobs: Option<usize>,
    /// What the text must be.
    pub constraint: Option<Constraint>,
    /// Changes of the model.
    pub changes: Arc<Changes>,
}

impl Request {
    /// Greedy, one sample, ended by nothing but its length.
    pub fn new(prompt: Vec<u32>, max_new: usize) -> Self {
        Self {
            prompt,
            max_new,
            sampling: Sampling::default(),
            n: 1,
            stop: Vec::new(),
            stop_strings: Arc::from([]),
            logprobs: None,
            constraint: None,
            changes: Arc::default(),
        }
    }
}

/// Names a request; they count up from 0 in the order in which they were submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One new token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that became certain with it: nothing where it is part of a character or may be part of a
    /// stop string. Always empty without a tokenizer.
    pub text: String,
    /// Its log-probability, where asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens at its place with their log-probabilities, best first.
    pub top: Vec<(u32, f32)>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop id.
    Stop,
    /// A stop string.
    StopString,
    /// The constraint allows nothing more.
    Complete,
    /// `max_new` or the context of the model is reached.
    Length,
}

impl Finish {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::StopString => "stop_string",
            Finish::Complete => "complete",
            Finish::Length => "length",
        }
    }
}

/// Something that happened to a sample of a request.
#[derive(Debug)]
pub struct Event {
    /// Which request.
    pub request: RequestId,
    /// Which of its samples.
    pub sample: u32,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug)]
pub enum What {
    /// It has a new token.
    Token(Token),
    /// It ended.
    Finished {
        /// Why.
        finish: Finish,
        /// Text that was held back.
        text: String,
        /// With a constraint: whether the text meets it. It may not where another reason ended it.
        whole: Option<bool>,
    },
    /// It cannot go on. Others are not concerned.
    Failed(GenerateError),
}

/// All of one sample.
#[derive(Debug)]
pub struct Output {
    /// New tokens.
    pub tokens: Vec<Token>,
    /// Their text, without a stop string; empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish: Result<Finish, GenerateError>,
    /// With a constraint: whether the text meets it.
    pub whole: Option<bool>,
}

impl Output {
    /// Ids of the new tokens.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|t| t.id).collect()
    }
}

/// Submits requests to an engine and steps until all of them have ended: for each request its samples.
/// `on_event` hears everything at once and may break off; then what there is so far is the result.
///
/// # Errors
/// A request that is refused; those before it are not run. What goes wrong later is in the output.
pub fn complete<O: Ops>(
    engine: &mut Engine<'_, O>,
    requests: Vec<Request>,
    mut on_event: impl FnMut(&Event) -> ControlFlow<()>,
) -> Result<Vec<Vec<Output>>, RequestError> {
    let mut outputs: Vec<Vec<Output>> = Vec::with_capacity(requests.len());
    let mut ids = Vec::with_capacity(requests.len());
    for request in requests {
        let empty =
            || Output { tokens: Vec::new(), text: String::new(), finish: Ok(Finish::Length), whole: None };
        outputs.push((0..request.n).map(|_| empty()).collect());
        match engine.submit(request) {
            Ok(id) => ids.push(id),
            Err(e) => {
                for id in ids {
                    engine.cancel(id);
                }
                return Err(e);
            }
        }
    }
    let mut goes_on = ControlFlow::Continue(());
    while !engine.is_idle() && goes_on.is_continue() {
        for event in engine.step() {
            if goes_on.is_continue() {
                goes_on = on_event(&event);
            }
            // What was submitted elsewhere is only heard.
            let Some(i) = ids.first().and_then(|first| event.request.0.checked_sub(first.0)) else {
                continue;
            };
            let Some(samples) = outputs.get_mut(i as usize) else { continue };
            let Some(output) = samples.get_mut(event.sample as usize) else { continue };
            match event.what {
                What::Token(token) => {
                    output.text.push_str(&token.text);
                    output.tokens.push(token);
                }
                What::Finished { finish, text, whole } => {
                    output.text.push_str(&text);
                    (output.finish, output.whole) = (Ok(finish), whole);
                }
                What::Failed(e) => output.finish = Err(e),
            }
        }
    }
    // Nothing is left of them, unless it was broken off.
    for id in ids {
        engine.cancel(id);
    }
    Ok(outputs)
}
