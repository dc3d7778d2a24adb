//! Following tokens through the residual stream, block by block of prompts, each kept when it is done.

use refocus_compute::{Ops, Vocab, VocabOut};
use refocus_measure::recall::Prompt;
use refocus_measure::residual::{Node, Seen, follow, last_streams, unembed};
use refocus_model::{Model, ModelSpec, RunError, Tokenizer};

use super::case::{Case, Settings};
use super::error::RecallError;
use super::prompts::{Condition, Item, filter_items};
use crate::overthinking::Store;
use crate::tuned_lens::PackedLens;

/// Prompts that are run and kept together.
const BLOCK: usize = 48;
/// Tokens of an item that are followed.
pub(super) const FOLLOWED: usize = 4;

/// Which nodes are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// All of them, in order.
    pub nodes: Vec<Node>,
    /// Where the last two layers begin, in `nodes`; the first node where there are fewer layers.
    pub before: usize,
    /// Those that a tuned lens reads: before the first block and after each.
    pub blocks: Vec<Node>,
    /// Where the last two layers begin, in `blocks`.
    pub block_before: usize,
}

impl Reach {
    /// Of a model.
    pub fn of(spec: &ModelSpec) -> Self {
        let nodes = Node::all(spec);
        let start = Node::before(spec.n_layers.saturating_sub(2));
        let before = nodes.iter().position(|n| *n == start).unwrap_or(0);
        Self { nodes, before, blocks: Node::blocks(spec), block_before: spec.n_layers.saturating_sub(2) }
    }

    /// Layers of the last two that there are.
    pub fn last_layers(spec: &ModelSpec) -> std::ops::Range<usize> {
        spec.n_layers.saturating_sub(2)..spec.n_layers
    }

    fn after(&self) -> usize {
        self.nodes.len() - self.before
    }

    /// Words that an item's trace takes.
    fn words(&self, tuned: bool) -> usize {
        let tuned = if tuned { self.blocks.len() } else { 0 };
        2 * FOLLOWED * (self.nodes.len() + tuned) + 1 + self.after()
    }
}

/// What was seen of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// By the logit lens at every node: answer, argument, the other fact's answer and argument.
    pub seen: Vec<[Seen; FOLLOWED]>,
    /// The same by the tuned lens at [`Reach::blocks`]; empty without one.
    pub tuned: Vec<[Seen; FOLLOWED]>,
    /// The first choice before the last two layers.
    pub top: u32,
    /// Its negative log-likelihood (nats) at that node and all after it.
    pub top_nll: Vec<f32>,
}

impl Traced {
    fn to_words(&self) -> Vec<u32> {
        let all = self.seen.iter().chain(&self.tuned).flatten().flat_map(|s| [s.nll.to_bits(), s.rank]);
        [self.top].into_iter().chain(self.top_nll.iter().map(|x| x.to_bits())).chain(all).collect()
    }

    /// `words` are as many as the reach says.
    fn of_words(reach: &Reach, words: &[u32]) -> Self {
        let (top, seen) = words.split_at(1 + reach.after());
        let (seen, tuned) = seen.split_at(2 * FOLLOWED * reach.nodes.len());
        let one = |w: &[u32]| Seen { nll: f32::from_bits(w[0]), rank: w[1] };
        let node = |w: &[u32]| std::array::from_fn(|t| one(&w[2 * t..2 * t + 2]));
        Self {
            seen: seen.chunks_exact(2 * FOLLOWED).map(node).collect(),
            tuned: tuned.chunks_exact(2 * FOLLOWED).map(node).collect(),
            top: top[0],
            top_nll: top[1..].iter().map(|&w| f32::from_bits(w)).collect(),
        }
    }
}

/// Bytes that name a list of prompts and the tokens followed in them.
pub(super) fn name_of<'a>(items: impl Iterator<Item = (&'a [u32], Vec<u32>)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (ids, tokens) in items {
        let words = [ids.len() as u32].into_iter().chain(ids.iter().copied()).chain(tokens);
        bytes.extend(words.flat_map(u32::to_le_bytes));
    }
    bytes
}

/// Traces the items of a condition, with a tuned lens too where there is one; `relation` and the condition name the
/// blocks. `tick` is told how many more are done, and whether they were there.
///
/// # Errors
/// What the model or the folder reports.
pub fn trace_stored<O: Ops>(
    o: &mut O,
    (m, lens): (&Model<O::K>, Option<&PackedLens<O::K>>),
    items: &[Item],
    (relation, condition): (&str, Condition),
    store: &Store,
    mut tick: impl FnMut(usize, bool),
) -> Result<Vec<Traced>, RecallError> {
    let reach = Reach::of(&m.spec);
    let mut out = Vec::with_capacity(items.len());
    for (block, items) in items.chunks(BLOCK).enumerate() {
        let name = format!("{}-{}-{block:03}", plain(relation), condition.name());
        let key = store.key_of(&name_of(items.iter().map(|i| (&i.prompt.ids[..], i.tokens().to_vec()))));
        if let Some(words) = store.load_words(&name, &key, reach.words(lens.is_some()), items.len())? {
            out.extend(words.iter().map(|w| Traced::of_words(&reach, w)));
            tick(items.len(), true);
            continue;
        }
        let traced = trace(o, (m, lens), items, &reach)?;
        let words: Vec<Vec<u32>> = traced.iter().map(Traced::to_words).collect();
        store.save_words(&name, &key, words.iter().map(Vec::as_slice))?;
        tick(items.len(), false);
        out.extend(traced);
    }
    Ok(out)
}

