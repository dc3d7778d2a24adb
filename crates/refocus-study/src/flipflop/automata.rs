//! The small models of the automaton task that the figures look into: what they are, and their training.

use std::path::{Path, PathBuf};

use refocus_compute::{Eager, Kernels};
use refocus_model::{Model, Params, RunError, SeqTensors, Site, capture};
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
    /// As [`Run::open`] and [`Run::advance`].
    pub fn train<K: Kernels>(
        &self,
        out: &Path,
        kernels: K,
        progress: &mut dyn FnMut(),
    ) -> Result<(), Box<TrainError>> {
        let dir = self.dir(out);
        let mut run = Run::open(&dir, self.config.clone(), kernels)?;
        let path = dir.join("snapshots.json");
        let mut snapshots = read_snapshots(&path);
        // What a killed sitting saw after its last checkpoint is seen again.
        snapshots.retain(|s| s.step <= run.steps());
        while let Some(p) = run.advance()? {
            if p.saved {
                let step = p.report.step;
                let (net, o) = run.trainer().model();
                if let Some(m) = net.transformer().filter(|m| m.spec.n_heads > 1) {
                    let one = snapshot(o, m, step).map_err(|source| TrainError::Run { step, source })?;
                    snapshots.push(one);
                    let text = serde_json::to_vec(&snapshots).unwrap_or_default();
                    std::fs::write(&path, text).map_err(|source| TrainError::Write {
                        path: path.clone(),
                        step,
                        source,
                    })?;
                }
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
    pub fn snapshots(&self, out: &Path) -> Vec<Snapshot> {
        read_snapshots(&self.dir(out).join("snapshots.json"))
    }
}

fn read_snapshots(path: &Path) -> Vec<Snapshot> {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
