//! What a rewrite may not do. Every check is on words and marks, none asks a model.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::holds::{
    Holds, all_words, block, content, content_in_order, denying, in_order, prose, spaced, spoken, stands,
    stem, turning,
};
use crate::options::Guards;
use crate::outcome::Reason;
use crate::split::{
    Kind, Part, Piece, announces, ends_asking, is_choice, is_heading, is_instruction, is_opinion, is_telling,
    question_words, split,
};

/// Share of a question's words that must be there again.
const QUESTION: f64 = 0.6;
/// A piece is gone where no more than this share of the words that only it has is there again.
const GONE: f64 = 0.2;
/// A sentence of a rewrite says a piece again where it has this share of its words or more.
const AGAIN: f64 = 0.5;
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
    let asked = &original.text[original.question.clone()];
    survives(asked, question)?;
    turns_nothing(original, question)?;
    let words = all_words(whole);
    let said: Vec<Said<'_>> = split(whole, None).into_iter().map(|p| Said::of(whole, &p)).collect();
    let (kept, removed) = parted(original, &words, &said);
    let (all, holds) = (Holds::of_all(original.text), Holds::of_all(whole));
    let (flat, plain) = (spaced(whole), [prose(original.text), prose(whole)]);
    // Without its marks code is there again where it cannot be a word of the text.
    let coded = |code: &str| {
        holds.code.iter().any(|c| c == code || c.lines().any(|l| l.trim() == code))
            || (stands(&plain[1], code) && !stands(&plain[0], code))
    };
    let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for piece in original.pieces {
        let body = &original.text[piece.range.clone()];
        if piece.kind == Kind::Code {
            let (code, lines) = block(body);
            if !(coded(&code) || stands(whole, code.trim()) || stands(whole, lines)) {
                return Err(lost("code", body.trim()));
            }
            seen.insert(code);
            continue;
        }
        let gone = removed.contains(&piece.range);
        let had = Holds::of(body);
        if piece.part == Part::Instruction && !said.iter().any(|s| instructs(body, s.text)) {
            return Err(lost("instruction", body.trim()));
        }
        // What may be a second question is as much asked as the first; links and tables are seen to below.
        let second = piece.part == Part::Fixed && piece.kind != Kind::Table;
        if second && !had.is_fixed() {
            survives(body, whole)?;
        }
        if piece.kind == Kind::Table && !content(body).is_subset(&words) {
            return Err(lost("table", body.trim()));
        }
        if let Some(code) = had.code.iter().find(|c| !coded(c)) {
            return Err(lost("code", code));
        }
        if let Some(link) = had.links.difference(&holds.links).next() {
            return Err(lost("link", link));
        }
        seen.extend(had.code);
        if gone && !guards.strict {
            continue;
        }
        for (number, n) in had.numbers {
            *wanted.entry(number).or_default() += n;
        }
        if let Some(quotation) = had.quotations.iter().find(|q| !quoted(q, &holds, &flat)) {
            return Err(lost("quotation", quotation));
        }
    }
    // A number that two sentences have is there twice.
    if let Some(number) = more(&wanted, &holds.numbers) {
        return Err(lost("number", number));
    }
    // A quotation or code over several pieces is in none of them.
    let within = |mark: &str| removed.iter().any(|r| spaced(&original.text[r.clone()]).contains(mark));
    if let Some(code) = all.code.difference(&seen).find(|c| !coded(c)) {
        return Err(lost("code", code));
    }
    let quotation =
        all.quotations.iter().find(|q| !quoted(q, &holds, &flat) && (guards.strict || !within(q)));
    if let Some(quotation) = quotation {
        return Err(lost("quotation", quotation));
    }
    if guards.nothing_new {
        // A context may say again what the question says.
        let before = whole.strip_suffix(question).filter(|c| !c.trim().is_empty()).unwrap_or(whole);
        for part in [before, question] {
            if let Some(number) = more(&Holds::of_all(part).numbers, &all.numbers) {
                return Err(Reason::Invented { what: "number", which: short(number) });
            }
        }
        nothing_new(original, whole, &holds, &all)?;
    }
    Ok((kept, removed))
}

/// A sentence of a rewrite.
struct Said<'a> {
    text: &'a str,
    /// Its words without numbers.
    words: BTreeSet<String>,
    asks: bool,
}

impl<'a> Said<'a> {
    fn of(whole: &'a str, piece: &Piece) -> Self {
        let text = &whole[piece.range.clone()];
        Self { text, words: spoken(text), asks: piece.part == Part::Question }
    }
}

/// A number that is there more often than in the others.
fn more<'n>(numbers: &'n BTreeMap<String, usize>, than: &BTreeMap<String, usize>) -> Option<&'n str> {
    numbers.iter().find(|(n, count)| than.get(*n).copied().unwrap_or(0) < **count).map(|(n, _)| n.as_str())
}

