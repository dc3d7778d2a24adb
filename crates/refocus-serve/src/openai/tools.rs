//! Tools: what a client offers, and the calls that a model writes into its text.
//!
//! Recognised is the format of Hermes and Qwen, `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, and, since
//! small models forget the tags, an answer that begins with such an object. A call in another form, or of a tool
//! that was not offered, stays text: nothing that a model says is lost.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::fields::Fields;
use crate::error::{ApiError, ApiResult};

/// Begins a call.
pub(crate) const OPEN: &str = "<tool_call>";
/// Ends a call.
pub(crate) const CLOSE: &str = "</tool_call>";
/// Tools at most.
const MOST: usize = 128;

/// The tools of a request.
#[derive(Clone, Debug)]
pub struct Tools {
    /// As the client described them; templates read this form.
    pub list: Vec<Value>,
    /// Whether the model has to call one.
    pub choice: ToolChoice,
    /// Whether it may call several at once.
    pub parallel: bool,
}

/// Whether the model has to call a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    Auto,
    /// Any of them.
    Required,
    /// The one of this name.
    One(String),
}

impl Tools {
    /// `None` where there are none, or the model is not to see them.
    pub(super) fn read(fields: &mut Fields) -> ApiResult<Option<Self>> {
        let list: Vec<Value> = fields.get("tools", "a list of tools")?.unwrap_or_default();
        let choice = fields.value("tool_choice");
        let parallel = fields.get("parallel_tool_calls", "true or false")?.unwrap_or(true);
        if list.len() > MOST {
            return Err(ApiError::invalid("tools", format!("tools has more than {MOST} entries")));
        }
        for (i, tool) in list.iter().enumerate() {
            check(i, tool)?;
        }
        let tools = |choice| Some(Self { list: list.clone(), choice, parallel });
        let named = |name: &str| list.iter().any(|t| name_of(t) == Some(name));
        match &choice {
            Some(Value::String(word)) => match word.as_str() {
                "none" => return Ok(None),
                "auto" => {}
                "required" if !list.is_empty() => return Ok(tools(ToolChoice::Required)),
                "required" => {
                    let text = "tool_choice is required, but there are no tools";
                    return Err(ApiError::invalid("tool_choice", text));
                }
                _ => return Err(bad_choice()),
            },
            Some(Value::Object(object)) => {
                if object.get("type").and_then(Value::as_str) != Some("function") {
                    let text = "tool_choice is none, auto, required or a function of a name here";
                    return Err(ApiError::unsupported("tool_choice", text));
                }
                let name = choice.as_ref().and_then(|c| c.pointer("/function/name")).and_then(Value::as_str);
                let name = name.ok_or_else(bad_choice)?;
                if !named(name) {
                    let text = "tool_choice names a function that is not among the tools";
                    return Err(ApiError::invalid("tool_choice", text));
                }
                return Ok(tools(ToolChoice::One(name.to_owned())));
            }
            Some(_) => return Err(bad_choice()),
            None => {}
        }
        Ok(if list.is_empty() { None } else { tools(ToolChoice::Auto) })
    }

    /// Names of the tools that may be called.
    pub fn names(&self) -> Vec<String> {
        let allowed = |name: &&str| match &self.choice {
            ToolChoice::One(only) => only == name,
            _ => true,
        };
        self.list.iter().filter_map(name_of).filter(allowed).map(str::to_owned).collect()
    }

    /// A JSON schema of one call, for a model that has to make it.
    pub fn schema(&self) -> Value {
        let names = self.names();
        let one = |tool: &Value| {
            let name = name_of(tool).filter(|n| names.iter().any(|m| m == n))?;
            let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
            let parameters = tool.pointer("/function/parameters").cloned().unwrap_or(none);
            Some(json!({
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            }))
        };
        let mut all: Vec<Value> = self.list.iter().filter_map(one).collect();
        match all.pop() {
            Some(only) if all.is_empty() => only,
            last => json!({"anyOf": all.into_iter().chain(last).collect::<Vec<_>>()}),
        }
    }
}

fn bad_choice() -> ApiError {
    let text =
        "tool_choice must be none, auto, required or {\"type\": \"function\", \"function\": {\"name\": …}}";
    ApiError::invalid("tool_choice", text)
}

fn name_of(tool: &Value) -> Option<&str> {
    tool.pointer("/function/name")?.as_str()
}

