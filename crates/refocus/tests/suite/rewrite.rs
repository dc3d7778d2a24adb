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
    rewrite(&[TEXT, "--variant", "scored", "--threshold", "100"]).assert().success().stdout_eq(str![[r#"
How many cups has Ann?

"#]]);
}

#[test]
fn what_goes_is_marked() {
    rewrite(&[TEXT, "--variant", "scored", "--threshold", "100", "--diff"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
[-Ann has 3 cups.-] [-I think Bob is odd.-] How many cups has Ann?

piece                need (nats)
Ann has 3 cups.            +1.64  below the threshold
I think Bob is odd.        +2.49  below the threshold

"#]])
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
    .stdout_eq(str![[r#"
Ann has 3 cups. I think Bob is odd. How many cups has Ann?

piece                answer change (nats)
Ann has 3 cups.                     +0.63  kept
I think Bob is odd.                 +0.75  kept

"#]])
    .stderr_eq(str![[r#"
note: the original goes through: the model found nothing to remove

"#]]);
}

#[test]
fn one_json_document() {
    rewrite(&[TEXT, "--variant", "scored", "--threshold", "100", "--json"]).assert().success().stdout_eq(
        str![[r#"
{
  "schema": "refocus.rewrite/1",
  "model": "fixtures/gguf-llama-q8_0/model.gguf",
  "variant": "scored",
  "scored_by": "need",
  "threshold": 100.0,
  "applied": true,
  "reason": null,
  "text": "How many cups has Ann?",
  "context": "",
  "question": "How many cups has Ann?",
  "kept": [
    {
      "start": 36,
      "end": 58
    }
  ],
  "removed": [
    {
      "range": {
        "start": 0,
        "end": 16
      },
      "text": "Ann has 3 cups. ",
      "why": "score",
      "score": 1.6410737037658691
    },
    {
      "range": {
        "start": 16,
        "end": 36
      },
      "text": "I think Bob is odd. ",
      "why": "score",
      "score": 2.4850921630859375
    }
  ],
  "judged": [
    {
      "range": {
        "start": 0,
        "end": 16
      },
      "score": 1.6410737037658691
    },
    {
      "range": {
        "start": 16,
        "end": 36
      },
      "score": 2.4850921630859375
    }
  ],
  "reply": null,
  "usage": {
    "prompt": 450,
    "completion": 0
  },
  "milliseconds": [..]
}

"#]],
    );
}

#[test]
fn the_original_goes_through_with_its_reason() {
    rewrite(&[TEXT, "--variant", "objectivity"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
Ann has 3 cups. I think Bob is odd. How many cups has Ann?

"#]])
        .stderr_eq(str![[r#"
note: the original goes through: the model wrote no section for the context

"#]]);
    rewrite(&["-", "--variant", "extractive"]).stdin("").assert().success().stdout_eq("").stderr_eq(str![[
        r#"
note: the original goes through: there is no text

"#
    ]]);
    rewrite(&["It rained."])
        .assert()
        .success()
        .stdout_eq(str![[r#"
It rained.

"#]])
        .stderr_eq(str![[r#"
note: the original goes through: no question or task was found in the text

"#]]);
    rewrite(&[TEXT, "--deadline", "0.000001"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
Ann has 3 cups. I think Bob is odd. How many cups has Ann?

"#]])
        .stderr_eq(str![[r#"
note: the original goes through: the deadline passed

"#]]);
    let long = format!("{}{TEXT}", "The sea is blue. ".repeat(100));
    rewrite(&["--file", "-"]).stdin(long).assert().success().stderr_eq(str![[r#"
note: the original goes through: the prompt would have 2221 tokens, and the model takes 1024

"#]]);
}

#[test]
fn a_model_without_a_chat_template() {
    refocus_args(&["rewrite", "--model", "fixtures/overthinking", TEXT, "--variant", "scored"])
        .assert()
        .success()
        .stdout_eq(str![[r#"
How many cups has Ann?

"#]])
        .stderr_eq(str![[r#"
note: the threshold is 0, but where yes and no balance differs between models: set --threshold
note: the model brings no chat template: it is asked as a plain script of a conversation

"#]]);
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
    with("objectivity.txt", "Rewrite it.").stderr_eq(str![[r#"
error: [TMP]/objectivity.txt: the template has no {text}

"#]]);
    with("objektivity.txt", "{text}").stderr_eq(str![[r#"
error: [TMP]/objektivity.txt: no template has this name; templates are named objectivity.txt, relevance.txt, single.txt, extractive.txt, needed.txt, answer.txt, step2.txt, step2_single.txt, step2_keep_original.txt, step2_no_instruction.txt

"#]]);
    refused(tmp.refocus(&format!("rewrite --model {MODEL} --template [TMP] Why?"))).stderr_eq(str![[r#"
error: [TMP]: there is no template in it; templates are named objectivity.txt, relevance.txt, single.txt, extractive.txt, needed.txt, answer.txt, step2.txt, step2_single.txt, step2_keep_original.txt, step2_no_instruction.txt

"#]]);
}

#[test]
fn bad_use() {
    refused(refocus_args(&["rewrite", "Why?"])).stderr_eq(str![[r#"
error: no model is given
hint: give --model MODEL

"#]]);
    refused(rewrite(&[])).stderr_eq(str![[r#"
error: the following required arguments were not provided:
  <PROMPT|--file <FILE>>

Usage: refocus rewrite --model <MODEL> <PROMPT|--file <FILE>>

For more information, try '--help'.

"#]]);
    refused(rewrite(&[TEXT, "--threshold", "1"])).stderr_eq(str![[r#"
error: --threshold is for --variant scored
hint: add --variant scored

"#]]);
    for (flag, value) in [("--score-by", "answer-change"), ("--answer", "Paris")] {
        let told = refused(rewrite(&[TEXT, flag, value])).get_output().stderr.clone();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.starts_with(&format!("error: {flag} is for --variant scored\n")), "{told}");
    }
    refused(rewrite(&[TEXT, "--variant", "scored", "--threshold", "inf"])).stderr_eq(str![[r#"
error: invalid value 'inf' for '--threshold <NATS>': not a number

For more information, try '--help'.

"#]]);
    refused(rewrite(&[TEXT, "--deadline", "0"])).stderr_eq(str![[r#"
error: invalid value '0' for '--deadline <SECONDS>': a number above 0 is needed

For more information, try '--help'.

"#]]);
    refused(rewrite(&["--file", "fixtures/no-such.txt"])).stderr_eq(str![[r#"
error: fixtures/no-such.txt: cannot be read
cause: No such file or directory (os error 2)

"#]]);
    refused(rewrite(&["--file", MODEL])).stderr_eq(str![[r#"
error: fixtures/gguf-llama-q8_0/model.gguf: the text is not UTF-8
cause: invalid utf-8 sequence of 1 bytes from index 708

"#]]);
}
