//! The same weights from every format: the same numbers to the last bit.

use std::path::PathBuf;

use refocus_compute::{Cpu, Eager};
use refocus_model::checkpoint::Format;
use refocus_model::{Checkpoint, Model, capture};

use crate::expected::{fixtures, isa, tokens};

/// Opens a fixture by folder, or the GGUF file in it.
fn path(name: &str) -> PathBuf {
    let folder = fixtures().join(name);
    let gguf = folder.join("model.gguf");
    if gguf.exists() { gguf } else { folder }
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(path(name)).unwrap_or_else(|e| panic!("{name}: {e:?}"))
}

/// The bits of all logits.
fn logits(name: &str) -> Vec<Vec<u32>> {
    let mut cpu = Cpu::new(isa(), 2);
    let m = Model::load(&open(name), &mut cpu).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let seqs = tokens(&path(name));
    let got = capture(&mut Eager::new(cpu), &m, &seqs, &[], true, &[]).expect("runs");
    got.iter().map(|s| s["logits"].data.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Every fixture of the same f32 weights, the safetensors folder first.
const SAME: [&[&str]; 4] = [
    &["gpt2", "gpt2-pickle", "gpt2-pickle-old", "gpt2-pickle-sharded", "gguf-gpt2-f32"],
    &["neox", "gguf-neox-f32"],
    &["qwen2", "gguf-qwen2-f32"],
    &["qwen3", "gguf-qwen3-f32"],
];

#[test]
fn every_format_gives_the_same_bits() {
    for names in SAME {
        let want = logits(names[0]);
        assert!(want.iter().flatten().count() > 1000);
        for name in &names[1..] {
            assert!(logits(name) == want, "{name} differs from {}", names[0]);
        }
    }
}

#[test]
fn every_format_describes_the_same_model() {
    for names in SAME {
        let mut want = open(names[0]).spec().clone();
        for name in &names[1..] {
            let mut got = open(name).spec().clone();
            // The keys of a GGUF file name what the configuration leaves to the family.
            (want.bos, want.eos) = (None, Vec::new());
            (got.bos, got.eos) = (None, Vec::new());
            assert_eq!(got, want, "{name}");
        }
    }
}

#[test]
fn formats_are_told_apart() {
    assert_eq!(open("gpt2").format(), Format::Safetensors);
    assert_eq!(open("gpt2-pickle-sharded").format(), Format::PyTorch);
    assert_eq!(open("gguf-gpt2-f16").format(), Format::Gguf);
}

/// The pickles carry the tied head as well; the safetensors folder does not.
#[test]
fn fingerprints_do_not_depend_on_how_the_same_tensors_are_packed() {
    let print = |name: &str| open(name).fingerprint().expect("fingerprint");
    for name in ["gpt2-pickle", "gpt2-pickle-old", "gpt2-pickle-sharded"] {
        assert!(
            open(name).tensor("lm_head.weight").is_ok() && open("gpt2").tensor("lm_head.weight").is_err()
        );
        assert_eq!(print(name), print("gpt2"), "{name}");
    }
    assert_ne!(print("gpt2"), print("gguf-gpt2-f32"));
}
