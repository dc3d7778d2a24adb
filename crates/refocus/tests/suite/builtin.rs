//! The model that the program brings.

use sha2::{Digest, Sha256};
use snapbox::{file, str};

use crate::support::{Tmp, root};

/// The files are what `models/builtin` holds, whatever stood in the cache before.
#[test]
fn it_is_put_into_the_cache_and_compared_at_use() {
    let tmp = Tmp::new("builtin-cache");
    let inspect = || tmp.refocus("model inspect builtin").env("XDG_CACHE_HOME", tmp.path("cache"));
    inspect().assert().success();
    let folder = std::fs::read_dir(tmp.path("cache/refocus")).expect("a folder");
    let folders: Vec<_> = folder.map(|e| e.expect("an entry").path()).collect();
    assert_eq!(folders.len(), 1);
    let weights = folders[0].join("model.safetensors");
    let own = std::fs::read(root().join("models/builtin/model.safetensors")).expect("weights");
    assert!(std::fs::read(&weights).expect("weights") == own);
    let mut damaged = own.clone();
    damaged[5000] ^= 1;
    std::fs::write(&weights, damaged).expect("write");
    inspect().assert().success();
    assert!(std::fs::read(&weights).expect("weights") == own);
}

#[test]
fn a_cache_that_cannot_be_written_to_is_told() {
    let tmp = Tmp::new("builtin-refused");
    tmp.write("cache", "");
    tmp.refocus("diagnose --out [TMP]/run")
        .env("XDG_CACHE_HOME", tmp.path("cache"))
        .assert()
        .code(2)
        .stdout_eq("")
        .stderr_eq(str![[r#"
error: [TMP]/cache/refocus/builtin-[..]: the built-in model cannot be written
cause: Not a directory (os error 20)
hint: set XDG_CACHE_HOME to a folder that can be written to

"#]]);
    assert!(!tmp.path("run").exists());
}

/// The first command of a newcomer. Two probes of four: the others take longer without optimisation.
#[test]
fn it_is_what_is_diagnosed_where_no_model_is_named() {
    let tmp = Tmp::new("builtin-diagnose");
    tmp.refocus("diagnose --out [TMP]/run -q --probes recall,distractors")
        .assert()
        .success()
        .stdout_eq(file!["diagnose/builtin.txt"]);
    let findings = std::fs::read_to_string(tmp.path("run/findings.json")).expect("findings");
    assert!(findings.contains("\"model\": \"builtin\""));
}

/// The page beside the model is about these weights.
#[test]
fn its_page_belongs_to_its_weights() {
    let page = std::fs::read_to_string(root().join("models/builtin/README.md")).expect("a page");
    let weights = std::fs::read(root().join("models/builtin/model.safetensors")).expect("weights");
    let sum: String = Sha256::digest(weights).iter().map(|b| format!("{b:02x}")).collect();
    assert!(page.contains(&sum), "{sum}");
}
