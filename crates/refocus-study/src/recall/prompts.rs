//! How facts are asked for: conditions, and the prompts of each.

use std::collections::BTreeMap;

use refocus_compute::{Philox, Purpose};
use refocus_measure::probe::Question;
use refocus_measure::recall::Prompt;
use refocus_model::{ModelSpec, Tokenizer};
use refocus_tasks::recall::{Form, Wording};
use serde::Serialize;

use super::case::{Case, Settings, filter_wording};
use super::error::RecallError;

const SHOTS: Purpose = Purpose::new("recall: shots");
/// Facts count as known after other shots than those that are measured.
const FILTER_SHOTS: Purpose = Purpose::new("recall: shots before facts that are to be known");
const WORDINGS: Purpose = Purpose::new("recall: wordings");
const ALIKE: Purpose = Purpose::new("recall: wordings of all facts");
const OTHER: Purpose = Purpose::new("recall: another fact");
/// Shots before a question that finds out whether a fact is known.
const FILTER: usize = 3;

/// What stands before the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Beginning {
    /// The token that begins a text.
    Bos,
    /// Nothing: position 0 is the first word.
    Bare,
}

impl Beginning {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Bare => "bare",
        }
    }

    /// How the tokenizer begins a text by itself.
    pub fn usual(tokenizer: &Tokenizer) -> Result<Self, RecallError> {
        let first = tokenizer.encode("a", true)?.first().copied();
        Ok(if first.is_some() && first == bos(tokenizer) { Self::Bos } else { Self::Bare })
    }
}

/// The token that begins a text, where there is one.
fn bos(tokenizer: &Tokenizer) -> Option<u32> {
    let text = tokenizer.named().find(|(role, _)| *role == "bos_token")?.1;
    tokenizer.id(text)
}

/// One way to ask for all facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Condition {
    /// What may follow.
    pub form: Form,
    /// Other facts that are stated before.
    pub shots: usize,
    /// What stands first.
    pub beginning: Beginning,
}

impl Condition {
    /// The name of its blocks.
    pub(super) fn name(&self) -> String {
        format!("{}-{}-{}", self.form.name(), self.shots, self.beginning.name())
    }
}

/// The conditions under which a case is measured: every form with 0 to `shots` other facts, begun as the
/// tokenizer does; and without shots the other beginning too, where there is one.
///
/// # Errors
/// A tokenizer that fails.
pub fn conditions(
    case: &Case,
    tokenizer: &Tokenizer,
    settings: &Settings,
) -> Result<Vec<Condition>, RecallError> {
    let usual = Beginning::usual(tokenizer)?;
    let other = match usual {
        Beginning::Bos => Some(Beginning::Bare),
        Beginning::Bare => bos(tokenizer).map(|_| Beginning::Bos),
    };
    let mut out = Vec::new();
    for form in [Form::Open, Form::Forced] {
        if case.relation.worded(form).is_empty() {
            continue;
        }
        out.extend((0..=settings.shots).map(|shots| Condition { form, shots, beginning: usual }));
        out.extend(other.map(|beginning| Condition { form, shots: 0, beginning }));
    }
    Ok(out)
}

/// A prompt, and the answer and argument of another fact, which are followed beside its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What is asked.
    pub prompt: Prompt,
    /// Answer and, where it is one token, argument of another fact.
    pub other: (u32, Option<u32>),
}

impl Item {
    /// The tokens that are followed: answer, argument, the other fact's answer and argument. A missing argument
    /// has the answer in its place.
    pub(super) fn tokens(&self) -> [u32; 4] {
        let p = &self.prompt;
        let other = self.other.0;
        [p.answer, p.argument.unwrap_or(p.answer), other, self.other.1.unwrap_or(other)]
    }
}

/// The prompts of the known facts under a condition, fact by fact. Prompts that are longer than the model's
/// context are left out.
///
/// # Errors
/// A text that the tokenizer cannot express.
pub fn items(
    case: &Case,
    condition: Condition,
    tokenizer: &Tokenizer,
    spec: &ModelSpec,
    settings: &Settings,
) -> Result<Vec<Item>, RecallError> {
    let rng = Philox::new(settings.seed, WORDINGS);
    let mut out = Vec::new();
    for &fact in &case.known {
        let Some(other) = other_fact(case, fact, settings.seed) else { continue };
        let shots = case.relation.shots(fact, condition.shots, settings.seed, SHOTS);
        if shots.len() < condition.shots {
            continue;
        }
        let mut wordings = case.relation.worded(condition.form);
        wordings.sort_by_key(|&w| (rng.at(condition.form as u32, fact as u32, w as u32)[0], w));
        for &template in wordings.iter().take(settings.wordings) {
            let wording = &case.relation.wordings[template];
            let prompt =
                prompt(case, (fact, template), wording, &shots, Some(condition.beginning), tokenizer)?;
            if spec.fits(prompt.ids.len()) {
                let argument = case.arguments[other];
                out.push(Item { prompt, other: (case.answers[other], argument) });
            }
        }
    }
    Ok(out)
}

