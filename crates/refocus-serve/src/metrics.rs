//! Counters, gauges and histograms in the text format of Prometheus (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is counted.
#[derive(Debug)]
pub struct Metric {
    /// Its name: `refocus_…`, with the unit at its end, and `_total` where it is a counter.
    pub name: &'static str,
    /// One line about it.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts seconds in buckets.
    Seconds,
}

/// Upper ends of the buckets of [`Kind::Seconds`].
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0];

/// Labels of a series. Values come from the program, never from a client, so that their number is bounded.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

#[derive(Debug)]
enum Series {
    Value(f64),
    Seconds { buckets: [u64; BUCKETS.len()], count: u64, sum: f64 },
}

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    series: BTreeMap<String, Series>,
}

/// All metrics of a server.
#[derive(Debug, Default)]
pub struct Metrics {
    families: Mutex<BTreeMap<&'static str, Family>>,
}

impl Metrics {
    /// Adds to a counter or a gauge.
    pub fn add(&self, metric: &'static Metric, labels: Labels<'_>, by: f64) {
        self.change(metric, labels, |series| {
            if let Series::Value(value) = series {
                *value += by;
            }
        });
    }

    /// Sets a gauge.
    pub fn set(&self, metric: &'static Metric, labels: Labels<'_>, to: f64) {
        self.change(metric, labels, |series| *series = Series::Value(to));
    }

    /// Counts a duration in seconds.
    pub fn observe(&self, metric: &'static Metric, labels: Labels<'_>, seconds: f64) {
        self.change(metric, labels, |series| {
            if let Series::Seconds { buckets, count, sum } = series {
                *count += 1;
                *sum += seconds;
                if let Some(i) = BUCKETS.iter().position(|end| seconds <= *end) {
                    buckets[i] += 1;
                }
            }
        });
    }

    /// All of them as text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (name, family) in self.lock().iter() {
            let kind = match family.metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Seconds => "histogram",
            };
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.metric.help);
            for (labels, series) in &family.series {
                match series {
                    Series::Value(value) => {
                        let _ = writeln!(out, "{name}{} {value}", braces(labels, ""));
                    }
                    Series::Seconds { buckets, count, sum } => {
                        let mut below = 0;
                        for (end, n) in BUCKETS.iter().zip(buckets) {
                            below += n;
                            let end = format!("le=\"{end}\"");
                            let _ = writeln!(out, "{name}_bucket{} {below}", braces(labels, &end));
                        }
                        let _ = writeln!(out, "{name}_bucket{} {count}", braces(labels, "le=\"+Inf\""));
                        let _ = writeln!(out, "{name}_sum{} {sum}", braces(labels, ""));
                        let _ = writeln!(out, "{name}_count{} {count}", braces(labels, ""));
                    }
                }
            }
        }
        out
    }

    fn change(&self, metric: &'static Metric, labels: Labels<'_>, change: impl FnOnce(&mut Series)) {
        let mut families = self.lock();
        let family =
            families.entry(metric.name).or_insert_with(|| Family { metric, series: BTreeMap::new() });
        let series = family.series.entry(written(labels)).or_insert_with(|| match metric.kind {
            Kind::Counter | Kind::Gauge => Series::Value(0.0),
            Kind::Seconds => Series::Seconds { buckets: [0; BUCKETS.len()], count: 0, sum: 0.0 },
        });
        change(series);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Family>> {
        // A number half changed is better than no numbers.
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `a="1",b="2"`.
fn written(labels: Labels<'_>) -> String {
    let one = |(name, value): &(&str, &str)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    labels.iter().map(one).collect::<Vec<_>>().join(",")
}

fn braces(labels: &str, more: &str) -> String {
    match (labels.is_empty(), more.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!("{{{labels}}}"),
        (true, false) => format!("{{{more}}}"),
        (false, false) => format!("{{{labels},{more}}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static REQUESTS: Metric =
        Metric { name: "refocus_requests_total", help: "Requests.", kind: Kind::Counter };
    static WAITS: Metric = Metric { name: "refocus_wait_seconds", help: "Waits.", kind: Kind::Seconds };

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.add(&REQUESTS, &[("status", "200")], 2.0);
        metrics.add(&REQUESTS, &[("status", "a\"b\\")], 1.0);
        metrics.observe(&WAITS, &[], 0.003);
        metrics.observe(&WAITS, &[], 500.0);
        let text = metrics.render();
        assert!(
            text.starts_with(
                "# HELP refocus_requests_total Requests.\n# TYPE refocus_requests_total counter\n"
            )
        );
        assert!(text.contains("refocus_requests_total{status=\"200\"} 2\n"));
        assert!(text.contains("refocus_requests_total{status=\"a\\\"b\\\\\"} 1\n"));
        assert!(text.contains("refocus_wait_seconds_bucket{le=\"0.0025\"} 0\n"));
        assert!(text.contains("refocus_wait_seconds_bucket{le=\"0.005\"} 1\n"));
        assert!(text.contains("refocus_wait_seconds_bucket{le=\"120\"} 1\n"));
        assert!(text.contains("refocus_wait_seconds_bucket{le=\"+Inf\"} 2\n"));
        assert!(text.ends_with("refocus_wait_seconds_sum 500.003\nrefocus_wait_seconds_count 2\n"));
    }
}
