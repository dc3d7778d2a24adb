//! Requests that System 2 Attention selects: what changes in them, what does not, and what the client is told.

use std::io::{BufRead, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use refocus_serve::keys::{Keys, Secret};
use refocus_serve::metrics::Metrics;
use refocus_serve::proxy::config::{Mode, Route};
use refocus_serve::proxy::{
    Cancel, Job, ProxyConfig, Rewriter, Rewritten, System2Config, router, router_over,
};
use refocus_system2::Usage;
use serde_json::{Value, json};

use crate::wire::{self, EVENTS, LONG, Server, Upstream, chunk};

pub const ASK: &str = "I am sure that it is Sydney. What is the capital of Australia?";
pub const CUT: &str = "What is the capital of Australia?";
const STEP_ONE: Usage = Usage { prompt: 100, completion: 7 };

pub fn applied(text: &str) -> Rewritten {
    Rewritten {
        text: Some(text.to_owned()),
        reason: None,
        failed: false,
        own_fault: false,
        kept: Vec::new(),
        removed: Vec::new(),
        usage: STEP_ONE,
        elapsed: Duration::from_millis(3),
    }
}

pub fn kept(name: &'static str, failed: bool) -> Rewritten {
    Rewritten { text: None, reason: Some((name, format!("because of {name}"))), failed, ..applied("") }
}

type Act = dyn Fn(&Job, Cancel) -> Rewritten + Send + Sync;

/// A rewriter that does what a test says, and counts.
pub struct Fake {
    act: Box<Act>,
    calls: AtomicUsize,
}

impl Fake {
    pub fn new(act: impl Fn(&Job, Cancel) -> Rewritten + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { act: Box::new(act), calls: AtomicUsize::new(0) })
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Rewriter for Fake {
    fn model<'a>(&'a self, _asked: &'a str) -> &'a str {
        "small"
    }

    fn needs_credentials(&self) -> bool {
        true
    }

    fn rewrite(&self, job: &Job, cancel: Cancel) -> Rewritten {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.act)(job, cancel)
    }
}

pub fn over(upstream: &Upstream, change: impl FnOnce(&mut System2Config), fake: Arc<Fake>) -> Server {
    let mut config = ProxyConfig::new(upstream.url());
    change(&mut config.system2);
    Server::start(router_over(config, Keys::default(), Arc::new(Metrics::default()), fake).expect("a proxy"))
}

/// Odd in every way that may be kept: spaces, escapes, unknown fields, numbers that no float holds.
pub fn body(model: &str, content: &str, more: &str) -> String {
    format!(
        "{{ \"messages\" :[{{\"role\":\"system\",\"content\":\"\\u00e9\"}}, {{\"content\":{},\"role\" : \"user\", \"x\":1e999}}],\
         \"model\":\"{model}\",\"temperature\":0.70, \"tools\":[{{\"type\":\"function\"}}]{more} }}\n",
        Value::from(content)
    )
}

pub const ANSWER: &str = "{\"id\":\"1\",\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":3,\"total_tokens\":13,\"x\":1.50}, \"choices\":[]}";

#[test]
fn one_string_and_the_model_s_name_change_and_nothing_else() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let fake = Fake::new(|job, _| {
        assert_eq!((job.text.as_str(), job.model.as_str()), (ASK, "small"));
        assert_eq!(job.credentials.get("authorization").map(|v| v.as_bytes()), Some(&b"Bearer k"[..]));
        applied("new \"text\"\n")
    });
    let server = over(&upstream, |_| {}, fake.clone());
    let fields = "authorization: Bearer k\r\naccept-encoding: gzip\r\nX-Other: 1\r\n";
    let got = server.post("/v1/chat/completions", fields, &body("s2a/gpt", ASK, ""));
    let seen = upstream.last();
    assert_eq!(String::from_utf8_lossy(&seen.body), body("gpt", "new \"text\"\n", ""));
    assert_eq!((seen.field("accept-encoding"), seen.field("X-Other")), (Some("identity"), Some("1")));
    let told = [("x-refocus-s2a", "applied"), ("x-refocus-cache", "miss"), ("x-refocus-model", "small")];
    for (name, value) in told.into_iter().chain([
        ("x-refocus-prompt-tokens", "100"),
        ("x-refocus-completion-tokens", "7"),
        ("x-refocus-tokens-before", "16"),
        ("x-refocus-tokens-after", "3"),
    ]) {
        assert_eq!(got.field(name), Some(value), "{name}");
    }
    assert!(got.field("x-refocus-ms").is_some() && got.field("x-refocus-reason").is_none());
    let usage = &got.json()["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]),
        (&json!(110), &json!(10), &json!(120))
    );
    assert_eq!(usage["refocus"]["rewrite"], json!({"prompt_tokens": 100, "completion_tokens": 7}));
    assert_eq!(usage["refocus"]["answer"], json!({"prompt_tokens": 10, "completion_tokens": 3}));
    assert!(got.text().contains("\"x\":1.50,\"refocus\""), "and the rest stays as it stood");

    // The same again is known, and costs nothing: the answer's bytes stay.
    let again = server.post("/v1/chat/completions", fields, &body("s2a/gpt", ASK, ""));
    assert_eq!(
        (again.field("x-refocus-cache"), again.field("x-refocus-prompt-tokens")),
        (Some("hit"), Some("0"))
    );
    assert_eq!((again.text().as_str(), fake.calls()), (ANSWER, 1));
    // Not for somebody else.
    let other = server.post("/v1/chat/completions", "authorization: Bearer l\r\n", &body("gpt", ASK, ""));
    assert_eq!(other.field("x-refocus-s2a"), None);
}

