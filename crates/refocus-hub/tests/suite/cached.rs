//! Without a hub: what is there is used and it is said, what is not there is an error.

use std::net::TcpListener;

use refocus_hub::{HubError, Settings};

use crate::server::{FIRST, Hub, Reply, SECOND, Server};
use crate::support::{Tmp, fetch, fetched, model, settings};

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

fn offline(tmp: &Tmp) -> Settings {
    Settings { offline: Some("HF_HUB_OFFLINE"), ..settings(tmp, &nobody()) }
}

#[test]
fn no_network_and_no_cache() {
    let tmp = Tmp::new("nothing-there");
    let url = nobody();
    let (got, said) = fetch(&settings(&tmp, &url), "org/tiny");
    let e = got.expect_err("no network");
    assert!(e.to_string().starts_with(&format!("cannot reach {url}: ")), "{e}");
    assert_eq!(said, [""; 0]);
}

#[test]
fn no_network_and_a_cache() {
    let tmp = Tmp::new("stale");
    fetched(&Hub::of(model(100)).start(), &tmp, "org/tiny");
    let url = nobody();
    let (got, said) = fetch(&settings(&tmp, &url), "org/tiny");
    assert_eq!(got.expect("cached").path, tmp.snapshot(FIRST));
    assert!(said.len() == 1 && said[0].starts_with(&format!("stale 1111 cannot reach {url}")), "{said:?}");
    // A commit that is whole needs nobody, so nothing is said.
    let (got, said) = fetch(&settings(&tmp, &url), &format!("org/tiny@{FIRST}"));
    assert_eq!((got.expect("cached").path, said), (tmp.snapshot(FIRST), Vec::new()));
    // Another revision was never there.
    assert!(matches!(fetch(&settings(&tmp, &url), "org/tiny@v2").0, Err(HubError::Unreachable { .. })));
}

#[test]
fn an_ill_hub_is_no_hub_and_a_refusal_is_one() {
    let tmp = Tmp::new("ill");
    fetched(&Hub::of(model(100)).start(), &tmp, "org/tiny");
    let ill = Server::start(|_, _| Reply::new(503, ""));
    let (got, said) = fetch(&settings(&tmp, &ill.url()), "org/tiny");
    assert_eq!(got.expect("cached").commit, FIRST);
    assert!(said[0].starts_with("stale 1111 "), "{said:?}");
    assert_eq!(ill.take().len(), 1);
    let refuses = Server::start(|_, _| Reply::new(403, ""));
    let (got, said) = fetch(&settings(&tmp, &refuses.url()), "org/tiny");
    assert!(matches!(got, Err(HubError::Refused { .. })));
    assert_eq!(said, ["earlier 1111"]);
}

#[test]
fn offline_by_wish() {
    let tmp = Tmp::new("offline");
    let e = fetch(&offline(&tmp), "org/tiny").0.expect_err("nothing there");
    let text = format!(
        "org/tiny is not in the cache {}, and HF_HUB_OFFLINE forbids asking the hub",
        tmp.path().display()
    );
    assert_eq!(e.to_string(), text);
    fetched(&Hub::of(model(100)).start(), &tmp, "org/tiny");
    let (got, said) = fetch(&offline(&tmp), "org/tiny");
    assert_eq!((got.expect("cached").path, said), (tmp.snapshot(FIRST), vec!["offline 1111".to_owned()]));
    let by_commit = fetch(&offline(&tmp), &format!("org/tiny@{FIRST}")).0.expect("cached");
    assert_eq!(by_commit.path, tmp.snapshot(FIRST));
}

#[test]
fn offline_with_a_part() {
    let tmp = Tmp::new("part-there");
    fetched(&Hub::of(model(100)).start(), &tmp, "org/tiny");
    std::fs::remove_file(tmp.snapshot(FIRST).join("model.safetensors")).expect("removed");
    let e = fetch(&offline(&tmp), "org/tiny").0.expect_err("not whole");
    assert!(
        matches!(&e, HubError::OfflineIncomplete { missing, .. } if missing == &["model.safetensors"]),
        "{e}"
    );
    // The blob is still there: with a hub it is linked again, not fetched.
    let server = Hub::of(model(100)).start();
    fetched(&server, &tmp, &format!("org/tiny@{FIRST}"));
    assert!(!server.lines().iter().any(|l| l.starts_with("GET /store")));
}

#[test]
fn a_fetch_that_failed_does_not_hide_what_was_whole() {
    let tmp = Tmp::new("hidden");
    fetched(&Hub::of(model(100)).start(), &tmp, "org/tiny");
    let mut hub = Hub::of(model(100));
    hub.refs = [("main", SECOND)].into();
    hub.commits.insert(SECOND, model(5000));
    let broken = Server::start(move |request, _| match request.path.starts_with("/store/") {
        true => Reply { cut: Some(10), ..hub.answer(request) },
        false => hub.answer(request),
    });
    let (got, said) = fetch(&settings(&tmp, &broken.url()), "org/tiny");
    assert!(matches!(got, Err(HubError::Failed { .. })));
    assert_eq!(said.iter().find(|s| s.starts_with("earlier")).map(String::as_str), Some("earlier 1111"));
    assert_eq!(fetch(&offline(&tmp), "org/tiny").0.expect("cached").commit, FIRST);
}

#[test]
fn a_snapshot_that_others_made_is_completed_or_used_as_it_is() {
    let tmp = Tmp::new("others");
    let id = format!("org/tiny@{FIRST}");
    fetched(&Hub::of(model(100)).start(), &tmp, &id);
    // Python marks only what it asked for, and may have left the tokenizer out.
    std::fs::remove_dir_all(tmp.repo().join(".no_exist")).expect("removed");
    std::fs::remove_file(tmp.snapshot(FIRST).join("tokenizer.json")).expect("removed");
    let (got, said) = fetch(&settings(&tmp, &nobody()), &id);
    assert_eq!(got.expect("cached").commit, FIRST);
    assert!(said[0].starts_with("stale 1111 "), "{said:?}");
    let server = Hub::of(model(100)).start();
    fetched(&server, &tmp, &id);
    assert!(tmp.snapshot(FIRST).join("tokenizer.json").is_file());
    server.take();
    fetched(&server, &tmp, &id);
    assert_eq!(server.lines(), [""; 0]);
}

#[test]
#[cfg(unix)]
fn a_whole_cache_is_only_read() {
    use std::os::unix::fs::PermissionsExt;
    let tmp = Tmp::new("read-only");
    let server = Hub::of(model(100)).start();
    fetched(&server, &tmp, "org/tiny");
    let mode = |mode| {
        for folder in [tmp.repo(), tmp.repo().join("refs"), tmp.snapshot(FIRST), tmp.path().join(".locks")] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).expect("mode");
        }
    };
    let times = || std::fs::metadata(tmp.snapshot(FIRST)).and_then(|m| m.modified()).expect("time");
    let before = times();
    mode(0o555);
    let got = fetch(&settings(&tmp, &server.url()), "org/tiny").0;
    mode(0o755);
    assert_eq!(got.expect("fetched").commit, FIRST);
    assert_eq!(times(), before);
}
