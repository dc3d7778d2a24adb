//! The prompts of a run as ids, each asked once whatever number of settings shares it, and their file.

use std::collections::HashMap;
use std::path::Path;

use refocus_model::ModelSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::StudyError;

/// Which prompt of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// True labels.
    True,
    /// The labels of the setting.
    False,
}

/// One line of a file of prompts. The true prompt of a pair stands there once for each setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Task.
    pub task: String,
    /// Setting.
    pub setting: String,
    /// Number of the pair.
    pub pair: u32,
    /// Which of its prompts.
    pub kind: Kind,
    /// All token ids, those that the tokenizer puts around a text included.
    pub ids: Vec<u32>,
    /// The position before each label.
    pub slots: Vec<u32>,
    /// The true class at each slot.
    pub truth: Vec<u32>,
    /// The class whose word stands there.
    pub shown: Vec<u32>,
    /// First token of each class's word.
    pub label_ids: Vec<u32>,
    /// Tokens of each class's word; all have one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_lens: Option<Vec<u32>>,
    /// Of a true prompt: some of its texts asked without demonstrations, the last one among them. Without
    /// them nothing is said of what the model would answer by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alone: Vec<Alone>,
}

/// The text of one slot without the demonstrations before it; the instruction stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alone {
    /// Slot.
    pub slot: u32,
    /// Ids up to the token before the label.
    pub ids: Vec<u32>,
}

/// A prompt to run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Positions that are read.
    pub slots: Vec<u32>,
}

/// A pair of prompts under one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Number of the pair.
    pub pair: u32,
    /// Index of the prompt with true labels.
    pub true_prompt: usize,
    /// Index of the prompt with the setting's labels.
    pub false_prompt: usize,
    /// `[slots]`
    pub truth: Vec<u32>,
    /// What the false prompt shows, `[slots]`.
    pub shown: Vec<u32>,
    /// Index of the prompt of each slot of [`TaskWork::alone_slots`] without demonstrations.
    pub alone: Vec<usize>,
}

/// The pairs of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingWork {
    /// Name of the setting.
    pub name: String,
    /// By number.
    pub pairs: Vec<Pair>,
}

/// The prompts of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskWork {
    /// Name.
    pub task: String,
    /// First token of each class's word.
    pub label_ids: Vec<u32>,
    /// Tokens of each class's word.
    pub label_lens: Vec<u32>,
    /// Demonstrations of every prompt.
    pub demos: usize,
    /// Different prompts, in the order in which they are first needed.
    pub prompts: Vec<Asked>,
    /// Slots whose texts are asked without demonstrations too, the last among them; may be empty.
    pub alone_slots: Vec<u32>,
    /// Different prompts without demonstrations.
    pub alone: Vec<Asked>,
    /// In the order of the lines.
    pub settings: Vec<SettingWork>,
}

/// The prompts of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// In the order of the lines.
    pub tasks: Vec<TaskWork>,
    /// SHA-256 of all lines.
    pub hash: String,
}

impl Work {
    /// Number of prompts to run.
    pub fn n_prompts(&self) -> usize {
        self.tasks.iter().map(|t| t.prompts.len() + t.alone.len()).sum()
    }

