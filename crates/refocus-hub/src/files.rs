//! Which files of a repository make a model.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cache::Repo;
use crate::error::{HubError, HubResult};
use crate::id::{ModelId, check_path};

/// Everything but the weights, where a repository has it.
const SMALL: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
];

const CONFIG: &str = SMALL[0];

/// Whole weights and their index, best first. Only one of them is taken.
const WEIGHTS: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// What is taken from a repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A folder: small files, and whole weights or an index.
    Folder {
        /// Those of the small files that there are.
        small: Vec<&'static str>,
        /// Those that there are not.
        absent: Vec<&'static str>,
        /// Weights in one file, or the index of several.
        weights: &'static str,
    },
    /// One GGUF file, by its path.
    Gguf(String),
}

/// Whether a name is that of weights in GGUF format. Vision encoders and importance matrices have the same
/// suffix and are none.
pub(crate) fn is_gguf(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    name.ends_with(".gguf") && !name.starts_with("mmproj") && !name.contains("imatrix")
}

pub(crate) fn is_index(file: &str) -> bool {
    WEIGHTS.iter().any(|(_, index)| *index == file)
}

/// Chooses among the files of a repository.
pub(crate) fn choose(id: &ModelId, all: &BTreeSet<String>) -> HubResult<Choice> {
    let repo = || id.repo().to_owned();
    let ggufs: Vec<&str> = all.iter().map(String::as_str).filter(|f| is_gguf(f)).collect();
    if let Some(wanted) = id.file() {
        return match &named(wanted, &ggufs)[..] {
            [one] => gguf(id, one),
            [] => Err(HubError::NoGguf { repo: repo(), wanted: wanted.to_owned(), files: owned(&ggufs) }),
            several => Err(HubError::Choose { id: without_file(id), files: owned(several) }),
        };
    }
    let weights = WEIGHTS.iter().flat_map(|(whole, index)| [*whole, *index]).find(|f| all.contains(*f));
    match (weights, &ggufs[..]) {
        (Some(weights), _) if all.contains(CONFIG) => {
            let (small, absent) = SMALL.iter().partition(|f| all.contains(**f));
            Ok(Choice::Folder { small, absent, weights })
        }
        (_, [one]) => gguf(id, one),
        (weights, []) => {
            let why = match weights {
                Some(_) => "there is no config.json",
                None => {
                    "there is neither model.safetensors or pytorch_model.bin, whole or with an index, nor a .gguf file"
                }
            };
            Err(HubError::NoModel { repo: repo(), why, files: all.iter().cloned().collect() })
        }
        (_, several) => Err(HubError::Choose { id: without_file(id), files: owned(several) }),
    }
}

fn gguf(id: &ModelId, path: &str) -> HubResult<Choice> {
    // `-00001-of-00003.gguf`
    let stem = path.strip_suffix(".gguf").unwrap_or(path);
    let part = stem.rsplit_once("-of-").is_some_and(|(head, n)| {
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        digits(n) && n.parse() != Ok(1u32) && head.rsplit('-').next().is_some_and(digits)
    });
    if part {
        return Err(HubError::SplitGguf { repo: id.repo().to_owned(), file: path.to_owned() });
    }
    Ok(Choice::Gguf(path.to_owned()))
}

/// The files that a word names: the one of this path, else those whose name ends with the word.
fn named<'a>(wanted: &str, files: &[&'a str]) -> Vec<&'a str> {
    if let Some(one) = files.iter().find(|f| **f == wanted) {
        return vec![one];
    }
    let wanted = wanted.to_ascii_lowercase();
    let fits = |f: &&&str| {
        let name = f.to_ascii_lowercase();
        let name = name.strip_suffix(".gguf").unwrap_or(&name);
        name.strip_suffix(&wanted).is_some_and(|head| head.ends_with(['-', '.', '_']))
    };
    files.iter().filter(fits).copied().collect()
}

fn owned(files: &[&str]) -> Vec<String> {
    files.iter().map(|f| (*f).to_owned()).collect()
}

pub(crate) fn without_file(id: &ModelId) -> String {
    let text = id.to_string();
    text.split(':').next().unwrap_or_default().to_owned()
}

/// The shards that an index names. All lie beside it.
pub(crate) fn shards(path: &Path) -> HubResult<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
        #[serde(default, rename = "metadata")]
        _metadata: IgnoredAny,
    }
    const LARGEST: u64 = 256 << 20;
    let bad = |why: String| HubError::Index { path: path.to_owned(), why };
    let size = std::fs::metadata(path).map_err(HubError::read(path))?.len();
    if size > LARGEST {
        return Err(bad(format!("an index of {size} bytes is not read")));
    }
    let bytes = std::fs::read(path).map_err(HubError::read(path))?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("it is no index of weights: {e}")))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    for shard in &shards {
        if check_path(shard).is_err() || shard.contains('/') {
            let name: String = shard.chars().take(120).flat_map(char::escape_debug).collect();
            return Err(bad(format!("the shard '{name}' is not the name of a file beside the index")));
        }
    }
    if shards.is_empty() {
        return Err(bad("it names no shards".to_owned()));
    }
    Ok(shards)
}

/// What the cache holds of a model at a commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Everything that the commit has.
    Whole(std::path::PathBuf),
    /// A model; the commit may have more files that belong to it.
    Usable(std::path::PathBuf),
    /// Several GGUF files, of which none was chosen.
    Several(Vec<String>),
    /// No model: these are missing.
    Part(Vec<String>),
}

