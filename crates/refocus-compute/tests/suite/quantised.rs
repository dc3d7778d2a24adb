//! Quantised panels are the dequantised matrix, to the bit.

use half::f16;
use proptest::prelude::*;
use refocus_compute::{Cpu, Dtype, Isa, Kernels, MatrixSource, Reference};

use crate::support::{Rng, scales, stored};

const QUANTISED: [Dtype; 10] = [
    Dtype::Q4_0,
    Dtype::Q4_1,
    Dtype::Q5_0,
    Dtype::Q5_1,
    Dtype::Q8_0,
    Dtype::Q2_K,
    Dtype::Q3_K,
    Dtype::Q4_K,
    Dtype::Q5_K,
    Dtype::Q6_K,
];

fn source(dtype: Dtype, n: usize, k: usize, bytes: &[u8]) -> MatrixSource<'_> {
    MatrixSource { name: "w", dtype, bytes, stored: [n, k], transposed: false, rows: None }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The matrix decoded row by row.
fn dense(m: &MatrixSource<'_>) -> Vec<f32> {
    let (n, k) = m.shape();
    let mut out = vec![0.0; n * k];
    out.chunks_exact_mut(k).enumerate().for_each(|(i, row)| m.row_f32(i, row));
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    /// Rows and products, for few rows and many, with rows taken in another order.
    #[test]
    fn a_quantised_matrix_is_its_decoded_values(
        seed in any::<u64>(), n in 1usize..40, blocks in 1usize..5, rows in 1usize..36, permuted in any::<bool>(),
    ) {
        let rng = &mut Rng::new(seed >> 1);
        for dtype in QUANTISED {
            let k = blocks * dtype.block() * if dtype.block() == 32 { 3 } else { 1 };
            let bytes = stored(rng, dtype, n, k);
            let mut w = source(dtype, n, k, &bytes);
            w.rows = permuted.then(|| rng.ids(n + 3, n));
            let (decoded, n) = (dense(&w), w.shape().0);
            let plain = MatrixSource::from_f32("w", n, k, &decoded);
            let x = rng.f32s(rows * k);
            for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon].into_iter().filter(|i| i.available()) {
                let cpu = &mut Cpu::new(isa, 1);
                let (w, plain) = (cpu.pack(&w).unwrap(), cpu.pack(&plain).unwrap());
                let all = cpu.embed(&w, &(0..n as u32).collect::<Vec<_>>()).unwrap();
                prop_assert!(bits(&cpu.download(&all).unwrap()) == bits(&decoded), "{dtype:?}, {isa:?}");
                let x = cpu.upload(rows, k, &x).unwrap();
                let got = cpu.linear(&x, &[(&w, None)], None, None).unwrap();
                let want = cpu.linear(&x, &[(&plain, None)], None, None).unwrap();
                prop_assert!(
                    bits(&cpu.download(&got).unwrap()) == bits(&cpu.download(&want).unwrap()),
                    "{dtype:?}, {isa:?}, {rows} rows"
                );
            }
        }
    }
}

#[test]
fn products_are_those_of_the_reference() {
    let rng = &mut Rng::new(3);
    for dtype in QUANTISED {
        let (n, k, rows) = (33, 512, 3);
        let bytes = stored(rng, dtype, n, k);
        let (w, x) = (source(dtype, n, k, &bytes), rng.f32s(rows * k));
        let cpu = &mut Cpu::new(Isa::detect(), 2);
        let (packed, mine) = (cpu.pack(&w).unwrap(), cpu.upload(rows, k, &x).unwrap());
        let got = cpu.linear(&mine, &[(&packed, None)], None, None).unwrap();
        let got = cpu.download(&got).unwrap();
        let (packed, exact) = (Reference.pack(&w).unwrap(), Reference.upload(rows, k, &x).unwrap());
        let want = Reference.linear(&exact, &[(&packed, None)], None, None).unwrap();
        let (want, decoded) = (Reference.download(&want).unwrap(), dense(&w));
        for (i, (g, want)) in got.iter().zip(want).enumerate() {
            let terms = x[i / n * k..][..k].iter().zip(&decoded[i % n * k..][..k]);
            let magnitude: f32 = terms.map(|(x, w)| (x * w).abs()).sum();
            assert!((g - want).abs() <= 1e-6 * magnitude, "{dtype:?}: {g} and {want} of {magnitude}");
        }
    }
}

#[test]
fn a_scale_that_is_not_finite_is_named() {
    let rng = &mut Rng::new(5);
    for dtype in QUANTISED {
        let (n, k) = (35, 512);
        let whole = stored(rng, dtype, n, k);
        let row = whole.len() / n;
        for &at in scales(dtype) {
            for bad in [f16::NAN, f16::NEG_INFINITY] {
                let mut bytes = whole.clone();
                // The last block of row 18.
                let place = 19 * row - dtype.block_bytes() + at;
                bytes[place..place + 2].copy_from_slice(&bad.to_le_bytes());
                let e =
                    Cpu::new(Isa::detect(), 2).pack(&source(dtype, n, k, &bytes)).unwrap_err().to_string();
                assert!(e.contains("w: row 18 holds a value that is NaN or infinite"), "{dtype:?}: {e}");
            }
        }
    }
}

#[test]
fn rows_are_whole_blocks() {
    for dtype in QUANTISED {
        let k = dtype.block() + 16;
        assert_eq!(dtype.row_bytes(k), None);
        let bytes = vec![0; 2 * dtype.block_bytes()];
        let e = Cpu::new(Isa::detect(), 1).pack(&source(dtype, 1, k, &bytes)).unwrap_err().to_string();
        assert!(e.contains(&format!("shape [1, {k}] of {}", dtype.name())), "{e}");
        let transposed = MatrixSource { transposed: true, ..source(dtype, 2, dtype.block(), &bytes) };
        assert!(transposed.check().unwrap_err().to_string().contains("cannot be stored transposed"));
    }
}
