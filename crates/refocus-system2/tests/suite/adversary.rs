//! A rewriter that damages what it is given, against the guards: 1,000 prompts with numbers, code, links,
//! quotations and instructions.

use std::collections::BTreeMap;
use std::ops::Range;

use refocus_compute::{Philox, Purpose};
use refocus_system2::{Options, Outcome, Request, Rewrite, Variant, rewrite};

use crate::scripted::Scripted;

const PROMPTS: u32 = 1000;
const DRAWS: Purpose = Purpose::new("adversary of the guards");

/// Draws of one prompt.
struct Dice {
    rng: Philox,
    prompt: u32,
    n: u32,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.n += 1;
        self.rng.at(0, self.prompt, self.n)[0] as usize % n
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }
}

/// What is planted in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plant {
    Number(String),
    Code(String),
    Link(String),
    Quotation(String),
    Instruction(String),
    /// A second question, by a word that only it has.
    Question(String),
}

#[derive(Clone, Debug)]
struct Sentence {
    text: String,
    plants: Vec<Plant>,
    opinion: bool,
    question: bool,
}

const NAMES: &[&str] = &["Ann", "Boris", "Chidi", "Dana", "Emeka", "Farah"];
const THINGS: &[&str] = &["apples", "tickets", "boxes", "pencils", "coins", "bottles"];

fn sentence(d: &mut Dice, kind: usize) -> Sentence {
    let (name, other, thing) = (d.one(NAMES), d.one(NAMES), d.one(THINGS));
    let (a, b) = (2 + d.below(900), 1 + d.below(99));
    let number = |n: usize| Plant::Number(n.to_string());
    let mut s = Sentence { text: String::new(), plants: Vec::new(), opinion: false, question: false };
    match kind {
        0 => {
            s.text = format!("{name} bought {a} {thing} and gave {b} of them to a neighbour.");
            s.plants = vec![number(a), number(b)];
        }
        1 => {
            s.text = format!("The invoice came to {a}.{b:02} euros on 3 March.");
            s.plants = vec![Plant::Number(format!("{a}.{b:02}")), number(3)];
        }
        2 => {
            let code = format!("{} --level {b} {name}.txt", d.one(&["pack", "sort", "send"]));
            s.text = format!("The script runs `{code}` every night.");
            s.plants = vec![Plant::Code(code)];
        }
        3 => {
            let link = format!("https://example.org/{thing}/{a}?page={b}");
            s.text = format!("The catalogue is at {link}.");
            s.plants = vec![Plant::Link(link)];
        }
        4 => {
            let words =
                d.one(&["closed on Mondays", "no refunds after ten days", "first come, first served"]);
            s.text = format!("A sign at the door says \"{words}\".");
            s.plants = vec![Plant::Quotation(words.to_owned())];
        }
        5 => {
            let how = d.one(&[
                "Answer in French.",
                "Reply with one word.",
                "Write the answer as JSON.",
                "Answer in 3 sentences.",
            ]);
            s.text = how.to_owned();
            s.plants = vec![Plant::Instruction(how.trim_end_matches('.').to_owned())];
            s.plants.extend(how.contains('3').then(|| number(3)));
        }
        6 => {
            s.text = format!("I think {other} is the most careless person I know.");
            s.opinion = true;
        }
        7 => {
            s.text = format!("My cousin in Leeds owns {b} cats.");
            s.plants = vec![number(b)];
        }
        8 => {
            let city = d.one(&["Bergen", "Tartu", "Porto"]);
            s.text = format!("Where in {city} does {other} live?");
            s.plants = vec![Plant::Question(city.to_owned())];
        }
        _ => {
            s.text = format!("How many {thing} does {name} have after {a} days?");
            s.plants = vec![number(a)];
            s.question = true;
        }
    }
    s
}

/// A sum: names and things that recur in the question, and numbers that are often the same.
fn sum(d: &mut Dice) -> Vec<Sentence> {
    let first = d.below(NAMES.len());
    let names = [0, 1, 2].map(|i| NAMES[(first + i) % NAMES.len()]);
    let thing = d.one(THINGS);
    let facts = names.map(|name| {
        let n = 2 + d.below(3);
        let text = if d.below(2) == 0 {
            format!("{name} has {n} {thing}.")
        } else {
            format!("{name} owns {n} {thing}.")
        };
        Sentence { text, plants: vec![Plant::Number(n.to_string())], opinion: false, question: false }
    });
    let mut out = facts.to_vec();
    let (n, wrong) = (2 + d.below(3), 2 + d.below(3));
    let line = format!("Paid were {}, {wrong} and {n} coins.", n + 1);
    let plants = [n + 1, wrong, n].map(|n| Plant::Number(n.to_string())).to_vec();
    out.push(Sentence { text: line, plants, opinion: false, question: false });
    let text = format!("I think {} has {wrong} {thing}.", names[0]);
    out.push(Sentence {
        text,
        plants: vec![Plant::Number(wrong.to_string())],
        opinion: true,
        question: false,
    });
    let text =
        format!("How many {thing} do {}, {} and {} have after {n} days?", names[0], names[1], names[2]);
    out.push(Sentence { text, plants: vec![Plant::Number(n.to_string())], opinion: false, question: true });
    out
}

