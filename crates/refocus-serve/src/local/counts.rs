//! What the local source counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::{Kind, Metric, Metrics};
use crate::proxy::report::Report;

static REQUESTS: Metric =
    Metric { name: "refocus_requests_total", help: "Requests by address and status.", kind: Kind::Counter };
static PROMPT_TOKENS: Metric = Metric {
    name: "refocus_prompt_tokens_total",
    help: "Prompt tokens of accepted requests.",
    kind: Kind::Counter,
};
static TOKENS: Metric =
    Metric { name: "refocus_completion_tokens_total", help: "New tokens.", kind: Kind::Counter };
static COMPUTED: Metric = Metric {
    name: "refocus_computed_positions_total",
    help: "Positions computed; what prompts share counts once.",
    kind: Kind::Counter,
};
static CANCELLED: Metric = Metric {
    name: "refocus_cancelled_total",
    help: "Requests whose client went away before they ended.",
    kind: Kind::Counter,
};
static RUNNING: Metric =
    Metric { name: "refocus_sequences_running", help: "Sequences under way.", kind: Kind::Gauge };
static WAITING: Metric =
    Metric { name: "refocus_requests_waiting", help: "Requests that wait for room.", kind: Kind::Gauge };
static STEP: Metric =
    Metric { name: "refocus_step_seconds", help: "Time of one pass of the engine.", kind: Kind::Seconds };
static FIRST_TOKEN: Metric = Metric {
    name: "refocus_first_token_seconds",
    help: "Time from a request's arrival at the engine to its first token.",
    kind: Kind::Seconds,
};

/// The numbers of the local source.
#[derive(Debug)]
pub(super) struct Counts {
    metrics: Arc<Metrics>,
    computed: AtomicU64,
}

impl Counts {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let counts = Self { metrics, computed: AtomicU64::new(0) };
        // What has not happened yet is there as 0.
        for metric in [&PROMPT_TOKENS, &TOKENS, &COMPUTED, &CANCELLED, &RUNNING, &WAITING] {
            counts.metrics.add(metric, &[], 0.0);
        }
        counts
    }

    pub(super) fn request(&self, address: &str, status: u16) {
        self.metrics.add(&REQUESTS, &[("address", address), ("status", &status.to_string())], 1.0);
    }

    pub(super) fn prompt(&self, tokens: usize) {
        self.metrics.add(&PROMPT_TOKENS, &[], tokens as f64);
    }

    pub(super) fn token(&self) {
        self.metrics.add(&TOKENS, &[], 1.0);
    }

    pub(super) fn first_token(&self, after: Duration) {
        self.metrics.observe(&FIRST_TOKEN, &[], after.as_secs_f64());
    }

    pub(super) fn cancelled(&self) {
        self.metrics.add(&CANCELLED, &[], 1.0);
    }

    pub(super) fn step(&self, took: Duration, running: usize, waiting: usize) {
        self.metrics.observe(&STEP, &[], took.as_secs_f64());
        self.running(running, waiting);
    }

    pub(super) fn running(&self, running: usize, waiting: usize) {
        self.metrics.set(&RUNNING, &[], running as f64);
        self.metrics.set(&WAITING, &[], waiting as f64);
    }

    /// `all` counts from the start of the engine.
    pub(super) fn computed(&self, all: u64) {
        let before = self.computed.swap(all, Ordering::Relaxed);
        self.metrics.add(&COMPUTED, &[], all.saturating_sub(before) as f64);
    }

    pub(super) fn rewriting(&self, report: &Report) {
        report.count(&self.metrics);
    }

    pub(super) fn render(&self) -> String {
        self.metrics.render()
    }
}
