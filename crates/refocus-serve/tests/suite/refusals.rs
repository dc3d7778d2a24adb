//! What is refused, and how: OpenAI's shape, the right status, the field to blame.

use axum::http::Method;
use refocus_serve::config::Config;
use refocus_serve::keys::Keys;
use serde_json::{Value, json};

use crate::support::{Up, chat, whole};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_its_status_and_code() {
    let config = Config { body_limit: 4000, ..Config::default() };
    let up = Up::with(config, Keys::default(), Some("{{ messages[0].content }}"), None).await;
    let long = "x".repeat(5000);
    for (method, path, body, status, code, param) in [
        ("POST", "/v1/chat/completions", "{".to_owned(), 400, "invalid_json", Value::Null),
        ("POST", "/v1/chat/completions", "\u{0}".to_owned(), 400, "invalid_json", Value::Null),
        ("POST", "/v1/completions", "[1]".to_owned(), 400, "invalid_json", Value::Null),
        (
            "POST",
            "/v1/chat/completions",
            chat(json!({"model": "../../etc/passwd"})).to_string(),
            404,
            "model_not_found",
            json!("model"),
        ),
        (
            "POST",
            "/v1/chat/completions",
            chat(json!({"temperature": "x"})).to_string(),
            400,
            "invalid_value",
            json!("temperature"),
        ),
        (
            "POST",
            "/v1/chat/completions",
            chat(json!({"audio": {}})).to_string(),
            400,
            "unsupported_parameter",
            json!("audio"),
        ),
        (
            "POST",
            "/v1/chat/completions",
            chat(json!({"logit_bias": {"99999": 1}})).to_string(),
            400,
            "invalid_value",
            json!("logit_bias"),
        ),
        (
            "POST",
            "/v1/chat/completions",
            chat(json!({"n": 100})).to_string(),
            400,
            "invalid_value",
            json!("n"),
        ),
        (
            "POST",
            "/v1/chat/completions",
            chat(json!({"tools": [{"type": "function", "function": {"name": "f"}}]})).to_string(),
            400,
            "unsupported_parameter",
            json!("tools"),
        ),
        (
            "POST",
            "/v1/completions",
            json!({"model": "tiny", "prompt": [[1], [99999]]}).to_string(),
            400,
            "invalid_value",
            json!("prompt[1]"),
        ),
        (
            "POST",
            "/v1/completions",
            json!({"model": "tiny", "prompt": ""}).to_string(),
            400,
            "invalid_value",
            json!("prompt"),
        ),
        ("POST", "/v1/completions", long, 413, "request_too_large", Value::Null),
        ("GET", "/v1/models/other/name", String::new(), 404, "model_not_found", json!("model")),
        ("GET", "/v1/models/%ff", String::new(), 404, "model_not_found", json!("model")),
        ("GET", "/v2/models", String::new(), 404, "unknown_url", Value::Null),
        ("GET", "/v1/completions", String::new(), 405, "method_not_allowed", Value::Null),
        ("DELETE", "/v1/models", String::new(), 405, "method_not_allowed", Value::Null),
    ] {
        let got = whole(up.send(up.request(method, path, body.clone())).await).await;
        assert_eq!(got.status, status, "{method} {path} {body:.80}");
        assert_eq!(got.headers["content-type"], "application/json");
        let error = got.json();
        assert_eq!((&error["error"]["code"], &error["error"]["param"]), (&json!(code), &param), "{body:.80}");
        assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string());
    }
    // It is as good as before.
    assert_eq!(up.chat(json!({"max_tokens": 1})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_beyond_the_context() {
    let up = Up::new().await;
    for stream in [false, true] {
        let got = up.complete(json!({"prompt": vec![5; 40_001], "stream": stream})).await;
        assert_eq!(got.status, 400);
        let error = got.json();
        assert_eq!(error["error"]["code"], "context_length_exceeded");
        assert_eq!(error["error"]["message"], "the prompt has 40001 tokens, the model's context is 40000");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_template_says_reaches_the_client_without_paths() {
    let template = "{{ raise_exception('roles must alternate') }}";
    let up = Up::with(Config::default(), Keys::default(), Some(template), None).await;
    let got = up.chat(json!({})).await;
    assert_eq!(got.status, 400);
    let message = got.json()["error"]["message"].clone();
    assert_eq!(message, "the chat template refuses the messages: roles must alternate");
    let up = Up::with(Config::default(), Keys::default(), None, None).await;
    let error = up.chat(json!({})).await.json();
    assert_eq!(error["error"]["param"], "messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_only_health_is_told() {
    let mut keys = Keys::default();
    keys.add_list("test", "sk-right").expect("a key");
    let up = Up::with(Config::default(), keys, None, None).await;
    let ask = |path: &'static str, key: Option<&'static str>| {
        let mut request = up.request("GET", path, "");
        if let Some(key) = key {
            let value = format!("Bearer {key}").parse().expect("a header");
            request.headers_mut().insert("authorization", value);
        }
        up.send(request)
    };
    assert_eq!(ask("/health", None).await.status(), 200);
    for path in ["/v1/models", "/metrics", "/nowhere"] {
        for key in [None, Some("sk-wrong"), Some("")] {
            let got = whole(ask(path, key).await).await;
            assert_eq!(got.status, 401, "{path} {key:?}");
            assert_eq!(got.json()["error"]["code"], "invalid_api_key");
            assert!(!String::from_utf8_lossy(&got.body).contains("sk-"), "no key is repeated");
        }
    }
    assert_eq!(ask("/v1/models", Some("sk-right")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_health_and_metrics() {
    let up = Up::new().await;
    let models = up.get("/v1/models").await.json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "tiny");
    assert_eq!(up.get("/v1/models/tiny").await.json(), models["data"][0]);
    assert_eq!(up.get("/health").await.json(), json!({"status": "ok", "model": "tiny", "requests": 0}));
    let usage = up.chat(json!({"max_tokens": 3, "temperature": 0})).await.json()["usage"].clone();
    let got = up.get("/metrics").await;
    assert_eq!(got.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(got.body.to_vec()).expect("UTF-8");
    for line in [
        format!("refocus_prompt_tokens_total {}\n", usage["prompt_tokens"]),
        "refocus_completion_tokens_total 3\n".to_owned(),
        "refocus_requests_total{address=\"/v1/chat/completions\",status=\"200\"} 1\n".to_owned(),
        "refocus_first_token_seconds_count 1\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    let head = whole(up.send(up.request(Method::HEAD.as_str(), "/v1/models", "")).await).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}
