//! Activation buffers on cache lines, and the pool that reuses them.

use std::alloc::{Layout, handle_alloc_error};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeBounds;
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

/// Memory of a backend and its buffers. What is given back is kept for reuse, as long as all of it,
/// used and free, is at most half as much again as was once in use at a time: a training step runs in the memory of
/// the step before, and the small and the large buffers that a layer holds in turn are both still there in the next.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Store>>);

/// Counts are in lines.
#[derive(Default)]
struct Store {
    /// Free memory by length.
    free: BTreeMap<usize, Vec<Lines>>,
    idle: usize,
    used: usize,
    /// The most that was ever in use at a time.
    peak: usize,
}

impl Store {
    /// Takes out a free allocation of one of these lengths, the shortest first.
    fn shortest(&mut self, lengths: impl RangeBounds<usize>) -> Option<Lines> {
        let len = *self.free.range(lengths).next()?.0;
        self.remove(len)
    }

    fn remove(&mut self, len: usize) -> Option<Lines> {
        let same = self.free.get_mut(&len)?;
        let v = same.pop();
        if same.is_empty() {
            self.free.remove(&len);
        }
        self.idle -= len;
        v
    }

    /// Frees the shortest until `count` more fit: whoever asks for these again pays for about `count`, and not for
    /// one that is much longer. Half of the peak is left to what comes and goes: attention's buffers lie free while the
    /// MLP's, four times as wide, are in use, and the other way round. Were one given back to the system for the other,
    /// every layer would pay for fresh pages (a twelfth of a pass).
    fn make_room(&mut self, count: usize) {
        self.peak = self.peak.max(self.used + count);
        while self.used + self.idle + count > self.peak + self.peak / 2 {
            let Some(len) = self.free.first_key_value().map(|(len, _)| *len) else { return };
            drop(self.remove(len));
        }
    }
}

impl Pool {
    /// A store is valid whatever happened while it was held.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The smallest free allocation that is large enough and not wastefully so; contents are stale.
    pub(super) fn take(&self, n: usize) -> Result<Lines> {
        let count = n.div_ceil(16);
        let mut store = self.store();
        if let Some(v) = store.shortest(count..=count + count / 2 + 64) {
            store.used += v.len();
            return Ok(v);
        }
        store.make_room(count);
        let v = lines(n)?;
        store.used += v.len();
        Ok(v)
    }

    pub(super) fn give(&self, v: Lines) {
        let mut store = self.store();
        store.used -= v.len();
        store.idle += v.len();
        store.free.entry(v.len()).or_default().push(v);
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

    /// The same as bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        let x = self.as_slice();
        // SAFETY: any four bytes of an f32 may be read.
        unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
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
        let taken = Self::stale(&self.pool, self.rows, self.width);
        // As any clone: without memory the program ends.
        let mut copy = taken.unwrap_or_else(|_| handle_alloc_error(Layout::for_value(&self.data[..])));
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_little_more_than_was_in_use_is_kept() {
        let pool = Pool::default();
        let addresses = |bufs: &[CpuBuf]| -> Vec<_> { bufs.iter().map(|b| b.as_slice().as_ptr()).collect() };
        let take = |rows| CpuBuf::stale(&pool, rows, 16).expect("memory");
        let first = [take(1000), take(500), take(1000)];
        let mut before = addresses(&first);
        drop(first);
        let again = [take(1000), take(1000), take(500)];
        let mut after = addresses(&again);
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(before, after);
        drop(again);
        // Nothing free is long enough: the shortest go until it fits.
        let long = take(2400);
        // Used, used and free, and the most used so far.
        let counts = || {
            let store = pool.store();
            (store.used, store.used + store.idle, store.peak)
        };
        assert_eq!(counts(), (2400, 3400, 2500));
        // Far too long is not handed out for a small need.
        drop(long);
        let short = take(300);
        assert_eq!(short.as_slice().len(), 4800);
        assert_eq!(counts(), (300, 3700, 2500));
        let copy = short.clone();
        assert_eq!(counts(), (600, 3000, 2500));
        drop((short, copy));
        assert_eq!(counts(), (0, 3000, 2500));
    }
}
