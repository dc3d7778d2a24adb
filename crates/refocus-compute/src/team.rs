//! One persistent team of threads.
//!
//! Work comes as numbered tiles whose outputs do not overlap; which thread computes a tile changes
//! no bit, so tiles are handed out by a counter: on a shared machine a thread that loses its core
//! for a moment takes fewer. Between jobs the threads spin for a short while and then park.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Turns of the spin loop before a thread parks: some tens of microseconds.
const SPIN: usize = 20_000;

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// The job at hand; written only while every thread waits.
    job: UnsafeCell<Job>,
    tiles: AtomicUsize,
    next: AtomicUsize,
    /// Counts jobs; a change is the call to work.
    epoch: AtomicUsize,
    /// Threads still at work on this epoch.
    busy: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: `job` is written by the owner before the release store of `epoch` and read by the threads
// after the acquire load; it is not touched again until `busy` is back at zero.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer never outlives the call of `run` that set it.
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
            epoch: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
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
        // SAFETY: only the lifetime is erased. `run` returns (or unwinds) only after `busy` is zero,
        // when no thread holds the pointer any more; `&mut self` keeps a second job out.
        let job: Job = unsafe { std::mem::transmute(job) };
        let s = &*self.shared;
        // SAFETY: every thread waits for the next epoch, see above.
        unsafe { *s.job.get() = job };
        s.tiles.store(tiles, Ordering::Relaxed);
        s.next.store(0, Ordering::Relaxed);
        s.busy.store(self.handles.len(), Ordering::Relaxed);
        s.epoch.fetch_add(1, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
        let mine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(s)));
        let mut spins = 0usize;
        while s.busy.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins > SPIN { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(!s.panicked.swap(false, Ordering::Relaxed), "a thread of the team panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
        for h in self.handles.drain(..) {
            // A panic was already reported by `run`.
            let _ = h.join();
        }
    }
}

/// Takes tiles until none is left.
fn take(s: &Shared) {
    // SAFETY: read between the acquire of `epoch` and the release of `busy`.
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

fn work(s: &Shared) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        loop {
            let now = s.epoch.load(Ordering::Acquire);
            if now != seen {
                seen = now;
                break;
            }
            spins += 1;
            if spins < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        }
        if s.stop.load(Ordering::Relaxed) {
            return;
        }
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(s))).is_err() {
            s.panicked.store(true, Ordering::Relaxed);
        }
        s.busy.fetch_sub(1, Ordering::Release);
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
