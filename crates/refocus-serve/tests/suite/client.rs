//! The client for other servers: against our own, and against one that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use refocus_serve::HttpChat;
use refocus_serve::client::{Tells, Upstream, Way};
use refocus_serve::config::Config;
use refocus_system2::{Ask, Chat, ChatError, Finish, Message, together};
use serde_json::{Value, json};

use crate::support::{Up, run};

/// Runs a blocking client beside the server.
async fn with_client<T: Send + 'static>(
    upstream: Upstream,
    call: impl FnOnce(&mut HttpChat) -> T + Send + 'static,
) -> T {
    let run = move || call(&mut HttpChat::new(upstream).expect("a client"));
    // A runtime of its own is not dropped within another.
    std::thread::spawn(run).join().unwrap_or_else(|_| panic!("the client failed"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_scores_come_through() {
    let up = Up::new().await;
    let more = json!({"max_tokens": 9, "temperature": 0, "logprobs": true, "top_logprobs": 20});
    let want = up.chat(more).await.json();
    let upstream = Upstream::new(format!("http://{}/v1/", up.address), "tiny");
    let likely: Vec<(String, f64)> = want["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|t| (t["token"].as_str().expect("text").to_owned(), t["logprob"].as_f64().expect("a number")))
        .collect();
    let asked = likely.clone();
    let (reply, scores, none) = with_client(upstream, move |chat| {
        let messages = [Message::user("Hello")];
        let reply = chat.complete(&Ask::new(&messages, 9)).expect("answers");
        let texts = [asked[3].0.as_str(), asked[0].0.as_str()];
        let scores = chat.score(&messages, &texts).expect("scores");
        (reply, scores, chat.score(&messages, &["no token at all"]))
    })
    .await;
    assert_eq!(reply.text, want["choices"][0]["message"]["content"]);
    assert_eq!((reply.finish, reply.usage.completion), (Finish::Length, 9));
    assert_eq!(scores.0, [likely[3].1, likely[0].1]);
    assert_eq!(scores.1.completion, 1);
    assert!(matches!(none, Err(ChatError::Cannot { .. })), "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_client_learns_all_know_that_ask_beside_it() {
    let up = Up::new().await;
    let upstream = Upstream { at_once: 3, ..Upstream::new(format!("http://{}/v1", up.address), "tiny") };
    let (texts, alone, known) = with_client(upstream, |chat| {
        assert_eq!(chat.at_once(), 3);
        let ask = |seed: u64| {
            move |chat: &mut dyn Chat| {
                let messages = [Message::user("Hello")];
                let ask = Ask { seed, temperature: 1.0, ..Ask::new(&messages, 8) };
                chat.complete(&ask).expect("answers").text
            }
        };
        let texts = together(chat, (0..3).map(ask).collect());
        let known = chat.fingerprints();
        let alone: Vec<String> = (0..3).map(|seed| ask(seed)(chat)).collect();
        (texts, alone, known)
    })
    .await;
    assert_eq!(texts, alone);
    assert_eq!(known.len(), 1, "{known:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_and_a_seed_come_through() {
    let up = Up::new().await;
    let upstream = Upstream::new(format!("http://{}/v1", up.address), "tiny");
    let texts = with_client(upstream, |chat| {
        let messages = [Message::user("Hello")];
        let schema = json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": false});
        let ask = Ask { schema: Some(&schema), temperature: 1.0, seed: u64::MAX, ..Ask::new(&messages, 100) };
        [chat.complete(&ask).expect("answers").text, chat.complete(&ask).expect("answers").text]
    })
    .await;
    let value: Value = serde_json::from_str(&texts[0]).expect("JSON");
    assert!(value == json!({"a": 1}) || value == json!({"a": 2}));
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_answers_are_as_likely_as_the_server_s_own_tokens_say() {
    let up = Up::new().await;
    // A random model writes halves of characters, which no text has: it is made to write a letter. One, for it would
    // not write two as its tokenizer does. Its log-probability is that without the bias.
    let ascii: serde_json::Map<String, Value> = (40..60).map(|id| (id.to_string(), 100.into())).collect();
    let more = json!({"max_tokens": 1, "temperature": 0, "logprobs": true, "logit_bias": ascii});
    let want = up.chat(more).await.json();
    let tokens = want["choices"][0]["logprobs"]["content"].as_array().expect("tokens");
    let bytes = |t: &Value| {
        t["bytes"]
            .as_array()
            .expect("bytes")
            .iter()
            .map(|b| b.as_u64().expect("a byte") as u8)
            .collect::<Vec<_>>()
    };
    let whole: Vec<&Value> = tokens.iter().take_while(|t| String::from_utf8(bytes(t)).is_ok()).collect();
    let text = String::from_utf8(whole.iter().flat_map(|t| bytes(t)).collect()).expect("UTF-8");
    assert!(!text.is_empty(), "{tokens:?}");
    let sum: f64 = whole.iter().map(|t| t["logprob"].as_f64().expect("a number")).sum();
    let upstream = Upstream::new(format!("http://{}/v1", up.address), "tiny");
    let raw = up.complete(json!({"max_tokens": 1, "temperature": 0, "logprobs": 5})).await.json();
    let likely = raw["choices"][0]["logprobs"]["top_logprobs"][0].as_object().expect("likely").clone();
    let (tells, choice, scored, named) = with_client(upstream, move |chat| {
        let messages = [Message::user("Hello")];
        let before = chat.choose(&messages, "", &["a"]);
        assert!(matches!(before, Err(ChatError::Cannot { .. })), "nothing is known yet: {before:?}");
        let tells = chat.find_out().expect("answers");
        let other = format!("{text}\u{2603}");
        let choice = chat.choose(&messages, "", &[&text, &other]).expect("scores");
        let mut two = likely.iter();
        let [a, b] = [two.next().expect("one"), two.next().expect("two")];
        let (known, _) = chat.prefers("Once", [a.0, b.0]).expect("scores");
        let want = [a.1, b.1].map(|l| l.as_f64().expect("a number"));
        (tells, choice, (known, want), chat.models().expect("models"))
    })
    .await;
    assert_eq!(tells, Tells::Behind(Way::Fields));
    assert!((choice.scores[0] - sum).abs() < 1e-4, "{choice:?} {sum}");
    assert!(choice.most.is_empty() || choice.most[0] - choice.scores[0] < 0.05, "{choice:?}");
    assert!(choice.scores[1] < choice.scores[0] && choice.frame == 0.0);
    for (known, want) in scored.0.iter().zip(scored.1) {
        assert!((known.logprob - want).abs() < 1e-6 && known.is_told(), "{known:?} {want}");
    }
    assert_eq!(named, ["tiny"]);
}

const CHATTY: &str = r#"{"choices": [{"message": {"content": "One two"}, "finish_reason": "length", "logprobs": {"content": [
    {"token": "One", "logprob": -0.5, "top_logprobs": [{"token": "One", "logprob": -0.5}]},
    {"token": " two", "logprob": -0.25, "top_logprobs": [{"token": " two", "logprob": -0.25}]}]}}]}"#;
const UNKNOWN: &str = r#"{"error": {"message": "unknown field"}}"#;

/// What a server tells that gives these answers.
async fn told(answers: &'static [(u16, &'static str)]) -> Result<Tells, String> {
    let (url, _) = failing(answers).await;
    let mut upstream = Upstream::new(url, "m");
    upstream.tries = 1;
    with_client(upstream, |chat| chat.find_out().map_err(|e| e.to_string())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_begins_a_new_answer_is_not_taken_at_its_word() {
    // It tells log-probabilities, and answers anew whatever it is given: no beginning is gone on with.
    assert_eq!(told(&[(200, CHATTY)]).await, Ok(Tells::First));
    // The same where it refuses the fields, and where it gives none but for the usual number of tokens.
    assert_eq!(told(&[(400, UNKNOWN), (200, CHATTY), (200, CHATTY), (400, UNKNOWN)]).await, Ok(Tells::First));
    assert_eq!(told(&[(200, GOOD)]).await, Ok(Tells::Nothing));
    assert_eq!(told(&[(400, UNKNOWN)]).await, Ok(Tells::Nothing));
    assert_eq!(told(&[(401, UNKNOWN)]).await, Err("m: status 401: unknown field".to_owned()));
    // It goes on only where the last message alone tells it to.
    const NEXT: &str = r#"{"choices": [{"message": {"content": " two"}, "logprobs": {"content": [
        {"token": " two", "logprob": -0.26, "top_logprobs": [{"token": " two", "logprob": -0.26}]}]}}]}"#;
    let answers = &[(200, CHATTY), (200, CHATTY), (400, UNKNOWN), (200, NEXT)];
    assert_eq!(told(answers).await, Ok(Tells::Behind(Way::LastMessage)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_whether_another_request_or_another_time_may_be_answered() {
    async fn error(answers: &'static [(u16, &'static str)]) -> ChatError {
        let (url, _) = failing(answers).await;
        let upstream = Upstream { tries: 2, ..Upstream::new(url, "m") };
        with_client(upstream, |chat| chat.complete(&Ask::new(&[Message::user("Hello")], 5)))
            .await
            .expect_err("an error")
    }
    assert!(matches!(error(&[(400, UNKNOWN)]).await, ChatError::Refused { .. }));
    assert!(matches!(error(&[(503, "")]).await, ChatError::Unreachable { .. }));
    assert!(matches!(error(&[(404, UNKNOWN)]).await, ChatError::Failed { .. }));
    // A schema that a server does not know costs one answer, and is not asked for again.
    let (url, n) = failing(&[(400, UNKNOWN), (200, GOOD)]).await;
    let schema = json!({"type": "object"});
    with_client(Upstream::new(url, "m"), move |chat| {
        let messages = [Message::user("Hello")];
        for _ in 0..2 {
            let ask = Ask { schema: Some(&schema), ..Ask::new(&messages, 5) };
            assert!(matches!(chat.complete(&ask), Err(ChatError::Cannot { .. })));
        }
    })
    .await;
    assert_eq!(n.load(Ordering::Relaxed), 2);
}

