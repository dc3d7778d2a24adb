//! The folder of a run: `run.json` and `tables/*.parquet`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::atomic::write_whole;
use crate::error::ResultsError;
use crate::lock::Lock;
use crate::parquet_file;
use crate::record::Record;
use crate::table::Table;

/// Of `run.json`.
const SCHEMA: &str = "refocus.run/1";

/// Which model a run looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// As people call it: a file or folder name, or a hub id.
    pub name: String,
    /// Fingerprint of configuration and weights.
    pub fingerprint: String,
}

/// Everything that a run's numbers depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Which study, with its version: `overthinking/1`.
    pub study: String,
    /// Program and version.
    pub program: String,
    /// The model; missing where many were trained.
    pub model: Option<ModelInfo>,
    /// Hash of the tokenizer, where text was read.
    pub tokenizer: Option<String>,
    /// Version of each task.
    pub tasks: BTreeMap<String, u32>,
    /// Seed of everything random.
    pub seed: u64,
    /// Precision of the arithmetic, such as `f32`.
    pub precision: String,
    /// Instruction set it ran on; results do not depend on it.
    pub instruction_set: String,
    /// All settings, with defaults filled in.
    pub configuration: Map<String, Value>,
}

impl RunInfo {
    /// `sha256:…` of the configuration: equal runs have equal hashes.
    pub fn hash(&self) -> String {
        // A map of plain values can always be written.
        checksum(serde_json::to_string(&self.configuration).unwrap_or_default().as_bytes())
    }
}

/// A table that `run.json` lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// Its name; the file is `tables/NAME.parquet`.
    pub name: String,
    /// Version of its schema.
    pub version: u32,
    /// Number of rows.
    pub rows: u64,
    /// `sha256:…` of the file.
    pub checksum: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    schema: String,
    #[serde(flatten)]
    info: RunInfo,
    configuration_hash: String,
    tables: Vec<TableEntry>,
}

fn checksum(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = "sha256:".to_owned();
    for b in Sha256::digest(bytes) {
        let _ = write!(text, "{b:02x}");
    }
    text
}

fn manifest_path(dir: &Path) -> PathBuf {
    dir.join("run.json")
}

fn table_path(dir: &Path, name: &str) -> PathBuf {
    dir.join("tables").join(format!("{name}.parquet"))
}

fn plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Reads `run.json`; nothing where there is none.
fn load(dir: &Path) -> Result<Option<Manifest>, ResultsError> {
    let path = manifest_path(dir);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ResultsError::read(&path)(e)),
    };
    let bad = |why: String| ResultsError::Manifest { path: path.clone(), why };
    let value: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    match value.get("schema").and_then(Value::as_str) {
        Some(SCHEMA) => {}
        Some(other) => return Err(bad(format!("its schema is {other}, this program reads {SCHEMA}"))),
        None => return Err(bad("it names no schema".to_owned())),
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
    let mut seen = BTreeSet::new();
    for table in &manifest.tables {
        if !plain(&table.name) {
            return Err(bad(format!("{:?} is no name of a table", table.name)));
        }
        if !seen.insert(&table.name) {
            return Err(bad(format!("the table {} is listed twice", table.name)));
        }
    }
    Ok(Some(manifest))
}

/// A folder that a run writes to, locked until it is dropped.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    manifest: Manifest,
    _lock: Lock,
}

impl RunFolder {
    /// Makes the folder, or opens that of an earlier run with the same configuration, whose tables stay.
    ///
    /// # Errors
    /// Another run is writing there, the folder holds a run of another study or configuration, or it cannot
    /// be written.
    pub fn create(dir: &Path, info: RunInfo) -> Result<Self, ResultsError> {
        std::fs::create_dir_all(dir).map_err(ResultsError::written(dir))?;
        let lock = Lock::take(dir)?;
        let mut tables = Vec::new();
        if let Some(was) = load(dir)? {
            same(dir, &was.info, &info)?;
            tables = was.tables;
        }
        let configuration_hash = info.hash();
        let manifest = Manifest { schema: SCHEMA.to_owned(), info, configuration_hash, tables };
        let run = Self { dir: dir.to_owned(), manifest, _lock: lock };
        run.keep()?;
        Ok(run)
    }

