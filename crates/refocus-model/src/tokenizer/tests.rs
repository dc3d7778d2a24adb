#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::checkpoint::testing::{
    Gguf, Temp, fixture, fixtures_with, llama_folder, llama_keys, llama_tensors,
};

#[test]
fn gguf_fixtures_give_their_ids() {
    let mut count = 0;
    for name in fixtures_with("texts.json") {
        let t = Checkpoint::open(fixture(&name).join("model.gguf")).unwrap().tokenizer().unwrap();
        let texts: Value =
            serde_json::from_slice(&fs::read(fixture(&name).join("texts.json")).unwrap()).unwrap();
        for case in texts.as_array().unwrap() {
            let (text, want) = (case["text"].as_str().unwrap(), &case["ids"]);
            let ids = t.encode(text, true).unwrap();
            assert_eq!(json!(ids), *want, "{name}: {text:?}");
            assert_eq!(t.decode(&ids, false).unwrap(), text);
            count += 1;
        }
    }
    assert!(count > 20);
}

fn gguf(edit: impl FnOnce(Gguf) -> Gguf) -> LoadResult<Tokenizer> {
    let temp = Temp::new();
    let keys = edit(llama_keys().text("tokenizer.ggml.model", "gpt2"));
    Checkpoint::open(temp.write("m.gguf", llama_tensors(keys).build())).unwrap().tokenizer()
}

fn merges(g: Gguf) -> Gguf {
    g.texts("tokenizer.ggml.merges", &["a b"])
}

#[test]
fn gguf_says_which_tokens_are_special_and_added() {
    let types = |g: Gguf| merges(g).ints("tokenizer.ggml.token_type", &[1, 1, 1, 3]);
    let t = gguf(types).unwrap();
    assert_eq!(t.encode("abba<s>", true).unwrap(), [2, 1, 0, 3]);
    assert!(t.is_special(3) && !t.is_special(2) && t.len() == 4 && !t.is_empty());
    assert_eq!(t.decode(&[2, 3, 1], false).unwrap(), "ab<s>b");
    assert_eq!(t.decode(&[2, 3, 1], true).unwrap(), "abb");
    assert_eq!((t.token(2), t.token(3), t.token(99)), ("ab".into(), "<s>".into(), "[99]".into()));
    assert_eq!((t.id("ab"), t.id("ba")), (Some(2), None));
    let bos = |g: Gguf| {
        merges(g)
            .u32("tokenizer.ggml.bos_token_id", 3)
            .u32("tokenizer.ggml.eos_token_id", 0)
            .flag("tokenizer.ggml.add_bos_token", true)
            .flag("tokenizer.ggml.add_eos_token", true)
    };
    let t = gguf(bos).unwrap();
    assert_eq!(t.encode("b", true).unwrap(), [3, 1, 0]);
    assert_eq!(t.encode("b", false).unwrap(), [1]);
    assert_eq!(t.encode("", true).unwrap(), [3, 0]);
    let user = |g: Gguf| merges(g).ints("tokenizer.ggml.token_type", &[1, 1, 1, 4]);
    let t = gguf(user).unwrap();
    assert!(t.encode("a<s>", true).unwrap() == [0, 3] && !t.is_special(3));
}

