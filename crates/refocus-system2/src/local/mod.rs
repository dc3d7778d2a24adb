//! A local model as a [`Chat`].

mod choices;
mod side;
mod tails;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use refocus_compute::Ops;
use refocus_model::generate::{
    ConstraintError, Engine, GenerateError, Grammars, Limits, Request, RequestError, Sampling, What,
};
use refocus_model::template::{Chat as Conversation, ChatTemplate};
use refocus_model::{LoadError, Model, RunError, TemplateError, Tokenizer};
use serde_json::{Value, json};

use self::choices::Question;
use self::tails::{Cache, Tail, Want};
use crate::chat::{
    Ask, Chat, ChatError, Choice, Choose, Finish, Message, Reply, Role, Scores, Usage, scores_without,
};

/// Askers that are answered together. What is written takes as long as its longest text, and rows are cheaper by the
/// dozen, so there are many; each waits longer.
const AT_ONCE: usize = 64;
/// Keys and values of what is written together, in bytes: of a large model not all fit at the same time.
const CACHE_BYTES: usize = 2 << 30;
/// Positions of the last conversation that are remembered: instructions are before what changes.
const REMEMBERED: usize = 2048;

/// A model that runs here.
pub struct Local<'a, O: Ops> {
    name: String,
    o: &'a mut O,
    m: &'a Model<O::K>,
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    /// Made when a schema is first asked for.
    grammars: Option<Grammars>,
    /// What the last scores were read behind.
    remembered: Option<(Vec<u32>, Cache<O>)>,
    began: Instant,
    until: Option<Instant>,
}

impl<O: Ops> std::fmt::Debug for Local<'_, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a, O: Ops> Local<'a, O> {
    /// A model with its tokenizer. Without a template of its own it is given a plain script of the
    /// conversation (`User: …`, `Assistant:`), see [`has_template`](Self::has_template).
    pub fn new(
        name: impl Into<String>,
        o: &'a mut O,
        m: &'a Model<O::K>,
        tokenizer: &'a Tokenizer,
        template: Option<&'a ChatTemplate>,
    ) -> Self {
        let name = name.into();
        let (grammars, remembered) = (None, None);
        Self { name, o, m, tokenizer, template, grammars, remembered, began: Instant::now(), until: None }
    }

