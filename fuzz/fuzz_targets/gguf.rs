//! A GGUF file: metadata, tokenizer, tensors. What follows a mark is a second part of the same model.
#![no_main]

#[allow(dead_code)]
mod folder;

use libfuzzer_sys::fuzz_target;

/// Divides an input into two parts; a file of one part is unlikely to hold it.
const MARK: &[u8] = b"--part--";

fuzz_target!(|bytes: &[u8]| {
    let Some(at) = bytes.windows(MARK.len()).position(|w| w == MARK) else {
        folder::open(&folder::put("model.gguf", bytes));
        return;
    };
    let first = folder::put("model-00001-of-00002.gguf", &bytes[..at]);
    folder::put("model-00002-of-00002.gguf", &bytes[at + MARK.len()..]);
    folder::open(&first);
});
