use snapbox::str;

use crate::support::{Tmp, refocus, refused};

const PATCH: &str = r#"
[[intervention]]
at = "blocks.*.attn.hook_z"
head = 2
do = "zero"

[[intervention]]
at = "blocks.1.attn.hook_pattern"
position = "last"
do = "block_edge"
key = "first"
when = { top1_prob_above = 0.5, lens_layer = 0 }

[[intervention]]
do = "exit"
layer = 2

[[decode]]
do = "temperature"
factor = 0.7

[[decode]]
do = "contrast_context"
alpha = -0.5

[rewrite]
variant = "extractive"
"#;

#[test]
fn the_support_table() {
    let tmp = Tmp::new("support");
    tmp.write("p.toml", PATCH);
    tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml").assert().success().stdout_eq(str![[r#"
[TMP]/p.toml fits fixtures/gpt2

line  forward      generate     serve        export  entry
   2  yes          yes          yes          yes     zero blocks.*.attn.hook_z, head 2 (2 places)
   7  yes          yes          yes          no [1]  block_edge blocks.1.attn.hook_pattern to the first key, last position, when the lens of block 0 is above 0.5 sure
  14  yes          yes          yes          yes     exit before block 2
  18  yes          yes          yes          no [2]  temperature 0.7
  22  not yet [3]  not yet [3]  not yet [3]  no [2]  contrast_context times -0.5
  26  no [4]       no [5]       yes          no [6]  rewrite the newest message (extractive)

[1] weights act at every position
[2] weights hold no change of the final logits
[3] it needs a second row of logits, which nothing computes yet
[4] a forward pass takes its input as it is; `refocus serve` rewrites
[5] a prompt is taken as it is; `refocus serve` rewrites messages, `refocus rewrite` one text
[6] weights hold no change of the prompt

"#]]).stderr_eq("");
}

#[test]
fn the_support_table_as_json() {
    let tmp = Tmp::new("support-json");
    tmp.write(
        "p.toml",
        "[[intervention]]\nat = \"blocks.0.hook_mlp_out\"\nposition = -1\ndo = \"scale\"\nfactor = 0.5\n",
    );
    tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml --json").assert().success().stdout_eq(str![
        [r#"
{
  "schema": "refocus.patch-check/1",
  "patch": "[TMP]/p.toml",
  "model": "fixtures/gpt2",
  "fingerprint": "sha256:dbb72419a39b0b15187dcc86d96a78ba601defd0570d3d4b9e175af46591cdd3",
  "guard": "none",
  "entries": [
    {
      "line": 1,
      "action": "scale",
      "says": "scale blocks.0.hook_mlp_out by 0.5, position -1",
      "places": 1,
      "forward": {
        "works": "yes",
        "why": null
      },
      "generate": {
        "works": "yes",
        "why": null
      },
      "serve": {
        "works": "yes",
        "why": null
      },
      "export": {
        "works": "no",
        "why": "weights act at every position"
      }
    }
  ]
}

"#]
    ]);
}

