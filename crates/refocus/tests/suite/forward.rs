use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use safetensors::{Dtype, SafeTensors};
use snapbox::str;

use crate::support::{Tmp, refocus, refocus_args, root};

const GGUF: &str = "fixtures/gguf-llama-q4_1/model.gguf";

#[test]
fn ids_of_a_file() {
    refocus("model forward fixtures/gpt2 --tokens fixtures/gpt2/tokens.json --top 2")
        .assert()
        .success()
        .stdout_eq(str![[r#"
sequence 0: 1 token, then after id 67
id   logit  probability
 0  4.3022       0.1534
53  4.1931       0.1375

sequence 1: 2 tokens, then after id 74
id   logit  probability
53  5.1327       0.3221
 0  4.0993       0.1146

sequence 2: 7 tokens, then after id 61
id   logit  probability
85  4.2554       0.1723
23  4.0720       0.1435

sequence 3: 13 tokens, then after id 100
id   logit  probability
86  4.3222       0.1721
43  3.3445       0.0647

"#]])
        .stderr_eq("");
}

#[test]
fn ids_from_standard_input() {
    refocus("model forward fixtures/gpt2 --tokens - --top 1")
        .stdin("[[28, 74]]")
        .assert()
        .success()
        .stdout_eq(str![[r#"
sequence 0: 2 tokens, then after id 74
id   logit  probability
53  5.1327       0.3221

"#]]);
}

#[test]
fn a_text() {
    refocus_args(&["model", "forward", GGUF, "--text", "There are 2048 tokens\n", "--top", "3"])
        .assert()
        .success()
        .stdout_eq(str![[r##"
sequence 0: 16 tokens, then after "\n"
 id  token   logit  probability
  8  "#"    3.0191       0.0751
112  " o"   2.8257       0.0619
 32  ";"    2.8149       0.0612

"##]])
        .stderr_eq("");
}

#[test]
fn one_json_document() {
    refocus_args(&[
        "model",
        "forward",
        GGUF,
        "--text",
        "one two",
        "--top",
        "2",
        "--json",
        "--capture",
        "hook_embed",
    ])
    .assert()
    .success()
    .stdout_eq(str![[r#"
{
  "schema": "refocus.model-forward/1",
  "model": "fixtures/gguf-llama-q4_1/model.gguf",
  "sequences": [
    {
      "ids": [
        123,
        100,
        92,
        84
      ],
      "tokens": [
        "one",
        " t",
        "w",
        "o"
      ],
      "top": [
        {
          "id": 82,
          "token": "m",
          "logit": 3.1163175,
          "probability": 0.08912688
        },
        {
          "id": 81,
          "token": "l",
          "logit": 2.997193,
          "probability": 0.07911769
        }
      ],
      "captured": [
        {
          "site": "hook_embed",
          "shape": [
            4,
            64
          ],
          "min": -0.45370293,
          "max": 0.44086456,
          "mean": -0.00916946679353714,
          "rms": 0.16926258559108406
        }
      ]
    }
  ]
}

"#]])
    .stderr_eq("");
}

#[test]
fn captured_sites_are_summed_up() {
    refocus(
        "model forward fixtures/neox --tokens - --top 1 --capture blocks.?.attn.hook_* --capture hook_embed",
    )
    .stdin("[[28, 44, 5]]")
    .assert()
    .success()
    .stdout_eq(str![[r#"
sequence 0: 3 tokens, then after id 5
id   logit  probability
15  3.1522       0.1257

site                            shape          mean     rms      min     max
hook_embed                      [3, 22]      0.0435  1.0803  -2.7744  2.6991
blocks.0.attn.hook_q            [3, 2, 11]  -0.1065  1.4718  -3.3336  3.0483
blocks.0.attn.hook_k            [3, 2, 11]  -0.2493  1.4927  -3.3205  3.2567
blocks.0.attn.hook_v            [3, 2, 11]  -0.0273  1.6658  -4.2419  4.4095
blocks.0.attn.hook_rot_q        [3, 2, 11]  -0.1032  1.4718  -3.7533  3.0483
blocks.0.attn.hook_rot_k        [3, 2, 11]  -0.2458  1.4927  -3.3205  3.2567
blocks.0.attn.hook_attn_scores  [2, 3, 3]    0.1647  2.8354  -5.0153  3.6058
blocks.0.attn.hook_pattern      [2, 3, 3]    0.3333  0.5243   0.0000  1.0000
blocks.0.attn.hook_z            [3, 2, 11]  -0.1345  1.4203  -3.9956  3.6064
blocks.0.attn.hook_result       [3, 2, 22]  -0.1476  1.3432  -3.8892  3.0076
blocks.1.attn.hook_q            [3, 2, 11]  -0.1401  1.5939  -4.6612  2.7380
blocks.1.attn.hook_k            [3, 2, 11]   0.2123  1.3958  -3.0379  3.1097
blocks.1.attn.hook_v            [3, 2, 11]   0.0871  1.4439  -3.5272  4.0687
blocks.1.attn.hook_rot_q        [3, 2, 11]   0.0289  1.5939  -4.0591  3.7861
blocks.1.attn.hook_rot_k        [3, 2, 11]   0.2446  1.3958  -3.0379  3.2731
blocks.1.attn.hook_attn_scores  [2, 3, 3]   -0.4658  2.8762  -5.7326  3.9311
blocks.1.attn.hook_pattern      [2, 3, 3]    0.3333  0.5278   0.0000  1.0000
blocks.1.attn.hook_z            [3, 2, 11]   0.0949  1.3464  -2.6956  3.8474
blocks.1.attn.hook_result       [3, 2, 22]   0.0130  1.3986  -3.5385  4.3410

"#]]);
}

#[test]
fn more_tokens_than_the_vocabulary_has_are_all_of_them() {
    let out =
        refocus("model forward fixtures/gpt2 --tokens - --top 4000000000").stdin("[[1]]").assert().success();
    let lines = String::from_utf8_lossy(&out.get_output().stdout).lines().count();
    assert_eq!(lines, 2 + 101);
}

/// Tensors of a file as f32 or f64.
fn read(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(path).expect("file");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    file.tensors()
        .into_iter()
        .map(|(name, t)| {
            let data = match t.dtype() {
                Dtype::F32 => t
                    .data()
                    .chunks_exact(4)
                    .map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4"))))
                    .collect(),
                _ => t.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("8"))).collect(),
            };
            (name, (t.shape().to_vec(), data))
        })
        .collect()
}

#[test]
fn a_saved_file_has_every_value_of_transformers() {
    let tmp = Tmp::new("saved");
    for name in ["gpt2", "opt-350m", "gptj", "qwen3"] {
        tmp.refocus(&format!(
            "model forward fixtures/{name} --tokens fixtures/{name}/tokens.json --capture * -q --out [TMP]/{name}.safetensors"
        ))
        .assert()
        .success()
        .stderr_eq("");
        let got = read(&tmp.path(&format!("{name}.safetensors")));
        let want = read(&root().join(format!("fixtures/{name}/expected.safetensors")));
        for (key, (shape, want)) in &want {
            let (got_shape, got) = &got[key.trim_end_matches("_f64")];
            assert_eq!(got_shape, shape, "{name} {key}");
            for (g, w) in got.iter().zip(want) {
                assert!(g == w || (g - w).abs() / w.abs().max(1.0) <= 1e-4, "{name} {key}: {g} for {w}");
            }
        }
    }
}

#[test]
fn the_same_command_writes_the_same_bytes_at_any_number_of_threads() {
    let tmp = Tmp::new("threads");
    let save = |name: &str, threads: &str| {
        tmp.refocus(&format!(
            "model forward fixtures/llama3 --tokens fixtures/llama3/tokens.json --capture * --out [TMP]/{name} --threads {threads}"
        ))
        .assert()
        .success();
        std::fs::read(tmp.path(name)).expect("file")
    };
    let one = save("a", "1");
    assert!(one == save("b", "3"), "the files differ");
    // An existing file is replaced.
    assert!(one == save("a", "2"), "the files differ");
    assert_eq!(tmp.list(), ["a", "b"]);
}

#[test]
fn saving_is_told_and_not_summed_up() {
    let tmp = Tmp::new("told");
    tmp.refocus(
        "model forward fixtures/gpt2 --tokens - --top 1 --capture hook_embed --out [TMP]/x.safetensors",
    )
    .stdin("[[28, 74], [1]]")
    .assert()
    .success()
    .stdout_eq(str![[r#"
sequence 0: 2 tokens, then after id 74
id   logit  probability
53  5.1327       0.3221

sequence 1: 1 token, then after id 1
id   logit  probability
 0  4.0577       0.1418

"#]])
    .stderr_eq(str![[r#"
note: wrote 4 tensors, 1.5 kB, to [TMP]/x.safetensors

"#]]);
    assert_eq!(tmp.list(), ["x.safetensors"]);
}

#[test]
fn a_patch_changes_what_comes_out() {
    let tmp = Tmp::new("patched");
    tmp.write("p.toml", "[[intervention]]\nat = \"blocks.*.attn.hook_z\"\ndo = \"zero\"\n");
    tmp.refocus(
        "model forward fixtures/gpt2 --tokens - --top 1 --capture blocks.0.attn.hook_z --patch [TMP]/p.toml",
    )
    .stdin("[[28, 74]]")
    .assert()
    .success()
    .stdout_eq(str![[r#"
sequence 0: 2 tokens, then after id 74
id   logit  probability
49  6.6085       0.5538

site                  shape        mean     rms     min     max
blocks.0.attn.hook_z  [2, 3, 7]  0.0000  0.0000  0.0000  0.0000

"#]]);
}

#[test]
fn a_temperature_divides_every_logit() {
    let tmp = Tmp::new("temperature");
    tmp.write("p.toml", "[[decode]]\ndo = \"temperature\"\nfactor = 2\n");
    let run = |patch: &str, out: &str| {
        let args = format!("model forward fixtures/gpt2 --tokens - --json {patch} --out [TMP]/{out} -q");
        let done = tmp.refocus(&args).stdin("[[28, 74]]").assert().success();
        let document: serde_json::Value = serde_json::from_slice(&done.get_output().stdout).expect("JSON");
        (document["sequences"][0]["top"].clone(), read(&tmp.path(out))["seq0/logits"].1.clone())
    };
    let (plain, plain_logits) = run("", "a");
    let (patched, patched_logits) = run("--patch [TMP]/p.toml", "b");
    assert!(plain_logits.iter().zip(&patched_logits).all(|(a, b)| a / 2.0 == *b));
    let number = |v: &serde_json::Value, key: &str| v[0][key].as_f64().expect("number");
    assert_eq!(patched[0]["id"], plain[0]["id"]);
    assert!((number(&patched, "logit") * 2.0 - number(&plain, "logit")).abs() < 1e-5);
    assert!(number(&patched, "probability") < number(&plain, "probability"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = std::process::Command::new(snapbox::cmd::cargo_bin!("refocus"))
        .args(["model", "inspect", "fixtures/gpt2", "--sites"])
        .current_dir(root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    drop(child.stdout.take());
    let status = child.wait().expect("wait");
    let mut stderr = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut stderr).expect("read");
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

/// A limit on file sizes stands for a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let tmp = Tmp::new("full");
    tmp.write("x.safetensors", "what was there before");
    let out = std::process::Command::new("sh")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 4; exec \"$@\"")
        .arg("sh")
        .arg(snapbox::cmd::cargo_bin!("refocus"))
        .args([
            "model",
            "forward",
            "fixtures/gpt2",
            "--tokens",
            "fixtures/gpt2/tokens.json",
            "--capture",
            "*",
        ])
        .arg("--out")
        .arg(tmp.path("x.safetensors"))
        .current_dir(root())
        .output()
        .expect("run");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{stderr}");
    assert!(out.stdout.is_empty());
    assert!(stderr.contains("x.safetensors: cannot be written\ncause: File too large"), "{stderr}");
    assert_eq!(tmp.list(), ["x.safetensors"]);
    assert_eq!(std::fs::read_to_string(tmp.path("x.safetensors")).expect("file"), "what was there before");
}
