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
    refused(&|g| merges(g).text("tokenizer.ggml.pre", "mystery"), "tokenizer.ggml.pre = \"mystery\"");
    for bad in ["ab", "a  b", "b a", "a c", "a ", " ", ""] {
        refused(&|g| g.texts("tokenizer.ggml.merges", &[bad]), "merge 0, ");
    }
    refused(&|g| merges(g).ints("tokenizer.ggml.token_type", &[1]), "there are 4 tokens");
    refused(&|g| merges(g).u32("tokenizer.ggml.bos_token_id", 4), "tokenizer.ggml.bos_token_id = 4");
    refused(&|g| merges(g).u32("tokenizer.ggml.add_bos_token", 1), "a boolean is needed");
    let twice = Gguf::new().texts("tokenizer.ggml.tokens", &["a", "b", "a"]);
    let twice = twice.text("tokenizer.ggml.model", "gpt2").text("general.architecture", "llama");
    let temp = Temp::new();
    let e = Tokenizer::from_gguf(&temp.write("twice.gguf", twice.build())).unwrap_err().to_string();
    assert!(e.contains("tokens 0 and 2 are both \"a\""), "{e}");
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
    assert!(tokenizer().unwrap_err().to_string().contains("no tokenizer.json, and no vocab.json"));
    temp.write("tokenizer.model", "");
    assert!(tokenizer().unwrap_err().to_string().contains("save_pretrained"));
    temp.write("tokenizer.json", json_tokenizer().to_string());
    let t = tokenizer().unwrap();
    // Neither cut nor padded.
    assert_eq!(t.encode("abab", true).unwrap(), [3, 2, 2]);
    assert_eq!(t.encode("abab</s>", false).unwrap(), [2, 2, 3]);
    let config = |value: Value| {
        temp.write("tokenizer_config.json", value.to_string());
        tokenizer()
    };
    // What the file puts around a text stands.
    let t = config(json!({"add_bos_token": false, "add_eos_token": true, "eos_token": "</s>"})).unwrap();
    assert_eq!(t.encode("ab", true).unwrap(), [3, 2]);
    assert!(config(json!({"add_bos_token": 1})).unwrap_err().to_string().contains("add_bos_token = 1"));
    assert!(config(json!({"bos_token": 1})).unwrap_err().to_string().contains("bos_token = 1"));
    assert!(config(json!({"added_tokens_decoder": {"x": "a"}})).unwrap_err().to_string().contains("an id"));
    assert!(config(json!([])).unwrap_err().to_string().contains("an object is needed"));
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

/// A SentencePiece vocabulary with bytes for "é", a tie of scores and an end that a text can spell.
fn sentencepiece(edit: impl FnOnce(Gguf) -> Gguf) -> LoadResult<Tokenizer> {
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab", "▁ab", "<0x21>"];
    let scores: Vec<u8> = [0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, 0.0f32]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let array = [&6u32.to_le_bytes()[..], &(tokens.len() as u64).to_le_bytes(), &scores].concat();
    let keys = Gguf::new()
        .text("general.architecture", "llama")
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .ints("tokenizer.ggml.token_type", &[2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 6])
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    let edited = edit(keys);
    // A key that is given twice is an error of its own: an edit that brings scores brings all of them.
    let has_scores = edited.build().windows(SCORES.len()).any(|w| w == SCORES.as_bytes());
    let file = if has_scores { edited } else { edited.key(SCORES, 9, &array) };
    let temp = Temp::new();
    Tokenizer::from_gguf(&temp.write("m.gguf", file.build()))
}

