//! The model names what to drop; nothing is written anew.

use serde_json::json;

use crate::chat::Finish;
use crate::guard::Original;
use crate::outcome::{Reason, Removed, Why};
use crate::parse;
use crate::rewrite::{Job, body};
use crate::templates::Template;

/// A list of more numbers is no use to a model.
const MOST_PIECES: usize = 512;
/// Tokens that a number and its comma take at most.
const TOKENS_A_NUMBER: usize = 5;

/// What the model names.
pub(crate) fn named(job: &mut Job<'_>, original: &Original<'_>) -> Result<Vec<Removed>, Reason> {
    let candidates = job.candidates(original)?;
    let n = candidates.len();
    if n > MOST_PIECES {
        return Err(Reason::TooManyPieces { pieces: n, most: MOST_PIECES });
    }
    let mut pieces = String::new();
    for i in 0..original.pieces.len() {
        if let Some(number) = candidates.iter().position(|&c| c == i) {
            pieces.push_str(&format!("[{}] ", number + 1));
        }
        pieces.push_str(body(original, i));
        pieces.push('\n');
    }
    let question = &original.text[original.question.clone()];
    let fields = [("pieces", pieces.trim_end()), ("question", question), ("text", original.text.trim())];
    let (prompt, _) = job.options.templates.fill(Template::Extractive, &fields);
    let numbers: Vec<usize> = (1..=n).collect();
    let schema = json!({
        "type": "object",
        "properties": {"drop": {"type": "array", "items": {"type": "integer", "enum": numbers}, "maxItems": n}},
        "required": ["drop"],
        "additionalProperties": false,
    });
    let max_new = job.options.max_new.unwrap_or(24 + TOKENS_A_NUMBER * n);
    let (reply, finish) = match job.complete(&prompt, max_new, Some(&schema)) {
        // Without schemas it may still answer as it is told.
        Err(Reason::Cannot(_)) => job.complete(&prompt, max_new, None)?,
        other => other?,
    };
    let mut drop = parse::list(&reply).map_err(|e| match e {
        Reason::NoList if finish == Finish::Length => Reason::Cut,
        other => other,
    })?;
    if let Some(wrong) = drop.iter().find(|&&d| d == 0 || d > n) {
        return Err(Reason::NoSuchPiece(wrong.to_string()));
    }
    drop.sort_unstable();
    drop.dedup();
    let range = |d: usize| original.pieces[candidates[d - 1]].range.clone();
    Ok(drop.into_iter().map(|d| Removed { range: range(d), why: Why::Named, score: None }).collect())
}
