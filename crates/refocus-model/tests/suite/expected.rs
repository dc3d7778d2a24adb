//! What `transformers` computed, beside what refocus computes. Shared by the tests and
//! `examples/parity.rs`, which writes `docs/parity.md`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use refocus_compute::{Cpu, Eager, Isa, Kernels, Reference};
use refocus_model::generate::{Engine, Limits, Request, complete};
use refocus_model::{Checkpoint, Family, HostTensor, Model, SeqTensors, Site, capture};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// The tolerance class of f32 on CPU: the difference, scaled by max(1, |expected|).
pub const F32_PARITY: f64 = 1e-4;

/// Errors up to this multiple of those of `transformers` count as no greater: both are rounding.
pub const AS_NEAR: f64 = 1.5;

/// The folder of all fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The instruction set under test.
pub fn isa() -> Isa {
    Isa::from_env().expect("REFOCUS_ISA")
}

/// A model and the folder with its expected values.
pub struct Case {
    pub name: String,
    /// What `Checkpoint::open` takes.
    pub model: PathBuf,
    pub values: PathBuf,
}

/// Every fixture, in the order of their names.
pub fn cases() -> Vec<Case> {
    let entries = std::fs::read_dir(fixtures()).expect("fixtures").map(|e| e.expect("entry").path());
    let mut found: Vec<_> = entries
        .filter(|dir| dir.join("expected.safetensors").exists())
        .map(|values| {
            let gguf = values.join("model.gguf");
            let model = if gguf.exists() { gguf } else { values.clone() };
            Case {
                name: values.file_name().and_then(|n| n.to_str()).expect("name").to_owned(),
                model,
                values,
            }
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Folder or file that `Checkpoint::open` takes, for every fixture.
pub fn all() -> Vec<(String, PathBuf)> {
    cases().into_iter().map(|c| (c.name, c.model)).collect()
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The sequences of a fixture, by its model.
pub fn tokens(model: &Path) -> Vec<Vec<u32>> {
    json(&if model.is_dir() { model } else { model.parent().expect("folder") }.join("tokens.json"))
}

/// An expected tensor, widened.
struct Wanted {
    shape: Vec<usize>,
    data: Vec<f64>,
}

/// `expected.safetensors` by name.
fn wanted(folder: &Path) -> BTreeMap<String, Wanted> {
    let bytes = std::fs::read(folder.join("expected.safetensors")).expect("expected.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let widen = |(name, t): (String, safetensors::tensor::TensorView<'_>)| {
        let bytes = t.data();
        let data = match t.dtype() {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            other => panic!("{name} is {other:?}"),
        };
        (name, Wanted { shape: t.shape().to_vec(), data })
    };
    file.tensors().into_iter().map(widen).collect()
}

/// The greatest of some differences, each scaled by max(1, |expected|), and their root mean square.
#[derive(Clone, Copy, Debug, Default)]
pub struct Error {
    pub greatest: f64,
    squares: f64,
    count: usize,
}

impl Error {
    fn add(&mut self, got: impl IntoIterator<Item = f64>, want: &[f64]) {
        for (g, w) in got.into_iter().zip(want) {
            // −∞ equals −∞.
            let d = if g == *w { 0.0 } else { (g - w).abs() / w.abs().max(1.0) };
            // NaN wins and stays.
            self.greatest = if d.is_nan() || d > self.greatest { d } else { self.greatest };
            self.squares += d * d;
            self.count += 1;
        }
    }

    pub fn rms(&self) -> f64 {
        (self.squares / self.count.max(1) as f64).sqrt()
    }
}

/// How many of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub equal: usize,
    pub of: usize,
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.equal, self.of)
    }
}

/// All that was compared of one model.
#[derive(Debug)]
pub struct Comparison {
    pub family: Family,
    /// Stored types, most bytes first.
    pub stored: Vec<&'static str>,
    pub sequences: usize,
    pub tokens: usize,
    /// Tensors compared: one a site and sequence.
    pub tensors: usize,
    /// Over all sites, logits among them.
    pub sites: Error,
    /// The tensor of the greatest difference.
    pub worst: String,
    pub logits: Error,
    /// Logits of refocus beside an f64 run of `transformers`.
    pub ours: Error,
    /// Logits of `transformers` in f32 beside its own f64 run.
    pub theirs: Error,
    /// Positions whose highest logit is the same token.
    pub top1: Share,
    /// Prompts whose greedy continuation is the same to the last token, and the new tokens of each.
    pub greedy: Option<(Share, usize)>,
    /// Where some site differs by more than [`F32_PARITY`]: what the difference is made of.
    pub cause: Option<Cause>,
}

/// Sites beside the same model on f64 kernels: whose rounding a difference is.
#[derive(Debug)]
pub struct Cause {
    /// Tensors that differ from those of `transformers` by at most [`F32_PARITY`].
    pub within: Share,
    /// All sites of refocus.
    pub ours: Error,
    /// All sites of `transformers`.
    pub theirs: Error,
    /// The greatest magnitude at any site.
    pub magnitude: f64,
}

impl Comparison {
    /// Within the tolerance; a site may be beyond it only where `transformers` itself is as far from the
    /// exact values.
    pub fn passed(&self) -> bool {
        let rounding = |c: &Cause| {
            c.ours.greatest <= AS_NEAR * c.theirs.greatest && c.ours.rms() <= AS_NEAR * c.theirs.rms()
        };
        (self.sites.greatest <= F32_PARITY || self.cause.as_ref().is_some_and(rounding))
            && self.logits.greatest <= F32_PARITY
            && self.top1.equal == self.top1.of
            && self.greedy.is_none_or(|(s, _)| s.equal == s.of)
    }
}

/// Greedy continuations of some prompts, computed together.
pub fn greedy<K: Kernels>(
    o: &mut Eager<K>,
    m: &Model<K>,
    prompts: &[Vec<u32>],
    max_new: usize,
) -> Vec<Vec<u32>> {
    let requests = prompts.iter().map(|p| Request::new(p.clone(), max_new)).collect();
    let outputs =
        complete(&mut Engine::new(o, m, None, Limits::default()), requests, |_| ControlFlow::Continue(()));
    let samples = outputs.expect("requests that fit").into_iter().flatten();
    samples.map(|o| o.finish.map(|_| o.tokens.iter().map(|t| t.id).collect()).expect("generates")).collect()
}

fn stored(checkpoint: &Checkpoint) -> Vec<&'static str> {
    let mut bytes = BTreeMap::<&str, usize>::new();
    checkpoint.tensors().for_each(|t| *bytes.entry(t.dtype.name()).or_default() += t.bytes);
    let mut names: Vec<_> = bytes.into_iter().collect();
    names.sort_by_key(|n| std::cmp::Reverse(n.1));
    names.into_iter().map(|n| n.0).collect()
}

