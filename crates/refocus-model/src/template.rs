//! The chat templates that a checkpoint brings: messages to text.
//!
//! A template is Jinja, and it is code by strangers: it sees only what it is given, its work is bounded, and
//! what it renders is what `apply_chat_template` of `transformers` renders.

mod python;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};

use self::source::{DEFAULT, Source};
use crate::checkpoint::{Checkpoint, with_metadata};
use crate::error::{LoadError, LoadResult, shorten};
use crate::tokenizer::Tokenizer;

/// Steps that one rendering may take; a step that makes text counts once more for every 64 bytes. (Lists that
/// are joined to themselves again and again are not counted by the engine: such a template runs out of memory.)
const FUEL: u64 = 2_000_000;
/// Bytes of stack for a rendering: lists in lists as deep as the steps allow are taken apart on it.
const STACK: usize = 256 << 20;
/// Name of the template for chats with tools.
const TOOLS: &str = "tool_use";
/// Marks where the last message ends when it is to be continued.
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// Names of what a model thought before it answered; the first is what most templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What can go wrong between messages and text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The checkpoint's files cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no template of the name that was asked for.
    #[error("{}: there is no chat template {name:?}; there is {}", path.display(), list(names))]
    NoTemplate {
        /// File or folder.
        path: PathBuf,
        /// As asked for.
        name: String,
        /// Those that there are.
        names: Vec<String>,
    },
    /// The template is not valid, or fails on these messages.
    #[error("{}: chat template {name:?}{}: {why}", path.display(), at(*line))]
    Template {
        /// File.
        path: PathBuf,
        /// Name of the template.
        name: String,
        /// Line in the template, from 1.
        line: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// The template refuses these messages, in its own words.
    #[error("{}: the chat template refuses the messages: {message}", path.display())]
    Raised {
        /// File.
        path: PathBuf,
        /// What the template says.
        message: String,
    },
    /// Messages that no template can take.
    #[error("the messages cannot be rendered: {0}")]
    Messages(String),
}

/// Whether the text of a template has the word *tools*: it has a place for them then.
pub(crate) fn speaks_of_tools(text: &str) -> bool {
    const WORD: &str = "tools";
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(WORD)
        .any(|(i, _)| !text[..i].ends_with(part) && !text[i + WORD.len()..].starts_with(part))
}

fn at(line: Option<usize>) -> String {
    line.map(|n| format!(", line {n}")).unwrap_or_default()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What is to be rendered.
#[derive(Clone, Debug, Default)]
pub struct Chat<'a> {
    /// Messages, each an object with `role` and `content` (a text or a list of parts), perhaps
    /// `tool_calls` and more. A key with the value null counts as absent.
    pub messages: &'a [Value],
    /// Descriptions of tools that the model may call.
    pub tools: Option<&'a [Value]>,
    /// Documents to answer from, for templates that know them.
    pub documents: Option<&'a [Value]>,
    /// Whether the text ends with the head of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Whether the text ends within the last message, for the model to go on with it.
    pub continue_final_message: bool,
    /// Further variables that the template reads (`enable_thinking`, …).
    pub variables: Map<String, Value>,
    /// Name of the template. `None` is `tool_use` if there is one and tools are given, else `default`.
    pub template: Option<&'a str>,
    /// What `strftime_now` takes for now, in seconds since 1970 (UTC). `None` is the clock and zone of this
    /// machine.
    pub now: Option<i64>,
}

/// The compiled chat templates of a checkpoint. They can be used from several threads.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    /// Files by name of template.
    paths: BTreeMap<String, PathBuf>,
    shows_tools: bool,
    env: Environment<'static>,
    /// `bos_token`, `eos_token` and the like.
    roles: Vec<(String, String)>,
}

impl Checkpoint {
    /// The text of the checkpoint's chat template (Jinja), `None` where it brings none. A folder has it in
    /// `chat_template.jinja` or in `tokenizer_config.json`; where several have names, `default` is meant.
    ///
    /// # Errors
    /// A file that should hold it cannot be read.
    pub fn chat_template(&self) -> LoadResult<Option<String>> {
        Ok(source::all(self)?.into_iter().find(|s| s.name == DEFAULT).map(|s| s.text))
    }
}

