//! Wider families, registers and data: every string valid, and what each family is named after.

use std::collections::HashMap;

use proptest::prelude::*;
use refocus_tasks::flipflop::{
    Alphabet, Facts, Family, FlipFlop, LanguageError, Probabilities, Set, Split, id,
};

fn p(ignore: f64) -> Probabilities {
    Probabilities::ignoring(ignore).expect("probabilities")
}

fn binary(tokens: usize, ignore: f64, family: Family) -> FlipFlop {
    FlipFlop::of(Alphabet::BINARY, tokens, p(ignore), family).expect("a language")
}

fn draw(language: &FlipFlop, n: usize) -> Vec<Vec<u32>> {
    language.strings(1, Split::Test, 0).take(n).collect()
}

/// The definition, read once more: instructions in groups, and a table of what registers hold.
fn belongs(a: &Alphabet, ids: &[u32]) -> bool {
    let (group, data) = (a.group(), 3..3 + a.symbols() as u32);
    let names = data.end..data.end + a.registers() as u32;
    let groups: Vec<&[u32]> = ids.chunks(group).collect();
    let mut held: HashMap<u32, &[u32]> = HashMap::new();
    groups.len() >= 2
        && groups.iter().enumerate().all(|(k, g)| {
            let (head, datum) = g.split_at(g.len().min(if a.registers() > 1 { 2 } else { 1 }));
            if g.len() != group || head[0] > 2 || datum.iter().any(|d| !data.contains(d)) {
                return false;
            }
            let name = head.get(1).copied().unwrap_or(names.start);
            if !names.contains(&name) || (k == 0 && head[0] != 0) || (k + 1 == groups.len() && head[0] != 1) {
                return false;
            }
            match head[0] {
                0 => held.insert(name, datum).is_none_or(|_| true),
                1 => held.get(&name) == Some(&datum),
                _ => true,
            }
        })
}

fn alphabets() -> impl Strategy<Value = Alphabet> {
    let data = prop_oneof![
        Just((2, 1)),
        Just((4, 1)),
        Just((2, 2)),
        Just((3, 2)),
        Just((16, 1)),
        Just((64, 1)),
        Just((256, 1))
    ];
    (1..6usize, data).prop_map(|(k, (m, w))| Alphabet::new(k, m, w).expect("an alphabet"))
}

fn families() -> impl Strategy<Value = Family> {
    let rate = || prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64];
    prop_oneof![
        Just(Family::Plain),
        Just(Family::mixture(&[0.9, 0.98, 0.1]).expect("a mixture")),
        (rate(), rate()).prop_map(|(from, x)| Family::Piecewise { from, tail: p(x) }),
        (1..6usize, 0..6usize).prop_map(|(burst, gap)| Family::Decoy { burst, gap }),
        (1..8usize).prop_map(|length| Family::ReadRun { length }),
        (0..10usize).prop_map(|writes| Family::Churn { writes }),
        rate().prop_map(|rate| Family::WriteFlip { rate }),
        rate().prop_map(|rate| Family::AntiCorrelated { rate }),
        rate().prop_map(|rate| Family::Markov { rate }),
    ]
}

