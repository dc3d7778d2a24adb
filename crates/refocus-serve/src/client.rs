//! A model behind HTTP as a [`Chat`]: any server that speaks OpenAI's interface.

mod ability;
mod walk;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use refocus_compute::{Philox, Purpose, unit_f64};
use refocus_system2::{Ask, Chat, ChatError, Choice, Message, Reply, Usage};
use serde_json::Value;
use tokio::runtime::Runtime;

pub use self::ability::{Tells, Way};
pub use self::walk::Known;
use self::walk::{Ends, first_tokens, walk};
use crate::exchange::{self, Likely};
use crate::keys::Secret;
use crate::tls::{self, TlsError};

/// A longer answer is refused.
const MOST_BYTES: usize = 32 << 20;
/// The pause before the second try; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Log-probabilities of so many tokens are asked for, and where that is refused of so many, as the interface allows.
const TOP: [usize; 2] = [1000, 20];
/// The same behind a raw text.
const TOP_BEHIND: [usize; 2] = [1000, 5];
/// No pause is longer, unless the server asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const NO_SCHEMA: &str = "answer by a schema";
const PAUSES: Purpose = Purpose::new("pause before another try");

/// A server and how to ask it.
#[derive(Clone)]
pub struct Upstream {
    /// What clients call the base URL, such as `https://api.openai.com/v1`.
    pub url: String,
    /// Name of the model there.
    pub model: String,
    /// Sent as a bearer.
    pub key: Option<Secret>,
    /// Time for an answer, all tries and pauses together.
    pub deadline: Duration,
    /// How often it is asked at most, where it fails in a way that may pass.
    pub tries: u32,
    /// How many askers it is given at the same time.
    pub at_once: usize,
}

impl Upstream {
    /// Without a key, two minutes, four tries, one asker at a time.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        let deadline = Duration::from_secs(120);
        Self { url: url.into(), model: model.into(), key: None, deadline, tries: 4, at_once: 1 }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, model, key, deadline, tries, at_once } = self;
        let mut all = f.debug_struct("Upstream");
        all.field("url", &shown(url)).field("model", model).field("key", key);
        all.field("deadline", deadline).field("tries", tries).field("at_once", at_once).finish()
    }
}

/// A URL without what may be a password or a key: whatever stands before an @ or behind a ?.
pub fn shown(url: &str) -> &str {
    let url = url.rsplit_once('@').map_or(url, |(_, after)| after);
    url.split(['?', '#']).next().unwrap_or_default()
}

