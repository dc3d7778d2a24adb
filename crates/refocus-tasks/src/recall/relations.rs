//! Relations as Hernandez et al. publish them ("Linearity of relation decoding in transformer language models",
//! 2023): one JSON file a relation, with templates and pairs of subject and object.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Collected, FactError, Form, Relation, Wording, read};

/// One file. Other keys, which describe the relation, are not needed.
#[derive(Deserialize)]
struct File {
    prompt_templates: Vec<String>,
    #[serde(default)]
    prompt_templates_zs: Vec<String>,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    subject: String,
    object: String,
}

/// Reads the text of such a file; the relation is named after the file.
///
/// # Errors
/// No such file's text, no template, a template without `{}`, a sample without a subject or object, no sample.
pub fn parse_relation(path: &Path, text: &str) -> Result<Relation, FactError> {
    let file: File = serde_json::from_str(text)
        .map_err(|e| FactError::Json { path: path.to_owned(), why: e.to_string() })?;
    let bad =
        |place: String, why: &str| FactError::Fact { path: path.to_owned(), place, why: why.to_owned() };
    let mut templates: Vec<String> = Vec::new();
    for t in file.prompt_templates.into_iter().chain(file.prompt_templates_zs) {
        if t.matches("{}").count() == 0 {
            return Err(bad(format!("template {t:?}"), "it has no {} for its subject"));
        }
        if !templates.contains(&t) {
            templates.push(t);
        }
    }
    let Some(prompt) = templates.first().cloned() else {
        return Err(bad("prompt_templates".to_owned(), "there is none"));
    };
    let mut facts = Collected::default();
    for (i, s) in file.samples.into_iter().enumerate() {
        if s.subject.trim().is_empty() || s.object.trim().is_empty() {
            return Err(bad(format!("sample {}", i + 1), "it needs a subject and an object"));
        }
        facts.add(s.subject, s.object);
    }
    if facts.facts.is_empty() {
        return Err(bad("samples".to_owned(), "there is none"));
    }
    let wordings =
        templates.iter().map(|t| Wording { form: Form::Open, ask: t.clone(), state: t.clone() }).collect();
    Ok(Relation {
        key: stem(path),
        prompt,
        open: templates,
        wordings,
        facts: facts.facts,
        repeated: facts.repeated,
    })
}

/// Reads one file.
///
/// # Errors
/// It cannot be read, or as [`parse_relation`].
pub fn read_relation(path: &Path) -> Result<Relation, FactError> {
    parse_relation(path, &read(path)?)
}

/// The files of relations in a folder and the folders in it, by name.
///
/// # Errors
/// A folder cannot be read.
pub fn relation_files(folder: &Path) -> Result<Vec<(String, PathBuf)>, FactError> {
    let mut out = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(dir) = left.pop() {
        let unreadable = |source| FactError::Io { path: dir.clone(), source };
        for entry in std::fs::read_dir(&dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "json") {
                out.push((stem(&path), path));
            }
        }
    }
    out.sort();
    Ok(out)
}

/// The name of a file without its ending.
fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"name": "opposite", "prompt_templates": ["The opposite of {} is"],
        "prompt_templates_zs": ["The opposite of {} is", "The antonym of {} is"], "properties": {},
        "samples": [{"subject": "up", "object": "down"}, {"subject": "up", "object": "low"},
                    {"subject": "hot", "object": "cold"}]}"#;

    #[test]
    fn a_relation_and_its_wordings() {
        let r = parse_relation(Path::new("x/adj_antonym.json"), WHOLE).expect("a relation");
        assert_eq!((r.key.as_str(), r.facts.len(), r.repeated), ("adj_antonym", 2, 1));
        assert_eq!(r.open, ["The opposite of {} is", "The antonym of {} is"]);
        assert!(r.wordings.iter().all(|w| w.form == Form::Open && w.ask == w.state));
        assert_eq!(r.facts[0].answer, "down");
        assert!(r.has_two_answers());
        assert_eq!(r.as_question(), "The opposite of {} is");
        let asking = WHOLE.replace("The antonym of {} is", "What is the antonym of {}? It is");
        let r = parse_relation(Path::new("x/adj_antonym.json"), &asking).expect("a relation");
        assert_eq!(r.as_question(), "What is the antonym of {}? It is");
        let one = WHOLE.replace("low", "down").replace("cold", "down");
        assert!(!parse_relation(Path::new("x"), &one).expect("a relation").has_two_answers());
    }

    #[test]
    fn files_with_a_slip_are_refused() {
        let told = |from: &str, to: &str| {
            let text = WHOLE.replace(from, to);
            parse_relation(Path::new("f.json"), &text).expect_err("refused").to_string()
        };
        assert_eq!(
            told("antonym of {}", "antonym of it"),
            "f.json: template \"The antonym of it is\": it has no {} for its subject"
        );
        assert_eq!(told("\"cold\"", "\" \""), "f.json: sample 3: it needs a subject and an object");
        assert!(
            told("\"samples\"", "\"sample\"")
                .starts_with("f.json: not a file of facts: missing field `samples`")
        );
        assert!(told("{\"name\"", "{name").starts_with("f.json: not a file of facts: key must be a string"));
    }
}
