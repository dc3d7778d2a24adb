//! What a piece is there for: the question, an instruction on the answer, or context.
//!
//! Words of a few languages and punctuation of many; what is not recognised is context, and a text whose
//! question is not recognised is left alone.

use std::ops::Range;

use super::{Kind, Part, Piece};
use crate::holds::Holds;

/// Bytes of a line that announces choices, at most.
const LONGEST_HEADING: usize = 60;
/// First words of a question.
const ASKING: &[&str] = &[
    "what", "what's", "who", "who's", "whom", "whose", "where", "where's", "when", "why", "how", "which",
    "was", "wer", "wo", "wann", "warum", "wie", "welche", "welcher", "welches", "quel", "quelle", "quels",
    "quelles", "qui", "où", "quand", "pourquoi", "comment", "combien", "qué", "quién", "dónde", "cuándo",
    "cuál", "cuánto", "cómo",
];
/// First words of a request.
const TELLING: &[&str] = &[
    "name",
    "tell",
    "give",
    "list",
    "explain",
    "describe",
    "write",
    "summarize",
    "summarise",
    "translate",
    "find",
    "compute",
    "calculate",
    "solve",
    "determine",
    "show",
    "compare",
    "classify",
    "rewrite",
    "rate",
    "review",
    "comment",
    "discuss",
    "evaluate",
    "analyze",
    "analyse",
    "identify",
    "choose",
    "pick",
    "decide",
    "prove",
    "fix",
    "implement",
    "complete",
    "continue",
    "suggest",
    "recommend",
    "convert",
    "correct",
    "edit",
    "create",
    "generate",
    "make",
    "draw",
    "count",
    "estimate",
    "simplify",
    "extract",
    "nenne",
    "erkläre",
    "beschreibe",
    "schreibe",
    "berechne",
    "nomme",
    "explique",
    "écris",
    "calcule",
    "nombra",
    "explica",
    "escribe",
    "calcula",
];
/// Words before the verb of a request.
const POLITE: &[&str] =
    &["please", "pls", "bitte", "now", "then", "also", "and", "but", "so", "finally", "kindly"];
/// How an opinion is announced.
const OPINION: &[&str] = &[
    "i think",
    "i believe",
    "i feel",
    "i guess",
    "i suppose",
    "i assume",
    "i suspect",
    "i bet",
    "i reckon",
    "i'd say",
    "i would say",
    "i'm sure",
    "i am sure",
    "i'm pretty sure",
    "i'm convinced",
    "i am convinced",
    "i'm certain",
    "i am certain",
    "i'm not sure",
    "i am not sure",
    "i'm confident",
    "i don't think",
    "i do not think",
    "i don't believe",
    "i do not believe",
    "i doubt",
    "i really like",
    "i really dislike",
    "i like",
    "i love",
    "i hate",
    "i prefer",
    "i dislike",
    "i agree",
    "i disagree",
    "in my opinion",
    "in my view",
    "to my mind",
    "personally",
    "imho",
    "imo",
    "if you ask me",
    "as far as i know",
    "it seems to me",
    "everyone knows",
    "everybody knows",
    "obviously",
    "of course",
    "clearly",
    "my guess",
    "my feeling",
    "my favourite",
    "my favorite",
    "my opinion",
    "don't you think",
    "don't you agree",
    "ich glaube",
    "ich denke",
    "ich finde",
    "ich meine",
    "meiner meinung nach",
    "je pense",
    "je crois",
    "à mon avis",
    "creo que",
    "pienso que",
    "en mi opinión",
    "我认为",
    "我觉得",
    "我想",
    "私は思",
    "と思う",
    "と思います",
];
/// What an instruction on the answer speaks of, with the verbs that make it one.
const ANSWERING: &[&str] = &[
    "answer",
    "reply",
    "respond",
    "write",
    "speak",
    "output",
    "return",
    "format",
    "use",
    "give",
    "keep",
    "limit",
    "be",
    "start",
    "begin",
    "end",
    "include",
    "don't",
    "do",
    "avoid",
    "never",
    "always",
    "only",
    "explain",
    "put",
    "present",
    "print",
    "antworte",
    "schreibe",
    "réponds",
    "répondez",
    "responde",
    "contesta",
];
const FORM: &[&str] = &[
    "json",
    "yaml",
    "xml",
    "csv",
    "html",
    "markdown",
    "latex",
    "table",
    "bullet",
    "bullets",
    "list",
    "sentence",
    "sentences",
    "word",
    "words",
    "letter",
    "letters",
    "line",
    "lines",
    "paragraph",
    "paragraphs",
    "character",
    "characters",
    "number",
    "digits",
    "code",
    "format",
    "style",
    "tone",
    "english",
    "french",
    "german",
    "spanish",
    "italian",
    "portuguese",
    "dutch",
    "polish",
    "russian",
    "chinese",
    "japanese",
    "korean",
    "arabic",
    "hindi",
    "latin",
    "turkish",
    "language",
    "uppercase",
    "lowercase",
    "capitals",
    "yes or no",
    "step by step",
    "briefly",
    "brief",
    "short",
    "concise",
    "detail",
    "emoji",
    "emojis",
    "rhyme",
    "verse",
    "deutsch",
    "englisch",
    "französisch",
    "français",
    "anglais",
    "español",
    "inglés",
    "wort",
    "worten",
    "mots",
    "palabras",
    "units",
    "decimal",
    "decimals",
    "true or false",
    "one of",
];
const PERSONA: &[&str] = &[
    "you are a ",
    "you are an ",
    "you are the ",
    "you're a ",
    "you're an ",
    "act as",
    "pretend to be",
    "pretend you",
    "imagine you are",
    "imagine that you are",
    "play the role",
    "take the role",
    "speak like",
    "talk like",
    "du bist ein",
    "tu es un",
    "eres un",
    "你是",
    "あなたは",
];

