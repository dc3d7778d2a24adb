//! A chat request on its way: looked into, rewritten where it is to be, and its answer told what was done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use bytes::Bytes;
use http_body::Body as _;
use refocus_system2::Usage;
use tokio::task::JoinSet;

use super::body::{Held, Read, Silent, Source};
use super::config::Mode;
use super::flights::Origin;
use super::json::{Splice, quoted, spliced};
use super::lines::Lines;
use super::report::{Report, tokens};
use super::rewriter::{CREDENTIALS, Job, Rewritten};
use super::select::{self, Plan, Skip, Target, Wish};
use super::upstream::How;
use super::usage;
use super::waiting::{Waiting, in_a_stream};
use super::{Proxy, is_stream};
use crate::error::{ApiError, ApiResult};

/// A larger answer passes without its usage summed.
const MOST_SUMMED: usize = 32 << 20;

/// Whether a request could be one that System 2 Attention selects.
pub(super) fn is_chat(head: &Parts) -> bool {
    head.method == Method::POST && head.uri.path().ends_with("/chat/completions")
}

/// A chat request whose body was read.
struct Chat {
    head: Parts,
    held: Held,
    /// Whole and valid UTF-8.
    text: String,
    plan: Plan,
    /// The client already has the head of a stream without an encoding.
    begun: bool,
}

/// Whether a model's prefix stands somewhere in bytes that cannot be read as a request.
fn names(prefix: &str, bytes: &[u8]) -> bool {
    !prefix.is_empty() && bytes.windows(prefix.len()).any(|part| part == prefix.as_bytes())
}

impl Proxy {
    /// A request to a path of chats.
    pub(super) async fn chat(self: &Arc<Self>, head: Parts, body: Body) -> ApiResult<Response<Body>> {
        let config = &self.config.system2;
        let wish = if config.header { Wish::read(&head.headers)? } else { Wish::default() };
        let wanted = wish.mode.unwrap_or(config.mode) != Mode::Off;
        let may_be = wanted || !config.prefix.is_empty() || !config.route.is_empty();
        let length = body.size_hint().exact();
        let idle = self.config.idle();
        let seen = if !may_be {
            None
        } else if head.headers.contains_key(CONTENT_ENCODING) {
            Some(Skip::Encoded)
        } else if length.is_some_and(|length| length > config.body_bytes as u64) {
            Some(Skip::Large)
        } else {
            match Held::read(body, config.body_bytes, idle).await {
                Ok(Read::Whole(held)) => return self.looked_into(head, held, length, wish).await,
                Ok(Read::Beyond(held, rest)) => {
                    let named = wish.mode != Some(Mode::Off) && names(&config.prefix, &held.bytes());
                    let source = Source::new(held, Some(rest), length, idle);
                    let skip = (wanted || named).then_some(Skip::Large);
                    return self.straight(head, source, skip).await;
                }
                Err(error) => {
                    return Err(match error.downcast_ref::<Silent>() {
                        Some(silent) => ApiError::slow_body(silent.after.as_secs()),
                        None => {
                            ApiError::invalid("body", format!("the body of the request broke off: {error}"))
                        }
                    });
                }
            }
        };
        let source = Source::new(Held::default(), Some(body), length, idle);
        // What nobody selected passes as it is, its answer too: in a body that is not looked at a name may stand.
        self.straight(head, source, seen.filter(|_| wanted)).await
    }

