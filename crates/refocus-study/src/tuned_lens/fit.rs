//! Learning the maps of a frozen model from a text.
//!
//! First each map is the ridge regression from the stream to the last one, both divided by the length that the
//! final norm will divide the last one by; the ridge pulls towards adding nothing. From there AdamW lowers the
//! divergence of what the lens says from what the model says, KL(model ‖ lens), with the same positions for all
//! layers at every step. A map keeps the steps only where they lower the divergence on positions that the
//! steps did not use (the regression did); what is told is measured on windows that none of it has seen.

use refocus_compute::{Kernels, KvUse, Ops, ParamId, Philox, Purpose, Tape, Then, Vocab, VocabOut};
use refocus_measure::residual::unembed;
use refocus_model::{Kind, Mode, Model, Plan, Readout, RunError, Site, forward};
use refocus_train::AdamW;
use serde::{Deserialize, Serialize};

use super::Affine;
use super::file::LensError;

/// Share of a feature's own sum of squares that is added to it.
const RIDGE: f64 = 0.01;
/// Windows at the end of the text that are never learned from: one in this many.
const APART: usize = 10;
/// Windows that go through the model together.
const TOGETHER: usize = 4;
/// Positions whose logits are held at once.
const ROWS: usize = 64;
/// Positions that decide whether steps are kept.
const DECIDE: usize = 64;
const WINDOWS: Purpose = Purpose::new("tuned lens: windows");
const POSITIONS: Purpose = Purpose::new("tuned lens: positions");
const WEIGHT: ParamId = ParamId(u32::MAX - 2);
const BIAS: ParamId = ParamId(u32::MAX - 1);

/// How a lens is learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitSettings {
    /// Windows of text to learn from.
    pub windows: usize,
    /// Tokens of a window; the first of each is left out, as models treat it in their own way.
    pub window: usize,
    /// Positions of other windows on which the lens is measured.
    pub held_out: usize,
    /// Steps of the optimizer after the regression.
    pub steps: u32,
    /// Positions of a step.
    pub batch: usize,
    /// Rate of the first step, of features and outputs scaled to 1; it falls to 0 in a straight line.
    pub rate: f32,
    /// Seed of what is drawn.
    pub seed: u64,
}

impl Default for FitSettings {
    fn default() -> Self {
        Self { windows: 48, window: 128, held_out: 256, steps: 20, batch: 64, rate: 1e-4, seed: 0 }
    }
}

/// Mean KL(model ‖ lens) on held-out positions, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerScore {
    /// The block before which the stream is read.
    pub layer: usize,
    /// Without a map.
    pub logit: f64,
    /// After the regression.
    pub regression: f64,
    /// In the end.
    pub tuned: f64,
}

/// Streams of some positions at every node, `[positions, d_model]` each.
struct Streams {
    nodes: Vec<Vec<f32>>,
    positions: usize,
}

