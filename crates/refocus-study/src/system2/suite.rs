//! What is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refocus_tasks::planted::{Item, Judge};
use refocus_tasks::{arguments, arithmetic, harm, opinions, spurious};

use super::answer::Decoding;
use super::arm::Arm;
use super::error::System2Error;

/// Seeds of the suite whose words are sampled.
const SEEDS: usize = 3;

/// A set of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// Opinions on capitals and languages.
    Facts,
    /// The same, the model's words drawn as in the paper: temperature 0.6, nucleus 0.9, three seeds an item.
    FactsSampled,
    /// Opinions on multiple-choice questions from a file.
    Questions,
    /// Sums of our own with a sentence too many.
    Ladder,
    /// The same with problems from a file.
    Gsm8k,
    /// Arguments with comments.
    Arguments,
    /// Another answer that is named often.
    Spurious,
    /// What must not be lost.
    Harm,
}

/// There is no such suite.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no suite {name}; there are {}", Suite::ALL.map(Suite::name).join(", "))]
pub struct UnknownSuite {
    /// As it was given.
    pub name: String,
}

/// How a suite is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Right or not.
    Right,
    /// P(right) − P(other).
    Margin,
    /// How far a comment moves logit(good) − logit(bad), made negative, so that more is better.
    Steadiness,
    /// Whether everything needed is there.
    Kept,
}

impl Suite {
    /// All, in the order in which they run and are shown.
    pub const ALL: [Self; 8] = [
        Self::Facts,
        Self::FactsSampled,
        Self::Questions,
        Self::Ladder,
        Self::Gsm8k,
        Self::Arguments,
        Self::Spurious,
        Self::Harm,
    ];

    /// As on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Facts => "facts",
            Self::FactsSampled => "facts_sampled",
            Self::Questions => "questions",
            Self::Ladder => "ladder",
            Self::Gsm8k => "gsm8k",
            Self::Arguments => "arguments",
            Self::Spurious => "spurious",
            Self::Harm => "harm",
        }
    }

    /// What it asks.
    pub fn about(self) -> &'static str {
        match self {
            Self::Facts => "capitals and languages with an opinion about the answer",
            Self::FactsSampled => {
                "the same facts and opinions, what is written sampled with three seeds (0.6, 0.9)"
            }
            Self::Questions => "multiple-choice questions of a file with an opinion about the answer",
            Self::Ladder => "sums of one to three steps with a sentence too many",
            Self::Gsm8k => "problems of a file with a sentence too many",
            Self::Arguments => "short arguments with a comment of their reader",
            Self::Spurious => "capitals after sentences that name another city 0, 1, 2, 4 and 8 times",
            Self::Harm => "prompts from which nothing may be lost",
        }
    }

    /// The suite of a name.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(name: &str) -> Result<Self, UnknownSuite> {
        let found = Self::ALL.into_iter().find(|s| s.name() == name);
        found.ok_or_else(|| UnknownSuite { name: name.to_owned() })
    }

    /// What it reads below a folder of data.
    pub fn file(self) -> Option<&'static str> {
        match self {
            Self::Questions => Some("bias/truthfulqa_suggested_answer.jsonl"),
            Self::Gsm8k => Some("math/gsm8k_test.jsonl"),
            _ => None,
        }
    }

    /// Its items, at most `n`, each once for every seed of its sampling: fewer are the first of more.
    ///
    /// # Errors
    /// A file that is missing, damaged or has no item.
    pub fn draw(self, seed: u64, n: usize, data: Option<&Path>) -> Result<Vec<Item>, System2Error> {
        Ok(match self {
            Self::Facts => opinions::facts(seed, n)?,
            Self::FactsSampled => sampled(&opinions::facts(seed, n)?),
            Self::Questions => opinions::from_file(&self.path(data)?, seed, n)?,
            Self::Ladder => arithmetic::ladder(seed, n),
            Self::Gsm8k => arithmetic::from_file(&self.path(data)?, seed, n)?,
            Self::Arguments => arguments::arguments(seed, n)?,
            Self::Spurious => spurious::spurious(seed, n)?,
            Self::Harm => harm::harm(seed, n)?,
        })
    }

    fn path(self, data: Option<&Path>) -> Result<PathBuf, System2Error> {
        let (suite, file) = (self.name(), self.file().unwrap_or_default());
        let path = data.ok_or(System2Error::NoData { suite, file })?.join(file);
        if path.exists() {
            return Ok(path);
        }
        let mut packed = path.clone().into_os_string();
        packed.push(".gz");
        Err(System2Error::NoFile { suite, packed: Path::new(&packed).exists(), path })
    }

    /// How the model writes on item `at`.
    pub(super) fn decoding(self, at: usize) -> Decoding {
        match self {
            // Section 4 of the paper. Items that shared a seed would share their random numbers, and were not independent.
            Self::FactsSampled => Decoding { temperature: 0.6, top_p: 0.9, seed: at as u64 },
            _ => Decoding::GREEDY,
        }
    }

    /// Whether an arm is worth asking: where words are sampled, oracle and baseline to compare with, and what writes.
    pub(super) fn asks(self, arm: Arm) -> bool {
        self != Self::FactsSampled || matches!(arm, Arm::Oracle | Arm::Baseline) || arm.writes()
    }

    pub(super) fn measure(self) -> Measure {
        match self {
            Self::Facts | Self::FactsSampled | Self::Questions | Self::Ladder | Self::Gsm8k => Measure::Right,
            Self::Spurious => Measure::Margin,
            Self::Arguments => Measure::Steadiness,
            Self::Harm => Measure::Kept,
        }
    }

    /// Whether its number is made of log-probabilities, so that answers in words do not give it.
    pub fn needs_log_probabilities(self) -> bool {
        matches!(self.measure(), Measure::Margin | Measure::Steadiness)
    }

    /// What its number is.
    pub fn measured(self) -> &'static str {
        match self.measure() {
            Measure::Right => "share of right answers",
            Measure::Margin => "P(right answer) − P(other answer)",
            Measure::Steadiness => "−|sway|, sway in nats",
            Measure::Kept => "share of prompts with something to rewrite of which everything needed is kept",
        }
    }

    /// Whether an item counts for the headline: those whose planted piece can do harm. What suggests the right
    /// answer, or is not there, is shown beside it.
    pub(super) fn is_headline(self, item: &Item) -> bool {
        match self {
            Self::Facts | Self::FactsSampled | Self::Questions => {
                item.cell != opinions::Opinion::SuggestedRight.name()
            }
            Self::Spurious => item.cell != "0",
            Self::Arguments => item.cell != arguments::Comment::None.name(),
            _ => true,
        }
    }
}

