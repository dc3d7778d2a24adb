//! A run in a folder: it begins where the last checkpoint left it, and writes configuration, curve,
//! checkpoints and, at the end, the model.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use refocus_compute::Kernels;
use refocus_model::export::{Beside, Export, Precision};
use refocus_results::Lock;
use refocus_results::atomic::write_whole;
use refocus_tasks::flipflop::Split;
use refocus_tasks::world::END;
use sha2::{Digest, Sha256};

use crate::config::RunConfig;
use crate::error::{Result, TrainError};
use crate::flipflop;
use crate::saved::{checkpoint_path, load, save};
use crate::task::{Documents, Language};
use crate::trainer::{Report, Score, Trainer};

/// One step of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The step.
    pub report: Report,
    /// Counts on the test sets, in their order, where they were due.
    pub scores: Option<Vec<Score>>,
    /// Whether a checkpoint was written.
    pub saved: bool,
}

/// A run under way.
pub struct Run<K: Kernels> {
    dir: PathBuf,
    config: RunConfig,
    language: Language,
    /// Tells the texts of a world from those of another version.
    texts: Option<String>,
    tests: Vec<Language>,
    trainer: Trainer<K>,
    curve: BufWriter<File>,
    /// Step that the run began at, when it was opened.
    resumed: u32,
    last: Option<Progress>,
    /// Held while the run lives.
    _lock: Lock,
}

impl<K: Kernels> Run<K> {
    /// Begins a run in a folder, or goes on with the one that is there.
    ///
    /// # Errors
    /// The configuration cannot be run, the folder cannot be written to or is in use, or it holds a run of
    /// another configuration or a damaged checkpoint.
    pub fn open(dir: &Path, config: RunConfig, kernels: K) -> Result<Self> {
        config.check()?;
        let write = |path: &Path, source| TrainError::Write { path: path.to_owned(), step: 0, source };
        fs::create_dir_all(dir).map_err(|e| write(dir, e))?;
        let lock = Lock::take(dir)?;
        let settings = dir.join("config.toml");
        if let Ok(text) = fs::read_to_string(&settings) {
            let there = RunConfig::parse(&text)
                .map_err(|e| TrainError::Checkpoint { path: settings.clone(), why: e.to_string() })?;
            refuse_other(&settings, &config, &there)?;
        }
        let language = config.task.language()?;
        let texts = if let Language::World(d) = &language { Some(d.hash()) } else { None };
        let mut trainer = Trainer::new(config.init()?, config.trainer(), kernels)?;
        let path = checkpoint_path(dir);
        if path.exists() {
            let saved = load(&path)?;
            refuse_other(&path, &config, &saved.config)?;
            if saved.texts != texts {
                let why =
                    "it was begun by a version of refocus whose world has other texts; give another folder";
                return Err(TrainError::Checkpoint { path, why: why.to_owned() });
            }
            let [values, first, second] = saved.values;
            trainer.resume(saved.step, values, first.into_iter().zip(second).collect())?;
        }
        let text = config.to_toml()?;
        write_whole(&settings, text.as_bytes()).map_err(|e| write(&settings, e))?;
        let step = trainer.steps();
        let (curve, last) = open_curve(&dir.join("curve.csv"), &config, step)?;
        let test = |s: &crate::config::TestSet| config.task.test_language(s.ignore);
        let tests = config.watch.sets.iter().map(test).collect::<Result<_, _>>()?;
        let dir = dir.to_owned();
        Ok(Self { dir, config, language, texts, tests, trainer, curve, resumed: step, last, _lock: lock })
    }

    /// The configuration.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Steps taken by this and earlier sittings.
    pub fn steps(&self) -> u32 {
        self.trainer.steps()
    }

    /// Steps that earlier sittings took.
    pub fn resumed(&self) -> u32 {
        self.resumed
    }

    /// The last step, of this or an earlier sitting.
    pub fn last(&self) -> Option<&Progress> {
        self.last.as_ref()
    }

    /// How many numbers are learned.
    pub fn parameters(&self) -> usize {
        self.trainer.weights().count()
    }

    /// The trainer.
    pub fn trainer(&mut self) -> &mut Trainer<K> {
        &mut self.trainer
    }

    /// The next step, with tests and a checkpoint where they are due; none is left after the last.
    ///
    /// # Errors
    /// As [`Trainer::step`], or what cannot be written. The last checkpoint stays as it is.
    pub fn advance(&mut self) -> Result<Option<Progress>> {
        let (task, watch) = (&self.config.task, &self.config.watch);
        let steps = self.config.optimizer.steps;
        let step = self.trainer.steps();
        if step >= steps {
            return Ok(None);
        }
        let examples = flipflop::batch(&self.language, task.mode, self.config.data_seed, step, task.batch);
        let report = self.trainer.step(&examples)?;
        let due = |every: u32| report.step == steps || (every > 0 && report.step.is_multiple_of(every));
        let scores = if due(watch.every) { Some(self.test()?) } else { None };
        let mut row = format!("{},{},{}", report.step, report.loss, report.lr);
        for i in 0..self.tests.len() {
            match &scores {
                Some(s) => {
                    let _ = write!(row, ",{},{}", s[i].asked - s[i].right, s[i].asked);
                }
                None => row.push_str(",,"),
            }
        }
        row.push('\n');
        let saved = due(self.config.watch.save_every);
        let curve = self.dir.join("curve.csv");
        let fail = |source| TrainError::Write { path: curve.clone(), step: report.step, source };
        self.curve.write_all(row.as_bytes()).map_err(fail)?;
        if saved {
            // First the curve, so that it is never behind the checkpoint.
            self.curve.flush().and_then(|()| self.curve.get_ref().sync_all()).map_err(fail)?;
            save(&checkpoint_path(&self.dir), &self.trainer, &self.config, self.texts.as_deref())?;
        }
        let progress = Progress { report, scores, saved };
        self.last = Some(progress.clone());
        Ok(Some(progress))
    }

