//! Facts: an argument, a relation and its answer, with ways to ask for it.
//!
//! What ships is our own list of countries with capital and language (`tasks/recall/countries.toml`). Others are
//! read from files: relations ([`read_relation`]) and known facts ([`read_known`]).

mod known;
mod relations;
mod wording;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use self::known::{parse_known, read_known};
pub use self::relations::{parse_relation, read_relation, relation_files};
pub use self::wording::{Asked, Form, Wording};

use crate::nearest::nearest;

/// Why a file of facts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FactError {
    /// Not TOML, or a key or type that does not belong there.
    #[error("{}: {why}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// In one line.
        why: String,
    },
    /// A file or folder that cannot be read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Not the JSON of relations or known facts.
    #[error("{}: not a file of facts: {why}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// In one line.
        why: String,
    },
    /// A relation or row that makes no fact.
    #[error("{}: {place}: {why}", path.display())]
    Fact {
        /// The file.
        path: PathBuf,
        /// Relation or row.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// There is no such relation.
    #[error("there is no relation {name}{}; there are {}", meant(name, known), known.join(", "))]
    Unknown {
        /// As it was given.
        name: String,
        /// All there are.
        known: Vec<String>,
    },
}

/// A suggestion, where a name is similar to another.
fn meant(name: &str, known: &[String]) -> String {
    nearest(known.iter().cloned(), name).map_or_else(String::new, |n| format!("; did you mean {n}?"))
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What the function is applied to: `France`.
    pub argument: String,
    /// What it gives: `Paris`.
    pub answer: String,
}

/// A function from arguments to answers, and how to ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its name: `capital`.
    pub key: String,
    /// After this only an answer can come; `{}` stands for the argument.
    pub prompt: String,
    /// After these anything may come.
    pub open: Vec<String>,
    /// How the study asks, with facts stated in the same way before it.
    pub wordings: Vec<Wording>,
    /// In the order of the file; each argument once.
    pub facts: Vec<Fact>,
    /// Rows of the file whose argument was there before and which are left out.
    pub repeated: usize,
}

/// Facts of which each argument counts once: the first answer stands.
#[derive(Default)]
struct Collected {
    seen: BTreeSet<String>,
    facts: Vec<Fact>,
    repeated: usize,
}

impl Collected {
    fn add(&mut self, argument: String, answer: String) {
        if self.seen.insert(argument.clone()) {
            self.facts.push(Fact { argument, answer });
        } else {
            self.repeated += 1;
        }
    }
}

fn read(path: &Path) -> Result<String, FactError> {
    std::fs::read_to_string(path).map_err(|source| FactError::Io { path: path.to_owned(), source })
}

impl Relation {
    /// The prompt that forces a name, for one argument.
    pub fn ask(&self, argument: &str) -> String {
        self.prompt.replace("{}", argument)
    }

    /// A prompt that holds a question, where there is one: the first of them, else the first of all.
    pub fn as_question(&self) -> &str {
        let asks = self.wordings.iter().map(|w| &w.ask);
        std::iter::once(&self.prompt).chain(asks).find(|p| p.contains('?')).unwrap_or(&self.prompt)
    }

