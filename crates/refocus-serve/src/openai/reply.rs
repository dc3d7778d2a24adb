//! Answers in the two dialects, whole and as events of a stream.

use refocus_system2::Usage;
use serde_json::{Map, Value, json};

use super::tools::ToolCall;

/// The last event of every stream that ended well.
pub(crate) const DONE: &str = "data: [DONE]\n\n";
/// What stands for a log-probability of −∞, which JSON cannot say.
const IMPOSSIBLE: f64 = -9999.0;

/// Which dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Of chats.
    Chat,
    /// Of completions.
    Text,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageCount {
    /// Of all prompts, each once.
    pub prompt: usize,
    /// New ones, of all choices. A token that ended a text counts unless it is the model's end of sequence.
    pub completion: usize,
}

impl UsageCount {
    /// With what rewriting the request took, the numbers are sums and a breakdown stands beside them, as in the proxy.
    fn json(self, rewrite: Option<Usage>) -> Value {
        let kinds =
            |prompt: u64, completion: u64| json!({"prompt_tokens": prompt, "completion_tokens": completion});
        let (prompt, completion) = (self.prompt as u64, self.completion as u64);
        let all = rewrite.unwrap_or_default();
        let mut out = kinds(prompt + all.prompt, completion + all.completion);
        out["total_tokens"] = (prompt + all.prompt + completion + all.completion).into();
        if let Some(r) = rewrite {
            let (rewrite, answer) = (kinds(r.prompt, r.completion), kinds(prompt, completion));
            out["refocus"] = json!({"rewrite": rewrite, "answer": answer});
        }
        out
    }
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    /// Its text; bytes that are no text are `U+FFFD` here.
    pub token: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm.
    pub logprob: f32,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub this: Likely,
    /// The most likely ones at its place, best first.
    pub top: Vec<Likely>,
    /// Where it begins in the text, in characters.
    pub offset: usize,
}

/// A part of a choice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// Text, and the tokens that it is of where log-probabilities are wanted.
    Text { text: String, logprobs: Vec<TokenLogprob> },
    /// A call of a tool.
    Call(ToolCall),
    /// The end and its reason.
    End(&'static str),
}

/// One of the answers to a request.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    text: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
    finish: Option<&'static str>,
}

impl Choice {
    /// Begins with a text.
    pub(crate) fn after(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }

    /// Its text, and whether a limit on its length ended it.
    pub(crate) fn said(&self) -> (&str, bool) {
        (&self.text, self.finish == Some("length"))
    }

    pub(crate) fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Text { text, logprobs } => {
                self.text.push_str(&text);
                self.logprobs.extend(logprobs);
            }
            Piece::Call(call) => self.calls.push(call),
            Piece::End(reason) => self.finish = Some(reason),
        }
    }
}

/// What all parts of an answer have in common.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Dialect.
    pub shape: Shape,
    /// Names the answer.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Name of the model.
    pub model: String,
    /// Names weights and patch.
    pub fingerprint: String,
    /// Whether log-probabilities are told.
    pub logprobs: bool,
    /// Whether a stream ends with the usage.
    pub usage: bool,
    /// Tokens that rewriting the request took, where it was.
    pub rewrite: Option<Usage>,
}

impl Reply {
    /// The whole answer.
    pub fn whole(&self, choices: Vec<Choice>, usage: UsageCount) -> Value {
        let one = |(index, c): (usize, Choice)| match self.shape {
            Shape::Chat => {
                let mut message = Map::new();
                message.insert("role".to_owned(), "assistant".into());
                // A message that only calls tools has no content.
                let silent = c.text.is_empty() && !c.calls.is_empty();
                message.insert("content".to_owned(), if silent { Value::Null } else { c.text.into() });
                message.insert("refusal".to_owned(), Value::Null);
                if !c.calls.is_empty() {
                    let calls = c.calls.iter().map(|call| call_json(call, false)).collect();
                    message.insert("tool_calls".to_owned(), Value::Array(calls));
                }
                json!({
                    "index": index,
                    "message": message,
                    "logprobs": self.logprobs_json(&c.logprobs),
                    "finish_reason": c.finish,
                })
            }
            Shape::Text => json!({
                "index": index,
                "text": c.text,
                "logprobs": self.logprobs_json(&c.logprobs),
                "finish_reason": c.finish,
            }),
        };
        let choices = choices.into_iter().enumerate().map(one).collect();
        let object = match self.shape {
            Shape::Chat => "chat.completion",
            Shape::Text => "text_completion",
        };
        let mut out = self.head(object, choices);
        out.insert("usage".to_owned(), usage.json(self.rewrite));
        Value::Object(out)
    }

