//! What a rewrite removed, where it is known what should go and what should stay.

use std::collections::BTreeSet;

use refocus_measure::intervals::{wilson, wilson_of_share};
use refocus_tasks::planted::{Item, Part};
use serde::Serialize;

use super::answer::Rewriting;

/// So many of so many, with Wilson's 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// So many.
    pub hits: u64,
    /// Of so many.
    pub n: u64,
    /// Their share.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Share {
    /// Nothing where there is nothing to count.
    pub fn of(hits: u64, n: u64) -> Option<Self> {
        let i = wilson(hits, n)?;
        Some(Self { hits, n, value: hits as f64 / n as f64, low: i.low, high: i.high })
    }
}

/// Cases that are counted, with the groups they come from. Pieces of one prompt, and prompts about one fact or argument,
/// depend on each other: the interval is that of as many independent cases as there are groups.
#[derive(Default)]
struct Counted {
    hits: u64,
    n: u64,
    groups: BTreeSet<usize>,
}

impl Counted {
    fn add(&mut self, group: usize, hits: u64, n: u64) {
        self.hits += hits;
        self.n += n;
        if n > 0 {
            self.groups.insert(group);
        }
    }

    fn share(&self) -> Option<Share> {
        let value = self.hits as f64 / self.n as f64;
        let i = wilson_of_share(value, self.groups.len() as u64)?;
        Some(Share { hits: self.hits, n: self.n, value, low: i.low, high: i.high })
    }
}

/// Pieces that are gone. A rewrite that was not used removes nothing. Intervals are those of as many cases as there are
/// groups of items; of precision, those of which something is gone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Removal {
    /// Planted pieces that are gone, of all planted: recall.
    pub recall: Option<Share>,
    /// Planted pieces among all that are gone: precision.
    pub precision: Option<Share>,
    /// Needed pieces that are gone, of all needed: information loss.
    pub lost: Option<Share>,
}

/// Whether a piece of an item is still there after its rewriting. Where the rewriting keeps the bytes of the prompt,
/// it is looked for in what is left of its own bytes: other pieces may say the same words.
pub(super) fn is_there(item: &Item, at: usize, r: &Rewriting) -> bool {
    let Some(removed) = &r.removed else { return item.is_said(at, &r.left) };
    let (Some(piece), Some((range, _))) = (item.pieces.get(at), item.places().into_iter().nth(at)) else {
        return false;
    };
    let prompt = item.prompt();
    let (mut left, mut from) = (String::new(), range.start);
    for &(start, end) in removed {
        let (start, end) = (start.clamp(from, range.end.max(from)), end.clamp(from, range.end.max(from)));
        if start < end {
            left.push_str(prompt.get(from..start).unwrap_or_default());
            left.push(' ');
            from = end;
        }
    }
    left.push_str(prompt.get(from..range.end).unwrap_or_default());
    piece.is_in(&left)
}

/// Whether a rewriting lost no needed piece of an item.
pub(super) fn is_whole(item: &Item, r: &Rewriting) -> bool {
    missing(item, Part::Needed, r) == 0
}

/// Pieces of this kind that are gone.
pub(super) fn missing(item: &Item, part: Part, r: &Rewriting) -> u64 {
    let of = item.pieces.iter().enumerate().filter(|(_, p)| p.part == part);
    of.filter(|(at, _)| !is_there(item, *at, r)).count() as u64
}

impl Removal {
    /// Counts over items with the numbers of their groups.
    pub(super) fn of<'a>(items: impl Iterator<Item = (usize, &'a Item, &'a Rewriting)>) -> Self {
        let [mut recall, mut precision, mut lost] = [(); 3].map(|()| Counted::default());
        for (group, item, r) in items {
            let [planted, needed] = [Part::Planted, Part::Needed];
            let [planted_gone, needed_gone] = [planted, needed].map(|part| missing(item, part, r));
            recall.add(group, planted_gone, item.parts(planted).count() as u64);
            precision.add(group, planted_gone, planted_gone + needed_gone);
            lost.add(group, needed_gone, item.parts(needed).count() as u64);
        }
        Self { recall: recall.share(), precision: precision.share(), lost: lost.share() }
    }
}

/// How well a score tells planted pieces from needed ones. The threshold is chosen on the groups of items with
/// even numbers and judged on the others: what is asked several times, such as a fact, is never on both sides. Intervals
/// are as those of [`Removal`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roc {
    /// Planted and needed pieces of the development split.
    pub development: [usize; 2],
    /// Probability that a planted piece has a lower score than a needed one, on the development split.
    pub auc: f64,
    /// Where planted pieces removed minus needed pieces removed is largest there: lower scores are removed.
    pub threshold: f64,
    /// Planted pieces that it removes on the other split.
    pub recall: Option<Share>,
    /// Needed pieces that it removes there.
    pub lost: Option<Share>,
    /// The curve on the development split.
    pub points: Vec<RocPoint>,
}

