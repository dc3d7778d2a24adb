//! From what a client asks for to what the engine is given.

use std::sync::Arc;

use refocus_model::generate::{Constraint, ConstraintError, Request, RequestError, Sampling};
use refocus_model::template::{Chat, TemplateError};
use serde_json::{Value, json};

use super::Local;
use super::answer::Writer;
use crate::error::{ApiError, ApiResult};
use crate::openai::{
    CLOSE, Calls, ChatRequest, CompletionRequest, Format, OPEN, Prompt, Shape, Shared, ToolChoice,
};

/// New tokens at most where a model has no end of its context.
const MOST_NEW: usize = 1 << 20;

/// A submission and how its answer is written.
pub(super) struct Prepared {
    pub requests: Vec<Request>,
    /// One for each choice.
    pub writers: Vec<Writer>,
    /// For each choice the text before its first token.
    pub echoes: Vec<String>,
    /// Tokens of all prompts.
    pub prompt: usize,
    pub shape: Shape,
    pub shared: Shared,
    pub logprobs: bool,
    /// Field that holds the prompt.
    pub field: &'static str,
}

impl Local {
    /// A chat: messages through the template of the model. `number` is that of its arrival.
    pub(super) fn prepare_chat(&self, chat: ChatRequest, id: &str, number: u64) -> ApiResult<Prepared> {
        self.is_here(&chat.shared.model)?;
        let Some(template) = &self.template else {
            let text = "the model brings no chat template: ask /v1/completions with the whole prompt";
            return Err(ApiError::unsupported("messages", text));
        };
        let forced = chat.tools.as_ref().filter(|t| t.choice != ToolChoice::Auto);
        if chat.tools.is_some() && !self.tools.shown {
            let text = "tools is not supported: the model's chat template has no place for tools";
            return Err(ApiError::unsupported("tools", text));
        }
        if forced.is_some() && !self.tools.tagged {
            let text = "tool_choice is only auto or none here: the form of this model's calls is not known";
            return Err(ApiError::unsupported("tool_choice", text));
        }
        let mut text = template
            .render(&Chat {
                messages: &chat.messages,
                tools: chat.tools.as_ref().map(|t| t.list.as_slice()),
                add_generation_prompt: !chat.continues,
                continue_final_message: chat.continues,
                variables: chat.variables,
                ..Chat::default()
            })
            .map_err(|e| refused_by_template(&e))?;
        let (field, schema) = match (&chat.format, forced) {
            (_, Some(tools)) => ("tools", Some(tools.schema())),
            (Format::Text, None) => ("", None),
            (Format::JsonObject, None) => ("response_format", Some(json!({"type": "object"}))),
            (Format::Schema(schema), None) => ("response_format.json_schema.schema", Some(schema.clone())),
        };
        let constraint = schema.map(|schema| self.constraint(&schema, field)).transpose()?;
        let mut shared = chat.shared;
        let seed = shared.seed.unwrap_or_else(|| self.seed(number, 0));
        let calls = chat.tools.as_ref().map(|tools| {
            if !tools.parallel {
                shared.stop = shared.stop.iter().cloned().chain([CLOSE.to_owned()]).collect();
            }
            Calls::new(tools, String::new())
        });
        if forced.is_some() {
            // The model goes on within a call.
            text.push_str(OPEN);
            text.push('\n');
        }
        let prompt = self.encode(&text, "messages")?;
        let room = self.n_ctx.saturating_sub(prompt.len()).max(1);
        let tokens = prompt.len();
        let request =
            self.request(&shared, seed, prompt, shared.max_new.unwrap_or(room), chat.logprobs, constraint);
        let writer = |choice: u32| {
            let named = calls.as_ref().map(|c| c.named(format!("call_{id}_{choice}_")));
            let calls = if forced.is_some() { named.map(Calls::opened) } else { named };
            Writer::new(Arc::clone(&self.words), chat.logprobs.is_some(), calls, 0)
        };
        Ok(Prepared {
            requests: vec![request],
            writers: (0..shared.n).map(writer).collect(),
            echoes: Vec::new(),
            prompt: tokens,
            shape: Shape::Chat,
            logprobs: chat.logprobs.is_some(),
            shared,
            field: "messages",
        })
    }

