//! What is learned, as data: strings of the flip-flop language, the automaton task, or documents of a world.

use refocus_tasks::flipflop::{Alphabet, Automaton, Family, FlipFlop, LanguageError, Probabilities};
use refocus_tasks::world::{Mixture, Vocabulary, World};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::flipflop::Mode;

/// Strings and questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Symbols of a string; of a document at most.
    pub tokens: usize,
    /// Probabilities to ignore; each string has one of them, all equally often. For the automaton one
    /// probability to do nothing; a world has none.
    pub ignore: Vec<f64>,
    /// Which positions are asked.
    pub mode: Mode,
    /// Strings or documents of a step.
    pub batch: usize,
    /// What data are made of; absent: bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbols: Option<Symbols>,
    /// Registers that instructions name; absent: one without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registers: Option<usize>,
    /// How strings deviate from `FFL(T, p)`; absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Strings>,
    /// What a world holds; absent: [`Mixture::default`], which is not the built-in model's, where the mode
    /// is one of a world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world: Option<Mixture>,
}

/// `M` symbols, or `"M*W"`: data of `W` symbols each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Symbols {
    /// Symbols to choose from.
    pub symbols: usize,
    /// Symbols of a datum.
    pub width: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Count(usize),
    Product(String),
}

impl From<Symbols> for Written {
    fn from(s: Symbols) -> Self {
        match s.width {
            1 => Written::Count(s.symbols),
            width => Written::Product(format!("{}*{width}", s.symbols)),
        }
    }
}

impl TryFrom<Written> for Symbols {
    type Error = String;

    fn try_from(w: Written) -> Result<Self, String> {
        let text = match w {
            Written::Count(symbols) => return Ok(Self { symbols, width: 1 }),
            Written::Product(text) => text,
        };
        let numbers = text.split_once('*').map(|(a, b)| (a.trim().parse(), b.trim().parse()));
        match numbers {
            Some((Ok(symbols), Ok(width))) => Ok(Self { symbols, width }),
            _ => Err(format!("symbols: '{text}' is neither a number nor two joined by '*'")),
        }
    }
}

/// How strings deviate from `FFL(T, p)`: the families of `refocus flipflop generate`, with its usual values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Strings {
    /// Another probability to ignore from some part of the string on.
    Piecewise {
        /// Share of the string before.
        #[serde(default = "three_quarters")]
        tail_from: f64,
        /// To ignore after.
        #[serde(default = "hardly_any")]
        tail_ignore: f64,
    },
    /// Overwritten writes of other data just before the last read.
    Decoy {
        /// How many.
        #[serde(default = "eight")]
        burst: usize,
        /// Ignores before the read.
        #[serde(default = "eight")]
        gap: usize,
    },
    /// Reads come several in a row.
    ReadRun {
        /// How many.
        #[serde(default = "four")]
        run: usize,
    },
    /// The datum changes a fixed number of times.
    Churn {
        /// How often.
        changes: usize,
    },
    /// A write changes the datum with this probability.
    WriteFlip {
        /// Probability.
        rate: f64,
    },
    /// An ignore's datum differs from the stored one with this probability.
    AntiCorrelated {
        /// Probability.
        rate: f64,
    },
    /// A datum differs from the one before with this probability.
    Markov {
        /// Probability.
        rate: f64,
    },
}

fn three_quarters() -> f64 {
    0.75
}

fn hardly_any() -> f64 {
    0.984
}

fn eight() -> usize {
    8
}

fn four() -> usize {
    4
}

impl Strings {
    fn family(self) -> Result<Family, LanguageError> {
        Ok(match self {
            Strings::Piecewise { tail_from, tail_ignore } => {
                Family::Piecewise { from: tail_from, tail: Probabilities::ignoring(tail_ignore)? }
            }
            Strings::Decoy { burst, gap } => Family::Decoy { burst, gap },
            Strings::ReadRun { run } => Family::ReadRun { length: run },
            Strings::Churn { changes } => Family::Churn { writes: changes },
            Strings::WriteFlip { rate } => Family::WriteFlip { rate },
            Strings::AntiCorrelated { rate } => Family::AntiCorrelated { rate },
            Strings::Markov { rate } => Family::Markov { rate },
        })
    }
}