/// 1,000 bodies in which one string is rewritten: all other bytes are those that were sent.
#[test]
fn whatever_surrounds_the_string_stays() {
    let upstream = Upstream::fixed(wire::json("{}"));
    let fake = Fake::new(|job, _| applied(&job.text.chars().rev().collect::<String>()));
    let server = over(&upstream, |two| two.cache_entries = 10, fake);
    let client = Mutex::new(server.connect());
    let value = prop::sample::select(vec![
        "1e999",
        "-0.0",
        "\"\\ud83d\"",
        "[{},[]]",
        "{\"content\":\"x\",\"content\":1}",
        "null",
    ]);
    let key = prop::sample::select(vec!["temperature", "tools", "x", "user", "metadata", "n"]);
    let space = prop::sample::select(vec!["", " ", "\n\t"]);
    let member = (key, value, space).prop_map(|(k, v, s)| format!("{s}\"{k}\"{s}:{s}{v}{s}"));
    let around = (
        prop::collection::vec(member.clone(), 0..4),
        prop::collection::vec(member, 0..4),
        any::<String>(),
        any::<bool>(),
    );
    let config = Config { cases: 1000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]));
    let applied_to = AtomicUsize::new(0);
    let outcome = runner.run(&around, |(before, after, text, parts)| {
        let text = format!("{text} {ASK}");
        let made = |text: &str| {
            let string = Value::from(text).to_string();
            let content = if parts { format!("[{{\"text\":{string} ,\"type\":\"text\"}}]") } else { string };
            let messages = format!("\"messages\":[{{\"role\":\"user\",\"content\":{content}}}]");
            let all: Vec<&str> = before
                .iter()
                .map(String::as_str)
                .chain([messages.as_str()])
                .chain(after.iter().map(String::as_str))
                .collect();
            format!("{{{}}}", all.join(","))
        };
        let mut client = client.lock().expect("no panic");
        client.send(&wire::post("/v1/chat/completions", "x-refocus-s2a: on\r\n", &made(&text)));
        let got = client.receive("POST");
        let rewritten = match got.field("x-refocus-reason") {
            None => text.chars().rev().collect::<String>(),
            // What stands before the question may be nothing that can go, such as the start of a block of code.
            Some(reason) => {
                prop_assert_eq!(reason, "nothing_to_remove");
                text.clone()
            }
        };
        applied_to.fetch_add(usize::from(rewritten != text), Ordering::SeqCst);
        let seen = upstream.last();
        let seen = String::from_utf8_lossy(&seen.body);
        prop_assert_eq!(seen.as_ref(), made(&rewritten));
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    assert!(applied_to.load(Ordering::SeqCst) > 900, "{applied_to:?}");
}

#[test]
fn what_is_skipped_goes_on_as_it_is_and_the_client_is_told_why() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let fake = Fake::new(|_, _| panic!("nothing is to be rewritten"));
    let server = over(&upstream, |two| two.body_bytes = 2000, fake);
    let on = "x-refocus-s2a: on\r\n";
    let media = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}";
    for (fields, body, reason) in [
        (on, body("m", "Hi?", ""), "short"),
        (on, body("m", ASK, ",\"response_format\":{\"type\":\"json_schema\"}"), "schema"),
        (on, body("m", ASK, ",\"model\":\"n\""), "key_twice"),
        (on, media.to_owned(), "media"),
        (on, "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}".to_owned(), "tool_turn"),
        (on, "no JSON".to_owned(), "not_chat"),
        (on, body("m", &ASK.repeat(40), ""), "large_body"),
        ("x-refocus-s2a: on\r\ncontent-encoding: gzip\r\n", "\u{1f}".to_owned(), "encoded_body"),
    ] {
        let got = server.post("/v1/chat/completions", fields, &body);
        assert_eq!(
            (got.field("x-refocus-s2a"), got.field("x-refocus-reason")),
            (Some("skipped"), Some(reason))
        );
        assert_eq!((upstream.last().body, got.text().as_str()), (body.into_bytes(), ANSWER), "{reason}");
    }
    // Not selected at all: nothing is said either.
    let got = server.post("/v1/chat/completions", "", &body("m", ASK, ""));
    assert_eq!(got.field("x-refocus-s2a"), None);
    // What cannot be read keeps its model's name; the client is told where it can be seen that it was meant.
    let large = body("s2a/m", &ASK.repeat(40), "");
    for (fields, body, reason) in [
        ("", large.as_bytes(), None),
        ("content-encoding: gzip\r\n", &b"\x1f\x8b"[..], None),
        ("", &b"{\"model\":\"s2a/m\",\"x\":\"\xff\"}"[..], Some("not_chat")),
        ("", &b"{\"model\":\"m\",\"x\":\"\xff\"}"[..], None),
        ("x-refocus-s2a: off\r\n", large.as_bytes(), None),
    ] {
        let mut client = server.connect();
        let length = body.len();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\n{fields}content-length: {length}\r\n\r\n"
        );
        client.send(&[head.as_bytes(), body].concat());
        let got = client.receive("POST");
        assert_eq!(got.field("x-refocus-reason"), reason, "{fields}");
        assert_eq!(upstream.last().body, body);
    }
    let got = server.post("/v1/chat/completions", "x-refocus-s2a: off\r\n", &body("s2a/m", ASK, ""));
    assert_eq!(
        (got.field("x-refocus-reason"), upstream.last().body),
        (Some("off"), body("m", ASK, "").into_bytes())
    );
    let text = numbers(&server);
    for (reason, n) in
        [("short", 1), ("schema", 1), ("media", 1), ("tool_turn", 1), ("large_body", 1), ("encoded_body", 1)]
    {
        let line = format!("refocus_rewrites_total{{outcome=\"{reason}\"}} {n}\n");
        assert!(text.contains(&line), "{reason}: {text}");
    }
    assert!(!text.contains("outcome=\"off\""), "{text}");
    let got = server.post("/v1/chat/completions", "x-refocus-s2a: maybe\r\n", &body("m", ASK, ""));
    assert_eq!((got.status(), got.error_code().as_str()), (400, "invalid_value"));
}

