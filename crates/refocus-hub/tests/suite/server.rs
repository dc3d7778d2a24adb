//! A hub on the loopback address, with whatever faults a test wants.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const FIRST: &str = "1111111111111111111111111111111111111111";
pub const SECOND: &str = "2222222222222222222222222222222222222222";

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// `GET /path`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Drops the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Waits before the rest of the body.
    pub stall: Option<Duration>,
    /// Announces another length than the body has.
    pub length: Option<usize>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None, stall: None, length: None }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

pub struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers every request with what `answer` makes of it and of the number of requests before it.
    pub fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped, answer) = (log.clone(), stop.clone(), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), seen, answer) = (stream, seen.clone(), answer.clone()) else { continue };
                std::thread::spawn(move || {
                    // A client may be killed at any moment.
                    let _ = serve(&stream, &seen, &*answer);
                });
            }
        });
        Self { address, log, stop, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, which are forgotten.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.log.lock().expect("log"))
    }

    pub fn lines(&self) -> Vec<String> {
        self.take().iter().map(Request::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: &TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request, usize) -> Reply,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request { method, path, headers };
    let number = {
        let mut log = log.lock().expect("log");
        log.push(request.clone());
        log.len() - 1
    };
    let reply = answer(&request, number);
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", reply.status);
    write!(head, "Content-Length: {}\r\n", reply.length.unwrap_or(reply.body.len())).expect("text");
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").expect("text");
    }
    head.push_str("\r\n");
    let mut out = stream;
    out.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
        if let Some(stall) = reply.stall {
            out.write_all(&reply.body[..end])?;
            out.flush()?;
            std::thread::sleep(stall);
            return Ok(());
        }
        out.write_all(&reply.body[..end])?;
    }
    out.flush()
}

/// A repository with its revisions.
#[derive(Clone, Default)]
pub struct Hub {
    /// Names and the commit that each is.
    pub refs: BTreeMap<&'static str, &'static str>,
    pub commits: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>,
    /// Where large files redirect to; the hub itself where none is given.
    pub store: Option<String>,
}

impl Hub {
    /// `main` is the first commit, with these files.
    pub fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self { refs: [("main", FIRST)].into(), commits: [(FIRST, files)].into(), store: None }
    }

    pub fn start(self) -> Server {
        Server::start(move |request, _| self.answer(request))
    }

    pub fn answer(&self, request: &Request) -> Reply {
        if let Some(sum) = request.path.strip_prefix("/store/") {
            let mut all = self.commits.values().flat_map(BTreeMap::values);
            return match all.find(|content| sha256(content) == *sum) {
                Some(content) => part(content, request.header("range")),
                None => Reply::new(404, ""),
            };
        }
        let missing = |code: &str| Reply::new(404, "").with("X-Error-Code", code);
        if let Some(rest) = request.path.strip_prefix("/api/models/org/tiny/revision/") {
            let name = rest.replace("%2F", "/");
            let commit = self.refs.get(&*name).copied().unwrap_or(&name);
            let Some(files) = self.commits.get(commit) else { return missing("RevisionNotFound") };
            let siblings: Vec<_> = files.keys().map(|f| format!("{{\"rfilename\":{f:?}}}")).collect();
            let body =
                format!("{{\"id\":\"org/tiny\",\"sha\":\"{commit}\",\"siblings\":[{}]}}", siblings.join(","));
            return Reply::new(200, body).with("Content-Type", "application/json; charset=utf-8");
        }
        let Some((commit, file)) =
            request.path.strip_prefix("/org/tiny/resolve/").and_then(|r| r.split_once('/'))
        else {
            return missing("RepoNotFound");
        };
        let Some(content) = self.commits.get(commit).and_then(|files| files.get(file)) else {
            return missing("EntryNotFound");
        };
        let large = [".safetensors", ".bin", ".gguf"].iter().any(|s| file.ends_with(s));
        let sum = sha256(content);
        if large {
            let store = self.store.clone().unwrap_or_default();
            Reply::new(302, "")
                .with("X-Repo-Commit", commit)
                .with("X-Linked-Etag", format!("\"{sum}\""))
                .with("X-Linked-Size", content.len().to_string())
                .with("Location", format!("{store}/store/{sum}"))
        } else {
            part(content, request.header("range"))
                .with("X-Repo-Commit", commit)
                .with("ETag", format!("\"{}\"", &sum[..40]))
        }
    }
}

/// The bytes from the start of a range on.
fn part(content: &[u8], range: Option<&str>) -> Reply {
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        None => Reply::new(200, content),
        Some(from) if from >= content.len() => Reply::new(416, ""),
        Some(from) => Reply::new(206, &content[from..])
            .with("Content-Range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())),
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
