//! What becomes of answers when one bit of the string, or the temperature of attention, is another.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use refocus_compute::{Batch, KvUse, Ops, Philox, Purpose, RowSet, Vocab, VocabOut};
use refocus_model::{
    Action, Applied, Intervention, Kind, Mode, Model, Plan, Position, Readout, RunError, Site, forward,
};
use refocus_tasks::flipflop::{Alphabet, Facts, FlipFlop, Read, id};
use serde::Serialize;

use super::attend::{LookError, Place, check, string};

/// Symbols of one pass.
const PASS: usize = 4096;

/// Pairs of strings that differ in one written datum and in the reads that repeat it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pairs {
    /// Pairs whose first string was answered right.
    pub right: u64,
    /// Of these, pairs whose second string was answered otherwise.
    pub right_changed: u64,
    /// Pairs whose first string was answered wrong.
    pub wrong: u64,
    /// Of these, pairs whose second string was answered otherwise.
    pub wrong_changed: u64,
}

impl Pairs {
    fn add(&mut self, right: bool, changed: bool) {
        let (all, of) = match right {
            true => (&mut self.right, &mut self.right_changed),
            false => (&mut self.wrong, &mut self.wrong_changed),
        };
        *all += 1;
        *of += u64::from(changed);
    }
}

/// The last read of each string, asked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counterfactual {
    /// The write that counts is changed: every answer must change.
    pub last_write: Pairs,
    /// A stale write is changed: no answer may.
    pub stale_write: Pairs,
}

/// Answers at one temperature.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtTemperature {
    /// Attention's scores are divided by it, in every head; below 1 sharpens.
    pub temperature: f32,
    /// Wrong reads that became right.
    pub mended: u64,
    /// Right reads of the same strings that became wrong.
    pub broken: u64,
    /// Share of the most frequent answer at all these reads. Near 1, the model always says the same, and what
    /// it mends it mends by chance.
    pub commonest: f64,
}

/// Wrong reads at several temperatures: those that sharpening mends were attended to too softly, the others
/// look at a wrong place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Temperatures {
    /// Strings with wrong reads that were run.
    pub strings: usize,
    /// Their wrong reads.
    pub wrong: u64,
    /// Their right ones.
    pub right: u64,
    /// Wrong reads that some temperature below 1 mends.
    pub mended_by_sharpening: u64,
    /// Each temperature.
    pub at: Vec<AtTemperature>,
}

/// Temperatures of a sweep.
pub const TEMPERATURES: [f32; 7] = [0.1, 0.25, 0.5, 0.75, 1.5, 2.0, 4.0];

/// First choices at some positions of some strings.
fn choose<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    strings: &[(Vec<u32>, Vec<usize>)],
    temperature: Option<f32>,
) -> Result<Vec<Vec<u32>>, RunError> {
    let longest = strings.iter().map(|(s, _)| s.len()).max().unwrap_or(1).max(1);
    let mut out = Vec::with_capacity(strings.len());
    for part in strings.chunks((PASS / longest).max(1)) {
        let batch = Batch::from_lengths(part.iter().map(|(s, _)| s.len()));
        let starts = batch.segs.iter().map(|s| s.rows.start);
        let rows =
            part.iter().zip(starts).flat_map(|((_, at), start)| at.iter().map(move |&a| start + a as u32));
        let readout = Readout::logits(&m.spec, Some(RowSet::new(rows.collect())), vec![Vocab::Top(1)]);
        let sharpen = |t: f32| {
            let of = |layer| Applied {
                what: Arc::new(Intervention {
                    site: Site::new(layer, Kind::Scores),
                    head: None,
                    position: Position::All,
                    action: Action::Sharpen(t),
                    when: None,
                }),
                segs: None,
            };
            (0..m.spec.n_layers).map(of).collect::<Vec<_>>()
        };
        let changes = temperature.map(sharpen).unwrap_or_default();
        let plan = Plan::compile(&m.spec, &batch, &[readout], &changes, Mode::default())?;
        let ids: Vec<u32> = part.iter().flat_map(|(s, _)| s).copied().collect();
        let readings = forward(o, m, &ids, &plan, KvUse::None)?;
        let Some([VocabOut::Top(top)]) = readings[0].lens(0) else { return Err(RunError::Unread(0)) };
        let mut first = top.iter().filter_map(|row| row.first()).map(|c| c.0);
        out.extend(part.iter().map(|(_, at)| first.by_ref().take(at.len()).collect::<Vec<_>>()));
    }
    Ok(out)
}

