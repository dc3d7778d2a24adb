//! The suite *arithmetic*: sums in words with one sentence too many (after Shi et al. 2023, "Large language models
//! can be easily distracted by irrelevant context"; all sentences are the project's own).
//!
//! What is too much varies over topic × role × range of its number, eight cells. Every such sentence is checked
//! ([`harmless`]) before it is used. Problems are a ladder of the project's own, from one sum of two digits up to
//! three steps, or GSM8K's where its file is given.

use std::path::Path;

use refocus_compute::{Philox, Purpose};
use serde::Deserialize;

use crate::opinions::{QuestionError, json_lines};
use crate::planted::{Item, Judge, Piece, pick, says, shuffled, telling, whole_numbers};

const DRAW: Purpose = Purpose::new("arithmetic: ladder");
const NAMES: [&str; 12] =
    ["Ada", "Bruno", "Carla", "Dino", "Edith", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kim", "Lea"];
const OBJECTS: [&str; 10] =
    ["apples", "marbles", "stickers", "books", "coins", "pencils", "shells", "buttons", "tickets", "candles"];
/// Rungs of the ladder: what is added and how large the numbers are.
pub const RUNGS: [&str; 4] = ["one digit one step", "two digits one step", "two steps", "three steps"];

/// On the topic of the problem; `{who}` and `{n}` are filled in, `{what}` is what is counted.
const ON_TOPIC: [&str; 6] = [
    "{who} read a magazine about {what} that has {n} pages.",
    "{who} once walked {n} minutes to see a show of {what}.",
    "{who} has a drawing of {what} that is {n} centimetres wide.",
    "{who} watched a film about {what} that lasts {n} minutes.",
    "{who} keeps the {what} on a shelf that is {n} centimetres high.",
    "{who} heard a song about {what} that is {n} seconds long.",
];
/// Off it.
const OFF_TOPIC: [&str; 6] = [
    "{who} lives in a street with {n} lamps.",
    "{who} took the bus with the number {n} this morning.",
    "{who} swam {n} metres on Sunday.",
    "{who} has a cousin whose garden is {n} steps long.",
    "{who} waited {n} minutes for a friend.",
    "{who} slept in a hotel with {n} windows.",
];

/// How a sentence that is too much relates to the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// It is about the same things.
    pub on_topic: bool,
    /// It is about the same person.
    pub same_role: bool,
    /// Its number is as large as those of the problem.
    pub in_range: bool,
}

impl Cell {
    /// All eight.
    pub fn all() -> [Self; 8] {
        std::array::from_fn(|i| Self { on_topic: i & 1 == 0, same_role: i & 2 == 0, in_range: i & 4 == 0 })
    }

    /// As in results: `on topic, same person, small number`.
    pub fn name(self) -> String {
        let topic = if self.on_topic { "on topic" } else { "off topic" };
        let role = if self.same_role { "same person" } else { "another person" };
        let range = if self.in_range { "number in range" } else { "number out of range" };
        format!("{topic}, {role}, {range}")
    }
}

/// Why a sentence may change an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Harm {
    /// Its number stands in the problem or is its answer.
    #[error("its number {0} is one of the problem's")]
    Number(i64),
    /// It counts what is asked for.
    #[error("it counts {0}, which the question asks for")]
    Counts(String),
    /// It has a word that makes a number relate to others.
    #[error("its word {0:?} may relate its number to others")]
    Relates(&'static str),
    /// The problem has a word by which it measures something.
    #[error("the problem speaks of {0:?} too")]
    Shared(String),
}

/// Words that let a sentence change a count.
const RELATING: [&str; 20] = [
    "more",
    "fewer",
    "less",
    "twice",
    "half",
    "each",
    "every",
    "per",
    "gives",
    "gave",
    "gets",
    "got",
    "buys",
    "bought",
    "sells",
    "sold",
    "lost",
    "loses",
    "altogether",
    "total",
];
/// What the sentences measure.
const MEASURES: [&str; 12] = [
    "pages",
    "minutes",
    "centimetres",
    "seconds",
    "lamps",
    "bus",
    "metres",
    "steps",
    "windows",
    "garden",
    "hotel",
    "friend",
];

/// Checks that a sentence neither changes the answer of a problem nor mentions what it asks for.
///
/// # Errors
/// The first reason to think that it does.
pub fn harmless(sentence: &str, problem: &str, asked: &str, answer: i64) -> Result<(), Harm> {
    let theirs = whole_numbers(problem);
    if let Some(n) = whole_numbers(sentence).into_iter().find(|n| theirs.contains(n) || *n == answer) {
        return Err(Harm::Number(n));
    }
    let words: Vec<String> = sentence
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect();
    let counted = |pair: &[String]| pair[0].bytes().all(|b| b.is_ascii_digit()) && says(asked, &pair[1]);
    if let Some(pair) = words.windows(2).find(|p| counted(p)) {
        return Err(Harm::Counts(pair[1].clone()));
    }
    if let Some(word) = RELATING.iter().find(|r| words.iter().any(|w| w == *r)) {
        return Err(Harm::Relates(word));
    }
    let shared = |m: &&&str| says(sentence, m) && says(problem, m);
    if let Some(m) = MEASURES.iter().find(shared) {
        return Err(Harm::Shared((*m).to_owned()));
    }
    Ok(())
}

