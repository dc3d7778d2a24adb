//! Who rewrites: something that blocks, and that stops when nobody waits for it any more.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HeaderName};
use axum::http::uri::PathAndQuery;
use refocus_system2::{Options, Outcome, Reason, Removed, Request, Rewrite, Usage, Variant};
use tokio::sync::watch;

/// Header field that carries a key in Azure's way.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("api-key");
/// Header fields that carry a key: OpenAI's way and Azure's.
pub(crate) const CREDENTIALS: [HeaderName; 2] = [AUTHORIZATION, API_KEY];

/// One text to rewrite.
#[derive(Clone, Debug)]
pub struct Job {
    /// The text, as the user wrote it.
    pub text: String,
    /// What a document is read for; `text` is a document then, and only ever cut.
    pub question: Option<String>,
    /// How.
    pub variant: Variant,
    /// Model that does it.
    pub model: String,
    /// Path and query at which the server that does it is asked.
    pub path: PathAndQuery,
    /// The client's credentials (`authorization`, `api-key`), where they are the ones to use.
    pub credentials: HeaderMap,
    /// How long it may take.
    pub deadline: Duration,
    /// Tokens that it has taken so far, for whoever cannot wait for the end.
    pub spent: Arc<Spent>,
}

/// Tokens of a rewriting while it goes on.
#[derive(Debug, Default)]
pub struct Spent(Mutex<Usage>);

impl Spent {
    /// What one more answer took.
    pub fn add(&self, usage: Usage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += usage;
    }

    /// All of it until now.
    pub fn so_far(&self) -> Usage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewritten {
    /// The new text, where there is one.
    pub text: Option<String>,
    /// Why there is none: a name of a fixed set, and a sentence.
    pub reason: Option<(&'static str, String)>,
    /// It failed for a reason that may pass: the server, or the time.
    pub failed: bool,
    /// It failed because of what this client sent, its credentials or the name of its model for example. That says
    /// nothing about anybody else's rewriting.
    pub own_fault: bool,
    /// Bytes of the original that are kept.
    pub kept: Vec<Range<usize>>,
    /// Bytes of the original that are gone.
    pub removed: Vec<Removed>,
    /// Tokens that it took.
    pub usage: Usage,
    /// How long it took.
    pub elapsed: Duration,
}

/// Says whether anybody still waits.
#[derive(Clone, Debug)]
pub struct Cancel(pub(crate) watch::Receiver<()>);

impl Cancel {
    /// Waits until nobody does.
    pub async fn cancelled(&mut self) {
        // The other side never sends; it goes away.
        while self.0.changed().await.is_ok() {}
    }

    /// Whether nobody does.
    pub fn is_cancelled(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

/// Rewrites texts. Called on a thread where blocking is allowed, several times at once.
pub trait Rewriter: Send + Sync + 'static {
    /// Name of the model that rewrites for a request of this model.
    fn model<'a>(&'a self, asked: &'a str) -> &'a str;

    /// Whether it asks with the client's own credentials.
    fn needs_credentials(&self) -> bool;

    /// Rewrites one text; whatever goes wrong is a reason in the outcome.
    fn rewrite(&self, job: &Job, cancel: Cancel) -> Rewritten;
}

/// A text rewritten by System 2 Attention over some model. With a question it is a document that is read for it.
pub(crate) fn rewritten(
    chat: &mut dyn refocus_system2::Chat,
    text: &str,
    question: Option<&str>,
    options: &Options,
) -> Rewritten {
    let began = Instant::now();
    let Some(question) = question else {
        let done = refocus_system2::rewrite(chat, &Request::new(text), options);
        return told(done, None, began);
    };
    // The document comes first and the question behind it, as most people write; only bytes of the document go.
    let whole = format!("{text}\n\n{question}");
    let start = whole.len() - question.len();
    let request = Request { question: Some(start..whole.len()), ..Request::new(whole) };
    let done = refocus_system2::rewrite(chat, &request, options);
    told(done, Some(text), began)
}

fn told(done: Rewrite, document: Option<&str>, began: Instant) -> Rewritten {
    let failed = matches!(done.reason(), Some(Reason::TimedOut | Reason::Failed(_)));
    let mut reason = done.reason().map(|reason| (reason.name(), reason.to_string()));
    let (mut kept, mut removed) = (done.kept, done.removed);
    let mut text = (done.outcome == Outcome::Applied).then_some(done.text);
    if let Some(document) = document {
        let inside = |range: &Range<usize>| range.start.min(document.len())..range.end.min(document.len());
        kept = kept.iter().map(inside).filter(|range| !range.is_empty()).collect();
        removed.iter_mut().for_each(|piece| piece.range = inside(&piece.range));
        removed.retain(|piece| !piece.range.is_empty());
        text = text.map(|_| kept.iter().filter_map(|range| document.get(range.clone())).collect());
        if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            text = None;
            reason = Some(("empty_document", "nothing of the document would be left".to_owned()));
        }
    }
    let usage = done.usage;
    Rewritten { text, reason, failed, own_fault: false, kept, removed, usage, elapsed: began.elapsed() }
}
