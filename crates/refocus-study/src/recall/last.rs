//! Who lowers the answer in the last two blocks: where the last heads look and what they write, and where the
//! intercept of the last MLP points (claim C8).

use std::borrow::Cow;

use refocus_compute::Ops;
use refocus_measure::MeasureError;
use refocus_measure::recall::{Frequencies, Observed, Prompt, head_outputs, lens};
use refocus_model::Model;
use serde::{Deserialize, Serialize};

use super::{FEWEST, Judged, Saying, by_fact, facts};
use crate::Verdict;
use crate::overthinking::Estimate;

/// Bins of confidence: how likely the lens holds the answer two blocks before the end.
pub const BINS: [(&str, f64); 3] = [("below 0.1", 0.1), ("0.1 to 0.5", 0.5), ("above 0.5", f64::INFINITY)];
/// Random vectors that show what correlation with frequency comes by chance: every vector has some, because rows of
/// the unembedding share directions that go with how often tokens occur.
const BY_CHANCE: u64 = 20;

const C8A: Saying = Saying {
    id: "C8a",
    claim: "most heads of the last block attend to the first token and write frequent tokens",
    control: "random vectors",
};
const C8B: Saying = Saying {
    id: "C8b",
    claim: "the last MLP's intercept is aligned with the frequency-weighted average token",
    control: "random vectors, and the MLP's mean over plain text",
};

/// One head of the last block, over some prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastHead {
    /// Query head.
    pub head: usize,
    /// Attention to the first token.
    pub to_first: Estimate,
    /// Length (ℓ2) of what it writes.
    pub norm: Estimate,
    /// Its length over that of all heads and the MLP of the block.
    pub share: f64,
    /// Spearman's correlation of what its mean output adds to logits with how often tokens occur.
    pub frequency: Option<f64>,
}

/// The last two blocks over the prompts of a bin of confidence, or over all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastBlocks {
    /// The bin, or `all`.
    pub bin: Cow<'static, str>,
    /// Prompts.
    pub prompts: usize,
    /// Facts.
    pub facts: usize,
    /// Probability of the answer by the lens: two blocks before the end, one before (absent in a model of one block),
    /// after the last attention (absent in parallel blocks), at the end.
    pub prob: Vec<Estimate>,
    /// Change over the last two blocks.
    pub change: Estimate,
    /// Of it what the attention of the last block changes; absent in parallel blocks.
    pub by_attention: Option<Estimate>,
    /// And its MLP.
    pub by_mlp: Option<Estimate>,
    /// Heads of the last block.
    pub heads: Vec<LastHead>,
}

/// Looks at the last two blocks, over all prompts and by bin; bins without prompts are not there.
///
/// # Errors
/// What the backend reports.
pub fn last_blocks<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    seen: &Observed,
    frequencies: &Frequencies,
    seed: u64,
) -> Result<Vec<LastBlocks>, MeasureError> {
    let layers = m.spec.n_layers;
    let last = &seen.blocks[layers - 1];
    let mut nodes = vec![lens(o, m, prompts, &seen.blocks[layers.saturating_sub(2)].resid_pre)?];
    if layers > 1 {
        nodes.push(lens(o, m, prompts, &last.resid_pre)?);
    }
    let begins = nodes.len() - 1;
    let serial = !matches!(m.spec.wiring, refocus_model::Wiring::Parallel { .. });
    if serial {
        nodes.push(lens(o, m, prompts, &last.mlp_in)?);
    }
    nodes.push(lens(o, m, prompts, &seen.resid_post)?);
    let written = head_outputs(o, m, seen, layers - 1)?;
    let mut out = Vec::new();
    let all = std::iter::once(("all", f64::NEG_INFINITY, f64::INFINITY));
    let mut low = f64::NEG_INFINITY;
    let bins = BINS.iter().map(|&(name, high)| (name, std::mem::replace(&mut low, high), high));
    for (bin, low, high) in all.chain(bins) {
        let inside = |i: usize| (low..high).contains(&nodes[0][i].0);
        let which: Vec<usize> = (0..prompts.len()).filter(|&i| inside(i)).collect();
        if which.is_empty() {
            continue;
        }
        let own: Vec<Prompt> = which.iter().map(|&i| prompts[i].clone()).collect();
        let estimate = |of: &dyn Fn(usize) -> f64| {
            Estimate::of(&by_fact(&own, which.iter().map(|&i| Some(of(i)))), seed)
        };
        let change = |from: usize, to: usize| estimate(&|i| nodes[to][i].0 - nodes[from][i].0);
        let end = nodes.len() - 1;
        let mut heads = Vec::new();
        let d = m.spec.d_model;
        let length = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let lengths = |rows: &[f32]| which.iter().map(|&i| length(&rows[i * d..(i + 1) * d])).sum::<f64>();
        let block = written.iter().map(|rows| lengths(rows)).sum::<f64>() + lengths(&last.mlp_out);
        for (head, rows) in written.iter().enumerate() {
            heads.push(LastHead {
                head,
                to_first: estimate(&|i| f64::from(last.to_first[i * m.spec.n_heads + head])),
                norm: estimate(&|i| length(&rows[i * d..(i + 1) * d])),
                share: lengths(rows) / block,
                frequency: frequencies.correlation(o, m, &mean_row(rows, &which, d))?,
            });
        }
        out.push(LastBlocks {
            bin: bin.into(),
            prompts: which.len(),
            facts: facts(&own),
            prob: nodes.iter().map(|n| estimate(&|i| n[i].0)).collect(),
            change: change(0, end),
            by_attention: serial.then(|| change(begins, begins + 1)),
            by_mlp: serial.then(|| change(begins + 1, end)),
            heads,
        });
    }
    Ok(out)
}

