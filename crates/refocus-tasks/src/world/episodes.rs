//! Lists of words with their classes, line by line. Mostly the classes are the usual ones. Some lists exchange the
//! names of the classes, some label as it comes, and some use names that say nothing: then only the lines before
//! tell what comes next.

use super::World;
use super::draw::Draw;
use crate::classify::{BETWEEN, Task};
use crate::recall::Relation;

/// Demonstrations of a list.
const LINES: (usize, usize) = (5, 16);
/// Names that say nothing about what they are given to.
const COLOURS: [&str; 6] = ["red", "green", "blue", "yellow", "white", "black"];

/// Classes and the words of each.
struct Sorted<'a> {
    instruction: Option<&'a str>,
    names: Vec<&'a str>,
    words: Vec<Vec<&'a str>>,
}

/// The labels of a list.
enum Convention {
    /// Class `c` is called by name `order[c]`.
    Order(Vec<usize>),
    /// Any name, line by line.
    Any,
}

impl World {
    /// One list.
    pub(super) fn episode(&self, draw: &mut Draw) -> String {
        let mut sorted = if draw.chance(0.65) { toy(&self.toy) } else { self.other(draw) };
        let n = sorted.names.len();
        let usual: Vec<usize> = (0..n).collect();
        let convention = if draw.chance(self.mixture.usual_labels) {
            Convention::Order(usual)
        } else {
            match draw.below(5) {
                0 => Convention::Any,
                1 => {
                    sorted.names = draw.some(n, COLOURS.len()).into_iter().map(|i| COLOURS[i]).collect();
                    Convention::Order(usual)
                }
                _ => {
                    let shift = draw.between(1, n - 1);
                    Convention::Order((0..n).map(|c| (c + shift) % n).collect())
                }
            }
        };
        let mut text = String::new();
        if let Some(line) = sorted.instruction.filter(|_| draw.chance(0.7)) {
            text.push_str(line);
            text.push_str(BETWEEN);
        }
        for i in 0..draw.between(LINES.0, LINES.1) {
            if i > 0 {
                text.push_str(BETWEEN);
            }
            let class = draw.below(n);
            let word = draw.pick(&sorted.words[class]);
            let name = match &convention {
                Convention::Order(order) => order[class],
                Convention::Any => draw.below(n),
            };
            self.toy.format.append_before(word, None, &mut text);
            text.push(' ');
            text.push_str(sorted.names[name]);
            text.push_str(self.toy.format.after());
        }
        text
    }

    /// Other classes of the same words and of names.
    fn other(&self, draw: &mut Draw) -> Sorted<'_> {
        match draw.below(3) {
            0 => {
                let countries = self.capital.facts.iter().map(|f| f.argument.as_str()).collect();
                Sorted {
                    instruction: Some("Say of each name whether it is a country, a city or a language."),
                    names: vec!["country", "city", "language"],
                    words: vec![countries, answers(&self.capital), answers(&self.language)],
                }
            }
            1 => {
                let [animal, plant, sport] = self.toy_words();
                Sorted {
                    instruction: Some("Which of these are alive, and which are played?"),
                    names: vec!["alive", "played"],
                    words: vec![[animal, plant].concat(), sport],
                }
            }
            _ => {
                let [animal, plant, sport] = self.toy_words();
                let all = [animal, plant, sport].concat();
                let (short, long) = all.into_iter().partition(|w| w.len() < 6);
                Sorted {
                    instruction: Some("Is the word short or long?"),
                    names: vec!["short", "long"],
                    words: vec![short, long],
                }
            }
        }
    }

    fn toy_words(&self) -> [Vec<&str>; 3] {
        [0, 1, 2].map(|c| self.toy.words[c].iter().map(String::as_str).collect())
    }
}

fn toy(task: &Task) -> Sorted<'_> {
    Sorted {
        instruction: task.instruction.as_deref(),
        names: task.classes.iter().map(|c| c.word.as_str()).collect(),
        words: task.words.iter().map(|w| w.iter().map(String::as_str).collect()).collect(),
    }
}

fn answers(relation: &Relation) -> Vec<&str> {
    relation.facts.iter().map(|f| f.answer.as_str()).collect()
}
