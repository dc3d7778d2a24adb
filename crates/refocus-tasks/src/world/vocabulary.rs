//! The world's tokens: the end of a document, every byte, and every word that the world's documents hold, with the
//! space before it. Other words are spelled in bytes.

use std::collections::{BTreeMap, HashMap};
use std::iter;

use serde_json::{Map, Value, json};

use super::draw::Draw;
use super::{Kind, Mixture, World, WorldError, purpose};
use crate::flipflop::Split;

/// Id of the token that ends a document.
pub const END: u32 = 0;
const END_TEXT: &str = "<|end|>";
/// The chat template: questions and answers, as the documents have them.
const CHAT: &str = "{% for m in messages %}{% if not loop.first %} {% endif %}{% if m['role'] == 'user' %}Q: \
                    {% elif m['role'] == 'assistant' %}A: {% endif %}{{ m['content'] }}{% endfor %}\
                    {% if add_generation_prompt %} A:{% endif %}";
/// Documents of each kind that words are collected from.
const DOCUMENTS: u32 = 3000;
/// A word that is there less often was made up for one document.
const LEAST: usize = 3;
/// Endings that are words of their own, in the order in which they are looked for.
const ENDINGS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// Words and their ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    words: HashMap<String, u32>,
    /// As they are written in a `tokenizer.json`, by id.
    spelled: Vec<String>,
}

impl Vocabulary {
    /// The words of the world, whatever a mixture makes of them.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn new() -> Result<Self, WorldError> {
        // Every country alike, so that none is missed.
        let world = World::new(Mixture { fame: 0.0, ..Mixture::default() })?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (step, kind) in Kind::ALL.into_iter().enumerate() {
            for number in 0..DOCUMENTS {
                let at = (0, Split::Demonstration, step as u32, number);
                let mut draw = Draw::new(at.0, purpose(at.1), at.2, at.3);
                for word in split(&world.of_kind(kind, &mut draw, at)) {
                    *counts.entry(word.to_owned()).or_default() += 1;
                }
            }
        }
        let frequent = |(word, n): &(String, usize)| *n >= LEAST && word.len() > 1;
        let mut words: Vec<(String, usize)> = counts.into_iter().filter(frequent).collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let bytes = (0..=u8::MAX).map(|b| character(b).to_string());
        let spell = |word: &String| word.bytes().map(character).collect::<String>();
        let spelled = iter::once(END_TEXT.to_owned())
            .chain(bytes)
            .chain(words.iter().map(|(word, _)| spell(word)))
            .collect();
        let first = 1 + 256;
        let words = words.into_iter().enumerate().map(|(i, (word, _))| (word, first + i as u32)).collect();
        Ok(Self { words, spelled })
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.spelled.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.spelled.is_empty()
    }

    /// A text as ids.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for word in split(text) {
            match self.words.get(word) {
                Some(&id) => ids.push(id),
                None => ids.extend(word.bytes().map(|b| 1 + u32::from(b))),
            }
        }
        ids
    }

    /// `tokenizer.json`: byte-level BPE without merges, in which a word of the vocabulary is taken whole.
    pub fn tokenizer(&self) -> Value {
        let vocab: Map<String, Value> =
            self.spelled.iter().enumerate().map(|(id, word)| (word.clone(), id.into())).collect();
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [{
                "id": END, "content": END_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            }],
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": null,
            "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                "vocab": vocab, "merges": []
            }
        })
    }

    /// `tokenizer_config.json` for texts of at most `tokens`.
    pub fn settings(&self, tokens: usize) -> Value {
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "eos_token": END_TEXT,
            "model_max_length": tokens,
            "chat_template": CHAT
        })
    }
}

/// The character that stands for a byte in the files of byte-level tokenizers: itself where it can be seen, else
/// one from U+0100 on, in order.
fn character(byte: u8) -> char {
    let seen = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if seen(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !seen(b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// A text in words, as GPT-2's pattern has them: letters, digits or other signs with one space before, and runs of
/// white space.
fn split(text: &str) -> Vec<&str> {
    let class = |c: char| match c {
        c if c.is_whitespace() => 0,
        c if c.is_alphabetic() => 1,
        c if c.is_numeric() => 2,
        _ => 3,
    };
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = |from: usize, of: u8| {
            rest[from..].char_indices().find(|(_, c)| class(*c) != of).map_or(rest.len(), |(i, _)| from + i)
        };
        let ending = ENDINGS.iter().find(|e| rest.starts_with(**e));
        let spaced = usize::from(first == ' ');
        let after = rest[spaced..].chars().next().map_or(0, class);
        let end = if let Some(ending) = ending {
            ending.len()
        } else if after > 0 {
            run(spaced, after)
        } else {
            // The last sign of a run of white space goes with what follows.
            let end = run(0, 0);
            let last = rest[..end].chars().next_back().map_or(0, char::len_utf8);
            if end < rest.len() && end > last { end - last } else { end }
        };
        let (word, more) = rest.split_at(end);
        out.push(word);
        rest = more;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_split_as_by_the_pattern() {
        let told = |text: &str| split(text).join("|");
        assert_eq!(
            told("Q: It's 12 o'clock.\n\n Then, go!?"),
            "Q|:| It|'s| 12| o|'|clock|.|\n\n| Then|,| go|!?"
        );
        assert_eq!(told("a  b \n"), "a| | b| \n");
        assert_eq!(told(""), "");
    }

    #[test]
    fn words_are_tokens_and_others_are_bytes() {
        let v = Vocabulary::new().expect("a vocabulary");
        assert!((1000..=2500).contains(&v.len()), "{}", v.len());
        for text in [" capital", " France", "Q", " animal", " Paris", " the", ".", "otter", "\n", "'s"] {
            assert_eq!(v.encode(text).len(), 1, "{text:?}");
        }
        assert_eq!(v.encode("zq").len(), 2);
        let json = v.tokenizer();
        assert_eq!(json["model"]["vocab"].as_object().map(Map::len), Some(v.len()));
        assert_eq!(json["model"]["vocab"]["Ġcapital"], v.encode(" capital")[0]);
        assert_eq!(json["model"]["vocab"]["Ċ"], v.encode("\n")[0]);
    }
}