proptest! {
    #[test]
    fn strings_of_every_family_are_valid_and_mutants_are_judged_as_the_definition_does(
        alphabet in alphabets(),
        family in families(),
        ignore in prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64],
        more in 0..150usize,
        seed: u64,
        sequence: u32,
        place: prop::sample::Index,
        symbol in 0..12u32,
    ) {
        let tokens = (alphabet.registers() + 20 + more) * alphabet.group();
        let language = FlipFlop::of(alphabet, tokens, p(ignore), family).expect("a language");
        let mut s = Vec::new();
        language.append(seed, Split::Train, 0, sequence, &mut s);
        prop_assert_eq!(alphabet.validate(&s), Ok(()));
        prop_assert!(belongs(&alphabet, &s));
        if alphabet.symbols() <= 64 {
            let text = alphabet.to_text(&s).expect("text");
            let mut direct = Vec::new();
            language.append_text(seed, Split::Train, 0, sequence, &mut direct).expect("text");
            prop_assert_eq!(text.as_bytes(), &direct[..]);
            prop_assert_eq!(alphabet.from_text(&text).expect("ids"), s.clone());
        }
        // Facts of a read agree with the string.
        let facts = Facts::of(&alphabet, &s).expect("valid");
        for r in &facts.reads {
            prop_assert_eq!(&s[r.at + 1..=r.at + alphabet.width()], &s[r.write_at..r.write_at + alphabet.width()]);
            let older: Vec<_> = facts.older(r).collect();
            prop_assert_eq!(older.iter().filter(|o| o.same).count(), r.stale_same);
            prop_assert_eq!(older.iter().filter(|o| !o.same).count(), r.stale_other);
            prop_assert!(older.iter().all(|o| o.at < r.write_at && r.write_at < r.at));
        }
        // One symbol replaced, one removed, one doubled.
        let at = place.index(s.len());
        let mut replaced = s.clone();
        replaced[at] = symbol;
        prop_assert_eq!(alphabet.validate(&replaced).is_ok(), belongs(&alphabet, &replaced));
        let mut shorter = s.clone();
        shorter.remove(at);
        prop_assert!(alphabet.validate(&shorter).is_err());
        // A read that gives anything else.
        let r = facts.reads[place.index(facts.reads.len())];
        let mut wrong = s.clone();
        wrong[r.at + 1] = id::ZERO + (s[r.at + 1] - id::ZERO + 1) % alphabet.symbols() as u32;
        prop_assert!(alphabet.validate(&wrong).is_err());
    }
}

#[test]
fn any_order_of_drawing_gives_the_same_bytes() {
    let k = Alphabet::new(3, 4, 2).expect("an alphabet");
    let languages = [
        FlipFlop::of(k, 400, p(0.6), Family::Churn { writes: 9 }).expect("a language"),
        Set::Rare.language().expect("a language"),
        Set::Decoy.language().expect("a language"),
    ];
    for language in languages {
        let want = draw(&language, 40);
        for chunk in [1, 3, 40] {
            let mut got: Vec<u32> = Vec::new();
            for start in (0..40).step_by(chunk) {
                for i in start..(start + chunk).min(40) {
                    language.append(1, Split::Test, 0, i as u32, &mut got);
                }
            }
            assert!(got == want.concat());
        }
        for threads in [1, 2, 3, 7usize] {
            let mut parts = vec![Vec::new(); threads];
            std::thread::scope(|scope| {
                for (t, part) in parts.iter_mut().enumerate() {
                    let language = &language;
                    scope.spawn(move || {
                        for i in (t..40).step_by(threads) {
                            language.append(1, Split::Test, 0, i as u32, part);
                        }
                    });
                }
            });
            let tokens = language.tokens();
            for (i, s) in want.iter().enumerate() {
                assert_eq!(parts[i % threads][i / threads * tokens..][..tokens], s[..], "{threads} threads");
            }
        }
    }
}

/// Shares of instructions `[w, r, i]` in a part of all strings.
fn shares(strings: &[Vec<u32>], from: usize, to: usize) -> [f64; 3] {
    let mut n = [0; 3];
    for s in strings {
        for g in s.chunks(2).take(to).skip(from) {
            n[g[0] as usize] += 1;
        }
    }
    n.map(|x| f64::from(x) / (strings.len() * (to - from)) as f64)
}

fn close(what: &str, got: f64, want: f64, n: f64) {
    let sd = (want * (1.0 - want) / n).sqrt();
    assert!((got - want).abs() <= 4.0 * sd + 1e-12, "{what}: {got} instead of {want} ± {sd}");
}

#[test]
fn piecewise_strings_turn_at_their_share() {
    let strings = draw(&Set::Piecewise.language().expect("a language"), 500);
    let (head, tail) = (shares(&strings, 1, 192), shares(&strings, 192, 255));
    for (i, (h, t)) in [(0.6, 0.008), (0.2, 0.008), (0.2, 0.984)].into_iter().enumerate() {
        close("head", head[i], h, 500.0 * 191.0);
        close("tail", tail[i], t, 500.0 * 63.0);
    }
}

#[test]
fn a_mixture_is_of_its_parts() {
    for (set, parts) in [(Set::Rare, [0.9, 0.98, 0.1]), (Set::RareB3, [0.8, 0.98, 0.1])] {
        let language = set.language().expect("a language");
        let strings = draw(&language, 3000);
        let mut n = [0.0f64; 3];
        for s in &strings {
            let ignored = shares(std::slice::from_ref(s), 1, 255)[2];
            let nearest = |p: &f64| (p - ignored).abs();
            let part = (0..3).min_by(|&a, &b| nearest(&parts[a]).total_cmp(&nearest(&parts[b])));
            n[part.expect("a part")] += 1.0 / 3000.0;
        }
        for x in n {
            // A few strings of 0.9 look like 0.98 and are counted there.
            assert!((x - 1.0 / 3.0).abs() < 0.04, "{n:?}");
        }
    }
}

