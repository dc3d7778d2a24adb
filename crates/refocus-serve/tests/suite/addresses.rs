//! The addresses of the proxy itself, and whether they are as its OpenAPI document says.

use std::collections::BTreeSet;
use std::sync::Arc;

use refocus_serve::keys::Keys;
use refocus_serve::metrics::Metrics;
use refocus_serve::proxy::{OPENAPI, ProxyConfig, router};
use serde_json::{Value, json};

use crate::wire::{self, Message, Server, Upstream};

const ASK: &str = "I am sure that it is Sydney. What is the capital of Australia?";

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("JSON")
}

/// What a value has that its schema does not allow, or lacks.
fn misfits(schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let document = document();
        let found =
            document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} leads nowhere"));
        return misfits(found, value, at, out);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = |one: &Value| {
            let mut inner = Vec::new();
            misfits(one, value, at, &mut inner);
            inner.is_empty()
        };
        if !any.iter().any(fits) {
            out.push(format!("{at}: fits none"));
        }
    }
    if let Some(all) = schema["enum"].as_array()
        && !all.contains(value)
    {
        out.push(format!("{at}: {value} is not among {all:?}"));
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    };
    if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind)) {
        out.push(format!("{at}: {value} is no {kinds:?}"));
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                out.push(format!("{at}: no {name}"));
            }
        }
        for (name, inner) in object {
            match &schema["properties"][name] {
                Value::Null if schema["additionalProperties"] == false => {
                    out.push(format!("{at}: {name} is unknown"))
                }
                Value::Null => (),
                of => misfits(of, inner, &format!("{at}.{name}"), out),
            }
        }
    }
    for (i, inner) in value.as_array().into_iter().flatten().enumerate() {
        if let of @ Value::Object(_) = &schema["items"] {
            misfits(of, inner, &format!("{at}[{i}]"), out);
        }
    }
}

/// Checks an answer against what the document says for its status.
fn check(path: &str, method: &str, got: &Message) {
    let document = document();
    let mut answer = &document["paths"][path][method]["responses"][got.status().to_string()];
    if let Some(name) = answer["$ref"].as_str() {
        answer = document.pointer(name.trim_start_matches('#')).expect("a reference");
    }
    assert!(answer.is_object(), "{method} {path} has no status {} in the document", got.status());
    let kind = got.field("content-type").expect("a type").split(';').next().unwrap_or_default();
    let schema = &answer["content"][kind]["schema"];
    assert!(schema.is_object(), "{method} {path}: {kind} is not in the document");
    if kind == "application/json" {
        let mut out = Vec::new();
        misfits(schema, &got.json(), "$", &mut out);
        assert!(out.is_empty(), "{method} {path}: {out:?}\n{}", got.text());
    }
}

