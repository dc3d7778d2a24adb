//! The figures of the paper's mechanistic study (`spec/flip-flop.md` 4.2) as data of our own models.

use std::path::Path;

use refocus_compute::{Eager, Kernels};
use refocus_model::{LoadError, Model, Params, Part, RunError, SeqTensors, Which};
use refocus_tasks::flipflop::{Automaton, AutomatonString, LanguageError, Split, drift_inputs};
use refocus_train::TrainError;
use serde::Serialize;

use super::attend::FIRST;
use super::automata::{Automata, PROBE, Sharpened, deep, drifting, head_map, maps, single};
use super::propositions::tie_break;

/// Probability to do nothing at which most models are trained.
const NOOP: f64 = 0.5;
/// The other one, at which the paper saw fewer bad minima.
const SPARSE: f64 = 0.9;
/// Test strings of each model.
const STRINGS: u32 = 50;
/// Inputs of a heat map.
const SHOWN: usize = 48;
/// Largest difference of weights at which a map counts as the ideal one.
const IDEAL: f64 = 0.1;

/// One of the six.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Attention of a model with sparse attention and of one without.
    A,
    /// A sparse model that is wrong because it is locked on an early write.
    B,
    /// Drift: late queries leave the last write.
    C,
    /// Norms of the weights with and without sharpening.
    D,
    /// Distances between the heads of each layer over training.
    E,
    /// A first-layer head whose map is the ideal one.
    F,
}

impl Figure {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::A, Self::B, Self::C, Self::D, Self::E, Self::F];

    /// Its letter.
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
            Self::E => "e",
            Self::F => "f",
        }
    }

    /// The models that it looks into; their seeds begin with `first`.
    ///
    /// # Errors
    /// None.
    pub fn models(self, first: u64, seeds: u64, steps: u32) -> Result<Vec<Automata>, Box<TrainError>> {
        // One beyond the largest number stays there, and is refused as a seed.
        let some = |most: u64| (0..seeds.min(most)).map(move |i| first.saturating_add(i));
        let all = || some(u64::MAX);
        match self {
            Self::A => {
                let of = |s| single(s, NOOP, first, steps);
                [Sharpened::No, Sharpened::Always].map(of).into_iter().collect()
            }
            Self::B => [NOOP, SPARSE]
                .into_iter()
                .flat_map(|noop| all().map(move |seed| single(Sharpened::Always, noop, seed, steps)))
                .collect(),
            Self::C => some(3).map(|seed| drifting(seed, steps)).collect(),
            Self::D => Sharpened::ALL
                .into_iter()
                .flat_map(|s| all().map(move |seed| single(s, NOOP, seed, steps)))
                .collect(),
            Self::E | Self::F => Ok(vec![deep(first, steps)?]),
        }
    }
}

/// Lines or a map.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Chart {
    /// Values over something.
    Lines {
        /// What it shows.
        name: String,
        /// Horizontal axis.
        x: String,
        /// Vertical axis.
        y: String,
        /// The lines.
        series: Vec<Series>,
    },
    /// A matrix, row by row.
    Map {
        /// What it shows.
        name: String,
        /// What rows are.
        rows: String,
        /// What columns are.
        columns: String,
        /// `[rows][columns]`.
        values: Vec<Vec<f32>>,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// Name.
    pub name: String,
    /// Where.
    pub x: Vec<f64>,
    /// How much.
    pub y: Vec<f64>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drawn {
    /// `a` to `f`.
    pub figure: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// What it shows on these models, in words and numbers.
    pub finding: String,
    /// The data.
    pub charts: Vec<Chart>,
}

/// A figure that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FigureError {
    /// Its models.
    #[error(transparent)]
    Train(#[from] Box<TrainError>),
    /// Its models' parameters.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// They cannot be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Their strings.
    #[error(transparent)]
    Language(#[from] LanguageError),
}

type Result<T, E = FigureError> = std::result::Result<T, E>;

/// A trained model, ready to be asked.
struct Ready<K: Kernels> {
    params: Params,
    model: Model<K>,
    o: Eager<K>,
}

impl<K: Kernels> Ready<K> {
    fn open(a: &Automata, out: &Path, mut kernels: K) -> Result<Self> {
        let params = a.params(out)?;
        let model = Model::from_params(params.spec(), &mut kernels, &params)?;
        Ok(Self { params, model, o: Eager::new(kernels) })
    }

    fn maps(&mut self, ids: &[u32]) -> Result<SeqTensors> {
        Ok(maps(&mut self.o, &self.model, ids)?)
    }
}

/// Whether the first choice at each position is the state.
fn right(tensors: &SeqTensors, s: &AutomatonString) -> Vec<bool> {
    let Some(t) = tensors.get("logits") else { return Vec::new() };
    let width = t.shape.last().copied().unwrap_or(1).max(1);
    let rows = t.data.chunks_exact(width);
    let best = |row: &[f32]| {
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, x)| if *x > b.1 { (i, *x) } else { b }).0
    };
    rows.zip(&s.states).map(|(row, state)| best(row) == *state as usize).collect()
}

