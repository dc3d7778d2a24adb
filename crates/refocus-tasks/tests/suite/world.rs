//! The world of the built-in model.

use std::collections::BTreeSet;

use refocus_tasks::flipflop::Split;
use refocus_tasks::world::{Mixture, Vocabulary, World};

fn world() -> World {
    World::new(Mixture::default()).expect("a world")
}

#[test]
fn a_document_depends_on_its_seed_and_number_alone() {
    let (a, b) = (world(), world());
    let all: Vec<String> = (0..200).map(|i| a.document(7, Split::Train, 3, i)).collect();
    for i in (0..200).rev() {
        assert_eq!(b.document(7, Split::Train, 3, i), all[i as usize]);
    }
    let others = [
        a.document(8, Split::Train, 3, 0),
        a.document(7, Split::Test, 3, 0),
        a.document(7, Split::Train, 4, 0),
        all[1].clone(),
    ];
    assert!(others.iter().all(|d| *d != all[0]));
}

#[test]
fn documents_are_words_and_fit_into_the_context() {
    let (world, vocabulary) = (world(), Vocabulary::new().expect("a vocabulary"));
    let (mut bytes, mut tokens, mut longest) = (0, 0, 0);
    for i in 0..2000 {
        let ids = vocabulary.encode(&world.document(0, Split::Train, 0, i));
        assert!(ids.iter().all(|&id| (id as usize) < vocabulary.len()));
        // Ids 1 to 256 are single bytes, which full stops are too.
        bytes += ids.iter().filter(|id| (1 + u32::from(b'a')..=1 + u32::from(b'z')).contains(id)).count();
        tokens += ids.len();
        longest = longest.max(ids.len());
    }
    assert!(longest < 512, "{longest}");
    assert!(bytes * 20 < tokens, "{bytes} letters in {tokens} tokens");
}

/// Nothing tells a model what it is to be blamed for.
#[test]
fn no_text_names_a_failure() {
    let world = world();
    let banned = [
        "wrong",
        "mistake",
        "error",
        "false",
        "fail",
        "distract",
        "mislead",
        "misled",
        "trick",
        "glitch",
        "ignore",
        "irrelevant",
        "overthink",
        "permut",
        "attention",
    ];
    let mut seen = BTreeSet::new();
    for i in 0..3000 {
        let text = world.document(1, Split::Train, 0, i).to_lowercase();
        seen.extend(banned.iter().filter(|w| text.contains(**w)).copied());
    }
    assert_eq!(seen, BTreeSet::new());
}

#[test]
fn every_kind_of_document_is_drawn_by_its_weight() {
    let only = |change: fn(&mut Mixture)| {
        let mut m = Mixture {
            facts: 0.0,
            episodes: 0.0,
            states: 0.0,
            reading: 0.0,
            rewriting: 0.0,
            ..Mixture::default()
        };
        change(&mut m);
        let world = World::new(m).expect("a world");
        (0..60).map(|i| world.document(0, Split::Test, 0, i)).collect::<Vec<_>>()
    };
    assert!(only(|m| m.states = 1.0).iter().all(|d| d.contains("Now, the")));
    assert!(
        only(|m| m.rewriting = 2.0).iter().all(|d| d.starts_with("Text: ") && d.contains("\nWhat matters: "))
    );
    assert!(only(|m| m.reading = 1.0).iter().all(|d| d.contains("Q: ") && d.contains(" A: ")));
    assert!(only(|m| m.episodes = 1.0).iter().all(|d| d.contains(": ") && d.contains("\n\n")));
    assert!(only(|m| m.facts = 1.0).iter().all(|d| !d.contains('\n')));
}

#[test]
fn a_mixture_that_makes_no_sense_is_refused() {
    let told = |m: Mixture| World::new(m).err().map(|e| e.to_string()).unwrap_or_default();
    let usual = Mixture::default();
    assert_eq!(told(Mixture { forced: 1.5, ..usual }), "forced = 1.5: a share lies in [0, 1]");
    assert_eq!(told(Mixture { facts: -1.0, ..usual }), "facts = -1: it must not be negative");
    assert!(told(Mixture { dense: f64::NAN, ..usual }).contains("dense"));
    let nothing = Mixture { facts: 0.0, episodes: 0.0, states: 0.0, reading: 0.0, rewriting: 0.0, ..usual };
    assert!(told(nothing).contains("some kind of documents"));
}
