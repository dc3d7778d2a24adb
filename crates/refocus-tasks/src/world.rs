//! A world of short texts, from which a small model can learn enough to slip: facts, lists of words with their
//! classes, a light that somebody turns on and off, questions after sentences that do or do not matter, and texts
//! without what does not matter.
//!
//! A document is a pure function of its seed and number. Nothing in the texts names a failure: what a model makes
//! of them is its own. What a world holds how often is data ([`Mixture`]); its words are those of the project's
//! own lists ([`crate::recall`], [`crate::classify`], [`crate::flipflop`]) and of the parts here.

mod draw;
mod episodes;
mod facts;
mod places;
mod reading;
mod states;
mod vocabulary;

use refocus_compute::{Philox, Purpose};
use serde::{Deserialize, Serialize};

use self::draw::Draw;
use self::states::Strings;
pub use self::vocabulary::{END, Vocabulary};
use crate::classify::{Task, TaskError, builtin as builtin_task};
use crate::flipflop::{LanguageError, Split};
use crate::recall::{FactError, Relation, builtin as builtin_relation};

/// A world that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A number of the mixture that makes no sense.
    #[error("{what} = {got}: {why}")]
    Share {
        /// Its key.
        what: &'static str,
        /// As given.
        got: f64,
        /// What is wrong.
        why: &'static str,
    },
    /// The shipped facts.
    #[error(transparent)]
    Facts(#[from] FactError),
    /// The shipped words.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Flip-flop strings.
    #[error(transparent)]
    Language(#[from] LanguageError),
}

/// What a world holds, how often.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// Weight of documents that state facts.
    pub facts: f64,
    /// Weight of lists of words with their classes.
    pub episodes: f64,
    /// Weight of flip-flop strings in words.
    pub states: f64,
    /// Weight of questions after a few sentences.
    pub reading: f64,
    /// Weight of texts with what matters in them.
    pub rewriting: f64,
    /// How unequally countries are written about: the `k`-th has weight `k` to the power of minus this.
    pub fame: f64,
    /// Statements after which only a name can come, among those about a country.
    pub forced: f64,
    /// Open statements at the beginning of a document that go on with the name.
    pub named_first: f64,
    /// Open statements further on that go on with the name.
    pub named_later: f64,
    /// Lists of words whose classes are the usual ones; the others follow a convention of their own.
    pub usual_labels: f64,
    /// Flip-flop strings in which most instructions matter.
    pub dense: f64,
    /// Questions about a capital with a sentence before them that names a city: how often it is the right one.
    pub named_right: f64,
    /// Opinions that are right.
    pub opinion_right: f64,
}

impl Default for Mixture {
    /// What [`Vocabulary::new`] collects words with: other numbers give other ids, and trained models no longer fit.
    /// The built-in model's mixture is `models/world.toml`.
    fn default() -> Self {
        Self {
            facts: 0.3,
            episodes: 0.2,
            states: 0.15,
            reading: 0.25,
            rewriting: 0.1,
            fame: 0.5,
            forced: 0.6,
            named_first: 0.2,
            named_later: 0.7,
            usual_labels: 0.75,
            dense: 0.85,
            named_right: 0.7,
            opinion_right: 0.7,
        }
    }
}

impl Mixture {
    fn check(&self) -> Result<(), WorldError> {
        let bad = |what, got, why| Err(WorldError::Share { what, got, why });
        let weights = [
            ("facts", self.facts),
            ("episodes", self.episodes),
            ("states", self.states),
            ("reading", self.reading),
            ("rewriting", self.rewriting),
            ("fame", self.fame),
        ];
        for (what, got) in weights {
            if !(got >= 0.0 && got.is_finite()) {
                return bad(what, got, "it must not be negative");
            }
        }
        if weights[..5].iter().map(|w| w.1).sum::<f64>() <= 0.0 {
            return bad("facts", self.facts, "some kind of documents needs a weight above 0");
        }
        let shares = [
            ("forced", self.forced),
            ("named_first", self.named_first),
            ("named_later", self.named_later),
            ("usual_labels", self.usual_labels),
            ("dense", self.dense),
            ("named_right", self.named_right),
            ("opinion_right", self.opinion_right),
        ];
        for (what, got) in shares {
            if !(0.0..=1.0).contains(&got) {
                return bad(what, got, "a share lies in [0, 1]");
            }
        }
        Ok(())
    }
}

/// A kind of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Facts about countries.
    Facts,
    /// Words with their classes.
    Episode,
    /// A thing with two states.
    States,
    /// A question after some sentences.
    Reading,
    /// A text and what of it matters to a question.
    Rewriting,
}

impl Kind {
    /// In the order of the weights.
    pub const ALL: [Self; 5] = [Self::Facts, Self::Episode, Self::States, Self::Reading, Self::Rewriting];
}

/// A world.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    mixture: Mixture,
    capital: Relation,
    language: Relation,
    toy: Task,
    /// Weight of each country.
    fame: Vec<f64>,
    strings: Strings,
}

impl World {
    /// The world of a mixture.
    ///
    /// # Errors
    /// A number of it makes no sense.
    pub fn new(mixture: Mixture) -> Result<Self, WorldError> {
        mixture.check()?;
        let (capital, language) = (builtin_relation("capital")?, builtin_relation("language")?);
        // Which countries are written about much is part of the world, not of a seed.
        let rng = Philox::new(0, Purpose::new("world: fame"));
        let mut order: Vec<usize> = (0..capital.facts.len()).collect();
        order.sort_by_key(|&i| rng.at(0, 0, i as u32)[0]);
        let mut fame = vec![0.0; order.len()];
        for (rank, &i) in order.iter().enumerate() {
            fame[i] = ((rank + 1) as f64).powf(-mixture.fame);
        }
        let toy = builtin_task("unnatural")?;
        Ok(Self { mixture, capital, language, toy, fame, strings: Strings::new()? })
    }

    /// Document `number` of `step`: a pure function of its arguments.
    pub fn document(&self, seed: u64, split: Split, step: u32, number: u32) -> String {
        let mut draw = Draw::new(seed, purpose(split), step, number);
        let m = &self.mixture;
        let kind = Kind::ALL[draw.weighted(&[m.facts, m.episodes, m.states, m.reading, m.rewriting])];
        self.of_kind(kind, &mut draw, (seed, split, step, number))
    }

    fn of_kind(&self, kind: Kind, draw: &mut Draw, at: (u64, Split, u32, u32)) -> String {
        match kind {
            Kind::Facts => self.facts(draw),
            Kind::Episode => self.episode(draw),
            Kind::States => self.states(draw, at),
            Kind::Reading => self.reading(draw),
            Kind::Rewriting => self.rewriting(draw),
        }
    }

    /// A country, by fame.
    fn country(&self, draw: &mut Draw) -> usize {
        draw.weighted(&self.fame)
    }

    fn capital_of(&self, country: usize) -> &str {
        &self.capital.facts[country].answer
    }
}

const fn purpose(split: Split) -> Purpose {
    match split {
        Split::Train => Purpose::new("world: train"),
        Split::Test => Purpose::new("world: test"),
        Split::Demonstration => Purpose::new("world: demonstration"),
    }
}
