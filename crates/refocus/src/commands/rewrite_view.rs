//! What `refocus rewrite` shows.

use std::fmt::Write as _;
use std::ops::Range;

use clap::builder::styling::{AnsiColor, Style};
use refocus_system2::{Judged, Options, Rewrite, Usage, Variant, Why};
use serde::Serialize;

use crate::table::{Side, Table};

/// Characters of a removed piece in the table.
const SHOWN: usize = 60;

/// A rewrite and what it was made with.
pub(super) struct Report<'a> {
    pub(super) model: &'a str,
    pub(super) original: &'a str,
    pub(super) options: &'a Options,
    pub(super) made: &'a Rewrite,
}

#[derive(Serialize)]
pub(super) struct Document<'a> {
    schema: &'static str,
    model: &'a str,
    variant: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scored_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f64>,
    applied: bool,
    reason: Option<Reason>,
    text: &'a str,
    context: &'a str,
    question: &'a str,
    kept: &'a [Range<usize>],
    removed: Vec<Removed<'a>>,
    #[serde(skip_serializing_if = "<[Judged]>::is_empty")]
    judged: &'a [Judged],
    reply: Option<&'a str>,
    usage: Usage,
    milliseconds: u128,
}

#[derive(Serialize)]
struct Reason {
    name: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Removed<'a> {
    range: Range<usize>,
    text: &'a str,
    why: Why,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

impl<'a> Report<'a> {
    /// For programs.
    pub(super) fn document(&self) -> Document<'a> {
        let (made, options) = (self.made, self.options);
        let scored = options.variant == Variant::Scored;
        let removed = |r: &refocus_system2::Removed| Removed {
            range: r.range.clone(),
            text: self.original.get(r.range.clone()).unwrap_or_default(),
            why: r.why,
            score: r.score,
        };
        Document {
            schema: "refocus.rewrite/1",
            model: self.model,
            variant: options.variant.name(),
            scored_by: scored.then(|| options.judge.name()),
            threshold: scored.then(|| options.threshold()),
            applied: made.reason().is_none(),
            reason: made.reason().map(|r| Reason { name: r.name(), message: r.to_string() }),
            text: &made.text,
            context: &made.context,
            question: &made.question,
            kept: &made.kept,
            removed: made.removed.iter().map(removed).collect(),
            judged: &made.judged,
            reply: made.reply.as_deref(),
            usage: made.usage,
            milliseconds: made.elapsed.as_millis(),
        }
    }

    fn writes_anew(&self) -> bool {
        !matches!(self.options.variant, Variant::Extractive | Variant::Scored)
    }
}

/// The original with what is removed marked, a line for each removed or judged piece, and what was written
/// anew.
pub(super) fn shown(report: &Report<'_>, colour: bool) -> String {
    let (made, original) = (report.made, report.original);
    let mut out = String::new();
    let mut at = 0;
    let red = Style::new().fg_color(Some(AnsiColor::Red.into())).strikethrough();
    for r in &made.removed {
        out.push_str(original.get(at..r.range.start).unwrap_or_default());
        let gone = original.get(r.range.clone()).unwrap_or_default();
        // White space around is not struck, so that lines end where they ended.
        let words = gone.trim();
        let (before, after) = gone.split_at(gone.find(words).unwrap_or(0));
        let after = after.get(words.len()..).unwrap_or_default();
        let _ = if colour {
            write!(out, "{before}{red}{words}{red:#}{after}")
        } else {
            write!(out, "{before}[-{words}-]{after}")
        };
        at = r.range.end;
    }
    out.push_str(original.get(at..).unwrap_or_default());
    if !out.ends_with('\n') {
        out.push('\n');
    }
    let table = pieces(report);
    if let Some(table) = table {
        let _ = write!(out, "\n{}", table.render(colour));
    }
    if report.writes_anew() && made.reason().is_none() {
        let _ = writeln!(out, "\n{}", made.text);
    }
    out
}

/// Every piece that is gone or was judged.
fn pieces(report: &Report<'_>) -> Option<Table> {
    let made = report.made;
    if made.judged.is_empty() {
        if made.removed.is_empty() {
            return None;
        }
        let mut table = Table::new(&[("removed", Side::Left), ("why", Side::Left)]);
        for r in &made.removed {
            table.row([short(report.original, &r.range), r.why.words().to_owned()]);
        }
        return Some(table);
    }
    let name = format!("{} (nats)", report.options.judge.name().replace('_', " "));
    let mut table = Table::new(&[("piece", Side::Left), (name.as_str(), Side::Right), ("", Side::Left)]);
    for j in &made.judged {
        let low = j.score < report.options.threshold();
        let verdict = if low { "below the threshold" } else { "kept" };
        table.row([short(report.original, &j.range), format!("{:+.2}", j.score), verdict.to_owned()]);
    }
    Some(table)
}

fn short(original: &str, range: &Range<usize>) -> String {
    let text = original.get(range.clone()).unwrap_or_default();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
