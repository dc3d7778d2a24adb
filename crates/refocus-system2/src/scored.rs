//! Pieces are judged by probabilities; no token is generated.

use std::ops::Range;

use crate::chat::Message;
use crate::guard::Original;
use crate::options::Judge;
use crate::outcome::{Judged, Reason, Removed, Why};
use crate::rewrite::{Job, body, reason};
use crate::templates::Template;

/// Each piece is a question of its own.
const MOST_PIECES: usize = 256;
/// Bytes of questions that are asked together at most: each holds the whole text.
const MOST_TOGETHER: usize = 16 << 20;
/// The answers to whether a piece is needed.
const YES_NO: [&str; 2] = ["Yes", "No"];

/// What is below the threshold.
pub(crate) fn below(job: &mut Job<'_>, original: &Original<'_>) -> Result<Vec<Removed>, Reason> {
    let candidates = job.candidates(original)?;
    if candidates.len() > MOST_PIECES {
        return Err(Reason::TooManyPieces { pieces: candidates.len(), most: MOST_PIECES });
    }
    let scores = match job.options.judge {
        Judge::Need => needs(job, original, &candidates)?,
        Judge::AnswerChange => changes(job, original, &candidates)?,
    };
    let range = |i: usize| original.pieces[i].range.clone();
    let scored: Vec<(Range<usize>, f64)> = candidates.iter().map(|&i| range(i)).zip(scores).collect();
    job.judged = scored.iter().map(|(range, score)| Judged { range: range.clone(), score: *score }).collect();
    let threshold = job.options.threshold();
    let low = scored.into_iter().filter(|(_, score)| *score < threshold);
    Ok(low.map(|(range, score)| Removed { range, why: Why::Score, score: Some(score) }).collect())
}

/// log P(yes) − log P(no) for each piece.
fn needs(job: &mut Job<'_>, original: &Original<'_>, candidates: &[usize]) -> Result<Vec<f64>, Reason> {
    let (options, question) = (job.options, &original.text[original.question.clone()]);
    let asked = |&i: &usize| {
        let fields = [("text", original.text.trim()), ("question", question), ("piece", body(original, i))];
        vec![Message::user(options.templates.fill(Template::Needed, &fields).0)]
    };
    let mut scores = Vec::with_capacity(candidates.len());
    for some in candidates.chunks((MOST_TOGETHER / original.text.len().max(1)).max(1)) {
        let conversations: Vec<_> = some.iter().map(asked).collect();
        let (rows, usage) = job.chat.score_each(&conversations, &YES_NO).map_err(reason)?;
        job.usage += usage;
        for row in rows {
            let [yes, no] = row[..] else { return Err(odd()) };
            scores.push(yes - no);
        }
    }
    Ok(scores)
}

/// How much the answer's log-probability changes without each piece.
fn changes(job: &mut Job<'_>, original: &Original<'_>, candidates: &[usize]) -> Result<Vec<f64>, Reason> {
    let (prompt, places) = job.options.templates.fill(Template::Answer, &[("text", original.text)]);
    let start = places.first().map_or(0, |p| p.1);
    let moved = |r: &Range<usize>| start + r.start..start + r.end;
    let hidden: Vec<Range<usize>> = candidates.iter().map(|&i| moved(&original.pieces[i].range)).collect();
    let answers: Vec<&str> = job.request.answers.iter().map(String::as_str).collect();
    let messages = [Message::user(prompt)];
    let from = start + original.question.start;
    let (rows, usage) = job.chat.score_hidden(&messages, &answers, &hidden, from).map_err(reason)?;
    job.usage += usage;
    let (all, without) = rows.split_first().ok_or_else(odd)?;
    let all = shares(all, answers.len());
    let change = |row: &Vec<f64>| {
        let row = shares(row, answers.len());
        row.iter().zip(&all).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    Ok(without.iter().map(change).collect())
}

/// Log-probabilities among the answers, where there are several.
fn shares(row: &[f64], answers: usize) -> Vec<f64> {
    if answers < 2 {
        return row.to_vec();
    }
    let best = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = best + row.iter().map(|x| (x - best).exp()).sum::<f64>().ln();
    row.iter().map(|x| x - total).collect()
}

fn odd() -> Reason {
    Reason::Failed("the model gave another number of scores than was asked for".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Ask, Chat, ChatError, Reply, Scores, Usage};
    use crate::options::{Options, Request};
    use crate::rewrite::rewrite;
    use refocus_model::patch::Variant;

    /// Takes no prompt, and remembers how much was asked at once.
    struct Full(usize);

    impl Chat for Full {
        fn name(&self) -> &str {
            "full"
        }

        fn complete(&mut self, _: &Ask<'_>) -> Result<Reply, ChatError> {
            Err(ChatError::TooLong { tokens: 2, room: 1 })
        }

        fn score(&mut self, _: &[Message], _: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
            Err(ChatError::TooLong { tokens: 2, room: 1 })
        }

        fn score_each(&mut self, all: &[Vec<Message>], _: &[&str]) -> Result<Scores, ChatError> {
            let bytes = all.iter().flatten().map(|m| m.content.len()).sum();
            self.0 = self.0.max(bytes);
            Err(ChatError::TooLong { tokens: 2, room: 1 })
        }
    }

    #[test]
    fn a_long_text_is_not_copied_for_every_piece_at_once() {
        let sentence = format!("I heard of {}birds. ", "birds and ".repeat(54));
        let text = format!("{}What is the capital of Chad?", sentence.repeat(250));
        assert!(text.len() * 250 > MOST_TOGETHER * 2);
        let mut chat = Full(0);
        let done = rewrite(&mut chat, &Request::new(&*text), &Options::new(Variant::Scored));
        assert_eq!(done.reason().map(Reason::name), Some("too_long"));
        assert!(chat.0 > text.len() && chat.0 < MOST_TOGETHER / 2 * 3, "{}", chat.0);
    }
}
