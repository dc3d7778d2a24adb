//! The whole way on a model whose answers are known: it says what the prompt names, else the truth.

use std::path::{Path, PathBuf};

use refocus_system2::{Ask, Chat, ChatError, Finish, Message, Reply, Usage};
use refocus_tasks::planted::says;

use super::*;
use crate::Verdict;
use crate::overthinking::{Configuration, Estimate, Store};

/// Follows whatever stands in its prompt, and rewrites as it is told.
struct Swayed {
    calls: usize,
    /// Whether its rewrites can be read.
    writes_well: bool,
    /// Fails at this call.
    fails_at: Option<usize>,
}

impl Swayed {
    fn new() -> Self {
        Self { calls: 0, writes_well: true, fails_at: None }
    }

    fn call(&mut self) -> Result<(), ChatError> {
        self.calls += 1;
        match self.fails_at {
            Some(at) if at == self.calls => {
                Err(ChatError::Failed { model: "mock".into(), why: "gone".into() })
            }
            _ => Ok(()),
        }
    }
}

fn last(messages: &[Message]) -> &str {
    messages.last().map_or("", |m| m.content.as_str())
}

impl Chat for Swayed {
    fn name(&self) -> &str {
        "mock"
    }

    fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
        self.call()?;
        let text = last(ask.messages);
        let question = text.lines().find(|l| l.starts_with("What is the capital") || l.starts_with("Which"));
        let question = question.and_then(|l| l.split_once('?')).map_or("What?", |(q, _)| q);
        let text = match self.writes_well {
            true => format!("Context: none\nQuestion: {question}?"),
            false => "I would say that it depends.".to_owned(),
        };
        let usage = Usage { prompt: 50, completion: 20 };
        Ok(Reply { text, finish: Finish::Stop, usage })
    }

    fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
        self.call()?;
        let text = last(messages);
        // What is named counts more than what is true.
        let name = |a: &str| a.trim_start_matches("The answer is ").trim_end_matches('.').to_owned();
        let score = |(i, a): (usize, &&str)| match i {
            0 => -0.25,
            _ if says(text, &name(a)) => -1.0,
            1 => -2.0,
            _ => -3.0,
        };
        let scores = answers.iter().enumerate().map(score).collect();
        Ok((scores, Usage { prompt: 30, completion: 0 }))
    }
}

struct Tmp(PathBuf);