/// Why a server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("{url:?} is no base URL: {why}")]
    Url {
        /// As given, without what could be a password.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Servers cannot be checked.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine gives no thread.
    #[error("the client cannot be started")]
    Start(#[from] std::io::Error),
}

/// A model behind HTTP. Calls block; do not make them from asynchronous code.
pub struct HttpChat {
    upstream: Upstream,
    chats: Uri,
    texts: Uri,
    listed: Uri,
    bearer: Option<HeaderValue>,
    runtime: Runtime,
    connector: HttpsConnector<HttpConnector>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Nothing until it is found out.
    tells: Tells,
    /// A limit of whoever asks.
    until: Option<Instant>,
    /// What its answers have taught; one for all that ask beside each other.
    learned: Arc<Mutex<Learned>>,
}

/// What the answers of a server teach about it.
struct Learned {
    /// What it calls the limit on new tokens.
    limit: &'static str,
    /// Log-probabilities that it tells of one token, in chats and behind a raw text.
    top: usize,
    top_behind: usize,
    /// It takes no schemas.
    no_schemas: bool,
    /// What it says about what answered.
    fingerprints: BTreeSet<String>,
}

impl fmt::Debug for HttpChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpChat").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// How one try ended without an answer.
struct Failed {
    why: String,
    /// Whether another try may end better, and what the server says about when.
    again: Option<Option<Duration>>,
    /// Field that the server blames.
    param: Option<String>,
    status: Option<StatusCode>,
}

impl HttpChat {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// The URL is none, or this machine cannot check the server's certificate.
    pub fn new(upstream: Upstream) -> Result<Self, ClientError> {
        let wrong = |why| ClientError::Url { url: shown(&upstream.url).to_owned(), why };
        let below = |path: &str| -> Result<Uri, ClientError> {
            let whole = format!("{}/{path}", upstream.url.trim_end_matches('/'));
            whole.parse().map_err(|_| wrong("it cannot be read"))
        };
        let (chats, texts, listed) = (below("chat/completions")?, below("completions")?, below("models")?);
        if chats.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("a key does not belong into it; give it in a file or in the environment"));
        }
        let secure = match chats.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let bearer = upstream.key.as_ref().map(Secret::bearer);
        let connector = connector(secure)?;
        let learned = Learned {
            limit: exchange::OLD_LIMIT,
            top: TOP[1],
            top_behind: TOP_BEHIND[0],
            no_schemas: false,
            fingerprints: BTreeSet::new(),
        };
        Ok(Self {
            upstream,
            chats,
            texts,
            listed,
            bearer,
            runtime: runtime()?,
            client: Client::builder(TokioExecutor::new()).build(connector.clone()),
            connector,
            tells: Tells::Nothing,
            until: None,
            learned: Arc::new(Mutex::new(learned)),
        })
    }

    /// Another client of the same server, to be asked at the same time. What one learns about the server, all know.
    ///
    /// # Errors
    /// The machine gives no thread.
    pub fn another(&self) -> Result<Self, ClientError> {
        Ok(Self {
            upstream: self.upstream.clone(),
            chats: self.chats.clone(),
            texts: self.texts.clone(),
            listed: self.listed.clone(),
            bearer: self.bearer.clone(),
            runtime: runtime()?,
            // Connections belong to a runtime, and with it to one asker.
            client: Client::builder(TokioExecutor::new()).build(self.connector.clone()),
            connector: self.connector.clone(),
            tells: self.tells,
            until: self.until,
            learned: Arc::clone(&self.learned),
        })
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server calls the limit on new tokens.
    fn limit_name(&self) -> &'static str {
        self.learned().limit
    }

    /// Log-probabilities that it tells of one token.
    fn top(&self) -> usize {
        self.learned().top
    }

    /// Names of the models that the server lists.
    ///
    /// # Errors
    /// See [`ChatError`]; [`ChatError::Cannot`] where it lists none.
    pub fn models(&mut self) -> Result<Vec<String>, ChatError> {
        let answer = self.told(self.listed.clone(), None)?;
        let name = |model: &Value| model.get("id")?.as_str().map(str::to_owned);
        let all =
            answer.get("data").and_then(Value::as_array).map(|all| all.iter().filter_map(name).collect());
        all.ok_or_else(|| self.cannot("list models"))
    }

    /// What the server tells of log-probabilities; nothing before [`find_out`](Self::find_out).
    pub fn tells(&self) -> Tells {
        self.tells
    }

    /// What the server has called itself in its answers (`system_fingerprint`), where it did.
    pub fn fingerprints(&self) -> BTreeSet<String> {
        self.learned().fingerprints.clone()
    }

    /// How likely two texts are behind a raw text without any chat around it, and what asking took: by their first
    /// tokens where the likeliest tokens tell them apart, else whole.
    ///
    /// # Errors
    /// [`ChatError::Cannot`] where the server tells no log-probabilities there; else see [`ChatError`].
    pub fn prefers(&mut self, text: &str, answers: [&str; 2]) -> Result<([Known; 2], Usage), ChatError> {
        let mut took = Usage::default();
        let mut next = |begun: &str| {
            let answer = self.behind_text(begun)?;
            took += exchange::usage(&answer);
            let likely = exchange::first_behind_text(&answer).filter(|l| !l.is_empty());
            likely.ok_or_else(|| self.cannot("tell log-probabilities behind a text"))
        };
        if let Some(known) = first_tokens(&next(text)?, answers) {
            return Ok((known, took));
        }
        let whole = answers.map(|a| format!("{text}{a}"));
        let known = walk(&mut next, text, &[&whole[0], &whole[1]], Ends::AsTheyAre)?;
        Ok(([known[0], known[1]], took))
    }

    /// The answer with as many log-probabilities as the server gives.
    fn behind_text(&mut self, text: &str) -> Result<Value, ChatError> {
        let body = |top| exchange::following(&self.upstream.model, text, 1, Some(top));
        let fewer = body(TOP_BEHIND[1]);
        let asked = self.learned().top_behind;
        let outcome = self.ask_at(self.texts.clone(), body(asked));
        if !matches!(outcome, Err(ChatError::Refused { .. })) || asked <= TOP_BEHIND[1] {
            return outcome;
        }
        // Only where fewer are given was it their number that was refused, and not the text.
        let outcome = self.ask_at(self.texts.clone(), fewer);
        if outcome.is_ok() {
            self.learned().top_behind = TOP_BEHIND[1];
        }
        outcome
    }

    /// What the model writes behind a raw text, at most so many tokens.
    ///
    /// # Errors
    /// See [`ChatError`].
    pub fn goes_on(&mut self, text: &str, max_new: usize) -> Result<(String, Usage), ChatError> {
        let body = exchange::following(&self.upstream.model, text, max_new, None);
        let answer = self.ask_at(self.texts.clone(), body)?;
        exchange::text(&self.upstream.model, &answer)
    }

    fn cannot(&self, what: &'static str) -> ChatError {
        ChatError::Cannot { model: self.upstream.model.clone(), what }
    }

    fn ask(&mut self, body: Value) -> Result<Value, ChatError> {
        self.ask_at(self.chats.clone(), body)
    }

    fn ask_at(&mut self, target: Uri, body: Value) -> Result<Value, ChatError> {
        self.told(target, Some(body))
    }

    /// Asks until there is an answer, the tries are used up, or the time is over.
    fn told(&mut self, target: Uri, mut body: Option<Value>) -> Result<Value, ChatError> {
        let begun = Instant::now();
        let own = self.upstream.deadline;
        let deadline = self.until.map_or(own, |until| own.min(until.saturating_duration_since(begun)));
        let mut tries = 0;
        loop {
            let left = deadline.saturating_sub(begun.elapsed());
            // A timer is made within its runtime.
            let sent = body.as_ref().map(Value::to_string);
            let one = async { tokio::time::timeout(left, self.send(&target, sent)).await };
            let Ok(answer) = self.runtime.block_on(one) else {
                return Err(ChatError::TimedOut { after: deadline });
            };
            let error = match answer {
                Ok(answer) => {
                    let named = answer.get("system_fingerprint").and_then(Value::as_str);
                    self.learned().fingerprints.extend(named.map(str::to_owned));
                    return Ok(answer);
                }
                Err(error) => error,
            };
            // Newer models of OpenAI know the limit under its newer name only.
            if error.param.as_deref() == Some(exchange::OLD_LIMIT)
                && let Some(body) = body.as_mut().filter(|b| b.get(exchange::OLD_LIMIT).is_some())
            {
                self.learned().limit = exchange::rename_limit(body);
                continue;
            }
            tries += 1;
            let model = self.upstream.model.clone();
            let Some(wish) = error.again else {
                let of_this_request = error.status.is_some_and(blames_the_request);
                let why = error.why;
                return Err(match of_this_request {
                    true => ChatError::Refused { model, why },
                    false => ChatError::Failed { model, why },
                });
            };
            let pause = wish.unwrap_or_else(|| pause(tries));
            if tries >= self.upstream.tries || begun.elapsed() + pause >= deadline {
                return Err(ChatError::Unreachable { model, why: error.why });
            }
            std::thread::sleep(pause);
        }
    }

    /// Posts a body, or gets what is there.
    async fn send(&self, target: &Uri, body: Option<String>) -> Result<Value, Failed> {
        let passing = |why: String| Failed { why, again: Some(None), param: None, status: None };
        let lasting = |why: String| Failed { why, again: None, param: None, status: None };
        let mut request = match &body {
            Some(_) => Request::post(target.clone()).header(CONTENT_TYPE, "application/json"),
            None => Request::get(target.clone()),
        };
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| lasting(e.to_string()))?;
        let answer = self.client.request(request).await.map_err(|e| passing(innermost(&e)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MOST_BYTES).collect().await;
        let body = body.map_err(|e| passing(format!("the answer broke off: {}", innermost(&*e))))?.to_bytes();
        exchange::read(head.status, &body).map_err(|refused| Failed {
            why: refused.why,
            again: refused.status.filter(|status| may_pass(*status)).map(|_| wish(&head.headers)),
            param: refused.param,
            status: refused.status,
        })
    }
}

