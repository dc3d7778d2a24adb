//! What a sequence may say: one of some choices, a regular expression, JSON of a schema.
//!
//! The grammar works on bytes, so a token may be any that keeps the text within it; how a text is cut
//! into tokens is left to the model. Special tokens never belong to a text; the end-of-sequence tokens are
//! allowed where the text may end.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::derivre::RegexBuilder;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::spec::ModelSpec;
use crate::tokenizer::Tokenizer;

/// Longer tokens cannot be held by the tree of tokens; they are never chosen.
const LONGEST_TOKEN: usize = 1000;
/// The tree of tokens has a node a byte at most.
const MOST_BYTES: usize = (1 << 22) - 2;
/// White space between the parts of a JSON text. It is bounded: a model could go on with it for ever.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,16}";

/// A constraint that cannot be used, or that a text cannot meet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The tokenizer's vocabulary cannot be used.
    #[error("constraints cannot be used with this tokenizer: {0}")]
    Vocabulary(String),
    /// The list of choices.
    #[error("{0}")]
    Choices(String),
    /// The regular expression.
    #[error("the regular expression cannot be used: {0}")]
    Regex(String),
    /// The schema.
    #[error("the JSON schema cannot be used: {why}{}", at(place))]
    Schema {
        /// JSON pointer to the part that is to blame, where it is known.
        place: Option<String>,
        /// What is wrong.
        why: String,
    },
    /// No token of the vocabulary goes on.
    #[error("no token of the vocabulary can follow within the constraint: {0}")]
    DeadEnd(String),
}

fn at(place: &Option<String>) -> String {
    match place.as_deref() {
        None => String::new(),
        Some("") => " (at its root)".to_owned(),
        Some(p) => format!(" (at {p})"),
    }
}

/// Makes constraints for one tokenizer. Building it takes time in proportion to the vocabulary; keep it.
pub struct Grammars {
    factory: ParserFactory,
    ends: Arc<[u32]>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Grammars {
    /// For a model and its tokenizer.
    ///
    /// # Errors
    /// The vocabulary is larger than the grammar library can hold, or has no text.
    pub fn new(tokenizer: &Tokenizer, spec: &ModelSpec) -> Result<Self, ConstraintError> {
        let ends: Arc<[u32]> = spec.eos.iter().copied().filter(|&id| (id as usize) < spec.vocab).collect();
        let mut words: Vec<Vec<u8>> =
            tokenizer.token_bytes(spec.vocab).into_iter().map(Option::unwrap_or_default).collect();
        words.iter_mut().filter(|w| w.len() > LONGEST_TOKEN).for_each(Vec::clear);
        ends.iter().for_each(|&id| words[id as usize].clear());
        let bytes: usize = words.iter().map(Vec::len).sum();
        if bytes == 0 {
            return Err(ConstraintError::Vocabulary("no token stands for text".to_owned()));
        }
        if bytes > MOST_BYTES || words.len() > 1 << 23 {
            return Err(ConstraintError::Vocabulary("its vocabulary is too large".to_owned()));
        }
        let info = TokRxInfo::new(words.len() as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if ends.len() > 1 {
            trie = trie.with_eos_tokens(&ends);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new_simple(&env).map_err(|e| ConstraintError::Vocabulary(told(&e)))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, ends })
    }

    /// One of these texts.
    ///
    /// # Errors
    /// The list or one of the texts is empty, or two are the same.
    pub fn choices(&self, choices: &[String]) -> Result<Constraint, ConstraintError> {
        if choices.is_empty() {
            return Err(ConstraintError::Choices("there are no choices".to_owned()));
        }
        if choices.iter().any(String::is_empty) {
            return Err(ConstraintError::Choices("a choice is empty".to_owned()));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = choices.iter().find(|c| !seen.insert(c.as_str())) {
            return Err(ConstraintError::Choices(format!("the choice {twice:?} is there twice")));
        }
        let escaped: Vec<String> = choices.iter().map(|c| escape(c)).collect();
        self.compile(TopLevelGrammar::from_regex(&format!("(?:{})", escaped.join("|"))))
            .map_err(ConstraintError::Choices)
    }

    /// A text that matches a regular expression from its first to its last character (syntax of the crate
    /// `regex`, without look-around and word boundaries).
    ///
    /// # Errors
    /// The expression is broken, or matches nothing.
    pub fn regex(&self, regex: &str) -> Result<Constraint, ConstraintError> {
        // Asked alone first, so that the error shows the expression as it was given.
        RegexBuilder::new().mk_regex(regex).map_err(|e| ConstraintError::Regex(pointed(&told(&e))))?;
        self.compile(TopLevelGrammar::from_regex(regex)).map_err(ConstraintError::Regex)
    }

    /// JSON that a schema describes (draft 2020-12 as far as the library `llguidance` goes; keywords that
    /// the draft does not know are ignored, as it says).
    ///
    /// # Errors
    /// The schema is broken, uses a keyword that is not supported, or nothing meets it.
    pub fn json_schema(&self, schema: &Value) -> Result<Constraint, ConstraintError> {
        let mut schema = match schema {
            Value::Bool(true) => json!({}),
            other => other.clone(),
        };
        let Some(object) = schema.as_object_mut() else {
            let why = "a schema is an object".to_owned();
            return Err(ConstraintError::Schema { place: Some(String::new()), why });
        };
        // Settings of the library do not belong in a schema.
        object.remove("x-guidance");
        let original = schema.clone();
        let options =
            JsonCompileOptions { whitespace_pattern: Some(JSON_SPACE.to_owned()), ..Default::default() };
        options.apply_to(&mut schema);
        self.compile(TopLevelGrammar::from_json_schema(schema)).map_err(|why| {
            let place = place(&original, &why, &mut String::new());
            ConstraintError::Schema { place, why }
        })
    }

    fn compile(&self, grammar: TopLevelGrammar) -> Result<Constraint, String> {
        let parser = self.factory.create_parser(grammar).map_err(|e| told(&e))?;
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar without a single text is found out here.
        matcher.compute_mask_or_eos().map_err(|e| match told(&e) {
            why if why.is_empty() || why == "NoExtensionBias" => "no text meets it".to_owned(),
            why => why,
        })?;
        Ok(Constraint { matcher, ends: Arc::clone(&self.ends) })
    }
}

/// A constraint and how far a text has come within it.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    ends: Arc<[u32]>,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("done", &self.matcher.is_stopped()).finish_non_exhaustive()
    }
}

