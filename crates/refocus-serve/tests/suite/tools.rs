//! Tools: what the model is shown, and calls that it is made to make.

use serde_json::{Value, json};

use crate::support::Up;

fn tools() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"], "additionalProperties": false,
    });
    json!([
        {"type": "function", "function": {"name": "weather", "description": "d", "parameters": parameters}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_call_is_a_call() {
    let up = Up::new().await;
    let one = json!({"type": "function", "function": {"name": "weather"}});
    for (choice, names) in [(one, vec!["weather"]), (json!("required"), vec!["weather", "now"])] {
        for seed in 0..3 {
            let ask =
                json!({"tools": tools(), "tool_choice": choice, "seed": seed, "max_tokens": 300, "n": 2});
            let got = up.chat(ask.clone()).await.json();
            let mut streamed = ask;
            streamed["stream"] = true.into();
            let events = up.chat(streamed).await.events();
            for choice in got["choices"].as_array().expect("choices") {
                assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
                assert!(choice["message"]["content"].is_null());
                let call = &choice["message"]["tool_calls"][0];
                let name = call["function"]["name"].as_str().expect("a name");
                assert!(names.contains(&name) && call["type"] == "function");
                let arguments = call["function"]["arguments"].as_str().expect("text");
                let arguments: Value = serde_json::from_str(arguments).expect("JSON");
                let good = ["Paris", "Rome"].map(|c| json!({"city": c}));
                assert!(if name == "weather" { good.contains(&arguments) } else { arguments == json!({}) });
                // The stream has the same call.
                let of_choice = |e: &&Value| e["choices"][0]["index"] == choice["index"];
                let deltas: Vec<&Value> = events.iter().filter(of_choice).collect();
                let told: Vec<&Value> =
                    deltas.iter().filter_map(|e| e.pointer("/choices/0/delta/tool_calls/0")).collect();
                assert_eq!(told.len(), 1);
                assert_eq!((&told[0]["function"], &told[0]["index"]), (&call["function"], &json!(0)));
                assert_eq!(deltas.last().expect("an end")["choices"][0]["finish_reason"], "tool_calls");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_shown_unless_none_is_to_be_called() {
    let up = Up::new().await;
    let tokens = |got: Value| got["usage"]["prompt_tokens"].as_u64().expect("a number");
    let ask = |choice: &str| json!({"tools": tools(), "tool_choice": choice, "max_tokens": 1});
    let without = tokens(up.chat(json!({"max_tokens": 1})).await.json());
    assert_eq!(tokens(up.chat(ask("none")).await.json()), without);
    assert!(tokens(up.chat(ask("auto")).await.json()) > without);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_make_no_sense_are_named() {
    let up = Up::new().await;
    for (more, param) in [
        (json!({"tools": [{"type": "custom"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}), "tools[0].function.name"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]}),
            "tools[0].function.parameters",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": "some"}), "tool_choice"),
        (
            json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
        (json!({"tools": tools(), "response_format": {"type": "json_object"}}), "response_format"),
    ] {
        let got = up.chat(more.clone()).await;
        assert_eq!(got.status, 400, "{more}");
        assert_eq!(got.json()["error"]["param"], param, "{more}");
    }
}
