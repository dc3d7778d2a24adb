//! Plain weights that hold a patch.
//!
//! What an intervention does to an activation is affine, coordinate by coordinate: `x ↦ a · x + c`. Where the
//! activation is what a linear map reads, `a` scales its columns and `W c` joins its bias; where it is what the
//! map writes, `a` scales its rows and its bias, and `c` joins the bias. Sharpening scales queries; an exit
//! leaves blocks out.

use std::borrow::Cow;
use std::path::Path;

use refocus_compute::{Dtype, MatrixSource};

use super::{Export, ExportError, ExportResult};
use crate::checkpoint::Checkpoint;
use crate::error::LoadResult;
use crate::intervene::{Action, Intervention};
use crate::names::{Part, Which};
use crate::params::Params;
use crate::patch::bake;
use crate::site::Kind;
use crate::spec::{Family, ModelSpec, Wiring};
use crate::weights::ParamSource;

/// A checkpoint's parameters with interventions in them. Those that no intervention touches are read from the
/// checkpoint as they are; the others are kept here as f32.
pub struct Baked<'a> {
    base: &'a Checkpoint,
    changed: Params,
}

impl<'a> Baked<'a> {
    /// Puts interventions into a checkpoint's weights.
    ///
    /// # Errors
    /// One that no plain weights can hold; a parameter that cannot be read.
    pub fn new(base: &'a Checkpoint, interventions: &[Intervention]) -> ExportResult<Self> {
        for i in interventions {
            if let Err(why) = bake(base.spec(), i) {
                return Err(ExportError::Unbakeable { what: i.action.name(), site: i.site, why });
            }
        }
        let exits = interventions.iter().filter_map(|i| match i.action {
            Action::Exit(layer) => Some(layer),
            _ => None,
        });
        let mut spec = base.spec().clone();
        spec.n_layers = exits.fold(spec.n_layers, usize::min);
        spec.attn_scale.truncate(spec.n_layers);
        spec.window.truncate(spec.n_layers);
        let mut baked = Self { base, changed: Params::new(spec) };
        for layer in 0..baked.spec().n_layers {
            baked.sharpen(interventions, layer)?;
            baked.outputs(interventions, layer)?;
        }
        Ok(baked)
    }

    /// The model that the weights are of: that of the checkpoint, with fewer blocks after an exit.
    pub fn spec(&self) -> &ModelSpec {
        self.changed.spec()
    }

    /// The changed parameters, in words.
    pub fn changed(&self) -> Vec<String> {
        self.changed
            .iter()
            .map(|(part, layer, which, _)| crate::weights::param_name(part, layer, which))
            .collect()
    }

