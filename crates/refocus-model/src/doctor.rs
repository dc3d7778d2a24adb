//! Proof, on the user's own checkpoint, that results do not depend on how they are computed.

use std::sync::Arc;

use refocus_compute::{Batch, Cpu, CpuPage, Eager, Isa, KvSeq, KvUse, Ops, Reference, Seg, Vocab, VocabOut};

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::forward::{empty_cache, forward};
use crate::intervene::{Action, Intervention, Position};
use crate::plan::{Applied, Mode, Plan, Readout};
use crate::run_error::RunError;
use crate::site::{Kind, Site};
use crate::weights::Model;

/// Outcome of one check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What was held against what.
    pub name: String,
    /// `None`: it could not be done here, the detail says why.
    pub passed: Option<bool>,
    /// Numbers or reason.
    pub detail: String,
}

/// The model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// While loading.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// While running.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Above this many bytes of weights in f64 the comparison with the reference is left out.
const REFERENCE_BYTES: usize = 6 << 30;

/// Token positions that the f64 reference computes: it is slow.
const REFERENCE_TOKENS: usize = 8;

type Logits = Vec<Vec<f32>>;

/// Logits of all positions of every sequence, computed as one batch.
fn logits(
    o: &mut Eager<Cpu>,
    m: &Model<Cpu>,
    seqs: &[&[u32]],
    applied: &[Applied],
    extra: Vec<Readout>,
) -> Result<Logits, RunError> {
    let batch = Batch::from_lengths(seqs.iter().map(|s| s.len()));
    let ids: Vec<u32> = seqs.concat();
    let mut readouts = vec![Readout::logits(&m.spec, None, vec![Vocab::All])];
    readouts.extend(extra);
    let plan = Plan::compile(&m.spec, &batch, &readouts, applied, Mode::default())?;
    let got = forward(o, m, &ids, &plan, KvUse::None)?;
    split(o, got[0].lens(0), &batch, m.spec.vocab)
}

fn split<O: Ops>(
    o: &mut O,
    answers: Option<&[VocabOut<O::T>]>,
    batch: &Batch,
    vocab: usize,
) -> Result<Logits, RunError> {
    let Some([VocabOut::Values(t)]) = answers else { return Err(RunError::Unread(0)) };
    let all = o.to_host(t)?;
    let part = |s: &Seg| all[s.rows.start as usize * vocab..s.rows.end as usize * vocab].to_vec();
    Ok(batch.segs.iter().map(part).collect())
}

/// Logits of one sequence computed in pieces of `step` tokens with a cache.
fn cached(o: &mut Eager<Cpu>, m: &Model<Cpu>, ids: &[u32], step: usize) -> Result<Vec<f32>, RunError> {
    let mut cache: KvSeq<CpuPage> = empty_cache(m);
    let mut out = Vec::new();
    for piece in ids.chunks(step) {
        let seg = Seg { rows: 0..piece.len() as u32, pos0: cache.len as u32 };
        let batch = Batch { segs: vec![seg] };
        let readouts = [Readout::logits(&m.spec, None, vec![Vocab::All])];
        let mode = Mode { keeps_cache: true, decoding: true };
        let plan = Plan::compile(&m.spec, &batch, &readouts, &[], mode)?;
        let got = forward(o, m, piece, &plan, KvUse::Append(std::slice::from_mut(&mut cache)))?;
        out.extend(split(o, got[0].lens(0), &batch, m.spec.vocab)?.concat());
    }
    Ok(out)
}

