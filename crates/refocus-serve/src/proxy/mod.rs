//! Passes requests on to another OpenAI-compatible server and loses nothing on the way.
//!
//! What System 2 Attention does not select goes on byte for byte, in both directions and as it comes: bodies are not
//! collected, parsed or written anew, and values and order of header fields stay (docs/proxy.md says what that
//! means exactly). What it selects changes in one string of one message, at that string's place in the body.

mod body;
mod breaker;
mod chat;
pub mod config;
mod endpoints;
pub(crate) mod flights;
mod headers;
pub(crate) mod json;
mod lines;
pub(crate) mod report;
pub(crate) mod rewriter;
pub(crate) mod select;
mod step_one;
mod upstream;
mod usage;
pub(crate) mod waiting;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, Response, Version};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http_body::Body as _;
use hyper::body::Incoming;
use refocus_system2::Variant;

use self::body::{Held, Relay, Source};
pub use self::config::{ConfigError, ProxyConfig, System2Config};
pub use self::endpoints::OPENAPI;
use self::flights::Flights;
use self::lines::Lines;
use self::report::{Log, Report};
pub use self::rewriter::{Cancel, Job, Rewriter, Rewritten, Spent};
use self::select::Skip;
use self::step_one::StepOne;
use self::upstream::{How, Upstream};
use crate::error::{ApiError, ApiResult};
use crate::keys::Keys;
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
    keys: Keys,
    /// Clients show their keys to this proxy, and these go no further.
    keep_credentials: bool,
    upstream: Arc<Upstream>,
    flights: Flights,
    variant: Variant,
    log: Option<Arc<Log>>,
    metrics: Arc<Metrics>,
}

/// A proxy as a router, for every path and method: `/health`, `/metrics`, `/openapi.json`, `/v1/rewrite` and
/// `/beta/litellm_basic_guardrail_api` are its own, everything else is the upstream's. Where there are `keys`, each
/// request but those for `/health` and `/openapi.json` has to show one, and it does not go upstream.
///
/// # Errors
/// The configuration makes no sense, or no TLS can be had.
pub fn router(config: ProxyConfig, keys: Keys, metrics: Arc<Metrics>) -> Result<Router, ConfigError> {
    let keep = !keys.is_empty();
    let pool = upstream::pool(&config)?;
    let upstream =
        Upstream::new(&config, pool.clone(), &config.upstream, config.upstream_key.as_ref(), keep)?;
    let upstream = Arc::new(upstream);
    let two = &config.system2;
    let elsewhere = !two.url.is_empty();
    let step_one = if elsewhere || two.key.is_some() {
        let (url, key) =
            if elsewhere { (&two.url, two.key.as_ref()) } else { (&config.upstream, two.key.as_ref()) };
        Arc::new(Upstream::new(&config, pool, url, key, true)?)
    } else {
        upstream.clone()
    };
    let model = (!two.model.is_empty()).then(|| two.model.clone());
    // Credentials are for the server that the client means, and for no other.
    let credentials = !elsewhere && two.key.is_none() && config.upstream_key.is_none();
    router_with(config, keys, metrics, upstream, Arc::new(StepOne { upstream: step_one, model, credentials }))
}

/// A proxy that rewrites by other means than a model behind HTTP.
///
/// # Errors
/// As for [`router`].
pub fn router_over(
    config: ProxyConfig,
    keys: Keys,
    metrics: Arc<Metrics>,
    rewriter: Arc<dyn Rewriter>,
) -> Result<Router, ConfigError> {
    let keep = !keys.is_empty();
    let pool = upstream::pool(&config)?;
    let upstream = Upstream::new(&config, pool, &config.upstream, config.upstream_key.as_ref(), keep)?;
    router_with(config, keys, metrics, Arc::new(upstream), rewriter)
}

fn router_with(
    config: ProxyConfig,
    keys: Keys,
    metrics: Arc<Metrics>,
    upstream: Arc<Upstream>,
    rewriter: Arc<dyn Rewriter>,
) -> Result<Router, ConfigError> {
    let proxy = Proxy::new(config, keys, metrics, upstream, rewriter)?;
    Ok(Router::new()
        .route("/v1/rewrite", post(endpoints::rewrite))
        .route("/beta/litellm_basic_guardrail_api", post(endpoints::guardrail))
        .route("/openapi.json", get(endpoints::openapi))
        .route("/health", get(endpoints::health))
        .route("/metrics", get(endpoints::metrics))
        .method_not_allowed_fallback(endpoints::no_method)
        .fallback(pass)
        .with_state(Arc::new(proxy)))
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
    fn new(
        config: ProxyConfig,
        keys: Keys,
        metrics: Arc<Metrics>,
        upstream: Arc<Upstream>,
        rewriter: Arc<dyn Rewriter>,
    ) -> Result<Self, ConfigError> {
        let variant = config.check()?;
        Ok(Self {
            keep_credentials: !keys.is_empty(),
            upstream,
            flights: Flights::new(&config.system2, rewriter),
            variant,
            log: config.system2.log_file.clone().map(|path| Arc::new(Log::new(path, metrics.clone()))),
            config,
            keys,
            metrics,
        })
    }

    async fn passed(self: &Arc<Self>, request: Request<Body>) -> ApiResult<Response<Body>> {
        if request.method() == Method::CONNECT {
            return Err(ApiError::no_method(&Method::CONNECT, "a proxy in front of one server"));
        }
        self.keys.check(request.headers())?;
        let (head, body) = request.into_parts();
        if chat::is_chat(&head) {
            return self.chat(head, body).await;
        }
        let length = body.size_hint().exact();
        let source = Source::new(Held::default(), Some(body), length, self.config.idle());
        self.straight(head, source, None).await
    }

    /// Sends a request on as it is; `skip` says why, where System 2 Attention was asked for.
    async fn straight(
        self: &Arc<Self>,
        head: Parts,
        source: Source,
        skip: Option<Skip>,
    ) -> ApiResult<Response<Body>> {
        let answer = self.upstream.send(head, &source, How::default()).await?;
        let mut response = self.relayed(answer, None);
        if let Some(skip) = skip {
            let report = Report::skipped(skip);
            report.count(&self.metrics);
            report.write(response.headers_mut());
        }
        Ok(response)
    }

    /// An answer on its way back, its lines changed where that is wanted and it has lines.
    fn relayed(self: &Arc<Self>, answer: Response<Incoming>, change: Option<Lines>) -> Response<Body> {
        let (mut head, body) = answer.into_parts();
        head.headers = headers::downward(&head.headers);
        // A body without a length ends with the connection in HTTP/1.0, and one that broke off would look whole.
        head.version = Version::HTTP_11;
        let length = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let events = is_stream(&head.headers).then(|| change.unwrap_or_else(Lines::new));
        let metrics = self.metrics.clone();
        let relay =
            Relay::new(body, length, events, self.config.idle(), move |_| metrics.add(&BROKEN, &[], 1.0));
        Response::from_parts(head, Body::new(relay))
    }
}

/// Whether an answer is a stream of events that can be read on the way.
fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
        && !headers.contains_key(CONTENT_ENCODING)
}

/// Whether it may also be longer than it was.
fn is_stream(headers: &HeaderMap) -> bool {
    is_events(headers) && !headers.contains_key(CONTENT_LENGTH)
}
