//! `flipflop probe` of a model behind a server: the same texts, and no look into the model.

use refocus_serve::HttpChat;
use refocus_serve::client::Known;
use refocus_study::flipflop::probe::{Put, texts};
use refocus_system2::ChatError;

use super::flipflop_probe::{BY_WORDS, Cell, Point, Skipped, Told, begun, counted};
use super::{Ended, upstream};
use crate::cli::{FlipflopProbe, Global};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

/// Tokens that an answer in words may take.
const WRITTEN: usize = 4;

/// Runs the command.
pub(super) fn run(
    args: &FlipflopProbe,
    url: &str,
    grid: Vec<Cell>,
    global: &Global,
    printer: &Printer,
) -> Outcome<Ended> {
    let name = args.upstream.name.as_deref();
    let at_once = args.upstream.at_once.questions;
    let mut chats = vec![upstream::open(&args.upstream.server, url, name, at_once)?];
    for _ in 1..at_once {
        chats.push(chats[0].another()?);
    }
    let model = format!("{} at {}", name.unwrap_or_default(), upstream::told(url));
    let (mut document, grid) = begun(args, model.clone(), model, grid, global.seed)?;
    printer.note("attention on the last write is left out: a server does not tell it");
    document.tell_kept(args.out.as_deref(), printer);
    let bar = printer.count_bar(grid.len() as u64 * u64::from(args.count));
    for (form, length, p, language) in grid {
        bar.set_message(format!("{}, length {length}, p {p}: strings", form.name()));
        let put = texts(form.into(), &language, args.count, global.seed)?;
        match point(&mut chats, (form, length, p), &put, |n| bar.inc(n)) {
            Ok(point) => {
                document.points.push(point);
                document.keep(args.out.as_deref())?;
            }
            // Too long for the model, most likely; shorter ones may be answered.
            Err(ChatError::Refused { why, .. }) => {
                printer.note(&format!("skipped {}, length {length}, p {p}: {why}", form.name()));
                document.skipped.push(Skipped::new((form, length, p), why));
            }
            Err(error) => {
                bar.finish_and_clear();
                return Err(ended(error, args));
            }
        }
    }
    bar.finish_and_clear();
    if let (true, Some(skipped)) = (document.points.is_empty(), document.skipped.first()) {
        return Err(Failure::new(format!("the server refuses every point: {}", skipped.why())));
    }
    // What was skipped behind the last point is not in the file yet.
    document.keep(args.out.as_deref())?;
    document.show(printer)
}

fn ended(error: ChatError, args: &FlipflopProbe) -> Failure {
    let hint = match (&error, &args.out) {
        (ChatError::Failed { .. }, _) => {
            "the probe gives raw texts to URL/completions, not to URL/chat/completions"
        }
        (_, Some(_)) => "the points that are done are kept: the same command goes on",
        (_, None) => "with --out FILE what is done is kept, and the same command goes on",
    };
    Failure::from(error).hint(hint)
}

/// What came of one string.
enum Said {
    /// By how many nats the right answer is likelier.
    Margin(f64),
    /// Whether it is the right one, and not by how much.
    Which(bool),
    Undecided,
}

