//! The language in words (figure 2c and appendix B.2.1 of the paper), to ask language models.

use std::ops::Range;

use super::{Alphabet, Facts, Invalid, id};

/// Symbols of the string that the paper shows before the question.
pub const DEMONSTRATION: usize = 16;

/// Words for the instructions and their bits. Index 0 is bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wording {
    /// Its name.
    pub name: &'static str,
    write: [&'static str; 2],
    ignore: [&'static str; 2],
    /// Up to the answer.
    read: &'static str,
    /// With the space before.
    answers: [&'static str; 2],
}

/// The paper's wording.
const LIGHT: Wording = Wording {
    name: "light",
    write: ["Alice turns the light off", "Alice turns the light on"],
    ignore: ["Bob eats a banana", "Bob eats an apple"],
    read: "Now, the light is",
    answers: [" off", " on"],
};

/// The paper's wording, the same with its other ending, and one of ours about another thing.
pub const WORDINGS: [Wording; 3] = [
    LIGHT,
    Wording { name: "turned", read: "Now, the light is turned", ..LIGHT },
    Wording {
        name: "door",
        write: ["Alice closes the door", "Alice opens the door"],
        ignore: ["Bob sings a song", "Bob tells a joke"],
        read: "Now, the door is",
        answers: [" closed", " open"],
    },
];

/// A question inside a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Bytes before the answer: the prompt is the text up to here.
    pub end: usize,
    /// The right continuation, with the space before.
    pub answer: &'static str,
    /// The other one.
    pub wrong: &'static str,
    /// Bytes of the sentence whose bit is asked for.
    pub written: (usize, usize),
    /// Bytes of the word in it that says which bit it is.
    pub datum: (usize, usize),
}

/// A string in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verbalised {
    /// Sentences on one line, `Then,` before each but the first and those that ask.
    pub text: String,
    /// Its reads in order.
    pub reads: Vec<Asked>,
}

impl Wording {
    /// The wording of this name.
    pub fn named(name: &str) -> Option<Self> {
        WORDINGS.into_iter().find(|w| w.name == name)
    }

    /// Bytes of a write's sentence that differ from the other one's, in whole words.
    fn telling(&self, bit: usize) -> Range<usize> {
        let [own, other] = [self.write[bit], self.write[1 - bit]].map(|s| s.split(' '));
        let alike = own.clone().zip(other.clone()).take_while(|(a, b)| a == b).map(|(a, _)| a.len() + 1);
        let start = alike.sum();
        let tail = own.rev().zip(other.rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len() + 1);
        start..self.write[bit].len() - tail.sum::<usize>()
    }

    /// A string of the paper's language in words.
    ///
    /// # Errors
    /// The string is not valid.
    pub fn verbalise(&self, ids: &[u32]) -> Result<Verbalised, Invalid> {
        let facts = Facts::of(&Alphabet::BINARY, ids)?;
        let mut text = String::new();
        // Bytes of each instruction's sentence.
        let mut spans = Vec::with_capacity(ids.len() / 2);
        for (k, pair) in ids.chunks_exact(2).enumerate() {
            let bit = (pair[1] - id::ZERO) as usize;
            if k > 0 {
                text.push_str(if pair[0] == id::READ { " " } else { " Then, " });
            }
            let start = text.len();
            match pair[0] {
                id::READ => {
                    text.push_str(self.read);
                    text.push_str(self.answers[bit]);
                }
                id::WRITE => text.push_str(self.write[bit]),
                _ => text.push_str(self.ignore[bit]),
            }
            spans.push((start, text.len()));
            text.push('.');
        }
        let asked = |r: &super::Read| {
            let answer = self.answers[r.value as usize];
            let word = self.telling(r.value as usize);
            Asked {
                end: spans[r.at / 2].1 - answer.len(),
                answer,
                wrong: self.answers[1 - r.value as usize],
                written: spans[r.write_at / 2],
                datum: (spans[r.write_at / 2].0 + word.start, spans[r.write_at / 2].0 + word.end),
            }
        };
        let reads = facts.reads.iter().map(asked).collect();
        Ok(Verbalised { text, reads })
    }

    /// A string in words after another one, which shows how it is done. Only the second is asked about.
    ///
    /// # Errors
    /// One of the strings is not valid.
    pub fn demonstrate(&self, shown: &[u32], ids: &[u32]) -> Result<Verbalised, Invalid> {
        let mut whole = self.verbalise(shown)?.text;
        whole.push('\n');
        let Verbalised { text, mut reads } = self.verbalise(ids)?;
        for r in &mut reads {
            r.end += whole.len();
            for span in [&mut r.written, &mut r.datum] {
                *span = (span.0 + whole.len(), span.1 + whole.len());
            }
        }
        whole.push_str(&text);
        Ok(Verbalised { text: whole, reads })
    }
}