/// Learns the maps of a model from the ids of a text. `tick` is told how much of the work is done, and how much
/// there is.
///
/// # Errors
/// A text that is too short, or what the model reports.
pub fn fit<K: Kernels>(
    kernels: K,
    m: &Model<K>,
    ids: &[u32],
    settings: &FitSettings,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<(Vec<Affine>, Vec<LayerScore>), LensError> {
    let layers = m.spec.n_layers;
    let window = settings.window.min(m.spec.n_ctx);
    let [learn, apart] = windows(ids, window, settings)?;
    let all = (learn.len() + apart.len()) as u64 + u64::from(settings.steps) * 2 + 3 * layers as u64;
    let mut done = 0;
    let mut more = |n: usize| {
        done += n as u64;
        tick(done, all);
    };
    let tape = &mut Tape::new(kernels);
    tape.want_only([WEIGHT, BIAS]);
    let learned = streams(tape, m, &learn, &mut more)?;
    let held = streams(tape, m, &apart, &mut more)?;

    let mut fits = Vec::with_capacity(layers);
    for layer in 0..layers {
        fits.push(regression(tape, m, &learned, layer)?);
        more(1);
    }
    let scores =
        |tape: &mut Tape<K>, maps: &[Affine], at: &[usize], of: &Streams| divergence(tape, m, maps, of, at);
    let every = |n: usize, of: &Streams| -> Vec<usize> {
        let n = n.min(of.positions);
        (0..n).map(|i| i * of.positions / n.max(1)).collect()
    };
    let regressed: Vec<Affine> = fits.iter().map(|f| f.map.clone()).collect();
    let mut maps = regressed.clone();
    if settings.steps > 0 {
        // The last of the positions that are learned from decide and are not stepped on.
        let decide: Vec<usize> = (learned.positions.saturating_sub(DECIDE)..learned.positions).collect();
        let before = scores(tape, &maps, &decide, &learned)?;
        steps(tape, m, &learned, learned.positions - decide.len(), &mut fits, settings, &mut more)?;
        let stepped: Vec<Affine> = fits.into_iter().map(|f| f.map).collect();
        let after = scores(tape, &stepped, &decide, &learned)?;
        for (l, new) in stepped.into_iter().enumerate() {
            if after[l] < before[l] {
                maps[l] = new;
            }
        }
    }
    let at = every(settings.held_out, &held);
    let d = m.spec.d_model;
    let nothing = vec![Affine { weight: vec![0.0; d * d], bias: vec![0.0; d] }; layers];
    let logit = scores(tape, &nothing, &at, &held)?;
    more(layers);
    let regression = scores(tape, &regressed, &at, &held)?;
    let tuned = scores(tape, &maps, &at, &held)?;
    more(layers);
    let score =
        |layer| LayerScore { layer, logit: logit[layer], regression: regression[layer], tuned: tuned[layer] };
    Ok((maps, (0..layers).map(score).collect()))
}

/// Windows to learn from, drawn from the text but for its end, and windows of its end.
fn windows<'a>(
    ids: &'a [u32],
    window: usize,
    settings: &FitSettings,
) -> Result<[Vec<&'a [u32]>; 2], LensError> {
    let all: Vec<&[u32]> = ids.chunks_exact(window.max(2)).collect();
    let apart_needed = settings.held_out.div_ceil(window.saturating_sub(1).max(1)).max(1);
    // So many that the rest is enough when a tenth is set apart.
    let to_learn = settings.windows.saturating_sub(1) * APART / (APART - 1) + 1;
    let want = to_learn.max(apart_needed * APART);
    if all.len() < want {
        return Err(LensError::Short { got: all.len(), want, window });
    }
    let (learn, apart) = all.split_at(all.len() - all.len() / APART);
    let rng = Philox::new(settings.seed, WINDOWS);
    let draw = |from: &[&'a [u32]], n: usize, part: u32| {
        let mut order: Vec<usize> = (0..from.len()).collect();
        order.sort_by_key(|&i| (rng.at(part, 0, i as u32)[0], i));
        order.into_iter().take(n).map(|i| from[i]).collect::<Vec<_>>()
    };
    Ok([draw(learn, settings.windows, 0), draw(apart, apart_needed, 1)])
}

/// Runs windows and keeps every node's stream at all positions but the first of each.
fn streams<K: Kernels>(
    tape: &mut Tape<K>,
    m: &Model<K>,
    windows: &[&[u32]],
    more: &mut dyn FnMut(usize),
) -> Result<Streams, LensError> {
    let spec = &m.spec;
    let mut sites = vec![Site::new(0, Kind::ResidPre)];
    sites.extend((0..spec.n_layers).map(|l| Site::new(l, Kind::ResidPost)));
    let readouts: Vec<Readout> = sites.iter().map(|&site| Readout::Raw { site, rows: None }).collect();
    let mut out = Streams { nodes: vec![Vec::new(); sites.len()], positions: 0 };
    let o = tape.eager();
    for some in windows.chunks(TOGETHER) {
        let batch = refocus_compute::Batch::from_lengths(some.iter().map(|w| w.len()));
        let plan = Plan::compile(spec, &batch, &readouts, &[], Mode::default())?;
        let got = forward(o, m, &some.concat(), &plan, KvUse::None)?;
        for (i, (all, reading)) in out.nodes.iter_mut().zip(&got).enumerate() {
            let x = o.to_host(reading.matrix().ok_or(RunError::Unread(i))?)?;
            for seg in &batch.segs {
                let rows = (seg.rows.start as usize + 1)..seg.rows.end as usize;
                all.extend_from_slice(&x[rows.start * spec.d_model..rows.end * spec.d_model]);
            }
        }
        out.positions += some.iter().map(|w| w.len() - 1).sum::<usize>();
        more(some.len());
    }
    Ok(out)
}

