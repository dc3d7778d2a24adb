//! What goes wrong on the way: each ends in one clear error or in the right file.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use refocus_hub::{HubError, Settings};

use crate::server::{FIRST, Hub, Reply, Request, Server, sha256};
use crate::support::{Tmp, fetch, fetched, model, names, refused, settings, with_token};

const SIZE: usize = 3_000_000;

fn is_weights(request: &Request) -> bool {
    request.method == "GET" && request.path.starts_with("/store/")
}

/// A hub whose store answers in its own way: given the right answer and how often it was asked before.
fn with_store(change: impl Fn(Reply, usize) -> Reply + Send + Sync + 'static) -> Server {
    let (hub, asked) = (Hub::of(model(SIZE)), AtomicUsize::new(0));
    Server::start(move |request, _| {
        let reply = hub.answer(request);
        if is_weights(request) { change(reply, asked.fetch_add(1, Ordering::SeqCst)) } else { reply }
    })
}

/// A hub that answers everything in the same way.
fn always(reply: Reply) -> Server {
    Server::start(move |_, _| reply.clone())
}

fn weights_are_right(tmp: &Tmp) {
    let got = std::fs::read(tmp.snapshot(FIRST).join("model.safetensors")).expect("weights");
    assert!(got == model(SIZE)["model.safetensors"]);
}

fn ranges(server: &Server) -> Vec<Option<String>> {
    server.take().iter().filter(|r| is_weights(r)).map(|r| r.header("range").map(str::to_owned)).collect()
}

fn incomplete(tmp: &Tmp) -> std::path::PathBuf {
    let name = format!("{}.incomplete", sha256(&model(SIZE)["model.safetensors"]));
    tmp.repo().join("blobs").join(name)
}

#[test]
fn a_cut_connection_is_gone_on_from() {
    let tmp = Tmp::new("cut");
    let server = with_store(|reply, n| Reply { cut: (n == 0).then_some(1_000_000), ..reply });
    let (got, said) = fetch(&settings(&tmp, &server.url()), "org/tiny");
    got.expect("fetched");
    weights_are_right(&tmp);
    let ranges = ranges(&server);
    assert_eq!(ranges.len(), 2);
    let from = ranges[1].as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    assert!(from.is_some_and(|f: usize| f > 0 && f <= 1_000_000), "{ranges:?}");
    assert!(said[1].starts_with("retry the connection "), "{said:?}");
    assert_eq!(said[2], format!("bytes {}", SIZE + 24));
}

#[test]
fn what_came_before_is_kept_for_the_next_call() {
    let tmp = Tmp::new("kept");
    // Every connection is cut after the same place, so that nothing new comes.
    let server = with_store(|reply, n| Reply { cut: Some(if n == 0 { 500_000 } else { 0 }), ..reply });
    let e = refused(&server, &tmp, "org/tiny");
    let HubError::Failed { tries: 5, url, .. } = &e else { panic!("{e}") };
    assert!(url.ends_with(&format!("/org/tiny/resolve/{FIRST}/model.safetensors")), "{url}");
    assert_eq!(names(&tmp.repo().join("refs")), [""; 0]);
    let have = std::fs::metadata(incomplete(&tmp)).expect("kept").len();
    assert!(have > 0 && have <= 500_000, "{have}");

    let server = Hub::of(model(SIZE)).start();
    let (got, said) = fetch(&settings(&tmp, &server.url()), "org/tiny");
    got.expect("fetched");
    weights_are_right(&tmp);
    assert_eq!(ranges(&server), [Some(format!("bytes={have}-"))]);
    assert!(said.contains(&format!("resumed model.safetensors {have}")), "{said:?}");
    assert!(!incomplete(&tmp).exists());
}

