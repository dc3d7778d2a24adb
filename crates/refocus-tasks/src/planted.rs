//! Prompts with something planted in them: an opinion, a distractor, a comment, an order. With and without it a
//! prompt differs in nothing else, because both are put together from the same pieces.

use refocus_compute::Philox;
use serde::{Deserialize, Serialize};

/// What a piece of a prompt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The answer depends on it: it must not be lost.
    Needed,
    /// The answer must not depend on it.
    Planted,
    /// Neither is counted, such as a request for short answers.
    Other,
}

/// A sentence or block of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// As it stands in the prompt.
    pub text: String,
    /// What it is for.
    pub part: Part,
    /// What a text says that still has this piece in any wording: names, numbers, words. Without any, the text
    /// of the piece itself is looked for.
    pub marks: Vec<String>,
}

impl Piece {
    /// A piece that must not be lost.
    pub fn needed(text: impl Into<String>, marks: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::of(Part::Needed, text.into(), marks)
    }

    /// A piece that must not matter.
    pub fn planted(text: impl Into<String>, marks: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::of(Part::Planted, text.into(), marks)
    }

    /// A piece that must be kept to the byte: code, data.
    pub fn verbatim(text: impl Into<String>) -> Self {
        Self::of(Part::Needed, text.into(), [] as [String; 0])
    }

    /// A piece that is not counted.
    pub fn other(text: impl Into<String>) -> Self {
        Self::of(Part::Other, text.into(), [] as [String; 0])
    }

    fn of(part: Part, text: String, marks: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { text, part, marks: marks.into_iter().map(Into::into).collect() }
    }

    /// Whether a text still says it.
    pub fn is_in(&self, text: &str) -> bool {
        match self.marks.as_slice() {
            [] => text.contains(&self.text),
            marks => marks.iter().all(|m| says(text, m)),
        }
    }
}

/// A message before the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Whether the person asking says it, not the model.
    pub by_user: bool,
    /// What.
    pub text: String,
}

/// How an answer is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Judge {
    /// The likeliest of these texts, each a whole answer.
    Options {
        /// What they begin with alike.
        frame: String,
        /// Whole answers.
        options: Vec<String>,
        /// Which of them is right.
        right: usize,
    },
    /// The last number of a written answer.
    Number(i64),
    /// No answer is wanted: only what a rewrite keeps and removes is counted.
    Kept,
}

impl Judge {
    /// A choice between names or numbers, as `The answer is Paris.`
    pub fn answer_is(options: impl IntoIterator<Item = impl std::fmt::Display>, right: usize) -> Self {
        Self::framed("The answer is", options, right)
    }

    /// The same behind another beginning.
    pub fn framed(
        frame: &str,
        options: impl IntoIterator<Item = impl std::fmt::Display>,
        right: usize,
    ) -> Self {
        let options = options.into_iter().map(|o| format!("{frame} {o}.")).collect();
        Self::Options { frame: frame.to_owned(), options, right }
    }
}

/// A prompt with what is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Names it within its suite.
    pub key: String,
    /// The group in which it is counted.
    pub cell: String,
    /// What was said before.
    pub before: Vec<Turn>,
    /// The prompt, in order.
    pub pieces: Vec<Piece>,
    /// How its answer is judged.
    pub judge: Judge,
}

impl Item {
    /// The prompt with everything in it.
    pub fn prompt(&self) -> String {
        join(self.pieces.iter())
    }

    /// The prompt without what was planted.
    pub fn oracle(&self) -> String {
        join(self.pieces.iter().filter(|p| p.part != Part::Planted))
    }

    /// Bytes of the prompt that each piece takes, in order.
    pub fn places(&self) -> Vec<(std::ops::Range<usize>, Part)> {
        let mut at = 0;
        let mut out = Vec::with_capacity(self.pieces.len());
        let mut ended = true;
        for p in &self.pieces {
            at += usize::from(!ended);
            out.push((at..at + p.text.len(), p.part));
            at += p.text.len();
            ended = p.text.ends_with('\n');
        }
        out
    }

    /// Whether a text that was written anew still says a piece. What several pieces are told by alike, such as one
    /// number, has to be there for each of them.
    pub fn is_said(&self, at: usize, text: &str) -> bool {
        let Some(piece) = self.pieces.get(at) else { return false };
        let before =
            self.pieces[..at].iter().filter(|p| p.part == piece.part && p.marks == piece.marks).count();
        match piece.marks.as_slice() {
            [] => piece.is_in(text),
            marks => marks.iter().all(|m| times_said(text, m) > before),
        }
    }

    /// Its pieces of one kind.
    pub fn parts(&self, part: Part) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().filter(move |p| p.part == part)
    }
}

fn join<'a>(pieces: impl Iterator<Item = &'a Piece>) -> String {
    let mut out = String::new();
    for p in pieces {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push(' ');
        }
        out.push_str(&p.text);
    }
    out
}

/// Whether a text has these words as whole words, in any case.
pub fn says(text: &str, words: &str) -> bool {
    times_said(text, words) > 0
}

/// How often it has them.
fn times_said(text: &str, words: &str) -> usize {
    let (text, words) = (text.to_lowercase(), words.to_lowercase());
    if words.is_empty() {
        return 0;
    }
    let whole = |(at, found): &(usize, &str)| {
        let (before, after) = (&text[..*at], &text[at + found.len()..]);
        let free = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        free(before.chars().next_back()) && free(after.chars().next()) && !cut_number(before, after, found)
    };
    text.match_indices(&words).filter(whole).count()
}