    /// Reads a file of prompts.
    ///
    /// # Errors
    /// It cannot be read, has a line that is none, or as [`Work::new`].
    pub fn read(path: &Path, spec: &ModelSpec) -> Result<Self, StudyError> {
        let text = std::fs::read_to_string(path).map_err(StudyError::read(path))?;
        let mut lines = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let bad = |e: serde_json::Error| StudyError::Line {
                path: path.to_owned(),
                line: i + 1,
                why: format!("not a prompt: {e}"),
            };
            lines.push((i + 1, serde_json::from_str(line).map_err(bad)?));
        }
        Self::new(path, &lines, spec)
    }

    /// Puts lines together; `path` and the number of each line are for messages.
    ///
    /// # Errors
    /// A line whose parts do not fit each other, other lines of its task, or the model; a pair that lacks
    /// a prompt or has one twice; no line.
    pub fn new(path: &Path, lines: &[(usize, Line)], spec: &ModelSpec) -> Result<Self, StudyError> {
        let mut order: Vec<&(usize, Line)> = lines.iter().collect();
        // Pair by pair, so that what is finished first is whole pairs; tasks keep their order.
        let mut tasks: Vec<&str> = Vec::new();
        for (_, line) in lines {
            if !tasks.contains(&line.task.as_str()) {
                tasks.push(&line.task);
            }
        }
        let place = |task: &str| tasks.iter().position(|t| *t == task);
        order.sort_by_key(|(_, l)| (place(&l.task), l.pair));
        let mut work = Vec::new();
        for group in order.chunk_by(|a, b| a.1.task == b.1.task) {
            work.push(TaskWork::new(path, group, spec)?);
        }
        if work.is_empty() {
            return Err(StudyError::Prompts { path: path.to_owned(), why: "it holds no prompt".into() });
        }
        let mut hash = Sha256::new();
        for (_, line) in order {
            // Writing to memory does not fail; a line that could not be written would hash as nothing.
            hash.update(serde_json::to_vec(line).unwrap_or_default());
            hash.update(b"\n");
        }
        Ok(Self { tasks: work, hash: hex(&hash.finalize()) })
    }
}

