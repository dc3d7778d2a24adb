//! What the guards let through and what they do not, one rewrite at a time.

use refocus_system2::{Options, Outcome, Request, Variant, rewrite};

use crate::scripted::Scripted;

const TOM: &str =
    "Tom has 7 apples. Ann has 5 apples. I think that is a lot. How many apples do Tom and Ann have?";

/// How a rewrite ends: `applied`, or what stood against it.
fn ends(text: &str, context: &str, question: &str, strict: bool) -> String {
    let mut options = Options::new(Variant::Objectivity);
    options.guards.strict = strict;
    let reply = format!("Context: {context}\nQuestion: {question}");
    let made = rewrite(&mut Scripted::says(&reply), &Request::new(text), &options);
    match made.outcome {
        Outcome::Applied => "applied".to_owned(),
        Outcome::Kept { reason } => reason.to_string(),
    }
}

/// That a rewrite of the context is refused for something with this name.
fn refuses(text: &str, context: &str, why: &str) {
    let question = text.rsplit(['.', '\n']).find(|s| s.contains('?')).unwrap_or_default().trim();
    for strict in [false, true] {
        let end = ends(text, context, question, strict);
        assert!(end.contains(why), "{context}\n{end}");
    }
}

fn takes(text: &str, context: &str) {
    let question = text.rsplit(['.', '\n']).find(|s| s.contains('?')).unwrap_or_default().trim();
    assert_eq!(ends(text, context, question, false), "applied", "{context}");
}

#[test]
fn a_number_stays_in_each_sentence_that_stays() {
    refuses(TOM, "Tom has apples. Ann has 5 apples.", "the number \"7\"");
    refuses(TOM, "Tom has apples. Ann has apples.", "the number");
    takes(TOM, "Tom has 7 apples. Ann has 5 apples.");
    takes(TOM, "Tom has 7 apples and Ann has 5 apples.");
    let pears =
        "Tom has 3 red apples. Ann has 3 green pears. I think Ann is nice. How many have Tom and Ann?";
    refuses(pears, "Tom has 3 red apples. Ann has green pears.", "the number \"3\"");
    takes(pears, "Tom has 3 red apples. Ann has 3 green pears.");
    let list = "Points were Tom 3, Ann 5, Bob 3. I think it is a draw. Who has most?";
    refuses(list, "Points were Tom 5, Ann 5, Bob 3.", "the number");
    takes(list, "Points were Tom 3, Ann 5, Bob 3.");
    let none = "Tom has 3 apples. Ann has pears. I think Ann is nice. What has Ann?";
    refuses(none, "Tom has 3 apples. Ann has 3 pears.", "the number \"3\"");
}

#[test]
fn an_opinion_with_words_of_a_fact_goes_with_its_number() {
    let mg = "The tablet contains 20 mg. I think that the tablet contains 10 mg. How much does the tablet contain?";
    takes(mg, "The tablet contains 20 mg.");
    refuses(mg, "The tablet contains 10 mg.", "the number");
    // A sentence that has nothing to do with it goes too.
    let cats = "Tom has 7 apples. My cousin has 12 cats. I think so. How many apples has Tom?";
    takes(cats, "Tom has 7 apples.");
}

#[test]
fn code_that_is_no_inline_code_stays() {
    for code in [
        "    x = start()\n    print(x * scale)\n",
        "~~~py\nx = start()\nprint(x * scale)\n~~~\n",
        "```py\nx = start()\nprint(x * scale)\n```\n",
    ] {
        let text = format!("What does this program print?\n\n{code}\nI think it fails.");
        let q = "What does this program print?";
        for strict in [false, true] {
            assert!(ends(&text, "none", q, strict).contains("lost the code"), "{code}");
        }
        let changed = code.replace("x * scale", "x + scale");
        assert!(ends(&text, &format!("Here it is:\n\n{changed}"), q, false).contains("code"), "{code}");
        assert_eq!(ends(&text, &format!("It is this:\n\n{code}"), q, false), "applied", "{code}");
        let fenced = "```\nx = start()\nprint(x * scale)\n```";
        assert_eq!(ends(&text, fenced, q, false), "applied", "{code}");
    }
    let ls = "Run `ls` in the folder, it tells the names. I think it is slow. What are the names?";
    refuses(ls, "Run in the folder, it tells the names.", "lost the code");
    takes(ls, "Run ls in the folder, it tells the names.");
}

#[test]
fn a_block_of_code_is_no_matter_where_pieces_are_cut() {
    let text = "Look here.\n\n    x = 7\n    y = 8\n\nI think it fails. What is x?";
    let mut chat = Scripted::says("{\"drop\": [1]}");
    let made = rewrite(&mut chat, &Request::new(text), &Options::new(Variant::Extractive));
    assert_eq!(made.text, text.replace("Look here.\n\n", ""));
}

