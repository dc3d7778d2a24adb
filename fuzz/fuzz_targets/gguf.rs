//! A GGUF file: metadata, tokenizer, tensors.
#![no_main]

#[allow(dead_code)]
mod folder;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| folder::open(&folder::put("model.gguf", bytes)));
