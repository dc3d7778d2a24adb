//! `pytorch_model.bin` in either layout, under a fixed configuration.
#![no_main]

#[allow(dead_code)]
mod folder;

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        let config = std::fs::read(folder::fixture("gpt2-pickle/config.json")).expect("the fixture");
        folder::put("config.json", &config);
    },
    |bytes: &[u8]| {
        folder::put("pytorch_model.bin", bytes);
        folder::open(folder::folder());
    }
);