    /// The folder to write: the configuration follows from the model, the tokenizer is the checkpoint's.
    ///
    /// # Errors
    /// The family's configuration cannot say that the model has these parameters; the checkpoint's tokenizer
    /// cannot be built.
    pub fn export(&self) -> ExportResult<Export<'_>> {
        let mut export = Export::new(self.spec(), self)?;
        export.origin = Some(self.base.path().to_owned());
        export.beside(self.base.beside()?);
        Ok(export)
    }

    /// Scores divided by a temperature are those of queries divided by it.
    fn sharpen(&mut self, interventions: &[Intervention], layer: usize) -> ExportResult<()> {
        let (heads, d) = (self.spec().n_heads, self.spec().d_head);
        let mut factors = vec![1.0f32; heads];
        for i in interventions.iter().filter(|i| i.site.layer == layer) {
            if let Action::Sharpen(t) = i.action {
                let of = i.head.map_or(0..heads, |h| h..h + 1);
                factors[of].iter_mut().for_each(|f| *f /= t);
            }
        }
        if factors.iter().all(|&f| f == 1.0) {
            return Ok(());
        }
        if self.spec().qk_norm {
            let mut gain = self.vector_or(Part::QNorm, layer, Which::Weight, 1.0)?;
            gain.iter_mut().for_each(|g| *g *= factors[0]);
            return Ok(self.changed.insert(Part::QNorm, layer, Which::Weight, gain)?);
        }
        let scales: Vec<f32> = factors.iter().flat_map(|&f| std::iter::repeat_n(f, d)).collect();
        let mut w = self.weight(Part::Q, layer)?;
        let k = Part::Q.shape(self.spec())[1];
        for (row, &f) in w.chunks_exact_mut(k.max(1)).zip(&scales) {
            row.iter_mut().for_each(|x| *x *= f);
        }
        self.changed.insert(Part::Q, layer, Which::Weight, w)?;
        if let Some(mut bias) = self.base.vector(Part::Q, layer, Which::Bias)? {
            bias.iter_mut().zip(&scales).for_each(|(b, f)| *b *= f);
            self.changed.insert(Part::Q, layer, Which::Bias, bias)?;
        }
        Ok(())
    }

    /// What is done to the outputs of a block, from its heads to the stream after it.
    fn outputs(&mut self, interventions: &[Intervention], layer: usize) -> ExportResult<()> {
        let find = |kind: Kind, layer: usize| Affine::of(interventions, self.spec(), kind, layer);
        let (z, attn_out) = (find(Kind::Z, layer), find(Kind::AttnOut, layer));
        let (post, mlp_out) = (find(Kind::MlpPost, layer), find(Kind::MlpOut, layer));
        let mid = find(Kind::ResidMid, layer).map(|a| a.shift);
        let after = [find(Kind::ResidPost, layer), find(Kind::ResidPre, layer + 1)];
        let after = after.into_iter().flatten().map(|a| a.shift).reduce(sum);
        // What is added to the stream is added by whatever wrote to it last.
        let (mid, after) = if self.spec().wiring == Wiring::PostNorm {
            for (part, shift) in [(Part::Ln1, mid), (Part::Ln2, after)] {
                let Some(shift) = shift else { continue };
                let bias = self.vector_or(part, layer, Which::Bias, 0.0)?;
                self.changed.insert(part, layer, Which::Bias, sum(bias, shift))?;
            }
            (None, None)
        } else {
            (mid, after)
        };
        let mut carried = self.linear(Part::O, layer, z, attn_out, mid)?;
        if self.spec().family == Family::GptJ {
            // Attention has no bias there; it and the MLP write to the same stream.
            carried = carried.map(|c| after.clone().map_or(c.clone(), |a| sum(a, c))).or(after);
            if let Some(bias) = self.linear(Part::Down, layer, post, mlp_out, carried)? {
                self.changed.insert(Part::Down, layer, Which::Bias, bias)?;
            }
            return Ok(());
        }
        if let Some(bias) = carried {
            self.changed.insert(Part::O, layer, Which::Bias, bias)?;
        }
        if let Some(bias) = self.linear(Part::Down, layer, post, mlp_out, after)? {
            self.changed.insert(Part::Down, layer, Which::Bias, bias)?;
        }
        Ok(())
    }

    /// Changes a weight by what is done to its input and its output, and gives the bias that it then needs, with
    /// `more` added to it; `None` where there was none and still is none.
    fn linear(
        &mut self,
        part: Part,
        layer: usize,
        input: Option<Affine>,
        output: Option<Affine>,
        more: Option<Vec<f32>>,
    ) -> ExportResult<Option<Vec<f32>>> {
        if input.is_none() && output.is_none() && more.is_none() {
            return Ok(None);
        }
        let [n, k] = part.shape(self.spec());
        let had = self.base.vector(part, layer, Which::Bias)?;
        let has_bias = had.is_some();
        let mut bias = had.unwrap_or_else(|| vec![0.0; n]);
        if input.is_some() || output.is_some() {
            let mut w = self.weight(part, layer)?;
            for (i, row) in w.chunks_exact_mut(k.max(1)).enumerate() {
                if let Some(a) = &input {
                    let moved: f64 =
                        row.iter().zip(&a.shift).map(|(w, c)| f64::from(*w) * f64::from(*c)).sum();
                    bias[i] += moved as f32;
                    row.iter_mut().zip(&a.scale).for_each(|(w, s)| *w *= s);
                }
                if let Some(a) = &output {
                    row.iter_mut().for_each(|w| *w *= a.scale[i]);
                    bias[i] = bias[i] * a.scale[i] + a.shift[i];
                }
            }
            self.changed.insert(part, layer, Which::Weight, w)?;
        }
        let bias = match more {
            Some(more) => sum(bias, more),
            None => bias,
        };
        Ok((has_bias || bias.iter().any(|&b| b != 0.0)).then_some(bias))
    }

    /// All values of a weight of the checkpoint.
    fn weight(&self, part: Part, layer: usize) -> ExportResult<Vec<f32>> {
        let [n, k] = part.shape(self.spec());
        let mut out = vec![0.0; n * k];
        if let Some(source) = self.base.matrix(part, layer)? {
            for (i, row) in out.chunks_exact_mut(k.max(1)).enumerate() {
                source.row_f32(i, row);
            }
        }
        Ok(out)
    }

    /// A vector of the checkpoint, or what its absence means.
    fn vector_or(&self, part: Part, layer: usize, which: Which, absent: f32) -> ExportResult<Vec<f32>> {
        let n = part.shape(self.spec())[0];
        Ok(self.base.vector(part, layer, which)?.unwrap_or_else(|| vec![absent; n]))
    }
}

