//! How likely whole texts are, from a server that tells only the likeliest next tokens: token by token, each time
//! behind what has been taken so far.

use std::collections::BTreeMap;

use refocus_system2::ChatError;

use crate::exchange::Likely;

/// A log-probability that is told to this many nats counts as known.
const NEAR: f64 = 0.02;
/// The log-probability of a first token may differ by so many nats from one call to the next.
const ALIKE: f64 = 0.1;
/// Tokens have no more bytes than this.
const LONGEST: usize = 32;

/// What is known of a text: its log-probability in nats behind what all begin with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// As its longest listed tokens. It is a way to write the text, so the text is no less likely.
    pub logprob: f64,
    /// With what a longer token could add that is not listed.
    pub most: f64,
}

impl Known {
    /// Whether both are the same for all that matters.
    pub fn is_told(&self) -> bool {
        self.most - self.logprob <= NEAR
    }

    fn exactly(logprob: f64) -> Self {
        Self { logprob, most: logprob }
    }
}

/// Texts by their numbers, each with the probability that may be missing by now.
type Members = Vec<(usize, f64)>;

/// Tells the likeliest tokens behind a text; at least one.
pub(super) type Next<'a> = dyn FnMut(&str) -> Result<Vec<Likely>, ChatError> + 'a;

/// What a server makes of a beginning that it goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Raw text.
    AsTheyAre,
    /// A beginning of an answer in a chat: templates may take white space away at its end, and what comes behind is
    /// another question then. Where they do, the same comes behind the beginning with and without it.
    Trimmed,
}

/// Log-probabilities of `texts`, each of which begins with `begun`, from the end of `begun` on. A text is taken
/// apart as its longest tokens, which is how tokenizers write it but for rare cases. A longer one that is not listed is
/// no likelier than the last that is, and there is one of each length at most: so much may be missing.
///
/// # Errors
/// Those of `next`.
pub(super) fn walk(
    next: &mut Next<'_>,
    begun: &str,
    texts: &[&str],
    ends: Ends,
) -> Result<Vec<Known>, ChatError> {
    let mut known = vec![Known::exactly(0.0); texts.len()];
    let all = (0..texts.len()).map(|i| (i, 0.0)).collect::<Members>();
    // Texts that go on behind the same beginning, and what comes behind it where its end is taken away.
    let mut open = vec![(begun.to_owned(), 0.0f64, all, None::<Vec<Likely>>)];
    while let Some((begun, sum, members, without)) = open.pop() {
        let (ended, members): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|&(i, _)| texts[i].len() <= begun.len());
        for (i, missing) in ended {
            known[i] = Known { logprob: sum, most: (sum.exp() + missing).ln().max(sum) };
        }
        if members.is_empty() {
            continue;
        }
        let likely = next(&begun)?;
        if without.is_some_and(|w| alike(&w, &likely)) {
            for (i, missing) in members {
                known[i] = open_to(sum.exp() + missing);
            }
            continue;
        }
        let least = least(&likely).exp();
        let mut steps: BTreeMap<&[u8], (f64, Members)> = BTreeMap::new();
        for (i, missing) in members {
            let rest = texts[i].as_bytes().get(begun.len()..).unwrap_or_default();
            let longest = likely.iter().filter(|l| begins(rest, l)).max_by_key(|l| l.bytes.len());
            let longer = rest.len().min(LONGEST).saturating_sub(longest.map_or(0, |l| l.bytes.len()));
            let missing = missing + sum.exp() * longer as f64 * least;
            match longest {
                Some(l) => steps.entry(&l.bytes).or_insert((l.logprob, Vec::new())).1.push((i, missing)),
                None => known[i] = open_to(missing),
            }
        }
        for (bytes, (logprob, members)) in steps {
            let longer = String::from_utf8([begun.as_bytes(), bytes].concat()).ok();
            // What ends here is not asked again, whatever it ends with.
            let arrived = |i: usize| longer.as_ref().is_some_and(|b| texts[i].len() <= b.len());
            let sent = |b: &String| ends == Ends::AsTheyAre || !b.trim_end().is_empty();
            let (members, stuck): (Members, Members) =
                members.into_iter().partition(|&(i, _)| arrived(i) || longer.as_ref().is_some_and(sent));
            // Half a character cannot be gone on from, nor can a space that is all there is.
            for (i, missing) in stuck {
                known[i] = open_to((sum + logprob).exp() + missing);
            }
            let Some(longer) = longer.filter(|_| !members.is_empty()) else { continue };
            let bare = longer.trim_end();
            let without = if ends == Ends::AsTheyAre
                || bare.len() == longer.len()
                || members.iter().all(|m| texts[m.0].len() <= longer.len())
            {
                None
            } else if bare == begun {
                Some(likely.clone())
            } else {
                Some(next(bare)?)
            };
            open.push((longer, sum + logprob, members, without));
        }
    }
    Ok(known)
}

