//! The addresses and what is at them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use refocus_model::generate;
use refocus_system2::Usage;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::answer::Writer;
use super::engine::{NotTaken, Place, Stop, Update};
use super::prepare::{Prepared, refused_by_engine};
use super::stream::Events;
use super::{Local, rewriting};
use crate::body;
use crate::error::{ApiError, ApiResult};
use crate::metrics;
use crate::openai::{ChatRequest, Choice, CompletionRequest, Piece, Reply, Shape, UsageCount};
use crate::proxy::report::Report;
use crate::proxy::select::Wish;
use crate::proxy::waiting::{Waiting, in_a_stream};

/// Addresses, as metrics name them.
const ADDRESSES: [&str; 5] = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) fn of(local: Arc<Local>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/health", get(health))
        .route("/metrics", get(numbers))
        .fallback(nothing)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(&local), at_the_door))
        .with_state(local)
}

/// Keys, counts, and a name for each answer.
async fn at_the_door(State(local): State<Arc<Local>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let address = ADDRESSES.iter().find(|a| path.starts_with(**a)).copied().unwrap_or("other");
    let open = path == "/health";
    let checked = if open { Ok(()) } else { local.keys.check(request.headers()) };
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    local.counts.request(address, response.status().as_u16());
    if let Ok(name) = HeaderValue::from_str(&format!("req_{}", local.draw_name())) {
        response.headers_mut().insert(REQUEST_ID, name);
    }
    response
}

async fn chat(State(local): State<Arc<Local>>, request: Request) -> ApiResult<Response> {
    let Some(rewriting) = local.rewriting.clone() else {
        let body = body::whole(request, local.body_limit, local.read_limit).await?;
        let turn = Turn::of(&local)?;
        return chat_answer(local, turn, body, None).await;
    };
    let wish = Wish::read(request.headers())?;
    let body = body::whole(request, local.body_limit, local.read_limit).await?;
    let stream = ChatRequest::parse(&body)?.shared.stream;
    // For the rewriting and for the answer behind it.
    let turn = Turn::of(&local)?;
    let beat = rewriting.beat;
    let mut work = Box::pin({
        let (local, place) = (Arc::clone(&local), Arc::clone(&turn.place));
        async move {
            let (body, report) = rewriting::before(&local, &rewriting, wish, body, place).await?;
            local.counts.rewriting(&report);
            Ok((body, report))
        }
    });
    if !stream {
        let (body, report) = work.await?;
        return chat_answer(local, turn, body, Some(report)).await;
    }
    if let Ok(done) = tokio::time::timeout(beat, &mut work).await {
        let (body, report) = done?;
        return chat_answer(local, turn, body, Some(report)).await;
    }
    // That takes long: the stream begins, and says so.
    let coming = async move {
        let (body, report) = match work.await {
            Ok(done) => done,
            Err(error) => return in_a_stream("", Err(error)).await,
        };
        let comment = report.comment();
        in_a_stream(&comment, chat_answer(local, turn, body, Some(report)).await).await
    };
    Ok(Waiting::response(Box::pin(coming), beat))
}

/// What a request has from its arrival to its end.
struct Turn {
    place: Arc<Place>,
    /// Counts arrivals: how long each takes to be prepared changes nobody's seed.
    number: u64,
}

impl Turn {
    fn of(local: &Local) -> ApiResult<Self> {
        let place = local.engine.enter().map_err(|why| not_taken(local, why))?;
        Ok(Self { place, number: local.number() })
    }
}

/// The answer to a chat request, and what was done to it before.
async fn chat_answer(
    local: Arc<Local>,
    turn: Turn,
    body: Bytes,
    report: Option<Report>,
) -> ApiResult<Response> {
    let id = local.draw_name();
    let rewrite = report.as_ref().map(|r| r.usage).filter(|usage| *usage != Usage::default());
    let number = turn.number;
    let prepare = move |local: &Local, id: &str| local.prepare_chat(ChatRequest::parse(&body)?, id, number);
    let mut response = answer(local, turn, id, rewrite, prepare).await?;
    if let Some(report) = report {
        report.write(response.headers_mut());
    }
    Ok(response)
}

async fn completion(State(local): State<Arc<Local>>, request: Request) -> ApiResult<Response> {
    let body = body::whole(request, local.body_limit, local.read_limit).await?;
    let (turn, id) = (Turn::of(&local)?, local.draw_name());
    let number = turn.number;
    let prepare =
        move |local: &Local, _: &str| local.prepare_completion(CompletionRequest::parse(&body)?, number);
    answer(local, turn, id, None, prepare).await
}

