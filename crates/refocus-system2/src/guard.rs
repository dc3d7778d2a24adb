//! What a rewrite may not do. Every check is on words and marks, none asks a model.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::holds::{Holds, all_words, content, spaced, turning};
use crate::options::Guards;
use crate::outcome::Reason;
use crate::split::{Kind, Part, Piece, is_opinion, split};

/// Share of a question's words that must be there again.
const QUESTION: f64 = 0.6;
/// A piece is gone where no more than this share of the words that only it has is there again.
const GONE: f64 = 0.2;
/// Share of a rewrite's words that may be new.
const NEW: f64 = 0.3;
/// Share of a sentence's words that must be in one piece of the original, or in two that are neighbours.
const SAID: f64 = 0.6;

/// The text that is rewritten.
pub(crate) struct Original<'a> {
    pub(crate) text: &'a str,
    pub(crate) pieces: &'a [Piece],
    /// Bytes of the question.
    pub(crate) question: Range<usize>,
}

/// Pieces that were kept, and those that were not.
pub(crate) type Parted = (Vec<Range<usize>>, Vec<Range<usize>>);

/// Checks a text that was written anew: `question` is the part of `whole` that should ask.
pub(crate) fn anew(
    original: &Original<'_>,
    whole: &str,
    question: &str,
    guards: Guards,
) -> Result<Parted, Reason> {
    let (bytes, most) = (whole.trim().len(), original.text.trim().len());
    if bytes > most {
        return Err(Reason::Longer { bytes, original: most });
    }
    survives(&original.text[original.question.clone()], question)?;
    let words = all_words(whole);
    let (kept, removed) = parted(original, &words);
    let holds = Holds::of(whole);
    let flat = spaced(whole);
    for piece in original.pieces {
        let body = &original.text[piece.range.clone()];
        let gone = removed.contains(&piece.range);
        let had = Holds::of(body);
        if piece.part == Part::Instruction {
            let missing = content(body).into_iter().find(|w| !words.contains(w));
            if missing.is_some() || !had.numbers.is_subset(&holds.numbers) {
                return Err(lost("instruction", body.trim()));
            }
        }
        // What may be a second question is as much asked as the first; code, links and tables are seen to below.
        let second = piece.part == Part::Fixed && !matches!(piece.kind, Kind::Code | Kind::Table);
        if second && !had.is_fixed() {
            survives(body, whole)?;
        }
        if piece.kind == Kind::Table && !content(body).is_subset(&words) {
            return Err(lost("table", body.trim()));
        }
        for code in &had.code {
            if !whole.contains(code.as_str()) {
                return Err(lost("code", code));
            }
        }
        if let Some(link) = had.links.difference(&holds.links).next() {
            return Err(lost("link", link));
        }
        if gone && !guards.strict {
            continue;
        }
        if let Some(number) = had.numbers.difference(&holds.numbers).next() {
            return Err(lost("number", number));
        }
        if let Some(quotation) = had.quotations.iter().find(|q| !quoted(q, &holds, &flat)) {
            return Err(lost("quotation", quotation));
        }
    }
    // A quotation or code over several pieces is in none of them.
    let all = Holds::of(original.text);
    let within = |mark: &str| removed.iter().any(|r| spaced(&original.text[r.clone()]).contains(mark));
    if let Some(code) = all.code.iter().find(|c| !whole.contains(c.as_str())) {
        return Err(lost("code", code));
    }
    let quotation =
        all.quotations.iter().find(|q| !quoted(q, &holds, &flat) && (guards.strict || !within(q)));
    if let Some(quotation) = quotation {
        return Err(lost("quotation", quotation));
    }
    if guards.nothing_new {
        nothing_new(original, whole, &holds, &all)?;
    }
    Ok((kept, removed))
}

/// Checks a text from which pieces were taken; all else is the original.
pub(crate) fn taken(original: &Original<'_>, removed: &[Range<usize>], guards: Guards) -> Result<(), Reason> {
    let all = Holds::of(original.text);
    let left: String = {
        let mut at = 0;
        let mut out = String::new();
        for r in removed {
            out.push_str(&original.text[at..r.start]);
            at = r.end;
        }
        out.push_str(&original.text[at..]);
        out
    };
    let holds = Holds::of(&left);
    let inside = |mark: &str| removed.iter().any(|r| spaced(&original.text[r.clone()]).contains(mark));
    let may_go = |mark: &str| !guards.strict && inside(mark);
    if let Some(code) = all.code.difference(&holds.code).next() {
        return Err(lost("code", code));
    }
    if let Some(link) = all.links.difference(&holds.links).next() {
        return Err(lost("link", link));
    }
    if let Some(quotation) = all.quotations.difference(&holds.quotations).find(|q| !may_go(q)) {
        return Err(lost("quotation", quotation));
    }
    let numbers = |r: &Range<usize>| Holds::of(&original.text[r.clone()]).numbers;
    let gone: BTreeSet<String> = removed.iter().flat_map(numbers).collect();
    if let Some(number) = all.numbers.difference(&holds.numbers).find(|n| guards.strict || !gone.contains(*n))
    {
        return Err(lost("number", number));
    }
    Ok(())
}

fn lost(what: &'static str, which: &str) -> Reason {
    Reason::Lost { what, which: short(which) }
}