const SCORES: &str = "tokenizer.ggml.scores";

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let t = sentencepiece(|g| g).unwrap();
    // "ab" has the best score, so it comes before "▁a"; then "▁" and "ab" join.
    assert_eq!(t.encode("ab", true).unwrap(), [1, 10]);
    assert_eq!(t.encode("a ab", false).unwrap(), [8, 10]);
    assert_eq!(t.encode("aé</s>", false).unwrap(), [8, 3, 4, 2]);
    assert_eq!(t.decode(&[1, 8, 3, 4, 10, 2], false).unwrap(), "<s> aé ab</s>");
    assert_eq!(t.decode(&[1, 8, 3, 4, 10, 2], true).unwrap(), "aé ab");
    let bare = sentencepiece(|g| g.flag("tokenizer.ggml.add_space_prefix", false)).unwrap();
    assert_eq!(bare.encode("ab a", false).unwrap(), [9, 8]);
    assert_eq!(bare.decode(&[10], false).unwrap(), " ab");
    let no_bos = sentencepiece(|g| {
        g.flag("tokenizer.ggml.add_bos_token", false).flag("tokenizer.ggml.add_eos_token", true)
    });
    assert_eq!(no_bos.unwrap().encode("ab", true).unwrap(), [10, 2]);
    assert_eq!(t.named().collect::<Vec<_>>(), [("bos_token", "<s>"), ("eos_token", "</s>")]);
}

#[test]
fn sentencepiece_vocabularies_that_contradict_themselves_say_so() {
    let array = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        [&6u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &bytes].concat()
    };
    let refused = |edit: &dyn Fn(Gguf) -> Gguf, what: &str| {
        let e = sentencepiece(edit).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    refused(&|g| g.key(SCORES, 9, &array(&[0.0; 3])), "there are 12 tokens");
    let mut nan = [0.0; 12];
    nan[7] = f32::NAN;
    refused(&|g| g.key(SCORES, 9, &array(&nan)), "the score of token 7 is not a number");
    refused(&|g| g.ints(SCORES, &[1; 12]), "an array of floating-point numbers is needed");
    refused(&|g| g.texts("tokenizer.ggml.merges", &["a ▁"]), "does not join two tokens");
    refused(&|g| g.u32("tokenizer.ggml.unknown_token_id", 12), "there are 12 tokens");
    let raw = [&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &1u64.to_le_bytes(), b"\xff"].concat();
    let file = llama_keys_without_tokens().key("tokenizer.ggml.tokens", 9, &raw);
    let temp = Temp::new();
    let e = Tokenizer::from_gguf(&temp.write("m.gguf", file.build())).unwrap_err().to_string();
    assert!(e.contains("element 0 is no UTF-8"), "{e}");
}

fn llama_keys_without_tokens() -> Gguf {
    Gguf::new().text("general.architecture", "llama").text("tokenizer.ggml.model", "llama")
}

