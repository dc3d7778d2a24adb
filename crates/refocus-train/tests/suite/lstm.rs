//! The LSTM beside PyTorch's (`fixtures/lstm.py`).

use std::path::Path;

use refocus_compute::{Batch, Cpu, Isa, Kernels, Ops, ParamId, Reference, Tape, Vocab, VocabOut};
use refocus_train::{LstmShape, LstmWeights, Tensor, Weights};
use safetensors::SafeTensors;

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let t = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    t.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn whole(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let t = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    t.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

/// Loss and gradients on a backend within a tolerance relative to the largest number of each tensor.
fn agrees<K: Kernels>(kernels: K, tolerance: f32) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/lstm/lstm.safetensors");
    let bytes = std::fs::read(path).expect("the fixture");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let names: Vec<String> = {
        let first = LstmShape { vocab: 5, hidden: 24 }.init(0).expect("parameters");
        Weights::from(first).values().map(|(name, _)| name).collect()
    };
    let tensors = names
        .iter()
        .map(|name| Tensor { name: name.clone(), shape: [0, 0], data: floats(&file, name) })
        .collect();
    let shape = LstmShape { vocab: 5, hidden: 24 };
    let weights = LstmWeights::from_tensors(shape, tensors).expect("all parameters");

    let mut tape = Tape::new(kernels);
    let net = weights.pack(tape.kernels()).expect("a model");
    let lengths = whole(&file, "lengths");
    let batch = Batch::from_lengths(lengths.iter().map(|&n| n as usize));
    let (ids, rows, targets) = (whole(&file, "ids"), whole(&file, "rows"), whole(&file, "targets"));
    let nll = net.ask(&mut tape, &ids, &batch, &rows, Vocab::Nll(targets.into())).expect("an answer");
    let Some(VocabOut::Values(nll)) = nll else { panic!("no values") };
    let loss = tape.mean(&nll).expect("a loss");
    let got = tape.to_host(&loss).expect("a number")[0];
    let want = floats(&file, "loss")[0];
    assert!((got - want).abs() <= tolerance * want, "loss {got}, PyTorch's {want}");
    let grads = tape.backward(&loss, None).expect("gradients");
    for (i, name) in names.iter().enumerate() {
        let got = tape.kernels().download(grads.param(ParamId(i as u32)).expect(name)).expect("numbers");
        let want = floats(&file, &format!("grad.{name}"));
        let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(largest > 0.0 && got.len() == want.len(), "{name}");
        for (j, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!((g - w).abs() <= tolerance * largest, "{name}[{j}]: {g}, PyTorch's {w} ({largest})");
        }
    }
}

#[test]
fn loss_and_gradients_are_pytorchs() {
    agrees(Reference, 1e-6);
    for threads in [1, 3] {
        agrees(Cpu::new(Isa::detect(), threads), 2e-5);
    }
}
