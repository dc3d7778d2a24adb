//! The facts of strings that one can check by hand.

use refocus_tasks::flipflop::{Alphabet, Automaton, Facts, Older, Read, Set, Split, drift_inputs, id, reads};

fn facts(alphabet: &Alphabet, text: &str) -> Facts {
    Facts::of(alphabet, &alphabet.from_text(text).expect("symbols")).expect("valid")
}

#[test]
fn a_string_by_hand() {
    //                                       0 2 4 6 8 10  14  18
    let facts = facts(&Alphabet::BINARY, "w1w0r0w1w0i1w1i0r1r1");
    let [first, second, third] = &facts.reads[..] else { panic!("three reads") };
    let want = Read {
        at: 4,
        answer: id::ZERO,
        register: 0,
        value: 0,
        since_write: 1,
        since_either: 1,
        write: 1,
        write_at: 3,
        read_at: None,
        stale_same: 0,
        stale_other: 1,
    };
    assert_eq!(*first, want);
    let want = Read {
        at: 16,
        answer: id::ONE,
        value: 1,
        since_write: 2,
        since_either: 2,
        write: 4,
        write_at: 13,
        read_at: Some(5),
        stale_same: 2,
        stale_other: 2,
        ..want
    };
    assert_eq!(*second, want);
    let older: Vec<Older> = facts.older(second).collect();
    let want_older = [(1, true), (3, false), (7, true), (9, false)].map(|(at, same)| Older { at, same });
    assert_eq!(older, want_older);
    assert_eq!(*third, Read { at: 18, since_write: 3, since_either: 1, read_at: Some(17), ..want });
}

#[test]
fn registers_are_apart() {
    let alphabet = Alphabet::new(2, 2, 2).expect("an alphabet");
    let facts = facts(&alphabet, "wa01wb10wa11ia00rb10ra11");
    let [b, a] = &facts.reads[..] else { panic!("two reads") };
    assert_eq!((b.at, b.register, b.value, b.write_at, b.since_write), (17, 1, 2, 6, 3));
    assert_eq!((b.stale_same, b.stale_other, b.read_at), (0, 0, None));
    assert_eq!((a.at, a.register, a.value, a.write_at, a.since_write), (21, 0, 3, 10, 3));
    assert_eq!((a.stale_same, a.stale_other, a.read_at), (0, 1, None));
    let older: Vec<Older> = facts.older(a).collect();
    assert_eq!(older, [Older { at: 2, same: false }]);
}

#[test]
fn facts_need_a_valid_string() {
    assert!(Facts::of(&Alphabet::BINARY, &[0, 3, 1, 4]).is_err());
    // The lean way skips what makes no sense.
    assert_eq!(reads(&[1, 3, 1, 9]).count(), 0);
    let s = Set::In.language().expect("a language").strings(0, Split::Test, 0).next().expect("a string");
    assert!(reads(&s).eq(Facts::of(&Alphabet::BINARY, &s).expect("valid").reads));
}

#[test]
fn the_automaton_keeps_its_state() {
    let task = Automaton::new(500, 0.5).expect("a task");
    let (mut noops, n) = (0, 200);
    for i in 0..n {
        let s = task.string(3, Split::Train, 1, i);
        assert_eq!((s.inputs.len(), s.states.len(), s.written.len()), (500, 500, 500));
        assert_ne!(s.inputs[0], Automaton::NOOP);
        for (t, &w) in s.written.iter().enumerate() {
            assert_eq!(s.states[t], s.inputs[w]);
            assert!(s.inputs[w + 1..=t].iter().all(|&x| x == Automaton::NOOP));
        }
        noops += s.inputs.iter().filter(|&&x| x == Automaton::NOOP).count();
    }
    let want = f64::from(n) * 499.0 / 2.0;
    assert!((noops as f64 - want).abs() <= 4.0 * (want / 2.0).sqrt(), "{noops} no-ops");
    let one = task.string(3, Split::Train, 1, 7);
    assert_eq!(one, task.string(3, Split::Train, 1, 7));
    assert_ne!(one, task.string(3, Split::Test, 1, 7));
    assert!(Automaton::new(0, 0.5).is_err() && Automaton::new(5, f64::NAN).is_err());

    let [short, long] = drift_inputs();
    assert_eq!((short.inputs.len(), long.inputs.len()), (801, 834));
    assert!(short.states.iter().all(|&s| s == 1));
    assert!(long.states.iter().zip(0..).all(|(&s, t)| s == u32::from(t >= 33)));
    assert_eq!((long.written[32], long.written[33], long.written[833]), (0, 33, 33));
}
