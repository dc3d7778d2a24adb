//! `[rewrite]` of a patch: the model that is served rewrites the newest message, and answers what is left.

use axum::body::Body;
use axum::response::Response;
use refocus_compute::{Cpu, Eager, Isa};
use refocus_model::{ChatTemplate, Checkpoint, Model, Patch};
use refocus_serve::config::Config;
use refocus_serve::keys::Keys;
use refocus_serve::local::{Local, Source};
use refocus_serve::metrics::Metrics;
use refocus_system2::{Options, Request, Rewrite, Variant, rewrite};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{Got, TEMPLATE, Up, chat, whole};
use crate::wire::LONG;

const TEXT: &str = "I like chess a lot. We talked about Oslo for an hour. The capital of Chad has moved to Rome. What is \
                    the capital of Chad?";

async fn served(patch: &str) -> Up {
    Up::with(Config::default(), Keys::default(), Some(TEMPLATE), Some(patch)).await
}

async fn ask(up: &Up, text: &str, headers: &[(&'static str, &str)]) -> Got {
    let body = json!({
        "model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0,
        "logprobs": true,
    });
    let mut request = up.request("POST", "/v1/chat/completions", body.to_string());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    whole(up.send(request).await).await
}

fn choice(got: &Got) -> Value {
    got.json()["choices"][0].clone()
}

/// What the library makes of the text, by the model without a patch.
fn by_the_library(up: &Up, threshold: f64) -> Rewrite {
    let checkpoint = Checkpoint::open(up.path()).expect("opens");
    let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
    let template = ChatTemplate::of(&checkpoint, &tokenizer).expect("a template");
    let mut cpu = Cpu::new(Isa::detect(), 1);
    let model = Model::load(&checkpoint, &mut cpu).expect("loads");
    let mut o = Eager::new(cpu);
    let mut chat = refocus_system2::Local::new("tiny", &mut o, &model, &tokenizer, template.as_ref());
    let options = Options { threshold: Some(threshold), ..Options::new(Variant::Scored) };
    rewrite(&mut chat, &Request::new(TEXT), &options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_loses_the_sentences_that_the_library_takes_from_it() {
    let plain = Up::new().await;
    let mut scores: Vec<f64> =
        by_the_library(&plain, f64::NEG_INFINITY).judged.iter().map(|j| j.score).collect();
    assert_eq!(scores.len(), 3);
    scores.sort_by(f64::total_cmp);
    let threshold = ((scores[0] + scores[1]) / 2.0) as f32;
    let wanted = by_the_library(&plain, f64::from(threshold));
    assert_eq!(wanted.removed.len(), 1);

    // Its other entries do not judge: they would move every score.
    let inside = "[[intervention]]\nat = \"blocks.*.attn.hook_z\"\ndo = \"scale\"\nfactor = 0.5\n";
    let up = served(&format!("{inside}[rewrite]\nvariant = \"scored\"\nthreshold = {threshold}\n")).await;
    let got = ask(&up, TEXT, &[]).await;
    assert_eq!(got.headers["x-refocus-s2a"], "applied");
    let read: u64 = got.headers["x-refocus-prompt-tokens"].to_str().expect("text").parse().expect("a number");
    let usage = got.json()["usage"].clone();
    let answer = usage["refocus"]["answer"]["prompt_tokens"].as_u64().expect("a number");
    assert!(
        read > 0 && usage["refocus"]["rewrite"] == json!({"prompt_tokens": read, "completion_tokens": 0})
    );
    assert_eq!(usage["prompt_tokens"], read + answer);
    assert_eq!(usage["total_tokens"], read + answer + 12);
    let off = [("x-refocus-s2a", "off")];
    assert_eq!(choice(&got), choice(&ask(&up, &wanted.text, &off).await));
    let untouched = ask(&up, TEXT, &off).await;
    assert_eq!(
        (&untouched.headers["x-refocus-s2a"], &untouched.headers["x-refocus-reason"]),
        (&"skipped".parse().expect("a value"), &"off".parse().expect("a value"))
    );
    assert_ne!(choice(&got), choice(&untouched));
    assert_eq!(untouched.json()["usage"].get("refocus"), None);
    let numbers = up.get("/metrics").await;
    let numbers = std::str::from_utf8(&numbers.body).expect("text");
    assert!(numbers.contains("refocus_rewrites_total{outcome=\"applied\"} 1"), "{numbers}");
    // The answer's name tells that there is a rewriting.
    let other = served(&format!("{inside}[rewrite]\nvariant = \"scored\"\nthreshold = 0\n")).await;
    let fingerprint = |got: &Got| got.json()["system_fingerprint"].clone();
    assert_ne!(fingerprint(&got), fingerprint(&ask(&other, "Hello", &[]).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_rewritten_is_answered_as_it_is_and_says_why() {
    let up = served("[rewrite]\nvariant = \"extractive\"\n").await;
    let plain = Up::new().await;
    for (text, reason) in [("Hello", "short"), (TEXT, "no_such_piece")] {
        let got = ask(&up, text, &[]).await;
        assert_eq!(got.headers["x-refocus-s2a"], "skipped");
        let said = got.headers["x-refocus-reason"].to_str().expect("text").to_owned();
        // A random model may name anything; it is the original all the same.
        assert!(said == reason || reason == "no_such_piece", "{said}");
        assert_eq!(choice(&got), choice(&ask(&plain, text, &[]).await));
    }
    let audit = ask(&up, TEXT, &[("x-refocus-s2a", "audit")]).await;
    assert_eq!(
        (audit.status.as_u16(), audit.json()["error"]["param"].clone()),
        (400, json!("x-refocus-s2a"))
    );
    let mut body = json!({"model": "other", "messages": [{"role": "user", "content": TEXT}]});
    let unknown = up.post("/v1/chat/completions", &body).await;
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
    body["model"] = "tiny".into();
    body["stream"] = true.into();
    body["max_tokens"] = 2.into();
    assert!(up.post("/v1/chat/completions", &body).await.headers.contains_key("x-refocus-s2a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_waits_for_its_rewriting_hears_so() {
    let mut config = Config::default();
    config.local.heartbeat_ms = 1;
    let patch = "[rewrite]\nvariant = \"scored\"\nthreshold = 1000\n";
    let up = Up::with(config, Keys::default(), Some(TEMPLATE), Some(patch)).await;
    let body = json!({
        "model": "tiny", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 3, "temperature": 0,
        "stream": true, "stream_options": {"include_usage": true},
    });
    let got = up.post("/v1/chat/completions", &body).await;
    let said = std::str::from_utf8(&got.body).expect("text");
    // The head went out before it was known.
    assert_eq!(got.headers["x-refocus-s2a"], "pending", "{said}");
    assert!(said.starts_with(": refocus is rewriting\n\n"), "{said}");
    assert!(said.contains(r#""x-refocus-s2a":"applied""#) && said.ends_with("data: [DONE]\n\n"), "{said}");
    assert!(said.contains(r#""refocus":{"#), "{said}");
}

/// A chat to the router itself, which goes as far as it is polled.
fn direct(up: &Up, more: &Value) -> impl Future<Output = Response> + use<> {
    let body = Body::from(chat(more.clone()).to_string());
    let request = axum::extract::Request::post("/v1/chat/completions").body(body).expect("a request");
    let answer = up.local.router().oneshot(request);
    async { answer.await.expect("an answer") }
}

async fn of(answer: Response) -> Value {
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    serde_json::from_slice::<Value>(&body).expect("JSON")["choices"][0].clone()
}

#[tokio::test]
async fn seeds_are_drawn_in_the_order_of_arrival() {
    // The first takes its time to be prepared.
    let asked =
        [json!({"max_tokens": 8, "response_format": {"type": "json_object"}}), json!({"max_tokens": 8})];
    let up = Up::new().await;
    let wanted = [of(direct(&up, &asked[0]).await).await, of(direct(&up, &asked[1]).await).await];
    let up = Up::new().await;
    let mut first = Box::pin(direct(&up, &asked[0]));
    tokio::select! {
        biased;
        _ = &mut first => panic!("it was answered at once"),
        () = std::future::ready(()) => (),
    }
    let second = of(direct(&up, &asked[1]).await).await;
    assert_eq!([of(first.await).await, second], wanted);
    // What is asked to rewrite a message draws nothing.
    let ask = json!({"max_tokens": 8, "messages": [{"role": "user", "content": TEXT}]});
    let patched = served("[rewrite]\nvariant = \"extractive\"\n").await;
    let got = direct(&patched, &ask).await;
    assert_eq!(got.headers()["x-refocus-s2a"], "skipped");
    assert_eq!(of(got).await, of(direct(&Up::new().await, &ask).await).await);
}

/// With a single place: the rewriting and the answer behind it take the same.
#[tokio::test]
async fn a_rewriting_takes_a_place_until_it_ends() {
    let mut config = Config::default();
    config.local.requests = 1;
    let patch = "[rewrite]\nvariant = \"scored\"\nthreshold = 1000\n";
    let up = Up::with(config, Keys::default(), Some(TEMPLATE), Some(patch)).await;
    let ask = |text: String| json!({"max_tokens": 2, "messages": [{"role": "user", "content": text}]});
    let got = direct(&up, &ask(TEXT.to_owned())).await;
    assert_eq!(
        (got.status().as_u16(), &got.headers()["x-refocus-s2a"]),
        (200, &"applied".parse().expect("a value"))
    );

    // The engine gives a place back just after the last word of an answer.
    let free = || async { while up.get("/health").await.json()["requests"] != 0 {} };
    tokio::time::timeout(LONG, free()).await.expect("the place is given back");
    let long = ask(format!("{} What is the capital of Chad?", "It rained in Oslo all day. ".repeat(60)));
    let mut slow = Box::pin(direct(&up, &long));
    tokio::select! {
        biased;
        _ = &mut slow => panic!("it was answered at once"),
        () = std::future::ready(()) => (),
    }
    assert_eq!(up.get("/health").await.json()["requests"], 1);
    assert_eq!(direct(&up, &long).await.status().as_u16(), 429);
    drop(slow);
    // What goes on for who left ends, and the place is free.
    tokio::time::timeout(LONG, free()).await.expect("the place is given back");
}

#[test]
fn a_model_without_a_template_has_no_messages_to_rewrite() {
    let folder = crate::support::model(None);
    let checkpoint = Checkpoint::open(folder.path()).expect("opens");
    let text = "[rewrite]\nvariant = \"scored\"\n";
    let patch = Some(Patch::parse(text, "p.toml".as_ref(), checkpoint.spec()).expect("a patch"));
    let source =
        Source { checkpoint, name: "tiny".to_owned(), patch, isa: Isa::detect(), threads: 1, seed: 0 };
    let refused = Local::start(source, &Config::default(), Keys::default(), Metrics::default().into());
    let why = refused.expect_err("no chats").to_string();
    assert_eq!(
        why,
        "p.toml: [rewrite] changes the messages of a chat, and the model brings no chat template"
    );
}