fn sum(mut a: Vec<f32>, b: Vec<f32>) -> Vec<f32> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}

/// What is done to an activation: coordinate `i` becomes `scale[i] · x + shift[i]`.
struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    /// All that happens at a site, in the order of the patch; `None` where nothing does.
    fn of(interventions: &[Intervention], spec: &ModelSpec, kind: Kind, layer: usize) -> Option<Self> {
        let here = |i: &&Intervention| {
            i.site.kind == kind && i.site.layer == layer && !matches!(i.action, Action::Exit(_))
        };
        let mut here = interventions.iter().filter(here).peekable();
        here.peek()?;
        let width = kind.token_shape(spec).iter().product();
        let mut out = Self { scale: vec![1.0; width], shift: vec![0.0; width] };
        for i in here {
            let columns = i.head.map_or(0..width, |h| h * spec.d_head..(h + 1) * spec.d_head);
            let (scale, shift) = (&mut out.scale[columns.clone()], &mut out.shift[columns]);
            let mut factor = |f: f32| {
                scale.iter_mut().for_each(|s| *s *= f);
                shift.iter_mut().for_each(|c| *c *= f);
            };
            match &i.action {
                Action::Zero => factor(0.0),
                Action::Scale(f) => factor(*f),
                Action::Mean(v) => {
                    factor(0.0);
                    shift.copy_from_slice(v);
                }
                Action::Add { vector, alpha } => {
                    shift.iter_mut().zip(vector.iter()).for_each(|(c, v)| *c += alpha * v);
                }
                // `Baked::new` has refused what is not affine, and the rest is done elsewhere.
                _ => {}
            }
        }
        Some(out)
    }
}

impl ParamSource for Baked<'_> {
    fn origin(&self) -> &Path {
        self.base.path()
    }

    fn matrix(&self, part: Part, layer: usize) -> LoadResult<Option<MatrixSource<'_>>> {
        match ParamSource::matrix(&self.changed, part, layer)? {
            Some(changed) => Ok(Some(changed)),
            None => self.base.matrix(part, layer),
        }
    }

    fn vector(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Cow<'_, [f32]>>> {
        match ParamSource::vector(&self.changed, part, layer, which)? {
            Some(changed) => Ok(Some(changed)),
            None => ParamSource::vector(self.base, part, layer, which),
        }
    }

    fn stored(&self, part: Part, layer: usize, which: Which) -> LoadResult<Option<Dtype>> {
        match self.changed.stored(part, layer, which)? {
            Some(changed) => Ok(Some(changed)),
            None => ParamSource::stored(self.base, part, layer, which),
        }
    }

    fn packed(&self, name: &str) {
        self.base.packed(name);
    }
}

#[cfg(test)]
mod tests;
