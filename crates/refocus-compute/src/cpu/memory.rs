//! Activation buffers on cache lines, and the pool that reuses them.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; 16]);

/// Memory in whole cache lines, always initialised.
pub(crate) type Lines = Vec<Line>;

/// A line-aligned allocation of at least `n` zeros.
pub(crate) fn lines(n: usize) -> Result<Lines> {
    let count = n.div_ceil(16);
    let mut v = Lines::new();
    v.try_reserve_exact(count).map_err(|_| Error::Memory { bytes: count.saturating_mul(64) })?;
    v.resize(count, Line([0.0; 16]));
    Ok(v)
}

/// Views lines as numbers.
pub(crate) fn floats(v: &Lines, n: usize) -> &[f32] {
    debug_assert!(n <= v.len() * 16);
    // SAFETY: `Line` is sixteen f32 without padding, `v` holds at least `n` of them.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), n) }
}

/// Views lines as numbers.
pub(crate) fn floats_mut(v: &mut Lines, n: usize) -> &mut [f32] {
    debug_assert!(n <= v.len() * 16);
    // SAFETY: as in `floats`, and the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(v.as_mut_ptr().cast(), n) }
}

/// Free memory by size, shared by a backend and its buffers.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Lines>>>);

/// Buffers kept for reuse.
const KEPT: usize = 24;

impl Pool {
    /// A list of free memory is valid whatever happened while it was held.
    fn free(&self) -> MutexGuard<'_, Vec<Lines>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The smallest free allocation that is large enough and not wastefully so; contents are stale.
    pub(super) fn take(&self, n: usize) -> Result<Lines> {
        let count = n.div_ceil(16);
        let mut free = self.free();
        let best = free
            .iter()
            .enumerate()
            .filter(|(_, v)| v.len() >= count && v.len() <= 2 * count + 64)
            .min_by_key(|(_, v)| v.len())
            .map(|(i, _)| i);
        match best {
            Some(i) => Ok(free.swap_remove(i)),
            None => lines(n),
        }
    }

    pub(super) fn give(&self, v: Lines) {
        let mut free = self.free();
        if free.len() == KEPT
            && let Some(i) = (0..free.len()).min_by_key(|&i| free[i].len())
        {
            if free[i].len() >= v.len() {
                return;
            }
            free.swap_remove(i);
        }
        free.push(v);
    }
}

/// A matrix `[rows, width]` of f32, row-major. Its memory returns to the backend's pool.
pub struct CpuBuf {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    data: Lines,
    pool: Pool,
}

impl CpuBuf {
    /// A buffer with stale contents: the caller writes every element.
    pub(crate) fn stale(pool: &Pool, rows: usize, width: usize) -> Result<Self> {
        let n = rows.checked_mul(width).ok_or(Error::Memory { bytes: usize::MAX })?;
        Ok(Self { rows, width, data: pool.take(n)?, pool: pool.clone() })
    }

    /// The numbers, row-major.
    pub fn as_slice(&self) -> &[f32] {
        floats(&self.data, self.rows * self.width)
    }

    /// The numbers, row-major.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        let n = self.rows * self.width;
        floats_mut(&mut self.data, n)
    }

    /// One row.
    pub(crate) fn row(&self, r: usize) -> &[f32] {
        &self.as_slice()[r * self.width..(r + 1) * self.width]
    }
}

impl Drop for CpuBuf {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.data));
    }
}

impl Clone for CpuBuf {
    fn clone(&self) -> Self {
        Self { rows: self.rows, width: self.width, data: self.data.clone(), pool: self.pool.clone() }
    }
}

impl std::fmt::Debug for CpuBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuBuf[{}, {}]", self.rows, self.width)
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Lines>> = const { RefCell::new(Vec::new()) };
}

/// This thread's scratch memory, contents stale. A value and not a callback: a closure would be
/// compiled without the caller's instruction set.
pub(crate) struct Scratch(Lines);

impl Scratch {
    /// At least `n` numbers. Several may be held at once.
    pub(crate) fn take(n: usize) -> Self {
        let mut v = SCRATCH.with(|s| s.borrow_mut().pop()).unwrap_or_default();
        v.resize(v.len().max(n.div_ceil(16)), Line([0.0; 16]));
        Self(v)
    }

    /// The first `n` numbers.
    pub(crate) fn get(&mut self, n: usize) -> &mut [f32] {
        floats_mut(&mut self.0, n)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let v = std::mem::take(&mut self.0);
        SCRATCH.with(|s| s.borrow_mut().push(v));
    }
}

/// A pointer that tiles of one job share; each writes its own part.
#[derive(Clone, Copy)]
pub(crate) struct Out(*mut f32);

// SAFETY: tiles of a job write disjoint elements, see the callers.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

impl Out {
    pub(crate) fn new(s: &mut [f32]) -> Self {
        Self(s.as_mut_ptr())
    }

    /// # Safety
    /// `at` lies within the slice the pointer was made from.
    pub(crate) unsafe fn at(self, at: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(at) }
    }

    /// # Safety
    /// The range lies within the slice, and no other tile touches it.
    pub(crate) unsafe fn slice<'a>(self, at: usize, n: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), n) }
    }
}
