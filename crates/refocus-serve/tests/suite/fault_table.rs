//! The table of faults in docs/proxy.md: every row is what a client got here.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use refocus_serve::config::Config;
use refocus_serve::keys::Keys;
use refocus_serve::metrics::Metrics;
use refocus_serve::proxy::{ProxyConfig, System2Config, router};

use crate::wire::{self, EVENTS, Server, Upstream, chunk};

const PAGE: &str = include_str!("../../../../docs/proxy.md");
const BEGIN: &str = "<!-- observed faults -->\n";
const END: &str = "<!-- end of observed faults -->";
const CHAT: &str = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";

/// Limits that only what is meant to reach them reaches, on a slow machine too.
fn patient(url: String) -> ProxyConfig {
    ProxyConfig {
        answer_ms: 20_000,
        idle_ms: 20_000,
        retry_ms: 1,
        connect_ms: 20_000,
        ..ProxyConfig::new(url)
    }
}

/// Short limits, so that a test of them is short.
fn hasty(url: String) -> ProxyConfig {
    ProxyConfig { answer_ms: 300, idle_ms: 300, ..patient(url) }
}

fn with(config: ProxyConfig) -> Server {
    Server::start(router(config, Keys::default(), Arc::new(Metrics::default())).expect("a proxy"))
}

fn ask(server: &Server) -> wire::Message {
    server.post("/v1/chat/completions", "", CHAT)
}

/// What a client sees of an answer, in a few words.
fn seen(got: &wire::Message) -> String {
    let text = got.text();
    let status = got.status();
    if status != 200 {
        let code = if text.is_empty() { String::new() } else { format!(" `{}`", got.error_code()) };
        return format!("{status}{code}");
    }
    let event = text.rsplit("data: ").next().filter(|e| e.starts_with("{\"error\""));
    match (event, got.whole) {
        (Some(event), _) => {
            let event: serde_json::Value = serde_json::from_str(event.trim()).expect("an event");
            let code = event["error"]["code"].as_str().unwrap_or("").to_owned();
            let done = if text.contains("[DONE]") { "and `[DONE]`" } else { "no `[DONE]`" };
            format!("200, what came, then an event `{code}`, {done}")
        }
        (None, true) => "200, every byte".to_owned(),
        (None, false) => "200, and the body ends before it is whole".to_owned(),
    }
}

fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

fn silent(what: &'static [u8]) -> Upstream {
    Upstream::start(move |_, out| {
        out.write_all(what)?;
        let _ = out.read(&mut [0; 1]);
        Err(std::io::ErrorKind::BrokenPipe.into())
    })
}

fn broken(what: &'static [u8]) -> Upstream {
    Upstream::start(move |_, out| {
        out.write_all(what)?;
        Err(std::io::ErrorKind::BrokenPipe.into())
    })
}

fn status(line: &str) -> Upstream {
    let body = "{\"error\":{\"message\":\"m\",\"type\":\"t\",\"code\":\"its_own\"}}";
    Upstream::fixed(format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

const PART: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
                      c\r\ndata: {\"a\":1\r\n3\r\n}\n\n\r\n";

/// The rows: what the upstream or the client does, and what a client saw.
fn rows() -> Vec<(&'static str, String)> {
    let of = |upstream: &Upstream| seen(&ask(&with(patient(upstream.url()))));
    let limited = |upstream: &Upstream| seen(&ask(&with(hasty(upstream.url()))));
    let mut rows = vec![
        ("the upstream refuses connections", seen(&ask(&with(patient(nowhere()))))),
        ("its name is no host", seen(&ask(&with(patient("http://no-such-host.invalid".to_owned()))))),
    ];
    let down = with(ProxyConfig { breaker_failures: 1, breaker_ms: 60_000, ..patient(nowhere()) });
    ask(&down);
    rows.push(("the request after it was out of reach too often", seen(&ask(&down))));
    rows.push(("it takes the request and says nothing", limited(&silent(b""))));
    rows.push(("it closes before it answers", of(&broken(b""))));
    rows.push(("it speaks no HTTP", of(&Upstream::fixed("SSH-2.0-OpenSSH\r\n\r\n"))));
    rows.push(("it answers 429", of(&status("429 Too Many"))));
    rows.push(("it answers 500", of(&status("500 Oh"))));
    rows.push(("it cuts a stream of events", of(&broken(PART))));
    rows.push(("it stalls within a stream of events", limited(&silent(PART))));
    rows.push((
        "it cuts a body that has a length",
        of(&broken(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"a\":")),
    ));
    let odd = [EVENTS, &chunk(b"data: \xff\xfe\xc3\n\n"), b"0\r\n\r\n"].concat();
    rows.push(("it sends bytes that are no UTF-8", of(&Upstream::fixed(odd))));
    rows.push(("it sends 64 MiB", {
        let upstream = Upstream::start(|_, out| {
            out.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 << 20).as_bytes())?;
            (0..64).try_for_each(|_| out.write_all(&vec![b'x'; 1 << 20]))
        });
        let got = ask(&with(patient(upstream.url())));
        assert_eq!(got.body.len(), 64 << 20);
        seen(&got)
    }));
    let fine = Upstream::fixed(wire::json("{}"));
    let server = with(ProxyConfig { idle_ms: 300, ..patient(fine.url()) });
    let stops = server.ask(b"POST /v1/files HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc");
    rows.push(("the client stops sending its body", seen(&stops)));
    rows.push(("the folder of `log_file` is gone", {
        let log_file = Some(std::path::PathBuf::from("/no/such/folder/log"));
        let system2 = System2Config { log_file, short_bytes: 1, ..System2Config::default() };
        let server = with(ProxyConfig { system2, ..patient(fine.url()) });
        let ask = CHAT.replace("hi", "I think it is Sydney. What is the capital of Australia?");
        let got = server.post("/v1/chat/completions", "x-refocus-s2a: on\r\n", &ask);
        assert_eq!(got.field("x-refocus-s2a"), Some("skipped"));
        seen(&got)
    }));
    rows
}

#[test]
fn the_table_in_the_page_is_what_clients_see() {
    let mut table = "| fault | what the client got |\n| --- | --- |\n".to_owned();
    rows().iter().for_each(|(fault, got)| table.push_str(&format!("| {fault} | {got} |\n")));
    let there = PAGE.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(there, _)| there);
    assert_eq!(there.unwrap_or_default(), table, "docs/proxy.md: put this between its marks:\n{table}");
}

/// A client that never reads does not hold a connection, nor what waits for it, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_given_up() {
    let upstream = Upstream::start(|_, out| {
        out.write_all(EVENTS)?;
        loop {
            out.write_all(&chunk(&[b'x'; 1 << 16]))?;
        }
    });
    let proxy = router(ProxyConfig::new(upstream.url()), Keys::default(), Arc::new(Metrics::default()));
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        write_seconds: 1,
        proxy: Some(ProxyConfig::default()),
        ..Config::default()
    };
    let (address, _, _) = crate::support::run(&config, proxy.expect("a proxy"), || {}).await;
    let client = std::net::TcpStream::connect(address).expect("connects");
    (&client).write_all(&wire::post("/v1/chat/completions", "", CHAT)).expect("sends");
    let began = Instant::now();
    while upstream.left.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < wire::LONG, "the upstream still writes for nobody");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "it had a second");
}