/// Prepares, submits, and answers as a stream or whole.
async fn answer(
    local: Arc<Local>,
    turn: Turn,
    id: String,
    rewrite: Option<Usage>,
    prepare: impl FnOnce(&Local, &str) -> ApiResult<Prepared> + Send + 'static,
) -> ApiResult<Response> {
    let place = turn.place;
    // Templates, tokenizers and schemas take their time, and do not stop where the client goes away meanwhile: the
    // place is theirs until then.
    let blocking = {
        let (local, id) = (Arc::clone(&local), id.clone());
        tokio::task::spawn_blocking(move || Ok::<_, ApiError>((prepare(&local, &id)?, place)))
    };
    let prepared = blocking.await.map_err(|_| ApiError::internal("the request could not be prepared"))?;
    let (prepared, place) = prepared?;
    let Prepared { requests, writers, echoes, prompt, shape, shared, logprobs, field } = prepared;
    let stop = local.engine.stop();
    let updates = submitted(&local, place, requests, field, prompt).await?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let prefix = match shape {
        Shape::Chat => "chatcmpl-",
        Shape::Text => "cmpl-",
    };
    let reply = Reply {
        shape,
        id: format!("{prefix}{id}"),
        created,
        model: local.name.clone(),
        fingerprint: local.fingerprint.clone(),
        logprobs,
        usage: shared.include_usage,
        rewrite,
    };
    if !shared.stream {
        let (choices, completion) = whole(updates, writers, &echoes, &stop).await?;
        return Ok(document(&reply.whole(choices, UsageCount { prompt, completion })));
    }
    let mut response = Response::new(Body::new(Events::new(updates, reply, writers, &echoes, prompt, stop)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Some servers between collect a body before they pass it on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// What a client is told where the engine takes nothing.
pub(super) fn not_taken(local: &Local, why: NotTaken) -> ApiError {
    match why {
        NotTaken::Full(most) => {
            ApiError::busy(format!("{most} requests run or wait already, try again later"))
        }
        NotTaken::Gone => local.engine.stop().why(),
    }
}

/// Hands requests over, whose prompts have so many tokens, and waits until they are accepted.
pub(super) async fn submitted(
    local: &Local,
    place: Arc<Place>,
    requests: Vec<generate::Request>,
    field: &str,
    prompt: usize,
) -> ApiResult<UnboundedReceiver<Update>> {
    let several = requests.len() > 1;
    let mut updates = local.engine.submit(place, requests).map_err(|why| not_taken(local, why))?;
    match updates.recv().await {
        Some(Update::Accepted) => local.counts.prompt(prompt),
        Some(Update::Refused { request, why }) => {
            let field = if several { format!("{field}[{request}]") } else { field.to_owned() };
            return Err(refused_by_engine(&why, &field));
        }
        Some(Update::Choice { .. }) => return Err(ApiError::internal("the engine spoke out of turn")),
        Some(Update::Cut) => return Err(ApiError::stopping()),
        None => return Err(local.engine.stop().why()),
    }
    Ok(updates)
}

/// Waits for all choices. Gives them and their tokens.
pub(super) async fn whole(
    mut updates: UnboundedReceiver<Update>,
    mut writers: Vec<Writer>,
    echoes: &[String],
    stop: &Stop,
) -> ApiResult<(Vec<Choice>, usize)> {
    let begun = |i: usize| Choice::after(echoes.get(i).map_or("", String::as_str));
    let mut choices: Vec<Choice> = (0..writers.len()).map(begun).collect();
    let mut left = choices.len();
    while left > 0 {
        match updates.recv().await {
            Some(Update::Choice { index, what }) => {
                let (Some(writer), Some(choice)) = (writers.get_mut(index), choices.get_mut(index)) else {
                    continue;
                };
                for piece in writer.push(what)? {
                    left -= usize::from(matches!(piece, Piece::End(_)));
                    choice.add(piece);
                }
            }
            Some(Update::Accepted) => {}
            Some(Update::Refused { why, .. }) => return Err(ApiError::internal(why.to_string())),
            Some(Update::Cut) => return Err(ApiError::stopping()),
            None => return Err(stop.why()),
        }
    }
    Ok((choices, writers.iter().map(Writer::tokens).sum()))
}

fn described(local: &Local) -> Value {
    json!({
        "id": local.name,
        "object": "model",
        "created": local.created,
        "owned_by": "refocus",
        "context_length": local.n_ctx,
    })
}

async fn models(State(local): State<Arc<Local>>) -> Response {
    document(&json!({"object": "list", "data": [described(&local)]}))
}

async fn model(
    State(local): State<Arc<Local>>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> ApiResult<Response> {
    // What is no text is nobody's name.
    let Ok(Path(name)) = name else { return Err(ApiError::no_model(uri.path(), &local.name)) };
    local.is_here(&name)?;
    Ok(document(&described(&local)))
}

async fn health(State(local): State<Arc<Local>>) -> Response {
    let alive = local.engine.is_alive();
    let word = if alive { "ok" } else { "the engine has ended" };
    let mut response =
        document(&json!({"status": word, "model": local.name, "requests": local.engine.taken()}));
    if !alive {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn numbers(State(local): State<Arc<Local>>) -> Response {
    let mut response = local.counts.render().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    response
}

async fn nothing(request: Request) -> ApiError {
    ApiError::no_path(request.method(), request.uri().path())
}

async fn no_method(request: Request) -> ApiError {
    ApiError::no_method(request.method(), request.uri().path())
}

fn document(value: &Value) -> Response {
    let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    (json, value.to_string()).into_response()
}
