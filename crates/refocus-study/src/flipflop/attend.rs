//! Where a model looks at reads (`spec/flip-flop.md` 4.3): attention by what stands at the keys, apart for
//! right and wrong answers, and how far the answers are from the others.

use std::ops::Range;

use refocus_compute::{Batch, KvUse, Ops, RawPattern, RowSet, Vocab, VocabOut};
use refocus_model::{Kind, LoadError, Mode, Model, Params, Plan, Reading, Readout, RunError, Site, forward};
use refocus_tasks::flipflop::{Facts, FlipFlop, Invalid, Read, Split, id};
use serde::Serialize;

use super::propositions::{Dilution, Seen, dilution, needed};

/// Symbols of one pass: patterns of all rows are held.
const PASS: usize = 1024;
/// The first positions, where models are seen to lock.
pub const FIRST: usize = 8;

/// What can stand at a key. Each position of a string is one of these to a read.
pub const GROUPS: [&str; 6] = ["write", "read", "stale_same", "stale_other", "ignore", "rest"];
const WRITE: u8 = 0;
const READ: u8 = 1;
const STALE_SAME: u8 = 2;
const STALE_OTHER: u8 = 3;
const IGNORE: u8 = 4;
const REST: u8 = 5;

/// A model that cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// It could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Its parameters cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A string that is none.
    #[error(transparent)]
    String(#[from] Invalid),
    /// Another vocabulary.
    #[error("the model knows {model} ids and the strings have {strings}")]
    Vocab {
        /// Of the model.
        model: usize,
        /// Of the language.
        strings: usize,
    },
    /// Data that no single answer gives.
    #[error("data of {0} symbols have no single answer: only data of one symbol can be looked at")]
    Width(usize),
}

/// Sums over reads of one head.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    mass: [f64; 6],
    weighted: [f64; 6],
    first: f64,
    entropy: f64,
}

/// Means over reads of one head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadMeans {
    /// Block.
    pub layer: usize,
    /// Head.
    pub head: usize,
    /// Attention on each of [`GROUPS`]; sums to 1.
    pub mass: [f64; 6],
    /// On `write` and `read` together: the two places that hold the answer.
    pub union: f64,
    /// On the first [`FIRST`] positions, whatever stands there.
    pub first: f64,
    /// Of the row of weights, nats.
    pub entropy: f64,
    /// Shares of `Σ α‖v‖` in each of [`GROUPS`].
    pub value_weighted: [f64; 6],
}

/// Reads that were answered alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reads {
    /// `right` or `wrong`.
    pub answers: &'static str,
    /// How many.
    pub reads: u64,
    /// Mean logit of the answer minus the highest other one; `None` without reads.
    pub margin: Option<f64>,
    /// The least.
    pub least_margin: Option<f64>,
    /// Each head, empty without reads.
    pub heads: Vec<HeadMeans>,
}

/// A read, by its string and position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Number of the string.
    pub string: u32,
    /// Where the model is asked.
    pub at: usize,
}

/// Reads of one kind while they are counted.
#[derive(Clone, Debug, Default)]
struct Counted {
    reads: u64,
    margin: f64,
    least: f64,
    heads: Vec<Sums>,
}

/// What was seen of a model on one set of strings.
#[derive(Clone, Debug, Default)]
pub struct Look {
    right: Counted,
    wrong: Counted,
    seen: Vec<Seen>,
    places: Vec<Place>,
    n_heads: usize,
}

/// Runs strings of the test split and adds what is seen.
///
/// # Errors
/// The language does not fit the model, or the model cannot be run on it.
pub fn look<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    language: &FlipFlop,
    seed: u64,
    strings: Range<u32>,
    into: &mut Look,
) -> Result<(), LookError> {
    check(m.spec.vocab, language)?;
    let per_pass = (PASS / language.tokens()).max(1) as u32;
    for first in strings.clone().step_by(per_pass as usize) {
        let numbers = first..strings.end.min(first.saturating_add(per_pass));
        pass(o, m, language, seed, numbers, into)?;
    }
    Ok(())
}

