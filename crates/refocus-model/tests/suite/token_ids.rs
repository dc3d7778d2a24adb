//! Ids and texts are those of `transformers`, on real text, on strings of every kind, and for folders of
//! every make. `fixtures/token_ids.py` wrote what is expected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use refocus_model::{Checkpoint, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::strings::{Random, Temp, random_string};

const BLOCK: usize = 100;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/token-ids")
}

pub fn read<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let bytes = fs::read(fixtures().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[derive(Deserialize)]
struct Expected {
    wikitext: Hashes,
    random: Hashes,
}

#[derive(Deserialize)]
struct Hashes {
    strings: usize,
    /// For each block a hash of the ids and one of the texts.
    blocks: Vec<String>,
    /// For each string a byte of a hash of its ids.
    marks: String,
}

pub fn packed(ids: &[u32]) -> Vec<u8> {
    let words = std::iter::once(ids.len() as u32).chain(ids.iter().copied());
    words.flat_map(u32::to_le_bytes).collect()
}

pub fn hex(hash: Sha256, bytes: usize) -> String {
    hash.finalize()[..bytes].iter().map(|b| format!("{b:02x}")).collect()
}

fn compare(name: &str, set: &str, tokenizer: &Tokenizer, strings: &[String], expected: &Hashes) {
    assert_eq!(strings.len(), expected.strings, "{name}: {set}");
    let mut wrong = Vec::new();
    for (block, (strings, want)) in strings.chunks(BLOCK).zip(&expected.blocks).enumerate() {
        let (mut all_ids, mut all_text) = (Sha256::new(), Sha256::new());
        for (i, string) in strings.iter().enumerate() {
            let at = block * BLOCK + i;
            let ids = tokenizer.encode(string, true).expect("encodes");
            let packed = packed(&ids);
            all_ids.update(&packed);
            let mut mark = Sha256::new();
            mark.update(&packed);
            if hex(mark, 1) != expected.marks[at * 2..at * 2 + 2] {
                wrong.push(format!("string {at}: {string:?} gives {ids:?}"));
            }
            for skip in [false, true] {
                let text = tokenizer.decode(&ids, skip).expect("decodes");
                all_text.update((text.len() as u32).to_le_bytes());
                all_text.update(&text);
                let mut stream = tokenizer.stream(skip);
                let mut grown: String = ids.iter().map(|id| stream.push(*id)).collect();
                grown += &stream.finish().expect("decodes");
                assert_eq!(grown, text, "{name}: {set}: string {at}: streamed");
            }
        }
        let got = format!("{} {}", hex(all_ids, 8), hex(all_text, 8));
        if got != *want {
            wrong.push(format!("block {block}: ids and texts {got}, expected {want}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{name}: {set}: {} differences (token_ids.py --show {name} {set} INDEX shows what is expected)\n{}",
        wrong.len(),
        wrong.iter().take(8).cloned().collect::<Vec<_>>().join("\n")
    );
}

/// The first of the folders in a variable that holds a file.
pub fn found(variable: &str, file: &str) -> Option<PathBuf> {
    let folders = std::env::var_os(variable).unwrap_or_default();
    std::env::split_paths(&folders).map(|f| f.join(file)).find(|p| p.is_file())
}

fn check(name: &str, tokenizer: &Tokenizer) {
    let expected: Expected = read(&format!("{name}.json"));
    let random: Vec<String> = (0..expected.random.strings as u64).map(random_string).collect();
    compare(name, "random", tokenizer, &random, &expected.random);
    check_streams_and_offsets(name, tokenizer, name != "sentencepiece");
    match found("REFOCUS_DATA", "text/wikitext2_valid.txt") {
        Some(path) => {
            let text = fs::read_to_string(path).expect("text");
            let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
            compare(name, "wikitext", tokenizer, &lines, &expected.wikitext);
        }
        None => eprintln!("skipped: REFOCUS_DATA names no folder with text/wikitext2_valid.txt"),
    }
}

fn check_model(name: &str, file: &str) {
    match found("REFOCUS_MODELS", file) {
        Some(path) => check(name, &Tokenizer::from_gguf(&path).expect("tokenizer")),
        None => eprintln!("skipped: REFOCUS_MODELS names no folder with {file}"),
    }
}

#[test]
fn smollm2_gives_the_reference_ids() {
    check_model("smollm2", "smollm2-135m-instruct.gguf");
}

#[test]
fn qwen_gives_the_reference_ids() {
    check_model("qwen", "qwen2.5-coder-0.5b-instruct.gguf");
}

#[test]
fn sentencepiece_gives_the_reference_ids() {
    let checkpoint = Checkpoint::open(fixtures().join("sentencepiece.gguf")).expect("opens");
    check("sentencepiece", &checkpoint.tokenizer().expect("tokenizer"));
}

#[test]
fn gpt2_gives_the_reference_ids() {
    let vocab = found("REFOCUS_DATA", "tokenizers/gpt2_vocab.json");
    let merges = found("REFOCUS_DATA", "tokenizers/gpt2_merges.txt");
    let (Some(vocab), Some(merges)) = (vocab, merges) else {
        eprintln!(
            "skipped: REFOCUS_DATA names no folder with tokenizers/gpt2_vocab.json and gpt2_merges.txt"
        );
        return;
    };
    let temp = Temp::new("gpt2-files");
    fs::copy(vocab, temp.0.join("vocab.json")).expect("copies");
    fs::copy(merges, temp.0.join("merges.txt")).expect("copies");
    temp.write("config.json", r#"{"model_type": "gpt2"}"#);
    check("gpt2", &Tokenizer::from_folder(&temp.0).expect("tokenizer"));
}

#[derive(Deserialize)]
struct Folders {
    bytes: Parts,
    sentencepiece: Parts,
    cases: Vec<Folder>,
}

#[derive(Deserialize)]
struct Parts {
    vocab: Value,
    merges: Vec<String>,
}

#[derive(Deserialize)]
struct Folder {
    name: String,
    model_type: String,
    source: String,
    parts: BTreeMap<String, Value>,
    files: BTreeMap<String, Value>,
    roles: BTreeMap<String, String>,
    tokens: usize,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    plain: Vec<u32>,
    decoded: String,
    skipped: String,
}

#[test]
fn folders_give_the_reference_ids() {
    let folders: Folders = read("folders.json");
    assert!(folders.cases.len() > 25);
    let mut wrong = Vec::new();
    for case in &folders.cases {
        let temp = Temp::new(&case.name);
        temp.write("config.json", &json!({"model_type": case.model_type}).to_string());
        let spm = case.source == "sentencepiece";
        let Parts { vocab, merges } = if spm { &folders.sentencepiece } else { &folders.bytes };
        if case.source == "files" {
            temp.write("vocab.json", &vocab.to_string());
            temp.write("merges.txt", &format!("#version: 0.2\n{}\n", merges.join("\n")));
        } else {
            let mut whole = json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
                "post_processor": null,
                "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "fuse_unk": spm, "byte_fallback": spm, "ignore_merges": false,
                    "vocab": vocab, "merges": merges}
            });
            for (key, part) in &case.parts {
                whole[key] = part.clone();
            }
            temp.write("tokenizer.json", &whole.to_string());
        }
        for (name, content) in &case.files {
            temp.write(name, &content.to_string());
        }
        let t = match Tokenizer::from_folder(&temp.0) {
            Ok(t) => t,
            Err(e) => {
                wrong.push(format!("{}: {e}", case.name));
                continue;
            }
        };
        let roles: BTreeMap<String, String> = t.named().map(|(r, t)| (r.to_owned(), t.to_owned())).collect();
        if (&roles, t.len()) != (&case.roles, case.tokens) {
            wrong.push(format!(
                "{}: {roles:?}, {} tokens; expected {:?}, {}",
                case.name,
                t.len(),
                case.roles,
                case.tokens
            ));
        }
        for Text { text, ids, plain, decoded, skipped } in &case.texts {
            let got = (t.encode(text, true).expect("encodes"), t.encode(text, false).expect("encodes"));
            if (&got.0, &got.1) != (ids, plain) {
                wrong.push(format!("{}: {text:?}: {got:?}; expected {:?}", case.name, (ids, plain)));
            }
            let got = (t.decode(ids, false).expect("decodes"), t.decode(ids, true).expect("decodes"));
            if (&got.0, &got.1) != (decoded, skipped) {
                wrong.push(format!("{}: {text:?}: {got:?}; expected {:?}", case.name, (decoded, skipped)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

/// Pieces of a stream are the decoded text, also for ids that no text gives; and ranges lie in the text.
fn check_streams_and_offsets(name: &str, tokenizer: &Tokenizer, byte_level: bool) {
    let mut random = Random::new(name.len() as u64);
    for _ in 0..500 {
        let n = random.below(40);
        let ids: Vec<u32> = (0..n).map(|_| random.below(tokenizer.len() as u32 + 2)).collect();
        for skip in [false, true] {
            let mut stream = tokenizer.stream(skip);
            let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
            text += &stream.finish().expect("decodes");
            assert_eq!(text, tokenizer.decode(&ids, skip).expect("decodes"), "{name}: {ids:?}");
        }
    }
    for index in 0..500 {
        let text = random_string(index);
        let (ids, ranges) = tokenizer.encode_with_offsets(&text, true).expect("encodes");
        assert_eq!(ids, tokenizer.encode(&text, true).expect("encodes"), "{name}: {text:?}");
        assert_eq!(ids.len(), ranges.len());
        // A vocabulary that lacks a byte of the text cannot cover it.
        let covers = byte_level && tokenizer.decode(&ids, false).expect("decodes") == text;
        let (mut start, mut end) = (0, 0);
        for range in &ranges {
            assert!(text.get(range.clone()).is_some(), "{name}: {text:?}: {range:?}");
            // Tokens that share a character have the same range.
            assert!(range.start >= start, "{name}: {text:?}: {ranges:?}");
            assert!(!covers || range.start <= end, "{name}: {text:?}: {ranges:?}");
            (start, end) = (range.start, range.end.max(end));
        }
        assert!(!covers || end == text.len(), "{name}: {text:?}: {ranges:?}");
    }
}

#[test]
fn no_change_of_a_tokenizer_file_panics() {
    let folders: Folders = read("folders.json");
    let whole = fs::read(fixtures().join("sentencepiece.gguf")).expect("file");
    let mut random = Random::new(99);
    let mut change = |bytes: &mut Vec<u8>| {
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u32) as usize;
            bytes[at] = match random.below(3) {
                0 => random.below(256) as u8,
                1 => b"0\"{},[]1"[random.below(8) as usize],
                _ => bytes[at] ^ 1 << random.below(8),
            };
        }
    };
    let temp = Temp::new("changed");
    let (mut used, mut refused) = (0, 0);
    let mut try_out = |built: Result<Tokenizer, refocus_model::LoadError>| {
        let Ok(t) = built else {
            refused += 1;
            return;
        };
        used += 1;
        for text in ["The river, 12!", " <s>na\u{ef}ve\n", ""] {
            let _ = t.encode_with_offsets(text, true).map(|(ids, _)| t.decode(&ids, true));
        }
        let mut stream = t.stream(true);
        (0..500).for_each(|id| drop(stream.push(id)));
        let _ = stream.finish();
    };
    for _ in 0..150 {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(temp.0.join("m.gguf"), bytes).expect("writes");
        try_out(Tokenizer::from_gguf(&temp.0.join("m.gguf")));
    }
    let files = [
        ("vocab.json", folders.bytes.vocab.to_string()),
        ("merges.txt", folders.bytes.merges.join("\n")),
        ("config.json", r#"{"model_type": "opt"}"#.to_owned()),
        ("tokenizer_config.json", r#"{"add_bos_token": true, "bos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": false}, "extra_special_tokens": ["<x>"]}"#.to_owned()),
        ("special_tokens_map.json", r#"{"eos_token": {"content": "</s>", "normalized": true}, "pad_token": "<pad>"}"#.to_owned()),
        ("added_tokens.json", r#"{"<late>": 421, "<mask>": 420}"#.to_owned()),
    ];
    files.iter().for_each(|(name, text)| temp.write(name, text));
    for i in 0..300 {
        let (name, text) = &files[i % files.len()];
        let mut bytes = text.clone().into_bytes();
        change(&mut bytes);
        fs::write(temp.0.join(name), bytes).expect("writes");
        try_out(Tokenizer::from_folder(&temp.0));
        temp.write(name, text);
    }
    assert!(used > 50 && refused > 50, "{used} used, {refused} refused");
}