/// The two lines of a pair, each with the index of its prompt.
#[derive(Default)]
struct Halves<'a> {
    honest: Option<(usize, &'a Line)>,
    wrong: Option<(usize, &'a Line)>,
}

/// The number of a prompt, which is added where it is new.
fn number(index: &mut HashMap<Asked, usize>, all: &mut Vec<Asked>, asked: Asked) -> usize {
    *index.entry(asked).or_insert_with_key(|asked| {
        all.push(asked.clone());
        all.len() - 1
    })
}

impl TaskWork {
    fn new(path: &Path, lines: &[&(usize, Line)], spec: &ModelSpec) -> Result<Self, StudyError> {
        let first = &lines[0].1;
        let mut task = Self {
            task: first.task.clone(),
            label_ids: first.label_ids.clone(),
            label_lens: first.label_lens.clone().unwrap_or_else(|| vec![1; first.label_ids.len()]),
            demos: first.slots.len(),
            prompts: Vec::new(),
            alone_slots: lines
                .iter()
                .find(|l| l.1.kind == Kind::True)
                .map_or_else(Vec::new, |l| l.1.alone.iter().map(|a| a.slot).collect()),
            alone: Vec::new(),
            settings: Vec::new(),
        };
        let mut index: HashMap<Asked, usize> = HashMap::new();
        let mut alone_index: HashMap<Asked, usize> = HashMap::new();
        let mut halves: HashMap<(&str, u32), Halves> = HashMap::new();
        for (at_line, line) in lines {
            let bad = |why: String| StudyError::Line { path: path.to_owned(), line: *at_line, why };
            task.check(line, spec).map_err(bad)?;
            let asked = Asked { ids: line.ids.clone(), slots: line.slots.clone() };
            let at = number(&mut index, &mut task.prompts, asked);
            if !task.settings.iter().any(|s| s.name == line.setting) {
                task.settings.push(SettingWork { name: line.setting.clone(), pairs: Vec::new() });
            }
            let halves = halves.entry((&line.setting, line.pair)).or_default();
            let half = if line.kind == Kind::True { &mut halves.honest } else { &mut halves.wrong };
            if half.replace((at, line)).is_some() {
                return Err(bad(format!("pair {} of {} is there twice", line.pair, line.setting)));
            }
        }
        for setting in &mut task.settings {
            for ((_, pair), halves) in halves.iter().filter(|((name, _), _)| *name == setting.name) {
                let which = format!("task {}, setting {}, pair {pair}", task.task, setting.name);
                let bad =
                    |why: &str| StudyError::Prompts { path: path.to_owned(), why: format!("{which}: {why}") };
                let (Some((true_prompt, honest)), Some((false_prompt, wrong))) =
                    (halves.honest, halves.wrong)
                else {
                    return Err(bad("one of the two prompts is missing"));
                };
                if honest.truth != wrong.truth {
                    return Err(bad("its prompts differ in truth"));
                }
                let (truth, shown) = (wrong.truth.clone(), wrong.shown.clone());
                let alone = Vec::new();
                setting.pairs.push(Pair { pair: *pair, true_prompt, false_prompt, truth, shown, alone });
            }
            setting.pairs.sort_by_key(|p| p.pair);
            for pair in &mut setting.pairs {
                let Some((_, honest)) = halves.get(&(&setting.name[..], pair.pair)).and_then(|h| h.honest)
                else {
                    continue;
                };
                for a in &honest.alone {
                    let asked = Asked { ids: a.ids.clone(), slots: vec![(a.ids.len() - 1) as u32] };
                    pair.alone.push(number(&mut alone_index, &mut task.alone, asked));
                }
            }
        }
        Ok(task)
    }

    fn check(&self, line: &Line, spec: &ModelSpec) -> Result<(), String> {
        let (k, c) = (line.slots.len(), line.label_ids.len());
        if k == 0 {
            return Err("it has no slot: a prompt has at least one demonstration".into());
        }
        if c < 2 {
            return Err(format!("{c} label ids; there are at least two"));
        }
        if k != self.demos || line.label_ids != self.label_ids {
            return Err(format!("number of slots or label ids differ from others of task {}", self.task));
        }
        if line.truth.len() != k || line.shown.len() != k {
            let (truth, shown) = (line.truth.len(), line.shown.len());
            return Err(format!("{k} slots, but {truth} in truth and {shown} in shown"));
        }
        if let Some(class) = line.truth.iter().chain(&line.shown).find(|x| **x as usize >= c) {
            return Err(format!("class {class} where there are {c}"));
        }
        if line.kind == Kind::True && line.truth != line.shown {
            return Err("a true prompt shows other classes than the true ones".into());
        }
        if let Some(i) = (1..c).find(|&i| line.label_ids[..i].contains(&line.label_ids[i])) {
            return Err(format!("label id {} is there twice", line.label_ids[i]));
        }
        let alone: Vec<u32> = line.alone.iter().map(|a| a.slot).collect();
        let wanted = if line.kind == Kind::True { &self.alone_slots[..] } else { &[] };
        if alone != wanted {
            return Err(format!(
                "slots {alone:?} are asked alone, where other true prompts of task {} have {:?} and false ones \
                 none",
                self.task, self.alone_slots
            ));
        }
        if !alone.is_empty()
            && (!alone.is_sorted_by(|a, b| a < b) || alone[alone.len() - 1] as usize != k - 1)
        {
            return Err(format!("slots {alone:?} asked alone do not ascend to the last, {}", k - 1));
        }
        if line.alone.iter().any(|a| a.ids.is_empty() || a.ids.len() > line.ids.len()) {
            return Err("a text asked alone has no token or more than the whole prompt".into());
        }
        let all = line.ids.iter().chain(&line.label_ids).chain(line.alone.iter().flat_map(|a| &a.ids));
        if let Some(id) = all.into_iter().find(|id| **id as usize >= spec.vocab) {
            return Err(format!("id {id}, where the model's vocabulary has {} tokens", spec.vocab));
        }
        if !line.slots.is_sorted_by(|a, b| a < b) || line.slots[k - 1] as usize >= line.ids.len() {
            return Err(format!("slots do not ascend within the {} ids", line.ids.len()));
        }
        if line.label_lens.as_ref().map_or(self.label_lens.iter().any(|n| *n != 1), |l| *l != self.label_lens)
        {
            return Err(format!("label lengths differ from others of task {}", self.task));
        }
        if self.label_lens.len() != c || self.label_lens.contains(&0) {
            return Err(format!("label lengths are not {c} numbers of tokens, one or more each"));
        }
        let end =
            |slot: usize| u64::from(line.slots[slot]) + u64::from(self.label_lens[line.shown[slot] as usize]);
        if let Some(slot) = (1..k).find(|&s| end(s - 1) > u64::from(line.slots[s])) {
            return Err(format!("the label of slot {} reaches over slot {slot}", slot - 1));
        }
        if !spec.fits(line.ids.len()) {
            return Err(format!("{} ids, where the model's context has {}", line.ids.len(), spec.n_ctx));
        }
        Ok(())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(setting: &str, pair: u32, kind: Kind, shown: [u32; 2]) -> Line {
        let mut ids = vec![7, 8, 9, 7, 8];
        ids[2] = 10 + shown[0];
        Line {
            task: "t".into(),
            setting: setting.into(),
            pair,
            kind,
            ids,
            slots: vec![1, 4],
            truth: vec![0, 1],
            shown: shown.to_vec(),
            label_ids: vec![10, 11],
            label_lens: None,
            alone: match kind {
                Kind::True => vec![Alone { slot: 1, ids: vec![7, 8] }],
                Kind::False => Vec::new(),
            },
        }
    }

    fn spec() -> ModelSpec {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
        refocus_model::Checkpoint::open(folder).expect("the fixture").spec().clone()
    }

    fn work(lines: &[Line]) -> Result<Work, StudyError> {
        let lines: Vec<(usize, Line)> = lines.iter().cloned().enumerate().map(|(i, l)| (i + 1, l)).collect();
        Work::new(Path::new("f"), &lines, &spec())
    }

    #[test]
    fn a_prompt_that_settings_share_is_asked_once() {
        let all = [
            line("permuted", 0, Kind::True, [0, 1]),
            line("permuted", 0, Kind::False, [1, 0]),
            line("half", 0, Kind::True, [0, 1]),
            line("half", 0, Kind::False, [1, 1]),
        ];
        let w = work(&all).expect("work");
        // What the last slot shows comes after the last position that is read here.
        // The text of the last slot alone is the third.
        assert_eq!((w.n_prompts(), w.tasks[0].settings.len()), (3, 2));
        assert_eq!((&w.tasks[0].alone_slots[..], w.tasks[0].alone[0].slots[0]), (&[1][..], 1));
        let pair = &w.tasks[0].settings[1].pairs[0];
        assert_eq!((pair.true_prompt, pair.false_prompt, &pair.shown[..]), (0, 1, &[1, 1][..]));
    }

    #[test]
    fn lines_that_do_not_fit_are_refused() {
        let honest = line("permuted", 3, Kind::True, [0, 1]);
        let wrong = line("permuted", 3, Kind::False, [1, 0]);
        let told = |lines: &[Line]| work(lines).expect_err("refused").to_string();
        assert_eq!(
            told(std::slice::from_ref(&honest)),
            "f: task t, setting permuted, pair 3: one of the two prompts is missing"
        );
        assert_eq!(told(&[honest.clone(), honest.clone()]), "f: line 2: pair 3 of permuted is there twice");
        let other = Line { truth: vec![1, 1], ..wrong.clone() };
        assert!(told(&[honest.clone(), other]).ends_with("its prompts differ in truth"));
        for (bad, why) in [
            (Line { slots: vec![4, 1], ..wrong.clone() }, "slots do not ascend"),
            (Line { slots: vec![1, 5], ..wrong.clone() }, "slots do not ascend"),
            (Line { shown: vec![0, 2], ..wrong.clone() }, "class 2 where there are 2"),
            (Line { truth: vec![0], ..wrong.clone() }, "1 in truth"),
            (Line { label_lens: Some(vec![2, 1]), ..wrong.clone() }, "label lengths differ"),
            (Line { label_ids: vec![10, 10], ..wrong.clone() }, "label ids differ"),
            (Line { ids: vec![300; 5], ..wrong.clone() }, "id 300"),
            (Line { ids: vec![1; 513], ..wrong.clone() }, "513 ids"),
            (Line { alone: honest.alone.clone(), ..wrong }, "slots [1] are asked alone"),
        ] {
            let text = told(&[honest.clone(), bad]);
            assert!(text.starts_with("f: line 2: ") && text.contains(why), "{text}");
        }
    }
}
