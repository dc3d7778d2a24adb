use std::path::{Path, PathBuf};
use std::time::Duration;

use refocus_compute::{Cpu, Eager, Isa};
use refocus_model::generate::{Changes, score};
use refocus_model::{Action, Checkpoint, Intervention, Kind, Position, Site};

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A tiny model with its tokenizer and template.
struct Small {
    o: Eager<Cpu>,
    m: Model<Cpu>,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Small {
    fn new() -> Self {
        let checkpoint = Checkpoint::open(fixture("gguf-llama-q8_0/model.gguf")).expect("checkpoint");
        let mut cpu = Cpu::new(Isa::detect(), 1);
        let m = Model::load(&checkpoint, &mut cpu).expect("model");
        let tokenizer = checkpoint.tokenizer().expect("tokenizer");
        let template = ChatTemplate::of(&checkpoint, &tokenizer).expect("templates").expect("a template");
        Self { o: Eager::new(cpu), m, tokenizer, template }
    }

    fn chat(&mut self) -> Local<'_, Eager<Cpu>> {
        Local::new("small", &mut self.o, &self.m, &self.tokenizer, Some(&self.template))
    }

    fn plain(&mut self) -> Local<'_, Eager<Cpu>> {
        Local::new("small", &mut self.o, &self.m, &self.tokenizer, None)
    }
}

fn user(text: &str) -> Vec<Message> {
    vec![Message::user(text)]
}

/// The scores of a plain pass for each prompt and answer.
fn plainly(chat: &mut Local<'_, Eager<Cpu>>, text: &str, answers: &[&str], changes: Changes) -> Vec<f64> {
    let prompt = chat.prompt(&user(text)).expect("prompt");
    let ids = chat.encode(&prompt).expect("ids");
    let answers: Vec<_> = answers.iter().map(|a| chat.answer(&prompt, &ids, a).expect("ids")).collect();
    let scores = score(chat.o, chat.m, &ids, &answers, &Arc::new(changes)).expect("scores");
    scores.iter().map(|s| s.sum()).collect()
}

#[test]
fn shared_beginnings_change_no_bit() {
    let mut small = Small::new();
    let texts = ["The sea is blue. Is one needed?", "The sea is blue. Is two needed?", "The sea is blue."];
    for with_template in [true, false] {
        for answers in [vec!["Yes", "No"], vec!["a"], vec!["a", "b"]] {
            let mut chat = if with_template { small.chat() } else { small.plain() };
            let conversations: Vec<_> = texts.iter().map(|t| user(t)).collect();
            let (rows, usage) = chat.score_each(&conversations, &answers).expect("scores");
            let want: Vec<_> =
                texts.iter().map(|t| plainly(&mut chat, t, &answers, Changes::default())).collect();
            for (row, want) in rows.iter().flatten().zip(want.iter().flatten()) {
                // One answer token comes from its logit and the log-sum-exp in f64, not in f32.
                assert!((row - want).abs() < 1e-5, "{row} {want}");
            }
            let alone: u64 =
                conversations.iter().map(|c| chat.score(c, &answers).expect("scores").1.prompt).sum();
            // Longer answers repeat what is not shared, once for each.
            assert!(answers.len() > 1 || usage.prompt < alone, "what is shared is read once");
            let (one, _) = chat.score(&conversations[1], &answers).expect("scores");
            assert_eq!(rows[1], one, "the same bits alone");
        }
    }
}