/// Whether a text announces an opinion.
pub fn is_opinion(text: &str) -> bool {
    let lower = plain(text);
    OPINION.iter().any(|mark| found(&lower, mark))
}

/// Whether it does so at its beginning.
pub(super) fn begins_opinion(text: &str) -> bool {
    let lower = plain(text);
    OPINION.iter().any(|mark| lower.starts_with(mark))
}

/// Whether a piece says how the answer is to be: its format, its language or the voice it is in.
pub fn is_instruction(text: &str) -> bool {
    let lower = plain(text);
    let bare = after_polite(lower.trim_start_matches(|c: char| !c.is_alphanumeric()));
    if PERSONA.iter().any(|p| bare.starts_with(p)) {
        return true;
    }
    let first = first_word(bare);
    let verb = ANSWERING.contains(&first) || first == "in" || first == "your";
    if !verb || bare.contains('?') {
        return false;
    }
    // "In 1990 he wrote a list" is none, "In one word." is; "Your answer must be a number." is.
    if first == "in" && bare.split_whitespace().count() > 6 {
        return false;
    }
    if first == "your" && !(bare.starts_with("your answer") || bare.starts_with("your reply")) {
        return false;
    }
    FORM.iter().any(|form| found(bare, form))
}

/// Marks the question, instructions and what is never removed.
pub(super) fn mark(text: &str, pieces: &mut [Piece], question: Option<&Range<usize>>) {
    for p in pieces.iter_mut() {
        let body = &text[p.range.clone()];
        let fixed = matches!(p.kind, Kind::Code | Kind::Table) || Holds::of(body).is_fixed();
        if fixed {
            p.part = Part::Fixed;
        } else if is_instruction(body) {
            p.part = Part::Instruction;
        }
    }
    if let Some(question) = question {
        let touches = |p: &&mut Piece| p.range.start < question.end && question.start < p.range.end;
        pieces.iter_mut().filter(touches).for_each(|p| p.part = Part::Question);
        return;
    }
    // A question mark is surer than a word; an opinion may be put as a question, but is the last choice.
    let level = |p: &Piece| match asks(&text[p.range.clone()]) {
        _ if matches!(p.kind, Kind::Code | Kind::Table) || p.part == Part::Instruction => 0,
        Asks::No => 0,
        _ if is_opinion(&text[p.range.clone()]) => 1,
        Asks::Perhaps => 2,
        Asks::Yes => 3,
    };
    let levels: Vec<u8> = pieces.iter().map(level).collect();
    let best = levels.iter().copied().max().filter(|&l| l > 0);
    let Some(at) = best.and_then(|best| levels.iter().rposition(|&l| l == best)) else { return };
    let (mut first, mut end) = (at, at + 1);
    while first > 0 && levels[first - 1] >= 2 {
        first -= 1;
    }
    while levels.get(end).is_some_and(|&l| l >= 2) {
        end += 1;
    }
    // The choices that a question offers belong to it, and so does the line that announces them.
    let heads = pieces.get(end).is_some_and(|p| is_heading(&text[p.range.clone()]));
    if heads && pieces.get(end + 1).is_some_and(|p| is_choice(&text[p.range.clone()])) {
        end += 1;
    }
    while pieces.get(end).is_some_and(|p| p.kind == Kind::Line && is_choice(&text[p.range.clone()])) {
        end += 1;
    }
    pieces[first..end].iter_mut().for_each(|p| p.part = Part::Question);
    // What else may ask for something is not taken away.
    for (p, _) in pieces.iter_mut().zip(&levels).filter(|(p, l)| p.part == Part::Context && **l >= 2) {
        p.part = Part::Fixed;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    No,
    Perhaps,
    Yes,
}

fn asks(piece: &str) -> Asks {
    let lower = plain(piece);
    let bare = lower.trim();
    let end = bare.trim_end_matches(|c: char| !c.is_alphanumeric() && !is_question_mark(c));
    if end.ends_with(is_question_mark) || bare.starts_with('¿') {
        return Asks::Yes;
    }
    // Particles that end a question in Chinese and Japanese.
    let unmarked = bare.trim_end_matches(['。', '.', '！', ' ']);
    if ["吗", "呢", "ですか", "ますか", "でしょうか"].iter().any(|p| unmarked.ends_with(p)) {
        return Asks::Yes;
    }
    for label in ["question:", "q:", "task:", "query:", "frage:", "pregunta:", "问题："] {
        if bare.starts_with(label) {
            return Asks::Yes;
        }
    }
    let bare = after_polite(bare.trim_start_matches(|c: char| !c.is_alphanumeric()));
    let first = first_word(bare);
    // Labels and items that only name something are no requests: "List", "Name: Ann".
    let rest = bare[first.len()..].trim_start();
    let says_more = rest.chars().any(char::is_alphanumeric) && !rest.starts_with(':');
    if says_more && (TELLING.contains(&first) || ASKING.contains(&first)) {
        return Asks::Perhaps;
    }
    let wishes = [
        "can you",
        "could you",
        "would you",
        "i want to know",
        "i'd like to know",
        "i wonder",
        "i need you to",
    ];
    if wishes.iter().any(|w| bare.starts_with(w)) {
        return Asks::Perhaps;
    }
    Asks::No
}

/// A short line that announces something, such as `Answer choices:`.
pub(crate) fn is_heading(line: &str) -> bool {
    let bare = line.trim();
    bare.ends_with([':', '：']) && bare.len() <= LONGEST_HEADING && !bare.contains('\n')
}

/// `A) red`, `(b) blue`, `2. green`.
pub(crate) fn is_choice(piece: &str) -> bool {
    let bare = piece.trim_start().trim_start_matches(['-', '*', '(', ' ']);
    let label: String = bare.chars().take_while(char::is_ascii_alphanumeric).collect();
    let short = label.len() == 1 || (label.len() == 2 && label.chars().all(|c| c.is_ascii_digit()));
    short && bare[label.len()..].starts_with([')', '.', ':'])
}

fn is_question_mark(c: char) -> bool {
    matches!(c, '?' | '？' | '؟' | '፧' | '⁇' | '՞')
}

/// In small letters, with plain apostrophes.
fn plain(text: &str) -> String {
    text.to_lowercase().replace('’', "'")
}

fn after_polite(text: &str) -> &str {
    let mut text = text;
    while let Some(rest) =
        POLITE.iter().find_map(|p| text.strip_prefix(p).filter(|r| r.starts_with([' ', ','])))
    {
        text = rest.trim_start_matches([' ', ',']);
    }
    text
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '\'')).unwrap_or(text.len());
    &text[..end]
}

/// Whether a mark stands in a text as words of its own; marks of scripts without spaces anywhere.
fn found(text: &str, mark: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    text.match_indices(mark).any(|(at, _)| {
        let spaced = mark.is_ascii() || mark.chars().all(|c| u32::from(c) < 0x2e80);
        !spaced || (edge(text[..at].chars().next_back()) && edge(text[at + mark.len()..].chars().next()))
    })
}
