//! On which strings a model is tested.

use std::fmt;

use refocus_tasks::flipflop::{Alphabet, Family, FlipFlop, Probabilities, Set};
use refocus_train::RunConfig;
use refocus_train::flipflop::Mode;
use serde::{Deserialize, Serialize};

use super::error::{FlipflopError, Result};

/// What a set is for, at whatever length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// As in training.
    In,
    /// Hardly any writes and reads: long distances.
    Sparse,
    /// Many writes.
    Dense,
    /// Many writes, then hardly any.
    Piecewise,
    /// Overwritten writes just before the last read.
    Decoy,
    /// Longer strings than in training.
    Length,
    /// Anything else.
    Other,
}

impl Role {
    /// Those that every model is tested on.
    pub const USUAL: [Self; 5] = [Role::In, Role::Sparse, Role::Dense, Role::Piecewise, Role::Decoy];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Role::In => "in",
            Role::Sparse => "sparse",
            Role::Dense => "dense",
            Role::Piecewise => "piecewise",
            Role::Decoy => "decoy",
            Role::Length => "length",
            Role::Other => "other",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of test strings.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalSet {
    /// What it is for.
    pub role: Role,
    /// As `flipflop generate --set` calls it; `long-N` is the in-distribution language at N symbols.
    pub name: String,
    /// Its language.
    pub language: FlipFlop,
    /// Strings.
    pub strings: u32,
}

/// A set that cannot be run on the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Set.
    pub name: String,
    /// Why.
    pub why: String,
}

/// Longest strings of the length sets.
const LONGEST: usize = 16_384;
/// Symbols of a length set, so that each costs about the same; at most 1,000 strings.
const LENGTH_SYMBOLS: usize = 1 << 20;

impl EvalSet {
    /// A set with as many instructions in these symbols.
    fn named(role: Role, set: Set, alphabet: Alphabet) -> Result<Self> {
        let (name, bits, strings) = (set.name().to_owned(), set.language()?, set.sequences());
        let tokens = bits.tokens() / bits.alphabet().group() * alphabet.group();
        let language = FlipFlop::of(alphabet, tokens, bits.probabilities(), bits.family().clone())?;
        Ok(Self { role, name, language, strings })
    }

    /// The in-distribution language with as many writes and reads in longer strings.
    fn long(base: &FlipFlop, tokens: usize) -> Result<Self> {
        let language = base.stretched(tokens)?;
        let strings = (LENGTH_SYMBOLS / tokens).clamp(1, 1_000) as u32;
        let name = format!("long-{tokens}");
        Ok(Self { role: Role::Length, name, language, strings })
    }

    /// Registers and symbols of data; `None` for one register of a bit.
    pub fn alphabet(&self) -> Option<String> {
        let a = self.language.alphabet();
        let data = if a.width() == 1 { String::new() } else { format!("*{}", a.width()) };
        (*a != Alphabet::BINARY)
            .then(|| format!("registers {}, symbols {}{data}", a.registers(), a.symbols()))
    }
}

/// The symbols that a run was trained on; those of the paper where there is no run.
fn alphabet(config: Option<&RunConfig>) -> Result<Alphabet> {
    let Some(config) = config else { return Ok(Alphabet::BINARY) };
    match config.task.mode {
        Mode::Automaton => Err(FlipflopError::Reads("automaton")),
        Mode::World => Err(FlipflopError::Reads("world")),
        Mode::Clean | Mode::Generative => Ok(config.task.alphabet()?),
    }
}

/// The sets with as many instructions as strings of so many symbols; there are those of 256 and 128.
fn sized(tokens: usize, alphabet: Alphabet) -> Option<[Set; 5]> {
    match tokens / alphabet.group() {
        256 => Some([Set::In, Set::Sparse, Set::Dense, Set::Piecewise, Set::Decoy]),
        128 => Some([Set::HalfIn, Set::HalfSparse, Set::HalfDense, Set::HalfPiecewise, Set::HalfDecoy]),
        _ => None,
    }
}

/// Whether a run's strings are of a length that has sets of its own.
pub(super) fn has_sets(config: &RunConfig) -> Result<bool> {
    Ok(sized(config.task.tokens, alphabet(Some(config))?).is_some())
}

/// The sets by role for strings of the training's length.
fn usual(tokens: usize, alphabet: Alphabet, config: Option<&RunConfig>) -> Result<Vec<EvalSet>> {
    let sets = match sized(tokens, alphabet) {
        Some(sets) => sets,
        // Of other lengths there are no sets: those that the run watches are the ones it names.
        None => {
            let watched = config.map(|c| c.watch.sets.as_slice()).unwrap_or_default();
            let one = |s: &refocus_train::TestSet| {
                let role = match s.name.trim_start_matches("half-") {
                    "in" => Role::In,
                    "sparse" => Role::Sparse,
                    "dense" => Role::Dense,
                    _ => Role::Other,
                };
                let strings = Set::named(&s.name).map_or(1_000, Set::sequences);
                let p = Probabilities::ignoring(s.ignore)?;
                let language = FlipFlop::of(alphabet, tokens, p, Family::Plain)?;
                Ok(EvalSet { role, name: s.name.clone(), language, strings })
            };
            return watched.iter().map(one).collect();
        }
    };
    Role::USUAL.into_iter().zip(sets).map(|(role, set)| EvalSet::named(role, set, alphabet)).collect()
}