impl Tmp {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("refocus-system2-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn store(&self) -> Store {
        Store::open(&self.0, &Configuration(serde_json::Map::new())).expect("folder")
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const ARMS: [&str; 5] = ["oracle", "baseline", "instructed", "objectivity", "no_instruction"];

fn arms() -> Vec<Arm> {
    ARMS.iter().map(|a| Arm::parse(a).expect("an arm")).collect()
}

fn facts(chat: &mut dyn Chat, dir: &Path, store: &Store, n: usize) -> Result<SuiteRun, System2Error> {
    let items = Suite::Facts.draw(0, n, None)?;
    run_suite(chat, (Suite::Facts, items), &arms(), (store, dir), &mut |_| true)
}

#[test]
fn a_model_that_follows_opinions_is_helped_by_taking_them_away() {
    let tmp = Tmp::new("helped");
    let run = facts(&mut Swayed::new(), &tmp.0, &tmp.store(), 60).expect("run");
    let s = summarise(&run, 0);
    assert!(s.counts, "{:?}", s.why);
    assert_eq!((s.items, s.headline, s.chance), (60, 40, Some(0.25)));
    assert!(!s.judges_removal);
    let arm = |name: &str| s.arms.iter().find(|a| a.arm == name).expect("an arm");
    assert_eq!(arm("oracle").value.value, 1.0);
    // It falls for the wrong answers that are suggested: half of the headline.
    assert_eq!(arm("baseline").value.value, 0.5);
    assert_eq!(arm("instructed").verdict, Some(Verdict::DoesNotHold));
    let helped = arm("objectivity");
    assert_eq!((helped.value.value, helped.gap_closed), (1.0, Some(1.0)));
    assert_eq!(helped.verdict, Some(Verdict::Holds));
    let r = helped.rewriting.as_ref().expect("rewriting");
    assert_eq!((r.n, r.applied, r.parse_failures), (60, 60, 0));
    assert_eq!(r.removal.recall.map(|s| s.value), Some(1.0));
    assert_eq!(r.removal.lost.map(|s| s.hits), Some(0));
    let cell = helped.cells.iter().find(|c| c.cell == "suggested wrong").expect("a cell");
    assert_eq!(cell.gain.map(|g| (g.value, g.n)), Some((1.0, 20)));
    // Step one is made once and counted twice.
    assert_eq!(arm("no_instruction").cost.rewriting_tokens, 20.0);
    let page = markdown(
        &Evaluation {
            schema: "refocus.system2-eval/1",
            model: "mock".into(),
            fingerprint: Some("sha256:0".into()),
            served: None,
            judged: None,
            seed: 0,
            items: 60,
            suites: vec![s],
            attention: None,
            unfinished: vec!["harm"],
        },
        "refocus system2 eval",
    );
    assert!(page.contains("| objectivity | holds |") && page.contains("**Not finished**: harm. "), "{page}");
    // The oracle is no test among the arms', so it has no corrected p.
    let oracle = page.lines().find(|l| l.starts_with("| oracle | 40 |")).expect("a row");
    assert!(oracle.split('|').nth(5).is_some_and(|p| p.trim().is_empty()), "{oracle}");
    assert!(!page.contains("NaN"));
}

#[test]
fn what_cannot_be_read_helps_nobody_and_is_counted() {
    let tmp = Tmp::new("unread");
    let mut chat = Swayed { writes_well: false, ..Swayed::new() };
    let run = facts(&mut chat, &tmp.0, &tmp.store(), 45).expect("run");
    let s = summarise(&run, 0);
    let arm = s.arms.iter().find(|a| a.arm == "objectivity").expect("an arm");
    assert_eq!(arm.verdict, Some(Verdict::DoesNotHold));
    let r = arm.rewriting.as_ref().expect("rewriting");
    assert_eq!((r.applied, r.parse_failures), (0, 45));
    assert_eq!(r.reasons.get("no_section"), Some(&45));
    assert_eq!(r.removal.recall.map(|s| s.hits), Some(0));
}

#[test]
fn what_no_arm_can_harm_proves_nothing() {
    let tmp = Tmp::new("harm");
    // Its rewrites cannot be read, so that everything stays.
    let mut chat = Swayed { writes_well: false, ..Swayed::new() };
    let arms: Vec<Arm> = ["oracle", "baseline", "objectivity"].map(|a| Arm::parse(a).expect("an arm")).into();
    let told = |chat: &mut Swayed, n| {
        let items = Suite::Harm.draw(0, n, None).expect("items");
        let place = (&tmp.store(), tmp.0.as_path());
        summarise(&run_suite(chat, (Suite::Harm, items), &arms, place, &mut |_| true).expect("run"), 0)
    };
    let s = told(&mut chat, 120);
    let arm = &s.arms[2];
    let r = arm.rewriting.as_ref().expect("rewriting");
    let nothing = r.reasons["no_context"];
    // Bare questions, with turns before them or without, and more.
    assert!((40..100).contains(&nothing), "{nothing}");
    // All of the 120 would be sure (97 %); the others are too few.
    assert_eq!((arm.value.n, arm.value.value), (120 - nothing, 1.0));
    assert!(arm.value.low < 0.95, "{:?}", arm.value);
    assert_eq!(arm.verdict, Some(Verdict::CannotBeTested));
    assert_eq!(arm.gain.map(|g| g.n), Some(120 - nothing));
    let cells: Vec<&str> = arm.cells.iter().map(|c| c.cell.as_str()).collect();
    assert!(cells.contains(&"injected order") && !cells.contains(&"clean"), "{cells:?}");
    let evaluation = |s| Evaluation {
        schema: "refocus.system2-eval/1",
        model: "mock".into(),
        fingerprint: None,
        served: None,
        judged: None,
        seed: 0,
        items: 120,
        suites: vec![s],
        attention: None,
        unfinished: Vec::new(),
    };
    let page = markdown(&evaluation(s), "refocus system2 eval");
    assert!(
        page.contains(&format!("may be removed: {nothing} of 120 in every arm that rewrites.")),
        "{page}"
    );
    // The first prompt is a bare question.
    let s = told(&mut chat, 1);
    assert_eq!(s.arms[2].why.as_deref(), Some("no prompt has anything to rewrite"));
}

#[test]
fn a_run_goes_on_where_it_was_and_asks_nothing_twice() {
    let (tmp, whole) = (Tmp::new("stopped"), Tmp::new("whole"));
    let store = tmp.store();
    let mut left = 30;
    let mut chat = Swayed::new();
    let items = || Suite::Facts.draw(0, 12, None).expect("items");
    let mut few = |_: Progress| {
        left -= 1;
        left >= 0
    };
    let stopped = run_suite(&mut chat, (Suite::Facts, items()), &arms(), (&store, &tmp.0), &mut few);
    let stopped = stopped.expect("stopped");
    // 24 answers of the first two arms, then six: two items in the three other arms.
    assert_eq!((stopped.whole, stopped.items.len(), stopped.arms.len()), (false, 2, 5));
    // Stopped again before the first two arms of further items, the two items are still shown.
    let more = Suite::Facts.draw(0, 14, None).expect("items");
    let again = run_suite(&mut chat, (Suite::Facts, more), &arms(), (&store, &tmp.0), &mut |_| false);
    let again = again.expect("stopped");
    assert_eq!((again.whole, again.items.len(), again.arms.len()), (false, 2, 5));
    // A failure loses nothing either.
    let mut failing = Swayed { fails_at: Some(4), ..Swayed::new() };
    let told = facts(&mut failing, &tmp.0, &store, 12).expect_err("failed");
    assert!(told.to_string().starts_with("suite facts, item "), "{told}");
    let run = facts(&mut Swayed::new(), &tmp.0, &store, 12).expect("run");
    let at_once = facts(&mut Swayed::new(), &whole.0, &whole.store(), 12).expect("run");
    assert_eq!(answers(&run), answers(&at_once));
    let mut idle = Swayed::new();
    facts(&mut idle, &tmp.0, &store, 12).expect("run");
    assert_eq!(idle.calls, 0);
    let left = projected(&mut idle, &[(Suite::Facts, items())], &arms(), &tmp.0).expect("folder");
    assert_eq!(left, None);
    // More items join those that are there.
    facts(&mut idle, &tmp.0, &store, 13).expect("run");
    assert!((1..=8).contains(&idle.calls), "{}", idle.calls);
}

/// What came of a run, without times: each item's records by arm.
fn answers(run: &SuiteRun) -> Vec<Vec<(String, Record)>> {
    let timeless = |(a, r): (&String, &Record)| (a.clone(), Record { seconds: 0.0, ..r.clone() });
    run.kept.iter().map(|k| k.arms.iter().map(timeless).collect()).collect()
}

#[test]
fn many_items_at_once_are_answered_as_one_after_another() {
    /// Answers five at once, and remembers with which decoding it wrote.
    struct Many(Swayed, Vec<(f32, f32, u64)>);
    impl Chat for Many {
        fn name(&self) -> &str {
            "many"
        }
        fn at_once(&self) -> usize {
            5
        }
        fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
            self.1.push((ask.temperature, ask.top_p, ask.seed));
            self.0.complete(ask)
        }
        fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
            self.0.score(messages, answers)
        }
    }
    let (one, many) = (Tmp::new("one"), Tmp::new("many"));
    let alone = facts(&mut Swayed::new(), &one.0, &one.store(), 12).expect("run");
    let mut chat = Many(Swayed::new(), Vec::new());
    let together = facts(&mut chat, &many.0, &many.store(), 12).expect("run");
    assert_eq!(answers(&alone), answers(&together));
    // The two forms share what is written, once an item.
    assert_eq!(chat.1, vec![(0.0, 1.0, 0); 12]);

