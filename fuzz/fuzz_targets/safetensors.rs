//! Weights of a Hugging Face folder, under a fixed configuration.
#![no_main]

#[allow(dead_code)]
mod folder;

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        let config = std::fs::read(folder::fixture("smollm2/config.json")).expect("the fixture");
        folder::put("config.json", &config);
    },
    |bytes: &[u8]| {
        folder::put("model.safetensors", bytes);
        folder::open(folder::folder());
    }
);