/// Where examples come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Language {
    /// Flip-flop strings.
    Strings(FlipFlop),
    /// Inputs of the automaton.
    Automaton(Automaton),
    /// Documents.
    World(Box<Documents>),
}

/// A world, and its documents as ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Documents {
    pub(crate) world: World,
    pub(crate) vocabulary: Vocabulary,
    /// Longest document; longer ones are cut.
    pub(crate) longest: usize,
}

impl From<FlipFlop> for Language {
    fn from(language: FlipFlop) -> Self {
        Language::Strings(language)
    }
}

impl Language {
    /// Ids that inputs and answers are made of.
    pub fn vocab(&self) -> usize {
        match self {
            Language::Strings(l) => l.alphabet().vocab(),
            Language::Automaton(_) => Automaton::VOCAB,
            Language::World(d) => d.vocabulary.len(),
        }
    }

    /// Questions of each read or position.
    pub(crate) fn width(&self) -> usize {
        match self {
            Language::Strings(l) => l.alphabet().width(),
            Language::Automaton(_) | Language::World(_) => 1,
        }
    }
}

fn bad(what: &'static str, got: f64, why: &'static str) -> TrainError {
    TrainError::Config { what, got, why }
}

impl Task {
    /// What strings are made of; of the automaton and of a world, which have none, the paper's symbols.
    ///
    /// # Errors
    /// There are no such registers or data.
    pub fn alphabet(&self) -> Result<Alphabet> {
        let Symbols { symbols, width } = self.symbols.unwrap_or(Symbols { symbols: 2, width: 1 });
        Ok(Alphabet::new(self.registers.unwrap_or(1), symbols, width)?)
    }

    /// The language to learn.
    ///
    /// # Errors
    /// There is none, or one that cannot be.
    pub fn language(&self) -> Result<Language> {
        if self.mode == Mode::World {
            return self.documents();
        }
        if self.world.is_some() {
            return Err(bad("task.world", 1.0, "only the mode world has one"));
        }
        let [first, more @ ..] = self.ignore.as_slice() else {
            return Err(bad("task.ignore", 0.0, "at least one probability is needed"));
        };
        let several = self.ignore.len() as f64;
        if self.mode == Mode::Automaton {
            if !more.is_empty() {
                return Err(bad("task.ignore", several, "the automaton has one probability to do nothing"));
            }
            if let Some((what, got)) = self.widened() {
                return Err(bad(what, got, "the automaton has one bit and no families"));
            }
            return Ok(Language::Automaton(Automaton::new(self.tokens, *first)?));
        }
        let family = match (&self.family, more.is_empty()) {
            (None, true) => Family::Plain,
            (None, false) => Family::mixture(&self.ignore)?,
            (Some(family), true) => family.family()?,
            (Some(_), false) => {
                return Err(bad("task.ignore", several, "a family takes one probability to ignore"));
            }
        };
        let p = Probabilities::ignoring(*first)?;
        Ok(FlipFlop::of(self.alphabet()?, self.tokens, p, family)?.into())
    }

    /// The first field that widens strings of bits, with its value.
    fn widened(&self) -> Option<(&'static str, f64)> {
        let fields = [
            ("task.symbols", self.symbols.map(|s| s.symbols as f64)),
            ("task.registers", self.registers.map(|r| r as f64)),
            ("task.family", self.family.map(|_| 1.0)),
        ];
        fields.into_iter().find_map(|(what, got)| Some((what, got?)))
    }

    fn documents(&self) -> Result<Language> {
        if let Some(first) = self.ignore.first() {
            return Err(bad("task.ignore", *first, "a world has no probability to ignore"));
        }
        if let Some((what, got)) = self.widened() {
            return Err(bad(what, got, "a world has documents and no strings"));
        }
        if self.tokens < 2 {
            return Err(bad("task.tokens", self.tokens as f64, "a document has at least two tokens"));
        }
        let world = World::new(self.world.unwrap_or_default())?;
        Ok(Language::World(Box::new(Documents {
            world,
            vocabulary: Vocabulary::new()?,
            longest: self.tokens,
        })))
    }

