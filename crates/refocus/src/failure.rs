//! What a person is told when something does not work: what happened, why, and what to do.

use std::error::Error;
use std::fmt;

use refocus_model::export::ExportError;
use refocus_model::{LoadError, PatchError, PlanError, RunError, SiteError};
use refocus_serve::server::ServeError;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody reads standard output any more (`| head`): no error.
    Closed,
    /// Something to tell.
    Told(Box<Told>),
}

/// An error for a person.
#[derive(Debug)]
pub(crate) struct Told {
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

/// A result of the program.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// A message with its cause, where no error type says it already.
#[derive(Debug)]
struct Message {
    text: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Message {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().map(|c| &**c as &(dyn Error + 'static))
    }
}

impl Failure {
    /// A message of the program's own.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::message(text.into(), None)
    }

    /// A message about an error from elsewhere.
    pub(crate) fn because(text: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::message(text.into(), Some(cause.into()))
    }

    fn message(text: String, cause: Option<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Told(Box::new(Told { error: Box::new(Message { text, cause }), hint: None }))
    }

    /// Adds what to do about it, unless that has been said.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.hint.get_or_insert_with(|| hint.into());
        }
        self
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Told(Box::new(Told { error: Box::new(error), hint: None }))
    }
}

impl Told {
    /// The lines to print: `("error", …)`, then causes, then the hint.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("error", plain(&self.error.to_string()))];
        let mut source = self.error.source();
        while let Some(e) = source {
            let text = plain(&e.to_string());
            // Some errors repeat their cause in their own words.
            if !lines.iter().any(|(_, l)| l.contains(&text)) {
                lines.push(("cause", text));
            }
            source = e.source();
        }
        if let Some(hint) = self.hint.clone().or_else(|| usual_hint(&*self.error)) {
            lines.push(("hint", plain(&hint)));
        }
        lines
    }
}

/// What usually helps.
fn usual_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(hint) = hint_for(e) {
            return Some(hint.to_owned());
        }
        next = e.source();
    }
    None
}

fn hint_for(e: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(SiteError::Nothing(_) | SiteError::Unknown { .. }) = e.downcast_ref() {
        return Some("`refocus model inspect MODEL --sites` lists the sites of a model");
    }
    if let Some(PlanError::Exited { .. }) = e.downcast_ref() {
        return Some("read or change a block before the exit, or drop the exit from the patch");
    }
    if let Some(RunError::Context { .. }) = e.downcast_ref() {
        return Some("shorten the sequence; `refocus model inspect MODEL` shows the context");
    }
    match e.downcast_ref() {
        Some(PatchError::Guard { .. }) => {
            return Some("give the model that the patch names, or --force to apply it to this one");
        }
        Some(PatchError::Unsupported { .. }) => {
            return Some("`refocus patch check MODEL --patch FILE` shows which entries work where");
        }
        _ => {}
    }
    if let Some(ExportError::Exists { .. }) = e.downcast_ref() {
        return Some("give another folder, or --replace to replace this one");
    }
    if let Some(ServeError::Listen { source, .. }) = e.downcast_ref()
        && source.kind() == std::io::ErrorKind::AddrInUse
    {
        return Some("another program has this port: give another with --listen; 0 takes one that is free");
    }
    match e.downcast_ref() {
        Some(LoadError::Changed { .. }) => Some("run the command again when the file is complete"),
        Some(LoadError::Shard { .. }) => Some("the checkpoint is incomplete: fetch the missing file"),
        _ => None,
    }
}

/// Text that came from files and arguments, without what would steer a terminal.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_not_told_twice() {
        let inner = std::io::Error::other("the disk is gone");
        let Failure::Told(told) = Failure::because("cannot write: the disk is gone", inner) else {
            panic!("a message");
        };
        assert_eq!(told.lines(), [("error", "cannot write: the disk is gone".to_owned())]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\nc");
    }
}
