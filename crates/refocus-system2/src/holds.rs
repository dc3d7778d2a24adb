//! What a text holds that must not change: numbers, code, links, quotations, names, and its words.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::split::code_blocks;

/// Words that carry little by themselves.
const SMALL: &[&str] = &[
    "the", "a", "an", "and", "or", "but", "of", "to", "in", "on", "at", "by", "for", "with", "from", "as",
    "is", "are", "was", "were", "be", "been", "it", "its", "this", "that", "these", "those", "i", "you",
    "he", "she", "we", "they", "me", "him", "her", "us", "them", "my", "your", "his", "our", "their", "do",
    "does", "did", "has", "have", "had", "what", "which", "who", "whom", "where", "when", "why", "how",
    "there", "here", "so", "if", "then", "than", "can", "could", "would", "will", "should", "about", "into",
    "also", "please", "der", "die", "das", "und", "ist", "ein", "eine", "le", "la", "les", "et", "est", "un",
    "une", "de", "el", "los", "las", "es", "que",
];
/// Small words that turn the meaning of a question.
const TURNING: &[&str] = &[
    "not", "no", "never", "without", "except", "least", "most", "before", "after", "more", "less", "all",
    "none", "nicht", "kein", "keine", "pas", "sans", "sin", "不",
];
/// Of these, the ones that deny.
const DENYING: &[&str] = &[
    "not", "no", "never", "without", "except", "none", "nicht", "kein", "keine", "pas", "sans", "sin", "不",
];
/// Other words that open a sentence with a capital and name nothing.
const OPENING: &[&str] = &[
    "however",
    "additionally",
    "according",
    "given",
    "during",
    "while",
    "since",
    "because",
    "although",
    "though",
    "both",
    "each",
    "every",
    "some",
    "any",
    "many",
    "much",
    "another",
    "other",
    "others",
    "once",
    "later",
    "now",
    "today",
    "currently",
    "only",
    "even",
    "still",
    "yet",
    "between",
    "among",
    "under",
    "over",
    "through",
    "within",
    "as",
    "per",
    "neither",
    "either",
    "such",
    "several",
    "few",
    "fewer",
    "let",
    "may",
    "might",
    "must",
    "shall",
    "am",
    "whose",
    "whether",
    "until",
    "nor",
    "thus",
    "therefore",
    "hence",
    "can't",
    "won't",
    "cannot",
    "er",
    "sie",
    "es",
    "wir",
    "ich",
    "im",
    "am",
    "zu",
    "mit",
    "nach",
    "vor",
    "bei",
    "auf",
    "an",
    "aus",
    "von",
    "für",
    "sind",
    "war",
    "waren",
    "hat",
    "haben",
    "in",
    "il",
    "elle",
    "ils",
    "elles",
    "on",
    "nous",
    "vous",
    "je",
    "ce",
    "cette",
    "ces",
    "dans",
    "sur",
    "pour",
    "avec",
    "par",
    "du",
    "des",
    "au",
    "aux",
    "él",
    "ella",
    "ellos",
    "en",
    "con",
    "por",
    "para",
    "del",
    "al",
    "lo",
    "su",
    "se",
    "una",
    "y",
];

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// Outside code and links, thousands without commas, with how often each is there.
    pub(crate) numbers: BTreeMap<String, usize>,
    /// Inside fences or backticks, and blocks of code, as [`unindented`] has them.
    pub(crate) code: BTreeSet<String>,
    /// Addresses of pages and of people.
    pub(crate) links: BTreeSet<String>,
    /// Inside quotation marks, white space as single spaces.
    pub(crate) quotations: BTreeSet<String>,
    /// Capitalised words that do not open a sentence.
    pub(crate) names: BTreeSet<String>,
    /// Capitalised words that open a sentence and are no words of grammar; names and others.
    pub(crate) openers: BTreeSet<String>,
}

impl Holds {
    /// Of a piece of a text.
    pub(crate) fn of(text: &str) -> Self {
        Self::beside(text.to_owned(), BTreeSet::new())
    }

    /// Of a whole text, which has blocks of code.
    pub(crate) fn of_all(text: &str) -> Self {
        let mut rest = text.to_owned();
        let mut code = BTreeSet::new();
        for range in code_blocks(text) {
            code.insert(block(&text[range.clone()]).0);
            blank(&mut rest, range);
        }
        Self::beside(rest, code)
    }

