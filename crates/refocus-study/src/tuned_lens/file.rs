//! A lens as a folder: `lens.safetensors` with the maps, `lens.toml` with what they were learned from.

use std::io;
use std::path::{Path, PathBuf};

use refocus_model::{ModelSpec, RunError};
use refocus_results::atomic::write_whole;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Affine;
use super::fit::{FitSettings, LayerScore};
use crate::overthinking::hex;

const FORMAT: &str = "refocus.lens/1";
const MAPS: &str = "lens.safetensors";
const ABOUT: &str = "lens.toml";

/// What can go wrong with a lens.
#[derive(Debug, thiserror::Error)]
pub enum LensError {
    /// A file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file that is no part of a lens, or of another one.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A text with too few tokens.
    #[error("the text has {got} windows of {window} tokens, {want} are needed")]
    Short {
        /// Windows there are.
        got: usize,
        /// Windows needed.
        want: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// Numbers that the model gave and that are none.
    #[error("layer {layer}: {why}")]
    Layer {
        /// Layer.
        layer: usize,
        /// What is wrong.
        why: String,
    },
    /// The optimizer.
    #[error(transparent)]
    Optimizer(Box<refocus_train::TrainError>),
    /// The model could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl From<refocus_train::TrainError> for LensError {
    fn from(e: refocus_train::TrainError) -> Self {
        Self::Optimizer(Box::new(e))
    }
}

impl From<refocus_compute::Error> for LensError {
    fn from(e: refocus_compute::Error) -> Self {
        Self::Run(e.into())
    }
}

impl From<refocus_model::PlanError> for LensError {
    fn from(e: refocus_model::PlanError) -> Self {
        Self::Run(e.into())
    }
}

/// SHA-256 of a text, as [`About::text`] has it.
pub fn text_hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// What a lens was learned from, and how near it comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    format: String,
    /// Fingerprint of the model.
    pub model: String,
    /// SHA-256 of the text.
    pub text: String,
    /// SHA-256 of `lens.safetensors`.
    pub maps: String,
    /// How it was learned.
    pub fit: FitSettings,
    /// How near it comes on text that it was not learned from.
    pub layers: Vec<LayerScore>,
}

/// A lens of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct TunedLens {
    /// What it was learned from.
    pub about: About,
    /// By layer.
    pub maps: Vec<Affine>,
}

impl TunedLens {
    /// Writes a lens as a folder. `lens.toml` is written last, so that a folder with one is whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(
        dir: &Path,
        (model, text): (&str, &str),
        fit: FitSettings,
        (maps, layers): (Vec<Affine>, Vec<LayerScore>),
    ) -> Result<Self, LensError> {
        let written = |path: &Path| {
            let path = path.to_owned();
            move |source| LensError::Write { path, source }
        };
        std::fs::create_dir_all(dir).map_err(written(dir))?;
        let mut tensors = Vec::new();
        for (l, map) in maps.iter().enumerate() {
            let d = map.bias.len();
            for (name, shape, x) in [("weight", vec![d, d], &map.weight), ("bias", vec![d], &map.bias)] {
                let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
                tensors.push((format!("maps.{l}.{name}"), shape, bytes));
            }
        }
        let path = dir.join(MAPS);
        let views = tensors
            .iter()
            .map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let file = views
            .and_then(|views| safetensors::serialize(views, None))
            .map_err(|e| written(&path)(io::Error::other(e)))?;
        write_whole(&path, &file).map_err(written(&path))?;
        let about = About {
            format: FORMAT.to_owned(),
            model: model.to_owned(),
            text: text.to_owned(),
            maps: hex(&Sha256::digest(&file)),
            fit,
            layers,
        };
        let path = dir.join(ABOUT);
        let toml = toml::to_string(&about).map_err(|e| written(&path)(io::Error::other(e)))?;
        write_whole(&path, toml.as_bytes()).map_err(written(&path))?;
        Ok(Self { about, maps })
    }

    /// Reads a lens that belongs to a model.
    ///
    /// # Errors
    /// No such folder, files that are no lens or damaged, a lens of another model or of other sizes.
    pub fn load(dir: &Path, spec: &ModelSpec, fingerprint: &str) -> Result<Self, LensError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| LensError::Read { path: path.to_owned(), source })
        };
        let path = dir.join(ABOUT);
        let bad = |why: String| LensError::Unusable { path: path.clone(), why };
        let text = String::from_utf8(read(&path)?).map_err(|e| bad(e.to_string()))?;
        let about: About = toml::from_str(&text)
            .map_err(|e| bad(e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")))?;
        if about.format != FORMAT {
            return Err(bad(format!("its format is '{}', not '{FORMAT}'", about.format)));
        }
        if about.model != fingerprint {
            return Err(bad(format!("it is a lens of the model {}, not of {fingerprint}", about.model)));
        }
        let path = dir.join(MAPS);
        let bad = |why: String| LensError::Unusable { path: path.clone(), why };
        let file = read(&path)?;
        if hex(&Sha256::digest(&file)) != about.maps {
            return Err(bad(format!("it is not the file that {ABOUT} was written for")));
        }
        let tensors = SafeTensors::deserialize(&file).map_err(|e| bad(e.to_string()))?;
        let vector = |name: String, n: usize| {
            let t = tensors.tensor(&name).map_err(|e| bad(format!("{name}: {e}")))?;
            if t.dtype() != Dtype::F32 || t.data().len() != 4 * n {
                return Err(bad(format!("{name}: it does not have {n} f32 values")));
            }
            let data: Vec<f32> = t.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            match data.iter().position(|x| !x.is_finite()) {
                Some(at) => Err(bad(format!("{name}: value {at} is {}", data[at]))),
                None => Ok(data),
            }
        };
        let d = spec.d_model;
        let map = |l| {
            Ok(Affine {
                weight: vector(format!("maps.{l}.weight"), d * d)?,
                bias: vector(format!("maps.{l}.bias"), d)?,
            })
        };
        let maps = (0..spec.n_layers).map(map).collect::<Result<_, LensError>>()?;
        Ok(Self { about, maps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_the_lens_back_and_no_other_model_takes_it() {
        let dir = std::env::temp_dir().join(format!("refocus-lens-{}", std::process::id()));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
        let spec = refocus_model::Checkpoint::open(folder).expect("the fixture").spec().clone();
        let d = spec.d_model;
        let map = |x: f32| Affine { weight: vec![x; d * d], bias: vec![-x; d] };
        let maps: Vec<Affine> = (0..spec.n_layers).map(|l| map(l as f32)).collect();
        let score = LayerScore { layer: 0, logit: 2.0, regression: 1.0, tuned: 0.5 };
        let saved = TunedLens::save(&dir, ("m", "t"), FitSettings::default(), (maps, vec![score]));
        let saved = saved.expect("a folder");
        assert_eq!(TunedLens::load(&dir, &spec, "m").expect("the lens"), saved);
        let told = |e: LensError| e.to_string();
        let other = told(TunedLens::load(&dir, &spec, "n").expect_err("another model"));
        assert!(other.ends_with("lens.toml: it is a lens of the model m, not of n"), "{other}");
        std::fs::write(dir.join(MAPS), b"half").expect("write");
        let damaged = told(TunedLens::load(&dir, &spec, "m").expect_err("damaged"));
        assert!(damaged.ends_with("it is not the file that lens.toml was written for"), "{damaged}");
        std::fs::remove_dir_all(dir).expect("remove");
    }
}