/// The string up to a read in which a write has the next datum, and the reads that repeat it too.
fn rewritten(alphabet: &Alphabet, ids: &[u32], facts: &Facts, read: &Read, write: usize) -> Vec<u32> {
    let mut out = ids[..=read.at].to_vec();
    let symbols = alphabet.symbols() as u32;
    let next = |datum: u32| id::ZERO + (datum - id::ZERO + 1) % symbols;
    let repeats = facts.reads.iter().filter(|r| r.write == write && r.at < read.at).map(|r| r.at + 1);
    for at in repeats.chain([facts.writes[write].at]) {
        out[at] = next(out[at]);
    }
    out
}

/// Asks the last read of each string again with another last write, and with another stale write (one of
/// them, drawn evenly; strings without one have no such pair).
///
/// # Errors
/// The language does not fit the model, or the model cannot be run on it.
pub fn counterfactual<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    language: &FlipFlop,
    seed: u64,
    strings: Range<u32>,
) -> Result<Counterfactual, LookError> {
    check(m.spec.vocab, language)?;
    let (alphabet, draw) =
        (language.alphabet(), Philox::new(seed, Purpose::new("flip-flop: counterfactual")));
    let [mut base, mut last, mut stale] = [Vec::new(), Vec::new(), Vec::new()];
    let (mut answers, mut has_stale) = (Vec::new(), Vec::new());
    for number in strings {
        let ids = string(language, seed, number);
        let facts = Facts::of(alphabet, &ids)?;
        let Some(read) = facts.reads.last() else { continue };
        let older: Vec<usize> =
            (0..read.write).filter(|&w| facts.writes[w].register == read.register).collect();
        let at = vec![read.at];
        answers.push(read.answer);
        base.push((ids[..=read.at].to_vec(), at.clone()));
        last.push((rewritten(alphabet, &ids, &facts, read, read.write), at.clone()));
        let word = u64::from(draw.at(0, number, 0)[0]);
        let drawn = older.get(((word * older.len() as u64) >> 32) as usize);
        has_stale.push(drawn.is_some());
        if let Some(&write) = drawn {
            stale.push((rewritten(alphabet, &ids, &facts, read, write), at));
        }
    }
    let base = choose(o, m, &base, None)?;
    let last = choose(o, m, &last, None)?;
    let mut stale = choose(o, m, &stale, None)?.into_iter();
    let mut out = Counterfactual::default();
    for (((base, last), answer), has_stale) in base.iter().zip(&last).zip(answers).zip(has_stale) {
        let right = base.first() == Some(&answer);
        out.last_write.add(right, base != last);
        if has_stale && let Some(stale) = stale.next() {
            out.stale_write.add(right, *base != stale);
        }
    }
    Ok(out)
}

