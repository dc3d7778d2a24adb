//! The small models of the automaton task that the figures look into: what they are, and their training.

use std::path::{Path, PathBuf};

use refocus_compute::{Eager, Kernels};
use refocus_model::{Model, Params, RunError, SeqTensors, Site, capture};
use refocus_results::atomic::write_whole;
use refocus_train::{
    Anneal, Architecture, ModelConfig, Norms, Penalty, PositionKind, Preset, Run, RunConfig, Sharpen,
    TrainError, Watch, checkpoint_path, load,
};
use serde::{Deserialize, Serialize};

/// Weight of the entropy penalty: the paper's mechanistic appendix names it.
const LAMBDA: f64 = 0.01;
/// Share of a run after which late sharpening begins.
const LATE: f64 = 0.3;
/// Snapshots of a run whose heads are followed.
const SNAPSHOTS: u32 = 10;
/// The inputs of the paper's figure of a first-layer head: 1, nothing, 0, nothing, nothing, 0, 1, nothing.
pub const PROBE: [u32; 8] = [1, 2, 0, 2, 2, 0, 1, 2];

/// When a model was sharpened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharpened {
    /// Never.
    No,
    /// From the first step on.
    Always,
    /// From some step on.
    Late,
}

impl Sharpened {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::No, Self::Always, Self::Late];

    /// In names of folders and series.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "plain",
            Self::Always => "sharpened",
            Self::Late => "sharpened-late",
        }
    }
}

/// A model of the figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Automata {
    /// Its folder.
    pub name: String,
    /// How it is trained.
    pub config: RunConfig,
}

/// The task with its usual model: one layer, one head, width 64, 128 inputs.
fn base(noop: f64, seed: u64, steps: u32) -> Result<RunConfig, Box<TrainError>> {
    let mut c = Preset::Automaton.config()?;
    (c.seed, c.data_seed) = (seed, seed);
    c.task.ignore = vec![noop];
    c.optimizer.steps = steps;
    c.optimizer.warmup = c.optimizer.warmup.min(steps / 10);
    c.watch = Watch { every: 0, save_every: (steps / SNAPSHOTS).max(1), sets: Vec::new() };
    Ok(c)
}

/// One head, sharpened or not.
///
/// # Errors
/// None for probabilities.
pub fn single(sharpened: Sharpened, noop: f64, seed: u64, steps: u32) -> Result<Automata, Box<TrainError>> {
    let mut config = base(noop, seed, steps)?;
    let start = match sharpened {
        Sharpened::No => None,
        Sharpened::Always => Some(0),
        Sharpened::Late => Some((f64::from(steps) * LATE) as u32),
    };
    let penalty = |start| Sharpen { by: Penalty::Entropy, lambda: LAMBDA, anneal: Anneal::Constant, start };
    config.sharpen = start.map(penalty);
    Ok(Automata { name: format!("{}-noop{noop}-seed{seed}", sharpened.name()), config })
}

/// One head with linear positions and no norms, trained at length 500, reading the 834 inputs of the drift
/// test.
///
/// # Errors
/// None.
pub fn drifting(seed: u64, steps: u32) -> Result<Automata, Box<TrainError>> {
    let mut config = base(0.5, seed, steps)?;
    config.task.tokens = 500;
    config.task.batch = 8;
    config.model = ModelConfig::Transformer(Architecture {
        positions: PositionKind::Linear,
        norm: Norms::None,
        n_ctx: Some(834),
        unembed_bias: Some(false),
        ..Architecture::paper(1, 64, 1)
    });
    Ok(Automata { name: format!("linear-seed{seed}"), config })
}

/// Six layers of eight heads, sharpened.
///
/// # Errors
/// None.
pub fn deep(seed: u64, steps: u32) -> Result<Automata, Box<TrainError>> {
    let mut config = base(0.5, seed, steps)?;
    config.task.tokens = 64;
    config.task.batch = 16;
    let architecture = Architecture { unembed_bias: Some(false), ..Architecture::paper(6, 64, 8) };
    config.model = ModelConfig::Transformer(architecture);
    config.sharpen =
        Some(Sharpen { by: Penalty::Entropy, lambda: LAMBDA, anneal: Anneal::Constant, start: 0 });
    Ok(Automata { name: format!("deep-seed{seed}"), config })
}