/// As many strings at the same time as there are clients.
fn point(
    chats: &mut [HttpChat],
    cell: (crate::cli::ProbeForm, usize, f64),
    put: &[Put],
    mut done: impl FnMut(u64),
) -> Result<Point, ChatError> {
    let mut by_words = false;
    let mut said = Vec::with_capacity(put.len());
    for some in put.chunks(chats.len().max(1)) {
        let answers: Vec<Result<(Said, bool), ChatError>> = std::thread::scope(|scope| {
            let ask = |(chat, one)| scope.spawn(move || string(chat, one, by_words));
            let threads: Vec<_> = chats.iter_mut().zip(some).map(ask).collect();
            let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended.map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        for answer in answers {
            let (answer, in_words) = answer?;
            by_words |= in_words;
            said.push(answer);
        }
        done(some.len() as u64);
    }
    let margins: Vec<f64> =
        said.iter().filter_map(|s| if let Said::Margin(m) = s { Some(*m) } else { None }).collect();
    let is_right = |s: &&Said| matches!(s, Said::Which(true)) || matches!(s, Said::Margin(m) if *m > 0.0);
    let right = said.iter().filter(is_right).count() as u64;
    let mean = (!margins.is_empty()).then(|| margins.iter().sum::<f64>() / margins.len() as f64);
    let told = Told {
        by: if by_words { BY_WORDS.to_owned() } else { "log_probabilities".to_owned() },
        margins: margins.len() as u64,
        undecided: said.iter().filter(|s| matches!(s, Said::Undecided)).count() as u64,
    };
    Ok(counted(cell, &put.iter().collect::<Vec<_>>(), right, mean).with(told))
}

/// What came of a string, and whether it is by words: where no log-probabilities are told or asked for.
fn string(chat: &mut HttpChat, put: &Put, by_words: bool) -> Result<(Said, bool), ChatError> {
    let [right, wrong] = &put.answers;
    let likely = if by_words { None } else { known(chat, &put.text, [right, wrong])? };
    Ok(match likely {
        Some(known) => (preferred(known), false),
        None => (in_words(&chat.goes_on(&put.text, WRITTEN)?.0, right, wrong), true),
    })
}

/// What the server tells of both answers; nothing where it tells no log-probabilities.
fn known(chat: &mut HttpChat, text: &str, answers: [&str; 2]) -> Result<Option<[Known; 2]>, ChatError> {
    match chat.prefers(text, answers) {
        Ok((known, _)) => Ok(Some(known)),
        Err(ChatError::Cannot { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A tie is no right answer.
fn preferred([right, wrong]: [Known; 2]) -> Said {
    if right.is_told() && wrong.is_told() {
        return Said::Margin(right.logprob - wrong.logprob);
    }
    match (right.logprob > wrong.most, wrong.logprob >= right.most) {
        (true, _) => Said::Which(true),
        (_, true) => Said::Which(false),
        _ => Said::Undecided,
    }
}

/// What is written begins with one of the answers as a whole word.
fn in_words(reply: &str, right: &str, wrong: &str) -> Said {
    let begins = |answer: &str| {
        let rest = reply.trim_start().strip_prefix(answer.trim());
        // Behind a digit another instruction may follow, and that is a letter.
        let of_it = if answer.ends_with(char::is_numeric) { char::is_numeric } else { char::is_alphanumeric };
        rest.is_some_and(|rest| !rest.starts_with(of_it))
    };
    match (begins(right), begins(wrong)) {
        (true, false) => Said::Which(true),
        (false, true) => Said::Which(false),
        _ => Said::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_bounded_decides_where_it_can() {
        let told = |logprob| Known { logprob, most: logprob };
        let below = |most| Known { logprob: f64::NEG_INFINITY, most };
        assert!(matches!(preferred([told(-1.0), told(-2.0)]), Said::Margin(m) if m == 1.0));
        assert!(matches!(preferred([told(-1.0), below(-2.0)]), Said::Which(true)));
        assert!(matches!(preferred([below(-2.0), told(-2.0)]), Said::Which(false)));
        assert!(matches!(preferred([below(-2.0), below(-2.0)]), Said::Undecided));
        assert!(matches!(preferred([told(-2.0), below(-2.0)]), Said::Undecided));
    }

    #[test]
    fn an_answer_in_words_is_a_whole_word() {
        assert!(matches!(in_words(" on. The", " on", " off"), Said::Which(true)));
        assert!(matches!(in_words("off", " on", " off"), Said::Which(false)));
        assert!(matches!(in_words("one", " on", " off"), Said::Undecided));
        assert!(matches!(in_words("", "0", "1"), Said::Undecided));
        assert!(matches!(in_words("0i1", "0", "1"), Said::Which(true)));
        assert!(matches!(in_words("01", "0", "1"), Said::Undecided));
    }
}
