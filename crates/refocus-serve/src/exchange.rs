//! The words of a chat call over OpenAI's interface: what is asked, and what an answer says.

use axum::http::StatusCode;
use refocus_system2::{Ask, ChatError, Finish, Message, Reply, Role, Usage};
use serde_json::{Map, Value, json};

/// Name of the limit on new tokens that most servers know.
pub(crate) const OLD_LIMIT: &str = "max_tokens";
/// Name that newer models of OpenAI take instead.
const NEW_LIMIT: &str = "max_completion_tokens";
/// Log-probabilities of so many tokens are the most that the interface allows.
pub(crate) const TOP: usize = 20;
/// More tokens than any answer takes.
const MOST_TOKENS: u64 = 1 << 40;
/// Most characters of an error that are repeated.
const MOST_TOLD: usize = 500;

/// A request for an answer; `limit` is the name of the limit on new tokens.
pub(crate) fn completion(model: &str, limit: &str, ask: &Ask<'_>) -> Value {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", model.into());
    set("messages", json!(ask.messages));
    set(limit, ask.max_new.into());
    set("temperature", f64::from(ask.temperature).into());
    if ask.temperature > 0.0 {
        set("top_p", f64::from(ask.top_p).into());
        // The interface has signed seeds.
        set("seed", (ask.seed as i64).into());
    }
    if let Some(schema) = ask.schema {
        let named = json!({"name": "answer", "strict": true, "schema": schema});
        set("response_format", json!({"type": "json_schema", "json_schema": named}));
    }
    Value::Object(body)
}

/// A request for the log-probabilities of an answer's first token.
pub(crate) fn scoring(model: &str, limit: &str, messages: &[Message], top: usize) -> Value {
    json!({"model": model, "messages": messages, limit: 1, "temperature": 0, "logprobs": true, "top_logprobs": top})
}

/// The request of [`scoring`] for what follows the beginning of an answer. Servers want to be told in different ways.
pub(crate) fn behind(
    model: &str,
    limit: &str,
    messages: &[Message],
    begun: &str,
    told: bool,
    top: usize,
) -> Value {
    let begun = Message { role: Role::Assistant, content: begun.to_owned() };
    let messages: Vec<&Message> = messages.iter().chain([&begun]).collect();
    let mut body = json!({
        "model": model, "messages": messages, limit: 1, "temperature": 0, "logprobs": true, "top_logprobs": top,
    });
    if let Some(body) = body.as_object_mut().filter(|_| told) {
        body.insert("add_generation_prompt".to_owned(), false.into());
        body.insert("continue_final_message".to_owned(), true.into());
    }
    body
}

/// A request for what follows a text, and for the log-probabilities of `top` tokens there.
pub(crate) fn following(model: &str, text: &str, max_new: usize, top: Option<usize>) -> Value {
    let mut body = json!({"model": model, "prompt": text, OLD_LIMIT: max_new, "temperature": 0});
    if let (Some(body), Some(top)) = (body.as_object_mut(), top) {
        body.insert("logprobs".to_owned(), top.into());
    }
    body
}

/// A token that may come next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Likely {
    pub(crate) bytes: Vec<u8>,
    pub(crate) logprob: f64,
}

/// What a chat's answer tells of one token: its bytes, or those of its text.
fn likely(token: &Value) -> Option<Likely> {
    let byte = |b: &Value| b.as_u64().and_then(|b| u8::try_from(b).ok());
    let bytes = token.get("bytes").and_then(Value::as_array).and_then(|b| b.iter().map(byte).collect());
    let text = || token.get("token").and_then(Value::as_str).map(|t| t.as_bytes().to_vec());
    Some(Likely { bytes: bytes.or_else(text)?, logprob: token.get("logprob")?.as_f64()? })
}

/// The tokens of a chat's answer, where it tells their log-probabilities.
pub(crate) fn written(answer: &Value) -> Option<Vec<Likely>> {
    let content = answer.pointer("/choices/0/logprobs/content")?.as_array()?;
    content.iter().map(likely).collect()
}

/// The likeliest first tokens of a chat's answer, where it tells them.
pub(crate) fn first(answer: &Value) -> Option<Vec<Likely>> {
    let top = answer.pointer("/choices/0/logprobs/content/0/top_logprobs")?.as_array()?;
    top.iter().map(likely).collect()
}

