//! Lines, blocks and sentences.

use std::ops::Range;

use super::Kind;

/// Behind these a sentence never ends at the full stop.
const TITLES: &[&str] = &[
    "mr", "mrs", "ms", "dr", "prof", "st", "mt", "gen", "sen", "rep", "hon", "rev", "sgt", "capt", "lt",
    "fig", "figs", "eq", "vol", "vs", "cf", "e.g", "i.e", "eg", "ie", "viz", "approx", "ca", "z.b", "bzw",
    "nr", "mme", "mlle", "sra", "sr", "núm", "art", "pp", "ed", "eds",
];
/// Behind these one ends only before a capital letter.
const SHORTENED: &[&str] = &[
    "etc", "inc", "ltd", "co", "corp", "jr", "no", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep",
    "sept", "oct", "nov", "dec", "dept", "est", "min", "max", "avg", "al", "usw", "u.s", "p.m", "a.m",
];
/// A quotation or parenthesis that is longer does not hold its sentences together.
const LONGEST_QUOTE: usize = 600;

/// A text as sentences, lines and blocks; ranges lie end to end and cover it.
pub(super) fn pieces(text: &str) -> Vec<(Range<usize>, Kind)> {
    let mut out: Vec<(Range<usize>, Kind)> = Vec::new();
    for (range, kind) in blocks(text) {
        match kind {
            Some(kind) => out.push((range, kind)),
            None => sentences(text, range, &mut out),
        }
    }
    out
}

/// Where the code between fences and the indented code of a text is.
pub(crate) fn code_blocks(text: &str) -> impl Iterator<Item = Range<usize>> {
    blocks(text).into_iter().filter(|(_, kind)| *kind == Some(Kind::Code)).map(|(range, _)| range)
}

/// What a line is by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Blank,
    /// Opens or closes code; the run of characters that does it.
    Fence(&'a str),
    Row,
    /// A list item, heading or quoted line.
    Marked,
    /// Deeper than the text around.
    Indented,
    Plain,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let bare = line.trim_start();
        if bare.trim_end().is_empty() {
            return Line::Blank;
        }
        if let Some(fence) = fence(bare) {
            return Line::Fence(fence);
        }
        let pipes = bare.matches('|').count();
        if pipes >= 2 && bare.starts_with('|') {
            return Line::Row;
        }
        if is_marked(bare) {
            return Line::Marked;
        }
        if line.starts_with("    ") || line.starts_with('\t') { Line::Indented } else { Line::Plain }
    }
}

fn fence(bare: &str) -> Option<&str> {
    let run = |c: char| {
        let n = bare.len() - bare.trim_start_matches(c).len();
        (n >= 3).then(|| &bare[..n])
    };
    run('`').or_else(|| run('~'))
}

/// Whether a line begins as a heading, quotation or item of a list does.
fn is_marked(bare: &str) -> bool {
    if bare.starts_with(['#', '>', '•', '·', '‣', '◦']) {
        return true;
    }
    let after = |rest: &str| rest.starts_with([' ', '\t']);
    if bare.strip_prefix(['-', '*', '+', '–']).is_some_and(after) {
        return true;
    }
    let inner = bare.strip_prefix('(').unwrap_or(bare);
    let label: String = inner.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
    let digits = !label.is_empty() && label.len() <= 3 && label.chars().all(|c| c.is_ascii_digit());
    if !digits && label.len() != 1 {
        return false;
    }
    let rest = &inner[label.len()..];
    if let Some(rest) = rest.strip_prefix(')') {
        return after(rest);
    }
    // "J. R. Smith" is a name and no item J; choices seldom go beyond H.
    let rest = rest.strip_prefix('.').filter(|r| after(r) && bare.len() == inner.len());
    let initial = |r: &str| {
        let mut next = r.trim_start().chars();
        next.next().is_some_and(char::is_uppercase) && next.next() == Some('.')
    };
    rest.is_some_and(|r| digits || (label.to_ascii_uppercase().as_str() <= "H" && !initial(r)))
}

/// Blocks that are pieces as they are, and stretches of plain text (`None`).
fn blocks(text: &str) -> Vec<(Range<usize>, Option<Kind>)> {
    let mut out: Vec<(Range<usize>, Option<Kind>)> = Vec::new();
    let mut open: Option<&str> = None;
    let mut at = 0;
    let mut before = Line::Blank;
    for line in text.split_inclusive('\n') {
        let range = at..at + line.len();
        at = range.end;
        let is = Line::of(line);
        if let Some(fence) = open {
            extend(&mut out, range.end);
            if matches!(is, Line::Fence(f) if f.starts_with(fence) && line.trim() == f) {
                open = None;
                before = Line::Blank;
            }
            continue;
        }
        match is {
            // White space belongs to what is before it.
            Line::Blank if !out.is_empty() => extend(&mut out, range.end),
            Line::Blank => out.push((range, Some(Kind::Line))),
            Line::Fence(f) => {
                open = Some(f);
                out.push((range, Some(Kind::Code)));
            }
            Line::Row if matches!(out.last(), Some((_, Some(Kind::Table)))) && before == Line::Row => {
                extend(&mut out, range.end);
            }
            Line::Row => out.push((range, Some(Kind::Table))),
            Line::Marked => out.push((range, Some(Kind::Line))),
            Line::Indented if before == Line::Marked => {
                extend(&mut out, range.end);
                continue;
            }
            Line::Indented if matches!(out.last(), Some((_, Some(Kind::Code)))) => {
                extend(&mut out, range.end)
            }
            Line::Indented if before == Line::Blank && at > line.len() => out.push((range, Some(Kind::Code))),
            Line::Indented | Line::Plain => {
                let goes_on = matches!(before, Line::Plain | Line::Indented)
                    && line.trim_start().starts_with(char::is_lowercase)
                    && matches!(out.last(), Some((r, None)) if !ends(text[r.clone()].trim_end()));
                if goes_on {
                    extend(&mut out, range.end);
                } else {
                    out.push((range, None));
                }
            }
        }
        before = is;
    }
    // A text that begins with white space has it in its first piece.
    if let [(first, _), (second, _), ..] = out.as_mut_slice()
        && text[first.clone()].trim().is_empty()
    {
        second.start = first.start;
        out.remove(0);
    }
    out
}