/// The name of a relation as part of a file's name.
pub(super) fn plain(relation: &str) -> String {
    relation.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

fn trace<O: Ops>(
    o: &mut O,
    (m, lens): (&Model<O::K>, Option<&PackedLens<O::K>>),
    items: &[Item],
    reach: &Reach,
) -> Result<Vec<Traced>, RecallError> {
    let prompts: Vec<&[u32]> = items.iter().map(|i| &i.prompt.ids[..]).collect();
    let streams = last_streams(o, m, &prompts, &reach.nodes)?;
    let tokens: Vec<[u32; FOLLOWED]> = items.iter().map(Item::tokens).collect();
    let followed: Vec<&[u32]> = tokens.iter().map(|t| &t[..]).collect();
    let top = match &unembed(o, m, &streams[reach.before], &[Vocab::Top(1)])?[..] {
        [VocabOut::Top(top)] => top.iter().map(|t| t.first().map_or(0, |t| t.0)).collect::<Vec<u32>>(),
        _ => return Err(RunError::Unread(reach.before).into()),
    };
    let tops: Vec<&[u32]> = top.chunks(1).collect();
    let mut out: Vec<Traced> =
        top.iter().map(|&top| Traced { seen: vec![], tuned: vec![], top, top_nll: vec![] }).collect();
    for (i, (x, node)) in streams.iter().zip(&reach.nodes).enumerate() {
        let place = || node.name(&m.spec);
        for (t, row) in out.iter_mut().zip(follow(o, m, x, &followed, &place)?) {
            t.seen.extend(<[Seen; FOLLOWED]>::try_from(row));
        }
        if let Some(y) = lens.map(|lens| lens.apply(o, *node, x)).transpose()?.flatten() {
            for (t, row) in out.iter_mut().zip(follow(o, m, &y, &followed, &place)?) {
                t.tuned.extend(<[Seen; FOLLOWED]>::try_from(row));
            }
        }
        if i >= reach.before {
            for (t, row) in out.iter_mut().zip(follow(o, m, x, &tops, &place)?) {
                t.top_nll.extend(row.first().map(|s| s.nll));
            }
        }
    }
    Ok(out)
}

/// Finds out which of the facts asked for the model knows.
///
/// # Errors
/// What the tokenizer, the model or the folder reports.
pub fn know_stored<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    case: &mut Case,
    (tokenizer, settings): (&Tokenizer, &Settings),
    store: &Store,
    mut tick: impl FnMut(usize, bool),
) -> Result<(), RecallError> {
    let prompts = filter_items(case, tokenizer, &m.spec, settings)?;
    let last = [Node::before(m.spec.n_layers)];
    for (block, prompts) in prompts.chunks(BLOCK).enumerate() {
        let name = format!("{}-{block:03}", plain(&case.relation.key));
        let key = store.key_of(&name_of(prompts.iter().map(|p| (&p.ids[..], vec![p.answer]))));
        let (ranks, there) = match store.load_words(&name, &key, 1, prompts.len())? {
            Some(words) => (words.concat(), true),
            None => (ranks(o, m, prompts, &last)?, false),
        };
        if !there {
            store.save_words(&name, &key, ranks.chunks(1))?;
        }
        case.known.extend(prompts.iter().zip(&ranks).filter(|(_, r)| **r == 0).map(|(p, _)| p.fact));
        tick(prompts.len(), there);
    }
    case.counts.known = case.known.len();
    Ok(())
}

/// The rank of each answer after the last block.
fn ranks<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    last: &[Node],
) -> Result<Vec<u32>, RecallError> {
    let ids: Vec<&[u32]> = prompts.iter().map(|p| &p.ids[..]).collect();
    let tokens: Vec<[u32; 1]> = prompts.iter().map(|p| [p.answer]).collect();
    let tokens: Vec<&[u32]> = tokens.iter().map(|t| &t[..]).collect();
    let mut out = Vec::with_capacity(prompts.len());
    for x in last_streams(o, m, &ids, last)? {
        let seen = follow(o, m, &x, &tokens, &|| "the output".to_owned())?;
        out.extend(seen.iter().flatten().map(|s| s.rank));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_seen() {
        let nodes = vec![Node::Embedded, Node::Attention(0), Node::Block(0)];
        let blocks = vec![Node::Embedded, Node::Block(0)];
        let reach = Reach { nodes, before: 1, blocks, block_before: 0 };
        let at = |x: f32| [0.5, 1.5, x, -x].map(|nll| Seen { nll, rank: (nll + 9.0) as u32 });
        let seen = vec![at(1.0), at(2.0), at(3.0)];
        for tuned in [vec![], vec![at(4.0), at(5.0)]] {
            let t = Traced { seen: seen.clone(), tuned, top: 7, top_nll: vec![0.25, 0.125] };
            let words = t.to_words();
            assert_eq!(words.len(), reach.words(!t.tuned.is_empty()));
            assert_eq!(Traced::of_words(&reach, &words), t);
        }
    }
}
