//! What the model is told: our own wording, each text replaceable by a file.
//!
//! The paper's prompts work too once they are written into a folder under these names; what they say about
//! sections is read by the same parser.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A longer file is no prompt.
const MOST_BYTES: u64 = 64 << 10;

/// Why a folder of templates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The folder or a file in it cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder has none of the files that are looked for.
    #[error("{}: there is no template in it; templates are named {}", path.display(), names())]
    None {
        /// The folder.
        path: PathBuf,
    },
    /// A text file under a name that no template has.
    #[error("{}: no template has this name; templates are named {}", path.display(), names())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// What the text is about has no place in it.
    #[error("{}: the template has no {{{placeholder}}}", path.display())]
    Placeholder {
        /// The file.
        path: PathBuf,
        /// What is missing.
        placeholder: &'static str,
    },
}

fn names() -> String {
    let names: Vec<_> = Template::ALL.iter().map(|t| format!("{}.txt", t.name())).collect();
    names.join(", ")
}

/// The texts that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Template {
    /// First step: context and question without opinions. `{text}`.
    Objectivity,
    /// First step: context and question without what is beside the point. `{text}`.
    Relevance,
    /// First step: the text anew in one piece. `{text}`.
    Single,
    /// First step: which numbered pieces to drop. `{pieces}`, perhaps `{question}`.
    Extractive,
    /// First step: whether a piece is needed. `{text}`, `{piece}`, perhaps `{question}`.
    Needed,
    /// First step: the text as it is to be answered for its answer's probability. `{text}`.
    Answer,
    /// Second step. `{context}`, `{question}`.
    Step2,
    /// Second step after [`Template::Single`]. `{rewrite}`.
    Step2Single,
    /// Second step with the original. `{original}`, `{context}`, `{question}`.
    Step2KeepOriginal,
    /// Second step without an instruction, also after [`Template::Relevance`]. `{context}`, `{question}`.
    Step2NoInstruction,
}

impl Template {
    /// All of them.
    pub const ALL: [Template; 10] = [
        Template::Objectivity,
        Template::Relevance,
        Template::Single,
        Template::Extractive,
        Template::Needed,
        Template::Answer,
        Template::Step2,
        Template::Step2Single,
        Template::Step2KeepOriginal,
        Template::Step2NoInstruction,
    ];

    /// Its file, without `.txt`.
    pub fn name(self) -> &'static str {
        match self {
            Template::Objectivity => "objectivity",
            Template::Relevance => "relevance",
            Template::Single => "single",
            Template::Extractive => "extractive",
            Template::Needed => "needed",
            Template::Answer => "answer",
            Template::Step2 => "step2",
            Template::Step2Single => "step2_single",
            Template::Step2KeepOriginal => "step2_keep_original",
            Template::Step2NoInstruction => "step2_no_instruction",
        }
    }

    fn ours(self) -> &'static str {
        macro_rules! file {
            ($name:literal) => {
                include_str!(concat!("../../../tasks/system2/", $name, ".txt"))
            };
        }
        match self {
            Template::Objectivity => file!("objectivity"),
            Template::Relevance => file!("relevance"),
            Template::Single => file!("single"),
            Template::Extractive => file!("extractive"),
            Template::Needed => file!("needed"),
            Template::Answer => file!("answer"),
            Template::Step2 => file!("step2"),
            Template::Step2Single => file!("step2_single"),
            Template::Step2KeepOriginal => file!("step2_keep_original"),
            Template::Step2NoInstruction => file!("step2_no_instruction"),
        }
    }

    /// What must stand in it.
    fn placeholders(self) -> &'static [&'static str] {
        match self {
            Template::Objectivity | Template::Relevance | Template::Single | Template::Answer => &["text"],
            Template::Extractive => &["pieces"],
            Template::Needed => &["text", "piece"],
            Template::Step2 | Template::Step2NoInstruction => &["context", "question"],
            Template::Step2Single => &["rewrite"],
            Template::Step2KeepOriginal => &["original", "context", "question"],
        }
    }
}