#[test]
fn decoys_stand_just_before_the_last_read() {
    for (burst, gap) in [(1, 0), (8, 8), (5, 1)] {
        for s in draw(&binary(128, 0.8, Family::Decoy { burst, gap }), 100) {
            let facts = Facts::of(&Alphabet::BINARY, &s).expect("valid");
            let last = facts.reads.last().expect("a read");
            assert_eq!(last.since_write, gap + 1);
            let decoys: Vec<_> = facts.older(last).collect();
            let decoys = &decoys[decoys.len() - burst..];
            assert!(decoys.iter().all(|o| !o.same));
            let first = decoys[0].at;
            assert_eq!(last.write_at - first, 2 * burst);
        }
    }
}

#[test]
fn reads_come_in_runs() {
    for s in draw(&binary(256, 0.8, Family::ReadRun { length: 4 }), 50) {
        let kinds: Vec<u32> = s.chunks(2).map(|g| g[0]).collect();
        // Up to the run that the end of the string may cut.
        let inner = &kinds[..kinds.len() - 5];
        let runs = inner.chunk_by(|a, b| a == b).filter(|r| r[0] == id::READ);
        let mut runs: Vec<usize> = runs.map(<[u32]>::len).collect();
        if inner.last() == Some(&id::READ) {
            runs.pop();
        }
        assert!(runs.iter().all(|n| n % 4 == 0), "{runs:?}");
    }
}

#[test]
fn churn_is_exact_and_even() {
    let (n, writes) = (2000, 10);
    let strings = draw(&binary(256, 0.5, Family::Churn { writes }), n);
    let mut places = [0.0; 126];
    for s in &strings {
        let facts = Facts::of(&Alphabet::BINARY, s).expect("valid");
        assert_eq!(facts.writes.len(), writes + 1);
        assert!(facts.writes.windows(2).all(|w| w[0].value != w[1].value));
        for w in &facts.writes[1..] {
            places[w.at / 2 - 1] += 1.0 / n as f64;
        }
    }
    for (i, x) in places.into_iter().enumerate() {
        close(&format!("place {i}"), x, writes as f64 / 126.0, n as f64);
    }
    let reads = shares(&strings, 1, 127)[1];
    // Of what is not written, a quarter is read against a half ignored.
    close("reads", reads, (116.0 / 126.0) / 3.0, n as f64 * 126.0);
}

#[test]
fn data_change_at_the_rate_asked_for() {
    let n = 400;
    let rates = |family: Family| {
        let (mut writes, mut ignores, mut steps) = ([0.0; 2], [0.0; 2], [0.0; 2]);
        for s in draw(&binary(512, 0.5, family), n) {
            let (mut state, mut before) = (s[1], s[1]);
            for g in s.chunks(2).skip(1) {
                let differs = |x: u32| f64::from(u8::from(g[1] != x));
                let tally = if g[0] == id::WRITE { &mut writes } else { &mut ignores };
                if g[0] != id::READ {
                    *tally = [tally[0] + differs(state), tally[1] + 1.0];
                    steps = [steps[0] + differs(before), steps[1] + 1.0];
                }
                if g[0] == id::WRITE {
                    state = g[1];
                }
                before = g[1];
            }
        }
        [writes, ignores, steps]
    };
    let check = |family: Family, which: usize, rate: f64| {
        let all = rates(family);
        for (i, [hits, of]) in all.into_iter().enumerate() {
            if i == which {
                close("rate", hits / of, rate, of);
            }
        }
        all
    };
    let [writes, ignores, _] = check(Family::WriteFlip { rate: 0.9 }, 0, 0.9);
    assert!(writes[1] > 20_000.0);
    close("ignores stay fair", ignores[0] / ignores[1], 0.5, ignores[1]);
    let [writes, ..] = check(Family::AntiCorrelated { rate: 0.8 }, 1, 0.8);
    close("writes stay fair", writes[0] / writes[1], 0.5, writes[1]);
    check(Family::Markov { rate: 0.1 }, 2, 0.1);
    check(Family::Plain, 2, 0.5);
}