#[test]
fn slow_progress_is_progress() {
    let tmp = Tmp::new("slow");
    let server = with_store(|reply, n| Reply { cut: (n < 2).then_some(1_200_000), ..reply });
    fetched(&server, &tmp, "org/tiny");
    weights_are_right(&tmp);
    assert_eq!(ranges(&server).len(), 3);
}

#[test]
fn a_hub_that_cannot_resume_starts_over() {
    let tmp = Tmp::new("over");
    let server = with_store(|reply, n| match n {
        0 => Reply { cut: Some(700_000), ..reply },
        _ => Reply::new(200, model(SIZE)["model.safetensors"].clone()),
    });
    let (got, said) = fetch(&settings(&tmp, &server.url()), "org/tiny");
    got.expect("fetched");
    weights_are_right(&tmp);
    assert_eq!(said.last(), Some(&format!("bytes {}", SIZE + 24)));
}

#[test]
fn another_part_than_asked_for_is_refused() {
    let tmp = Tmp::new("part");
    let server = with_store(|reply, n| match n {
        0 => Reply { cut: Some(700_000), ..reply },
        _ => Reply::new(206, vec![0; 10]).with("Content-Range", "bytes 5-14/3000000"),
    });
    let e = refused(&server, &tmp, "org/tiny");
    assert!(e.to_string().ends_with("it sends another part of the file than was asked for"), "{e}");
    assert!(incomplete(&tmp).exists());
}

#[test]
fn a_wrong_length() {
    for (change, want) in [(10_i64, SIZE + 10), (-10, SIZE - 10)] {
        let tmp = Tmp::new("length");
        let server = with_store(move |mut reply, _| {
            reply.body.resize((reply.body.len() as i64 + change) as usize, 0);
            reply
        });
        let e = refused(&server, &tmp, "org/tiny");
        assert_eq!(
            e.to_string(),
            format!("org/tiny/model.safetensors: {want} bytes came where {SIZE} were announced")
        );
        assert!(!incomplete(&tmp).exists());
    }
}

#[test]
fn a_wrong_content() {
    let tmp = Tmp::new("content");
    let server = with_store(|mut reply, _| {
        reply.body[SIZE / 2] ^= 1;
        reply
    });
    let e = refused(&server, &tmp, "org/tiny");
    assert!(matches!(&e, HubError::Checksum { .. }), "{e}");
    assert!(e.to_string().starts_with("org/tiny/model.safetensors: its sha256 is "), "{e}");
    assert!(!incomplete(&tmp).exists());
    assert!(!tmp.snapshot(FIRST).join("model.safetensors").exists());
    fetched(&Hub::of(model(SIZE)).start(), &tmp, "org/tiny");
    weights_are_right(&tmp);
}

#[test]
fn a_damaged_beginning_is_noticed_when_resumed() {
    let tmp = Tmp::new("damaged");
    let path = incomplete(&tmp);
    std::fs::create_dir_all(path.parent().expect("blobs")).expect("folder");
    std::fs::write(&path, vec![7; 1000]).expect("half a file");
    let server = Hub::of(model(SIZE)).start();
    assert!(matches!(refused(&server, &tmp, "org/tiny"), HubError::Checksum { .. }));
    fetched(&server, &tmp, "org/tiny");
    weights_are_right(&tmp);
}

#[test]
fn an_incomplete_file_that_is_too_long_starts_over() {
    let tmp = Tmp::new("long");
    let path = incomplete(&tmp);
    std::fs::create_dir_all(path.parent().expect("blobs")).expect("folder");
    std::fs::write(&path, vec![7; SIZE + 1]).expect("too much");
    fetched(&Hub::of(model(SIZE)).start(), &tmp, "org/tiny");
    weights_are_right(&tmp);
}