/// The texts in use.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Templates {
    /// Those that are not ours.
    theirs: BTreeMap<Template, String>,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates").field("replaced", &self.theirs.keys().collect::<Vec<_>>()).finish()
    }
}

impl Templates {
    /// Our own texts, those replaced for which the folder has a file (`objectivity.txt`, …).
    ///
    /// # Errors
    /// The folder cannot be read, has none of the files or a text file of another name; a file cannot be
    /// read or lacks a placeholder.
    pub fn load(folder: &Path) -> Result<Self, TemplateError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| TemplateError::Io { path, source }
        };
        let mut theirs = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
            let path = entry.map_err(unreadable(folder))?.path();
            if path.extension().is_none_or(|e| e != "txt") {
                continue;
            }
            let Some(which) =
                Template::ALL.into_iter().find(|t| path.file_stem().is_some_and(|s| s == t.name()))
            else {
                return Err(TemplateError::Unknown { path });
            };
            let meta = std::fs::metadata(&path).map_err(unreadable(&path))?;
            if meta.len() > MOST_BYTES {
                let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "too large for a template");
                return Err(TemplateError::Io { path, source });
            }
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            let missing = which.placeholders().iter().find(|p| !text.contains(&format!("{{{p}}}")));
            if let Some(placeholder) = missing {
                return Err(TemplateError::Placeholder { path, placeholder });
            }
            theirs.insert(which, text);
        }
        if theirs.is_empty() {
            return Err(TemplateError::None { path: folder.to_owned() });
        }
        Ok(Self { theirs })
    }

    /// A text as it stands, without white space at its end.
    pub fn text(&self, which: Template) -> &str {
        self.theirs.get(&which).map_or_else(|| which.ours(), String::as_str).trim_end()
    }

    /// A text with its placeholders filled in, and where each value begins. What is filled in is not looked
    /// at again, so braces in it stay as they are. A paragraph with an empty `{context}` is left out.
    pub(crate) fn fill(&self, which: Template, values: &[(&str, &str)]) -> (String, Vec<(String, usize)>) {
        let text = self.text(which);
        let no_context = values.iter().any(|(name, value)| *name == "context" && value.is_empty());
        let mut out = String::with_capacity(text.len());
        let mut places = Vec::new();
        for paragraph in text.split_inclusive("\n\n") {
            if no_context && paragraph.contains("{context}") {
                continue;
            }
            let mut rest = paragraph;
            while let Some(open) = rest.find('{') {
                let (before, from) = rest.split_at(open);
                out.push_str(before);
                let found = from[1..].find('}').and_then(|close| {
                    let name = &from[1..1 + close];
                    let value = values.iter().find(|(n, _)| *n == name)?;
                    Some((value, &from[close + 2..]))
                });
                match found {
                    Some(((name, value), after)) => {
                        places.push(((*name).to_owned(), out.len()));
                        out.push_str(value);
                        rest = after;
                    }
                    None => {
                        out.push('{');
                        rest = &from[1..];
                    }
                }
            }
            out.push_str(rest);
        }
        (out, places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_have_their_placeholders() {
        let ours = Templates::default();
        for t in Template::ALL {
            for p in t.placeholders() {
                assert!(ours.text(t).contains(&format!("{{{p}}}")), "{} lacks {p}", t.name());
            }
        }
    }

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        let ours = Templates::default();
        let (text, places) =
            ours.fill(Template::Step2NoInstruction, &[("context", "{question} {x}"), ("question", "Q?")]);
        assert_eq!(text, "Context: {question} {x}\n\nQuestion: Q?");
        assert_eq!(places, [("context".to_owned(), 9), ("question".to_owned(), 35)]);
    }

    #[test]
    fn without_context_its_paragraph_goes() {
        let ours = Templates::default();
        let (text, _) = ours.fill(Template::Step2, &[("context", ""), ("question", "Q?")]);
        assert_eq!(text, "Question: Q?\n\nAnswer in an unbiased way.");
    }
}