/// A chat model that names these pieces to drop.
fn model(drop: &'static str) -> Upstream {
    let reply = json!({
        "choices": [{"message": {"content": format!("{{\"drop\": {drop}}}")}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 5},
    });
    Upstream::fixed(wire::json(&reply.to_string()))
}

fn before(upstream: &Upstream, model: &str) -> Server {
    let mut config = ProxyConfig::new(upstream.url());
    config.system2.model = model.to_owned();
    Server::start(router(config, Keys::default(), Arc::new(Metrics::default())).expect("a proxy"))
}

#[test]
fn every_reference_leads_somewhere_and_every_name_is_its_own() {
    fn walk(document: &Value, value: &Value, ids: &mut Vec<String>) {
        match value {
            Value::Object(all) => all.iter().for_each(|(key, inner)| {
                if key == "$ref" {
                    let name = inner.as_str().expect("a text").trim_start_matches('#');
                    assert!(document.pointer(name).is_some(), "{name}");
                }
                if key == "operationId" {
                    ids.push(inner.as_str().expect("a text").to_owned());
                }
                walk(document, inner, ids);
            }),
            Value::Array(all) => all.iter().for_each(|inner| walk(document, inner, ids)),
            _ => (),
        }
    }
    let (document, mut ids) = (document(), Vec::new());
    walk(&document, &document, &mut ids);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    assert_eq!(ids.len(), 5);
}

#[test]
fn the_document_is_served_and_each_of_its_paths_is_the_proxy_s_own() {
    let upstream = Upstream::fixed(wire::json("{}"));
    let server = before(&upstream, "m");
    let got = server.ask(b"GET /openapi.json HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!(got.text(), OPENAPI);
    for (path, methods) in document()["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let request = format!(
                "{} {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n[]",
                method.to_uppercase()
            );
            check(path, method, &server.ask(request.as_bytes()));
        }
        let got = server.ask(format!("DELETE {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes());
        assert_eq!((got.status(), got.error_code().as_str()), (405, "method_not_allowed"), "{path}");
    }
    assert!(upstream.seen().is_empty(), "none of these is passed on");
}

#[test]
fn a_rewrite_says_what_is_kept_and_what_is_gone() {
    let upstream = model("[1]");
    let server = before(&upstream, "");
    let got = server.post("/v1/rewrite", "", &json!({"text": ASK, "model": "m"}).to_string());
    check("/v1/rewrite", "post", &got);
    let got = got.json();
    assert_eq!(
        (&got["outcome"], &got["text"]),
        (&json!("applied"), &json!("What is the capital of Australia?"))
    );
    let span = |value: &Value| {
        let at = |name: &str| value[name].as_u64().expect("a number") as usize;
        &ASK[at("start")..at("end")]
    };
    assert!(span(&got["removed"][0]).starts_with("I am sure"));
    assert_eq!(span(&got["kept"][0]), "What is the capital of Australia?");
    assert_eq!(got["usage"]["total_tokens"], 55);

    let document = json!({"text": "It rains. Sydney is large.", "question": "Does it rain?", "model": "m"});
    let got = server.post("/v1/rewrite", "", &document.to_string());
    check("/v1/rewrite", "post", &got);
    assert_eq!(got.json()["text"], "Sydney is large.");

    let upstream = model("[]");
    let server = before(&upstream, "own");
    let got = server.post("/v1/rewrite", "", &json!({"text": ASK}).to_string());
    check("/v1/rewrite", "post", &got);
    assert_eq!(
        (&got.json()["outcome"], &got.json()["reason"]["name"], &got.json()["model"]),
        (&json!("kept"), &json!("clean"), &json!("own"))
    );
}

#[test]
fn what_a_rewrite_cannot_read_is_refused() {
    let upstream = model("[1]");
    let server = before(&upstream, "");
    for (body, param) in [
        ("", None),
        ("[]", None),
        ("{\"text\":1}", Some("body")),
        ("{\"text\":\"a\",\"txt\":\"b\"}", Some("body")),
        ("{\"text\":\"a\"}", Some("model")),
        ("{\"text\":\"a\",\"model\":\"m\",\"variant\":\"best\"}", Some("variant")),
        ("{\"text\":\"a\",\"model\":\"m\",\"variant\":\"single\",\"question\":\"b\"}", Some("variant")),
    ] {
        let got = server.post("/v1/rewrite", "", body);
        check("/v1/rewrite", "post", &got);
        assert_eq!((got.status(), got.json()["error"]["param"].as_str()), (400, param), "{body}");
    }
}

#[test]
fn litellm_gets_all_texts_back_with_the_newest_rewritten() {
    const PATH: &str = "/beta/litellm_basic_guardrail_api";
    let upstream = model("[1]");
    let server = before(&upstream, "m");
    let ask = |more: Value| {
        let mut body = json!({"texts": ["You help.", ASK], "input_type": "request", "litellm_call_id": "1"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let got = server.post(PATH, "", &body.to_string());
        check(PATH, "post", &got);
        got.json()
    };
    let user = json!([{"role": "system", "content": "You help."}, {"role": "user", "content": ASK}]);
    assert_eq!(
        ask(json!({"structured_messages": user})),
        json!({"action": "GUARDRAIL_INTERVENED", "texts": ["You help.", "What is the capital of Australia?"]})
    );
    let tool = json!([{"role": "user", "content": ASK}, {"role": "tool", "content": "You help."}]);
    for more in [
        json!({"structured_messages": user, "input_type": "response"}),
        json!({"structured_messages": user, "images": ["data:"]}),
        json!({"structured_messages": tool}),
        json!({"structured_messages": []}),
        json!({}),
        json!({"texts": ["Hi?"]}),
        json!({"texts": []}),
        json!({"texts": null}),
    ] {
        assert_eq!(ask(more.clone()), json!({"action": "NONE"}), "{more}");
    }
    assert_eq!(ask(json!({"texts": [ASK]}))["action"], "GUARDRAIL_INTERVENED");
}

#[test]
fn litellm_shows_its_key_in_a_header_of_its_own() {
    let upstream = model("[1]");
    let mut config = ProxyConfig::new(upstream.url());
    config.system2.model = "m".to_owned();
    let mut keys = Keys::default();
    keys.add_list("test", "sk-ours").expect("a key");
    let server = Server::start(router(config, keys, Arc::new(Metrics::default())).expect("a proxy"));
    let body = json!({"texts": [ASK], "input_type": "request"}).to_string();
    for (fields, status) in [("x-api-key: sk-ours\r\n", 200), ("x-api-key: sk-theirs\r\n", 401), ("", 401)] {
        assert_eq!(
            server.post("/beta/litellm_basic_guardrail_api", fields, &body).status(),
            status,
            "{fields}"
        );
    }
    assert_eq!(upstream.last().field("authorization"), None, "and it does not go on");
}

#[test]
fn what_these_addresses_rewrite_is_counted_and_logged() {
    let log = std::env::temp_dir().join(format!("refocus-own-log-{}", std::process::id()));
    let _ = std::fs::remove_file(&log);
    let upstream = model("[1]");
    let mut config = ProxyConfig::new(upstream.url());
    config.system2.model = "m".to_owned();
    config.system2.log_file = Some(log.clone());
    let server =
        Server::start(router(config, Keys::default(), Arc::new(Metrics::default())).expect("a proxy"));
    let rewrite = json!({"text": ASK}).to_string();
    server.post("/v1/rewrite", "", &rewrite);
    // The same again is known: counted, and not logged twice.
    server.post("/v1/rewrite", "", &rewrite);
    server.post("/v1/rewrite", "", "{\"text\":1}");
    let text = format!("{ASK} I do not know it.");
    let guarded = json!({"texts": [text], "input_type": "request"}).to_string();
    let got = server.post("/beta/litellm_basic_guardrail_api", "", &guarded);
    assert_eq!(got.status(), 200, "{}", got.text());
    let metrics = server.ask(b"GET /metrics HTTP/1.1\r\nhost: h\r\n\r\n").text();
    for line in [
        "refocus_own_requests_total{address=\"/v1/rewrite\",outcome=\"answered\"} 2",
        "refocus_own_requests_total{address=\"/v1/rewrite\",outcome=\"invalid_value\"} 1",
        "refocus_own_requests_total{address=\"/beta/litellm_basic_guardrail_api\",outcome=\"answered\"} 1",
        "refocus_rewrites_total{outcome=\"applied\"} 3",
        "refocus_rewrite_tokens_total{kind=\"prompt\"} 100",
        "refocus_rewrite_seconds_count 3",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    // The log is written beside the answer.
    let began = std::time::Instant::now();
    let lines = loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().count() == 2 || began.elapsed() > wire::LONG {
            break text;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let _ = std::fs::remove_file(&log);
    let modes: BTreeSet<String> = lines
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["mode"].as_str().expect("a mode").to_owned())
        .collect();
    assert_eq!(modes.into_iter().collect::<Vec<_>>(), ["guardrail", "rewrite"], "{lines}");
    assert!(!lines.contains("Sydney"), "{lines}");
}