/// The known facts after `shots` others, begun as the tokenizer does, all in the same wordings: what stands in the
/// place of something there comes from another fact in the same words. Wordings are drawn where there are more than
/// the settings ask for. Facts of which a prompt is longer than the model's context are left out, and those without so
/// many others.
///
/// # Errors
/// As [`items`].
pub fn alike(
    case: &Case,
    (form, shots): (Form, usize),
    tokenizer: &Tokenizer,
    spec: &ModelSpec,
    settings: &Settings,
) -> Result<Vec<Prompt>, RecallError> {
    let rng = Philox::new(settings.seed, ALIKE);
    let mut wordings = case.relation.worded(form);
    wordings.sort_by_key(|&w| (rng.at(form as u32, 0, w as u32)[0], w));
    let usual = Some(Beginning::usual(tokenizer)?);
    let mut out: Vec<Prompt> = Vec::new();
    let mut fitting = BTreeMap::<usize, usize>::new();
    for &template in wordings.iter().take(settings.wordings) {
        for &fact in &case.known {
            let before = case.relation.shots(fact, shots, settings.seed, SHOTS);
            if before.len() < shots {
                continue;
            }
            let wording = &case.relation.wordings[template];
            let prompt = prompt(case, (fact, template), wording, &before, usual, tokenizer)?;
            if spec.fits(prompt.ids.len()) {
                *fitting.entry(fact).or_default() += 1;
                out.push(prompt);
            }
        }
    }
    let drawn = wordings.len().min(settings.wordings);
    out.retain(|p| fitting.get(&p.fact) == Some(&drawn));
    Ok(out)
}

/// The prompts that find out which of the facts asked for are known.
///
/// # Errors
/// As [`items`].
pub(super) fn filter_items(
    case: &Case,
    tokenizer: &Tokenizer,
    spec: &ModelSpec,
    settings: &Settings,
) -> Result<Vec<Prompt>, RecallError> {
    let Some(template) = filter_wording(&case.relation) else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for &fact in &case.asked {
        let shots = case.relation.shots(fact, FILTER, settings.seed, FILTER_SHOTS);
        let wording = &case.relation.wordings[template];
        let prompt = prompt(case, (fact, template), wording, &shots, None, tokenizer)?;
        if spec.fits(prompt.ids.len()) {
            out.push(prompt);
        }
    }
    Ok(out)
}

/// A known fact with another answer.
fn other_fact(case: &Case, fact: usize, seed: u64) -> Option<usize> {
    let differs = |&i: &usize| case.answers[i] != case.answers[fact] && case.known.binary_search(&i).is_ok();
    case.relation.shots(fact, usize::MAX, seed, OTHER).into_iter().find(differs)
}

/// A question as ids, begun as the tokenizer does where nothing else is said.
fn prompt(
    case: &Case,
    (fact, template): (usize, usize),
    wording: &Wording,
    shots: &[usize],
    beginning: Option<Beginning>,
    tokenizer: &Tokenizer,
) -> Result<Prompt, RecallError> {
    let asked = case.relation.question(fact, wording, shots);
    let answer = format!(" {}", case.relation.facts[fact].answer);
    let q = Question::of_text(tokenizer, &asked.text, &answer, " ?", asked.argument)?;
    let mut ids = q.prompt;
    let mut at = (q.evidence.end as usize).saturating_sub(1);
    if let Some(id) = bos(tokenizer) {
        let there = ids.first() == Some(&id);
        match beginning {
            Some(Beginning::Bos) if !there => {
                ids.insert(0, id);
                at += 1;
            }
            Some(Beginning::Bare) if there => {
                ids.remove(0);
                at = at.saturating_sub(1);
            }
            _ => {}
        }
    }
    Ok(Prompt {
        ids,
        answer: q.right.first().copied().unwrap_or(case.answers[fact]),
        argument: case.arguments[fact],
        argument_at: at,
        fact,
        template,
    })
}