#[test]
fn links_and_single_quotation_marks_stay() {
    let page =
        "It is at https://en.wikipedia.org/wiki/Mercury_(planet). I think it is long. What is it about?";
    refuses(page, "It is at https://en.wikipedia.org/wiki/Mercury_(planet", "lost the link");
    takes(page, "It is at https://en.wikipedia.org/wiki/Mercury_(planet).");
    for sign in ["‘no refunds after ten days’", "‹no refunds after ten days›", "'no refunds after ten days'"]
    {
        let text = format!("A sign at the door says {sign}. I think it is rude. What does the sign say?");
        let kept = format!("A sign at the door says {sign}.");
        refuses(&text, &kept.replace("ten", "two"), "lost the quotation");
        takes(&text, &kept);
    }
    let no = "The sign says \"no\" to all who know it. I think it is rude. What is at the door?";
    refuses(no, "The sign to all who know it.", "lost the quotation");
}

#[test]
fn names_that_open_a_sentence_are_the_originals() {
    let text = "Canberra was founded in 1913 among hills. Its apples grew there. I think Sydney is nicer. When was Canberra founded?";
    refuses(text, "Griffin founded Canberra in 1913.", "the name \"Griffin\"");
    for honest in [
        "Canberra was founded in 1913 among hills. Its apples grew there.",
        "However, Canberra was founded in 1913 among hills. Apples grew there.",
        "Founded in 1913 among hills, it was Canberra. There grew its apples.",
        "Founding was in 1913 among hills. Its apples grew there.",
    ] {
        takes(text, honest);
    }
}

#[test]
fn the_question_asks_the_same() {
    let context = "Canberra was founded in 1913.";
    let with = |asked: &str| format!("{context} I think it is nice. {asked}");
    for (asked, changed) in [
        ("When was Canberra founded?", "Where was Canberra founded?"),
        ("How many people live in Canberra?", "How old people live in Canberra?"),
        ("Is Canberra old?", "Is Canberra not old?"),
        ("Which isn't the capital of Australia?", "Which is the capital of Australia?"),
    ] {
        assert!(ends(&with(asked), context, changed, false).contains("the question"), "{changed}");
        assert_eq!(ends(&with(asked), context, asked, false), "applied", "{asked}");
    }
    for (asked, honest) in [
        ("And what is the capital of Australia?", "Which is the capital of Australia?"),
        ("So when was it founded, please?", "When was it founded?"),
        ("Tell me the capital of Australia.", "What is the capital of Australia?"),
        ("Name the largest city.", "What is the largest city?"),
    ] {
        assert_eq!(ends(&with(asked), context, honest, false), "applied", "{honest}");
    }
    let cities = "Melbourne is big. I think it is nice. Canberra or Sydney: which is the capital?";
    assert!(
        ends(cities, "Melbourne is big.", "Melbourne or Sydney: which is the capital?", false)
            .contains("the question")
    );
    let gas = "Gases are light. I think so. Which of these is noble?\na) argon\nb) carbon\nc) iron";
    let choices = |of: &str| format!("Which of these is noble?\n{of}");
    for (of, want) in [
        ("a) argon\nb) carbon\nc) iron", true),
        ("(a) argon\n(b) carbon\n(c) iron", true),
        ("b) carbon\nc) iron", false),
        ("a) carbon\nb) argon\nc) iron", false),
    ] {
        assert_eq!(ends(gas, "Gases are light.", &choices(of), false) == "applied", want, "{of}");
    }
}

#[test]
fn an_opinion_is_no_fact_where_another_sentence_has_as_many_of_its_words() {
    let text = "I think the capital is Sydney. Sydney is the largest city of Australia. What is the capital of Australia?";
    refuses(text, "The capital of Australia is Sydney.", "the claim");
    refuses(text, "Sydney is the capital and the largest city.", "the claim");
    takes(text, "Sydney is the largest city of Australia.");
    // What is said without an opinion too is a fact.
    let twice = "Sydney is large. I think Sydney is large. My aunt agrees. What is the capital of Australia?";
    takes(twice, "Sydney is large.");
}

#[test]
fn a_question_with_an_opinion_in_its_sentence_is_not_cut_away() {
    let text = "It is a tablet. Does one tablet contain 20 mg of ibuprofen, since I believe it is 10 mg?";
    for (variant, mut chat) in [
        (Variant::Extractive, Scripted::says("{\"drop\": [1]}")),
        (Variant::Scored, Scripted::scores(&[-9.0, -9.0, -9.0])),
    ] {
        let made = rewrite(&mut chat, &Request::new(text), &Options::new(variant));
        assert_eq!(made.text, text.replace("It is a tablet. ", ""));
    }
    assert!(ends(text, "It is a tablet.", "Since I believe it is 10 mg?", false).contains("the question"));
    let two = "Is Canberra the capital of Australia, I think so but am I right?";
    assert!(ends(two, "none", "But am I right?", false).contains("the question"));
    assert_eq!(ends(two, "none", "Is Canberra the capital of Australia, but am I right?", false), "applied");
}

#[test]
fn an_instruction_is_there_again_and_says_the_same() {
    let text = "The French answer to Shakespeare in drama is Racine. I think he is dull. Answer in French. When was Racine born?";
    let racine = "The French answer to Shakespeare in drama is Racine.";
    for lost in
        ["", " Do not answer in French.", " Don’t answer in French.", " Answer in anything but French."]
    {
        refuses(text, &format!("{racine}{lost}"), "lost the instruction");
    }
    for there in [" Answer in French.", " Please answer in French.", " answer in French"] {
        takes(text, &format!("{racine}{there}"));
    }
    assert_eq!(ends(text, racine, "When was Racine born? Answer in French.", false), "applied");
}
