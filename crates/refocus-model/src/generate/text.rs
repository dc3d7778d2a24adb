//! Text of a sequence as it grows, and the strings that end it.

use std::sync::Arc;

use crate::error::LoadResult;
use crate::tokenizer::{Stream, Tokenizer};

/// Finds the first of some strings in text that comes in pieces, and holds back what may be the beginning
/// of one. The result does not depend on how the text is cut: the string that is complete first ends the
/// text, the longest of those that are complete at the same character.
#[derive(Clone, Debug)]
pub(super) struct Stops {
    strings: Arc<[String]>,
    held: String,
}

impl Stops {
    pub(super) fn new(strings: Arc<[String]>) -> Self {
        Self { strings, held: String::new() }
    }

    /// The text that is certain now, and whether a string ended it (which is then cut off).
    pub(super) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let found =
            self.strings.iter().filter_map(|s| self.held.find(s.as_str()).map(|at| (at + s.len(), at)));
        if let Some((_, at)) = found.min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let held = self.held.as_bytes();
        let beginning = |s: &String| {
            let most = (s.len() - 1).min(held.len());
            (1..=most).rev().find(|&n| held.ends_with(&s.as_bytes()[..n])).unwrap_or(0)
        };
        let kept = self.strings.iter().map(beginning).max().unwrap_or(0);
        // A match begins with a whole character, so this is a boundary.
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back.
    pub(super) fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Text of one sequence.
#[derive(Clone, Debug)]
pub(super) struct Text<'a> {
    stream: Stream<'a>,
    stops: Stops,
}

impl<'a> Text<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, stops: Arc<[String]>) -> Self {
        Self { stream: tokenizer.stream(false), stops: Stops::new(stops) }
    }

    /// As [`Stops::push`], for an id.
    pub(super) fn push(&mut self, id: u32) -> (String, bool) {
        self.stops.push(&self.stream.push(id))
    }

    /// What is left where the sequence ends for another reason.
    pub(super) fn rest(mut self) -> LoadResult<String> {
        let (mut text, stopped) = self.stops.push(&self.stream.finish()?);
        if !stopped {
            text.push_str(&self.stops.rest());
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every end of every string, by looking at all of the text.
    fn plainly(text: &str, strings: &[String]) -> (String, bool) {
        for (end, _) in text.char_indices().map(|(i, c)| (i + c.len_utf8(), c)) {
            let ended = strings.iter().filter(|s| text[..end].ends_with(s.as_str()));
            if let Some(longest) = ended.map(String::len).max() {
                return (text[..end - longest].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn pieces_end_where_the_whole_text_ends(
            text in "[aé€]{0,30}",
            strings in proptest::collection::vec("[aé€]{1,4}", 0..4),
            cuts in proptest::collection::vec(1usize..4, 30),
        ) {
            let want = plainly(&text, &strings);
            let mut stops = Stops::new(strings.clone().into());
            let (mut got, mut stopped) = (String::new(), false);
            let mut chars = text.chars();
            for n in cuts {
                let piece: String = chars.by_ref().take(n).collect();
                let (new, ended) = stops.push(&piece);
                got.push_str(&new);
                // Nothing that was given out may turn out to belong to a stop string.
                prop_assert!(want.0.starts_with(&got), "{got:?} of {want:?}");
                if ended {
                    stopped = true;
                    break;
                }
            }
            if !stopped {
                let (new, ended) = stops.push(&chars.collect::<String>());
                got.push_str(&new);
                stopped = ended;
            }
            if !stopped {
                got.push_str(&stops.rest());
            }
            prop_assert_eq!((got, stopped), want);
        }
    }
}