/// Distances between heads at one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Steps taken.
    pub step: u32,
    /// `[layers][pairs]`: ℓ2 distance of the attention maps of two heads on [`PROBE`], pairs in order.
    pub distances: Vec<Vec<f64>>,
}

/// Attention maps `[heads, n, n]` of each layer on some inputs.
///
/// # Errors
/// As [`capture`].
pub(super) fn maps<K: Kernels>(o: &mut Eager<K>, m: &Model<K>, ids: &[u32]) -> Result<SeqTensors, RunError> {
    let sites: Vec<Site> = (0..m.spec.n_layers).map(|l| Site::new(l, refocus_model::Kind::Pattern)).collect();
    let mut all = capture(o, m, &[ids.to_vec()], &sites, true, &[])?;
    Ok(all.pop().unwrap_or_default())
}

/// The map of one head `[n, n]`.
pub(super) fn head_map(tensors: &SeqTensors, layer: usize, head: usize) -> &[f32] {
    let Some(t) = tensors.get(&Site::new(layer, refocus_model::Kind::Pattern).to_string()) else {
        return &[];
    };
    let n = t.shape.last().copied().unwrap_or(0);
    t.data.get(head * n * n..(head + 1) * n * n).unwrap_or_default()
}

fn snapshot<K: Kernels>(o: &mut Eager<K>, m: &Model<K>, step: u32) -> Result<Snapshot, RunError> {
    let tensors = maps(o, m, &PROBE)?;
    let layer = |layer| {
        let of = |head| head_map(&tensors, layer, head);
        let pairs = (0..m.spec.n_heads).flat_map(|a| (a + 1..m.spec.n_heads).map(move |b| (a, b)));
        let distance = |(a, b)| {
            let squares = of(a).iter().zip(of(b)).map(|(x, y)| f64::from(x - y).powi(2));
            squares.sum::<f64>().sqrt()
        };
        pairs.map(distance).collect()
    };
    Ok(Snapshot { step, distances: (0..m.spec.n_layers).map(layer).collect() })
}

impl Automata {
    /// Where it stands in a folder of figures.
    pub fn dir(&self, out: &Path) -> PathBuf {
        out.join("models").join(&self.name)
    }

    /// Steps that are left.
    pub fn left(&self, out: &Path) -> u32 {
        let done = load(&checkpoint_path(&self.dir(out))).map_or(0, |s| s.step);
        self.config.optimizer.steps.saturating_sub(done)
    }

    /// Trains it to its end, from its last checkpoint on, and follows its heads if it has several. `progress`
    /// is told every step.
    ///
    /// # Errors
    /// As [`Run::open`] and [`Run::advance`]; what is kept of its heads is damaged or incomplete.
    pub fn train<K: Kernels>(
        &self,
        out: &Path,
        kernels: K,
        progress: &mut dyn FnMut(),
    ) -> Result<(), Box<TrainError>> {
        let dir = self.dir(out);
        let mut run = Run::open(&dir, self.config.clone(), kernels)?;
        let path = dir.join("snapshots.json");
        let mut snapshots = read_snapshots(&path)?;
        // What a killed sitting saw after its last checkpoint is seen again.
        let done = run.steps();
        snapshots.retain(|s| s.step <= done);
        let every = self.config.watch.save_every.max(1);
        let mut due = (every..done).step_by(every as usize);
        if let Some(step) = due.find(|due| !snapshots.iter().any(|s| s.step == *due))
            && run.trainer().model().0.transformer().is_some_and(has_pairs)
        {
            return Err(damaged(&path, &format!("there is no snapshot of step {step}")));
        }
        // A sitting that ended between a checkpoint and its snapshot left that one out.
        if done > 0 && snapshots.last().is_none_or(|s| s.step < done) {
            follow(&mut run, &path, &mut snapshots)?;
        }
        while let Some(p) = run.advance()? {
            if p.saved {
                follow(&mut run, &path, &mut snapshots)?;
            }
            progress();
        }
        Ok(())
    }