/// Refuses languages that the model cannot be asked about.
pub(super) fn check(vocab: usize, language: &FlipFlop) -> Result<(), LookError> {
    let alphabet = language.alphabet();
    if alphabet.vocab() != vocab {
        return Err(LookError::Vocab { model: vocab, strings: alphabet.vocab() });
    }
    if alphabet.width() != 1 {
        return Err(LookError::Width(alphabet.width()));
    }
    Ok(())
}

/// A test string.
pub(super) fn string(language: &FlipFlop, seed: u64, number: u32) -> Vec<u32> {
    let mut ids = Vec::with_capacity(language.tokens());
    language.append(seed, Split::Test, 0, number, &mut ids);
    ids
}

/// What each position up to a read is to it.
fn groups(language: &FlipFlop, ids: &[u32], facts: &Facts, read: &Read) -> Vec<u8> {
    let alphabet = language.alphabet();
    let mut out = vec![REST; read.at + 1];
    let data = (0..=read.at).skip(alphabet.datum()).step_by(alphabet.group());
    for at in data.filter(|at| ids[at - alphabet.datum()] == id::IGNORE) {
        out[at] = IGNORE;
    }
    for older in facts.older(read) {
        out[older.at] = if older.same { STALE_SAME } else { STALE_OTHER };
    }
    out[read.write_at] = WRITE;
    // An older read than the write gives another answer.
    if let Some(at) = read.read_at.filter(|&at| at > read.write_at) {
        out[at] = READ;
    }
    out
}

