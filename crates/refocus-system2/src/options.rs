//! What is to be rewritten, and how.

use std::ops::Range;
use std::time::Duration;

use refocus_model::patch::Variant;

use crate::templates::Templates;

/// What is rewritten: the newest words of a user. Nothing else of a conversation is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The text.
    pub text: String,
    /// Bytes of the text that hold the question. `None` looks for it.
    pub question: Option<Range<usize>>,
    /// Answers that are possible, where that is known: [`Judge::AnswerChange`] then looks at their
    /// probabilities, else at the first token of the model's own answer.
    pub answers: Vec<String>,
}

impl Request {
    /// A text whose question is to be found.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), question: None, answers: Vec::new() }
    }
}

/// By what [`Variant::Scored`] judges a piece. More is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Judge {
    /// log P(yes) − log P(no) to the question whether the piece is needed, in nats.
    #[default]
    Need,
    /// How much the log-probability of the answer changes without the piece, in nats: of the model's first
    /// token, or the largest change among the answers of the request. A sway counts like a reason: this finds
    /// what does not matter, not what is opinion.
    AnswerChange,
}

impl Judge {
    /// Its name on the command line and in documents.
    pub fn name(self) -> &'static str {
        match self {
            Judge::Need => "need",
            Judge::AnswerChange => "answer_change",
        }
    }

    /// Below this a piece is removed unless another threshold is given: no preference for yes, or a change of
    /// the answer's probability by less than a twentieth.
    pub fn threshold(self) -> f64 {
        match self {
            Judge::Need => 0.0,
            Judge::AnswerChange => 0.05,
        }
    }
}

/// What a rewrite may not do; whatever is on here ends with the original text.
///
/// Always on: the question survives, instructions on format, language and persona survive, code and links
/// survive, the rewrite is not longer than the original, not empty, no refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    /// Numbers, code, quotations, names and links of the rewrite are all in the original, and so are most of
    /// its words.
    pub nothing_new: bool,
    /// A number or quotation may not even go with the whole sentence that holds it.
    pub strict: bool,
}

impl Default for Guards {
    /// Nothing new; numbers and quotations may go with their whole sentence.
    fn default() -> Self {
        Self { nothing_new: true, strict: false }
    }
}

/// How a text is rewritten.
#[derive(Clone, Debug)]
pub struct Options {
    /// In which way.
    pub variant: Variant,
    /// For [`Variant::Scored`].
    pub judge: Judge,
    /// For [`Variant::Scored`]: pieces below it are removed, in nats. `None` is [`Judge::threshold`].
    pub threshold: Option<f64>,
    /// What the model is told.
    pub templates: Templates,
    /// What a rewrite may not do.
    pub guards: Guards,
    /// New tokens at most. `None` goes by the length of the text.
    pub max_new: Option<usize>,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Share of the probability that is sampled from, 1 for all.
    pub top_p: f32,
    /// Of the sampling.
    pub seed: u64,
    /// For the whole rewriting; what is not done by then ends with the original text.
    pub deadline: Option<Duration>,
}

impl Options {
    /// Greedy, with our own templates, all guards as usual, without a deadline.
    pub fn new(variant: Variant) -> Self {
        Self {
            variant,
            judge: Judge::default(),
            threshold: None,
            templates: Templates::default(),
            guards: Guards::default(),
            max_new: None,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            deadline: None,
        }
    }

    /// The threshold that holds.
    pub fn threshold(&self) -> f64 {
        self.threshold.unwrap_or_else(|| self.judge.threshold())
    }
}
