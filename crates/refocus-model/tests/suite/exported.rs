//! A folder written from a checkpoint computes what the checkpoint computes, to the last bit.

use std::path::{Path, PathBuf};

use refocus_compute::{Cpu, Eager};
use refocus_model::export::{Export, Precision};
use refocus_model::{Checkpoint, Model, capture};

use crate::expected::{all, isa, tokens};

fn logits(path: &Path, seqs: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let checkpoint = Checkpoint::open(path).expect("opens");
    let mut cpu = Cpu::new(isa(), 2);
    let m = Model::load(&checkpoint, &mut cpu).expect("loads");
    let got = capture(&mut Eager::new(cpu), &m, seqs, &[], true, &[]).expect("runs");
    got.into_iter().map(|mut s| s.remove("logits").expect("logits").data).collect()
}

struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_fixture_gives_the_same_bits_from_the_folder_written_for_it() {
    let temp = Temp(std::env::temp_dir().join(format!("refocus-exported-{}", std::process::id())));
    std::fs::create_dir_all(&temp.0).expect("folder");
    for (name, path) in all() {
        let checkpoint = Checkpoint::open(&path).expect("opens");
        let seqs = tokens(&path);
        let want = logits(&path, &seqs);
        for precision in [Precision::Keep, Precision::F32] {
            let dir = temp.0.join(format!("{name}-{precision:?}"));
            let mut export = Export::of(&checkpoint).expect("can be written");
            export.precision(precision).write(&dir, false, &mut |_, _| {}).expect("is written");
            let got = logits(&dir, &seqs);
            if name == "gguf-llama3-f16" {
                // Its table of divisors, rounded to f32, becomes the numbers that it was made from.
                for (g, w) in got.iter().flatten().zip(want.iter().flatten()) {
                    assert!((g - w).abs() <= 1e-5 * w.abs().max(1.0), "{name}: {g} for {w}");
                }
            } else {
                assert!(
                    got.iter().flatten().map(|x| x.to_bits()).eq(want.iter().flatten().map(|x| x.to_bits())),
                    "{name}"
                );
            }
        }
    }
}
