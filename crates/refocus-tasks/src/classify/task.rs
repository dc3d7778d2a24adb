//! A task file: classes and their words, the shape of a demonstration, where the rows are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::error::TaskError;

/// A class of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// As the data calls it.
    pub name: String,
    /// As prompts call it.
    pub word: String,
}

/// The shape of one demonstration: text around `{text}`, `{text2}` and `{label}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// What stands before the label, from the start of the demonstration to the character before the
    /// space that every label has in front of it.
    before: Vec<Piece>,
    /// What follows the label.
    after: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Plain(String),
    Text,
    Text2,
}

/// Columns of a data set on the hub or in a file of its shape.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The text, or the first of two.
    pub text: String,
    /// The second text.
    pub text2: Option<String>,
    /// The class.
    pub label: String,
}

/// Where the rows are.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Id of the data set on the hub.
    pub hub: Option<String>,
    /// Its configuration.
    pub config: Option<String>,
    /// Its split.
    pub split: Option<String>,
    /// Its columns, where they are not `text`, `text2` and `label`.
    pub columns: Option<Columns>,
    /// Its values of the label and the classes they mean, where it does not give the classes' names.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Name of the file in a data folder.
    pub file: String,
}

/// A classification task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Name; that of a variant has a dot in it.
    pub key: String,
    /// Counts up when anything changes that changes prompts.
    pub version: u32,
    /// In words.
    pub title: String,
    /// Not one of the study's fourteen data sets.
    pub control: bool,
    /// Words are not those of their classes, a defect of the released code: used in paper mode only.
    pub inverted: bool,
    /// The line before the demonstrations.
    pub instruction: Option<String>,
    /// The shape of a demonstration.
    pub format: Format,
    /// At least two.
    pub classes: Vec<Class>,
    /// Classes of the data whose rows are left out.
    pub skip: Vec<String>,
    /// Where the rows are, unless the task brings them.
    pub source: Option<Source>,
    /// Rows that the task brings: texts by class, in the order of `classes`.
    pub words: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    key: String,
    version: u32,
    title: String,
    #[serde(default)]
    control: bool,
    instruction: Option<String>,
    format: String,
    #[serde(default)]
    skip: Vec<String>,
    class: Vec<FileClass>,
    source: Option<Source>,
    #[serde(default)]
    words: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    variant: Vec<Variant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileClass {
    name: String,
    word: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    #[serde(default)]
    inverted: bool,
    instruction: Option<String>,
    format: String,
    words: Vec<String>,
}

impl Format {
    /// Reads `Review: {text}\nAnswer: {label}.`
    ///
    /// # Errors
    /// In words: a place that is unknown, missing, or given twice; a label that does not stand after a
    /// space; a label that the text could stand behind.
    pub fn parse(format: &str) -> Result<Self, String> {
        let (head, after) = format.split_once("{label}").ok_or_else(|| "it has no {label}".to_owned())?;
        if after.contains('{') {
            return Err("nothing may be filled in after {label}: it would be seen too late".to_owned());
        }
        let head = head.strip_suffix(' ').ok_or_else(|| "a space must stand before {label}".to_owned())?;
        let mut before = Vec::new();
        let mut rest = head;
        while let Some(at) = rest.find('{') {
            if at > 0 {
                before.push(Piece::Plain(rest[..at].to_owned()));
            }
            let tail = &rest[at..];
            let (piece, length) = if tail.starts_with("{text}") {
                (Piece::Text, "{text}".len())
            } else if tail.starts_with("{text2}") {
                (Piece::Text2, "{text2}".len())
            } else {
                return Err("places are {text}, {text2} and {label}".to_owned());
            };
            if before.contains(&piece) {
                return Err("a place is given twice".to_owned());
            }
            before.push(piece);
            rest = &tail[length..];
        }
        if rest.is_empty() {
            return Err("something must stand between the text and the space before {label}".to_owned());
        }
        before.push(Piece::Plain(rest.to_owned()));
        if !before.contains(&Piece::Text) {
            return Err("it has no {text}".to_owned());
        }
        Ok(Self { before, after: after.to_owned() })
    }

    /// Whether it asks for a second text.
    pub fn wants_text2(&self) -> bool {
        self.before.contains(&Piece::Text2)
    }

    /// What follows the label.
    pub fn after(&self) -> &str {
        &self.after
    }

    /// Appends a demonstration up to its label: the space before the label is not appended.
    pub fn append_before(&self, text: &str, text2: Option<&str>, out: &mut String) {
        for piece in &self.before {
            out.push_str(match piece {
                Piece::Plain(s) => s,
                Piece::Text => text,
                Piece::Text2 => text2.unwrap_or_default(),
            });
        }
    }
}

