//! Strings of every kind, each from its number, the same as in `fixtures/token_ids.py`.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that is removed in the end.
pub struct Temp(pub PathBuf);

impl Temp {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("refocus-{pid}-{count}-{}", name.replace(' ', "-"));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("folder");
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).expect("writes");
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SPACES: [&str; 22] = [
    " ", "  ", "   ", "\t", "\n", "\n\n", "\r", "\r\n", "\u{a0}", "\u{85}", "\u{1680}", "\u{2003}",
    "\u{2028}", "\u{202f}", "\u{3000}", "\u{200b}", "\u{feff}", " \n", "\n ", "\u{b}", "\u{c}", "\u{ad}",
];
const SPELLED: [&str; 20] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    "<0xE2>",
    "\u{2581}",
    "\u{120}",
    "'s",
    "'LL",
    "'re",
    "<|fim_middle|>",
    "<tool_call>",
    "[INST]",
    "<|",
    "|>",
    "\u{2581}\u{2581}a",
    "<s",
];
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
type Span = (u32, u32);
const RANGES: [Span; 10] = [
    (0xC0, 0x24F),
    (0x370, 0x52F),
    (0x590, 0x6FF),
    (0x900, 0xDFF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x3040, 0x30FF),
    (0xE00, 0xE7F),
    (0x1200, 0x137F),
    (0x2000, 0x2BFF),
];
const DIGITS: [Span; 6] =
    [(0x660, 0x669), (0x966, 0x96F), (0xFF10, 0xFF19), (0x2160, 0x2188), (0xB2, 0xB3), (0x1D7CE, 0x1D7FF)];

/// splitmix64, started anew for every string.
pub struct Random(u64);

impl Random {
    pub fn new(index: u64) -> Self {
        let mut random = Self(index.wrapping_mul(0xD134_2543_DE82_EF95));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u32) -> u32 {
        ((self.next() >> 33) % u64::from(n)) as u32
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u32) as usize]
    }

    fn within(&mut self, (from, to): Span) -> char {
        char::from_u32(from + self.below(to - from + 1)).expect("character")
    }

    fn some(&mut self, most: u32, mut one: impl FnMut(&mut Self) -> char) -> String {
        let n = 1 + self.below(most);
        (0..n).map(|_| one(self)).collect()
    }
}

/// A few characters of one kind.
fn piece(r: &mut Random) -> String {
    let letter = |r: &mut Random| char::from(b'a' + r.below(26) as u8);
    match r.below(20) {
        0..5 => {
            let word = r.some(8, letter);
            let word = match r.below(4) {
                0 => word.to_uppercase(),
                1 => word[..1].to_uppercase() + &word[1..],
                _ => word,
            };
            if r.below(2) != 0 { format!(" {word}") } else { word }
        }
        5 => r.some(6, |r| char::from(b'0' + r.below(10) as u8)),
        6 => {
            let marks: Vec<char> = PUNCTUATION.chars().collect();
            r.some(4, |r| r.of(&marks))
        }
        7..9 => r.of(&SPACES).to_owned(),
        9..12 => {
            let span = r.of(&RANGES);
            r.some(6, |r| r.within(span))
        }
        12 => {
            let base = letter(r);
            format!("{base}{}", r.some(3, |r| r.within((0x300, 0x36F))))
        }
        13 => {
            let people = r.some(3, |r| r.within((0x1F300, 0x1F64F)));
            let people: Vec<String> = people.chars().map(String::from).collect();
            let tone = if r.below(3) == 0 { r.within((0x1F3FB, 0x1F3FF)).to_string() } else { String::new() };
            let variant = if r.below(2) != 0 { "\u{fe0f}" } else { "" };
            format!("{}{tone}{variant}", people.join("\u{200d}"))
        }
        14 => { if r.below(2) != 0 { r.within((0x00, 0x1F)) } else { r.within((0x7F, 0x9F)) } }.to_string(),
        15 => {
            let code = r.below(0x11_0000 - 0x800);
            let code = if code < 0xD800 { code } else { code + 0x800 };
            char::from_u32(code).expect("character").to_string()
        }
        16 => {
            let span = r.of(&DIGITS);
            r.some(4, |r| r.within(span))
        }
        _ => r.of(&SPELLED).to_owned(),
    }
}

/// String number `index`.
pub fn random_string(index: u64) -> String {
    let mut r = Random::new(index);
    let n = r.below(16);
    (0..n).map(|_| piece(&mut r)).collect()
}
