//! Is the model swayed by sentences that do not matter? A question about a fact, after sentences that name
//! another answer, and after as many that name none: the second are the control, so that length and topic
//! change alike.

use std::collections::BTreeMap;

use refocus_compute::{Ops, Philox, Purpose};
use refocus_measure::probe::{Answer, Question, ask, batches};
use refocus_model::Model;
use refocus_tasks::recall::Relation;

use super::finding::watchful;
use super::mitigate::{Cases, Item, Prompt, Rule, Text};
use super::{CAPITAL, DiagnoseError, Example, Finding, Measure, Probe, State, Subject};
use crate::overthinking::Estimate;

const HEADLINE: &str = "distractors.drop";
const OTHER: Purpose = Purpose::new("distractors: other answer");
/// Sentences before the question.
const REPEATS: usize = 4;
const BATCH: usize = 2048;
/// Accuracy without distraction below this leaves nothing to lose: an answer and another are a coin's odds.
const FLOOR: f64 = 0.6;
const STEADY: f64 = 0.05;

/// Sentences that matter to nothing that is asked; `{}` is the other answer, or a word of the control.
const SENTENCES: [&str; REPEATS] = [
    "My sister sent me a postcard about {}.",
    "Yesterday we talked about {} for an hour.",
    "There was a long article on {} in the paper.",
    "I would love to read a good book about {}.",
];
const NEUTRAL: [&str; 8] =
    ["music", "gardening", "chess", "cooking", "football", "painting", "astronomy", "cycling"];

/// A fact with another answer beside it.
struct Put {
    text: String,
    argument: String,
    /// What the control's sentences are about.
    word: &'static str,
    /// Which of the sentences gives way to one that tells an answer.
    place: usize,
    right: String,
    other: String,
    /// After the control, then after the sentences that name the other answer.
    questions: [Question; 2],
}

pub(super) fn run<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    subject: Subject<'_>,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<Finding, DiagnoseError> {
    let relation = subject.relation;
    let words = Words::of(relation);
    if !relation.has_two_answers() {
        let why = "all answers are the same".to_owned();
        return Ok(Finding::untestable(Probe::Distractors, HEADLINE, words.asked(0), why));
    }
    let puts = puts(subject)?;
    let each =
        puts.iter().map(|p| p.questions.iter().map(Question::tokens).sum::<usize>()).max().unwrap_or(1);
    let n = subject.budget.items(&m.spec, each, 40, puts.len());
    let puts = &puts[..n.min(puts.len())];
    let asked = words.asked(puts.len());
    let longest = puts.iter().flat_map(|p| &p.questions).map(Question::longest).max().unwrap_or(0);
    if !m.spec.fits(longest) {
        let why = format!("a text of {longest} tokens does not fit into the model's context");
        return Ok(Finding::untestable(Probe::Distractors, HEADLINE, asked, why));
    }
    let wanted: Vec<Question> = puts.iter().flat_map(|p| p.questions.iter().cloned()).collect();
    let all: u64 = wanted.iter().map(|q| q.tokens() as u64).sum();
    let mut done = 0;
    let mut answers = Vec::with_capacity(wanted.len());
    for part in batches(&wanted, BATCH) {
        let part = &wanted[part];
        answers.extend(ask(o, m, part)?);
        done += part.iter().map(|q| q.tokens() as u64).sum::<u64>();
        tick(done, all);
    }
    Ok(finding(asked, &words, puts, &answers, m.spec.n_heads, subject.seed))
}

/// Its questions, for a patch to be judged by. Where one answer is the beginning of the other, there is none.
pub(super) fn cases(subject: Subject<'_>, items: usize) -> Result<Cases, DiagnoseError> {
    let puts = puts(subject)?;
    let prompts = puts.iter().filter_map(pair).take(items).flatten().collect();
    Ok(Cases { probe: Probe::Distractors, rule: Rule::Against, prompts })
}

fn pair(p: &Put) -> Option<Vec<Prompt>> {
    p.questions.iter().map(Prompt::of).collect()
}

/// Whether what is asked holds a question, as a user asks one.
pub(super) fn asks(relation: &Relation) -> bool {
    relation.as_question().contains('?')
}

