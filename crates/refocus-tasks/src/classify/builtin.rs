//! The tasks that the project ships.

use std::path::Path;

use super::error::TaskError;
use super::task::Task;
use crate::nearest::nearest;

macro_rules! files {
    ($($key:literal)*) => {
        &[$(($key, include_str!(concat!("../../../../tasks/", $key, ".toml")))),*]
    };
}

/// The study's fourteen data sets in its order, then the controls.
const FILES: &[(&str, &str)] = files![
    "sst2" "ag_news" "trec" "dbpedia" "rte" "mrpc" "tweet_eval_hate" "sick" "poem_sentiment" "ethos"
    "financial_phrasebank" "medical_questions_pairs" "tweet_eval_stance_feminist"
    "tweet_eval_stance_atheism" "unnatural" "sst2_ab"
];

/// Names of the shipped tasks, without their variants.
pub fn builtin_keys() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|f| f.0)
}

/// A shipped task with its other formats, the task first; a format's name gives that format alone.
///
/// # Errors
/// There is none of this name; the message suggests a similar one.
pub fn builtin_all(key: &str) -> Result<Vec<Task>, TaskError> {
    let stem = key.split('.').next().unwrap_or(key);
    let mut names: Vec<String> = builtin_keys().map(str::to_owned).collect();
    if let Some((_, text)) = FILES.iter().find(|f| f.0 == stem) {
        let mut all = Task::parse(Path::new(&format!("tasks/{stem}.toml")), text)?;
        if stem == key {
            return Ok(all);
        }
        if let Some(at) = all.iter().position(|t| t.key == key) {
            return Ok(vec![all.swap_remove(at)]);
        }
        names.extend(all.into_iter().map(|t| t.key));
    }
    Err(TaskError::Unknown { key: key.to_owned(), nearest: nearest(names, key) })
}

/// A shipped task or one of its formats.
///
/// # Errors
/// As [`builtin_all`].
pub fn builtin(key: &str) -> Result<Task, TaskError> {
    Ok(builtin_all(key)?.swap_remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_task_is_one() {
        for key in builtin_keys() {
            let task = builtin(key).unwrap_or_else(|e| panic!("{key}: {e}"));
            assert_eq!(task.key, key);
        }
        assert_eq!(builtin_keys().filter(|k| builtin(k).is_ok_and(|t| !t.control)).count(), 14);
    }

    #[test]
    fn sst2_has_at_least_twelve_formats_of_which_one_is_inverted() {
        let formats: Vec<Task> =
            (1..=12).map(|i| builtin(&format!("sst2.{i}")).expect("a shipped task")).collect();
        assert_eq!(formats.iter().filter(|t| t.inverted).count(), 1);
        let mut shapes: Vec<_> = formats.iter().map(|t| &t.format).collect();
        shapes.dedup();
        assert_eq!(shapes.len(), 12);
    }

    #[test]
    fn thirty_words_a_class_and_none_twice() {
        let toy = builtin("unnatural").expect("a shipped task");
        assert!(toy.words.iter().all(|w| w.len() == 30));
        let mut all: Vec<_> = toy.words.concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 90);
    }

    #[test]
    fn a_name_that_is_nearly_right_is_suggested() {
        let Err(TaskError::Unknown { nearest, .. }) = builtin("agnews") else { panic!("no such task") };
        assert_eq!(nearest.as_deref(), Some("ag_news"));
        let Err(TaskError::Unknown { nearest, .. }) = builtin("something else") else { panic!() };
        assert_eq!(nearest, None);
    }
}
