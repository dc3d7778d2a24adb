//! Addresses of refocus itself: a rewrite alone, the guardrail interface of LiteLLM, and a description of both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use refocus_system2::Usage;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Proxy;
use super::flights::{Lost, Origin};
use super::report::Report;
use super::rewriter::{Job, Rewritten};
use super::select::{self, Skip};
use crate::error::{ApiError, ApiResult};
use crate::metrics::{Kind, Metric};

/// The description of these addresses, as OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Reads a JSON object into what an address takes.
async fn read<T: for<'de> Deserialize<'de>>(proxy: &Proxy, request: Request) -> ApiResult<T> {
    let body = crate::body::whole(request, proxy.config.system2.body_bytes, proxy.config.idle()).await?;
    let value: Value = serde_json::from_slice(&body).map_err(ApiError::malformed)?;
    if !value.is_object() {
        return Err(ApiError::malformed("it is another value"));
    }
    serde_json::from_value(value).map_err(|e| ApiError::invalid("body", e.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rewrite {
    text: String,
    #[serde(default)]
    question: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    variant: Option<String>,
}

static OWN: Metric = Metric {
    name: "refocus_own_requests_total",
    help: "Requests to addresses of refocus itself that rewrite, by address and outcome.",
    kind: Kind::Counter,
};

/// Counts a request to an address of ours by its outcome.
fn counted(proxy: &Proxy, address: &str, outcome: ApiResult<Response>) -> ApiResult<Response> {
    let label = match &outcome {
        Ok(_) => "answered",
        Err(error) => error.known_as().unwrap_or("failed"),
    };
    proxy.metrics.add(&OWN, &[("address", address), ("outcome", label)], 1.0);
    outcome
}

/// A rewriting as all others are made, counted and logged.
async fn made(proxy: &Arc<Proxy>, mode: &'static str, job: Job) -> Result<(Arc<Rewritten>, Origin), Lost> {
    let (began, model, text) = (Instant::now(), job.model.clone(), job.text.clone());
    let outcome = proxy.flights.get(job).await;
    let mut report = Report { what: "skipped", model, elapsed: began.elapsed(), ..Report::default() };
    match &outcome {
        Err(lost) => {
            report.reason = Some(lost.skip.name());
            (report.origin, report.usage) = (lost.origin, lost.usage);
        }
        Ok((rewritten, origin)) => {
            report.origin = Some(*origin);
            report.reason = rewritten.reason.as_ref().map(|(name, _)| *name);
            if rewritten.text.is_some() {
                report.what = "applied";
            }
            if *origin == Origin::New {
                report.usage = rewritten.usage;
                proxy.note(mode, &report.model, &text, rewritten);
            }
        }
    }
    report.count(&proxy.metrics);
    outcome
}

/// `POST /v1/rewrite`: the first of the two calls alone.
pub(super) async fn rewrite(State(proxy): State<Arc<Proxy>>, request: Request) -> ApiResult<Response> {
    let outcome = rewritten(&proxy, request).await;
    counted(&proxy, "/v1/rewrite", outcome)
}

async fn rewritten(proxy: &Arc<Proxy>, request: Request) -> ApiResult<Response> {
    proxy.keys.check(request.headers())?;
    let credentials = proxy.credentials(request.headers());
    let asked: Rewrite = read(proxy, request).await?;
    let variant = match &asked.variant {
        None => proxy.variant,
        Some(name) => select::variant(name)
            .ok_or_else(|| ApiError::invalid("variant", format!("there is no variant {name:?}")))?,
    };
    let cuts = matches!(variant, refocus_system2::Variant::Extractive | refocus_system2::Variant::Scored);
    if asked.question.is_some() && !cuts {
        return Err(ApiError::invalid(
            "variant",
            "a text with a question of its own is only cut: extractive or scored",
        ));
    }
    let rewriter = proxy.flights.rewriter();
    let model = rewriter.model(asked.model.as_deref().unwrap_or_default()).to_owned();
    if model.is_empty() {
        return Err(ApiError::invalid(
            "model",
            "this server has no model of its own for rewriting: name one",
        ));
    }
    let job = Job {
        text: asked.text,
        question: asked.question,
        variant,
        path: proxy.config.system2.step_one_path(None, &model),
        model: model.clone(),
        credentials,
        deadline: Duration::from_millis(proxy.config.system2.deadline_ms),
        spent: Arc::default(),
    };
    let original = job.text.clone();
    let whole = json!([{"start": 0, "end": original.len()}]);
    let mut document = json!({
        "object": "rewrite", "outcome": "kept", "reason": null, "text": original, "kept": whole, "removed": [],
        "model": model, "variant": variant.name(),
        "usage": counted_tokens(Usage::default()), "ms": 0, "cache": null,
    });
    match made(proxy, "rewrite", job).await {
        Err(lost) => {
            let skip = lost.skip;
            document["reason"] = json!({"name": skip.name(), "message": sentence(skip)});
            document["usage"] = counted_tokens(lost.usage);
        }
        Ok((rewritten, origin)) => {
            if let Some(text) = &rewritten.text {
                document["outcome"] = "applied".into();
                document["text"] = text.as_str().into();
                document["kept"] =
                    rewritten.kept.iter().map(|r| json!({"start": r.start, "end": r.end})).collect();
                document["removed"] = rewritten.removed.iter().map(|r| {
                    json!({"start": r.range.start, "end": r.range.end, "why": r.why, "score": r.score})
                }).collect();
            }
            if let Some((name, message)) = &rewritten.reason {
                document["reason"] = json!({"name": name, "message": message});
            }
            document["usage"] = counted_tokens(rewritten.usage);
            document["ms"] = (rewritten.elapsed.as_millis() as u64).into();
            document["cache"] = origin.name().into();
        }
    }
    Ok(answer(&document))
}

fn counted_tokens(usage: Usage) -> Value {
    let Usage { prompt, completion } = usage;
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// What a caller of an address of ours is told where there is no rewriting.
fn sentence(skip: Skip) -> &'static str {
    match skip {
        Skip::Busy => "as many rewritings as may be are under way",
        Skip::Down => "rewritings failed again and again; for a while none is tried",
        Skip::TimedOut => "the deadline passed",
        _ => "the rewriting broke",
    }
}

/// What LiteLLM sends; it sends more, which does not matter here.
#[derive(Deserialize)]
struct Guarded {
    #[serde(default)]
    texts: Option<Vec<String>>,
    #[serde(default)]
    images: Option<Vec<Value>>,
    #[serde(default)]
    structured_messages: Option<Vec<Value>>,
    #[serde(default)]
    input_type: String,
    #[serde(default)]
    request_data: Option<Value>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    additional_provider_specific_params: Option<Value>,
}

impl Guarded {
    /// Which of the texts is the newest of the user, where that is beyond doubt.
    fn newest(&self) -> Option<(usize, &str)> {
        let texts = self.texts.as_deref()?;
        let Some(messages) = &self.structured_messages else {
            // Without roles, one text alone is the user's.
            return (texts.len() == 1).then(|| (0, texts[0].as_str()));
        };
        let last = messages.last()?;
        if last.get("role")?.as_str()? != "user" {
            return None;
        }
        let content = last.get("content")?;
        let text = match content {
            Value::String(text) => text,
            Value::Array(parts) => match parts.as_slice() {
                [part] => part.get("text")?.as_str()?,
                _ => return None,
            },
            _ => return None,
        };
        texts.iter().rposition(|known| known == text).map(|at| (at, text))
    }

    /// The model of the request, wherever this version of LiteLLM says it.
    fn model(&self) -> Option<&str> {
        self.model.as_deref().or_else(|| self.request_data.as_ref()?.get("model")?.as_str())
    }
}

/// LiteLLM shows its key in a header of its own.
fn shown(headers: &HeaderMap) -> HeaderMap {
    let mut shown = HeaderMap::new();
    let own = headers.get("x-api-key").and_then(|key| key.to_str().ok());
    let own = own.and_then(|key| HeaderValue::try_from(format!("Bearer {key}")).ok());
    if let Some(key) = headers.get(AUTHORIZATION).cloned().or(own) {
        shown.insert(AUTHORIZATION, key);
    }
    shown
}

/// `POST /beta/litellm_basic_guardrail_api`: rewrites the newest words of the user and blocks nothing.
pub(super) async fn guardrail(State(proxy): State<Arc<Proxy>>, request: Request) -> ApiResult<Response> {
    let outcome = guarded(&proxy, request).await;
    counted(&proxy, "/beta/litellm_basic_guardrail_api", outcome)
}

async fn guarded(proxy: &Arc<Proxy>, request: Request) -> ApiResult<Response> {
    proxy.keys.check(&shown(request.headers()))?;
    let asked: Guarded = read(proxy, request).await?;
    let none = || answer(&json!({"action": "NONE"}));
    let media =
        asked.images.as_ref().is_some_and(|images| !images.is_empty()) && !proxy.config.system2.touch.media;
    if asked.input_type == "response" || media {
        return Ok(none());
    }
    let Some((at, text)) = asked.newest() else { return Ok(none()) };
    if text.len() < proxy.config.system2.short_bytes {
        return Ok(none());
    }
    let variant = asked.additional_provider_specific_params.as_ref().and_then(|p| p.get("variant")?.as_str());
    let variant = match variant {
        None => proxy.variant,
        Some(name) => select::variant(name).ok_or_else(|| {
            ApiError::invalid(
                "additional_provider_specific_params.variant",
                format!("there is no variant {name:?}"),
            )
        })?,
    };
    let model = proxy.flights.rewriter().model(asked.model().unwrap_or_default()).to_owned();
    if model.is_empty() {
        return Err(ApiError::invalid(
            "model",
            "set system2.model: LiteLLM does not say which model the request is for",
        ));
    }
    let job = Job {
        text: text.to_owned(),
        question: None,
        variant,
        path: proxy.config.system2.step_one_path(None, &model),
        model: model.clone(),
        // The header is LiteLLM's key for us, not a user's key for a model.
        credentials: HeaderMap::new(),
        deadline: Duration::from_millis(proxy.config.system2.deadline_ms),
        spent: Arc::default(),
    };
    let Ok((rewritten, _)) = made(proxy, "guardrail", job).await else { return Ok(none()) };
    Ok(match &rewritten.text {
        None => none(),
        Some(text) => {
            let mut texts = asked.texts.unwrap_or_default();
            texts[at..].iter_mut().take(1).for_each(|old| old.clone_from(text));
            answer(&json!({"action": "GUARDRAIL_INTERVENED", "texts": texts}))
        }
    })
}

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI).into_response()
}

/// `GET /health`: this server answers. Says nothing about the upstream, which may be paid by the request.
pub(super) async fn health() -> Response {
    answer(&json!({"status": "ok"}))
}

/// `GET /metrics`.
pub(super) async fn metrics(State(proxy): State<Arc<Proxy>>, headers: HeaderMap) -> ApiResult<Response> {
    proxy.keys.check(&headers)?;
    let kind = HeaderValue::from_static(crate::metrics::CONTENT_TYPE);
    Ok(([(CONTENT_TYPE, kind)], proxy.metrics.render()).into_response())
}

/// Another method at one of these addresses.
pub(super) async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::no_method(&method, uri.path())
}

fn answer(document: &Value) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], document.to_string()).into_response()
}
