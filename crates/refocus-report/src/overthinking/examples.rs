//! The texts that the numbers are about.

use refocus_results::overthinking::Example;

use super::{Tables, grouped, name};
use crate::RunSection;
use crate::view::{Answer, Line, Part, Prompt};

pub(super) fn section(t: &Tables) -> Option<RunSection> {
    let mut prompts = Vec::new();
    for (key, rows) in grouped(&t.examples, |e| (e.task.as_str(), e.setting.as_str())) {
        let mut seen: Vec<(i64, &str)> = Vec::new();
        for e in &rows {
            if !seen.contains(&(e.pair, e.kind.as_str())) {
                seen.push((e.pair, e.kind.as_str()));
            }
        }
        for (pair, kind) in seen {
            let mut slots: Vec<&Example> =
                rows.iter().copied().filter(|e| (e.pair, e.kind.as_str()) == (pair, kind)).collect();
            slots.sort_by_key(|e| e.slot);
            prompts.push(prompt(format!("{}: pair {pair}, {kind} demonstrations", name(key)), &slots));
        }
    }
    (!prompts.is_empty()).then(|| RunSection {
        id: "examples",
        title: "Examples".to_owned(),
        lead: "What the model read, demonstration by demonstration. ✓ marks a true label, ✗ a false one. Below the \
               last text stands what the model answers without demonstrations, at the early layer, and at the end."
            .to_owned(),
        parts: vec![Part::Prompts(prompts)],
    })
}

fn prompt(title: String, slots: &[&Example]) -> Prompt {
    let last = slots.len().saturating_sub(1);
    let lines = slots.iter().enumerate().map(|(i, e)| {
        let said = |who, answer: &Option<String>| {
            let said = answer.clone()?;
            let right = said.trim() == e.label_true.trim();
            Some(Answer { who, said, right })
        };
        let answers = [
            said("without demonstrations", &e.answer_zero_shot),
            said("at the early layer", &e.answer_early),
            said("at the end", &e.answer_final),
        ];
        Line {
            text: e.text.clone(),
            truth: e.label_true.clone(),
            shown: e.label_shown.clone(),
            right: e.label_true == e.label_shown,
            question: i == last,
            answers: answers.into_iter().flatten().collect(),
        }
    });
    Prompt { title, lines: lines.collect() }
}