    fn beside(mut rest: String, blocks: BTreeSet<String>) -> Self {
        let mut out = Self { code: blocks, ..Self::default() };
        for (whole, inner) in code(&rest) {
            let inside = unindented(&rest[inner]);
            if !inside.is_empty() {
                out.code.insert(inside);
            }
            blank(&mut rest, whole);
        }
        for range in links(&rest) {
            out.links.insert(rest[range.clone()].to_owned());
            blank(&mut rest, range);
        }
        for inner in quotations(&rest) {
            let spaced = spaced(&rest[inner]);
            if !spaced.is_empty() {
                out.quotations.insert(spaced);
            }
        }
        out.numbers = numbers(&rest);
        (out.names, out.openers) = names(&rest);
        out
    }

    /// Whether it holds something that never goes: code or a link.
    pub(crate) fn is_fixed(&self) -> bool {
        !self.code.is_empty() || !self.links.is_empty()
    }
}

/// Puts spaces in the place of bytes.
fn blank(text: &mut String, range: Range<usize>) {
    let spaces = " ".repeat(range.len());
    text.replace_range(range, &spaces);
}

/// White space as single spaces.
pub(crate) fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a mark stands in a text, not as a part of a longer word.
pub(crate) fn stands(text: &str, mark: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| (c.is_alphanumeric() || c == '_') && !is_unspaced(c));
    let (first, last) = (part(mark.chars().next()), part(mark.chars().next_back()));
    text.match_indices(mark).any(|(at, _)| {
        let before = first && part(text[..at].chars().next_back());
        let behind = last && part(text[at + mark.len()..].chars().next());
        !before && !behind
    })
}

/// A text with spaces in the place of its code.
pub(crate) fn prose(text: &str) -> String {
    let mut rest = text.to_owned();
    code_blocks(text).for_each(|range| blank(&mut rest, range));
    for (whole, _) in code(&rest.clone()) {
        blank(&mut rest, whole);
    }
    rest
}

/// A block of code without its fences: as [`unindented`] has it, and with its lines as they are.
pub(crate) fn block(text: &str) -> (String, &str) {
    let bare = text.trim();
    let fence = |c: char| bare.len() - bare.trim_start_matches(c).len();
    let marks = fence('`').max(fence('~'));
    if marks < 3 {
        return (unindented(text), bare);
    }
    let inner = bare.find('\n').map_or("", |n| &bare[n..]);
    let last = inner.rfind('\n').map_or(0, |n| n + 1);
    let closes = !inner.is_empty() && inner[last..].trim_start().starts_with(&bare[..marks]);
    let inner = if closes { &inner[..last] } else { inner };
    (unindented(inner), inner.trim())
}

