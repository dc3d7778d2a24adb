//! The flip-flop language: every string valid, the same bytes whoever draws them, and the distribution
//! that the definition implies.

use refocus_tasks::flipflop::{
    Alphabet, Facts, Family, FlipFlop, Invalid, LanguageError, MAX_TOKENS, Probabilities, Read, Set, Split,
    id, reads,
};

const BINARY: Alphabet = Alphabet::BINARY;

fn text(ids: &[u32]) -> String {
    BINARY.to_text(ids).expect("text")
}

/// Deviations beyond this many standard errors are failures.
const SIGMAS: f64 = 3.0;

fn draw(set: Set, n: usize) -> Vec<Vec<u32>> {
    set.language().expect("a language").strings(1, Split::Test, 0).take(n).collect()
}

/// `Σ a / Σ b` over strings against its expectation. Reads of one string are not independent, so the
/// error is estimated from whole strings.
fn assert_ratio(what: &str, terms: &[(f64, f64)], want: f64) {
    let (a, b) = terms.iter().fold((0.0, 0.0), |s, t| (s.0 + t.0, s.1 + t.1));
    let error = terms.iter().map(|t| (t.0 - want * t.1).powi(2)).sum::<f64>().sqrt() / b;
    assert!((a / b - want).abs() <= SIGMAS * error, "{what}: {} instead of {want}, error {error:e}", a / b);
}

#[test]
fn every_string_is_valid_and_survives_as_text() {
    for ignore in [0.0, 0.1, 0.6, 0.8, 0.98, 1.0] {
        for tokens in [4, 6, 64, 512] {
            let language = FlipFlop::ignoring(tokens, ignore).expect("a language");
            for s in language.strings(3, Split::Train, 5).take(50) {
                assert_eq!(s.len(), tokens);
                BINARY.validate(&s).unwrap_or_else(|e| panic!("FFL({ignore}): {e}"));
                assert_eq!(s[0], id::WRITE);
                assert_eq!(s[tokens - 2], id::READ);
                assert_eq!(BINARY.from_text(&text(&s)).expect("ids"), s);
            }
        }
    }
    let only_reads = FlipFlop::new(32, 0.0, 1.0, 0.0).expect("a language");
    let s = only_reads.strings(0, Split::Train, 0).next().expect("a string");
    assert!(s[2..].chunks(2).all(|p| p[0] == id::READ && p[1] == s[1]));
}

/// All strings of 4 and 6 symbols against a plain reading of the definition.
#[test]
fn the_validator_knows_every_short_string() {
    for (len, members) in [(4usize, 2), (6, 10)] {
        let mut found = Vec::new();
        for number in 0..5u32.pow(len as u32) {
            let s: Vec<u32> = (0..len as u32).map(|i| number / 5u32.pow(i) % 5).collect();
            if BINARY.validate(&s).is_ok() {
                found.push(text(&s));
            }
        }
        assert_eq!(found.len(), members, "{found:?}");
    }
    let say = |text: &str| BINARY.from_text(text).and_then(|ids| BINARY.validate(&ids));
    let said = |text: &str| say(text).expect_err("not valid").to_string();
    assert_eq!(say("w0i1i0r0"), Ok(()));
    assert_eq!(say("w0i1w1r0"), Err(Invalid::Read { at: 7, written: 5 }));
    assert_eq!(say("w0i1r1r1"), Err(Invalid::Read { at: 5, written: 1 }));
    assert_eq!(say("i0r0"), Err(Invalid::First));
    assert_eq!(say("w0i0"), Err(Invalid::Last { at: 2 }));
    assert_eq!(said("w0r"), "a string has at least 4 symbols, 2 for each instruction: not 3");
    assert_eq!(said("w0i0r"), "a string has at least 4 symbols, 2 for each instruction: not 5");
    assert_eq!(said(""), "a string has at least 4 symbols, 2 for each instruction: not 0");
    assert_eq!(said("w0rr"), "position 3: 'r' where a datum (0 or 1) is needed");
    assert_eq!(said("w010r0"), "position 2: '1' where an instruction (w, r or i) is needed");
    assert_eq!(said("w0x"), "position 2: 'x' where an instruction (w, r or i) is needed");
    let ids = BINARY.validate(&[0, 3, 1, 5]).expect_err("not valid");
    assert_eq!(ids.to_string(), "position 3: id 5 where a datum (0 or 1) is needed");
    assert_eq!(ids.position(), Some(3));
}

