//! Every fixture against the values that `transformers` computed: every site, every position.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refocus_compute::{Cpu, Eager, Isa, Reference};
use refocus_model::{Checkpoint, HostTensor, Model, SeqTensors, Site, capture};

/// The tolerance class of f32 on CPU: the difference, scaled by max(1, |expected|).
const F32_PARITY: f32 = 1e-4;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// Folder or file that `Checkpoint::open` takes, for every fixture.
pub fn all() -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = std::fs::read_dir(fixtures())
        .expect("fixtures")
        .filter_map(|e| {
            let dir = e.expect("entry").path();
            let name = dir.file_name()?.to_str()?.to_owned();
            let gguf = dir.join("model.gguf");
            let model = if gguf.exists() { gguf } else { dir.clone() };
            dir.join("expected.safetensors").exists().then_some((name, model))
        })
        .collect();
    found.sort();
    found
}

pub fn tokens(model: &Path) -> Vec<Vec<u32>> {
    let dir = if model.is_dir() { model } else { model.parent().expect("folder") };
    serde_json::from_slice(&std::fs::read(dir.join("tokens.json")).expect("tokens")).expect("json")
}

/// Expected f32 tensors by `seqN/name`.
fn expected(model: &Path) -> BTreeMap<String, HostTensor> {
    let dir = if model.is_dir() { model } else { model.parent().expect("folder") };
    let bytes = std::fs::read(dir.join("expected.safetensors")).expect("expected");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    file.tensors()
        .into_iter()
        .filter(|(_, t)| t.dtype() == safetensors::Dtype::F32)
        .map(|(name, t)| {
            let data = t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            (name, HostTensor { shape: t.shape().to_vec(), data })
        })
        .collect()
}

/// Greatest scaled difference, −∞ equal to −∞.
fn difference(got: &HostTensor, want: &HostTensor) -> f32 {
    assert_eq!(got.shape, want.shape);
    got.data
        .iter()
        .zip(&want.data)
        .map(|(g, w)| if g == w { 0.0 } else { (g - w).abs() / w.abs().max(1.0) })
        .fold(0.0, |m, d| if d.is_nan() || d > m { d } else { m })
}

fn top1(logits: &HostTensor) -> Vec<usize> {
    let vocab = logits.shape[1];
    let best = |row: &[f32]| (0..vocab).fold(0, |b, i| if row[i] > row[b] { i } else { b });
    logits.data.chunks_exact(vocab).map(best).collect()
}

fn check(name: &str, model: &Path, got: &[SeqTensors]) {
    let want = expected(model);
    let mut compared = 0;
    for (key, want) in &want {
        let (seq, site) = key.split_once('/').expect("seqN/name");
        let seq: usize = seq.strip_prefix("seq").and_then(|s| s.parse().ok()).expect("number");
        let got = got[seq].get(site).unwrap_or_else(|| panic!("{name}: no {key}"));
        let d = difference(got, want);
        assert!(d <= F32_PARITY, "{name}: {key} differs by {d:e}");
        if site == "logits" {
            assert_eq!(top1(got), top1(want), "{name}: {key}");
        }
        compared += 1;
    }
    assert!(compared > 0, "{name}: nothing to compare");
}

#[test]
fn every_site_of_every_family_equals_transformers() {
    let isa = Isa::detect();
    for (name, path) in all() {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let mut cpu = Cpu::new(isa, 2);
        let m = Model::load(&checkpoint, &mut cpu).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let sites = Site::all(&m.spec);
        let mut o = Eager::new(cpu);
        let got = capture(&mut o, &m, &tokens(&path), &sites, true, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
        check(&name, &path, &got);
    }
}

#[test]
fn the_reference_equals_transformers_too() {
    for (name, path) in all() {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let mut k = Reference;
        let m = Model::load(&checkpoint, &mut k).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let sites = Site::all(&m.spec);
        let got = capture(&mut Eager::new(k), &m, &tokens(&path), &sites, true, &[])
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        check(&name, &path, &got);
    }
}
