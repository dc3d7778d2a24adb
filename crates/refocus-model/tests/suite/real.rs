//! A real quantised model beside `transformers`, where the file is at hand.

use std::path::PathBuf;

use refocus_compute::{Cpu, Eager};
use refocus_model::{Checkpoint, Model, capture};
use safetensors::SafeTensors;

use crate::expected::{F32_PARITY, fixtures, isa, tokens};

const QWEN: &str = "qwen2.5-coder-0.5b-instruct.gguf";

/// Every so many logits were written down.
const EVERY: usize = 200;

/// The file of that name in a folder of `REFOCUS_MODELS`.
fn model(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("REFOCUS_MODELS")?;
    std::env::split_paths(&folders).map(|f| f.join(name)).find(|p| p.is_file())
}

/// Q5_0, Q8_0, Q6_K and Q4_K in one file. Logits at the last position, and the best token at all.
#[test]
fn qwen_q4_k_m_equals_transformers() {
    let Some(path) = model(QWEN) else {
        eprintln!("skipped: REFOCUS_MODELS names no folder with {QWEN}");
        return;
    };
    let folder = fixtures().join("qwen2.5-coder");
    let bytes = std::fs::read(folder.join("sample.safetensors")).expect("fixture");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let seqs = tokens(&folder);
    let checkpoint = Checkpoint::open(&path).expect("opens");
    let prompts: Vec<String> =
        serde_json::from_slice(&std::fs::read(folder.join("prompts.json")).expect("fixture")).expect("JSON");
    let tokenizer = checkpoint.tokenizer().expect("tokenizer");
    for (prompt, ids) in prompts.iter().zip(&seqs) {
        assert_eq!(&tokenizer.encode(prompt, true).expect("encodes"), ids, "{prompt}");
    }
    let mut cpu = Cpu::new(isa(), 2);
    let m = Model::load(&checkpoint, &mut cpu).expect("loads");
    let mut o = Eager::new(cpu);
    for (i, seq) in seqs.iter().enumerate() {
        let got = capture(&mut o, &m, std::slice::from_ref(seq), &[], true, &[]).expect("runs");
        let logits = &got[0]["logits"];
        let vocab = logits.shape[1];
        let best = |row: &[f32]| (0..vocab).fold(0, |b, j| if row[j] > row[b] { j } else { b }) as u64;
        let argmax: Vec<u64> = logits.data.chunks_exact(vocab).map(best).collect();
        let tensor = |part: &str| file.tensor(&format!("seq{i}/{part}")).expect("tensor");
        let want: Vec<u64> =
            tensor("argmax").data().as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        assert_eq!(argmax, want, "sequence {i}");
        let last = logits.data[logits.data.len() - vocab..].iter().step_by(EVERY).map(|&x| f64::from(x));
        let f32s = tensor("logits");
        let theirs = f32s.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
        let f64s = tensor("logits_f64");
        let exact = f64s.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b));
        assert_eq!(theirs.len(), vocab.div_ceil(EVERY));
        for ((ours, theirs), exact) in last.zip(theirs).zip(exact) {
            for want in [theirs, exact] {
                let d = (ours - want).abs() / want.abs().max(1.0);
                assert!(d <= F32_PARITY, "sequence {i}: {ours} and {want}");
            }
        }
    }
}
