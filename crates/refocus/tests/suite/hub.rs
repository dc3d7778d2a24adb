//! Hub ids, from the real program to a hub on the loopback address and back.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use snapbox::cmd::Command;
use snapbox::str;

use crate::server::{FIRST, Hub, Reply, Request, Server};
use crate::support::{Tmp, refocus, refused, root};

/// The files of a fixture that make a model.
fn fixture(name: &str) -> Hub {
    let folder = root().join("fixtures").join(name);
    let files = ["config.json", "model.safetensors"].map(|file| {
        (file.to_owned(), std::fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}")))
    });
    Hub::of(files.into())
}

/// What a person sets to use this hub and a cache of one's own.
fn variables(tmp: &Tmp, url: &str) -> Vec<(&'static str, String)> {
    vec![
        ("HF_HOME", tmp.path("hf").display().to_string()),
        ("HF_ENDPOINT", url.to_owned()),
        ("HF_HUB_OFFLINE", "0".to_owned()),
        ("NO_PROXY", "127.0.0.1".to_owned()),
    ]
}

fn with(command: Command, tmp: &Tmp, url: &str) -> Command {
    variables(tmp, url).into_iter().fold(command, |command, (name, value)| command.env(name, value))
}

fn inspect(tmp: &Tmp, url: &str, model: &str) -> Command {
    with(tmp.refocus(&format!("model inspect {model}")), tmp, url)
}

fn is_weights(request: &Request) -> bool {
    request.method == "GET" && request.path.starts_with("/store/")
}

fn blobs(tmp: &Tmp) -> PathBuf {
    tmp.path("hf/hub/models--org--tiny/blobs")
}

