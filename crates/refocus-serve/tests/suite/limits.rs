//! Clients that go away, too many of them, and the end of the server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use refocus_serve::config::{Config, LocalConfig};
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
    let up = Up::of(Config { local, ..Config::default() }).await;
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
    let mut up = Up::of(Config { drain_seconds: 0, ..Config::default() }).await;
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

/// What the server says to these bytes, until it closes the connection.
async fn said_to(up: &Up, bytes: &[u8]) -> String {
    let (address, bytes) = (up.address, bytes.to_vec());
    let talk = move || {
        let mut stream = TcpStream::connect(address).expect("connects");
        // It may close before everything is sent.
        let _ = stream.write_all(&bytes);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    };
    tokio::task::spawn_blocking(talk).await.expect("talks")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_send_is_not_waited_for() {
    let up = Up::of(Config { read_seconds: 1, ..Config::default() }).await;
    let head =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{";
    let (body, head) = tokio::join!(said_to(&up, head.as_bytes()), said_to(&up, b"POST /v1/comp"));
    assert!(body.starts_with("HTTP/1.1 408 ") && body.contains("\"request_timeout\""), "{body}");
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408 "), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_writes_all_of_a_body_that_is_too_long_reads_so() {
    let up = Up::of(Config { body_limit: 1000, ..Config::default() }).await;
    let body = "x".repeat(8 << 20);
    let head = |length: &str| {
        format!("POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n\r\n")
    };
    let announced = head(&format!("Content-Length: {}", body.len())) + &body;
    let chunked = head("Transfer-Encoding: chunked") + &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for bytes in [announced, chunked] {
        let said = said_to(&up, bytes.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 413 ") && said.contains("\"request_too_large\""), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_ends_its_connection_alone() {
    let up = Up::new().await;
    let long = format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nbad header\x00: 1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        long.as_bytes(),
    ] {
        let said = said_to(&up, bytes).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert_eq!(up.get("/health").await.status, 200);
}