/// One threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RocPoint {
    /// Lower scores are removed.
    pub threshold: f64,
    /// Share of planted pieces that are.
    pub planted: f64,
    /// Share of needed ones.
    pub needed: f64,
}

/// Points of a curve that are kept.
const POINTS: usize = 25;

impl Roc {
    /// Of the scores of some items with the numbers by which they are split and those of their groups; nothing where
    /// the development split lacks one kind of piece.
    pub(super) fn of<'a>(items: impl Iterator<Item = ([usize; 2], &'a Item, &'a Rewriting)>) -> Option<Self> {
        // Planted, needed.
        let mut development = [Vec::new(), Vec::new()];
        let mut test = [Vec::new(), Vec::new()];
        for ([half, group], item, r) in items {
            let places = item.places();
            for &(start, end, score) in &r.judged {
                let overlap = |range: &std::ops::Range<usize>| {
                    range.end.min(end).saturating_sub(range.start.max(start))
                };
                let most = places.iter().max_by_key(|(range, _)| overlap(range));
                let kind = match most.map(|(_, part)| part) {
                    Some(Part::Planted) => 0,
                    Some(Part::Needed) => 1,
                    _ => continue,
                };
                match half % 2 {
                    0 => development[kind].push(score),
                    _ => test[kind].push((group, score)),
                }
            }
        }
        Self::chosen(development, &test)
    }

    fn chosen(mut development: [Vec<f64>; 2], test: &[Vec<(usize, f64)>; 2]) -> Option<Self> {
        if development.iter().any(Vec::is_empty) {
            return None;
        }
        for scores in &mut development {
            scores.sort_by(f64::total_cmp);
        }
        let [planted, needed] = &development;
        let below = |sorted: &[f64], t: f64| sorted.partition_point(|s| *s < t);
        let share = |sorted: &[f64], t: f64| below(sorted, t) as f64 / sorted.len() as f64;
        let mut thresholds: Vec<f64> = development.concat();
        thresholds.sort_by(f64::total_cmp);
        thresholds.dedup();
        let point = |t: f64| RocPoint { threshold: t, planted: share(planted, t), needed: share(needed, t) };
        let mut points: Vec<RocPoint> = thresholds.iter().map(|t| point(*t)).collect();
        // The last removes everything.
        points.push(point(thresholds.last().copied().unwrap_or(0.0) + 1.0));
        let gain = |p: &RocPoint| p.planted - p.needed;
        let best = points.iter().copied().reduce(|a, b| if gain(&b) > gain(&a) { b } else { a })?;
        let wins: f64 = planted
            .iter()
            .map(|p| {
                let lower = below(needed, *p);
                let ties = needed[lower..].iter().take_while(|n| *n == p).count();
                (needed.len() - lower - ties) as f64 + ties as f64 / 2.0
            })
            .sum();
        let removed = |scores: &[(usize, f64)]| {
            let mut counted = Counted::default();
            scores.iter().for_each(|(group, s)| counted.add(*group, u64::from(*s < best.threshold), 1));
            counted.share()
        };
        let step = points.len().div_ceil(POINTS);
        Some(Self {
            development: [planted.len(), needed.len()],
            auc: wins / (planted.len() * needed.len()) as f64,
            threshold: best.threshold,
            recall: removed(&test[0]),
            lost: removed(&test[1]),
            points: points.into_iter().step_by(step).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use refocus_tasks::planted::{Judge, Piece};

    use super::*;

    fn item() -> Item {
        Item {
            key: "k".into(),
            cell: "c".into(),
            before: Vec::new(),
            pieces: vec![
                Piece::needed("Where is Rome?", ["Rome"]),
                Piece::planted("Not in Spain, I guess.", ["Spain"]),
                Piece::other("Be brief."),
            ],
            judge: Judge::Kept,
        }
    }

    fn left(text: &str, judged: Vec<(usize, usize, f64)>) -> Rewriting {
        Rewriting {
            applied: true,
            reason: None,
            why: None,
            parse_failure: false,
            guard: false,
            left: text.to_owned(),
            text: text.to_owned(),
            reply: None,
            removed: None,
            judged,
            usage: refocus_system2::Usage::default(),
        }
    }

    #[test]
    fn what_is_gone_is_counted_by_kind() {
        let item = item();
        let texts = ["Where is Rome?", "Rome, not Spain", "Spain", "nothing"];
        let all: Vec<Rewriting> = texts.iter().map(|t| left(t, Vec::new())).collect();
        let r = Removal::of(all.iter().enumerate().map(|(i, r)| (i, &item, r)));
        let counts = |s: Option<Share>| s.map(|s| (s.hits, s.n));
        assert_eq!(counts(r.recall), Some((2, 4)));
        assert_eq!(counts(r.precision), Some((2, 4)));
        assert_eq!(counts(r.lost), Some((2, 4)));
        assert_eq!([r.recall, r.lost], [Share::of(2, 4); 2]);
        // Pieces of one group are one case: here half of them are gone from three groups, in two of which any is.
        let groups = [0, 1, 2, 2];
        let r = Removal::of(all.iter().zip(groups).map(|(r, group)| (group, &item, r)));
        assert_eq!(counts(r.precision), Some((2, 4)));
        let ends = |s: Option<Share>| s.map(|s| (s.low, s.high));
        let half_of = |groups: u64| wilson_of_share(0.5, groups).map(|i| (i.low, i.high));
        assert_eq!([r.recall, r.precision, r.lost].map(ends), [3, 2, 3].map(half_of));
        assert_eq!(Removal::of(std::iter::empty()), Removal { recall: None, precision: None, lost: None });
    }

    #[test]
    fn pieces_with_the_same_mark_are_told_by_their_bytes() {
        let mut item = item();
        item.pieces.insert(0, Piece::planted("Spain is warm.", ["Spain"]));
        let at = item.places();
        // One of two sentences about Spain goes with the space behind it.
        let one = Rewriting { removed: Some(vec![(0, at[1].0.start)]), ..left("", Vec::new()) };
        assert_eq!([0, 1, 2].map(|i| is_there(&item, i, &one)), [false, true, true]);
        let r = Removal::of(std::iter::once((0, &item, &one)));
        assert_eq!(r.recall.map(|s| (s.hits, s.n)), Some((1, 2)));
        assert_eq!(r.lost.map(|s| (s.hits, s.n)), Some((0, 1)));
        // Half of a piece is enough where it takes the mark, and two cuts are both seen.
        let spain = item.prompt().rfind("Spain").expect("named");
        let cuts = vec![(0, 5), (spain, spain + 5)];
        let two = Rewriting { removed: Some(cuts), ..left("", Vec::new()) };
        assert_eq!([0, 1, 2].map(|i| is_there(&item, i, &two)), [false, true, false]);
        let none = Rewriting { removed: Some(Vec::new()), ..left("", Vec::new()) };
        assert!(is_whole(&item, &none));
    }

    #[test]
    fn what_nothing_is_taken_from_has_every_piece() {
        let untouched = Rewriting { removed: Some(Vec::new()), ..left("", Vec::new()) };
        for s in crate::system2::Suite::ALL.into_iter().filter(|s| s.file().is_none()) {
            for item in s.draw(3, 100, None).expect("items") {
                // Written anew, or with its bytes: both find all of it.
                let same = left(&item.prompt(), Vec::new());
                let all = |r| (0..item.pieces.len()).all(|at| is_there(&item, at, r));
                assert!(all(&untouched) && all(&same), "{}: {}", s.name(), item.prompt());
            }
        }
    }

    #[test]
    fn a_score_that_tells_pieces_apart_has_an_area_of_one() {
        let item = item();
        let at = item.places();
        let judged = |needed: f64, planted: f64| {
            left("", vec![(at[0].0.start, at[0].0.end, needed), (at[1].0.start, at[1].0.end, planted)])
        };
        let good: Vec<Rewriting> = (0..8).map(|i| judged(2.0 + f64::from(i), -1.0 - f64::from(i))).collect();
        let roc = Roc::of(good.iter().enumerate().map(|(i, r)| ([i, i], &item, r))).expect("a curve");
        assert_eq!((roc.auc, roc.development), (1.0, [4, 4]));
        assert!((-1.0..=2.0).contains(&roc.threshold), "{}", roc.threshold);
        assert_eq!(roc.recall.map(|s| s.hits), Some(4));
        assert_eq!(roc.lost, Share::of(0, 4));
        // The four of the other split may be about two facts.
        let roc = Roc::of(good.iter().enumerate().map(|(i, r)| ([i, i / 4], &item, r))).expect("a curve");
        assert_eq!(roc.recall.map(|s| (s.hits, s.n, s.low)), Share::of(2, 2).map(|s| (4, 4, s.low)));
        assert_eq!(roc.lost.map(|s| (s.hits, s.n, s.high)), Share::of(0, 2).map(|s| (0, 4, s.high)));
        let even: Vec<Rewriting> = (0..8).map(|_| judged(0.5, 0.5)).collect();
        let roc = Roc::of(even.iter().enumerate().map(|(i, r)| ([i, i], &item, r))).expect("a curve");
        assert_eq!(roc.auc, 0.5);
        assert_eq!(Roc::of(good[..1].iter().map(|r| ([1, 1], &item, r))), None);
    }
}
