//! The fields that chats and completions share.

use std::collections::BTreeMap;
use std::sync::Arc;

use refocus_model::generate::Sampling;
use serde_json::{Value, json};

use super::fields::Fields;
use crate::error::{ApiError, ApiResult};

/// Stop strings at most.
const MOST_STOPS: usize = 16;
/// Choices of a request at most.
pub(super) const MOST_CHOICES: u64 = 128;
/// Fields about whoever asks, about storage and about caches elsewhere: they change no answer here.
const IGNORED: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
];

/// What chats and completions have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Name of the model.
    pub model: String,
    /// New tokens at most.
    pub max_new: Option<usize>,
    /// How tokens are chosen. Its seed is 0 where none was given.
    pub sampling: Sampling,
    /// The seed as it was given.
    pub seed: Option<u64>,
    /// How many samples of each prompt.
    pub n: u32,
    /// Strings that end a text.
    pub stop: Arc<[String]>,
    /// Whether the answer is a stream of events.
    pub stream: bool,
    /// Whether the stream ends with the usage.
    pub include_usage: bool,
}

/// Most likely tokens that a short answer may have told of each of its own, beyond what OpenAI tells.
const MOST_TOP: u64 = 1000;
/// New tokens of a short answer, all choices together.
const SHORT: u64 = 4;

impl Shared {
    /// Most likely tokens that may be told of each new one, where `usual` is the number for answers of any length:
    /// whoever scores given texts needs many, and one token at a time.
    pub(super) fn most_top(&self, choices: u64, usual: u64) -> u64 {
        let short = self.max_new.is_some_and(|n| (n as u64).saturating_mul(choices) <= SHORT);
        if short { MOST_TOP } else { usual }
    }

    pub(super) fn read(fields: &mut Fields) -> ApiResult<Self> {
        fields.ignore(&IGNORED);
        fields.only(&[("reasoning_effort", json!("none"))])?;
        let model = fields.need("model", "a text")?;
        let seed = fields.get::<i64>("seed", "a whole number")?;
        let n = fields.count("n", 1, MOST_CHOICES)?.unwrap_or(1);
        let stop = stops(fields.value("stop"))?;
        let stream = fields.get("stream", "true or false")?.unwrap_or(false);
        let include_usage = match fields.value("stream_options") {
            None => false,
            Some(_) if !stream => {
                let text = "stream_options needs stream: true";
                return Err(ApiError::invalid("stream_options", text));
            }
            Some(options) => usage_wanted(&options)?,
        };
        Ok(Self {
            model,
            max_new: None,
            sampling: sampling(fields)?,
            // A negative seed is as good a name as any.
            seed: seed.map(|s| s as u64),
            n: n as u32,
            stop,
            stream,
            include_usage,
        })
    }
}

fn sampling(fields: &mut Fields) -> ApiResult<Sampling> {
    let usual = Sampling::default();
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(1.0),
        // 0 is allowed by OpenAI and leaves the most likely token.
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0).max(f32::MIN_POSITIVE),
        top_k: fields.count("top_k", 1, u64::from(u32::MAX))?.map(|k| k as usize),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(usual.min_p),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        logit_bias: bias(fields)?,
        seed: 0,
    })
}

fn bias(fields: &mut Fields) -> ApiResult<Vec<(u32, f32)>> {
    let what = "an object of token ids with numbers from -100 to 100";
    let given: BTreeMap<String, f32> = fields.get("logit_bias", what)?.unwrap_or_default();
    let one = |(id, bias): (String, f32)| {
        let id: u32 = id.parse().ok().filter(|_| (-100.0..=100.0).contains(&bias))?;
        Some((id, bias))
    };
    given
        .into_iter()
        .map(|pair| {
            one(pair).ok_or_else(|| ApiError::invalid("logit_bias", format!("logit_bias must be {what}")))
        })
        .collect()
}

fn stops(value: Option<Value>) -> ApiResult<Arc<[String]>> {
    let wrong = |why: String| Err(ApiError::invalid("stop", why));
    let stops: Vec<String> = match value {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(list @ Value::Array(_)) => match serde_json::from_value(list) {
            Ok(list) => list,
            Err(_) => return wrong("stop must be a text or a list of texts".to_owned()),
        },
        Some(_) => return wrong("stop must be a text or a list of texts".to_owned()),
    };
    if stops.len() > MOST_STOPS {
        return wrong(format!("stop has {} texts, {MOST_STOPS} at most are looked for", stops.len()));
    }
    if stops.iter().any(String::is_empty) {
        return wrong("stop has a text that is empty".to_owned());
    }
    Ok(stops.into())
}

fn usage_wanted(options: &Value) -> ApiResult<bool> {
    let wrong = |why: String| Err(ApiError::invalid("stream_options", why));
    let Value::Object(options) = options else {
        return wrong("stream_options must be an object".to_owned());
    };
    let mut wanted = false;
    for (name, value) in options {
        match (name.as_str(), value) {
            ("include_usage", Value::Bool(b)) => wanted = *b,
            // Padding against eavesdroppers; nothing is added here.
            ("include_obfuscation", Value::Bool(_)) => {}
            ("include_usage" | "include_obfuscation", _) => {
                return wrong(format!("stream_options.{name} must be true or false"));
            }
            _ => return wrong(format!("stream_options has include_usage, not {name:.80}")),
        }
    }
    Ok(wanted)
}
