//! What a patch is judged by: the diagnosis' own questions, each with the harm that an answer does.

use refocus_compute::{Batch, KvUse, Ops, RowSet, Vocab, VocabOut};
use refocus_measure::calibrated::{credits, shares, thresholds};
use refocus_measure::{Contrast, probe::Question};
use refocus_model::{Applied, Mode, Model, Plan, Readout, RunError, forward};

use super::super::{DiagnoseError, Probe};

/// Tokens that go through the model together, about.
const BATCH: usize = 2048;

/// A prompt, and the tokens whose probability is asked after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Prompt {
    pub(in super::super) ids: Vec<u32>,
    pub(in super::super) wanted: Vec<u32>,
}

impl Prompt {
    /// A question by the first tokens in which its answers differ, the right one first, after what they have in
    /// common; `None` where one answer is the beginning of the other.
    pub(in super::super) fn of(q: &Question) -> Option<Self> {
        let alike = q.right.iter().zip(&q.wrong).take_while(|(a, b)| a == b).count();
        let wanted = vec![*q.right.get(alike)?, *q.wrong.get(alike)?];
        Some(Self { ids: q.prompt.iter().chain(&q.right[..alike]).copied().collect(), wanted })
    }
}

/// What the model says after a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// Log-probabilities of the tokens asked for, in nats.
    pub(super) logprobs: Vec<f64>,
    /// Its first choice of all.
    pub(super) first: u32,
}

/// How answers are judged; every item has as many prompts as the rule needs, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Rule {
    /// One prompt: the first token asked for is right, the second wrong.
    Choice,
    /// The same twice: without and with what should not matter.
    Against,
    /// True and false demonstrations; by item the class that is right and the one that is shown for it. Calibrated
    /// accuracy.
    Demonstrations(Vec<[usize; 2]>),
    /// A prompt that forces the answer, then some where anything may follow; the answer is asked for.
    Facts {
        /// How many of the latter.
        open: usize,
    },
}

/// One probe's questions.
#[derive(Clone, Debug)]
pub(in super::super) struct Cases {
    pub(in super::super) probe: Probe,
    pub(in super::super) rule: Rule,
    pub(in super::super) prompts: Vec<Prompt>,
}

/// What an item's answers cost: 0 none, 1 all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Harm {
    /// What the probe looks for.
    pub(super) main: Vec<f64>,
    /// What a patch may not buy it with; empty where there is no such thing.
    pub(super) side: Vec<f64>,
}

impl Harm {
    /// Mean harm of both kinds.
    pub(super) fn total(&self) -> f64 {
        mean(&self.main) + mean(&self.side)
    }
}

pub(super) fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

impl Cases {
    fn each(&self) -> usize {
        match &self.rule {
            Rule::Choice => 1,
            Rule::Against | Rule::Demonstrations(_) => 2,
            Rule::Facts { open } => 1 + open,
        }
    }

    /// Items.
    pub(super) fn len(&self) -> usize {
        self.prompts.len() / self.each()
    }

    /// Tokens of an item, on average.
    pub(super) fn tokens(&self) -> usize {
        self.prompts.iter().map(|p| p.ids.len()).sum::<usize>() / self.len().max(1)
    }

    /// Names of the two kinds of harm.
    pub(super) fn names(&self) -> [&'static str; 2] {
        match &self.rule {
            Rule::Choice => ["wrong bits", ""],
            Rule::Against => {
                ["wrong after sentences that name another answer", "wrong after sentences that name none"]
            }
            Rule::Demonstrations(_) => ["wrong after false demonstrations", "wrong after true ones"],
            Rule::Facts { .. } => ["probability that is not the answer's, open prompts", "known facts lost"],
        }
    }

    /// Some of the items.
    pub(super) fn part(&self, items: impl IntoIterator<Item = usize>) -> Self {
        let (each, items) = (self.each(), items.into_iter().collect::<Vec<_>>());
        let rule = match &self.rule {
            Rule::Demonstrations(classes) => {
                Rule::Demonstrations(items.iter().map(|&i| classes[i]).collect())
            }
            rule => rule.clone(),
        };
        let prompts = items.iter().flat_map(|&i| self.prompts[i * each..(i + 1) * each].iter().cloned());
        Self { probe: self.probe, rule, prompts: prompts.collect() }
    }