#[test]
fn impossible_languages_are_refused_by_their_values() {
    let said = |e: Result<FlipFlop, LanguageError>| e.expect_err("an error").to_string();
    for tokens in [0, 2, 3, 5, 513, MAX_TOKENS + 2, usize::MAX] {
        assert_eq!(
            said(FlipFlop::ignoring(tokens, 0.8)),
            format!(
                "flip-flop: a string has from 4 to 1048576 symbols, 2 for each instruction: not {tokens}"
            )
        );
    }
    for p in [-0.1, 1.5, f64::INFINITY, f64::NAN] {
        assert_eq!(
            said(FlipFlop::ignoring(8, p)),
            format!("flip-flop: the probability to ignore is {p}, not a number from 0 to 1")
        );
    }
    assert_eq!(
        said(FlipFlop::new(8, 0.5, 0.5, 0.5)),
        "flip-flop: the probabilities to write (0.5), read (0.5) and ignore (0.5) sum to 1.5, not to 1"
    );
    assert!(matches!(
        FlipFlop::new(8, 1.5, -0.5, 0.0),
        Err(LanguageError::Probability { what: "write", value: 1.5 })
    ));
    assert!(FlipFlop::ignoring(MAX_TOKENS, 0.8).is_ok());
}

#[test]
fn a_seed_gives_the_same_bytes_at_any_number_of_threads() {
    let language = Set::HalfIn.language().expect("a language");
    let (seed, step, n) = (11, 7, 64u32);
    let want: Vec<Vec<u32>> = language.strings(seed, Split::Train, step).take(n as usize).collect();
    for threads in [1, 2, 3, 7] {
        let mut got = vec![Vec::new(); n as usize];
        std::thread::scope(|scope| {
            // Interleaved, each thread from its last string to its first.
            let work = |t: u32| {
                let mine = (0..n).rev().filter(move |i| i % threads == t);
                mine.map(|i| {
                    let mut s = Vec::new();
                    language.append(seed, Split::Train, step, i, &mut s);
                    (i as usize, s)
                })
                .collect::<Vec<_>>()
            };
            let handles: Vec<_> = (0..threads).map(|t| scope.spawn(move || work(t))).collect();
            for (i, s) in handles.into_iter().flat_map(|h| h.join().expect("a thread")) {
                got[i] = s;
            }
        });
        assert!(got == want, "{threads} threads");
    }
    let mut skipping = language.strings(seed, Split::Train, step);
    assert_eq!(skipping.nth(40).as_ref(), want.get(40));
    assert_eq!(skipping.next().as_ref(), want.get(41));
}

#[test]
fn seeds_steps_and_splits_differ() {
    let language = FlipFlop::ignoring(64, 0.8).expect("a language");
    let first = |seed, split, step| language.strings(seed, split, step).next().expect("a string");
    let all = [
        first(0, Split::Train, 0),
        first(1, Split::Train, 0),
        first(1 << 40, Split::Train, 0),
        first(0, Split::Train, 1),
        first(0, Split::Test, 0),
        language.strings(0, Split::Train, 0).nth(1).expect("a string"),
    ];
    for (i, a) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|b| a != b));
    }
    // What a seed draws is part of the format of results.
    assert_eq!(text(&all[0]), "w1i1i0i1i0i0i1i0r1i1i1i0i0i0i1i0i1i1i0i1i0i1i1i1i1i1i0i0i1r1r1r1");
}

/// `spec/flip-flop.md` 1.3: `(1 + 254 p_r)` reads a string are expected, 254 of them drawn. The full
/// sets, 104,000 strings of seed 1.
#[test]
fn reads_of_the_full_sets_are_as_many_as_expected_and_as_published() {
    let mut line = Vec::new();
    for (set, expected) in Set::PAPER.into_iter().zip([26_400.0, 354_000.0, 345_900.0]) {
        let language = set.language().expect("a language");
        let (n, p) = (set.sequences(), language.probabilities().read());
        let mean = f64::from(n) * (1.0 + 254.0 * p);
        assert!((mean - expected).abs() < 0.5, "{}: {mean} of the table", set.name());
        let sd = (f64::from(n) * 254.0 * p * (1.0 - p)).sqrt();
        let mut got = 0;
        for i in 0..n {
            line.clear();
            language.append_text(1, Split::Test, 0, i, &mut line).expect("text");
            got += line.iter().filter(|&&c| c == b'r').count();
        }
        assert!((got as f64 - mean).abs() <= SIGMAS * sd, "{}: {got} reads, {mean} ± {sd}", set.name());
        // The paper's own sets agree with the same expectation.
        let published = f64::from(set.published_reads().expect("a count"));
        assert!((published - mean).abs() <= SIGMAS * sd, "{}", set.name());
    }
}

