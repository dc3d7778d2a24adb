//! The rewriter that is used: System 2 Attention over a chat model behind HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use refocus_system2::{Ask, Chat, ChatError, Message, Reply, Usage};
use serde_json::Value;
use tokio::runtime::Handle;

use super::body::{Held, Source};
use super::rewriter::{Cancel, Job, Rewriter, Rewritten, rewritten};
use super::upstream::{How, Upstream};
use crate::exchange;

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
        rewritten(&mut Call { one: self, job, cancel, until, limit: exchange::OLD_LIMIT }, job)
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
}

impl Call<'_> {
    fn ask(&mut self, mut body: Value) -> Result<Value, ChatError> {
        loop {
            match self.asked(&body) {
                Err((error, param)) => {
                    if param.as_deref() == Some(exchange::OLD_LIMIT) && self.limit == exchange::OLD_LIMIT {
                        self.limit = exchange::rename_limit(&mut body);
                        continue;
                    }
                    return Err(error);
                }
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// One answer, and where there is none, which field the server blames.
    fn asked(&mut self, body: &Value) -> Result<Value, (ChatError, Option<String>)> {
        let left = self.until.saturating_duration_since(Instant::now());
        let one = self.one;
        let job = self.job;
        let work = async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err((failed(job, "nobody waits for it any more".to_owned()), None)),
                answer = tokio::time::timeout(left, sent(one, job, body)) => {
                    answer.unwrap_or_else(|_| Err((ChatError::TimedOut { after: job.deadline }, None)))
                }
            }
        };
        match Handle::try_current() {
            Ok(runtime) => runtime.block_on(work),
            Err(_) => Err((failed(job, "a rewriting runs on a thread of the server only".to_owned()), None)),
        }
    }
}

fn failed(job: &Job, why: String) -> ChatError {
    ChatError::Failed { model: job.model.clone(), why }
}

async fn sent(one: &StepOne, job: &Job, body: &Value) -> Result<Value, (ChatError, Option<String>)> {
    let failed = |why: String| (failed(job, why), None);
    let body = Bytes::from(body.to_string());
    let length = body.len() as u64;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = axum::http::Uri::from_static("/v1/chat/completions");
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(value) = &job.authorization {
        request.headers_mut().insert(AUTHORIZATION, value.clone());
    }
    let source = Source::new(Held::of(body, None), None, Some(length), Duration::MAX);
    let how = How { length: Some(length), plain: true, status_retries: Some(RETRIES) };
    let answer =
        one.upstream.send(request.into_parts().0, &source, how).await.map_err(|e| failed(e.to_string()))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MOST_BYTES)
        .collect()
        .await
        .map_err(|e| failed(format!("its answer broke off: {e}")))?;
    exchange::read(head.status, &body.to_bytes()).map_err(|(why, param)| (failed(why).0, param))
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
        let answer = self.ask(exchange::completion(&self.job.model, self.limit, ask))?;
        exchange::reply(&self.job.model, &answer)
    }

    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        let answer = self.ask(exchange::scoring(&self.job.model, self.limit, messages))?;
        exchange::scores(&self.job.model, &answer, answers)
    }
}