    /// Completions: prompts as they are. `number` is that of their arrival.
    pub(super) fn prepare_completion(
        &self,
        completion: CompletionRequest,
        number: u64,
    ) -> ApiResult<Prepared> {
        self.is_here(&completion.shared.model)?;
        let shared = completion.shared;
        let (mut requests, mut writers, mut echoes, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (i, prompt) in completion.prompts.into_iter().enumerate() {
            let mut echo = String::new();
            let ids = match prompt {
                Prompt::Text(text) => {
                    let ids = self.tokens(&text, true, "prompt")?;
                    if completion.echo {
                        echo = text;
                    }
                    ids
                }
                Prompt::Ids(ids) => {
                    if completion.echo {
                        let decoded = self.tokenizer.decode(&ids, false);
                        echo = decoded.map_err(|_| ApiError::invalid("prompt", "the prompt has no text"))?;
                    }
                    ids
                }
            };
            tokens += ids.len();
            let max_new = shared.max_new.unwrap_or(MOST_NEW);
            let seed = shared.seed.unwrap_or_else(|| self.seed(number, i));
            requests.push(self.request(&shared, seed, ids, max_new, completion.logprobs, None));
            for _ in 0..shared.n {
                let offset = echo.chars().count();
                writers.push(Writer::new(
                    Arc::clone(&self.words),
                    completion.logprobs.is_some(),
                    None,
                    offset,
                ));
                echoes.push(echo.clone());
            }
        }
        Ok(Prepared {
            requests,
            writers,
            echoes,
            prompt: tokens,
            shape: Shape::Text,
            logprobs: completion.logprobs.is_some(),
            shared,
            field: "prompt",
        })
    }

    fn request(
        &self,
        shared: &Shared,
        seed: u64,
        prompt: Vec<u32>,
        max_new: usize,
        logprobs: Option<usize>,
        constraint: Option<Constraint>,
    ) -> Request {
        Request {
            sampling: Sampling { seed, ..shared.sampling.clone() },
            n: shared.n,
            stop: self.eos.clone(),
            stop_strings: Arc::clone(&shared.stop),
            logprobs,
            constraint,
            changes: Arc::clone(&self.changes),
            ..Request::new(prompt, max_new.min(MOST_NEW))
        }
    }

    fn constraint(&self, schema: &Value, field: &'static str) -> ApiResult<Constraint> {
        let grammars = self.grammars().map_err(|e| ApiError::unsupported(field, e.to_string()))?;
        grammars.json_schema(schema).map_err(|e| match e {
            ConstraintError::Schema { .. } => ApiError::invalid(field, format!("{field}: {e}")),
            e => ApiError::unsupported(field, e.to_string()),
        })
    }

    /// Messages as the model reads them before it answers: text and tokens.
    pub(super) fn rendered(&self, messages: &[Value]) -> ApiResult<(String, Vec<u32>)> {
        let Some(template) = &self.template else {
            return Err(ApiError::internal("the model brings no chat template"));
        };
        let chat = Chat { messages, add_generation_prompt: true, ..Chat::default() };
        let text = template.render(&chat).map_err(|e| refused_by_template(&e))?;
        let ids = self.encode(&text, "messages")?;
        Ok((text, ids))
    }

    /// Tokens of a text without the special ones: a template writes them out.
    pub(super) fn encode(&self, text: &str, field: &'static str) -> ApiResult<Vec<u32>> {
        self.tokens(text, false, field)
    }

    fn tokens(&self, text: &str, add_special: bool, field: &'static str) -> ApiResult<Vec<u32>> {
        // The reason names files of this machine.
        let why =
            |_| ApiError::invalid(field, format!("{field} has a text that the tokenizer cannot express"));
        self.tokenizer.encode(text, add_special).map_err(why)
    }
}

/// What a client is told about a request that the engine refuses.
pub(super) fn refused_by_engine(why: &RequestError, field: &str) -> ApiError {
    let message = why.to_string();
    match why {
        RequestError::Context { .. } => ApiError::context(field, message),
        RequestError::Empty | RequestError::Id { .. } => ApiError::invalid(field, message),
        RequestError::NoSamples | RequestError::TooMany { .. } => ApiError::invalid("n", message),
        RequestError::EmptyStop | RequestError::NoText => ApiError::invalid("stop", message),
        RequestError::NeverFits { .. } => {
            ApiError::context("max_tokens", format!("{message}: ask for fewer new tokens or a smaller n"))
        }
        RequestError::Sampling(_) if message.contains("bias") => ApiError::invalid("logit_bias", message),
        RequestError::Sampling(_) => ApiError::invalid("temperature", message),
        RequestError::Plan(_) => ApiError::internal(format!("the patch cannot be applied: {message}")),
    }
}

fn refused_by_template(error: &TemplateError) -> ApiError {
    match error {
        TemplateError::Raised { message, .. } => {
            ApiError::invalid("messages", format!("the chat template refuses the messages: {message}"))
        }
        TemplateError::Messages(why) => ApiError::invalid("messages", why.clone()),
        TemplateError::Template { why, .. } => {
            ApiError::invalid("messages", format!("the chat template fails on the messages: {why}"))
        }
        TemplateError::Load(_) | TemplateError::NoTemplate { .. } => {
            ApiError::internal("the chat template cannot be read")
        }
    }
}