/// Whether a sentence gives an instruction: its words one after another, and none that turns them round.
fn instructs(instruction: &str, sentence: &str) -> bool {
    let follow = |wanted: &[String], of: &[String]| {
        wanted.is_empty() || of.windows(wanted.len()).any(|words| words == wanted)
    };
    let (wanted, there) = (in_order(instruction), in_order(sentence));
    // "The French answer" is no "Answer in French".
    let as_it_is = follow(&wanted, &there);
    let said =
        is_instruction(sentence) && follow(&content_in_order(instruction), &content_in_order(sentence));
    let numbers = || more(&Holds::of(instruction).numbers, &Holds::of(sentence).numbers).is_none();
    (as_it_is || said) && turning(instruction) == turning(sentence) && numbers()
}

/// Checks a text from which pieces were taken; all else is the original.
pub(crate) fn taken(original: &Original<'_>, removed: &[Range<usize>], guards: Guards) -> Result<(), Reason> {
    // Blocks of code never go.
    let text = |all: bool| -> String {
        let stays = |p: &&Piece| p.kind != Kind::Code && (all || !removed.contains(&p.range));
        original.pieces.iter().filter(stays).map(|p| &original.text[p.range.clone()]).collect()
    };
    let (all, holds) = (Holds::of(&text(true)), Holds::of(&text(false)));
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
    let gone: BTreeSet<String> = removed.iter().flat_map(|r| numbers(r).into_keys()).collect();
    let number = |n: &&String| !holds.numbers.contains_key(*n) && (guards.strict || !gone.contains(*n));
    if let Some(number) = all.numbers.keys().find(number) {
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
    holds.quotations.contains(quotation) || stands(flat, quotation)
}

/// The question, as far as words can tell: most of them, and all of its numbers, names, code, links,
/// quotations, choices, and words that say what is asked for or turn its meaning; and it still asks.
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
    let whole = more(&had.numbers, &has.numbers).is_none()
        && had.links.is_subset(&has.links)
        && had.code.iter().all(|c| has.code.contains(c) || stands(question, c))
        && had.quotations.iter().all(|q| quoted(q, &has, &flat));
    let enough = found as f64 >= QUESTION * wanted.len() as f64;
    let words = question_words(&asking(asked)).is_subset(&question_words(&asking(question)));
    let turns = turning(asked).is_subset(&turning(question));
    if enough && names && whole && words && turns && opens(asked, &there) && offers(asked, &flat) {
        Ok(())
    } else {
        Err(Reason::QuestionLost)
    }
}

/// The sentences of a text that have a question mark; all of it where none has.
fn asking(text: &str) -> String {
    let asks = split(text, None).into_iter().map(|p| &text[p.range]).filter(|s| ends_asking(s));
    let out = asks.collect::<String>();
    if out.is_empty() { text.to_owned() } else { out }
}

/// Whether what opens the sentences of a question with a capital is there again, if it may be a name.
fn opens(asked: &str, there: &BTreeSet<String>) -> bool {
    let lines = asked.lines().filter(|l| !is_heading(l) && !is_choice(l));
    let names = lines.flat_map(|l| Holds::of(l).openers).flat_map(|n| in_order(&n));
    let stems: BTreeSet<&str> = there.iter().map(|w| stem(w)).collect();
    names.filter(|n| !is_telling(n)).all(|n| stems.contains(stem(&n)))
}

/// Whether all choices of a question are there, each with its label.
fn offers(asked: &str, flat: &str) -> bool {
    let plain = |text: &str| text.replace(['(', ')', '*'], " ").to_lowercase();
    let flat = spaced(&plain(flat));
    let choices = asked.lines().filter(|l| is_choice(l) && !l.contains(['?', '？', '؟', '፧']));
    choices.map(|l| spaced(&plain(l))).all(|l| {
        stands(&flat, l.trim_start_matches(['-', ' ']).trim_end_matches(|c: char| !c.is_alphanumeric()))
    })
}

/// Words that turn the meaning of what is asked: they are the original's, and what denies is in what it asks.
fn turns_nothing(original: &Original<'_>, question: &str) -> Result<(), Reason> {
    let asked = &original.text[original.question.clone()];
    let mut denies = denying(asked);
    let marked = split(asked, None).iter().any(|p| ends_asking(&asked[p.range.clone()]));
    let others = original.pieces.iter().filter(|p| !marked || p.part == Part::Fixed);
    denies.extend(others.flat_map(|p| denying(&original.text[p.range.clone()])));
    let asks = asking(question);
    if denying(&asks).is_subset(&denies) && turning(&asks).is_subset(&turning(original.text)) {
        Ok(())
    } else {
        Err(Reason::QuestionLost)
    }
}

