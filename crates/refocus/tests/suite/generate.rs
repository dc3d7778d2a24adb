use snapbox::str;

use crate::support::{Tmp, refocus, refocus_args, refused};

const GGUF: &str = "fixtures/gguf-llama-q4_1/model.gguf";

#[test]
fn a_text_goes_on() {
    refocus_args(&["model", "generate", GGUF, "--text", "There are", "--max-new", "8"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
7hehehehehehehe

"#]])
        .stderr_eq("");
}

#[test]
fn ids_go_on() {
    refocus("model generate fixtures/gpt2 --tokens - --max-new 5")
        .stdin("[[28, 74], [1]]")
        .assert()
        .success()
        .stdout_eq(str![[r#"
sequence 0: [53, 9, 90, 85, 85]
sequence 1: [0, 53, 9, 9, 82]

"#]]);
}

#[test]
fn one_json_document() {
    refocus_args(&["model", "generate", GGUF, "--text", "one", "--max-new", "4", "--json"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
{
  "schema": "refocus.model-generate/1",
  "model": "fixtures/gguf-llama-q4_1/model.gguf",
  "sequences": [
    {
      "prompt": [
        123
      ],
      "ids": [
        123,
        123,
        123,
        123
      ],
      "text": "oneoneoneone",
      "ended": "length"
    }
  ]
}

"#]]);
}

#[test]
fn no_new_tokens() {
    refocus("model generate fixtures/gpt2 --tokens - --max-new 0")
        .stdin("[[28, 74]]")
        .assert()
        .success()
        .stdout_eq(str![[r#"
sequence 0: []

"#]]);
}

#[test]
fn what_would_outgrow_the_context() {
    refused(refocus("model generate fixtures/gpt2 --tokens - --max-new 24").stdin("[[28, 74]]")).stderr_eq(
        str![[r#"
error: sequence 0 has 25 tokens, the model's context is 24
hint: 24 of them are new: lower --max-new

"#]],
    );
    refocus("model generate fixtures/gpt2 --tokens - --max-new 23").stdin("[[28, 74]]").assert().success();
}

#[test]
fn a_patch_acts_while_generating() {
    let tmp = Tmp::new("generate-patch");
    tmp.write("p.toml", "[[intervention]]\ndo = \"exit\"\nlayer = 1\n");
    let run = |patch: &str| {
        let args = format!("model generate fixtures/gpt2 --tokens - --max-new 6 {patch}");
        tmp.refocus(&args).stdin("[[28, 74]]").assert().success().get_output().stdout.clone()
    };
    assert_ne!(run(""), run("--patch [TMP]/p.toml"));
}
