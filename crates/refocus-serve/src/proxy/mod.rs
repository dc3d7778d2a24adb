//! Passes requests on to another OpenAI-compatible server and loses nothing on the way.
//!
//! What System 2 Attention does not select goes on byte for byte, in both directions and as it comes: bodies are not
//! collected, parsed or written anew, and values and order of header fields stay (see [`headers`] for what that
//! means). What it selects changes in one string of one message, at that string's place in the body.

mod body;
mod breaker;
pub mod config;
mod headers;
mod json;
mod lines;
mod upstream;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, Request, Response};
use axum::response::IntoResponse;
use http_body::Body as _;
use hyper::body::Incoming;

use self::body::{Held, Relay, Source};
pub use self::config::{ConfigError, ProxyConfig, Secret};
use self::lines::Lines;
use self::upstream::{How, Upstream};
use crate::error::ApiError;
use crate::metrics::{Kind, Metric, Metrics};

static REQUESTS: Metric = Metric {
    name: "refocus_proxy_requests_total",
    help: "Requests passed on, by outcome.",
    kind: Kind::Counter,
};
static BROKEN: Metric = Metric {
    name: "refocus_proxy_broken_answers_total",
    help: "Answers that the upstream broke off after they began.",
    kind: Kind::Counter,
};

/// All that a proxy has.
pub(crate) struct Proxy {
    config: ProxyConfig,
    upstream: Upstream,
    metrics: Arc<Metrics>,
}

/// A proxy as a router, for every path and method.
///
/// # Errors
/// The configuration makes no sense, or no TLS can be had.
pub fn router(config: ProxyConfig, metrics: Arc<Metrics>) -> Result<Router, ConfigError> {
    config.check()?;
    let pool = upstream::pool(&config)?;
    let upstream = Upstream::new(&config, pool, &config.upstream, config.upstream_key.as_ref())?;
    let proxy = Arc::new(Proxy { config, upstream, metrics });
    Ok(Router::new().fallback(pass).with_state(proxy))
}

/// How connections from clients have to be served so that the proxy loses nothing: names of header fields keep their
/// upper and lower case, no date is added to an answer that has none, and a request may have many fields.
pub fn connections() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(hyper_util::rt::TokioTimer::new())
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_headers(upstream::MOST_HEADERS);
    builder
}

async fn pass(State(proxy): State<Arc<Proxy>>, request: Request<Body>) -> Response<Body> {
    let outcome = proxy.passed(request).await;
    let label = match &outcome {
        Ok(_) => "answered",
        Err(error) => error.known_as().unwrap_or("failed"),
    };
    proxy.metrics.add(&REQUESTS, &[("outcome", label)], 1.0);
    outcome.unwrap_or_else(IntoResponse::into_response)
}

impl Proxy {
    async fn passed(self: &Arc<Self>, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        if request.method() == Method::CONNECT {
            return Err(ApiError::no_method(&Method::CONNECT, "a proxy in front of one server"));
        }
        let (head, body) = request.into_parts();
        let length = body.size_hint().exact();
        let source = Source::new(Held::default(), Some(body), length, self.config.idle());
        let answer = self.upstream.send(head, &source, How::default()).await?;
        Ok(self.relayed(answer))
    }

    /// An answer on its way back.
    fn relayed(self: &Arc<Self>, answer: Response<Incoming>) -> Response<Body> {
        let (mut head, body) = answer.into_parts();
        head.headers = headers::downward(&head.headers);
        let length = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let events = is_stream(&head.headers).then(Lines::new);
        let metrics = self.metrics.clone();
        let relay =
            Relay::new(body, length, events, self.config.idle(), move |_| metrics.add(&BROKEN, &[], 1.0));
        Response::from_parts(head, Body::new(relay))
    }
}

/// Whether an answer is a stream of events that can be read on the way.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_LENGTH)
}