impl Chat for HttpChat {
    fn name(&self) -> &str {
        &self.upstream.model
    }

    fn limit(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    fn at_once(&self) -> usize {
        self.upstream.at_once
    }

    fn beside(&self) -> Option<Box<dyn Chat + Send>> {
        let another = self.another().ok()?;
        Some(Box::new(another))
    }

    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
        if ask.schema.is_some() && self.learned().no_schemas {
            return Err(self.cannot(NO_SCHEMA));
        }
        match self.ask(exchange::completion(&self.upstream.model, self.limit_name(), ask)) {
            Ok(answer) => exchange::reply(&self.upstream.model, &answer),
            // Servers that have no schemas say so in many ways; whether it was the schema shows without it.
            Err(ChatError::Refused { .. }) if ask.schema.is_some() => {
                let free = Ask { schema: None, ..ask.clone() };
                self.ask(exchange::completion(&self.upstream.model, self.limit_name(), &free))?;
                self.learned().no_schemas = true;
                Err(self.cannot(NO_SCHEMA))
            }
            Err(error) => Err(error),
        }
    }

    /// The interface tells the log-probabilities of the most likely first tokens only: an answer must be one of
    /// these tokens, whole.
    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        let answer =
            self.ask(exchange::scoring(&self.upstream.model, self.limit_name(), messages, self.top()))?;
        exchange::scores(&self.upstream.model, &answer, answers)
    }

    fn tells_choices(&self) -> bool {
        matches!(self.tells, Tells::Behind(_))
    }

    /// Token by token behind the frame, which costs a call for each: its own log-probability is not asked for.
    fn choose(&mut self, messages: &[Message], frame: &str, options: &[&str]) -> Result<Choice, ChatError> {
        let Tells::Behind(way) = self.tells else {
            return Err(self.cannot("tell log-probabilities behind the beginning of an answer"));
        };
        let mut usage = Usage::default();
        let mut next = |begun: &str| -> Result<Vec<Likely>, ChatError> {
            let (model, limit, fields) = (&self.upstream.model, self.limit_name(), way == Way::Fields);
            let body = match begun {
                "" => exchange::scoring(model, limit, messages, self.top()),
                begun => exchange::behind(model, limit, messages, begun, fields, self.top()),
            };
            let answer = self.ask(body)?;
            usage += exchange::usage(&answer);
            let likely = exchange::first(&answer).filter(|l| !l.is_empty());
            likely.ok_or_else(|| self.cannot("tell log-probabilities of this answer"))
        };
        let known = walk(&mut next, frame, options, Ends::Trimmed)?;
        let all_told = known.iter().all(Known::is_told);
        let most = if all_told { Vec::new() } else { known.iter().map(|k| k.most).collect() };
        Ok(Choice { frame: 0.0, scores: known.iter().map(|k| k.logprob).collect(), most, usage })
    }
}