#[test]
fn registers_and_larger_data_are_used_evenly() {
    for (k, m, w) in [(4, 2, 1), (1, 16, 1), (3, 2, 2), (1, 256, 1), (2, 5, 1)] {
        let alphabet = Alphabet::new(k, m, w).expect("an alphabet");
        let tokens = alphabet.group() * 200;
        let language = FlipFlop::of(alphabet, tokens, p(0.5), Family::Plain).expect("a language");
        let (mut registers, mut values) = (vec![0.0; k], vec![0.0; alphabet.values()]);
        let mut n = 0.0;
        for s in draw(&language, 300) {
            let facts = Facts::of(&alphabet, &s).expect("valid");
            // The first writes go to each register once.
            assert!(facts.writes[..k].iter().enumerate().all(|(i, w)| w.register == i as u32));
            for w in &facts.writes[k..] {
                registers[w.register as usize] += 1.0;
                values[w.value as usize] += 1.0;
                n += 1.0;
            }
        }
        for counts in [registers, values] {
            let (mean, free) = (n / counts.len() as f64, counts.len() as f64 - 1.0);
            let chi: f64 = counts.iter().map(|x: &f64| (x - mean).powi(2) / mean).sum();
            assert!(chi <= free + 4.0 * (2.0 * free).sqrt() + 4.0, "{alphabet:?}: χ² of {chi} for {free}");
        }
    }
    let k = Alphabet::new(2, 2, 2).expect("an alphabet");
    let s = FlipFlop::of(k, 40, p(0.5), Family::Plain).expect("a language").strings(0, Split::Test, 0).next();
    assert_eq!(k.to_text(&s.expect("a string")).expect("text"), "wa11wb11ra11ra11wa01ra01rb11ib11ib00ra01");
}

#[test]
fn parameters_that_do_not_fit_are_refused_by_their_values() {
    let said = |tokens, family| {
        FlipFlop::of(Alphabet::BINARY, tokens, p(0.8), family).expect_err("an error").to_string()
    };
    assert_eq!(
        said(16, Family::Decoy { burst: 6, gap: 0 }),
        "flip-flop: the number of decoys is 6, not from 1 to 5"
    );
    assert_eq!(
        said(16, Family::Decoy { burst: 3, gap: 3 }),
        "flip-flop: the number of ignores after the decoys is 3, not from 0 to 2"
    );
    assert_eq!(
        said(16, Family::Churn { writes: 7 }),
        "flip-flop: the number of changes is 7, not from 0 to 6"
    );
    assert_eq!(
        said(16, Family::ReadRun { length: 0 }),
        "flip-flop: the length of a run of reads is 0, not from 1 to 6"
    );
    let tail = p(0.98);
    assert_eq!(
        said(16, Family::Piecewise { from: 1.5, tail }),
        "flip-flop: the share before the tail is 1.5, not from 0 to 1"
    );
    assert_eq!(
        said(16, Family::Markov { rate: -1.0 }),
        "flip-flop: the probability to differ from the datum before is -1, not a number from 0 to 1"
    );
    assert_eq!(
        said(16, Family::Mixture { parts: vec![] }),
        "flip-flop: a mixture needs from 1 to 64 parts: not 0"
    );
    let alphabet = |k, m, w| Alphabet::new(k, m, w).expect_err("an error").to_string();
    assert_eq!(alphabet(0, 2, 1), "flip-flop: from 1 to 64 registers are possible: not 0");
    assert_eq!(alphabet(65, 2, 1), "flip-flop: from 1 to 64 registers are possible: not 65");
    for (m, w) in [(1, 1), (257, 1), (2, 9), (2, 0), (0, 3), (2, usize::MAX)] {
        assert_eq!(
            alphabet(1, m, w),
            format!("flip-flop: data need from 2 to 256 values: not {m} symbols in {w} places")
        );
    }
    let e = FlipFlop::of(Alphabet::new(3, 2, 1).expect("an alphabet"), 10, p(0.5), Family::Plain);
    assert_eq!(e, Err(LanguageError::Length { tokens: 10, group: 3, least: 12 }));
    let m = Alphabet::new(1, 256, 1).expect("an alphabet");
    let e = m.to_text(&[0, 3, 1, 3]).expect_err("no characters");
    assert_eq!(e.to_string(), "data of 256 symbols have no written form: there are 64 characters; use ids");
}
