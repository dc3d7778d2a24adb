//! `tokenizer.json`.
#![no_main]

#[allow(dead_code)]
mod folder;

use libfuzzer_sys::fuzz_target;
use refocus_model::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    folder::put("tokenizer.json", bytes);
    let Ok(t) = Tokenizer::from_folder(folder::folder()) else { return };
    for text in ["", "The cat, 12!", "na\u{ef}ve \u{1f642}\n\t"] {
        let _ = t.encode(text, true).map(|ids| t.decode(&ids, true));
    }
    let _ = (0..4).map(|id| t.token(id)).collect::<String>();
});
