//! Real files with some bytes changed: each gives a model or one error, never a panic.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use refocus_compute::{Cpu, Eager};
use refocus_model::checkpoint::Overview;
use refocus_model::export::Export;
use refocus_model::{Checkpoint, Model, Site, capture};

use crate::expected::{Case, cases, fixtures, isa};

/// Changed copies of each fixture.
const CASES: usize = 16;
/// Changed copies of each real model.
const REAL_CASES: usize = 24;
/// Headers and configurations lie in the first bytes of a file.
const HEAD: usize = 4096;

/// xorshift64*.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n.max(1)
    }

    /// Changes one to eight bytes: another value, a flipped bit, or an extreme.
    fn change(&mut self, bytes: &mut [u8]) {
        for _ in 0..1 + self.below(8) {
            let (at, bit) = (self.below(bytes.len()), self.below(8));
            bytes[at] = match self.below(4) {
                0 => self.below(256) as u8,
                1 => 0,
                2 => 0xff,
                _ => bytes[at] ^ 1 << bit,
            };
        }
    }
}

/// A folder that is removed in the end.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("refocus-mutated-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("folder");
        Self(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens what is there and uses all of it; `run` packs and runs it too. Whether it opened.
fn use_all(path: &Path, run: bool) -> bool {
    let overview = Overview::of(path);
    let Ok(c) = Checkpoint::open(path) else { return false };
    assert!(overview.is_ok(), "{}: opens, but cannot be described", path.display());
    if let Ok(t) = c.tokenizer() {
        let _ = t.encode("The cat, 12!", true).map(|ids| t.decode(&ids, false));
    }
    let _ = c.fingerprint();
    let _ = Export::of(&c);
    if run {
        let mut cpu = Cpu::new(isa(), 1);
        if let Ok(m) = Model::load(&c, &mut cpu) {
            let sites = Site::all(&m.spec);
            let _ = capture(&mut Eager::new(cpu), &m, &[vec![0], vec![1, 2, 0]], &sites, true, &[]);
        }
    }
    true
}

#[test]
fn no_change_of_a_fixture_panics() {
    let temp = Temp::new("fixtures");
    let (mut opened, mut refused) = (0, 0);
    let pickled = ["gpt2-pickle", "gpt2-pickle-old", "gpt2-pickle-sharded"].map(|name| {
        let folder = fixtures().join(name);
        Case { name: name.to_owned(), model: folder.clone(), values: folder }
    });
    for case in cases().into_iter().chain(pickled) {
        let rng = &mut Rng(0x5eed ^ (case.name.len() as u64 * 7919));
        let dir = temp.0.join(&case.name);
        fs::create_dir_all(&dir).expect("folder");
        let parts = [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "model.gguf",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ];
        let shards = (1..=3).flat_map(|i| {
            let of = format!("0000{i}-of-00003");
            [format!("model-{of}.safetensors"), format!("pytorch_model-{of}.bin")]
        });
        let names: Vec<String> = parts.iter().map(|p| (*p).to_owned()).chain(shards).collect();
        let files: Vec<(String, Vec<u8>)> = names
            .into_iter()
            .filter_map(|n| Some((n.clone(), fs::read(case.values.join(n)).ok()?)))
            .collect();
        files.iter().for_each(|(n, bytes)| fs::write(dir.join(n), bytes).expect("writes"));
        let model = if case.model.is_dir() { dir.clone() } else { dir.join("model.gguf") };
        assert!(use_all(&model, true), "{}: the copy itself", case.name);
        for _ in 0..CASES {
            let (name, whole) = &files[rng.below(files.len())];
            let mut bytes = whole.clone();
            let (n, head) = (bytes.len(), bytes.len().min(HEAD));
            // The directory of a zip archive stands at its end.
            match rng.below(2) {
                0 if name.ends_with(".bin") => rng.change(&mut bytes[n - head..]),
                _ => rng.change(&mut bytes[..head]),
            }
            if rng.below(8) == 0 {
                bytes.truncate(rng.below(whole.len()));
            }
            fs::write(dir.join(name), bytes).expect("writes");
            *if use_all(&model, true) { &mut opened } else { &mut refused } += 1;
            fs::write(dir.join(name), whole).expect("writes");
        }
    }
    // Both happen, so that more than the first check is met.
    assert!(opened > 20 && refused > 100, "{opened} opened, {refused} refused");
}

/// GGUF files in the folders of `REFOCUS_MODELS`.
fn real_models() -> Vec<PathBuf> {
    let folders = std::env::var_os("REFOCUS_MODELS").unwrap_or_default();
    let entries = std::env::split_paths(&folders).filter_map(|f| fs::read_dir(f).ok()).flatten().flatten();
    let mut found: Vec<_> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    found.sort();
    found
}

#[test]
fn no_change_of_a_real_header_panics() {
    let models = real_models();
    if models.is_empty() {
        eprintln!("skipped: REFOCUS_MODELS names no folder with a GGUF file");
    }
    let temp = Temp::new("real");
    for model in models {
        let Ok(c) = Checkpoint::open(&model) else {
            eprintln!("skipped: {} is not supported", model.display());
            continue;
        };
        // Everything before the tensors. They follow as a hole of zeros: only headers are read here.
        let length = fs::metadata(&model).expect("length").len();
        let tensors: usize = c.tensors().map(|t| t.bytes).sum();
        let mut head = vec![0; (length as usize).saturating_sub(tensors)];
        fs::File::open(&model).and_then(|mut f| f.read_exact(&mut head)).expect("reads");
        let copy = temp.0.join("model.gguf");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&copy).expect("file");
        file.set_len(length).expect("length");
        let mut put = |bytes: &[u8]| {
            file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(bytes)).expect("writes");
        };
        put(&head);
        assert!(use_all(&copy, false), "{}: the copy itself", model.display());
        let rng = &mut Rng(0x5eed);
        for case in 0..REAL_CASES {
            let mut bytes = head.clone();
            let n = bytes.len();
            // Keys at the front, the tokenizer in the middle, descriptions of tensors at the end.
            match case % 3 {
                0 => rng.change(&mut bytes[..n.min(HEAD)]),
                1 => rng.change(&mut bytes),
                _ => rng.change(&mut bytes[n - n.min(4 * HEAD)..]),
            }
            put(&bytes);
            use_all(&copy, false);
        }
        fs::remove_file(&copy).expect("removes");
    }
}