/// A problem with its steps.
struct Problem {
    who: &'static str,
    what: &'static str,
    start: i64,
    /// What comes or, below 0, goes.
    steps: Vec<i64>,
}

impl Problem {
    fn draw(rng: &Philox, rung: usize, i: u32) -> Self {
        let (a, b) = (rng.at(1, rung as u32, i), rng.at(2, rung as u32, i));
        let largest = if rung == 0 { 9 } else { 40 };
        let number = |word: u32| 2 + pick(word, largest - 1) as i64;
        let start = number(a[2]);
        let mut now = start;
        let steps = (0..rung.max(1)).map(|k| {
            let n = number(b[k]);
            // Nothing is given away that is not there.
            let step = if b[3] >> k & 1 == 1 && n < now { -n } else { n };
            now += step;
            step
        });
        Self {
            steps: steps.collect(),
            who: NAMES[pick(a[0], NAMES.len())],
            what: OBJECTS[pick(a[1], OBJECTS.len())],
            start,
        }
    }

    fn answer(&self) -> i64 {
        self.start + self.steps.iter().sum::<i64>()
    }

    /// Its sentences with the numbers they stand for, then the question.
    fn pieces(&self) -> Vec<Piece> {
        let Self { who, what, start, .. } = self;
        let mut out = vec![Piece::needed(format!("{who} has {start} {what}."), [start.to_string()])];
        for (k, step) in self.steps.iter().enumerate() {
            let then = if k == 0 { "" } else { "Then " };
            let n = step.abs();
            let text = if *step > 0 {
                format!("{then}{who} gets {n} more.")
            } else {
                format!("{then}{who} gives {n} away.")
            };
            out.push(Piece::needed(text, [n.to_string()]));
        }
        out.push(Piece::needed(format!("How many {what} does {who} have now?"), ["how many", *what]));
        out
    }
}

/// Problems of the ladder, the rungs and cells in turn.
pub fn ladder(seed: u64, n: usize) -> Vec<Item> {
    let rng = Philox::new(seed, DRAW);
    let cells = Cell::all();
    let (mut out, mut i) = (Vec::with_capacity(n), 0u32);
    while out.len() < n {
        let (place, at) = (out.len(), i);
        i += 1;
        let rung = place % RUNGS.len();
        let cell = cells[place / RUNGS.len() % cells.len()];
        let problem = Problem::draw(&rng, rung, at);
        // A drawn sentence that might do harm is drawn again with the problem.
        out.extend(item(&problem, cell, rung, &rng, at));
    }
    out
}

fn item(problem: &Problem, cell: Cell, rung: usize, rng: &Philox, i: u32) -> Option<Item> {
    let words = rng.at(3, rung as u32, i);
    let answer = problem.answer();
    let mut pieces = problem.pieces();
    let text = pieces.iter().map(|p| p.text.as_str()).collect::<Vec<_>>().join(" ");
    let who = if cell.same_role { problem.who } else { another(problem.who, words[0]) };
    let largest = whole_numbers(&text).into_iter().max().unwrap_or(9);
    let number = number(cell, largest, words[1]);
    let sentence = sentence(cell, who, problem.what, number, words[2]);
    harmless(&sentence, &text, problem.what, answer).ok()?;
    let last = pieces.len() - 1;
    pieces.insert(last, Piece::planted(sentence, [number.to_string()]));
    // With the number that does not belong there, and with a slip at the last step.
    let slip = answer - 2 * problem.steps.last().copied().unwrap_or(0);
    let mut options = vec![answer, answer + number];
    for wrong in [slip, answer + 1, answer - 1, answer + 2, answer + 10] {
        if options.len() < 4 && wrong >= 0 && !options.contains(&wrong) {
            options.push(wrong);
        }
    }
    Some(Item {
        key: format!("{} {}, {i}", problem.who, problem.what),
        cell: format!("{}: {}", RUNGS[rung], cell.name()),
        before: Vec::new(),
        pieces,
        judge: Judge::answer_is(options, 0),
    })
}

fn another(who: &str, word: u32) -> &'static str {
    let others: Vec<&'static str> = NAMES.into_iter().filter(|n| *n != who).collect();
    others[pick(word, others.len())]
}