    /// The prompts on which the failure shows, with the answer that is right and the one that misleads.
    pub(super) fn contrasts(&self) -> Vec<Contrast> {
        let contrast = |p: &Prompt, right: usize, wrong: usize| Contrast {
            ids: p.ids.clone(),
            right: p.wanted[right],
            wrong: p.wanted[wrong],
        };
        match &self.rule {
            Rule::Choice => self.prompts.iter().map(|p| contrast(p, 0, 1)).collect(),
            Rule::Against => self.prompts.iter().skip(1).step_by(2).map(|p| contrast(p, 0, 1)).collect(),
            Rule::Demonstrations(classes) => {
                let falsely = self.prompts.iter().skip(1).step_by(2);
                falsely.zip(classes).map(|(p, &[right, shown])| contrast(p, right, shown)).collect()
            }
            Rule::Facts { .. } => Vec::new(),
        }
    }

    /// Items that the model, as it is, answers right where the answer is forced.
    pub(super) fn known(&self, said: &[Said]) -> Vec<usize> {
        let each = self.each();
        (0..self.len()).filter(|i| said[i * each].first == self.prompts[i * each].wanted[0]).collect()
    }

    /// What the answers cost, by item.
    pub(super) fn harm(&self, said: &[Said]) -> Harm {
        let wrong = |s: &Said| f64::from(u8::from(s.logprobs[0] <= s.logprobs[1]));
        match &self.rule {
            Rule::Choice => Harm { main: said.iter().map(wrong).collect(), side: Vec::new() },
            Rule::Against => Harm {
                main: said.iter().skip(1).step_by(2).map(wrong).collect(),
                side: said.iter().step_by(2).map(wrong).collect(),
            },
            Rule::Demonstrations(classes) => {
                let right: Vec<usize> = classes.iter().map(|c| c[0]).collect();
                let kind = |from: usize| {
                    let q: Vec<Vec<f64>> =
                        said.iter().skip(from).step_by(2).map(|s| shares(&s.logprobs)).collect();
                    let credit = thresholds(&q).map_or_else(Vec::new, |t| credits(&q, &t, &right));
                    credit.into_iter().map(|c| 1.0 - c).collect()
                };
                Harm { main: kind(1), side: kind(0) }
            }
            Rule::Facts { open } => {
                let mut harm = Harm::default();
                let items = said.chunks_exact(1 + open).zip(self.prompts.chunks_exact(1 + open));
                for (said, prompts) in items {
                    let p = said[1..].iter().map(|s| s.logprobs[0].exp()).sum::<f64>() / *open as f64;
                    harm.main.push(1.0 - p);
                    harm.side.push(f64::from(u8::from(said[0].first != prompts[0].wanted[0])));
                }
                harm
            }
        }
    }
}

/// What the model says after each prompt, with changes.
pub(super) fn say<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    applied: &[Applied],
) -> Result<Vec<Said>, DiagnoseError> {
    let mut out = Vec::with_capacity(prompts.len());
    let mut rest = prompts;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |p: &&Prompt| {
            tokens += p.ids.len();
            tokens <= BATCH
        };
        let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        let ids: Vec<u32> = now.iter().flat_map(|p| p.ids.iter().copied()).collect();
        let batch = Batch::from_lengths(now.iter().map(|p| p.ids.len()));
        let rows = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
        let asked = now.iter().map(|p| p.wanted.len()).max().unwrap_or(0);
        // Where a prompt asks for fewer tokens, its last one is asked for again.
        let column = |c: usize| {
            let id = |p: &Prompt| p.wanted.get(c).or(p.wanted.last()).copied().unwrap_or(0);
            Vocab::Nll(now.iter().map(id).collect())
        };
        let want = (0..asked).map(column).chain([Vocab::Top(1)]).collect();
        let readouts = [Readout::logits(&m.spec, Some(rows), want)];
        let plan = Plan::compile(&m.spec, &batch, &readouts, applied, Mode::default())?;
        let got = forward(o, m, &ids, &plan, KvUse::None)?;
        let answers = got[0].lens(0).ok_or(RunError::Unread(0))?;
        let mut columns = Vec::with_capacity(asked);
        let mut first = Vec::new();
        for a in answers {
            match a {
                VocabOut::Values(nll) => columns.push(o.to_host(nll).map_err(RunError::from)?),
                VocabOut::Top(top) => {
                    first = top.iter().map(|t| t.first().map_or(u32::MAX, |t| t.0)).collect()
                }
                _ => return Err(RunError::Unread(0).into()),
            }
        }
        for (i, p) in now.iter().enumerate() {
            let logprobs: Vec<f64> = columns.iter().take(p.wanted.len()).map(|c| -f64::from(c[i])).collect();
            if logprobs.iter().any(|x| x.is_nan()) {
                let (what, position) = ("an answer".to_owned(), p.ids.len() - 1);
                return Err(RunError::NotANumber { what, seq: out.len(), position }.into());
            }
            out.push(Said { logprobs, first: first.get(i).copied().unwrap_or(u32::MAX) });
        }
        rest = later;
    }
    Ok(out)
}

