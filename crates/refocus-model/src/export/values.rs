//! The values of one tensor of a folder, gathered from the parameters that lie in it.

use std::io::Write;
use std::path::Path;

use refocus_compute::{Dtype, MatrixSource};

use super::error::{ExportError, ExportResult};
use crate::error::LoadError;
use crate::names::Which;
use crate::names::target::{Piece, Target};
use crate::spec::ModelSpec;
use crate::weights::{ParamSource, param_name};

/// Values gathered before they are encoded and written.
const CHUNK: usize = 1 << 16;

/// A type of numbers that a folder can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    /// The type itself where it is one, else f32, which holds every dequantised value.
    pub(super) fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => Float::F16,
            Dtype::Bf16 => Float::Bf16,
            _ => Float::F32,
        }
    }

    /// The narrowest type that holds all values of both.
    pub(super) fn both(self, other: Self) -> Self {
        if self == other { self } else { Float::F32 }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::F16 | Float::Bf16 => 2,
        }
    }

    /// As safetensors files spell it.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Float::F32 => "F32",
            Float::F16 => "F16",
            Float::Bf16 => "BF16",
        }
    }

    /// As configurations spell it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Float::F32 => "float32",
            Float::F16 => "float16",
            Float::Bf16 => "bfloat16",
        }
    }

    /// The value in this type, to the nearest, ties to even. `None` where a finite value becomes infinite.
    fn encode(self, x: f32, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Float::F32 => out.extend(x.to_le_bytes()),
            Float::F16 => {
                let y = half::f16::from_f32(x);
                out.extend(y.to_le_bytes());
                return y.is_finite().then_some(());
            }
            Float::Bf16 => {
                let y = half::bf16::from_f32(x);
                out.extend(y.to_le_bytes());
                return y.is_finite().then_some(());
            }
        }
        Some(())
    }
}

/// Encodes the values of one tensor in order.
struct Encoder<'a> {
    origin: &'a Path,
    tensor: &'a str,
    float: Float,
    at: usize,
    bytes: Vec<u8>,
    out: &'a mut dyn Write,
}

impl Encoder<'_> {
    fn put(&mut self, values: &[f32]) -> ExportResult<Result<(), std::io::Error>> {
        for part in values.chunks(CHUNK) {
            self.bytes.clear();
            for (i, &x) in part.iter().enumerate() {
                let why = if !x.is_finite() {
                    format!("it is {x}, which no model can be run with")
                } else if self.float.encode(x, &mut self.bytes).is_none() {
                    format!("{x:e} is beyond the largest number of {}", self.float.word())
                } else {
                    continue;
                };
                return Err(ExportError::Value {
                    path: self.origin.to_owned(),
                    tensor: self.tensor.to_owned(),
                    at: self.at + i,
                    why,
                });
            }
            self.at += part.len();
            if let Err(e) = self.out.write_all(&self.bytes) {
                return Ok(Err(e));
            }
        }
        Ok(Ok(()))
    }
}

/// Writes the values of a tensor. The inner error is that of `out`.
pub(super) fn write(
    target: &Target,
    float: Float,
    spec: &ModelSpec,
    source: &dyn ParamSource,
    out: &mut dyn Write,
) -> ExportResult<std::io::Result<()>> {
    let mut encoder =
        Encoder { origin: source.origin(), tensor: &target.name, float, at: 0, bytes: Vec::new(), out };
    if target.shape.len() == 1 {
        return encoder.put(&vector(target, spec, source)?);
    }
    let matrices = matrices(target, spec, source)?;
    let written = if target.transposed {
        transposed(target, spec, &matrices, &mut encoder)
    } else {
        rows(target, spec, &matrices, &mut encoder)
    };
    matrices.iter().for_each(|(m, _)| source.packed(m.name));
    written
}

/// A parameter that is missing or has another shape than the specification asks for.
fn misshapen(source: &dyn ParamSource, piece: &Piece, why: String) -> ExportError {
    let name = param_name(piece.part, piece.layer, piece.which);
    LoadError::pack(source.origin(), refocus_compute::Error::Source { name, why }).into()
}