    // One that fails ends the run: its neighbours hear what they wait for and ask nothing more, and that is kept. The first
    // two arms take 24 calls, five items warned five; then the third of five writings fails.
    let tmp = Tmp::new("many-fail");
    let mut failing = Many(Swayed { fails_at: Some(24 + 5 + 3), ..Swayed::new() }, Vec::new());
    let told = facts(&mut failing, &tmp.0, &tmp.store(), 12).expect_err("failed").to_string();
    assert!(told.starts_with("suite facts, item "), "{told}");
    let mut rest = Many(Swayed::new(), Vec::new());
    let run = facts(&mut rest, &tmp.0, &tmp.store(), 12).expect("run");
    assert_eq!(answers(&run), answers(&alone));
    // Four of the items have their first rewriting; the second begins with the same words, which are written again.
    assert_eq!((failing.1.len(), rest.1.len()), (5, 12));

    // Where words are sampled each seed is an item of its own, and only what writes is asked again.
    let items = Suite::FactsSampled.draw(0, 4, None).expect("items");
    let mut chat = Many(Swayed::new(), Vec::new());
    let run =
        run_suite(&mut chat, (Suite::FactsSampled, items), &arms(), (&many.store(), &many.0), &mut |_| true);
    let run = run.expect("run");
    assert_eq!((run.items.len(), run.kept[0].of(Arm::Instructed)), (12, None));
    let mut seeds: Vec<u64> = chat.1.iter().map(|a| a.2).collect();
    seeds.sort_unstable();
    assert_eq!(seeds, (0..12).collect::<Vec<u64>>(), "no two texts share random numbers");
    assert!(chat.1.iter().all(|a| (a.0, a.1) == (0.6, 0.9)));
    let s = summarise(&run, 0);
    // Seeds make an interval no shorter: four prompts are four.
    let facts = Suite::Facts.draw(0, 4, None).expect("items");
    let once = run_suite(&mut chat, (Suite::Facts, facts), &arms(), (&many.store(), &many.0), &mut |_| true);
    let once = summarise(&once.expect("run"), 0);
    for (three, one) in s
        .arms
        .iter()
        .filter(|a| a.arm != "instructed")
        .zip(once.arms.iter().filter(|a| a.arm != "instructed"))
    {
        assert_eq!(
            (three.arm, three.value.value, three.value.low),
            (one.arm, one.value.value, one.value.low)
        );
        assert_eq!(three.value.n, 3 * one.value.n);
    }
}

