//! From tasks to prompts as ids: the room that texts have, where each label is asked for, and what is drawn
//! again.

use std::ops::Range;

use refocus_measure::slots;
use refocus_model::{ModelSpec, Tokenizer};
use refocus_tasks::classify::{BETWEEN, Budget, Dataset, Draw, Prompt, Setting, Task, draw, prompt, shown};

use super::error::StudyError;
use super::work::{Alone, Kind, Line};

/// Draws of one pair.
const TRIES: u32 = 50;
/// Pairs are numbered below this, so that a pair drawn again has a number that no other pair has.
pub(crate) const MOST_PAIRS: u32 = 1 << 24;

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Request {
    /// Number of pairs, at most 2^24.
    pub pairs: u32,
    /// Demonstrations of a prompt.
    pub demos: usize,
    /// Tokens that a prompt may have.
    pub context: usize,
    /// Labels of false prompts.
    pub settings: Vec<Setting>,
    /// Seed.
    pub seed: u64,
}

/// The prompts of one task.
#[derive(Clone, Debug)]
pub struct Built {
    /// Two lines for each pair and setting.
    pub lines: Vec<Line>,
    /// Draws not used because a token reached over the place where a label begins.
    pub merged: u32,
    /// Draws not used because the prompt was longer than the context.
    pub too_long: u32,
    /// Tokens that texts may have in the mean.
    pub mean_text_tokens: usize,
    /// Tokens that the tokenizer puts around every prompt.
    pub special_tokens: usize,
}

/// Draws the prompts of a task.
///
/// # Errors
/// Label words with the same first token, a context that is too short, rows that are too few or too long,
/// a pair of which no draw can be used, or a text that the tokenizer cannot express.
pub fn build(
    task: &Task,
    data: &Dataset,
    tokenizer: &Tokenizer,
    spec: &ModelSpec,
    request: &Request,
) -> Result<Built, StudyError> {
    let labels = labels(task, tokenizer)?;
    let context = if spec.stretches() { request.context } else { request.context.min(spec.n_ctx) };
    let special_tokens = tokenizer.encode("", true)?.len();
    let mean_text_tokens = room(task, tokenizer, request.demos, context, special_tokens)?;
    let budget = Budget { demos: request.demos, mean_text_tokens };
    let mut tokens = Vec::with_capacity(data.examples.len());
    for row in &data.examples {
        let second = row.text2.as_ref().map_or(Ok(0), |t| count(tokenizer, t))?;
        tokens.push(count(tokenizer, &row.text)? + second);
    }
    let mut out = Built { lines: Vec::new(), merged: 0, too_long: 0, mean_text_tokens, special_tokens };
    for pair in 0..request.pairs.min(MOST_PAIRS) {
        let mut used = None;
        let mut why = String::new();
        for attempt in 0..TRIES {
            let number = pair + attempt * MOST_PAIRS;
            let drawn = draw(task, data, &tokens, budget, request.seed, number)?;
            match lines(task, data, tokenizer, &drawn, request, &labels)? {
                Ok(lines) => match lines.iter().map(|l| l.ids.len()).max() {
                    Some(longest) if longest > context => {
                        why = format!("{longest} tokens, where {context} are left");
                        out.too_long += 1;
                    }
                    _ => {
                        used = Some(lines);
                        break;
                    }
                },
                Err(e) => {
                    why = e;
                    out.merged += 1;
                }
            }
        }
        let Some(lines) = used else {
            return Err(StudyError::Draws { task: task.key.clone(), pair, tries: TRIES, why });
        };
        out.lines.extend(lines.into_iter().map(|l| Line { pair, ..l }));
    }
    Ok(out)
}

fn count(tokenizer: &Tokenizer, text: &str) -> Result<usize, StudyError> {
    Ok(tokenizer.encode(text, false)?.len())
}

/// The classes' words where a prompt shows them.
struct Labels {
    /// The token that begins each.
    ids: Vec<u32>,
    /// Tokens of each, where any has more than one.
    lens: Option<Vec<u32>>,
}

fn labels(task: &Task, tokenizer: &Tokenizer) -> Result<Labels, StudyError> {
    let mut ids: Vec<u32> = Vec::with_capacity(task.n_classes());
    let mut lens = Vec::with_capacity(task.n_classes());
    for class in &task.classes {
        let mut text = String::new();
        task.format.append_before("a", Some("a"), &mut text);
        let start = text.len();
        text.push_str(&format!(" {}{}", class.word, task.format.after()));
        let (all, offsets) = tokenizer.encode_with_offsets(&text, true)?;
        let label = start..start + 1 + class.word.len();
        let slot = slots(&offsets, std::slice::from_ref(&label)).map_err(|source| StudyError::Border {
            task: task.key.clone(),
            word: class.word.clone(),
            source,
        })?[0];
        let id = all[slot + 1..].first().copied().unwrap_or(u32::MAX);
        if let Some(same) = ids.iter().position(|i| *i == id) {
            return Err(StudyError::FirstToken {
                task: task.key.clone(),
                first: task.classes[same].word.clone(),
                second: class.word.clone(),
                id,
            });
        }
        ids.push(id);
        let own = offsets[slot + 1..].iter().take_while(|o| o.start < label.end && o.end > label.start);
        lens.push((own.count() as u32).max(1));
    }
    let lens = lens.iter().any(|n| *n != 1).then_some(lens);
    Ok(Labels { ids, lens })
}

