//! Do the last layers take back what the model knows? Facts are known where the model gives the answer when a
//! name is forced, or, where a relation has no such wording, after three other facts that are stated alike; the fall
//! is measured where anything may follow, so that what chooses the facts is not what measures them. The layer is
//! chosen on every second fact and measured on the others.

use std::collections::BTreeMap;

use refocus_compute::{Ops, Philox, Purpose};
use refocus_measure::probe::Question;
use refocus_measure::residual::{Node, follow, last_streams};
use refocus_model::{Model, ModelSpec};
use refocus_tasks::recall::{Fact, Form, Relation};

use super::mitigate::{Cases, Prompt, Rule};
use super::{CAPITAL, DiagnoseError, Example, Finding, Measure, Probe, State, Subject};
use crate::overthinking::Estimate;

const HEADLINE: &str = "recall.fall";
/// Fewer known facts than this say nothing.
const FEWEST: usize = 12;
/// A fall whose interval lies below is none that matters.
const STEADY: f64 = 0.02;
const BATCH: usize = 1024;
/// So many facts are always asked for; of a greater relation more, as the time allows, up to [`MOST`].
const LEAST: usize = 128;
/// By budget.
const MOST: [usize; 3] = [200, 400, 1000];
const DRAWN: Purpose = Purpose::new("recall probe: facts");
const SHOTS: Purpose = Purpose::new("recall probe: shots");
/// Facts that are stated before a question where no wording forces a name.
const STATED: usize = 3;

/// Probability and rank of the answer after each layer, the embeddings first.
struct Trace {
    probs: Vec<f32>,
    right: bool,
}

/// A fact as it is asked.
struct Put {
    ids: Vec<u32>,
    answer: u32,
}

pub(super) fn run<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    subject: Subject<'_>,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<Finding, DiagnoseError> {
    let relation = subject.relation;
    let facts = facts(subject, &m.spec)?;
    let n = facts.len();
    let puts: Vec<Put> =
        wordings(relation).flat_map(|w| put(subject, &facts, w)).collect::<Result<_, _>>()?;
    let open = relation.open.len();
    let what =
        if relation.key == CAPITAL { "capitals".to_owned() } else { format!("facts of {}", relation.key) };
    let longest = puts.iter().map(|p| p.ids.len()).max().unwrap_or(0);
    if !m.spec.fits(longest) {
        let asked = format!("{n} {what}, then {open} open prompts each");
        let why = format!("a prompt of {longest} tokens does not fit into the model's context");
        return Ok(Finding::untestable(Probe::Recall, HEADLINE, asked, why));
    }
    let all = puts.len() as u64;
    let mut traces = Vec::with_capacity(puts.len());
    let mut rest = puts.as_slice();
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |p: &&Put| {
            tokens += p.ids.len();
            tokens <= BATCH
        };
        let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        traces.extend(trace(o, m, now)?);
        rest = later;
        tick(all - rest.len() as u64, all);
    }
    let forced = &traces[..n];
    let known: Vec<usize> = (0..n).filter(|&i| forced[i].right).collect();
    let asked = format!("{n} {what}, {} known, then {open} open prompts each", known.len());
    let measured = Measured { relation, facts: &facts, traces: &traces, known: &known };
    if known.len() < FEWEST {
        let why = format!("fewer than {FEWEST} facts are known");
        let mut f = Finding::untestable(Probe::Recall, HEADLINE, asked, why);
        f.measures.insert("recall.known".to_owned(), measured.known_share());
        return Ok(f);
    }
    Ok(measured.finding(asked, m.spec.n_layers, subject.seed))
}

/// Its facts, for a patch to be judged by.
pub(super) fn cases(spec: &ModelSpec, subject: Subject<'_>, items: usize) -> Result<Cases, DiagnoseError> {
    let mut facts = facts(subject, spec)?;
    facts.truncate(items);
    let asked: Vec<Vec<Put>> =
        wordings(subject.relation).map(|w| put(subject, &facts, w).collect()).collect::<Result<_, _>>()?;
    let one = |i: usize| {
        let each = asked.iter().map(move |a| &a[i]);
        each.map(|p| Prompt { ids: p.ids.clone(), wanted: vec![p.answer] }).collect::<Vec<_>>()
    };
    let prompts = (0..facts.len()).flat_map(one).collect();
    Ok(Cases { probe: Probe::Recall, rule: Rule::Facts { open: subject.relation.open.len() }, prompts })
}

