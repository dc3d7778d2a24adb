//! The rows of a task.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::TaskError;
use super::parquet;
use super::task::{Columns, Task};

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The text, or the first of two.
    pub text: String,
    /// The second text.
    pub text2: Option<String>,
    /// Index into the task's classes.
    pub class: usize,
}

/// Endings of the files that rows are read from, in the order in which they are looked for.
const ENDINGS: [&str; 4] = ["jsonl", "csv", "tsv", "parquet"];

/// The rows of a task, in the order of the file.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Where they came from.
    pub path: PathBuf,
    /// The rows.
    pub examples: Vec<Example>,
    /// Rows of each class.
    pub by_class: Vec<Vec<usize>>,
    /// Rows left out because the task skips their class.
    pub skipped: usize,
}

impl Dataset {
    /// Reads a task's rows: those it brings, else its file in the data folder or the same name with another
    /// ending (`.jsonl`, `.csv`, `.tsv`, `.parquet`), whose columns are `text`, `text2` and `label` with the
    /// classes' names, or the hub's.
    ///
    /// # Errors
    /// No folder where one is needed; a file that cannot be read, is empty, or has a row without text,
    /// with an unknown class or a missing column; a class without rows.
    pub fn read(task: &Task, folder: Option<&Path>) -> Result<Self, TaskError> {
        let Some(source) = &task.source else { return Self::brought(task) };
        let Some(folder) = folder else {
            return Err(TaskError::Rows {
                path: PathBuf::from(&source.file),
                why: format!("task {} needs a data folder that holds this file", task.key),
            });
        };
        let named = folder.join(&source.file);
        // What is not there at all is told by its first name.
        let other = ENDINGS.iter().map(|e| named.with_extension(e)).find(|p| p.exists());
        Self::read_file(task, if named.exists() { &named } else { other.as_ref().unwrap_or(&named) })
    }

    /// Reads a task's rows from a file.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn read_file(task: &Task, path: &Path) -> Result<Self, TaskError> {
        let bytes = || std::fs::read(path).map_err(TaskError::io(path));
        let mut data = Self::empty(task, path);
        match path.extension().and_then(|e| e.to_str()) {
            Some("jsonl" | "ndjson" | "json") => data.json_lines(task, &bytes()?)?,
            Some("csv") => data.table(task, &bytes()?, b',')?,
            Some("tsv") => data.table(task, &bytes()?, b'\t')?,
            Some("parquet") => data.parquet(task)?,
            _ => {
                let why = "rows are read from .jsonl, .csv, .tsv and .parquet files".to_owned();
                return Err(TaskError::Rows { path: path.to_owned(), why });
            }
        }
        data.check(task)
    }

    fn empty(task: &Task, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            examples: Vec::new(),
            by_class: vec![Vec::new(); task.n_classes()],
            skipped: 0,
        }
    }

    fn brought(task: &Task) -> Result<Self, TaskError> {
        let mut data = Self::empty(task, Path::new(&format!("task {}", task.key)));
        for (class, words) in task.words.iter().enumerate() {
            for text in words {
                data.by_class[class].push(data.examples.len());
                data.examples.push(Example { text: text.clone(), text2: None, class });
            }
        }
        data.check(task)
    }

    fn check(self, task: &Task) -> Result<Self, TaskError> {
        let why = if self.examples.is_empty() {
            "it holds no row".to_owned()
        } else if let Some(class) = self.by_class.iter().position(Vec::is_empty) {
            format!("it holds no row of class {}", task.classes[class].name)
        } else {
            return Ok(self);
        };
        Err(TaskError::Rows { path: self.path, why })
    }

    fn json_lines(&mut self, task: &Task, bytes: &[u8]) -> Result<(), TaskError> {
        let path = self.path.clone();
        for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let row: Map<String, Value> = serde_json::from_slice(line)
                .map_err(|e| TaskError::row(&path, i + 1, format!("not a JSON object: {e}")))?;
            let text = |value: &Value| match value {
                Value::String(s) => Some(s.clone()),
                Value::Number(n) => Some(n.to_string()),
                Value::Bool(b) => Some(u8::from(*b).to_string()),
                _ => None,
            };
            self.add(task, i + 1, |column| row.get(column).map(text))?;
        }
        Ok(())
    }

    fn table(&mut self, task: &Task, bytes: &[u8], delimiter: u8) -> Result<(), TaskError> {
        let path = self.path.clone();
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
        let at = |e: &csv::Error| e.position().map_or(1, |p| p.line() as usize);
        let bad = |e: csv::Error| TaskError::row(&path, at(&e), e.to_string());
        let head = reader.headers().map_err(bad)?.clone();
        for record in reader.records() {
            let record = record.map_err(bad)?;
            let line = record.position().map_or(1, |p| p.line() as usize);
            let cell = |column: &str| {
                let index = head.iter().position(|h| h == column)?;
                Some(record.get(index).map(str::to_owned))
            };
            self.add(task, line, cell)?;
        }
        Ok(())
    }

    fn parquet(&mut self, task: &Task) -> Result<(), TaskError> {
        let path = self.path.clone();
        let hubs = task.source.as_ref().and_then(|s| s.columns.as_ref());
        let mut wanted = vec!["text", "text2", "label"];
        if let Some(hubs) = hubs {
            wanted.extend([&hubs.text, &hubs.label].map(String::as_str));
            wanted.extend(hubs.text2.as_deref());
        }
        parquet::rows(&path, &wanted, |row, cells| {
            self.add(task, row, cells).map_err(|e| match e {
                TaskError::Row { path, line, why } => {
                    TaskError::Rows { path, why: format!("row {line}: {why}") }
                }
                e => e,
            })
        })
    }

    /// Adds a row; `cell` gives a column's text, `Some(None)` where the column holds no text.
    fn add(
        &mut self,
        task: &Task,
        line: usize,
        cell: impl Fn(&str) -> Option<Option<String>>,
    ) -> Result<(), TaskError> {
        let bad = |why: String| TaskError::row(&self.path, line, why);
        let ours = Columns { text: "text".into(), text2: Some("text2".into()), label: "label".into() };
        let hubs = task.source.as_ref().and_then(|s| s.columns.as_ref());
        // Files of this project's own shape come first; the hub's columns are the other spelling.
        let columns = match hubs {
            Some(hubs) if cell(&ours.text).is_none() => hubs,
            _ => &ours,
        };
        let get = |column: &str| match cell(column) {
            Some(Some(text)) => Ok(text),
            Some(None) => Err(bad(format!("column {column} holds no text"))),
            None => Err(bad(format!("there is no column {column}"))),
        };
        let (text, label) = (get(&columns.text)?, get(&columns.label)?);
        let text2 = if task.format.wants_text2() {
            let column = columns.text2.as_deref().unwrap_or("text2");
            Some(get(column)?)
        } else {
            None
        };
        let named = task.source.as_ref().and_then(|s| s.values.get(&label)).unwrap_or(&label);
        if task.skip.contains(named) {
            self.skipped += 1;
            return Ok(());
        }
        let Some(class) = task.class(named) else {
            let known: Vec<&str> = task.classes.iter().map(|c| c.name.as_str()).collect();
            return Err(bad(format!("{label:?} is no class of task {} ({})", task.key, known.join(", "))));
        };
        if text.trim().is_empty() || text2.as_ref().is_some_and(|t| t.trim().is_empty()) {
            return Err(bad("the text is empty".to_owned()));
        }
        self.by_class[class].push(self.examples.len());
        self.examples.push(Example { text, text2, class });
        Ok(())
    }
}