impl ChatTemplate {
    /// Compiles all templates of a checkpoint, `None` where it brings none. The tokenizer tells them the
    /// texts of `bos_token` and the like.
    ///
    /// # Errors
    /// A file that should hold one cannot be read; one is not valid.
    pub fn of(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        Self::compile(checkpoint.path(), source::all(checkpoint)?, tokenizer)
    }

    /// Compiles all templates of a folder, as [`of`](Self::of) does.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub fn from_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        Self::compile(folder, source::of_folder(folder)?, tokenizer)
    }

    /// Compiles all templates of a GGUF file, whatever its tensors are.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub fn from_gguf(path: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, TemplateError> {
        Self::compile(path, with_metadata(path, source::of_gguf)?, tokenizer)
    }

    fn compile(
        path: &Path,
        sources: Vec<Source>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, TemplateError> {
        if sources.is_empty() {
            return Ok(None);
        }
        let mut env = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| failure(path, DEFAULT, &e))?);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_fuel(Some(FUEL));
        env.add_function("raise_exception", |message: &minijinja::Value| -> Result<String, Error> {
            let raised = RaisedByTemplate(message.to_string());
            Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(raised))
        });
        python::add_to(&mut env);
        let mut paths = BTreeMap::new();
        let mut shows_tools = false;
        for Source { name, path, text } in sources {
            shows_tools |= name == TOOLS || (name == DEFAULT && speaks_of_tools(&text));
            env.add_template_owned(name.clone(), without_generation(&text))
                .map_err(|e| failure(&path, &name, &e))?;
            paths.insert(name, path);
        }
        let roles = tokenizer.named().map(|(role, text)| (role.to_owned(), text.to_owned())).collect();
        Ok(Some(Self { path: path.to_owned(), paths, shows_tools, env, roles }))
    }

    /// Names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.paths.keys().map(String::as_str)
    }

    /// Whether tools that are given stand in the text: there is a template for them, or the usual one speaks of them.
    pub fn shows_tools(&self) -> bool {
        self.shows_tools
    }

    /// The messages as the text that the model was trained on. Its ids are those of
    /// [`Tokenizer::encode`] without special tokens: the template writes them out.
    ///
    /// # Errors
    /// There is no such template; the messages are empty or no objects; the template refuses them, fails
    /// on them or takes too many steps.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, TemplateError> {
        let name = self.choose(chat)?;
        let mut messages = Vec::with_capacity(chat.messages.len());
        for (i, message) in chat.messages.iter().enumerate() {
            let Value::Object(message) = message else {
                return Err(TemplateError::Messages(format!("message {i} is no object")));
            };
            messages.push(prepared(message));
        }
        let Some(last) = messages.last_mut() else {
            return Err(TemplateError::Messages("there is none".to_owned()));
        };
        let continued = if chat.continue_final_message {
            if chat.add_generation_prompt {
                let why = "a last message that goes on and a prompt for the next one exclude each other";
                return Err(TemplateError::Messages(why.to_owned()));
            }
            Some(mark_end(last)?)
        } else {
            None
        };
        let text = self.run(name, chat, messages)?;
        match continued {
            None => Ok(text),
            Some(content) => cut_at_mark(&text, &content),
        }
    }

    fn choose(&self, chat: &Chat<'_>) -> Result<&str, TemplateError> {
        let wanted = match chat.template {
            Some(name) => name,
            None if chat.tools.is_some() && self.paths.contains_key(TOOLS) => TOOLS,
            None => DEFAULT,
        };
        let found = self.paths.get_key_value(wanted).map(|(name, _)| name.as_str());
        found.ok_or_else(|| TemplateError::NoTemplate {
            path: self.path.clone(),
            name: shorten(wanted),
            names: self.names().map(str::to_owned).collect(),
        })
    }

    fn run(
        &self,
        name: &str,
        chat: &Chat<'_>,
        messages: Vec<Map<String, Value>>,
    ) -> Result<String, TemplateError> {
        let path = &self.paths[name];
        let now = chat.now;
        let mut context: BTreeMap<String, minijinja::Value> = BTreeMap::new();
        let clock = minijinja::Value::from_function(move |format: &str| strftime(now, format));
        context.insert("strftime_now".to_owned(), clock);
        let roles = self.roles.iter().map(|(role, text)| (role.clone(), minijinja::Value::from(text)));
        context.extend(roles);
        let given = chat.variables.iter();
        context.extend(given.map(|(k, v)| (k.clone(), minijinja::Value::from(Serde(v)))));
        let fixed = [
            ("messages", minijinja::Value::from(Serde(&messages))),
            ("tools", minijinja::Value::from(Serde(chat.tools))),
            ("documents", minijinja::Value::from(Serde(chat.documents))),
            ("add_generation_prompt", minijinja::Value::from(chat.add_generation_prompt)),
        ];
        context.extend(fixed.map(|(k, v)| (k.to_owned(), v)));
        let failed = |e: &Error| failure(path, name, e);
        let template = self.env.get_template(name).map_err(|e| failed(&e))?;
        // A thread of its own has the stack that a hostile template can ask for.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(STACK);
            let run = thread.spawn_scoped(scope, || template.render(context).map_err(|e| failed(&e)));
            let broken = |why: String| TemplateError::Template {
                path: path.clone(),
                name: name.to_owned(),
                line: None,
                why,
            };
            let run = run.map_err(|e| broken(format!("no thread can be started for it: {e}")))?;
            run.join().unwrap_or_else(|_| Err(broken("the template engine failed".to_owned())))
        })
    }
}

