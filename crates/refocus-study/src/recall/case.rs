//! A relation as one model is asked for it.

use std::collections::BTreeMap;

use refocus_compute::{Philox, Purpose};
use refocus_measure::probe::Question;
use refocus_measure::recall::Prompt;
use refocus_model::Tokenizer;
use refocus_tasks::recall::{Form, Relation};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::error::RecallError;
use crate::overthinking::hex;

/// Fewer facts that can be asked for say nothing.
pub const FEWEST_ASKED: usize = 20;
/// Fewer facts that are known say nothing.
pub const FEWEST_KNOWN: usize = 12;
const DRAW: Purpose = Purpose::new("recall: facts that are asked for");

/// How a run is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Facts of a relation that are asked for at most, drawn where there are more.
    pub facts: usize,
    /// Wordings of each fact and form, drawn where there are more.
    pub wordings: usize,
    /// Most other facts that are stated before a question; fewer are asked too.
    pub shots: usize,
    /// Answers of several tokens are asked for by their first token, instead of being left out.
    pub first_token: bool,
    /// Seed of everything drawn.
    pub seed: u64,
}

/// Facts by what becomes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Different arguments in the relation.
    pub facts: usize,
    /// Rows left out because their argument was there before.
    pub repeated: usize,
    /// Facts whose answer has several tokens.
    pub several_tokens: usize,
    /// Facts that the model was asked for, to find those that it knows.
    pub asked: usize,
    /// Facts that it knows: after three other facts and a wording that forces a name, where there is one, the
    /// answer is its first choice.
    pub known: usize,
}

/// What became of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// It can be measured.
    #[serde(rename = "measured")]
    Measured,
    /// Too few facts, and what would help.
    #[serde(rename = "too few")]
    TooFew(String),
}

/// A relation and the facts of it that a model can be asked for.
#[derive(Clone, Debug)]
pub struct Case {
    /// The relation.
    pub relation: Relation,
    /// Facts that are asked for, ascending.
    pub asked: Vec<usize>,
    /// First token of the answer of every fact of the relation.
    pub answers: Vec<u32>,
    /// Of every fact of the relation the argument as one token after a space, where it is one.
    pub arguments: Vec<Option<u32>>,
    /// Of those asked for, the known ones.
    pub known: Vec<usize>,
    /// Numbers of facts.
    pub counts: Counts,
}

impl Case {
    /// Chooses the facts that can be asked for; none is known yet.
    ///
    /// # Errors
    /// A text that the tokenizer cannot express.
    pub fn new(relation: Relation, tokenizer: &Tokenizer, settings: &Settings) -> Result<Self, RecallError> {
        let (mut answers, mut arguments, mut usable) = (Vec::new(), Vec::new(), Vec::new());
        let mut several_tokens = 0;
        let wording = filter_wording(&relation);
        for (i, fact) in relation.facts.iter().enumerate() {
            let text = match wording {
                Some(w) => relation.question(i, &relation.wordings[w], &[]).text,
                None => relation.ask(&fact.argument),
            };
            let tokens = continued(tokenizer, &text, &fact.answer)?;
            several_tokens += usize::from(tokens.len() > 1);
            if tokens.len() == 1 || (settings.first_token && !tokens.is_empty()) {
                usable.push(i);
            }
            answers.push(tokens.first().copied().unwrap_or(0));
            // After a word, as it would stand in a sentence.
            let argument = continued(tokenizer, "It is", &fact.argument)?;
            arguments.push(if let [one] = argument[..] { Some(one) } else { None });
        }
        let rng = Philox::new(settings.seed, DRAW);
        usable.sort_by_key(|&i| (rng.at(0, 0, i as u32)[0], i));
        usable.truncate(settings.facts);
        usable.sort_unstable();
        let counts = Counts {
            facts: relation.facts.len(),
            repeated: relation.repeated,
            several_tokens,
            asked: usable.len(),
            known: 0,
        };
        Ok(Self { relation, asked: usable, answers, arguments, known: Vec::new(), counts })
    }

    /// Whether there are facts enough to ask for.
    pub fn has_enough_to_ask(&self) -> bool {
        self.counts.asked >= FEWEST_ASKED
    }

