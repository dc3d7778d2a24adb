//! The suite *spurious* seen from inside (the paper's first figure): how much each head attends to the sentences
//! that do not matter, and what happens to the answer when no position can see them. That is hard attention without
//! any rewriting.

use std::ops::Range;
use std::sync::Arc;

use refocus_compute::Ops;
use refocus_measure::probe::{Question, ask};
use refocus_model::generate::{Changes, score};
use refocus_model::template::{Chat as Conversation, ChatTemplate};
use refocus_model::{Action, Intervention, Kind, Model, Position, Site, Tokenizer};
use refocus_tasks::planted::{Judge, Part};
use serde::Serialize;
use serde_json::json;

use super::arm::Arm;
use super::error::System2Error;
use super::run::SuiteRun;
use crate::overthinking::Estimate;

/// Heads that are listed.
const HEADS: usize = 10;

/// A model that can be looked into.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its chat template; without one the questions are asked as plain texts.
    pub template: Option<&'a ChatTemplate>,
}

/// How much one head attends to the span.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeadMass {
    /// Layer, from 0.
    pub layer: usize,
    /// Head, from 0.
    pub head: usize,
    /// Mean share of its attention from the last token.
    pub mass: f64,
}

/// Questions in which the other answer is named so often, in one way of asking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpanRow {
    /// How often it is named.
    pub times: String,
    /// `as it is`, `block_edge`, or the arm that rewrote.
    pub way: String,
    /// P(right) − P(other) behind what all answers begin with.
    pub margin: Estimate,
    /// Attention from the last token to the planted sentences, or to what a rewrite left of the other answer: mean
    /// over heads and layers.
    pub mass: f64,
    /// The heads with most of it, of the unchanged prompt with most sentences.
    pub heads: Vec<HeadMass>,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Looked {
    /// Facts that were looked at.
    pub facts: usize,
    /// By times, then way.
    pub rows: Vec<SpanRow>,
}

/// One question in one way.
#[derive(Clone)]
struct Seen {
    margin: f64,
    /// `[layers · heads]`.
    mass: Vec<f64>,
}

/// Looks at the items of a run of the suite *spurious*, at most `most` of them.
///
/// # Errors
/// What the tokenizer, the template and the forward pass report.
pub fn look<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    local: Local<'_>,
    run: &SuiteRun,
    (most, seed): (usize, u64),
    tick: &mut dyn FnMut(usize, usize),
) -> Result<Looked, System2Error> {
    let n = run.items.len().min(most);
    let rewriting: Vec<Arm> = run.arms.iter().copied().filter(|a| a.options().is_some()).collect();
    let mut rows: Vec<(String, String, Vec<Seen>)> = Vec::new();
    for (at, (item, kept)) in run.items.iter().zip(&run.kept).take(n).enumerate() {
        tick(at, n);
        let Judge::Options { frame, options, .. } = &item.judge else { continue };
        let [Some(right), Some(other)] = [0, 1].map(|i| options.get(i)) else { continue };
        let prompt = item.prompt();
        let ask =
            |text: &str, span: Option<Range<usize>>| Asked::new(local, text, frame, [right, other], span);
        let planted = span(item);
        let mut seen = |way: &str, s: Seen| {
            let here = rows.iter_mut().find(|r| r.0 == item.cell && r.1 == way);
            match here {
                Some(row) => row.2.push(s),
                None => rows.push((item.cell.clone(), way.to_owned(), vec![s])),
            }
        };
        let Some(asked) = ask(&prompt, planted.clone())? else { continue };
        let plain = asked.seen(o, m)?;
        seen("as it is", plain.clone());
        if planted.is_some() {
            seen("block_edge", asked.blocked(o, m)?);
            let name = other.trim_start_matches(frame.as_str()).trim().trim_end_matches('.');
            for arm in &rewriting {
                let Some(r) = kept.of(*arm).and_then(|r| r.rewriting.as_ref()) else { continue };
                if !r.applied {
                    // The prompt itself went through, and has been asked.
                    seen(arm.name(), plain.clone());
                    continue;
                }
                let first = r.text.find(name);
                let left = first.map(|start| start..r.text.rfind(name).unwrap_or(start) + name.len());
                if let Some(asked) = ask(&r.text, left)? {
                    seen(arm.name(), asked.seen(o, m)?);
                }
            }
        }
    }
    tick(n, n);
    let facts = run.items.iter().take(n).filter(|i| i.cell == "0").count();
    let width = m.spec.n_heads;
    let rows = rows.into_iter().map(|(times, way, all)| row(times, way, &all, width, seed));
    Ok(Looked { facts, rows: rows.collect() })
}

fn row(times: String, way: String, all: &[Seen], width: usize, seed: u64) -> SpanRow {
    let n = all.len().max(1) as f64;
    let heads = all.first().map_or(0, |s| s.mass.len());
    let mean = |i: usize| all.iter().map(|s| s.mass[i]).sum::<f64>() / n;
    let by_head: Vec<f64> = (0..heads).map(mean).collect();
    let mut order: Vec<usize> = (0..heads).collect();
    order.sort_by(|&a, &b| by_head[b].total_cmp(&by_head[a]).then(a.cmp(&b)));
    let listed = if by_head.iter().all(|m| *m == 0.0) { 0 } else { HEADS };
    let head = |&i: &usize| HeadMass { layer: i / width, head: i % width, mass: by_head[i] };
    SpanRow {
        times,
        way,
        margin: Estimate::of(&all.iter().map(|s| s.margin).collect::<Vec<_>>(), seed),
        mass: by_head.iter().sum::<f64>() / (heads.max(1)) as f64,
        heads: order.iter().take(listed).map(head).collect(),
    }
}

