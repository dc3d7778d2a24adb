//! Sites and logits of whole sequences on the host, in the shapes that TransformerLens gives them.

use std::collections::BTreeMap;

use refocus_compute::{Batch, KvUse, Ops, RawPattern, Vocab, VocabOut};

use crate::forward::{Reading, forward};
use crate::plan::{Applied, Mode, Plan, Readout};
use crate::run_error::RunError;
use crate::site::{Kind, Site};
use crate::spec::ModelSpec;
use crate::weights::Model;

/// A tensor on the host, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Values.
    pub data: Vec<f32>,
}

/// One sequence's tensors by name: site names, and `logits` `[tokens, vocab]`.
pub type SeqTensors = BTreeMap<String, HostTensor>;

/// Runs sequences as one batch and collects sites (and logits) of each.
///
/// # Errors
/// An empty sequence, NaN in a result, or what [`Plan::compile`] and [`forward`] report.
pub fn capture<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    seqs: &[Vec<u32>],
    sites: &[Site],
    logits: bool,
    interventions: &[Applied],
) -> Result<Vec<SeqTensors>, RunError> {
    if let Some(seq) = seqs.iter().position(Vec::is_empty) {
        return Err(RunError::Empty { seq });
    }
    let batch = Batch::from_lengths(seqs.iter().map(Vec::len));
    let mut readouts: Vec<Readout> = sites.iter().map(|&site| Readout::Raw { site, rows: None }).collect();
    if logits {
        readouts.push(Readout::logits(&m.spec, None, vec![Vocab::All]));
    }
    let plan = Plan::compile(&m.spec, &batch, &readouts, interventions, Mode::default())?;
    let ids: Vec<u32> = seqs.iter().flatten().copied().collect();
    let readings = forward(o, m, &ids, &plan, KvUse::None)?;
    let mut out = vec![SeqTensors::new(); seqs.len()];
    let names = sites.iter().map(|&s| Some(s)).chain(std::iter::repeat(None));
    for (site, reading) in names.zip(&readings) {
        collect(o, &m.spec, &batch, site, reading, &mut out)?;
    }
    Ok(out)
}

/// Adds one reading of all rows to the tensors of each sequence: that of a raw readout under the name of its
/// `site`, that of a lens which was asked for all logits (without a site) as `logits`. Other readings add
/// nothing.
///
/// # Errors
/// NaN in the values.
pub fn collect<O: Ops>(
    o: &mut O,
    spec: &ModelSpec,
    batch: &Batch,
    site: Option<Site>,
    reading: &Reading<O::T>,
    out: &mut [SeqTensors],
) -> Result<(), RunError> {
    match (reading, site) {
        (Reading::Matrix(t), Some(site)) => {
            let data = o.to_host(t)?;
            split(out, batch, &site.to_string(), &data, &site.kind.token_shape(spec))
        }
        (Reading::Pattern { raw, .. }, Some(site)) => {
            square(out, batch, &site.to_string(), raw, site.kind, spec.n_heads)
        }
        (Reading::Lens(_), None) => match reading.lens(0) {
            Some([VocabOut::Values(t)]) => {
                let data = o.to_host(t)?;
                split(out, batch, "logits", &data, &[spec.vocab])
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Rows to sequences.
fn split(
    out: &mut [SeqTensors],
    batch: &Batch,
    name: &str,
    data: &[f32],
    token_shape: &[usize],
) -> Result<(), RunError> {
    let width: usize = token_shape.iter().product();
    for (i, (out, s)) in out.iter_mut().zip(&batch.segs).enumerate() {
        let part = &data[s.rows.start as usize * width..s.rows.end as usize * width];
        refuse_nan(name, i, part, width)?;
        let shape = std::iter::once(s.rows.len()).chain(token_shape.iter().copied()).collect();
        out.insert(name.to_owned(), HostTensor { shape, data: part.to_vec() });
    }
    Ok(())
}

/// Ragged attention rows to `[heads, tokens, tokens]`.
fn square(
    out: &mut [SeqTensors],
    batch: &Batch,
    name: &str,
    raw: &RawPattern,
    kind: Kind,
    heads: usize,
) -> Result<(), RunError> {
    let (values, fill) = match kind {
        Kind::Scores => (&raw.scores, f32::NEG_INFINITY),
        _ => (&raw.pattern, 0.0),
    };
    for (i, (out, s)) in out.iter_mut().zip(&batch.segs).enumerate() {
        let n = s.rows.len();
        let mut data = vec![fill; heads * n * n];
        for (q, row) in s.rows.clone().enumerate() {
            let keys = raw.keys[row as usize] as usize;
            for h in 0..heads {
                let at = raw.offset[row as usize] + h * keys;
                data[(h * n + q) * n..][..keys].copy_from_slice(&values[at..at + keys]);
            }
        }
        refuse_nan(name, i, &data, n)?;
        out.insert(name.to_owned(), HostTensor { shape: vec![heads, n, n], data });
    }
    Ok(())
}

fn refuse_nan(name: &str, seq: usize, data: &[f32], width: usize) -> Result<(), RunError> {
    match data.iter().position(|x| x.is_nan()) {
        Some(i) => Err(RunError::NotANumber { what: name.to_owned(), seq, position: i / width.max(1) }),
        None => Ok(()),
    }
}