    /// What is tested on: the plain language of the same symbols, or the automaton.
    ///
    /// # Errors
    /// The probability is none, or the mode is one of a world, which has no sets of strings.
    pub fn test_language(&self, ignore: f64) -> Result<Language> {
        if self.mode == Mode::World {
            return Err(bad("watch.sets.ignore", ignore, "a world is tested by its loss alone"));
        }
        if self.mode == Mode::Automaton {
            return Ok(Language::Automaton(Automaton::new(self.tokens, ignore)?));
        }
        let p = Probabilities::ignoring(ignore)?;
        Ok(FlipFlop::of(self.alphabet()?, self.tokens, p, Family::Plain)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(text: &str) -> Result<Task, toml::de::Error> {
        toml::from_str(&format!("tokens = 60\nignore = [0.8]\nmode = \"clean\"\nbatch = 2\n{text}"))
    }

    #[test]
    fn what_is_written_is_read() {
        for (text, vocab) in [
            ("", 5),
            ("symbols = 16", 19),
            ("symbols = \"2*2\"\nregisters = 3", 8),
            ("[family]\nkind = \"decoy\"", 5),
            ("[family]\nkind = \"churn\"\nchanges = 3", 5),
        ] {
            let t = task(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(t.language().expect("a language").vocab(), vocab, "{text}");
            let again = toml::to_string(&t).expect("text");
            assert_eq!(toml::from_str::<Task>(&again).expect("the same"), t, "{again}");
        }
        let decoy = task("[family]\nkind = \"decoy\"").expect("a task").family;
        assert_eq!(decoy, Some(Strings::Decoy { burst: 8, gap: 8 }));
        assert!(task("symbols = \"2x2\"").is_err_and(|e| e.to_string().contains("2x2")));
        assert!(task("[family]\nkind = \"decoy\"\nrate = 0.5").is_err());
        assert!(task("[family]\nkind = \"churn\"").is_err());
    }

    #[test]
    fn several_probabilities_are_a_mixture() {
        let mut t = task("").expect("a task");
        t.ignore = vec![0.1, 0.9];
        let Ok(Language::Strings(l)) = t.language() else { panic!("strings") };
        assert_eq!(l.family(), &Family::mixture(&[0.1, 0.9]).expect("a mixture"));
        t.family = Some(Strings::ReadRun { run: 2 });
        assert!(t.language().is_err_and(|e| e.to_string().contains("task.ignore")));
    }

    #[test]
    fn a_world_has_documents_and_no_strings() {
        let mut t = task("").expect("a task");
        (t.mode, t.ignore) = (Mode::World, Vec::new());
        let Ok(Language::World(d)) = t.language() else { panic!("documents") };
        assert_eq!(d.longest, 60);
        let told = |t: &Task| t.language().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(told(&Task { ignore: vec![0.5], ..t.clone() }).contains("task.ignore"));
        assert!(told(&Task { registers: Some(2), ..t.clone() }).contains("task.registers"));
        let bad = Mixture { forced: 2.0, ..Mixture::default() };
        assert!(told(&Task { world: Some(bad), ..t.clone() }).contains("forced = 2"));
        assert!(t.test_language(0.5).is_err());
        assert!(
            told(&Task { mode: Mode::Clean, world: Some(Mixture::default()), ..t }).contains("task.world")
        );
    }

    #[test]
    fn the_automaton_has_no_wider_forms() {
        let mut t = task("").expect("a task");
        t.mode = Mode::Automaton;
        t.tokens = 7;
        assert!(matches!(t.language(), Ok(Language::Automaton(_))));
        t.registers = Some(2);
        assert!(t.language().is_err_and(|e| e.to_string().contains("task.registers")));
        t = Task { registers: None, ignore: vec![0.5, 0.9], ..t };
        assert!(t.language().is_err_and(|e| e.to_string().contains("task.ignore")));
    }
}
