//! The language in words.

use refocus_tasks::flipflop::{
    Alphabet, DEMONSTRATION, FlipFlop, Split, Verbalised, WORDINGS, Wording, reads,
};

#[test]
fn a_string_in_words() {
    let ids = Alphabet::BINARY.from_text("w1i0r1w0i1r0").expect("symbols");
    let light = Wording::named("light").expect("a wording");
    let v = light.verbalise(&ids).expect("valid");
    assert_eq!(
        v.text,
        "Alice turns the light on. Then, Bob eats a banana. Now, the light is on. Then, Alice turns the \
         light off. Then, Bob eats an apple. Now, the light is off."
    );
    assert!(v.text[..v.reads[0].end].ends_with("Bob eats a banana. Now, the light is"));
    assert_eq!((v.reads[1].answer, v.reads[1].wrong), (" off", " on"));
    let (a, b) = v.reads[1].written;
    assert_eq!(&v.text[a..b], "Alice turns the light off");
    assert!(light.verbalise(&ids[2..]).is_err());
}

#[test]
fn answers_continue_every_prompt() {
    let language = FlipFlop::ignoring(40, 0.6).expect("a language");
    let shown = FlipFlop::ignoring(DEMONSTRATION, 0.6).expect("a language");
    for (i, wording) in WORDINGS.into_iter().enumerate() {
        assert_eq!(Wording::named(wording.name), Some(wording));
        let ids = language.strings(1, Split::Test, 0).nth(i).expect("a string");
        let before = shown.strings(1, Split::Demonstration, 0).nth(i).expect("a string");
        let alone = wording.verbalise(&ids).expect("valid");
        let after = wording.demonstrate(&before, &ids).expect("valid");
        assert!(after.text.ends_with(&format!("\n{}", alone.text)));
        for v in [alone, after] {
            let Verbalised { text, reads: asked } = v;
            assert_eq!(asked.len(), reads(&ids).count());
            for q in &asked {
                assert!(text[q.end..].starts_with(q.answer) && q.answer != q.wrong);
                assert!(text[..q.end].ends_with(|c: char| c.is_ascii_lowercase()));
                assert!(q.written.1 < q.end);
            }
            assert!(text.ends_with(&format!("{}.", asked.last().expect("a read").answer)));
        }
    }
    assert_eq!(Wording::named("none"), None);
}
