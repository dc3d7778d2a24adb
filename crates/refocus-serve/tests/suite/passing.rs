//! What System 2 Attention does not select passes byte for byte.

use std::io::{BufRead, Read, Write};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use refocus_serve::keys::Keys;
use refocus_serve::metrics::Metrics;
use refocus_serve::proxy::{ProxyConfig, router};

use crate::wire::{self, LONG, Message, Server, Upstream, chunk};

fn before(upstream: &Upstream) -> Server {
    Server::start(
        router(ProxyConfig::new(upstream.url()), Keys::default(), Arc::new(Metrics::default()))
            .expect("a proxy"),
    )
}

/// JSON as no serialiser writes it: keys twice, odd numbers, escapes, unknown fields, spaces.
fn odd_json() -> impl Strategy<Value = String> {
    let space = prop::sample::select(vec!["", " ", "\n", "\t", "  "]);
    let text = prop_oneof![
        any::<String>().prop_map(|s| serde_json::Value::from(s).to_string()),
        prop::sample::select(vec![
            r#""\u00e9\ud83d\ude00\/""#,
            r#""\ud83d""#,
            r#""s2\u0061x/gpt""#,
            r#""data:image/png;base64,iVBORw0KGgo=""#,
            r#""""#,
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        4 => text,
        2 => prop::sample::select(vec!["0", "-0", "1E400", "1.0", "1.00", "9007199254740993", "0.1e-7", "null", "true"])
            .prop_map(str::to_owned),
    ];
    let key = prop::sample::select(vec![
        "\"model\"",
        "\"messages\"",
        "\"content\"",
        "\"tools\"",
        "\"role\"",
        "\"stream\"",
        "\"x-vendor\"",
        "\"m\\u006fdel\"",
        "\"image_url\"",
        "\"usage\"",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let member = (key.clone(), space.clone(), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(|all| format!("[{}]", all.join(" ,"))),
            prop::collection::vec(member, 0..6).prop_map(|all| {
                let all: Vec<String> = all.iter().map(|(k, s, v)| format!("{s}{k}{s}:{s}{v}{s}")).collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => odd_json().prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => Just(Vec::new()),
    ]
}

fn header_lines() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop::sample::select(vec![
        "Authorization",
        "accept",
        "ACCEPT-ENCODING",
        "X-Stainless-Lang",
        "openai-organization",
        "Cookie",
        "x-a",
        "X-A",
        "user-agent",
        "traceparent",
        "Idempotency-Key",
        "Content-Encoding",
        "via",
        "x-Forwarded-For",
        "date",
    ]);
    let value = prop_oneof!["[!-~][ -~]{0,30}[!-~]", Just(String::new()), "[\u{a1}-\u{ff}]{1,8}",];
    prop::collection::vec((name.prop_map(str::to_owned), value), 0..10).prop_map(grouped)
}

/// Lines of one name behind each other, which is how HTTP lets anyone reorder them.
fn grouped(lines: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (name, value) in lines {
        let at = out.iter().rposition(|(n, _)| n.eq_ignore_ascii_case(&name));
        out.insert(at.map_or(out.len(), |at| at + 1), (name, value));
    }
    out
}

#[derive(Clone, Debug)]
struct Exchange {
    method: &'static str,
    path: String,
    lines: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: Option<usize>,
    status: &'static str,
    answer_lines: Vec<(String, String)>,
    answer: Vec<u8>,
    answer_chunked: Option<usize>,
    events: bool,
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let method = prop::sample::select(vec![
        "POST", "POST", "POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE",
    ]);
    let path = prop::sample::select(vec![
        "/v1/chat/completions",
        "/v1/chat/completions?api-version=2",
        "/v1/embeddings",
        "/v1/models/a%2Fb",
        "/",
        "//x/../y",
        "/v1/files/%E2%82%AC?q=a+b&q=%00&z",
        "/v1/responses",
    ]);
    let status = prop::sample::select(vec![
        "200 OK",
        "200 OK",
        "201 Created",
        "400 Bad Request",
        "404 Nope",
        "429 Too Many Requests",
        "500 Oh",
        "503 ",
        "299 Odd",
    ]);
    let request = (method, path, header_lines(), body(), prop::option::of(1usize..200));
    let answer = (status, header_lines(), body(), prop::option::of(1usize..200), any::<bool>());
    (request, answer).prop_map(
        |((method, path, lines, body, chunked), (status, answer_lines, answer, answer_chunked, events))| {
            // Nobody sends a body along with these unless it is framed.
            let path = path.to_owned();
            let mut answer_lines = answer_lines;
            answer_lines.retain(|(name, _)| !name.eq_ignore_ascii_case("content-encoding") || !events);
            Exchange {
                method,
                path,
                lines,
                body,
                chunked,
                status,
                answer_lines,
                answer,
                answer_chunked,
                events,
            }
        },
    )
}

fn framed(first: &str, lines: &[(String, String)], body: &[u8], chunked: Option<usize>) -> Vec<u8> {
    let mut out = format!("{first}\r\n").into_bytes();
    for (name, value) in lines {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend(value.chars().map(|c| c as u32 as u8));
        out.extend_from_slice(b"\r\n");
    }
    match chunked {
        None => {
            out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            out.extend_from_slice(body);
        }
        Some(size) => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            body.chunks(size).for_each(|part| out.extend_from_slice(&chunk(part)));
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
    out
}

impl Exchange {
    fn request(&self) -> Vec<u8> {
        let mut lines = vec![("Host".to_owned(), "client.example".to_owned())];
        lines.extend(self.lines.clone());
        framed(&format!("{} {} HTTP/1.1", self.method, self.path), &lines, &self.body, self.chunked)
    }

    fn answer(&self) -> Vec<u8> {
        let mut lines = self.answer_lines.clone();
        if self.events {
            lines.push(("Content-Type".to_owned(), "text/event-stream; charset=utf-8".to_owned()));
        }
        framed(&format!("HTTP/1.1 {}", self.status), &lines, &self.answer, self.answer_chunked)
    }
}

fn read_back(bytes: &[u8], answers: Option<&str>) -> Message {
    wire::read(&mut &bytes[..], answers).expect("a message")
}

/// 10,000 exchanges, each compared in both directions with what was sent.
#[test]
fn bytes_and_fields_are_the_same_on_both_sides() {
    const CASES: u32 = 10_000;
    let next: Arc<Mutex<Vec<u8>>> = Arc::default();
    let reply = next.clone();
    let upstream = Upstream::start(move |_, out| out.write_all(&reply.lock().expect("no panic")));
    let server = before(&upstream);
    let client = Mutex::new(server.connect());
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    let outcome = runner.run(&exchange(), |case| {
        let (request, answer) = (case.request(), case.answer());
        *next.lock().expect("no panic") = answer.clone();
        let mut client = client.lock().expect("no panic");
        client.send(&request);
        let got = client.receive(case.method);
        let seen = upstream.last();

        let sent = read_back(&request, None);
        prop_assert_eq!(&seen.first, &sent.first);
        prop_assert_eq!(seen.end_to_end(), sent.end_to_end());
        prop_assert_eq!(&seen.body, &sent.body);
        let host = upstream.address.to_string();
        prop_assert_eq!(seen.field("host"), Some(host.as_str()));

        let made = read_back(&answer, Some(case.method));
        prop_assert_eq!(&got.first, &made.first);
        prop_assert_eq!(got.end_to_end(), made.end_to_end());
        prop_assert_eq!(&got.body, &made.body);
        prop_assert!(got.whole);
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(upstream.seen().len(), CASES as usize);
}

#[test]
fn what_steers_refocus_and_what_concerns_the_connection_does_not_go_up() {
    let upstream = Upstream::fixed(
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\ncontent-length: 0\r\n\r\n",
    );
    let server = before(&upstream);
    let got = server.ask(
        b"GET /v1/models HTTP/1.1\r\nhost: h\r\nX-Refocus-S2A: off\r\nx-refocus-anything: 1\r\nconnection: x-hop\r\n\
          x-hop: 1\r\nproxy-authorization: secret\r\nx-end: 2\r\n\r\n",
    );
    let names: Vec<String> = upstream.last().fields.iter().map(|(n, _)| n.to_ascii_lowercase()).collect();
    assert_eq!(names, ["host", "x-end"]);
    assert_eq!((got.field("x-hop"), got.field("x-end")), (None, Some("2")));
}

#[test]
fn answers_without_a_body_stay_as_they_are() {
    for (method, answer, fields) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", vec![("content-length", "1234")]),
        ("HEAD", "HTTP/1.1 200 OK\r\nx: y\r\n\r\n", vec![("x", "y")]),
        ("GET", "HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", vec![("x", "y")]),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n", vec![("etag", "\"1\"")]),
    ] {
        let upstream = Upstream::fixed(answer);
        let server = before(&upstream);
        let mut client = server.connect();
        client.send(format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes());
        let got = client.receive(method);
        let fields: Vec<_> = fields.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        assert_eq!(got.end_to_end(), fields, "{method} {answer}");
    }
}

#[test]
fn bodies_stream_in_both_directions() {
    // The upstream answers each part of the request before the next one is sent.
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = upstream.local_addr().expect("an address");
    let echo = std::thread::spawn(move || {
        let (stream, _) = upstream.accept().expect("the proxy");
        stream.set_read_timeout(Some(LONG)).expect("a limit");
        let mut out = stream.try_clone().expect("a stream");
        let mut from = std::io::BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            from.read_line(&mut line).expect("a head");
        }
        out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").expect("a reader");
        for _ in 0..3 {
            let mut part = [0; 8];
            from.read_exact(&mut part).expect("a part");
            out.write_all(&part).expect("a reader");
        }
        let mut end = [0; 5];
        from.read_exact(&mut end).expect("the end");
        out.write_all(&end).expect("a reader");
    });
    let proxy =
        router(ProxyConfig::new(format!("http://{address}")), Keys::default(), Arc::new(Metrics::default()))
            .expect("a proxy");
    let server = Server::start(proxy);
    let mut client = server.connect();
    client.send(b"POST /v1/audio HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
    for (i, part) in [b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"3\r\nghi\r\n"].into_iter().enumerate() {
        client.send(part);
        let mut line = String::new();
        while i == 0 && line != "\r\n" {
            line.clear();
            client.from.read_line(&mut line).expect("a head");
        }
        let mut got = [0; 8];
        client.from.read_exact(&mut got).expect("the part comes back before the next is sent");
        assert_eq!(&got, part);
    }
    client.send(b"0\r\n\r\n");
    let mut end = [0; 5];
    client.from.read_exact(&mut end).expect("the end");
    assert_eq!(&end, b"0\r\n\r\n");
    echo.join().expect("no panic");
}

#[test]
fn trailers_pass_in_both_directions() {
    let upstream = Upstream::start(|_, out| {
        out.write_all(
            b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
        )
    });
    let server = before(&upstream);
    let got = server.ask(
        b"POST / HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: te\r\ntrailer: x-up\r\ntransfer-encoding: chunked\r\n\r\n\
          1\r\nx\r\n0\r\nx-up: 5\r\n\r\n",
    );
    assert_eq!(got.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    assert_eq!(upstream.last().trailers, [("x-up".to_owned(), "5".to_owned())]);
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on() {
    let upstream = Upstream::fixed(wire::json("{}"));
    let server = before(&upstream);
    let mut client = server.connect();
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
    );
    assert_eq!(client.receive("POST").status(), 100);
    client.send(b"{}");
    assert_eq!(client.receive("POST").status(), 200);
    assert_eq!(upstream.last().body, b"{}");
}

#[test]
fn the_upstream_s_key_takes_the_place_of_the_client_s() {
    let upstream = Upstream::fixed(wire::json("{}"));
    let config = ProxyConfig {
        upstream_key: Some(refocus_serve::keys::Secret::new("test", "theirs").expect("a key")),
        ..ProxyConfig::new(upstream.url())
    };
    let server =
        Server::start(router(config, Keys::default(), Arc::new(Metrics::default())).expect("a proxy"));
    server.ask(b"GET / HTTP/1.1\r\nhost: h\r\nauthorization: Bearer ours\r\nx: y\r\n\r\n");
    let seen = upstream.last();
    assert_eq!(seen.end_to_end()[0], ("authorization".to_owned(), "Bearer theirs".to_owned()));
}

/// Clients that have to show a key of the proxy's own do not show it to the upstream.
#[test]
fn the_proxy_s_own_keys_stay_here() {
    let upstream = Upstream::fixed(wire::json("{}"));
    let mut keys = Keys::default();
    keys.add_list("test", "sk-ours").expect("a key");
    let proxy =
        router(ProxyConfig::new(upstream.url()), keys, Arc::new(Metrics::default())).expect("a proxy");
    let server = Server::start(proxy);
    for path in ["/v1/models", "/v1/chat/completions", "/v1/rewrite", "/metrics"] {
        let method = if path.ends_with("models") || path.ends_with("metrics") { "GET" } else { "POST" };
        for key in ["", "authorization: Bearer sk-theirs\r\n"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nhost: h\r\n{key}content-length: 2\r\n\r\n{{}}");
            let got = server.ask(request.as_bytes());
            assert_eq!((got.status(), got.error_code().as_str()), (401, "invalid_api_key"), "{path}");
        }
    }
    assert!(upstream.seen().is_empty());
    let got = server.ask(b"GET /v1/models HTTP/1.1\r\nhost: h\r\nauthorization: Bearer sk-ours\r\n\r\n");
    assert_eq!((got.status(), upstream.last().field("authorization")), (200, None));
}

/// What the documentation says of lines that cannot keep their places, to the letter.
#[test]
fn lines_of_one_name_come_behind_each_other_and_nothing_else_of_the_order_changes() {
    let lines = |all: &[(&str, &str)]| all.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect::<String>();
    let upstream = Upstream::fixed(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{}\r\n",
        lines(&[("A", "1"), ("B", "2"), ("a", "3"), ("C", "4"), ("B", "5")])
    ));
    let server = Server::start(
        router(ProxyConfig::new(upstream.url()), Keys::default(), Arc::new(Metrics::default()))
            .expect("a proxy"),
    );
    let sent = lines(&[("A", "1"), ("B", "2"), ("a", "3")]);
    let got = server.ask(format!("GET /x HTTP/1.1\r\nhost: h\r\n{sent}\r\n").as_bytes());
    let of = |message: &wire::Message| -> Vec<(String, String)> {
        let mut all = message.end_to_end();
        all.retain(|(name, _)| name.len() == 1);
        all
    };
    let want = |all: &[(&str, &str)]| {
        all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(of(&upstream.last()), want(&[("A", "1"), ("a", "3"), ("B", "2")]));
    assert_eq!(of(&got), want(&[("A", "1"), ("a", "3"), ("B", "2"), ("B", "5"), ("C", "4")]));
}
