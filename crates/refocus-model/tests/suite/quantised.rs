//! Quantised blocks beside what `gguf.dequantize` makes of them.

use refocus_compute::{Cpu, Dtype, Kernels, MatrixSource};
use safetensors::SafeTensors;

use crate::expected::{fixtures, isa};

/// Random bytes with any finite scale, and rows that llama.cpp quantised: the weights are the same to the
/// bit, decoded one by one and from panels.
#[test]
fn every_block_type_is_decoded_as_gguf_decodes_it() {
    let bytes = std::fs::read(fixtures().join("quantised/blocks.safetensors")).expect("fixture");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let quantised: Vec<_> = Dtype::ALL.into_iter().filter(|d| d.block() > 1).collect();
    assert_eq!(file.len(), 2 * quantised.len());
    for dtype in quantised {
        let tensor = |part: &str| file.tensor(&format!("{}/{part}", dtype.name())).expect("tensor");
        let (stored, values) = (tensor("bytes"), tensor("values"));
        let [n, k] = values.shape()[..] else { panic!("shape") };
        let want: Vec<u32> = values.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let name = dtype.name();
        let m =
            MatrixSource { name, dtype, bytes: stored.data(), stored: [n, k], transposed: false, rows: None };
        let mut row = vec![0.0; k];
        for (i, want) in want.chunks_exact(k).enumerate() {
            m.row_f32(i, &mut row);
            assert!(row.iter().map(|x| x.to_bits()).eq(want.iter().copied()), "{name}: row {i}");
        }
        let mut cpu = Cpu::new(isa(), 1);
        let panels = cpu.pack(&m).expect("packs");
        let all = cpu.embed(&panels, &(0..n as u32).collect::<Vec<_>>()).expect("rows");
        let all = cpu.download(&all).expect("host");
        assert!(all.iter().map(|x| x.to_bits()).eq(want), "{name}: panels");
    }
}
