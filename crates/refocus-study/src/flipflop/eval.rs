//! Which reads a model gets wrong. Strings follow from language, seed and number, so to know the wrong reads
//! is to know everything that is counted.

use std::iter::Peekable;

use refocus_compute::Ops;
use refocus_measure::ReadErrors;
use refocus_tasks::flipflop::{FlipFlop, Split};
use refocus_train::flipflop::{Mode, examples};
use refocus_train::{Net, choices};

use super::error::{FlipflopError, Result};
use super::sets::EvalSet;

/// Symbols after which a result is kept, or as many as a pass takes.
const CHUNK: usize = 1 << 17;

/// The reads that a model got wrong so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Strings that were asked.
    pub strings: u32,
    /// Number of the string and position of each wrong read, in order.
    pub at: Vec<[u32; 2]>,
}

/// Strings after which [`evaluate`] reports, where a pass takes so many symbols.
fn chunk_strings(set: &EvalSet, pass: usize) -> u32 {
    (CHUNK.max(pass) / set.language.tokens()).clamp(1, 1 << 16) as u32
}

/// Asks a model at all reads of the strings of a set that were not asked before; a read is right if every
/// symbol of its datum is. In its last layer only reads are computed. `after` hears of each finished chunk, and
/// says whether to go on; gives whether all are done.
///
/// # Errors
/// As [`refocus_model::forward`], and of `after`.
pub fn evaluate<O: Ops>(
    o: &mut O,
    net: &Net<O::K>,
    set: &EvalSet,
    seed: u64,
    wrong: &mut Wrong,
    mut after: impl FnMut(&Wrong) -> Result<bool>,
) -> Result<bool> {
    let (alphabet, tokens) = (set.language.alphabet(), set.language.tokens() as u32);
    let pass = (net.pass() / set.language.tokens()).max(1) as u32;
    let chunk = chunk_strings(set, net.pass());
    while wrong.strings < set.strings {
        let end = set.strings.min(wrong.strings.saturating_add(chunk));
        while wrong.strings < end {
            let numbers = wrong.strings..end.min(wrong.strings + pass);
            let first = numbers.start;
            let drawn = numbers.clone().map(|i| string(&set.language, seed, i));
            let asked = examples(alphabet, Mode::Clean, drawn);
            let chosen = choices(o, net, &asked)
                .map_err(|source| FlipflopError::Run { set: set.name.clone(), source })?;
            let width = alphabet.width();
            let data = asked.targets.chunks(width).zip(chosen.chunks(width));
            for (&row, (target, choice)) in asked.rows.iter().step_by(width).zip(data) {
                if choice != target {
                    wrong.at.push([first + row / tokens, row % tokens]);
                }
            }
            wrong.strings = numbers.end;
        }
        if !after(wrong)? {
            return Ok(wrong.strings >= set.strings);
        }
    }
    Ok(true)
}

/// String number `i` of a test set.
fn string(language: &FlipFlop, seed: u64, i: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(language.tokens());
    language.append(seed, Split::Test, 0, i, &mut out);
    out
}

impl Wrong {
    /// Errors by what precedes a read: draws the strings again.
    ///
    /// # Errors
    /// A wrong read that is no read of these strings; names it.
    pub fn count(&self, set: &EvalSet, seed: u64) -> Result<ReadErrors, [u32; 2]> {
        let mut errors = ReadErrors::new();
        let mut wrong = self.at.iter().peekable();
        for i in 0..self.strings {
            for read in set.language.reads(seed, Split::Test, 0, i) {
                let is_wrong = next_is(&mut wrong, [i, read.at as u32]);
                errors.add(&read, is_wrong);
            }
        }
        wrong.next().map_or(Ok(errors), |at| Err(*at))
    }
}

fn next_is<'a>(wrong: &mut Peekable<impl Iterator<Item = &'a [u32; 2]>>, at: [u32; 2]) -> bool {
    wrong.next_if(|w| **w == at).is_some()
}

#[cfg(test)]
mod tests {
    use refocus_compute::{Cpu, Eager, Isa};
    use refocus_tasks::flipflop::{Alphabet, Family, Probabilities};
    use refocus_train::{Architecture, Weights, flipflop::test};

    use super::super::attention::sharpness;
    use super::super::kept::Kept;
    use super::super::sets::Role;
    use super::*;

    /// A model that has learned nothing errs, so counts say something.
    fn subject() -> (Eager<Cpu>, Net<Cpu>, EvalSet) {
        of(Alphabet::BINARY, 64)
    }

    fn of(alphabet: Alphabet, tokens: usize) -> (Eager<Cpu>, Net<Cpu>, EvalSet) {
        let mut cpu = Cpu::new(Isa::detect(), 1);
        let params = Architecture::paper(2, 16, 2).init(alphabet.vocab(), tokens, 1).expect("parameters");
        let net = Weights::from(params).pack(&mut cpu, 0).expect("a model");
        let p = Probabilities::ignoring(0.6).expect("probabilities");
        let language = FlipFlop::of(alphabet, tokens, p, Family::Plain).expect("a language");
        let set = EvalSet { role: Role::In, name: "x".to_owned(), language, strings: 300 };
        (Eager::new(cpu), net, set)
    }

