//! The server behind the proxy: connections to it, and what is said to a client when it fails.

use std::error::Error as _;
use std::pin::pin;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{CaptureConnection, HttpConnector, capture_connection};
use hyper_util::client::legacy::{Client, Error, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::{Outgoing, Source};
use super::breaker::Breaker;
use super::config::{Base, ConfigError, ProxyConfig};
use super::headers::Upward;
use crate::error::ApiError;
use crate::keys::Secret;
use crate::tls;

/// Header fields that an answer may have; more than any server sends.
pub(super) const MOST_HEADERS: usize = 256;
/// A longer wait before another try helps nobody.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) type Pool = Client<HttpsConnector<HttpConnector>, Outgoing>;

/// Connections with TLS that trusts the system's certificates and those of a file.
pub(crate) fn pool(config: &ProxyConfig) -> Result<Pool, ConfigError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_millis(config.connect_ms)));
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    let needed = [&config.upstream, &config.system2.url].iter().any(|url| url.starts_with("https"));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls::client(config.ca_file.as_deref(), needed)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(50))
        .http1_preserve_header_case(true)
        .http1_max_headers(MOST_HEADERS)
        .set_host(false)
        .build(connector))
}

/// A server that requests go to.
pub(crate) struct Upstream {
    base: Base,
    pool: Pool,
    authorization: Option<HeaderValue>,
    keep_credentials: bool,
    answer: Duration,
    connect_retries: u32,
    status_retries: u32,
    pause: Duration,
    breaker: Breaker,
}

/// How a request is sent on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// Length of a body that was changed.
    pub(crate) length: Option<u64>,
    /// As in [`Upward`].
    pub(crate) plain: bool,
    /// Tries after status 429 and 5xx, where they are not those of the configuration.
    pub(crate) status_retries: Option<u32>,
}

impl Upstream {
    pub(crate) fn new(
        config: &ProxyConfig,
        pool: Pool,
        url: &str,
        key: Option<&Secret>,
        keep_credentials: bool,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            base: Base::parse(url)?,
            pool,
            authorization: key.map(Secret::bearer),
            keep_credentials: keep_credentials && key.is_none(),
            answer: Duration::from_millis(config.answer_ms),
            connect_retries: config.connect_retries,
            status_retries: config.status_retries,
            pause: Duration::from_millis(config.retry_ms),
            breaker: Breaker::new(config.breaker_failures, Duration::from_millis(config.breaker_ms)),
        })
    }

    /// Sends a request and waits for the head of its answer. Dropping the future ends the request.
    ///
    /// # Errors
    /// What the client is told: it cannot be reached, broke off, or took too long.
    pub(crate) async fn send(
        &self,
        head: Parts,
        source: &Source,
        how: How,
    ) -> Result<Response<Incoming>, ApiError> {
        let mut work = pin!(self.tried(head, source, how));
        let mut left = self.answer;
        while !left.is_zero() {
            if let Ok(outcome) = tokio::time::timeout(left, &mut work).await {
                return outcome;
            }
            // Nobody answers before the request is there: the time counts from the last of what the client sent.
            left = source.moved().map_or(Duration::ZERO, |at| self.answer.saturating_sub(at.elapsed()));
        }
        Err(ApiError::upstream_timeout(format!(
            "the upstream did not begin to answer within {} ms",
            self.answer.as_millis()
        )))
    }

    async fn tried(&self, head: Parts, source: &Source, how: How) -> Result<Response<Incoming>, ApiError> {
        let root = PathAndQuery::from_static("/");
        let uri = self.base.uri(head.uri.path_and_query().unwrap_or(&root)).ok_or_else(|| {
            ApiError::invalid("path", "the path of the request cannot be put behind that of the upstream")
        })?;
        let upward = Upward {
            host: Some(&self.base.host),
            authorization: self.authorization.as_ref(),
            keep_credentials: self.keep_credentials,
            length: how.length,
            plain: how.plain,
        };
        let headers = upward.fields(&head.headers);
        let again = how.status_retries.unwrap_or(self.status_retries);
        let (mut connects, mut statuses) = (0, 0);
        loop {
            let finds_out = self.breaker.ask().map_err(down)?;
            let mut request = Request::new(source.outgoing());
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            *request.extensions_mut() = head.extensions.clone();
            let outcome = if finds_out {
                let connection = capture_connection(&mut request);
                self.heard(connection, self.pool.request(request)).await
            } else {
                self.pool.request(request).await
            };
            match outcome {
                Ok(answer) => {
                    self.breaker.went_well();
                    let status = answer.status();
                    let failed = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
                    if !(failed && statuses < again && source.is_fresh()) {
                        return Ok(answer);
                    }
                    let asked =
                        answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                    tokio::time::sleep(self.wait(statuses, asked)).await;
                    statuses += 1;
                }
                Err(error) => {
                    // A connection that did not come about took nothing; one that was closed in our face while it
                    // was idle may have taken a request, which may only be repeated where that is harmless.
                    let harmless = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&head.method);
                    if error.is_connect() {
                        self.breaker.failed();
                    }
                    if !((error.is_connect() || harmless && cut(&error))
                        && connects < self.connect_retries
                        && source.is_fresh())
                    {
                        return Err(told(&error));
                    }
                    tokio::time::sleep(self.wait(connects, None)).await;
                    connects += 1;
                }
            }
        }
    }

    /// The answer to a request that finds out for all whether the upstream is there. It is once the connection stands,
    /// however long the answer takes.
    async fn heard(
        &self,
        mut connection: CaptureConnection,
        answer: ResponseFuture,
    ) -> Result<Response<Incoming>, Error> {
        let mut answer = pin!(answer);
        let stands = tokio::select! {
            biased;
            outcome = &mut answer => return outcome,
            stands = connection.wait_for_connection_metadata() => stands.is_some(),
        };
        if stands {
            self.breaker.went_well();
        }
        answer.await
    }

    /// How long to wait before another try, in full where the upstream said how long.
    fn wait(&self, tries: u32, asked: Option<u64>) -> Duration {
        let own = self.pause.saturating_mul(1 << tries.min(10));
        own.max(Duration::from_secs(asked.unwrap_or(0))).min(LONGEST_PAUSE)
    }
}

