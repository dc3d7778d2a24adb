//! The rewriter that is used: System 2 Attention over a chat model behind HTTP.

use std::sync::Arc;
use std::time::Instant;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use refocus_system2::{Ask, Chat, ChatError, Message, Options, Reply, Usage};
use serde_json::Value;
use tokio::runtime::Handle;

use super::body::{Held, Source};
use super::rewriter::{Cancel, Job, Rewriter, Rewritten, rewritten};
use super::upstream::{How, Upstream};
use crate::exchange::{self, Refused};

/// A longer answer is no rewrite.
const MOST_BYTES: usize = 8 << 20;
/// Tries after status 429 and 5xx: a rewriting may be repeated, it changes nothing.
const RETRIES: u32 = 2;

/// Rewrites over a server.
pub(crate) struct StepOne {
    pub(crate) upstream: Arc<Upstream>,
    /// Model for all requests; each request's own where there is none.
    pub(crate) model: Option<String>,
    /// The client's credentials go along: it is the same server, and refocus has no key of its own for it.
    pub(crate) credentials: bool,
}

impl Rewriter for StepOne {
    fn model<'a>(&'a self, asked: &'a str) -> &'a str {
        self.model.as_deref().unwrap_or(asked)
    }

    fn needs_credentials(&self) -> bool {
        self.credentials
    }

    fn rewrite(&self, job: &Job, cancel: Cancel) -> Rewritten {
        let until = Instant::now() + job.deadline;
        let mut call = Call { one: self, job, cancel, until, limit: exchange::OLD_LIMIT, own_fault: false };
        let options = Options { deadline: Some(job.deadline), ..Options::new(job.variant) };
        let mut done = rewritten(&mut call, &job.text, job.question.as_deref(), &options);
        // What a rewriting that failed on the way tells of is not all that it took.
        done.usage = job.spent.so_far();
        done.own_fault = done.failed && call.own_fault;
        done
    }
}

/// A chat model for the time of one rewriting.
struct Call<'a> {
    one: &'a StepOne,
    job: &'a Job,
    cancel: Cancel,
    until: Instant,
    /// What the server calls the limit on new tokens.
    limit: &'static str,
    /// The server's last answer blames the request.
    own_fault: bool,
}

/// Why there is no answer.
enum No {
    /// The server is there and will have none of it.
    Refused(Refused),
    Other(ChatError),
}

impl Call<'_> {
    fn ask(&mut self, mut body: Value) -> Result<Value, No> {
        loop {
            let outcome = self.asked(&body);
            if let Ok(answer) = &outcome {
                self.job.spent.add(exchange::usage(answer));
            }
            self.own_fault =
                matches!(&outcome, Err(No::Refused(refused)) if refused.status.is_some_and(blames));
            match outcome {
                Err(No::Refused(refused))
                    if refused.param.as_deref() == Some(exchange::OLD_LIMIT)
                        && self.limit == exchange::OLD_LIMIT =>
                {
                    self.limit = exchange::rename_limit(&mut body);
                }
                outcome => return outcome,
            }
        }
    }

    fn asked(&mut self, body: &Value) -> Result<Value, No> {
        let left = self.until.saturating_duration_since(Instant::now());
        let (one, job) = (self.one, self.job);
        let work = async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(No::failed(job, "nobody waits for it any more")),
                answer = tokio::time::timeout(left, sent(one, job, body)) => {
                    answer.unwrap_or(Err(No::Other(ChatError::TimedOut { after: job.deadline })))
                }
            }
        };
        match Handle::try_current() {
            Ok(runtime) => runtime.block_on(work),
            Err(_) => Err(No::failed(job, "a rewriting runs on a thread of the server only")),
        }
    }
}

/// Whether a status says that the request is at fault, and not the server, its load or the time.
fn blames(status: StatusCode) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_client_error() && !passing.contains(&status)
}

impl No {
    fn failed(job: &Job, why: impl ToString) -> Self {
        Self::Other(ChatError::Failed { model: job.model.clone(), why: why.to_string() })
    }

    fn told(self, job: &Job) -> ChatError {
        match self {
            Self::Refused(refused) => ChatError::Failed { model: job.model.clone(), why: refused.why },
            Self::Other(error) => error,
        }
    }
}

async fn sent(one: &StepOne, job: &Job, body: &Value) -> Result<Value, No> {
    let body = Bytes::from(body.to_string());
    let length = body.len() as u64;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(job.path.clone());
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request.headers_mut().extend(job.credentials.clone());
    let source = Source::new(Held::of(body, None), None, Some(length), job.deadline);
    let how = How { length: Some(length), plain: true, status_retries: Some(RETRIES) };
    let answer = one.upstream.send(request.into_parts().0, &source, how).await;
    let (head, body) = answer.map_err(|e| No::failed(job, e))?.into_parts();
    let body = Limited::new(body, MOST_BYTES).collect().await;
    let body = body.map_err(|e| No::failed(job, format!("its answer broke off: {e}")))?.to_bytes();
    exchange::read(head.status, &body).map_err(No::Refused)
}

impl Chat for Call<'_> {
    fn name(&self) -> &str {
        &self.job.model
    }

    fn limit(&mut self, until: Option<Instant>) {
        if let Some(until) = until {
            self.until = self.until.min(until);
        }
    }

    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
        let model = self.job.model.as_str();
        match self.ask(exchange::completion(model, self.limit, ask)) {
            Ok(answer) => exchange::reply(model, &answer),
            // Servers that have no schemas say so in many ways; without one the request is tried again.
            Err(No::Refused(refused))
                if ask.schema.is_some() && refused.status == Some(StatusCode::BAD_REQUEST) =>
            {
                Err(ChatError::Cannot { model: model.to_owned(), what: "answer by a schema" })
            }
            Err(no) => Err(no.told(self.job)),
        }
    }

    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        let model = self.job.model.as_str();
        let answer = self
            .ask(exchange::scoring(model, self.limit, messages, exchange::TOP))
            .map_err(|no| no.told(self.job))?;
        exchange::scores(model, &answer, answers)
    }
}
