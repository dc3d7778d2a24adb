use snapbox::str;

use crate::support::{Tmp, refocus, root};

#[test]
fn a_folder() {
    refocus("model inspect fixtures/gpt2")
        .assert()
        .success()
        .stdout_eq(str![[r#"
model           fixtures/gpt2
family          gpt2 (safetensors)
file            model.safetensors, 41.9 kB
blocks          2, pre-norm, LayerNorm (ε 0.00001)
width           21
heads           3 of 7
mlp             38, gelu_tanh
vocabulary      101 tokens, unembedding tied
positions       learned
context         24 tokens
parameters      9,841
stored          f32 39.4 kB, 28 tensors
tokenizer       none
chat template   none
first, last id  100; 100
sites           40 (--sites lists them)
absent sites    blocks.*.attn.hook_rot_q: this model has no rotary positions
                blocks.*.attn.hook_rot_k: this model has no rotary positions
                blocks.*.mlp.hook_pre_linear: the MLP of this model has no gate
fingerprint     sha256:dbb72419a39b0b15187dcc86d96a78ba601defd0570d3d4b9e175af46591cdd3

"#]])
        .stderr_eq("");
}

#[test]
fn a_gguf_file() {
    refocus("model inspect fixtures/gguf-llama-q4_1/model.gguf").assert().success().stdout_eq(str![[r#"
model           fixtures/gguf-llama-q4_1/model.gguf
family          llama (gguf v3)
file            model.gguf, 53.2 kB
blocks          2, pre-norm, RMSNorm (ε 0.00001)
width           64
heads           4 of 16, 2 for keys and values
mlp             96, silu, gated
vocabulary      127 tokens, unembedding tied
positions       rotary over 16 of 16 dimensions, base 100000
context         1,024 tokens
parameters      69,888
stored          f32 1.3 kB, 5 tensors
                q4_1 38.4 kB, 14 tensors
                q8_0 8.6 kB, 1 tensor
tokenizer       byte-level BPE, smollm words, 127 tokens, 3 special ones
                bos <|im_start|> (1), eos <|im_end|> (2), pad <|im_end|> (2), unk <|endoftext|> (0)
                adds nothing
chat template   default, takes a system message
first, last id  1; 2
sites           45 (--sites lists them)
absent sites    hook_pos_embed: this model has no learned positions
fingerprint     sha256:4990a173f34386e074f3c4111615a0b998ecde87dc05ca971ff7c8ebffea58d0

"#]]);
}

#[test]
fn what_is_particular_to_a_family_is_shown() {
    refocus("model inspect fixtures/gptj").assert().success().stdout_eq(str![[r#"
model           fixtures/gptj
family          gptj (safetensors)
file            model.safetensors, 47.6 kB
blocks          2, parallel, one norm, LayerNorm (ε 0.00001)
width           21
heads           3 of 7
mlp             38, gelu_tanh
vocabulary      101 tokens, unembedding untied
positions       rotary over 4 of 7 dimensions, base 10000, neighbouring pairs
context         24 tokens
parameters      11,307
stored          f32 45.2 kB, 25 tensors
tokenizer       none
chat template   none
first, last id  100; 100
sites           37 (--sites lists them)
absent sites    hook_pos_embed: this model has no learned positions
                blocks.*.hook_resid_mid: attention and MLP run in parallel here: there is no residual stream between them
                blocks.*.ln2.hook_scale: the MLP reads ln1 in this model
                blocks.*.ln2.hook_normalized: the MLP reads ln1 in this model
                blocks.*.mlp.hook_pre_linear: the MLP of this model has no gate
fingerprint     sha256:f1384318a337286ad9638346441833cf0d1753f91e0bb5d8e0feb78b151d1aff

"#]]);
    refocus("model inspect fixtures/opt-350m").assert().success().stdout_eq(str![[r#"
model           fixtures/opt-350m
family          opt (safetensors)
file            model.safetensors, 38.2 kB
blocks          2, post-norm, LayerNorm (ε 0.00001)
width           20, embedding 11
heads           4 of 5
mlp             38, relu
vocabulary      97 tokens, unembedding tied
positions       learned, rows from 2
context         22 tokens
parameters      8,663
stored          f32 34.7 kB, 36 tensors
tokenizer       none
chat template   none
first, last id  2; 2
sites           38 (--sites lists them)
absent sites    blocks.*.attn.hook_rot_q: this model has no rotary positions
                blocks.*.attn.hook_rot_k: this model has no rotary positions
                blocks.*.mlp.hook_pre_linear: the MLP of this model has no gate
                ln_final.hook_scale: this model has no final norm
                ln_final.hook_normalized: this model has no final norm
fingerprint     sha256:a8f4982a13d8118d9dd877022ad49f65b229849314072f3e436f6f42707f0cff

"#]]);
    refocus("model inspect fixtures/qwen2-window").assert().success().stdout_eq(str![[r#"
model           fixtures/qwen2-window
family          qwen2 (safetensors)
file            model.safetensors, 45.6 kB
blocks          2, pre-norm, RMSNorm (ε 0.000001)
width           24
heads           4 of 6, 2 for keys and values
mlp             38, silu, gated
vocabulary      67 tokens, unembedding tied
positions       rotary over 6 of 6 dimensions, base 1000000
windows         none in layer 0, 5 in layer 1
context         64 tokens
parameters      10,752
stored          f32 43.0 kB, 26 tensors
tokenizer       none
chat template   none
first, last id  65; 66
sites           45 (--sites lists them)
absent sites    hook_pos_embed: this model has no learned positions
fingerprint     sha256:e8ed592ff5001b209565a3e4f54f18f5fd7391d4f1f887e2fddd9880d8d9b5b3

"#]]);
    refocus("model inspect fixtures/llama-dynamic").assert().success().stdout_eq(str![[r#"
model           fixtures/llama-dynamic
family          llama (safetensors)
file            model.safetensors, 38.9 kB
blocks          2, pre-norm, RMSNorm (ε 0.00001)
width           18
heads           3 of 6
mlp             38, silu, gated
vocabulary      67 tokens, unembedding untied
positions       rotary over 6 of 6 dimensions, base 10000, dynamic scaling by 2 beyond 6 tokens
context         6 tokens
parameters      9,198
stored          f32 36.8 kB, 21 tensors
tokenizer       none
chat template   none
first, last id  1; 2
sites           45 (--sites lists them)
absent sites    hook_pos_embed: this model has no learned positions
fingerprint     sha256:ad213cc66e538a0336673730cfb16d9886a7e51bbc93178297674eaf84815965

"#]]);
    refocus("model inspect fixtures/llama2-sharded").assert().success().stdout_eq(str![[r#"
model           fixtures/llama2-sharded
family          llama (safetensors)
files           3, 38.9 kB
blocks          2, pre-norm, RMSNorm (ε 0.00001)
width           18
heads           3 of 6
mlp             38, silu, gated
vocabulary      67 tokens, unembedding untied
positions       rotary over 6 of 6 dimensions, base 10000
context         64 tokens
parameters      9,198
stored          f32 36.8 kB, 21 tensors
tokenizer       none
chat template   none
first, last id  1; 2
sites           45 (--sites lists them)
absent sites    hook_pos_embed: this model has no learned positions
fingerprint     sha256:e84cf508dc06923015c472941b786a53a91b44f334a6e097bc7700356f3c5bee

"#]]);
}

#[test]
fn sites_are_listed_with_their_shapes() {
    refocus("model inspect fixtures/qwen3 --sites").assert().success().stdout_eq(str![[r#"
model           fixtures/qwen3
family          qwen3 (safetensors)
file            model.safetensors, 41.5 kB
blocks          2, pre-norm, RMSNorm (ε 0.000001)
width           18
heads           4 of 10, 2 for keys and values, normed queries and keys
mlp             38, silu, gated
vocabulary      67 tokens, unembedding tied
positions       rotary over 10 of 10 dimensions, base 1000000
context         64 tokens
parameters      9,760
stored          f32 39.0 kB, 24 tensors
tokenizer       none
chat template   none
first, last id  65; 66
sites           45 (--sites lists them)
absent sites    hook_pos_embed: this model has no learned positions
fingerprint     sha256:c6b8c886b44bb73784af7163b245857e2be1fb8f635f30b3dd79df54102c008e

site                            shape
hook_embed                      [tokens, 18]
blocks.0.hook_resid_pre         [tokens, 18]
blocks.0.ln1.hook_scale         [tokens]
blocks.0.ln1.hook_normalized    [tokens, 18]
blocks.0.attn.hook_q            [tokens, 4, 10]
blocks.0.attn.hook_k            [tokens, 2, 10]
blocks.0.attn.hook_v            [tokens, 2, 10]
blocks.0.attn.hook_rot_q        [tokens, 4, 10]
blocks.0.attn.hook_rot_k        [tokens, 2, 10]
blocks.0.attn.hook_attn_scores  [4, tokens, tokens]
blocks.0.attn.hook_pattern      [4, tokens, tokens]
blocks.0.attn.hook_z            [tokens, 4, 10]
blocks.0.attn.hook_result       [tokens, 4, 18]
blocks.0.hook_attn_out          [tokens, 18]
blocks.0.hook_resid_mid         [tokens, 18]
blocks.0.ln2.hook_scale         [tokens]
blocks.0.ln2.hook_normalized    [tokens, 18]
blocks.0.mlp.hook_pre           [tokens, 38]
blocks.0.mlp.hook_pre_linear    [tokens, 38]
blocks.0.mlp.hook_post          [tokens, 38]
blocks.0.hook_mlp_out           [tokens, 18]
blocks.0.hook_resid_post        [tokens, 18]
blocks.1.hook_resid_pre         [tokens, 18]
blocks.1.ln1.hook_scale         [tokens]
blocks.1.ln1.hook_normalized    [tokens, 18]
blocks.1.attn.hook_q            [tokens, 4, 10]
blocks.1.attn.hook_k            [tokens, 2, 10]
blocks.1.attn.hook_v            [tokens, 2, 10]
blocks.1.attn.hook_rot_q        [tokens, 4, 10]
blocks.1.attn.hook_rot_k        [tokens, 2, 10]
blocks.1.attn.hook_attn_scores  [4, tokens, tokens]
blocks.1.attn.hook_pattern      [4, tokens, tokens]
blocks.1.attn.hook_z            [tokens, 4, 10]
blocks.1.attn.hook_result       [tokens, 4, 18]
blocks.1.hook_attn_out          [tokens, 18]
blocks.1.hook_resid_mid         [tokens, 18]
blocks.1.ln2.hook_scale         [tokens]
blocks.1.ln2.hook_normalized    [tokens, 18]
blocks.1.mlp.hook_pre           [tokens, 38]
blocks.1.mlp.hook_pre_linear    [tokens, 38]
blocks.1.mlp.hook_post          [tokens, 38]
blocks.1.hook_mlp_out           [tokens, 18]
blocks.1.hook_resid_post        [tokens, 18]
ln_final.hook_scale             [tokens]
ln_final.hook_normalized        [tokens, 18]

"#]]);
}

#[test]
fn one_json_document() {
    refocus("model inspect fixtures/mistral --json")
        .assert()
        .success()
        .stdout_eq(str![[r#"
{
  "schema": "refocus.model-inspect/2",
  "model": "fixtures/mistral",
  "format": "safetensors",
  "format_version": null,
  "files": [
    {
      "name": "model.safetensors",
      "bytes": 48464
    }
  ],
  "runs": true,
  "why_not": null,
  "family": "mistral",
  "n_layers": 2,
  "d_model": 24,
  "n_heads": 4,
  "n_kv_heads": 2,
  "d_head": 6,
  "d_mlp": 38,
  "vocab": 53,
  "context": 64,
  "parameters": 11592,
  "stored": [
    {
      "dtype": "f32",
      "tensors": 21,
      "bytes": 46368
    }
  ],
  "tokenizer": null,
  "chat_templates": [],
  "d_embed": 24,
  "wiring": "pre-norm",
  "norm": "RMSNorm",
  "norm_eps": 0.00001,
  "qk_norm": false,
  "activation": "silu",
  "gated_mlp": true,
  "tied": false,
  "positions": "rotary over 6 of 6 dimensions, base 10000",
  "windows": [
    5,
    5
  ],
  "bos": 1,
  "eos": [
    2
  ],
  "sites": 45,
  "absent": [
    {
      "site": "hook_pos_embed",
      "why": "this model has no learned positions"
    }
  ],
  "fingerprint": "sha256:3b686c4bc4ccaba7710d3a5e222b734b21236ad8d3eca3bb9b9ca875dfe4561b"
}

"#]])
        .stderr_eq("");
}

#[test]
fn every_fixture_can_be_inspected() {
    for entry in std::fs::read_dir(crate::support::root().join("fixtures")).expect("fixtures") {
        let dir = entry.expect("entry").path();
        let gguf = dir.join("model.gguf");
        let model = if gguf.exists() { gguf } else { dir.clone() };
        if dir.join("expected.safetensors").exists() {
            refocus(&format!("model inspect {}", model.display())).assert().success().stderr_eq("");
        }
    }
}

/// A copy of a fixture with a changed configuration.
fn changed(tmp: &Tmp, name: &str, from: &str, to: &str) {
    let folder = root().join("fixtures").join(name);
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config");
    assert!(config.contains(from), "{config}");
    tmp.write("config.json", &config.replace(from, to));
    std::fs::copy(folder.join("model.safetensors"), tmp.path("model.safetensors")).expect("copy");
}

#[test]
fn a_model_that_cannot_be_run_is_described_with_the_reason() {
    let tmp = Tmp::new("inspect-family");
    changed(&tmp, "llama2", "\"model_type\": \"llama\"", "\"model_type\": \"phi3\"");
    tmp.write("chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}");
    tmp.refocus("model inspect [TMP]").assert().success().stdout_eq(str![[r#"
model          [TMP]
family         phi3 (safetensors)
cannot be run  [TMP]/config.json: model_type = "phi3": supported are gpt2, opt, gptj, gpt_neox, llama, mistral, qwen2, qwen3 and refocus
file           model.safetensors, 38.9 kB
blocks         2
width          18
heads          3
mlp            38
vocabulary     67 tokens
context        64 tokens
parameters     9,198
stored         f32 36.8 kB, 21 tensors
tokenizer      none
chat template  default, takes tools, no system message

"#]]).stderr_eq("");
    tmp.refocus("model inspect [TMP] --json").assert().success().stdout_eq(str![[r#"
{
  "schema": "refocus.model-inspect/2",
  "model": "[TMP]",
  "format": "safetensors",
  "format_version": null,
  "files": [
    {
      "name": "model.safetensors",
      "bytes": 38888
    }
  ],
  "runs": false,
  "why_not": "[TMP]/config.json: model_type = \"phi3\": supported are gpt2, opt, gptj, gpt_neox, llama, mistral, qwen2, qwen3 and refocus",
  "family": "phi3",
  "n_layers": 2,
  "d_model": 18,
  "n_heads": 3,
  "n_kv_heads": 3,
  "d_head": null,
  "d_mlp": 38,
  "vocab": 67,
  "context": 64,
  "parameters": 9198,
  "stored": [
    {
      "dtype": "f32",
      "tensors": 21,
      "bytes": 36792
    }
  ],
  "tokenizer": null,
  "chat_templates": [
    {
      "name": "default",
      "system": false,
      "tools": true
    }
  ]
}

"#]]).stderr_eq("");

    let tmp = Tmp::new("inspect-rotary");
    changed(&tmp, "llama-linear", "\"linear\"", "\"yarn\"");
    let output = tmp.refocus("model inspect [TMP]").assert().success();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(text.contains("supported rotary types are default, linear, dynamic and llama3"), "{text}");
}

#[test]
fn a_tensor_type_and_a_tokenizer_that_are_not_supported_are_named() {
    let tmp = Tmp::new("inspect-gguf");
    let bytes = std::fs::read(root().join("fixtures/gguf-llama-q4_1/model.gguf")).expect("model");
    // 20 is IQ4_NL, which refocus does not compute with; its blocks are smaller.
    let mut other = bytes.clone();
    let name = b"blk.0.ffn_up.weight";
    let at = other.windows(name.len()).position(|w| w == name).expect("tensor") + name.len();
    // After the name: dimensions, two sizes, the type.
    other[at + 4 + 16..at + 4 + 16 + 4].copy_from_slice(&20u32.to_le_bytes());
    let pre = b"smollm";
    let at = other.windows(pre.len()).position(|w| w == pre).expect("splitting");
    other[at..at + pre.len()].copy_from_slice(b"unseen");
    std::fs::write(tmp.path("model.gguf"), other).expect("write");
    tmp.refocus("model inspect [TMP]/model.gguf").assert().success().stdout_eq(str![[r#"
model          [TMP]/model.gguf
family         llama (gguf v3)
cannot be run  tensor blk.0.ffn_up.weight is stored as IQ4_NL, which is not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are)
file           model.gguf, 53.2 kB
blocks         2
width          64
heads          4, 2 for keys and values
mlp            96
vocabulary     127 tokens
context        1,024 tokens
parameters     69,888
stored         f32 1.3 kB, 5 tensors
               iq4_nl 3.5 kB, 1 tensor
               q4_1 34.6 kB, 13 tensors
               q8_0 8.6 kB, 1 tensor
tokenizer      byte-level BPE, unseen words, 127 tokens, 3 special ones
               cannot be used: tokenizer.ggml.pre = "unseen": how it splits words is not known (gpt-2, smollm, llama-bpe, qwen2, tekken, gpt-4o and others are)
               bos <|im_start|> (1), eos <|im_end|> (2), pad <|im_end|> (2), unk <|endoftext|> (0)
               adds nothing
chat template  default, takes a system message

"#]]).stderr_eq("");
    // A broken file is not described.
    std::fs::write(tmp.path("half.gguf"), &bytes[..bytes.len() / 2]).expect("write");
    tmp.refocus("model inspect [TMP]/half.gguf").assert().code(2).stdout_eq("").stderr_eq(str![[r#"
error: [TMP]/half.gguf: tensor blk.0.attn_k.weight: its bytes 20672..21952 lie beyond the end of the file (21728 bytes follow the header)

"#]]);
}

#[test]
fn tokenizer_and_templates_of_a_folder_are_those_of_the_file_it_was_made_from() {
    let tmp = Tmp::new("inspect-converted");
    tmp.refocus("model convert fixtures/gguf-llama-q8_0/model.gguf --out [TMP]/out --quiet")
        .assert()
        .success();
    let rows = |model: &str| {
        let output = tmp.refocus(&format!("model inspect {model}")).assert().success();
        let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
        let from = text.find("tokenizer").expect("tokenizer");
        let rows = text[from..text.find("first, last").expect("ends")].to_owned();
        rows.split_once('\n').map(|(_, rest)| rest.to_owned()).expect("rows")
    };
    assert_eq!(rows("[TMP]/out"), rows("fixtures/gguf-llama-q8_0/model.gguf"));
}