/// Negative log-likelihood (nats) of every token of some pieces of text after the first, by piece.
pub(super) fn text<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    pieces: &[Vec<u32>],
    applied: &[Applied],
) -> Result<Vec<f64>, DiagnoseError> {
    let mut out = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let batch = Batch::from_lengths([piece.len()]);
        let n = piece.len() as u32 - 1;
        let want = vec![Vocab::Nll(piece[1..].into())];
        let readouts = [Readout::logits(&m.spec, Some(RowSet::new((0..n).collect())), want)];
        let plan = Plan::compile(&m.spec, &batch, &readouts, applied, Mode::default())?;
        let got = forward(o, m, piece, &plan, KvUse::None)?;
        let Some([VocabOut::Values(nll)]) = got[0].lens(0) else { return Err(RunError::Unread(0).into()) };
        let nll = o.to_host(nll).map_err(RunError::from)?;
        out.push(nll.iter().map(|&x| f64::from(x)).sum::<f64>() / f64::from(n));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(logprobs: &[f64], first: u32) -> Said {
        Said { logprobs: logprobs.to_vec(), first }
    }

    fn cases(rule: Rule, prompts: usize) -> Cases {
        let prompt = |i| Prompt { ids: vec![i as u32], wanted: vec![7, 8] };
        Cases { probe: Probe::Recall, rule, prompts: (0..prompts).map(prompt).collect() }
    }

    #[test]
    fn a_question_is_asked_where_its_answers_part() {
        let q = |right: &[u32], wrong: &[u32]| {
            let (right, wrong) = (right.to_vec(), wrong.to_vec());
            Prompt::of(&Question { prompt: vec![1, 2], right, wrong, evidence: 0..1 })
        };
        assert_eq!(q(&[5], &[6]), Some(Prompt { ids: vec![1, 2], wanted: vec![5, 6] }));
        assert_eq!(q(&[5, 7], &[5, 8, 9]), Some(Prompt { ids: vec![1, 2, 5], wanted: vec![7, 8] }));
        assert_eq!(q(&[5], &[5, 8]), None);
    }

    #[test]
    fn a_choice_is_wrong_where_the_wrong_answer_is_as_likely() {
        let all = cases(Rule::Choice, 3);
        let harm = all.harm(&[said(&[-1.0, -2.0], 0), said(&[-2.0, -1.0], 0), said(&[-1.0, -1.0], 0)]);
        assert_eq!(harm, Harm { main: vec![0.0, 1.0, 1.0], side: Vec::new() });
        assert_eq!(all.part([2, 0]).prompts, [all.prompts[2].clone(), all.prompts[0].clone()]);
    }

    #[test]
    fn what_should_not_matter_is_told_from_its_control() {
        let harm = cases(Rule::Against, 4).harm(&[
            said(&[-1.0, -2.0], 0),
            said(&[-3.0, -2.0], 0),
            said(&[-2.0, -1.0], 0),
            said(&[-1.0, -2.0], 0),
        ]);
        assert_eq!(harm, Harm { main: vec![1.0, 0.0], side: vec![0.0, 1.0] });
        assert_eq!(harm.total(), 1.0);
    }

    #[test]
    fn open_prompts_count_by_probability_and_forced_ones_by_the_first_choice() {
        let all = cases(Rule::Facts { open: 2 }, 6);
        let (half, tenth) = (0.5f64.ln(), 0.1f64.ln());
        let said = [
            said(&[half], 7),
            said(&[half], 0),
            said(&[tenth], 0),
            said(&[half], 3),
            said(&[half], 0),
            said(&[half], 0),
        ];
        assert_eq!(all.known(&said), [0]);
        let harm = all.harm(&said);
        assert!((harm.main[0] - 0.7).abs() < 1e-12 && (harm.main[1] - 0.5).abs() < 1e-12);
        assert_eq!(harm.side, [0.0, 1.0]);
    }

    #[test]
    fn demonstrations_are_judged_by_calibrated_accuracy() {
        // Both classes are as likely everywhere but once each: thresholds are each class's own.
        let all = cases(Rule::Demonstrations(vec![[0, 1], [1, 0]]), 4);
        let harm = all.harm(&[
            said(&[0.0, -3.0], 0),
            said(&[-3.0, 0.0], 0),
            said(&[-3.0, 0.0], 0),
            said(&[0.0, -3.0], 0),
        ]);
        assert_eq!(harm, Harm { main: vec![1.0, 1.0], side: vec![0.0, 0.0] });
        let contrasts = all.contrasts();
        assert_eq!((contrasts[0].right, contrasts[0].wrong), (7, 8));
        assert_eq!((contrasts[1].right, contrasts[1].wrong), (8, 7));
    }
}