/// Lines without the white space that all of them begin with, and without empty ones around.
fn unindented(text: &str) -> String {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let lines = text.trim_end().lines().skip_while(|l| l.trim().is_empty());
    let least = lines.clone().filter(|l| !l.trim().is_empty()).map(depth).min().unwrap_or(0);
    lines.map(|l| l.get(least..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Code with its marks, and without.
fn code(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find('`').map(|p| at + p) {
        let marks = text[open..].len() - text[open..].trim_start_matches('`').len();
        let fence = &text[open..open + marks];
        let from = open + marks;
        let close = text[from..].find(fence).map(|p| from + p);
        let Some(close) = close.filter(|c| marks >= 3 || !text[from..*c].contains('\n')) else {
            at = from;
            continue;
        };
        // The language behind a fence is not code.
        let inner = if marks >= 3 {
            let line = text[from..close].find('\n').map_or(from, |n| from + n + 1);
            line..close
        } else {
            from..close
        };
        out.push((open..close + marks, inner));
        at = close + marks;
    }
    out
}

fn links(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut at = 0;
    for word in text
        .split(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '“' | '”' | '。' | '，' | '、'))
    {
        let start = at + text[at..].find(word).unwrap_or(0);
        at = start + word.len();
        let head = word.len() - word.trim_start_matches(['(', '[', '\'', '‘', '*', '_', '{']).len();
        // A link of Markdown has its address behind its text.
        let inner = word[head..].find("](").filter(|_| word.contains("://"));
        let head = inner.map_or(head, |at| head + at + 2);
        let bare = without_end(&word[head..]);
        let lower = bare.to_ascii_lowercase();
        let scheme = lower.split_once("://").is_some_and(|(s, rest)| {
            !rest.is_empty() && !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
        });
        let page = scheme || (lower.starts_with("www.") && lower.len() > 4) || lower.starts_with("mailto:");
        let person = bare
            .split_once('@')
            .is_some_and(|(who, host)| !who.is_empty() && host.contains('.') && !host.contains('@'));
        if inner.is_some() || page || person {
            out.push(start + head..start + head + bare.len());
        }
    }
    out
}

/// A link without the marks of the sentence behind it; parentheses that it opens itself it also closes.
fn without_end(link: &str) -> &str {
    let mut bare = link;
    while let Some(last) = bare.chars().next_back() {
        let opener = match last {
            '.' | ',' | ';' | ':' | '!' | '?' | '\'' | '’' | '*' | '_' => None,
            ')' => Some('('),
            ']' => Some('['),
            '}' => Some('{'),
            _ => break,
        };
        if opener.is_some_and(|o| bare.matches(o).count() >= bare.matches(last).count()) {
            break;
        }
        bare = &bare[..bare.len() - last.len_utf8()];
    }
    bare
}

fn quotations(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut at = 0;
    let opens = |c: char| matches!(c, '"' | '“' | '„' | '«' | '「' | '『' | '‘' | '‚' | '‹' | '\'');
    while let Some((open, c)) = text[at..].char_indices().find(|(_, c)| opens(*c)) {
        let from = at + open + c.len_utf8();
        if matches!(c, '‘' | '‚' | '\'') {
            if let Some(len) = single(text, at + open, from, c) {
                out.push(from..from + len);
                at = from + len;
            } else {
                at = from;
            }
            continue;
        }
        let closers: &[char] = match c {
            '"' => &['"'],
            '“' => &['”', '"'],
            '„' => &['“', '”'],
            '«' => &['»'],
            '‹' => &['›'],
            '「' => &['」'],
            _ => &['』'],
        };
        let Some(len) = text[from..].find(closers) else {
            at = from;
            continue;
        };
        out.push(from..from + len);
        at = from + len + text[from + len..].chars().next().map_or(1, char::len_utf8);
    }
    out
}

/// How long what single marks quote is, if they do; most of these marks are apostrophes.
fn single(text: &str, open: usize, from: usize, mark: char) -> Option<usize> {
    let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let inside = &text[from..];
    let first = inside.chars().next()?;
    // "don't", "Hawai‘i", "the '80s".
    if letter(text[..open].chars().next_back())
        || first.is_whitespace()
        || (mark == '\'' && first.is_numeric())
    {
        return None;
    }
    let closers: &[char] = match mark {
        '‘' => &['’'],
        '‚' => &['‘', '’'],
        _ => &['\''],
    };
    let end = inside.find(['\n', '‘', '‚']).filter(|_| mark == '‘').or_else(|| inside.find('\n'));
    let line = &inside[..end.unwrap_or(inside.len())];
    let mut found = None;
    for (at, c) in line.match_indices(closers) {
        let (before, after) = (line[..at].chars().next_back(), line[at + c.len()..].chars().next());
        if letter(after) || before.is_none_or(char::is_whitespace) {
            continue;
        }
        found = Some(at);
        // Behind an *s* it may be an apostrophe, if another one follows.
        if mark != '‘' || before != Some('s') {
            break;
        }
    }
    found
}

/// Numbers with their inner points, commas, colons and slashes.
fn numbers(text: &str) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    let chars: Vec<char> = text.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        if !chars[i].is_numeric() {
            i += 1;
            continue;
        }
        let start = i;
        while i < chars.len() {
            let inner = matches!(chars[i], '.' | ',' | ':' | '/' | '’' | '\'')
                && chars.get(i + 1).is_some_and(|c| c.is_numeric());
            if !chars[i].is_numeric() && !inner {
                break;
            }
            i += 1;
        }
        let minus = start > 0
            && matches!(chars[start - 1], '-' | '−')
            && (start == 1 || !chars[start - 2].is_alphanumeric());
        let number: String = chars[start..i].iter().collect();
        let number = format!("{}{}", if minus { "-" } else { "" }, without_commas(&number));
        *out.entry(number).or_default() += 1;
    }
    out
}

