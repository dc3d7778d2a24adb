//! Tensors whose elements do not lie in the order of their shape.

use std::sync::{Arc, OnceLock};

/// The order in which a tensor's elements lie in the file, and the tensor put in order once it was asked
/// for.
#[derive(Clone, Debug)]
pub(crate) struct Strided {
    strides: Vec<usize>,
    /// Bytes of one element.
    size: usize,
    ordered: Arc<OnceLock<Vec<u8>>>,
}

impl Strided {
    /// Strides in elements, one a dimension.
    pub(super) fn new(strides: Vec<usize>, size: usize) -> Self {
        Self { strides, size, ordered: Arc::default() }
    }

    /// Bytes of all elements of this shape.
    pub(super) fn bytes(&self, shape: &[usize]) -> usize {
        shape.iter().product::<usize>() * self.size
    }

    /// The elements in the order of the shape. `stored` begins at the first and ends after the last that
    /// the strides reach.
    pub(super) fn ordered(&self, shape: &[usize], stored: &[u8]) -> &[u8] {
        self.ordered.get_or_init(|| {
            let n: usize = shape.iter().product();
            let mut out = Vec::with_capacity(n * self.size);
            let mut index = vec![0; shape.len()];
            for _ in 0..n {
                let at: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
                out.extend_from_slice(&stored[at * self.size..(at + 1) * self.size]);
                // The next index, the last dimension first.
                for (i, &d) in index.iter_mut().zip(shape).rev() {
                    *i += 1;
                    if *i < d {
                        break;
                    }
                    *i = 0;
                }
            }
            out
        })
    }
}