/// Mean tokens of a text: the share of a demonstration in the context, less its label, its format, its share
/// of the instruction, and what parts it from the next.
fn room(
    task: &Task,
    tokenizer: &Tokenizer,
    demos: usize,
    context: usize,
    special: usize,
) -> Result<usize, StudyError> {
    if demos == 0 {
        return Err(refocus_tasks::classify::TaskError::NoDemos.into());
    }
    let mut label = 0;
    for class in &task.classes {
        label = label.max(count(tokenizer, &format!(" {}", class.word))?);
    }
    let mut format = String::new();
    task.format.append_before("", None, &mut format);
    let format = count(tokenizer, &format)?;
    let end = count(tokenizer, &format!("{}{BETWEEN}", task.format.after()))?;
    let instruction = match &task.instruction {
        Some(line) => count(tokenizer, &format!("{line}{BETWEEN}"))?,
        None => 0,
    };
    let around = label + format + instruction.div_ceil(demos) + end;
    let each = context.saturating_sub(special) / demos;
    match each.checked_sub(around) {
        Some(room) if room > 0 => Ok(room),
        _ => Err(StudyError::Context { task: task.key.clone(), demos, context, each, around }),
    }
}

type Usable<T> = Result<T, String>;

/// The lines of a draw, or why it cannot be used.
fn lines(
    task: &Task,
    data: &Dataset,
    tokenizer: &Tokenizer,
    drawn: &Draw,
    request: &Request,
    labels: &Labels,
) -> Result<Usable<Vec<Line>>, StudyError> {
    let truth: Vec<usize> = drawn.slots.iter().map(|s| s.class).collect();
    let honest = match asked(tokenizer, &prompt(task, data, &drawn.slots, &truth))? {
        Ok(asked) => asked,
        Err(why) => return Ok(Err(why)),
    };
    let mut alone = Vec::new();
    for slot in alone_slots(drawn.slots.len()) {
        let one = prompt(task, data, &drawn.slots[slot..=slot], &truth[slot..=slot]);
        match asked(tokenizer, &one)? {
            Ok((ids, at)) => {
                alone.push(Alone { slot: slot as u32, ids: ids[..=at[0] as usize].to_vec() });
            }
            Err(why) => return Ok(Err(why)),
        }
    }
    let mut out = Vec::with_capacity(2 * request.settings.len());
    for &setting in &request.settings {
        let wrong = shown(drawn, setting, task.n_classes(), request.seed);
        let wrong_asked = match asked(tokenizer, &prompt(task, data, &drawn.slots, &wrong))? {
            Ok(asked) => asked,
            Err(why) => return Ok(Err(why)),
        };
        let both = [(Kind::True, honest.clone(), &truth), (Kind::False, wrong_asked, &wrong)];
        for (kind, (ids, slots), shown) in both {
            out.push(Line {
                task: task.key.clone(),
                setting: setting.name(),
                pair: drawn.pair,
                kind,
                ids,
                slots,
                truth: truth.iter().map(|&c| c as u32).collect(),
                shown: shown.iter().map(|&c| c as u32).collect(),
                label_ids: labels.ids.clone(),
                label_lens: labels.lens.clone(),
                alone: if kind == Kind::True { alone.clone() } else { Vec::new() },
            });
        }
    }
    Ok(Ok(out))
}

/// Slots whose texts are asked without demonstrations too: the last, and half as many demonstrations again
/// and again. The first slot has none in any prompt.
fn alone_slots(demos: usize) -> Vec<usize> {
    let mut out: Vec<usize> =
        std::iter::successors(Some(demos - 1), |k| Some(k / 2)).take_while(|&k| k > 0).collect();
    if demos == 1 {
        out.push(0);
    }
    out.reverse();
    out
}

/// Ids and scored positions, or why there are none.
#[allow(clippy::type_complexity)]
fn asked(tokenizer: &Tokenizer, prompt: &Prompt) -> Result<Usable<(Vec<u32>, Vec<u32>)>, StudyError> {
    let (ids, offsets): (Vec<u32>, Vec<Range<usize>>) = tokenizer.encode_with_offsets(&prompt.text, true)?;
    match slots(&offsets, &prompt.labels) {
        Ok(slots) => Ok(Ok((ids, slots.into_iter().map(|s| s as u32).collect()))),
        Err(e) => Ok(Err(e.to_string())),
    }
}