    async fn looked_into(
        self: &Arc<Self>,
        head: Parts,
        held: Held,
        length: Option<u64>,
        wish: Wish,
    ) -> ApiResult<Response<Body>> {
        let bytes = held.bytes();
        let text = std::str::from_utf8(&bytes).ok();
        let plan = text
            .and_then(|text| select::plan(&self.config.system2, self.variant, head.uri.path(), &wish, text));
        let (Some(plan), Some(text)) = (plan, text) else {
            let config = &self.config.system2;
            let wanted = wish.mode.unwrap_or(config.mode) != Mode::Off;
            // In bytes that are no text a model's name may still stand, and it keeps its prefix.
            let named = text.is_none() && wish.mode != Some(Mode::Off) && names(&config.prefix, &bytes);
            let skip = (wanted || named).then_some(Skip::NotChat);
            return self.straight(head, Source::new(held, None, length, self.config.idle()), skip).await;
        };
        let chat = Chat { text: text.to_owned(), head, held, plan, begun: false };
        match (chat.plan.mode, chat.plan.targets.clone()) {
            (_, Err(skip)) => {
                let report = Report::skipped(skip);
                // Whoever said that nothing is to be done has selected nothing.
                if skip != Skip::Off {
                    report.count(&self.metrics);
                }
                self.answered(chat, report).await
            }
            (Mode::Audit, Ok(targets)) => {
                let (this, plan, credentials) =
                    (self.clone(), chat.plan.clone(), self.credentials(&chat.head.headers));
                let path = self.config.system2.step_one_path(Some(&chat.head.uri), &plan.model);
                // Beside the request, which does not wait for it.
                tokio::spawn(async move {
                    this.rewrites("audit", &plan, targets, credentials, path).await.count_audit(&this.metrics)
                });
                self.answered(chat, Report { what: "audit", ..Report::default() }).await
            }
            (_, Ok(targets)) => self.rewritten(chat, targets).await,
        }
    }

    /// Rewrites and then answers. A client that wants a stream gets comments when that takes long.
    async fn rewritten(self: &Arc<Self>, chat: Chat, targets: Vec<Target>) -> ApiResult<Response<Body>> {
        let (this, plan, credentials) =
            (self.clone(), chat.plan.clone(), self.credentials(&chat.head.headers));
        let path = self.config.system2.step_one_path(Some(&chat.head.uri), &plan.model);
        let mut work = Box::pin(async move {
            let report = this.rewrites("on", &plan, targets, credentials, path).await;
            report.count(&this.metrics);
            report
        });
        if !chat.plan.stream {
            let report = work.await;
            return self.answered(chat, report).await;
        }
        let beat = Duration::from_millis(self.config.system2.heartbeat_ms);
        if let Ok(report) = tokio::time::timeout(beat, &mut work).await {
            return self.answered(chat, report).await;
        }
        let this = self.clone();
        let coming = async move {
            let report = work.await;
            let comment = report.comment();
            in_a_stream(&comment, this.answered(Chat { begun: true, ..chat }, report).await).await
        };
        Ok(Waiting::response(Box::pin(coming), beat))
    }

    /// The client's credentials, where they are those of step 1 as well.
    pub(super) fn credentials(&self, headers: &HeaderMap) -> HeaderMap {
        if !self.flights.rewriter().needs_credentials() {
            return HeaderMap::new();
        }
        // What opens this proxy is no key for what is behind it.
        let theirs =
            CREDENTIALS.into_iter().filter(|name| !(self.keep_credentials && *name == AUTHORIZATION));
        theirs.filter_map(|name| headers.get(&name).cloned().map(|value| (name, value))).collect()
    }

    /// Rewrites all targets at once.
    async fn rewrites(
        self: &Arc<Self>,
        mode: &'static str,
        plan: &Plan,
        targets: Vec<Target>,
        credentials: HeaderMap,
        path: PathAndQuery,
    ) -> Report {
        let began = Instant::now();
        let model = self.flights.rewriter().model(&plan.model).to_owned();
        let mut report = Report { what: "skipped", model: model.clone(), ..Report::default() };
        let mut set = JoinSet::new();
        for target in targets {
            let (this, job) = (
                self.clone(),
                Job {
                    text: target.text.clone(),
                    question: target.question.clone(),
                    variant: plan.variant,
                    model: model.clone(),
                    path: path.clone(),
                    credentials: credentials.clone(),
                    deadline: Duration::from_millis(self.config.system2.deadline_ms),
                },
            );
            set.spawn(async move { (target, this.flights.get(job).await) });
        }
        let (mut before, mut after) = (0, 0);
        while let Some(done) = set.join_next().await {
            let Ok((target, outcome)) = done else {
                report.reason.get_or_insert(Skip::Failed.name());
                continue;
            };
            before += tokens(&target.text);
            let (rewritten, origin) = match outcome {
                Ok(outcome) => outcome,
                Err(skip) => {
                    after += tokens(&target.text);
                    report.reason.get_or_insert(skip.name());
                    continue;
                }
            };
            if origin == Origin::New {
                report.usage += rewritten.usage;
                self.note(mode, &model, &target.text, &rewritten);
            }
            report.origin.get_or_insert(origin);
            let Rewritten { text, reason, .. } = &*rewritten;
            after += tokens(text.as_deref().unwrap_or(&target.text));
            match text {
                Some(text) => report.splices.push(Splice { at: target.at, with: quoted(text) }),
                None => drop(report.reason.get_or_insert(reason.as_ref().map_or("kept", |(name, _)| name))),
            }
        }
        report.tokens = Some((before, after));
        report.elapsed = began.elapsed();
        if !report.splices.is_empty() {
            report.what = "applied";
            report.reason = None;
        }
        report
    }