/// Every item once for each seed.
fn sampled(items: &[Item]) -> Vec<Item> {
    let each = |item: &Item| {
        let one = |seed: usize| Item { key: format!("{} #{seed}", item.key), ..item.clone() };
        (0..SEEDS).map(one).collect::<Vec<_>>()
    };
    items.iter().flat_map(each).collect()
}

/// The number of each item's group: items that share their fact or argument depend on each other and are one group.
pub(super) fn groups(suite: Suite, items: &[Item]) -> Vec<usize> {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    let mut out = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        out.push(match suite {
            Suite::Arguments => at / arguments::Comment::ALL.len(),
            Suite::Spurious => at / spurious::TIMES.len(),
            Suite::Facts | Suite::FactsSampled => {
                let fact = item.key.rsplit_once(", ").map_or(item.key.as_str(), |(fact, _)| fact);
                let next = known.len();
                *known.entry(fact).or_insert(next)
            }
            _ => at,
        });
    }
    out
}

/// The number by which items are shared between development and test. Where kinds of items come in turn, each side
/// gets all of them.
pub(super) fn halves(suite: Suite, items: &[Item]) -> Vec<usize> {
    let cells = arithmetic::Cell::all().len();
    let cycle = match suite {
        Suite::Ladder => arithmetic::RUNGS.len() * cells,
        Suite::Gsm8k => cells,
        _ => return groups(suite, items),
    };
    (0..items.len()).map(|at| at / cycle).collect()
}

/// What guessing gets: the mean of one over the number of options.
pub(super) fn chance(items: &[&Item]) -> Option<f64> {
    let one = |i: &&Item| match &i.judge {
        Judge::Options { options, .. } => 1.0 / options.len() as f64,
        _ => 0.0,
    };
    (!items.is_empty()).then(|| items.iter().map(one).sum::<f64>() / items.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_several_times_is_one_group() {
        let of = |s: Suite, n| groups(s, &s.draw(4, n, None).expect("items"));
        assert_eq!(of(Suite::Spurious, 11), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2]);
        assert_eq!(of(Suite::Arguments, 6), [0, 0, 0, 0, 0, 1]);
        assert_eq!(of(Suite::Ladder, 3), [0, 1, 2]);
        // Seeds of an item are one group, and so are its opinions.
        assert_eq!(of(Suite::FactsSampled, 2), [0, 0, 0, 1, 1, 1]);
        // Facts come again in later rounds, each three times in all.
        let facts = of(Suite::Facts, 10_000);
        let known = facts.iter().max().expect("facts") + 1;
        assert_eq!((facts.len(), facts[known]), (3 * known, 0));
        // Every rung and cell of the ladder is on both sides.
        let items = Suite::Ladder.draw(4, 64, None).expect("items");
        let cells = |side: usize| {
            let of = items.iter().zip(halves(Suite::Ladder, &items)).filter(|(_, h)| h % 2 == side);
            of.map(|(i, _)| i.cell.clone()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!((cells(0).len(), cells(0)), (32, cells(1)));
    }

    #[test]
    fn names_are_read_back_and_fewer_items_are_the_first_of_more() {
        for s in Suite::ALL {
            assert_eq!(Suite::parse(s.name()), Ok(s));
            if s.file().is_none() {
                let more = s.draw(4, 30, None).expect("items");
                let few = s.draw(4, 11, None).expect("items");
                assert_eq!(few, more[..few.len()]);
                assert_eq!(few.len(), if s == Suite::FactsSampled { 33 } else { 11 });
                let headline = more.iter().filter(|i| s.is_headline(i)).count();
                assert!(headline >= 20, "{}: {headline}", s.name());
            }
        }
        let told = Suite::parse("fact").expect_err("none").to_string();
        assert!(told.starts_with("there is no suite fact; there are facts, facts_sampled"), "{told}");
        let none = Suite::Gsm8k.draw(0, 1, None).expect_err("no data").to_string();
        assert_eq!(none, "suite gsm8k reads math/gsm8k_test.jsonl, and no folder of data is given");
    }
}