/// A message as templates see it: without empty keys, and with what was thought under every usual name.
fn prepared(message: &Map<String, Value>) -> Map<String, Value> {
    let mut out: Map<String, Value> =
        message.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(thought) = REASONING.iter().find_map(|key| out.get(*key)).cloned() {
        out.entry("thinking").or_insert_with(|| thought.clone());
        out.insert(REASONING[0].to_owned(), thought);
    }
    out
}

/// Puts the mark behind the last text of a message; gives that text.
fn mark_end(message: &mut Map<String, Value>) -> Result<String, TemplateError> {
    let none = || TemplateError::Messages("the last message has no text to go on with".to_owned());
    let text = match message.get_mut("content") {
        Some(text @ Value::String(_)) => text,
        Some(Value::Array(parts)) => {
            let texts = parts.iter_mut().rev().filter_map(|part| part.get_mut("text"));
            texts.into_iter().next().ok_or_else(none)?
        }
        _ => return Err(none()),
    };
    let content = text.as_str().ok_or_else(none)?.to_owned();
    *text = Value::String(format!("{content}{CONTINUE}"));
    Ok(content)
}

/// The text up to the mark, without the spaces before it where the template took out the one behind it.
fn cut_at_mark(text: &str, content: &str) -> Result<String, TemplateError> {
    let mark = text.rfind(CONTINUE.trim()).filter(|_| text.contains(content.trim()));
    let Some(mark) = mark else {
        let why = "the template does not write the last message as it is, so that it cannot go on";
        return Err(TemplateError::Messages(why.to_owned()));
    };
    let (head, tail) = text.split_at(mark);
    Ok(if tail.starts_with(CONTINUE) { head } else { head.trim_end() }.to_owned())
}

/// The message of a `raise_exception`.
#[derive(Debug)]
struct RaisedByTemplate(String);

impl std::fmt::Display for RaisedByTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RaisedByTemplate {}

fn failure(path: &Path, name: &str, error: &Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    // The innermost place is the one to look at.
    let mut line = error.line();
    let mut why = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    while let Some(e) = cause {
        if let Some(RaisedByTemplate(message)) = e.downcast_ref() {
            return TemplateError::Raised { path: path.to_owned(), message: message.clone() };
        }
        if let Some(inner) = e.downcast_ref::<Error>() {
            line = inner.line().or(line);
            why = match inner.detail() {
                Some(detail) => format!("{}: {detail}", inner.kind()),
                None => inner.kind().to_string(),
            };
        }
        cause = e.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        why = "it takes too many steps".to_owned();
    }
    TemplateError::Template { path: path.to_owned(), name: name.to_owned(), line, why: shorten(&why) }
}

/// `{% generation %}` marks the assistant's words for training. What is inside is rendered as it is, in a
/// scope of its own.
fn without_generation(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inside = &tag[2..end];
        let word = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replace("generation", "with")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endwith")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn strftime(now: Option<i64>, format: &str) -> Result<String, Error> {
    let refused = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}"));
    let now = match now {
        None => jiff::ZonedDateTime::now(),
        Some(seconds) => {
            jiff::Timestamp::from_second(seconds).map_err(refused)?.to_zoned_datetime(jiff::tz::TimeZone::UTC)
        }
    };
    jiff::fmt::strtime::format(format, &now).map_err(refused)
}