impl Task {
    /// Reads a task file: the task and its variants, the task first.
    ///
    /// # Errors
    /// The text is no TOML, has unknown or missing keys, or describes no task; `path` is for the message.
    pub fn parse(path: &Path, text: &str) -> Result<Vec<Self>, TaskError> {
        let toml = |source| TaskError::Toml { path: path.to_owned(), source: Box::new(source) };
        let file: File = toml::from_str(text).map_err(toml)?;
        let bad = |key: &str, why: String| TaskError::key(path, key, why);
        if file.class.len() < 2 {
            return Err(bad("class", format!("{} classes; a task has at least two", file.class.len())));
        }
        let format = Format::parse(&file.format).map_err(|why| bad("format", why))?;
        let classes: Vec<Class> =
            file.class.into_iter().map(|c| Class { name: c.name, word: c.word }).collect();
        distinct(classes.iter().map(|c| c.name.as_str())).map_err(|why| bad("class.name", why))?;
        words(classes.iter().map(|c| c.word.as_str())).map_err(|why| bad("class.word", why))?;
        let known = |name: &str| classes.iter().any(|c| c.name == name);
        if let Some(name) = file.skip.iter().find(|n| known(n)) {
            return Err(bad("skip", format!("{name} is a class of the task")));
        }
        if let Some(name) = file.words.keys().find(|n| !known(n)) {
            return Err(bad("words", format!("{name} is no class of the task")));
        }
        if let Some(source) = &file.source
            && let Some(name) = source.values.values().find(|n| !known(n) && !file.skip.contains(n))
        {
            return Err(bad("source.values", format!("{name} is neither a class of the task nor skipped")));
        }
        if file.source.is_some() != file.words.is_empty() {
            let why = "a task has either a source or words of its own";
            return Err(bad("source", why.to_owned()));
        }
        if format.wants_text2()
            && file.source.as_ref().is_none_or(|s| s.columns.as_ref().is_some_and(|c| c.text2.is_none()))
        {
            return Err(bad("format", "it asks for {text2}, but the source has no such column".to_owned()));
        }
        let mut brought: BTreeMap<String, Vec<String>> = file.words;
        let rows = if brought.is_empty() {
            Vec::new()
        } else {
            classes.iter().map(|c| brought.remove(&c.name).unwrap_or_default()).collect()
        };
        let task = Self {
            key: file.key,
            version: file.version,
            title: file.title,
            control: file.control,
            inverted: false,
            instruction: file.instruction,
            format,
            classes,
            skip: file.skip,
            source: file.source,
            words: rows,
        };
        name(&task.key).map_err(|why| bad("key", why))?;
        let mut all = vec![task.clone()];
        for v in file.variant {
            let key = |k: &str| format!("variant {}: {k}", v.name);
            if !v.name.starts_with(&format!("{}.", task.key)) {
                return Err(bad("variant.name", format!("{} does not begin with {}.", v.name, task.key)));
            }
            name(&v.name).map_err(|why| bad(&key("name"), why))?;
            let format = Format::parse(&v.format).map_err(|why| bad(&key("format"), why))?;
            if v.words.len() != task.classes.len() {
                let why = format!("{} words for {} classes", v.words.len(), task.classes.len());
                return Err(bad(&key("words"), why));
            }
            words(v.words.iter().map(String::as_str)).map_err(|why| bad(&key("words"), why))?;
            let classes = task.classes.iter().zip(&v.words);
            all.push(Self {
                key: v.name,
                inverted: v.inverted,
                instruction: v.instruction,
                format,
                classes: classes.map(|(c, w)| Class { name: c.name.clone(), word: w.clone() }).collect(),
                ..task.clone()
            });
        }
        distinct(all.iter().map(|t| t.key.as_str())).map_err(|why| bad("variant.name", why))?;
        Ok(all)
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.classes.len()
    }

    /// The class of a name in the data.
    pub fn class(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|c| c.name == name)
    }
}

fn name(key: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
    if !key.is_empty() && key.chars().all(plain) {
        return Ok(());
    }
    Err(format!("{key:?}: a name has small letters, digits, underscores and dots"))
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for n in names {
        if !seen.insert(n) {
            return Err(format!("{n:?} is given twice"));
        }
    }
    Ok(())
}

/// Label words are distinct, not empty, and bring no space or line of their own at their ends.
fn words<'a>(all: impl Iterator<Item = &'a str> + Clone) -> Result<(), String> {
    distinct(all.clone())?;
    for w in all {
        if w.is_empty() || w.trim() != w || w.contains('\n') {
            return Err(format!("{w:?} cannot be a label: it is empty or has space around it"));
        }
    }
    Ok(())
}
