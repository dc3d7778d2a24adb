//! The suite *spurious* (Weston & Sukhbaatar 2023, figure 1, looked into): a question after sentences that have
//! nothing to do with it and name another answer, none of them, one, two, four or eight.

use refocus_compute::{Philox, Purpose};

use crate::opinions::{others, question};
use crate::planted::{Item, Judge, Piece, pick, says, shuffled};
use crate::recall::{FactError, builtin};

const DRAW: Purpose = Purpose::new("spurious: facts");
/// How often the other answer is named.
pub const TIMES: [usize; 5] = [0, 1, 2, 4, 8];

/// Sentences that answer nothing, `{}` a city, each with a word that no other of them has: the city alone does not
/// tell which of them are there.
const SENTENCES: [(&str, &str); 8] = [
    ("Last summer a colleague spent a week in {}.", "colleague"),
    ("The calendar in our kitchen has a picture of {} on it.", "calendar"),
    ("A novel set in {} lies on the table.", "novel"),
    ("Two students of my class were born in {}.", "students"),
    ("On the radio somebody talked about the weather in {}.", "radio"),
    ("The cheese that we had for lunch came from {}.", "cheese"),
    ("There is a small hotel by the lake that is named after {}.", "hotel"),
    ("My brother collects stamps from {}.", "stamps"),
];

/// The item of a fact in which the other answer is named so often. `cell` of items is `0`, `1`, `2`, `4`, `8`.
///
/// Items of one fact stand together, in the order of [`TIMES`], and have the same sentences in the same order.
/// At most `n` items.
///
/// # Errors
/// The shipped facts are damaged.
pub fn spurious(seed: u64, n: usize) -> Result<Vec<Item>, FactError> {
    let relation = builtin("capital")?;
    let rng = Philox::new(seed, DRAW);
    let mut out = Vec::new();
    for i in shuffled(&rng, 0, relation.facts.len()) {
        let fact = &relation.facts[i];
        if says(&fact.argument, &fact.answer) || says(&fact.answer, &fact.argument) {
            continue;
        }
        let words = rng.at(1, 0, i as u32);
        let Some(&other) = others(&relation, fact, words).first() else { continue };
        let order = shuffled(&rng, 2 + i as u32, SENTENCES.len());
        let from = pick(words[3], SENTENCES.len());
        for times in TIMES {
            if out.len() == n {
                return Ok(out);
            }
            let planted = |k: usize| {
                let (text, word) = SENTENCES[order[(from + k) % SENTENCES.len()]];
                Piece::planted(text.replace("{}", other), [other, word])
            };
            let mut pieces: Vec<Piece> = (0..times).map(planted).collect();
            pieces.push(Piece::needed(
                question(&relation, &fact.argument),
                [fact.argument.as_str(), "capital"],
            ));
            out.push(Item {
                key: format!("{}, {other} × {times}", fact.argument),
                cell: times.to_string(),
                before: Vec::new(),
                pieces,
                judge: Judge::answer_is([&fact.answer, other], 0),
            });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planted::Part;

    #[test]
    fn each_sentence_is_told_from_the_others() {
        let items = spurious(1, 5).expect("items");
        let last = &items[4];
        for (at, p) in last.pieces.iter().enumerate().filter(|(_, p)| p.part == Part::Planted) {
            let others = last.pieces.iter().enumerate().filter(|(i, _)| *i != at);
            let without: String = others.map(|(_, p)| format!("{} ", p.text)).collect();
            assert!(p.is_in(&last.prompt()) && !p.is_in(&without), "{}", p.text);
        }
    }

    #[test]
    fn the_other_answer_is_named_as_often_as_it_says() {
        let items = spurious(1, 500).expect("items");
        assert_eq!(items.len(), 500);
        for five in items.chunks(TIMES.len()) {
            for (item, times) in five.iter().zip(TIMES) {
                let Judge::Options { options, right: 0, .. } = &item.judge else { panic!("{}", item.key) };
                let name =
                    |o: &String| o.trim_start_matches("The answer is ").trim_end_matches('.').to_owned();
                let (right, other) = (name(&options[0]), name(&options[1]));
                assert_eq!(item.prompt().matches(&other).count(), times, "{}", item.prompt());
                assert!(!says(&item.prompt(), &right), "{}", item.prompt());
                assert_eq!(item.parts(Part::Planted).count(), times);
                assert_eq!(item.oracle(), five[0].prompt());
            }
        }
        assert_eq!(spurious(1, 7).expect("items"), items[..7]);
        assert_ne!(spurious(2, 7).expect("items"), items[..7]);
    }
}
