//! Which of two continuations a model prefers after a prompt, and how much it attends, from the place where
//! it is asked, to the tokens that decide the answer.

mod grown;

use std::ops::Range;

use refocus_compute::{Batch, Kernels, KvUse, Ops, RowSet, Seg, Vocab, VocabOut};
use refocus_model::{LoadError, Mode, Model, Plan, Reading, Readout, RunError, Tokenizer, forward};

pub use self::grown::Grown;

use crate::error::MeasureError;

/// A prompt and two ways to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Tokens up to where the model is asked.
    pub prompt: Vec<u32>,
    /// Tokens of the right continuation.
    pub right: Vec<u32>,
    /// Tokens of the wrong one.
    pub wrong: Vec<u32>,
    /// Tokens of the prompt that decide the answer.
    pub evidence: Range<u32>,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Log-probabilities (nats) of the right and the wrong continuation: of their first tokens where these
    /// differ, of the whole continuations otherwise.
    pub logprobs: [f32; 2],
    /// Attention from the last token of the prompt, summed over the evidence: `[layers · heads]`.
    pub mass: Vec<f32>,
}

impl Answer {
    /// By how many nats the right continuation is more likely. A tie is no right answer.
    pub fn margin(&self) -> f32 {
        self.logprobs[0] - self.logprobs[1]
    }
}

/// A question that cannot be asked: it has no prompt, no answers to choose from, or no evidence in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("question {0} needs a prompt, evidence inside it, and two continuations that differ")]
pub struct NoQuestion(pub usize);

impl Question {
    /// The question that a text asks. The model's special tokens are put before it. The prompt has the
    /// tokens that end within it and are the same with either answer, so an answer that shares a token with
    /// the text before it is asked for from that token on.
    ///
    /// `evidence` are bytes of the prompt; every token that holds one of them counts.
    ///
    /// # Errors
    /// The texts cannot be encoded. What makes no question of it is left for [`ask`] to refuse.
    pub fn of_text(
        tokenizer: &Tokenizer,
        prompt: &str,
        right: &str,
        wrong: &str,
        evidence: Range<usize>,
    ) -> Result<Self, LoadError> {
        let (right, offsets) = with_answer(tokenizer, prompt, right)?;
        let (wrong, _) = with_answer(tokenizer, prompt, wrong)?;
        let alike = right.iter().zip(&wrong).take_while(|(a, b)| a == b).count();
        let within = offsets.iter().take_while(|bytes| bytes.end <= prompt.len()).count();
        let n = alike.min(within);
        let holds = |bytes: &Range<usize>| bytes.start < evidence.end && evidence.start < bytes.end;
        let first = offsets[..n].iter().position(holds).unwrap_or(0);
        let end = offsets[..n].iter().rposition(holds).map_or(first, |last| last + 1);
        Ok(Self {
            prompt: right[..n].to_vec(),
            right: right[n..].to_vec(),
            wrong: wrong[n..].to_vec(),
            evidence: first as u32..end as u32,
        })
    }

    /// Whether the first tokens tell the continuations apart. If not, both are scored whole.
    pub fn parts_at_once(&self) -> bool {
        self.right.first() != self.wrong.first()
    }

    /// Tokens that are run for it.
    pub fn tokens(&self) -> usize {
        if self.parts_at_once() {
            return self.prompt.len();
        }
        2 * self.prompt.len() + self.right.len() + self.wrong.len() - 2
    }

    /// Tokens of the longest sequence that is run for it.
    pub fn longest(&self) -> usize {
        let more = if self.parts_at_once() { 1 } else { self.right.len().max(self.wrong.len()) };
        self.prompt.len() + more - 1
    }

    fn is_sound(&self) -> bool {
        let e = &self.evidence;
        let inside = e.start < e.end && e.end as usize <= self.prompt.len();
        inside && !self.right.is_empty() && !self.wrong.is_empty() && self.right != self.wrong
    }
}

/// Tokens of a prompt with its answer, without what is put after a text, and their bytes.
fn with_answer(
    tokenizer: &Tokenizer,
    prompt: &str,
    answer: &str,
) -> Result<(Vec<u32>, Vec<Range<usize>>), LoadError> {
    let text = format!("{prompt}{answer}");
    let (mut ids, mut offsets) = tokenizer.encode_with_offsets(&text, true)?;
    let n = offsets.iter().rposition(|bytes| !bytes.is_empty()).map_or(0, |last| last + 1);
    ids.truncate(n);
    offsets.truncate(n);
    Ok((ids, offsets))
}

/// Where questions, one after another, can be asked together: batches of at most `budget` tokens, or of one
/// question.
pub fn batches(questions: &[Question], budget: usize) -> Vec<Range<usize>> {
    packed(&questions.iter().map(Question::tokens).collect::<Vec<_>>(), budget)
}

/// Neighbours of at most `budget` tokens together, or one.
fn packed(tokens: &[usize], budget: usize) -> Vec<Range<usize>> {
    let (mut out, mut start, mut sum) = (Vec::new(), 0, 0);
    for (i, n) in tokens.iter().enumerate() {
        if i > start && sum + n > budget {
            out.push(start..i);
            (start, sum) = (i, 0);
        }
        sum += n;
    }
    if start < tokens.len() {
        out.push(start..tokens.len());
    }
    out
}