/// What the server counted.
pub fn numbers(server: &Server) -> String {
    let mut client = server.connect();
    client.send(b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n");
    client.receive("GET").text()
}

#[test]
fn a_guard_that_keeps_the_original_is_told_and_its_tokens_count() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let server = over(&upstream, |_| {}, Fake::new(|_, _| kept("lost", false)));
    let got = server.post("/v1/chat/completions", "", &body("s2a/m", ASK, ""));
    assert_eq!((got.field("x-refocus-s2a"), got.field("x-refocus-reason")), (Some("skipped"), Some("lost")));
    assert_eq!(upstream.last().body, body("m", ASK, "").into_bytes());
    assert_eq!(got.json()["usage"]["total_tokens"], 120);
}

#[test]
fn an_audit_touches_nothing_and_writes_a_line_without_the_words() {
    let path = std::env::temp_dir().join(format!("refocus-audit-{}.jsonl", std::process::id()));
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let fake = Fake::new(|_, _| applied(CUT));
    let log = path.clone();
    let server = over(&upstream, move |two| two.log_file = Some(log), fake.clone());
    let sent = body("m", ASK, "");
    let got = server.post("/v1/chat/completions", "x-refocus-s2a: audit\r\n", &sent);
    assert_eq!((got.field("x-refocus-s2a"), got.text().as_str()), (Some("audit"), ANSWER));
    assert_eq!(upstream.last().body, sent.into_bytes());
    let line = until(|| std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    std::fs::remove_file(&path).expect("a file");
    assert!(!line.contains("Sydney"), "{line}");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["mode"], &line["outcome"], &line["bytes_before"]),
        (&json!("audit"), &json!("applied"), &json!(ASK.len()))
    );
    let text =
        until(|| Some(numbers(&server)).filter(|text| text.contains("refocus_rewrites_total{outcome=")));
    assert!(text.contains("refocus_rewrites_total{outcome=\"audit\"} 1\n"), "{text}");
    assert!(text.contains("refocus_rewrite_tokens_total{kind=\"prompt\"} 100\n"), "{text}");
    assert!(!text.contains("\"applied\"") && !text.contains("refocus_rewrite_seconds_count 1"), "{text}");
    assert_eq!(fake.calls(), 1);
}