#[test]
fn a_stall_is_a_cut() {
    let tmp = Tmp::new("stall");
    let server = with_store(|reply, n| {
        let stall = (n == 0).then_some(Duration::from_secs(3));
        Reply { cut: stall.map(|_| 600_000), stall, ..reply }
    });
    let settings = Settings { download_timeout: Duration::from_millis(400), ..settings(&tmp, &server.url()) };
    let (got, said) = fetch(&settings, "org/tiny");
    got.expect("fetched");
    assert_eq!(said[1], "retry no more bytes came in time");
    weights_are_right(&tmp);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk() {
    let tmp = Tmp::new("full");
    let path = incomplete(&tmp);
    std::fs::create_dir_all(path.parent().expect("blobs")).expect("folder");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a full disk");
    let e = refused(&Hub::of(model(SIZE)).start(), &tmp, "org/tiny");
    assert_eq!(
        e.to_string(),
        format!("{}: no space left for {SIZE} more bytes of org/tiny/model.safetensors", path.display())
    );
    assert!(e.hint().is_some_and(|h| h.contains("it goes on from")), "{e:?}");
    assert!(path.is_symlink());
}

#[test]
fn refusals_say_which_token_was_used() {
    let gated = || Reply::new(403, "").with("X-Error-Code", "GatedRepo");
    for (reply, with, without) in [
        (
            Reply::new(401, ""),
            "(401): it does not exist, or it is private or gated; asked with the token of HF_TOKEN",
            "(401): it does not exist, or it is private or gated; asked with no token",
        ),
        (
            gated(),
            "(403): it is gated; asked with the token of HF_TOKEN",
            "(403): it is gated; asked with no token",
        ),
    ] {
        let (tmp, server) = (Tmp::new("refused"), always(reply));
        let e = refused(&server, &tmp, "org/tiny");
        assert!(e.to_string().ends_with(without), "{e}");
        assert!(e.hint().is_some_and(|h| h.contains("HF_TOKEN")), "{e}");
        let e = fetch(&with_token(settings(&tmp, &server.url())), "org/tiny").0.expect_err("refused");
        assert!(e.to_string().ends_with(with), "{e}");
        assert!(!format!("{e} {e:?} {:?}", e.hint()).contains("secret"), "{e:?}");
    }
}

#[test]
fn a_gated_file_of_a_repository_that_can_be_listed() {
    let (tmp, hub) = (Tmp::new("gated"), Hub::of(model(10)));
    let server = Server::start(move |request, _| match request.method.as_str() {
        "HEAD" => Reply::new(403, "").with("X-Error-Code", "GatedRepo"),
        _ => hub.answer(request),
    });
    assert!(matches!(refused(&server, &tmp, "org/tiny"), HubError::Refused { gated: true, .. }));
}

#[test]
fn what_does_not_exist() {
    let (tmp, server) = (Tmp::new("nothing"), Hub::of(model(10)).start());
    let e = refused(&server, &tmp, "org/nothing");
    assert_eq!(e.to_string(), format!("{} has no model org/nothing", server.url()));
    let e = refused(&server, &tmp, "org/tiny@v9");
    assert_eq!(e.to_string(), "org/tiny has no branch, tag or commit 'v9'");
    let plain = always(Reply::new(404, "not found"));
    assert!(matches!(refused(&plain, &tmp, "org/tiny"), HubError::NotFound { .. }));
    // Nothing is left of any of it.
    assert_eq!(names(tmp.path()), [""; 0]);
}

#[test]
fn too_many_requests_then_an_answer() {
    let (tmp, hub) = (Tmp::new("429"), Hub::of(model(10)));
    let server = Server::start(move |request, n| match n {
        0 => Reply::new(429, "").with("Retry-After", "0"),
        1 => Reply::new(503, ""),
        _ => hub.answer(request),
    });
    let (got, said) = fetch(&settings(&tmp, &server.url()), "org/tiny");
    got.expect("fetched");
    assert_eq!(said[..2], ["retry the hub answers 429", "retry the hub answers 503"]);
}

#[test]
fn a_hub_that_is_ill() {
    let (tmp, server) = (Tmp::new("500"), always(Reply::new(500, "")));
    let e = refused(&server, &tmp, "org/tiny");
    let url = format!("{}/api/models/org/tiny/revision/main", server.url());
    assert_eq!(e.to_string(), format!("{url}: the hub answers 500 (5 tries)"));
    assert_eq!(server.take().len(), 5);
    let patient = always(Reply::new(429, "").with("Retry-After", "3600"));
    let e = refused(&patient, &tmp, "org/tiny");
    assert!(e.to_string().ends_with("the hub answers 429 and asks to wait 3600 seconds"), "{e}");
    assert_eq!(patient.take().len(), 1);
}

#[test]
fn answers_that_no_hub_gives() {
    let page = || Reply::new(200, "<html>Log in</html>");
    let json = |text: &str| Reply::new(200, text).with("Content-Type", "application/json");
    let sibling = r#"{"sha": "1111111111111111111111111111111111111111", "siblings": [{"rfilename": "#;
    for (reply, why) in [
        (page().with("Content-Type", "text/html"), "text/html where JSON was expected"),
        (page(), "not the JSON that was expected"),
        (json("{}"), "not the JSON that was expected"),
        (json(r#"{"sha": "../../x", "siblings": []}"#), "the commit that it names is none"),
        (json(&format!("{sibling}3}}]}}")), "not the JSON that was expected"),
    ] {
        let tmp = Tmp::new("answers");
        let e = refused(&always(reply), &tmp, "org/tiny");
        assert!(matches!(&e, HubError::NotAHub { .. }) && e.to_string().contains(why), "{e}");
        assert_eq!(names(tmp.path()), [""; 0]);
    }
    let tmp = Tmp::new("answers");
    let bad = always(json(&format!("{sibling}\"../../x.gguf\"}}]}}")));
    assert!(matches!(refused(&bad, &tmp, "org/tiny"), HubError::BadName { .. }));
    let other = always(json(&format!("{sibling}\"x.gguf\"}}]}}")));
    let e = refused(&other, &tmp, "org/tiny@2222222222222222222222222222222222222222");
    assert!(e.to_string().contains("it answers with another"), "{e}");
    assert_eq!(names(tmp.path()), [""; 0]);
}

#[test]
fn a_page_in_place_of_a_file() {
    let (tmp, hub) = (Tmp::new("page"), Hub::of(model(10)));
    let server = Server::start(move |request, _| match request.method.as_str() {
        "HEAD" => Reply::new(200, "").with("Content-Type", "text/html").with("ETag", "\"x\""),
        _ => hub.answer(request),
    });
    let e = refused(&server, &tmp, "org/tiny");
    assert!(e.to_string().contains("a page of HTML where a file was expected"), "{e}");
}

#[test]
fn an_etag_is_a_file_name_or_refused() {
    for etag in ["\"../../../x\"", "\"\"", "\".x\"", "\"a/b\""] {
        let (tmp, hub) = (Tmp::new("etag"), Hub::of(model(10)));
        let server = Server::start(move |request, _| match request.method.as_str() {
            "HEAD" => Reply::new(200, "").with("ETag", etag),
            _ => hub.answer(request),
        });
        let e = refused(&server, &tmp, "org/tiny");
        assert!(matches!(e, HubError::BadName { what: "ETag", .. }), "{etag}: {e}");
    }
}

#[test]
fn redirects_end() {
    let tmp = Tmp::new("loop");
    let server = Server::start(|request, _| Reply::new(302, "").with("Location", request.path.clone()));
    let e = refused(&server, &tmp, "org/tiny");
    assert!(e.to_string().ends_with("it redirects more than 10 times"), "{e}");
    assert_eq!(server.take().len(), 11);
    let nowhere = always(Reply::new(302, "").with("Location", "file:///etc/passwd"));
    let e = refused(&nowhere, &tmp, "org/tiny");
    assert!(e.to_string().ends_with("it redirects to no address"), "{e}");
}