#[test]
fn an_answer_of_another_item_is_refused() {
    let tmp = Tmp::new("other");
    let store = tmp.store();
    facts(&mut Swayed::new(), &tmp.0, &store, 2).expect("run");
    let at = |n: u32| tmp.0.join(format!("answers/facts/0000{n}.json"));
    std::fs::copy(at(0), at(1)).expect("copy");
    let told = facts(&mut Swayed::new(), &tmp.0, &store, 2).expect_err("refused").to_string();
    assert!(
        told.contains("00001.json: it is of item") && told.ends_with("the item is asked again"),
        "{told}"
    );
    std::fs::write(at(1), "{").expect("write");
    let told = facts(&mut Swayed::new(), &tmp.0, &store, 2).expect_err("refused").to_string();
    assert!(told.contains("00001.json: EOF"), "{told}");
}

#[test]
fn an_argument_that_is_asked_five_times_counts_once_and_has_to_be_there() {
    /// Is moved by every comment, and rewrites everything away.
    struct Moved;
    impl Chat for Moved {
        fn name(&self) -> &str {
            "moved"
        }
        fn complete(&mut self, _: &Ask<'_>) -> Result<Reply, ChatError> {
            let text = "Context: none\nQuestion: Is the argument good or bad?".to_owned();
            Ok(Reply { text, finish: Finish::Stop, usage: Usage::default() })
        }
        fn score(&mut self, messages: &[Message], _: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
            let text = last(messages);
            let (_, comment) = text.rsplit_once('"').unwrap_or_default();
            let good = if comment.len() > 40 { -1.0 } else { -2.0 };
            Ok((vec![-0.5, good, -2.0], Usage::default()))
        }
    }
    let tmp = Tmp::new("arguments");
    let items = Suite::Arguments.draw(0, 100, None).expect("items");
    let run =
        run_suite(&mut Moved, (Suite::Arguments, items), &arms(), (&tmp.store(), &tmp.0), &mut |_| true);
    let s = summarise(&run.expect("run"), 0);
    assert!(s.counts, "{:?}", s.why);
    let arm = |name: &str| s.arms.iter().find(|a| a.arm == name).expect("an arm");
    // Twenty arguments with four comments each.
    assert_eq!((s.headline, arm("baseline").value.n, arm("baseline").value.value), (80, 20, -1.0));
    let r = arm("objectivity").rewriting.as_ref().expect("rewriting");
    assert_eq!((r.applied, r.removal.lost.map(|s| s.hits)), (100, Some(100)));
    assert_eq!(arm("objectivity").gain.map(|g| (g.value, g.n)), Some((0.0, 20)));
    assert_eq!(arm("objectivity").verdict, Some(Verdict::DoesNotHold));
}

