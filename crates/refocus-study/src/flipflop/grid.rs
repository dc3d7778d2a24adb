//! The rows of a study as data: which configurations are trained, with how many seeds, for which claims.

use std::collections::BTreeSet;
use std::path::Path;

use refocus_train::flipflop::Mode;
use refocus_train::{Preset, RunConfig, TrainError};
use serde::Deserialize;

use super::error::{FlipflopError, Result};
use super::sets::Role;
use super::verdict::Claim;

/// The rows that the project ships, and how errors call the file.
const SHIPPED: (&str, &str) =
    ("studies/flipflop-cpu.toml", include_str!("../../../../studies/flipflop-cpu.toml"));
/// Rows of a file, seeds of a row.
const MOST_ROWS: usize = 10_000;
const MOST_SEEDS: u64 = 10_000;

/// A list of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Name of the study.
    pub name: String,
    /// Raised with every change.
    pub version: u32,
    /// Names of the sets that finished runs are tested on.
    pub sets: Vec<String>,
    /// Strings of each set; none: as many as the set has.
    pub strings: Option<u32>,
    /// In the order of the file.
    pub rows: Vec<Row>,
}

/// One training configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name, unique.
    pub name: String,
    /// Group of mitigations.
    pub group: String,
    /// In words.
    pub title: String,
    /// As on the command line: `field=value`.
    pub set: Vec<String>,
    /// Seeds 0 to this, exclusive.
    pub seeds: u64,
    /// The claims it serves.
    pub claims: Vec<Claim>,
    /// With seed 0.
    pub config: RunConfig,
}

/// A row with one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Row.
    pub row: Row,
    /// Seed of first parameters and strings.
    pub seed: u64,
}

impl Job {
    /// `ROW-seedN`.
    pub fn name(&self) -> String {
        format!("{}-seed{}", self.row.name, self.seed)
    }

