//! Whatever the upstream does, every request ends with an answer or with one clear error.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use refocus_serve::keys::Keys;
use refocus_serve::metrics::Metrics;
use refocus_serve::proxy::{ProxyConfig, router};

use crate::wire::{self, EVENTS, Server, Upstream, chunk};

fn with(config: ProxyConfig) -> Server {
    Server::start(router(config, Keys::default(), Arc::new(Metrics::default())).expect("a proxy"))
}

/// Short limits, so that a test of them is short.
fn hasty(url: String) -> ProxyConfig {
    ProxyConfig { answer_ms: 300, idle_ms: 300, retry_ms: 1, connect_ms: 300, ..ProxyConfig::new(url) }
}

const CHAT: &str = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";

fn ask(server: &Server) -> wire::Message {
    server.post("/v1/chat/completions", "", CHAT)
}

/// A port that nobody listens on.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

#[test]
fn an_upstream_that_refuses() {
    let got = ask(&with(hasty(nowhere())));
    assert_eq!((got.status(), got.error_code().as_str()), (502, "upstream_unreachable"));
    assert!(got.text().contains("refused"), "{}", got.text());
}

#[test]
fn an_upstream_that_is_no_host() {
    let got =
        ask(&with(ProxyConfig { answer_ms: 15_000, ..hasty("http://no-such-host.invalid".to_owned()) }));
    assert_eq!((got.status(), got.error_code().as_str()), (502, "upstream_unreachable"));
}

#[test]
fn an_upstream_that_comes_up_late_is_tried_again() {
    let url = nowhere();
    let address = url.trim_start_matches("http://").to_owned();
    let server = with(ProxyConfig { connect_retries: 8, retry_ms: 30, answer_ms: 10_000, ..hasty(url) });
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        let listener = TcpListener::bind(address).expect("the port is still free");
        let (mut stream, _) = listener.accept().expect("the proxy");
        let mut some = [0; 1000];
        let _ = stream.read(&mut some).expect("a request");
        stream.write_all(&wire::json("{}")).expect("a reader");
    });
    assert_eq!(ask(&server).status(), 200);
    late.join().expect("no panic");
}

#[test]
fn an_upstream_that_stays_away_counts_as_down() {
    let config =
        ProxyConfig { breaker_failures: 3, breaker_ms: 60_000, connect_retries: 0, ..hasty(nowhere()) };
    let server = with(config);
    let codes: Vec<_> = (0..4).map(|_| ask(&server).error_code()).collect();
    assert_eq!(codes[2..], ["upstream_unreachable", "upstream_down"]);
    let got = ask(&server);
    assert_eq!((got.status(), got.field("retry-after")), (503, Some("60")));
}

#[test]
fn an_upstream_that_does_not_answer() {
    let upstream = Upstream::start(|_, out| {
        // Until the proxy gives up.
        let _ = out.read(&mut [0; 1]);
        Err(std::io::ErrorKind::BrokenPipe.into())
    });
    let got = ask(&with(hasty(upstream.url())));
    assert_eq!((got.status(), got.error_code().as_str()), (504, "upstream_timeout"));
}

#[test]
fn an_upstream_that_closes_before_it_answers() {
    let upstream = Upstream::start(|_, _| Err(std::io::ErrorKind::BrokenPipe.into()));
    let got = ask(&with(hasty(upstream.url())));
    assert_eq!((got.status(), got.error_code().as_str()), (502, "upstream_failed"));
    assert_eq!(upstream.seen().len(), 1, "a request that may have been read is not sent twice");
}

#[test]
fn an_upstream_that_speaks_no_http() {
    let upstream = Upstream::fixed("SSH-2.0-OpenSSH\r\n\r\n");
    let got = ask(&with(hasty(upstream.url())));
    assert_eq!((got.status(), got.error_code().as_str()), (502, "upstream_failed"));
}

#[test]
fn a_stream_that_is_cut_ends_with_an_error_event() {
    for part in ["data: {\"a\":1}\n\n", "data: {\"a\":1}\n\ndata: {\"b"] {
        let upstream = Upstream::start(move |_, out| {
            out.write_all(EVENTS)?;
            out.write_all(&chunk(part.as_bytes()))?;
            Err(std::io::ErrorKind::BrokenPipe.into())
        });
        let got = ask(&with(hasty(upstream.url())));
        let text = got.text();
        let (first, last) = text.split_once("\n\n").expect("two events");
        assert_eq!(first, "data: {\"a\":1}");
        assert!(
            last.trim_start().starts_with("data: {\"error\":{\"message\":\"the upstream broke off"),
            "{last}"
        );
        assert!(got.whole && !text.contains("[DONE]"));
    }
}

#[test]
fn a_stream_that_stalls_ends_with_an_error_event() {
    let upstream = Upstream::start(move |_, out| {
        out.write_all(EVENTS)?;
        out.write_all(&chunk(b"data: {\"a\":1}\n\n"))?;
        let _ = out.read(&mut [0; 1]);
        Err(std::io::ErrorKind::BrokenPipe.into())
    });
    let got = ask(&with(hasty(upstream.url())));
    assert!(
        got.text().contains("\"error\"") && got.text().contains("nothing came for 300 ms"),
        "{}",
        got.text()
    );
}

#[test]
fn a_body_that_is_cut_is_cut_for_the_client_too() {
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let upstream = Upstream::start(move |_, out| {
            out.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\n{{\"a\":\r\n").as_bytes())?;
            Err(std::io::ErrorKind::BrokenPipe.into())
        });
        let got = ask(&with(hasty(upstream.url())));
        assert!(!got.whole, "{head}: an answer that is not whole must not look whole");
    }
}