/// The sets of these names, and those of `all` that the model has no positions for.
///
/// A name is that of a role (`in`, `sparse`, `dense`, `piecewise`, `decoy`, `length`: at the length the
/// model was trained on), of a set of `flipflop generate`, `long-N`, or `all` (every role), `paper`, `half`
/// (the three sets of the paper, at full and at half length). `tokens` is the length the model was trained
/// on, `config` its run, `longest` the longest string that its positions allow, `None` for any. Strings are
/// of the run's registers and data; a set of `flipflop generate` has as many instructions in these.
///
/// # Errors
/// No such set; strings of a set that was asked for by name are too long; a run that learned no strings.
pub fn sets_for(
    names: &[String],
    tokens: usize,
    config: Option<&RunConfig>,
    longest: Option<(usize, &str)>,
) -> Result<(Vec<EvalSet>, Vec<Skipped>)> {
    let alphabet = alphabet(config)?;
    let usual = usual(tokens, alphabet, config)?;
    let lengths = || -> Result<Vec<EvalSet>> {
        let Some(base) = usual.iter().find(|s| s.role == Role::In) else { return Ok(Vec::new()) };
        let doubled = std::iter::successors(Some(tokens * 2), |t| Some(t * 2));
        doubled.take_while(|&t| t <= LONGEST).map(|t| EvalSet::long(&base.language, t)).collect()
    };
    let (mut sets, mut skipped): (Vec<EvalSet>, Vec<Skipped>) = (Vec::new(), Vec::new());
    for name in names {
        let (found, by_name) = match name.as_str() {
            "all" => (usual.iter().cloned().chain(lengths()?).collect(), false),
            "paper" => (trio([Set::In, Set::Sparse, Set::Dense], alphabet)?, true),
            "half" => (trio([Set::HalfIn, Set::HalfSparse, Set::HalfDense], alphabet)?, true),
            "length" => (lengths()?, false),
            name => (vec![one(name, alphabet, &usual)?], true),
        };
        for set in found {
            let too_long = longest.filter(|l| set.language.tokens() > l.0);
            let why = too_long.map(|(n, positions)| {
                let t = set.language.tokens();
                format!("strings of {t} symbols, and the model has {positions} positions up to {n}")
            });
            match why {
                Some(why) if by_name => return Err(FlipflopError::TooLong { set: set.name, why }),
                Some(why) => {
                    let s = Skipped { name: set.name, why };
                    if !skipped.contains(&s) {
                        skipped.push(s);
                    }
                }
                None if sets.iter().any(|s| s.name == set.name) => {}
                None => sets.push(set),
            }
        }
    }
    Ok((sets, skipped))
}

fn trio(sets: [Set; 3], alphabet: Alphabet) -> Result<Vec<EvalSet>> {
    let roles = [Role::In, Role::Sparse, Role::Dense].into_iter();
    roles.zip(sets).map(|(role, set)| EvalSet::named(role, set, alphabet)).collect()
}

fn one(name: &str, alphabet: Alphabet, usual: &[EvalSet]) -> Result<EvalSet> {
    // The run's own sets come first: `in` is what the model was trained on.
    if let Some(set) = usual.iter().find(|s| s.role.name() == name || s.name == name) {
        return Ok(set.clone());
    }
    if let Some(set) = Set::named(name) {
        return EvalSet::named(Role::Other, set, alphabet);
    }
    let base = usual.iter().find(|s| s.role == Role::In);
    if let (Some(base), Some(n)) = (base, name.strip_prefix("long-").and_then(|n| n.parse().ok())) {
        return EvalSet::long(&base.language, n);
    }
    let known = ["all, paper, half, length"].into_iter().map(str::to_owned);
    let known = known.chain(usual.iter().map(|s| s.role.name().to_owned()));
    let known = known.chain(Set::ALL.map(|s| s.name().to_owned())).chain(["long-N".to_owned()]);
    let mut names: Vec<String> = Vec::new();
    known.for_each(|k| {
        if !names.contains(&k) {
            names.push(k)
        }
    });
    Err(FlipflopError::Unknown { name: name.to_owned(), known: format!("there are {}", names.join(", ")) })
}

#[cfg(test)]
mod tests {
    use refocus_train::Preset;

    use super::*;

    fn names(wanted: &str, tokens: usize, longest: Option<(usize, &str)>) -> Result<(Vec<String>, usize)> {
        let wanted: Vec<String> = wanted.split(',').map(str::to_owned).collect();
        let (sets, skipped) = sets_for(&wanted, tokens, None, longest)?;
        Ok((sets.into_iter().map(|s| s.name).collect(), skipped.len()))
    }