    /// What is trained.
    pub fn config(&self) -> RunConfig {
        RunConfig { seed: self.seed, data_seed: self.seed, ..self.row.config.clone() }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PresetName {
    Cpu,
    Lstm,
    Paper,
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Cpu => Preset::Cpu,
            PresetName::Lstm => Preset::Lstm,
            PresetName::Paper => Preset::Paper,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Short,
    Full,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRow {
    name: String,
    group: String,
    title: String,
    grid: Option<Part>,
    preset: Option<PresetName>,
    #[serde(default)]
    set: Vec<String>,
    seeds: u64,
    #[serde(default)]
    claims: Vec<Claim>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sweep {
    group: String,
    seeds: u64,
    #[serde(default)]
    set: Vec<String>,
    axes: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    version: u32,
    preset: PresetName,
    /// Changes of every row without a preset of its own.
    #[serde(default)]
    base: Vec<String>,
    sets: Vec<String>,
    strings: Option<u32>,
    #[serde(default)]
    row: Vec<FileRow>,
    #[serde(default)]
    sweep: Vec<Sweep>,
}

impl Grid {
    /// One stated setting of each group but MLP dropout, AdamW and larger registers, which have none.
    ///
    /// # Errors
    /// None for the file that is shipped.
    pub fn short() -> Result<Self> {
        Self::parse(SHIPPED.0, SHIPPED.1, Part::Short)
    }

    /// Every row and every value of every sweep.
    ///
    /// # Errors
    /// As [`Grid::short`].
    pub fn full() -> Result<Self> {
        Self::parse(SHIPPED.0, SHIPPED.1, Part::Full)
    }

    /// All rows of a file.
    ///
    /// # Errors
    /// It cannot be read, or a row of it cannot be run; names the row.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| FlipflopError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text, Part::Full)
    }

    fn parse(origin: &str, text: &str, part: Part) -> Result<Self> {
        let bad = |why: String| FlipflopError::Grid { origin: origin.to_owned(), why };
        let file: File = toml::from_str(text).map_err(|e| bad(e.to_string().trim().to_owned()))?;
        if file.strings == Some(0) {
            return Err(bad("strings = 0: nothing would be tested".to_owned()));
        }
        let mut rows: Vec<Row> = Vec::new();
        let mut names = BTreeSet::new();
        let listed = file.row.len();
        let sweeps = if part == Part::Full { file.sweep } else { Vec::new() };
        let mut all = Vec::new();
        for row in file.row {
            if part == Part::Full || row.grid == Some(Part::Short) {
                all.push(row);
            }
        }
        for sweep in sweeps {
            let combinations = sweep.axes.iter().fold(1usize, |n, a| n.saturating_mul(a.len()));
            if combinations == 0 || all.len().saturating_add(combinations) > MOST_ROWS {
                let group = &sweep.group;
                return Err(bad(format!("sweep of {group}: {combinations} combinations; 1 to {MOST_ROWS}")));
            }
            all.extend((0..combinations).map(|i| sweep.row(i)));
        }
        for (i, row) in all.into_iter().enumerate() {
            let swept = i >= listed && part == Part::Full;
            let row = resolve(origin, row, file.preset, &file.base)?;
            if swept && rows.iter().any(|r| r.config == row.config) {
                continue;
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if row.name.is_empty() || !row.name.chars().all(plain) || row.name.starts_with('.') {
                return Err(bad(format!(
                    "row {:?}: a name is made of letters, digits, '-', '_', '.'",
                    row.name
                )));
            }
            if !(1..=MOST_SEEDS).contains(&row.seeds) {
                return Err(bad(format!("row {}: seeds = {}: from 1 to {MOST_SEEDS}", row.name, row.seeds)));
            }
            if !names.insert(row.name.clone()) {
                return Err(bad(format!("row {} is there twice", row.name)));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(bad("it has no rows".to_owned()));
        }
        for name in &file.sets {
            if !Role::USUAL.iter().any(|r| r.name() == name) {
                let known = Role::USUAL.map(Role::name).join(", ");
                return Err(bad(format!("sets: '{name}' is none of {known}")));
            }
        }
        Ok(Self { name: file.name, version: file.version, sets: file.sets, strings: file.strings, rows })
    }

    /// Keeps the rows of these names, in the order of the file; all where none is named.
    ///
    /// # Errors
    /// There is no such row.
    pub fn keep(&mut self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        if let Some(name) = names.iter().find(|n| !self.rows.iter().any(|r| r.name == **n)) {
            let known: Vec<&str> = self.rows.iter().map(|r| r.name.as_str()).collect();
            let (name, known) = (name.clone(), format!("the rows are {}", known.join(", ")));
            return Err(FlipflopError::Grid { origin: format!("row '{name}'"), why: known });
        }
        self.rows.retain(|r| names.contains(&r.name));
        Ok(())
    }

    /// Every row with each of its seeds; `seeds` overrides the rows' own. The first seeds of all rows come
    /// first, so that a study that is stopped has something of every row.
    pub fn jobs(&self, seeds: Option<&[u64]>) -> Vec<Job> {
        let mut out = Vec::new();
        for (place, row) in self.rows.iter().enumerate() {
            let own: Vec<u64> = match seeds {
                Some(seeds) => seeds.to_vec(),
                None => (0..row.seeds).collect(),
            };
            out.extend(
                own.into_iter().enumerate().map(|(i, seed)| (i, place, Job { row: row.clone(), seed })),
            );
        }
        out.sort_by_key(|&(i, place, _)| (i, place));
        out.into_iter().map(|(_, _, job)| job).collect()
    }
}

impl Sweep {
    /// Combination number `i`, the last axis fastest.
    fn row(&self, mut i: usize) -> FileRow {
        let mut chosen = Vec::new();
        for axis in self.axes.iter().rev() {
            chosen.push(axis[i % axis.len()].as_str());
            i /= axis.len();
        }
        chosen.reverse();
        let changes: Vec<&str> = chosen.iter().flat_map(|c| c.split_whitespace()).collect();
        // The name is made of the first value of each axis.
        fn value(change: &str) -> Option<&str> {
            change.split_whitespace().next()?.split_once('=').map(|c| c.1)
        }
        let mut name = self.group.to_lowercase().replace(' ', "-");
        for v in chosen.iter().filter_map(|c| value(c)) {
            name.push('-');
            name.push_str(v);
        }
        FileRow {
            name,
            group: self.group.clone(),
            title: changes.join(", "),
            grid: None,
            preset: None,
            set: self.set.iter().cloned().chain(changes.iter().map(|c| (*c).to_owned())).collect(),
            seeds: self.seeds,
            claims: Vec::new(),
        }
    }
}

fn resolve(origin: &str, row: FileRow, preset: PresetName, base: &[String]) -> Result<Row> {
    let failed = |change: &str, source: TrainError| FlipflopError::Row {
        origin: origin.to_owned(),
        row: row.name.clone(),
        change: change.to_owned(),
        source: Box::new(source),
    };
    let mut config = Preset::from(row.preset.unwrap_or(preset)).config()?;
    let base = if row.preset.is_some() { &[] } else { base };
    for change in base.iter().chain(&row.set) {
        let Some((field, value)) = change.split_once('=') else {
            let why = format!("row {}: {change}: a field and its value, joined by '='", row.name);
            return Err(FlipflopError::Grid { origin: origin.to_owned(), why });
        };
        config = config.with(field.trim(), value.trim()).map_err(|e| failed(change, e))?;
    }
    config.check().map_err(|e| failed("its configuration", e))?;
    if !matches!(config.task.mode, Mode::Clean | Mode::Generative) {
        let why = format!("row {}: only runs on flip-flop strings have reads to be tested at", row.name);
        return Err(FlipflopError::Grid { origin: origin.to_owned(), why });
    }
    let FileRow { name, group, title, set, seeds, claims, .. } = row;
    Ok(Row { name, group, title, set, seeds, claims, config })
}

#[cfg(test)]
mod tests {
    use super::super::job::job_sets;
    use super::*;

    #[test]
    fn the_short_grid_is_what_the_study_promises() {
        let grid = Grid::short().expect("rows");
        assert!(grid.rows.len() <= 14, "{}", grid.rows.len());
        let five: Vec<&str> = grid.rows.iter().filter(|r| r.seeds == 5).map(|r| r.name.as_str()).collect();
        assert_eq!(five, ["baseline", "lstm", "mixture", "embedding-dropout", "sharpen"]);
        assert!(grid.rows.iter().all(|r| r.seeds == 5 || r.seeds == 2));
        let lstm = grid.rows.iter().find(|r| r.name == "lstm").expect("a row");
        assert_eq!((lstm.config.task.tokens, lstm.config.optimizer.steps), (512, 500));
        let jobs = grid.jobs(None);
        assert_eq!((jobs[0].name(), jobs.len()), ("baseline-seed0".to_owned(), 5 * 5 + 2 * 9));
        assert!(jobs[..14].iter().all(|j| j.seed == 0));
        let job = jobs.last().expect("a job");
        assert_eq!((job.config().seed, job.config().data_seed), (4, 4));
    }

    #[test]
    fn the_full_grid_has_every_configuration_once() {
        let grid = Grid::full().expect("rows");
        for (i, r) in grid.rows.iter().enumerate() {
            r.config.check().expect("a configuration");
            assert!(!grid.rows[..i].iter().any(|o| o.config == r.config), "{} is there twice", r.name);
        }
        let groups: BTreeSet<&str> = grid.rows.iter().map(|r| r.group.as_str()).collect();
        assert!(groups.len() >= 13, "{groups:?}");
        assert!(grid.rows.iter().any(|r| r.name == "depth-and-width-8-1024-16"));
        assert!(grid.rows.iter().any(|r| r.name == "mlp-dropout-0.4"));
        // 4 to 256 symbols, and 2*2, each tested on strings of its own symbols and on every set.
        let larger: Vec<&Row> = grid.rows.iter().filter(|r| r.group == "larger registers").collect();
        assert_eq!(larger.len(), 8);
        for row in larger {
            let job = Job { row: row.clone(), seed: 0 };
            let sets = job_sets(&grid, &job).expect("sets");
            assert_eq!(sets.iter().map(|s| s.role).collect::<Vec<_>>(), Role::USUAL);
            let of = row.config.task.alphabet().expect("an alphabet");
            assert!(of.values() >= 4 && sets.iter().all(|s| *s.language.alphabet() == of), "{}", row.name);
        }
    }

    #[test]
    fn bad_rows_are_named() {
        let file = |rest: &str| {
            let text = format!("name = \"x\"\nversion = 1\npreset = \"cpu\"\nsets = [\"in\"]\n{rest}");
            Grid::parse("x.toml", &text, Part::Full).err().map(|e| e.to_string()).unwrap_or_default()
        };
        let row = |rest: &str| {
            file(&format!("[[row]]\nname = \"a\"\ngroup = \"g\"\ntitle = \"t\"\nseeds = 1\n{rest}"))
        };
        assert_eq!(row(""), "");
        assert_eq!(row("set = [\"optimizer.rate=1\"]"), "x.toml: row a: optimizer.rate=1 cannot be used");
        assert_eq!(row("set = [\"dropout.mlp=2\"]"), "x.toml: row a: its configuration cannot be used");
        assert!(row("set = [\"model\"]").contains("joined by '='"));
        let automaton = row("set = [\"task.mode=automaton\"]");
        assert_eq!(automaton, "x.toml: row a: only runs on flip-flop strings have reads to be tested at");
        assert!(row("sead = 1").contains("sead"));
        assert!(file("").contains("no rows"));
        assert!(file("[[sweep]]\ngroup = \"g\"\nseeds = 1\naxes = [[]]").contains("0 combinations"));
        let mut grid = Grid::short().expect("rows");
        let e = grid.keep(&["basline".to_owned()]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(e.starts_with("row 'basline': the rows are baseline, learned"), "{e}");
        grid.keep(&["lstm".to_owned(), "baseline".to_owned()]).expect("rows");
        assert_eq!(grid.rows.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["baseline", "lstm"]);
    }
}