/// Bytes from the first planted sentence to the end of the last.
fn span(item: &refocus_tasks::planted::Item) -> Option<Range<usize>> {
    let mut planted = item.places().into_iter().filter(|(_, part)| *part == Part::Planted).map(|(r, _)| r);
    let first = planted.next()?;
    Some(first.start..planted.next_back().map_or(first.end, |r| r.end))
}

/// Bytes of a text, found again in what a template makes of it; nothing where the template changes the text.
fn placed(whole: &str, text: &str, span: Range<usize>) -> Option<Range<usize>> {
    let before = whole.find(text)?;
    Some(before + span.start..before + span.end)
}

/// A question as tokens.
struct Asked {
    prompt: Vec<u32>,
    /// Tokens of the answers behind what they begin with alike.
    answers: [Vec<u32>; 2],
    /// Tokens that are looked at.
    span: Option<Range<u32>>,
}

impl Asked {
    /// `span` are bytes of the text. Nothing where the template changes the text: its bytes are not found again.
    fn new(
        local: Local<'_>,
        text: &str,
        frame: &str,
        answers: [&String; 2],
        span: Option<Range<usize>>,
    ) -> Result<Option<Self>, System2Error> {
        let (mut whole, special) = match local.template {
            None => (format!("User: {text}\n\nAssistant: "), true),
            Some(template) => {
                let messages = [json!({"role": "user", "content": text})];
                let chat = Conversation {
                    messages: &messages,
                    add_generation_prompt: true,
                    ..Conversation::default()
                };
                (template.render(&chat)?, false)
            }
        };
        let span = match span {
            None => None,
            Some(span) => match placed(&whole, text, span) {
                None => return Ok(None),
                found => found,
            },
        };
        whole.push_str(frame);
        let both = |answer: &String| {
            let rest = answer.strip_prefix(frame).unwrap_or(answer);
            local.tokenizer.encode_with_offsets(&format!("{whole}{rest}"), special)
        };
        let ((first, offsets), (second, _)) = (both(answers[0])?, both(answers[1])?);
        let n = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
        let span = span.and_then(|s| {
            let holds = |b: &Range<usize>| b.start < s.end && s.start < b.end;
            let from = offsets[..n].iter().position(holds)?;
            let to = offsets[..n].iter().rposition(holds)?;
            Some(from as u32..to as u32 + 1)
        });
        let answers = [first[n..].to_vec(), second[n..].to_vec()];
        Ok(Some(Self { prompt: first[..n].to_vec(), answers, span }))
    }

    fn seen<O: Ops>(&self, o: &mut O, m: &Model<O::K>) -> Result<Seen, System2Error> {
        let [right, wrong] = self.answers.clone();
        // Where nothing is looked at, the first token is measured and not counted.
        let evidence = self.span.clone().unwrap_or(0..1);
        let question = Question { prompt: self.prompt.clone(), right, wrong, evidence };
        let answer = ask(o, m, std::slice::from_ref(&question))?;
        let mass = answer.first().map(|a| a.mass.as_slice()).unwrap_or_default();
        let counted = |x: &f32| if self.span.is_some() { f64::from(*x) } else { 0.0 };
        let mass = mass.iter().map(counted).collect();
        Ok(Seen { margin: self.margin(o, m, Vec::new())?, mass })
    }

    /// The span cannot be seen from anywhere.
    fn blocked<O: Ops>(&self, o: &mut O, m: &Model<O::K>) -> Result<Seen, System2Error> {
        let Some(span) = &self.span else { return self.seen(o, m) };
        let block = |layer| Intervention {
            site: Site::new(layer, Kind::Pattern),
            head: None,
            position: Position::All,
            action: Action::BlockEdge(span.clone()),
            when: None,
        };
        let blocks = (0..m.spec.n_layers).map(|layer| Arc::new(block(layer))).collect();
        let margin = self.margin(o, m, blocks)?;
        Ok(Seen { margin, mass: vec![0.0; m.spec.n_layers * m.spec.n_heads] })
    }

    fn margin<O: Ops>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        interventions: Vec<Arc<Intervention>>,
    ) -> Result<f64, System2Error> {
        let changes = Arc::new(Changes { interventions, decode: Vec::new() });
        let scores = score(o, m, &self.prompt, &self.answers, &changes)?;
        let p = |i: usize| scores.get(i).map_or(0.0, |s| s.sum().exp());
        Ok(p(0) - p(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_found_again_or_not_looked_at() {
        assert_eq!(placed("User: Ah. So?", "Ah. So?", 4..7), Some(10..13));
        // As by a template that trims.
        assert_eq!(placed("User: Ah.", "Ah. ", 0..2), None);
    }
}
