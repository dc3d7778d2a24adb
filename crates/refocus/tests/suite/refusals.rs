//! Bad input: one clear error each, exit code 2, nothing written.

use snapbox::str;

use crate::support::{Tmp, refocus, refocus_args, refused};

#[test]
fn no_model() {
    refused(refocus("model inspect")).stderr_eq(str![[r#"
error: no MODEL is given
hint: a model is a folder in Hugging Face layout (config.json beside *.safetensors or pytorch_model.bin), a .gguf file, a hub id org/name[@revision], or builtin

"#]]);
}

#[test]
fn a_path_that_is_not_there() {
    refused(refocus("model inspect fixtures/gpt3")).stderr_eq(str![[r#"
error: fixtures/gpt3: there is no such file or folder
hint: a model is a folder in Hugging Face layout (config.json beside *.safetensors or pytorch_model.bin), a .gguf file, a hub id org/name[@revision], or builtin

"#]]);
    refused(refocus("model inspect nothing/there/model.gguf")).stderr_eq(str![[r#"
error: nothing/there/model.gguf: there is no such file or folder
hint: a model is a folder in Hugging Face layout (config.json beside *.safetensors or pytorch_model.bin), a .gguf file, a hub id org/name[@revision], or builtin

"#]]);
}

#[test]
fn a_folder_that_is_no_model() {
    refused(refocus("model inspect crates")).stderr_eq(str![[r#"
error: crates: the folder has no config.json; a model is a folder in Hugging Face layout or a .gguf file

"#]]);
    refused(refocus("model inspect fixtures")).stderr_eq(str![[r#"
error: fixtures: the folder has no config.json; a model is a folder in Hugging Face layout or a .gguf file
hint: fixtures/gpt2 looks like a model: give that folder

"#]]);
    refused(refocus("model inspect fixtures/gguf-llama-q4_1")).stderr_eq(str![[r#"
error: fixtures/gguf-llama-q4_1: the folder has no config.json; a model is a folder in Hugging Face layout or a .gguf file
hint: the folder holds fixtures/gguf-llama-q4_1/model.gguf: give that file

"#]]);
}

#[test]
fn a_file_that_is_no_model() {
    refused(refocus("model inspect Cargo.toml")).stderr_eq(str![[r#"
error: Cargo.toml: this is no GGUF file; a model is a folder in Hugging Face layout or a .gguf file

"#]]);
    refused(refocus("model inspect fixtures/gpt2/model.safetensors")).stderr_eq(str![[r#"
error: fixtures/gpt2/model.safetensors: this is no GGUF file; to open this one, give the folder that holds it and its config.json; a model is a folder in Hugging Face layout or a .gguf file

"#]]);
}

#[test]
fn a_configuration_with_an_unknown_key() {
    let tmp = Tmp::new("config");
    let config =
        std::fs::read_to_string(crate::support::root().join("fixtures/gpt2/config.json")).expect("config");
    tmp.write("config.json", &config.replace("\"n_layer\"", "\"attn_logit_softcap\": 30.0, \"n_layer\""));
    std::fs::copy(
        crate::support::root().join("fixtures/gpt2/model.safetensors"),
        tmp.path("model.safetensors"),
    )
    .expect("copy");
    refused(tmp.refocus("model forward [TMP] --text a")).stderr_eq(str![[r#"
error: [TMP]/config.json: attn_logit_softcap = 30.0: this key is unknown here and may change the numbers

"#]]);
}

#[test]
fn a_truncated_checkpoint() {
    let tmp = Tmp::new("truncated");
    let bytes =
        std::fs::read(crate::support::root().join("fixtures/gguf-llama-q4_1/model.gguf")).expect("model");
    std::fs::write(tmp.path("model.gguf"), &bytes[..bytes.len() / 2]).expect("write");
    refused(tmp.refocus("model forward [TMP]/model.gguf --text a")).stderr_eq(str![[r#"
error: [TMP]/model.gguf: tensor blk.0.attn_k.weight: its bytes 20672..21952 lie beyond the end of the file (21728 bytes follow the header)

"#]]);
}

#[test]
fn models_are_found_by_name() {
    let cmd = |args: &str| refocus(args).env("REFOCUS_MODELS", "fixtures/gguf-llama-q4_1");
    cmd("model forward model --tokens - --top 1").stdin("[[1]]").assert().success();
    cmd("model forward model.gguf --tokens - --top 1").stdin("[[1]]").assert().success();
    refused(cmd("model forward modell --text a")).stderr_eq(str![[r#"
error: modell: there is no such file or folder, nor one of that name in REFOCUS_MODELS (fixtures/gguf-llama-q4_1), and it cannot be had from the hub
cause: modell is not in the cache [..]refocus-no-cache/hub, and HF_HUB_OFFLINE forbids asking the hub
hint: check the spelling, or fetch it once with HF_HUB_OFFLINE=0

"#]]);
}

#[test]
fn text_without_a_tokenizer() {
    refused(refocus("model forward fixtures/gpt2 --text a")).stderr_eq(str![[r#"
error: fixtures/gpt2: tokenizer: there is no tokenizer.json, and no vocab.json with merges.txt
hint: token ids can be given with --tokens instead

"#]]);
}

#[test]
fn an_empty_text() {
    let args = ["model", "forward", "fixtures/gguf-llama-q4_1/model.gguf", "--text", ""];
    refused(refocus_args(&args)).stderr_eq(str![[r#"
error: the text has no tokens
hint: give a text that is not empty

"#]]);
}

#[test]
fn ids_that_are_no_list_of_lists() {
    let run = |ids: &'static str| refused(refocus("model forward fixtures/gpt2 --tokens -").stdin(ids));
    run("[1, 2, 3]").stderr_eq(str![[r#"
error: standard input: not a JSON list of lists of token ids
cause: invalid type: integer `1`, expected a sequence at line 1 column 2
hint: one list for each sequence is needed, such as [[1, 2, 3], [4, 5]]

"#]]);
    run("[[1, -2]]").stderr_eq(str![[r#"
error: standard input: not a JSON list of lists of token ids
cause: invalid value: integer `-2`, expected u32 at line 1 column 7
hint: one list for each sequence is needed, such as [[1, 2, 3], [4, 5]]

"#]]);
    run("[[1, 2.5]]").stderr_eq(str![[r#"
error: standard input: not a JSON list of lists of token ids
cause: invalid type: floating point `2.5`, expected u32 at line 1 column 8
hint: one list for each sequence is needed, such as [[1, 2, 3], [4, 5]]

"#]]);
    run("[[1, 2").stderr_eq(str![[r#"
error: standard input: not a JSON list of lists of token ids
cause: EOF while parsing a list at line 1 column 6
hint: one list for each sequence is needed, such as [[1, 2, 3], [4, 5]]

"#]]);
    run("").stderr_eq(str![[r#"
error: standard input: not a JSON list of lists of token ids
cause: EOF while parsing a value at line 1 column 0
hint: one list for each sequence is needed, such as [[1, 2, 3], [4, 5]]

"#]]);
    run("[]").stderr_eq(str![[r#"
error: standard input: the list holds no sequence

"#]]);
    run("[[1], []]").stderr_eq(str![[r#"
error: sequence 1 has no tokens

"#]]);
}

#[test]
fn ids_out_of_range() {
    refused(refocus("model forward fixtures/gpt2 --tokens -").stdin("[[1], [2, 101]]")).stderr_eq(str![[
        r#"
error: sequence 1 has the token id 101 at position 1; the vocabulary has 101 tokens, 0 to 100

"#
    ]]);
    refused(refocus("model forward fixtures/gpt2 --tokens -").stdin("[[4294967296]]")).stderr_eq(str![[r#"
error: standard input: not a JSON list of lists of token ids
cause: invalid value: integer `4294967296`, expected u32 at line 1 column 12
hint: one list for each sequence is needed, such as [[1, 2, 3], [4, 5]]

"#]]);
}

#[test]
fn a_sequence_beyond_the_context() {
    let ids = format!("[[1], [{}]]", ["1"; 25].join(","));
    refused(refocus("model forward fixtures/gpt2 --tokens -").stdin(ids)).stderr_eq(str![[r#"
error: sequence 1 has 25 tokens, the model's context is 24
hint: shorten the sequence; `refocus model inspect MODEL` shows the context

"#]]);
}

#[test]
fn a_file_of_ids_that_is_not_there() {
    refused(refocus("model forward fixtures/gpt2 --tokens fixtures/nothing.json")).stderr_eq(str![[r#"
error: fixtures/nothing.json: cannot be read
cause: No such file or directory (os error 2)

"#]]);
}

#[test]
fn a_capture_that_matches_nothing() {
    let run = |glob: &str| {
        let args =
            ["model", "forward", "fixtures/gpt2", "--tokens", "fixtures/gpt2/tokens.json", "--capture", glob];
        refused(refocus_args(&args))
    };
    run("blocks.*.hook_nothing").stderr_eq(str![[r#"
error: no site of this model matches 'blocks.*.hook_nothing'
hint: `refocus model inspect MODEL --sites` lists the sites of a model

"#]]);
    run("blocks.0.hook_resid_pst").stderr_eq(str![[r#"
error: 'blocks.0.hook_resid_pst' is not a site; did you mean 'blocks.0.hook_resid_post'?
hint: `refocus model inspect MODEL --sites` lists the sites of a model

"#]]);
    run("blocks.2.hook_resid_post").stderr_eq(str![[r#"
error: there is no 'blocks.2.hook_resid_post': the model has blocks 0 to 1

"#]]);
    run("blocks.0.attn.hook_rot_q").stderr_eq(str![[r#"
error: this model has no site 'blocks.0.attn.hook_rot_q': this model has no rotary positions

"#]]);
    run("").stderr_eq(str![[r#"
error: '' is not a site
hint: `refocus model inspect MODEL --sites` lists the sites of a model

"#]]);
}

#[test]
fn a_place_that_cannot_be_written_to() {
    let tmp = Tmp::new("unwritable");
    let run = |out: &str| {
        let args = format!("model forward fixtures/gpt2 --tokens fixtures/gpt2/tokens.json --out {out}");
        refused(tmp.refocus(&args))
    };
    run("[TMP]/no/such/folder/x.safetensors").stderr_eq(str![[r#"
error: [TMP]/no/such/folder/x.safetensors: cannot be written
cause: No such file or directory (os error 2)

"#]]);
    run("[TMP]").stderr_eq(str![[r#"
error: [TMP]: not a regular file

"#]]);
    #[cfg(unix)]
    run("/dev/null").stderr_eq(str![[r#"
error: /dev/null: not a regular file

"#]]);
    assert!(tmp.list().is_empty());
}

#[test]
fn a_run_that_fails_leaves_no_file() {
    let tmp = Tmp::new("failed");
    tmp.write("p.toml", "[[intervention]]\nat = \"blocks.0.attn.hook_z\"\nposition = 5\ndo = \"zero\"\n");
    refused(
        tmp.refocus("model forward fixtures/gpt2 --tokens - --patch [TMP]/p.toml --out [TMP]/x.safetensors")
            .stdin("[[1, 2]]"),
    )
    .stderr_eq(str![[r#"
error: 'zero' at blocks.0.attn.hook_z matches no position of this input

"#]]);
    assert_eq!(tmp.list(), ["p.toml"]);
}

#[test]
fn an_instruction_set_that_is_none() {
    refused(refocus("model forward fixtures/gpt2 --tokens -").stdin("[[1]]").env("REFOCUS_ISA", "mmx"))
        .stderr_eq(str![[r#"
error: REFOCUS_ISA=mmx cannot be used
cause: no instruction set is called 'mmx' (portable, avx2, avx512, neon)
hint: this machine runs portable[..]

"#]]);
}
