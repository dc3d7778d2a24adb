use serde_json::Value;
use snapbox::str;

use crate::support::{Tmp, refocus, refused, root};

const RUN: &str = "recall fixtures/overthinking --relation capital,[TMP]/mine.json --out [TMP]/run";

/// A relation of 25 letters, which the fixture's tokenizer has after a space.
fn mine() -> String {
    let sample = |c: char| format!(r#"{{"subject": "{c}", "object": "{}"}}"#, (c as u8 + 1) as char);
    let samples: Vec<String> = ('a'..='y').map(sample).collect();
    format!(r#"{{"prompt_templates": ["After {{}} comes"], "samples": [{}]}}"#, samples.join(", "))
}

#[test]
fn relations_with_too_few_facts_are_told_and_no_error() {
    let tmp = Tmp::new("recall-few");
    tmp.write("mine.json", &mine());
    tmp.refocus(RUN).assert().success().stdout_eq(str![[r#"
relation  facts  repeated  several tokens  asked  known  outcome
capital     127         0             127      0      0  too few
mine         25         0               0     25      0  too few
capital: too few: 0 of 127 facts can be asked for, 20 are needed, since 127 answers have several tokens: --first-token asks for their first
mine: too few: 0 of 25 facts are known, 12 are needed

"#]]).stderr_eq(str![[r#"
note: the page is [TMP]/run/report.html, everything else is in [TMP]/run/summary.json

"#]]);
    let json = tmp.refocus(&format!("{RUN} --json -q")).output().expect("run").stdout;
    let few = tmp.refocus(&format!("{RUN}-few --facts 12 -q")).output().expect("run").stdout;
    let few = String::from_utf8_lossy(&few);
    assert!(few.contains("mine: too few: --facts 12 is too few, 20 are needed"), "{few}");
    assert_eq!(json, std::fs::read(tmp.path("run/summary.json")).expect("a summary"));
    let d: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!((&d["schema"], &d["falls"]), (&Value::from("refocus.recall/1"), &serde_json::json!([])));
    assert_eq!(d["relations"][0]["outcome"], "too few");
    let page = std::fs::read_to_string(tmp.path("run/report.html")).expect("a page");
    assert!(page.contains("0 of 2 relations had facts enough."));
}

#[test]
fn first_tokens_are_asked_for_and_kept() {
    let tmp = Tmp::new("recall-first");
    tmp.write("mine.json", &mine());
    let run = format!("{RUN} --first-token");
    tmp.refocus(&format!("{run} --threads 1")).assert().success().stdout_eq(str![[r#"
relation  facts  repeated  several tokens  asked  known  outcome
capital     127         0             127    100      0  too few
mine         25         0               0     25      0  too few
capital: too few: 0 of 100 facts are known, 12 are needed; more --facts may find more
mine: too few: 0 of 25 facts are known, 12 are needed

"#]]);
    tmp.refocus(&format!("{run} --threads 2")).assert().success().stderr_eq(str![[r#"
note: facts: 125 of 125 prompts were answered before
note: the page is [TMP]/run/report.html, everything else is in [TMP]/run/summary.json

"#]]);
    refused(tmp.refocus(&format!("{run} --shots 2"))).stderr_eq(str![[r#"
error: [TMP]/run holds a run with another shots: 5 there, 2 here
hint: give another folder to --out, or the flags of that run

"#]]);
}

#[test]
fn a_preset_says_how_facts_are_asked_for_and_names_no_heads_of_another_model() {
    let tmp = Tmp::new("recall-preset");
    let run = tmp
        .refocus("recall fixtures/overthinking --preset gpt2 --json --out [TMP]/run")
        .output()
        .expect("run");
    let d: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(d["settings"]["wordings"], 15);
    let relations: Vec<&str> =
        d["relations"].as_array().expect("a list").iter().filter_map(|r| r["relation"].as_str()).collect();
    assert_eq!(relations, ["capital"]);
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("note: the heads that the paper names are those of gpt2: not shown"), "{said}");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let tmp = Tmp::new("recall-refused");
    let run = "recall fixtures/overthinking --out [TMP]/run";
    refused(tmp.refocus(&format!("{run} --relation capitl"))).stderr_eq(str![[r#"
error: there is no relation capitl; did you mean capital?; there are capital, language
hint: for relations from files give --data DIR or set REFOCUS_DATA

"#]]);
    refused(tmp.refocus(&format!("{run} --data [TMP]/none"))).stderr_eq(str![[r#"
error: [TMP]/none: there is no such folder
hint: --data, or the folder facts in REFOCUS_DATA, holds relations/ and known_1000.json

"#]]);
    tmp.write("bad.json", r#"{"prompt_templates": ["After it comes"], "samples": []}"#);
    refused(tmp.refocus(&format!("{run} --relation [TMP]/bad.json"))).stderr_eq(str![[r#"
error: [TMP]/bad.json: template "After it comes": it has no {} for its subject

"#]]);
    refused(tmp.refocus(&format!("{run} --relation [TMP]/none.json"))).stderr_eq(str![[r#"
error: [TMP]/none.json: cannot be read
cause: No such file or directory (os error 2)

"#]]);
    refused(tmp.refocus(&format!("{run} --relation capital --lens [TMP]/lens"))).stderr_eq(str![[r#"
error: [TMP]/lens/lens.toml: cannot be read
cause: No such file or directory (os error 2)
hint: `refocus train lens MODEL --text FILE --out DIR` makes the lens of a model

"#]]);
    refused(tmp.refocus(&format!("{run} --relation capital --stages trace"))).stderr_eq(str![[r#"
error: the stage trace needs the stage facts
hint: name it in --stages too

"#]]);
    refused(tmp.refocus(&format!("{run} --relation capital --stages facts,mlp"))).stderr_eq(str![[r#"
error: the stage mlp needs the stage heads
hint: name it in --stages too

"#]]);
    refused(tmp.refocus(&format!("{run} --relation capital --text [TMP]/none.txt"))).stderr_eq(str![[r#"
error: [TMP]/none.txt: cannot be read as text
cause: No such file or directory (os error 2)

"#]]);
    refused(tmp.refocus(&format!("{run} --preset gpt3"))).stderr_eq(str![[r#"
error: there is no preset gpt3
hint: one of gpt2

"#]]);
    refused(tmp.refocus(&format!("{run} --relation capital --stages facts,shots"))).stderr_eq(str![[r#"
error: the stage shots needs the stage heads
hint: name it in --stages too

"#]]);
    tmp.write("short.txt", "too short");
    refused(tmp.refocus(&format!("{run} --relation capital --text [TMP]/short.txt"))).stderr_eq(str![[r#"
error: [TMP]/short.txt: cannot be counted
cause: the text has 5 different tokens, 141 are needed to say how often tokens occur: give a longer one with --text

"#]]);
    refused(refocus("recall fixtures/gpt2 --relation capital --out unused")).stderr_eq(str![[r#"
error: fixtures/gpt2: tokenizer: there is no tokenizer.json, and no vocab.json with merges.txt
hint: facts are asked for in text: it needs a model that brings its tokenizer

"#]]);
    assert!(!tmp.path("run").exists());
}

#[test]
fn a_lens_is_learned_once() {
    let tmp = Tmp::new("recall-lens");
    let text: String = (0..3000).map(|i| format!("{} ", (i * i) % 97)).collect();
    tmp.write("text.txt", &text);
    let run = "train lens fixtures/overthinking --text [TMP]/text.txt --windows 8 --steps 2 --out [TMP]/lens";
    let first = tmp.refocus(run).output().expect("run");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    tmp.refocus(run).assert().success().stdout_eq(String::from_utf8(first.stdout).expect("UTF-8")).stderr_eq(
        str![[r#"
note: [TMP]/lens: the lens is there already

"#]],
    );
    refused(tmp.refocus(&run.replace("--steps 2", "--steps 3"))).stderr_eq(str![[r#"
error: [TMP]/lens: a lens of another text or with other settings is there
hint: give another folder to --out

"#]]);
    tmp.write("mine.json", &mine());
    tmp.refocus(&format!("{RUN} --first-token --lens [TMP]/lens -q")).assert().success();
    tmp.write("short.txt", "too short");
    let short = "train lens fixtures/overthinking --text [TMP]/short.txt --out [TMP]/other";
    refused(tmp.refocus(short)).stderr_eq(str![[r#"
error: the text has 0 windows of 128 tokens, 53 are needed
hint: give a longer text, or fewer --windows

"#]]);
}

/// On the real model most capitals that are one token are known.
#[test]
fn a_real_model_knows_capitals() {
    const SMOLLM2: &str = "smollm2-135m-instruct.gguf";
    let folders = std::env::var_os("REFOCUS_MODELS").unwrap_or_default();
    let Some(path) = std::env::split_paths(&folders).map(|f| f.join(SMOLLM2)).find(|p| p.is_file()) else {
        eprintln!("skipped: REFOCUS_MODELS names no folder with {SMOLLM2}");
        return;
    };
    let tmp = Tmp::new("recall-real");
    let run = format!("recall {} --relation capital --facts 20 --stages facts --json -q", path.display());
    let out = tmp.refocus(&format!("{run} --out [TMP]/run")).output().expect("run");
    let d: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let known = d["relations"][0]["known"].as_u64().expect("a number");
    assert!((12..=20).contains(&known), "{known} of 20 capitals are known");
    assert_eq!(d["relations"][0]["outcome"], "measured");

    // Where its last heads look, in a folder of which the facts are there already.
    tmp.write("text.txt", &std::fs::read_to_string(root().join("docs/recall.md")).expect("a text"));
    let run =
        format!("{run} --out [TMP]/run").replace("facts --json", "facts,last --text [TMP]/text.txt --json");
    let out = tmp.refocus(&run).output().expect("run");
    let d: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let inside = d["inside"].as_array().expect("a list");
    assert_eq!(inside.len(), 2, "open and forced");
    for found in inside {
        assert!(
            found["heads"].is_null()
                && found["last"]["blocks"][0]["heads"].as_array().is_some_and(|h| h.len() == 9)
        );
    }
    let ids: Vec<&str> =
        d["claims"].as_array().expect("a list").iter().filter_map(|c| c["id"].as_str()).collect();
    assert_eq!(ids, ["C8a", "C8a", "C8b", "C8b"]);
}