    /// The same for a study that guards its own configuration, and whose later stages may be asked for with
    /// other settings than before. Nothing is written until the first table is; from then on the folder lists
    /// the tables of this run alone.
    ///
    /// # Errors
    /// As [`create`](Self::create), but a run of the same study with another configuration is no error.
    pub fn renew(dir: &Path, info: RunInfo) -> Result<Self, ResultsError> {
        std::fs::create_dir_all(dir).map_err(ResultsError::written(dir))?;
        let lock = Lock::take(dir)?;
        if let Some(was) = load(dir)? {
            same_study(dir, &was.info, &info)?;
        }
        let configuration_hash = info.hash();
        let manifest = Manifest { schema: SCHEMA.to_owned(), info, configuration_hash, tables: Vec::new() };
        Ok(Self { dir: dir.to_owned(), manifest, _lock: lock })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn keep(&self) -> Result<(), ResultsError> {
        let path = manifest_path(&self.dir);
        let text = serde_json::to_string_pretty(&self.manifest)
            .map_err(|e| ResultsError::Manifest { path: path.clone(), why: e.to_string() })?;
        write_whole(&path, format!("{text}\n").as_bytes()).map_err(ResultsError::written(&path))
    }

    /// Writes a table, in place of an earlier one of its name.
    ///
    /// # Errors
    /// Its name cannot be that of a file, or it cannot be written.
    pub fn write_table(&mut self, table: &Table) -> Result<(), ResultsError> {
        let schema = table.schema();
        if !plain(&schema.name) {
            let why = "its name has other characters than a-z, 0-9 and _".to_owned();
            return Err(ResultsError::Value { table: schema.name.clone(), why });
        }
        let bytes = parquet_file::write(table)?;
        let entry = TableEntry {
            name: schema.name.clone(),
            version: schema.version,
            rows: table.rows() as u64,
            checksum: checksum(&bytes),
        };
        let path = table_path(&self.dir, &schema.name);
        if let Some(tables) = path.parent() {
            std::fs::create_dir_all(tables).map_err(ResultsError::written(tables))?;
        }
        write_whole(&path, &bytes).map_err(ResultsError::written(&path))?;
        match self.manifest.tables.iter_mut().find(|t| t.name == entry.name) {
            Some(old) => *old = entry,
            None => self.manifest.tables.push(entry),
        }
        self.keep()
    }

    /// Writes rows as their table.
    ///
    /// # Errors
    /// As [`write_table`](Self::write_table), and for a value such as NaN.
    pub fn write<R: Record>(&mut self, rows: &[R]) -> Result<(), ResultsError> {
        self.write_table(&R::table(rows)?)
    }
}

fn differs(dir: &Path, field: &str, was: String, now: String) -> Result<(), ResultsError> {
    Err(ResultsError::Other { dir: dir.to_owned(), field: field.to_owned(), was, now })
}

fn same_study(dir: &Path, was: &RunInfo, now: &RunInfo) -> Result<(), ResultsError> {
    if was.study == now.study {
        return Ok(());
    }
    differs(dir, "study", was.study.clone(), now.study.clone())
}

/// The first field that differs is the error.
fn same(dir: &Path, was: &RunInfo, now: &RunInfo) -> Result<(), ResultsError> {
    same_study(dir, was, now)?;
    let words = |v: Option<&Value>| v.map_or_else(|| "not set".to_owned(), Value::to_string);
    let (a, b) = (&was.configuration, &now.configuration);
    match b.keys().chain(a.keys()).find(|k| a.get(*k) != b.get(*k)) {
        Some(field) => differs(dir, field, words(a.get(field)), words(b.get(field))),
        None => Ok(()),
    }
}

/// A run to read.
#[derive(Debug)]
pub struct StoredRun {
    dir: PathBuf,
    manifest: Manifest,
}

impl StoredRun {
    /// Opens the folder of a run.
    ///
    /// # Errors
    /// It holds no run, or one of another version of this program.
    pub fn open(dir: &Path) -> Result<Self, ResultsError> {
        match load(dir)? {
            Some(manifest) => Ok(Self { dir: dir.to_owned(), manifest }),
            None => Err(ResultsError::NoRun { dir: dir.to_owned() }),
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What its numbers depend on.
    pub fn info(&self) -> &RunInfo {
        &self.manifest.info
    }

    /// `sha256:…` of its configuration.
    pub fn configuration_hash(&self) -> &str {
        &self.manifest.configuration_hash
    }

    /// Its tables.
    pub fn tables(&self) -> &[TableEntry] {
        &self.manifest.tables
    }

    /// Reads a table that [`tables`](Self::tables) lists; nothing where there is none of that name.
    ///
    /// # Errors
    /// The file is not there, or not as it was when it was written.
    pub fn table(&self, name: &str) -> Result<Option<Table>, ResultsError> {
        let Some(entry) = self.manifest.tables.iter().find(|t| t.name == name) else { return Ok(None) };
        let path = table_path(&self.dir, name);
        let bytes = std::fs::read(&path).map_err(ResultsError::read(&path))?;
        if checksum(&bytes) != entry.checksum {
            let why = "its checksum is not the one in run.json; run the command again".to_owned();
            return Err(ResultsError::Damaged { path, why });
        }
        let table = parquet_file::read(&path, bytes)?;
        if table.schema().name != name || table.rows() as u64 != entry.rows {
            let why = "name or number of rows is not the one in run.json".to_owned();
            return Err(ResultsError::Damaged { path, why });
        }
        Ok(Some(table))
    }

    /// The rows of a table; nothing where the run has none of that kind.
    ///
    /// # Errors
    /// As [`table`](Self::table), or the table has another schema than this program's.
    pub fn rows<R: Record>(&self) -> Result<Option<Vec<R>>, ResultsError> {
        let want = R::schema();
        let Some(table) = self.table(&want.name)? else { return Ok(None) };
        let path = table_path(&self.dir, &want.name);
        if let Some(why) = want.difference(table.schema()) {
            return Err(ResultsError::Schema { path, why });
        }
        let rows = (0..table.rows()).map(|i| R::of(table.row(i)));
        let rows: Option<Vec<R>> = rows.collect();
        rows.map(Some).ok_or_else(|| ResultsError::Schema { path, why: "a value of another type".to_owned() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::flipflop::Row;
    use crate::table::Schema;

    /// A folder of one test, removed at the end.
    pub(crate) struct Tmp(pub(crate) PathBuf);

    impl Tmp {
        pub(crate) fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("refocus-results-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).expect("folder");
            Self(dir)
        }
    }

    impl Drop for Tmp {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn info(pairs: u32) -> RunInfo {
        let mut configuration = Map::new();
        configuration.insert("pairs".into(), pairs.into());
        RunInfo {
            study: "flipflop/1".to_owned(),
            program: "refocus 0.1.0".to_owned(),
            model: None,
            tokenizer: None,
            tasks: BTreeMap::new(),
            seed: 7,
            precision: "f32".to_owned(),
            instruction_set: "portable".to_owned(),
            configuration,
        }
    }

    fn row(errors: i64, high: f64) -> Row {
        let (row, group, set) = ("baseline".to_owned(), "base".to_owned(), "in".to_owned());
        Row { row, group, seed: 1, set, reads: 10, errors, low: 0.0, high, seconds: Some(1.5), steps: 3 }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = Tmp::new("read");
        let mut run = RunFolder::create(&dir.0, info(3)).expect("create");
        let rows = vec![row(1, 0.25), row(2, 1e-300)];
        run.write(&rows).expect("write");
        let first = std::fs::read(dir.0.join("tables/rows.parquet")).expect("bytes");
        drop(run);
        let stored = StoredRun::open(&dir.0).expect("open");
        assert_eq!(stored.rows::<Row>().expect("rows"), Some(rows.clone()));
        assert_eq!(stored.rows::<crate::flipflop::Distance>().expect("none"), None);
        assert_eq!(stored.info(), &info(3));
        // Again: the same bytes, and the list of tables stays.
        let mut run = RunFolder::create(&dir.0, info(3)).expect("again");
        run.write(&rows).expect("write");
        assert_eq!(std::fs::read(dir.0.join("tables/rows.parquet")).expect("bytes"), first);
        assert_eq!(StoredRun::open(&dir.0).expect("open").tables().len(), 1);
    }

    #[test]
    fn one_run_at_a_time_and_of_one_configuration() {
        let dir = Tmp::new("lock");
        let run = RunFolder::create(&dir.0, info(3)).expect("create");
        let busy = RunFolder::create(&dir.0, info(3)).expect_err("two at once");
        assert!(matches!(busy, ResultsError::Busy { .. }));
        drop(run);
        let other = RunFolder::create(&dir.0, info(4)).expect_err("another run").to_string();
        assert!(other.ends_with("holds another run: its pairs is 3, here it is 4"), "{other}");
        RunFolder::create(&dir.0, info(3)).expect("the lock was let go");
    }

    #[test]
    fn a_renewed_folder_lists_the_tables_of_its_own_run() {
        let dir = Tmp::new("renew");
        let mut run = RunFolder::renew(&dir.0, info(3)).expect("new");
        assert!(!dir.0.join("run.json").exists(), "nothing is written before a table");
        run.write(&[row(1, 0.25)]).expect("write");
        run.write_table(&Table::new(Schema { name: "more".to_owned(), ..Row::schema() })).expect("write");
        assert!(matches!(RunFolder::renew(&dir.0, info(3)), Err(ResultsError::Busy { .. })));
        drop(run);
        let mut run = RunFolder::renew(&dir.0, info(4)).expect("with other settings");
        assert_eq!(StoredRun::open(&dir.0).expect("open").info(), &info(3), "the earlier run until then");
        run.write(&[row(2, 0.5)]).expect("write");
        drop(run);
        let stored = StoredRun::open(&dir.0).expect("open");
        assert_eq!((stored.info(), stored.tables().len()), (&info(4), 1));
        let other = RunInfo { study: "overthinking/2".to_owned(), ..info(4) };
        assert!(matches!(RunFolder::renew(&dir.0, other), Err(ResultsError::Other { .. })));
    }

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let dir = Tmp::new("bytes");
        let mut run = RunFolder::create(&dir.0, info(3)).expect("create");
        run.write(&[row(1, 0.25)]).expect("write");
        let path = dir.0.join("tables/rows.parquet");
        let good = std::fs::read(&path).expect("bytes");
        let stored = StoredRun::open(&dir.0).expect("open");
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).expect("write");
            assert!(matches!(stored.table("rows"), Err(ResultsError::Damaged { .. })), "byte {at}");
        }
        for length in [0, 1, 8, good.len() - 1] {
            std::fs::write(&path, &good[..length]).expect("write");
            assert!(matches!(stored.table("rows"), Err(ResultsError::Damaged { .. })), "{length} bytes");
        }
        std::fs::remove_file(&path).expect("remove");
        assert!(matches!(stored.table("rows"), Err(ResultsError::Io { .. })));
    }

    #[test]
    fn a_record_that_is_none_is_refused() {
        let dir = Tmp::new("manifest");
        assert!(matches!(StoredRun::open(&dir.0), Err(ResultsError::NoRun { .. })));
        let path = dir.0.join("run.json");
        for (text, why) in [
            ("", "EOF"),
            ("[]", "names no schema"),
            (r#"{"schema": "refocus.run/9"}"#, "its schema is refocus.run/9"),
            (r#"{"schema": "refocus.run/1"}"#, "missing field"),
        ] {
            std::fs::write(&path, text).expect("write");
            let error = StoredRun::open(&dir.0).expect_err("refused").to_string();
            assert!(error.contains(why), "{error}");
        }
        std::fs::remove_file(&path).expect("remove");
        drop(RunFolder::create(&dir.0, info(3)).expect("create"));
        let text = std::fs::read_to_string(&path).expect("read");
        let entry = r#""tables": [{"name": "../x", "version": 1, "rows": 1, "checksum": ""}]"#;
        std::fs::write(&path, text.replace(r#""tables": []"#, entry)).expect("write");
        let error = StoredRun::open(&dir.0).expect_err("refused").to_string();
        assert!(error.contains("no name of a table"), "{error}");
    }

    #[test]
    fn a_table_of_another_schema_is_refused() {
        let dir = Tmp::new("schema");
        let mut run = RunFolder::create(&dir.0, info(3)).expect("create");
        let mut schema = Row::schema();
        schema.columns[4].name = "tries".to_owned();
        run.write_table(&Table::new(schema)).expect("write");
        let stored = StoredRun::open(&dir.0).expect("open");
        let error = stored.rows::<Row>().expect_err("refused").to_string();
        assert!(error.ends_with("a table of another schema: it has no column reads"), "{error}");
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let error = Row::table(&[row(1, 0.5), row(2, f64::NAN)]).expect_err("refused").to_string();
        assert_eq!(error, "table rows: row 1, column high: NaN is no number to keep");
    }
}