fn short(text: &str) -> String {
    let mut out: String = text.chars().take(60).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

fn quoted(quotation: &str, holds: &Holds, flat: &str) -> bool {
    holds.quotations.contains(quotation) || flat.contains(quotation)
}

/// The question, as far as words can tell: most of them, and all of its numbers, names, code, links,
/// quotations and words that turn its meaning; and it still asks.
fn survives(asked: &str, question: &str) -> Result<(), Reason> {
    let marks = ['?', '？', '؟', '፧'];
    if asked.contains(marks) && !question.contains(marks) {
        return Err(Reason::QuestionLost);
    }
    let there = all_words(question);
    let mut wanted = content(asked);
    if wanted.is_empty() {
        wanted = all_words(asked);
    }
    let found = wanted.intersection(&there).count();
    let (had, has) = (Holds::of(asked), Holds::of(question));
    let flat = spaced(question);
    let names = had.names.iter().flat_map(|n| all_words(n)).all(|n| there.contains(&n));
    let whole = had.numbers.is_subset(&has.numbers)
        && had.links.is_subset(&has.links)
        && had.code.iter().all(|c| question.contains(c.as_str()))
        && had.quotations.iter().all(|q| quoted(q, &has, &flat));
    let enough = found as f64 >= QUESTION * wanted.len() as f64;
    if !(enough && names && whole && turning(asked).is_subset(&turning(question))) {
        return Err(Reason::QuestionLost);
    }
    Ok(())
}

/// Which pieces are there again in a text of these words. Instructions and the question always count.
fn parted(original: &Original<'_>, words: &BTreeSet<String>) -> Parted {
    let of: Vec<BTreeSet<String>> =
        original.pieces.iter().map(|p| content(&original.text[p.range.clone()])).collect();
    let mut pieces_with: BTreeMap<&str, usize> = BTreeMap::new();
    of.iter().flatten().for_each(|w| *pieces_with.entry(w).or_default() += 1);
    let (mut kept, mut removed) = (Vec::new(), Vec::new());
    for (piece, content) in original.pieces.iter().zip(&of) {
        let own: Vec<&String> = content.iter().filter(|w| pieces_with[w.as_str()] == 1).collect();
        let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
        let gone = if own.is_empty() {
            let there = content.iter().filter(|w| words.contains(*w)).count();
            !content.is_empty() && share(there, content.len()) < 0.5
        } else {
            let there = own.iter().filter(|w| words.contains(**w)).count();
            share(there, own.len()) <= GONE
        };
        if gone && piece.part == Part::Context {
            removed.push(piece.range.clone());
        } else {
            kept.push(piece.range.clone());
        }
    }
    (kept, removed)
}

fn nothing_new(original: &Original<'_>, whole: &str, holds: &Holds, all: &Holds) -> Result<(), Reason> {
    let invented = |what, which: &str| Err(Reason::Invented { what, which: short(which) });
    if let Some(number) = holds.numbers.difference(&all.numbers).next() {
        return invented("number", number);
    }
    if let Some(link) = holds.links.difference(&all.links).next() {
        return invented("link", link);
    }
    if let Some(code) = holds.code.iter().find(|c| !original.text.contains(c.as_str())) {
        return invented("code", code);
    }
    let flat = spaced(original.text);
    if let Some(quotation) = holds.quotations.iter().find(|q| !flat.contains(q.as_str())) {
        return invented("quotation", quotation);
    }
    let known = all_words(original.text);
    if let Some(name) = holds.names.iter().find(|n| all_words(n).iter().any(|w| !known.contains(w))) {
        return invented("name", name);
    }
    let words = content(whole);
    let new: Vec<&str> = words.difference(&known).map(String::as_str).collect();
    if new.len() > 1 && new.len() as f64 > NEW * words.len() as f64 {
        return invented("words", &new[..new.len().min(5)].join(", "));
    }
    match new_claim(original, whole) {
        Some(claim) => invented("claim", &claim),
        None => Ok(()),
    }
}

/// A sentence that puts words of several places together, or states as a fact what was an opinion.
fn new_claim(original: &Original<'_>, whole: &str) -> Option<String> {
    let pieces: Vec<(&str, BTreeSet<String>)> = original
        .pieces
        .iter()
        .filter(|p| p.part != Part::Question)
        .map(|p| &original.text[p.range.clone()])
        .map(|body| (body, content(body)))
        .collect();
    split(whole, None).into_iter().filter(|p| p.part != Part::Question).find_map(|p| {
        let body = whole[p.range].trim();
        let words = content(body);
        if words.len() < 2 {
            return None;
        }
        let enough = |n: usize| n as f64 >= SAID * words.len() as f64;
        let shared = |i: usize| words.intersection(&pieces[i].1).count();
        let best = (0..pieces.len()).max_by_key(|&i| shared(i)).filter(|&i| enough(shared(i)));
        let opinion = best.is_some_and(|i| is_opinion(pieces[i].0) && !is_opinion(body));
        let either = |pair: &[(&str, BTreeSet<String>)]| {
            enough(words.iter().filter(|w| pair.iter().any(|(_, of)| of.contains(*w))).count())
        };
        let said = best.is_some() || pieces.windows(2).any(either);
        (opinion || !said).then(|| body.to_owned())
    })
}
