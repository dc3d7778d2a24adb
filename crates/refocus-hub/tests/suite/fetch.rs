//! What is fetched, how, and what of it is asked for again.

use std::path::Path;

use refocus_hub::{HubError, Settings};

use crate::server::{FIRST, Hub, Reply, SECOND, Server, sha256};
use crate::support::{Tmp, fetch, fetched, model, names, refused, settings, with_token};

#[test]
fn a_folder_comes_whole_and_in_the_standard_layout() {
    let (tmp, files) = (Tmp::new("whole"), model(5000));
    let server = Hub::of(files.clone()).start();
    let (got, said) = fetch(&settings(&tmp, &server.url()), "org/tiny");
    let got = got.expect("fetched");
    assert_eq!((got.path.as_path(), got.commit.as_str()), (tmp.snapshot(FIRST).as_path(), FIRST));
    assert_eq!(said, ["plan 3 5024", "bytes 5024"]);
    assert_eq!(names(&got.path), ["config.json", "model.safetensors", "tokenizer.json"]);
    for name in names(&got.path) {
        assert_eq!(std::fs::read(got.path.join(&name)).expect("readable"), files[&name], "{name}");
    }
    let sum = sha256(&files["model.safetensors"]);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(got.path.join("model.safetensors")).expect("a link"),
        Path::new("../../blobs").join(&sum)
    );
    assert_eq!(std::fs::read_to_string(tmp.repo().join("refs/main")).expect("a ref"), FIRST);
    assert_eq!(names(&tmp.repo().join("blobs")).len(), 3);
    let absent = names(&tmp.repo().join(".no_exist").join(FIRST));
    assert!(absent.contains(&"chat_template.jinja".to_owned()) && absent.len() == 8, "{absent:?}");
    assert_eq!(
        server.lines(),
        [
            "GET /api/models/org/tiny/revision/main".to_owned(),
            format!("HEAD /org/tiny/resolve/{FIRST}/config.json"),
            format!("HEAD /org/tiny/resolve/{FIRST}/tokenizer.json"),
            format!("HEAD /org/tiny/resolve/{FIRST}/model.safetensors"),
            format!("GET /org/tiny/resolve/{FIRST}/config.json"),
            format!("GET /org/tiny/resolve/{FIRST}/tokenizer.json"),
            format!("GET /org/tiny/resolve/{FIRST}/model.safetensors"),
            format!("GET /store/{sum}"),
        ]
    );
}

#[test]
fn a_branch_is_asked_for_and_a_commit_is_not() {
    let tmp = Tmp::new("again");
    let server = Hub::of(model(100)).start();
    fetched(&server, &tmp, "org/tiny");
    server.take();
    fetched(&server, &tmp, "org/tiny");
    assert_eq!(server.lines(), ["GET /api/models/org/tiny/revision/main"]);
    let id = format!("org/tiny@{FIRST}");
    assert_eq!(fetched(&server, &tmp, &id).path, tmp.snapshot(FIRST));
    assert_eq!(server.lines(), [""; 0]);
}

#[test]
fn a_commit_that_was_pinned_from_the_start_needs_no_second_request() {
    let tmp = Tmp::new("pinned");
    let server = Hub::of(model(100)).start();
    let id = format!("org/tiny@{FIRST}");
    fetched(&server, &tmp, &id);
    assert_eq!(names(&tmp.repo().join("refs")), [""; 0]);
    server.take();
    fetched(&server, &tmp, &id);
    assert_eq!(server.lines(), [""; 0]);
}

#[test]
fn a_branch_that_moved_brings_only_what_is_new() {
    let tmp = Tmp::new("moved");
    let mut hub = Hub::of(model(1000));
    fetched(&hub.clone().start(), &tmp, "org/tiny");
    let mut files = model(1000);
    files.insert("config.json".to_owned(), b"{\"model_type\": \"opt\"}".to_vec());
    hub.commits.insert(SECOND, files);
    hub.refs = [("main", SECOND), ("refs/pr/1", SECOND)].into();
    let server = hub.start();
    let got = fetched(&server, &tmp, "org/tiny");
    assert_eq!(got.commit, SECOND);
    let lines = server.lines();
    assert!(lines.contains(&format!("GET /org/tiny/resolve/{SECOND}/config.json")), "{lines:?}");
    assert!(!lines.iter().any(|l| l.starts_with("GET") && l.ends_with("model.safetensors")), "{lines:?}");
    assert_eq!(std::fs::read_to_string(tmp.repo().join("refs/main")).expect("a ref"), SECOND);
    assert_eq!(std::fs::read(got.path.join("config.json")).expect("new"), b"{\"model_type\": \"opt\"}");
    // The old one is still there, and a slash in a revision stays one name.
    assert_eq!(fetched(&server, &tmp, &format!("org/tiny@{FIRST}")).commit, FIRST);
    assert_eq!(fetched(&server, &tmp, "org/tiny@refs/pr/1").commit, SECOND);
    assert_eq!(std::fs::read_to_string(tmp.repo().join("refs/refs/pr/1")).expect("a ref"), SECOND);
}

