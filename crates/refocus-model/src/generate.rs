//! Greedy decoding with a key/value cache, several prompts at a time.

use std::sync::Arc;

use refocus_compute::{Batch, Kernels, KvSeq, KvUse, Ops, RowSet, Seg, Vocab, VocabOut};

use crate::forward::{empty_cache, forward};
use crate::intervene::Position;
use crate::plan::{Applied, Mode, Plan, Readout};
use crate::run_error::RunError;
use crate::weights::Model;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Token ids, used as they are.
    pub prompts: &'a [Vec<u32>],
    /// New tokens at most, each.
    pub max_new: usize,
    /// Ids that end a sequence; they are not part of the result.
    pub stop: &'a [u32],
    /// Changes that hold while generating. Segments are indices of prompts.
    pub interventions: &'a [Applied],
}

/// A sequence under way.
struct Live<P> {
    prompt: usize,
    /// Prompt and new tokens.
    ids: Vec<u32>,
    cache: KvSeq<P>,
}

/// Generates greedily; ties go to the lower id. `on_token(prompt, id)` hears each new token at once.
/// Prompts are computed together, and what all of them begin with is computed once; a sequence's
/// tokens do not depend on its neighbours.
///
/// # Errors
/// An empty prompt, a sequence that would outgrow the context, NaN logits, or what
/// [`Plan::compile`] and [`forward`] report. Nothing is returned in part.
pub fn greedy<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    request: &Request<'_>,
    mut on_token: impl FnMut(usize, u32),
) -> Result<Vec<Vec<u32>>, RunError> {
    let mut out = vec![Vec::new(); request.prompts.len()];
    if let Some(seq) = request.prompts.iter().position(Vec::is_empty) {
        return Err(RunError::Empty { seq });
    }
    if request.max_new == 0 || request.prompts.is_empty() {
        return Ok(out);
    }
    for (seq, p) in request.prompts.iter().enumerate() {
        let len = p.len() + request.max_new - 1;
        if len > m.spec.n_ctx && !m.spec.stretches() {
            return Err(RunError::Context { seq, len, n_ctx: m.spec.n_ctx });
        }
    }
    // An intervention must match a prompt somewhere; the pieces computed below need not all hold one.
    let whole = Batch::from_lengths(request.prompts.iter().map(Vec::len));
    let strict = Mode { keeps_cache: true, decoding: false };
    Plan::compile(&m.spec, &whole, &[], request.interventions, strict)?;
    // Dynamic rotary scaling changes the angles of keys already cached: then nothing is cached.
    let cached = !m.spec.stretches();
    let prefix = if cached { shared_prefix(o, m, request)? } else { empty_cache(m) };
    let mut live: Vec<Live<_>> = request
        .prompts
        .iter()
        .enumerate()
        .map(|(prompt, ids)| Live { prompt, ids: ids.clone(), cache: prefix.clone() })
        .collect();
    for step in 0..request.max_new {
        let next = advance(o, m, &mut live, request.interventions, cached, step == 0)?;
        let mut kept = Vec::with_capacity(live.len());
        for (mut seq, id) in live.into_iter().zip(next) {
            if request.stop.contains(&id) {
                continue;
            }
            on_token(seq.prompt, id);
            out[seq.prompt].push(id);
            seq.ids.push(id);
            kept.push(seq);
        }
        live = kept;
        if live.is_empty() {
            break;
        }
    }
    Ok(out)
}

/// The cache of what all prompts begin with. Interventions at positions counted from the end cannot
/// be told apart from inside a prefix, so with them nothing is shared.
fn shared_prefix<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    request: &Request<'_>,
) -> Result<KvSeq<<O::K as Kernels>::Page>, RunError> {
    let mut cache = empty_cache(m);
    let everywhere =
        |a: &Applied| a.segs.is_none() && matches!(a.what.position, Position::All | Position::At(_));
    let [first, rest @ ..] = request.prompts else { return Ok(cache) };
    if rest.is_empty() || !request.interventions.iter().all(everywhere) {
        return Ok(cache);
    }
    let common = |p: &Vec<u32>| first.iter().zip(p).take_while(|(a, b)| a == b).count();
    let n = rest.iter().map(common).min().unwrap_or(0);
    // Every prompt keeps at least its last token: its logits are wanted.
    let n = n.min(request.prompts.iter().map(|p| p.len() - 1).min().unwrap_or(0));
    if n == 0 {
        return Ok(cache);
    }
    let batch = Batch::from_lengths([n]);
    let mode = Mode { keeps_cache: true, decoding: true };
    let plan = Plan::compile(&m.spec, &batch, &[], request.interventions, mode)?;
    forward(o, m, &first[..n], &plan, KvUse::Append(std::slice::from_mut(&mut cache)))?;
    Ok(cache)
}

/// Computes what is not cached yet and gives each sequence's next token.
fn advance<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    live: &mut [Live<<O::K as Kernels>::Page>],
    interventions: &[Applied],
    cached: bool,
    first: bool,
) -> Result<Vec<u32>, RunError> {
    let mut ids = Vec::new();
    let mut batch = Batch::default();
    for seq in live.iter() {
        let start = ids.len() as u32;
        ids.extend(&seq.ids[seq.cache.len..]);
        batch.segs.push(Seg { rows: start..ids.len() as u32, pos0: seq.cache.len as u32 });
    }
    let last = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
    let want = vec![Vocab::Top(1), Vocab::LogSumExp];
    let readouts = [Readout::logits(&m.spec, Some(last), want)];
    // Positions counted from the end of the prompt are met in the first step only.
    let here: Vec<Applied> = interventions
        .iter()
        .filter(|a| first || !matches!(a.what.position, Position::FromEnd(_)))
        .map(|a| Applied {
            what: Arc::clone(&a.what),
            segs: a.segs.as_ref().map(|s| (0..live.len()).filter(|&i| s.contains(&live[i].prompt)).collect()),
        })
        .collect();
    let plan =
        Plan::compile(&m.spec, &batch, &readouts, &here, Mode { keeps_cache: cached, decoding: true })?;
    let readings = if cached {
        let mut caches: Vec<_> =
            live.iter_mut().map(|s| std::mem::replace(&mut s.cache, KvSeq::new(0))).collect();
        let readings = forward(o, m, &ids, &plan, KvUse::Append(&mut caches))?;
        live.iter_mut().zip(caches).for_each(|(s, cache)| s.cache = cache);
        readings
    } else {
        forward(o, m, &ids, &plan, KvUse::None)?
    };
    let Some([VocabOut::Top(top), VocabOut::Values(lse)]) = readings[0].lens(0) else {
        return Err(RunError::Unread(0));
    };
    // A NaN logit is never above another, but it shows in the sum.
    let lse = o.to_host(lse)?;
    if let Some(i) = lse.iter().position(|x| x.is_nan()) {
        let position = live[i].ids.len() - 1;
        return Err(RunError::NotANumber { what: "logits".to_owned(), seq: live[i].prompt, position });
    }
    top.iter().map(|t| t.first().map(|t| t.0).ok_or(RunError::Unread(0))).collect()
}