/// A server that gives these answers, the last one for ever.
async fn failing(answers: &'static [(u16, &'static str)]) -> (String, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let answer = move |State(asked): State<Arc<AtomicU32>>, _body: String| async move {
        let n = asked.fetch_add(1, Ordering::Relaxed) as usize;
        let (status, body) = answers[n.min(answers.len() - 1)];
        if status == 0 {
            std::future::pending::<()>().await;
        }
        (StatusCode::from_u16(status).expect("a status"), [("retry-after", "0")], body).into_response()
    };
    let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::clone(&asked));
    let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
    let (address, _, _) = run(&config, router, || {}).await;
    (format!("http://{address}/v1"), asked)
}

const GOOD: &str = r#"{"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}"#;
const NEWER: &str = r#"{"error": {"message": "use the other", "param": "max_tokens"}}"#;

async fn asked(url: String, change: impl FnOnce(&mut Upstream)) -> Result<String, String> {
    let mut upstream = Upstream::new(url, "m");
    change(&mut upstream);
    with_client(upstream, |chat| {
        let messages = [Message::user("Hello")];
        chat.complete(&Ask::new(&messages, 5)).map(|r| r.text).map_err(|e| e.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_pass_is_tried_again_and_nothing_else() {
    let (url, n) = failing(&[(503, "x"), (429, "{}"), (200, GOOD)]).await;
    assert_eq!(asked(url, |_| {}).await, Ok("yes".to_owned()));
    assert_eq!(n.load(Ordering::Relaxed), 3);
    let (url, n) = failing(&[(500, "{}")]).await;
    assert_eq!(asked(url, |u| u.tries = 2).await, Err("m: status 500: no reason given".to_owned()));
    assert_eq!(n.load(Ordering::Relaxed), 2);
    let (url, n) = failing(&[(401, r#"{"error": {"message": "no\u0000 key"}}"#)]).await;
    assert_eq!(asked(url, |_| {}).await, Err("m: status 401: no key".to_owned()));
    assert_eq!(n.load(Ordering::Relaxed), 1);
    let (url, _) = failing(&[(400, NEWER), (200, GOOD)]).await;
    assert_eq!(asked(url, |_| {}).await, Ok("yes".to_owned()));
    let (url, _) = failing(&[(200, "<html>")]).await;
    assert!(asked(url, |_| {}).await.expect_err("no JSON").starts_with("m: the answer is no JSON"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let (url, _) = failing(&[(0, "")]).await;
    let deadline = Duration::from_millis(200);
    assert_eq!(asked(url, |u| u.deadline = deadline).await, Err("no answer within 200 ms".to_owned()));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let error = asked(format!("http://{gone}/v1"), |u| u.tries = 1).await.expect_err("nobody is there");
    assert!(error.starts_with("m: "), "{error}");
}

#[test]
fn what_is_no_url_is_refused() {
    for url in ["", "localhost:8080", "ftp://x/v1", "http://a b/v1"] {
        assert!(HttpChat::new(Upstream::new(url, "m")).is_err(), "{url}");
    }
}
