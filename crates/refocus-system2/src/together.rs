//! Askers beside each other that are answered together.
//!
//! Each asker is a plain function over a [`Chat`] on a thread of its own. Where the model is behind a server, each has
//! its own way there ([`Chat::beside`]). Else, as soon as all of them wait or have ended, what
//! they wait for is answered: all that is to be written in one call, so that a local model reads its weights once for
//! many rows. What an asker hears follows from what it asks alone.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::chat::{Ask, Chat, ChatError, Choice, Choose, Message, Reply, Scores, Usage};

/// Runs all of these, each with a chat of its own that `chat` answers for; their results in order.
///
/// Time limits of single askers are not kept ([`Chat::limit`]) where their answers are computed together.
pub fn together<T: Send>(chat: &mut dyn Chat, askers: Vec<impl FnOnce(&mut dyn Chat) -> T + Send>) -> Vec<T> {
    // Never more than the model takes at a time, however many there are.
    let ways = askers.len().min(chat.at_once().max(1));
    let ways: Option<Vec<Box<dyn Chat + Send>>> = (0..ways).map(|_| chat.beside()).collect();
    if let Some(ways) = ways.filter(|ways| !ways.is_empty()) {
        return beside(ways, askers);
    }
    let (name, tells_choices) = (chat.name().to_owned(), chat.tells_choices());
    std::thread::scope(|scope| {
        let (heard, hear) = channel();
        let threads: Vec<_> = askers
            .into_iter()
            .enumerate()
            .map(|(number, asker)| {
                let (name, heard) = (name.clone(), heard.clone());
                scope.spawn(move || {
                    let mut asks = Asker { number, name, tells_choices, heard, worked: 0.0 };
                    asker(&mut asks)
                    // It is dropped here, also when the asker panics, and says so.
                })
            })
            .collect();
        drop(heard);
        answer(chat, threads.len(), &hear);
        threads.into_iter().map(ended).collect()
    })
}

