//! From a text to what the model is to answer: the only way in.

use std::ops::Range;
use std::time::Instant;

use refocus_model::patch::Variant;

use crate::chat::{Ask, Chat, ChatError, Finish, Message, Usage};
use crate::guard::{self, Original};
use crate::options::{Options, Request};
use crate::outcome::{Judged, Outcome, Reason, Removed, Rewrite, Why};
use crate::parse::{self, Written};
use crate::split::{self, Part, Piece, trimmed};
use crate::templates::Template;
use crate::{extractive, scored};

/// Rewrites the newest words of a user. Whatever goes wrong has a name in the outcome, and then the original
/// goes through to the last byte.
pub fn rewrite(chat: &mut dyn Chat, request: &Request, options: &Options) -> Rewrite {
    let began = Instant::now();
    chat.limit(options.deadline.and_then(|d| began.checked_add(d)));
    let mut job = Job { chat, request, options, usage: Usage::default(), reply: None, judged: Vec::new() };
    let done = job.run();
    job.chat.limit(None);
    let (usage, reply, judged) = (job.usage, job.reply, job.judged);
    let late = options.deadline.is_some_and(|d| began.elapsed() > d);
    let (outcome, done) = match done {
        Ok(_) if late => (Outcome::Kept { reason: Reason::TimedOut }, Done::nothing(request)),
        Ok(done) => (Outcome::Applied, done),
        Err(reason) => (Outcome::Kept { reason }, Done::nothing(request)),
    };
    Rewrite {
        outcome,
        context: done.context,
        question: done.question,
        text: done.text,
        kept: done.kept,
        removed: done.removed,
        judged,
        reply,
        usage,
        elapsed: began.elapsed(),
    }
}

/// A rewriting under way.
pub(crate) struct Job<'a> {
    pub(crate) chat: &'a mut dyn Chat,
    pub(crate) request: &'a Request,
    pub(crate) options: &'a Options,
    pub(crate) usage: Usage,
    pub(crate) reply: Option<String>,
    pub(crate) judged: Vec<Judged>,
}

/// What it came to.
struct Done {
    context: String,
    question: String,
    text: String,
    kept: Vec<Range<usize>>,
    removed: Vec<Removed>,
}

impl Done {
    /// The original.
    fn nothing(request: &Request) -> Self {
        let all = 0..request.text.len();
        Self {
            context: String::new(),
            question: String::new(),
            text: request.text.clone(),
            kept: if all.is_empty() { Vec::new() } else { vec![all] },
            removed: Vec::new(),
        }
    }
}