#[test]
fn an_unknown_key() {
    let tmp = Tmp::new("unknown-key");
    tmp.write("p.toml", "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nhed = 1\ndo = \"zero\"\n");
    refused(tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml")).stderr_eq(str![[r#"
error: [TMP]/p.toml:3: unknown key 'hed' in [[intervention]]; did you mean 'head'?

"#]]);
    refused(tmp.refocus("model forward fixtures/gpt2 --tokens - --patch [TMP]/p.toml").stdin("[[1]]"))
        .stderr_eq(str![[r#"
error: [TMP]/p.toml:3: unknown key 'hed' in [[intervention]]; did you mean 'head'?

"#]]);
}

#[test]
fn a_site_that_the_model_lacks() {
    let tmp = Tmp::new("site");
    tmp.write("p.toml", "[[intervention]]\nat = \"blocks.0.hook_resid_mid\"\ndo = \"zero\"\n");
    tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml").assert().success();
    refused(tmp.refocus("patch check fixtures/gptj --patch [TMP]/p.toml")).stderr_eq(str![[r#"
error: [TMP]/p.toml:2: this model has no site 'blocks.0.hook_resid_mid': attention and MLP run in parallel here: there is no residual stream between them

"#]]);
}

#[test]
fn a_vector_that_cannot_be_read() {
    let tmp = Tmp::new("vector");
    let patch =
        "[[intervention]]\nat = \"blocks.0.hook_mlp_out\"\ndo = \"mean\"\nvector = \"means.safetensors#b\"\n";
    tmp.write("p.toml", patch);
    refused(tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml")).stderr_eq(str![[r#"
error: [TMP]/p.toml:4: [TMP]/means.safetensors cannot be read
cause: No such file or directory (os error 2)

"#]]);
    tmp.write("means.safetensors", "not a safetensors file");
    refused(tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml")).stderr_eq(str![[r#"
error: [TMP]/p.toml:4: [TMP]/means.safetensors is no safetensors file
cause: header too large

"#]]);
}

#[test]
fn a_patch_for_another_model() {
    let tmp = Tmp::new("guard");
    let guard = format!("[model]\nfingerprint = \"sha256:{}\"\n", "00".repeat(32));
    tmp.write("p.toml", &format!("{guard}{PATCH}"));
    refused(tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml")).stderr_eq(str![[r#"
error: [TMP]/p.toml:2: the patch was made for another model
cause: it names sha256:0000000000000000000000000000000000000000000000000000000000000000, this model is sha256:dbb72419a39b0b15187dcc86d96a78ba601defd0570d3d4b9e175af46591cdd3
hint: give the model that the patch names, or --force to apply it to this one

"#]]);
    tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml --force").assert().success();
    tmp.write("q.toml", &format!("{guard}[[decode]]\ndo = \"temperature\"\nfactor = 2\n"));
    let forward = |more: &str| {
        tmp.refocus(&format!("model forward fixtures/gpt2 --tokens - --top 1 --patch [TMP]/q.toml {more}"))
            .stdin("[[1]]")
    };
    refused(forward("")).stderr_eq(str![[r#"
error: [TMP]/q.toml:2: the patch was made for another model
cause: it names sha256:0000000000000000000000000000000000000000000000000000000000000000, this model is sha256:dbb72419a39b0b15187dcc86d96a78ba601defd0570d3d4b9e175af46591cdd3
hint: give the model that the patch names, or --force to apply it to this one

"#]]);
    forward("--force").assert().success();
}

#[test]
fn the_fingerprint_that_inspect_prints_is_the_guard() {
    let tmp = Tmp::new("same");
    let inspected = refocus("model inspect fixtures/opt --json").assert().success();
    let document: serde_json::Value = serde_json::from_slice(&inspected.get_output().stdout).expect("JSON");
    let fingerprint = document["fingerprint"].as_str().expect("text");
    tmp.write(
        "p.toml",
        &format!("[model]\nfingerprint = \"{fingerprint}\"\n[[decode]]\ndo = \"temperature\"\nfactor = 2\n"),
    );
    tmp.refocus("patch check fixtures/opt --patch [TMP]/p.toml").assert().success().stdout_eq(str![[r#"
[TMP]/p.toml fits fixtures/opt, the model it was made for

line  forward  generate  serve  export  entry
   3  yes      yes       yes    no [1]  temperature 2

[1] weights hold no change of the final logits

"#]]);
}

#[test]
fn a_rewriting_belongs_to_a_server() {
    let tmp = Tmp::new("rewriting");
    tmp.write("p.toml", "[rewrite]\nvariant = \"scored\"\nthreshold = -2.4\n");
    tmp.refocus("patch show fixtures/overthinking --patch [TMP]/p.toml")
        .assert()
        .success()
        .stdout_eq(str![[r#"
[TMP]/p.toml fits fixtures/overthinking

Before answering, the newest message of a user is rewritten without what does not matter (scored: the model judges each sentence; what scores below -2.4 nats goes).
    line 1; works in serve

"#]]);
    refused(tmp.refocus("model generate fixtures/overthinking --text Hello --patch [TMP]/p.toml"))
        .stderr_eq(str![[r#"
error: [TMP]/p.toml:1: 'rewrite' does not work in generate: a prompt is taken as it is; `refocus serve` rewrites messages, `refocus rewrite` one text
hint: `refocus patch check MODEL --patch FILE` shows which entries work where

"#]]);
    refused(tmp.refocus("model forward fixtures/overthinking --text Hello --patch [TMP]/p.toml"))
        .stderr_eq(str![[r#"
error: [TMP]/p.toml:1: 'rewrite' does not work in forward: a forward pass takes its input as it is; `refocus serve` rewrites
hint: `refocus patch check MODEL --patch FILE` shows which entries work where

"#]]);
    refused(tmp.refocus("patch export fixtures/overthinking --patch [TMP]/p.toml --out [TMP]/out"))
        .stderr_eq(str![[r#"
error: [TMP]/p.toml:1: cannot be baked into weights: weights hold no change of the prompt
hint: --partial leaves such entries out and names them

"#]]);
    refused(tmp.refocus("serve --model fixtures/overthinking --listen 127.0.0.1:0 --patch [TMP]/p.toml"))
        .stderr_eq(str![[r#"
error: [TMP]/p.toml: [rewrite] changes the messages of a chat, and the model brings no chat template

"#]]);
}

#[test]
fn an_entry_that_does_not_work_yet_is_refused() {
    let tmp = Tmp::new("not-yet");
    tmp.write("p.toml", "[[decode]]\ndo = \"contrast_context\"\nalpha = 0.5\n");
    refused(tmp.refocus("model forward fixtures/gpt2 --tokens - --patch [TMP]/p.toml").stdin("[[1]]"))
        .stderr_eq(str![[r#"
error: [TMP]/p.toml:1: 'contrast_context' does not work in forward: it needs a second row of logits, which nothing computes yet
hint: `refocus patch check MODEL --patch FILE` shows which entries work where

"#]]);
}

/// A gate that reads the last block, with logits of the last position only, once ran out of bounds, and
/// decided after the logits had been read.
#[test]
fn a_gate_on_the_last_block() {
    let tmp = Tmp::new("gate");
    let patch = "[[intervention]]\nat = \"ln_final.hook_normalized\"\ndo = \"scale\"\nfactor = 2\n\
                 when = { top1_prob_above = 0, lens_layer = 1 }\n";
    tmp.write("p.toml", patch);
    let run = |more: &str| {
        tmp.refocus(&format!("model forward fixtures/gpt2 --tokens - --json {more}"))
            .stdin("[[1, 2, 3], [4, 5]]")
            .assert()
            .success()
            .get_output()
            .stdout
            .clone()
    };
    let top = |out: &[u8]| -> serde_json::Value {
        let document: serde_json::Value = serde_json::from_slice(out).expect("JSON");
        document["sequences"][1]["top"].clone()
    };
    let narrow = top(&run("--patch [TMP]/p.toml"));
    // With all positions wanted nothing is narrowed, and the result is the same.
    assert_eq!(narrow, top(&run("--patch [TMP]/p.toml --out [TMP]/x.safetensors")));
    assert_ne!(narrow, top(&run("")));
}

/// A gate that would never decide makes its entry do nothing: that is an error.
#[test]
fn a_gate_beyond_the_exit() {
    let tmp = Tmp::new("gate-exit");
    let patch = "[[intervention]]\nat = \"ln_final.hook_normalized\"\ndo = \"zero\"\n\
                 when = { top1_prob_above = 0.5, lens_layer = 1 }\n\n[[intervention]]\ndo = \"exit\"\nlayer = 1\n";
    tmp.write("p.toml", patch);
    refused(tmp.refocus("patch check fixtures/gpt2 --patch [TMP]/p.toml")).stderr_eq(str![[r#"
error: [TMP]/p.toml:1: blocks.1.hook_resid_post is never reached: the patch exits after block 0

"#]]);
}

const BAKEABLE: &str = r#"
[[intervention]]
at = "blocks.*.attn.hook_z"
head = 2
do = "zero"

[[intervention]]
at = "blocks.1.attn.hook_pattern"
do = "sharpen"
factor = 0.5

[[intervention]]
at = "blocks.1.hook_mlp_out"
do = "scale"
factor = 0.25
"#;

#[test]
fn a_patch_in_words() {
    let tmp = Tmp::new("show");
    tmp.write("p.toml", PATCH);
    tmp.refocus("patch show fixtures/gpt2 --patch [TMP]/p.toml")
        .assert()
        .success()
        .stdout_eq(str![[r#"
[TMP]/p.toml fits fixtures/gpt2

What heads 0.2 and 1.2 pass on becomes zero, at every position.
    line 2; works in forward, generate, serve, export
Attention in block 1 cannot look at the first token, at the end of the prompt and at each new token, only where the lens after block 0 gives its first choice a probability above 0.5.
    line 7; works in forward, generate, serve
The model answers after 2 of its 2 blocks.
    line 14; works in forward, generate, serve, export
The final logits are divided by 0.7.
    line 18; works in forward, generate, serve
The final logits lean away from the context, by 0.5.
    line 22; works in nothing yet
Before answering, the newest message of a user is rewritten without what does not matter (extractive).
    line 26; works in serve

"#]])
        .stderr_eq("");
}

#[test]
fn a_baked_folder_gives_the_logits_of_the_patch() {
    let tmp = Tmp::new("export");
    tmp.write("p.toml", BAKEABLE);
    let export = "patch export fixtures/gguf-llama-q4_1/model.gguf --patch [TMP]/p.toml --out [TMP]/out";
    tmp.refocus(export)
        .assert()
        .success()
        .stdout_eq(str![[r#"
model        fixtures/gguf-llama-q4_1/model.gguf
patch        [TMP]/p.toml
baked        What heads 0.2 and 1.2 pass on becomes zero, at every position
             Attention in block 1 is sharpened: its scores are divided by 0.5, at every position
             What the MLP writes in block 1 is multiplied by 0.25, at every position
changed      4 of the model's parameters
folder       [TMP]/out
weights      20 tensors, float32
files        chat_template.jinja  196 B
             config.json  507 B
             generation_config.json  96 B
             model.safetensors  281.6 kB
             tokenizer.json  4.4 kB
             tokenizer_config.json  241 B
fingerprint  sha256:b2ef3115b7855d3184095a3195a6f63572d8e240943f3f6112b18809d120f6e9

"#]])
        .stderr_eq("");
    // The same command again.
    tmp.refocus(export).assert().success().stderr_eq(str![[r#"
note: [TMP]/out is there already, the same to the last byte; nothing was written

"#]]);
    let top = |args: &str| {
        let args = format!("model forward {args} --text the --top 5 --json");
        let out = tmp.refocus(&args).assert().success().get_output().stdout.clone();
        let document: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        let top = document["sequences"][0]["top"].as_array().expect("a list").clone();
        let of = |t: &serde_json::Value| (t["id"].as_u64(), t["logit"].as_f64().expect("a number"));
        top.iter().map(of).collect::<Vec<_>>()
    };
    let plain = top("fixtures/gguf-llama-q4_1/model.gguf");
    let want = top("fixtures/gguf-llama-q4_1/model.gguf --patch [TMP]/p.toml");
    let got = top("[TMP]/out");
    assert_ne!(plain, want);
    for ((id, logit), (wanted, expected)) in got.iter().zip(&want) {
        assert!(id == wanted && (logit - expected).abs() < 1e-4, "{got:?}, {want:?}");
    }
}

#[test]
fn what_cannot_be_baked_is_named_and_nothing_is_written() {
    let tmp = Tmp::new("unbakeable");
    tmp.write("p.toml", PATCH);
    let export = "patch export fixtures/gpt2 --patch [TMP]/p.toml --out [TMP]/out";
    tmp.refocus(export).assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: [TMP]/p.toml:7: cannot be baked into weights: weights act at every position
hint: --partial leaves such entries out and names them

"#]]);
    assert_eq!(tmp.list(), ["p.toml"]);
    tmp.refocus(&format!("{export} --partial")).assert().success().stderr_eq(str![[r#"
note: the model brings no tokenizer, so the folder has none
note: left out, line 7: Attention in block 1 cannot look at the first token, at the end of the prompt and at each new token, only where the lens after block 0 gives its first choice a probability above 0.5 (weights act at every position)
note: left out, line 18: The final logits are divided by 0.7 (weights hold no change of the final logits)
note: left out, line 22: The final logits lean away from the context, by 0.5 (weights hold no change of the final logits)
note: left out, line 26: Before answering, the newest message of a user is rewritten without what does not matter (extractive) (weights hold no change of the prompt)

"#]]);
    tmp.write(
        "last.toml",
        "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nposition = \"last\"\ndo = \"zero\"\n",
    );
    let nothing = "patch export fixtures/gpt2 --patch [TMP]/last.toml --out [TMP]/none --partial";
    tmp.refocus(nothing).assert().code(2).stderr_eq(str![[r#"
error: [TMP]/last.toml: nothing in it can be baked into weights
hint: refocus patch check says why, entry by entry

"#]]);
}
