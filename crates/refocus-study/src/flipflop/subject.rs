//! What is tested: a run of `train flipflop` or a model folder.

use std::path::Path;

use refocus_compute::Kernels;
use refocus_model::{Checkpoint, Model, ModelSpec, Positions};
use refocus_tasks::flipflop::VOCAB;
use refocus_train::{Net, RunConfig, checkpoint_path, load};
use sha2::{Digest, Sha256};

use super::error::{FlipflopError, Result};

/// A model under test.
pub struct Subject<K: Kernels> {
    /// Ready to run.
    pub net: Net<K>,
    /// SHA-256 of its parameters, or the checkpoint's fingerprint.
    pub fingerprint: String,
    /// The run, where it comes from one.
    pub config: Option<RunConfig>,
    /// Steps taken, where it comes from a run.
    pub step: Option<u32>,
    /// Symbols of the strings it was trained on; of a model folder, 512 or 256, whatever its context holds.
    pub tokens: usize,
}

/// The last checkpoint of a run's folder; `None` where the folder holds none.
///
/// # Errors
/// A checkpoint that cannot be used.
pub fn open_run<K: Kernels>(dir: &Path, kernels: &mut K) -> Result<Option<Subject<K>>> {
    let path = checkpoint_path(dir);
    if !path.is_file() {
        return Ok(None);
    }
    let saved = load(&path)?;
    let (step, config) = (saved.step, saved.config.clone());
    let weights = saved.into_weights();
    let mut sum = Sha256::new();
    for (name, values) in weights.values() {
        sum.update(name.as_bytes());
        values.iter().for_each(|x| sum.update(x.to_le_bytes()));
    }
    let fingerprint = format!("sha256:{}", crate::overthinking::hex(&sum.finalize()));
    let net = weights.pack(kernels, step)?;
    let tokens = config.task.tokens;
    Ok(Some(Subject { net, fingerprint, config: Some(config), step: Some(step), tokens }))
}

impl<K: Kernels> Subject<K> {
    /// A model folder.
    ///
    /// # Errors
    /// Its vocabulary is not that of flip-flop strings, its context is too short for every set, or it cannot
    /// be loaded.
    pub fn open_model(checkpoint: &Checkpoint, kernels: &mut K) -> Result<Self, SubjectError> {
        let spec = checkpoint.spec();
        if spec.vocab != VOCAB {
            return Err(FlipflopError::Vocab { vocab: spec.vocab, symbols: 2, want: VOCAB }.into());
        }
        let tokens = match spec.n_ctx {
            512.. => 512,
            256.. => 256,
            short => return Err(FlipflopError::Short(short).into()),
        };
        let fingerprint = checkpoint.fingerprint()?;
        let net = Net::Transformer(Box::new(Model::load(checkpoint, kernels)?));
        Ok(Self { net, fingerprint, config: None, step: None, tokens })
    }

    /// How positions enter, and the longest string that they allow: `None` where they have no end.
    pub fn reach(&self) -> (&'static str, Option<usize>) {
        match &self.net {
            Net::Lstm(_) => ("no", None),
            Net::Transformer(m) => reach(&m.spec),
        }
    }

    /// Lets the model read strings of `tokens` symbols, where its positions have no end. A context is what
    /// a model was made for; rotations and biases by distance go on beyond it.
    pub fn widen(&mut self, tokens: usize) {
        let endless = self.reach().1.is_none();
        if let Net::Transformer(m) = &mut self.net
            && endless
        {
            m.spec.n_ctx = m.spec.n_ctx.max(tokens);
        }
    }
}

fn reach(spec: &ModelSpec) -> (&'static str, Option<usize>) {
    match &spec.positions {
        Positions::Rotary { scaling: None, .. } => ("rotary", None),
        Positions::Alibi => ("alibi", None),
        Positions::T5 { .. } => ("t5", None),
        Positions::None => ("no", None),
        Positions::Rotary { .. } => ("scaled rotary", Some(spec.n_ctx)),
        Positions::Sinusoidal => ("sinusoidal", Some(spec.n_ctx)),
        Positions::Linear => ("linear", Some(spec.n_ctx)),
        Positions::Learned { .. } => ("learned", Some(spec.n_ctx)),
    }
}

/// A model folder that cannot be tested.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// It does not fit.
    #[error(transparent)]
    Flipflop(#[from] FlipflopError),
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] refocus_model::LoadError),
}