/// A row of the table of section 1.5.
struct Row {
    set: Set,
    n: usize,
    /// Mean and standard deviation of writes a string.
    writes: (f64, f64),
    /// P(d > 10, 20, 50, 100, 145) since the last write.
    beyond: [f64; 5],
    /// P(d > 20) since the last write or read.
    either: f64,
    /// How often the bit just before a read is the right one.
    previous: f64,
}

/// The share of reads with more than `x` instructions since the last of some kind, which each of the 254
/// drawn instructions is with probability `1 − other`; reads are drawn with probability `read`.
fn beyond(x: usize, other: f64, read: f64) -> f64 {
    let per_read = |k: usize| if x < k { other.powi(x as i32) } else { 0.0 };
    let drawn: f64 = (1..=254).map(|k| read * per_read(k)).sum();
    (drawn + per_read(255)) / (1.0 + 254.0 * read)
}

/// Numbers as the table rounds them.
fn printed(what: &str, exact: f64, table: f64) {
    let unit = if table == 0.0 { 1e-5 } else { 0.06 * table };
    assert!((exact - table).abs() <= unit, "{what}: {exact} is not {table} of the table");
}

#[test]
fn distances_writes_and_shortcuts_follow_the_definition() {
    let tables = [
        Row {
            set: Set::In,
            n: 1000,
            writes: (26.4, 4.8),
            beyond: [0.335, 0.112, 0.0042, 1.7e-5, 0.0],
            either: 0.011,
            previous: 0.60,
        },
        Row {
            set: Set::Sparse,
            n: 1500,
            writes: (3.54, 1.6),
            beyond: [0.879, 0.772, 0.520, 0.263, 0.137],
            either: 0.63,
            previous: 0.51,
        },
        Row {
            set: Set::Dense,
            n: 300,
            writes: (115.0, 7.9),
            beyond: [0.0024, 6e-6, 0.0, 0.0, 0.0],
            either: 0.0,
            previous: 0.95,
        },
    ];
    for f in tables {
        let p = f.set.language().expect("a language").probabilities();
        let (ignore, p) = (p.ignore(), p.write());
        let (mean, sd) = (1.0 + 254.0 * p, (254.0 * p * (1.0 - p)).sqrt());
        printed("mean of writes", mean, f.writes.0);
        printed("deviation of writes", sd, f.writes.1);
        let strings = draw(f.set, f.n);
        let root = (f.n as f64).sqrt();
        let writes: Vec<f64> =
            strings.iter().map(|s| s.iter().filter(|&&x| x == id::WRITE).count() as f64).collect();
        let got = writes.iter().sum::<f64>() / f.n as f64;
        assert!((got - mean).abs() <= SIGMAS * sd / root, "FFL({ignore}): {got} writes a string");
        let got = (writes.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / f.n as f64).sqrt();
        assert!((got - sd).abs() <= SIGMAS * sd / (root * 2f64.sqrt()), "FFL({ignore}): deviation {got}");

        let share = |count: &dyn Fn(&[u32], &Read) -> bool| -> Vec<(f64, f64)> {
            let of = |s: &Vec<u32>| {
                let hits = reads(s).filter(|r| count(s, r)).count();
                (hits as f64, reads(s).count() as f64)
            };
            strings.iter().map(of).collect()
        };
        for (x, table) in [10, 20, 50, 100, 145].into_iter().zip(f.beyond) {
            let want = beyond(x, 1.0 - p, p);
            printed("distance", want, table);
            // A share that a sample of this size cannot show is left to the formula.
            if want * f.n as f64 * mean > 50.0 {
                assert_ratio(&format!("FFL({ignore}), d > {x}"), &share(&|_, r| r.since_write > x), want);
            }
        }
        let want = beyond(20, ignore, p);
        printed("distance to either", want, f.either);
        if want > 1e-4 {
            assert_ratio(&format!("FFL({ignore}), either"), &share(&|_, r| r.since_either > 20), want);
        }
        // Right for sure after a write or a read (also the first one), by chance after an ignore. A
        // read is at 1..=254 with probability p each, or at 255.
        let reads_each = 1.0 + 254.0 * p;
        let sure = (p + (253.0 * p + 1.0) * (1.0 - ignore)) / reads_each;
        let want = sure + (1.0 - sure) / 2.0;
        printed("copying the previous bit", want, f.previous);
        assert_ratio(&format!("FFL({ignore}), copied"), &share(&|s, r| s[r.at - 1] == r.answer), want);
    }
}

