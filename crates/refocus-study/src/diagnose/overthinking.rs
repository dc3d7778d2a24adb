//! Does the model follow false demonstrations against what it knows? (`overthinking`, one task.)

use std::collections::BTreeMap;
use std::path::Path;

use refocus_compute::Ops;
use refocus_measure::intervals::wilson;
use refocus_model::{Model, ModelSpec};
use refocus_tasks::classify::Setting;

use super::mitigate::{Cases, Prompt, Rule};
use super::{DiagnoseError, Example, Finding, Measure, Probe, State, Subject, TOY};
use crate::overthinking::{
    Answers, Asked, Estimate, Method, Pairs, Request, SettingSummary, StudyError, Work, ask, build, summarise,
};

const HEADLINE: &str = "overthinking.gap";
/// Demonstrations, by budget.
const DEMOS: [usize; 3] = [8, 12, 20];
/// A gap whose interval lies below is none that matters.
const STEADY: f64 = 0.1;

pub(super) fn run<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    subject: Subject<'_>,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<Finding, DiagnoseError> {
    let (task, data) = subject.task;
    let demos = subject.budget.choose(DEMOS);
    let mut request = Request {
        pairs: 1,
        demos,
        context: m.spec.n_ctx,
        settings: vec![Setting::Permuted],
        seed: subject.seed,
    };
    let asked = |pairs: u32| {
        let what = if task.key == TOY {
            "the class of a word".to_owned()
        } else {
            format!("the label of {}", task.key)
        };
        format!("{what} after {demos} true and {demos} false demonstrations, {pairs} pairs")
    };
    let one = match build(task, data, subject.tokenizer, &m.spec, &request) {
        Ok(one) => one,
        Err(e) if cannot_be_asked(&e) => {
            return Ok(Finding::untestable(Probe::Overthinking, HEADLINE, asked(0), e.to_string()));
        }
        Err(e) => return Err(e.into()),
    };
    let each = one.lines.iter().map(|l| l.ids.len()).sum();
    request.pairs = subject.budget.items(&m.spec, each, 40, 400) as u32;
    let built = build(task, data, subject.tokenizer, &m.spec, &request)?;
    let lines: Vec<_> = built.lines.into_iter().enumerate().collect();
    let work = Work::new(Path::new("the prompts drawn"), &lines, &m.spec)?;
    let task_work = &work.tasks[0];
    let mut done = 0;
    let all = task_work.prompts.len() as u64;
    let method = Method::correct();
    let answers = ask(o, m, &task_work.prompts, &task_work.label_ids, &method, |n| {
        done += n as u64;
        tick(done, all);
    })?;
    let setting = &task_work.settings[0];
    let pairs = Pairs { task: task_work, setting, answers: &answers, alone: &[], method: &method };
    let (summary, _) = summarise(&pairs, false, subject.seed)?;
    let words: Vec<&str> = task.classes.iter().map(|c| c.word.as_str()).collect();
    Ok(finding(asked(request.pairs), &summary, demos, examples(&pairs, &words, subject)))
}

/// Whether it is the model's tokenizer or context that has no place for the prompts.
fn cannot_be_asked(e: &StudyError) -> bool {
    matches!(e, StudyError::FirstToken { .. } | StudyError::Border { .. } | StudyError::Context { .. })
}

/// The last labels of its pairs, for a patch to be judged by.
pub(super) fn cases(spec: &ModelSpec, subject: Subject<'_>, items: usize) -> Result<Cases, DiagnoseError> {
    let (task, data) = subject.task;
    let request = Request {
        pairs: items as u32,
        demos: subject.budget.choose(DEMOS),
        context: spec.n_ctx,
        settings: vec![Setting::Permuted],
        seed: subject.seed,
    };
    let built = match build(task, data, subject.tokenizer, spec, &request) {
        Ok(built) => built,
        // Nothing that a patch could break, as in the finding where the probe is asked.
        Err(e) if cannot_be_asked(&e) => {
            let rule = Rule::Demonstrations(Vec::new());
            return Ok(Cases { probe: Probe::Overthinking, rule, prompts: Vec::new() });
        }
        Err(e) => return Err(e.into()),
    };
    let lines: Vec<_> = built.lines.into_iter().enumerate().collect();
    let work = Work::new(Path::new("the prompts drawn"), &lines, spec)?;
    let task = &work.tasks[0];
    let end = task.demos - 1;
    let prompt = |i: usize| {
        let Asked { ids, slots } = &task.prompts[i];
        Prompt { ids: ids[..=slots[end] as usize].to_vec(), wanted: task.label_ids.clone() }
    };
    let pairs = &task.settings[0].pairs;
    let classes = pairs.iter().map(|p| [p.truth[end] as usize, p.shown[end] as usize]).collect();
    let prompts = pairs.iter().flat_map(|p| [p.true_prompt, p.false_prompt]).map(prompt).collect();
    Ok(Cases { probe: Probe::Overthinking, rule: Rule::Demonstrations(classes), prompts })
}