/// The likeliest tokens behind a text, where they are told.
pub(crate) fn first_behind_text(answer: &Value) -> Option<Vec<Likely>> {
    let top = answer.pointer("/choices/0/logprobs/top_logprobs/0")?.as_object()?;
    let one = |(text, logprob): (&String, &Value)| {
        Some(Likely { bytes: text.as_bytes().to_vec(), logprob: logprob.as_f64()? })
    };
    top.iter().map(one).collect()
}

/// What follows a text, and what that took.
///
/// # Errors
/// The answer has no text.
pub(crate) fn text(model: &str, answer: &Value) -> Result<(String, Usage), ChatError> {
    let text = answer.pointer("/choices/0/text").and_then(Value::as_str);
    let odd = || ChatError::Failed { model: model.to_owned(), why: "the answer has no text".to_owned() };
    Ok((text.ok_or_else(odd)?.to_owned(), usage(answer)))
}

/// Gives the limit its newer name, and returns it.
pub(crate) fn rename_limit(body: &mut Value) -> &'static str {
    if let Some(body) = body.as_object_mut()
        && let Some(limit) = body.shift_remove(OLD_LIMIT)
    {
        body.insert(NEW_LIMIT.to_owned(), limit);
    }
    NEW_LIMIT
}

/// An answer that is none.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) why: String,
    /// Where it is not 2xx.
    pub(crate) status: Option<StatusCode>,
    /// Field that the server blames.
    pub(crate) param: Option<String>,
}

/// The JSON of an answer.
///
/// # Errors
/// The server refused, or what it sent is no JSON.
pub(crate) fn read(status: StatusCode, body: &[u8]) -> Result<Value, Refused> {
    if status.is_success() {
        let broken = |e| Refused { why: format!("the answer is no JSON: {e}"), status: None, param: None };
        return serde_json::from_slice(body).map_err(broken);
    }
    let told: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = told.pointer("/error/message").and_then(Value::as_str).unwrap_or("no reason given");
    let message: String = message.chars().filter(|c| !c.is_control()).take(MOST_TOLD).collect();
    let param = told.pointer("/error/param").and_then(Value::as_str).map(str::to_owned);
    Err(Refused { why: format!("status {}: {message}", status.as_u16()), status: Some(status), param })
}

/// What the model wrote.
///
/// # Errors
/// The answer has no message.
pub(crate) fn reply(model: &str, answer: &Value) -> Result<Reply, ChatError> {
    let odd = |what| ChatError::Failed { model: model.to_owned(), why: format!("the answer has no {what}") };
    let choice = answer.pointer("/choices/0").ok_or_else(|| odd("choice"))?;
    let message = choice.get("message").ok_or_else(|| odd("message"))?;
    let text = |key: &str| message.get(key).and_then(Value::as_str);
    let cut = choice.get("finish_reason").and_then(Value::as_str) == Some("length");
    Ok(Reply {
        text: text("content").or(text("refusal")).unwrap_or_default().to_owned(),
        finish: if cut { Finish::Length } else { Finish::Stop },
        usage: usage(answer),
    })
}

/// Log-probabilities of texts that are each one of the most likely first tokens; the interface tells no others.
///
/// # Errors
/// The server tells none, or one of the texts is not among them.
pub(crate) fn scores(model: &str, answer: &Value, answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
    let cannot = |what| ChatError::Cannot { model: model.to_owned(), what };
    let top = answer.pointer("/choices/0/logprobs/content/0/top_logprobs").and_then(Value::as_array);
    let top = top.ok_or_else(|| cannot("tell log-probabilities"))?;
    let of = |text: &str| {
        let same = |t: &&Value| t.get("token").and_then(Value::as_str) == Some(text);
        top.iter().find(same).and_then(|t| t.get("logprob")?.as_f64())
    };
    let scores: Option<Vec<f64>> = answers.iter().map(|text| of(text)).collect();
    let what = "score an answer that is not one of its most likely first tokens";
    Ok((scores.ok_or_else(|| cannot(what))?, usage(answer)))
}

/// Tokens that an answer took, 0 where it does not say. No answer takes more than [`MOST_TOKENS`]; without a bound, a
/// server that counts nonsense would make sums overflow.
pub(crate) fn usage(answer: &Value) -> Usage {
    let count = |name: &str| answer.pointer(name).and_then(Value::as_u64).unwrap_or(0).min(MOST_TOKENS);
    Usage { prompt: count("/usage/prompt_tokens"), completion: count("/usage/completion_tokens") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_beyond_all_sense_can_still_be_added_up() {
        let answer = json!({"usage": {"prompt_tokens": u64::MAX, "completion_tokens": 3}});
        assert_eq!(usage(&answer), Usage { prompt: MOST_TOKENS, completion: 3 });
    }
}