/// A number as large as those of the problem, or a thousand and more.
fn number(cell: Cell, largest: i64, word: u32) -> i64 {
    if cell.in_range {
        2 + pick(word, largest.clamp(8, 99) as usize - 1) as i64
    } else {
        1001 + pick(word, 8000) as i64
    }
}

fn sentence(cell: Cell, who: &str, what: &str, n: i64, word: u32) -> String {
    let list = if cell.on_topic { ON_TOPIC } else { OFF_TOPIC };
    let text = list[pick(word, list.len())];
    text.replace("{who}", who).replace("{what}", what).replace("{n}", &n.to_string())
}

#[derive(Deserialize)]
struct Line {
    question: String,
    answer: String,
}

/// Problems of a file of JSON lines with `question` and `answer`, which ends with `#### NUMBER`, as GSM8K has
/// them; at most `n`, drawn by the seed. What has no whole number as its answer, no person or nothing that is
/// counted is left out, and so is what no sentence is harmless for.
///
/// # Errors
/// The file cannot be read, a line is none, or no problem is left.
pub fn from_file(path: &Path, seed: u64, n: usize) -> Result<Vec<Item>, QuestionError> {
    let mut lines = Vec::new();
    for (i, l) in json_lines::<Line>(path)? {
        let bad = |why: String| QuestionError::Line { path: path.to_owned(), line: i + 1, why };
        let Some((_, number)) = l.answer.rsplit_once("####") else {
            return Err(bad("its answer does not end with #### and a number".to_owned()));
        };
        if let Ok(answer) = number.trim().replace(',', "").parse::<i64>() {
            lines.push((i, l.question, answer));
        }
    }
    let rng = Philox::new(seed, DRAW);
    let cells = Cell::all();
    let mut out = Vec::new();
    for at in shuffled(&rng, 4, lines.len()) {
        if out.len() == n {
            break;
        }
        let (line, question, answer) = &lines[at];
        out.extend(given(*line, question, *answer, cells[out.len() % cells.len()], &rng));
    }
    if out.is_empty() {
        return Err(QuestionError::Empty { path: path.to_owned() });
    }
    Ok(out)
}

/// A problem that was given, with a sentence before its question.
fn given(line: usize, problem: &str, answer: i64, cell: Cell, rng: &Philox) -> Option<Item> {
    let words = rng.at(5, 0, line as u32);
    let problem = problem.trim();
    let start = last_sentence(problem)?;
    let (story, question) = (problem[..start].trim_end(), problem[start..].trim());
    let numbers = whole_numbers(problem);
    let largest = numbers.iter().copied().max()?;
    let who = if cell.same_role {
        person(story)?
    } else {
        NAMES.into_iter().find(|n| !says(problem, n))?.to_owned()
    };
    let number = number(cell, largest, words[1]);
    let what = counted(story)?;
    // Another sentence may be harmless where one is not.
    let sentence =
        (0..6).map(|k| sentence(cell, &who, &what, number, words[2].wrapping_add(k * (u32::MAX / 6)))).find(
            // What is asked for is not known exactly, so nothing that is counted may be counted.
            |s| harmless(s, problem, &format!("{what} {question}"), answer).is_ok(),
        )?;
    let digits = |text: &str| whole_numbers(text).into_iter().map(|n| n.to_string());
    Some(Item {
        key: format!("line {}", line + 1),
        cell: cell.name(),
        before: Vec::new(),
        pieces: vec![
            Piece::needed(story, digits(story)),
            Piece::planted(sentence, [number.to_string()]),
            Piece::needed(question, digits(question).chain(telling(question, 1))),
        ],
        judge: Judge::Number(answer),
    })
}

/// Where the last sentence starts, if another is before it.
fn last_sentence(text: &str) -> Option<usize> {
    let body = text.trim_end().trim_end_matches(['?', '.', '!']);
    let at = body.rfind(['.', '?', '!']).filter(|&at| body[at + 1..].starts_with(char::is_whitespace))?;
    Some(at + 1)
}

/// A name: a word with a capital that is not only at the beginning of sentences.
fn person(story: &str) -> Option<String> {
    let words: Vec<&str> = story.split_whitespace().collect();
    let name = words.iter().enumerate().find(|(i, w)| {
        let plain = w.chars().all(char::is_alphabetic) && w.chars().count() > 2;
        let capital = w.chars().next().is_some_and(char::is_uppercase);
        let inside = *i > 0 && !words[i - 1].ends_with(['.', '?', '!', ':']);
        capital && plain && inside
    });
    name.map(|(_, w)| (*w).to_owned())
}