fn row_of(map: &[f32], n: usize, query: usize) -> &[f32] {
    map.get(query * n..query * n + query + 1).unwrap_or_default()
}

fn sum(weights: &[f32]) -> f64 {
    weights.iter().map(|w| f64::from(*w)).sum()
}

/// How a model of one head does on test strings: means over positions.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    errors: usize,
    asked: usize,
    /// On the write that the state comes from.
    write: f64,
    /// On the first positions, at queries that are twice as far.
    first: f64,
    /// Greatest weight of a row.
    greatest: f64,
}

fn measure<K: Kernels>(r: &mut Ready<K>, seed: u64, length: usize, noop: f64) -> Result<Measured> {
    let (automaton, mut out, mut late) = (Automaton::new(length, noop)?, Measured::default(), 0);
    for number in 0..STRINGS {
        let s = automaton.string(seed, Split::Test, 0, number);
        let tensors = r.maps(&s.inputs)?;
        out.errors += right(&tensors, &s).iter().filter(|r| !**r).count();
        out.asked += length;
        let map = head_map(&tensors, 0, 0);
        for query in 0..length {
            let row = row_of(map, length, query);
            out.write += f64::from(row[s.written[query]]);
            out.greatest += f64::from(row.iter().fold(0.0, |a: f32, b| a.max(*b)));
            // Not where the first positions are most of what there is, or hold the answer.
            if query >= 2 * FIRST && s.written[query] >= FIRST {
                out.first += sum(&row[..FIRST]);
                late += 1;
            }
        }
    }
    let n = out.asked.max(1) as f64;
    (out.write, out.greatest, out.first) =
        (out.write / n, out.greatest / n, out.first / f64::from(late.max(1)));
    Ok(out)
}

/// A map with what stands at its keys.
fn shown(name: String, map: &[f32], n: usize) -> Chart {
    let values = (0..n).map(|q| map.get(q * n..(q + 1) * n).unwrap_or_default().to_vec()).collect();
    Chart::Map { name, rows: "query".to_owned(), columns: "key".to_owned(), values }
}

/// Makes a figure from trained models, whose seeds begin with `first`, as do those of test strings; `kernels`
/// gives a backend for each.
///
/// # Errors
/// A model is missing or cannot be run.
pub fn draw<K: Kernels>(
    figure: Figure,
    out: &Path,
    (first, seeds): (u64, u64),
    steps: u32,
    kernels: &mut dyn FnMut() -> K,
) -> Result<Drawn> {
    let models = figure.models(first, seeds, steps)?;
    let (title, finding, charts) = match figure {
        Figure::A => sparse_or_not(&models, out, first, kernels)?,
        Figure::B => locked(&models, out, first, kernels)?,
        Figure::C => drift(&models, out, kernels)?,
        Figure::D => norms(&models, out)?,
        Figure::E => distances(&models, out)?,
        Figure::F => ideal(&models, out, kernels)?,
    };
    Ok(Drawn { figure: figure.letter(), title, finding, charts })
}