/// Section 7.2: at half the length a string still has 26 reads and as many writes.
#[test]
fn the_half_size_sets_keep_writes_and_reads_a_string() {
    let per_string = |set: Set| {
        let language = set.language().expect("a language");
        1.0 + (language.tokens() / 2 - 2) as f64 * language.probabilities().write()
    };
    assert!((per_string(Set::HalfIn) - per_string(Set::In)).abs() < 0.3);
    assert!((per_string(Set::HalfSparse) - per_string(Set::Sparse)).abs() < 0.1);
    assert!((per_string(Set::Long) - per_string(Set::In)).abs() < 1e-9);
}

#[test]
fn strings_of_4_to_16384_symbols_have_as_many_writes() {
    let language = FlipFlop::ignoring(512, 0.8).expect("a language");
    for tokens in [256, 512, 2048, 16_384] {
        let stretched = language.stretched(tokens).expect("a language");
        let n = 400;
        let counts = stretched.strings(5, Split::Test, 0).take(n).map(|s| {
            BINARY.validate(&s).expect("valid");
            Facts::of(&BINARY, &s).expect("valid").writes.len() as f64
        });
        let mean = counts.sum::<f64>() / n as f64;
        assert!((mean - 26.4).abs() <= SIGMAS * 5.2 / (n as f64).sqrt(), "{tokens}: {mean} writes");
    }
    let e = language.stretched(32).expect_err("too many writes for 32 symbols");
    assert!(matches!(e, LanguageError::Probability { .. } | LanguageError::Sum { .. }), "{e}");
}

/// What a family fixes is no matter of probabilities: only what is drawn becomes rarer.
#[test]
fn stretched_families_have_as_many_writes_and_reads_or_are_refused() {
    let p = || Probabilities::ignoring(0.2).expect("probabilities");
    let of = |alphabet, tokens, family| FlipFlop::of(alphabet, tokens, p(), family).expect("a language");
    let counts = |language: &FlipFlop| {
        let n = 2_000;
        let mut sums = [0.0; 2];
        for s in language.strings(5, Split::Test, 0).take(n) {
            let f = Facts::of(language.alphabet(), &s).expect("valid");
            sums = [sums[0] + f.writes.len() as f64, sums[1] + f.reads.len() as f64];
        }
        sums.map(|sum| sum / n as f64)
    };
    let tail = || Probabilities::ignoring(0.8).expect("probabilities");
    for family in [
        Family::Plain,
        Family::mixture(&[0.1, 0.6]).expect("a mixture"),
        Family::Piecewise { from: 0.3, tail: tail() },
        Family::Decoy { burst: 8, gap: 8 },
        Family::WriteFlip { rate: 0.9 },
        Family::AntiCorrelated { rate: 0.9 },
        Family::Markov { rate: 0.9 },
    ] {
        for (alphabet, tokens) in [(BINARY, 64), (Alphabet::new(2, 3, 1).expect("an alphabet"), 96)] {
            let short = of(alphabet, tokens, family.clone());
            let long = short.stretched(10 * tokens).expect("a language");
            assert_eq!(long.tokens(), 10 * tokens);
            let (now, then) = (counts(&short), counts(&long));
            // No count of a string has a standard deviation above 4.5.
            for (a, b) in now.iter().zip(then) {
                let bound = SIGMAS * 4.5 * (2.0 / 2_000f64).sqrt();
                assert!((a - b).abs() <= bound, "{family:?}: {now:?} and {then:?}");
            }
        }
    }
    for family in [Family::ReadRun { length: 4 }, Family::Churn { writes: 20 }] {
        let language = of(BINARY, 64, family);
        let e = language.stretched(640).expect_err("a refusal");
        assert!(matches!(e, LanguageError::Stretch { .. }), "{e}");
        assert_eq!(language.stretched(64), Ok(language));
    }
    let decoys = of(BINARY, 64, Family::Decoy { burst: 8, gap: 8 });
    assert!(matches!(decoys.stretched(32), Err(LanguageError::Parameter { .. })));
}