fn extend(out: &mut [(Range<usize>, Option<Kind>)], end: usize) {
    if let Some((range, _)) = out.last_mut() {
        range.end = end;
    }
}

/// Whether a text ends as a sentence does.
fn ends(text: &str) -> bool {
    text.trim_end_matches(is_closer).ends_with(|c| is_end(c) || matches!(c, ':' | '：' | ';'))
}

fn is_end(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…') || is_own_end(c)
}

/// Ends a sentence without a space behind it.
fn is_own_end(c: char) -> bool {
    matches!(
        c,
        '。' | '！'
            | '？'
            | '｡'
            | '؟'
            | '۔'
            | '।'
            | '॥'
            | '።'
            | '፧'
            | '։'
            | '។'
            | '။'
            | '།'
            | '‼'
            | '⁇'
            | '⁈'
            | '⁉'
    )
}

fn is_closer(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | ')'
            | ']'
            | '}'
            | '”'
            | '’'
            | '»'
            | '›'
            | '」'
            | '』'
            | '）'
            | '】'
            | '》'
            | '〉'
            | '*'
            | '_'
    )
}

/// What closes an opening character.
fn closer_of(c: char) -> Option<char> {
    Some(match c {
        '"' => '"',
        '`' => '`',
        '“' | '„' => '”',
        '«' => '»',
        '「' => '」',
        '『' => '』',
        '（' => '）',
        '(' => ')',
        '[' => ']',
        '《' => '》',
        _ => return None,
    })
}

fn sentences(text: &str, range: Range<usize>, out: &mut Vec<(Range<usize>, Kind)>) {
    let body = &text[range.clone()];
    let chars: Vec<(usize, char)> = body.char_indices().collect();
    let mut start = 0;
    let mut i = 0;
    let mut push = |from: usize, to: usize| {
        let kind =
            if ends(body[from..to].trim_end()) && !body[from..to].trim_end().ends_with([':', '：', ';']) {
                Kind::Sentence
            } else {
                Kind::Line
            };
        out.push((range.start + from..range.start + to, kind));
    };
    while i < chars.len() {
        let (at, c) = chars[i];
        let (last, closed) = if let Some(close) = inside(&chars, i) {
            // What is in quotation marks is looked at from its end only.
            i = close;
            (chars[close - 1].1, true)
        } else {
            (c, false)
        };
        i += 1;
        if !is_end(last) || (closed && at + 1 == chars[i - 1].0) {
            continue;
        }
        let mut own = is_own_end(last);
        while let Some(&(_, c)) = chars.get(i).filter(|(_, c)| is_end(*c)) {
            own |= is_own_end(c);
            i += 1;
        }
        let mut closed = closed;
        while chars.get(i).is_some_and(|(_, c)| is_closer(*c)) {
            closed = true;
            i += 1;
        }
        let end = chars.get(i).map_or(body.len(), |(at, _)| *at);
        let rest = &body[end..];
        let space = rest.len() - rest.trim_start().len();
        if rest.trim_start().is_empty() {
            break;
        }
        let next = rest.trim_start().chars().next().unwrap_or(' ');
        let boundary = if own {
            !closed || space > 0
        } else {
            space > 0 && !(closed && next.is_lowercase()) && !goes_on(&body[start..end], next)
        };
        if boundary {
            let to = end + space;
            push(start, to);
            start = to;
            while chars.get(i).is_some_and(|(at, _)| *at < to) {
                i += 1;
            }
        }
    }
    if start < body.len() {
        push(start, body.len());
    }
}

/// Where a quotation or parenthesis that opens at `i` closes.
fn inside(chars: &[(usize, char)], i: usize) -> Option<usize> {
    let (at, open) = chars[i];
    let close = closer_of(open)?;
    let near = chars[i + 1..].iter().take_while(|(p, _)| p - at < LONGEST_QUOTE);
    // „…“ closes with what opens elsewhere.
    let found = near.enumerate().find(|(_, (_, c))| *c == close || (open == '„' && *c == '“'));
    found.map(|(n, _)| i + 1 + n)
}

/// Whether a sentence goes on behind its full stop because that belongs to a shortened word.
fn goes_on(sentence: &str, next: char) -> bool {
    let bare = sentence.trim_end_matches(is_closer);
    if bare.ends_with("..") || bare.ends_with('…') {
        return next.is_lowercase();
    }
    let Some(bare) = bare.strip_suffix('.') else { return false };
    let word = bare.rsplit(|c: char| !(c.is_alphanumeric() || c == '.')).next().unwrap_or_default();
    let lower = word.to_lowercase();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase) && word != "I";
    if initial || TITLES.contains(&lower.as_str()) {
        return true;
    }
    next.is_lowercase() && (SHORTENED.contains(&lower.as_str()) || word.contains('.'))
}