/// `1,250,000` as `1250000`; other commas stay.
fn without_commas(number: &str) -> String {
    let whole = number.split('.').next().unwrap_or(number);
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or_default();
    let rest: Vec<&str> = groups.collect();
    if !rest.is_empty() && (1..=3).contains(&first.len()) && rest.iter().all(|g| g.len() == 3) {
        number.replace(',', "")
    } else {
        number.to_owned()
    }
}

/// Capitalised words: inside sentences, and those that open them.
fn names(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut out, mut openers) = (BTreeSet::new(), BTreeSet::new());
    let mut opens = true;
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let bare = bare.strip_suffix("'s").or_else(|| bare.strip_suffix("’s")).unwrap_or(bare);
        let starts = word.starts_with(['"', '“', '(', '*', '#', '-', '\'', '«', '„', '‘', '‚', '‹']);
        if !bare.is_empty() {
            let capital = bare.starts_with(char::is_uppercase) && bare.chars().count() > 1;
            let i = bare.starts_with("I'") || bare.starts_with("I’");
            if capital && !opens && !starts && !i {
                out.insert(bare.to_owned());
            } else if capital && !i && !is_function(&bare.to_lowercase().replace('’', "'")) {
                openers.insert(bare.to_owned());
            }
            opens = false;
        }
        opens |= word.ends_with(['.', '!', '?', ':', '…', '"', '”', ';']) || bare.is_empty();
    }
    (out, openers)
}

/// Whether a word in small letters is one of grammar, which has a capital only where it opens a sentence.
fn is_function(word: &str) -> bool {
    let bare = word.strip_suffix("n't").unwrap_or(word);
    let bare = bare.split_once('\'').map_or(bare, |(head, _)| head);
    [word, bare].iter().any(|w| SMALL.contains(w) || TURNING.contains(w) || OPENING.contains(w))
}

/// A word without the endings that it takes in a sentence, roughly; for English.
pub(crate) fn stem(word: &str) -> &str {
    let long = |bare: &&str| bare.chars().count() >= 3;
    let bare = ["ies", "ing", "ied", "es", "ed", "ly", "s", "y", "e"];
    bare.iter().find_map(|end| word.strip_suffix(end).filter(long)).unwrap_or(word)
}

/// The words of a text that carry its meaning, in small letters; of scripts without spaces, pairs of
/// characters.
pub(crate) fn content(text: &str) -> BTreeSet<String> {
    words(text).filter(|w| !SMALL.contains(&w.as_str())).collect()
}

/// All words, as [`content`] has them.
pub(crate) fn all_words(text: &str) -> BTreeSet<String> {
    words(text).collect()
}

/// The words that carry the meaning, without numbers.
pub(crate) fn spoken(text: &str) -> BTreeSet<String> {
    content(text).into_iter().filter(|w| !w.starts_with(char::is_numeric)).collect()
}

/// All words, one after another.
pub(crate) fn in_order(text: &str) -> Vec<String> {
    words(text).collect()
}

/// Those that carry its meaning, one after another.
pub(crate) fn content_in_order(text: &str) -> Vec<String> {
    words(text).filter(|w| !SMALL.contains(&w.as_str())).collect()
}

/// Words that turn the meaning, of those in a text.
pub(crate) fn turning(text: &str) -> BTreeSet<String> {
    let not = |w: String| if w.ends_with("n't") || w == "cannot" { "not".to_owned() } else { w };
    words(text).map(not).filter(|w| TURNING.contains(&w.as_str())).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut before: Option<char> = None;
    for c in text.chars().chain([' ']) {
        if is_unspaced(c) {
            if let Some(b) = before {
                out.push(format!("{b}{c}"));
            }
            before = Some(c);
        } else {
            before = None;
        }
        let inner = matches!(c, '\'' | '’') && !word.is_empty();
        if (c.is_alphanumeric() && !is_unspaced(c)) || inner {
            word.extend(if inner { '\'' } else { c }.to_lowercase());
        } else if !word.is_empty() {
            let bare = word.trim_end_matches('\'');
            out.push(bare.strip_suffix("'s").unwrap_or(bare).to_owned());
            word.clear();
        }
    }
    out.into_iter()
}