/// Whether the connection ended before the answer began.
fn cut(error: &Error) -> bool {
    causes(error)
        .any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message))
}

/// What lies behind an error, the root last.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

fn down(left: Duration) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "upstream_error",
        "the upstream could not be reached several times in a row and counts as down for a moment",
    )
    .code("upstream_down")
    .retry_after(left.as_secs() + 1)
}

/// What a client is told about a request that got no answer. Says where the fault is, and no key or address.
fn told(error: &Error) -> ApiError {
    let silent = causes(error).find_map(|cause| cause.downcast_ref::<super::body::Silent>());
    if let Some(silent) = silent {
        return ApiError::slow_body(silent.after.as_secs());
    }
    let why = causes(error).last().map_or_else(|| error.to_string(), ToString::to_string);
    if error.is_connect() {
        let code = if why.contains("timed out") { "upstream_timeout" } else { "upstream_unreachable" };
        return ApiError::upstream(format!("the upstream cannot be reached: {why}")).code(code);
    }
    if causes(error).any(|c| c.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user)) {
        return ApiError::invalid("body", format!("the body of the request broke off: {why}"));
    }
    ApiError::upstream(format!("the upstream broke off before it answered: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::proxy::body::Held;

    #[tokio::test]
    async fn an_upstream_that_takes_a_connection_counts_as_up_before_it_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let config =
            ProxyConfig { breaker_failures: 1, breaker_ms: 3_600_000, ..ProxyConfig::new(url.clone()) };
        let pool = pool(&config).expect("a pool");
        let upstream = Arc::new(Upstream::new(&config, pool, &url, None, false).expect("an upstream"));
        upstream.breaker.failed();
        assert!(upstream.breaker.ask().is_err());
        upstream.breaker.pause_is_over();
        let asked = upstream.clone();
        let waits = tokio::spawn(async move {
            let source = Source::new(Held::default(), None, None, Duration::from_secs(60));
            let head = Request::new(()).into_parts().0;
            asked.send(head, &source, How::default()).await.map(drop)
        });
        let (stream, _) = listener.accept().await.expect("the proxy");
        let up = async {
            while upstream.breaker.ask().is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), up).await.expect("others get through");
        assert!(!waits.is_finished(), "and nothing was answered");
        drop(stream);
        assert!(waits.await.expect("no panic").is_err());
    }
}
