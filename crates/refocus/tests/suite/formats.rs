//! One model in every format, and a pickle that would run something, through the program.

use snapbox::str;

use crate::support::{Tmp, refocus, root};

/// Ids, logits and probabilities of the likeliest tokens, line by line.
fn answer(model: &str) -> Vec<Vec<String>> {
    let args = format!("model forward fixtures/{model} --tokens fixtures/gpt2/tokens.json --top 3");
    let out = refocus(&args).assert().success();
    let text = String::from_utf8(out.get_output().stdout.clone()).expect("text");
    let numbers = |line: &str| -> Vec<String> {
        // A GGUF file brings a tokenizer, so a column of tokens stands between.
        let all: Vec<_> = line.split_whitespace().map(ToOwned::to_owned).collect();
        [&all[..1], &all[all.len() - 2..]].concat()
    };
    let rows = text.lines().filter(|l| l.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    rows.map(numbers).collect()
}

#[test]
fn every_format_gives_the_same_answer() {
    let want = answer("gpt2");
    assert_eq!(want.len(), 12, "four sequences, three tokens each");
    for model in ["gpt2-pickle", "gpt2-pickle-old", "gpt2-pickle-sharded", "gguf-gpt2-f32/model.gguf"] {
        assert_eq!(answer(model), want, "{model}");
    }
}

#[test]
fn a_pickle_that_would_run_something() {
    let tmp = Tmp::new("evil");
    for (from, to) in [("gpt2/config.json", "config.json"), ("pickles/evil.bin", "pytorch_model.bin")] {
        std::fs::copy(root().join("fixtures").join(from), tmp.path(to)).expect("copy");
    }
    tmp.refocus("model inspect [TMP]").assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: [TMP]/pytorch_model.bin: at byte [..]: this pickle would run posix.system, which no file of tensors needs: refused, nothing was run

"#]]);
    refocus("model inspect fixtures/pickles/odd.bin").assert().code(2).stderr_eq(str![[r#"
error: fixtures/pickles/odd.bin: this is no GGUF file; to open this one, give the folder that holds it and its config.json; a model is a folder in Hugging Face layout or a .gguf file

"#]]);
}