#[test]
fn vocab_and_merges_that_cannot_be_used_say_why() {
    let temp = Temp::new();
    let build = |vocab: &str, merges: &str| {
        temp.write("vocab.json", vocab);
        temp.write("merges.txt", merges);
        Tokenizer::from_folder(temp.path())
    };
    let good = r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#;
    let t = build(good, "#version: 0.2\na b\n").unwrap();
    assert_eq!(t.encode("abb<|endoftext|>", true).unwrap(), [2, 1, 3]);
    let refused = |vocab: &str, merges: &str, what: &str| {
        let e = build(vocab, merges).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
    };
    refused(good, "a b\nb a\n", "merge 1, \"b a\", does not join");
    refused(good, "a b\n\n", "merge 1, \"\", does not join");
    refused(r#"{"a": 0, "b": 0}"#, "", "\"a\" has this id too");
    refused(r#"{"a": -1}"#, "", "an id is needed");
    refused(r#"{"a": 4294967296}"#, "", "an id is needed");
    refused("[]", "", "an object is needed");
    // "<|endoftext|>" would get the id after two tokens, which is taken.
    refused(r#"{"a": 0, "b": 2}"#, "", "the vocabulary has holes");
    temp.write("config.json", r#"{"model_type": "llama"}"#);
    refused(good, "", "llama is not built from vocab.json and merges.txt");
}

#[test]
fn a_vocabulary_beyond_the_models_rows_is_an_error() {
    let temp = llama_folder(json!({}), |_| {});
    let open = |vocab: &str| {
        temp.write("vocab.json", vocab);
        temp.write("merges.txt", "");
        temp.write("tokenizer_config.json", r#"{"tokenizer_class": "GPT2Tokenizer"}"#);
        Checkpoint::open(temp.path()).unwrap().tokenizer()
    };
    let e = open(r#"{"a": 0, "<|endoftext|>": 5}"#).unwrap_err().to_string();
    assert!(e.contains("ids go up to 5") && e.contains("has 5 rows"), "{e}");
    // An added token may lie there, as long as no text needs it.
    let t = open(r#"{"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}"#).unwrap();
    assert_eq!(t.encode("abe", true).unwrap(), [0, 1, 4]);
    let e = t.encode("a<|endoftext|>", true).unwrap_err().to_string();
    assert!(e.contains("token \"<|endoftext|>\" has id 5"), "{e}");
}

#[test]
fn pieces_of_a_stream_are_the_decoded_text_for_every_decoder() {
    let tokens = ["▁", "▁a", "b▁", "<0xE2>", "<0x82>", "<0xAC>", "<0x41>", "  x", "é", "Ġ", "<s>", ""];
    let vocab: Value = tokens.iter().enumerate().map(|(i, t)| ((*t).to_owned(), json!(i))).collect();
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = |stop: u32| json!({"type": "Strip", "content": " ", "start": 1, "stop": stop});
    let (bytes, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let list = |decoders: &[&Value]| json!({"type": "Sequence", "decoders": decoders});
    let decoders = [
        Value::Null,
        list(&[&replace, &bytes, &fuse, &strip(0)]),
        list(&[&bytes, &replace, &strip(0)]),
        list(&[&bytes, &metaspace("always")]),
        list(&[&fuse, &replace]),
        metaspace("never"),
        metaspace("first"),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
    ];
    for decoder in decoders {
        let mut file = json_tokenizer();
        file["model"]["vocab"] = vocab.clone();
        file["model"]["merges"] = json!([]);
        file["decoder"] = decoder;
        file["post_processor"] = Value::Null;
        file["added_tokens"] = json!([{"id": 10, "content": "<s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}]);
        let temp = Temp::new();
        temp.write("tokenizer.json", file.to_string());
        let t = Tokenizer::from_folder(temp.path()).unwrap();
        let mut state = 7u32;
        for _ in 0..2000 {
            let mut ids = Vec::new();
            while {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ids.push((state >> 16) % 13);
                !(state >> 8).is_multiple_of(9)
            } {}
            for skip in [false, true] {
                let mut stream = t.stream(skip);
                let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
                text += &stream.finish().unwrap();
                assert_eq!(text, t.decode(&ids, skip).unwrap(), "{}: {ids:?}", file["decoder"]);
            }
        }
    }
    let mut file = json_tokenizer();
    file["decoder"] = strip(1);
    let temp = Temp::new();
    temp.write("tokenizer.json", file.to_string());
    let e = Tokenizer::from_folder(temp.path()).unwrap_err().to_string();
    assert!(e.contains("Strip"), "{e}");
}

#[test]
fn offsets_are_the_bytes_of_the_text() {
    let temp = Temp::new();
    let mut file = json_tokenizer();
    file["post_processor"] = json!({"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        file["post_processor"]]});
    file["model"]["vocab"]["Ġ"] = json!(4);
    file["model"]["vocab"]["Ġa"] = json!(5);
    file["model"]["merges"] = json!(["a b", "Ġ a"]);
    temp.write("tokenizer.json", file.to_string());
    let t = Tokenizer::from_folder(temp.path()).unwrap();
    let (ids, ranges) = t.encode_with_offsets("ab a</s>b", true).unwrap();
    assert_eq!(ids, [3, 2, 5, 3, 1]);
    // The space belongs to its token, whatever the file says about trimming.
    assert_eq!(ranges, [0..0, 0..2, 2..4, 4..8, 8..9]);
    let sp = sentencepiece(|g| g.flag("tokenizer.ggml.add_eos_token", true)).unwrap();
    let (ids, ranges) = sp.encode_with_offsets("ab a", true).unwrap();
    assert_eq!((ids, ranges), (vec![1, 10, 8, 2], vec![0..0, 0..2, 2..4, 4..4]));
}