/// Runs the first `most` strings that have wrong reads again at each of [`TEMPERATURES`]; `None` without.
///
/// # Errors
/// As [`counterfactual`].
pub fn temperatures<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    language: &FlipFlop,
    seed: u64,
    wrong: &[Place],
    most: usize,
) -> Result<Option<Temperatures>, LookError> {
    check(m.spec.vocab, language)?;
    let mut by_string: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for place in wrong {
        by_string.entry(place.string).or_default().push(place.at);
    }
    let (mut strings, mut reads) = (Vec::new(), Vec::new());
    for (&number, wrong) in by_string.iter().take(most) {
        let ids = string(language, seed, number);
        let facts = Facts::of(language.alphabet(), &ids)?;
        strings.push((ids, facts.reads.iter().map(|r| r.at).collect::<Vec<_>>()));
        reads.extend(facts.reads.iter().map(|r| (r.answer, wrong.contains(&r.at))));
    }
    if strings.is_empty() {
        return Ok(None);
    }
    let mut mended = vec![false; reads.len()];
    let mut at = Vec::new();
    for temperature in TEMPERATURES {
        let chosen = choose(o, m, &strings, Some(temperature))?.concat();
        let mut frequency: BTreeMap<u32, u64> = BTreeMap::new();
        chosen.iter().for_each(|choice| *frequency.entry(*choice).or_default() += 1);
        let most = frequency.values().max().copied().unwrap_or(0);
        let commonest = most as f64 / chosen.len().max(1) as f64;
        let mut row = AtTemperature { temperature, mended: 0, broken: 0, commonest };
        for ((choice, &(answer, was_wrong)), mended) in chosen.iter().zip(&reads).zip(&mut mended) {
            let right = *choice == answer;
            row.mended += u64::from(was_wrong && right);
            row.broken += u64::from(!was_wrong && !right);
            *mended |= was_wrong && right && temperature < 1.0;
        }
        at.push(row);
    }
    let wrong = reads.iter().filter(|(_, wrong)| *wrong).count() as u64;
    Ok(Some(Temperatures {
        strings: strings.len(),
        wrong,
        right: reads.len() as u64 - wrong,
        mended_by_sharpening: mended.iter().filter(|m| **m).count() as u64,
        at,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{Look, handset, look};
    use super::*;
    use refocus_compute::{Cpu, Eager, Isa};
    use refocus_model::{Part, Which};
    use refocus_tasks::flipflop::Set;

    #[test]
    fn a_changed_write_leaves_a_valid_string() {
        let alphabet = Alphabet::BINARY;
        let ids = alphabet.from_text("w0r0w1r1i0r1").expect("a string");
        let facts = Facts::of(&alphabet, &ids).expect("facts");
        let read = facts.reads.last().expect("a read");
        let text = |write| {
            let mut s = rewritten(&alphabet, &ids, &facts, read, write);
            s.push(if write == 1 { id::ZERO } else { id::ONE });
            alphabet.validate(&s).expect("a valid string");
            alphabet.to_text(&s).expect("text")
        };
        assert_eq!((text(0).as_str(), text(1).as_str()), ("w1r1w1r1i0r1", "w0r0w0r0i0r0"));
    }

    #[test]
    fn answers_follow_the_last_write_alone() {
        let params = handset(512).expect("parameters");
        let mut cpu = Cpu::new(Isa::detect(), 1);
        let model = Model::from_params(params.spec(), &mut cpu, &params).expect("a model");
        let (mut o, language) = (Eager::new(cpu), Set::In.language().expect("a language"));
        let c = counterfactual(&mut o, &model, &language, 3, 0..20).expect("pairs");
        assert_eq!((c.last_write.right, c.last_write.right_changed), (20, 20));
        assert!(c.stale_write.right >= 19 && c.stale_write.right_changed == 0, "{c:?}");
    }

    /// A model whose scores are a hundredth of what they should be answers with the majority of all writes,
    /// and sharpening mends it.
    #[test]
    fn softness_is_mended_by_sharpening() {
        let mut params = handset(512).expect("parameters");
        let q = params.get_mut(Part::Q, 1, Which::Weight).expect("queries");
        q.iter_mut().for_each(|x| *x *= 0.002);
        let mut cpu = Cpu::new(Isa::detect(), 1);
        let model = Model::from_params(params.spec(), &mut cpu, &params).expect("a model");
        let (mut o, language) = (Eager::new(cpu), Set::Dense.language().expect("a language"));
        let mut seen = Look::default();
        look(&mut o, &model, &language, 3, 0..3, &mut seen).expect("a look");
        let t = temperatures(&mut o, &model, &language, 3, seen.wrong(), 8).expect("a sweep");
        let t = t.expect("wrong reads");
        assert_eq!(t.wrong, seen.wrong().len() as u64);
        let (sharpest, softest) = (t.at[0], t.at[TEMPERATURES.len() - 1]);
        assert!(sharpest.mended > softest.mended && t.mended_by_sharpening >= sharpest.mended, "{t:?}");
        assert!(2 * sharpest.mended > t.wrong && sharpest.broken * 4 < t.right, "{t:?}");
    }
}
