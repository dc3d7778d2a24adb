//! Rewritings that end before they are done, or that are made of some texts of a request only.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use refocus_serve::keys::Secret;
use serde_json::{Value, json};

use crate::rewriting::{ANSWER, ASK, CUT, Fake, applied, before, body, kept, numbers, over};
use crate::wire::{self, LONG, Upstream, chunk};

const SENTENCES: &str = "I like chess a lot. We talked about Oslo. My uncle is here. It rained all day. The bus was \
                         late. What is the capital of Chad?";

/// Answers so many calls that score a sentence, and leaves the next one waiting.
fn scores(answered: usize) -> Upstream {
    let asked = AtomicUsize::new(0);
    Upstream::start(move |seen, out| {
        let asks: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        if asks.get("logprobs").is_none() {
            return out.write_all(&wire::json(ANSWER));
        }
        if asked.fetch_add(1, Ordering::SeqCst) >= answered {
            out.set_read_timeout(Some(LONG))?;
            let _ = out.read(&mut [0; 1]);
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        let top = json!([{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -3.0}]);
        let reply = json!({
            "choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 1},
        });
        out.write_all(&wire::json(&reply.to_string()))
    })
}

#[test]
fn what_was_paid_for_before_the_deadline_is_told() {
    let upstream = scores(3);
    let server = before(&upstream, |config| {
        config.system2.variant = "scored".to_owned();
        config.system2.deadline_ms = 2_000;
    });
    let got = server.post("/v1/chat/completions", "", &body("s2a/m", SENTENCES, ""));
    assert_eq!(got.field("x-refocus-reason"), Some("timed_out"));
    assert_eq!(
        (got.field("x-refocus-prompt-tokens"), got.field("x-refocus-completion-tokens")),
        (Some("3000"), Some("3"))
    );
    assert_eq!(got.json()["usage"]["prompt_tokens"], 3010);
    let text = numbers(&server);
    assert!(text.contains("refocus_rewrite_tokens_total{kind=\"prompt\"} 3000\n"), "{text}");

    let upstream = scores(3);
    let server = before(&upstream, |config| config.system2.deadline_ms = 2_000);
    let asked = json!({"text": SENTENCES, "model": "m", "variant": "scored"}).to_string();
    let got = server.post("/v1/rewrite", "", &asked).json();
    assert_eq!((&got["outcome"], &got["usage"]["total_tokens"]), (&json!("kept"), &json!(3003)));
}

/// So many documents, and the question.
fn documents(n: usize) -> (String, String) {
    let one = |i: usize| format!("{{\"role\":\"user\",\"content\":\"document {i}\"}}");
    let all: Vec<String> = (0..n).map(one).collect();
    let marks: Vec<String> = (0..n).map(|i| i.to_string()).collect();
    let body = format!("{{\"messages\":[{},{{\"role\":\"user\",\"content\":\"Why?\"}}]}}", all.join(","));
    (format!("x-refocus-s2a: on\r\nx-refocus-documents: {}\r\n", marks.join(",")), body)
}

#[test]
fn more_documents_than_places_are_all_rewritten() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let (running, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let fake = Fake::new(move |job, _| {
        seen.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        running.fetch_sub(1, Ordering::SeqCst);
        applied(&job.text.to_uppercase())
    });
    let server = over(&upstream, |two| two.at_once = 4, fake.clone());
    let (fields, body) = documents(9);
    let got = server.post("/v1/chat/completions", &fields, &body);
    assert_eq!((got.field("x-refocus-s2a"), got.field("x-refocus-reason")), (Some("applied"), None));
    assert_eq!(upstream.last().text(), body.replace("document", "DOCUMENT"));
    assert_eq!(fake.calls(), 9);
    assert!(most.load(Ordering::SeqCst) <= 2, "half of the places are for others");
}

#[test]
fn a_document_that_was_left_out_is_told_beside_those_that_were_not() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let fake = Fake::new(|job, _| match job.text.as_str() {
        "document 0" => kept("clean", false),
        "document 1" => kept("failed", true),
        _ => applied("CUT"),
    });
    let server = over(&upstream, |_| {}, fake);
    let (fields, body) = documents(3);
    let got = server.post("/v1/chat/completions", &fields, &body);
    assert_eq!(
        (got.field("x-refocus-s2a"), got.field("x-refocus-reason")),
        (Some("applied"), Some("failed"))
    );
    assert_eq!(upstream.last().text(), body.replace("document 2", "CUT"));
    let text = numbers(&server);
    assert!(text.contains("refocus_rewrites_total{outcome=\"applied\"} 1\n"), "{text}");
}

#[test]
fn an_upstream_that_compresses_a_stream_that_has_begun_is_named() {
    let upstream = Upstream::start(|_, out| {
        out.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\
              transfer-encoding: chunked\r\n\r\n",
        )?;
        out.write_all(&[&chunk(b"\x1f\x8b")[..], b"0\r\n\r\n"].concat())
    });
    let fake = Fake::new(|_, _| {
        std::thread::sleep(Duration::from_millis(60));
        applied(CUT)
    });
    let server = over(&upstream, |two| two.heartbeat_ms = 20, fake);
    let got = server.post("/v1/chat/completions", "", &body("s2a/m", ASK, ",\"stream\":true"));
    assert!(got.text().contains("status 200 and a compressed body"), "{}", got.text());
}

#[test]
fn a_key_of_the_proxy_s_own_stands_for_all_that_the_client_shows() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let key = |config: &mut refocus_serve::proxy::ProxyConfig| {
        config.upstream_key = Some(Secret::new("test", "own").expect("a key"));
    };
    let server = before(&upstream, key);
    let fields = "authorization: Bearer k\r\napi-key: a\r\n";
    server.post("/v1/chat/completions", fields, &body("m", ASK, ""));
    let seen = upstream.last();
    assert_eq!((seen.field("authorization"), seen.field("api-key")), (Some("Bearer own"), None));
}
