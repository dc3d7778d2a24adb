//! The text of a prompt and where its labels stand.

use std::ops::Range;

use super::data::Dataset;
use super::draw::Slot;
use super::task::Task;

/// Between the instruction and the demonstrations, and between these.
pub const BETWEEN: &str = "\n\n";

/// A prompt of K demonstrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The whole text; it ends after the last demonstration.
    pub text: String,
    /// Bytes of each label in `text`, the space before it included: the model is asked at the token that
    /// ends where the label begins.
    pub labels: Vec<Range<usize>>,
    /// The class whose word stands there.
    pub shown: Vec<usize>,
    /// The true class.
    pub truth: Vec<usize>,
}

/// Writes the prompt of these slots with the words of the classes `shown`.
pub fn prompt(task: &Task, data: &Dataset, slots: &[Slot], shown: &[usize]) -> Prompt {
    let mut text = String::new();
    let mut labels = Vec::with_capacity(slots.len());
    if let Some(line) = &task.instruction {
        text.push_str(line);
        text.push_str(BETWEEN);
    }
    for (i, (slot, &class)) in slots.iter().zip(shown).enumerate() {
        if i > 0 {
            text.push_str(BETWEEN);
        }
        let row = &data.examples[slot.row];
        task.format.append_before(&row.text, row.text2.as_deref(), &mut text);
        let start = text.len();
        text.push(' ');
        text.push_str(&task.classes[class].word);
        labels.push(start..text.len());
        text.push_str(task.format.after());
    }
    Prompt { text, labels, shown: shown.to_vec(), truth: slots.iter().map(|s| s.class).collect() }
}
