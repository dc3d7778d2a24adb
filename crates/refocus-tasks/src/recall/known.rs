//! Files of known facts as Meng et al. publish them ("Locating and editing factual associations in GPT", 2022):
//! a JSON list in which every fact brings its own prompt. Facts with one relation id become a relation, and every
//! prompt of it a wording of all its facts.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Collected, FactError, Form, Relation, Wording, read};

#[derive(Deserialize)]
struct Known {
    subject: String,
    attribute: String,
    prompt: String,
    relation_id: String,
}

/// Reads the text of such a file; relations come in the order of their ids.
///
/// # Errors
/// No such file's text, a fact without subject or attribute, a prompt that does not hold its subject, no fact.
pub fn parse_known(path: &Path, text: &str) -> Result<Vec<Relation>, FactError> {
    let all: Vec<Known> = serde_json::from_str(text)
        .map_err(|e| FactError::Json { path: path.to_owned(), why: e.to_string() })?;
    let mut by_id: BTreeMap<String, (Collected, Vec<String>)> = BTreeMap::new();
    for (i, k) in all.into_iter().enumerate() {
        let bad = |why: &str| FactError::Fact {
            path: path.to_owned(),
            place: format!("fact {}", i + 1),
            why: why.to_owned(),
        };
        if k.subject.trim().is_empty() || k.attribute.trim().is_empty() {
            return Err(bad("it needs a subject and an attribute"));
        }
        let Some((before, after)) = k.prompt.split_once(&k.subject) else {
            return Err(bad("its prompt does not hold its subject"));
        };
        let template = format!("{before}{{}}{after}");
        let (facts, templates) = by_id.entry(k.relation_id).or_default();
        facts.add(k.subject, k.attribute);
        if !templates.contains(&template) {
            templates.push(template);
        }
    }
    if by_id.is_empty() {
        return Err(FactError::Fact {
            path: path.to_owned(),
            place: "the list".to_owned(),
            why: "it has no fact".to_owned(),
        });
    }
    let relation = |(key, (facts, templates)): (String, (Collected, Vec<String>))| {
        let wording = |t: &String| Wording { form: Form::Open, ask: t.clone(), state: t.clone() };
        Relation {
            key,
            prompt: templates.first().cloned().unwrap_or_default(),
            wordings: templates.iter().map(wording).collect(),
            open: templates,
            facts: facts.facts,
            repeated: facts.repeated,
        }
    };
    Ok(by_id.into_iter().map(relation).collect())
}

/// Reads one file.
///
/// # Errors
/// It cannot be read, or as [`parse_known`].
pub fn read_known(path: &Path) -> Result<Vec<Relation>, FactError> {
    parse_known(path, &read(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"[
        {"known_id": 0, "subject": "Beats", "attribute": "Apple", "template": "{} is owned by",
         "prompt": "Beats is owned by", "relation_id": "P127"},
        {"known_id": 1, "subject": "Vinson", "attribute": "Antarctica", "prompt": "Vinson is in", "relation_id": "P30"},
        {"known_id": 2, "subject": "Audible", "attribute": "Amazon", "prompt": "The owner of Audible is",
         "relation_id": "P127"}]"#;

    #[test]
    fn facts_of_one_id_are_a_relation() {
        let all = parse_known(Path::new("k.json"), WHOLE).expect("facts");
        let keys: Vec<_> = all.iter().map(|r| (r.key.as_str(), r.facts.len())).collect();
        assert_eq!(keys, [("P127", 2), ("P30", 1)]);
        assert_eq!(all[0].open, ["{} is owned by", "The owner of {} is"]);
    }

    #[test]
    fn files_with_a_slip_are_refused() {
        let told = |from: &str, to: &str| {
            parse_known(Path::new("k"), &WHOLE.replace(from, to)).expect_err("refused").to_string()
        };
        assert_eq!(told("\"Vinson is in", "\"It is in"), "k: fact 2: its prompt does not hold its subject");
        assert_eq!(told("\"Amazon\"", "\"\""), "k: fact 3: it needs a subject and an attribute");
        assert!(told("[\n", "{").starts_with("k: not a file of facts: "));
        let empty = parse_known(Path::new("k"), "[]").expect_err("refused").to_string();
        assert_eq!(empty, "k: the list: it has no fact");
    }
}
