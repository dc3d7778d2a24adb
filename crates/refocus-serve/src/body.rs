//! Reading the body of a request.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use bytes::BytesMut;
use http_body_util::BodyExt;

use crate::error::{ApiError, ApiResult};

/// So much of a body that is too long is read and thrown away: most clients write all of it before they read an
/// answer, and would never see one that closed the connection before.
const THROWN_AWAY: u64 = 64 << 20;

/// The whole body, if it is not too long and comes in time.
///
/// # Errors
/// Status 413, 408, or 400 where the connection broke.
pub async fn whole(request: Request, limit: usize, time: Duration) -> ApiResult<Bytes> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let too_long = announced.is_some_and(|n| n > limit as u64);
    if announced.is_some_and(|n| n > (limit as u64).saturating_add(THROWN_AWAY)) {
        return Err(ApiError::too_large(limit));
    }
    let mut body = request.into_body();
    if !too_long {
        match tokio::time::timeout(time, read(&mut body, limit)).await {
            Ok(Ok(Some(bytes))) => return Ok(bytes),
            Ok(Ok(None)) => {}
            Ok(Err(_)) => return Err(ApiError::malformed("the connection broke within it")),
            Err(_) => return Err(ApiError::slow_body(time.as_secs())),
        }
    }
    // Whatever becomes of the rest, the answer is the same.
    let _ = tokio::time::timeout(time, throw_away(&mut body)).await;
    Err(ApiError::too_large(limit))
}

/// All of it; nothing where it is longer.
async fn read(body: &mut Body, limit: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if all.len() + data.len() > limit {
            return Ok(None);
        }
        all.extend_from_slice(&data);
    }
    Ok(Some(all.freeze()))
}

async fn throw_away(body: &mut Body) {
    let mut left = THROWN_AWAY;
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        match left.checked_sub(data.len() as u64) {
            Some(less) => left = less,
            None => return,
        }
    }
}
