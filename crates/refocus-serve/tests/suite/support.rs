//! A server on a port of its own with a tiny random model, and a client for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use refocus_compute::Isa;
use refocus_model::{Checkpoint, Patch};
use refocus_serve::config::Config;
use refocus_serve::keys::Keys;
use refocus_serve::local::{Local, Source};
use refocus_serve::metrics::Metrics;
use refocus_serve::server::Server;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Shows roles, contents, tools and calls.
pub const TEMPLATE: &str = "\
{%- for tool in tools or [] %}{{ tool.function.name }};{% endfor %}\
{%- for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}\
{%- if add_generation_prompt %}assistant:{% endif %}{# <tool_call> #}";

/// A folder of one test, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A random model with a byte-level tokenizer and a long context; with a chat template where one is given.
pub fn model(template: Option<&str>) -> Folder {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let n = MADE.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("refocus-serve-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(name), folder.join(name)).expect("copy");
    }
    let config = std::fs::read_to_string(from.join("config.json")).expect("config");
    let config = config.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 40000");
    std::fs::write(folder.join("config.json"), config).expect("write");
    if let Some(template) = template {
        std::fs::write(folder.join("chat_template.jinja"), template).expect("write");
    }
    Folder(folder)
}

/// A server.
pub struct Up {
    pub address: SocketAddr,
    pub local: Arc<Local>,
    pub folder: Folder,
    pub stop: Arc<Notify>,
    pub task: Option<JoinHandle<()>>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The documents of a stream that ended well.
    pub fn events(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).expect("UTF-8");
        let mut events: Vec<&str> = text.split("\n\n").collect();
        assert_eq!(events.pop(), Some(""), "ends with an empty line");
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let document = |e: &str| serde_json::from_str(e.strip_prefix("data: ").expect("data")).expect("JSON");
        events.into_iter().map(document).collect()
    }
}

impl Up {
    pub async fn new() -> Self {
        Self::of(Config::default()).await
    }

    pub async fn of(config: Config) -> Self {
        Self::with(config, Keys::default(), Some(TEMPLATE), None).await
    }

    pub async fn with(mut config: Config, keys: Keys, template: Option<&str>, patch: Option<&str>) -> Self {
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = model(template);
        let checkpoint = Checkpoint::open(&folder.0).expect("opens");
        let patch =
            patch.map(|text| Patch::parse(text, Path::new("p.toml"), checkpoint.spec()).expect("a patch"));
        let source =
            Source { checkpoint, name: "tiny".to_owned(), patch, isa: Isa::detect(), threads: 1, seed: 0 };
        let local = Local::start(source, &config, keys, Arc::new(Metrics::default())).expect("starts");
        let (address, stop, task) = run(&config, local.router(), {
            let local = Arc::clone(&local);
            move || local.cut()
        })
        .await;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address, local, folder, stop, task: Some(task), client }
    }

    /// The model's files.
    pub fn path(&self) -> &Path {
        &self.folder.0
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> hyper::Response<Incoming> {
        self.client.request(request).await.expect("an answer")
    }

    pub fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let uri = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(uri).body(Full::new(body.into())).expect("a request")
    }

    pub async fn get(&self, path: &str) -> Got {
        whole(self.send(self.request("GET", path, "")).await).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Got {
        whole(self.send(self.request("POST", path, body.to_string())).await).await
    }

    pub async fn chat(&self, more: Value) -> Got {
        self.post("/v1/chat/completions", &chat(more)).await
    }

    pub async fn complete(&self, more: Value) -> Got {
        self.post("/v1/completions", &laid_over(json!({"model": "tiny", "prompt": "Once"}), more)).await
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.local.cut();
    }
}

/// A chat of one message, with more fields.
pub fn chat(more: Value) -> Value {
    laid_over(json!({"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}), more)
}

fn laid_over(mut body: Value, more: Value) -> Value {
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    body
}

pub async fn whole(response: hyper::Response<Incoming>) -> Got {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    Got { status: head.status, headers: head.headers, body }
}

/// Runs a router on a free port: its address, what stops it, and the task.
pub async fn run(
    config: &Config,
    router: Router,
    cut: impl FnOnce() + Send + 'static,
) -> (SocketAddr, Arc<Notify>, JoinHandle<()>) {
    let server = Server::bind(config).await.expect("binds");
    let (address, stop) = (server.address(), Arc::new(Notify::new()));
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        server.run(router, &stopped, cut).await;
    });
    (address, stop, task)
}