fn check(i: usize, tool: &Value) -> ApiResult<()> {
    let at = format!("tools[{i}]");
    if tool.get("type").and_then(Value::as_str) != Some("function") {
        let param = format!("{at}.type");
        return Err(ApiError::unsupported(&param, format!("{param} must be function")));
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.';
    if !name_of(tool).is_some_and(|n| (1..=128).contains(&n.len()) && n.bytes().all(good)) {
        let param = format!("{at}.function.name");
        let text = format!("{param} must be a text of 1 to 128 of the characters a-z, A-Z, 0-9, _, - and .");
        return Err(ApiError::invalid(&param, text));
    }
    if tool.pointer("/function/parameters").is_some_and(|p| !p.is_object()) {
        let param = format!("{at}.function.parameters");
        return Err(ApiError::invalid(&param, format!("{param} must be a JSON schema, an object")));
    }
    Ok(())
}

/// A call that a model made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Which of the choice's calls, from 0.
    pub index: usize,
    /// Names it for the client.
    pub id: String,
    /// Of the tool.
    pub name: String,
    /// JSON, byte for byte as the model wrote it.
    pub arguments: String,
}

/// A part of what a model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Text(String),
    Call(ToolCall),
}

/// Takes calls out of a text that comes in pieces.
#[derive(Clone, Debug)]
pub struct Calls {
    /// Tools that were offered.
    names: Vec<String>,
    /// Begins the ids of calls.
    id: String,
    /// Whether one call is all.
    single: bool,
    made: usize,
    place: Place,
    /// Text that may become a call.
    held: String,
}

/// Where in an answer its text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At its beginning, or after calls without tags.
    Start,
    /// Within a call.
    Call,
    /// Elsewhere.
    Text,
}

#[derive(Deserialize)]
struct Written<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: &'a RawValue,
}

impl Calls {
    /// Looks for calls of these tools. Ids of calls begin with `id`.
    pub fn new(tools: &Tools, id: String) -> Self {
        let (names, single) = (tools.names(), !tools.parallel);
        Self { names, id, single, made: 0, place: Place::Start, held: String::new() }
    }

    /// The same for another choice.
    pub(crate) fn named(&self, id: String) -> Self {
        Self { id, ..self.clone() }
    }

    /// For a text that goes on within a call.
    pub(crate) fn opened(mut self) -> Self {
        self.place = Place::Call;
        self
    }

    /// How many calls there were.
    pub(crate) fn made(&self) -> usize {
        self.made
    }

    /// What became certain with this piece.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Said> {
        self.held.push_str(text);
        let mut said = Vec::new();
        loop {
            if self.single && self.made > 0 {
                // The client asked for one call and no more.
                self.held.clear();
                return said;
            }
            let goes_on = match self.place {
                Place::Start => self.start(text, &mut said),
                Place::Call => self.within(&mut said),
                Place::Text => self.outside(&mut said),
            };
            if !goes_on {
                return said;
            }
        }
    }

    /// An object at the beginning may be a call. Whether there may be more to find in what is held.
    fn start(&mut self, new: &str, said: &mut Vec<Said>) -> bool {
        let begun = self.held.trim_start();
        if begun.is_empty() {
            return false;
        }
        if !begun.starts_with('{') {
            self.place = Place::Text;
            return true;
        }
        // An object can only become whole with its last brace.
        if !new.contains('}') {
            return false;
        }
        let mut objects = serde_json::Deserializer::from_str(begun).into_iter::<Written<'_>>();
        let first = objects.next();
        let end = self.held.len() - begun.len() + objects.byte_offset();
        match first {
            Some(Ok(written)) if self.names.contains(&written.name) => {
                let (name, arguments) = (written.name, written.arguments.get().to_owned());
                self.held.drain(..end);
                said.push(self.call(name, arguments));
                !self.held.trim_start().is_empty()
            }
            Some(Err(e)) if e.is_eof() => false,
            _ => {
                self.place = Place::Text;
                true
            }
        }
    }

    fn within(&mut self, said: &mut Vec<Said>) -> bool {
        let Some(end) = self.held.find(CLOSE) else { return false };
        let rest = self.held.split_off(end + CLOSE.len());
        let inside = std::mem::replace(&mut self.held, rest);
        self.place = Place::Text;
        said.push(self.closed(&inside[..end], &inside));
        true
    }

    fn outside(&mut self, said: &mut Vec<Said>) -> bool {
        if let Some(at) = self.held.find(OPEN) {
            let rest = self.held.split_off(at + OPEN.len());
            let before = std::mem::replace(&mut self.held, rest);
            self.place = Place::Call;
            // White space before a call belongs to its form.
            said.extend(spoken(before[..at].trim_end()));
            return true;
        }
        let rest = self.held.split_off(self.certain());
        let text = std::mem::replace(&mut self.held, rest);
        said.extend(spoken(&text));
        false
    }

    /// What is left at the end.
    pub(crate) fn finish(&mut self) -> Vec<Said> {
        let held = std::mem::take(&mut self.held);
        if self.place == Place::Call && !(self.single && self.made > 0) {
            // A limit may have cut the end of the form, but not of the call.
            return vec![self.closed(&held, &held)];
        }
        if self.made > 0 { spoken(held.trim_end()) } else { spoken(&held) }.into_iter().collect()
    }

    /// A call, or the text that it would have been.
    fn closed(&mut self, inside: &str, whole: &str) -> Said {
        let known = |w: &Written<'_>| self.names.contains(&w.name);
        match serde_json::from_str::<Written<'_>>(inside.trim()).ok().filter(known) {
            Some(written) => self.call(written.name, written.arguments.get().to_owned()),
            None => Said::Text(format!("{OPEN}{whole}")),
        }
    }

    fn call(&mut self, name: String, arguments: String) -> Said {
        // Some models put the JSON of the arguments into a text.
        let arguments = serde_json::from_str::<String>(&arguments).unwrap_or(arguments);
        let id = format!("{}{}", self.id, self.made);
        let call = ToolCall { index: self.made, id, name, arguments };
        self.made += 1;
        Said::Call(call)
    }

    /// Bytes from the front that belong to no call, whatever follows.
    fn certain(&self) -> usize {
        let n = (1..OPEN.len()).rev().find(|&n| self.held.ends_with(&OPEN[..n])).unwrap_or(0);
        self.held[..self.held.len() - n].trim_end().len()
    }
}