fn mean_row(rows: &[f32], which: &[usize], d: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; d];
    for &i in which {
        sum.iter_mut().zip(&rows[i * d..(i + 1) * d]).for_each(|(s, x)| *s += f64::from(*x));
    }
    sum.iter().map(|s| (s / which.len() as f64) as f32).collect()
}

/// The least and the largest correlation with frequency of random vectors: one more falls outside on each side once in
/// 21 times.
///
/// # Errors
/// What the backend reports.
pub fn by_chance<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    frequencies: &Frequencies,
    seed: u64,
) -> Result<(f64, f64), MeasureError> {
    let like = vec![1.0; m.spec.d_model];
    let mut range = (f64::INFINITY, f64::NEG_INFINITY);
    for draw in 0..BY_CHANCE {
        let v = super::intercept::random_vector(&like, seed.wrapping_add(draw));
        if let Some(r) = frequencies.correlation(o, m, &v)? {
            range = (range.0.min(r), range.1.max(r));
        }
    }
    Ok(range)
}

/// Where a vector that the last MLP adds points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// Which vector, in words.
    pub what: Cow<'static, str>,
    /// Cosine with the mean unembedding weighted by frequency.
    pub cosine: Option<f64>,
    /// The same without the direction that all tokens share.
    pub cosine_removed: Option<f64>,
    /// Spearman's correlation of what it adds to logits with how often tokens occur.
    pub frequency: Option<f64>,
}

/// Where the last MLP's intercept points, and its mean over plain text.
///
/// # Errors
/// What the backend reports.
pub fn alignments<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    intercept: &[f32],
    generic: &[f32],
    frequencies: &Frequencies,
) -> Result<Vec<Alignment>, MeasureError> {
    let all = [("intercept of the last MLP", intercept), ("mean of the last MLP over plain text", generic)];
    let one = |(what, v): (&'static str, &[f32])| {
        let [cosine, cosine_removed] = frequencies.alignment(o, m, v)?;
        Ok(Alignment {
            what: what.into(),
            cosine,
            cosine_removed,
            frequency: frequencies.correlation(o, m, v)?,
        })
    };
    all.into_iter().map(one).collect()
}

/// C8a: most heads of the last block look at the first token and write frequent tokens. It holds where more than half
/// of them have more than half of their attention there (intervals) and correlate more with frequency than any random
/// vector (`chance` is [`by_chance`]), and together they write more than a tenth of the block's lengths; it holds
/// conditionally where they look there, but do not write frequent tokens or write less; it does not hold where at most
/// half look there.
pub fn judge_heads(all: &LastBlocks, chance: (f64, f64)) -> Judged {
    let looking: Vec<&LastHead> = all.heads.iter().filter(|h| h.to_first.low > 0.5).collect();
    let frequent = looking.iter().filter(|h| h.frequency.is_some_and(|r| r > chance.1)).count();
    // A sum of nothing is −0.
    let share = 0.0 + looking.iter().map(|h| h.share).sum::<f64>();
    let (n, of) = (all.facts, all.heads.len());
    let verdict = if n < FEWEST {
        Verdict::CannotBeTested
    } else if 2 * looking.len() <= of {
        Verdict::DoesNotHold
    } else if 2 * frequent > of && share > 0.1 {
        Verdict::Holds
    } else {
        Verdict::Conditional
    };
    let why = format!(
        "{} of {of} heads look at the first token, {frequent} of them write frequent tokens, together {:.0} % of what the block writes",
        looking.len(),
        100.0 * share
    );
    C8A.fared(verdict, why, n)
}

/// C8b: the last MLP's intercept points to the average token. It holds where its correlation with frequency is above
/// that of any random vector (`chance` is [`by_chance`]) and its cosine without the shared direction exceeds that of
/// the mean over plain text (then it is the task's); conditionally where that is no more; it does not hold where the
/// correlation is no more than chance gives.
pub fn judge_intercept(all: &[Alignment], chance: (f64, f64), n: usize) -> Judged {
    let of = |i: usize| all.get(i).and_then(|a| Some((a.frequency?, a.cosine_removed?)));
    let (Some((rho, cosine)), Some((rho_text, cosine_text))) = (of(0), of(1)) else {
        let why = "the unembedding has another width than the residual stream".to_owned();
        return C8B.fared(Verdict::CannotBeTested, why, n);
    };
    let why = format!(
        "correlation with frequency {rho:.2} (random vectors {:.2} to {:.2}, mean over text {rho_text:.2}), cosine without the shared direction {cosine:.2} ({cosine_text:.2})",
        chance.0, chance.1
    );
    let verdict = match (rho > chance.1, cosine > cosine_text) {
        _ if n < FEWEST => Verdict::CannotBeTested,
        (true, true) => Verdict::Holds,
        (true, false) => Verdict::Conditional,
        (false, _) => Verdict::DoesNotHold,
    };
    C8B.fared(verdict, why, n)
}
