//! Rewritings under way and done: the same text is rewritten once, for all who wait for it and for a while after.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use refocus_system2::Usage;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use super::breaker::Breaker;
use super::config::System2Config;
use super::rewriter::{CREDENTIALS, Cancel, Job, Rewriter, Rewritten};
use super::select::Skip;

/// Bytes of all rewrites that are remembered; beyond, those go that were not used for the longest time.
const MOST_BYTES: usize = 64 << 20;

type Key = [u8; 32];

/// Where a rewrite comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Made for this request.
    New,
    /// Made for another one that waits for the same.
    Shared,
    /// Made earlier.
    Cached,
}

impl Origin {
    /// Its name in headers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Origin::New => "miss",
            Origin::Shared => "shared",
            Origin::Cached => "hit",
        }
    }
}

/// Why there is no rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) skip: Skip,
    /// Where one was begun or waited for.
    pub(crate) origin: Option<Origin>,
    /// Tokens that it took until then, where it was made for this request.
    pub(crate) usage: Usage,
}

impl From<Skip> for Lost {
    fn from(skip: Skip) -> Self {
        Self { skip, origin: None, usage: Usage::default() }
    }
}

/// A rewriting that somebody waits for. The last who does not any more ends it.
struct Flight {
    result: watch::Receiver<Option<Arc<Rewritten>>>,
    _waiting: watch::Sender<()>,
}

struct Done {
    rewritten: Arc<Rewritten>,
    since: Instant,
    used: u64,
    bytes: usize,
}

#[derive(Default)]
struct Known {
    under_way: HashMap<Key, Weak<Flight>>,
    done: HashMap<Key, Done>,
    /// Of all that is done.
    bytes: usize,
    clock: u64,
}

/// All rewritings of a proxy.
pub(crate) struct Flights {
    rewriter: Arc<dyn Rewriter>,
    known: Arc<Mutex<Known>>,
    places: Arc<Semaphore>,
    breaker: Arc<Breaker>,
    most: usize,
    keep: Duration,
    /// What a rewriting has where it begins with its request.
    deadline: Duration,
}

impl Flights {
    pub(crate) fn new(config: &System2Config, rewriter: Arc<dyn Rewriter>) -> Self {
        Self {
            rewriter,
            known: Arc::default(),
            places: Arc::new(Semaphore::new(config.at_once)),
            breaker: Arc::new(Breaker::new(
                config.breaker_failures,
                Duration::from_millis(config.breaker_ms),
            )),
            most: config.cache_entries,
            keep: Duration::from_secs(config.cache_seconds),
            deadline: Duration::from_millis(config.deadline_ms),
        }
    }

    pub(crate) fn rewriter(&self) -> &dyn Rewriter {
        &*self.rewriter
    }

    /// The rewrite of a text. Dropping the future ends the rewriting unless others wait for it.
    ///
    /// # Errors
    /// There is none: too many are under way, they fail, or it took too long.
    pub(crate) async fn get(&self, job: Job) -> Result<(Arc<Rewritten>, Origin), Lost> {
        let (key, deadline, spent) = (key(&job), job.deadline, job.spent.clone());
        let (flight, origin) = match self.known_or_begun(key, job)? {
            Found::Done(rewritten) => return Ok((rewritten, Origin::Cached)),
            Found::UnderWay(flight, origin) => (flight, origin),
        };
        let mut result = flight.result.clone();
        let wait = async {
            match result.wait_for(Option::is_some).await {
                Ok(done) => done.clone(),
                Err(_) => None,
            }
        };
        let skip = match tokio::time::timeout(deadline, wait).await {
            Ok(Some(rewritten)) => return Ok((rewritten, origin)),
            Ok(None) => Skip::Failed,
            Err(_) => {
                if origin == Origin::New && deadline >= self.deadline {
                    self.breaker.failed();
                }
                Skip::TimedOut
            }
        };
        Err(Lost { skip, origin: Some(origin), usage: spent.so_far() })
    }

    fn known_or_begun(&self, key: Key, job: Job) -> Result<Found, Skip> {
        let mut known = lock(&self.known);
        known.clock += 1;
        let now = known.clock;
        if let Some(done) = known.done.get_mut(&key) {
            if done.since.elapsed() < self.keep {
                done.used = now;
                return Ok(Found::Done(done.rewritten.clone()));
            }
            known.forget(&key);
        }
        if let Some(flight) = known.under_way.get(&key).and_then(Weak::upgrade) {
            return Ok(Found::UnderWay(flight, Origin::Shared));
        }
        if job.deadline.is_zero() {
            return Err(Skip::TimedOut);
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| Skip::Busy)?;
        self.breaker.ask().map_err(|_| Skip::Down)?;
        let (tell, result) = watch::channel(None);
        let (waiting, cancel) = watch::channel(());
        let flight = Arc::new(Flight { result, _waiting: waiting });
        let this = Arc::downgrade(&flight);
        known.under_way.insert(key, this.clone());
        let (rewriter, all, breaker) = (self.rewriter.clone(), self.known.clone(), self.breaker.clone());
        let in_full = job.deadline >= self.deadline;
        let bounds = Bounds { entries: self.most, bytes: MOST_BYTES, keep: self.keep };
        tokio::task::spawn_blocking(move || {
            let cancel = Cancel(cancel);
            let rewritten = Arc::new(rewriter.rewrite(&job, cancel.clone()));
            drop(place);
            // Nobody's patience says nothing about the server, and neither does what one client did wrong or what
            // had only the rest of its request's time: the breaker is everybody's.
            if !cancel.is_cancelled() && !rewritten.own_fault {
                if !rewritten.failed {
                    breaker.went_well();
                } else if in_full {
                    breaker.failed();
                }
            }
            lock(&all).finish(key, &this, &rewritten, bounds);
            // Whoever waited may have gone.
            let _ = tell.send(Some(rewritten));
        });
        Ok(Found::UnderWay(flight, Origin::New))
    }
}

