//! Many endings of one beginning: the beginning is read once, the endings together.

use std::ops::Range;
use std::sync::Arc;

use refocus_compute::{Batch, Kernels, KvSeq, KvUse, Ops, RowSet, Seg, Vocab, VocabOut};
use refocus_model::{
    Action, Applied, Intervention, Kind, Mode, Model, Plan, Position, Readout, RunError, Site, forward,
};

use super::side::{Side, fitting};

/// Rows that run together.
const ROWS: usize = 512;

/// What is asked of an ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The id of the likeliest token after it.
    First,
    /// The log-probability of each of these after it.
    Each(Arc<[u32]>),
    /// The log-probability of these together, of which all but the last are the end of it.
    Whole(Arc<[u32]>),
}

/// One ending.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub ids: Vec<u32>,
    pub want: Want,
    /// Positions that it cannot see.
    pub hidden: Option<Range<u32>>,
}

pub(super) type Cache<O> = KvSeq<<<O as Ops>::K as Kernels>::Page>;

/// Goes on with a beginning.
pub(super) fn read<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    cache: &mut Cache<O>,
    ids: &[u32],
) -> Result<(), RunError> {
    let batch = Batch { segs: vec![Seg { rows: 0..ids.len() as u32, pos0: cache.len as u32 }] };
    let mode = Mode { keeps_cache: true, decoding: true };
    let plan = Plan::compile(&m.spec, &batch, &[], &[], mode)?;
    forward(o, m, ids, &plan, KvUse::Append(std::slice::from_mut(cache)))?;
    Ok(())
}

/// Endings that run together: of one kind, as many as there is room for.
pub(super) fn groups(tails: &[Tail]) -> impl Iterator<Item = &[Tail]> {
    let kind = |t: &Tail| std::mem::discriminant(&t.want);
    tails.chunk_by(move |a, b| kind(a) == kind(b)).flat_map(|same| fitting(same, ROWS, |t| t.ids.len()))
}

/// What is wanted of each ending of a group.
pub(super) fn run<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    cache: &Cache<O>,
    group: &[Tail],
) -> Result<Vec<Vec<f64>>, RunError> {
    let cached = cache.len > 0;
    let (mut side, mut targets, mut applied) = (Side::default(), Vec::new(), Vec::new());
    for (i, tail) in group.iter().enumerate() {
        let mut wanted = 1;
        if let Want::Whole(answer) = &tail.want {
            targets.extend_from_slice(answer);
            wanted = answer.len();
        }
        side.push(&tail.ids, cache.len, wanted);
        if let Some(hidden) = &tail.hidden {
            applied.extend((0..m.spec.n_layers).map(|layer| block(layer, hidden.clone(), i)));
        }
    }
    let want = match group.first().map(|t| &t.want) {
        None => return Ok(Vec::new()),
        Some(Want::First) => vec![Vocab::Top(1)],
        Some(Want::Each(answers)) => vec![Vocab::Ids(Arc::clone(answers)), Vocab::LogSumExp],
        Some(Want::Whole(_)) => vec![Vocab::Nll(targets.into())],
    };
    let readouts = [Readout::logits(&m.spec, Some(RowSet::new(side.asked)), want)];
    let mode = Mode { keeps_cache: false, decoding: true };
    let plan = Plan::compile(&m.spec, &side.batch, &readouts, &applied, mode)?;
    let caches = vec![cache.clone(); if cached { group.len() } else { 0 }];
    let kv = if cached { KvUse::Read(&caches) } else { KvUse::None };
    let readings = forward(o, m, &side.ids, &plan, kv)?;
    let unread = || RunError::Unread(0);
    let out: Vec<Vec<f64>> = match readings.first().and_then(|r| r.lens(0)).ok_or_else(unread)? {
        [VocabOut::Top(top)] => {
            top.iter().map(|best| best.iter().map(|(id, _)| f64::from(*id)).collect()).collect()
        }
        [VocabOut::Values(logits), VocabOut::Values(lse)] => {
            let (logits, lse) = (o.to_host(logits)?, o.to_host(lse)?);
            let each = logits.len() / lse.len().max(1);
            let row =
                |(row, lse): (&[f32], &f32)| row.iter().map(|x| f64::from(*x) - f64::from(*lse)).collect();
            logits.chunks(each.max(1)).zip(&lse).map(row).collect()
        }
        [VocabOut::Values(nll)] => {
            let nll = o.to_host(nll)?;
            let mut left = nll.iter().map(|x| -f64::from(*x));
            let sum = |t: &Tail| {
                let n = if let Want::Whole(answer) = &t.want { answer.len() } else { 0 };
                vec![left.by_ref().take(n).sum()]
            };
            group.iter().map(sum).collect()
        }
        _ => return Err(unread()),
    };
    if let Some(seq) = out.iter().position(|row| row.iter().any(|x| x.is_nan())) {
        return Err(RunError::NotANumber { what: "logits".to_owned(), seq, position: cache.len });
    }
    Ok(out)
}

/// No head of a layer sees these keys from sequence `seq`.
fn block(layer: usize, keys: Range<u32>, seq: usize) -> Applied {
    let what = Intervention {
        site: Site::new(layer, Kind::Pattern),
        head: None,
        position: Position::All,
        action: Action::BlockEdge(keys),
        when: None,
    };
    Applied { what: Arc::new(what), segs: Some(vec![seq]) }
}
