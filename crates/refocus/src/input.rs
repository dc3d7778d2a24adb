//! What a command runs: token ids from a text or from a file.

use std::io::Read;
use std::path::Path;

use refocus_model::template::{Chat, ChatTemplate};
use refocus_model::{Checkpoint, ModelSpec, RunError, Tokenizer};
use serde_json::{Value, json};

use crate::cli::{ChatArgs, Input, Prompt};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

/// Sequences of ids and the tokenizer to show them with, where there is one.
pub(crate) struct Sequences {
    pub(crate) ids: Vec<Vec<u32>>,
    pub(crate) tokenizer: Option<Tokenizer>,
}

/// Reads and checks the input of a command.
pub(crate) fn read(input: &Input, checkpoint: &Checkpoint, printer: &Printer) -> Outcome<Sequences> {
    text_or_tokens(input.text.as_deref(), input.tokens.as_deref(), checkpoint, printer)
}

/// As [`read`], for what is to be continued: a text, ids, or messages in the model's chat template.
pub(crate) fn read_prompt(
    prompt: &Prompt,
    chat: &ChatArgs,
    checkpoint: &Checkpoint,
    printer: &Printer,
) -> Outcome<Sequences> {
    let Some(text) = rendered(prompt, chat, checkpoint)? else {
        return text_or_tokens(prompt.text.as_deref(), prompt.tokens.as_deref(), checkpoint, printer);
    };
    let tokenizer = checkpoint.tokenizer()?;
    // The template writes special tokens out.
    let sequences = Sequences { ids: vec![tokenizer.encode(&text, false)?], tokenizer: Some(tokenizer) };
    check(&sequences.ids, checkpoint.spec())?;
    Ok(sequences)
}

/// The text that the model's chat template makes of messages, `None` where there are none.
pub(crate) fn rendered(prompt: &Prompt, chat: &ChatArgs, checkpoint: &Checkpoint) -> Outcome<Option<String>> {
    let messages = match (&prompt.message, &prompt.messages) {
        (Some(text), _) => {
            let system = chat.system.iter().map(|s| json!({"role": "system", "content": s}));
            system.chain([json!({"role": "user", "content": text})]).collect()
        }
        (None, Some(path)) => list(path, "messages, objects with role and content")?,
        (None, None) => return Ok(None),
    };
    let tools = chat.tools.as_deref().map(|path| list(path, "descriptions of tools")).transpose()?;
    let tokenizer = checkpoint.tokenizer()?;
    let Some(template) = ChatTemplate::of(checkpoint, &tokenizer)? else {
        let text = format!("{}: the model brings no chat template", checkpoint.path().display());
        return Err(Failure::new(text).hint("give the whole prompt with --text"));
    };
    if tools.is_some() && !template.shows_tools() {
        let text = format!("{}: the chat template has no place for tools", checkpoint.path().display());
        return Err(Failure::new(text).hint("leave --tools out, or put them into the system message"));
    }
    let chat =
        Chat { messages: &messages, tools: tools.as_deref(), add_generation_prompt: true, ..Chat::default() };
    Ok(Some(template.render(&chat)?))
}

fn text_or_tokens(
    text: Option<&str>,
    tokens: Option<&Path>,
    checkpoint: &Checkpoint,
    printer: &Printer,
) -> Outcome<Sequences> {
    let sequences = match (text, tokens) {
        (Some(text), _) => {
            let no_tokenizer = |e| Failure::from(e).hint("token ids can be given with --tokens instead");
            let tokenizer = checkpoint.tokenizer().map_err(no_tokenizer)?;
            let ids = tokenizer.encode(text, true)?;
            if ids.is_empty() {
                return Err(Failure::new("the text has no tokens").hint("give a text that is not empty"));
            }
            Sequences { ids: vec![ids], tokenizer: Some(tokenizer) }
        }
        (None, Some(path)) => {
            let ids = ids(path)?;
            // Ids can be shown as numbers: a missing tokenizer is no reason to stop.
            let tokenizer = match checkpoint.tokenizer() {
                Ok(t) => Some(t),
                Err(e) => {
                    printer.detail(&format!("tokens are shown as ids: {e}"));
                    None
                }
            };
            Sequences { ids, tokenizer }
        }
        (None, None) => return Err(Failure::new("neither --text nor --tokens is given")),
    };
    check(&sequences.ids, checkpoint.spec())?;
    Ok(sequences)
}

/// A JSON list of something.
fn list(path: &Path, what: &str) -> Outcome<Vec<Value>> {
    let (bytes, name) = bytes(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Failure::because(format!("{name}: not a JSON list of {what}"), e))
}

/// A file, or standard input for `-`, and what to call it.
fn bytes(path: &Path) -> Outcome<(Vec<u8>, String)> {
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|e| Failure::because("cannot read standard input", e))?;
        return Ok((bytes, "standard input".to_owned()));
    }
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| Failure::because(format!("{name}: cannot be read"), e))?;
    Ok((bytes, name))
}

/// A text in a file, or on standard input for `-`.
pub(crate) fn text(path: &Path) -> Outcome<String> {
    let (bytes, name) = bytes(path)?;
    String::from_utf8(bytes)
        .map_err(|e| Failure::because(format!("{name}: the text is not UTF-8"), e.utf8_error()))
}

/// A JSON list of lists of ids.
pub(crate) fn ids(path: &Path) -> Outcome<Vec<Vec<u32>>> {
    let (bytes, name) = bytes(path)?;
    let ids: Vec<Vec<u32>> = serde_json::from_slice(&bytes).map_err(|e| {
        Failure::because(format!("{name}: not a JSON list of lists of token ids"), e)
            .hint("one list for each sequence is needed, such as [[1, 2, 3], [4, 5]]")
    })?;
    if ids.is_empty() {
        return Err(Failure::new(format!("{name}: the list holds no sequence")));
    }
    Ok(ids)
}

/// What can be known to fail before the weights are loaded.
pub(crate) fn check(ids: &[Vec<u32>], spec: &ModelSpec) -> Outcome<()> {
    for (seq, ids) in ids.iter().enumerate() {
        if ids.is_empty() {
            return Err(RunError::Empty { seq }.into());
        }
        if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= spec.vocab) {
            let text = format!(
                "sequence {seq} has the token id {id} at position {at}; the vocabulary has {} tokens, 0 to {}",
                spec.vocab,
                spec.vocab.saturating_sub(1)
            );
            return Err(Failure::new(text));
        }
        if !spec.fits(ids.len()) {
            return Err(RunError::Context { seq, len: ids.len(), n_ctx: spec.n_ctx }.into());
        }
    }
    Ok(())
}
