//! A stream that has begun before its answer has: while a text is rewritten, comments tell the client that all is well.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use super::is_events;
use super::select::MODE;
use crate::error::{ApiError, ApiResult};

/// Of an error inside a stream that has begun.
const MOST_ERROR: usize = 64 << 10;

/// What a client gets that did not wait in vain: some bytes, and then a body.
pub(crate) type Outcome = (Bytes, Option<Body>);
/// The answer that is waited for.
pub(crate) type Coming = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Server-sent events with a comment now and then until the answer comes. Dropping it drops the answer.
pub(crate) struct Waiting {
    state: State,
    next: VecDeque<Bytes>,
}

enum State {
    Waits { coming: Coming, beat: Interval },
    Streams(Body),
    Over,
}

impl Waiting {
    /// Begins with a comment at once.
    pub(crate) fn new(coming: Coming, every: Duration) -> Self {
        let mut beat = interval_at(tokio::time::Instant::now() + every, every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { state: State::Waits { coming, beat }, next: [BEAT].into() }
    }

    /// The whole answer to a client, whose head goes out now.
    pub(crate) fn response(coming: Coming, every: Duration) -> Response<Body> {
        let mut response = Response::new(Body::new(Self::new(coming, every)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Some servers between collect a body before they pass it on.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        headers.insert(HeaderName::from_static(MODE), HeaderValue::from_static("pending"));
        response
    }
}

/// An answer inside a stream whose head the client already has.
pub(crate) async fn in_a_stream(comment: &str, answer: ApiResult<Response<Body>>) -> Outcome {
    let ended = |event: String| (Bytes::from(format!("{comment}{event}")), None);
    let response = match answer {
        Err(error) => return ended(error.event()),
        Ok(response) => response,
    };
    if response.status() == StatusCode::OK && is_events(response.headers()) {
        return (Bytes::from(comment.to_owned()), Some(response.into_body()));
    }
    let status = response.status().as_u16();
    let what = match response.headers().get(CONTENT_ENCODING) {
        Some(_) => {
            "a compressed body, which cannot go on in this stream: it began before, without an encoding"
        }
        None => "no stream",
    };
    let told = match axum::body::to_bytes(response.into_body(), MOST_ERROR).await {
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes).ok().filter(|body| body.get("error").is_some()),
        Err(_) => None,
    };
    ended(match told {
        Some(body) => format!("data: {body}\n\n"),
        None => ApiError::upstream(format!("the upstream answered with status {status} and {what}")).event(),
    })
}

/// A comment, which every client of server-sent events skips.
const BEAT: Bytes = Bytes::from_static(b": refocus is rewriting\n\n");

impl HttpBody for Waiting {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(bytes) = this.next.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match &mut this.state {
                State::Over => return Poll::Ready(None),
                State::Streams(body) => {
                    return Pin::new(body)
                        .poll_frame(cx)
                        .map(|frame| frame.map(|f| f.map_err(BoxError::from)));
                }
                State::Waits { coming, beat } => match coming.as_mut().poll(cx) {
                    Poll::Ready((first, body)) => {
                        this.next.extend((!first.is_empty()).then_some(first));
                        this.state = body.map_or(State::Over, State::Streams);
                    }
                    Poll::Pending => {
                        ready!(beat.poll_tick(cx));
                        this.next.push_back(BEAT);
                    }
                },
            }
        }
    }
}
