//! Both ends of a proxy at the level of bytes: an upstream that sees and sends exactly what a test says, a client that
//! does, and the proxy between them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;

/// Longer than anything takes here; a test that waits so long fails.
pub const LONG: Duration = Duration::from_secs(20);

/// A request or an answer as it came over the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `GET / HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub first: String,
    /// Fields in their order, names in their case.
    pub fields: Vec<(String, String)>,
    /// Without its framing.
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The body came to its end.
    pub whole: bool,
}

impl Message {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Those that say something about the message and not about the connection or the framing.
    pub fn end_to_end(&self) -> Vec<(String, String)> {
        const OTHERS: [&str; 5] = ["connection", "keep-alive", "transfer-encoding", "te", "host"];
        let mut all = self.fields.clone();
        all.retain(|(name, _)| !OTHERS.contains(&name.to_ascii_lowercase().as_str()));
        all
    }

    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// `error.code` of a body in OpenAI's shape.
    pub fn error_code(&self) -> String {
        let body = self.json();
        assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string(), "{body}");
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn fields(from: &mut impl BufRead) -> std::io::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    loop {
        let line = line(from)?;
        match line.split_once(':') {
            Some((name, value)) => all.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned())),
            None => return Ok(all),
        }
    }
}

fn line(from: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    // Latin-1, so that any byte of a field can be compared.
    Ok(line.iter().map(|b| char::from(*b)).collect::<String>().trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads one message; `answers` tells whether a body may end with the connection.
pub fn read(from: &mut impl BufRead, answers: Option<&str>) -> std::io::Result<Message> {
    let first = line(from)?;
    let mut message = Message { first, fields: fields(from)?, ..Message::default() };
    if answers == Some("HEAD") || [204, 304].contains(&message.status()) || message.status() / 100 == 1 {
        message.whole = true;
        return Ok(message);
    }
    if message.field("transfer-encoding").is_some() {
        message.whole = chunks(from, &mut message.body, &mut message.trailers).is_ok();
    } else if let Some(length) = message.field("content-length").and_then(|v| v.parse::<u64>().ok()) {
        from.take(length).read_to_end(&mut message.body)?;
        message.whole = message.body.len() as u64 == length;
    } else if answers.is_some() {
        message.whole = from.read_to_end(&mut message.body).is_ok();
    } else {
        message.whole = true;
    }
    Ok(message)
}

fn chunks(
    from: &mut impl BufRead,
    body: &mut Vec<u8>,
    trailers: &mut Vec<(String, String)>,
) -> std::io::Result<()> {
    loop {
        let size = line(from)?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
            .map_err(|_| std::io::ErrorKind::InvalidData)?;
        if size == 0 {
            *trailers = fields(from)?;
            return Ok(());
        }
        let before = body.len();
        from.take(size as u64).read_to_end(body)?;
        if body.len() - before < size {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        line(from)?;
    }
}

type Answer = dyn Fn(&Message, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// An upstream that answers with bytes.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    /// Connections that a peer closed while `answer` was at work.
    pub left: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Upstream {
    /// `answer` writes whatever it likes; an error ends the connection.
    pub fn start(
        answer: impl Fn(&Message, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, left, stop) =
            (Arc::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (answer, all, gone, stopped): (Arc<Answer>, Arc<Mutex<Vec<Message>>>, _, _) =
            (Arc::new(answer), Arc::clone(&seen), left.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), answer, all, gone) = (stream, answer.clone(), all.clone(), gone.clone())
                else {
                    return;
                };
                std::thread::spawn(move || serve(stream, &*answer, &all, &gone));
            }
        });
        Self { address, seen, left, stop }
    }

    /// Always the same bytes.
    pub fn fixed(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |_, out| out.write_all(&bytes))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().expect("no panic").clone()
    }

    pub fn last(&self) -> Message {
        self.seen.lock().expect("no panic").last().expect("a request").clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, answer: &Answer, all: &Mutex<Vec<Message>>, gone: &AtomicUsize) {
    let _ = stream.set_nodelay(true);
    let Ok(mut out) = stream.try_clone() else { return };
    let mut from = BufReader::new(stream);
    while let Ok(message) = read(&mut from, None) {
        all.lock().expect("no panic").push(message.clone());
        if answer(&message, &mut out).is_err() {
            gone.fetch_add(1, Ordering::SeqCst);
            let _ = out.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// A chat answer with its length.
pub fn json(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One chunk of a chunked body.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// The head of a stream of events.
pub const EVENTS: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A server under test on a port of its own; it ends with the value.
pub struct Server {
    pub address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn start(router: Router) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let service = TowerToHyperService::new(router.clone());
                let connection = refocus_serve::proxy::connections()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::spawn(async move {
                    // Clients go away in the middle here.
                    let _ = connection.await;
                });
            }
        });
        Self { address, _runtime: runtime }
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("the server");
        stream.set_read_timeout(Some(LONG)).expect("a limit");
        stream.set_nodelay(true).expect("an option");
        Client { from: BufReader::new(stream.try_clone().expect("a stream")), to: stream }
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &[u8]) -> Message {
        let mut client = self.connect();
        client.send(request);
        client.receive("GET")
    }

    /// One JSON body to a path, with further fields.
    pub fn post(&self, path: &str, fields: &str, body: &str) -> Message {
        self.ask(&post(path, fields, body))
    }
}

/// A request with a JSON body.
pub fn post(path: &str, fields: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A client at the level of bytes.
pub struct Client {
    pub from: BufReader<TcpStream>,
    pub to: TcpStream,
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.to.write_all(bytes).expect("a server that reads");
    }

    pub fn receive(&mut self, method: &str) -> Message {
        read(&mut self.from, Some(method)).expect("an answer")
    }
}
