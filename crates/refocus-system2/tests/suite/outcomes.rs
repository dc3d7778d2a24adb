//! Every way in which a rewriting can end, by name.

use std::time::Duration;

use refocus_system2::{
    ChatError, Finish, Guards, Judge, Options, Outcome, Request, Variant, Why, question, rewrite, split,
};

use crate::scripted::Scripted;

const TEXT: &str =
    "Canberra was founded in 1913. I think the answer is Sydney. What is the capital of Australia?";

fn ends(variant: Variant, text: &str, chat: &mut Scripted) -> &'static str {
    let made = rewrite(chat, &Request::new(text), &Options::new(variant));
    match &made.outcome {
        Outcome::Applied => "applied",
        Outcome::Kept { reason } => {
            assert_eq!(made.text, text, "the original goes through");
            assert!(made.removed.is_empty());
            assert!(!reason.to_string().is_empty());
            reason.name()
        }
    }
}

#[test]
fn texts_that_cannot_be_rewritten() {
    for variant in Variant::ALL {
        let mut chat = Scripted::default();
        assert_eq!(ends(variant, "", &mut chat), "empty");
        assert_eq!(ends(variant, " \n\t", &mut chat), "empty");
        assert_eq!(ends(variant, "It rained all day. The sea is blue.", &mut chat), "no_question");
        assert_eq!(ends(variant, "What is the capital of Australia?", &mut chat), "no_context");
        assert_eq!(ends(variant, "Answer in French. What is 2 + 2?", &mut chat), "no_context");
        assert!(chat.asked.is_empty(), "the model is not asked for nothing");
    }
}

#[test]
fn a_marked_question_that_is_not_there() {
    for question in [90..400, 3..3, 0..usize::MAX] {
        let mut request = Request::new("Ünder?");
        request.question = Some(question);
        let made = rewrite(&mut Scripted::default(), &request, &Options::new(Variant::Extractive));
        assert_eq!(made.reason().map(|r| r.name()), Some("no_question"));
    }
}

#[test]
fn replies_and_what_becomes_of_them() {
    let fine = "Context: Canberra was founded in 1913.\nQuestion: What is the capital of Australia?";
    for (says, want) in [
        (fine, "applied"),
        ("Context: none\nQuestion: What is the capital of Australia?", "applied"),
        ("", "no_reply"),
        ("I'm sorry, I can't help with that.", "refused"),
        ("The capital of Australia is Canberra.", "no_section"),
        ("Context: Canberra was founded in 1913.\nQuestion:", "empty_section"),
        (
            "Context: Canberra was founded in 1913.\nQuestion: The capital of Australia is Canberra.",
            "question_lost",
        ),
        ("Context: Canberra was founded in 1931.\nQuestion: What is the capital of Australia?", "lost"),
        (
            "Context: Canberra was founded in 1913 by Walter Griffin.\nQuestion: What is the capital of Australia?",
            "invented",
        ),
        // Words of the text put together to what it does not say, and an opinion without its "I think".
        (
            "Context: Sydney is the capital of Australia.\nQuestion: What is the capital of Australia?",
            "invented",
        ),
        ("Context: The answer is Sydney.\nQuestion: What is the capital of Australia?", "invented"),
        (&format!("Context: {TEXT} {TEXT}\nQuestion: What is the capital of Australia?"), "longer"),
        (
            "Context: Canberra was founded in 1913. I think the answer is Sydney.\nQuestion: What is the capital of Australia?",
            "clean",
        ),
    ] {
        assert_eq!(ends(Variant::Objectivity, TEXT, &mut Scripted::says(says)), want, "{says}");
    }
    let mut cut = Scripted::says("Context: Canberra was founded in 1913.\nQuestion: What is the cap");
    cut.finish = Some(Finish::Length);
    assert_eq!(ends(Variant::Objectivity, TEXT, &mut cut), "cut");
}

