//! The merges of a byte-pair vocabulary: read, checked, or recovered from the vocabulary itself.

use tokenizers::models::bpe::Vocab;

use crate::error::shorten;

/// The two halves of each merge, written with a space between them; they and what they join to are tokens.
/// An error says which is not so.
pub(super) fn halves<'a>(
    vocab: &Vocab,
    merges: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    for (i, merge) in merges.into_iter().enumerate() {
        let halves = merge.split_once(' ').filter(|(_, b)| !b.contains(' '));
        let Some((a, b)) = halves.filter(|(a, b)| joins(vocab, a, b)) else {
            return Err(format!("merge {i}, {:?}, does not join two tokens into a third", shorten(merge)));
        };
        out.push((a.to_owned(), b.to_owned()));
    }
    Ok(out)
}

/// Whether two halves are tokens and join to one.
pub(super) fn joins(vocab: &Vocab, a: &str, b: &str) -> bool {
    [a, b].iter().all(|t| vocab.contains_key(*t)) && vocab.contains_key(&[a, b].concat())
}

/// The merges that a SentencePiece vocabulary implies: every way to cut a token into two tokens, the
/// highest score first, then the longest first half, then the longest second half, in characters.
pub(super) fn implied(vocab: &Vocab, tokens: &[&str], scores: &[f64]) -> Vec<(String, String)> {
    struct Cut<'a> {
        score: f64,
        chars: (usize, usize),
        halves: (&'a str, &'a str),
    }
    let mut cuts = Vec::new();
    for (&token, &score) in tokens.iter().zip(scores) {
        let length = token.chars().count();
        let mut of_token = Vec::new();
        for (n, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (a, b) = token.split_at(at);
            if let (Some(first), Some(second)) = (vocab.get(a), vocab.get(b)) {
                of_token.push(((first, second), Cut { score, chars: (n, length - n), halves: (a, b) }));
            }
        }
        of_token.sort_by_key(|(ids, _)| *ids);
        cuts.extend(of_token.into_iter().map(|(_, cut)| cut));
    }
    // Stable, so that equals keep the order of the vocabulary.
    cuts.sort_by(|x, y| y.score.total_cmp(&x.score).then(y.chars.cmp(&x.chars)));
    cuts.into_iter().map(|c| (c.halves.0.to_owned(), c.halves.1.to_owned())).collect()
}
