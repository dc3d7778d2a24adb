use snapbox::str;

use crate::support::{refocus, refused};

#[test]
fn every_check_passes_on_a_fixture() {
    let out = refocus("model doctor fixtures/neox --threads 2").assert().success().stderr_eq("");
    let text = String::from_utf8_lossy(&out.get_output().stdout).into_owned();
    assert!(
        text.lines().skip(1).all(|l| l.starts_with("pass  ") || l.ends_with(" 0 failed, 0 skipped")),
        "{text}"
    );
}

#[test]
fn one_json_document() {
    let out = refocus("model doctor fixtures/gpt2 --json --threads 2").assert().success();
    let document: serde_json::Value = serde_json::from_slice(&out.get_output().stdout).expect("JSON");
    assert_eq!(document["schema"], "refocus.model-doctor/1");
    assert_eq!(document["passed"], true);
    assert!(document["checks"].as_array().expect("list").len() > 10);
}

#[test]
fn bad_ids_are_refused() {
    refused(refocus("model doctor fixtures/gpt2 --tokens -").stdin("[[1, 500]]")).stderr_eq(str![[r#"
error: sequence 0 has the token id 500 at position 1; the vocabulary has 101 tokens, 0 to 100

"#]]);
}