type Parts = (&'static str, String, Vec<Chart>);

fn sparse_or_not<K: Kernels>(
    models: &[Automata],
    out: &Path,
    seed: u64,
    kernels: &mut dyn FnMut() -> K,
) -> Result<Parts> {
    let s = Automaton::new(SHOWN, NOOP)?.string(seed.saturating_add(1), Split::Test, 0, 0);
    let (mut charts, mut words) = (Vec::new(), Vec::new());
    for a in models {
        let mut r = Ready::open(a, out, kernels())?;
        let m = measure(&mut r, seed, a.config.task.tokens, NOOP)?;
        words.push(format!(
            "{}: {} errors in {} states, mean greatest weight {:.3}, on the last write {:.3}",
            a.name, m.errors, m.asked, m.greatest, m.write
        ));
        charts.push(shown(a.name.clone(), head_map(&r.maps(&s.inputs)?, 0, 0), SHOWN));
    }
    Ok(("Attention of one head, without and with sharpening", words.join("; "), charts))
}

fn locked<K: Kernels>(
    models: &[Automata],
    out: &Path,
    seed: u64,
    kernels: &mut dyn FnMut() -> K,
) -> Result<Parts> {
    let s = Automaton::new(SHOWN, NOOP)?.string(seed.saturating_add(1), Split::Test, 0, 0);
    let (mut charts, mut words, mut worst) = (Vec::new(), Vec::new(), None);
    for noop in [NOOP, SPARSE] {
        let names = ["share of wrong states", "weight on the last write", "weight on the first positions"];
        let mut series = names.map(|name| Series { name: name.to_owned(), x: Vec::new(), y: Vec::new() });
        let (mut wrong, mut bound) = (0, 0);
        let of = models.iter().filter(|a| a.config.task.ignore == [noop]);
        for a in of {
            let mut r = Ready::open(a, out, kernels())?;
            let m = measure(&mut r, seed, a.config.task.tokens, noop)?;
            let rate = m.errors as f64 / m.asked.max(1) as f64;
            for (s, y) in series.iter_mut().zip([rate, m.write, m.first]) {
                s.x.push(a.config.seed as f64);
                s.y.push(y);
            }
            wrong += usize::from(rate > 0.01);
            bound += usize::from(rate > 0.01 && m.first > 0.5);
            if worst.as_ref().is_none_or(|(most, _, _)| rate > *most) {
                let map = head_map(&r.maps(&s.inputs)?, 0, 0).to_vec();
                worst = Some((rate, a.name.clone(), map));
            }
        }
        let n = series[0].x.len();
        words.push(format!(
            "doing nothing {noop}: {wrong} of {n} models wrong in more than 1 % of states, {bound} of them locked \
             on the first {FIRST} positions"
        ));
        charts.push(Chart::Lines {
            name: format!("sharpened models, doing nothing {noop}"),
            x: "seed".to_owned(),
            y: "share".to_owned(),
            series: series.to_vec(),
        });
    }
    if let Some((rate, name, map)) = worst {
        words.push(format!("the worst, {name}, is wrong in {:.2} % of states", 100.0 * rate));
        charts.push(shown(name, &map, SHOWN));
    }
    Ok(("Sharpened models that are wrong", words.join("; "), charts))
}

fn drift<K: Kernels>(models: &[Automata], out: &Path, kernels: &mut dyn FnMut() -> K) -> Result<Parts> {
    const RECENT: usize = 32;
    let (mut charts, mut words) = (Vec::new(), Vec::new());
    for a in models {
        let mut r = Ready::open(a, out, kernels())?;
        let mut first_wrong = Vec::new();
        for (case, s) in ["one write", "two writes"].into_iter().zip(drift_inputs()) {
            let n = s.inputs.len();
            let tensors = r.maps(&s.inputs)?;
            let map = head_map(&tensors, 0, 0);
            let right = right(&tensors, &s);
            let on_write = |q: usize| f64::from(row_of(map, n, q)[s.written[q]]);
            let recent = |q: usize| {
                let row = row_of(map, n, q);
                let from = (q + 1).saturating_sub(RECENT).max(s.written[q] + 1).min(q + 1);
                sum(&row[from..])
            };
            let x: Vec<f64> = (0..n).map(|q| q as f64).collect();
            let line = |name: &str, y: Vec<f64>| Series { name: name.to_owned(), x: x.clone(), y };
            charts.push(Chart::Lines {
                name: format!("{}, {case}", a.name),
                x: "query".to_owned(),
                y: "weight".to_owned(),
                series: vec![
                    line("last write", (0..n).map(on_write).collect()),
                    line("elsewhere", (0..n).map(|q| (1.0 - on_write(q)).max(0.0)).collect()),
                    line("last 32 inputs", (0..n).map(recent).collect()),
                    line("right", right.iter().map(|r| f64::from(u8::from(*r))).collect()),
                ],
            });
            let wrong = right.iter().filter(|r| !**r).count();
            let from = right.iter().position(|r| !r);
            first_wrong.push(format!(
                "{case}: {wrong} of {n} states wrong{}, weight on the last write {:.3} at query 100 and {:.3} at the \
                 last",
                from.map_or_else(String::new, |f| format!(" (first at {f})")),
                on_write(100.min(n - 1)),
                on_write(n - 1)
            ));
        }
        let product = tie_break(&r.params).first().map_or(0.0, |t| t.product);
        words.push(format!("{}: {}; position times position {product:.3e}", a.name, first_wrong.join("; ")));
    }
    Ok(("Drift with linear positions, trained at length 500", words.join(". "), charts))
}

fn norms(models: &[Automata], out: &Path) -> Result<Parts> {
    let parts = [
        Part::Embed,
        Part::PosEmbed,
        Part::Q,
        Part::K,
        Part::V,
        Part::O,
        Part::Up,
        Part::Down,
        Part::Unembed,
    ];
    let regimes = Sharpened::ALL;
    let mut values = vec![vec![Vec::new(); regimes.len()]; parts.len()];
    for a in models {
        let params = a.params(out)?;
        let at = regimes.iter().position(|s| a.name.starts_with(&format!("{}-noop", s.name())));
        for (part, of) in parts.iter().zip(&mut values) {
            let x = params.get(*part, 0, Which::Weight).unwrap_or_default();
            let square: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            if let Some(at) = at {
                of[at].push((a.config.seed, square.sqrt()));
            }
        }
    }
    let mean = |x: &[(u64, f64)]| x.iter().map(|x| x.1).sum::<f64>() / x.len().max(1) as f64;
    let (mut charts, mut words) = (Vec::new(), Vec::new());
    for (part, of) in parts.iter().zip(&values) {
        let line = |(regime, y): (&Sharpened, &Vec<(u64, f64)>)| Series {
            name: regime.name().to_owned(),
            x: y.iter().map(|(seed, _)| *seed as f64).collect(),
            y: y.iter().map(|(_, y)| *y).collect(),
        };
        charts.push(Chart::Lines {
            name: format!("{part:?}"),
            x: "seed".to_owned(),
            y: "Frobenius norm".to_owned(),
            series: regimes.iter().zip(of).map(line).collect(),
        });
        if matches!(part, Part::Q | Part::K | Part::V) {
            let of = regimes.iter().zip(of).map(|(r, x)| format!("{} {:.2}", r.name(), mean(x)));
            words.push(format!("{part:?}: {}", of.collect::<Vec<_>>().join(", ")));
        }
    }
    Ok(("Norms of the weights by sharpening", format!("means over seeds, {}", words.join("; ")), charts))
}

fn distances(models: &[Automata], out: &Path) -> Result<Parts> {
    let mut snapshots = Vec::new();
    for a in models {
        snapshots.extend(a.snapshots(out)?);
    }
    let layers = snapshots.first().map_or(0, |s| s.distances.len());
    let (mut charts, mut words) = (Vec::new(), Vec::new());
    let x: Vec<f64> = snapshots.iter().map(|s| f64::from(s.step)).collect();
    for layer in 0..layers {
        let pairs = snapshots.first().map_or(0, |s| s.distances[layer].len());
        let of =
            |pair: usize| snapshots.iter().filter_map(|s| s.distances[layer].get(pair).copied()).collect();
        let line = |pair| Series { name: format!("pair {pair}"), x: x.clone(), y: of(pair) };
        charts.push(Chart::Lines {
            name: format!("layer {layer}"),
            x: "step".to_owned(),
            y: "ℓ2 distance of two heads' maps".to_owned(),
            series: (0..pairs).map(line).collect(),
        });
        let mean =
            |s: &super::automata::Snapshot| s.distances[layer].iter().sum::<f64>() / pairs.max(1) as f64;
        if let (Some(first), Some(last)) = (snapshots.first(), snapshots.last()) {
            words.push(format!("layer {layer} {:.2} to {:.2}", mean(first), mean(last)));
        }
    }
    let finding = format!("mean over pairs at the first and the last snapshot: {}", words.join(", "));
    Ok(("Distances between heads over training", finding, charts))
}

fn ideal<K: Kernels>(models: &[Automata], out: &Path, kernels: &mut dyn FnMut() -> K) -> Result<Parts> {
    let (mut charts, mut words) = (Vec::new(), Vec::new());
    let n = PROBE.len();
    // The last write at or before each query.
    let wanted = |q: usize| (0..=q).rev().find(|k| PROBE[*k] != Automaton::NOOP).unwrap_or(0);
    for a in models {
        let mut r = Ready::open(a, out, kernels())?;
        let tensors = r.maps(&PROBE)?;
        let (layers, heads) = (r.model.spec.n_layers, r.model.spec.n_heads);
        let difference = |layer, head| {
            let map = head_map(&tensors, layer, head);
            let cell =
                |q: usize, k: usize| f64::from((map[q * n + k] - f32::from(u8::from(k == wanted(q)))).abs());
            (0..n).flat_map(|q| (0..=q).map(move |k| (q, k))).map(|(q, k)| cell(q, k)).fold(0.0, f64::max)
        };
        let all: Vec<Vec<f64>> =
            (0..layers).map(|l| (0..heads).map(|h| difference(l, h)).collect()).collect();
        let near = |l: &Vec<f64>| l.iter().filter(|d| **d <= IDEAL).count().to_string();
        let nearest = all.first().and_then(|l| l.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)));
        if let Some((head, d)) = nearest {
            words.push(format!(
                "{}: heads within {IDEAL} of the ideal map, by layer: {}; nearest in the first layer 0.{head}, off by \
                 {d:.3}",
                a.name,
                all.iter().map(near).collect::<Vec<_>>().join(", ")
            ));
            charts.push(shown(format!("{}, head 0.{head}", a.name), head_map(&tensors, 0, head), n));
        }
        let values = all.iter().map(|l| l.iter().map(|d| *d as f32).collect()).collect();
        charts.push(Chart::Map {
            name: format!("{}, largest difference from the ideal map", a.name),
            rows: "layer".to_owned(),
            columns: "head".to_owned(),
            values,
        });
    }
    Ok(("First-layer heads and the ideal map", words.join(". "), charts))
}
