//! How a model on a hub is named: `[org/]name[@revision][:FILE.gguf]`.

use std::fmt;
use std::str::FromStr;

use crate::error::HubError;

/// The branch that is meant where no revision is given.
const MAIN: &str = "main";

/// A model on a hub, `[org/]name[@revision][:FILE.gguf]`.
///
/// A revision is a branch, a tag or a commit. The part after the colon names one `.gguf` file of the
/// repository by its path, or by the end of its name (`Q4_K_M` for `model-Q4_K_M.gguf`). A git revision
/// cannot hold a colon, so the three parts cannot be confused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelId {
    repo: String,
    revision: Option<String>,
    file: Option<String>,
}

impl ModelId {
    /// `org/name` or `name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// What was asked for, else `main`.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The revision, where it is the full hash of a commit: then it can never mean anything else.
    pub fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|r| is_commit(r))
    }

    /// What was said after the colon.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The same model at another revision.
    pub fn at(&self, revision: &str) -> Self {
        Self { revision: Some(revision.to_owned()), ..self.clone() }
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

impl FromStr for ModelId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let bad = |why: String| HubError::BadId { id: text.to_owned(), why };
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        let (repo, revision) = match rest.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (rest, None),
        };
        check_repo(repo).map_err(bad)?;
        if let Some(revision) = revision {
            check_revision(revision).map_err(bad)?;
        }
        if let Some(file) = file {
            check_path(file).map_err(|why| bad(format!("the file '{file}' {why}")))?;
        }
        Ok(Self {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }
}

/// Whether a text is the full hash of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_lower_hex(text)
}

pub(crate) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The hub's own rules for names of repositories.
fn check_repo(repo: &str) -> Result<(), String> {
    const MOST: usize = 96;
    if repo.len() > MOST {
        return Err(format!("the name has {} characters, at most {MOST} are allowed", repo.len()));
    }
    let parts: Vec<&str> = repo.split('/').collect();
    if parts.len() > 2 {
        return Err(format!("org/name has one slash, '{repo}' has {}", parts.len() - 1));
    }
    for part in parts {
        if part.is_empty() {
            return Err("a part of the name is empty".to_owned());
        }
        if let Some(c) = part.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c)) {
            return Err(format!("a name has letters, digits, '-', '_' and '.', but {c:?} is in '{part}'"));
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            return Err(format!("'{part}' begins or ends with '-' or '.'"));
        }
        if part.contains("--") || part.contains("..") {
            return Err(format!("'{part}' has '--' or '..' in it"));
        }
    }
    Ok(())
}

/// Git's rules for names of references, as far as they matter for a path and a URL.
fn check_revision(revision: &str) -> Result<(), String> {
    if revision.is_empty() {
        return Err("nothing follows the '@'".to_owned());
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\\"<>|".contains(c);
    let part = |p: &str| !p.is_empty() && !p.starts_with('.') && !p.ends_with(".lock");
    if revision.len() > 255
        || revision.starts_with('-')
        || revision.ends_with('.')
        || revision.contains("..")
        || revision.contains("@{")
        || revision.contains(odd)
        || !revision.split('/').all(part)
    {
        return Err(format!("'{revision}' cannot be the name of a branch, tag or commit"));
    }
    Ok(())
}

/// Whether a name from a hub or a user stays inside the folder that it is joined to.
pub(crate) fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("is empty");
    }
    if path.len() > 1024 {
        return Err("is longer than 1024 bytes");
    }
    if path.contains(|c: char| c.is_control() || c == '\\' || c == ':') {
        return Err("has a control character, a backslash or a colon in it");
    }
    if path.split('/').any(|p| p.is_empty() || p == "." || p == "..") {
        return Err("is not a plain path below the repository");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ModelId {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn the_parts_are_told_apart() {
        let all = id("org/na.me-1@refs/pr/3:sub/x-Q4_K_M.gguf");
        assert_eq!(all.repo(), "org/na.me-1");
        assert_eq!(all.revision(), "refs/pr/3");
        assert_eq!(all.file(), Some("sub/x-Q4_K_M.gguf"));
        assert_eq!(all.to_string(), "org/na.me-1@refs/pr/3:sub/x-Q4_K_M.gguf");
        let bare = id("gpt2");
        assert_eq!((bare.repo(), bare.revision(), bare.file(), bare.commit()), ("gpt2", "main", None, None));
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(id(&format!("a/b@{hash}")).commit(), Some(hash));
        assert_eq!(id("a/b@0123456").commit(), None);
        assert_eq!(id("a/b").at("v1").to_string(), "a/b@v1");
    }

    #[test]
    fn what_is_no_id() {
        for text in [
            "",
            "/",
            "org/",
            "/name",
            "a/b/c",
            "./a",
            "../a",
            "a/..",
            "org/name@",
            "org/name:",
            "org/na me",
            "a--b/c",
            "a/b@x y",
            "a/b@../x",
            "a/b@-x",
            "a/b@x.lock",
            "a/b@x@{1}",
            "a/b:../c",
            "a/b:/c",
            "a/b:c\\d",
            "~/x",
            "a/b:C:x",
            "a/é",
        ] {
            assert!(text.parse::<ModelId>().is_err(), "{text}");
        }
        assert!(format!("a/{}", "b".repeat(95)).parse::<ModelId>().is_err());
    }
}