fn best<T: PartialOrd>(row: &[T]) -> usize {
    (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b })
}

/// Runs a case on f32 kernels and compares everything that was written down for it.
pub fn compare_on_cpu(case: &Case) -> Comparison {
    compare(case, Cpu::new(isa(), 2))
}

/// Runs a case and compares everything that was written down for it.
pub fn compare<K: Kernels>(case: &Case, mut kernels: K) -> Comparison {
    let name = &case.name;
    let checkpoint = Checkpoint::open(&case.model).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let m = Model::load(&checkpoint, &mut kernels).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let seqs: Vec<Vec<u32>> = json(&case.values.join("tokens.json"));
    let wanted = wanted(&case.values);
    let mut sites: Vec<Site> = wanted.keys().filter_map(|k| k.split_once('/')?.1.parse().ok()).collect();
    sites.sort();
    sites.dedup();
    let mut o = Eager::new(kernels);
    let got = capture(&mut o, &m, &seqs, &sites, true, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut c = Comparison {
        family: m.spec.family,
        stored: stored(&checkpoint),
        sequences: seqs.len(),
        tokens: seqs.iter().map(Vec::len).sum(),
        tensors: 0,
        sites: Error::default(),
        worst: String::new(),
        logits: Error::default(),
        ours: Error::default(),
        theirs: Error::default(),
        top1: Share::default(),
        greedy: None,
        cause: None,
    };
    for (i, got) in got.iter().enumerate() {
        sequence(&mut c, name, i, got, &wanted);
    }
    let continuations = case.values.join("greedy.json");
    if continuations.exists() {
        #[derive(Deserialize)]
        struct Continuation {
            ids: Vec<u32>,
        }
        let want: Vec<Continuation> = json(&continuations);
        let max_new = want.iter().map(|w| w.ids.len()).max().unwrap_or(0);
        let got = greedy(&mut o, &m, &seqs, max_new);
        let equal = got.iter().zip(&want).filter(|(g, w)| **g == w.ids).count();
        c.greedy = Some((Share { equal, of: want.len() }, max_new));
    }
    if c.sites.greatest > F32_PARITY {
        c.cause = Some(cause(&checkpoint, &seqs, &sites, &got, &wanted));
    }
    c
}

/// Runs the sequences whose sites were written down on f64 kernels.
fn cause(
    checkpoint: &Checkpoint,
    seqs: &[Vec<u32>],
    sites: &[Site],
    got: &[SeqTensors],
    wanted: &BTreeMap<String, Wanted>,
) -> Cause {
    let mut k = Reference;
    let m = Model::load(checkpoint, &mut k).expect("loads");
    let mut o = Eager::new(k);
    let mut c =
        Cause { within: Share::default(), ours: Error::default(), theirs: Error::default(), magnitude: 0.0 };
    for (i, seq) in seqs.iter().enumerate() {
        let here: Vec<Site> =
            sites.iter().copied().filter(|s| wanted.contains_key(&format!("seq{i}/{s}"))).collect();
        if here.is_empty() {
            continue;
        }
        let exact = capture(&mut o, &m, std::slice::from_ref(seq), &here, false, &[]).expect("runs");
        for (site, exact) in &exact[0] {
            let exact: Vec<f64> = exact.data.iter().map(|&x| f64::from(x)).collect();
            let ours = got[i][site].data.iter().map(|&x| f64::from(x));
            let theirs = &wanted[&format!("seq{i}/{site}")].data;
            let mut difference = Error::default();
            difference.add(ours.clone(), theirs);
            c.within.equal += usize::from(difference.greatest <= F32_PARITY);
            c.within.of += 1;
            c.ours.add(ours, &exact);
            c.theirs.add(theirs.iter().copied(), &exact);
            let finite = exact.iter().filter(|x| x.is_finite());
            c.magnitude = finite.fold(c.magnitude, |m, x| m.max(x.abs()));
        }
    }
    c
}

/// Compares what is there of one sequence: sites, logits of all positions or the last, the best tokens.
fn sequence(c: &mut Comparison, name: &str, i: usize, got: &SeqTensors, wanted: &BTreeMap<String, Wanted>) {
    let logits = &got["logits"];
    let vocab = logits.shape[1];
    let last = HostTensor { shape: vec![1, vocab], data: logits.data[logits.data.len() - vocab..].to_vec() };
    let of = |key: &str| wanted.get(&format!("seq{i}/{key}"));
    let wide = |t: &HostTensor| t.data.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let prefix = format!("seq{i}/");
    let all = wanted.iter().filter_map(|(k, w)| Some((k.strip_prefix(&prefix)?, w)));
    for (key, want) in all.filter(|(k, _)| *k != "argmax" && !k.ends_with("_f64")) {
        let got = match key {
            "logits_last" => &last,
            _ => got.get(key).unwrap_or_else(|| panic!("{name}: no {prefix}{key}")),
        };
        assert_eq!(got.shape, want.shape, "{name}: {prefix}{key}");
        let before = c.sites.greatest;
        c.sites.add(wide(got), &want.data);
        if c.sites.greatest != before {
            c.worst = format!("{prefix}{key}");
        }
        c.tensors += 1;
        if key.starts_with("logits") {
            c.logits.add(wide(got), &want.data);
        }
    }
    // All positions where they were written down, else the last.
    let (got64, want64, want32) = match (of("logits_f64"), of("logits")) {
        (Some(w64), Some(w32)) => (wide(logits), w64, w32),
        _ => match (of("logits_last_f64"), of("logits_last")) {
            (Some(w64), Some(w32)) => (wide(&last), w64, w32),
            _ => panic!("{name}: no logits of sequence {i}"),
        },
    };
    c.ours.add(got64, &want64.data);
    c.theirs.add(want32.data.iter().copied(), &want64.data);
    let want: Vec<usize> = match (of("argmax"), of("logits")) {
        (Some(a), _) => a.data.iter().map(|&x| x as usize).collect(),
        (None, Some(l)) => l.data.chunks_exact(vocab).map(best).collect(),
        (None, None) => Vec::new(),
    };
    let got = logits.data.chunks_exact(vocab).map(best);
    c.top1.equal += got.zip(&want).filter(|(g, w)| g == *w).count();
    c.top1.of += want.len();
}

/// The heads of the tables in `docs/parity.md`.
pub const HEADS: [&str; 10] = [
    "model",
    "family",
    "stored as",
    "sequences (tokens)",
    "tensors compared",
    "greatest difference",
    "in the logits",
    "error of refocus",
    "error of transformers",
    "top-1 equal",
];

/// Columns that hold measured differences; all others follow from the fixtures alone.
pub const MEASURED: std::ops::Range<usize> = 5..9;

/// A row under [`HEADS`].
pub fn row(name: &str, c: &Comparison) -> Vec<String> {
    let pair = |e: &Error| format!("{:.1e} / {:.1e}", e.greatest, e.rms());
    vec![
        name.to_owned(),
        c.family.model_type().to_owned(),
        c.stored.join(" + ").to_lowercase(),
        format!("{} ({})", c.sequences, c.tokens),
        c.tensors.to_string(),
        format!("{:.1e}", c.sites.greatest),
        format!("{:.1e}", c.logits.greatest),
        pair(&c.ours),
        pair(&c.theirs),
        c.top1.to_string(),
    ]
}