fn spoken(text: &str) -> Option<Said> {
    (!text.is_empty()).then(|| Said::Text(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Calls {
        let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
        let tools = Tools { list: vec![tool("f"), tool("g")], choice: ToolChoice::Auto, parallel: true };
        Calls::new(&tools, "call_".to_owned())
    }

    fn call(index: usize, name: &str, arguments: &str) -> Said {
        let id = format!("call_{index}");
        Said::Call(ToolCall { index, id, name: name.to_owned(), arguments: arguments.to_owned() })
    }

    /// Everything said, texts joined.
    fn said(mut calls: Calls, pieces: &[&str]) -> Vec<Said> {
        let mut all: Vec<Said> = Vec::new();
        let parts: Vec<Said> = pieces.iter().flat_map(|p| calls.push(p)).collect();
        for part in parts.into_iter().chain(calls.finish()) {
            match (all.last_mut(), part) {
                (Some(Said::Text(before)), Said::Text(more)) => before.push_str(&more),
                (_, part) => all.push(part),
            }
        }
        all
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let text = "Well.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1.50}}\n</tool_call>\n\
                    <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>\n";
        let want = [Said::Text("Well.".to_owned()), call(0, "f", "{\"x\": 1.50}"), call(1, "g", "{}")];
        assert_eq!(said(calls(), &[text]), want);
        for n in 1..7 {
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = chars.chunks(n).map(|c| c.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(said(calls(), &pieces), want, "{n}");
        }
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "{\"name\": \"unknown\", \"arguments\": {}} is no call",
            "{\"name\": 3}",
            "{\"name\": \"f\", \"arguments\": {",
            "A call: {\"name\": \"f\", \"arguments\": {}}",
            "a < b, <tool> and <tool_call",
            "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>",
            "<tool_call>not JSON</tool_call> and more ",
            "<tool_call>{\"name\": \"f\"",
            "  spaces stay \n\n",
        ] {
            assert_eq!(said(calls(), &[text]), [Said::Text(text.to_owned())]);
        }
    }

    #[test]
    fn calls_without_tags_are_found_at_the_beginning() {
        let text =
            "\n{\"name\": \"f\", \"arguments\": {\"x\": {}}}\n{\"name\": \"g\", \"arguments\": {}} Done.";
        let want = [call(0, "f", "{\"x\": {}}"), call(1, "g", "{}"), Said::Text(" Done.".to_owned())];
        assert_eq!(said(calls(), &[text]), want);
        let chars: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(said(calls(), &chars.iter().map(String::as_str).collect::<Vec<_>>()), want);
        let single = Calls { single: true, ..calls() };
        assert_eq!(said(single, &[text]), want[..1]);
    }

    #[test]
    fn a_call_whose_end_was_cut_is_one() {
        let want = [call(0, "f", "{\"x\": \"a\"}")];
        assert_eq!(
            said(calls(), &["<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": \\\"a\\\"}\"}"]),
            want
        );
        assert_eq!(said(calls().opened(), &["{\"name\": \"f\", \"arguments\": {\"x\": \"a\"}}"]), want);
    }

    #[test]
    fn text_before_a_call_is_not_held_back() {
        let mut calls = calls();
        assert_eq!(calls.push("One two <"), [Said::Text("One two".to_owned())]);
        assert_eq!(calls.push("3"), [Said::Text(" <3".to_owned())]);
    }
}
