//! `POST /v1/completions`.

use serde_json::{Value, json};

use super::fields::Fields;
use super::shared::{MOST_CHOICES, Shared};
use crate::error::{ApiError, ApiResult};

/// New tokens where nothing is said.
const USUAL_NEW: usize = 16;
/// Most likely tokens that are told at most of an answer of any length.
const USUAL_TOP: u64 = 5;

/// What a text begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text; the model's special tokens are added.
    Text(String),
    /// Token ids, used as they are.
    Ids(Vec<u32>),
}

/// Texts to go on with.
#[derive(Clone, Debug)]
pub struct CompletionRequest {
    /// What chats have too.
    pub shared: Shared,
    /// One or several; each has `n` choices.
    pub prompts: Vec<Prompt>,
    /// `Some(n)`: log-probabilities of each token and of the `n` most likely ones at its place.
    pub logprobs: Option<usize>,
    /// Whether the text of a choice begins with the prompt.
    pub echo: bool,
}

impl CompletionRequest {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// It is no JSON object, lacks a field, has one of a wrong type or value, or one that is not supported.
    pub fn parse(body: &[u8]) -> ApiResult<Self> {
        let mut fields = Fields::parse(body)?;
        let mut shared = Shared::read(&mut fields)?;
        let prompts = prompts(fields.value("prompt"))?;
        let choices = prompts.len() as u64 * u64::from(shared.n);
        if choices > MOST_CHOICES {
            let text = format!(
                "{} prompts with n = {} are more than {MOST_CHOICES} choices",
                prompts.len(),
                shared.n
            );
            return Err(ApiError::invalid("prompt", text));
        }
        let new = fields.count("max_tokens", 1, u64::MAX)?;
        shared.max_new = Some(new.map_or(USUAL_NEW, |n| usize::try_from(n).unwrap_or(usize::MAX)));
        let logprobs = fields.count("logprobs", 0, shared.most_top(choices, USUAL_TOP))?.map(|n| n as usize);
        let echo = fields.get("echo", "true or false")?.unwrap_or(false);
        if echo && logprobs.is_some() {
            return Err(ApiError::unsupported("echo", "echo together with logprobs is not supported here"));
        }
        fields.only(&[("best_of", json!(shared.n)), ("suffix", json!(""))])?;
        fields.finish()?;
        Ok(Self { shared, prompts, logprobs, echo })
    }
}

fn prompts(value: Option<Value>) -> ApiResult<Vec<Prompt>> {
    let what = "a text, a list of texts, a list of token ids or a list of such lists";
    let wrong = || ApiError::invalid("prompt", format!("prompt must be {what}"));
    let one = |value: Value| match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        list @ Value::Array(_) => serde_json::from_value(list).map(Prompt::Ids).map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    match value {
        None => Err(ApiError::invalid("prompt", format!("prompt is missing: it must be {what}"))),
        Some(Value::Array(list)) if list.first().is_some_and(|v| !v.is_number()) => {
            list.into_iter().map(one).collect()
        }
        Some(Value::Array(list)) if list.is_empty() => Err(wrong()),
        Some(value) => Ok(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: Value) -> ApiResult<CompletionRequest> {
        CompletionRequest::parse(body.to_string().as_bytes())
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let of = |prompt: Value| parse(json!({"model": "m", "prompt": prompt})).map(|r| r.prompts);
        let text = |t: &str| Prompt::Text(t.to_owned());
        assert_eq!(of(json!("a")).expect("a text"), [text("a")]);
        assert_eq!(of(json!(["a", "b"])).expect("texts"), [text("a"), text("b")]);
        assert_eq!(of(json!([1, 2])).expect("ids"), [Prompt::Ids(vec![1, 2])]);
        assert_eq!(of(json!([[1], [2, 3]])).expect("lists"), [Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]);
        for wrong in [json!([]), json!(7), json!([1, "a"]), json!([{"a": 1}]), json!([1.5]), json!([-1])] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_field_to_blame_is_named() {
        for (more, param) in [
            (json!({"suffix": "x"}), "suffix"),
            (json!({"best_of": 3}), "best_of"),
            (json!({"logprobs": 6}), "logprobs"),
            (json!({"echo": true, "logprobs": 0}), "echo"),
            (json!({"prompt": ["a", "b"], "n": 100}), "prompt"),
            (json!({"messages": []}), "messages"),
        ] {
            let mut body = json!({"model": "m", "prompt": "a"});
            if let (Value::Object(body), Value::Object(more)) = (&mut body, more.clone()) {
                body.extend(more);
            }
            let error = parse(body).expect_err(&more.to_string()).body();
            assert_eq!(error["error"]["param"], param, "{more}");
        }
    }
}
