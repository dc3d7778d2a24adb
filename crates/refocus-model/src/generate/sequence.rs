//! One sequence under way: which token comes next, and what ends it.

use std::rc::Rc;
use std::sync::Arc;

use refocus_compute::KvSeq;

use super::constraint::{Constraint, Mask};
use super::error::GenerateError;
use super::pass::{Ask, Logits, Row, adjust};
use super::text::Text;
use super::{Event, Finish, Request, RequestId, Token, What, sampling};
use crate::run_error::RunError;
use crate::tokenizer::Tokenizer;

/// A request and what it may need.
#[derive(Debug)]
pub(super) struct Job {
    pub id: RequestId,
    pub request: Request,
    /// New tokens at most, the context of the model considered.
    pub max_new: usize,
    /// Blocks of cache for what all samples share, and for each sample.
    pub shared_blocks: usize,
    pub own_blocks: usize,
}

/// A sequence. Until its prompt is computed it stands for all samples of the request.
#[derive(Debug)]
pub(super) struct Sequence<'a, P> {
    pub job: Rc<Job>,
    pub sample: u32,
    /// Prompt and new tokens.
    pub ids: Vec<u32>,
    pub cache: KvSeq<P>,
    /// Whether the prompt is computed.
    pub started: bool,
    pub ended: bool,
    text: Option<Text<'a>>,
    constraint: Option<Constraint>,
    /// The tokens that may come next, where known already.
    mask: Option<Mask>,
}

impl<'a, P> Sequence<'a, P> {
    pub(super) fn new(job: Rc<Job>, cache: KvSeq<P>, tokenizer: Option<&'a Tokenizer>) -> Self {
        let r = &job.request;
        Self {
            sample: 0,
            ids: r.prompt.clone(),
            cache,
            started: false,
            ended: false,
            text: tokenizer.map(|t| Text::new(t, r.stop_strings.clone())),
            constraint: r.constraint.clone(),
            mask: None,
            job,
        }
    }

    /// Another sample, from the prompt on.
    pub(super) fn fork(&self, sample: u32) -> Self {
        Self {
            job: Rc::clone(&self.job),
            sample,
            ids: self.ids.clone(),
            cache: self.cache.clone(),
            started: self.started,
            ended: false,
            text: self.text.clone(),
            constraint: self.constraint.clone(),
            mask: self.mask.clone(),
        }
    }

    /// How many samples it stands for.
    pub(super) fn samples(&self) -> u32 {
        if self.started { 1 } else { self.job.request.n }
    }

    /// What is needed of the logits after its last token.
    pub(super) fn ask(&self) -> Ask {
        let r = &self.job.request;
        match r.sampling.decided_by().filter(|_| self.constraint.is_none() && r.changes.decode.is_empty()) {
            Some(n) => Ask::Top(r.logprobs.unwrap_or(0).max(n)),
            None => Ask::All,
        }
    }

    /// Goes on with logits after its last token.
    pub(super) fn advance(&mut self, row: Row, events: &mut Vec<Event>) {
        let done = self.choose(row).and_then(|(token, stays)| {
            if stays { self.take(token, events) } else { self.finish(Finish::Stop, events) }
        });
        if let Err(e) = done {
            self.fail(e, events);
        }
    }

    /// Ends it with an error.
    pub(super) fn fail(&mut self, error: GenerateError, events: &mut Vec<Event>) {
        self.ended = true;
        events.push(self.event(What::Failed(error)));
    }

    /// Ends it, and all samples it stands for, because the model failed.
    pub(super) fn fail_all(&mut self, error: RunError, events: &mut Vec<Event>) {
        let error = Arc::new(error);
        for sample in self.sample..self.sample + self.samples() {
            let what = What::Failed(GenerateError::Run(Arc::clone(&error)));
            events.push(Event { request: self.job.id, sample, what });
        }
        self.ended = true;
    }

    fn event(&self, what: What) -> Event {
        Event { request: self.job.id, sample: self.sample, what }
    }