/// A vector that may be missing: a gain is ones then and a bias zeros.
fn vector(target: &Target, spec: &ModelSpec, source: &dyn ParamSource) -> ExportResult<Vec<f32>> {
    let usual = |which: Which| if which == Which::Weight { 1.0 } else { 0.0 };
    let mut out = vec![0.0; target.shape[0]];
    for piece in &target.pieces {
        let n = piece.part.shape(spec)[0];
        let rows = piece.rows(spec);
        let place = |i: usize| rows.as_ref().map_or(i, |r| r[i] as usize);
        match source.vector(piece.part, piece.layer, piece.which)? {
            Some(values) if values.len() == n => {
                values.iter().enumerate().for_each(|(i, &x)| out[place(i)] = x);
            }
            Some(values) => {
                let why = format!("{} values, the specification asks for {n}", values.len());
                return Err(misshapen(source, piece, why));
            }
            None => (0..n).for_each(|i| out[place(i)] = usual(piece.which)),
        }
    }
    Ok(out)
}

type Placed<'a> = (MatrixSource<'a>, Option<Vec<u32>>);

fn matrices<'a>(
    target: &Target,
    spec: &ModelSpec,
    source: &'a dyn ParamSource,
) -> ExportResult<Vec<Placed<'a>>> {
    let one = |piece: &Piece| {
        let matrix = source
            .matrix(piece.part, piece.layer)?
            .ok_or_else(|| misshapen(source, piece, "there is none, but the model needs it".to_owned()))?;
        let ([n, k], got) = (piece.part.shape(spec), matrix.shape());
        if got != (n, k) {
            let why = format!("shape [{}, {}], the specification asks for [{n}, {k}]", got.0, got.1);
            return Err(misshapen(source, piece, why));
        }
        Ok((matrix, piece.rows(spec)))
    };
    target.pieces.iter().map(one).collect()
}

/// Row by row, each decoded when its turn comes.
fn rows(
    target: &Target,
    spec: &ModelSpec,
    matrices: &[Placed<'_>],
    encoder: &mut Encoder<'_>,
) -> ExportResult<std::io::Result<()>> {
    let [n, k] = [target.shape[0], target.shape[1]];
    // Which row of which piece each stored row is.
    let mut from: Vec<(u32, u32)> = Vec::new();
    if let [(_, None)] = matrices {
        from.extend((0..n as u32).map(|r| (0, r)));
    } else {
        from.resize(n, (0, 0));
        for (m, (piece, (_, rows))) in target.pieces.iter().zip(matrices).enumerate() {
            for i in 0..piece.part.shape(spec)[0] {
                let place = rows.as_ref().map_or(i, |r| r[i] as usize);
                from[place] = (m as u32, i as u32);
            }
        }
    }
    let at_once = (CHUNK / k.max(1)).max(1);
    let mut buffer = vec![0.0; at_once.min(n) * k];
    for some in from.chunks(at_once) {
        for (&(m, row), out) in some.iter().zip(buffer.chunks_exact_mut(k)) {
            matrices[m as usize].0.row_f32(row as usize, out);
        }
        if let Err(e) = encoder.put(&buffer[..some.len() * k])? {
            return Ok(Err(e));
        }
    }
    Ok(Ok(()))
}

/// Stored `[n_in, n_out]`: the whole tensor is laid out first.
fn transposed(
    target: &Target,
    spec: &ModelSpec,
    matrices: &[Placed<'_>],
    encoder: &mut Encoder<'_>,
) -> ExportResult<std::io::Result<()>> {
    let [k, n] = [target.shape[0], target.shape[1]];
    let mut all = vec![0.0; n * k];
    let mut row = vec![0.0; k];
    for (piece, (matrix, rows)) in target.pieces.iter().zip(matrices) {
        for i in 0..piece.part.shape(spec)[0] {
            let column = rows.as_ref().map_or(i, |r| r[i] as usize);
            matrix.row_f32(i, &mut row);
            row.iter().enumerate().for_each(|(j, &x)| all[j * n + column] = x);
        }
    }
    encoder.put(&all)
}
