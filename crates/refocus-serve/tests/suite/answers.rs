//! What comes out of the server is what the engine makes, whole and streamed, alone and beside others.

use std::ops::ControlFlow;

use refocus_compute::{Cpu, Eager, Isa};
use refocus_model::generate::{Engine, Limits, Output, Request, Sampling, complete};
use refocus_model::{Checkpoint, Model};
use refocus_serve::config::Config;
use refocus_serve::keys::Keys;
use serde_json::{Value, json};

use crate::support::{Up, chat};

/// What a stream says about one choice: text, calls, log-probabilities, reason.
#[derive(Debug, Default, PartialEq)]
struct Told {
    text: String,
    logprobs: Vec<Value>,
    finish: Value,
}

/// The choices of a stream, put together as a client does it.
fn told(events: &[Value], n: usize) -> Vec<Told> {
    let mut all: Vec<Told> = (0..n).map(|_| Told::default()).collect();
    for event in events {
        for choice in event["choices"].as_array().expect("choices") {
            let told = &mut all[choice["index"].as_u64().expect("an index") as usize];
            assert!(told.finish.is_null(), "nothing follows the end of a choice: {choice}");
            let text = choice.pointer("/delta/content").or(choice.get("text"));
            told.text.push_str(text.and_then(Value::as_str).unwrap_or_default());
            told.logprobs.extend(tokens(&choice["logprobs"]));
            told.finish = choice["finish_reason"].clone();
        }
    }
    all
}

/// Log-probabilities of either dialect, one value a token.
fn tokens(logprobs: &Value) -> Vec<Value> {
    if let Some(content) = logprobs["content"].as_array() {
        return content.clone();
    }
    let columns = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
    let Some(n) = logprobs["tokens"].as_array().map(Vec::len) else { return Vec::new() };
    (0..n).map(|i| columns.map(|c| logprobs[c][i].clone()).into_iter().collect()).collect()
}

