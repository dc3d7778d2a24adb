//! Does the model keep one bit over a distance? (`flipflop probe`, in words after a demonstration.)

use std::collections::BTreeMap;

use refocus_compute::Ops;
use refocus_measure::probe::{Answer, Grown, Question};
use refocus_model::Model;
use refocus_tasks::flipflop::FlipFlop;

use super::finding::watchful;
use super::mitigate::{Cases, Prompt, Rule};
use super::{DiagnoseError, Example, Finding, Measure, Probe, State, Subject};
use crate::flipflop::probe::{Asked, Form, questions};

const IGNORE: f64 = 0.6;
const BATCH: usize = 2048;
/// Symbols of the strings that a patch is judged by.
const SHORTEST: usize = 20;
/// A rate whose interval lies above is a slip.
const SLIP: f64 = 0.02;
/// A rate whose interval lies below is none that matters.
const STEADY: f64 = 0.05;

struct Said {
    length: usize,
    asked: Asked,
    answer: Answer,
}

pub(super) fn run<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    subject: Subject<'_>,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<Finding, DiagnoseError> {
    let lengths: &[usize] = subject.budget.choose([&[20, 50], &[10, 20, 50, 100], &[10, 20, 50, 100, 200]]);
    let fits = |q: &Asked| m.spec.fits(q.question.longest());
    let mut todo = Vec::new();
    let mut left_out = Vec::new();
    for &length in lengths {
        let language = FlipFlop::ignoring(length, IGNORE)?;
        let draw = |count: usize| {
            questions(subject.tokenizer, Form::Demonstration, &language, count as u32, subject.seed)
        };
        let each = draw(1)?.iter().map(|q| q.question.tokens()).sum::<usize>() * lengths.len();
        let asked = draw(subject.budget.items(&m.spec, each, 30, 500))?;
        if asked.iter().all(fits) {
            todo.push((length, asked));
        } else {
            left_out.push(length.to_string());
        }
    }
    let strings: usize = todo.iter().map(|t| t.1.len()).sum();
    let shown: Vec<String> = todo.iter().map(|t| t.0.to_string()).collect();
    let mut asked =
        format!("the last bit written, {strings} strings of {} symbols in words", shown.join(", "));
    if !left_out.is_empty() {
        asked.push_str(&format!(" (of {} symbols: longer than the context)", left_out.join(", ")));
    }
    if todo.is_empty() {
        let why = "no string fits into the model's context".to_owned();
        return Ok(Finding::untestable(Probe::Flipflop, "flipflop.error", asked, why));
    }
    // A shorter string is the beginning of a longer one, but for its read.
    let wanted: Vec<Vec<Question>> =
        todo.iter().map(|t| t.1.iter().map(|s| s.question.clone()).collect()).collect();
    let sets: Vec<&[Question]> = wanted.iter().map(Vec::as_slice).collect();
    let (grown, mut done) = (Grown(&sets), 0);
    let all = grown.tokens();
    let answers = grown.ask(o, m, BATCH, &mut |n| {
        done += n;
        tick(done, all);
    })?;
    let mut said = Vec::with_capacity(strings);
    for ((length, strings), answers) in todo.into_iter().zip(answers) {
        said.extend(strings.into_iter().zip(answers).map(|(asked, answer)| Said { length, asked, answer }));
    }
    Ok(finding(asked, &said, m.spec.n_heads))
}

/// The shortest of its strings, for a patch to be judged by.
pub(super) fn cases(subject: Subject<'_>, items: usize) -> Result<Cases, DiagnoseError> {
    let language = FlipFlop::ignoring(SHORTEST, IGNORE)?;
    let asked = questions(subject.tokenizer, Form::Demonstration, &language, items as u32, subject.seed)?;
    let prompts = asked.iter().filter_map(|a| Prompt::of(&a.question)).collect();
    Ok(Cases { probe: Probe::Flipflop, rule: Rule::Choice, prompts })
}

fn finding(asked: String, said: &[Said], n_heads: usize) -> Finding {
    let wrong = |s: &&Said| s.answer.margin() <= 0.0;
    let rate = |some: &[&Said]| Measure::share(some.iter().copied().filter(|s| wrong(s)).count(), some.len());
    let all: Vec<&Said> = said.iter().collect();
    let longest = said.iter().map(|s| s.length).max().unwrap_or(0);
    let far: Vec<&Said> = said.iter().filter(|s| s.length == longest).collect();
    let error = rate(&all);
    let copied = said.iter().filter(|s| !s.asked.put.copy_last).count() as f64 / said.len().max(1) as f64;
    // Which head looks most at the last write when the answer is right.
    let right: Vec<&Said> = said.iter().filter(|s| !wrong(s)).collect();
    let some = if right.is_empty() { &all } else { &right };
    let best = watchful(&some.iter().map(|s| &s.answer).collect::<Vec<_>>(), n_heads);

    let (low, high) = (error.low.unwrap_or(0.0), error.high.unwrap_or(1.0));
    let (state, verdict) = if low > SLIP && high >= 0.5 {
        (State::Slips, "answers no better than chance".to_owned())
    } else if low > SLIP {
        (State::Slips, format!("misreads the bit in {:.0} of 100 strings", 100.0 * error.value))
    } else if high < STEADY {
        (State::Steady, "reads the bit".to_owned())
    } else {
        (State::Unclear, format!("between {:.0} and {:.0} of 100 strings misread", 100.0 * low, 100.0 * high))
    };
    let mut measures = BTreeMap::from([
        ("flipflop.error".to_owned(), error),
        ("flipflop.error_longest".to_owned(), rate(&far)),
        ("flipflop.error_copy_last".to_owned(), Measure::plain(copied, said.len())),
    ]);
    if let Some((_, mass)) = best {
        measures.insert("flipflop.attention".to_owned(), Measure::plain(mass, some.len()));
    }
    let example = |s: &Said| {
        let [right, wrong] = &s.asked.put.answers;
        let answer = if s.answer.margin() > 0.0 { right } else { wrong };
        Example {
            text: s.asked.put.text.clone(),
            right: right.trim().to_owned(),
            answer: answer.trim().to_owned(),
            note: format!("{} symbols, margin {:+.2} nats", s.length, s.answer.margin()),
        }
    };
    Finding {
        probe: Probe::Flipflop,
        asked,
        headline: "flipflop.error".to_owned(),
        state,
        verdict,
        place: best.map(|([layer, head], mass)| {
            format!("head {layer}.{head} attends most to the last write ({mass:.2})")
        }),
        measures,
        examples: said.iter().filter(wrong).take(3).map(example).collect(),
    }
}