/// In HTTP/1.0 the end of the connection would be that of the body.
#[test]
fn a_body_that_ends_with_its_connection_is_cut_for_the_client_too() {
    let upstream = Upstream::start(move |_, out| {
        out.write_all(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":1")?;
        let _ = out.read(&mut [0; 1]);
        Err(std::io::ErrorKind::BrokenPipe.into())
    });
    let got = ask(&with(hasty(upstream.url())));
    assert_eq!((got.first.as_str(), got.text().as_str()), ("HTTP/1.1 200 OK", "{\"a\":1"));
    assert!(!got.whole, "an answer that is not whole must not look whole");
}

#[test]
fn a_length_beside_a_coding_cuts_nothing() {
    let upstream = Upstream::start(move |_, out| {
        out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n")?;
        out.write_all(&[&chunk(b"{\"a\":123}")[..], b"0\r\n\r\n"].concat())
    });
    let got = ask(&with(hasty(upstream.url())));
    assert_eq!((got.field("content-length"), got.text().as_str()), (None, "{\"a\":123}"));
    assert!(got.whole);
}

/// Nobody answers what has not come yet.
#[test]
fn an_upload_takes_longer_than_an_answer_may() {
    let upstream = Upstream::fixed(wire::json("{}"));
    let server = with(ProxyConfig { idle_ms: 20_000, answer_ms: 1_000, ..hasty(upstream.url()) });
    let mut client = server.connect();
    client.send(b"POST /v1/files HTTP/1.1\r\nhost: h\r\ncontent-length: 8\r\n\r\n");
    for byte in b"01234567" {
        std::thread::sleep(Duration::from_millis(200));
        client.send(&[*byte]);
    }
    assert_eq!(client.receive("POST").status(), 200);
    assert_eq!(upstream.last().body, b"01234567");
}

#[test]
fn statuses_pass_unless_another_try_is_asked_for() {
    let make = || {
        let first = AtomicBool::new(true);
        Upstream::start(move |_, out| {
            let status =
                if first.swap(false, Ordering::SeqCst) { "503 Busy\r\nretry-after: 0" } else { "200 OK" };
            out.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}").as_bytes())
        })
    };
    for (retries, status, seen) in [(0, 503, 1), (1, 200, 2)] {
        let upstream = make();
        let got = ask(&with(ProxyConfig { status_retries: retries, ..hasty(upstream.url()) }));
        assert_eq!((got.status(), upstream.seen().len()), (status, seen));
    }
}

#[test]
fn bytes_that_are_no_text_pass() {
    let upstream = Upstream::start(|_, out| {
        out.write_all(EVENTS)?;
        out.write_all(&chunk(b"data: \xff\xfe\xc3\n\n"))?;
        out.write_all(b"0\r\n\r\n")
    });
    assert_eq!(ask(&with(hasty(upstream.url()))).body, b"data: \xff\xfe\xc3\n\n");
}

/// 64 MB each way; neither side holds them.
#[test]
fn huge_bodies_pass() {
    const PART: usize = 1 << 20;
    const PARTS: usize = 64;
    let upstream = Upstream::start(|seen, out| {
        out.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.body.len()).as_bytes())?;
        out.write_all(&seen.body)
    });
    let server = with(ProxyConfig { answer_ms: 20_000, idle_ms: 20_000, ..hasty(upstream.url()) });
    let mut client = server.connect();
    client.send(
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", PART * PARTS)
            .as_bytes(),
    );
    let part: Vec<u8> = (0..PART).map(|i| (i % 251) as u8).collect();
    (0..PARTS).for_each(|_| client.send(&part));
    let got = client.receive("POST");
    assert!(got.whole && got.body.chunks(PART).all(|got| got == part) && got.body.len() == PART * PARTS);
}

#[test]
fn a_slow_reader_gets_everything_and_holds_up_nobody() {
    const LENGTH: usize = 8 << 20;
    let upstream = Upstream::start(|_, out| {
        out.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").as_bytes())?;
        out.write_all(&vec![b'x'; LENGTH])
    });
    let server = with(hasty(upstream.url()));
    let mut slow = server.connect();
    slow.send(&wire::post("/v1/chat/completions", "", CHAT));
    // Longer than the upstream may be silent: it is the client who is slow, so nothing ends.
    std::thread::sleep(Duration::from_millis(700));
    let began = Instant::now();
    assert_eq!(ask(&server).body.len(), LENGTH);
    assert!(began.elapsed() < wire::LONG);
    assert_eq!(slow.receive("POST").body.len(), LENGTH);
}

#[test]
fn a_client_that_stops_sending_is_told() {
    let upstream = Upstream::fixed(wire::json("{}"));
    let server = with(ProxyConfig { answer_ms: 10_000, ..hasty(upstream.url()) });
    let got = server.ask(b"POST /v1/files HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc");
    assert_eq!((got.status(), got.error_code().as_str()), (408, "request_timeout"));
}

#[test]
fn a_client_that_goes_away_ends_the_call() {
    let upstream = Upstream::start(|_, out| {
        out.write_all(EVENTS)?;
        loop {
            out.write_all(&chunk(b"data: {}\n\n"))?;
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let server = with(ProxyConfig::new(upstream.url()));
    let mut client = server.connect();
    client.send(&wire::post("/v1/chat/completions", "", CHAT));
    client.from.read_exact(&mut [0; 100]).expect("a stream");
    drop(client);
    let began = Instant::now();
    while upstream.left.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < wire::LONG, "the upstream still writes");
        std::thread::sleep(Duration::from_millis(5));
    }
}