#[test]
fn gguf_tokenizers_that_cannot_be_built_say_why() {
    let refused = |edit: &dyn Fn(Gguf) -> Gguf, what: &str| {
        let e = gguf(edit).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    refused(&|g| g, "key tokenizer.ggml.merges is missing");
    refused(&|g| merges(g).text("tokenizer.ggml.pre", "tekken"), "tokenizer.ggml.pre = \"tekken\"");
    for bad in ["ab", "a  b", "b a", "a c", "a ", " ", ""] {
        refused(&|g| g.texts("tokenizer.ggml.merges", &[bad]), "merge 0, ");
    }
    refused(&|g| merges(g).ints("tokenizer.ggml.token_type", &[1]), "there are 4 tokens");
    refused(&|g| merges(g).u32("tokenizer.ggml.bos_token_id", 4), "tokenizer.ggml.bos_token_id = 4");
    refused(&|g| merges(g).u32("tokenizer.ggml.add_bos_token", 1), "a boolean is needed");
    let temp = Temp::new();
    let path =
        temp.write("m.gguf", llama_tensors(llama_keys().text("tokenizer.ggml.model", "llama")).build());
    let e = Checkpoint::open(path).unwrap().tokenizer().unwrap_err().to_string();
    assert!(e.contains("tokenizer.ggml.model = \"llama\""), "{e}");
}

/// A byte-level tokenizer whose file puts `</s>` before a text.
fn json_tokenizer() -> Value {
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
        "added_tokens": [{"id": 3, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [3], "tokens": ["</s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "</s>": 3}, "merges": ["a b"]}
    })
}

#[test]
fn tokenizer_json_is_used_as_it_is() {
    let temp = llama_folder(json!({}), |_| {});
    let tokenizer = || Checkpoint::open(temp.path()).unwrap().tokenizer();
    assert!(tokenizer().unwrap_err().to_string().contains("tokenizer.json: cannot be read"));
    temp.write("tokenizer.json", json_tokenizer().to_string());
    let t = tokenizer().unwrap();
    // Neither cut nor padded.
    assert_eq!(t.encode("abab", true).unwrap(), [3, 2, 2]);
    assert_eq!(t.encode("abab</s>", false).unwrap(), [2, 2, 3]);
    let config = |value: Value| {
        temp.write("tokenizer_config.json", value.to_string());
        tokenizer()
    };
    assert_eq!(config(json!({"add_bos_token": false})).unwrap().encode("ab", true).unwrap(), [2]);
    let both = json!({"add_bos_token": true, "bos_token": {"content": "</s>"}, "add_eos_token": true, "eos_token": "b"});
    assert_eq!(config(both).unwrap().encode("ab", true).unwrap(), [3, 2, 1]);
    assert!(config(json!({"add_bos_token": true})).unwrap_err().to_string().contains("bos_token"));
    assert!(
        config(json!({"add_bos_token": true, "bos_token": "?"}))
            .unwrap_err()
            .to_string()
            .contains("no such token")
    );
    assert!(config(json!({"add_bos_token": 1})).unwrap_err().to_string().contains("add_bos_token = 1"));
}

#[test]
fn bad_tokenizer_json_is_an_error() {
    let temp = llama_folder(json!({}), |_| {});
    let refused = |value: &Value| {
        temp.write("tokenizer.json", value.to_string());
        Checkpoint::open(temp.path()).unwrap().tokenizer().unwrap_err().to_string()
    };
    let mut long = json_tokenizer();
    long["model"]["merges"] = json!(["</s> </s>"]);
    assert!(refused(&long).contains("a merge joins to more than any token"));
    long["model"]["merges"] = json!([["</s>", "</s>"]]);
    assert!(refused(&long).contains("a merge joins to more than any token"));
    let mut unknown = json_tokenizer();
    unknown["model"]["merges"] = json!(["a a"]);
    assert!(refused(&unknown).contains("tokenizer.json cannot be used"));
    let mut prefix = json_tokenizer();
    prefix["model"]["continuing_subword_prefix"] = json!("##");
    assert!(refused(&prefix).contains("continuing_subword_prefix"));
    let mut template = json_tokenizer();
    template["post_processor"]["special_tokens"] = json!({});
    assert!(refused(&template).contains("a template names a token that it does not define"));
    template["post_processor"]["single"] = json!([{"Sequence": {"id": "B", "type_id": 0}}]);
    assert!(refused(&json!({"model": {}, "x": [template["post_processor"]]})).contains("or a second text"));
    let mut compiled = json_tokenizer();
    compiled["normalizer"] =
        json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "!"}]});
    assert!(refused(&compiled).contains("Precompiled"));
    assert!(refused(&json!({"model": 3})).contains("not valid JSON"));
    assert!(refused(&json!({})).contains("not valid JSON"));
}
