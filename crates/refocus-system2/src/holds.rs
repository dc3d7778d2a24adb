//! What a text holds that must not change: numbers, code, links, quotations, names, and its words.

use std::collections::BTreeSet;
use std::ops::Range;

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

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// Outside code and links, thousands without commas.
    pub(crate) numbers: BTreeSet<String>,
    /// Inside fences or backticks.
    pub(crate) code: BTreeSet<String>,
    /// Addresses of pages and of people.
    pub(crate) links: BTreeSet<String>,
    /// Inside quotation marks, white space as single spaces.
    pub(crate) quotations: BTreeSet<String>,
    /// Capitalised words that do not open a sentence.
    pub(crate) names: BTreeSet<String>,
}

impl Holds {
    /// Of a text.
    pub(crate) fn of(text: &str) -> Self {
        let mut out = Self::default();
        let mut rest = text.to_owned();
        for (whole, inner) in code(text) {
            let inside = text[inner].trim();
            if !inside.is_empty() {
                out.code.insert(inside.to_owned());
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
        out.names = names(&rest);
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
        let head = word.len() - word.trim_start_matches(['(', '[', '\'', '*', '_', '{']).len();
        let bare =
            word[head..].trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '}', '\'', '*', '_']);
        let lower = bare.to_ascii_lowercase();
        let scheme = lower.split_once("://").is_some_and(|(s, rest)| {
            !rest.is_empty() && !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
        });
        let page = scheme || (lower.starts_with("www.") && lower.len() > 4) || lower.starts_with("mailto:");
        let person = bare
            .split_once('@')
            .is_some_and(|(who, host)| !who.is_empty() && host.contains('.') && !host.contains('@'));
        // A link of Markdown has its address behind its text.
        if let Some(inner) = lower.find("](").filter(|_| lower.contains("://")) {
            out.push(start + head + inner + 2..start + head + bare.len());
        } else if page || person {
            out.push(start + head..start + head + bare.len());
        }
    }
    out
}

fn quotations(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some((open, c)) =
        text[at..].char_indices().find(|(_, c)| matches!(c, '"' | '“' | '„' | '«' | '「' | '『'))
    {
        let from = at + open + c.len_utf8();
        let closers: &[char] = match c {
            '"' => &['"'],
            '“' => &['”', '"'],
            '„' => &['“', '”'],
            '«' => &['»'],
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

/// Numbers with their inner points, commas, colons and slashes.
fn numbers(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
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
        out.insert(format!("{}{}", if minus { "-" } else { "" }, without_commas(&number)));
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

fn names(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut opens = true;
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let bare = bare.strip_suffix("'s").or_else(|| bare.strip_suffix("’s")).unwrap_or(bare);
        let starts = word.starts_with(['"', '“', '(', '*', '#', '-', '\'', '«', '„']);
        if !bare.is_empty() {
            let capital = bare.starts_with(char::is_uppercase) && bare.chars().count() > 1;
            if capital && !opens && !starts && !bare.starts_with("I'") && !bare.starts_with("I’") {
                out.insert(bare.to_owned());
            }
            opens = false;
        }
        opens |= word.ends_with(['.', '!', '?', ':', '…', '"', '”', ';']) || bare.is_empty();
    }
    out
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

/// Words that turn the meaning, of those in a text.
pub(crate) fn turning(text: &str) -> BTreeSet<String> {
    words(text).filter(|w| TURNING.contains(&w.as_str())).collect()
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

    #[test]
    fn what_a_text_holds() {
        let h = Holds::of(
            "Ann paid 1,250.50 euros at 10:30, −3 degrees. Run `ls -l 7` or see https://a.org/x?y=1, mail \
             bob@b.org. She said \"so  be it\". Then Tom left.\n```py\nx = 9\n```\n「はい」と[home](http://c.d/e).",
        );
        assert_eq!(list(&h.numbers), ["-3", "10:30", "1250.50"]);
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
        assert_eq!(list(&h.numbers), ["12,34", "1234567", "5,5"]);
    }
}
