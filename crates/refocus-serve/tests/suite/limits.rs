//! Clients that go away, too many of them, and the end of the server.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use refocus_serve::config::{Config, LocalConfig};
use refocus_serve::keys::Keys;
use serde_json::{Value, json};

use crate::support::{Up, chat};

const LONG: usize = 30_000;

/// A stream that would go on for long, read up to its first token.
async fn begun(up: &Up) -> Incoming {
    let body = chat(json!({"max_tokens": LONG, "temperature": 0, "logit_bias": {"0": -100}, "stream": true}));
    let response = up.send(up.request("POST", "/v1/chat/completions", body.to_string())).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut read = Vec::new();
    while read.iter().filter(|b| **b == b'\n').count() < 6 {
        let frame = body.frame().await.expect("goes on").expect("a frame");
        read.extend_from_slice(&frame.into_data().expect("data"));
    }
    body
}

/// A number of the metrics.
async fn number(up: &Up, name: &str) -> f64 {
    let text = String::from_utf8(up.get("/metrics").await.body.to_vec()).expect("UTF-8");
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.trim().parse().expect("a number")
}

/// Waits until a number is as wanted; fails after half a minute.
async fn until(up: &Up, name: &str, wanted: f64) {
    for _ in 0..600 {
        if number(up, name).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} is {}, not {wanted}", number(up, name).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_away_is_not_computed_for() {
    let up = Up::new().await;
    let stream = begun(&up).await;
    assert_eq!(number(&up, "refocus_sequences_running").await, 1.0);
    drop(stream);
    until(&up, "refocus_cancelled_total", 1.0).await;
    until(&up, "refocus_sequences_running", 0.0).await;
    // The same while a whole answer is waited for.
    let body = chat(json!({"max_tokens": LONG, "temperature": 0, "logit_bias": {"0": -100}}));
    let asked = up.send(up.request("POST", "/v1/chat/completions", body.to_string()));
    assert!(tokio::time::timeout(Duration::from_millis(300), asked).await.is_err(), "it takes longer");
    until(&up, "refocus_cancelled_total", 2.0).await;
    assert!(number(&up, "refocus_completion_tokens_total").await < LONG as f64);
    assert_eq!(up.get("/health").await.json()["requests"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_too_many_is_told_to_come_back() {
    let local = LocalConfig { requests: 1, ..LocalConfig::default() };
    let up = Up::with(
        Config { local, ..Config::default() },
        Keys::default(),
        Some("{{ messages[0].content }}"),
        None,
    )
    .await;
    let stream = begun(&up).await;
    let got = up.chat(json!({"max_tokens": 1})).await;
    assert_eq!((got.status.as_u16(), got.headers["retry-after"].to_str().expect("text")), (429, "1"));
    assert_eq!(got.json()["error"]["code"], "server_busy");
    drop(stream);
    until(&up, "refocus_cancelled_total", 1.0).await;
    assert_eq!(up.chat(json!({"max_tokens": 1})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_ends_its_streams_with_an_error() {
    let mut up = Up::with(
        Config { drain_seconds: 0, ..Config::default() },
        Keys::default(),
        Some("{{ messages[0].content }}"),
        None,
    )
    .await;
    let stream = begun(&up).await;
    up.stop.notify_one();
    let rest = stream.collect().await.expect("a clean end").to_bytes();
    let text = String::from_utf8(rest.to_vec()).expect("UTF-8");
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    let error: Value = serde_json::from_str(last.strip_prefix("data: ").expect("data")).expect("JSON");
    assert_eq!(error["error"]["code"], "server_stopping");
    up.task.take().expect("runs").await.expect("ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_lets_answers_end() {
    let mut up = Up::new().await;
    let body = chat(json!({"max_tokens": 400, "temperature": 0, "logit_bias": {"0": -100}, "stream": true}));
    let response = up.send(up.request("POST", "/v1/chat/completions", body.to_string())).await;
    up.stop.notify_one();
    let rest = response.into_body().collect().await.expect("whole").to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    up.task.take().expect("runs").await.expect("ends");
}