/// The word after the first number, in the plural.
fn counted(story: &str) -> Option<String> {
    let words: Vec<&str> = story.split_whitespace().collect();
    let is_number = |w: &&str| w.bytes().all(|b| b.is_ascii_digit());
    let mut after =
        words.windows(2).filter(|p| is_number(&p[0])).map(|p| p[1].trim_end_matches(['.', ',', '?']));
    after
        .find(|w| w.len() > 3 && w.ends_with('s') && w.chars().all(char::is_alphabetic))
        .map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::planted::Part;

    /// Works a problem out from its words alone.
    fn solved(text: &str) -> i64 {
        let mut now = 0;
        for s in text.split(". ") {
            let n = whole_numbers(s).first().copied().unwrap_or(0);
            match s {
                _ if s.contains(" has ") && now == 0 => now = n,
                _ if s.contains(" gets ") => now += n,
                _ if s.contains(" gives ") => now -= n,
                _ => {}
            }
        }
        now
    }

    #[test]
    fn answers_are_right_and_what_is_planted_is_harmless() {
        let items = ladder(7, 640);
        for i in &items {
            let Judge::Options { options, right: 0, .. } = &i.judge else { panic!("{}", i.key) };
            let answer = solved(&i.oracle());
            assert!(answer >= 0);
            assert_eq!(options[0], format!("The answer is {answer}."), "{}", i.oracle());
            assert_eq!(options.iter().collect::<BTreeSet<_>>().len(), 4);
            let planted: Vec<&Piece> = i.parts(Part::Planted).collect();
            let [said] = planted.as_slice() else { panic!("one sentence") };
            assert_eq!(i.prompt().replace(&format!("{} ", said.text), ""), i.oracle());
            let object = OBJECTS.iter().find(|o| i.oracle().contains(*o)).expect("an object");
            assert_eq!(harmless(&said.text, &i.oracle(), object, answer), Ok(()));
            assert!(!said.is_in(&i.oracle()));
            for p in i.parts(Part::Needed) {
                assert!(p.is_in(&i.oracle()), "{}: {}", p.text, i.oracle());
            }
        }
        let cells: BTreeSet<&str> = items.iter().map(|i| i.cell.as_str()).collect();
        assert_eq!(cells.len(), 32);
        assert_eq!(ladder(7, 9), items[..9]);
        assert_ne!(ladder(8, 9), items[..9]);
    }

    #[test]
    fn cells_are_what_they_say() {
        for i in ladder(0, 256) {
            let who = i.key.split(' ').next().expect("a name");
            let said = i.parts(Part::Planted).next().expect("a sentence");
            assert_eq!(says(&said.text, who), i.cell.contains("same person"), "{}", said.text);
            let what = i.key.split([' ', ',']).nth(1).expect("a thing");
            assert_eq!(says(&said.text, what), i.cell.contains("on topic"), "{}", said.text);
            assert_eq!(whole_numbers(&said.text)[0] > 1000, i.cell.contains("out of range"));
        }
    }

    #[test]
    fn sentences_that_may_matter_are_refused() {
        let problem = "Ada has 3 apples. Ada gets 4 more. How many apples does Ada have now?";
        let told = |s: &str| harmless(s, problem, "apples", 7).expect_err("refused").to_string();
        assert_eq!(told("A street has 7 lamps."), "its number 7 is one of the problem's");
        assert_eq!(told("Bruno has 9 apples."), "it counts apples, which the question asks for");
        assert_eq!(told("Bruno gives 9 pears away."), "its word \"gives\" may relate its number to others");
        let longer = problem.replace("How", "It took 20 minutes. How");
        let shared = harmless("Ada waited 9 minutes.", &longer, "apples", 7);
        assert_eq!(shared, Err(Harm::Shared("minutes".into())));
    }

    #[test]
    fn given_problems_get_a_sentence_before_their_question() {
        let dir = std::env::temp_dir().join(format!("refocus-arithmetic-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("folder");
        let path = dir.join("p.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("write");
            from_file(&path, 0, 10)
        };
        let line = r#"{"question": "At noon Mia packs 12 boxes. She adds 3 jars to each. How many jars are there?", "answer": "12*3\n#### 36"}"#;
        let items = read(line).expect("items");
        assert_eq!(items[0].judge, Judge::Number(36));
        assert_eq!(
            items[0].oracle(),
            "At noon Mia packs 12 boxes. She adds 3 jars to each. How many jars are there?"
        );
        let said = items[0].parts(Part::Planted).next().expect("a sentence");
        assert!(said.text.starts_with("Mia "), "{}", said.text);
        assert!(items[0].prompt().ends_with(&format!("{} How many jars are there?", said.text)));
        let told = |text: &str| read(text).expect_err("refused").to_string();
        assert!(told(&line.replace("####", "=")).ends_with("does not end with #### and a number"));
        let plain = line.replace("12 boxes", "boxes").replace("3 jars", "jars");
        assert!(told(&plain).ends_with("it has no question"));
        std::fs::remove_dir_all(&dir).expect("remove");
    }
}