    /// Writes a rewriting into the log, where there is one.
    pub(super) fn note(
        self: &Arc<Self>,
        mode: &'static str,
        model: &str,
        text: &str,
        rewritten: &Arc<Rewritten>,
    ) {
        let Some(log) = self.log.clone() else { return };
        let (model, text, rewritten) = (model.to_owned(), text.to_owned(), rewritten.clone());
        tokio::task::spawn_blocking(move || log.add(mode, &model, &text, &rewritten));
    }

    /// Sends the request on, with what the report puts into it, and tells the client about it.
    async fn answered(self: &Arc<Self>, chat: Chat, report: Report) -> ApiResult<Response<Body>> {
        let Chat { head, held, text, plan, begun } = chat;
        let mut splices = plan.splices;
        splices.extend(report.splices.iter().cloned());
        let idle = self.config.idle();
        let paid = report.usage != Usage::default();
        let had_length = head.headers.contains_key(CONTENT_LENGTH);
        let (held, length) = if splices.is_empty() {
            let length = held.bytes().len() as u64;
            (held, length)
        } else {
            let body = Bytes::from(spliced(&text, &splices));
            let length = body.len() as u64;
            (Held::of(body, held.trailers()), length)
        };
        let source = Source::new(held, None, had_length.then_some(length), idle);
        let how = How { length: had_length.then_some(length), plain: paid || begun, status_retries: None };
        let answer = self.upstream.send(head, &source, how).await?;
        let mut response = if paid && is_stream(answer.headers()) {
            let step_one = report.usage;
            let lines = Lines::changed(Box::new(move |line| usage::summed_line(line, step_one)));
            self.relayed(answer, Some(lines))
        } else if paid && is_json(answer.headers()) {
            self.summed(answer, report.usage).await?
        } else {
            self.relayed(answer, None)
        };
        report.write(response.headers_mut());
        Ok(response)
    }

    /// A whole JSON answer with the usage of both calls.
    async fn summed(
        self: &Arc<Self>,
        answer: Response<hyper::body::Incoming>,
        step_one: Usage,
    ) -> ApiResult<Response<Body>> {
        let (mut head, body) = self.relayed(answer, None).into_parts();
        let length = body.size_hint().exact();
        let idle = self.config.idle();
        let broken = |error| ApiError::upstream(format!("the upstream broke off its answer: {error}"));
        if length.is_some_and(|length| length > MOST_SUMMED as u64) {
            return Ok(Response::from_parts(head, body));
        }
        let source = match Held::read(body, MOST_SUMMED, idle).await.map_err(broken)? {
            Read::Beyond(held, rest) => Source::new(held, Some(rest), length, idle),
            Read::Whole(held) => {
                let bytes = held.bytes();
                match std::str::from_utf8(&bytes).ok().and_then(|text| usage::summed(text, step_one)) {
                    None => Source::new(held, None, length, idle),
                    Some(text) => {
                        let length = length.map(|_| text.len() as u64);
                        if let Some(length) = length {
                            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                        }
                        Source::new(Held::of(Bytes::from(text), held.trailers()), None, length, idle)
                    }
                }
            }
        };
        Ok(Response::from_parts(head, Body::new(source.outgoing())))
    }
}

/// Whether an answer is JSON that can be read.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("application/json")
        && !headers.contains_key(CONTENT_ENCODING)
}