/// Waits until something is there.
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LONG, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An upstream that sends the parts of a stream as a test hands them out, and ends it with the channel.
fn handed_out() -> (Upstream, Sender<&'static str>) {
    let (send, parts) = channel::<&'static str>();
    let parts = Mutex::new(parts);
    let upstream = Upstream::start(move |_, out| {
        out.write_all(EVENTS)?;
        for part in parts.lock().expect("no panic").iter() {
            out.write_all(&chunk(part.as_bytes()))?;
        }
        out.write_all(b"0\r\n\r\n")
    });
    (upstream, send)
}

/// Reads a chunked body until it holds a text.
fn read_until(from: &mut impl BufRead, so_far: &mut String, text: &str) {
    while !so_far.contains(text) {
        let mut byte = [0];
        from.read_exact(&mut byte).expect("more");
        so_far.push(char::from(byte[0]));
    }
}

#[test]
fn streams_stream_and_the_chunk_with_the_usage_holds_both_calls() {
    let (upstream, send) = handed_out();
    let server = over(&upstream, |_| {}, Fake::new(|_, _| applied(CUT)));
    let mut client = server.connect();
    client.send(&wire::post("/v1/chat/completions", "", &body("s2a/m", ASK, ",\"stream\":true")));
    let mut got = String::new();
    for part in ["data: {\"delta\":\"a\"}\n\n", "data: {\"tool_calls\":[{}]}\n\n"] {
        send.send(part).expect("an upstream");
        read_until(&mut client.from, &mut got, part.trim_end());
    }
    assert!(got.to_ascii_lowercase().contains("x-refocus-s2a: applied"), "{got}");
    send.send("data: {\"usage\":{\"prompt_tokens\":1,").expect("an upstream");
    send.send("\"completion_tokens\":2}}\n\ndata: [DONE]\n\n").expect("an upstream");
    drop(send);
    read_until(&mut client.from, &mut got, "[DONE]");
    assert!(
        got.contains("\"usage\":{\"prompt_tokens\":101,\"completion_tokens\":9,\"refocus\":{\"rewrite\":"),
        "{got}"
    );
}