/// Each way takes the next asker as soon as it is free.
fn beside<T: Send>(
    ways: Vec<Box<dyn Chat + Send>>,
    askers: Vec<impl FnOnce(&mut dyn Chat) -> T + Send>,
) -> Vec<T> {
    let queue = Mutex::new(askers.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let mut found: Vec<(usize, T)> = std::thread::scope(|scope| {
        let work = |mut way: Box<dyn Chat + Send>| {
            let next = &next;
            scope.spawn(move || {
                std::iter::from_fn(|| next().map(|(i, asker)| (i, asker(way.as_mut())))).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = ways.into_iter().map(work).collect();
        threads.into_iter().flat_map(ended).collect()
    });
    found.sort_by_key(|f| f.0);
    found.into_iter().map(|f| f.1).collect()
}

/// What an asker found; its panic is this thread's too.
fn ended<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Answers until all askers have ended.
fn answer(chat: &mut dyn Chat, askers: usize, hear: &Receiver<(usize, Heard)>) {
    let mut busy = askers;
    loop {
        let (mut writes, mut choices, mut others) = (Vec::new(), Vec::new(), Vec::new());
        while busy > 0 {
            let Ok((number, heard)) = hear.recv() else { return };
            busy -= 1;
            match heard {
                Heard::Write(write) => writes.push((number, write)),
                Heard::Choose(choice) => choices.push((number, choice)),
                Heard::Other(other) => others.push((number, other)),
                Heard::Ended => {}
            }
        }
        busy = writes.len() + choices.len() + others.len();
        if busy == 0 {
            return;
        }
        // The order in which threads came says nothing, and must not: a beginning that is shared is computed by the first.
        writes.sort_by_key(|w| w.0);
        choices.sort_by_key(|c| c.0);
        others.sort_by_key(|o| o.0);
        if !writes.is_empty() {
            let writes: Vec<Write> = writes.into_iter().map(|w| w.1).collect();
            written(chat, &writes);
        }
        if !choices.is_empty() {
            let choices: Vec<Pick> = choices.into_iter().map(|c| c.1).collect();
            chosen(chat, &choices);
        }
        others.into_iter().for_each(|(_, other)| other(chat));
    }
}

fn written(chat: &mut dyn Chat, writes: &[Write]) {
    let asks: Vec<Ask<'_>> = writes.iter().map(Write::ask).collect();
    let start = Instant::now();
    let replies = chat.complete_all(&asks);
    let seconds = start.elapsed().as_secs_f64();
    let backs = writes.iter().map(|w| &w.back);
    shared_out(seconds, backs, replies, |r| r.usage);
}

fn chosen(chat: &mut dyn Chat, picks: &[Pick]) {
    let options: Vec<Vec<&str>> = picks.iter().map(|p| lent(&p.options)).collect();
    let asks: Vec<Choose<'_>> = picks
        .iter()
        .zip(&options)
        .map(|(p, options)| Choose { messages: &p.messages, frame: &p.frame, options })
        .collect();
    let start = Instant::now();
    let choices = chat.choose_all(&asks);
    let seconds = start.elapsed().as_secs_f64();
    let backs = picks.iter().map(|p| &p.back);
    shared_out(seconds, backs, choices, |c| c.usage);
}

/// Sends each its answer with its share of the time, by tokens.
fn shared_out<'b, T: 'b>(
    seconds: f64,
    backs: impl Iterator<Item = &'b Back<T>>,
    answers: Vec<Result<T, ChatError>>,
    usage: impl Fn(&T) -> Usage,
) {
    let tokens = |answer: &Result<T, ChatError>| {
        let tokens = |u: Usage| (u.prompt + u.completion).max(1) as f64;
        answer.as_ref().map_or(1.0, |a| tokens(usage(a)))
    };
    let all: f64 = answers.iter().map(tokens).sum();
    for (back, answer) in backs.zip(answers) {
        let share = seconds * tokens(&answer) / all;
        // Nobody takes it where the asker panicked.
        let _ = back.send((answer, share));
    }
}

/// Where an answer goes, with the seconds it took.
type Back<T> = Sender<(Result<T, ChatError>, f64)>;

/// Something that is done with the model itself.
type Work = Box<dyn FnOnce(&mut dyn Chat) + Send>;

/// What an asker says.
enum Heard {
    /// It waits for an answer in words.
    Write(Write),
    /// It waits for which answer is the likeliest.
    Choose(Pick),
    /// It waits for something else, which this does.
    Other(Work),
    /// It asks no more.
    Ended,
}

/// An [`Ask`] that can be sent.
struct Write {
    messages: Vec<Message>,
    max_new: usize,
    temperature: f32,
    top_p: f32,
    seed: u64,
    schema: Option<Value>,
    back: Back<Reply>,
}

/// A [`Choose`] that can be sent.
struct Pick {
    messages: Vec<Message>,
    frame: String,
    options: Vec<String>,
    back: Back<Choice>,
}

impl Write {
    fn ask(&self) -> Ask<'_> {
        let Self { messages, max_new, temperature, top_p, seed, schema, .. } = self;
        Ask {
            messages,
            max_new: *max_new,
            temperature: *temperature,
            top_p: *top_p,
            seed: *seed,
            schema: schema.as_ref(),
        }
    }
}

/// The chat of one asker.
struct Asker {
    number: usize,
    name: String,
    tells_choices: bool,
    heard: Sender<(usize, Heard)>,
    /// Its share of the time that answering took, in seconds: by tokens where several are answered together.
    worked: f64,
}

impl Drop for Asker {
    fn drop(&mut self) {
        let _ = self.heard.send((self.number, Heard::Ended));
    }
}

impl Asker {
    /// Says something and waits for what comes of it.
    fn wait<T>(
        &mut self,
        heard: Heard,
        back: &Receiver<(Result<T, ChatError>, f64)>,
    ) -> Result<T, ChatError> {
        let gone = |_| ChatError::Failed { model: self.name.clone(), why: "it answers no more".to_owned() };
        self.heard.send((self.number, heard)).map_err(|e| gone(e.to_string()))?;
        let (outcome, seconds) = back.recv().map_err(|e| gone(e.to_string()))?;
        self.worked += seconds;
        outcome
    }

    /// Has the model itself do something.
    fn other<T: Send + 'static>(
        &mut self,
        what: impl FnOnce(&mut dyn Chat) -> Result<T, ChatError> + Send + 'static,
    ) -> Result<T, ChatError> {
        let (tell, back) = channel();
        let other = move |chat: &mut dyn Chat| {
            let start = Instant::now();
            let outcome = what(chat);
            let _ = tell.send((outcome, start.elapsed().as_secs_f64()));
        };
        self.wait(Heard::Other(Box::new(other)), &back)
    }
}

impl Chat for Asker {
    fn name(&self) -> &str {
        &self.name
    }

    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
        let (back, answer) = channel();
        let write = Write {
            messages: ask.messages.to_vec(),
            max_new: ask.max_new,
            temperature: ask.temperature,
            top_p: ask.top_p,
            seed: ask.seed,
            schema: ask.schema.cloned(),
            back,
        };
        self.wait(Heard::Write(write), &answer)
    }

    fn worked(&self) -> Option<f64> {
        Some(self.worked)
    }

    fn tells_choices(&self) -> bool {
        self.tells_choices
    }

    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        let (messages, answers) = (messages.to_vec(), owned(answers));
        self.other(move |chat| chat.score(&messages, &lent(&answers)))
    }

    fn choose(&mut self, messages: &[Message], frame: &str, options: &[&str]) -> Result<Choice, ChatError> {
        let (back, answer) = channel();
        let (messages, frame, options) = (messages.to_vec(), frame.to_owned(), owned(options));
        self.wait(Heard::Choose(Pick { messages, frame, options, back }), &answer)
    }

    fn score_each(&mut self, conversations: &[Vec<Message>], answers: &[&str]) -> Result<Scores, ChatError> {
        let (conversations, answers) = (conversations.to_vec(), owned(answers));
        self.other(move |chat| chat.score_each(&conversations, &lent(&answers)))
    }

    fn score_hidden(
        &mut self,
        messages: &[Message],
        answers: &[&str],
        hidden: &[Range<usize>],
        from: usize,
    ) -> Result<Scores, ChatError> {
        let (messages, answers, hidden) = (messages.to_vec(), owned(answers), hidden.to_vec());
        self.other(move |chat| chat.score_hidden(&messages, &lent(&answers), &hidden, from))
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

fn lent(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};

    use crate::chat::Finish;

    /// Says how many it was asked together, and repeats what it hears.
    #[derive(Default)]
    struct Echo {
        together: Vec<usize>,
        chosen: Vec<usize>,
        scored: usize,
    }

    impl Chat for Echo {
        fn name(&self) -> &str {
            "echo"
        }

        fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
            match ask.messages.last().map(|m| m.content.as_str()) {
                Some("fail") => Err(ChatError::Failed { model: "echo".into(), why: "as asked".into() }),
                text => {
                    let text = format!("{} {}", text.unwrap_or_default(), ask.seed);
                    Ok(Reply { text, finish: Finish::Stop, usage: Usage { prompt: 3, completion: 1 } })
                }
            }
        }

        fn complete_all(&mut self, asks: &[Ask<'_>]) -> Vec<Result<Reply, ChatError>> {
            self.together.push(asks.len());
            asks.iter().map(|a| self.complete(a)).collect()
        }

        fn choose_all(&mut self, asked: &[Choose<'_>]) -> Vec<Result<Choice, ChatError>> {
            self.chosen.push(asked.len());
            asked.iter().map(|a| self.choose(a.messages, a.frame, a.options)).collect()
        }

        fn score(&mut self, _: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
            self.scored += 1;
            Ok((answers.iter().map(|a| a.len() as f64).collect(), Usage::default()))
        }
    }

    fn say(chat: &mut dyn Chat, text: &str, seed: u64) -> Result<String, ChatError> {
        let messages = [Message::user(text)];
        Ok(chat.complete(&Ask { seed, ..Ask::new(&messages, 4) })?.text)
    }

    #[test]
    fn what_waits_at_the_same_time_is_written_together() {
        let mut echo = Echo::default();
        // Number i asks i times, then for a score.
        let askers = (0..4u64).map(|i| {
            move |chat: &mut dyn Chat| {
                let said: Vec<String> =
                    (0..i).map(|k| say(chat, "a", 10 * i + k).expect("a reply")).collect();
                let (scores, _) = chat.score(&[Message::user("b")], &["x", "yy"]).expect("scores");
                let choice = chat.choose(&[Message::user("c")], "x", &["xy", "xyz"]).expect("a choice");
                assert_eq!((choice.frame, choice.scores), (1.0, vec![2.0, 3.0]));
                assert!(chat.worked().is_some_and(|s| s >= 0.0));
                (said, scores)
            }
        });
        let out = together(&mut echo, askers.collect());
        assert_eq!(echo.together, [3, 2, 1]);
        assert_eq!((echo.scored, &echo.chosen), (8, &vec![1, 1, 1, 1]));
        for (i, (said, scores)) in out.iter().enumerate() {
            let want: Vec<String> = (0..i).map(|k| format!("a {}", 10 * i + k)).collect();
            assert_eq!((said, scores), (&want, &vec![1.0, 2.0]));
        }
        assert_eq!(together(&mut echo, Vec::<fn(&mut dyn Chat)>::new()).len(), 0);
    }

    #[test]
    fn one_that_fails_or_stops_holds_nobody_up() {
        let mut echo = Echo::default();
        let askers = ["a", "fail", "", "b"].map(|text| {
            move |chat: &mut dyn Chat| {
                if text.is_empty() {
                    return Ok(String::new());
                }
                say(chat, text, 0)?;
                say(chat, text, 1)
            }
        });
        let out = together(&mut echo, Vec::from(askers));
        assert_eq!(echo.together, [3, 2]);
        assert!(matches!(&out[1], Err(ChatError::Failed { .. })));
        assert_eq!(out[0].as_ref().expect("a reply"), "a 1");
        assert_eq!(out[3].as_ref().expect("a reply"), "b 1");
    }

    #[test]
    fn where_everybody_has_a_way_of_their_own_nobody_waits_for_another() {
        /// Answers when all have asked, and ends them all after that.
        struct Meeting(Arc<Barrier>);

        impl Chat for Meeting {
            fn name(&self) -> &str {
                "meeting"
            }

            fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
                self.0.wait();
                Echo::default().complete(ask)
            }

            fn score(&mut self, _: &[Message], _: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
                Ok((Vec::new(), Usage::default()))
            }

            fn at_once(&self) -> usize {
                3
            }

            fn beside(&self) -> Option<Box<dyn Chat + Send>> {
                Some(Box::new(Self(Arc::clone(&self.0))))
            }
        }

        // Six askers meet twice: three at a time, and no more, for a barrier of three lets each three through.
        let now = AtomicUsize::new(0);
        let askers = (0..6).map(|i| {
            let now = &now;
            move |chat: &mut dyn Chat| {
                assert!(now.fetch_add(1, Ordering::SeqCst) < 3, "more than the model takes");
                let said = say(chat, "a", i).expect("a reply");
                now.fetch_sub(1, Ordering::SeqCst);
                said
            }
        });
        let out = together(&mut Meeting(Arc::new(Barrier::new(3))), askers.collect());
        assert_eq!(out, ["a 0", "a 1", "a 2", "a 3", "a 4", "a 5"]);
    }

    #[test]
    fn a_panic_comes_out_and_nothing_hangs() {
        let askers = (0..3).map(|i| {
            move |chat: &mut dyn Chat| {
                assert!(i != 1, "as asked");
                say(chat, "a", 0).expect("a reply")
            }
        });
        let all = std::panic::AssertUnwindSafe(|| together(&mut Echo::default(), askers.collect()));
        assert!(std::panic::catch_unwind(all).is_err());
    }
}
