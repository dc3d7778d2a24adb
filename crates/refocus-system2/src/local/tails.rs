//! Many endings of one beginning: the beginning is read once, the endings together.

use std::ops::Range;
use std::sync::Arc;

use refocus_compute::{Batch, Kernels, KvSeq, KvUse, Ops, RowSet, Seg, Vocab, VocabOut};
use refocus_model::{
    Action, Applied, Intervention, Kind, Mode, Model, Plan, Position, Readout, RunError, Site, forward,
};

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
    let mut rest = tails;
    std::iter::from_fn(move || {
        let kind = std::mem::discriminant(&rest.first()?.want);
        let mut rows = 0;
        let n = rest.iter().take_while(|t| {
            rows += t.ids.len();
            rows <= ROWS && std::mem::discriminant(&t.want) == kind
        });
        let (group, others) = rest.split_at(n.count().max(1));
        rest = others;
        Some(group)
    })
}

/// What is wanted of each ending of a group.
pub(super) fn run<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    cache: &Cache<O>,
    group: &[Tail],
) -> Result<Vec<Vec<f64>>, RunError> {
    let cached = cache.len > 0;
    let (mut batch, mut ids, mut rows, mut targets) = (Batch::default(), Vec::new(), Vec::new(), Vec::new());
    let mut applied = Vec::new();
    for (i, tail) in group.iter().enumerate() {
        let start = ids.len() as u32;
        ids.extend_from_slice(&tail.ids);
        let end = ids.len() as u32;
        batch.segs.push(Seg { rows: start..end, pos0: cache.len as u32 });
        let wanted = if let Want::Whole(answer) = &tail.want { answer.len() as u32 } else { 1 };
        rows.extend(end.saturating_sub(wanted)..end);
        if let Want::Whole(answer) = &tail.want {
            targets.extend_from_slice(answer);
        }
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
    let readouts = [Readout::logits(&m.spec, Some(RowSet::new(rows)), want)];
    let mode = Mode { keeps_cache: false, decoding: true };
    let plan = Plan::compile(&m.spec, &batch, &readouts, &applied, mode)?;
    let caches = vec![cache.clone(); if cached { group.len() } else { 0 }];
    let kv = if cached { KvUse::Read(&caches) } else { KvUse::None };
    let readings = forward(o, m, &ids, &plan, kv)?;
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