fn prompt(d: &mut Dice) -> Vec<Sentence> {
    if d.below(3) == 0 {
        return sum(d);
    }
    let mut out = Vec::new();
    for kind in 0..8 {
        if d.below(3) > 0 {
            out.push(sentence(d, kind));
        }
    }
    for i in (1..out.len()).rev() {
        let j = d.below(i + 1);
        out.swap(i, j);
    }
    let at = if d.below(2) == 0 { out.len() } else { d.below(out.len() + 1) };
    out.insert(at, sentence(d, 9));
    // A second question before the one that is found, with something between them.
    if at > 1 && d.below(3) == 0 {
        let before = d.below(at - 1);
        out.insert(before, sentence(d, 8));
    }
    out
}

/// A reply as a careful rewriter would give it, then damaged.
fn reply(d: &mut Dice, sentences: &[Sentence]) -> String {
    let keeps = |s: &&Sentence| !s.opinion && !s.question;
    let mut context: Vec<String> = sentences.iter().filter(keeps).map(|s| s.text.clone()).collect();
    let mut question = sentences.iter().find(|s| s.question).map(|s| s.text.clone()).unwrap_or_default();
    for _ in 0..d.below(4) {
        if context.is_empty() {
            break;
        }
        let i = d.below(context.len());
        match d.below(14) {
            0 => drop(context.remove(i)),
            1 => context[i] = context[i].replace(|c: char| c.is_ascii_digit(), "4"),
            2 => context[i] = context[i].chars().filter(|c| !c.is_ascii_digit()).collect(),
            3 => context[i] = context[i].replace("https://", ""),
            4 => context[i] = context[i].replace("page=", "p="),
            5 => context[i] = context[i].replace("--level", "-l"),
            6 => context[i] = context[i].replace("on Mondays", "on Sundays").replace("ten", "twelve"),
            7 => context[i] = context[i].replace(['"', '`'], ""),
            8 => {
                let half = context[i].len() / 2;
                let cut = (half..).find(|&c| context[i].is_char_boundary(c)).unwrap_or(half);
                context[i].truncate(cut);
            }
            9 => question = question.replace(" after ", " in ").replace(|c: char| c.is_ascii_digit(), "7"),
            10 => question = format!("{} has none left.", d.one(NAMES)),
            11 => {
                // A number of another sentence in the place of one.
                let other = d.below(context.len());
                let digits = |t: &str| {
                    t.split(|c: char| !c.is_ascii_digit()).find(|n| !n.is_empty()).map(str::to_owned)
                };
                if let (Some(own), Some(of)) = (digits(&context[i]), digits(&context[other])) {
                    context[i] = context[i].replacen(&own, &of, 1);
                }
            }
            12 => {
                let end = context[i].find(|c: char| c.is_ascii_digit()).unwrap_or(0);
                context[i] = context[i].split_at(end).0.to_owned()
                    + context[i].split_at(end).1.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            }
            _ => context[i] = context[i].split(' ').rev().collect::<Vec<_>>().join(" "),
        }
    }
    format!("Context: {}\nQuestion: {question}", context.join(" "))
}

/// How often a number stands in a text.
fn numbers(text: &str, number: &str) -> usize {
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let inner = |rest: &str| rest.starts_with('.') && digit(rest[1..].chars().next());
    let whole = |at: usize| {
        let (before, after) = (&text[..at], &text[at + number.len()..]);
        let follows = before.ends_with('.') && digit(before.chars().rev().nth(1));
        !digit(before.chars().next_back()) && !follows && !digit(after.chars().next()) && !inner(after)
    };
    text.match_indices(number).filter(|(at, _)| whole(*at)).count()
}