    #[test]
    fn sets_follow_from_the_length_of_training() {
        let (half, none) = names("all", 256, None).expect("sets");
        assert_eq!(half[..5], ["half-in", "half-sparse", "half-dense", "half-piecewise", "half-decoy"]);
        assert_eq!(
            (half[5].as_str(), half.last().map(String::as_str), none),
            ("long-512", Some("long-16384"), 0)
        );
        let (paper, _) = names("all", 512, None).expect("sets");
        assert_eq!(paper[..5], ["in", "sparse", "dense", "piecewise", "decoy"]);
        assert_eq!(names("in,dense", 256, None).expect("sets").0, ["half-in", "half-dense"]);
        assert_eq!(names("paper", 256, None).expect("sets").0, ["in", "sparse", "dense"]);
        assert_eq!(names("in,half-in,all", 256, None).expect("sets").0.len(), half.len());
    }

    #[test]
    fn long_strings_have_as_many_writes_on_average() {
        let (sets, _) = sets_for(&["all".to_owned()], 256, None, None).expect("sets");
        let inner = |s: &EvalSet| s.language.probabilities().write() * (s.language.tokens() / 2 - 2) as f64;
        let first = inner(&sets[0]);
        for s in sets.iter().filter(|s| s.role == Role::Length) {
            assert!((inner(s) / first - 1.0).abs() < 1e-9, "{}", s.name);
        }
        let tail = sets.iter().find(|s| s.role == Role::Sparse).expect("a set");
        // spec/flip-flop.md 7.2: a read a string is forced, the others come with p_r.
        let reads = f64::from(tail.strings) * (1.0 + 126.0 * tail.language.probabilities().read());
        assert!((reads - 70_400.0).abs() < 100.0, "{reads}");
    }

    /// Strings are those that the run was trained on, whatever the length; the automaton has none.
    #[test]
    fn sets_are_made_of_the_symbols_of_the_run() {
        let config = |changes: &[(&str, &str)]| {
            let cpu = Preset::Cpu.config().expect("a preset");
            changes.iter().fold(cpu, |c, (field, value)| c.with(field, value).expect("a change"))
        };
        let sets = |wanted: &str, config: &RunConfig| {
            sets_for(&[wanted.to_owned()], config.task.tokens, Some(config), None).map(|(sets, _)| sets)
        };
        for (changes, alphabet, tokens) in [
            (&[("task.symbols", "16")][..], "registers 1, symbols 16", 256),
            (&[("task.symbols", "2*2"), ("task.tokens", "384")][..], "registers 1, symbols 2*2", 384),
            (&[("task.registers", "2"), ("task.tokens", "384")][..], "registers 2, symbols 2", 384),
        ] {
            let config = config(changes);
            config.check().expect("a configuration");
            let all = sets("all", &config).expect("sets");
            assert_eq!(all[..5].iter().map(|s| s.role).collect::<Vec<_>>(), Role::USUAL);
            assert!(all.len() > 6 && all[..5].iter().all(|s| s.language.tokens() == tokens));
            let others = ["rare", "paper", "long"].map(|name| sets(name, &config).expect("sets"));
            for set in all.iter().chain(others.iter().flatten()) {
                assert_eq!(set.alphabet().as_deref(), Some(alphabet), "{}", set.name);
            }
            assert!(has_sets(&config).expect("a run"));
        }
        // Of another length it is the watched sets, in the same symbols.
        let config = config(&[("task.registers", "2"), ("task.tokens", "24")]);
        let watched = sets("all", &config).expect("sets");
        let watched: Vec<(Role, usize, usize)> = watched[..3]
            .iter()
            .map(|s| (s.role, s.language.tokens(), s.language.alphabet().registers()))
            .collect();
        assert_eq!(watched, [(Role::In, 24, 2), (Role::Sparse, 24, 2), (Role::Dense, 24, 2)]);
        let e = sets("in", &Preset::Automaton.config().expect("a preset")).err().map(|e| e.to_string());
        assert_eq!(e.as_deref(), Some("a run in the mode automaton has no reads to be asked at"));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for (name, says) in [("long-0", "not 0"), ("long-7", "not 7"), ("long-2000000", "not 2000000")] {
            let e = names(name, 256, None).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(e.ends_with(says), "{e}");
        }
    }

    #[test]
    fn positions_that_end_are_named() {
        let learned = Some((256, "learned"));
        let (sets, skipped) = names("all", 256, learned).expect("sets");
        assert_eq!((sets.len(), skipped), (5, 6));
        let e = names("long-512", 256, learned).err().map(|e| e.to_string());
        let want = "set long-512: strings of 512 symbols, and the model has learned positions up to 256";
        assert_eq!(e.as_deref(), Some(want));
        let e = names("spase", 256, None).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(e.contains("'spase'") && e.contains("half-sparse"), "{e}");
    }
}