#[test]
fn a_model_is_fetched_once_and_kept() {
    let (tmp, server) = (Tmp::new("hub-once"), fixture("llama2").start());
    let first = inspect(&tmp, &server.url(), "org/tiny").assert().success().stderr_eq(str![[r#"
note: fetching 2 files of org/tiny, 39.4 kB, commit 1111111111111111111111111111111111111111

"#]]);
    let text = String::from_utf8_lossy(&first.get_output().stdout).into_owned();
    let text = text.replace(tmp.path("").to_str().expect("UTF-8"), "[TMP]/");
    let path = format!("model           [TMP]/hf/hub/models--org--tiny/snapshots/{FIRST}\n");
    assert!(text.starts_with(&path), "{text}");
    assert!(text.contains("llama (safetensors)"), "{text}");

    server.take();
    inspect(&tmp, &server.url(), "org/tiny").assert().success().stdout_eq(text.as_str()).stderr_eq("");
    assert_eq!(server.lines(), ["GET /api/models/org/tiny/revision/main"]);
    let pinned = format!("org/tiny@{FIRST}");
    inspect(&tmp, &server.url(), &pinned).assert().success().stdout_eq(text.as_str()).stderr_eq("");
    assert_eq!(server.lines(), [""; 0]);

    let url = server.url();
    drop(server);
    inspect(&tmp, &url, "org/tiny").assert().success().stdout_eq(text.as_str()).stderr_eq(str![[r#"
note: cannot reach http://127.0.0.1:[..]; org/tiny is used as it was last fetched, commit 1111111111111111111111111111111111111111

"#]]);
    let wished = inspect(&tmp, &url, "org/tiny").env("HF_HUB_OFFLINE", "1");
    wished.assert().success().stdout_eq(text.as_str()).stderr_eq("");
}

#[test]
fn a_fetched_model_runs() {
    let (tmp, server) = (Tmp::new("hub-runs"), fixture("llama2").start());
    let run = |model: &str| {
        let args = format!("--quiet model forward {model} --tokens fixtures/llama2/tokens.json --top 2");
        with(tmp.refocus(&args), &tmp, &server.url())
            .assert()
            .success()
            .stderr_eq("")
            .get_output()
            .stdout
            .clone()
    };
    assert_eq!(run("org/tiny"), run("fixtures/llama2"));
}

#[test]
fn all_that_was_tried_is_listed() {
    let (tmp, server) = (Tmp::new("hub-tried"), fixture("llama2").start());
    let url = server.url();
    refused(inspect(&tmp, &url, "modell").env("REFOCUS_MODELS", "fixtures/gpt2")).stderr_eq(str![[r#"
error: modell: there is no such file or folder, nor one of that name in REFOCUS_MODELS (fixtures/gpt2), and it cannot be had from the hub
cause: http://127.0.0.1:[..] has no model modell
hint: check the spelling; a private model needs HF_TOKEN

"#]]);
    refused(refocus("model inspect openai-community/gpt2@main")).stderr_eq(str![[r#"
error: openai-community/gpt2@main: there is no such file or folder, and it cannot be had from the hub
cause: openai-community/gpt2@main is not in the cache [..]refocus-no-cache/hub, and HF_HUB_OFFLINE forbids asking the hub
hint: check the spelling, or fetch it once with HF_HUB_OFFLINE=0

"#]]);
    refused(refocus("model inspect org/na--me")).stderr_eq(str![[r#"
error: org/na--me: there is no such file or folder
hint: a model is a folder in Hugging Face layout (config.json beside *.safetensors or pytorch_model.bin), a .gguf file, a hub id org/name[@revision], or builtin; it is no hub id either, since 'na--me' has '--' or '..' in it

"#]]);
    refused(inspect(&tmp, &url, "org/tiny@v2")).stderr_eq(str![[r#"
error: org/tiny has no branch, tag or commit 'v2'
hint: check the part after '@'; without it, main is meant

"#]]);
}

#[test]
fn a_gated_model_says_what_to_do_and_shows_no_token() {
    let tmp = Tmp::new("hub-gated");
    let server = Server::start(|_, _| Reply::new(403, "").with("X-Error-Code", "GatedRepo"));
    let run = inspect(&tmp, &server.url(), "org/tiny").env("HF_TOKEN", "hf_secret");
    refused(run).stderr_eq(str![[r#"
error: org/tiny: there is no such file or folder, and it cannot be had from the hub
cause: http://127.0.0.1:[..] does not give org/tiny (403): it is gated; asked with the token of HF_TOKEN
hint: ask for access at http://127.0.0.1:[..]/org/tiny where it is gated, and check that the token is valid and may read it (HF_TOKEN)

"#]]);
    assert_eq!(server.take()[0].header("authorization"), Some("Bearer hf_secret"));
}

#[test]
fn several_ggufs_are_a_choice() {
    let tmp = Tmp::new("hub-gguf");
    let model = std::fs::read(root().join("fixtures/gguf-llama-q8_0/model.gguf")).expect("a fixture");
    let names = ["m-Q4_1.gguf", "m-Q8_0.gguf"].map(str::to_owned);
    let server = Hub::of(names.map(|name| (name, model.clone())).into()).start();
    refused(inspect(&tmp, &server.url(), "org/tiny")).stderr_eq(str![[r#"
error: org/tiny holds several .gguf files: m-Q4_1.gguf, m-Q8_0.gguf
hint: choose one, such as org/tiny:m-Q4_1.gguf

"#]]);
    let chosen = inspect(&tmp, &server.url(), "org/tiny:Q8_0").assert().success();
    let text = String::from_utf8_lossy(&chosen.get_output().stdout).into_owned();
    assert!(text.contains(&format!("{FIRST}/m-Q8_0.gguf\n")), "{text}");
}

#[test]
fn a_malformed_endpoint() {
    let tmp = Tmp::new("hub-endpoint");
    refused(inspect(&tmp, "hub.example", "org/tiny")).stderr_eq(str![[r#"
error: HF_ENDPOINT: it begins neither with https:// nor with http://; it is an address such as https://huggingface.co

"#]]);
}

/// The program in a process of its own, which a test can kill.
fn spawn(tmp: &Tmp, url: &str) -> Child {
    std::process::Command::new(snapbox::cmd::cargo_bin!("refocus"))
        .args(["model", "inspect", "org/tiny"])
        .current_dir(root())
        .env_remove("HF_HUB_CACHE")
        .env_remove("REFOCUS_MODELS")
        .env_remove("HF_TOKEN")
        .envs(variables(tmp, url))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

fn size_of_incomplete(blobs: &Path) -> u64 {
    let entries = std::fs::read_dir(blobs).into_iter().flatten().flatten();
    let half = entries.filter(|e| e.file_name().to_string_lossy().ends_with(".incomplete"));
    half.filter_map(|e| Some(e.metadata().ok()?.len())).max().unwrap_or(0)
}

#[test]
fn a_killed_fetch_is_gone_on_with() {
    let (tmp, hub, asked) = (Tmp::new("hub-killed"), fixture("llama2"), AtomicUsize::new(0));
    let server = Server::start(move |request, _| {
        let reply = hub.answer(request);
        // The first time, the weights come to a stop in the middle.
        let stop = is_weights(request) && asked.fetch_add(1, Ordering::SeqCst) == 0;
        let stall = stop.then_some(Duration::from_secs(60));
        Reply { cut: stall.map(|_| 20_000), stall, ..reply }
    });
    let mut child = spawn(&tmp, &server.url());
    let start = Instant::now();
    while size_of_incomplete(&blobs(&tmp)) < 20_000 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing came");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    server.take();
    inspect(&tmp, &server.url(), "org/tiny").assert().success().stderr_eq(str![[r#"
note: fetching 1 file of org/tiny, 38.9 kB, commit 1111111111111111111111111111111111111111
note: going on with model.safetensors after 20.0 kB

"#]]);
    let weights: Vec<_> = server.take().into_iter().filter(is_weights).collect();
    assert_eq!(weights.iter().map(|r| r.header("range")).collect::<Vec<_>>(), [Some("bytes=20000-")]);
    assert_eq!(size_of_incomplete(&blobs(&tmp)), 0);
}

#[test]
fn two_processes_fetch_once() {
    let (tmp, hub) = (Tmp::new("hub-two"), fixture("llama2"));
    let server = Server::start(move |request, _| {
        std::thread::sleep(Duration::from_millis(50));
        hub.answer(request)
    });
    let children = [(); 2].map(|()| spawn(&tmp, &server.url()));
    for mut child in children {
        assert!(child.wait().expect("ended").success());
    }
    assert_eq!(server.take().iter().filter(|r| is_weights(r)).count(), 1);
}