/// The items of [`cases`] as texts that can be rewritten, and a third that would lose its answer where too much goes:
/// one sentence says that the other answer is right now.
pub(super) fn texts(subject: Subject<'_>, items: usize) -> Result<Vec<Item>, DiagnoseError> {
    let puts = puts(subject)?;
    let relation = subject.relation;
    let news = |p: &Put| match relation.wordings.first() {
        Some(w) if relation.key != CAPITAL => {
            format!("As of today: {} {}.", w.state.replace("{}", &p.argument), p.other)
        }
        _ => format!("The capital of {} has moved to {}.", p.argument, p.other),
    };
    let item = |p: &Put| {
        let asked = relation.as_question().replace("{}", &p.argument);
        // A user asks, and does not begin the answer.
        let (question, after) = asked.split_at(asked.find('?').map_or(asked.len(), |at| at + 1));
        let bare = question.strip_prefix("Q: ").unwrap_or(question);
        let around = [question[..question.len() - bare.len()].to_owned(), after.to_owned()];
        let text = |sentences: &[String], needed: Option<String>| {
            let (right, wrong) = if needed.is_some() { (&p.other, &p.right) } else { (&p.right, &p.other) };
            Text {
                context: sentences.join(" "),
                question: bare.to_owned(),
                around: around.clone(),
                needed,
                right: format!(" {right}"),
                wrong: format!(" {wrong}"),
            }
        };
        let about = |name: &str| SENTENCES.map(|s| s.replace("{}", name));
        let news = news(p);
        let mut telling = about(p.word);
        telling[p.place].clone_from(&news);
        [text(&about(p.word), None), text(&about(&p.other), None), text(&telling, Some(news))]
    };
    Ok(puts.iter().filter(|p| pair(p).is_some()).take(items).map(item).collect())
}

fn puts(subject: Subject<'_>) -> Result<Vec<Put>, DiagnoseError> {
    let relation = subject.relation;
    if !relation.has_two_answers() {
        return Ok(Vec::new());
    }
    let n = relation.facts.len();
    let asked = relation.as_question();
    // A word that is an answer would be no control.
    let is_answer = |w: &str| relation.facts.iter().any(|f| f.answer.eq_ignore_ascii_case(w));
    let neutral: Vec<&str> = NEUTRAL.into_iter().filter(|w| !is_answer(w)).collect();
    let rng = Philox::new(subject.seed, OTHER);
    let mut out = Vec::with_capacity(n);
    // In an order drawn from the seed, so that a part of the facts is a fair part of them.
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| rng.at(1, 0, i as u32)[0]);
    for i in order {
        let fact = &relation.facts[i];
        let words = rng.at(0, 0, i as u32);
        let mut other = (words[0] as usize) % n;
        while relation.facts[other].answer.trim() == fact.answer.trim() {
            other = (other + 1) % n;
        }
        let other = &relation.facts[other].answer;
        let question = asked.replace("{}", &fact.argument);
        let put = |name: &str| {
            let mut text = String::new();
            let mut evidence = 0..0;
            for sentence in SENTENCES {
                let start = text.len() + sentence.find("{}").unwrap_or(0);
                text.push_str(&sentence.replace("{}", name));
                text.push(' ');
                evidence = start..start + name.len();
            }
            text.push_str(&question);
            let (right, wrong) = (format!(" {}", fact.answer), format!(" {other}"));
            let q = Question::of_text(subject.tokenizer, &text, &right, &wrong, evidence)?;
            Ok::<_, DiagnoseError>((q, text))
        };
        let word = neutral.get(words[1] as usize % neutral.len().max(1)).copied().unwrap_or("nothing");
        let (neutral, _) = put(word)?;
        let (swayed, text) = put(other)?;
        out.push(Put {
            text,
            argument: fact.argument.clone(),
            word,
            place: words[2] as usize % REPEATS,
            right: fact.answer.clone(),
            other: other.clone(),
            questions: [neutral, swayed],
        });
    }
    Ok(out)
}

/// How the facts are called.
struct Words {
    facts: String,
    answer: &'static str,
}

impl Words {
    fn of(relation: &Relation) -> Self {
        if relation.key == CAPITAL {
            return Self { facts: "capitals".to_owned(), answer: "city" };
        }
        Self { facts: format!("facts of {}", relation.key), answer: "answer" }
    }

    fn asked(&self, n: usize) -> String {
        format!("{n} {} after {REPEATS} sentences that name another {}, or none", self.facts, self.answer)
    }
}

