//! A cache of one test, and models that are small.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refocus_hub::{Event, Fetched, Hub, HubError, Settings, Token, TokenUsed};

use crate::server::Server;

/// A folder of one test, removed at the end.
pub struct Tmp(PathBuf);

impl Tmp {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("refocus-hub-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("folder");
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of `org/tiny`.
    pub fn repo(&self) -> PathBuf {
        self.0.join("models--org--tiny")
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo().join("snapshots").join(commit)
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Settings of a test: a cache of its own, its own hub, no waiting.
pub fn settings(tmp: &Tmp, url: &str) -> Settings {
    Settings {
        cache: tmp.path().to_owned(),
        endpoint: url.to_owned(),
        token: None,
        offline: None,
        etag_timeout: Duration::from_secs(20),
        download_timeout: Duration::from_secs(20),
        proxy: false,
        pause: Duration::from_millis(1),
        links: true,
    }
}

pub fn with_token(settings: Settings) -> Settings {
    let token = Token::new("hf_secret", TokenUsed::Variable("HF_TOKEN")).expect("a token");
    Settings { token, ..settings }
}

/// Fetches, and what was said meanwhile.
pub fn fetch(settings: &Settings, id: &str) -> (Result<Fetched, HubError>, Vec<String>) {
    let mut said = Vec::new();
    let mut bytes = 0i64;
    let fetched = Hub::new(settings.clone()).fetch(&id.parse().expect("an id"), &mut |event| match event {
        Event::Bytes(n) => bytes += n as i64,
        Event::Lost(n) => bytes -= n as i64,
        Event::File(_) | Event::Done => {}
        Event::Plan { files, bytes, .. } => said.push(format!("plan {files} {bytes}")),
        Event::Stale { commit, why, .. } => said.push(format!("stale {} {why}", &commit[..4])),
        Event::Offline { commit, .. } => said.push(format!("offline {}", &commit[..4])),
        Event::Earlier { commit, .. } => said.push(format!("earlier {}", &commit[..4])),
        Event::Resumed { file, at } => said.push(format!("resumed {file} {at}")),
        Event::Waiting { file } => said.push(format!("waiting {file}")),
        Event::Retry { why, .. } => said.push(format!("retry {why}")),
        other => said.push(format!("{other:?}")),
    });
    if bytes > 0 {
        said.push(format!("bytes {bytes}"));
    }
    (fetched, said)
}

pub fn fetched(server: &Server, tmp: &Tmp, id: &str) -> Fetched {
    fetch(&settings(tmp, &server.url()), id).0.unwrap_or_else(|e| panic!("{id}: {e}"))
}

pub fn refused(server: &Server, tmp: &Tmp, id: &str) -> HubError {
    fetch(&settings(tmp, &server.url()), id).0.expect_err(id)
}

/// A folder with whole weights of some size, in which no two places are alike.
pub fn model(weights: usize) -> BTreeMap<String, Vec<u8>> {
    let bytes: Vec<u8> = (0..weights as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    BTreeMap::from([
        ("config.json".to_owned(), b"{\"model_type\": \"gpt2\"}".to_vec()),
        ("tokenizer.json".to_owned(), b"{}".to_vec()),
        ("README.md".to_owned(), b"# tiny".to_vec()),
        ("pytorch_model.bin".to_owned(), b"not this one".to_vec()),
        ("model.safetensors".to_owned(), bytes),
    ])
}

/// Names below a folder, in order.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map(|entries| {
            entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}
