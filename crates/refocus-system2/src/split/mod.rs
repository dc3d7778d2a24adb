//! A text cut into pieces, on its own bytes: every byte belongs to exactly one piece.

mod clause;
mod sentence;
mod task;

use std::ops::Range;

pub(crate) use self::sentence::code_blocks;
pub(crate) use self::task::{announces, ends_asking, is_choice, is_heading, is_telling, question_words};
pub use self::task::{is_instruction, is_opinion};

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sentence.
    Sentence,
    /// A part of a sentence that holds an opinion.
    Clause,
    /// A heading, an item of a list, a line of a quotation or a line that ends without a full stop.
    Line,
    /// Rows of a table.
    Table,
    /// Code between fences, or indented as a block.
    Code,
}

/// What a piece is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// May be removed.
    Context,
    /// Asks.
    Question,
    /// Says how the answer is to be: its format, language or voice.
    Instruction,
    /// Code, a link, a table, or what may be another question: never removed.
    Fixed,
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes, white space behind it included.
    pub range: Range<usize>,
    /// What it is.
    pub kind: Kind,
    /// What it is there for.
    pub part: Part,
}

/// A text in pieces. Their ranges lie end to end and cover the text.
///
/// `question` are the bytes of the question where they are known; pieces that touch them are the question.
/// Without it the question is looked for: the last piece that asks, one with a question mark before one that only
/// begins as a request does.
pub fn split(text: &str, question: Option<&Range<usize>>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (range, kind) in sentence::pieces(text) {
        if kind != Kind::Code && is_opinion(&text[range.clone()]) {
            with_opinion(text, range, kind, &mut pieces);
        } else {
            pieces.push(Piece { range, kind, part: Part::Context });
        }
    }
    task::mark(text, &mut pieces, question);
    pieces
}

/// A sentence that holds an opinion, in clauses where it can be cut.
///
/// What a sentence asks may stand before its last clause, which alone has the question mark: where that one is the
/// opinion, the sentence stays whole, and no clause that may ask with it goes.
fn with_opinion(text: &str, range: Range<usize>, kind: Kind, pieces: &mut Vec<Piece>) {
    let clauses = clause::pieces(text, range.clone());
    let opinion = |clause: &Range<usize>| is_opinion(&text[clause.clone()]);
    let asks = ends_asking(&text[range.clone()]);
    // "Don't you think that it is Sydney?" asks for nothing else.
    let more = clauses.iter().any(|c| !opinion(c)) || !task::begins_opinion(&text[range.clone()]);
    let part = if asks && more { Part::Fixed } else { Part::Context };
    if clauses.len() == 1 || (part == Part::Fixed && clauses.last().is_some_and(opinion)) {
        pieces.push(Piece { range, kind, part });
        return;
    }
    pieces.extend(clauses.into_iter().map(|range| {
        let part = if opinion(&range) { Part::Context } else { part };
        Piece { range, kind: Kind::Clause, part }
    }));
}

/// The bytes of the question: of its pieces, without white space around.
pub fn question(text: &str, pieces: &[Piece]) -> Option<Range<usize>> {
    let mut of = pieces.iter().filter(|p| p.part == Part::Question);
    let first = of.next()?.range.clone();
    let last = of.next_back().map_or(first.end, |p| p.range.end);
    Some(trimmed(text, first.start..last))
}

