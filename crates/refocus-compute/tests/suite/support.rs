//! Random numbers and small builders for the tests.

use std::sync::Arc;

use half::{bf16, f16};
use refocus_compute::{
    AttnSpec, Dtype, Linear, MatrixSource, Norm, NormKind, Param, ParamId, RefBuf, RefWeight, Reference,
    RopeTable,
};

/// xorshift64*: deterministic and enough for tests.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In `[0, n)`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    /// Uniform in `[-1, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn vec(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| 1.5 * self.unit()).collect()
    }

    pub fn f32s(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit() as f32).collect()
    }

    pub fn buf(&mut self, rows: usize, width: usize) -> RefBuf {
        let data = self.vec(rows * width);
        RefBuf::new(rows, width, data).unwrap()
    }

    pub fn ids(&mut self, n: usize, limit: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(limit) as u32).collect()
    }
}

/// Where the f16 scales of a stored block lie.
pub fn scales(dtype: Dtype) -> &'static [usize] {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => &[],
        Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0 => &[0],
        Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4_K | Dtype::Q5_K => &[0, 2],
        Dtype::Q2_K => &[80, 82],
        Dtype::Q3_K => &[108],
        Dtype::Q6_K => &[208],
    }
}

/// Stored bytes of a matrix `[n, k]`. From f32: what `half` makes of an f64 is rounded twice on some machines.
pub fn stored(rng: &mut Rng, dtype: Dtype, n: usize, k: usize) -> Vec<u8> {
    (0..n * k / dtype.block())
        .flat_map(|_| match dtype {
            Dtype::F32 => (rng.unit() as f32).to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(rng.unit() as f32).to_le_bytes().to_vec(),
            Dtype::Bf16 => bf16::from_f32(rng.unit() as f32).to_le_bytes().to_vec(),
            _ => {
                let at = scales(dtype);
                let halves: Vec<_> = at.iter().map(|_| f16::from_f32(0.02 * rng.unit() as f32)).collect();
                let inside = |i: &usize| at.iter().any(|&a| (a..a + 2).contains(i));
                let mut block = vec![0; dtype.block_bytes()];
                (0..block.len()).filter(|i| !inside(i)).for_each(|i| block[i] = rng.next() as u8);
                at.iter().zip(halves).for_each(|(&a, h)| block[a..a + 2].copy_from_slice(&h.to_le_bytes()));
                block
            }
        })
        .collect()
}

/// A matrix from literals.
pub fn buf(rows: usize, width: usize, data: &[f64]) -> RefBuf {
    RefBuf::new(rows, width, data.to_vec()).unwrap()
}

/// A vector parameter.
pub fn vector(id: u32, x: &RefBuf) -> Param<RefBuf> {
    Param { id: ParamId(id), value: Arc::new(x.clone()) }
}

/// A matrix parameter.
pub fn weight(id: u32, x: &RefBuf) -> Param<RefWeight> {
    let (n, k) = x.shape();
    Param { id: ParamId(id), value: Arc::new(RefWeight::new(n, k, x.data().to_vec()).unwrap()) }
}

/// A linear map without bias.
pub fn map(id: u32, w: &RefBuf) -> Linear<Reference> {
    Linear { w: weight(id, w), bias: None }
}

/// A norm without parameters.
pub fn plain_norm(kind: NormKind, group: usize) -> Norm<Reference> {
    Norm { kind, eps: 1e-3, group, gain: None, bias: None }
}

/// Angles as rotary embeddings have them.
pub fn rope_table(positions: usize, rotary: usize, interleaved: bool) -> Arc<RopeTable> {
    let angle = |p: usize, i: usize| p as f64 / 10f64.powf(2.0 * i as f64 / rotary as f64);
    let table = |f: fn(f64) -> f64| {
        (0..positions).flat_map(|p| (0..rotary / 2).map(move |i| f(angle(p, i)) as f32)).collect::<Vec<_>>()
    };
    Arc::new(RopeTable { cos: table(f64::cos), sin: table(f64::sin), rotary, interleaved })
}

/// Attention without a window.
pub fn heads(n_heads: usize, n_kv_heads: usize, d_head: usize) -> AttnSpec {
    AttnSpec { n_heads, n_kv_heads, d_head, scale: 0.5, window: None, dropout: None }
}

/// The stored form of an f32 matrix.
pub fn source(n: usize, k: usize, data: &[f32]) -> MatrixSource<'_> {
    MatrixSource::from_f32("test", n, k, data)
}

/// Every element within `tol`, relative above 1.
pub fn assert_close(what: &str, got: &[f64], want: &[f64], tol: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tol * w.abs().max(1.0), "{what}[{i}]: {g} instead of {w}");
    }
}
