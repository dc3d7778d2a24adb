//! How long a run will take, from the time of its first questions.

use std::path::Path;
use std::time::Instant;

use refocus_system2::{Ask, Chat, ChatError, Message, Usage, Variant, together};
use refocus_tasks::planted::{Item, Judge};

use super::arm::Arm;
use super::error::System2Error;
use super::kept::Kept;
use super::run::is_below_floor;
use super::suite::Suite;

/// Tokens that are written to measure how long one takes.
const TRIED: usize = 16;

/// Answers that are not in the folder, and about how many seconds they take; nothing where all are there. Rewrites
/// are taken to be as long as the text, and no suite to stay below its floor.
///
/// # Errors
/// The folder cannot be read, or the model fails.
pub fn projected(
    chat: &mut dyn Chat,
    suites: &[(Suite, Vec<Item>)],
    arms: &[Arm],
    dir: &Path,
) -> Result<Option<(usize, f64)>, System2Error> {
    let mut left: Vec<(Suite, &Item, Vec<Arm>)> = Vec::new();
    for (suite, items) in suites {
        let kept: Vec<Kept> = items
            .iter()
            .enumerate()
            .map(|(at, item)| Kept::load(dir, *suite, at, item))
            .collect::<Result<_, _>>()?;
        let below = is_below_floor(*suite, &kept);
        let asked = |a: &Arm| suite.asks(*a) && (!below || matches!(a, Arm::Oracle | Arm::Baseline));
        for (item, kept) in items.iter().zip(&kept) {
            let missing: Vec<Arm> =
                arms.iter().copied().filter(|a| asked(a) && kept.of(*a).is_none()).collect();
            if !missing.is_empty() {
                left.push((*suite, item, missing));
            }
        }
    }
    let Some((suite, first, _)) = left.first() else { return Ok(None) };
    let failed = |source: ChatError| System2Error::Chat {
        suite: suite.name(),
        item: first.key.clone(),
        arm: Arm::Baseline.name(),
        source,
    };
    // As many as will be asked at the same time: one alone takes longer.
    let prompts: Vec<String> = left.iter().take(chat.at_once().max(1)).map(|l| l.1.prompt()).collect();
    let messages: Vec<[Message; 1]> = prompts.iter().map(|p| [Message::user(p.clone())]).collect();
    let mut timed = |tokens: usize| -> Result<(f64, Usage), ChatError> {
        let start = Instant::now();
        let mut usage = Usage::default();
        let asked = messages.iter().map(|m| move |chat: &mut dyn Chat| chat.complete(&Ask::new(m, tokens)));
        for reply in together(chat, asked.collect()) {
            usage += reply?.usage;
        }
        Ok((start.elapsed().as_secs_f64(), usage))
    };
    let (reading, usage) = timed(1).map_err(failed)?;
    let (both, written) = timed(TRIED).map_err(failed)?;
    let writing = (both - reading).max(0.0) / written.completion.max(1) as f64;
    // The head and the end of a conversation are read too.
    let bytes = prompts.iter().map(String::len).sum::<usize>().max(1) as f64;
    let bytes_per_token = bytes / usage.prompt.max(1) as f64;
    let per_byte = reading / bytes;
    let one = |(_, item, arms): &(Suite, &Item, Vec<Arm>)| {
        let length = item.prompt().len() as f64;
        arms.iter()
            .map(|a| cost(*a, item, length, bytes_per_token))
            .map(|(read, written)| read * per_byte + written * writing)
            .sum::<f64>()
    };
    Ok(Some((left.iter().map(|l| l.2.len()).sum(), left.iter().map(one).sum())))
}

/// Bytes read and tokens written for one answer.
fn cost(arm: Arm, item: &Item, length: f64, bytes_per_token: f64) -> (f64, f64) {
    /// Bytes of what the model is told for a rewriting.
    const TOLD: f64 = 600.0;
    let written = if matches!(item.judge, Judge::Number(_)) { 150.0 } else { 0.0 };
    let answer = if item.judge == Judge::Kept { 0.0 } else { 1.0 };
    let (read, more) = match arm {
        Arm::Oracle | Arm::Baseline | Arm::Instructed => (0.0, 0.0),
        Arm::Think => (answer * length, answer * 96.0),
        // They begin with the step of another arm.
        Arm::Rewrite(Variant::KeepOriginal | Variant::NoInstruction) => (length, 0.0),
        Arm::Rewrite(Variant::Extractive) => (TOLD + length, 12.0),
        Arm::Rewrite(Variant::Scored) | Arm::ScoredChange => (TOLD + 2.0 * length, 0.0),
        Arm::Rewrite(_) => (TOLD + length, length / bytes_per_token),
    };
    (answer * length + read, answer * written + more)
}
