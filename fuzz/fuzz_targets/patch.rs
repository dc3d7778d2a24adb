//! Patch files.
#![no_main]

#[allow(dead_code)]
mod folder;

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use refocus_model::{Checkpoint, ModelSpec, Patch};

fn spec() -> &'static ModelSpec {
    static SPEC: OnceLock<ModelSpec> = OnceLock::new();
    SPEC.get_or_init(|| Checkpoint::open(folder::fixture("qwen3")).expect("the fixture").spec().clone())
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(p) = Patch::parse(text, Path::new("patch.toml"), spec()) {
        let _ = p.support(spec());
        p.adjust(&mut vec![0.5; spec().vocab]);
    }
});
