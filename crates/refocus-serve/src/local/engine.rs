//! The thread that owns the engine. Everyone else speaks to it over channels.
//!
//! A request is forgotten when nobody listens to it any more: the client is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use refocus_compute::{Cpu, Eager, Isa};
use refocus_model::generate::{Engine, Event, Limits, Request, RequestError, RequestId, What};
use refocus_model::{Checkpoint, LoadError, Model, Tokenizer};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::counts::Counts;
use crate::error::ApiError;

/// How long an idle engine sleeps before it looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(200);

/// What the engine says about a submission.
#[derive(Debug)]
pub(super) enum Update {
    /// All of it is accepted; nothing else comes before this.
    Accepted,
    /// One of its requests does not fit. Nothing follows.
    Refused {
        /// Which.
        request: usize,
        /// Why.
        why: RequestError,
    },
    /// Something happened to a choice.
    Choice {
        /// Counted over all requests of the submission and their samples.
        index: usize,
        /// What.
        what: What,
    },
    /// The server is being stopped. Nothing follows.
    Cut,
}

struct Submission {
    requests: Vec<Request>,
    updates: UnboundedSender<Update>,
    /// Held while it runs or waits.
    place: Arc<Place>,
}

/// A place among the requests that are prepared, rewritten, wait or run; given back when the last who holds it drops it.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way to the engine.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    submissions: Sender<Submission>,
    taken: Arc<AtomicUsize>,
    most: usize,
    alive: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
}

/// Why a submission was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// So many run or wait already.
    Full(usize),
    /// The engine is gone.
    Gone,
}

impl Handle {
    /// Takes a place, before any work is done for a request.
    pub(super) fn enter(&self) -> Result<Arc<Place>, NotTaken> {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.taken));
        if taken < self.most { Ok(Arc::new(place)) } else { Err(NotTaken::Full(self.most)) }
    }

    /// Hands requests over that belong together.
    pub(super) fn submit(
        &self,
        place: Arc<Place>,
        requests: Vec<Request>,
    ) -> Result<UnboundedReceiver<Update>, NotTaken> {
        let (updates, receiver) = unbounded_channel();
        self.submissions.send(Submission { requests, updates, place }).map_err(|_| NotTaken::Gone)?;
        Ok(receiver)
    }

    /// Whether the engine runs.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether it was told to end, for whoever has to say why it did.
    pub(super) fn stop(&self) -> Stop {
        Stop(Arc::clone(&self.cut))
    }

    /// Ends everything under way, and the engine.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

/// Whether the engine was told to end. Keeps nothing of it alive.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// One that does not change.
    #[cfg(test)]
    pub(super) fn asked(asked: bool) -> Self {
        Self(Arc::new(AtomicBool::new(asked)))
    }

    /// What a client is told where nothing more comes from the engine: a stop that was asked for is no fault, and an
    /// engine that failed is one, after which another try helps nobody.
    pub(super) fn why(&self) -> ApiError {
        if self.0.load(Ordering::Relaxed) {
            ApiError::stopping()
        } else {
            ApiError::internal("the engine has ended")
        }
    }
}

/// What the engine runs on.
pub(super) struct Machine {
    pub checkpoint: Checkpoint,
    pub tokenizer: Arc<Tokenizer>,
    pub isa: Isa,
    pub threads: usize,
    pub limits: Limits,
    /// Submissions at most.
    pub most: usize,
    pub counts: Arc<Counts>,
}

/// Loads the weights in a thread of its own and starts the engine there.
///
/// # Errors
/// The weights cannot be loaded.
pub(super) fn start(machine: Machine) -> Result<(Handle, JoinHandle<()>), StartError> {
    let (submissions, received) = channel();
    let (loaded, is_loaded) = channel();
    let alive = Arc::new(AtomicBool::new(true));
    let cut = Arc::new(AtomicBool::new(false));
    let handle = Handle {
        submissions,
        taken: Arc::default(),
        most: machine.most,
        alive: Arc::clone(&alive),
        cut: Arc::clone(&cut),
    };
    let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
        // However it ends.
        let _alive = Alive(alive);
        let mut cpu = Cpu::new(machine.isa, machine.threads);
        let model = match Model::load(&machine.checkpoint, &mut cpu) {
            Ok(model) => model,
            Err(e) => return drop(loaded.send(Err(e))),
        };
        if loaded.send(Ok(())).is_err() {
            return;
        }
        let mut o = Eager::new(cpu);
        let engine = Engine::new(&mut o, &model, Some(&*machine.tokenizer), machine.limits);
        Loop { engine, received, cut, live: HashMap::new(), counts: &machine.counts }.run();
    });
    let thread = thread.map_err(StartError::Thread)?;
    match is_loaded.recv() {
        Ok(Ok(())) => Ok((handle, thread)),
        Ok(Err(e)) => Err(StartError::Load(e)),
        Err(_) => Err(StartError::Ended),
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The weights cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The machine gives no thread.
    #[error("no thread can be started for the engine")]
    Thread(#[source] std::io::Error),
    /// It failed before it said anything.
    #[error("the engine ended while it was loading the model")]
    Ended,
}

struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A request under way.
struct Live {
    updates: UnboundedSender<Update>,
    /// Index of its first choice.
    first: usize,
    /// Choices that have not ended.
    left: u32,
    since: Instant,
    spoke: bool,
    _place: Arc<Place>,
}

struct Loop<'a> {
    engine: Engine<'a, Eager<Cpu>>,
    received: Receiver<Submission>,
    cut: Arc<AtomicBool>,
    live: HashMap<RequestId, Live>,
    counts: &'a Counts,
}