fn finding(
    asked: String,
    words: &Words,
    puts: &[Put],
    answers: &[Answer],
    n_heads: usize,
    seed: u64,
) -> Finding {
    let right = |a: &Answer| f64::from(u8::from(a.margin() > 0.0));
    let pairs: Vec<(&Answer, &Answer)> = answers.chunks_exact(2).map(|p| (&p[0], &p[1])).collect();
    let estimate = |of: &dyn Fn(&(&Answer, &Answer)) -> f64| {
        let e = Estimate::of(&pairs.iter().map(of).collect::<Vec<f64>>(), seed);
        Measure::within(e.value, e.low, e.high, e.n)
    };
    let drop = estimate(&|(a, b)| right(a) - right(b));
    let neutral = estimate(&|(a, _)| right(a));
    let swayed = estimate(&|(_, b)| right(b));
    let margin = estimate(&|(a, b)| f64::from(a.margin() - b.margin()));
    let (low, high) = (drop.low.unwrap_or(0.0), drop.high.unwrap_or(1.0));
    let (state, verdict) = if neutral.low.unwrap_or(0.0) < FLOOR {
        let text = "it does not know enough of the facts to be swayed".to_owned();
        (State::CannotBeTested, text)
    } else if high < STEADY {
        (State::Steady, "names that do not matter change little".to_owned())
    } else if low > 0.0 {
        let text = format!("a name that does not matter costs {:.0} of 100 answers", 100.0 * drop.value);
        (State::Slips, text)
    } else {
        (State::Unclear, "the drop's interval includes 0".to_owned())
    };
    // Which head looks most at the name, over all texts that name one.
    let best = watchful(&pairs.iter().map(|p| p.1).collect::<Vec<_>>(), n_heads);
    let lost = puts.iter().zip(&pairs).filter(|(_, (a, b))| a.margin() > 0.0 && b.margin() <= 0.0);
    let example = |(p, (a, b)): (&Put, &(&Answer, &Answer))| Example {
        text: p.text.clone(),
        right: p.right.clone(),
        answer: p.other.clone(),
        note: format!(
            "margin {:+.2} nats; {:+.2} after sentences that name no {}",
            b.margin(),
            a.margin(),
            words.answer
        ),
    };
    Finding {
        probe: Probe::Distractors,
        asked,
        headline: HEADLINE.to_owned(),
        state,
        verdict,
        place: best.map(|([layer, head], mass)| {
            format!("head {layer}.{head} attends most to the last name ({mass:.2})")
        }),
        measures: BTreeMap::from([
            (HEADLINE.to_owned(), drop),
            ("distractors.accuracy_neutral".to_owned(), neutral),
            ("distractors.accuracy_swayed".to_owned(), swayed),
            ("distractors.margin_drop".to_owned(), margin),
        ]),
        examples: lost.take(3).map(example).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use refocus_tasks::flipflop::Split;
    use refocus_tasks::recall::parse_relation;
    use refocus_tasks::world::World;

    use super::super::Toy;
    use super::*;

    /// The built-in model is asked in sentences, and about words, that it has not read.
    #[test]
    fn the_worlds_documents_hold_none_of_the_sentences() {
        let recipe = refocus_train::Preset::World.config().expect("the recipe");
        let world = World::new(recipe.task.world.expect("a mixture")).expect("a world");
        let text: Vec<String> = (0..4000).map(|i| world.document(0, Split::Train, 0, i)).collect();
        let text = text.join("\n");
        for sentence in SENTENCES {
            let (before, after) = sentence.split_once("{}").expect("a place");
            let known = text.contains(before) || (after.len() > 1 && text.contains(after));
            assert!(!known, "{sentence}");
        }
        // One stands in a sentence about languages, one is a sport of the toy task.
        let known: Vec<&str> = NEUTRAL.into_iter().filter(|w| text.contains(w)).collect();
        assert_eq!(known, ["music", "cycling"]);
    }

    #[test]
    fn facts_of_a_file_are_asked_as_a_question_after_words_that_are_no_answer() {
        let toy = Toy::new();
        let fact = |(i, hobby)| format!(r#"{{"subject": "Ann {i}", "object": "{hobby}"}}"#);
        let facts: Vec<String> = NEUTRAL.iter().skip(1).enumerate().map(fact).collect();
        let text = format!(
            r#"{{"prompt_templates": ["{{}} likes", "What does {{}} like? It is"], "samples": [{}]}}"#,
            facts.join(",")
        );
        let relation = &parse_relation(Path::new("hobby.json"), &text).expect("a relation");
        let subject = Subject { relation, ..toy.subject() };
        let puts = puts(subject).expect("questions");
        assert_eq!(puts.len(), relation.facts.len());
        for p in &puts {
            // The one word that nobody here likes.
            assert_eq!(p.word, NEUTRAL[0]);
            assert!(p.text.ends_with(&format!("What does {} like? It is", p.argument)), "{}", p.text);
            assert_eq!(p.text.matches(&p.other).count(), REPEATS);
            assert_ne!(p.right, p.other);
        }
        assert!(asks(relation));
        for ([_, swayed, told], p) in texts(subject, 99).expect("texts").iter().zip(&puts) {
            let news = format!("As of today: {} likes {}.", p.argument, p.other);
            assert_eq!(told.needed.as_deref(), Some(news.as_str()));
            assert!(told.context.contains(&news));
            assert_eq!(swayed.question, format!("What does {} like?", p.argument));
            assert_eq!(swayed.around, ["", " It is"]);
        }
    }
}