/// Looks at the cache alone.
pub(crate) fn held(repo: &Repo, id: &ModelId, commit: &str) -> HubResult<Held> {
    if let Some(wanted) = id.file() {
        if let Some(path) = repo.find(commit, wanted)?.filter(|_| is_gguf(wanted)) {
            return Ok(Held::Whole(path));
        }
        let all = repo.ggufs(commit)?;
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        return Ok(match &named(wanted, &all)[..] {
            [] => Held::Part(vec![wanted.to_owned()]),
            files => held_gguf(repo, commit, files),
        });
    }
    let mut missing = Vec::new();
    if repo.find(commit, CONFIG)?.is_none() {
        missing.push(CONFIG.to_owned());
    }
    missing.extend(missing_weights(repo, commit)?);
    if missing.is_empty() {
        let mut whole = true;
        for file in SMALL {
            whole &= repo.find(commit, file)?.is_some() || repo.is_absent(commit, file);
        }
        let folder = repo.snapshot(commit);
        return Ok(if whole { Held::Whole(folder) } else { Held::Usable(folder) });
    }
    let all = repo.ggufs(commit)?;
    Ok(match &all.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Held::Part(missing),
        files => held_gguf(repo, commit, files),
    })
}

/// The commit may have other files of the same ending, so one is never known to be the right one.
fn held_gguf(repo: &Repo, commit: &str, files: &[&str]) -> Held {
    match files {
        [one] => Held::Usable(repo.snapshot(commit).join(one)),
        several => Held::Several(owned(several)),
    }
}

/// Safetensors count before pickles, as when they are fetched.
fn missing_weights(repo: &Repo, commit: &str) -> HubResult<Vec<String>> {
    for (whole, index) in WEIGHTS {
        if repo.find(commit, whole)?.is_some() {
            return Ok(Vec::new());
        }
        if let Some(path) = repo.find(commit, index)? {
            let mut missing = Vec::new();
            for shard in shards(&path)? {
                if repo.find(commit, &shard)?.is_none() {
                    missing.push(shard);
                }
            }
            return Ok(missing);
        }
    }
    Ok(vec![WEIGHTS[0].0.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(id: &str, files: &[&str]) -> HubResult<Choice> {
        let id: ModelId = id.parse().expect("an id");
        choose(&id, &files.iter().map(|f| (*f).to_owned()).collect())
    }

    fn weights(files: &[&str]) -> &'static str {
        match chosen("a/b", files).expect("a model") {
            Choice::Folder { weights, .. } => weights,
            Choice::Gguf(file) => panic!("{file}"),
        }
    }

    #[test]
    fn one_kind_of_weights_is_taken() {
        let all = [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "x.gguf",
            "tokenizer.json",
            "README.md",
            "tf_model.h5",
        ];
        assert_eq!(weights(&all), "model.safetensors");
        assert_eq!(weights(&[&all[..1], &all[2..]].concat()), "model.safetensors.index.json");
        assert_eq!(weights(&[&all[..1], &all[3..]].concat()), "pytorch_model.bin");
        assert_eq!(weights(&[&all[..1], &all[4..]].concat()), "pytorch_model.bin.index.json");
        let Choice::Folder { small, absent, .. } = chosen("a/b", &all).expect("a model") else { panic!() };
        assert_eq!(small, ["config.json", "tokenizer.json"]);
        assert_eq!(absent.len(), SMALL.len() - 2);
    }

    #[test]
    fn a_gguf_file_is_chosen_by_path_or_ending() {
        let all = [
            "config.json",
            "m-Q4_K_M.gguf",
            "m-Q8_0.gguf",
            "sub/n.Q8_0.gguf",
            "mmproj-m.gguf",
            "m.imatrix.gguf",
        ];
        let file = |id: &str| match chosen(id, &all) {
            Ok(Choice::Gguf(file)) => file,
            other => panic!("{other:?}"),
        };
        assert_eq!(file("a/b:m-Q8_0.gguf"), "m-Q8_0.gguf");
        assert_eq!(file("a/b:q4_k_m"), "m-Q4_K_M.gguf");
        assert_eq!(file("a/b:sub/n.Q8_0.gguf"), "sub/n.Q8_0.gguf");
        assert!(matches!(chosen("a/b", &all), Err(HubError::Choose { files, .. }) if files.len() == 3));
        assert!(matches!(chosen("a/b:Q8_0", &all), Err(HubError::Choose { files, .. }) if files.len() == 2));
        assert!(matches!(chosen("a/b:Q4_K", &all), Err(HubError::NoGguf { .. })));
        assert!(matches!(chosen("a/b", &["x.gguf", "mmproj-x.gguf"]), Ok(Choice::Gguf(_))));
        for (files, text) in [
            (["README.md"], "neither model.safetensors or"),
            (["model.safetensors"], "no config.json (it holds model.safetensors)"),
        ] {
            let e = chosen("a/b", &files).expect_err("no model").to_string();
            assert!(e.contains(text), "{e}");
        }
        let split = chosen("a/b", &["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
        assert!(matches!(split, Err(HubError::Choose { .. })));
        let part = chosen("a/b:m-00001-of-00002.gguf", &["m-00001-of-00002.gguf"]);
        assert!(matches!(part, Err(HubError::SplitGguf { .. })));
        assert!(matches!(chosen("a/b", &["m-00001-of-00001.gguf"]), Ok(Choice::Gguf(_))));
    }
}
