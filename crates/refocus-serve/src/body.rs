//! Reading the body of a request.

use std::error::Error;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use http_body_util::LengthLimitError;

use crate::error::{ApiError, ApiResult};

/// The whole body, if it is not too long and comes in time.
///
/// # Errors
/// Status 413, 408, or 400 where the connection broke.
pub async fn whole(request: Request, limit: usize, time: Duration) -> ApiResult<Bytes> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limit as u64) {
        return Err(ApiError::too_large(limit));
    }
    match tokio::time::timeout(time, to_bytes(request.into_body(), limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if e.source().is_some_and(|s| s.is::<LengthLimitError>()) => {
            Err(ApiError::too_large(limit))
        }
        Ok(Err(_)) => Err(ApiError::malformed("the connection broke within it")),
        Err(_) => Err(ApiError::slow_body(time.as_secs())),
    }
}
