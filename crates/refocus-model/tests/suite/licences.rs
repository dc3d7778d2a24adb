//! Every crate in the lock file has a licence that `deny.toml` allows.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Whether an SPDX expression can be met with allowed licences. `/` is the old spelling of `OR`.
fn allowed(expression: &str, allow: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at, allow) && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allow: &[String]) -> bool {
    let mut met = both(words, at, allow);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allow);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allow: &[String]) -> bool {
    let mut met = one(words, at, allow);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allow);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allow: &[String]) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let met = either(words, at, allow);
        *at += 1;
        return met;
    }
    let mut name = word.to_owned();
    if words.get(*at) == Some(&"WITH") {
        name.push_str(&format!(" WITH {}", words.get(*at + 1).copied().unwrap_or_default()));
        *at += 2;
    }
    allow.contains(&name)
}

#[test]
fn expressions_are_understood() {
    let allow = ["MIT".to_owned(), "Zlib".to_owned(), "A WITH x".to_owned()];
    for good in
        ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR X) AND Zlib", "A WITH x OR B", "X AND Y OR MIT"]
    {
        assert!(allowed(good, &allow), "{good}");
    }
    for bad in ["", "X", "MIT AND X", "(MIT OR X) AND Y", "A", "MIT X", "A WITH y"] {
        assert!(!allowed(bad, &allow), "{bad}");
    }
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let deny: toml::Table =
        std::fs::read_to_string(root.join("deny.toml")).expect("deny.toml").parse().expect("TOML");
    let list = deny["licenses"]["allow"].as_array().expect("licenses.allow");
    let allow: Vec<String> = list.iter().filter_map(|l| l.as_str().map(str::to_owned)).collect();

    // Only this machine's crates: others need not have been downloaded.
    let version = Command::new("rustc").arg("-vV").output().expect("rustc").stdout;
    let version = String::from_utf8(version).expect("text");
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).expect("host");
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform", host])
        .current_dir(&root)
        .output()
        .expect("cargo");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 50, "{} packages", packages.len());
    for p in packages {
        let licence = p["license"].as_str().unwrap_or("none is stated");
        assert!(allowed(licence, &allow), "{} {}: {licence}", p["name"], p["version"]);
    }
}