/// The tokens that may come next.
#[derive(Clone, Debug)]
pub(super) struct Mask(SimpleVob);

impl Mask {
    /// Makes what is forbidden −∞.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for (id, x) in logits.iter_mut().enumerate() {
            if id >= self.0.len() || !self.0.get(id) {
                *x = f32::NEG_INFINITY;
            }
        }
    }

    /// The token, where only one may come.
    pub(super) fn only(&self) -> Option<u32> {
        let first = self.0.first_bit_set()?;
        (self.0.num_set() == 1).then_some(first as u32)
    }
}

impl Constraint {
    /// The tokens that may come next: those that go on within the constraint, and the end-of-sequence
    /// tokens where the text may end.
    pub(super) fn mask(&mut self) -> Result<Mask, ConstraintError> {
        self.matcher.compute_mask_or_eos().map(Mask).map_err(|e| ConstraintError::DeadEnd(told(&e)))
    }

    /// Goes on with a token of the mask.
    pub(super) fn take(&mut self, id: u32) -> Result<(), ConstraintError> {
        self.matcher.consume_token(id).map_err(|e| ConstraintError::DeadEnd(told(&e)))
    }

    /// Whether an id ends the text.
    pub(super) fn ends_with(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Whether the text is whole and nothing can follow.
    pub(super) fn is_done(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    /// Whether the text so far is whole.
    pub(super) fn is_whole(&mut self) -> bool {
        self.is_done() || self.matcher.is_accepting().unwrap_or(false)
    }
}

/// The message of the library, without what is meant for its developers.
fn told(e: &impl ToString) -> String {
    let text = e.to_string();
    let text = text.split("\n<").next().unwrap_or_default();
    text.trim().strip_prefix("panic: ").unwrap_or(text.trim()).to_owned()
}

/// The message of a regular expression that cannot be read: what is wrong first, then where.
fn pointed(message: &str) -> String {
    let parts = message.strip_prefix("regex parse error:\n").and_then(|m| m.rsplit_once("\nerror: "));
    parts.map_or_else(|| message.to_owned(), |(place, what)| format!("{what}\n{place}"))
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(
            c,
            '\\' | '.'
                | '+'
                | '*'
                | '?'
                | '('
                | ')'
                | '|'
                | '['
                | ']'
                | '{'
                | '}'
                | '^'
                | '$'
                | '#'
                | '&'
                | '-'
                | '~'
        ) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// JSON pointer to the first object with a key that an error message names.
fn place(schema: &Value, why: &str, at: &mut String) -> Option<String> {
    let quoted = |key: &str| {
        ["\"", "'", "`"].iter().any(|q| why.contains(&format!("{q}{key}{q}"))) || why.starts_with(key)
    };
    let children: Vec<(String, &Value)> = match schema {
        Value::Object(object) => {
            if object.keys().any(|k| quoted(k)) {
                return Some(at.clone());
            }
            object.iter().map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v)).collect()
        }
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => return None,
    };
    for (key, value) in children {
        let end = at.len();
        at.push('/');
        at.push_str(&key);
        if let Some(found) = place(value, why, at) {
            return Some(found);
        }
        at.truncate(end);
    }
    None
}
