//! Errors at reads.

use refocus_measure::{Bin, Count, ReadErrors};
use refocus_tasks::flipflop::{FlipFlop, Split, reads};

/// A model that copies the datum just before a read, scored on `FFL(0.6)`: never wrong next to a write
/// or read, wrong half of the time elsewhere.
fn copier(strings: std::ops::Range<usize>) -> ReadErrors {
    let language = FlipFlop::ignoring(128, 0.6).expect("a language");
    let mut errors = ReadErrors::new();
    for s in language.strings(1, Split::Test, 0).skip(strings.start).take(strings.len()) {
        for r in reads(&s) {
            errors.add(&r, s[r.at - 1] != r.answer);
        }
    }
    errors
}

#[test]
fn errors_are_sorted_by_what_precedes_the_read() {
    let errors = copier(0..500);
    let total = errors.all;
    for bins in [&errors.since_write, &errors.since_either, &errors.stale_other] {
        let mut sum = Count::default();
        for bin in bins.iter() {
            sum += bin.count;
        }
        assert_eq!(sum, total);
    }
    let by: Vec<Bin> = errors.since_either.iter().collect();
    assert_eq!((by[0].from, by[0].to, by[0].count.errors), (1, Some(1), 0));
    assert!(by[0].count.asked > 1000);
    for bin in by[1..].iter().filter(|b| b.count.asked > 0) {
        let i = bin.count.interval().expect("an interval");
        // Some of a dozen intervals of 95 % may miss.
        assert!(i.low - 0.05 < 0.5 && 0.5 < i.high + 0.05, "{bin:?}: {i:?}");
    }
    let last = by.last().expect("a bin");
    assert_eq!((last.from, last.to, last.count), (4096, None, Count::default()));
    assert!(last.count.rate().is_none() && last.count.interval().is_none());
}

#[test]
fn parts_merge_to_the_whole() {
    let mut parts = copier(300..500);
    parts.merge(&copier(0..120));
    parts.merge(&ReadErrors::default());
    parts.merge(&copier(120..300));
    assert_eq!(parts, copier(0..500));
}

#[test]
fn no_error_is_said_with_its_bound() {
    let i = Count { errors: 0, asked: 353_875 }.interval().expect("an interval");
    assert_eq!((i.low, i.high), (0.0, 3.0 / 353_875.0));
    let i = Count { errors: 21_198, asked: 353_945 }.interval().expect("an interval");
    assert!(i.low < 0.0599 && 0.0599 < i.high);
}