fn whole(document: &Value) -> Vec<Told> {
    let one = |choice: &Value| Told {
        text: choice
            .pointer("/message/content")
            .unwrap_or(&choice["text"])
            .as_str()
            .expect("text")
            .to_owned(),
        logprobs: tokens(&choice["logprobs"]),
        finish: choice["finish_reason"].clone(),
    };
    document["choices"].as_array().expect("choices").iter().map(one).collect()
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_say_what_whole_answers_say() {
    let up = Up::new().await;
    for more in [
        json!({"max_tokens": 30, "temperature": 0}),
        json!({"max_tokens": 25, "seed": 7, "n": 3}),
        json!({"max_completion_tokens": 40, "seed": -1, "top_p": 0.9, "logprobs": true, "top_logprobs": 3, "n": 2}),
        json!({"max_tokens": 60, "seed": 3, "logprobs": true, "stop": ["a", "er", "\n\n"]}),
        json!({"max_tokens": 20, "seed": 5, "frequency_penalty": 1.5, "presence_penalty": -0.5, "logit_bias": {"40": 5}}),
    ] {
        let n = more["n"].as_u64().unwrap_or(1) as usize;
        let once = up.chat(more.clone()).await.json();
        let streamed =
            with(with(more.clone(), "stream", true.into()), "stream_options", json!({"include_usage": true}));
        let got = up.chat(streamed).await;
        assert_eq!(got.headers["content-type"], "text/event-stream; charset=utf-8");
        let mut events = got.events();
        let last = events.pop().expect("usage");
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &once["usage"]), "{more}");
        assert!(events.iter().all(|e| e["usage"].is_null() && e.get("usage").is_some()));
        assert!(events.iter().all(|e| e["object"] == "chat.completion.chunk" && e["id"] == last["id"]));
        for (i, event) in events[..n].iter().enumerate() {
            let begun = json!({"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null});
            assert_eq!(event["choices"][0], begun, "the role comes first");
        }
        assert_eq!(told(&events, n), whole(&once), "{more}");
        let many = once["usage"]["completion_tokens"].as_u64().expect("a number") > 8;
        assert!(!many || events.len() > n + 4, "it comes in pieces: {more}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_are_streamed_as_they_are_whole() {
    let up = Up::new().await;
    for more in [
        json!({"prompt": "One, two", "max_tokens": 12, "temperature": 0, "logprobs": 3}),
        json!({"prompt": ["One", "Two, three"], "n": 2, "seed": 4, "echo": true}),
        json!({"prompt": [[40, 41], [42]], "seed": 4, "logprobs": 0, "stop": "e"}),
    ] {
        let once = up.complete(more.clone()).await.json();
        let n = once["choices"].as_array().expect("choices").len();
        let events = up.complete(with(more.clone(), "stream", true.into())).await.events();
        assert!(events.iter().all(|e| e["object"] == "text_completion" && e.get("usage").is_none()));
        assert_eq!(told(&events, n), whole(&once), "{more}");
    }
    let echoed = up.complete(json!({"prompt": ["One", "Two, three"], "n": 2, "echo": true})).await.json();
    let texts: Vec<&str> = echoed["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .map(|c| c["text"].as_str().expect("text"))
        .collect();
    assert!(
        texts[..2].iter().all(|t| t.starts_with("One"))
            && texts[2..].iter().all(|t| t.starts_with("Two, three"))
    );
}

/// What the engine alone makes of a request.
fn by_the_library(up: &Up, request: impl FnOnce(&refocus_model::Tokenizer) -> Request) -> Output {
    let checkpoint = Checkpoint::open(up.path()).expect("opens");
    let tokenizer = checkpoint.tokenizer().expect("a tokenizer");
    let mut cpu = Cpu::new(Isa::detect(), 2);
    let model = Model::load(&checkpoint, &mut cpu).expect("loads");
    let mut o = Eager::new(cpu);
    let request = Request { stop: model.spec.eos.clone(), ..request(&tokenizer) };
    let mut engine = Engine::new(&mut o, &model, Some(&tokenizer), Limits::default());
    complete(&mut engine, vec![request], |_| ControlFlow::Continue(())).expect("fits").remove(0).remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_and_log_probabilities_are_the_engines_bits() {
    let up = Up::new().await;
    let more =
        json!({"prompt": "The cat", "max_tokens": 24, "seed": 11, "top_p": 0.9, "top_k": 50, "logprobs": 2});
    let got = up.complete(more).await.json();
    let want = by_the_library(&up, |tokenizer| Request {
        sampling: Sampling { temperature: 1.0, top_p: 0.9, top_k: Some(50), seed: 11, ..Sampling::default() },
        logprobs: Some(2),
        ..Request::new(tokenizer.encode("The cat", true).expect("encodes"), 24)
    });
    let choice = &got["choices"][0];
    assert_eq!(choice["text"], want.text);
    assert_eq!(got["usage"]["completion_tokens"], want.tokens.len());
    let logprobs: Vec<f32> = choice["logprobs"]["token_logprobs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|x| x.as_f64().expect("a number") as f32)
        .collect();
    let wanted: Vec<f32> = want.tokens.iter().map(|t| t.logprob.expect("asked for")).collect();
    assert_eq!(logprobs, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_at_once_get_what_each_gets_alone() {
    let up = Up::new().await;
    let body = |i: usize| {
        json!({
            "messages": [{"role": "user", "content": "word ".repeat(i * 3 + 1)}],
            "seed": i, "temperature": if i.is_multiple_of(3) { 0.0 } else { 1.0 },
            "max_tokens": 5 + i, "n": 1 + i % 2, "logprobs": true, "top_logprobs": 2,
        })
    };
    let bits = |got: &Value| (got["choices"].clone(), got["usage"].clone());
    let mut alone = Vec::new();
    for i in 0..20 {
        alone.push(bits(&up.chat(body(i)).await.json()));
    }
    let up = std::sync::Arc::new(up);
    let together: Vec<_> = (0..20)
        .map(|i| {
            let up = std::sync::Arc::clone(&up);
            tokio::spawn(async move { up.chat(body(i)).await.json() })
        })
        .collect();
    for (i, task) in together.into_iter().enumerate() {
        assert_eq!(bits(&task.await.expect("answers")), alone[i], "request {i}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_string_ends_the_text_before_it() {
    let up = Up::new().await;
    let ask = |stop: Value| json!({"temperature": 0, "max_tokens": 40, "logprobs": true, "stop": stop});
    let free = up.chat(ask(Value::Null)).await.json();
    let text = free["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    assert_eq!(free["choices"][0]["finish_reason"], "length");
    // Something from the middle of what it says.
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..chars.len() / 2 + 3].iter().collect();
    let got = up.chat(ask(json!([stop]))).await.json();
    let choice = &got["choices"][0];
    let said = choice["message"]["content"].as_str().expect("text");
    assert_eq!(said, &text[..text.find(&stop).expect("it is there")]);
    assert_eq!(choice["finish_reason"], "stop");
    // Tokens of the stop string alone are not told, but counted.
    let told = choice["logprobs"]["content"].as_array().expect("tokens");
    let bytes: Vec<u8> = told
        .iter()
        .flat_map(|t| t["bytes"].as_array().expect("bytes"))
        .map(|b| b.as_u64().expect("a byte") as u8)
        .collect();
    // The random model says bytes that are no text.
    assert!(String::from_utf8_lossy(&bytes).starts_with(said), "{bytes:?}");
    assert!(got["usage"]["completion_tokens"].as_u64().expect("a number") >= told.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_keeps_to_its_schema() {
    let up = Up::new().await;
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 1, "maximum": 120}},
        "required": ["name", "age"], "additionalProperties": false,
    });
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": schema}});
    for seed in 0..4 {
        let more = json!({"seed": seed, "max_tokens": 200, "response_format": format});
        let got = up.chat(more).await.json();
        let text = got["choices"][0]["message"]["content"].as_str().expect("text");
        let person: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(person["name"].is_string() && (1..=120).contains(&person["age"].as_i64().expect("whole")));
        assert_eq!(got["choices"][0]["finish_reason"], "stop");
    }
    let more = json!({"seed": 1, "max_tokens": 8, "response_format": {"type": "json_object"}});
    let got = up.chat(more).await.json();
    assert!(got["choices"][0]["message"]["content"].as_str().expect("text").starts_with('{'));
    let broken = json!({"type": "json_schema", "json_schema": {"schema": {"not": {}}}});
    let got = up.chat(json!({"response_format": broken})).await;
    assert_eq!(got.status, 400);
    assert_eq!(got.json()["error"]["param"], "response_format.json_schema.schema");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_begun_is_gone_on_with() {
    let up = Up::new().await;
    let messages = json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Well"}]);
    let got = up
        .chat(json!({"messages": messages, "continue_final_message": true, "add_generation_prompt": false, "temperature": 0, "max_tokens": 9}))
        .await
        .json();
    let prompt = "user: Hello\nassistant: Well";
    let want = up.complete(json!({"prompt": prompt, "temperature": 0, "max_tokens": 9})).await.json();
    assert_eq!(got["choices"][0]["message"]["content"], want["choices"][0]["text"]);
    assert_eq!(got["usage"], want["usage"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_acts_while_generating() {
    let patch = "[[intervention]]\nat = \"blocks.*.attn.hook_z\"\ndo = \"zero\"\n";
    let patched = Up::with(Config::default(), Keys::default(), None, Some(patch)).await;
    let plain = Up::with(Config::default(), Keys::default(), None, None).await;
    let ask = json!({"prompt": "The cat sat on the", "max_tokens": 20, "temperature": 0, "logprobs": 0});
    let (patched, plain) = (patched.complete(ask.clone()).await.json(), plain.complete(ask).await.json());
    assert_ne!(patched["choices"], plain["choices"]);
    assert_ne!(patched["system_fingerprint"], plain["system_fingerprint"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_seed_differ() {
    let up = Up::new().await;
    let one = || async { up.chat(json!({"max_tokens": 20})).await.json()["choices"][0].clone() };
    assert_ne!(one().await, one().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shape_of_a_whole_answer() {
    let up = Up::new().await;
    let got = up.post("/v1/chat/completions", &chat(json!({"max_tokens": 2, "temperature": 0}))).await;
    assert_eq!(got.headers["content-type"], "application/json");
    assert!(got.headers["x-request-id"].to_str().expect("text").starts_with("req_"));
    let got = got.json();
    let keys: Vec<&str> = got.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]);
    assert!(got["id"].as_str().expect("text").starts_with("chatcmpl-"));
    assert_eq!((&got["object"], &got["model"]), (&json!("chat.completion"), &json!("tiny")));
    let choice = got["choices"][0].as_object().expect("an object");
    assert_eq!(choice.keys().collect::<Vec<_>>(), ["index", "message", "logprobs", "finish_reason"]);
    let usage = &got["usage"];
    assert_eq!(usage["completion_tokens"], 2);
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().expect("a number") + 2);
}
