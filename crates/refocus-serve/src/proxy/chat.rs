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
use super::flights::{Lost, Origin};
use super::json::{Splice, quoted, spliced};
use super::lines::Lines;
use super::report::{APPLIED, Report, tokens};
use super::rewriter::{CREDENTIALS, Job, Rewritten};
use super::select::{self, Plan, Skip, Target, Wish};
use super::upstream::How;
use super::usage;
use super::waiting::{Waiting, in_a_stream};
use super::{Proxy, is_stream};
use crate::error::{ApiError, ApiResult};

/// A larger answer passes without its usage summed.
const MOST_SUMMED: usize = 32 << 20;
/// A larger body is looked into on a thread where that holds up nobody: to split a text takes up to a second for each
/// MiB.
const LARGE: usize = 16 << 10;

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
        let plan = self.planned(head.uri.path(), &wish, bytes.clone()).await;
        let text = std::str::from_utf8(&bytes).ok();
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

    /// What is to be done with a body, where it is a request that is selected.
    async fn planned(self: &Arc<Self>, path: &str, wish: &Wish, body: Bytes) -> Option<Plan> {
        let (this, path, wish, large) = (self.clone(), path.to_owned(), wish.clone(), body.len() > LARGE);
        let work = move || {
            let text = std::str::from_utf8(&body).ok()?;
            select::plan(&this.config.system2, this.variant, &path, &wish, text)
        };
        if !large {
            return work();
        }
        tokio::task::spawn_blocking(work).await.ok().flatten()
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

    /// Rewrites all targets: as many side by side as leave other requests places, and all before the deadline.
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
        let deadline = Duration::from_millis(self.config.system2.deadline_ms);
        let one = |target: Target, deadline: Duration| {
            let (this, job) = (
                self.clone(),
                Job {
                    text: target.text.clone(),
                    question: target.question.clone(),
                    variant: plan.variant,
                    model: model.clone(),
                    path: path.clone(),
                    credentials: credentials.clone(),
                    deadline,
                    spent: Arc::default(),
                },
            );
            async move { (target, this.flights.get(job).await) }
        };
        let (mut set, mut later) = (JoinSet::new(), targets.into_iter());
        let side_by_side = self.config.system2.at_once.div_ceil(2).max(1);
        for target in later.by_ref().take(side_by_side) {
            set.spawn(one(target, deadline));
        }
        let (mut before, mut after) = (0, 0);
        // Why a target was left out, beside others that were not.
        let mut left_out = None;
        while let Some(done) = set.join_next().await {
            if let Some(target) = later.next() {
                set.spawn(one(target, deadline.saturating_sub(began.elapsed())));
            }
            let Ok((target, outcome)) = done else {
                left_out.get_or_insert(Skip::Failed.name());
                continue;
            };
            before += tokens(&target.text);
            let (rewritten, origin) = match outcome {
                Ok(outcome) => outcome,
                Err(Lost { skip, origin, usage }) => {
                    after += tokens(&target.text);
                    report.usage += usage;
                    report.origin = report.origin.or(origin);
                    left_out.get_or_insert(skip.name());
                    continue;
                }
            };
            if origin == Origin::New {
                report.usage += rewritten.usage;
                self.note(mode, &model, &target.text, &rewritten);
            }
            report.origin.get_or_insert(origin);
            let Rewritten { text, reason, failed, own_fault, .. } = &*rewritten;
            after += tokens(text.as_deref().unwrap_or(&target.text));
            let why = reason.as_ref().map_or("kept", |(name, _)| name);
            match text {
                Some(text) => report.splices.push(Splice { at: target.at, with: quoted(text) }),
                None if *failed || *own_fault => drop(left_out.get_or_insert(why)),
                None => drop(report.reason.get_or_insert(why)),
            }
        }
        report.tokens = Some((before, after));
        report.elapsed = began.elapsed();
        report.reason = left_out.or(report.reason);
        if !report.splices.is_empty() {
            report.what = APPLIED;
            report.reason = left_out;
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

#[cfg(test)]
mod tests {
    use super::super::config::ProxyConfig;
    use super::super::rewriter::{Cancel, Rewriter};
    use super::super::upstream::{self, Upstream};
    use super::*;
    use crate::keys::Keys;
    use crate::metrics::Metrics;

    struct Nobody;

    impl Rewriter for Nobody {
        fn model<'a>(&'a self, asked: &'a str) -> &'a str {
            asked
        }

        fn needs_credentials(&self) -> bool {
            false
        }

        fn rewrite(&self, _job: &Job, _cancel: Cancel) -> Rewritten {
            unreachable!("nothing is rewritten here")
        }
    }

    #[test]
    fn a_large_body_is_not_looked_into_where_others_wait() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let config = ProxyConfig::new("http://h".to_owned());
            let pool = upstream::pool(&config).expect("a pool");
            let upstream = Upstream::new(&config, pool, "http://h", None, false).expect("an upstream");
            let (upstream, metrics) = (Arc::new(upstream), Arc::new(Metrics::default()));
            let proxy = Proxy::new(config, Keys::default(), metrics, upstream, Arc::new(Nobody));
            let (proxy, wish) = (Arc::new(proxy.expect("a proxy")), Wish::default());
            let planned = |sentences: usize| {
                let text = quoted(&"It is so. ".repeat(sentences));
                let messages = format!("[{{\"role\":\"user\",\"content\":{text}}}]");
                let body = format!("{{\"model\":\"s2a/m\",\"messages\":{messages}}}");
                proxy.planned("/chat/completions", &wish, Bytes::from(body))
            };
            // The only thread for work that blocks is busy.
            let (done, busy) = std::sync::mpsc::channel::<()>();
            let blocked = tokio::task::spawn_blocking(move || busy.recv());
            assert_eq!(planned(9).await.map(|plan| plan.mode), Some(Mode::On));
            let mut large = Box::pin(planned(LARGE / 9));
            tokio::select! {
                biased;
                _ = &mut large => panic!("it was looked into here"),
                () = std::future::ready(()) => (),
            }
            drop(done);
            assert_eq!(large.await.map(|plan| plan.mode), Some(Mode::On));
            assert!(blocked.await.expect("no panic").is_err());
        });
    }
}