#[test]
fn a_client_that_waits_for_a_stream_hears_that_all_is_well() {
    let (upstream, send) = handed_out();
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let fake = Fake::new(move |_, _| {
        wait.lock().expect("no panic").recv().expect("a word");
        applied(CUT)
    });
    let server = over(&upstream, |two| two.heartbeat_ms = 20, fake);
    let mut client = server.connect();
    client.send(&wire::post("/v1/chat/completions", "", &body("s2a/m", ASK, ",\"stream\":true")));
    let mut got = String::new();
    read_until(&mut client.from, &mut got, ": refocus is rewriting");
    got.clear();
    read_until(&mut client.from, &mut got, ": refocus is rewriting");
    assert!(upstream.seen().is_empty());
    go.send(()).expect("a rewriter");
    send.send("data: {\"a\":1}\n\n").expect("an upstream");
    read_until(&mut client.from, &mut got, "data: {\"a\":1}");
    assert!(got.contains(": refocus {\"x-refocus-s2a\":\"applied\""), "{got}");
}

/// Its head has no encoding, so neither may what comes from the upstream; whatever became of the rewriting.
#[test]
fn a_stream_that_has_begun_goes_on_without_an_encoding() {
    let (upstream, send) = handed_out();
    let slow = Fake::new(|_, cancel| {
        until(|| cancel.is_cancelled().then_some(()));
        kept("failed", true)
    });
    let server = over(
        &upstream,
        |two| {
            two.heartbeat_ms = 20;
            two.deadline_ms = 60;
        },
        slow,
    );
    send.send("data: [DONE]\n\n").expect("an upstream");
    drop(send);
    let fields = "accept-encoding: gzip\r\n";
    let got = server.post("/v1/chat/completions", fields, &body("s2a/m", ASK, ",\"stream\":true"));
    assert!(
        got.text().contains("\"x-refocus-reason\":\"timed_out\"") && got.text().ends_with("data: [DONE]\n\n"),
        "{}",
        got.text()
    );
    assert_eq!(upstream.last().field("accept-encoding"), Some("identity"));
}

#[test]
fn errors_inside_a_stream_that_has_begun_are_events() {
    let answers = [
        ("429 Busy", "{\"error\":{\n\"message\":\"slow down\",\"type\":\"t\",\"code\":null}}", "slow down"),
        ("500 Oh", "<html>", "status 500 and no stream"),
        ("200 OK", "{}", "status 200 and no stream"),
    ];
    for (status, body, told) in answers {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let upstream = Upstream::fixed(answer);
        let fake = Fake::new(|_, _| {
            std::thread::sleep(Duration::from_millis(60));
            applied(CUT)
        });
        let server = over(&upstream, |two| two.heartbeat_ms = 20, fake);
        let got = server.post("/v1/chat/completions", "", &self::body("s2a/m", ASK, ",\"stream\":true"));
        assert_eq!((got.status(), got.field("x-refocus-s2a")), (200, Some("pending")));
        let text = got.text();
        let last = text.trim_end().lines().last().expect("a line");
        let event: Value =
            serde_json::from_str(last.strip_prefix("data: ").expect("an event")).expect("JSON");
        assert!(event["error"]["message"].as_str().is_some_and(|m| m.contains(told)), "{event}");
        assert!(got.whole);
    }
}

