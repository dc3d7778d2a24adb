//! The engine: which sequences run, and how much of each in one step.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use refocus_compute::{Batch, KEY_BLOCK, Kernels, KvSeq, KvUse, Ops};

use super::changes::{self, Part};
use super::error::RequestError;
use super::pass::{Ask, Cache, Questions, Row, run};
use super::sequence::{Job, Sequence};
use super::{Event, Finish, Request, RequestId, What};
use crate::forward::empty_cache;
use crate::plan::{Mode, Plan};
use crate::run_error::RunError;
use crate::spec::ModelSpec;
use crate::tokenizer::Tokenizer;
use crate::weights::Model;

/// A shorter beginning is computed again and not shared: waiting for it would take longer.
const SHARED_FROM: usize = 8;

/// What an engine may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Prompt tokens that one step computes at most, of all prompts together.
    pub chunk: usize,
    /// Sequences under way at most; each sample counts.
    pub sequences: usize,
    /// Positions in the key/value cache at most. A request waits until all that it may come to need fits,
    /// so that nothing under way is ever thrown out.
    pub cache_tokens: Option<usize>,
}

impl Default for Limits {
    /// Pieces of 256 prompt tokens, 64 sequences, any amount of cache.
    fn default() -> Self {
        Self { chunk: 256, sequences: 64, cache_tokens: None }
    }
}

impl Limits {
    /// The usual limits with about `bytes` of cache, and never less than each of these requests may come to need.
    pub fn within<'r>(
        bytes: usize,
        spec: &ModelSpec,
        requests: impl IntoIterator<Item = &'r Request>,
    ) -> Self {
        let room = bytes / Self::bytes_per_token(spec).max(1);
        let usual = Self::default();
        let (largest, samples) = requests.into_iter().fold((0, 0), |(largest, samples), r| {
            (largest.max(Self::needed(spec, r)), samples.max(r.n as usize))
        });
        Self { sequences: usual.sequences.max(samples), cache_tokens: Some(room.max(largest)), ..usual }
    }

    /// Bytes of key/value cache that a position takes, in f32.
    pub fn bytes_per_token(spec: &ModelSpec) -> usize {
        spec.n_layers * spec.n_kv_heads * (spec.d_head + spec.d_head.next_multiple_of(16)) * size_of::<f32>()
    }

    /// Positions of cache that a request may come to need: `cache_tokens` must be this at least.
    pub fn needed(spec: &ModelSpec, request: &Request) -> usize {
        let (shared, own) = blocks(spec, request);
        (shared + own * request.n as usize) * KEY_BLOCK
    }
}

/// New tokens that a request can have within the model's context. The last one is not run itself.
fn max_new(spec: &ModelSpec, request: &Request) -> usize {
    let room =
        if spec.stretches() { usize::MAX } else { spec.n_ctx + 1 - request.prompt.len().min(spec.n_ctx) };
    request.max_new.min(room)
}

/// Blocks of cache for what all samples share, and for each sample.
fn blocks(spec: &ModelSpec, request: &Request) -> (usize, usize) {
    // Dynamic rotary scaling changes the angles of keys already cached: then nothing is cached.
    if spec.stretches() {
        return (0, 0);
    }
    let prompt = request.prompt.len();
    let longest = prompt.saturating_add(max_new(spec, request)).saturating_sub(1);
    let shared = if request.n > 1 { prompt / KEY_BLOCK } else { 0 };
    (shared, longest.div_ceil(KEY_BLOCK).saturating_sub(shared))
}

/// Computes many sequences together. See the module for what it promises.
pub struct Engine<'a, O: Ops> {
    o: &'a mut O,
    m: &'a Model<O::K>,
    tokenizer: Option<&'a Tokenizer>,
    limits: Limits,
    waiting: VecDeque<Rc<Job>>,
    seqs: Vec<Sequence<'a, <O::K as Kernels>::Page>>,
    /// Samples under way and blocks of cache they may come to need.
    held: usize,
    reserved: usize,
    submitted: u64,
    computed: u64,
    /// Events that need no step.
    ready: Vec<Event>,
}

impl<O: Ops> fmt::Debug for Engine<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("limits", &self.limits)
            .field("running", &self.running())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

/// Positions of a sequence that are computed in this step.
#[derive(Clone, Debug)]
struct Work {
    seq: usize,
    positions: Range<usize>,
}

impl<'a, O: Ops> Engine<'a, O> {
    /// Over a model. With a tokenizer, tokens come with their text, and stop strings work.
    pub fn new(o: &'a mut O, m: &'a Model<O::K>, tokenizer: Option<&'a Tokenizer>, limits: Limits) -> Self {
        Self {
            o,
            m,
            tokenizer,
            limits,
            waiting: VecDeque::new(),
            seqs: Vec::new(),
            held: 0,
            reserved: 0,
            submitted: 0,
            computed: 0,
            ready: Vec::new(),
        }
    }

