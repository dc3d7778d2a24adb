//! Quantised blocks as GGUF files store them (the layouts are llama.cpp's), taken apart.
//!
//! Every type is `scale · quant` or `scale · quant + minimum` with integers for quants. The scale of a
//! sub-block is `d · s` and its minimum `dmin · m`, with f16 `d` and `dmin` and small integers `s` and
//! `m`. Scale, minimum and `scale · quant` need at most 23 bits, so f32 holds them exactly, and a
//! weight is rounded once, where the minimum is added.

use half::f16;

use crate::source::Dtype;

/// Inputs of the longest block.
const LONGEST: usize = 256;

/// One stored block.
pub(crate) struct Block {
    /// Of each input; the first [`Dtype::block`] of them.
    pub quants: [i8; LONGEST],
    /// f16 bits.
    pub d: u16,
    /// f16 bits of what minima are multiplied by before they are added; 0 where there are none.
    pub dmin: u16,
    /// Of each sub-block, 1 where a block has no sub-blocks.
    pub scales: [i8; 16],
    pub mins: [i8; 16],
}

impl Block {
    /// Takes the bytes of one block apart.
    pub(crate) fn read(dtype: Dtype, bytes: &[u8]) -> Self {
        let u16_at = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        let mut b = Self { quants: [0; LONGEST], d: 0, dmin: 0, scales: [1; 16], mins: [1; 16] };
        match dtype {
            Dtype::Q4_0 => {
                b.d = u16_at(0);
                b.planes(&bytes[2..], 16, 4, 0);
                b.shift(32, 8);
            }
            Dtype::Q4_1 => {
                (b.d, b.dmin) = (u16_at(0), u16_at(2));
                b.planes(&bytes[4..], 16, 4, 0);
            }
            Dtype::Q5_0 => {
                b.d = u16_at(0);
                b.planes(&bytes[6..], 16, 4, 0);
                b.fifth_bits(&bytes[2..6]);
                b.shift(32, 16);
            }
            Dtype::Q5_1 => {
                (b.d, b.dmin) = (u16_at(0), u16_at(2));
                b.planes(&bytes[8..], 16, 4, 0);
                b.fifth_bits(&bytes[4..8]);
            }
            Dtype::Q8_0 => {
                b.d = u16_at(0);
                b.quants.iter_mut().zip(&bytes[2..]).for_each(|(q, &byte)| *q = byte as i8);
            }
            Dtype::Q2_K => {
                (b.d, b.dmin) = (u16_at(80), negated(u16_at(82)));
                for (j, byte) in bytes[..16].iter().enumerate() {
                    (b.scales[j], b.mins[j]) = ((byte & 15) as i8, (byte >> 4) as i8);
                }
                b.planes(&bytes[16..80], 32, 2, 0);
            }
            Dtype::Q3_K => {
                b.d = u16_at(108);
                let s = &bytes[96..108];
                for (j, scale) in b.scales.iter_mut().enumerate() {
                    let low = if j < 8 { s[j] & 15 } else { s[j - 8] >> 4 };
                    let high = (s[8 + j % 4] >> (2 * (j / 4))) & 3;
                    *scale = (low | high << 4) as i8 - 32;
                }
                // A set bit of the mask means that nothing is taken off.
                b.planes(&bytes[32..96], 32, 2, 0);
                b.planes(&bytes[..32], 32, 1, 2);
                b.shift(256, 4);
            }
            Dtype::Q4_K => {
                b.six_bit_scales(bytes);
                b.planes(&bytes[16..144], 32, 4, 0);
            }
            Dtype::Q5_K => {
                b.six_bit_scales(bytes);
                b.planes(&bytes[48..176], 32, 4, 0);
                b.planes(&bytes[16..48], 32, 1, 4);
            }
            Dtype::Q6_K => {
                b.d = u16_at(208);
                b.scales.iter_mut().zip(&bytes[192..208]).for_each(|(s, &byte)| *s = byte as i8);
                b.planes(&bytes[..128], 64, 4, 0);
                b.planes(&bytes[128..192], 32, 2, 4);
                b.shift(256, 32);
            }
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => debug_assert!(false, "{dtype:?} has no blocks"),
        }
        b
    }

    /// Scale and minimum of sub-block `j`.
    fn head(&self, j: usize) -> (f32, f32) {
        let of = |bits: u16, n: i8| f16::from_bits(bits).to_f32() * f32::from(n);
        (of(self.d, self.scales[j]), of(self.dmin, self.mins[j]))
    }

    /// Whether every weight is finite.
    pub(crate) fn finite(&self) -> bool {
        [self.d, self.dmin].iter().all(|bits| bits & 0x7c00 != 0x7c00)
    }

    /// The weights, `dtype.block()` of them.
    pub(crate) fn decode(&self, dtype: Dtype, out: &mut [f32]) {
        let sub = dtype.sub_block();
        for (j, (out, quants)) in out.chunks_mut(sub).zip(self.quants.chunks(sub)).enumerate() {
            let (scale, min) = self.head(j);
            for (o, &q) in out.iter_mut().zip(quants) {
                let product = scale * f32::from(q);
                *o = if dtype.has_minimum() { product + min } else { product };
            }
        }
    }

    /// Runs of `run` bytes, each of which holds `bits` bits of `run` inputs, then of the next `run`, and
    /// so on from its low end to its high one. They become bits `at` and up of the quants.
    fn planes(&mut self, bytes: &[u8], run: usize, bits: u32, at: u32) {
        let mask = (1u8 << bits) - 1;
        let inputs = self.quants.chunks_exact_mut(run * (8 / bits) as usize);
        for (bytes, inputs) in bytes.chunks_exact(run).zip(inputs) {
            for (i, inputs) in inputs.chunks_exact_mut(run).enumerate() {
                for (q, byte) in inputs.iter_mut().zip(bytes) {
                    *q |= (((byte >> (bits * i as u32)) & mask) << at) as i8;
                }
            }
        }
    }

    /// Bit `i` of a little-endian word is the fifth bit of input `i`.
    fn fifth_bits(&mut self, bytes: &[u8]) {
        for (i, q) in self.quants[..32].iter_mut().enumerate() {
            *q |= (((bytes[i / 8] >> (i % 8)) & 1) << 4) as i8;
        }
    }

    /// Takes `by` off the first `n` quants.
    fn shift(&mut self, n: usize, by: i8) {
        self.quants[..n].iter_mut().for_each(|q| *q -= by);
    }

    /// The head of Q4_K and Q5_K: `d`, `dmin`, then eight scales and eight minima of six bits. Of the
    /// first four of each the bytes hold all, and the upper two bits of the last four.
    fn six_bit_scales(&mut self, bytes: &[u8]) {
        self.d = u16::from_le_bytes([bytes[0], bytes[1]]);
        self.dmin = negated(u16::from_le_bytes([bytes[2], bytes[3]]));
        for j in 0..4 {
            let (scale, min, low) = (bytes[4 + j], bytes[8 + j], bytes[12 + j]);
            self.scales[j] = (scale & 63) as i8;
            self.mins[j] = (min & 63) as i8;
            self.scales[4 + j] = (low & 15 | (scale >> 6) << 4) as i8;
            self.mins[4 + j] = (low >> 4 | (min >> 6) << 4) as i8;
        }
    }
}

/// The K types subtract their minimum.
fn negated(bits: u16) -> u16 {
    bits ^ 0x8000
}
