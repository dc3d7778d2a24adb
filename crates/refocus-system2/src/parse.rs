//! What a model wrote, read as what it was asked for. Models add remarks, marks and quotation marks; every
//! way in which it cannot be read has a name.

use crate::outcome::Reason;
use crate::split::{is_choice, is_heading};

/// How refusals begin.
const REFUSALS: &[&str] = &[
    "i'm sorry",
    "i am sorry",
    "sorry,",
    "sorry, but",
    "i cannot",
    "i can't",
    "i can not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "as an ai",
    "i apologize",
    "i apologise",
    "i won't",
    "i will not",
    "i'm afraid",
    "es tut mir leid",
    "ich kann nicht",
    "je suis désolé",
    "désolé",
    "lo siento",
    "no puedo",
    "抱歉",
    "对不起",
    "很抱歉",
    "申し訳",
    "すみません",
];
/// What stands for no context at all.
const NOTHING: &[&str] = &[
    "none",
    "no context",
    "n/a",
    "na",
    "nothing",
    "-",
    "empty",
    "not provided",
    "no facts",
    "keine",
    "aucun",
    "无",
];
/// A longer line is no label.
const LONGEST_LABEL: usize = 200;
/// Nor is one with more words outside its parentheses.
const MOST_WORDS: usize = 7;

/// What a model wrote anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Empty where the model says that there is none.
    pub(crate) context: String,
    pub(crate) question: String,
    /// Whether something follows the question, so that it was not cut off.
    pub(crate) ended: bool,
}

/// The two sections of a reply.
pub(crate) fn sections(reply: &str) -> Result<Written, Reason> {
    check(reply)?;
    let mut context: Option<String> = None;
    let mut question: Option<String> = None;
    let mut current: Option<Section> = None;
    for line in reply.split('\n') {
        for (section, text) in labelled(line) {
            let known = match section {
                Some(Section::Context) => context.is_some(),
                Some(Section::Question) => question.is_some(),
                None => true,
            };
            // A label that was there already belongs to the text of its section.
            if let Some(section) = section.filter(|_| !known) {
                current = Some(section);
                let of = if section == Section::Context { &mut context } else { &mut question };
                *of = Some(text.to_owned());
                continue;
            }
            let of = match current {
                Some(Section::Context) => &mut context,
                Some(Section::Question) => &mut question,
                None => continue,
            };
            if let Some(of) = of {
                of.push('\n');
                of.push_str(line);
            }
            break;
        }
    }
    let context = context.ok_or(Reason::NoSection("context"))?;
    let question = question.ok_or(Reason::NoSection("question"))?;
    let question = question.trim_start();
    let asked = asked(question);
    let ended = current == Some(Section::Context) || asked.len() < question.len();
    let context = unwrapped(&context);
    let question = unwrapped(asked);
    if context.is_empty() {
        return Err(Reason::EmptySection("context"));
    }
    if question.is_empty() {
        return Err(Reason::EmptySection("question"));
    }
    let context = if is_nothing(&context) { String::new() } else { context };
    Ok(Written { context, question, ended })
}

/// The question without remarks behind it: its first paragraph, and those that hold its choices, with or without a
/// line that announces them.
fn asked(question: &str) -> &str {
    let paragraph = |from: usize| question[from..].find("\n\n").map_or(question.len(), |at| from + at);
    let next = |end: usize| end + (question[end..].len() - question[end..].trim_start().len());
    let mut end = paragraph(0);
    loop {
        let start = next(end);
        if start >= question.len() {
            return &question[..end];
        }
        let first = paragraph(start);
        // The choices may stand in a paragraph of their own behind their heading.
        let last = if is_heading(&question[start..first]) { paragraph(next(first)) } else { first };
        let lines: Vec<&str> = question[start..last].lines().filter(|l| !l.trim().is_empty()).collect();
        let choices = match lines.split_first() {
            Some((first, rest)) if is_heading(first) => rest,
            _ => lines.as_slice(),
        };
        if choices.is_empty() || !choices.iter().all(|l| is_choice(l)) {
            return &question[..end];
        }
        end = last;
    }
}

/// A reply that is the text itself.
pub(crate) fn whole(reply: &str) -> Result<String, Reason> {
    check(reply)?;
    let mut text = reply.trim();
    // "Here is the message without opinions:"
    if let Some((first, rest)) = text.split_once('\n') {
        let lower = first.to_lowercase();
        let preface = ["here is", "here's", "rewritten", "message", "sure"].iter().any(|w| lower.contains(w));
        if preface
            && first.trim_end().ends_with(':')
            && first.len() < LONGEST_LABEL
            && !rest.trim().is_empty()
        {
            text = rest;
        }
    }
    let text = unwrapped(text);
    if text.is_empty() { Err(Reason::NoReply) } else { Ok(text) }
}

