//! Errors as clients of OpenAI's interface read them:
//! `{"error": {"message": …, "type": …, "param": …, "code": …}}` with the HTTP status that goes with it.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Longer texts of a client are cut where they are repeated to it.
const MOST_QUOTED: usize = 120;

/// What a client is told instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    retry_after: Option<u64>,
}

/// A result for a client.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// An error with its status, `type` and message; the rest is added by the methods below.
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into(), retry_after: None }
    }

    fn refused(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    /// Adds the `code`.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Adds the field that is to blame, such as `messages[0].content`.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds after how many seconds another try makes sense.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// 400: a field has a value that makes no sense.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, message).param(param).code("invalid_value")
    }

    /// 400: a field that this server does not have, or a value of it.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, message).param(param).code("unsupported_parameter")
    }

    /// 400: the body is no JSON object.
    pub fn malformed(why: impl std::fmt::Display) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, format!("the body is not a JSON object: {why}"))
            .code("invalid_json")
    }

    /// 400: the prompt has no place in the model's context.
    pub fn context(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, message).param(param).code("context_length_exceeded")
    }

    /// 401: no key, or one that is not known. Says nothing about the key.
    pub fn unauthorized(given: bool) -> Self {
        let message = if given {
            "the API key is not known here"
        } else {
            "an API key is needed: send the header Authorization: Bearer KEY"
        };
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message).code("invalid_api_key")
    }

    /// 404: no such model.
    pub fn no_model(name: &str, known: &str) -> Self {
        let message = format!("there is no model {:?} here; there is {known:?}", quoted(name));
        Self::refused(StatusCode::NOT_FOUND, message).param("model").code("model_not_found")
    }

    /// 404: no such address.
    pub fn no_path(method: &Method, path: &str) -> Self {
        let message = format!("there is nothing at {method} {}", quoted(path));
        Self::refused(StatusCode::NOT_FOUND, message).code("unknown_url")
    }

    /// 405: the address has no such method.
    pub fn no_method(method: &Method, path: &str) -> Self {
        let message = format!("{} takes no {method}", quoted(path));
        Self::refused(StatusCode::METHOD_NOT_ALLOWED, message).code("method_not_allowed")
    }

    /// 408: the client did not send its body in time.
    pub fn slow_body(seconds: u64) -> Self {
        Self::refused(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {seconds} s"))
            .code("request_timeout")
    }

    /// 413: the body is longer than this server reads.
    pub fn too_large(limit: usize) -> Self {
        Self::refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {limit} bytes, which is the limit here"),
        )
        .code("request_too_large")
    }

    /// 429: too much is waiting.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .code("server_busy")
            .retry_after(1)
    }

    /// 500: what should not happen.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).code("internal_error")
    }

    /// 502: the server behind this one failed.
    pub fn upstream(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "upstream_error", message).code("upstream_failed")
    }

    /// 503: the server is being stopped.
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "the server is being stopped")
            .code("server_stopping")
    }

    /// 504: the server behind this one did not answer in time.
    pub fn upstream_timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream_error", message).code("upstream_timeout")
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its `code`, where it has one.
    pub fn known_as(&self) -> Option<&'static str> {
        self.code
    }

    /// The JSON body.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }

    /// As the last event of a stream that cannot go on.
    pub fn event(&self) -> String {
        format!("data: {}\n\n", self.body())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A text of a client, not too long to be repeated.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(MOST_QUOTED) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_that_of_openai() {
        let error = ApiError::invalid("n", "n is 0, it must be 1 or above");
        assert_eq!(
            error.event(),
            "data: {\"error\":{\"message\":\"n is 0, it must be 1 or above\",\"type\":\"invalid_request_error\",\
             \"param\":\"n\",\"code\":\"invalid_value\"}}\n\n"
        );
        let response = ApiError::busy("full").into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn what_a_client_sent_is_not_repeated_at_length() {
        let message = ApiError::no_model(&"é".repeat(1000), "m").to_string();
        assert!(message.chars().count() < 200, "{message}");
        assert!(message.contains('…'));
    }
}