/// Rows at which one continuation of each question is scored, and the ids that should follow.
#[derive(Default)]
struct Scored {
    rows: Vec<u32>,
    ids: Vec<u32>,
    /// Rows of each question.
    parts: Vec<usize>,
}

impl Scored {
    fn add(&mut self, first: u32, ids: &[u32]) {
        self.rows.extend((first..).take(ids.len()));
        self.ids.extend(ids);
        self.parts.push(ids.len());
    }

    fn readout<O: Ops>(&self, m: &Model<O::K>) -> Readout {
        let want = vec![Vocab::Nll(self.ids.clone().into())];
        Readout::logits(&m.spec, Some(RowSet::new(self.rows.clone())), want)
    }

    fn logprobs<O: Ops>(&self, o: &mut O, got: &Reading<O::T>) -> Result<Vec<f32>, MeasureError> {
        let Some([VocabOut::Values(nll)]) = got.lens(0) else { return Err(RunError::Unread(0).into()) };
        let nll = o.to_host(nll)?;
        let mut at = 0;
        let sum = |&n: &usize| {
            at += n;
            -nll[at - n..at].iter().sum::<f32>()
        };
        Ok(self.parts.iter().map(sum).collect())
    }
}

/// Asks questions in one ragged batch. In the last block only the rows that are asked are computed.
///
/// # Errors
/// A question that is none, NaN in a result, or what [`Plan::compile`] and [`forward`] report.
pub fn ask<O: Ops>(o: &mut O, m: &Model<O::K>, questions: &[Question]) -> Result<Vec<Answer>, MeasureError> {
    if let Some(i) = questions.iter().position(|q| !q.is_sound()) {
        return Err(NoQuestion(i).into());
    }
    let parts: Vec<Part<'_>> = questions.iter().map(|question| Part { question, from: 0 }).collect();
    let answers = pass(o, m, &parts, KvUse::None)?;
    answers.iter().enumerate().try_for_each(|(i, a)| sound(a, i, &questions[i]))?;
    Ok(answers)
}

/// A question of which the positions before `from` are cached.
struct Part<'a> {
    question: &'a Question,
    from: usize,
}

/// One pass over what is not cached. A question whose answers do not part at once is two sequences, and no cache goes
/// with it.
fn pass<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    parts: &[Part<'_>],
    kv: KvUse<'_, <O::K as Kernels>::Page>,
) -> Result<Vec<Answer>, MeasureError> {
    let (mut ids, mut segs, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    let [mut right, mut wrong] = [Scored::default(), Scored::default()];
    let mut asking = Vec::new();
    for &Part { question: q, from } in parts {
        let rows = q.prompt.len() - from;
        let asked = (ids.len() + rows - 1) as u32;
        asking.push(asked);
        let mut segment = |more: &[u32]| {
            let start = ids.len() as u32;
            ids.extend(q.prompt[from..].iter().chain(more));
            segs.push(Seg { rows: start..ids.len() as u32, pos0: from as u32 });
            groups.push(vec![vec![q.evidence.clone()]]);
        };
        if q.parts_at_once() {
            segment(&[]);
            right.add(asked, &q.right[..1]);
            wrong.add(asked, &q.wrong[..1]);
        } else {
            segment(&q.right[..q.right.len() - 1]);
            segment(&q.wrong[..q.wrong.len() - 1]);
            right.add(asked, &q.right);
            wrong.add(asked + (rows + q.right.len() - 1) as u32, &q.wrong);
        }
    }
    let batch = Batch { segs };
    let asking = RowSet::new(asking);
    let mut readouts = vec![right.readout::<O>(m), wrong.readout::<O>(m)];
    readouts.extend((0..m.spec.n_layers).map(|layer| Readout::Attention {
        layer,
        rows: Some(asking.clone()),
        groups: Some(groups.clone()),
        stats: false,
    }));
    let mode = Mode { keeps_cache: matches!(kv, KvUse::Append(_)), decoding: false };
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], mode)?;
    let got = forward(o, m, &ids, &plan, kv)?;
    let [right, wrong] = [right.logprobs(o, &got[0])?, wrong.logprobs(o, &got[1])?];
    let pairs = right.into_iter().zip(wrong);
    let mut answers: Vec<Answer> =
        pairs.map(|(r, w)| Answer { logprobs: [r, w], mass: Vec::new() }).collect();
    for (i, reading) in got.iter().enumerate().skip(2) {
        let Reading::Attention { mass: Some(mass), .. } = reading else {
            return Err(RunError::Unread(i).into());
        };
        let mass = o.to_host(mass)?;
        for (answer, heads) in answers.iter_mut().zip(mass.chunks_exact(m.spec.n_heads)) {
            answer.mass.extend(heads);
        }
    }
    Ok(answers)
}

/// Fails where an answer, that of the question `seq`, is no number.
fn sound(answer: &Answer, seq: usize, question: &Question) -> Result<(), MeasureError> {
    if answer.margin().is_nan() || answer.mass.iter().any(|x| x.is_nan()) {
        let position = question.prompt.len() - 1;
        let what = "the answer to a question".to_owned();
        return Err(RunError::NotANumber { what, seq, position }.into());
    }
    Ok(())
}