/// A range without white space at its ends.
pub(crate) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let piece = &text[range.clone()];
    let start = range.start + piece.len() - piece.trim_start().len();
    start..(start + piece.trim().len()).max(start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        split(text, None).into_iter().map(|p| &text[p.range]).collect()
    }

    fn asked(text: &str) -> Option<&str> {
        question(text, &split(text, None)).map(|r| &text[r])
    }

    proptest! {
        #[test]
        fn pieces_cover_every_byte(text in "([a-zA-Z0-9 .,;:!?()'\"\n`|#*>-]|[。？！「」、é€你好ا؟।]|```|I think |\\. |\n\n){0,60}") {
            let pieces = split(&text, None);
            let joined: String = pieces.iter().map(|p| &text[p.range.clone()]).collect();
            prop_assert_eq!(&joined, &text);
            let mut at = 0;
            for p in &pieces {
                prop_assert_eq!(p.range.start, at);
                prop_assert!(p.range.end > at);
                at = p.range.end;
            }
        }

        #[test]
        fn any_text_at_all_is_covered(text in any::<String>()) {
            let joined: String = split(&text, None).iter().map(|p| &text[p.range.clone()]).collect();
            prop_assert_eq!(joined, text);
        }
    }

    #[test]
    fn sentences_end_where_a_reader_ends_them() {
        assert_eq!(
            cut(
                "Dr. Smith paid 3.50 euros, e.g. for tea. He left at 5 p.m. on Monday! \"Why?\" she asked. Ok."
            ),
            [
                "Dr. Smith paid 3.50 euros, e.g. for tea. ",
                "He left at 5 p.m. on Monday! ",
                "\"Why?\" she asked. ",
                "Ok."
            ]
        );
        assert_eq!(
            cut("J. R. R. Tolkien wrote it. It sold well..."),
            ["J. R. R. Tolkien wrote it. ", "It sold well..."]
        );
        assert_eq!(
            cut("See https://a.org/x.html?q=1. Then go."),
            ["See https://a.org/x.html?q=1. ", "Then go."]
        );
    }

    #[test]
    fn scripts_without_spaces_have_sentences_too() {
        assert_eq!(
            cut("今日は晴れです。東京に行きますか？はい「そうです。」と言った。"),
            ["今日は晴れです。", "東京に行きますか？", "はい「そうです。」と言った。"]
        );
        assert_eq!(cut("यह एक वाक्य है। दूसरा?"), ["यह एक वाक्य है। ", "दूसरा?"]);
    }

    #[test]
    fn code_tables_and_lists_are_whole() {
        let text = "Look. At this:\n```rust\nlet a = 1. + b;\n\n// Why?\n```\n- one. two\n- three\n\n| a | b |\n|---|---|\n| 1. | 2 |\nWhat is it?";
        let pieces = split(text, None);
        let kinds: Vec<_> = pieces.iter().map(|p| (p.kind, text[p.range.clone()].trim())).collect();
        assert_eq!(
            kinds,
            [
                (Kind::Sentence, "Look."),
                (Kind::Line, "At this:"),
                (Kind::Code, "```rust\nlet a = 1. + b;\n\n// Why?\n```"),
                (Kind::Line, "- one. two"),
                (Kind::Line, "- three"),
                (Kind::Table, "| a | b |\n|---|---|\n| 1. | 2 |"),
                (Kind::Sentence, "What is it?"),
            ]
        );
    }

    #[test]
    fn opinions_inside_a_sentence_are_clauses() {
        assert_eq!(
            cut("I think the answer is Sydney, but what is the capital of Australia?"),
            ["I think the answer is Sydney, ", "but what is the capital of Australia?"]
        );
        assert_eq!(
            cut("The bill was 40 euros, which I believe is far too much, and we left."),
            ["The bill was 40 euros, ", "which I believe is far too much, ", "and we left."]
        );
        assert_eq!(cut("The bill, due on Monday, was 40 euros."), ["The bill, due on Monday, was 40 euros."]);
    }

    #[test]
    fn a_question_with_an_opinion_in_its_sentence_stays() {
        for text in [
            "Does one tablet contain 20 mg of ibuprofen, since I believe it is 10 mg?",
            "Is Canberra the capital of Australia, because I think it is Sydney?",
            "What is the capital, which I believe everybody knows, of Australia?",
            "堪培拉是澳大利亚的首都吗，我觉得是悉尼？",
        ] {
            assert_eq!((cut(text), asked(text)), (vec![text], Some(text)));
        }
        // With another question behind it, it is fixed.
        let text = "Is it 20 mg, since I believe it is 10 mg? Name the price.";
        assert_eq!(split(text, None)[0].part, Part::Fixed);
        let text = "Is Canberra the capital of Australia, I think so but am I right?";
        let parts: Vec<_> =
            split(text, None).into_iter().map(|p| (p.part, text[p.range].trim().to_owned())).collect();
        let want = [
            (Part::Fixed, "Is Canberra the capital of Australia,"),
            (Part::Context, "I think so"),
            (Part::Question, "but am I right?"),
        ];
        assert_eq!(parts, want.map(|(part, body)| (part, body.to_owned())));
        // An opinion that is put as a question, and nothing else, may go.
        let text = "Don't you think it is Sydney? What is the capital of Australia?";
        assert_eq!(split(text, None)[0].part, Part::Context);
    }

    #[test]
    fn the_question_is_found() {
        for (text, want) in [
            ("Tom has 3 apples. How many has he? I think 4.", Some("How many has he?")),
            (
                "I think it's Sydney but what is the capital of Australia?",
                Some("but what is the capital of Australia?"),
            ),
            (
                "Why not ask? Name the largest planet. I like Mars.",
                Some("Why not ask? Name the largest planet."),
            ),
            (
                "Isn't it late? Show times are at 7. Bring a coat.",
                Some("Isn't it late? Show times are at 7."),
            ),
            ("Why is it so? It rained. Show times are at 7.", Some("Why is it so?")),
            ("Mary was a mother of four.", None),
            ("東京は首都です。日本の首都はどこですか？", Some("日本の首都はどこですか？")),
            ("Text: it rained.\nQuestion: Where did it rain", Some("Question: Where did it rain")),
            ("ما هي عاصمة فرنسا؟", Some("ما هي عاصمة فرنسا؟")),
            ("", None),
        ] {
            assert_eq!(asked(text), want, "{text}");
        }
    }

    #[test]
    fn choices_behind_a_heading_belong_to_the_question() {
        let asked_with = "Who is it?\n\nAnswer choices:\n(A) If you ask, it is Ann.\n(B) Bob.\n";
        let text = format!("I think A.\n{asked_with}\nIt rained yesterday in Paris.");
        let pieces = split(&text, None);
        assert_eq!(question(&text, &pieces).map(|r| text[r].trim()), Some(asked_with.trim()));
        assert_eq!(pieces.last().map(|p| p.part), Some(Part::Context));
        // A heading of something else is none of the question's.
        assert_eq!(asked("Who is it?\nMy notes:\nIt rained."), Some("Who is it?"));
    }

    #[test]
    fn instructions_are_told_from_context() {
        let text = "You are a pirate. It rained. Answer in French, as JSON. What is 2+2?";
        let parts: Vec<_> = split(text, None).into_iter().map(|p| p.part).collect();
        assert_eq!(parts, [Part::Instruction, Part::Context, Part::Instruction, Part::Question]);
        for text in [
            "Your response must be valid JSON.",
            "The output should be a table.",
            "Please make sure that your text is in French.",
            "Respond like a pirate.",
            "Answer as a lawyer would.",
            "In no more than twenty words of French.",
            "In 3 short sentences, and with no jokes at all, please.",
            "In French, and please with some rhymes and jokes.",
            "In one word.",
        ] {
            assert!(is_instruction(text), "{text}");
        }
        for text in [
            "In 1990 he wrote a list of plants.",
            "In French the word for dog is chien, and it is old.",
            "In two words that he wrote was a hint.",
            "In a letter of 1913 Griffin gave a list.",
            "Your text was written by a poet in verse.",
            "The answer to that letter came in May.",
            "Write like mad, what is it?",
        ] {
            assert!(!is_instruction(text), "{text}");
        }
    }

    #[test]
    fn a_known_question_is_not_looked_for() {
        let text = "Is it? The sea is blue. So it goes.";
        let pieces = split(text, Some(&(24..34)));
        let parts: Vec<_> = pieces.iter().map(|p| p.part).collect();
        assert_eq!(parts, [Part::Context, Part::Context, Part::Question]);
    }
}