#[test]
fn models_that_do_not_answer() {
    let model = || "m".to_owned();
    for (error, want) in [
        (ChatError::TooLong { tokens: 130_000, room: 8192 }, "too_long"),
        (ChatError::TimedOut { after: Duration::from_secs(1) }, "timed_out"),
        (ChatError::Failed { model: model(), why: "no route".to_owned() }, "failed"),
        (ChatError::Cannot { model: model(), what: "answer" }, "cannot"),
    ] {
        assert_eq!(ends(Variant::Objectivity, TEXT, &mut Scripted::fails(error)), want);
    }
}

#[test]
fn what_comes_late_does_not_count() {
    let mut chat = Scripted::says("Context: none\nQuestion: What is the capital of Australia?");
    chat.takes = Duration::from_millis(30);
    let options = Options { deadline: Some(Duration::from_millis(10)), ..Options::new(Variant::Objectivity) };
    let made = rewrite(&mut chat, &Request::new(TEXT), &options);
    assert_eq!(made.reason().map(|r| r.name()), Some("timed_out"));
    assert_eq!(made.text, TEXT);
    assert!(made.elapsed >= Duration::from_millis(30));
    assert!(chat.until.is_none(), "the limit is taken away");
}

#[test]
fn the_second_step_of_each_variant() {
    let says = "Context: Canberra was founded in 1913.\nQuestion: What is the capital of Australia?";
    let text = |variant| rewrite(&mut Scripted::says(says), &Request::new(TEXT), &Options::new(variant)).text;
    let sections = "Context: Canberra was founded in 1913.\n\nQuestion: What is the capital of Australia?";
    assert_eq!(text(Variant::Objectivity), format!("{sections}\n\nAnswer in an unbiased way."));
    assert_eq!(text(Variant::NoInstruction), sections);
    assert_eq!(text(Variant::Relevance), sections);
    assert!(text(Variant::KeepOriginal).starts_with(TEXT));
    let single = "Canberra was founded in 1913. What is the capital of Australia?";
    let made = rewrite(&mut Scripted::says(single), &Request::new(TEXT), &Options::new(Variant::Single));
    assert_eq!(made.text, format!("{single}\n\nAnswer in an unbiased way."));
    assert_eq!(
        made.removed.iter().map(|r| &TEXT[r.range.clone()]).collect::<Vec<_>>(),
        ["I think the answer is Sydney. "]
    );
}

#[test]
fn named_pieces_are_cut_from_the_original() {
    let mut chat = Scripted::says("{\"drop\": [2, 2]}");
    let made = rewrite(&mut chat, &Request::new(TEXT), &Options::new(Variant::Extractive));
    assert_eq!(made.outcome, Outcome::Applied);
    assert_eq!(made.text, "Canberra was founded in 1913. What is the capital of Australia?");
    assert_eq!(made.context, "Canberra was founded in 1913.");
    assert_eq!(made.question, "What is the capital of Australia?");
    assert_eq!((made.removed[0].range.clone(), made.removed[0].why), (30..60, Why::Named));
    assert_eq!((made.usage.prompt, made.usage.completion), (10, 3));
    assert!(
        chat.asked[0]
            .contains("[1] Canberra was founded in 1913.\n[2] I think the answer is Sydney.\nWhat is")
    );
    for (says, want) in [
        ("{\"drop\": []}", "clean"),
        ("{\"drop\": [3]}", "no_such_piece"),
        ("{\"drop\": [\"x\"]}", "no_such_piece"),
        ("All of it.", "no_list"),
    ] {
        assert_eq!(ends(Variant::Extractive, TEXT, &mut Scripted::says(says)), want);
    }
}

#[test]
fn a_model_without_schemas_is_asked_in_words() {
    let cannot = ChatError::Cannot { model: "m".to_owned(), what: "keep to a schema" };
    let mut chat = Scripted::fails(cannot);
    chat.says.push_back(Ok("Sure: {\"drop\": [2]}".to_owned()));
    assert_eq!(ends(Variant::Extractive, TEXT, &mut chat), "applied");
}