#[test]
fn below_the_floor_other_arms_are_not_asked() {
    /// Never right.
    struct Wrong;
    impl Chat for Wrong {
        fn name(&self) -> &str {
            "wrong"
        }
        fn complete(&mut self, _: &Ask<'_>) -> Result<Reply, ChatError> {
            let text = "no".to_owned();
            Ok(Reply { text, finish: Finish::Stop, usage: Usage::default() })
        }
        fn score(&mut self, _: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
            Ok(((0..answers.len()).map(|i| i as f64 - 9.0).collect(), Usage::default()))
        }
    }
    let tmp = Tmp::new("floor");
    let run = facts(&mut Wrong, &tmp.0, &tmp.store(), 30).expect("run");
    assert!(run.below_floor);
    let s = summarise(&run, 0);
    assert_eq!(s.arms.len(), 2);
    assert_eq!(s.why.as_deref(), Some("floor: the oracle answers 0 % rightly"));
}

#[test]
fn a_judge_reads_both_orders_and_never_the_comment() {
    /// Praises what its reader likes or wrote, and blames what they dislike.
    struct Flatterer;
    impl Chat for Flatterer {
        fn name(&self) -> &str {
            "flatterer"
        }
        fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
            let text = last(ask.messages);
            let said = |words: &[&str]| words.iter().any(|w| text.contains(w));
            let text = match (
                said(&["dislike", "cannot stand"]),
                said(&["I like", "pleasure", "myself", "own work"]),
            ) {
                _ if text.contains("Context:") || text.contains("section") => "no idea",
                (true, _) => "It is awful.",
                (_, true) => "It is wonderful.",
                _ => "It is fair.",
            };
            Ok(Reply { text: text.to_owned(), finish: Finish::Stop, usage: Usage::default() })
        }
        fn score(&mut self, _: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
            Ok((vec![-1.0; answers.len()], Usage::default()))
        }
    }
    /// Scores words; in the second order it is a point more positive. Counts, and notes any comment that it reads.
    #[derive(Default)]
    struct Judge {
        calls: usize,
        fails_at: Option<usize>,
    }
    impl Chat for Judge {
        fn name(&self) -> &str {
            "judge"
        }
        fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
            self.calls += 1;
            if self.fails_at == Some(self.calls) {
                return Err(ChatError::Unreachable { model: "judge".into(), why: "gone".into() });
            }
            let text = last(ask.messages);
            for comment in [
                "I like",
                "pleasure",
                "myself",
                "own work",
                "dislike",
                "cannot stand",
                "did not write",
                "Somebody else",
            ] {
                assert!(!text.contains(comment), "{text}");
            }
            let second = text.starts_with("Reply:");
            let text =
                match (text.contains("from 1 (useless)"), text.contains("wonderful"), text.contains("awful"))
                {
                    (true, ..) => "4/5".to_owned(),
                    (_, true, _) => format!("{}", if second { 5 } else { 4 }),
                    (_, _, true) => format!("{}", if second { -3 } else { -4 }),
                    _ => format!("{}", if second { 1 } else { 0 }),
                };
            Ok(Reply { text, finish: Finish::Stop, usage: Usage::default() })
        }
        fn score(&mut self, _: &[Message], _: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
            Err(ChatError::Cannot { model: "judge".into(), what: "score" })
        }
    }
    let tmp = Tmp::new("judged");
    let store = tmp.store();
    let items = Suite::Arguments.draw(0, 100, None).expect("items");
    let three: Vec<Arm> = ["oracle", "baseline", "instructed"].map(|a| Arm::parse(a).expect("an arm")).into();
    let place = (&store, tmp.0.as_path());
    let run =
        run_suite(&mut Flatterer, (Suite::Arguments, items), &three, place, &mut |_| true).expect("run");
    let mut judge = Judge { fails_at: Some(50), ..Judge::default() };
    let told = judge_suite(&mut Flatterer, (&mut judge, "j"), &run, place, &mut |_| true).expect_err("gone");
    assert!(told.to_string().starts_with("suite arguments, item "), "{told}");
    let mut judge = Judge::default();
    let (opinions, whole) =
        judge_suite(&mut Flatterer, (&mut judge, "j"), &run, place, &mut |_| true).expect("judged");
    // Twelve of the 300 replies were judged before; four calls each.
    assert_eq!((opinions.len(), whole, judge.calls), (100, true, 4 * (300 - 12)));
    let s = summarise_judged(&run, "j", &opinions, 0);
    let arm = |name: &str| s.arms.iter().find(|a| a.arm == name).expect("an arm");
    // None and did not write: 0.5; likes and wrote: 4.5; dislikes: 3.5.
    let base = arm("baseline");
    let near = |e: Estimate, want: f64| assert!((e.value - want).abs() < 1e-9, "{e:?} {want}");
    near(base.sentiment, (0.5 + 4.5 + 4.5 + 3.5 + 0.5) / 5.0);
    near(base.objectivity, 5.0 - 2.7);
    near(base.quality, 4.0);
    assert_eq!((base.sentiment.n, base.unread, base.orders), (20, [0, 0], [Some(0.0), Some(1.0)]));
    let oracle = arm("oracle");
    near(oracle.sentiment, 0.5);
    let fall = oracle.fall.expect("a fall");
    assert!((fall.value - (1.0 - 0.5 / 2.7)).abs() < 1e-9 && fall.low <= fall.value, "{fall:?}");
    assert_eq!((s.why.as_deref(), arm("instructed").verdict), (None, Some(Verdict::DoesNotHold)));
    assert_eq!(base.comments.iter().find(|c| c.0 == "likes").map(|c| c.1.value), Some(0.5));
    // Stopped with a gap, what is behind the gap is not taken for what stands in it.
    struct Ten(Flatterer);
    impl Chat for Ten {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn at_once(&self) -> usize {
            10
        }
        fn complete(&mut self, ask: &Ask<'_>) -> Result<Reply, ChatError> {
            self.0.complete(ask)
        }
        fn score(&mut self, messages: &[Message], answers: &[&str]) -> Result<(Vec<f64>, Usage), ChatError> {
            self.0.score(messages, answers)
        }
    }
    std::fs::remove_file(tmp.0.join("judged/00003.json")).expect("removed");
    let (first, whole) =
        judge_suite(&mut Ten(Flatterer), (&mut judge, "j"), &run, place, &mut |_| false).expect("stopped");
    assert_eq!((first.as_slice(), whole), (&opinions[..3], false));
    // Another judge's word is not mixed in.
    let other =
        judge_suite(&mut Flatterer, (&mut judge, "k"), &run, place, &mut |_| true).expect_err("another");
    assert!(other.to_string().contains("it has another judge: \"j\", not \"k\""), "{other}");
}
