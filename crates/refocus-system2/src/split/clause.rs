//! Clauses of a sentence, by punctuation and the words that open a clause.

use std::ops::Range;

/// Words that open a clause behind a comma, or without one.
const OPENERS: &[&str] = &[
    "but", "and", "or", "so", "yet", "although", "though", "because", "since", "while", "whereas", "which",
    "who", "however", "aber", "und", "denn", "sondern", "mais", "et", "pero", "y", "sino",
];
/// Of these, the ones that open a clause without a comma before them.
const ALONE: &[&str] = &["but", "although", "though", "because", "whereas", "aber", "mais", "pero"];
/// A clause has at least this many words, or characters where words are not spaced.
const SHORTEST: usize = 2;

/// The clauses of a sentence with its opinion in as few of them as possible. One where it cannot be cut.
pub(super) fn pieces(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let body = &text[range.clone()];
    let mut cuts: Vec<usize> = cuts(body);
    cuts.retain(|&at| at > 0 && at < body.trim_end().len());
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for end in cuts.into_iter().chain([body.len()]) {
        // A few words are no clause: they go with what follows, the last ones with what is before.
        if words(&body[start..end]) < SHORTEST && end < body.len() {
            continue;
        }
        out.push(range.start + start..range.start + end);
        start = end;
    }
    if let [.., before, last] = out.as_mut_slice()
        && words(&text[last.clone()]) < SHORTEST
    {
        before.end = last.end;
        out.pop();
    }
    out
}

/// Places where a clause may begin.
fn cuts(body: &str) -> Vec<usize> {
    let mut out = Vec::new();
    let mut depth = 0i32;
    for (at, c) in body.char_indices() {
        let after = at + c.len_utf8();
        let rest = &body[after..];
        match c {
            '(' | '[' | '（' | '「' | '“' => depth += 1,
            ')' | ']' | '）' | '」' | '”' => depth -= 1,
            ';' | '；' | '，' | '、' | '،' if depth <= 0 => out.push(after + leading_space(rest)),
            '—' | '–' if depth <= 0 && rest.starts_with(' ') => out.push(at),
            ',' if depth <= 0 && rest.starts_with(' ') && opens(rest) => {
                out.push(after + leading_space(rest))
            }
            ' ' if depth <= 0 => {
                let word = first_word(rest);
                if ALONE.contains(&word.to_lowercase().as_str()) {
                    out.push(after);
                }
            }
            _ => {}
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// Whether a comma before this text parts clauses: a word that opens one follows, an opinion is before or
/// behind it, or a question.
fn opens(rest: &str) -> bool {
    let rest = rest.trim_start();
    let word = first_word(rest).to_lowercase();
    let asks =
        ["what", "who", "where", "when", "why", "how", "is", "are", "was", "do", "does", "did", "can", "i"];
    OPENERS.contains(&word.as_str()) || asks.contains(&word.as_str()) || super::task::begins_opinion(rest)
}

fn leading_space(rest: &str) -> usize {
    rest.len() - rest.trim_start().len()
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’').unwrap_or(text.len());
    &text[..end]
}

fn words(text: &str) -> usize {
    let spaced = text.split_whitespace().filter(|w| w.chars().any(char::is_alphanumeric)).count();
    let wide = text.chars().filter(|c| u32::from(*c) >= 0x2e80).count();
    spaced.max(wide / 2)
}