#[test]
fn a_client_that_goes_away_ends_the_rewriting() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let ended = Arc::new(AtomicBool::new(false));
    let seen = ended.clone();
    let fake = Fake::new(move |_, cancel| {
        until(|| cancel.is_cancelled().then_some(()));
        seen.store(true, Ordering::SeqCst);
        kept("failed", true)
    });
    for stream in ["", ",\"stream\":true"] {
        ended.store(false, Ordering::SeqCst);
        let before = fake.calls();
        let server = over(&upstream, |two| two.heartbeat_ms = 20, fake.clone());
        let mut client = server.connect();
        client.send(&wire::post("/v1/chat/completions", "", &body("s2a/m", ASK, stream)));
        until(|| (fake.calls() > before).then_some(()));
        drop(client);
        until(|| ended.load(Ordering::SeqCst).then_some(()));
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn who_waits_for_the_same_text_shares_one_rewriting() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let fake = Fake::new(move |_, _| {
        wait.lock().expect("no panic").recv().expect("a word");
        applied(CUT)
    });
    let server = over(&upstream, |_| {}, fake.clone());
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|c| c.send(&wire::post("/v1/chat/completions", "", &body("s2a/m", ASK, ""))));
    until(|| (fake.calls() == 1).then_some(()));
    // One of them goes, and that ends nothing.
    drop(clients.pop());
    std::thread::sleep(Duration::from_millis(50));
    go.send(()).expect("a rewriter");
    let got: Vec<_> = clients.iter_mut().map(|c| c.receive("POST")).collect();
    assert!(got.iter().all(|g| g.field("x-refocus-s2a") == Some("applied")));
    let paid = got.iter().filter(|g| g.field("x-refocus-prompt-tokens") == Some("100")).count();
    assert!(paid <= 1 && fake.calls() == 1, "one paid for all: {paid}");
}

#[test]
fn whatever_goes_wrong_the_original_goes_on() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let slow = Fake::new(|_, _| {
        std::thread::sleep(Duration::from_millis(300));
        applied(CUT)
    });
    let server = over(&upstream, |two| two.deadline_ms = 30, slow);
    let got = server.post("/v1/chat/completions", "", &body("s2a/m", ASK, ""));
    assert_eq!(
        (got.field("x-refocus-reason"), upstream.last().body),
        (Some("timed_out"), body("m", ASK, "").into_bytes())
    );

    let broken = Fake::new(|_, _| panic!("a bug"));
    let server = over(&upstream, |_| {}, broken);
    let got = server.post("/v1/chat/completions", "", &body("s2a/m", ASK, ""));
    assert_eq!((got.status(), got.field("x-refocus-reason")), (200, Some("failed")));

    let failing = Fake::new(|_, _| kept("failed", true));
    let server = over(&upstream, |two| two.breaker_failures = 2, failing.clone());
    let reasons: Vec<_> = (0..4)
        .map(|_| {
            server
                .post("/v1/chat/completions", "", &body("s2a/m", ASK, ""))
                .field("x-refocus-reason")
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(reasons.iter().flatten().collect::<Vec<_>>(), ["failed", "failed", "down", "down"]);
    assert_eq!(failing.calls(), 2);

    let server = over(&upstream, |two| two.at_once = 0, Fake::new(|_, _| applied(CUT)));
    let got = server.post("/v1/chat/completions", "", &body("s2a/m", ASK, ""));
    assert_eq!(got.field("x-refocus-reason"), Some("busy"));
}

#[test]
fn marked_documents_are_cut_and_the_question_stays() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let fake = Fake::new(|job, _| {
        assert_eq!(job.question.as_deref(), Some("Why?"));
        applied(&job.text.to_uppercase())
    });
    let server = over(&upstream, |_| {}, fake);
    let made = |one: &str, two: &str| {
        format!(
            "{{\"messages\":[{{\"role\":\"system\",\"content\":\"{one}\"}},{{\"role\":\"assistant\",\"content\":\"b\"}},\
                 {{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"{two}\"}},{{\"type\":\"text\",\"text\":\"Why?\"}}]}}]}}"
        )
    };
    let fields = "x-refocus-s2a: on\r\nx-refocus-documents: 0, 2.0\r\n";
    let got = server.post("/v1/chat/completions", fields, &made("first", "second"));
    assert_eq!(got.field("x-refocus-s2a"), Some("applied"));
    assert_eq!(upstream.last().text(), made("FIRST", "SECOND"));
}