    /// Whether there are facts enough to ask for, and then to measure.
    pub fn outcome(&self, settings: &Settings) -> Outcome {
        let c = &self.counts;
        let left_out = if settings.first_token { 0 } else { c.several_tokens };
        if settings.facts < FEWEST_ASKED {
            return Outcome::TooFew(format!(
                "--facts {} is too few, {FEWEST_ASKED} are needed",
                settings.facts
            ));
        }
        if !self.has_enough_to_ask() {
            let more = if left_out > 0 {
                format!(", since {left_out} answers have several tokens: --first-token asks for their first")
            } else {
                String::new()
            };
            return Outcome::TooFew(format!(
                "{} of {} facts can be asked for, {FEWEST_ASKED} are needed{more}",
                c.asked, c.facts
            ));
        }
        if c.known < FEWEST_KNOWN {
            let more = if c.facts - left_out > c.asked { "; more --facts may find more" } else { "" };
            return Outcome::TooFew(format!(
                "{} of {} facts are known, {FEWEST_KNOWN} are needed{more}",
                c.known, c.asked
            ));
        }
        Outcome::Measured
    }
}

/// For each prompt of a relation the fact of another relation with the same argument, where it can be asked for there.
pub fn shared_facts(case: &Case, other: &Case, prompts: &[Prompt]) -> Vec<Option<usize>> {
    let there: BTreeMap<&str, usize> =
        other.asked.iter().map(|&i| (other.relation.facts[i].argument.as_str(), i)).collect();
    let one = |p: &Prompt| there.get(case.relation.facts.get(p.fact)?.argument.as_str()).copied();
    prompts.iter().map(one).collect()
}

/// For each prompt of a relation the first token of what another relation answers for the same argument, where it can be
/// asked for there and begins otherwise than the prompt's own answer.
pub fn shared_answers(case: &Case, other: &Case, prompts: &[Prompt]) -> Vec<Option<u32>> {
    let facts = shared_facts(case, other, prompts);
    let answer = |(p, i): (&Prompt, Option<usize>)| i.map(|i| other.answers[i]).filter(|a| *a != p.answer);
    prompts.iter().zip(facts).map(answer).collect()
}

/// SHA-256 of a relation's facts and wordings.
pub fn content_hash(relation: &Relation) -> String {
    let mut sum = Sha256::new();
    let facts = relation.facts.iter().flat_map(|f| [&f.argument, &f.answer]);
    let wordings = relation.wordings.iter().flat_map(|w| [&w.ask, &w.state]);
    for text in facts.chain(wordings) {
        sum.update((text.len() as u64).to_le_bytes());
        sum.update(text.as_bytes());
    }
    hex(&sum.finalize())
}

/// The wording in which a fact counts as known: one that forces a name, where there is one.
pub(super) fn filter_wording(relation: &Relation) -> Option<usize> {
    [Form::Forced, Form::Open].into_iter().find_map(|f| relation.worded(f).first().copied())
}

/// Tokens of a word after a text and a space. Where the tokenizer joins them, from the joined token on.
fn continued(tokenizer: &Tokenizer, text: &str, word: &str) -> Result<Vec<u32>, RecallError> {
    // What it is compared with does not matter: only the tokens of the word are used.
    Ok(Question::of_text(tokenizer, text, &format!(" {word}"), " ?", 0..text.len())?.right)
}

#[cfg(test)]
mod tests {
    use refocus_tasks::recall::Fact;

    use super::*;

    /// A case of facts by argument and answer's token; `asked` are those that can be asked for.
    fn case(facts: &[(&str, u32)], asked: &[usize]) -> Case {
        let fact = |f: &(&str, u32)| Fact { argument: f.0.to_owned(), answer: f.1.to_string() };
        let relation = Relation {
            key: "a relation".to_owned(),
            prompt: "After {} comes".to_owned(),
            open: Vec::new(),
            wordings: Vec::new(),
            facts: facts.iter().map(fact).collect(),
            repeated: 0,
        };
        Case {
            relation,
            asked: asked.to_vec(),
            answers: facts.iter().map(|f| f.1).collect(),
            arguments: vec![None; facts.len()],
            known: asked.to_vec(),
            counts: Counts::default(),
        }
    }

    #[test]
    fn answers_are_shared_by_argument_and_differ() {
        let own = case(&[("France", 1), ("Peru", 2), ("Japan", 3), ("Cuba", 4)], &[0, 1, 2, 3]);
        let other = case(&[("Japan", 30), ("Cuba", 40), ("Peru", 2), ("Chad", 50)], &[0, 2, 3]);
        let prompt = |fact: usize| Prompt {
            ids: vec![1],
            answer: own.answers[fact],
            argument: None,
            argument_at: 0,
            fact,
            template: 0,
        };
        let prompts: Vec<Prompt> = [0, 1, 2, 3, 2].into_iter().map(prompt).collect();
        // France is not there, Cuba cannot be asked for there.
        assert_eq!(shared_facts(&own, &other, &prompts), [None, Some(2), Some(0), None, Some(0)]);
        // Peru has the same answer in both.
        assert_eq!(shared_answers(&own, &other, &prompts), [None, None, Some(30), None, Some(30)]);
    }
}