/// What has at most this probability, and nothing more is known of it.
fn open_to(probability: f64) -> Known {
    Known { logprob: f64::NEG_INFINITY, most: probability.ln() }
}

/// Whether two lists are of one question: the same token first, as likely, for a server does not repeat itself to the bit.
fn alike(one: &[Likely], other: &[Likely]) -> bool {
    let first = |all: &[Likely]| all.iter().max_by(|a, b| a.logprob.total_cmp(&b.logprob)).cloned();
    let (Some(one), Some(other)) = (first(one), first(other)) else { return true };
    one.bytes == other.bytes && (one.logprob - other.logprob).abs() < ALIKE
}

fn least(likely: &[Likely]) -> f64 {
    likely.iter().map(|l| l.logprob).fold(0.0, f64::min)
}

fn begins(text: &[u8], token: &Likely) -> bool {
    !token.bytes.is_empty() && text.starts_with(&token.bytes)
}

/// Two answers by their tokens; nothing where one of them begins with a listed token that is not all of it: a longer
/// one may not be listed.
pub(super) fn first_tokens(likely: &[Likely], answers: [&str; 2]) -> Option<[Known; 2]> {
    let of =
        |answer: &str| likely.iter().filter(|l| begins(answer.as_bytes(), l)).max_by_key(|l| l.bytes.len());
    let [one, other] = answers.map(of);
    let part = |found: Option<&Likely>, answer: &str| found.is_some_and(|l| l.bytes.len() < answer.len());
    if part(one, answers[0]) || part(other, answers[1]) {
        return None;
    }
    let known = |found: Option<&Likely>| match found {
        Some(l) => Known::exactly(l.logprob),
        None => Known { logprob: f64::NEG_INFINITY, most: least(likely) },
    };
    Some([known(one), known(other)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8], logprob: f64) -> Likely {
        Likely { bytes: bytes.to_vec(), logprob }
    }

    #[test]
    fn two_answers_are_told_apart_by_their_first_tokens() {
        let likely = [of(b" on", -1.0), of(b" off", -2.0), of(b" o", -3.0)];
        let known = first_tokens(&likely, [" off", " on"]).expect("apart");
        assert_eq!(known, [Known::exactly(-2.0), Known::exactly(-1.0)]);
        let known = first_tokens(&likely, [" x", " on"]).expect("apart");
        assert_eq!((known[0].most, known[0].is_told(), known[1].logprob), (-3.0, false, -1.0));
        assert_eq!(first_tokens(&likely, [" old", " other"]), None);
        // " off" may be a token that is not listed.
        assert_eq!(first_tokens(&[of(b" on", -3.0), of(b" ", -1.0)], [" off", " on"]), None);
    }

    /// The log-probability of a text as its longest tokens, of which these are all.
    fn whole(tokens: &[Likely], rest: &[u8]) -> f64 {
        if rest.is_empty() {
            return 0.0;
        }
        let longest = tokens.iter().filter(|l| begins(rest, l)).max_by_key(|l| l.bytes.len());
        longest.map_or(f64::NEG_INFINITY, |l| l.logprob + whole(tokens, &rest[l.bytes.len()..]))
    }

    #[test]
    fn a_text_is_no_likelier_than_is_told_and_exact_where_all_is() {
        let tokens = [
            of(b"ab", -0.7),
            of(b"a", -1.5),
            of(b"c", -2.0),
            of(b"b", -4.0),
            of(b"abc", -9.0),
            of(b"x", -9.5),
        ];
        // A server that tells the five likeliest leaves one out, one that tells two leaves more.
        for told in [6, 5, 4, 2] {
            let mut asked = Vec::new();
            let mut next = |text: &str| {
                asked.push(text.to_owned());
                Ok(tokens[..told].to_vec())
            };
            let texts = ["?abc", "?ac", "?aba", "?x", "?"];
            let known = walk(&mut next, "?", &texts, Ends::AsTheyAre).expect("a walk");
            for (text, known) in texts.iter().zip(&known) {
                let truth = whole(&tokens, &text.as_bytes()[1..]);
                assert!(known.most >= truth - 1e-12, "{text} of {told}: {known:?} {truth}");
                assert!(told < 6 || (known.logprob - truth).abs() < 1e-12, "{text}: {known:?} {truth}");
            }
            assert_eq!(known[4], Known::exactly(0.0));
            let again = asked.len();
            asked.sort();
            asked.dedup();
            assert_eq!(asked.len(), again, "what texts share is asked once");
        }
    }

    #[test]
    fn half_a_character_cannot_be_gone_on_from() {
        let half = "é".as_bytes()[0];
        let mut next = |_: &str| Ok(vec![of(&[half], -0.5), of(b"z", -20.0)]);
        let known = walk(&mut next, "", &["é"], Ends::AsTheyAre).expect("a walk");
        assert!(known[0].logprob == f64::NEG_INFINITY && (known[0].most + 0.5).abs() < 1e-6, "{known:?}");
    }

    #[test]
    fn in_a_chat_nothing_goes_on_behind_a_space() {
        let mut asked = Vec::new();
        let mut next = |text: &str| {
            asked.push(text.to_owned());
            Ok(vec![of(b" ", -0.5), of(b"1", -1.0), of(b"z", -20.0)])
        };
        let known = walk(&mut next, "", &[" 1", " "], Ends::Trimmed).expect("a walk");
        assert!(known[0].logprob == f64::NEG_INFINITY && (known[0].most + 0.5).abs() < 1e-6, "{known:?}");
        assert_eq!(known[1].logprob, -0.5);
        assert_eq!(asked, [""]);
    }

    #[test]
    fn a_space_that_is_kept_can_be_gone_on_from_and_one_that_is_taken_away_cannot() {
        let answer = |text: &str| match text {
            "is" => vec![of(b" ", -0.5), of(b" 1", -3.0), of(b" a", -4.0)],
            "is " => vec![of(b"2", -0.25), of(b"3", -2.0)],
            "is a" => vec![of(b" ", -1.0)],
            "is a " => vec![of(b"b", -1.0)],
            other => panic!("{other:?} is asked"),
        };
        let texts = ["is 2", "is 3", "is 1", "is a b"];
        let mut asked = 0;
        let mut kept = |text: &str| {
            asked += 1;
            Ok(answer(text))
        };
        let known = walk(&mut kept, "is", &texts, Ends::Trimmed).expect("a walk");
        let logprobs: Vec<f64> = known.iter().map(|k| k.logprob).collect();
        assert_eq!((logprobs, asked), (vec![-0.75, -2.5, -3.0, -6.0], 4));
        let mut taken = |text: &str| Ok(answer(text.trim_end()));
        let known = walk(&mut taken, "is", &texts, Ends::Trimmed).expect("a walk");
        let logprobs: Vec<f64> = known.iter().map(|k| k.logprob).collect();
        let none = f64::NEG_INFINITY;
        assert_eq!(logprobs, [none, none, -3.0, none]);
        assert!(known[0].most >= -0.5 && known[3].most >= -5.0);
        // Where a token ends with the space that may go, the beginning without it is asked for.
        let mut with = |text: &str| match text {
            "so" => Ok(vec![of(b" is ", -1.0)]),
            "so is " | "so is" => Ok(vec![of(b"2", -1.0)]),
            other => panic!("{other:?} is asked"),
        };
        let known = walk(&mut with, "so", &["so is 2", "so is "], Ends::Trimmed).expect("a walk");
        assert_eq!([known[0].logprob, known[1].logprob], [none, -1.0]);
    }

    #[test]
    fn an_error_ends_it() {
        let mut next = |_: &str| Err(ChatError::Cannot { model: "m".to_owned(), what: "tell" });
        assert!(walk(&mut next, "", &["a"], Ends::Trimmed).is_err());
        assert_eq!(
            walk(&mut next, "a", &["a"], Ends::Trimmed).expect("nothing to ask"),
            [Known::exactly(0.0)]
        );
    }
}
