//! The relations of `recall`: from names to facts.

use std::path::{Path, PathBuf};

use refocus_tasks::recall::{FactError, Relation, builtin_all, read_known, read_relation, relation_files};

use super::tasks::{DATA, data_folder};
use crate::failure::{Failure, Outcome};

/// Those of the study, as far as they are there.
const BUILTIN: [&str; 2] = ["capital", "language"];
const FROM_DATA: [&str; 4] =
    ["product_by_company", "landmark_on_continent", "adj_antonym", "verb_past_tense"];
/// Of the data the relations and known facts.
const FACTS: &str = "facts";
/// Facts that other models are known to know.
const KNOWN: &str = "known_1000.json";

/// What there is to choose from.
struct Library {
    folder: Option<PathBuf>,
    builtin: Vec<Relation>,
    files: Vec<(String, PathBuf)>,
}

impl Library {
    fn open(data: Option<&Path>) -> Outcome<Self> {
        let folder = data_folder(data, FACTS);
        let mut files = Vec::new();
        if let Some(folder) = &folder {
            if !folder.is_dir() {
                return Err(Failure::new(format!("{}: there is no such folder", folder.display()))
                    .hint(format!("--data, or the folder facts in {DATA}, holds relations/ and {KNOWN}")));
            }
            let relations = folder.join("relations");
            if relations.is_dir() {
                files = relation_files(&relations)?;
            }
        }
        Ok(Self { folder, builtin: builtin_all()?, files })
    }

    /// Names of all relations but those of known facts.
    fn names(&self) -> Vec<String> {
        let builtin = self.builtin.iter().map(|r| r.key.clone());
        builtin.chain(self.files.iter().map(|f| f.0.clone())).collect()
    }

    fn find(&self, name: &str) -> Outcome<Relation> {
        if Path::new(name).extension().is_some_and(|e| e == "json") {
            return Ok(read_relation(Path::new(name))?);
        }
        if let Some(r) = self.builtin.iter().find(|r| r.key == name) {
            return Ok(r.clone());
        }
        if let Some((_, path)) = self.files.iter().find(|f| f.0 == name) {
            return Ok(read_relation(path)?);
        }
        let known = self.folder.as_ref().map(|f| f.join(KNOWN)).filter(|p| p.is_file());
        if let Some(path) = known.filter(|_| is_relation_id(name)) {
            let all = read_known(&path)?;
            let ids: Vec<String> = all.iter().map(|r| r.key.clone()).collect();
            return all
                .into_iter()
                .find(|r| r.key == name)
                .ok_or_else(|| FactError::Unknown { name: name.to_owned(), known: ids }.into());
        }
        let failure = Failure::from(FactError::Unknown { name: name.to_owned(), known: self.names() });
        Err(match &self.folder {
            Some(folder) if self.files.is_empty() => {
                failure.hint(format!("{} has no relations/ with files", folder.display()))
            }
            Some(_) => failure,
            None => failure.hint(format!("for relations from files give --data DIR or set {DATA}")),
        })
    }
}

/// `P30`.
fn is_relation_id(name: &str) -> bool {
    name.strip_prefix('P').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The relations that a run is about, each once, and a remark on what could not be had.
pub(super) fn relations(names: &[String], data: Option<&Path>) -> Outcome<(Vec<Relation>, Option<String>)> {
    let library = Library::open(data)?;
    let mut wanted: Vec<String> = names.to_vec();
    let mut note = None;
    if wanted.is_empty() {
        wanted.extend(BUILTIN.map(str::to_owned));
        let (here, missing): (Vec<&str>, Vec<&str>) =
            FROM_DATA.into_iter().partition(|n| library.files.iter().any(|f| f.0 == *n));
        wanted.extend(here.into_iter().map(str::to_owned));
        if !missing.is_empty() {
            let list = missing.join(", ");
            note = Some(format!("without {list}: give --data DIR or set {DATA} for relations from files"));
        }
    }
    let mut out: Vec<Relation> = Vec::new();
    for name in wanted {
        let relation = library.find(&name)?;
        if !out.iter().any(|r| r.key == relation.key) {
            out.push(relation);
        }
    }
    Ok((out, note))
}