/// A chat model that names the first piece to drop, behind whatever a test puts before it.
fn model_and_answer(
    step_one: impl Fn(&wire::Message, &mut std::net::TcpStream) -> std::io::Result<bool> + Send + Sync + 'static,
) -> Upstream {
    Upstream::start(move |seen, out| {
        let asks: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        if asks.get("response_format").is_none() {
            return out.write_all(&wire::json(ANSWER));
        }
        if step_one(seen, out)? {
            let reply = json!({
                "choices": [{"message": {"content": "{\"drop\": [1]}"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 50, "completion_tokens": 5},
            });
            out.write_all(&wire::json(&reply.to_string()))?;
        }
        Ok(())
    })
}

pub fn before(upstream: &Upstream, change: impl FnOnce(&mut ProxyConfig)) -> Server {
    let mut config = ProxyConfig { retry_ms: 1, ..ProxyConfig::new(upstream.url()) };
    change(&mut config);
    Server::start(router(config, Keys::default(), Arc::new(Metrics::default())).expect("a proxy"))
}

/// A client's credentials, both ways.
const KEYS: &str = "authorization: Bearer k\r\napi-key: a\r\n";

#[test]
fn the_model_itself_rewrites_and_then_answers() {
    let busy = AtomicBool::new(true);
    let upstream = model_and_answer(move |_, out| {
        if busy.swap(false, Ordering::SeqCst) {
            out.write_all(b"HTTP/1.1 429 Busy\r\ncontent-length: 0\r\n\r\n")?;
            return Ok(false);
        }
        Ok(true)
    });
    let server = before(&upstream, |_| {});
    let got = server.post("/v1/chat/completions", KEYS, &body("s2a/m", ASK, ""));
    assert_eq!(got.field("x-refocus-s2a"), Some("applied"), "{:?}", got.field("x-refocus-reason"));
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3, "busy, step 1, step 2");
    let keys = (Some("Bearer k"), Some("a"));
    assert!(seen.iter().all(|s| (s.field("authorization"), s.field("api-key")) == keys));
    assert_eq!(seen[1].json()["model"], "m");
    assert_eq!(String::from_utf8_lossy(&seen[2].body), body("m", CUT, ""));
    assert_eq!(got.json()["usage"]["prompt_tokens"], 60);
}

#[test]
fn another_server_rewrites_with_its_own_key_and_never_sees_the_client_s() {
    let upstream = Upstream::fixed(wire::json(ANSWER));
    let small = model_and_answer(|_, _| Ok(true));
    let url = small.url();
    let server = before(&upstream, |config| {
        config.system2.url = format!("{url}/v1");
        config.system2.model = "tiny".to_owned();
        config.system2.key = Some(Secret::new("test", "small-key").expect("a key"));
    });
    let got = server.post("/v1/chat/completions", KEYS, &body("s2a/m", ASK, ""));
    assert_eq!((got.field("x-refocus-s2a"), got.field("x-refocus-model")), (Some("applied"), Some("tiny")));
    let seen = small.last();
    assert_eq!(
        (seen.first.as_str(), seen.field("authorization"), seen.field("api-key")),
        ("POST /v1/chat/completions HTTP/1.1", Some("Bearer small-key"), None)
    );
    assert_eq!(upstream.last().field("authorization"), Some("Bearer k"));
}

#[test]
fn a_client_that_goes_away_ends_the_call_of_step_1() {
    let asked = Arc::new(AtomicBool::new(false));
    let begun = asked.clone();
    let upstream = model_and_answer(move |_, out| {
        begun.store(true, Ordering::SeqCst);
        // Ends when the proxy closes the connection.
        out.set_read_timeout(Some(LONG))?;
        match out.read(&mut [0; 1]) {
            Ok(0) => Err(std::io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(false),
        }
    });
    let server = before(&upstream, |_| {});
    let mut client = server.connect();
    client.send(&wire::post("/v1/chat/completions", "", &body("s2a/m", ASK, "")));
    until(|| asked.load(Ordering::SeqCst).then_some(()));
    drop(client);
    until(|| (upstream.left.load(Ordering::SeqCst) == 1).then_some(()));
    assert_eq!(upstream.seen().len(), 1, "and step 2 is not asked");
}

#[test]
fn a_step_1_that_fails_costs_the_rewrite_and_not_the_answer() {
    for status in ["500 Oh", "401 No", "400 Bad"] {
        let upstream = model_and_answer(move |_, out| {
            out.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}").as_bytes())?;
            Ok(false)
        });
        let server = before(&upstream, |_| {});
        let got = server.post("/v1/chat/completions", "", &body("s2a/m", ASK, ""));
        assert_eq!((got.status(), got.field("x-refocus-s2a")), (200, Some("skipped")), "{status}");
        assert_eq!(upstream.last().body, body("m", ASK, "").into_bytes(), "{status}");
    }
}

/// A wrong key, a model that there is not: that client's own, and nobody else's rewriting ends for it.
#[test]
fn what_one_client_does_wrong_does_not_end_the_rewriting_of_others() {
    for (status, wanted) in [
        ("401 No", ["failed"; 4]),
        ("404 No", ["failed"; 4]),
        ("422 No", ["failed"; 4]),
        ("408 Slow", ["failed", "failed", "down", "down"]),
        ("500 Oh", ["failed", "failed", "down", "down"]),
    ] {
        let upstream = model_and_answer(move |_, out| {
            out.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}").as_bytes())?;
            Ok(false)
        });
        let server = before(&upstream, |config| config.system2.breaker_failures = 2);
        let reasons: Vec<_> = (0..4)
            .map(|_| {
                let got = server.post("/v1/chat/completions", "", &body("s2a/m", ASK, ""));
                assert_eq!(got.field("x-refocus-cache").unwrap_or("miss"), "miss", "{status}");
                got.field("x-refocus-reason").unwrap_or_default().to_owned()
            })
            .collect();
        assert_eq!(reasons, wanted, "{status}");
    }
}