/// Whether a status says that another request may be answered.
fn blames_the_request(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 413 | 414 | 422)
}

fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 429 | 500 | 502 | 503 | 504)
}

/// What the server says about when to try again.
fn wish(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Twice as long each time, and up to half of it shorter so that several clients do not come back at once.
fn pause(tries: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    let words = Philox::new(u64::from(std::process::id()), PAUSES).at(tries, 0, 0);
    longest.mul_f64(1.0 - unit_f64(words[0], words[1]) / 2.0)
}

/// An error's cause says more than the error of the client library.
fn innermost(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Connections, over TLS with the certificates of this machine where it is wanted.
fn connector(secure: bool) -> Result<HttpsConnector<HttpConnector>, TlsError> {
    let tls = tls::client(None, secure)?;
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_neither_used_nor_shown() {
        for url in [
            "http://me:hunter2@h/v1",
            "me:hunter2@h",
            "ftp://me:hunter2@h",
            "http://me:hunter2@",
            "x://h?hunter2",
        ] {
            let upstream = Upstream::new(url, "m");
            assert!(!format!("{upstream:?}").contains("hunter2"), "{upstream:?}");
            let error = HttpChat::new(upstream).expect_err(url);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let chat = HttpChat::new(Upstream::new("http://h/v1?hunter2", "m")).expect("a client");
        assert!(!format!("{chat:?}").contains("hunter2"), "{chat:?}");
    }
}