    /// Its parameters at the last checkpoint.
    ///
    /// # Errors
    /// There is none, or a damaged one.
    pub fn params(&self, out: &Path) -> Result<Params, Box<TrainError>> {
        let path = checkpoint_path(&self.dir(out));
        let weights = load(&path)?.into_weights();
        let missing = || TrainError::Checkpoint { path, why: "it is no transformer".into() };
        Ok(weights.params().cloned().ok_or_else(missing)?)
    }

    /// Distances between its heads while it was trained.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn snapshots(&self, out: &Path) -> Result<Vec<Snapshot>, Box<TrainError>> {
        read_snapshots(&self.dir(out).join("snapshots.json"))
    }
}

/// Whether a model has heads to be compared.
fn has_pairs<K: Kernels>(m: &Model<K>) -> bool {
    m.spec.n_heads > 1
}

/// Adds how far the heads of a run are from each other now, and keeps all of it.
fn follow<K: Kernels>(
    run: &mut Run<K>,
    path: &Path,
    snapshots: &mut Vec<Snapshot>,
) -> Result<(), Box<TrainError>> {
    let step = run.steps();
    let (net, o) = run.trainer().model();
    let Some(m) = net.transformer().filter(|m| has_pairs(m)) else { return Ok(()) };
    snapshots.push(snapshot(o, m, step).map_err(|source| TrainError::Run { step, source })?);
    let failed = |source| Box::new(TrainError::Write { path: path.to_owned(), step, source });
    let text = serde_json::to_vec(snapshots).map_err(|e| failed(e.into()))?;
    write_whole(path, &text).map_err(failed)
}

fn damaged(path: &Path, what: &str) -> Box<TrainError> {
    let why = format!("{what}; remove the model's folder, and it is trained again");
    Box::new(TrainError::Checkpoint { path: path.to_owned(), why })
}

/// Those that are there; none before the first.
fn read_snapshots(path: &Path) -> Result<Vec<Snapshot>, Box<TrainError>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| damaged(path, &format!("no snapshots: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Box::new(TrainError::Read { path: path.to_owned(), source })),
    }
}

#[cfg(test)]
mod tests {
    use refocus_compute::{Cpu, Isa};

    use super::*;

    #[test]
    fn no_snapshot_is_lost() {
        let mut a = deep(0, 4).expect("a model");
        a.config.model = ModelConfig::Transformer(Architecture::paper(1, 16, 2));
        (a.config.task.tokens, a.config.task.batch) = (8, 2);
        let out = std::env::temp_dir().join(format!("refocus-snapshots-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&out);
        let train = || a.train(&out, Cpu::new(Isa::detect(), 1), &mut || ()).map_err(|e| e.to_string());
        train().expect("trained");
        let path = a.dir(&out).join("snapshots.json");
        let whole = std::fs::read(&path).expect("snapshots");
        let all = a.snapshots(&out).expect("snapshots");
        assert_eq!(all.iter().map(|s| s.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let keep = |some: &[Snapshot]| {
            std::fs::write(&path, serde_json::to_vec(some).expect("text")).expect("write");
        };
        // Stopped after a checkpoint and before its snapshot.
        keep(&all[..3]);
        train().expect("done");
        assert!(std::fs::read(&path).expect("snapshots") == whole, "the last one is seen again");
        // Whatever cannot be had again is told, and not left out.
        keep(&[all[0].clone(), all[2].clone(), all[3].clone()]);
        let e = train().expect_err("a gap");
        assert!(e.contains("snapshots.json: there is no snapshot of step 2; remove"), "{e}");
        std::fs::write(&path, &whole[..whole.len() / 2]).expect("write");
        for e in [train(), a.snapshots(&out).map(|_| ()).map_err(|e| e.to_string())] {
            let e = e.expect_err("a damaged file");
            assert!(e.contains("snapshots.json: no snapshots: "), "{e}");
        }
        std::fs::remove_dir_all(out).expect("remove");
    }
}
