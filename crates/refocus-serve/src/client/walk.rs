//! How likely whole texts are, from a server that tells only the likeliest next tokens: token by token, each time
//! behind what has been taken so far.

use std::collections::BTreeMap;

use refocus_system2::ChatError;

use crate::exchange::Likely;

/// What is known of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Its log-probability in nats behind what all begin with.
    pub logprob: f64,
    /// The server told only that it is no higher: a token of it was not among the likeliest.
    pub at_most: bool,
}

/// Tells the likeliest tokens behind a text; at least one.
pub(super) type Next<'a> = dyn FnMut(&str) -> Result<Vec<Likely>, ChatError> + 'a;

/// Log-probabilities of `texts`, each of which begins with `begun`, from the end of `begun` on. A text is taken
/// apart as its longest tokens among the likeliest, which is how tokenizers write it but for rare cases.
///
/// # Errors
/// Those of `next`.
pub(super) fn walk(next: &mut Next<'_>, begun: &str, texts: &[&str]) -> Result<Vec<Known>, ChatError> {
    let mut known = vec![Known { logprob: 0.0, at_most: false }; texts.len()];
    let mut open = vec![(begun.to_owned(), 0.0, (0..texts.len()).collect::<Vec<_>>())];
    while let Some((begun, sum, members)) = open.pop() {
        let (ended, members): (Vec<usize>, Vec<usize>) =
            members.into_iter().partition(|&i| texts[i].len() <= begun.len());
        ended.into_iter().for_each(|i| known[i] = Known { logprob: sum, at_most: false });
        if members.is_empty() {
            continue;
        }
        let likely = next(&begun)?;
        let least = likely.iter().map(|l| l.logprob).fold(0.0, f64::min);
        let mut steps: BTreeMap<&[u8], (f64, Vec<usize>)> = BTreeMap::new();
        for i in members {
            let rest = texts[i].as_bytes().get(begun.len()..).unwrap_or_default();
            match longest(&likely, rest) {
                Some(l) => steps.entry(&l.bytes).or_insert((l.logprob, Vec::new())).1.push(i),
                None => known[i] = Known { logprob: sum + least, at_most: true },
            }
        }
        for (bytes, (logprob, members)) in steps {
            let whole = [begun.as_bytes(), bytes].concat();
            match String::from_utf8(whole) {
                Ok(begun) => open.push((begun, sum + logprob, members)),
                // Half a character cannot be sent.
                Err(_) => members
                    .into_iter()
                    .for_each(|i| known[i] = Known { logprob: sum + logprob, at_most: true }),
            }
        }
    }
    Ok(known)
}

/// Two answers by their first tokens; nothing where these are the same.
pub(super) fn first_tokens(likely: &[Likely], answers: [&str; 2]) -> Option<[Known; 2]> {
    let least = likely.iter().map(|l| l.logprob).fold(0.0, f64::min);
    let [one, other] = answers.map(|answer| longest(likely, answer.as_bytes()));
    let known = |found: Option<&Likely>| match found {
        Some(l) => Known { logprob: l.logprob, at_most: false },
        None => Known { logprob: least, at_most: true },
    };
    let same = matches!((one, other), (Some(a), Some(b)) if a.bytes == b.bytes);
    (!same).then(|| [known(one), known(other)])
}

/// The longest token that a text begins with.
fn longest<'l>(likely: &'l [Likely], text: &[u8]) -> Option<&'l Likely> {
    let fits = |l: &&Likely| !l.bytes.is_empty() && text.starts_with(&l.bytes);
    likely.iter().filter(fits).max_by_key(|l| l.bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_are_told_apart_by_their_first_tokens() {
        let of = |bytes: &str, logprob| Likely { bytes: bytes.into(), logprob };
        let likely = [of(" on", -1.0), of(" off", -2.0), of(" o", -3.0)];
        let known = first_tokens(&likely, [" off", " on"]).expect("apart");
        assert_eq!(known.map(|k| (k.logprob, k.at_most)), [(-2.0, false), (-1.0, false)]);
        let known = first_tokens(&likely, [" x", " on"]).expect("apart");
        assert_eq!(known.map(|k| (k.logprob, k.at_most)), [(-3.0, true), (-1.0, false)]);
        assert_eq!(first_tokens(&likely, [" old", " other"]), None);
    }

    /// Single letters, each as likely as its place says, `ab` as one token, and half of `é`.
    fn likely(_: &str) -> Result<Vec<Likely>, ChatError> {
        let of = |bytes: &[u8], logprob| Likely { bytes: bytes.to_vec(), logprob };
        Ok(vec![
            of(b"a", -1.0),
            of(b"ab", -0.5),
            of(b"c", -2.0),
            of("é".as_bytes().get(..1).expect("a byte"), -3.0),
        ])
    }

    #[test]
    fn a_text_is_the_sum_of_its_longest_tokens() {
        let mut asked = Vec::new();
        let mut next = |text: &str| {
            asked.push(text.to_owned());
            likely(text)
        };
        let known = walk(&mut next, "x", &["xabc", "xac", "xabx", "xz", "xé", "x"]).expect("a walk");
        let exact = |logprob| Known { logprob, at_most: false };
        let at_most = |logprob| Known { logprob, at_most: true };
        assert_eq!(
            known,
            [exact(-2.5), exact(-3.0), at_most(-3.5), at_most(-3.0), at_most(-3.0), exact(0.0)]
        );
        // What they share is asked once.
        asked.sort();
        assert_eq!(asked, ["x", "xa", "xab"]);
    }

    #[test]
    fn an_error_ends_it() {
        let mut next = |_: &str| Err(ChatError::Cannot { model: "m".to_owned(), what: "tell" });
        assert!(walk(&mut next, "", &["a"]).is_err());
        assert_eq!(walk(&mut next, "a", &["a"]).expect("nothing to ask").len(), 1);
    }
}