/// Which pieces are there again in a text of these words and sentences. Instructions and the question always count.
fn parted(original: &Original<'_>, words: &BTreeSet<String>, said: &[Said<'_>]) -> Parted {
    // Numbers do not tell a piece from another: one that loses its number is still there.
    let of: Vec<BTreeSet<String>> =
        original.pieces.iter().map(|p| spoken(&original.text[p.range.clone()])).collect();
    let mut pieces_with: BTreeMap<&str, usize> = BTreeMap::new();
    of.iter().flatten().for_each(|w| *pieces_with.entry(w).or_default() += 1);
    let context: Vec<usize> = (0..of.len()).filter(|&i| original.pieces[i].part == Part::Context).collect();
    let again = |i: usize| said.iter().any(|s| !s.asks && says(s, i, &of, &context));
    let (mut kept, mut removed) = (Vec::new(), Vec::new());
    for (i, (piece, content)) in original.pieces.iter().zip(&of).enumerate() {
        let own: Vec<&String> = content.iter().filter(|w| pieces_with[w.as_str()] == 1).collect();
        let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
        let gone = if own.is_empty() {
            let there = content.iter().filter(|w| words.contains(*w)).count();
            !content.is_empty() && share(there, content.len()) < 0.5
        } else {
            let there = own.iter().filter(|w| words.contains(**w)).count();
            share(there, own.len()) <= GONE
        };
        if gone && piece.part == Part::Context && !again(i) {
            removed.push(piece.range.clone());
        } else {
            kept.push(piece.range.clone());
        }
    }
    (kept, removed)
}

/// Whether a sentence says a piece again: it has many of its words, and they are not better those of another piece.
fn says(sentence: &Said<'_>, piece: usize, of: &[BTreeSet<String>], context: &[usize]) -> bool {
    let shared: BTreeSet<&String> = of[piece].intersection(&sentence.words).collect();
    if shared.is_empty() || (shared.len() as f64) < AGAIN * of[piece].len() as f64 {
        return false;
    }
    !context.iter().any(|&other| {
        let has = &of[other];
        let more = || has.intersection(&sentence.words).count() > shared.len() || has.len() < of[piece].len();
        other != piece && shared.iter().all(|w| has.contains(*w)) && more()
    })
}

fn nothing_new(original: &Original<'_>, whole: &str, holds: &Holds, all: &Holds) -> Result<(), Reason> {
    let invented = |what, which: &str| Err(Reason::Invented { what, which: short(which) });
    if let Some(link) = holds.links.difference(&all.links).next() {
        return invented("link", link);
    }
    if let Some(code) = holds.code.iter().find(|c| !(all.code.contains(*c) || stands(original.text, c))) {
        return invented("code", code);
    }
    let flat = spaced(original.text);
    if let Some(quotation) = holds.quotations.iter().find(|q| !stands(&flat, q)) {
        return invented("quotation", quotation);
    }
    let known = all_words(original.text);
    if let Some(name) = holds.names.iter().find(|n| all_words(n).iter().any(|w| !known.contains(w))) {
        return invented("name", name);
    }
    // What opens a sentence may be any word, but then the original has it, with this ending or another.
    let stems: BTreeSet<&str> = known.iter().map(|w| stem(w)).collect();
    let mut openers = holds.openers.iter();
    if let Some(name) = openers.find(|n| !in_order(n).iter().all(|w| stems.contains(stem(w)))) {
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
        .map(|p| original.text[p.range.clone()].trim())
        .map(|body| (body, content(body)))
        .collect();
    let facts: Vec<&(&str, BTreeSet<String>)> = pieces.iter().filter(|(of, _)| !is_opinion(of)).collect();
    let every: Vec<&(&str, BTreeSet<String>)> = pieces.iter().collect();
    split(whole, None).into_iter().filter(|p| p.part != Part::Question).find_map(|p| {
        let body = whole[p.range].trim();
        let words = content(body);
        if words.len() < 2 || facts.iter().any(|(of, _)| *of == body) {
            return None;
        }
        let enough = |n: usize| n as f64 >= SAID * words.len() as f64;
        let shared = |of: &BTreeSet<String>| words.intersection(of).count();
        let best = |of: &[&(&str, BTreeSet<String>)]| of.iter().map(|(_, of)| shared(of)).max().unwrap_or(0);
        // What an opinion says as much as any fact does, or whole, is its own; and it is no half of a fact.
        let from = if is_opinion(body) { &every } else { &facts };
        let most = best(&every);
        let mut opinions = pieces.iter().filter(|(text, _)| is_opinion(text) && !is_opinion(body));
        let all_of = |of: &BTreeSet<String>| {
            let held: BTreeSet<String> = of.iter().filter(|w| !announces(w)).cloned().collect();
            held.len() > 1 && held.is_subset(&words) && !facts.iter().any(|(_, fact)| held.is_subset(fact))
        };
        let opinion = opinions.any(|(_, of)| (enough(most) && shared(of) == most) || all_of(of));
        let either = |pair: &[&(&str, BTreeSet<String>)]| {
            enough(words.iter().filter(|w| pair.iter().any(|(_, of)| of.contains(*w))).count())
        };
        let said = enough(best(from)) || from.windows(2).any(either);
        (opinion || !said).then(|| body.to_owned())
    })
}