enum Found {
    Done(Arc<Rewritten>),
    UnderWay(Arc<Flight>, Origin),
}

/// What is remembered at most.
#[derive(Clone, Copy)]
struct Bounds {
    entries: usize,
    bytes: usize,
    keep: Duration,
}

impl Known {
    fn finish(&mut self, key: Key, flight: &Weak<Flight>, rewritten: &Arc<Rewritten>, bounds: Bounds) {
        // Another may have begun after all who waited for this one had gone.
        if self.under_way.get(&key).is_some_and(|known| known.ptr_eq(flight)) {
            self.under_way.remove(&key);
        }
        self.done.retain(|_, done| {
            let stays = done.since.elapsed() < bounds.keep;
            self.bytes -= if stays { 0 } else { done.bytes };
            stays
        });
        let bytes = size(rewritten);
        if rewritten.failed || rewritten.own_fault || bounds.entries == 0 || bytes > bounds.bytes {
            return;
        }
        // Somebody else may have made the same meanwhile.
        self.forget(&key);
        while self.done.len() >= bounds.entries || self.bytes + bytes > bounds.bytes {
            let Some(oldest) = self.done.iter().min_by_key(|(_, done)| done.used).map(|(key, _)| *key) else {
                break;
            };
            self.forget(&oldest);
        }
        self.bytes += bytes;
        self.clock += 1;
        let used = self.clock;
        self.done.insert(key, Done { rewritten: rewritten.clone(), since: Instant::now(), used, bytes });
    }

    fn forget(&mut self, key: &Key) {
        if let Some(done) = self.done.remove(key) {
            self.bytes -= done.bytes;
        }
    }
}

/// What a rewrite takes in memory: its texts and lists, and itself with its place in the table.
fn size(rewritten: &Rewritten) -> usize {
    let Rewritten { text, reason, kept, removed, .. } = rewritten;
    let texts = text.as_ref().map_or(0, String::len) + reason.as_ref().map_or(0, |(_, why)| why.len());
    texts
        + size_of_val(kept.as_slice())
        + size_of_val(removed.as_slice())
        + size_of::<Rewritten>()
        + size_of::<(Key, Done)>()
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    // Nothing is ever half changed in it.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes two jobs the same. Credentials belong to it: who may not ask the model gets no rewrite of it either.
fn key(job: &Job) -> Key {
    let mut hash = Sha256::new();
    let [authorization, api_key] =
        CREDENTIALS.map(|name| job.credentials.get(name).map_or(&b""[..], HeaderValue::as_bytes));
    let question = job.question.as_deref().unwrap_or_default();
    let is_document = [u8::from(job.question.is_some())];
    for part in [
        job.model.as_bytes(),
        job.variant.name().as_bytes(),
        job.path.as_str().as_bytes(),
        authorization,
        api_key,
        &is_document,
        question.as_bytes(),
        job.text.as_bytes(),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { entries: 100, bytes: 10_000, keep: Duration::from_secs(3600) };

    fn of(length: usize) -> Arc<Rewritten> {
        Arc::new(Rewritten {
            text: Some("x".repeat(length)),
            reason: None,
            failed: false,
            own_fault: false,
            kept: Vec::new(),
            removed: Vec::new(),
            usage: Usage::default(),
            elapsed: Duration::ZERO,
        })
    }

    fn add(known: &mut Known, name: u8, what: &Arc<Rewritten>, bounds: Bounds) {
        known.finish([name; 32], &Weak::new(), what, bounds);
    }

    fn names(known: &Known) -> Vec<u8> {
        let mut names: Vec<u8> = known.done.keys().map(|key| key[0]).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_is_remembered_has_a_bound_in_bytes() {
        let mut known = Known::default();
        (1..=3).for_each(|name| add(&mut known, name, &of(4_000), BOUNDS));
        assert_eq!(names(&known), [2, 3], "the oldest went");
        add(&mut known, 4, &of(10_000), BOUNDS);
        assert_eq!(names(&known), [2, 3], "what is larger than all that may be throws nothing out");
        add(&mut known, 3, &of(1), BOUNDS);
        assert_eq!((names(&known), known.bytes), (vec![2, 3], size(&of(4_000)) + size(&of(1))));
        add(&mut known, 5, &of(1), Bounds { entries: 1, ..BOUNDS });
        assert_eq!((names(&known), known.bytes), (vec![5], size(&of(1))));
    }

    #[test]
    fn what_is_too_old_goes_when_something_comes() {
        let mut known = Known::default();
        (1..=3).for_each(|name| add(&mut known, name, &of(9), BOUNDS));
        add(&mut known, 4, &of(9), Bounds { keep: Duration::ZERO, ..BOUNDS });
        assert_eq!((names(&known), known.bytes), (vec![4], size(&of(9))));
    }
}
