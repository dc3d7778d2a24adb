//! What a client, the metrics and the log are told about a rewriting.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use refocus_system2::Usage;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::flights::Origin;
use super::json::Splice;
use super::rewriter::Rewritten;
use super::select::{MODE, Skip};
use crate::metrics::{Kind, Metric, Metrics};

static REWRITES: Metric = Metric {
    name: "refocus_rewrites_total",
    help: "Requests that System 2 Attention selected, by what became of them.",
    kind: Kind::Counter,
};
static TOKENS: Metric =
    Metric { name: "refocus_rewrite_tokens_total", help: "Tokens that rewriting took.", kind: Kind::Counter };
static SECONDS: Metric = Metric {
    name: "refocus_rewrite_seconds",
    help: "Time that requests waited for a rewrite.",
    kind: Kind::Seconds,
};
static UNLOGGED: Metric = Metric {
    name: "refocus_unlogged_rewrites_total",
    help: "Rewrites that could not be written to the log.",
    kind: Kind::Counter,
};

/// What [`Report::what`] says where something was.
pub(crate) const APPLIED: &str = "applied";

/// What became of a request that was selected.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// `applied`, `skipped` or `audit`.
    pub(crate) what: &'static str,
    /// A name of a fixed set, where nothing was applied, or not to everything.
    pub(crate) reason: Option<&'static str>,
    /// Model that rewrote.
    pub(crate) model: String,
    /// Tokens of the rewriting that this request paid for.
    pub(crate) usage: Usage,
    pub(crate) elapsed: Duration,
    pub(crate) origin: Option<Origin>,
    /// Estimated tokens of the texts, before and after.
    pub(crate) tokens: Option<(u64, u64)>,
    /// What comes where in the body.
    pub(crate) splices: Vec<Splice>,
}

impl Report {
    /// Nothing was applied, and nothing tried.
    pub(crate) fn skipped(reason: Skip) -> Self {
        Self { what: "skipped", reason: Some(reason.name()), ..Self::default() }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![(MODE, self.what.to_owned())];
        all.extend(self.reason.map(|reason| ("x-refocus-reason", reason.to_owned())));
        if let Some(origin) = self.origin {
            all.push(("x-refocus-cache", origin.name().to_owned()));
            all.push(("x-refocus-model", self.model.clone()));
            all.push(("x-refocus-ms", self.elapsed.as_millis().to_string()));
            all.push(("x-refocus-prompt-tokens", self.usage.prompt.to_string()));
            all.push(("x-refocus-completion-tokens", self.usage.completion.to_string()));
        }
        if let Some((before, after)) = self.tokens {
            all.push(("x-refocus-tokens-before", before.to_string()));
            all.push(("x-refocus-tokens-after", after.to_string()));
        }
        all
    }

    /// Adds it to the head of an answer.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in self.lines() {
            // A model's name comes from the client and may hold anything.
            let value: String = value.chars().filter(char::is_ascii_graphic).collect();
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }

    /// As a comment in a stream of events whose head is long gone.
    pub(crate) fn comment(&self) -> String {
        let all: serde_json::Map<String, Value> =
            self.lines().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        format!(": refocus {}\n\n", Value::Object(all))
    }

    /// Counts it.
    pub(crate) fn count(&self, metrics: &Metrics) {
        if self.origin.is_some() {
            metrics.observe(&SECONDS, &[], self.elapsed.as_secs_f64());
        }
        let outcome = if self.what == APPLIED { APPLIED } else { self.reason.unwrap_or(self.what) };
        self.count_as(outcome, metrics);
    }

    /// Counts a rewriting that was made beside its request: nothing was applied, and nobody waited for it.
    pub(crate) fn count_audit(&self, metrics: &Metrics) {
        self.count_as("audit", metrics);
    }

    fn count_as(&self, outcome: &str, metrics: &Metrics) {
        metrics.add(&REWRITES, &[("outcome", outcome)], 1.0);
        if self.origin.is_some() {
            metrics.add(&TOKENS, &[("kind", "prompt")], self.usage.prompt as f64);
            metrics.add(&TOKENS, &[("kind", "completion")], self.usage.completion as f64);
        }
    }
}

/// An estimate of a text's tokens without its tokenizer: one for four characters of ASCII, one for each other.
pub(crate) fn tokens(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
    ascii.div_ceil(4) + text.chars().filter(|c| !c.is_ascii()).count() as u64
}

/// A file with a line of JSON for each rewriting: what was done to which bytes, and no word of the text.
pub(crate) struct Log {
    path: PathBuf,
    metrics: Arc<Metrics>,
    one_at_a_time: Mutex<()>,
}

impl Log {
    pub(crate) fn new(path: PathBuf, metrics: Arc<Metrics>) -> Self {
        Self { path, metrics, one_at_a_time: Mutex::new(()) }
    }

    /// Adds a line. A disk that is full or a file that is gone costs the line, and a metric says so.
    pub(crate) fn add(&self, mode: &str, model: &str, text: &str, rewritten: &Rewritten) {
        let hash = Sha256::digest(text);
        let hash: String = hash[..8].iter().map(|b| format!("{b:02x}")).collect();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let line = json!({
            "time": seconds,
            "mode": mode,
            "model": model,
            "text": hash,
            "outcome": if rewritten.text.is_some() { "applied" } else { "kept" },
            "reason": rewritten.reason.as_ref().map(|(name, _)| name),
            "bytes_before": text.len(),
            "bytes_after": rewritten.text.as_ref().map(String::len),
            "removed": rewritten.removed.iter().map(|r| [r.range.start, r.range.end]).collect::<Vec<_>>(),
            "ms": rewritten.elapsed.as_millis() as u64,
            "prompt_tokens": rewritten.usage.prompt,
            "completion_tokens": rewritten.usage.completion,
        });
        let turn = self.one_at_a_time.lock();
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path);
        let written = file.as_mut().map(|file| file.write_all(format!("{line}\n").as_bytes()));
        drop(turn);
        if !matches!(written, Ok(Ok(()))) {
            self.metrics.add(&UNLOGGED, &[], 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_s_name_cannot_make_a_header_of_its_own() {
        let report = Report {
            what: "applied",
            model: "m\r\nset-cookie: x=1 é".to_owned(),
            origin: Some(Origin::New),
            ..Report::default()
        };
        let mut headers = HeaderMap::new();
        report.write(&mut headers);
        assert_eq!(headers["x-refocus-model"], "mset-cookie:x=1");
        assert_eq!(report.comment().matches('\n').count(), 2, "nor an event");
    }

    #[test]
    fn estimates_of_tokens_follow_the_script() {
        assert_eq!((tokens(""), tokens("four"), tokens("fives"), tokens("東京")), (0, 1, 2, 2));
    }

    #[test]
    fn a_log_that_cannot_be_written_costs_a_line_and_no_request() {
        let metrics = Arc::new(Metrics::default());
        let log = Log::new(std::env::temp_dir(), metrics.clone());
        let rewritten = Rewritten {
            text: None,
            reason: Some(("clean", String::new())),
            failed: false,
            own_fault: false,
            kept: Vec::new(),
            removed: Vec::new(),
            usage: Usage::default(),
            elapsed: Duration::ZERO,
        };
        log.add("on", "m", "secret words", &rewritten);
        assert!(metrics.render().contains("refocus_unlogged_rewrites_total 1"));
    }
}