/// Logits of the sequences after a prefix that is computed once and shared.
fn shared(o: &mut Eager<Cpu>, m: &Model<Cpu>, prefix: &[u32], tails: &[&[u32]]) -> Result<Logits, RunError> {
    let mut cache = empty_cache(m);
    let mode = Mode { keeps_cache: true, decoding: true };
    let plan = Plan::compile(&m.spec, &Batch::from_lengths([prefix.len()]), &[], &[], mode)?;
    forward(o, m, prefix, &plan, KvUse::Append(std::slice::from_mut(&mut cache)))?;
    let mut batch = Batch::from_lengths(tails.iter().map(|t| t.len()));
    batch.segs.iter_mut().for_each(|s| s.pos0 = prefix.len() as u32);
    let readouts = [Readout::logits(&m.spec, None, vec![Vocab::All])];
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default())?;
    let caches = vec![cache; tails.len()];
    let got = forward(o, m, &tails.concat(), &plan, KvUse::Read(&caches))?;
    split(o, got[0].lens(0), &batch, m.spec.vocab)
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// Counts of values that differ, as a check.
fn verdict(name: impl Into<String>, pairs: &[(&[f32], &[f32])]) -> Check {
    let total: usize = pairs.iter().map(|p| p.0.len()).sum();
    let differ: usize =
        pairs.iter().map(|(a, b)| a.iter().zip(*b).filter(|(x, y)| x.to_bits() != y.to_bits()).count()).sum();
    let passed = pairs.iter().all(|(a, b)| same(a, b));
    Check { name: name.into(), passed: Some(passed), detail: format!("{differ} of {total} logits differ") }
}

/// Runs all checks on some sequences; `on_check` hears each as it is done.
///
/// # Errors
/// The model cannot be loaded or run at all. A check that fails is no error.
pub fn doctor(
    checkpoint: &Checkpoint,
    seqs: &[Vec<u32>],
    isa: Isa,
    threads: usize,
    mut on_check: impl FnMut(&Check),
) -> Result<Vec<Check>, DoctorError> {
    let mut checks = Vec::new();
    let mut say = |c: Check| {
        on_check(&c);
        checks.push(c);
    };
    let mut cpu = Cpu::new(isa, threads);
    let m = Model::load(checkpoint, &mut cpu)?;
    let o = &mut Eager::new(cpu);
    let refs: Vec<&[u32]> = seqs.iter().map(Vec::as_slice).collect();
    let base = logits(o, &m, &refs, &[], vec![])?;
    let pairs = |other: &'_ Logits| -> Vec<(Vec<f32>, Vec<f32>)> {
        base.iter().cloned().zip(other.iter().cloned()).collect()
    };
    let compare = |name: String, other: &Logits| {
        let p = pairs(other);
        verdict(name, &p.iter().map(|(a, b)| (&a[..], &b[..])).collect::<Vec<_>>())
    };

    let finite = base.iter().flatten().filter(|x| !x.is_finite()).count();
    let detail = format!("{finite} logits are NaN or infinite");
    say(Check { name: "logits are finite".into(), passed: Some(finite == 0), detail });

    let alone = refs
        .iter()
        .map(|s| Ok(logits(o, &m, &[s], &[], vec![])?.concat()))
        .collect::<Result<_, RunError>>()?;
    say(compare("alone = in a batch".into(), &alone));

    let backwards: Vec<&[u32]> = refs.iter().rev().copied().collect();
    let mut reversed = logits(o, &m, &backwards, &[], vec![])?;
    reversed.reverse();
    say(compare("any order in a batch".into(), &reversed));

    let raw = Site::all(&m.spec).into_iter().map(|site| Readout::Raw { site, rows: None }).collect();
    say(compare("with every site captured".into(), &logits(o, &m, &refs, &[], raw)?));

    let nothing = identity(m.spec.n_layers);
    say(compare("with interventions that change nothing".into(), &logits(o, &m, &refs, &nothing, vec![])?));

    let longest = (0..seqs.len()).max_by_key(|&i| seqs[i].len()).unwrap_or(0);
    if m.spec.stretches() {
        let detail = "dynamic rotary scaling has no valid cache".to_owned();
        say(Check { name: "with the key/value cache".into(), passed: None, detail });
    } else {
        for step in [1, 3] {
            let got = cached(o, &m, refs[longest], step)?;
            say(verdict(format!("cached, {step} token(s) at a time"), &[(&base[longest], &got)]));
        }
        let (prefix, tail) = refs[longest].split_at(refs[longest].len() / 2);
        if prefix.is_empty() {
            let detail = "needs a sequence of two tokens".to_owned();
            say(Check { name: "shared prefix".into(), passed: None, detail });
        } else {
            let got = shared(o, &m, prefix, &[tail, tail])?;
            let want = &base[longest][prefix.len() * m.spec.vocab..];
            say(verdict("shared prefix", &[(want, &got[0]), (want, &got[1])]));
        }
    }

    say(lens_check(o, &m, &refs, &base)?);

    for n in [1, 2, 3, 7] {
        let other = logits(&mut Eager::new(Cpu::new(isa, n)), &m, &refs, &[], vec![])?;
        say(compare(format!("{n} thread(s)"), &other));
    }
    for other in [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon] {
        if other != isa && other.available() {
            // The portable path is far slower: the shortest sequence is enough to tell.
            let short = (0..seqs.len()).min_by_key(|&i| seqs[i].len()).unwrap_or(0);
            let got = logits(&mut Eager::new(Cpu::new(other, threads)), &m, &[refs[short]], &[], vec![])?;
            let name = format!("instruction set {} = {}", other.name(), isa.name());
            say(verdict(name, &[(&base[short], &got[0])]));
        }
    }
    say(reference_check(checkpoint, &m, refs[longest], &base[longest])?);
    Ok(checks)
}