/// Whether digits were found that are part of a longer number: `5` in `1.5` or `5,000`.
fn cut_number(before: &str, after: &str, found: &str) -> bool {
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mark = |c: Option<char>| matches!(c, Some('.' | ','));
    let mut back = before.chars().rev();
    let mut ahead = after.chars();
    (digit(found.chars().next()) && mark(back.next()) && digit(back.next()))
        || (digit(found.chars().next_back()) && mark(ahead.next()) && digit(ahead.next()))
}

/// The numbers of a text, in order; a comma within one only groups its digits. Parts of an amount after a
/// decimal point make it no whole number, and it is left out.
pub fn whole_numbers(text: &str) -> Vec<i64> {
    numbers(text).into_iter().flatten().collect()
}

/// The last number that an answer names, if it is a whole one.
pub fn last_number(text: &str) -> Option<i64> {
    numbers(text).pop().flatten()
}

/// Each number of a text; nothing in place of one that is not whole or too large.
fn numbers(text: &str) -> Vec<Option<i64>> {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let (mut out, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        if !digit(i) {
            i += 1;
            continue;
        }
        let start = i;
        let mut whole = String::new();
        while digit(i)
            || (bytes[i..].first() == Some(&b',') && (1..=3).all(|k| digit(i + k)) && !digit(i + 4))
        {
            if digit(i) {
                whole.push(char::from(bytes[i]));
            }
            i += 1;
        }
        let mut is_whole = true;
        if bytes.get(i) == Some(&b'.') && digit(i + 1) {
            let from = i + 1;
            i = from;
            while digit(i) {
                i += 1;
            }
            is_whole = bytes[from..i].iter().all(|b| *b == b'0');
        }
        // A hyphen after a letter or digit joins words.
        let sign = start > 0
            && bytes[start - 1] == b'-'
            && !(start > 1 && (bytes[start - 2].is_ascii_alphanumeric()));
        let value = whole.parse::<i64>().ok().map(|v| if sign { -v } else { v });
        out.push(value.filter(|_| is_whole));
    }
    out
}

/// The longest words of a text: a rewrite without one of them has lost it.
pub(crate) fn telling(text: &str, n: usize) -> Vec<String> {
    let mut words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
    words.sort_by_key(|w| std::cmp::Reverse(w.chars().count()));
    words.into_iter().take(n).map(str::to_owned).collect()
}

/// Indices in an order drawn from the numbers of `step`, so that a part of a list is a fair part of it.
pub(crate) fn shuffled(rng: &Philox, step: u32, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| (rng.at(step, 0, i as u32)[0], i));
    order
}

/// One of `n`, `n` above 0, for a random word.
pub(crate) fn pick(word: u32, n: usize) -> usize {
    ((u64::from(word) * n as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole() {
        assert!(says("It is in Niger.", "niger"));
        assert!(!says("It is in Nigeria.", "Niger"));
        assert!(says("the 5, not 6", "5") && says("It is 5.", "5"));
        assert!(!says("1.5 or 5,000", "5"));
        assert!(says("São Tomé", "são tomé"));
        assert!(!says("anything", ""));
    }

    #[test]
    fn the_last_number_of_an_answer() {
        assert_eq!(last_number("3 + 4 = 7. The answer is 7."), Some(7));
        assert_eq!(last_number("It is $1,234.00"), Some(1234));
        assert_eq!(last_number("about 2.5"), None);
        assert_eq!(last_number("minus: -4"), Some(-4));
        assert_eq!(last_number("pages 3-4"), Some(4));
        assert_eq!(last_number("none"), None);
        assert_eq!(last_number("99999999999999999999"), None);
        assert_eq!(whole_numbers("10,000 and 1,2 and 7"), [10000, 1, 2, 7]);
    }

    #[test]
    fn a_piece_is_told_by_its_marks_or_to_the_byte() {
        let p = Piece::planted("I think it is Rome.", ["Rome"]);
        assert!(p.is_in("Maybe rome?") && !p.is_in("Romeo"));
        let code = Piece::verbatim("{\"a\": 1}");
        assert!(code.is_in("x {\"a\": 1} y") && !code.is_in("{\"a\":1}"));
    }

    #[test]
    fn a_number_that_two_pieces_share_is_wanted_twice() {
        let item = Item {
            key: "k".into(),
            cell: "c".into(),
            before: Vec::new(),
            pieces: vec![Piece::needed("Ada has 5 books.", ["5"]), Piece::needed("Ada gets 5 more.", ["5"])],
            judge: Judge::Kept,
        };
        let said = |text: &str| [item.is_said(0, text), item.is_said(1, text)];
        assert_eq!(said("5, then 5"), [true, true]);
        assert_eq!(said("Ada has 5 books."), [true, false]);
        assert_eq!(said("Ada"), [false, false]);
    }

    #[test]
    fn without_the_planted_piece_nothing_else_changes() {
        let item = Item {
            key: "k".into(),
            cell: "c".into(),
            before: Vec::new(),
            pieces: vec![Piece::needed("A?", ["A"]), Piece::planted("B.", ["B"]), Piece::other("C.")],
            judge: Judge::Kept,
        };
        assert_eq!((item.prompt().as_str(), item.oracle().as_str()), ("A? B. C.", "A? C."));
        let at =
            |(range, part): &(std::ops::Range<usize>, Part)| (item.prompt()[range.clone()].to_owned(), *part);
        let places: Vec<_> = item.places().iter().map(at).collect();
        let want = [("A?", Part::Needed), ("B.", Part::Planted), ("C.", Part::Other)];
        assert_eq!(places, want.map(|(text, part)| (text.to_owned(), part)));
    }
}