/// A map under way.
struct Fit {
    map: Affine,
    /// Root mean square of each feature over the length of the last stream; 1 for the bias.
    scale: Vec<f32>,
}

/// The map that ridge regression gives.
fn regression<K: Kernels>(
    tape: &mut Tape<K>,
    m: &Model<K>,
    s: &Streams,
    layer: usize,
) -> Result<Fit, LensError> {
    let (d, n) = (m.spec.d_model, s.positions);
    let (x, last) = (&s.nodes[layer], &s.nodes[m.spec.n_layers]);
    let (mut inputs, mut targets) = (Vec::with_capacity(n * (d + 1)), Vec::with_capacity(n * d));
    for (x, t) in x.chunks_exact(d).zip(last.chunks_exact(d)) {
        let square = t.iter().map(|t| f64::from(*t) * f64::from(*t)).sum::<f64>() / d as f64;
        let by = if m.ln_final.is_some() && square > 0.0 { (1.0 / square.sqrt()) as f32 } else { 1.0 };
        inputs.extend(x.iter().map(|x| x * by));
        inputs.push(by);
        targets.extend(x.iter().zip(t).map(|(x, t)| (t - x) * by));
    }
    let k = tape.kernels();
    let (x, t) = (k.upload(n, d + 1, &inputs)?, k.upload(n, d, &targets)?);
    let gram = k.linear_vjp_weight(&x, &x)?;
    let cross = k.linear_vjp_weight(&x, &t)?;
    let (gram, cross) = (k.download(&gram)?, k.download(&cross)?);
    let solved = solve(&gram, &cross, d + 1, d)
        .ok_or_else(|| LensError::Layer { layer, why: "its features have no regression".to_owned() })?;
    let mut map = Affine { weight: Vec::with_capacity(d * d), bias: Vec::with_capacity(d) };
    for row in solved.chunks_exact(d + 1) {
        map.weight.extend_from_slice(&row[..d]);
        map.bias.push(row[d]);
    }
    let size = |j: usize| (f64::from(gram[j * (d + 1) + j]) / n.max(1) as f64).sqrt().max(1e-12) as f32;
    Ok(Fit { map, scale: (0..=d).map(size).collect() })
}

/// `W` `[outputs, k]` with `W (G + λ) = C`, by Cholesky; `gram` `[k, k]`, `cross` `[outputs, k]`. Nothing where the
/// matrix is not positive.
fn solve(gram: &[f32], cross: &[f32], k: usize, outputs: usize) -> Option<Vec<f32>> {
    let mut l: Vec<f64> = gram.iter().map(|&g| f64::from(g)).collect();
    for j in 0..k {
        l[j * k + j] += RIDGE * l[j * k + j] + 1e-9;
    }
    for j in 0..k {
        for i in j..k {
            let (a, b) = (&l[i * k..i * k + j], &l[j * k..j * k + j]);
            let sum: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let rest = l[i * k + j] - sum;
            if i == j {
                if rest.is_nan() || rest <= 0.0 {
                    return None;
                }
                l[j * k + j] = rest.sqrt();
            } else {
                l[i * k + j] = rest / l[j * k + j];
            }
        }
    }
    // The transpose beside it, so that both substitutions run along rows.
    let mut up = vec![0.0; k * k];
    for i in 0..k {
        for j in 0..=i {
            up[j * k + i] = l[i * k + j];
        }
    }
    let mut out = Vec::with_capacity(outputs * k);
    for c in cross.chunks_exact(k).take(outputs) {
        let mut y: Vec<f64> = c.iter().map(|&c| f64::from(c)).collect();
        for i in 0..k {
            let sum: f64 = l[i * k..i * k + i].iter().zip(&y).map(|(l, y)| l * y).sum();
            y[i] = (y[i] - sum) / l[i * k + i];
        }
        for i in (0..k).rev() {
            let sum: f64 = up[i * k + i + 1..(i + 1) * k].iter().zip(&y[i + 1..]).map(|(u, y)| u * y).sum();
            y[i] = (y[i] - sum) / up[i * k + i];
        }
        out.extend(y.into_iter().map(|y| y as f32));
    }
    Some(out)
}