/// One intervention that multiplies by one at every layer's heads and residual stream.
fn identity(n_layers: usize) -> Vec<Applied> {
    let kinds = [Kind::Z, Kind::ResidPost];
    let sites = (0..n_layers).flat_map(|l| kinds.map(|k| Site::new(l, k)));
    sites
        .map(|site| {
            let action = Action::Scale(1.0);
            let what = Intervention { site, head: None, position: Position::All, action, when: None };
            Applied { what: Arc::new(what), segs: None }
        })
        .collect()
}

/// Chosen logits through the lens at the last layer against the same ids of all logits.
fn lens_check(o: &mut Eager<Cpu>, m: &Model<Cpu>, refs: &[&[u32]], base: &Logits) -> Result<Check, RunError> {
    let vocab = m.spec.vocab as u32;
    let ids: Arc<[u32]> = (0..20).map(|i| i * 7919 % vocab).collect();
    let batch = Batch::from_lengths(refs.iter().map(|s| s.len()));
    let readouts = [Readout::logits(&m.spec, None, vec![Vocab::Ids(Arc::clone(&ids))])];
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default())?;
    let got = forward(o, m, &refs.concat(), &plan, KvUse::None)?;
    let Some([VocabOut::Values(t)]) = got[0].lens(0) else { return Err(RunError::Unread(0)) };
    let got = o.to_host(t)?;
    let rows = base.iter().flat_map(|s| s.chunks_exact(m.spec.vocab));
    let want: Vec<f32> = rows.flat_map(|r| ids.iter().map(|&i| r[i as usize])).collect();
    Ok(verdict("lens at the last layer = the logits", &[(&want, &got)]))
}

/// Against the same model in f64 with plain loops.
fn reference_check(
    checkpoint: &Checkpoint,
    m: &Model<Cpu>,
    ids: &[u32],
    base: &[f32],
) -> Result<Check, DoctorError> {
    let name = "against the f64 reference".to_owned();
    let values: usize = checkpoint.tensors().map(|t| t.shape.iter().product::<usize>()).sum();
    if values.saturating_mul(8) > REFERENCE_BYTES {
        let detail = format!("{values} parameters in f64 would take too much memory");
        return Ok(Check { name, passed: None, detail });
    }
    // Dynamic rotary scaling depends on the length, so there the sequence stays whole.
    let n = if m.spec.stretches() { ids.len() } else { ids.len().min(REFERENCE_TOKENS) };
    let mut k = Reference;
    let reference = Model::load(checkpoint, &mut k)?;
    let batch = Batch::from_lengths([n]);
    let readouts = [Readout::logits(&m.spec, None, vec![Vocab::All])];
    let plan = Plan::compile(&m.spec, &batch, &readouts, &[], Mode::default()).map_err(RunError::from)?;
    let o = &mut Eager::new(k);
    let got = forward(o, &reference, &ids[..n], &plan, KvUse::None)?;
    let want = split(o, got[0].lens(0), &batch, m.spec.vocab)?.concat();
    let worst = base
        .iter()
        .zip(&want)
        .map(|(a, b)| (a - b).abs() / b.abs().max(1.0))
        .fold(0.0f32, |m, d| if d.is_nan() || d > m { d } else { m });
    let detail = format!("greatest scaled difference {worst:.1e} over {n} positions, limit 1e-4");
    Ok(Check { name, passed: Some(worst <= 1e-4), detail })
}
