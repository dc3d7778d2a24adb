//! One persistent team of threads.
//!
//! Work comes as numbered tiles whose outputs do not overlap; which thread computes a tile changes
//! no bit, so tiles are handed out by a counter: on a shared machine a thread that loses its core
//! for a moment takes fewer. A thread joins a job only while tiles are left, so nobody waits for one
//! that has not come. Between jobs the threads spin for a short while and then park.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Turns of the spin loop before a thread parks: some tens of microseconds.
const SPIN: usize = 20_000;

/// In `Shared::state`: the job takes no more threads.
const CLOSED: u64 = 1 << 31;
/// In `Shared::state`: one job further.
const EPOCH: u64 = 1 << 32;
/// In `Shared::state`: the threads at work.
const ACTIVE: u64 = CLOSED - 1;

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// The job at hand; written only while the state is closed and nobody is active.
    job: UnsafeCell<Job>,
    tiles: AtomicUsize,
    next: AtomicUsize,
    /// Number of the job, whether it is closed, and how many threads of the team are at work on it.
    state: AtomicU64,
    stop: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: `job` is written by the owner before the release store that opens the state, and read by
// threads only between entering an open state (acquire) and leaving it (release); the owner closes
// the state and waits for zero active threads before it returns.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is never read after the call of `run` that set it.
unsafe impl Send for Shared {}

/// The team; dropping it ends its threads.
pub struct Team {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    threads: Vec<Thread>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Team({})", self.size())
    }
}

impl Team {
    /// A team of `n ≥ 1` threads, the caller's among them.
    pub fn new(n: usize) -> Self {
        let nothing: &(dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(nothing),
            tiles: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            state: AtomicU64::new(CLOSED),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        // A thread that cannot be had is done without: the rest of the team takes its tiles.
        let handles: Vec<_> = (1..n.max(1))
            .filter_map(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("refocus-{i}"))
                    .stack_size(8 << 20)
                    .spawn(move || work(&shared))
                    .ok()
            })
            .collect();
        let threads = handles.iter().map(|h| h.thread().clone()).collect();
        Self { shared, handles, threads }
    }

    /// Threads, the caller's included.
    pub fn size(&self) -> usize {
        self.handles.len() + 1
    }

    /// Calls `tile(i)` once for every `i < tiles`, on all threads, and returns when all are done.
    ///
    /// # Panics
    /// If a tile panics, after all threads have stopped.
    pub fn run(&mut self, tiles: usize, tile: impl Fn(usize) + Sync) {
        if self.handles.is_empty() || tiles <= 1 {
            (0..tiles).for_each(tile);
            return;
        }
        let job: &(dyn Fn(usize) + Sync) = &tile;
        // SAFETY: only the lifetime is erased. `run` returns (or unwinds) only after the state is
        // closed and no thread is active; `&mut self` keeps a second job out.
        let job: Job = unsafe { std::mem::transmute(job) };
        let s = &*self.shared;
        // SAFETY: the state is closed and nobody is active, see above.
        unsafe { *s.job.get() = job };
        s.tiles.store(tiles, Ordering::Relaxed);
        s.next.store(0, Ordering::Relaxed);
        let epoch = (s.state.load(Ordering::Relaxed) / EPOCH).wrapping_add(1);
        s.state.store(epoch.wrapping_mul(EPOCH), Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
        let mine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(s)));
        s.state.fetch_or(CLOSED, Ordering::Relaxed);
        let mut spins = 0usize;
        while s.state.load(Ordering::Acquire) & ACTIVE != 0 {
            spins += 1;
            if spins > SPIN { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if let Err(panic) = mine {
            s.panicked.store(false, Ordering::Relaxed);
            std::panic::resume_unwind(panic);
        }
        assert!(!s.panicked.swap(false, Ordering::Relaxed), "a thread of the team panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
        for h in self.handles.drain(..) {
            // A panic was already reported by `run`.
            let _ = h.join();
        }
    }
}

/// Takes tiles until none is left.
fn take(s: &Shared) {
    // SAFETY: the caller is the owner inside `run`, or a thread that entered the open state.
    let job = unsafe { &**s.job.get() };
    let tiles = s.tiles.load(Ordering::Relaxed);
    loop {
        let i = s.next.fetch_add(1, Ordering::Relaxed);
        if i >= tiles {
            return;
        }
        job(i);
    }
}

/// Joins the job that `seen` shows, unless it was closed in the meantime.
fn enter(s: &Shared, mut seen: u64) -> bool {
    let epoch = seen / EPOCH;
    while seen & CLOSED == 0 && seen / EPOCH == epoch {
        match s.state.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    false
}

fn work(s: &Shared) {
    let mut last = 0;
    let mut spins = 0;
    while !s.stop.load(Ordering::Acquire) {
        let seen = s.state.load(Ordering::Acquire);
        if seen / EPOCH == last {
            spins += 1;
            if spins < SPIN {
                std::hint::spin_loop()
            } else {
                std::thread::park()
            }
            continue;
        }
        (last, spins) = (seen / EPOCH, 0);
        if enter(s, seen) {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(s))).is_err() {
                s.panicked.store(true, Ordering::Relaxed);
            }
            s.state.fetch_sub(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_runs_once_at_any_size() {
        for n in [1, 2, 3, 7] {
            let mut team = Team::new(n);
            for tiles in [0, 1, 2, 5, 100] {
                let hits: Vec<_> = (0..tiles).map(|_| AtomicUsize::new(0)).collect();
                team.run(tiles, |i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let mut team = Team::new(3);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(64, |i| assert!(i != 40, "tile"));
        }));
        assert!(caught.is_err());
        let sum = AtomicUsize::new(0);
        team.run(10, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 45);
    }
}
