//! What a piece is there for: the question, an instruction on the answer, or context.
//!
//! Words of a few languages and punctuation of many; what is not recognised is context, and a text whose
//! question is not recognised is left alone.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Kind, Part, Piece};
use crate::holds::{Holds, in_order};

/// Bytes of a line that announces choices, at most.
const LONGEST_HEADING: usize = 60;
/// First words of a question.
const ASKING: &[&str] = &[
    "what", "what's", "who", "who's", "whom", "whose", "where", "where's", "when", "why", "how", "which",
    "was", "wer", "wo", "wann", "warum", "wie", "welche", "welcher", "welches", "quel", "quelle", "quels",
    "quelles", "qui", "où", "quand", "pourquoi", "comment", "combien", "qué", "quién", "dónde", "cuándo",
    "cuál", "cuánto", "cómo",
];
/// Of these, the ones that are often other words: a German *what*, a French *how*.
const DOUBTFUL: &[&str] = &["was", "comment"];
/// What *how* asks for, where it does not ask for the way.
const DEGREES: &[&str] = &[
    "many", "much", "long", "old", "far", "often", "big", "tall", "high", "large", "fast", "deep", "wide",
    "heavy", "hot", "cold", "soon", "late", "few", "little", "small",
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
/// What else a model may be told to write.
const OWN: &[&str] = &["text", "result", "essay", "summary", "message"];
/// Verbs that, with *like* or *as*, tell in which voice.
const VOICES: &[&str] = &["answer", "reply", "respond", "write", "sound"];
/// What says that something has to be so.
const MUST: &[&str] = &["must", "should", "shall", "has to", "have to", "needs to", "need to", "is to"];
/// How a limit begins.
const LIMITS: &[&str] = &[
    "no more than ",
    "not more than ",
    "at most ",
    "at least ",
    "fewer than ",
    "less than ",
    "under ",
    "exactly ",
    "about ",
    "around ",
    "up to ",
    "a maximum of ",
    "only ",
    "just ",
    "a ",
];
/// Numbers as words, as far as limits have them.
const COUNTS: &[&str] = &[
    "single", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve",
    "fifteen", "twenty", "thirty", "forty", "fifty", "sixty", "hundred", "few",
];
/// What limits count.
const UNITS: &[&str] = &[
    "word",
    "words",
    "sentence",
    "sentences",
    "lines",
    "letters",
    "paragraph",
    "paragraphs",
    "characters",
    "bullets",
    "digits",
    "decimals",
    "verses",
];
const LANGUAGES: &[&str] = &[
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
];
/// Words of a whole sentence, which "In French." is not.
const STATING: &[&str] = &[
    "is", "are", "was", "were", "has", "have", "had", "means", "mean", "called", "he", "she", "they", "it",
    "we", "i", "people",
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

/// Whether a word in small letters may be one of those that announce an opinion.
pub(crate) fn announces(word: &str) -> bool {
    OPINION.iter().any(|mark| mark.split(' ').any(|w| w == word))
}

/// Whether it does so at its beginning.
pub(super) fn begins_opinion(text: &str) -> bool {
    let lower = plain(text);
    let bare = after_polite(lower.trim_start_matches(|c: char| !c.is_alphanumeric()));
    OPINION.iter().any(|mark| bare.starts_with(mark))
}

/// Whether a piece says how the answer is to be: its format, its language or the voice it is in.
pub fn is_instruction(text: &str) -> bool {
    let lower = plain(text);
    let bare = after_polite(lower.trim_start_matches(|c: char| !c.is_alphanumeric()));
    if PERSONA.iter().any(|p| bare.starts_with(p)) {
        return true;
    }
    let first = first_word(bare);
    let rest = bare[first.len()..].trim_start();
    if bare.contains('?') {
        return false;
    }
    let form = || FORM.iter().chain(LANGUAGES).any(|form| found(bare, form));
    match first {
        // "In 1990 he wrote a list" is none, "In one word." is.
        "in" => (bare.split_whitespace().count() <= 6 && form()) || is_limit(rest) || is_language(rest),
        // "Your answer must be a number." is.
        "your" | "the" => {
            let of = first_word(rest);
            let must = MUST.iter().any(|m| found(rest, m));
            // Of a text or an essay, more is said than what it has to be.
            let answer = ["answer", "reply", "response", "output"].contains(&of);
            let yours = first == "your" && (answer || (must && OWN.contains(&of)));
            (yours || (answer && must)) && form()
        }
        "make" => rest.starts_with("sure ") && form(),
        "ensure" => form(),
        _ => {
            let second = first_word(rest);
            let voice = second == "like" || (second == "as" && first != "write");
            (voice && VOICES.contains(&first)) || (ANSWERING.contains(&first) && form())
        }
    }
}

/// Whether it begins as a limit does: a number, with what it counts among the words behind it.
fn is_limit(text: &str) -> bool {
    let bare = LIMITS.iter().find_map(|l| text.strip_prefix(l)).unwrap_or(text);
    let mut words = bare.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    let counts = words.next().is_some_and(|w| w.starts_with(char::is_numeric) || COUNTS.contains(&w));
    counts && !text.split(' ').any(|w| STATING.contains(&w)) && words.take(3).any(|w| UNITS.contains(&w))
}

/// Whether it begins with a language and says nothing of it.
fn is_language(text: &str) -> bool {
    let words = || text.split(|c: char| !c.is_alphanumeric());
    words().next().is_some_and(|w| LANGUAGES.contains(&w)) && !words().any(|w| STATING.contains(&w))
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

/// Whether a text has a question mark at its end, or the one that opens a question.
pub(crate) fn ends_asking(text: &str) -> bool {
    let bare = text.trim();
    let end = bare.trim_end_matches(|c: char| !c.is_alphanumeric() && !is_question_mark(c));
    end.ends_with(is_question_mark) || bare.starts_with('¿')
}

/// Whether a word in small letters opens a request, or is a label before a question.
pub(crate) fn is_telling(word: &str) -> bool {
    let label = ["question", "task", "query", "frage", "pregunta"];
    TELLING.contains(&word) || POLITE.contains(&word) || ASKING.contains(&word) || label.contains(&word)
}

/// The words that say what is asked for: *when*, *how many*. Forms of one word are the same.
pub(crate) fn question_words(text: &str) -> BTreeSet<String> {
    let words = in_order(text);
    let next = |i: usize| words.get(i + 1).map_or("", String::as_str);
    let asking = words
        .iter()
        .enumerate()
        .filter(|(_, w)| ASKING.contains(&w.as_str()) && !DOUBTFUL.contains(&w.as_str()));
    let word = asking.map(|(i, w)| match w.as_str() {
        "which" => "what".to_owned(),
        "whom" => "who".to_owned(),
        "how" if DEGREES.contains(&next(i)) => format!("how {}", next(i)),
        w if w.starts_with("welche") => "welche".to_owned(),
        w if w.starts_with("quel") => "quel".to_owned(),
        w => w.to_owned(),
    });
    word.collect()
}

fn asks(piece: &str) -> Asks {
    if ends_asking(piece) {
        return Asks::Yes;
    }
    let lower = plain(piece);
    let bare = lower.trim();
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