    /// Saves the model as it is, in the folder `model` of the run, where every command reads it. An LSTM is
    /// no model that commands know: its parameters are in the checkpoint.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn save_model(&self) -> Result<Option<PathBuf>> {
        let Some(params) = self.trainer.weights().params() else { return Ok(None) };
        let path = self.dir.join("model");
        let mut spec = params.spec().clone();
        let documents = if let Language::World(d) = &self.language { Some(d) } else { None };
        if documents.is_some() {
            spec.eos = vec![END];
        }
        let mut export = Export::new(&spec, params)?;
        if let Some(d) = documents {
            // It is meant to be handed on: small, and with its tokenizer.
            export.precision(Precision::F16).beside(d.tokenizer_files(spec.n_ctx)?);
        }
        // What stands there is an earlier state of the same run.
        export.write(&path, true, &mut |_, _| {})?;
        Ok(Some(path))
    }

    /// Counts on the test sets.
    fn test(&mut self) -> Result<Vec<Score>> {
        let (step, seed) = (self.trainer.steps(), self.config.data_seed);
        let (net, o) = self.trainer.model();
        let one = |(language, set): (&Language, &crate::config::TestSet)| {
            flipflop::test(o, net, language, seed, set.sequences as usize)
                .map_err(|source| TrainError::Run { step, source })
        };
        self.tests.iter().zip(&self.config.watch.sets).map(one).collect()
    }
}

impl Documents {
    /// Tells this world from that of another version: tokens and the first documents.
    fn hash(&self) -> String {
        let mut sum = Sha256::new();
        sum.update(self.vocabulary.tokenizer().to_string());
        for i in 0..1000 {
            sum.update(self.world.document(0, Split::Test, 0, i));
            sum.update([0]);
        }
        sum.finalize().iter().fold("sha256:".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    /// The files of the world's tokenizer, for texts of at most `tokens`.
    fn tokenizer_files(&self, tokens: usize) -> Result<Vec<Beside>> {
        let file = |name: &str, value: &serde_json::Value| {
            let bytes = serde_json::to_vec_pretty(value).map_err(|e| TrainError::Write {
                path: name.into(),
                step: 0,
                source: e.into(),
            })?;
            Ok::<_, TrainError>(Beside { name: name.to_owned(), bytes })
        };
        let v = &self.vocabulary;
        Ok(vec![file("tokenizer.json", &v.tokenizer())?, file("tokenizer_config.json", &v.settings(tokens))?])
    }
}

fn refuse_other(path: &Path, here: &RunConfig, there: &RunConfig) -> Result<()> {
    match here.difference(there)? {
        None => Ok(()),
        Some((field, there, here)) => Err(TrainError::Other { path: path.to_owned(), field, there, here }),
    }
}

/// A row of the curve as [`Run::advance`] writes it.
fn read_row(row: &str) -> Option<Progress> {
    let mut parts = row.split(',');
    let (step, loss, lr) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let counts: Vec<&str> = parts.collect();
    let score = |pair: &[&str]| {
        let (errors, asked): (usize, usize) = (pair.first()?.parse().ok()?, pair.get(1)?.parse().ok()?);
        Some(Score { right: asked.checked_sub(errors)?, asked })
    };
    let scores = counts.chunks(2).map(score).collect();
    Some(Progress { report: Report { step, loss, lr }, scores, saved: true })
}

/// The curve with its rows up to a step, and the last of them; what a killed sitting wrote after its last
/// checkpoint is dropped.
fn open_curve(path: &Path, config: &RunConfig, step: u32) -> Result<(BufWriter<File>, Option<Progress>)> {
    let mut text = "step,loss,lr".to_owned();
    for s in &config.watch.sets {
        let _ = write!(text, ",{0}_errors,{0}_reads", s.name);
    }
    text.push('\n');
    let mut last = None;
    if step > 0
        && let Ok(old) = fs::read_to_string(path)
    {
        for row in old.lines().skip(1) {
            let Some(progress) = read_row(row).filter(|p| p.report.step <= step) else { continue };
            last = Some(progress);
            text.push_str(row);
            text.push('\n');
        }
    }
    let fail = |source| TrainError::Write { path: path.to_owned(), step, source };
    write_whole(path, text.as_bytes()).map_err(fail)?;
    let file = OpenOptions::new().append(true).open(path).map_err(fail)?;
    Ok((BufWriter::new(file), last))
}