#[test]
fn shards_are_those_of_the_index() {
    let tmp = Tmp::new("shards");
    let mut files = model(10);
    files.remove("model.safetensors");
    for (name, content) in [
        (
            "model.safetensors.index.json",
            &br#"{"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#[..],
        ),
        ("m-1.safetensors", b"one"),
        ("m-2.safetensors", b"two"),
        ("m-3.safetensors", b"three"),
    ] {
        files.insert(name.to_owned(), content.to_vec());
    }
    let got = fetched(&Hub::of(files).start(), &tmp, "org/tiny");
    assert_eq!(
        names(&got.path),
        [
            "config.json",
            "m-1.safetensors",
            "m-2.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
}

#[test]
fn an_index_cannot_name_files_elsewhere() {
    for shard in ["../../../x", "/etc/passwd", "sub/x.safetensors", "m-9.safetensors"] {
        let tmp = Tmp::new("index");
        let mut files = model(10);
        files.remove("model.safetensors");
        let index = format!("{{\"weight_map\": {{\"a\": \"{shard}\"}}}}");
        files.insert("model.safetensors.index.json".to_owned(), index.into_bytes());
        let e = refused(&Hub::of(files).start(), &tmp, "org/tiny");
        assert!(matches!(&e, HubError::Index { why, .. } if why.contains(shard)), "{e}");
        // Not whole, so not what `main` is.
        assert_eq!(names(&tmp.repo().join("refs")), [""; 0]);
    }
}

#[test]
fn a_gguf_repository() {
    let tmp = Tmp::new("gguf");
    let mut files = model(0);
    files.retain(|name, _| name == "README.md");
    files.insert("sub/a-Q8_0.gguf".to_owned(), b"GGUF eight".to_vec());
    let one = Hub::of(files.clone());
    files.insert("a-Q4_K_M.gguf".to_owned(), b"GGUF four".to_vec());
    let several = Hub { refs: [("main", SECOND)].into(), ..Hub::of(files.clone()) };
    let several = Hub { commits: [(SECOND, files)].into(), ..several }.start();

    let got = fetched(&one.start(), &tmp, "org/tiny");
    assert_eq!(got.path, tmp.snapshot(FIRST).join("sub/a-Q8_0.gguf"));
    assert_eq!(std::fs::read(&got.path).expect("readable"), b"GGUF eight");
    #[cfg(unix)]
    assert!(std::fs::read_link(&got.path).expect("a link").starts_with("../../../blobs"));

    let e = refused(&several, &tmp, "org/tiny");
    assert_eq!(e.to_string(), "org/tiny holds several .gguf files: a-Q4_K_M.gguf, sub/a-Q8_0.gguf");
    assert_eq!(e.hint().as_deref(), Some("choose one, such as org/tiny:a-Q4_K_M.gguf"));
    assert!(matches!(refused(&several, &tmp, "org/tiny:Q5_K_M"), HubError::NoGguf { .. }));
    let by_ending = fetched(&several, &tmp, "org/tiny:q4_k_m");
    assert_eq!(by_ending.path, tmp.snapshot(SECOND).join("a-Q4_K_M.gguf"));
    // Two that are there do not stand in the way of what the hub says now.
    fetched(&several, &tmp, "org/tiny:Q8_0");
    let offline = Settings { offline: Some("HF_HUB_OFFLINE"), ..settings(&tmp, &several.url()) };
    let e = fetch(&offline, "org/tiny").0.expect_err("several");
    assert!(matches!(&e, HubError::Choose { id, files } if id == "org/tiny" && files.len() == 2), "{e}");
    assert_eq!(fetch(&offline, "org/tiny:Q4_K_M").0.expect("cached").path, by_ending.path);
    // A path at a commit is known for good.
    several.take();
    let pinned = fetched(&several, &tmp, &format!("org/tiny@{SECOND}:a-Q4_K_M.gguf"));
    assert_eq!((pinned.path, several.lines()), (by_ending.path, Vec::new()));
}

#[test]
fn a_token_stays_with_the_hub() {
    let tmp = Tmp::new("token");
    let files = model(100);
    let store = Hub::of(files.clone()).start();
    let hub = Hub { store: Some(store.url()), ..Hub::of(files) }.start();
    fetch(&with_token(settings(&tmp, &hub.url())), "org/tiny").0.expect("fetched");
    let asked = hub.take();
    assert!(asked.len() > 3 && asked.iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));
    let stored = store.take();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].header("authorization"), None);
    assert_eq!(stored[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn a_renamed_repository_is_followed() {
    let tmp = Tmp::new("renamed");
    let hub = Hub::of(model(100));
    let server = Server::start(move |request, _| match request.path.replacen("/old/", "/org/", 1) {
        new if new != request.path => Reply::new(307, "").with("Location", new),
        _ => hub.answer(request),
    });
    let got = fetched(&server, &tmp, "old/tiny");
    assert!(got.path.starts_with(tmp.path().join("models--old--tiny")), "{got:?}");
    assert!(got.path.join("model.safetensors").is_file());
}

#[test]
fn two_at_once_fetch_once() {
    let tmp = Tmp::new("two");
    let hub = Hub::of(model(200_000));
    let server = Server::start(move |request, _| {
        // Slow enough that both ask before the first has it.
        std::thread::sleep(std::time::Duration::from_millis(20));
        hub.answer(request)
    });
    let settings = settings(&tmp, &server.url());
    let both: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..2).map(|_| scope.spawn(|| fetch(&settings, "org/tiny").0.expect("fetched"))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    assert_eq!(both[0], both[1]);
    let stored = server.lines().iter().filter(|l| l.starts_with("GET /store/")).count();
    assert_eq!(stored, 1);
    assert!(!names(&tmp.repo().join("blobs")).iter().any(|n| n.contains("incomplete")));
}