impl Loop<'_> {
    /// Until the server is stopped, or nobody is left who could submit anything.
    fn run(mut self) {
        loop {
            if self.cut.load(Ordering::Relaxed) {
                for live in self.live.values() {
                    let _ = live.updates.send(Update::Cut);
                }
                // Whoever is still in the channel is told the same.
                while let Ok(submission) = self.received.try_recv() {
                    let _ = submission.updates.send(Update::Cut);
                }
                return;
            }
            if self.engine.is_idle() {
                match self.received.recv_timeout(LOOK) {
                    Ok(submission) => self.accept(submission),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            loop {
                match self.received.try_recv() {
                    Ok(submission) => self.accept(submission),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.forget_the_gone();
            if !self.engine.is_idle() {
                let begun = Instant::now();
                let events = self.engine.step();
                self.counts.step(begun.elapsed(), self.engine.running(), self.engine.waiting());
                self.counts.computed(self.engine.computed());
                events.into_iter().for_each(|e| self.tell(e));
                if self.engine.is_idle() {
                    self.counts.running(0, 0);
                }
            }
        }
    }

    fn accept(&mut self, submission: Submission) {
        let Submission { requests, updates, place } = submission;
        let (mut ids, mut first) = (Vec::new(), 0);
        for (i, request) in requests.into_iter().enumerate() {
            let n = request.n;
            match self.engine.submit(request) {
                Ok(id) => {
                    let live = Live {
                        updates: updates.clone(),
                        first,
                        left: n,
                        since: Instant::now(),
                        spoke: false,
                        _place: Arc::clone(&place),
                    };
                    self.live.insert(id, live);
                    ids.push(id);
                    first += n as usize;
                }
                Err(why) => {
                    for id in ids {
                        self.engine.cancel(id);
                        self.live.remove(&id);
                    }
                    let _ = updates.send(Update::Refused { request: i, why });
                    return;
                }
            }
        }
        let _ = updates.send(Update::Accepted);
    }

    fn forget_the_gone(&mut self) {
        let (engine, counts) = (&mut self.engine, self.counts);
        let before = self.live.len();
        self.live.retain(|id, live| {
            let stays = !live.updates.is_closed();
            if !stays {
                engine.cancel(*id);
                counts.cancelled();
            }
            stays
        });
        if self.live.len() < before {
            self.counts.running(self.engine.running(), self.engine.waiting());
        }
    }

    fn tell(&mut self, event: Event) {
        let Some(live) = self.live.get_mut(&event.request) else { return };
        let index = live.first + event.sample as usize;
        match &event.what {
            What::Token(_) => {
                self.counts.token();
                if !std::mem::replace(&mut live.spoke, true) {
                    self.counts.first_token(live.since.elapsed());
                }
            }
            What::Finished { .. } | What::Failed(_) => live.left -= 1,
        }
        let left = live.left;
        // Whether anybody hears it is looked at before the next step.
        let _ = live.updates.send(Update::Choice { index, what: event.what });
        if left == 0 {
            self.live.remove(&event.request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A way to an engine that has ended.
    fn ended() -> Handle {
        Handle {
            submissions: channel().0,
            taken: Arc::default(),
            most: 1,
            alive: Arc::default(),
            cut: Arc::default(),
        }
    }

    #[test]
    fn an_engine_that_ended_unasked_is_a_fault_and_a_stop_is_none() {
        let handle = ended();
        let place = handle.enter().expect("a place");
        assert_eq!(handle.submit(place, Vec::new()).map(drop), Err(NotTaken::Gone));
        let stop = handle.stop();
        assert_eq!(stop.why(), ApiError::internal("the engine has ended"));
        handle.cut();
        assert_eq!(stop.why(), ApiError::stopping());
    }
}