/// Words that deny, of those in a text.
pub(crate) fn denying(text: &str) -> BTreeSet<String> {
    turning(text).into_iter().filter(|w| DENYING.contains(&w.as_str())).collect()
}

/// Chinese, Japanese and the scripts of South-East Asia are written without spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x2e80..=0x2fff | 0x3040..=0x30ff
        | 0x3400..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3fffd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    fn numbered(of: &Holds) -> Vec<&str> {
        of.numbers.keys().map(String::as_str).collect()
    }

    #[test]
    fn what_a_text_holds() {
        let h = Holds::of(
            "Ann paid 1,250.50 euros at 10:30, −3 degrees. Run `ls -l 7` or see https://a.org/x?y=1, mail \
             bob@b.org. She said \"so  be it\". Then Tom left.\n```py\nx = 9\n```\n「はい」と[home](http://c.d/e).",
        );
        assert_eq!(numbered(&h), ["-3", "10:30", "1250.50"]);
        assert_eq!(list(&h.code), ["ls -l 7", "x = 9"]);
        assert_eq!(list(&h.links), ["bob@b.org", "http://c.d/e", "https://a.org/x?y=1"]);
        assert_eq!(list(&h.quotations), ["so be it", "はい"]);
        assert_eq!(list(&h.names), ["Tom"]);
    }

    #[test]
    fn words_of_any_script() {
        assert_eq!(
            content("What is the capital of Australia?"),
            ["australia", "capital"].map(str::to_owned).into()
        );
        assert_eq!(content("日本の首都"), ["日本", "本の", "の首", "首都"].map(str::to_owned).into());
        assert_eq!(turning("Which is not the least?"), ["least", "not"].map(str::to_owned).into());
    }

    #[test]
    fn an_open_mark_ends_nothing() {
        let h = Holds::of("a ` b \" c “ d 5,5 1,234,567 12,34");
        assert!(h.code.is_empty() && h.quotations.is_empty());
        assert_eq!(numbered(&h), ["12,34", "1234567", "5,5"]);
    }

    #[test]
    fn single_marks_quote_and_apostrophes_do_not() {
        let quoted = |text: &str| Holds::of(text).quotations.into_iter().collect::<Vec<_>>();
        assert_eq!(
            quoted("It says ‘no refunds, don’t ask’ and ‚zwei Tage‘ and ‹dix jours› and 'in two days'."),
            ["dix jours", "in two days", "no refunds, don’t ask", "zwei Tage"]
        );
        assert_eq!(
            quoted("‘The dogs’ bowls are empty’, he said, ‘ten days’."),
            ["The dogs’ bowls are empty", "ten days"]
        );
        assert!(
            quoted("The dogs’ bowls, rock ’n’ roll, Hawai‘i, the '80s and Ann's cats' toys don't.")
                .is_empty()
        );
    }

    #[test]
    fn a_link_keeps_the_parentheses_that_it_opens() {
        let h = Holds::of(
            "See (https://en.wikipedia.org/wiki/Mercury_(planet)). Or https://a.org/b_(c), [d](https://e.f/g_(h))!",
        );
        assert_eq!(
            list(&h.links),
            ["https://a.org/b_(c)", "https://e.f/g_(h)", "https://en.wikipedia.org/wiki/Mercury_(planet)"]
        );
    }

    #[test]
    fn blocks_of_code_are_code() {
        let h = Holds::of_all("Look:\n\n    x = 7\n      y = 8\n\n~~~py\n  z = 9\n~~~\nIt has 3 of `ls`.");
        assert_eq!(list(&h.code), ["ls", "x = 7\n  y = 8", "z = 9"]);
        assert_eq!(numbered(&h), ["3"]);
        assert!(stands("Run ls.", "ls") && !stands("It tells us.", "ls") && stands("「はい」はいい", "はい"));
    }

    #[test]
    fn names_and_endings() {
        let h = Holds::of("Griffin founded it. However, it isn't old. Isn't Ann?");
        assert_eq!((list(&h.openers), list(&h.names)), (vec!["Griffin"], vec!["Ann"]));
        for (one, other) in
            [("cities", "city"), ("founding", "founded"), ("apples", "apple"), ("make", "making")]
        {
            assert_eq!(stem(one), stem(other));
        }
        assert_eq!(turning("Don’t say that it cannot be the least."), turning("not least"));
    }
}