fn pass<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    language: &FlipFlop,
    seed: u64,
    numbers: Range<u32>,
    into: &mut Look,
) -> Result<(), LookError> {
    let spec = &m.spec;
    let (heads, d_head) = (spec.n_heads, spec.d_head);
    let strings: Vec<Vec<u32>> = numbers.clone().map(|i| string(language, seed, i)).collect();
    let facts = strings.iter().map(|s| Facts::of(language.alphabet(), s)).collect::<Result<Vec<_>, _>>()?;
    let batch = Batch::from_lengths(strings.iter().map(Vec::len));
    let starts: Vec<u32> = batch.segs.iter().map(|s| s.rows.start).collect();
    let asked =
        facts.iter().zip(&starts).flat_map(|(f, start)| f.reads.iter().map(move |r| start + r.at as u32));
    let rows = RowSet::new(asked.collect());
    let input = |layer| {
        let normed = Site::new(layer, Kind::Ln1);
        if normed.check(spec).is_ok() { normed } else { Site::new(layer, Kind::ResidPre) }
    };
    let mut readouts = vec![Readout::logits(spec, Some(rows.clone()), vec![Vocab::All])];
    for layer in 0..spec.n_layers {
        readouts.extend([
            Readout::Raw { site: Site::new(layer, Kind::Pattern), rows: Some(rows.clone()) },
            Readout::Raw { site: Site::new(layer, Kind::V), rows: None },
            Readout::Raw { site: input(layer), rows: None },
        ]);
    }
    let plan = Plan::compile(spec, &batch, &readouts, &[], Mode::default()).map_err(RunError::from)?;
    let readings = forward(o, m, &strings.concat(), &plan, KvUse::None)?;
    let Some([VocabOut::Values(logits)]) = readings[0].lens(0) else {
        return Err(RunError::Unread(0).into());
    };
    let logits = o.to_host(logits).map_err(RunError::from)?;
    if into.seen.is_empty() {
        into.n_heads = heads;
        into.seen = vec![Seen::default(); spec.n_layers * heads];
        for kind in [&mut into.right, &mut into.wrong] {
            kind.least = f64::INFINITY;
            kind.heads = vec![Sums::default(); spec.n_layers * heads];
        }
    }

    // Answers first: they say where the rest is counted.
    let mut answers = Vec::new();
    let reads = facts.iter().zip(numbers).flat_map(|(f, i)| f.reads.iter().map(move |r| (i, r)));
    for ((number, read), logits) in reads.zip(logits.chunks_exact(spec.vocab)) {
        let answer = logits[read.answer as usize];
        let others = logits.iter().enumerate().filter(|(i, _)| *i != read.answer as usize);
        let best = others.map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
        let margin = f64::from(answer - best);
        if margin.is_nan() {
            let (what, seq) = ("logits".to_owned(), number as usize);
            return Err(RunError::NotANumber { what, seq, position: read.at }.into());
        }
        // Ties go to the lower id, as everywhere.
        let first = logits.iter().position(|x| *x == answer.max(best));
        let right = first == Some(read.answer as usize);
        let kind = if right { &mut into.right } else { &mut into.wrong };
        kind.reads += 1;
        kind.margin += margin;
        kind.least = kind.least.min(margin);
        if !right {
            into.places.push(Place { string: number, at: read.at });
        }
        answers.push(right);
    }

    for (layer, part) in readings[1..].chunks_exact(3).enumerate() {
        let [Reading::Pattern { raw, rows: held }, Reading::Matrix(v), Reading::Matrix(x)] = part else {
            return Err(RunError::Unread(layer).into());
        };
        let lengths = |data: &[f32], width: usize| -> Vec<f64> {
            let square = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
            data.chunks_exact(width).map(|row| square(row).sqrt()).collect()
        };
        // `[tokens · kv_heads]`.
        let values = lengths(&o.to_host(v).map_err(RunError::from)?, d_head);
        let inputs = lengths(&o.to_host(x).map_err(RunError::from)?, spec.d_model);
        let longest = inputs.iter().fold(0.0, |a: f64, b| a.max(*b));
        let mut answered = answers.iter();
        for ((f, ids), start) in facts.iter().zip(&strings).zip(&starts) {
            for read in &f.reads {
                let groups = groups(language, ids, f, read);
                let row = start + read.at as u32;
                let at = held.as_ref().map_or(Some(row as usize), |h| h.position(row));
                let at = at.ok_or(RunError::Unread(layer))?;
                let right = answered.next().copied().unwrap_or(false);
                for head in 0..heads {
                    let weights = head_row(raw, at, head);
                    let kv = head / (heads / spec.n_kv_heads);
                    let value = |key: usize| values[(*start as usize + key) * spec.n_kv_heads + kv];
                    let i = layer * heads + head;
                    let kind = if right { &mut into.right } else { &mut into.wrong };
                    kind.heads[i].add(weights, &groups, value);
                    into.seen[i].add(weights, longest);
                }
            }
        }
    }
    Ok(())
}

/// The weights of one head in one row.
fn head_row(raw: &RawPattern, row: usize, head: usize) -> &[f32] {
    let keys = raw.keys[row] as usize;
    &raw.pattern[raw.offset[row] + head * keys..][..keys]
}

impl Sums {
    fn add(&mut self, weights: &[f32], groups: &[u8], value: impl Fn(usize) -> f64) {
        let (mut weighted, mut all) = ([0.0; 6], 0.0);
        for (key, (&w, &group)) in weights.iter().zip(groups).enumerate() {
            let w = f64::from(w);
            self.mass[group as usize] += w;
            if key < FIRST {
                self.first += w;
            }
            if w > 0.0 {
                self.entropy -= w * w.ln();
            }
            weighted[group as usize] += w * value(key);
            all += w * value(key);
        }
        if all > 0.0 {
            self.weighted.iter_mut().zip(weighted).for_each(|(s, w)| *s += w / all);
        }
    }
}

