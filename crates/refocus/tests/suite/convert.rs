use snapbox::str;

use crate::support::{Tmp, refocus, refused};

#[test]
fn a_gguf_file_becomes_a_folder() {
    let tmp = Tmp::new("convert");
    let command = "model convert fixtures/gguf-llama-q4_1/model.gguf --out [TMP]/out";
    tmp.refocus(command)
        .assert()
        .success()
        .stdout_eq(str![[r#"
model        fixtures/gguf-llama-q4_1/model.gguf
folder       [TMP]/out
weights      20 tensors, float32
files        chat_template.jinja  196 B
             config.json  507 B
             generation_config.json  96 B
             model.safetensors  281.6 kB
             tokenizer.json  4.4 kB
             tokenizer_config.json  241 B
fingerprint  sha256:8c29037bc9a99e585278b276334cf0157c042b724435db1a3b0e153cf424bdae

"#]])
        .stderr_eq("");
    // The same command again.
    tmp.refocus(command)
        .assert()
        .success()
        .stdout_eq(str![[r#"
model        fixtures/gguf-llama-q4_1/model.gguf
folder       [TMP]/out
weights      20 tensors, float32
files        chat_template.jinja  196 B
             config.json  507 B
             generation_config.json  96 B
             model.safetensors  281.6 kB
             tokenizer.json  4.4 kB
             tokenizer_config.json  241 B
fingerprint  sha256:8c29037bc9a99e585278b276334cf0157c042b724435db1a3b0e153cf424bdae

"#]])
        .stderr_eq(str![[r#"
note: [TMP]/out is there already, the same to the last byte; nothing was written

"#]]);
    assert_eq!(tmp.list(), ["out"]);
    // The folder is the same model: the same text, the same bits.
    let run = |model: &str| {
        let args = format!("model forward {model} --text the --top 3 --json");
        let text = String::from_utf8(tmp.refocus(&args).assert().success().get_output().stdout.clone());
        let text = text.expect("UTF-8");
        text.lines().filter(|l| !l.contains("\"model\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(run("[TMP]/out"), run("fixtures/gguf-llama-q4_1/model.gguf"));
}

#[test]
fn one_json_document() {
    let tmp = Tmp::new("convert-json");
    tmp.refocus("model convert fixtures/llama2 --out [TMP]/out --dtype bf16 --max-shard-size 10kB --json")
        .assert()
        .success()
        .stdout_eq(str![[r#"
{
  "schema": "refocus.model-convert/1",
  "model": "fixtures/llama2",
  "out": "[TMP]/out",
  "already_there": false,
  "dtype": "bfloat16",
  "tensors": 21,
  "bytes": 22753,
  "files": [
    {
      "name": "config.json",
      "bytes": 511
    },
    {
      "name": "model-00001-of-00002.safetensors",
      "bytes": 11088
    },
    {
      "name": "model-00002-of-00002.safetensors",
      "bytes": 9428
    },
    {
      "name": "model.safetensors.index.json",
      "bytes": 1726
    }
  ],
  "fingerprint": "sha256:5ad0bea883117192dd8d12c4dbbd564c22512c3d3a78f9ac26931901a9005be1"
}

"#]])
        .stderr_eq(str![[r#"
note: the model brings no tokenizer, so the folder has none

"#]]);
    tmp.refocus(
        "model convert fixtures/llama2 --out [TMP]/out --dtype bf16 --max-shard-size 10kB --json --quiet",
    )
    .assert()
    .success()
    .stderr_eq("");
}

#[test]
fn places_where_no_model_is_written() {
    let tmp = Tmp::new("convert-place");
    tmp.refocus("model convert fixtures/gpt2 --out [TMP]/gpt2 --quiet").assert().success().stderr_eq("");
    refused(tmp.refocus("model convert [TMP]/gpt2 --out [TMP]/gpt2")).stderr_eq(str![[r#"
error: [TMP]/gpt2: this is the model itself

"#]]);
    refused(tmp.refocus("model convert [TMP]/gpt2 --out [TMP]/gpt2/f16 --dtype f16")).stderr_eq(str![[r#"
error: [TMP]/gpt2/f16: this lies inside the model's own folder

"#]]);
    refused(tmp.refocus("model convert [TMP]/gpt2 --out [TMP] --replace")).stderr_eq(str![[r#"
error: [TMP]: the model itself lies in this folder

"#]]);
    refused(tmp.refocus("model convert [TMP]/gpt2 --out [TMP]/not/there")).stderr_eq(str![[r#"
error: [TMP]/not/there: there is no folder [TMP]/not

"#]]);
    refused(tmp.refocus("model convert fixtures/opt --out [TMP]/gpt2")).stderr_eq(str![[r#"
error: [TMP]/gpt2: the folder is there already and holds something else: config.json is another
hint: give another folder, or --replace to replace this one

"#]]);
    tmp.write("file", "");
    refused(tmp.refocus("model convert fixtures/opt --out [TMP]/file")).stderr_eq(str![[r#"
error: [TMP]/file: this is a file; a folder is written

"#]]);
    assert_eq!(tmp.list(), ["file", "gpt2"]);
    tmp.refocus("model convert fixtures/opt --out [TMP]/gpt2 --replace --quiet").assert().success();
    tmp.refocus("model inspect [TMP]/gpt2").assert().success();
    assert_eq!(tmp.list(), ["file", "gpt2"]);
}

#[test]
fn flags_are_checked() {
    refused(refocus("model convert fixtures/gpt2")).stderr_eq(str![[r#"
error: the following required arguments were not provided:
  --out <DIR>

Usage: refocus model convert --out <DIR> <MODEL>

For more information, try '--help'.

"#]]);
    refused(refocus("model convert fixtures/gpt2 --out x --dtype f8")).stderr_eq(str![[r#"
error: invalid value 'f8' for '--dtype <TYPE>'
  [possible values: keep, f32, f16, bf16]

For more information, try '--help'.

"#]]);
    refused(refocus("model convert fixtures/gpt2 --out x --max-shard-size 5GBit")).stderr_eq(str![[r#"
error: invalid value '5GBit' for '--max-shard-size <SIZE>': a size is a number with B, kB, MB, GB, KiB, MiB or GiB

For more information, try '--help'.

"#]]);
}

/// The limit on the size of files stands for a disk that is full: writing fails in the middle of a file.
#[cfg(unix)]
fn limited(tmp: &Tmp, signal: &str) -> std::process::Output {
    let model = crate::support::root().join("fixtures/gguf-llama-f32/model.gguf");
    std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("{signal}; ulimit -c 0; ulimit -f 64; exec \"$@\""))
        .arg("sh")
        .arg(snapbox::cmd::cargo_bin!("refocus"))
        .args(["model", "convert"])
        .arg(model)
        .arg("--out")
        .arg(tmp.path("out"))
        .output()
        .expect("sh")
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing() {
    let tmp = Tmp::new("convert-full");
    let out = limited(&tmp, "trap '' XFSZ");
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8(out.stderr).expect("UTF-8");
    assert!(text.contains("/out/model.safetensors: cannot be written\ncause: File too large"), "{text}");
    assert_eq!(tmp.list(), [""; 0]);
}

#[cfg(unix)]
#[test]
fn a_kill_leaves_nothing_under_the_name_and_the_next_run_clears_up() {
    use std::os::unix::process::ExitStatusExt;
    let tmp = Tmp::new("convert-killed");
    // The signal's own effect: the process ends at once, without a chance to clear up.
    let out = limited(&tmp, ":");
    assert!(out.status.signal().is_some(), "{:?}", out.status);
    assert_eq!(tmp.list(), [".out.partial"]);
    tmp.refocus("model convert fixtures/gguf-llama-f32/model.gguf --out [TMP]/out").assert().success();
    assert_eq!(tmp.list(), ["out"]);
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let tmp = Tmp::new("convert-nan");
    let folder = crate::support::root().join("fixtures/gpt2");
    let mut bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::create_dir(tmp.path("gpt2")).expect("folder");
    std::fs::write(tmp.path("gpt2/model.safetensors"), bytes).expect("weights");
    std::fs::copy(folder.join("config.json"), tmp.path("gpt2/config.json")).expect("configuration");
    refused(tmp.refocus("model convert [TMP]/gpt2 --out [TMP]/out")).stderr_eq(str![[r#"
error: [TMP]/gpt2: tensor transformer.wte.weight, value 2120: it is NaN, which no model can be run with

"#]]);
    assert_eq!(tmp.list(), ["gpt2"]);
}
