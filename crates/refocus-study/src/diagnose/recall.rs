//! Do the last layers take back what the model knows? Facts are known where the model gives the answer when a
//! name is forced; the fall is measured where anything may follow, so that what chooses the facts is not what
//! measures them. The layer is chosen on every second fact and measured on the others.

use std::collections::BTreeMap;

use refocus_compute::Ops;
use refocus_measure::probe::Question;
use refocus_measure::residual::{Node, follow, last_streams};
use refocus_model::{Model, Tokenizer};
use refocus_tasks::recall::{Relation, builtin};

use super::mitigate::{Cases, Prompt, Rule};
use super::{DiagnoseError, Example, Finding, Measure, Probe, State, Subject};
use crate::overthinking::Estimate;

const HEADLINE: &str = "recall.fall";
/// Fewer known facts than this say nothing.
const FEWEST: usize = 12;
/// A fall whose interval lies below is none that matters.
const STEADY: f64 = 0.02;
const BATCH: usize = 1024;

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
    let relation = builtin("capital")?;
    let n = relation.facts.len();
    let mut puts = Vec::new();
    for template in std::iter::once(&relation.prompt).chain(&relation.open) {
        puts.extend(put(subject.tokenizer, &relation, template)?);
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
    let asked =
        format!("{n} capitals, {} known, then {} open prompts each", known.len(), relation.open.len());
    let measured = Measured { relation: &relation, traces: &traces, known: &known, n };
    if known.len() < FEWEST {
        let why = format!("fewer than {FEWEST} facts are known");
        let mut f = Finding::untestable(Probe::Recall, HEADLINE, asked, why);
        f.measures.insert("recall.known".to_owned(), measured.known_share());
        return Ok(f);
    }
    Ok(measured.finding(asked, m.spec.n_layers, subject.seed))
}

/// All capitals, for a patch to be judged by.
pub(super) fn cases(subject: Subject<'_>, items: usize) -> Result<Cases, DiagnoseError> {
    let relation = builtin("capital")?;
    let templates = std::iter::once(&relation.prompt).chain(&relation.open);
    let asked: Vec<Vec<Put>> =
        templates.map(|t| put(subject.tokenizer, &relation, t)).collect::<Result<_, _>>()?;
    let one = |i: usize| {
        let each = asked.iter().map(move |a| &a[i]);
        each.map(|p| Prompt { ids: p.ids.clone(), wanted: vec![p.answer] }).collect::<Vec<_>>()
    };
    let prompts = (0..relation.facts.len().min(items)).flat_map(one).collect();
    Ok(Cases { probe: Probe::Recall, rule: Rule::Facts { open: relation.open.len() }, prompts })
}

struct Measured<'a> {
    relation: &'a Relation,
    /// `[templates][facts]`, the forced one first.
    traces: &'a [Trace],
    known: &'a [usize],
    n: usize,
}

impl Measured<'_> {
    fn known_share(&self) -> Measure {
        Measure::share(self.known.len(), self.n)
    }

    /// Mean over the open prompts.
    fn open(&self, fact: usize, of: impl Fn(&Trace) -> f64) -> f64 {
        let open = self.relation.open.len();
        (1..=open).map(|t| of(&self.traces[t * self.n + fact])).sum::<f64>() / open as f64
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
            let fact = &self.relation.facts[i];
            let t = &self.traces[self.n + i];
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

/// All facts of a relation in one wording. Where the tokenizer joins the answer with what stands before it,
/// the joined token is asked for.
fn put(tokenizer: &Tokenizer, relation: &Relation, template: &str) -> Result<Vec<Put>, DiagnoseError> {
    let one = |f: &refocus_tasks::recall::Fact| {
        let text = template.replace("{}", &f.argument);
        // What is compared with does not matter: only the answer's first token is used.
        let q = Question::of_text(tokenizer, &text, &format!(" {}", f.answer), " ?", 0..text.len())?;
        Ok(Put { answer: q.right.first().copied().unwrap_or(0), ids: q.prompt })
    };
    relation.facts.iter().map(one).collect()
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