/// Rows of a node's streams.
fn rows(of: &Streams, node: usize, d: usize, at: &[usize]) -> Vec<f32> {
    at.iter().flat_map(|&i| of.nodes[node][i * d..(i + 1) * d].iter().copied()).collect()
}

/// Logits to log-probabilities, row by row.
fn log_softmax(logits: &mut [f32], vocab: usize) {
    for row in logits.chunks_exact_mut(vocab.max(1)) {
        let max = row.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
        let sum: f64 = row.iter().map(|&x| f64::from((x - max).exp())).sum();
        let lse = max + sum.ln() as f32;
        row.iter_mut().for_each(|x| *x -= lse);
    }
}

/// What the model says at some positions: log-probabilities `[positions, vocab]`.
fn teacher<K: Kernels>(
    tape: &mut Tape<K>,
    m: &Model<K>,
    of: &Streams,
    at: &[usize],
) -> Result<Vec<f32>, LensError> {
    let (o, d) = (tape.eager(), m.spec.d_model);
    let x = o.constant(at.len(), d, &rows(of, m.spec.n_layers, d, at))?;
    let mut logits = match &unembed(o, m, &x, &[Vocab::All])?[..] {
        [VocabOut::Values(logits)] => o.to_host(logits)?,
        _ => return Err(RunError::Unread(0).into()),
    };
    log_softmax(&mut logits, m.spec.vocab);
    Ok(logits)
}

/// Mean KL(model ‖ lens) of every layer at some positions.
fn divergence<K: Kernels>(
    tape: &mut Tape<K>,
    m: &Model<K>,
    maps: &[Affine],
    of: &Streams,
    at: &[usize],
) -> Result<Vec<f64>, LensError> {
    let d = m.spec.d_model;
    let mut sums = vec![0.0; maps.len()];
    for some in at.chunks(ROWS) {
        let p = teacher(tape, m, of, some)?;
        for (layer, (map, sum)) in maps.iter().zip(&mut sums).enumerate() {
            let map = map.pack(tape.kernels(), layer, [ParamId::CONSTANT; 2])?;
            let o = tape.eager();
            let x = o.constant(some.len(), d, &rows(of, layer, d, some))?;
            let y = o.linear(&x, &[&map], Then { act: None, residual: Some(&x) })?;
            let mut q = match &unembed(o, m, &y, &[Vocab::All])?[..] {
                [VocabOut::Values(logits)] => o.to_host(logits)?,
                _ => return Err(RunError::Unread(layer).into()),
            };
            log_softmax(&mut q, m.spec.vocab);
            *sum += p.iter().zip(&q).map(|(p, q)| f64::from(p.exp() * (p - q))).sum::<f64>();
        }
    }
    for (layer, sum) in sums.iter_mut().enumerate() {
        *sum /= at.len().max(1) as f64;
        if !sum.is_finite() {
            let why = format!("its divergence from the model is {sum}");
            return Err(LensError::Layer { layer, why });
        }
    }
    Ok(sums)
}