    /// Whether the model was made for conversations as far as its files say.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    fn failed(&self, why: impl std::fmt::Display) -> ChatError {
        ChatError::Failed { model: self.name.clone(), why: why.to_string() }
    }

    /// What the model reads before it answers, with the head of the answer.
    fn prompt(&self, messages: &[Message]) -> Result<String, ChatError> {
        if let Some(template) = self.template {
            let messages: Vec<Value> =
                messages.iter().map(|m| json!({"role": role(m.role), "content": m.content})).collect();
            let chat =
                Conversation { messages: &messages, add_generation_prompt: true, ..Conversation::default() };
            return template.render(&chat).map_err(|e: TemplateError| self.failed(e));
        }
        let mut text = String::new();
        for m in messages {
            let who = match m.role {
                Role::System => "",
                Role::User => "User: ",
                Role::Assistant => "Assistant: ",
            };
            text.push_str(who);
            text.push_str(&m.content);
            text.push_str("\n\n");
        }
        text.push_str("Assistant:");
        Ok(text)
    }

    /// Ids of a prompt. A template writes the special tokens out itself.
    fn encode(&self, prompt: &str) -> Result<Vec<u32>, ChatError> {
        let ids = self.tokenizer.encode(prompt, self.template.is_none());
        let ids = ids.map_err(|e: LoadError| self.failed(e))?;
        self.fits(ids.len())?;
        Ok(ids)
    }

    fn fits(&self, tokens: usize) -> Result<(), ChatError> {
        let room = self.m.spec.n_ctx;
        // One place is for the answer.
        if !self.m.spec.fits(tokens + 1) {
            return Err(ChatError::TooLong { tokens, room });
        }
        Ok(())
    }

    /// Ids of an answer as they follow a prompt: where both together begin with the prompt's own ids, the
    /// rest of them.
    fn answer(&self, prompt: &str, ids: &[u32], answer: &str) -> Result<Vec<u32>, ChatError> {
        let space = if self.template.is_none() && !answer.starts_with(' ') { " " } else { "" };
        let failed = |e: LoadError| self.failed(e);
        let whole = self.tokenizer.encode(&format!("{prompt}{space}{answer}"), self.template.is_none());
        if let Some(rest) = whole.map_err(failed)?.strip_prefix(ids).filter(|r| !r.is_empty()) {
            return Ok(rest.to_vec());
        }
        self.tokenizer.encode(&format!("{space}{answer}"), false).map_err(failed)
    }

    /// Whether there is time left.
    fn in_time(&self) -> Result<(), ChatError> {
        match self.until {
            Some(until) if Instant::now() >= until => {
                Err(ChatError::TimedOut { after: until.saturating_duration_since(self.began) })
            }
            _ => Ok(()),
        }
    }

    fn ran(&self, e: RunError) -> ChatError {
        match e {
            RunError::Context { len, n_ctx, .. } => ChatError::TooLong { tokens: len, room: n_ctx },
            other => self.failed(other),
        }
    }

    /// The part of a prompt that the one before began with.
    fn begun(&self, prompt: &[u32]) -> Cache<O> {
        let Some((ids, cache)) = &self.remembered else { return refocus_model::empty_cache(self.m) };
        cache.beginning(ids.iter().zip(prompt).take_while(|(a, b)| a == b).count())
    }

    /// What the engine is asked for.
    fn request(&mut self, ask: &Ask<'_>) -> Result<Request, ChatError> {
        let prompt = self.encode(&self.prompt(ask.messages)?)?;
        let cannot = |why: ConstraintError| self.failed(why);
        if ask.schema.is_some() && self.grammars.is_none() {
            self.grammars = Some(Grammars::new(self.tokenizer, &self.m.spec).map_err(cannot)?);
        }
        let constraint = match (ask.schema, &self.grammars) {
            (Some(schema), Some(grammars)) => Some(grammars.json_schema(schema).map_err(|e| self.failed(e))?),
            _ => None,
        };
        Ok(Request {
            sampling: Sampling {
                temperature: ask.temperature,
                top_p: ask.top_p,
                seed: ask.seed,
                ..Sampling::default()
            },
            stop: self.m.spec.eos.clone(),
            // A model without a template goes on with the script.
            stop_strings: if self.template.is_none() {
                Arc::from(["\nUser:".to_owned()])
            } else {
                Arc::from([])
            },
            constraint,
            ..Request::new(prompt, ask.max_new)
        })
    }

    /// Reads what prompts begin with in common. What the prompts before began with too is not computed again.
    fn beginning(&mut self, shared: &[u32]) -> Result<Cache<O>, ChatError> {
        let mut cache = self.begun(shared);
        for piece in shared[cache.len..].chunks(Limits::default().chunk) {
            self.in_time()?;
            tails::read(self.o, self.m, &mut cache, piece).map_err(|e| self.ran(e))?;
        }
        if !shared.is_empty() {
            let n = shared.len().min(REMEMBERED);
            let beginning = cache.beginning(n);
            self.remembered = Some((shared[..beginning.len].to_vec(), beginning));
        }
        Ok(cache)
    }

    /// Reads what prompts begin with in common, which counts as read, then the rest of each: log-probabilities by
    /// tail.
    fn tails(
        &mut self,
        shared: &[u32],
        tails: &[Tail],
        usage: &mut Usage,
    ) -> Result<Vec<Vec<f64>>, ChatError> {
        let cache = self.beginning(shared)?;
        usage.prompt += shared.len() as u64;
        let mut out = Vec::with_capacity(tails.len());
        for group in tails::groups(tails) {
            self.in_time()?;
            usage.prompt += group.iter().map(|t| t.ids.len() as u64).sum::<u64>();
            out.extend(tails::run(self.o, self.m, &cache, group).map_err(|e| self.ran(e))?);
        }
        Ok(out)
    }

    /// A question as it can be answered with others, and what it takes; nothing where it cannot.
    fn question(&self, asked: &Choose<'_>) -> Result<Option<(Question, Usage)>, ChatError> {
        let text = self.prompt(asked.messages)?;
        let prompt = self.encode(&text)?;
        let answer = |a: &str| self.answer(&text, &prompt, a);
        let answers = asked.answers().map(answer).collect::<Result<Vec<_>, _>>()?;
        let longest = answers.iter().map(Vec::len).max().unwrap_or(0);
        self.fits(prompt.len() + longest.saturating_sub(1))?;
        // Single tokens are read off their logits, and rotary angles that stretch allow no shared beginning.
        if longest < 2 || self.m.spec.stretches() {
            return Ok(None);
        }
        // As if nothing was shared but the conversation, whose last token is read for each.
        let read = prompt.len() - 1 + answers.iter().map(|a| a.len().max(1)).sum::<usize>();
        let usage = Usage { prompt: read as u64, completion: 0 };
        Ok(Question::new(&prompt, &answers).map(|q| (q, usage)))
    }

    /// Scores of questions together.
    fn answered(&mut self, questions: &[Question]) -> Result<Vec<Vec<f64>>, ChatError> {
        let cache = self.beginning(choices::shared(questions))?;
        let mut out = Vec::with_capacity(questions.len());
        for group in choices::groups(questions, cache.len) {
            self.in_time()?;
            out.extend(choices::scores(self.o, self.m, &cache, group).map_err(|e| self.ran(e))?);
        }
        Ok(out)
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

/// Adds what happened to an answer.
fn take(reply: &mut Reply, what: What) -> Result<(), GenerateError> {
    match what {
        What::Token(token) => {
            reply.usage.completion += 1;
            reply.text.push_str(&token.text);
        }
        What::Finished { finish, text, .. } => {
            reply.text.push_str(&text);
            if finish != refocus_model::generate::Finish::Length {
                reply.finish = Finish::Stop;
            }
        }
        What::Failed(e) => return Err(e),
    }
    Ok(())
}

fn refused(model: &str, e: RequestError) -> ChatError {
    match e {
        RequestError::Context { len, n_ctx } => ChatError::TooLong { tokens: len, room: n_ctx },
        other => ChatError::Failed { model: model.to_owned(), why: other.to_string() },
    }
}

/// How many tokens all of these begin with. The last token of each is left out: it is asked for logits.
fn common(prompts: &[Vec<u32>]) -> usize {
    let Some((first, rest)) = prompts.split_first() else { return 0 };
    let shortest = prompts.iter().map(Vec::len).min().unwrap_or(0).saturating_sub(1);
    let same = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    rest.iter().map(same).min().unwrap_or(usize::MAX).min(shortest)
}

impl<O: Ops> Chat for Local<'_, O> {
    fn name(&self) -> &str {
        &self.name
    }

    fn limit(&mut self, until: Option<Instant>) {
        self.began = Instant::now();
        self.until = until;
    }

    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
        let mut replies = self.complete_all(std::slice::from_ref(ask));
        replies.pop().unwrap_or_else(|| Err(self.failed("no answer")))
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    fn complete_all(&mut self, asks: &[Ask<'_>]) -> Vec<Result<Reply, ChatError>> {
        let requests: Vec<_> = asks.iter().map(|ask| self.request(ask)).collect();
        let (until, began) = (self.until, self.began);
        let limits = Limits::within(CACHE_BYTES, &self.m.spec, requests.iter().flatten());
        let mut engine = Engine::new(self.o, self.m, Some(self.tokenizer), limits);
        let (mut out, mut of) = (Vec::with_capacity(asks.len()), HashMap::new());
        for (at, request) in requests.into_iter().enumerate() {
            out.push(request.and_then(|request| {
                let usage = Usage { prompt: request.prompt.len() as u64, completion: 0 };
                let id = engine.submit(request).map_err(|e| refused(&self.name, e))?;
                of.insert(id, at);
                Ok(Reply { text: String::new(), finish: Finish::Length, usage })
            }));
        }
        let mut late = None;
        while !engine.is_idle() {
            late = until.filter(|u| Instant::now() >= *u);
            if late.is_some() {
                break;
            }
            for event in engine.step() {
                let Some(slot) = of.get(&event.request).and_then(|&at| out.get_mut(at)) else { continue };
                let ended = !matches!(event.what, What::Token(_));
                if let Ok(reply) = slot
                    && let Err(e) = take(reply, event.what)
                {
                    *slot = Err(ChatError::Failed { model: self.name.clone(), why: e.to_string() });
                }
                if ended {
                    of.remove(&event.request);
                }
            }
        }
        if let Some(until) = late {
            // What had ended by then is an answer.
            for at in of.into_values() {
                out[at] = Err(ChatError::TimedOut { after: until.saturating_duration_since(began) });
            }
        }
        if self.template.is_none() {
            out.iter_mut().flatten().for_each(|r| r.text = r.text.trim_start().to_owned());
        }
        out
    }

    fn choose_all(&mut self, asked: &[Choose<'_>]) -> Vec<Result<Choice, ChatError>> {
        let (mut questions, mut of) = (Vec::new(), Vec::new());
        let mut out: Vec<Option<Result<Choice, ChatError>>> = Vec::with_capacity(asked.len());
        for (at, asked) in asked.iter().enumerate() {
            out.push(match self.question(asked) {
                Err(e) => Some(Err(e)),
                Ok(None) => Some(self.choose(asked.messages, asked.frame, asked.options)),
                Ok(Some((question, usage))) => {
                    questions.push(question);
                    of.push((at, usage));
                    None
                }
            });
        }
        match self.answered(&questions) {
            Ok(rows) => {
                for ((at, usage), scores) in of.into_iter().zip(rows) {
                    out[at] = Some(Ok(Choice::of(scores, usage)));
                }
            }
            // Each alone then: the one that fails is no other's failure.
            Err(_) => {
                for (at, _) in of {
                    let Choose { messages, frame, options } = asked[at];
                    out[at] = Some(self.choose(messages, frame, options));
                }
            }
        }
        out.into_iter().map(|c| c.unwrap_or_else(|| Err(self.failed("no answer")))).collect()
    }

    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        let (mut rows, usage) = self.score_each(std::slice::from_ref(&messages.to_vec()), answers)?;
        Ok((rows.pop().unwrap_or_default(), usage))
    }

    fn score_each(&mut self, conversations: &[Vec<Message>], answers: &[&str]) -> Result<Scores, ChatError> {
        let mut usage = Usage::default();
        let texts = conversations.iter().map(|c| self.prompt(c)).collect::<Result<Vec<_>, _>>()?;
        let prompts = texts.iter().map(|t| self.encode(t)).collect::<Result<Vec<_>, _>>()?;
        let Some((text, first)) = texts.first().zip(prompts.first()) else { return Ok((Vec::new(), usage)) };
        // All prompts end alike, so answers have the same ids behind each.
        let answers = answers.iter().map(|a| self.answer(text, first, a)).collect::<Result<Vec<_>, _>>()?;
        let longest = answers.iter().map(Vec::len).max().unwrap_or(0);
        prompts.iter().try_for_each(|p| self.fits(p.len() + longest.saturating_sub(1)))?;
        let shared = if self.m.spec.stretches() { 0 } else { common(&prompts) };
        let tails = asked(prompts.iter().map(|p| (&p[shared..], None)), &answers);
        let rows = self.tails(&first[..shared], &tails, &mut usage)?;
        Ok((by_prompt(rows, answers.len()), usage))
    }

    fn score_hidden(
        &mut self,
        messages: &[Message],
        answers: &[&str],
        hidden: &[Range<usize>],
        from: usize,
    ) -> Result<Scores, ChatError> {
        if self.m.spec.stretches() {
            return scores_without(self, messages, answers, hidden);
        }
        let mut usage = Usage::default();
        let text = self.prompt(messages)?;
        let ids = self.encode(&text)?;
        let content = messages.last().map_or("", |m| m.content.as_str());
        let Some(start) = text.rfind(content) else {
            // A template may change what it is given; then there are no bytes to hide.
            return scores_without(self, messages, answers, hidden);
        };
        let (with_offsets, ranges) = self
            .tokenizer
            .encode_with_offsets(&text, self.template.is_none())
            .map_err(|e: LoadError| self.failed(e))?;
        if with_offsets != ids {
            return scores_without(self, messages, answers, hidden);
        }
        let behind = ranges.iter().position(|r| !r.is_empty() && r.end > start + from).unwrap_or(0);
        let shared = behind.clamp(1, (ids.len() - 1).max(1)).min(ids.len() - 1);
        let keys = |bytes: &Range<usize>| tokens_of(&text, &ranges, start + bytes.start..start + bytes.end);
        let tail = &ids[shared..];
        let seen = std::iter::once((tail, None)).chain(hidden.iter().map(|h| (tail, keys(h))));
        let answers = if answers.is_empty() {
            let first = Tail { ids: tail.to_vec(), want: Want::First, hidden: None };
            let rows = self.tails(&ids[..shared], &[first], &mut usage)?;
            let id = rows.first().and_then(|r| r.first()).map_or(0, |id| *id as u32);
            vec![vec![id]]
        } else {
            let of = |a: &&str| self.answer(&text, &ids, a);
            answers.iter().map(of).collect::<Result<Vec<_>, _>>()?
        };
        let longest = answers.iter().map(Vec::len).max().unwrap_or(0);
        self.fits(ids.len() + longest.saturating_sub(1))?;
        let tails = asked(seen, &answers);
        let rows = self.tails(&ids[..shared], &tails, &mut usage)?;
        Ok((by_prompt(rows, answers.len()), usage))
    }
}

/// The tokens that have something of these bytes of the text. Byte-level tokens begin with the white space in front of
/// their word, which belongs to the piece before: around words it does not count.
fn tokens_of(text: &str, ranges: &[Range<usize>], bytes: Range<usize>) -> Option<Range<u32>> {
    let has_some = |r: &Range<usize>| {
        let token = text.get(r.clone()).unwrap_or_default();
        let (start, end) = match token.trim() {
            "" => (r.start, r.end),
            words => {
                let start = r.start + token.len() - token.trim_start().len();
                (start, start + words.len())
            }
        };
        start < end && start < bytes.end && bytes.start < end
    };
    let first = ranges.iter().position(has_some)?;
    let last = ranges.iter().rposition(has_some)?;
    Some(first as u32..last as u32 + 1)
}

/// What is to be run: one tail for each prompt where every answer is a single token, else one for each prompt
/// and answer.
fn asked<'t>(
    prompts: impl Iterator<Item = (&'t [u32], Option<Range<u32>>)>,
    answers: &[Vec<u32>],
) -> Vec<Tail> {
    let single: Option<Vec<u32>> =
        answers.iter().map(|a| if let [one] = a[..] { Some(one) } else { None }).collect();
    let mut out = Vec::new();
    for (ids, hidden) in prompts {
        if let Some(single) = &single {
            out.push(Tail { ids: ids.to_vec(), want: Want::Each(single.as_slice().into()), hidden });
            continue;
        }
        for answer in answers {
            let before = &answer[..answer.len().saturating_sub(1)];
            let want = Want::Whole(answer.as_slice().into());
            out.push(Tail { ids: [ids, before].concat(), want, hidden: hidden.clone() });
        }
    }
    out
}

/// Rows of tails as rows of prompts.
fn by_prompt(rows: Vec<Vec<f64>>, answers: usize) -> Vec<Vec<f64>> {
    let flat: Vec<f64> = rows.into_iter().flatten().collect();
    flat.chunks(answers.max(1)).map(<[f64]>::to_vec).collect()
}