    /// Counts on data of two symbols and on several registers are those that training takes.
    #[test]
    fn every_alphabet_is_counted_as_in_training() {
        for (registers, symbols, width, tokens) in [(1, 16, 1, 64), (1, 2, 2, 66), (3, 4, 2, 64)] {
            let alphabet = Alphabet::new(registers, symbols, width).expect("an alphabet");
            let (mut o, net, set) = of(alphabet, tokens);
            let mut wrong = Wrong::default();
            assert!(evaluate(&mut o, &net, &set, 7, &mut wrong, |_| Ok(true)).expect("answers"));
            let counts = wrong.count(&set, 7).expect("reads");
            let score = test(&mut o, &net, &set.language.clone().into(), 7, 300).expect("answers");
            assert_eq!(
                (counts.all.asked, counts.all.errors),
                (score.asked as u64, (score.asked - score.right) as u64)
            );
            let looked = sharpness(&mut o, &net, &set, 7).expect("weights").expect("attention");
            let reads: usize = (0..32).map(|i| set.language.reads(7, Split::Test, 0, i).len()).sum();
            assert_eq!(looked.reads, reads);
        }
    }

    #[test]
    fn counts_are_those_of_training_and_parts_make_the_whole() {
        let (mut o, net, set) = subject();
        let mut whole = Wrong::default();
        assert!(evaluate(&mut o, &net, &set, 7, &mut whole, |_| Ok(true)).expect("answers"));
        let counts = whole.count(&set, 7).expect("counts");
        let score = test(&mut o, &net, &set.language.clone().into(), 7, 300).expect("answers");
        assert_eq!(counts.all.asked, score.asked as u64);
        assert_eq!(counts.all.errors, (score.asked - score.right) as u64);
        assert!(counts.all.errors > 0);
        let summed = |bins: &refocus_measure::Bins| -> u64 { bins.iter().map(|b| b.count.errors).sum() };
        assert_eq!(summed(&counts.since_write), counts.all.errors);
        assert_eq!(summed(&counts.stale_other), counts.all.errors);

        // From anywhere on, the rest is the same.
        let mut part = Wrong { strings: 37, at: whole.at.iter().copied().filter(|w| w[0] < 37).collect() };
        assert!(evaluate(&mut o, &net, &set, 7, &mut part, |_| Ok(true)).expect("answers"));
        assert_eq!(part, whole);
        let mut stopped = Wrong::default();
        let chunk = chunk_strings(&set, net.pass());
        let long = EvalSet { strings: 3 * chunk, ..set.clone() };
        assert!(!evaluate(&mut o, &net, &long, 7, &mut stopped, |_| Ok(false)).expect("answers"));
        assert_eq!(stopped.strings, chunk);
    }

    #[test]
    fn what_is_no_read_is_named() {
        let (_, _, set) = subject();
        let wrong = Wrong { strings: 3, at: vec![[1, 1]] };
        assert_eq!(wrong.count(&set, 7), Err([1, 1]));
    }

    #[test]
    fn kept_reads_go_on_and_belong_to_one_model() {
        let (mut o, net, set) = subject();
        let dir = std::env::temp_dir().join(format!("refocus-wrong-reads-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let (kept, mut wrong) = Kept::open(&dir, "a", &set, 7).expect("a folder");
        evaluate(&mut o, &net, &set, 7, &mut wrong, |w| kept.save(w).map(|()| true)).expect("answers");
        let (_, again) = Kept::open(&dir, "a", &set, 7).expect("the file");
        assert_eq!(again, wrong);
        let refusal = |model: &str, seed| Kept::open(&dir, model, &set, seed).err().map(|e| e.to_string());
        assert!(refusal("b", 7).is_some_and(|e| e.contains("another model: a, not b")));
        assert!(refusal("a", 8).is_some_and(|e| e.contains("another seed: 7, not 8")));
        let path = dir.join("x.wrong.json");
        let text = std::fs::read_to_string(&path).expect("text");
        for (bad, says) in [
            (text.replace("\"done\":300", "\"done\":301"), "contradicts"),
            (text.replacen("\"wrong\":[[", "\"wrong\":[[0,0],[", 1), "string 0 has no read at 0"),
            (text[..text.len() / 2].to_owned(), "no wrong reads"),
        ] {
            std::fs::write(&path, bad).expect("write");
            let e = refusal("a", 7).unwrap_or_default();
            assert!(e.contains(says) && e.contains("remove the file"), "{e}");
        }
        // The language of bits is told as it ever was; others name their symbols.
        assert!(
            text.contains(
                "\"language\":\"64 symbols, Probabilities { write: 0.2, read: 0.2, ignore: 0.6 }, Plain\""
            ),
            "{text}"
        );
        std::fs::write(&path, text).expect("write");
        let (_, _, wider) = of(Alphabet::new(1, 16, 1).expect("an alphabet"), 64);
        let e = Kept::open(&dir, "a", &wider, 7).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(e.contains("another language") && e.ends_with("Plain, registers 1, symbols 16"), "{e}");
        std::fs::remove_dir_all(dir).expect("remove");
    }
}
