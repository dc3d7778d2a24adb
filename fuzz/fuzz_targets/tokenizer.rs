//! `tokenizer.json`, or `vocab.json` with `merges.txt` where the input holds a zero byte between the two.
#![no_main]

#[allow(dead_code)]
mod folder;

use libfuzzer_sys::fuzz_target;
use refocus_model::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    for name in ["tokenizer.json", "vocab.json", "merges.txt"] {
        let _ = std::fs::remove_file(folder::folder().join(name));
    }
    match bytes.iter().position(|b| *b == 0) {
        None => drop(folder::put("tokenizer.json", bytes)),
        Some(at) => {
            folder::put("vocab.json", &bytes[..at]);
            folder::put("merges.txt", &bytes[at + 1..]);
        }
    }
    let Ok(t) = Tokenizer::from_folder(folder::folder()) else { return };
    for text in ["", "The cat, 12!", "na\u{ef}ve \u{1f642}\n\t"] {
        let Ok((ids, _)) = t.encode_with_offsets(text, true) else { continue };
        let mut stream = t.stream(true);
        let grown: String = ids.iter().map(|id| stream.push(*id)).collect();
        if let (Ok(rest), Ok(whole)) = (stream.finish(), t.decode(&ids, true)) {
            assert_eq!(grown + &rest, whole);
        }
    }
    let _ = (0..4).map(|id| t.token(id)).collect::<String>();
});