/// The numbers in a reply that was asked for `{"drop": [numbers]}`.
pub(crate) fn list(reply: &str) -> Result<Vec<usize>, Reason> {
    check(reply)?;
    let lower = reply.to_lowercase();
    let from = lower.find("drop").map_or(0, |at| at + "drop".len());
    let open = reply.get(from..).and_then(|r| r.find('[')).map(|at| from + at).ok_or(Reason::NoList)?;
    let close = reply[open..].find(']').map(|at| open + at).ok_or(Reason::NoList)?;
    let mut out = Vec::new();
    for item in reply[open + 1..close].split(',') {
        let bare = item.trim().trim_matches(['"', '\'', '#', '[', ' ']);
        if bare.is_empty() {
            continue;
        }
        out.push(bare.parse().map_err(|_| Reason::NoSuchPiece(bare.chars().take(20).collect()))?);
    }
    Ok(out)
}

fn check(reply: &str) -> Result<(), Reason> {
    let bare = reply.trim();
    if bare.is_empty() {
        return Err(Reason::NoReply);
    }
    let lower = bare.to_lowercase().replace('’', "'");
    let start = lower.trim_start_matches(['"', '*', ' ']);
    if REFUSALS.iter().any(|r| start.starts_with(r)) {
        return Err(Reason::Refused);
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Context,
    Question,
}

/// A line as parts, each with the label that opens it. A line can hold both sections.
fn labelled(line: &str) -> Vec<(Option<Section>, &str)> {
    let Some((section, rest)) = label(line) else { return vec![(None, line)] };
    if section == Section::Context {
        // "Context: … Question: …" on one line.
        let lower = rest.to_ascii_lowercase();
        for mark in ["question:", "question (", "query:", "**question"] {
            let Some(at) = lower.rfind(mark) else { continue };
            if let Some((Section::Question, question)) = label(&rest[at..]) {
                return vec![(Some(section), &rest[..at]), (Some(Section::Question), question)];
            }
        }
    }
    vec![(Some(section), rest)]
}

/// The label that a line begins with, and what follows it.
fn label(line: &str) -> Option<(Section, &str)> {
    let marks = |c: char| {
        matches!(c, '#' | '*' | '_' | '>' | '-' | '•' | '"' | '\'' | '“' | '[' | '`') || c.is_whitespace()
    };
    let numbered = line.trim_start_matches(marks);
    let digits = numbered.trim_start_matches(|c: char| c.is_ascii_digit());
    let head = if digits.len() < numbered.len() && digits.starts_with(['.', ')']) {
        digits[1..].trim_start_matches(marks)
    } else {
        numbered
    };
    // The first colon outside parentheses ends it; a remark may have one of its own.
    let mut depth = 0;
    let mut end = None;
    let mut label = String::new();
    for (at, c) in head.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ':' | '：' if depth <= 0 => {
                end = Some((at, at + c.len_utf8()));
                break;
            }
            _ if depth <= 0 => label.push(c),
            _ => {}
        }
        if at > LONGEST_LABEL {
            return None;
        }
    }
    let lower = label.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|w| !w.is_empty()).collect();
    let most = if end.is_some() { MOST_WORDS } else { 3 };
    if words.is_empty() || words.len() > most || (end.is_none() && lower.contains(['.', '?', '!', ','])) {
        return None;
    }
    let section = if words.iter().any(|w| *w == "question" || *w == "query") {
        Section::Question
    } else if words.iter().any(|w| ["context", "fact", "facts"].contains(w)) {
        Section::Context
    } else {
        return None;
    };
    Some((section, end.map_or("", |(_, after)| head.get(after..).unwrap_or_default())))
}

/// Text without marks, tags and quotation marks around all of it.
fn unwrapped(text: &str) -> String {
    let mut text = text.trim();
    loop {
        let before = text;
        for (open, close) in
            [("**", "**"), ("<message>", "</message>"), ("\"", "\""), ("“", "”"), ("<text>", "</text>")]
        {
            let inner = text.strip_prefix(open).and_then(|t| t.strip_suffix(close));
            // Marks that pair up inside belong to the text.
            if let Some(inner) = inner.filter(|i| !i.contains(open) && !i.contains(close)) {
                text = inner.trim();
            }
        }
        text = text.trim_start_matches("**").trim_start();
        text = text.strip_suffix("</message>").unwrap_or(text).trim_end();
        text = text.strip_prefix("<message>").unwrap_or(text).trim_start();
        if text == before {
            return text.to_owned();
        }
    }
}