    /// The event that begins a choice: the role, or the text of the prompt where it is to be repeated.
    pub(crate) fn begin(&self, index: usize, echo: &str) -> Option<String> {
        match self.shape {
            Shape::Chat => Some(self.event(index, json!({"role": "assistant", "content": ""}), &[], None)),
            Shape::Text if echo.is_empty() => None,
            Shape::Text => Some(self.event(index, echo.into(), &[], None)),
        }
    }

    /// The event of a part of a choice.
    pub(crate) fn piece(&self, index: usize, piece: &Piece) -> String {
        match (piece, self.shape) {
            (Piece::Text { text, logprobs }, Shape::Chat) => {
                self.event(index, json!({"content": text}), logprobs, None)
            }
            (Piece::Text { text, logprobs }, Shape::Text) => {
                self.event(index, text.as_str().into(), logprobs, None)
            }
            (Piece::Call(call), _) => {
                self.event(index, json!({"tool_calls": [call_json(call, true)]}), &[], None)
            }
            (Piece::End(reason), Shape::Chat) => self.event(index, json!({}), &[], Some(reason)),
            (Piece::End(reason), Shape::Text) => self.event(index, "".into(), &[], Some(reason)),
        }
    }

    /// The events after the last choice has ended.
    pub(crate) fn end(&self, usage: UsageCount) -> String {
        let mut out = String::new();
        if self.usage {
            let mut chunk = self.head(self.chunk(), Vec::new());
            chunk.insert("usage".to_owned(), usage.json(self.rewrite));
            out = format!("data: {}\n\n", Value::Object(chunk));
        }
        out + DONE
    }

    fn chunk(&self) -> &'static str {
        match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        }
    }

    fn head(&self, object: &str, choices: Vec<Value>) -> Map<String, Value> {
        let pairs = [
            ("id", self.id.as_str().into()),
            ("object", object.into()),
            ("created", self.created.into()),
            ("model", self.model.as_str().into()),
            ("system_fingerprint", self.fingerprint.as_str().into()),
            ("choices", Value::Array(choices)),
        ];
        pairs.map(|(k, v)| (k.to_owned(), v)).into_iter().collect()
    }

    fn event(&self, index: usize, new: Value, logprobs: &[TokenLogprob], finish: Option<&str>) -> String {
        let key = match self.shape {
            Shape::Chat => "delta",
            Shape::Text => "text",
        };
        let logprobs = if logprobs.is_empty() { Value::Null } else { self.logprobs_json(logprobs) };
        let choice = json!({"index": index, key: new, "logprobs": logprobs, "finish_reason": finish});
        let mut chunk = self.head(self.chunk(), vec![choice]);
        if self.usage {
            chunk.insert("usage".to_owned(), Value::Null);
        }
        format!("data: {}\n\n", Value::Object(chunk))
    }

    fn logprobs_json(&self, tokens: &[TokenLogprob]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        match self.shape {
            Shape::Chat => {
                let one =
                    |l: &Likely| json!({"token": l.token, "logprob": finite(l.logprob), "bytes": l.bytes});
                let token = |t: &TokenLogprob| {
                    let mut out = one(&t.this);
                    out["top_logprobs"] = t.top.iter().map(one).collect();
                    out
                };
                json!({"content": tokens.iter().map(token).collect::<Vec<_>>(), "refusal": null})
            }
            Shape::Text => {
                let top = |t: &TokenLogprob| {
                    // The token that was taken is among them in any case. Different bytes may look the same as
                    // text: the more likely one stays.
                    let mut map = Map::new();
                    for l in t.top.iter().chain([&t.this]) {
                        map.entry(l.token.clone()).or_insert_with(|| finite(l.logprob));
                    }
                    Value::Object(map)
                };
                json!({
                    "tokens": tokens.iter().map(|t| t.this.token.as_str()).collect::<Vec<_>>(),
                    "token_logprobs": tokens.iter().map(|t| finite(t.this.logprob)).collect::<Vec<_>>(),
                    "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
                    "text_offset": tokens.iter().map(|t| t.offset).collect::<Vec<_>>(),
                })
            }
        }
    }
}

/// The shortest spelling that is this number in f32.
fn finite(logprob: f32) -> Value {
    let short = logprob.is_finite().then(|| logprob.to_string().parse::<f64>().ok()).flatten();
    short.unwrap_or(IMPOSSIBLE).into()
}

/// In streams calls have their index.
fn call_json(call: &ToolCall, indexed: bool) -> Value {
    let mut out = json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    });
    if indexed {
        out["index"] = call.index.into();
    }
    out
}
