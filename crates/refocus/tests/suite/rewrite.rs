//! `refocus rewrite` on a tiny random model, whose judgement is worth nothing: what is held is what happens
//! to the text.

use snapbox::str;

use crate::support::{Tmp, refocus_args, refused};

const MODEL: &str = "fixtures/gguf-llama-q8_0/model.gguf";
const TEXT: &str = "Ann has 3 cups. I think Bob is odd. How many cups has Ann?";

fn rewrite(args: &[&str]) -> snapbox::cmd::Command {
    refocus_args(&[&["rewrite", "--model", MODEL], args].concat())
}

#[test]
fn pieces_below_the_threshold_go() {
    rewrite(&[TEXT, "--variant", "scored", "--threshold", "100"]).assert().success().stdout_eq(str![[r#""#]]);
}

#[test]
fn what_goes_is_marked() {
    rewrite(&[TEXT, "--variant", "scored", "--threshold", "100", "--diff"])
        .assert()
        .success()
        .stdout_eq(str![[r#""#]])
        .stderr_eq("");
}

#[test]
fn the_change_of_an_answer() {
    rewrite(&[
        TEXT,
        "--variant",
        "scored",
        "--score-by",
        "answer-change",
        "--answer",
        "3",
        "--answer",
        "4",
        "--diff",
    ])
    .assert()
    .success()
    .stdout_eq(str![[r#""#]])
    .stderr_eq(str![[r#""#]]);
}

#[test]
fn one_json_document() {
    rewrite(&[TEXT, "--variant", "scored", "--threshold", "100", "--json"])
        .assert()
        .success()
        .stdout_eq(str![[r#""#]]);
}

#[test]
fn the_original_goes_through_with_its_reason() {
    rewrite(&[TEXT, "--variant", "objectivity"])
        .assert()
        .success()
        .stdout_eq(str![[r#""#]])
        .stderr_eq(str![[r#""#]]);
    rewrite(&["-", "--variant", "extractive"])
        .stdin("")
        .assert()
        .success()
        .stdout_eq(str![[r#""#]])
        .stderr_eq(str![[r#""#]]);
    rewrite(&["It rained."]).assert().success().stdout_eq(str![[r#""#]]).stderr_eq(str![[r#""#]]);
    rewrite(&[TEXT, "--deadline", "0.000001"])
        .assert()
        .success()
        .stdout_eq(str![[r#""#]])
        .stderr_eq(str![[r#""#]]);
    let long = format!("{}{TEXT}", "The sea is blue. ".repeat(100));
    rewrite(&["--file", "-"]).stdin(long).assert().success().stderr_eq(str![[r#""#]]);
}

#[test]
fn a_model_without_a_chat_template() {
    refocus_args(&["rewrite", "--model", "fixtures/overthinking", TEXT, "--variant", "scored"])
        .assert()
        .success()
        .stderr_eq(str![[r#""#]]);
}

#[test]
fn templates_are_checked() {
    let tmp = Tmp::new("rewrite-templates");
    let with = |file: &str, text: &str| {
        tmp.write(file, text);
        let out = tmp.refocus(&format!("rewrite --model {MODEL} --template [TMP] Why?"));
        let out = refused(out);
        std::fs::remove_file(tmp.path(file)).expect("remove");
        out
    };
    with("objectivity.txt", "Rewrite it.").stderr_eq(str![[r#""#]]);
    with("objektivity.txt", "{text}").stderr_eq(str![[r#""#]]);
    refused(tmp.refocus(&format!("rewrite --model {MODEL} --template [TMP] Why?"))).stderr_eq(str![[r#""#]]);
}

#[test]
fn bad_use() {
    refused(refocus_args(&["rewrite", "Why?"])).stderr_eq(str![[r#""#]]);
    refused(rewrite(&[])).stderr_eq(str![[r#""#]]);
    refused(rewrite(&[TEXT, "--threshold", "1"])).stderr_eq(str![[r#""#]]);
    refused(rewrite(&[TEXT, "--variant", "scored", "--threshold", "inf"])).stderr_eq(str![[r#""#]]);
    refused(rewrite(&[TEXT, "--deadline", "0"])).stderr_eq(str![[r#""#]]);
    refused(rewrite(&["--file", "fixtures/no-such.txt"])).stderr_eq(str![[r#""#]]);
    refused(rewrite(&["--file", MODEL])).stderr_eq(str![[r#""#]]);
}