fn is_nothing(text: &str) -> bool {
    let bare = text
        .trim_matches(|c: char| matches!(c, '(' | ')' | '.' | '"' | '[' | ']' | '*') || c.is_whitespace());
    NOTHING.contains(&bare.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reply: &str) -> Result<(String, String), Reason> {
        sections(reply).map(|w| (w.context, w.question))
    }

    fn both(context: &str, question: &str) -> Result<(String, String), Reason> {
        Ok((context.to_owned(), question.to_owned()))
    }

    #[test]
    fn labels_in_any_dress() {
        for reply in [
            "Context: It rained.\nQuestion: Did it?",
            "Sure! Here it is.\n\n**Context:** It rained.\n\n**Question:** Did it?\n\nNote: I left out the rest.",
            "## Context\nIt rained.\n## Question\nDid it?",
            "Unbiased text context (includes all content except user's bias): \"It rained.\"\n\nQuestion/Query (does \
             not include user bias/preference): \"Did it?\"",
            "1. CONTEXT (facts: all of them):\nIt rained.\n2. QUERY:\nDid it?",
            "Question: Did it?\nContext: It rained.",
            "Facts: It rained.\nQuestion: Did it?",
            "Context: It rained. Question: Did it?",
        ] {
            assert_eq!(read(reply), both("It rained.", "Did it?"), "{reply}");
        }
    }

    #[test]
    fn no_context_is_the_question_alone() {
        for nothing in ["none", "None.", "(none)", "N/A"] {
            assert_eq!(read(&format!("Context: {nothing}\nQuestion: Did it?")), both("", "Did it?"));
        }
    }

    #[test]
    fn every_failure_has_a_name() {
        for (reply, want) in [
            ("", Reason::NoReply),
            (" \n", Reason::NoReply),
            ("I'm sorry, but I cannot do that.", Reason::Refused),
            ("It is Canberra.", Reason::NoSection("context")),
            ("Context: It rained.", Reason::NoSection("question")),
            ("Question: Did it?", Reason::NoSection("context")),
            ("Context:\nQuestion: Did it?", Reason::EmptySection("context")),
            ("Context: a\nQuestion:", Reason::EmptySection("question")),
        ] {
            assert_eq!(read(reply), Err(want), "{reply}");
        }
        assert_eq!(list("no list"), Err(Reason::NoList));
        assert_eq!(list("{\"drop\": [1, x]}"), Err(Reason::NoSuchPiece("x".to_owned())));
    }

    #[test]
    fn sections_go_on_over_lines() {
        let w =
            sections("Context: One.\nTwo: three.\n\nFour.\nQuestion: Which?\nA) x\nB) y\n\nThe answer is A.")
                .expect("read");
        assert_eq!(
            (w.context.as_str(), w.question.as_str()),
            ("One.\nTwo: three.\n\nFour.", "Which?\nA) x\nB) y")
        );
        assert!(w.ended);
        assert!(!sections("Context: One.\nQuestion: Whi").expect("read").ended);
    }

    #[test]
    fn choices_in_paragraphs_of_their_own_are_part_of_the_question() {
        let choices = "Answer choices:\n(A) If so, it rained.\n(B) It did not.";
        for (gap, after) in [("\n\n", "\n\nNote: I left out the opinion."), ("\n\n", ""), ("\n", "\n\nDone.")]
        {
            let reply = format!("Context: none\nQuestion: Did it?{gap}{choices}{after}");
            assert_eq!(read(&reply), both("", &format!("Did it?{gap}{choices}")), "{reply}");
        }
        let apart = "Did it?\n\nChoices:\n\nA) yes\nB) no";
        assert_eq!(read(&format!("Context: none\nQuestion: {apart}\n\nNote:\nNothing.")), both("", apart));
        assert_eq!(read("Context: none\nQuestion: Did it?\n\nNote:"), both("", "Did it?"));
    }

    #[test]
    fn a_whole_reply_without_its_preface() {
        assert_eq!(
            whole("Here is the message:\n\n\"It rained. Did it?\"").as_deref(),
            Ok("It rained. Did it?")
        );
        assert_eq!(whole("<message>\nIt \"rained\".\n</message>").as_deref(), Ok("It \"rained\"."));
    }

    #[test]
    fn lists_of_numbers() {
        assert_eq!(list("{\"drop\": [1, 3]}"), Ok(vec![1, 3]));
        assert_eq!(list("Sure: {\"drop\":[]}"), Ok(vec![]));
        assert_eq!(list("[2,\"4\"]"), Ok(vec![2, 4]));
    }
}
