//! Which answer, of many conversations together. What the answers to one have in common is read with the
//! conversation; what each goes on with is read behind that.

use refocus_compute::{KvUse, Ops, RowSet, Seg, Vocab, VocabOut};
use refocus_model::{Mode, Model, Plan, Readout, RunError, forward};

use super::side::{Side, fitting};
use super::tails::Cache;

/// Rows that run together: of a pass with more than this hardly anything is left to share.
const ROWS: usize = 1024;

/// A conversation and the answers that it may have, in ids.
#[derive(Debug)]
pub(super) struct Question {
    /// The conversation, then what all answers begin with: without its last token, which the rest of each answer
    /// is read behind.
    trunk: Vec<u32>,
    /// What all answers begin with.
    common: Vec<u32>,
    /// The last token of conversation and common beginning.
    last: u32,
    /// What each answer goes on with.
    rests: Vec<Vec<u32>>,
}

impl Question {
    /// Nothing where the conversation has fewer than two tokens.
    pub(super) fn new(prompt: &[u32], answers: &[Vec<u32>]) -> Option<Self> {
        let (first, others) = answers.split_first()?;
        let same = |a: &Vec<u32>| first.iter().zip(a).take_while(|(x, y)| x == y).count();
        let common = first[..others.iter().map(same).min().unwrap_or(0)].to_vec();
        let rests = answers.iter().map(|a| a[common.len()..].to_vec()).collect();
        let mut trunk = [prompt, &common].concat();
        let last = trunk.pop()?;
        (prompt.len() > 1).then_some(Self { trunk, common, last, rests })
    }

    /// Rows of the trunk that nobody asks anything, all but one at most.
    fn unasked(&self) -> usize {
        self.trunk.len() - self.common.len().max(1)
    }
}

/// What all of these begin with.
pub(super) fn shared(questions: &[Question]) -> &[u32] {
    let Some((first, rest)) = questions.split_first() else { return &[] };
    let same = |q: &Question| first.trunk.iter().zip(&q.trunk).take_while(|(x, y)| x == y).count();
    let most = questions.iter().map(Question::unasked).min().unwrap_or(0);
    &first.trunk[..rest.iter().map(same).min().unwrap_or(most).min(most)]
}

/// Questions that run together: as many as there is room for behind `shared` tokens.
pub(super) fn groups(questions: &[Question], shared: usize) -> impl Iterator<Item = &[Question]> {
    fitting(questions, ROWS, move |q| q.trunk.len() - shared)
}

/// The log-probability of each answer of a group whose trunks begin with what `beginning` holds.
pub(super) fn scores<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    beginning: &Cache<O>,
    group: &[Question],
) -> Result<Vec<Vec<f64>>, RunError> {
    let mut caches = vec![beginning.clone(); group.len()];
    let part = |q: &Question| Part { ids: q.trunk[beginning.len..].to_vec(), targets: q.common.clone() };
    let parts: Vec<Part> = group.iter().map(part).collect();
    let common = read(o, m, &parts, KvUse::Append(&mut caches))?;
    let mut out: Vec<Vec<f64>> =
        group.iter().zip(&common).map(|(q, nll)| vec![total(0.0, nll); q.rests.len()]).collect();
    let all =
        group.iter().enumerate().flat_map(|(i, q)| q.rests.iter().enumerate().map(move |(j, r)| (i, j, r)));
    let all: Vec<_> = all.filter(|(_, _, rest)| !rest.is_empty()).collect();
    // Rests are short: as many as there is room for, of however many questions.
    for some in fitting(&all, ROWS, |(_, _, rest)| rest.len()) {
        let part = |&(i, _, rest): &(usize, usize, &Vec<u32>)| Part {
            ids: [&[group[i].last], &rest[..rest.len() - 1]].concat(),
            targets: rest.clone(),
        };
        let parts: Vec<Part> = some.iter().map(part).collect();
        let behind: Vec<Cache<O>> = some.iter().map(|(i, ..)| caches[*i].clone()).collect();
        for ((i, j, _), nll) in some.iter().zip(read(o, m, &parts, KvUse::Read(&behind))?) {
            out[*i][*j] = total(out[*i][*j], &nll);
        }
    }
    Ok(out)
}

fn total(before: f64, nll: &[f32]) -> f64 {
    nll.iter().fold(before, |sum, x| sum - f64::from(*x))
}

/// Tokens to read, and the tokens that the last of them are asked about.
struct Part {
    ids: Vec<u32>,
    targets: Vec<u32>,
}

/// Reads parts, each behind its cache; for each the negative log-probabilities of its targets.
fn read<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    parts: &[Part],
    kv: KvUse<'_, <O::K as refocus_compute::Kernels>::Page>,
) -> Result<Vec<Vec<f32>>, RunError> {
    let starts: Vec<usize> = match &kv {
        KvUse::None => vec![0; parts.len()],
        KvUse::Read(caches) => caches.iter().map(|c| c.len).collect(),
        KvUse::Append(caches) => caches.iter().map(|c| c.len).collect(),
    };
    let (mut side, mut targets) = (Side::default(), Vec::new());
    for (part, start) in parts.iter().zip(starts) {
        side.push(&part.ids, start, part.targets.len());
        targets.extend_from_slice(&part.targets);
    }
    let mut readouts = Vec::new();
    if !targets.is_empty() {
        let nll = Vocab::Nll(targets.into());
        readouts.push(Readout::logits(&m.spec, Some(RowSet::new(side.asked)), vec![nll]));
    }
    let mode = Mode { keeps_cache: matches!(kv, KvUse::Append(_)), decoding: true };
    let plan = Plan::compile(&m.spec, &side.batch, &readouts, &[], mode)?;
    let readings = forward(o, m, &side.ids, &plan, kv)?;
    let nll = match readings.first().map(|r| r.lens(0)) {
        None => Vec::new(),
        Some(Some([VocabOut::Values(nll)])) => o.to_host(nll)?,
        Some(_) => return Err(RunError::Unread(0)),
    };
    let mut left = nll.as_slice();
    let each = |(seq, (part, seg)): (usize, (&Part, &Seg))| {
        let (own, others) = left.split_at_checked(part.targets.len()).ok_or(RunError::Unread(0))?;
        left = others;
        let position = (seg.pos0 as usize + part.ids.len()).saturating_sub(part.targets.len());
        match own.iter().position(|x| x.is_nan()) {
            Some(at) => Err(RunError::NotANumber { what: "logits".to_owned(), seq, position: position + at }),
            None => Ok(own.to_vec()),
        }
    };
    parts.iter().zip(&side.batch.segs).enumerate().map(each).collect()
}
