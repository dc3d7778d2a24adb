//! A question as text: other facts stated one after another, then the prompt.

use std::ops::Range;

use refocus_compute::{Philox, Purpose};
use serde::{Deserialize, Serialize};

use super::Relation;

/// What may follow a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Anything; an honest continuation may be another word than the answer.
    Open,
    /// A name has to.
    Forced,
}

impl Form {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Forced => "forced",
        }
    }
}

/// One way to ask for a fact. `{}` stands for the argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wording {
    /// What may follow.
    pub form: Form,
    /// The prompt; the answer follows after a space.
    pub ask: String,
    /// Another fact stated in the same way; its answer and a full stop follow.
    pub state: String,
}

/// A question's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The whole prompt.
    pub text: String,
    /// Bytes of the argument in it, at its last mention.
    pub argument: Range<usize>,
}

impl Wording {
    /// A clause after a lead-in; by itself it begins with a capital letter.
    pub(super) fn led_in(form: Form, lead_in: &str, clause: &str) -> Self {
        let mut letters = clause.chars();
        let first = letters.next().into_iter().flat_map(char::to_uppercase);
        let state = first.chain(letters).collect();
        Self { form, ask: format!("{lead_in}{clause}"), state }
    }
}

impl Relation {
    /// The wordings of a form, by their place in [`Relation::wordings`].
    pub fn worded(&self, form: Form) -> Vec<usize> {
        (0..self.wordings.len()).filter(|&w| self.wordings[w].form == form).collect()
    }

    /// At most `k` other facts to state before a question, the nearest to the question first, so that fewer shots
    /// are the beginning of more. None shares argument or answer with the fact that is asked for, in either
    /// role.
    pub fn shots(&self, fact: usize, k: usize, seed: u64, purpose: Purpose) -> Vec<usize> {
        let Some(asked) = self.facts.get(fact) else { return Vec::new() };
        let rng = Philox::new(seed, purpose);
        let apart = |i: &usize| {
            let f = &self.facts[*i];
            [&f.argument, &f.answer].iter().all(|x| **x != asked.argument && **x != asked.answer)
        };
        let mut all: Vec<(u32, usize)> =
            (0..self.facts.len()).filter(apart).map(|i| (rng.at(0, fact as u32, i as u32)[0], i)).collect();
        all.sort_unstable();
        all.into_iter().take(k).map(|x| x.1).collect()
    }

    /// The text that asks for a fact in a wording, after the facts `shots` (the nearest first).
    pub fn question(&self, fact: usize, wording: &Wording, shots: &[usize]) -> Asked {
        let mut text = String::new();
        for &i in shots.iter().rev() {
            let f = &self.facts[i];
            text.push_str(&wording.state.replace("{}", &f.argument));
            text.push_str(&format!(" {}. ", f.answer));
        }
        let argument = &self.facts[fact].argument;
        // The last mention carries the question where a template has several.
        let (before, after) = wording.ask.rsplit_once("{}").unwrap_or((&wording.ask, ""));
        text.push_str(&before.replace("{}", argument));
        let start = text.len();
        text.push_str(argument);
        let end = text.len();
        text.push_str(after);
        Asked { text, argument: start..end }
    }
}

#[cfg(test)]
mod tests {
    use super::super::builtin;
    use super::*;

    const SHOTS: Purpose = Purpose::new("test: shots");

    #[test]
    fn fewer_shots_are_the_beginning_of_more_and_none_gives_the_answer_away() {
        let r = builtin("language").expect("a relation");
        for fact in 0..r.facts.len() {
            let five = r.shots(fact, 5, 7, SHOTS);
            assert_eq!((five.len(), &r.shots(fact, 3, 7, SHOTS)[..]), (5, &five[..3]));
            assert!(five.iter().all(|&i| i != fact && r.facts[i].answer != r.facts[fact].answer));
        }
        assert_ne!(r.shots(0, 5, 7, SHOTS), r.shots(0, 5, 8, SHOTS));
    }

    #[test]
    fn a_question_states_other_facts_first() {
        let r = builtin("capital").expect("a relation");
        let at = |name: &str| r.facts.iter().position(|f| f.argument == name).expect("a country");
        let wording = &r.wordings[r.worded(Form::Forced)[0]];
        let asked = r.question(at("France"), wording, &[at("Spain"), at("Japan")]);
        assert_eq!(
            asked.text,
            "The capital of Japan is the city of Tokyo. The capital of Spain is the city of Madrid. Keep in mind that \
             the capital of France is the city of"
        );
        assert_eq!(&asked.text[asked.argument], "France");
    }
}