impl Job<'_> {
    fn run(&mut self) -> Result<Done, Reason> {
        let text = self.request.text.as_str();
        if text.trim().is_empty() {
            return Err(Reason::Empty);
        }
        if let Some(range) = &self.request.question
            && text.get(range.clone()).is_none_or(|q| q.trim().is_empty())
        {
            return Err(Reason::NoQuestion);
        }
        let pieces = split::split(text, self.request.question.as_ref());
        let question = split::question(text, &pieces).ok_or(Reason::NoQuestion)?;
        if !pieces.iter().any(|p| may_go(p, text)) {
            return Err(Reason::NoContext);
        }
        let original = Original { text, pieces: &pieces, question };
        match self.options.variant {
            Variant::Objectivity
            | Variant::Relevance
            | Variant::Single
            | Variant::KeepOriginal
            | Variant::NoInstruction => self.anew(&original),
            Variant::Extractive => {
                let removed = extractive::named(self, &original)?;
                self.taken(&original, removed)
            }
            Variant::Scored => {
                let removed = scored::below(self, &original)?;
                self.taken(&original, removed)
            }
        }
    }

    /// The model writes the text anew.
    fn anew(&mut self, original: &Original<'_>) -> Result<Done, Reason> {
        let variant = self.options.variant;
        let template = match variant {
            Variant::Relevance => Template::Relevance,
            Variant::Single => Template::Single,
            _ => Template::Objectivity,
        };
        let (prompt, _) = self.options.templates.fill(template, &[("text", original.text.trim())]);
        // A rewrite is no longer than the text, and a token of most scripts has two bytes or more.
        let max_new = self.options.max_new.unwrap_or(original.text.len() / 2 + 96);
        let (reply, finish) = self.complete(&prompt, max_new, None)?;
        let cut = finish == Finish::Length;
        let (context, question, whole) = if variant == Variant::Single {
            let whole = parse::whole(&reply)?;
            if cut {
                return Err(Reason::Cut);
            }
            (whole.clone(), whole.clone(), whole)
        } else {
            let Written { context, question, ended } = parse::sections(&reply)?;
            if cut && !ended {
                return Err(Reason::Cut);
            }
            let whole = if context.is_empty() { question.clone() } else { format!("{context}\n{question}") };
            (context, question, whole)
        };
        let (kept, removed) = guard::anew(original, &whole, &question, self.options.guards)?;
        if removed.is_empty() && says_all(original, &whole) {
            return Err(Reason::Clean);
        }
        let fields = [
            ("context", context.as_str()),
            ("question", question.as_str()),
            ("rewrite", whole.as_str()),
            ("original", original.text.trim()),
        ];
        let step2 = match variant {
            Variant::Single => Template::Step2Single,
            Variant::KeepOriginal => Template::Step2KeepOriginal,
            Variant::NoInstruction | Variant::Relevance => Template::Step2NoInstruction,
            _ => Template::Step2,
        };
        let (text, _) = self.options.templates.fill(step2, &fields);
        let removed =
            removed.into_iter().map(|range| Removed { range, why: Why::LeftOut, score: None }).collect();
        let context = if variant == Variant::Single { String::new() } else { context };
        Ok(Done { context, question, text, kept: joined(kept), removed })
    }

    /// The text without these pieces.
    fn taken(&self, original: &Original<'_>, mut removed: Vec<Removed>) -> Result<Done, Reason> {
        let text = original.text;
        if removed.is_empty() {
            return Err(Reason::Clean);
        }
        let gone: Vec<Range<usize>> = removed.iter().map(|r| r.range.clone()).collect();
        guard::taken(original, &gone, self.options.guards)?;
        let mut kept = Vec::new();
        let mut at = 0;
        for range in &gone {
            if at < range.start {
                kept.push(at..range.start);
            }
            at = range.end;
        }
        if at < text.len() {
            kept.push(at..text.len());
        } else if let Some(last) = kept.last_mut() {
            // Where the end is gone, so is the white space before it.
            last.end = last.start + text[last.clone()].trim_end().len();
            if let Some(tail) = removed.iter_mut().find(|r| r.range.start >= last.end) {
                tail.range.start = last.end;
            }
        }
        let piece = |r: &Range<usize>| text[r.clone()].to_owned();
        let question = original.question.clone();
        let outside: String = kept
            .iter()
            .flat_map(|r| [r.start..r.end.min(question.start), r.start.max(question.end)..r.end])
            .filter(|r| r.start < r.end)
            .map(|r| piece(&r))
            .collect();
        Ok(Done {
            context: outside.trim().to_owned(),
            question: piece(&question),
            text: kept.iter().map(piece).collect(),
            kept,
            removed,
        })
    }

    /// One answer of the model, counted and remembered.
    pub(crate) fn complete(
        &mut self,
        prompt: &str,
        max_new: usize,
        schema: Option<&serde_json::Value>,
    ) -> Result<(String, Finish), Reason> {
        let messages = [Message::user(prompt)];
        let ask = Ask {
            temperature: self.options.temperature,
            top_p: self.options.top_p,
            seed: self.options.seed,
            schema,
            ..Ask::new(&messages, max_new)
        };
        let reply = self.chat.complete(&ask).map_err(reason)?;
        self.usage += reply.usage;
        self.reply = Some(reply.text.clone());
        Ok((reply.text, reply.finish))
    }

    /// The pieces that may be removed, as indices. Under strict guards, none with a number or quotation.
    pub(crate) fn candidates(&self, original: &Original<'_>) -> Result<Vec<usize>, Reason> {
        let strict = self.options.guards.strict;
        let free = |p: &Piece| {
            let holds = crate::holds::Holds::of(&original.text[p.range.clone()]);
            may_go(p, original.text)
                && !(strict && !(holds.numbers.is_empty() && holds.quotations.is_empty()))
        };
        let out: Vec<usize> = (0..original.pieces.len()).filter(|&i| free(&original.pieces[i])).collect();
        if out.is_empty() { Err(Reason::NoContext) } else { Ok(out) }
    }
}

/// Whether a piece is context with words in it.
fn may_go(piece: &Piece, text: &str) -> bool {
    piece.part == Part::Context && text[piece.range.clone()].chars().any(char::is_alphanumeric)
}

/// Whether a rewrite has every word of the original.
fn says_all(original: &Original<'_>, whole: &str) -> bool {
    crate::holds::content(original.text).is_subset(&crate::holds::all_words(whole))
}

/// The words of a piece without white space around.
pub(crate) fn body<'t>(original: &Original<'t>, piece: usize) -> &'t str {
    &original.text[trimmed(original.text, original.pieces[piece].range.clone())]
}

/// Ranges that touch as one.
fn joined(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for r in ranges {
        match out.last_mut() {
            Some(last) if last.end == r.start => last.end = r.end,
            _ => out.push(r),
        }
    }
    out
}

/// Why there is no rewrite where there is no answer.
pub(crate) fn reason(e: ChatError) -> Reason {
    match e {
        ChatError::TooLong { tokens, room } => Reason::TooLong { tokens, room },
        ChatError::TimedOut { .. } => Reason::TimedOut,
        ChatError::Cannot { .. } => Reason::Cannot(e.to_string()),
        ChatError::Refused { .. } | ChatError::Unreachable { .. } | ChatError::Failed { .. } => {
            Reason::Failed(e.to_string())
        }
    }
}
