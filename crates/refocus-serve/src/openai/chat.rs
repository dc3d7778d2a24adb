//! `POST /v1/chat/completions`.

use serde_json::{Map, Value, json};

use super::fields::{Fields, kind};
use super::messages;
use super::shared::Shared;
use super::tools::{ToolChoice, Tools};
use crate::error::{ApiError, ApiResult};

/// Most likely tokens that are told at most of an answer of any length.
const USUAL_TOP: u64 = 20;

/// A chat to go on with.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// What completions have too.
    pub shared: Shared,
    /// Messages as chat templates read them: contents are texts, arguments of calls are objects.
    pub messages: Vec<Value>,
    /// Tools that the model may call.
    pub tools: Option<Tools>,
    /// What the answer must be.
    pub format: Format,
    /// `Some(n)`: log-probabilities of each token and of the `n` most likely ones at its place.
    pub logprobs: Option<usize>,
    /// Variables for the chat template.
    pub variables: Map<String, Value>,
    /// Whether the answer goes on within the last message.
    pub continues: bool,
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Any text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON of a schema.
    Schema(Value),
}

impl ChatRequest {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// It is no JSON object, lacks a field, has one of a wrong type or value, or one that is not supported.
    pub fn parse(body: &[u8]) -> ApiResult<Self> {
        let mut fields = Fields::parse(body)?;
        let mut shared = Shared::read(&mut fields)?;
        let messages: Vec<Value> = fields.need("messages", "a list of messages")?;
        let messages = messages::prepared(messages)?;
        let old = fields.count("max_tokens", 1, u64::MAX)?;
        let new = fields.count("max_completion_tokens", 1, u64::MAX)?;
        shared.max_new = new.or(old).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let wanted = fields.get("logprobs", "true or false")?.unwrap_or(false);
        let top = fields.count("top_logprobs", 0, shared.most_top(u64::from(shared.n), USUAL_TOP))?;
        if top.is_some() && !wanted {
            return Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs: true"));
        }
        let variables = fields.get("chat_template_kwargs", "an object")?.unwrap_or_default();
        let continues = fields.get("continue_final_message", "true or false")?.unwrap_or(false);
        fields.only(&[
            ("modalities", json!(["text"])),
            ("add_generation_prompt", json!(!continues)),
            ("verbosity", json!("medium")),
        ])?;
        let tools = Tools::read(&mut fields)?;
        let format = format(fields.value("response_format"))?;
        if tools.is_some() && format != Format::Text {
            let text = "response_format and tools exclude each other here, unless tool_choice is none";
            return Err(ApiError::unsupported("response_format", text));
        }
        let forced = |t: &Tools| matches!(t.choice, ToolChoice::Required | ToolChoice::One(_));
        if continues && tools.as_ref().is_some_and(forced) {
            let text = "continue_final_message and a tool_choice that asks for a call exclude each other";
            return Err(ApiError::invalid("continue_final_message", text));
        }
        fields.finish()?;
        Ok(Self {
            shared,
            messages,
            tools,
            format,
            logprobs: wanted.then(|| top.unwrap_or(0) as usize),
            variables,
            continues,
        })
    }
}

fn format(value: Option<Value>) -> ApiResult<Format> {
    let at = "response_format";
    let Some(value) = value else { return Ok(Format::Text) };
    let Some(name) = value.get("type").and_then(Value::as_str) else {
        return Err(ApiError::invalid(at, "response_format must be an object with a type"));
    };
    match name {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::JsonObject),
        "json_schema" => {
            let missing = || {
                let text = "response_format.json_schema.schema is missing: it must be a JSON schema";
                ApiError::invalid("response_format.json_schema.schema", text)
            };
            let schema = value.pointer("/json_schema/schema").ok_or_else(missing)?;
            if !schema.is_object() {
                let text =
                    format!("response_format.json_schema.schema must be an object, not {}", kind(schema));
                return Err(ApiError::invalid("response_format.json_schema.schema", text));
            }
            Ok(Format::Schema(schema.clone()))
        }
        _ => {
            let text = format!("response_format.type is text, json_object or json_schema, not {name:.80}");
            Err(ApiError::unsupported("response_format.type", text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: Value) -> ApiResult<ChatRequest> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        ChatRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn what_is_usual_is_openais() {
        let chat = parse(json!({"user": "u", "metadata": {}, "stop": null})).expect("reads");
        assert_eq!(chat.shared.sampling.temperature, 1.0);
        assert_eq!((chat.shared.n, chat.shared.seed, chat.shared.max_new), (1, None, None));
        assert!(!chat.shared.stream && chat.logprobs.is_none() && chat.format == Format::Text);
    }

    #[test]
    fn the_field_to_blame_is_named() {
        for (body, param) in [
            (json!({"temperature": "hot"}), "temperature"),
            (json!({"temperature": 3}), "temperature"),
            (json!({"top_p": -0.1}), "top_p"),
            (json!({"n": 0}), "n"),
            (json!({"n": 1.5}), "n"),
            (json!({"max_tokens": -1}), "max_tokens"),
            (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
            (json!({"stop": [""]}), "stop"),
            (json!({"stop": 3}), "stop"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias"),
            (json!({"logit_bias": {"1": 101}}), "logit_bias"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21, "max_tokens": 3, "n": 2}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 1001, "max_tokens": 1}), "top_logprobs"),
            (json!({"stream_options": {"include_usage": true}}), "stream_options"),
            (json!({"stream": true, "stream_options": {"usage": true}}), "stream_options"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema.schema"),
            (json!({"audio": {"voice": "x"}}), "audio"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
            (json!({"functions": []}), "functions"),
            (json!({"web_search_options": {}}), "web_search_options"),
            (json!({"prediction": {}}), "prediction"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"model": 7}), "model"),
        ] {
            let error = parse(body.clone()).expect_err(&body.to_string()).body();
            assert_eq!(error["error"]["param"], param, "{body}: {error}");
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        for body in ["", "{", "[]", "nul", "{\"model\": \"m\"} x", "\u{1}"] {
            let error = ChatRequest::parse(body.as_bytes()).expect_err(body);
            assert_eq!(error.known_as(), Some("invalid_json"), "{body}");
        }
        assert!(ChatRequest::parse(b"\xff{}").is_err());
    }
}