#[test]
fn pieces_below_the_threshold_go() {
    // Where the end goes, the white space before it goes too.
    let text = "Canberra was founded in 1913. What is the capital of Australia? I think Sydney.";
    let mut options = Options::new(Variant::Scored);
    let made = rewrite(&mut Scripted::scores(&[0.5, -0.5]), &Request::new(text), &options);
    assert_eq!(made.text, "Canberra was founded in 1913. What is the capital of Australia?");
    assert_eq!(made.removed[0].score, Some(-0.5));
    assert_eq!(made.removed[0].range, 63..text.len());
    assert_eq!(made.judged.iter().map(|j| j.score).collect::<Vec<_>>(), [0.5, -0.5]);
    assert_eq!(made.usage.completion, 0);
    options.threshold = Some(-1.0);
    let made = rewrite(&mut Scripted::scores(&[0.5, -0.5]), &Request::new(text), &options);
    assert_eq!(made.reason().map(|r| r.name()), Some("clean"));
    assert_eq!(made.judged.len(), 2, "scores are shown all the same");
}

#[test]
fn the_answers_change_is_against_the_whole_text() {
    let options = Options { judge: Judge::AnswerChange, ..Options::new(Variant::Scored) };
    let mut chat = Scripted::scores(&[-1.0, -1.01, -3.0]);
    chat.says.push_back(Ok("Canberra".to_owned()));
    let made = rewrite(&mut chat, &Request::new(TEXT), &options);
    let scores: Vec<f64> = made.judged.iter().map(|j| j.score).collect();
    assert!((scores[0] - 0.01).abs() < 1e-12 && (scores[1] - 2.0).abs() < 1e-12, "{scores:?}");
    assert_eq!(made.text, &TEXT[30..]);
    assert!(!chat.asked[2].contains("Canberra was founded"));
}

#[test]
fn strict_guards_offer_no_numbers() {
    let mut options = Options::new(Variant::Extractive);
    options.guards = Guards { strict: true, ..Guards::default() };
    let mut chat = Scripted::says("{\"drop\": [1]}");
    let made = rewrite(&mut chat, &Request::new(TEXT), &options);
    assert_eq!(made.text, "Canberra was founded in 1913. What is the capital of Australia?");
}

#[test]
fn code_links_tables_and_instructions_are_never_offered() {
    let text = "Answer in French.\n```\nx = 1\n```\n| a | b |\n|---|---|\nSee https://a.org/b.\nThe sky is blue.\nWhat is x?";
    let mut chat = Scripted::says("{\"drop\": [1]}");
    let made = rewrite(&mut chat, &Request::new(text), &Options::new(Variant::Extractive));
    assert_eq!(made.text, text.replace("The sky is blue.\n", ""));
    assert!(!chat.asked[0].contains("[2]"));
}

#[test]
fn a_table_is_written_anew_whole_or_not_at_all() {
    let text = "I think it is Bob.\n| name | age |\n|---|---|\n| Ann | 40 |\n| Bob | 41 |\nWho is older?";
    let whole = "Context: | name | age |\n|---|---|\n| Ann | 40 |\n| Bob | 41 |\nQuestion: Who is older?";
    assert_eq!(ends(Variant::Objectivity, text, &mut Scripted::says(whole)), "applied");
    let part = whole.replace("| Ann | 40 |\n", "");
    assert_eq!(ends(Variant::Objectivity, text, &mut Scripted::says(&part)), "lost");
}

#[test]
fn a_very_long_text_is_cut_in_reasonable_time() {
    let text = format!("{}What is it?", "The cat (a \"tabby) sat `on the mat, I think it did. ".repeat(8000));
    let pieces = split(&text, None);
    assert!(pieces.len() > 8000 && question(&text, &pieces).is_some());
    let mut chat = Scripted::default();
    assert_eq!(ends(Variant::Scored, &text, &mut chat), "too_many_pieces");
    assert_eq!(ends(Variant::Extractive, &text, &mut chat), "too_many_pieces");
}
