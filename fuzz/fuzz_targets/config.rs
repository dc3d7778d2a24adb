//! `config.json`, beside fixed weights.
#![no_main]

#[allow(dead_code)]
mod folder;

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        let weights = std::fs::read(folder::fixture("smollm2/model.safetensors")).expect("the fixture");
        folder::put("model.safetensors", &weights);
    },
    |bytes: &[u8]| {
        folder::put("config.json", bytes);
        folder::open(folder::folder());
    }
);