struct Measured<'a> {
    relation: &'a Relation,
    /// Those that were asked for.
    facts: &'a [usize],
    /// `[wordings][facts]`, the forced one first.
    traces: &'a [Trace],
    /// By their place in `facts`.
    known: &'a [usize],
}

impl Measured<'_> {
    fn known_share(&self) -> Measure {
        Measure::share(self.known.len(), self.facts.len())
    }

    /// Mean over the open prompts.
    fn open(&self, fact: usize, of: impl Fn(&Trace) -> f64) -> f64 {
        let open = self.relation.open.len();
        (1..=open).map(|t| of(&self.traces[t * self.facts.len() + fact])).sum::<f64>() / open as f64
    }

    fn finding(&self, asked: String, n_layers: usize, seed: u64) -> Finding {
        let choose: Vec<usize> = self.known.iter().copied().step_by(2).collect();
        let measure: Vec<usize> = self.known.iter().copied().skip(1).step_by(2).collect();
        let mean =
            |layer: usize| choose.iter().map(|&i| self.open(i, |t| f64::from(t.probs[layer]))).sum::<f64>();
        let mut best = (0, f64::NEG_INFINITY);
        for layer in 0..n_layers {
            let p = mean(layer);
            if p > best.1 {
                best = (layer, p);
            }
        }
        let fall = |&i: &usize| {
            self.open(i, |t| f64::from(t.probs[best.0])) - self.open(i, |t| f64::from(t.probs[n_layers]))
        };
        let falls: Vec<f64> = measure.iter().map(fall).collect();
        let e = Estimate::of(&falls, seed);
        let right: Vec<f64> =
            self.known.iter().map(|&i| self.open(i, |t| f64::from(u8::from(t.right)))).collect();
        let right = Estimate::of(&right, seed);
        let (state, verdict) = if e.high < STEADY {
            (State::Steady, "the last layers hardly lower the answer, if at all".to_owned())
        } else if e.low > 0.0 {
            let points = 100.0 * e.value;
            (State::Slips, format!("the last layers take {points:.0} points of probability from the answer"))
        } else {
            (State::Unclear, "the fall's interval includes 0".to_owned())
        };
        let example = |&i: &usize| {
            let fact = &self.relation.facts[self.facts[i]];
            let t = &self.traces[self.facts.len() + i];
            Example {
                text: self.relation.open[0].replace("{}", &fact.argument),
                right: fact.answer.clone(),
                answer: if t.right { fact.answer.clone() } else { "something else".to_owned() },
                note: format!(
                    "P(answer) {:.3} after layer {}, {:.3} at the end",
                    t.probs[best.0], best.0, t.probs[n_layers]
                ),
            }
        };
        Finding {
            probe: Probe::Recall,
            asked,
            headline: HEADLINE.to_owned(),
            state,
            verdict,
            place: (state == State::Slips).then(|| format!("layers {} to {}", best.0 + 1, n_layers)),
            measures: BTreeMap::from([
                (HEADLINE.to_owned(), Measure::within(e.value, e.low, e.high, e.n)),
                ("recall.known".to_owned(), self.known_share()),
                (
                    "recall.right_open".to_owned(),
                    Measure::within(right.value, right.low, right.high, right.n),
                ),
            ]),
            examples: measure.iter().take(3).map(example).collect(),
        }
    }
}

/// The facts that are asked for: all, or as many as fit, in an order drawn from the seed.
fn facts(subject: Subject<'_>, spec: &ModelSpec) -> Result<Vec<usize>, DiagnoseError> {
    let all = subject.relation.facts.len();
    let mut out: Vec<usize> = (0..all).collect();
    if all > LEAST {
        let rng = Philox::new(subject.seed, DRAWN);
        out.sort_by_key(|&i| rng.at(0, 0, i as u32)[0]);
        let some = &out[..LEAST];
        let puts = wordings(subject.relation).flat_map(|w| put(subject, some, w));
        let tokens: usize = puts.map(|p| p.map(|p| p.ids.len())).sum::<Result<_, _>>()?;
        let most = subject.budget.choose(MOST).min(all);
        out.truncate(subject.budget.items(spec, tokens / LEAST, LEAST, most));
    }
    Ok(out)
}