#[test]
fn what_is_remembered_or_written_together_changes_no_bit() {
    let mut small = Small::new();
    let head = "The sea is blue, and so is the sky above it. ".repeat(12);
    let texts: Vec<_> = ["Is one needed?", "Is two?", ""].map(|end| format!("{head}{end}")).into();
    let alone: Vec<_> =
        texts.iter().map(|t| small.chat().score(&user(t), &["Yes", "No way"]).expect("scores")).collect();
    let mut chat = small.chat();
    for (text, alone) in texts.iter().zip(&alone) {
        assert_eq!(&chat.score(&user(text), &["Yes", "No way"]).expect("scores"), alone);
        let (ids, cache) = chat.remembered.as_ref().expect("remembered");
        assert!(ids.len() == cache.len && cache.len > 64, "{}", cache.len);
    }
    let conversations: Vec<_> = texts.iter().map(|t| user(t)).collect();
    let schema = json!({"type": "object", "properties": {"a": {"enum": [1, 22]}}, "required": ["a"]});
    let mut asks: Vec<_> = conversations.iter().map(|c| Ask::new(c, 20)).collect();
    asks.push(Ask { temperature: 0.8, top_p: 0.9, seed: 7, ..asks[0].clone() });
    asks.push(Ask { schema: Some(&schema), ..asks[1].clone() });
    let long = user(&"word ".repeat(2000));
    asks.push(Ask::new(&long, 1));
    let together = chat.complete_all(&asks);
    assert_eq!(together.len(), asks.len());
    for (ask, together) in asks.iter().zip(together) {
        match (chat.complete(ask), together) {
            (Ok(alone), Ok(together)) => assert_eq!(alone, together),
            (Err(ChatError::TooLong { .. }), Err(ChatError::TooLong { .. })) => assert_eq!(ask.max_new, 1),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_chosen_together_is_chosen_as_alone() {
    let mut small = Small::new();
    let [long, short] = ["The sea is blue. ".repeat(90), "Is it?".to_owned()];
    let conversations =
        [user("The sea is blue. What is it?"), user("The sea is blue."), user(&short), user(&long)];
    for with_template in [true, false] {
        let mut chat = if with_template { small.chat() } else { small.plain() };
        // Frames that the options begin with in ids or not at all, options of one token, one frame alone.
        let frames: [(&str, &[&str]); 5] = [
            ("It is", &["It is blue.", "It is green.", "It is"]),
            ("It is", &["It isn't.", "It is so."]),
            ("", &["Yes", "No"]),
            ("It is blue.", &[]),
            ("a", &["ab", "b"]),
        ];
        let asked: Vec<Choose<'_>> = frames
            .iter()
            .flat_map(|(frame, options)| conversations.iter().map(move |messages| (messages, frame, options)))
            .map(|(messages, frame, options)| Choose { messages, frame, options })
            .collect();
        let together = chat.choose_all(&asked);
        assert_eq!(together.len(), asked.len());
        let mut told = 0;
        for (asked, together) in asked.iter().zip(together) {
            let alone = chat.choose(asked.messages, asked.frame, asked.options);
            match (alone, together) {
                (Ok(alone), Ok(together)) => {
                    assert_eq!(alone, together, "{asked:?}");
                    told += 1;
                }
                (Err(alone), Err(together)) => assert_eq!(alone.to_string(), together.to_string()),
                (alone, together) => panic!("{alone:?} {together:?}"),
            }
        }
        // The long one has no place.
        assert_eq!(told, 15);
    }
}

#[test]
fn a_hidden_range_is_hidden_from_all_layers() {
    let mut small = Small::new();
    let mut chat = small.chat();
    let text = "one is red. the sea is in. which?";
    let answers = ["red", "blue"];
    let (rows, _) = chat.score_hidden(&user(text), &answers, &[12..27, 0..12], 0).expect("scores");
    let near = |row: &[f64], want: &[f64]| row.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(near(&rows[0], &plainly(&mut chat, text, &answers, Changes::default())));
    let prompt = chat.prompt(&user(text)).expect("prompt");
    let tokens: Vec<String> =
        chat.encode(&prompt).expect("ids").into_iter().map(|id| chat.tokenizer.token(id)).collect();
    // The first word with the space before it, and not the " w" behind.
    let piece = [" the", " s", "e", "a", " ", "is", " ", "in", "."];
    let first = tokens.windows(piece.len()).position(|w| w == piece).expect("the piece") as u32;
    let last = first + piece.len() as u32 - 1;
    let block = |layer| {
        Arc::new(Intervention {
            site: Site::new(layer, Kind::Pattern),
            head: None,
            position: Position::All,
            action: Action::BlockEdge(first..last + 1),
            when: None,
        })
    };
    let interventions = (0..chat.m.spec.n_layers).map(block).collect();
    let want = plainly(&mut chat, text, &answers, Changes { interventions, decode: Vec::new() });
    assert!(near(&rows[1], &want), "{rows:?} {want:?}");
    assert!(!near(&rows[1], &rows[0]) && !near(&rows[2], &rows[1]), "{rows:?}");
    // With what is before the question read once, less is read, and the whole text gives the same.
    let (late, less) = chat.score_hidden(&user(text), &answers, &[12..27, 0..12], 27).expect("scores");
    let (_, more) = chat.score_hidden(&user(text), &answers, &[12..27, 0..12], 0).expect("scores");
    assert!(less.prompt < more.prompt);
    assert_eq!(late[0], rows[0]);
    // Without answers the model's own first token is looked at: none is likelier.
    let (own, _) = chat.score_hidden(&user(text), &[], &[0..12, 12..27], 27).expect("scores");
    assert!(own[0].len() == 1 && own[0][0] >= rows[0][0].max(rows[0][1]));
}

#[test]
fn a_piece_has_its_first_word_and_not_that_of_the_next() {
    // Tokens one behind another, and the pieces in bytes of their text.
    let hidden = |tokens: &[&str], bytes: Range<usize>| {
        let mut ranges = Vec::from([Range::default()]);
        for token in tokens {
            let end = ranges.last().map_or(0, |r| r.end);
            ranges.push(end..end + token.len());
        }
        let found = tokens_of(&tokens.concat(), &ranges, bytes);
        let found = found.map_or(0..0, |r| r.start as usize - 1..r.end as usize - 1);
        tokens[found].iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()
    };
    let spaces = ["Rain", " fell", ".", " Sydney", ",", " I", " guess", ".", " What", "?"];
    assert_eq!(hidden(&spaces, 0..11), ["Rain", " fell", "."]);
    assert_eq!(hidden(&spaces, 11..28), [" Sydney", ",", " I", " guess", "."]);
    // White space on its own, or at the end of a token, stays with what it follows.
    let lines = ["Rain", ".", "\n", "Sydney", ".\n\n", " ", "What", "?\n\n", "Assistant", ":"];
    assert_eq!(hidden(&lines, 0..6), ["Rain", ".", "\n"]);
    assert_eq!(hidden(&lines, 6..16), ["Sydney", ".\n\n", " "]);
    assert_eq!(hidden(&lines, 16..21), ["What", "?\n\n"]);
    assert!(hidden(&lines, 40..44).is_empty());
}

#[test]
fn answers_keep_to_a_schema() {
    let mut small = Small::new();
    let schema = json!({
        "type": "object",
        "properties": {"drop": {"type": "array", "items": {"type": "integer", "enum": [1, 2]}, "maxItems": 2}},
        "required": ["drop"],
        "additionalProperties": false,
    });
    for with_template in [true, false] {
        let mut chat = if with_template { small.chat() } else { small.plain() };
        let messages = user("Which?");
        let ask = Ask { schema: Some(&schema), ..Ask::new(&messages, 200) };
        let reply = chat.complete(&ask).expect("a reply");
        assert_eq!(reply.finish, Finish::Stop);
        let value: Value = serde_json::from_str(&reply.text).expect("JSON");
        assert!(value["drop"].is_array());
        assert!(reply.usage.prompt > 0);
    }
}

#[test]
fn what_does_not_fit_and_what_is_late() {
    let mut small = Small::new();
    let mut chat = small.chat();
    let long = user(&"word ".repeat(2000));
    let room = chat.m.spec.n_ctx;
    for error in [
        chat.complete(&Ask::new(&long, 1)).expect_err("too long"),
        chat.score(&long, &["Yes"]).expect_err("too long"),
        chat.score_hidden(&long, &["Yes"], &[0..5, 5..10], 10).expect_err("too long"),
    ] {
        assert!(matches!(error, ChatError::TooLong { tokens, room: r } if tokens > 2000 && r == room));
    }
    let short = user("word");
    let now = Instant::now();
    chat.limit(Some(now.checked_sub(Duration::from_millis(1)).unwrap_or(now)));
    assert!(matches!(chat.complete(&Ask::new(&short, 1)), Err(ChatError::TimedOut { .. })));
    assert!(matches!(chat.score(&short, &["Yes"]), Err(ChatError::TimedOut { .. })));
    chat.limit(None);
    assert!(chat.complete(&Ask::new(&short, 1)).is_ok());
}

#[test]
fn without_a_template_there_is_a_script() {
    let mut small = Small::new();
    assert!(small.chat().has_template());
    let chat = small.plain();
    assert!(!chat.has_template());
    let messages = [Message { role: Role::System, content: "Be brief.".to_owned() }, Message::user("Why?")];
    assert_eq!(chat.prompt(&messages).expect("prompt"), "Be brief.\n\nUser: Why?\n\nAssistant:");
}
