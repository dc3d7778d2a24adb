//! Answers from a model on this machine.
//!
//! One thread owns the engine ([`refocus_model::generate::Engine`]), which computes all requests together. What a
//! client gets follows from its own request: neighbours, batches and the number of threads change no bit of it.

mod answer;
mod counts;
mod engine;
mod prepare;
mod rewriting;
mod router;
mod stream;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use refocus_compute::{Isa, Philox, Purpose};
use refocus_model::generate::{Changes, ConstraintError, Grammars, Limits};
use refocus_model::patch::Rewrite;
use refocus_model::{ChatTemplate, Checkpoint, LoadError, ModelSpec, Patch, TemplateError, Tokenizer};
use sha2::{Digest, Sha256};

pub use self::engine::StartError;

use self::answer::Words;
use self::counts::Counts;
use self::engine::{Handle, Machine};
use self::rewriting::Rewriting;
use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::openai::OPEN;

const SEEDS: Purpose = Purpose::new("request seed");
const NAMES: Purpose = Purpose::new("answer id");

/// A model to serve.
#[derive(Debug)]
pub struct Source {
    /// The model.
    pub checkpoint: Checkpoint,
    /// Its name for clients.
    pub name: String,
    /// What is changed while it generates.
    pub patch: Option<Patch>,
    /// Instruction set to compute with.
    pub isa: Isa,
    /// Threads to compute with.
    pub threads: usize,
    /// Seeds of requests that bring none are drawn from it, in the order of their arrival.
    pub seed: u64,
}

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Its tokenizer or its weights cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Its patch rewrites messages, and it has none.
    #[error(
        "{}: [rewrite] changes the messages of a chat, and the model brings no chat template", patch.display()
    )]
    NoChats {
        /// Where the patch was read.
        patch: PathBuf,
    },
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What is known about a model's tools.
#[derive(Clone, Copy, Debug)]
struct ToolForm {
    /// Whether its chat template shows tools to the model.
    shown: bool,
    /// Whether it writes its calls between tags.
    tagged: bool,
}

/// A model that is being served.
pub struct Local {
    name: String,
    created: u64,
    fingerprint: String,
    spec: ModelSpec,
    n_ctx: usize,
    eos: Vec<u32>,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    tools: ToolForm,
    words: Arc<Words>,
    grammars: OnceLock<Result<Grammars, ConstraintError>>,
    changes: Arc<Changes>,
    rewriting: Option<Arc<Rewriting>>,
    keys: Keys,
    counts: Arc<Counts>,
    engine: Handle,
    thread: Mutex<Option<JoinHandle<()>>>,
    seeds: Philox,
    names: Philox,
    asked: AtomicU64,
    arrived: AtomicU64,
    body_limit: usize,
    read_limit: Duration,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("name", &self.name)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Local {
    /// Loads a model and starts its engine.
    ///
    /// # Errors
    /// Weights, tokenizer or chat template cannot be used.
    pub fn start(
        source: Source,
        config: &Config,
        keys: Keys,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, LocalError> {
        let Source { checkpoint, name, patch, isa, threads, seed } = source;
        let spec = checkpoint.spec().clone();
        let tokenizer = Arc::new(checkpoint.tokenizer()?);
        let template = ChatTemplate::of(&checkpoint, &tokenizer)?;
        let rewrite = patch.as_ref().and_then(|p| Some((p.rewrite?, p.path())));
        if let (Some((_, path)), None) = (rewrite, &template) {
            return Err(LocalError::NoChats { patch: path.to_owned() });
        }
        let rewrite = rewrite.map(|(how, _)| how);
        let beat = Duration::from_millis(config.local.heartbeat_ms);
        let text = checkpoint.chat_template()?.unwrap_or_default();
        let shown = template.as_ref().is_some_and(ChatTemplate::shows_tools);
        let tools = ToolForm { shown, tagged: text.contains(OPEN) };
        let changes = Arc::new(patch.as_ref().map(Changes::from).unwrap_or_default());
        let fingerprint = fingerprint(&checkpoint.fingerprint()?, &changes, rewrite);
        let counts = Arc::new(Counts::new(metrics));
        let room = config.local.cache_bytes / Limits::bytes_per_token(&spec).max(1);
        let machine = Machine {
            tokenizer: Arc::clone(&tokenizer),
            checkpoint,
            isa,
            threads,
            limits: Limits {
                chunk: config.local.chunk,
                sequences: config.local.sequences,
                cache_tokens: Some(room),
            },
            most: config.local.requests,
            counts: Arc::clone(&counts),
        };
        let (engine, thread) = engine::start(machine)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Arc::new(Self {
            name,
            created: now.as_secs(),
            fingerprint,
            n_ctx: spec.n_ctx,
            eos: spec.eos.clone(),
            words: Arc::new(Words::new(Arc::clone(&tokenizer), spec.vocab)),
            spec,
            tokenizer,
            template,
            tools,
            grammars: OnceLock::new(),
            changes,
            rewriting: rewrite.map(|how| Arc::new(Rewriting::of(how, beat))),
            keys,
            counts,
            engine,
            thread: Mutex::new(Some(thread)),
            seeds: Philox::new(seed, SEEDS),
            // Ids of answers are no results: they differ between starts.
            names: Philox::new(now.as_nanos() as u64, NAMES),
            asked: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            body_limit: config.body_limit,
            read_limit: config.read_limit(),
        }))
    }

    /// What answers requests.
    pub fn router(self: &Arc<Self>) -> Router {
        router::of(Arc::clone(self))
    }

    /// Ends all answers under way with an error, and the engine.
    pub fn cut(&self) {
        self.engine.cut();
    }

    /// Ends the engine and waits until its thread has ended.
    pub fn finish(&self) {
        self.cut();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that failed has nothing more to say.
            let _ = thread.join();
        }
    }

    fn is_here(&self, model: &str) -> ApiResult<()> {
        if model == self.name { Ok(()) } else { Err(ApiError::no_model(model, &self.name)) }
    }

    fn grammars(&self) -> Result<&Grammars, &ConstraintError> {
        self.grammars.get_or_init(|| Grammars::new(&self.tokenizer, &self.spec)).as_ref()
    }

    /// How many requests came before this one.
    fn number(&self) -> u64 {
        self.arrived.fetch_add(1, Ordering::Relaxed)
    }

    /// The seed of a prompt of a request that brings none.
    fn seed(&self, request: u64, prompt: usize) -> u64 {
        let words = self.seeds.at((request >> 32) as u32, prompt as u32, request as u32);
        (u64::from(words[0]) << 32) | u64::from(words[1])
    }

    /// A name for an answer that says nothing about the others.
    fn draw_name(&self) -> String {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        let words = self.names.at((n >> 32) as u32, 0, n as u32);
        words[..3].iter().map(|w| format!("{w:08x}")).collect()
    }
}

/// Changes where the same request may get another answer: with the weights and with the patch.
fn fingerprint(model: &str, changes: &Changes, rewrite: Option<Rewrite>) -> String {
    let mut hash = Sha256::new();
    hash.update(model);
    if *changes != Changes::default() {
        hash.update(format!("{changes:?}"));
    }
    if let Some(how) = rewrite {
        hash.update(format!("{how:?}"));
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest[..6].iter().fold("fp_".to_owned(), |name, b| name + &format!("{b:02x}"))
}