    /// Whether there are two answers, so that one can be wrong.
    pub fn has_two_answers(&self) -> bool {
        self.facts.iter().any(|f| f.answer.trim() != self.facts[0].answer.trim())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[allow(dead_code, reason = "read so that a file without it is refused")]
    version: u32,
    lead_ins: Vec<String>,
    relation: Vec<Questions>,
    facts: Facts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Questions {
    key: String,
    prompt: String,
    open: Vec<String>,
    open_clause: String,
    forced_clause: String,
    column: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Reads the text of a file of facts.
///
/// # Errors
/// No such file's text, a row that lacks a column, an argument that is there twice, a prompt without `{}`.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Relation>, FactError> {
    let file: File = toml::from_str(text).map_err(|e| FactError::Toml {
        path: path.to_owned(),
        why: e.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    })?;
    let bad =
        |place: String, why: &str| FactError::Fact { path: path.to_owned(), place, why: why.to_owned() };
    let mut seen = BTreeSet::new();
    for (i, row) in file.facts.rows.iter().enumerate() {
        let place = || format!("row {}", i + 1);
        if row.len() != file.facts.columns.len() || row.iter().any(|cell| cell.trim().is_empty()) {
            return Err(bad(place(), "it needs a text in every column"));
        }
        if !seen.insert(&row[0]) {
            return Err(bad(place(), &format!("{} is there twice", row[0])));
        }
    }
    let mut out = Vec::new();
    for r in file.relation {
        if r.column == 0 || r.column >= file.facts.columns.len() {
            return Err(bad(format!("relation {}", r.key), "its column is none of the answers'"));
        }
        let prompts = [&r.prompt, &r.open_clause, &r.forced_clause].into_iter().chain(&r.open);
        if prompts.into_iter().any(|p| p.matches("{}").count() == 0) {
            return Err(bad(format!("relation {}", r.key), "a prompt has no {} for its argument"));
        }
        let fact = |row: &Vec<String>| Fact { argument: row[0].clone(), answer: row[r.column].clone() };
        let facts = file.facts.rows.iter().map(fact).collect();
        let clauses = [(Form::Open, &r.open_clause), (Form::Forced, &r.forced_clause)];
        let wordings = clauses
            .into_iter()
            .flat_map(|(form, clause)| file.lead_ins.iter().map(move |l| Wording::led_in(form, l, clause)));
        let wordings = wordings.collect();
        out.push(Relation { key: r.key, prompt: r.prompt, open: r.open, wordings, facts, repeated: 0 });
    }
    Ok(out)
}

/// The relations that the project ships.
///
/// # Errors
/// The shipped file is damaged.
pub fn builtin_all() -> Result<Vec<Relation>, FactError> {
    const COUNTRIES: &str = include_str!("../../../tasks/recall/countries.toml");
    parse(Path::new("tasks/recall/countries.toml"), COUNTRIES)
}

/// One of them.
///
/// # Errors
/// There is none of this name.
pub fn builtin(key: &str) -> Result<Relation, FactError> {
    let mut all = builtin_all()?;
    match all.iter().position(|r| r.key == key) {
        Some(at) => Ok(all.swap_remove(at)),
        None => {
            let known = all.into_iter().map(|r| r.key).collect();
            Err(FactError::Unknown { name: key.to_owned(), known })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_facts_can_be_asked() {
        let all = builtin_all().expect("the shipped file");
        assert_eq!(all.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["capital", "language"]);
        assert!(all.iter().all(|r| r.facts.len() >= 100 && r.wordings.len() == 30));
        let capital = builtin("capital").expect("a relation");
        let france = capital.facts.iter().find(|f| f.argument == "France").expect("a fact");
        assert_eq!(france.answer, "Paris");
        assert!(capital.ask("France").ends_with("The capital of France is the city of"));
        let refused = builtin("colour").expect_err("none").to_string();
        assert_eq!(refused, "there is no relation colour; there are capital, language");
        let slip = builtin("capitals").expect_err("none").to_string();
        assert_eq!(slip, "there is no relation capitals; did you mean capital?; there are capital, language");
    }

    #[test]
    fn files_with_a_slip_are_refused() {
        let whole = "version = 1\nlead_ins = []\n[[relation]]\nkey = 'k'\nprompt = 'of {}'\nopen = []\n\
                     open_clause = '{} is'\nforced_clause = '{} is'\ncolumn = 1\n\
                     [facts]\ncolumns = ['a', 'b']\nrows = [['x', 'y']]\n";
        let told = |from: &str, to: &str| {
            parse(Path::new("f"), &whole.replace(from, to)).expect_err("refused").to_string()
        };
        assert!(parse(Path::new("f"), whole).is_ok());
        assert_eq!(told("of {}", "of it"), "f: relation k: a prompt has no {} for its argument");
        assert_eq!(told("column = 1", "column = 2"), "f: relation k: its column is none of the answers'");
        assert_eq!(told("'y'", "' '"), "f: row 1: it needs a text in every column");
        assert_eq!(told("[['x', 'y']]", "[['x', 'y'], ['x', 'z']]"), "f: row 2: x is there twice");
        assert!(told("key =", "kee =").starts_with("f: TOML parse error"));
    }
}