fn measure(e: &Estimate) -> Measure {
    Measure::within(e.value, e.low, e.high, e.n)
}

fn finding(asked: String, s: &SettingSummary, demos: usize, examples: Vec<Example>) -> Finding {
    let (last, end) = (s.curves.tp.len() - 1, demos - 1);
    let plain = |x: f64| Measure::plain(x, s.pairs);
    let mut measures = BTreeMap::from([
        (HEADLINE.to_owned(), measure(&s.gap)),
        ("overthinking.accuracy_true".to_owned(), plain(s.curves.tp[last][end])),
        ("overthinking.accuracy_false".to_owned(), plain(s.curves.fp[last][end])),
        ("overthinking.zero_shot".to_owned(), measure(&s.zero_shot)),
    ]);
    if let Some(exit) = s.mitigation("early_exit") {
        measures.insert("overthinking.exit_gain".to_owned(), measure(&exit.fp_gain));
    }
    let right = (s.curves.tp[last][end] * s.pairs as f64).round() as u64;
    let able = wilson(right, s.pairs as u64).is_some_and(|right| right.low > s.chance);
    let (state, verdict) = judged(&s.gap, able);
    let place = s.critical_layer().map(|l| {
        let exit = s.mitigation("early_exit").filter(|e| e.fp_gain.low > 0.0);
        let layer = exit.and_then(|e| e.chosen.as_ref()).map(|c| c.value as usize);
        let exit = layer.map_or_else(String::new, |l| format!("; layer {l} answers better"));
        format!("half of the gap is there after layer {l} of {last}{exit}")
    });
    Finding {
        probe: Probe::Overthinking,
        asked,
        headline: HEADLINE.to_owned(),
        state,
        verdict,
        place,
        measures,
        examples,
    }
}

/// What a gap says of a model that is (`able`) or is not surely above chance after true demonstrations: one that is not
/// has nothing that false ones could take.
fn judged(gap: &Estimate, able: bool) -> (State, String) {
    if gap.low > 0.0 && gap.high >= STEADY {
        let lost = 100.0 * gap.value;
        (State::Slips, format!("false demonstrations cost {lost:.0} of 100 answers"))
    } else if !able {
        (
            State::CannotBeTested,
            "it is not surely right more often than chance after true ones either".to_owned(),
        )
    } else if gap.high < STEADY {
        (State::Steady, "false demonstrations change little".to_owned())
    } else {
        (State::Unclear, "the gap's interval includes 0".to_owned())
    }
}

/// False prompts whose answer is the shown class and whose true prompt is answered right.
fn examples(pairs: &Pairs<'_>, words: &[&str], subject: Subject<'_>) -> Vec<Example> {
    let end = pairs.task.demos - 1;
    let choice = |a: &Answers| {
        let logits: Vec<f32> = a.logits(a.shape.layers - 1, end).collect();
        (0..logits.len()).reduce(|b, i| if logits[i] > logits[b] { i } else { b }).unwrap_or(0)
    };
    let mut out = Vec::new();
    for p in &pairs.setting.pairs {
        let (truth, shown) = (p.truth[end] as usize, p.shown[end] as usize);
        let (honest, misled) =
            (choice(&pairs.answers[p.true_prompt]), choice(&pairs.answers[p.false_prompt]));
        let Asked { ids, slots } = &pairs.task.prompts[p.false_prompt];
        if honest != truth || misled != shown || out.len() == 3 {
            continue;
        }
        let text = subject.tokenizer.decode(&ids[..=slots[end] as usize], true).unwrap_or_default();
        out.push(Example {
            text,
            right: words[truth].to_owned(),
            answer: words[misled].to_owned(),
            note: "after false demonstrations; after true ones it answers right".to_owned(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_cannot_do_the_task_is_not_called_steady() {
        let gap = |low, high| Estimate { value: (low + high) / 2.0, low, high, n: 100 };
        let state = |low, high, able| judged(&gap(low, high), able).0;
        assert_eq!(state(0.2, 0.4, true), State::Slips);
        assert_eq!(state(0.2, 0.4, false), State::Slips);
        assert_eq!(state(0.01, 0.05, true), State::Steady);
        assert_eq!(state(-0.1, 0.05, true), State::Steady);
        assert_eq!(state(-0.1, 0.05, false), State::CannotBeTested);
        assert_eq!(state(-0.1, 0.2, true), State::Unclear);
        assert_eq!(state(-0.1, 0.2, false), State::CannotBeTested);
    }
}