    /// Takes a request. It is run when everything before it is under way and there is room.
    ///
    /// # Errors
    /// It does not fit the model or the limits.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, RequestError> {
        self.check(&request)?;
        let spec = &self.m.spec;
        let id = RequestId(self.submitted);
        self.submitted += 1;
        let max_new = max_new(spec, &request);
        if max_new == 0 {
            let none = |sample| {
                let what = What::Finished { finish: Finish::Length, text: String::new(), whole: None };
                Event { request: id, sample, what }
            };
            self.ready.extend((0..request.n).map(none));
            return Ok(id);
        }
        let (shared_blocks, own_blocks) = blocks(spec, &request);
        self.waiting.push_back(Rc::new(Job { id, request, max_new, shared_blocks, own_blocks }));
        Ok(id)
    }

    fn check(&self, r: &Request) -> Result<(), RequestError> {
        let spec = &self.m.spec;
        if r.prompt.is_empty() {
            return Err(RequestError::Empty);
        }
        if let Some((at, &id)) = r.prompt.iter().enumerate().find(|(_, id)| **id as usize >= spec.vocab) {
            return Err(RequestError::Id { id, at, vocab: spec.vocab });
        }
        if r.prompt.len() > spec.n_ctx && !spec.stretches() {
            return Err(RequestError::Context { len: r.prompt.len(), n_ctx: spec.n_ctx });
        }
        r.sampling.check(spec.vocab).map_err(RequestError::Sampling)?;
        if r.n == 0 {
            return Err(RequestError::NoSamples);
        }
        if r.n as usize > self.limits.sequences {
            return Err(RequestError::TooMany { n: r.n, most: self.limits.sequences });
        }
        if r.stop_strings.iter().any(String::is_empty) {
            return Err(RequestError::EmptyStop);
        }
        if !r.stop_strings.is_empty() && self.tokenizer.is_none() {
            return Err(RequestError::NoText);
        }
        let tokens = Limits::needed(spec, r);
        if let Some(limit) = self.limits.cache_tokens
            && tokens > limit
        {
            return Err(RequestError::NeverFits { tokens, limit });
        }
        // What the changes say must fit the model, wherever in the sequence they act.
        let part =
            Part { changes: Arc::clone(&r.changes), prompt: r.prompt.len(), positions: 0..r.prompt.len() };
        let mode = Mode { keeps_cache: true, decoding: true };
        Plan::compile(spec, &Batch::from_lengths([r.prompt.len()]), &[], &changes::applied(&[part]), mode)?;
        Ok(())
    }

    /// Forgets a request; no event of it follows. Whether it was there.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let before = (self.waiting.len(), self.seqs.len(), self.ready.len());
        self.waiting.retain(|job| job.id != id);
        self.ready.retain(|e| e.request != id);
        self.seqs.iter_mut().filter(|s| s.job.id == id).for_each(|s| s.ended = true);
        self.release();
        before != (self.waiting.len(), self.seqs.len(), self.ready.len())
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.seqs.is_empty() && self.ready.is_empty()
    }

    /// Sequences under way; samples of a prompt that is not computed yet count as one.
    pub fn running(&self) -> usize {
        self.seqs.len()
    }

    /// Requests that wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Positions computed so far, of all sequences together. What is shared counts once.
    pub fn computed(&self) -> u64 {
        self.computed
    }

    /// One pass over everything under way: every sequence whose prompt is computed gains a token (or
    /// more, where a constraint leaves no choice), and prompts come one piece further.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.ready);
        self.admit();
        let work = self.schedule();
        // A pass ends for all of its rows at the same block.
        let mut exits: Vec<Option<usize>> = work.iter().map(|w| self.exit(w)).collect();
        exits.sort_unstable();
        exits.dedup();
        for exit in exits {
            let group: Vec<Work> = work.iter().filter(|w| self.exit(w) == exit).cloned().collect();
            self.run(&group, &mut events);
        }
        self.release();
        events
    }

    fn exit(&self, w: &Work) -> Option<usize> {
        self.seqs[w.seq].job.request.changes.exit()
    }

    /// Lets requests in, in order, as long as there is room.
    fn admit(&mut self) {
        while let Some(job) = self.waiting.front() {
            let n = job.request.n as usize;
            let blocks = job.shared_blocks + n * job.own_blocks;
            let most = self.limits.cache_tokens.map_or(usize::MAX, |t| t / KEY_BLOCK);
            if self.held + n > self.limits.sequences || self.reserved.saturating_add(blocks) > most {
                return;
            }
            self.held += n;
            self.reserved = self.reserved.saturating_add(blocks);
            let Some(job) = self.waiting.pop_front() else { return };
            self.seqs.push(Sequence::new(job, empty_cache(self.m), self.tokenizer));
        }
    }

    /// Drops what has ended and the room it held.
    fn release(&mut self) {
        while let Some(i) = self.seqs.iter().position(|s| s.ended) {
            let seq = self.seqs.remove(i);
            let n = seq.samples() as usize;
            self.held -= n;
            self.reserved -= n * seq.job.own_blocks;
            // The last sample gives back what all of them shared.
            if self.seqs.iter().all(|s| s.job.id != seq.job.id) {
                self.reserved -= seq.job.shared_blocks;
            }
        }
    }

    /// What to compute now: the new tokens of all sequences, and a piece of the prompts.
    fn schedule(&mut self) -> Vec<Work> {
        if self.m.spec.stretches() {
            let whole = |(seq, s): (usize, &Sequence<'_, _>)| Work { seq, positions: 0..s.ids.len() };
            return self.seqs.iter().enumerate().map(whole).collect();
        }
        let mut ends: Vec<usize> = self.seqs.iter().map(|s| s.ids.len()).collect();
        for i in 0..self.seqs.len() {
            if self.seqs[i].started || self.seqs[i].cache.len > 0 {
                continue;
            }
            let Some((from, n)) = self.shared(i) else { continue };
            let computed = self.seqs[from].cache.len;
            if computed < n {
                // It waits until that much is there, which then is computed without what follows.
                ends[from] = ends[from].min(n);
                ends[i] = 0;
                continue;
            }
            self.seqs[i].cache = self.seqs[from].cache.beginning(n);
        }
        let mut room = self.limits.chunk.max(1);
        let mut work = Vec::new();
        for (seq, s) in self.seqs.iter().enumerate() {
            let start = s.cache.len;
            let mut end = ends[seq];
            if !s.started {
                end = end.min(start + room);
                room -= end.saturating_sub(start);
            }
            if end > start {
                work.push(Work { seq, positions: start..end });
            }
        }
        work
    }

    /// The sequence with which `i` has most in common, and how many tokens of it: computed already, or to
    /// be computed by a sequence before it.
    fn shared(&self, i: usize) -> Option<(usize, usize)> {
        let s = &self.seqs[i];
        let (prompt, changes) = (&s.job.request.prompt, &s.job.request.changes);
        // The last token is computed anyway: its logits are wanted.
        let most = (prompt.len() - 1).min(changes.settled(prompt.len()));
        let mut best = None;
        for (j, other) in self.seqs.iter().enumerate() {
            let theirs = &other.job.request;
            let computed = other.cache.len;
            if j == i || (j > i && computed == 0) {
                continue;
            }
            if !Arc::ptr_eq(changes, &theirs.changes) && changes.interventions != theirs.changes.interventions
            {
                continue;
            }
            let same = prompt[..most].iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
            let same = same.min(theirs.changes.settled(theirs.prompt.len()));
            let n = if same < computed {
                // Of a block that holds more than what is shared nothing can be used.
                same / KEY_BLOCK * KEY_BLOCK
            } else if other.started {
                computed
            } else {
                same
            };
            if n >= SHARED_FROM && best.is_none_or(|(_, b)| n > b) {
                best = Some((j, n));
            }
        }
        best
    }

    /// Runs parts together. Where that fails each runs alone, so that only the one to blame ends.
    fn run(&mut self, work: &[Work], events: &mut Vec<Event>) {
        match self.pass(work) {
            Ok(rows) => {
                for (w, row) in work.iter().zip(rows) {
                    if let Some(row) = row {
                        self.advance(w.seq, row, events);
                    }
                }
            }
            Err(_) if work.len() > 1 => work.iter().for_each(|w| self.run(std::slice::from_ref(w), events)),
            Err(e) => {
                let Some(w) = work.first() else { return };
                self.seqs[w.seq].fail_all(e, events);
            }
        }
    }

    /// One pass; for each part its last row, where the sequence is computed to its end.
    fn pass(&mut self, work: &[Work]) -> Result<Vec<Option<Row>>, RunError> {
        let (mut parts, mut ids, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for w in work {
            let seq = &self.seqs[w.seq];
            self.computed += w.positions.len() as u64;
            ids.extend(&seq.ids[w.positions.clone()]);
            asked.push(if w.positions.end == seq.ids.len() { seq.ask() } else { Ask::Nothing });
            parts.push(Part {
                changes: Arc::clone(&seq.job.request.changes),
                prompt: seq.job.request.prompt.len(),
                positions: w.positions.clone(),
            });
        }
        let questions = Questions::new(self.m, &parts, asked);
        if self.m.spec.stretches() {
            let readings = run(self.o, self.m, &parts, &ids, questions.readouts(), KvUse::None)?;
            return questions.rows(self.o, self.m, &readings);
        }
        let mut caches: Vec<Cache<O>> =
            work.iter().map(|w| std::mem::replace(&mut self.seqs[w.seq].cache, KvSeq::new(0))).collect();
        let readings = run(self.o, self.m, &parts, &ids, questions.readouts(), KvUse::Append(&mut caches));
        for (w, cache) in work.iter().zip(caches) {
            self.seqs[w.seq].cache = cache;
        }
        questions.rows(self.o, self.m, &readings?)
    }

    /// The prompt of a sequence is computed: from here on each sample is a sequence of its own.
    fn advance(&mut self, i: usize, row: Row, events: &mut Vec<Event>) {
        let first = !std::mem::replace(&mut self.seqs[i].started, true);
        let mut samples = vec![i];
        if first {
            for sample in 1..self.seqs[i].job.request.n {
                let fork = self.seqs[i].fork(sample);
                samples.push(self.seqs.len());
                self.seqs.push(fork);
            }
        }
        for s in samples {
            self.seqs[s].advance(row.clone(), events);
        }
    }
}