    /// The next token, and whether it stays: a stop id does not.
    fn choose(&mut self, row: Row) -> Result<(Token, bool), GenerateError> {
        let r = &self.job.request;
        let position = self.ids.len();
        let seq = self.job.id.0 as usize;
        let usable = |lse: f32| {
            let broken = |what: &str| {
                let what = what.to_owned();
                Err(GenerateError::from(RunError::NotANumber { what, seq, position: position - 1 }))
            };
            match lse {
                _ if lse.is_nan() => broken("logits"),
                // A logit is infinite, or the sum of their exponentials is.
                f32::INFINITY => broken("the softmax of the logits"),
                f32::NEG_INFINITY => Err(GenerateError::Nothing { position }),
                _ => Ok(lse),
            }
        };
        let mut lse = usable(row.lse)?;
        let wanted = r.logprobs.unwrap_or(0);
        let (id, logit, mut top) = match row.logits {
            Logits::Top(top) => {
                let (id, logit) =
                    r.sampling.decide(&top, self.sample, position as u32).ok_or(RunError::Unread(0))?;
                (id, Some(logit), top)
            }
            Logits::All(mut logits) => {
                if !r.changes.decode.is_empty() {
                    lse = usable(adjust(&r.changes.decode, &mut logits))?;
                }
                // Log-probabilities are the model's own.
                let own = r.logprobs.map(|_| logits.clone());
                r.sampling.bias(&mut logits, &self.ids[r.prompt.len()..]);
                if let Some(constraint) = &mut self.constraint {
                    let mask = match self.mask.take() {
                        Some(mask) => mask,
                        None => constraint.mask()?,
                    };
                    mask.apply(&mut logits);
                }
                let id = r.sampling.choose(&logits, self.sample, position as u32);
                let id = id.ok_or(GenerateError::Nothing { position })?;
                let top = own.as_ref().filter(|_| wanted > 0).map(|own| sampling::top(own, wanted));
                (id, own.map(|own| own[id as usize]), top.unwrap_or_default())
            }
        };
        let logprob = r.logprobs.and(logit).map(|logit| logit - lse);
        top.truncate(wanted);
        top.iter_mut().for_each(|t| t.1 -= lse);
        let stays = !r.stop.contains(&id) && self.constraint.as_ref().is_none_or(|c| !c.ends_with(id));
        Ok((Token { id, text: String::new(), logprob, top }, stays))
    }

    /// Appends a token, and those after it that a constraint leaves no choice about.
    fn take(&mut self, mut token: Token, events: &mut Vec<Event>) -> Result<(), GenerateError> {
        loop {
            if let Some(constraint) = &mut self.constraint {
                constraint.take(token.id)?;
            }
            self.ids.push(token.id);
            let mut stopped = false;
            if let Some(text) = &mut self.text {
                (token.text, stopped) = text.push(token.id);
            }
            events.push(self.event(What::Token(token)));
            let r = &self.job.request;
            let finish = if stopped {
                Some(Finish::StopString)
            } else if self.constraint.as_ref().is_some_and(Constraint::is_done) {
                Some(Finish::Complete)
            } else if self.ids.len() - r.prompt.len() >= self.job.max_new {
                Some(Finish::Length)
            } else {
                None
            };
            if let Some(finish) = finish {
                return self.finish(finish, events);
            }
            let Some(constraint) = &mut self.constraint else { return Ok(()) };
            let mask = constraint.mask()?;
            // The log-probability of a token takes logits, forced or not.
            let forced = mask.only().filter(|id| r.logprobs.is_none() && !constraint.ends_with(*id));
            let Some(id) = forced.filter(|id| !r.stop.contains(id)) else {
                self.mask = Some(mask);
                return Ok(());
            };
            token = Token { id, text: String::new(), logprob: None, top: Vec::new() };
        }
    }

    fn finish(&mut self, finish: Finish, events: &mut Vec<Event>) -> Result<(), GenerateError> {
        let text = match self.text.take() {
            Some(text) if finish != Finish::StopString => text.rest()?,
            _ => String::new(),
        };
        let whole = self.constraint.as_mut().map(Constraint::is_whole);
        self.ended = true;
        events.push(self.event(What::Finished { finish, text, whole }));
        Ok(())
    }
}