#[test]
fn step_one_asks_where_the_request_goes_unless_a_route_says_otherwise() {
    let answer = json!({"choices": [{"message": {"content": "{\"drop\": [1]}"}, "finish_reason": "stop"}]});
    let upstream = Upstream::fixed(wire::json(&answer.to_string()));
    let asked = |config: ProxyConfig| {
        let server =
            Server::start(router(config, Keys::default(), Arc::new(Metrics::default())).expect("a proxy"));
        let before = upstream.seen().len();
        let path = "/deployments/x/chat/completions?api-version=1";
        let got = server.post(path, "x-refocus-s2a: on\r\n", &body("gpt", ASK, ""));
        assert_eq!(got.field("x-refocus-s2a"), Some("applied"), "{got:?}");
        upstream.seen()[before..].iter().map(|m| m.first.clone()).collect::<Vec<_>>()
    };
    let own = "POST /deployments/x/chat/completions?api-version=1 HTTP/1.1";
    assert_eq!(asked(ProxyConfig::new(upstream.url())), [own, own]);
    let mut config = ProxyConfig::new(upstream.url());
    config.system2.url = upstream.url();
    assert_eq!(asked(config), ["POST /v1/chat/completions HTTP/1.1", own]);
    let mut config = ProxyConfig::new(upstream.url());
    config.system2.route = vec![Route {
        path: "/deployments/".to_owned(),
        model: "gpt".to_owned(),
        mode: Mode::Off,
        chat_path: "/deployments/small/chat/completions".to_owned(),
    }];
    assert_eq!(asked(config), ["POST /deployments/small/chat/completions HTTP/1.1", own]);
}