/// Steps of AdamW on the divergence, all layers on the same positions. Features and outputs are scaled to 1, so
/// that one rate serves all.
fn steps<K: Kernels>(
    tape: &mut Tape<K>,
    m: &Model<K>,
    of: &Streams,
    positions: usize,
    fits: &mut [Fit],
    settings: &FitSettings,
    more: &mut dyn FnMut(usize),
) -> Result<(), LensError> {
    let (d, vocab) = (m.spec.d_model, m.spec.vocab);
    let rng = Philox::new(settings.seed, POSITIONS);
    let lengths = fits.iter().flat_map(|_| [d * d, d]);
    let mut optimizer = AdamW::new(lengths, (0.9, 0.999), 1e-8, 0.0)?;
    for step in 0..settings.steps {
        let draw = |i: usize| {
            let word = rng.at(step, 0, i as u32)[0];
            ((u64::from(word) * positions as u64) >> 32) as usize
        };
        let at: Vec<usize> = (0..settings.batch).map(draw).collect();
        let p = teacher(tape, m, of, &at)?;
        optimizer.advance();
        let rate = settings.rate * (1.0 - step as f32 / settings.steps as f32);
        for (layer, f) in fits.iter_mut().enumerate() {
            let map = f.map.pack(tape.kernels(), layer, [WEIGHT, BIAS])?;
            let x = tape.constant(at.len(), d, &rows(of, layer, d, &at))?;
            let y = tape.linear(&x, &[&map], Then { act: None, residual: Some(&x) })?;
            let answers = unembed(tape, m, &y, &[Vocab::All])?;
            let [VocabOut::Values(logits)] = &answers[..] else { return Err(RunError::Unread(layer).into()) };
            let mut q = tape.to_host(logits)?;
            log_softmax(&mut q, vocab);
            // Gradient of KL(p ‖ q) by the logits: q − p.
            let n = at.len() as f32;
            let seed: Vec<f32> = q.iter().zip(&p).map(|(q, p)| (q.exp() - p.exp()) / n).collect();
            let seed = tape.kernels().upload(at.len(), vocab, &seed)?;
            let grads = tape.backward_from([(logits, seed)])?;
            let k = tape.kernels();
            let mut host = |id| grads.param(id).map(|g| k.download(g)).transpose();
            if let Some(mut dw) = host(WEIGHT)? {
                for row in dw.chunks_exact_mut(d) {
                    row.iter_mut().zip(&f.scale).for_each(|(g, s)| *g /= s);
                }
                scaled(&mut f.map.weight, &f.scale[..d], |w| optimizer.update(2 * layer, w, &dw, rate));
            }
            if let Some(mut db) = host(BIAS)? {
                let s = &f.scale[d..];
                db.iter_mut().for_each(|g| *g /= s[0]);
                scaled(&mut f.map.bias, s, |b| optimizer.update(2 * layer + 1, b, &db, rate));
            }
        }
        more(2);
    }
    Ok(())
}

/// Changes values in units in which every feature has length 1.
fn scaled(x: &mut [f32], scale: &[f32], change: impl FnOnce(&mut [f32])) {
    for row in x.chunks_exact_mut(scale.len()) {
        row.iter_mut().zip(scale).for_each(|(x, s)| *x *= s);
    }
    change(x);
    for row in x.chunks_exact_mut(scale.len()) {
        row.iter_mut().zip(scale).for_each(|(x, s)| *x /= s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regression_by_hand() {
        // Features of squares 1 and 4, unrelated; the ridge takes a hundredth.
        let w = solve(&[1.0, 0.0, 0.0, 4.0], &[1.01, 0.0, 0.0, 8.08], 2, 2).expect("a solution");
        for (got, want) in w.iter().zip([1.0, 0.0, 0.0, 2.0]) {
            assert!((got - want).abs() < 1e-5, "{w:?}");
        }
        // Related ones: (G + λ) w = c.
        let w = solve(&[2.0, 1.0, 1.0, 3.0], &[3.0, 5.0], 2, 1).expect("a solution");
        let left = [2.02 * w[0] + w[1], w[0] + 3.03 * w[1]];
        assert!((left[0] - 3.0).abs() < 1e-5 && (left[1] - 5.0).abs() < 1e-5, "{w:?}");
        assert_eq!(solve(&[1.0, 3.0, 3.0, 1.0], &[1.0, 1.0], 2, 1), None);
    }

    /// A model of two layers on ids that follow a rule: the maps come nearer to it than nothing does.
    #[test]
    fn a_lens_comes_nearer_to_the_model() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/overthinking");
        let checkpoint = refocus_model::Checkpoint::open(folder).expect("the fixture");
        let mut cpu = refocus_compute::Cpu::new(refocus_compute::Isa::Portable, 1);
        let model = Model::load(&checkpoint, &mut cpu).expect("a model");
        let vocab = model.spec.vocab as u32;
        let ids: Vec<u32> = (0..4000u32).map(|i| (i * i + 7 * (i / 3)) % vocab).collect();
        let settings =
            FitSettings { windows: 40, window: 16, held_out: 30, steps: 4, ..FitSettings::default() };
        let (maps, scores) = fit(cpu, &model, &ids, &settings, &mut |_, _| {}).expect("a lens");
        assert_eq!((maps.len(), scores.len()), (model.spec.n_layers, model.spec.n_layers));
        assert!(scores.iter().all(|s| s.tuned < s.logit), "{scores:?}");
        let short = fit(
            refocus_compute::Cpu::new(refocus_compute::Isa::Portable, 1),
            &model,
            &ids[..100],
            &settings,
            &mut |_, _| {},
        );
        assert!(matches!(short, Err(LensError::Short { got: 6, .. })));
    }
}
