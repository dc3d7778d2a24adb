//! Messages of a chat as templates read them.

use serde_json::{Map, Value};

use super::fields::kind;
use crate::error::{ApiError, ApiResult};

/// Messages at most.
const MOST: usize = 4096;

/// Checks messages and makes their contents texts.
pub(super) fn prepared(messages: Vec<Value>) -> ApiResult<Vec<Value>> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "messages is empty, there must be one at least"));
    }
    if messages.len() > MOST {
        return Err(ApiError::invalid("messages", format!("messages has more than {MOST} entries")));
    }
    messages.into_iter().enumerate().map(|(i, m)| message(i, m)).collect()
}

fn message(i: usize, message: Value) -> ApiResult<Value> {
    let at = format!("messages[{i}]");
    let Value::Object(mut message) = message else {
        return Err(ApiError::invalid(&at, format!("{at} must be an object, not {}", kind(&message))));
    };
    message.retain(|_, v| !v.is_null());
    let role = message.get("role").and_then(Value::as_str).map(str::to_owned);
    let Some(role) = role else {
        let param = format!("{at}.role");
        return Err(ApiError::invalid(&param, format!("{param} must be system, user, assistant or tool")));
    };
    match role.as_str() {
        "system" | "user" | "assistant" | "tool" => {}
        // The newer name of the same; templates know the older one.
        "developer" => {
            message.insert("role".to_owned(), "system".into());
        }
        _ => {
            let param = format!("{at}.role");
            let text = format!("{param} must be system, user, assistant or tool, not {role:.80}");
            return Err(ApiError::unsupported(param, text));
        }
    }
    for key in ["audio", "function_call"] {
        if message.contains_key(key) {
            let param = format!("{at}.{key}");
            return Err(ApiError::unsupported(&param, format!("{param} is not supported here")));
        }
    }
    calls(&at, &mut message)?;
    let text = match message.shift_remove("content") {
        Some(content) => text(&format!("{at}.content"), content)?,
        // A model that only calls tools says nothing.
        None if role == "assistant" => String::new(),
        None => {
            let param = format!("{at}.content");
            return Err(ApiError::invalid(&param, format!("{param} is missing")));
        }
    };
    message.insert("content".to_owned(), text.into());
    Ok(message.into())
}

/// A content that is a text, or parts of which all are.
fn text(at: &str, content: Value) -> ApiResult<String> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => {
            let text = format!("{at} must be a text or a list of parts, not {}", kind(&other));
            return Err(ApiError::invalid(at, text));
        }
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let text = match kind {
            "text" => part.get("text"),
            "refusal" => part.get("refusal"),
            "" => return Err(ApiError::invalid(&at, format!("{at} must be an object with a type"))),
            _ => {
                let param = format!("{at}.type");
                let text = format!("{kind:.80} is not supported: the model reads text only");
                return Err(ApiError::unsupported(param, text));
            }
        };
        let Some(text) = text.and_then(Value::as_str) else {
            return Err(ApiError::invalid(format!("{at}.text"), format!("{at}.text must be a text")));
        };
        texts.push(text);
    }
    Ok(texts.join("\n"))
}

/// Arguments of earlier calls come as JSON in a text; templates write them as JSON and would do so twice.
fn calls(at: &str, message: &mut Map<String, Value>) -> ApiResult<()> {
    let Some(calls) = message.get_mut("tool_calls") else { return Ok(()) };
    let param = format!("{at}.tool_calls");
    let wrong = || {
        let text =
            format!("{param} must be a list of calls, objects with function.name and function.arguments");
        ApiError::invalid(&param, text)
    };
    for call in calls.as_array_mut().ok_or_else(wrong)? {
        let function = call.get_mut("function").and_then(Value::as_object_mut).ok_or_else(wrong)?;
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(wrong());
        }
        let arguments = function.get("arguments").and_then(Value::as_str).ok_or_else(wrong)?;
        if let Ok(object @ Value::Object(_)) = serde_json::from_str(arguments) {
            function.insert("arguments".to_owned(), object);
        }
    }
    if calls.as_array().is_some_and(Vec::is_empty) {
        message.shift_remove("tool_calls");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn contents_become_texts_and_arguments_objects() {
        let got = prepared(vec![
            json!({"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            json!({"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
            ]}),
            json!({"role": "tool", "tool_call_id": "1", "content": "2"}),
        ])
        .expect("prepared");
        assert_eq!(got[0], json!({"role": "system", "content": "a\nb"}));
        assert_eq!(got[1]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        assert_eq!(got[1]["content"], "");
        assert_eq!(got[2]["content"], "2");
    }

    #[test]
    fn what_is_no_text_is_named() {
        for (message, param) in [
            (json!("hi"), "messages[0]"),
            (json!({"content": "hi"}), "messages[0].role"),
            (json!({"role": "function", "content": "hi"}), "messages[0].role"),
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "user", "content": 7}), "messages[0].content"),
            (json!({"role": "user", "content": ["a"]}), "messages[0].content[0]"),
            (
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
                "messages[0].content[0].type",
            ),
            (json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text"),
            (json!({"role": "assistant", "audio": {"id": "x"}}), "messages[0].audio"),
            (json!({"role": "assistant", "tool_calls": [{}]}), "messages[0].tool_calls"),
        ] {
            let error = prepared(vec![message.clone()]).expect_err(&message.to_string()).body();
            assert_eq!(error["error"]["param"], param, "{message}");
        }
    }
}