/// How a fact is asked for.
#[derive(Clone, Copy)]
enum Asking<'a> {
    /// So that only the answer can follow.
    Forced,
    /// Anything may follow.
    Open(&'a str),
}

fn wordings(relation: &Relation) -> impl Iterator<Item = Asking<'_>> {
    std::iter::once(Asking::Forced).chain(relation.open.iter().map(|t| Asking::Open(t)))
}

/// Facts in one wording. Where the tokenizer joins the answer with what stands before it, the joined token is asked for.
fn put<'a>(
    subject: Subject<'a>,
    facts: &'a [usize],
    asking: Asking<'a>,
) -> impl Iterator<Item = Result<Put, DiagnoseError>> + 'a {
    let relation = subject.relation;
    facts.iter().map(move |&i| {
        let Fact { argument, answer } = &relation.facts[i];
        let text = match asking {
            Asking::Open(template) => template.replace("{}", argument),
            Asking::Forced if !relation.worded(Form::Forced).is_empty() => relation.ask(argument),
            Asking::Forced => {
                let wording = &relation.wordings[0];
                relation.question(i, wording, &relation.shots(i, STATED, subject.seed, SHOTS)).text
            }
        };
        // What is compared with does not matter: only the answer's first token is used.
        let q = Question::of_text(subject.tokenizer, &text, &format!(" {answer}"), " ?", 0..text.len())?;
        Ok(Put { answer: q.right.first().copied().unwrap_or(0), ids: q.prompt })
    })
}

fn trace<O: Ops>(o: &mut O, m: &Model<O::K>, puts: &[Put]) -> Result<Vec<Trace>, DiagnoseError> {
    let (prompts, answers): (Vec<&[u32]>, Vec<&[u32]>) =
        puts.iter().map(|p| (&p.ids[..], std::slice::from_ref(&p.answer))).unzip();
    let nodes = Node::blocks(&m.spec);
    let mut out: Vec<Trace> = puts.iter().map(|_| Trace { probs: Vec::new(), right: false }).collect();
    for (node, x) in nodes.iter().zip(last_streams(o, m, &prompts, &nodes)?) {
        let seen = follow(o, m, &x, &answers, &|| node.name(&m.spec))?;
        for (t, s) in out.iter_mut().zip(seen.iter().flatten()) {
            t.probs.push((-s.nll).exp());
            // Of the last node in the end.
            t.right = s.rank == 0;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use refocus_tasks::recall::parse_relation;

    use super::super::Toy;
    use super::*;

    #[test]
    fn without_a_wording_that_forces_a_name_other_facts_are_stated_first() {
        let toy = Toy::new();
        let capital = &toy.relation;
        let text = r#"{"prompt_templates": ["{} eats", "Food of {}:"], "samples": [
            {"subject": "A", "object": "x"}, {"subject": "B", "object": "y"}, {"subject": "C", "object": "z"},
            {"subject": "D", "object": "x"}, {"subject": "E", "object": "w"}]}"#;
        let file = parse_relation(Path::new("f.json"), text).expect("a relation");
        let asked = |relation: &Relation, items: usize| {
            let subject = Subject { relation, ..toy.subject() };
            let cases = cases(toy.checkpoint.spec(), subject, items).expect("cases");
            let text = |p: &Prompt| toy.tokenizer.decode(&p.ids, true).expect("text");
            cases.prompts.iter().map(text).collect::<Vec<_>>()
        };
        let texts = asked(&file, 9);
        assert_eq!(texts.len(), 5 * 3);
        assert_eq!(texts[1..3], ["A eats", "Food of A:"]);
        // None of its own answer: B, C and E are left.
        assert!(texts[0].ends_with(". A eats") && !texts[0].contains("D eats"), "{}", texts[0]);
        assert!(
            ["B eats y. ", "C eats z. ", "E eats w. "].iter().all(|s| texts[0].contains(s)),
            "{}",
            texts[0]
        );
        let texts = asked(capital, 2);
        assert_eq!(texts.len(), 2 * (1 + capital.open.len()));
        assert_eq!(texts[0], capital.ask(&capital.facts[0].argument));
    }
}