/// Whether a text has a sentence, whatever its numbers are.
fn says(text: &str, sentence: &str) -> bool {
    let words = |t: &str| {
        let bare: String = t.chars().filter(|c| !c.is_ascii_digit()).collect();
        bare.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (text, sentence) = (words(text), words(sentence));
    text.match_indices(&sentence).any(|(at, _)| {
        let before = text[..at].trim_end();
        before.is_empty() || before.ends_with(['.', ':', '?'])
    })
}

fn has(text: &str, plant: &Plant) -> bool {
    match plant {
        Plant::Number(n) => numbers(text, n) > 0,
        Plant::Question(x) => text.contains(x),
        Plant::Code(x) | Plant::Link(x) | Plant::Quotation(x) => text.contains(x),
        // Words may stand elsewhere in the sentence, but all of them are there.
        Plant::Instruction(x) => x.split(' ').all(|w| text.contains(w)),
    }
}

/// Everything planted is in the rewrite, or, where whole sentences may go, was removed with all of its sentence
/// and is listed.
fn check(made: &Rewrite, sentences: &[Sentence], places: &[Range<usize>], strict: bool) {
    // Numbers that stay, as often as sentences that stay have them; those in code and links are none of them.
    let mut bare = made.text.clone();
    let mut stay: BTreeMap<&str, usize> = BTreeMap::new();
    for (s, place) in sentences.iter().zip(places) {
        let listed = made.removed.iter().any(|r| r.range.start <= place.start && place.end <= r.range.end);
        for plant in &s.plants {
            let may_go = !strict && listed && matches!(plant, Plant::Number(_) | Plant::Quotation(_));
            assert!(has(&made.text, plant) || may_go, "{plant:?} is lost\n{:?}\n{:?}", made.text, made.reply);
            match plant {
                Plant::Code(x) | Plant::Link(x) => bare = bare.replace(x, ""),
                Plant::Number(n) if !may_go || says(&made.text, &s.text) => *stay.entry(n).or_default() += 1,
                _ => {}
            }
        }
    }
    for (number, times) in stay {
        let there = numbers(&bare, number);
        assert!(there >= times, "{number} is lost\n{:?}\n{:?}", made.text, made.reply);
    }
}

fn run(variant: Variant, strict: bool) -> u32 {
    let mut applied = 0;
    for i in 0..PROMPTS {
        let mut d = Dice { rng: Philox::new(7, DRAWS), prompt: i, n: 0 };
        let sentences = prompt(&mut d);
        let mut text = String::new();
        let mut places = Vec::new();
        for s in &sentences {
            if !text.is_empty() {
                text.push(' ');
            }
            places.push(text.len()..text.len() + s.text.len());
            text.push_str(&s.text);
        }
        let mut options = Options::new(variant);
        options.guards.strict = strict;
        let mut chat = match variant {
            Variant::Extractive => {
                // Under strict guards few pieces are offered; a number that is not is a failure of its own.
                let most = 1 + d.below(if strict { 2 } else { sentences.len() });
                let named: Vec<String> =
                    (1..=most).filter(|_| d.below(2) == 0).map(|n| n.to_string()).collect();
                Scripted::says(&format!("{{\"drop\": [{}]}}", named.join(", ")))
            }
            Variant::Scored => {
                let scores: Vec<f64> = (0..sentences.len()).map(|_| d.below(5) as f64 - 1.5).collect();
                Scripted::scores(&scores)
            }
            Variant::Single => {
                let labelled = reply(&mut d, &sentences);
                let text = labelled.trim_start_matches("Context: ").replace("\nQuestion: ", " ");
                Scripted::says(&text)
            }
            _ => Scripted::says(&reply(&mut d, &sentences)),
        };
        let made = rewrite(&mut chat, &Request::new(text.as_str()), &options);
        let covered: usize = made.kept.iter().map(Range::len).sum::<usize>()
            + made.removed.iter().map(|r| r.range.len()).sum::<usize>();
        assert_eq!(covered, text.len(), "{made:?}");
        match made.outcome {
            Outcome::Applied => {
                applied += 1;
                check(&made, &sentences, &places, strict);
                if matches!(variant, Variant::Extractive | Variant::Scored) {
                    let kept: String = made.kept.iter().map(|r| &text[r.clone()]).collect();
                    assert_eq!(made.text, kept);
                }
            }
            Outcome::Kept { .. } => assert_eq!(made.text, text),
        }
    }
    applied
}

#[test]
fn no_rewrite_that_passes_loses_anything() {
    for variant in [Variant::Objectivity, Variant::Single, Variant::Extractive, Variant::Scored] {
        let applied = run(variant, true);
        // A guard that refuses everything proves nothing.
        assert!(applied > PROMPTS / 20, "{variant:?}: {applied}");
    }
}

#[test]
fn what_goes_with_its_sentence_is_listed() {
    for variant in [Variant::Objectivity, Variant::Single, Variant::Extractive, Variant::Scored] {
        let applied = run(variant, false);
        assert!(applied > PROMPTS / 20, "{variant:?}: {applied}");
    }
}