impl Seen {
    fn add(&mut self, weights: &[f32], longest: f64) {
        let largest = f64::from(weights.iter().fold(0.0, |a: f32, b| a.max(*b)));
        self.norm = self.norm.max(longest);
        self.largest = self.largest.max(largest);
        self.keys = self.keys.max(weights.len());
        self.needed = self.needed.max(needed(largest, weights.len()));
    }
}

impl Look {
    /// Right reads, then wrong ones.
    pub fn reads(&self) -> [Reads; 2] {
        [("right", &self.right), ("wrong", &self.wrong)].map(|(answers, c)| {
            let some = c.reads > 0;
            let n = c.reads as f64;
            let head = |(i, s): (usize, &Sums)| HeadMeans {
                layer: i / self.n_heads,
                head: i % self.n_heads,
                mass: s.mass.map(|x| x / n),
                union: (s.mass[WRITE as usize] + s.mass[READ as usize]) / n,
                first: s.first / n,
                entropy: s.entropy / n,
                value_weighted: s.weighted.map(|x| x / n),
            };
            Reads {
                answers,
                reads: c.reads,
                margin: some.then(|| c.margin / n),
                least_margin: some.then_some(c.least),
                heads: c.heads.iter().enumerate().filter(|_| some).map(head).collect(),
            }
        })
    }

    /// Wrong reads, in the order of the strings.
    pub fn wrong(&self) -> &[Place] {
        &self.places
    }

    /// Proposition 3, for each head.
    pub fn dilution(&self, params: &Params) -> Vec<Dilution> {
        let head = |(i, seen): (usize, &Seen)| dilution(params, i / self.n_heads, i % self.n_heads, *seen);
        self.seen.iter().enumerate().filter_map(head).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::handset;
    use super::*;
    use refocus_compute::{Cpu, Eager, Isa};
    use refocus_tasks::flipflop::{Alphabet, Set};

    #[test]
    fn every_position_is_one_thing_to_a_read() {
        let language = FlipFlop::ignoring(14, 0.5).expect("a language");
        let ids = Alphabet::BINARY.from_text("w0w1i0w1r1i1r1").expect("a string");
        let facts = Facts::of(language.alphabet(), &ids).expect("facts");
        let last = facts.reads[1];
        let names = groups(&language, &ids, &facts, &last).into_iter().map(|g| GROUPS[g as usize]);
        let want = [
            "rest",
            "stale_other",
            "rest",
            "stale_same",
            "rest",
            "ignore",
            "rest",
            "write",
            "rest",
            "read",
            "rest",
            "ignore",
            "rest",
        ];
        assert!(names.eq(want));
        let first = groups(&language, &ids, &facts, &facts.reads[0]);
        assert_eq!((first.len(), first[7]), (9, WRITE));
    }

    /// The second layer of the hand-set model looks at the last written bit and at nothing else.
    #[test]
    fn the_hand_set_model_looks_where_it_must() {
        let params = handset(512).expect("parameters");
        let mut cpu = Cpu::new(Isa::detect(), 1);
        let model = Model::from_params(params.spec(), &mut cpu, &params).expect("a model");
        let mut look = Look::default();
        let language = Set::In.language().expect("a language");
        super::look(&mut Eager::new(cpu), &model, &language, 3, 0..9, &mut look).expect("a look");
        let [right, wrong] = look.reads();
        assert!(wrong.reads == 0 && right.reads > 150 && wrong.heads.is_empty());
        let copying = &right.heads[1];
        assert!(copying.mass[WRITE as usize] > 0.9999 && copying.union > 0.9999, "{copying:?}");
        assert!((copying.mass.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        assert!(copying.value_weighted[WRITE as usize] > 0.9999, "{copying:?}");
        assert!(copying.entropy < 1e-3 && right.least_margin > Some(0.99), "{right:?}");
        for d in look.dilution(&params) {
            assert!(d.needed <= d.reach && d.largest <= d.bound.expect("a bound"), "{d:?}");
        }
    }
}
