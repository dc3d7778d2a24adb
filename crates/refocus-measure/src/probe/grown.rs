//! Questions that grow: one text cut at several places, a question at each. What a longer one shares with the one
//! before it is run once.

use std::ops::Range;

use refocus_compute::{KvSeq, KvUse, Ops};
use refocus_model::Model;

use super::{Answer, Part, Question, ask, packed, pass, sound};
use crate::error::MeasureError;

/// Sets of questions of which the `i`-th of each begins much as the `i`-th of the set before it; a later set may
/// have fewer.
#[derive(Clone, Copy, Debug)]
pub struct Grown<'a>(pub &'a [&'a [Question]]);

impl<'a> Grown<'a> {
    /// Of each set the number of the question, where it has so many: one text at all its lengths.
    fn chain(self, i: usize) -> Vec<&'a Question> {
        self.0.iter().filter_map(|set| set.get(i)).collect()
    }

    fn chains(self) -> Vec<Vec<&'a Question>> {
        let n = self.0.iter().map(|set| set.len()).max().unwrap_or(0);
        (0..n).map(|i| self.chain(i)).collect()
    }

    /// Tokens that are run for them.
    pub fn tokens(self) -> u64 {
        self.chains().iter().map(|c| tokens(c) as u64).sum()
    }

    /// Asks all of them, set by set the answers that [`ask`] gives, to the bit. Batches have at most `budget` tokens,
    /// or one text; `tick` is told how many tokens each had.
    ///
    /// # Errors
    /// As [`ask`]; a question is counted by its text.
    pub fn ask<O: Ops>(
        self,
        o: &mut O,
        m: &Model<O::K>,
        budget: usize,
        tick: &mut dyn FnMut(u64),
    ) -> Result<Vec<Vec<Answer>>, MeasureError> {
        let chains = self.chains();
        let each: Vec<usize> = chains.iter().map(|c| tokens(c)).collect();
        let mut out: Vec<Vec<Answer>> = self.0.iter().map(|set| Vec::with_capacity(set.len())).collect();
        for part in packed(&each, budget) {
            let answers = together(o, m, &chains[part.clone()], part.start)?;
            for (i, answers) in part.clone().zip(answers) {
                let sets = (0..self.0.len()).filter(|&s| i < self.0[s].len());
                sets.zip(answers).for_each(|(s, answer)| out[s].push(answer));
            }
            tick(each[part].iter().sum::<usize>() as u64);
        }
        Ok(out)
    }
}

/// Positions of each question of a chain that are run, the first not shared with the one before it.
fn runs(chain: &[&Question]) -> Vec<Range<usize>> {
    let alike = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let before = std::iter::once(&[][..]).chain(chain.iter().map(|q| q.prompt.as_slice()));
    let run = |(q, before): (&&Question, &[u32])| {
        let n = q.prompt.len();
        // The token that is asked at is run in any case.
        alike(before, &q.prompt).min(n.saturating_sub(1))..n
    };
    chain.iter().zip(before).map(run).collect()
}

/// Whether what is shared can be kept: else a question needs two sequences, and all are asked whole.
fn grows(chain: &[&Question]) -> bool {
    chain.iter().all(|q| q.parts_at_once())
}

fn tokens(chain: &[&Question]) -> usize {
    if grows(chain) {
        return runs(chain).iter().map(Range::len).sum();
    }
    chain.iter().map(|q| q.tokens()).sum()
}

/// Chains in one batch, wave by wave: the first question of each, then the second. The chains are counted from `first`.
fn together<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    chains: &[Vec<&Question>],
    first: usize,
) -> Result<Vec<Vec<Answer>>, MeasureError> {
    let bad = chains.iter().position(|c| !c.iter().all(|q| q.is_sound()));
    if let Some(i) = bad {
        return Err(super::NoQuestion(first + i).into());
    }
    if !chains.iter().all(|c| grows(c)) {
        let whole = |c: &Vec<&Question>| ask(o, m, &c.iter().map(|q| (*q).clone()).collect::<Vec<_>>());
        return chains.iter().map(whole).collect();
    }
    let all_runs: Vec<Vec<Range<usize>>> = chains.iter().map(|c| runs(c)).collect();
    let mut out: Vec<Vec<Answer>> = chains.iter().map(|_| Vec::new()).collect();
    let mut kept: Vec<_> = chains.iter().map(|_| KvSeq::new(m.spec.n_layers)).collect();
    for wave in 0..chains.iter().map(Vec::len).max().unwrap_or(0) {
        let there: Vec<usize> = (0..chains.len()).filter(|&i| wave < chains[i].len()).collect();
        let parts: Vec<Part<'_>> = there
            .iter()
            .map(|&i| Part { question: chains[i][wave], from: all_runs[i][wave].start })
            .collect();
        let mut caches: Vec<_> =
            there.iter().map(|&i| std::mem::replace(&mut kept[i], KvSeq::new(0))).collect();
        // What is behind the place where they part is another text's.
        caches.iter_mut().zip(&parts).for_each(|(c, p)| c.len = p.from);
        let answers = pass(o, m, &parts, KvUse::Append(&mut caches))?;
        for ((&i, cache), answer) in there.iter().zip(caches).zip(answers) {
            sound(&answer, first + i, chains[i][wave])?;
            out[i].push(answer);
            kept[i] = cache;
        }
    }
    Ok(out)
}
