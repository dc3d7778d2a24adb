//! The paper's claims R1 to R8 (`spec/flip-flop.md` 3.1), judged by rules that were written before the runs, but for
//! what makes a claim one that cannot be tested.
//!
//! A rate "lies above" another where their 95 % intervals do not touch. Two rows are compared over their
//! seeds by an exact rank test (Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1,
//! 1945; all assignments of ranks, ties at their mean), one-sided, and all tests of a study together by
//! Holm's correction.

use refocus_measure::intervals::holm;
use serde::{Deserialize, Serialize};

use super::sets::Role;
use super::summary::{RowSummary, SetSummary, median};
use super::table::percent;
use crate::Verdict;

/// Highest in-distribution error of a run that has learned the task.
const LEARNED: f64 = 1e-3;
/// An order of magnitude.
const FACTOR: f64 = 10.0;
/// Seeds that a claim about seeds needs.
const SEEDS: usize = 5;
/// Rows that a claim about all mitigations needs.
const ROWS: usize = 5;
/// Of a test, after correction.
const ALPHA: f64 = 0.05;

/// A finding of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the numbers of the findings; `says` has their words")]
pub enum Claim {
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
}

impl Claim {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::R1, Self::R2, Self::R3, Self::R4, Self::R5, Self::R6, Self::R7, Self::R8];

    /// What is claimed.
    pub fn says(self) -> &'static str {
        match self {
            Self::R1 => {
                "transformers have a long tail of errors, sparse and dense, that varies between seeds"
            }
            Self::R2 => "the one-layer LSTM makes no error",
            Self::R3 => "language models process a flip-flop in words, not robustly",
            Self::R4 => "training on rare sequences wins by a wide margin",
            Self::R5 => "more data, more steps and larger models help by orders of magnitude less",
            Self::R6 => {
                "embedding dropout and sharpening help on sparse strings, fixed positions on dense ones"
            }
            Self::R7 => "nothing but rare sequences or recurrence removes all errors",
            Self::R8 => "sharpening makes attention hard, and errors persist",
        }
    }

    /// How it is judged.
    pub fn rule(self) -> &'static str {
        match self {
            Self::R1 => {
                "baseline, 5 seeds, each with at most 0.1 % in-distribution errors. Holds: in every seed \
                 sparse and dense errors lie above in-distribution errors, and rates of one of the two differ \
                 tenfold between seeds. Conditional: some of it. Does not hold: neither tail does"
            }
            Self::R2 => "lstm, 5 seeds. Holds: no error in distribution, sparse, dense. Else it does not",
            Self::R3 => "not part of this grid: `refocus flipflop probe`",
            Self::R4 => {
                "mixture against baseline. Holds: the median sparse error is at least ten times lower, p < 0.05; \
                 the same on dense where the baseline errs there, else no more errors than before. Conditional: \
                 one of the two"
            }
            Self::R5 => {
                "rows of data, steps, depth and width, held against mixture: each of its seeds with at most 0.1 % \
                 in-distribution errors, and the sparse part of R4 holds (asked for since the study's first run, for \
                 else nothing can lie above it). Holds: every seed's sparse errors lie above those of every seed of \
                 mixture, no row lowers the median tenfold; and more steps lower the sparse and raise the dense \
                 median. Conditional: some of it"
            }
            Self::R6 => {
                "embedding-dropout and sharpen lower the baseline's median sparse error at least ten times, \
                 p < 0.05; the baseline's rotary positions do so for the dense error of learned. Holds: all \
                 three. Conditional: some"
            }
            Self::R7 => {
                "all other transformers trained on the one language, at least 5 rows. Holds: every seed errs \
                 on sparse or dense strings. Conditional: single seeds do not. Does not hold: no seed of a \
                 row does"
            }
            Self::R8 => {
                "sharpen against baseline. Holds: lower entropy of attention at reads of the sparse set, \
                 p < 0.05, and sparse errors in every seed. Conditional: one of the two"
            }
        }
    }
}

/// Two rows compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Test {
    /// Claim.
    pub claim: Claim,
    /// In words.
    pub what: String,
    /// Seeds of the two rows.
    pub seeds: [usize; 2],
    /// Medians of the two rows.
    pub medians: [f64; 2],
    /// How many times lower the first is; at least that where the first is 0.
    pub factor: Option<f64>,
    /// One-sided.
    pub p: f64,
    /// After Holm's correction over all tests of the study.
    pub p_holm: f64,
}

/// A claim judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// Claim.
    pub claim: Claim,
    /// What is claimed.
    pub says: &'static str,
    /// How it is judged.
    pub rule: &'static str,
    /// How it fared.
    pub verdict: Verdict,
    /// The numbers.
    pub why: String,
    /// Tests that it rests on.
    pub tests: Vec<Test>,
}

/// A part of a claim: how it fared and why.
type Part = (Verdict, String);

/// Judges all claims by the rows that are there.
pub fn judge(rows: &[RowSummary]) -> Vec<Judgement> {
    let all = Rows(rows);
    let tests = all.tests();
    Claim::ALL
        .into_iter()
        .map(|claim| {
            let (verdict, why) = match claim {
                Claim::R1 => all.long_tail(),
                Claim::R2 => all.recurrence(),
                Claim::R3 => none("it is about language models: `refocus flipflop probe MODEL` asks them"),
                Claim::R4 => all.rare(&tests),
                Claim::R5 => all.scale(&tests),
                Claim::R6 => all.mitigations(&tests),
                Claim::R7 => all.nothing_else(),
                Claim::R8 => all.sharpening(&tests),
            };
            let tests = tests.iter().filter(|t| t.claim == claim).cloned().collect();
            Judgement { claim, says: claim.says(), rule: claim.rule(), verdict, why, tests }
        })
        .collect()
}

fn none(why: impl Into<String>) -> Part {
    (Verdict::CannotBeTested, why.into())
}

struct Rows<'a>(&'a [RowSummary]);

impl<'a> Rows<'a> {
    fn get(&self, name: &str) -> Option<&'a RowSummary> {
        self.0.iter().find(|r| r.name == name)
    }

    fn set(&self, name: &str, role: Role) -> Option<&'a SetSummary> {
        self.get(name)?.set(role)
    }

    /// Every comparison of two rows that there are, corrected together.
    fn tests(&self) -> Vec<Test> {
        let on = |claim, lower: &str, higher: &str, role: Role| {
            let (a, b) = (self.set(lower, role)?, self.set(higher, role)?);
            // Without errors there is nothing to lower.
            if b.median == 0.0 {
                return None;
            }
            let rates = |s: &SetSummary| s.seeds.iter().map(|s| s.rate).collect::<Vec<_>>();
            let least = a.seeds.iter().map(|s| s.reads).max().map_or(1.0, |n| 3.0 / n as f64);
            let what = format!("{lower} below {higher}, {role}");
            let mut t = Test::new(claim, what, &rates(a), &rates(b))?;
            t.factor = Some(b.median / a.median.max(least));
            Some(t)
        };
        let entropy = || {
            let (a, b) = (self.get("sharpen")?, self.get("baseline")?);
            let what = "sharpen below baseline, entropy of attention".to_owned();
            Test::new(Claim::R8, what, &a.entropy, &b.entropy)
        };
        let mut tests: Vec<Test> = [
            on(Claim::R4, "mixture", "baseline", Role::Sparse),
            on(Claim::R4, "mixture", "baseline", Role::Dense),
            on(Claim::R6, "embedding-dropout", "baseline", Role::Sparse),
            on(Claim::R6, "sharpen", "baseline", Role::Sparse),
            on(Claim::R6, "baseline", "learned", Role::Dense),
            entropy(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let p: Vec<f64> = tests.iter().map(|t| t.p).collect();
        for (t, p) in tests.iter_mut().zip(holm(&p)) {
            t.p_holm = p;
        }
        tests
    }

    fn long_tail(&self) -> Part {
        let Some(base) = self.get("baseline") else { return none("there is no row baseline") };
        if base.seeds.len() < SEEDS {
            return none(format!("baseline has {} of {SEEDS} seeds", base.seeds.len()));
        }
        let (Some(inside), Some(sparse), Some(dense)) =
            (base.set(Role::In), base.set(Role::Sparse), base.set(Role::Dense))
        else {
            return none("a set is missing");
        };
        let learned = inside.seeds.iter().filter(|s| s.rate <= LEARNED).count();
        if learned < inside.seeds.len() {
            return none(format!("{learned} of {} seeds learned the task", inside.seeds.len()));
        }
        let tail = |s: &SetSummary| {
            let above =
                s.seeds.iter().zip(&inside.seeds).filter(|(t, i)| t.interval[0] > i.interval[1]).count();
            let spread = if s.highest == 0.0 { 1.0 } else { s.highest / s.lowest };
            (above == s.seeds.len(), spread, format!("{} {}, {above} seeds above", s.role, range(s)))
        };
        let (s, d) = (tail(sparse), tail(dense));
        let spread = s.1.max(d.1) >= FACTOR;
        let why = format!(
            "in distribution {}; {}; {}; highest seed over lowest: sparse {:.1}, dense {:.1}",
            range(inside),
            s.2,
            d.2,
            s.1,
            d.1
        );
        match (s.0, d.0, spread) {
            (true, true, true) => (Verdict::Holds, why),
            (false, false, _) => (Verdict::DoesNotHold, why),
            _ => (Verdict::Conditional, why),
        }
    }

    fn recurrence(&self) -> Part {
        let Some(lstm) = self.get("lstm") else { return none("there is no row lstm") };
        if lstm.seeds.len() < SEEDS {
            return none(format!("lstm has {} of {SEEDS} seeds", lstm.seeds.len()));
        }
        let roles = [Role::In, Role::Sparse, Role::Dense];
        let sets: Vec<&SetSummary> = roles.iter().filter_map(|r| lstm.set(*r)).collect();
        if sets.len() < roles.len() {
            return none("a set is missing");
        }
        let count = |f: fn(&super::summary::SeedCount) -> u64| -> u64 {
            sets.iter().flat_map(|s| &s.seeds).map(f).sum()
        };
        let (errors, reads) = (count(|s| s.errors), count(|s| s.reads));
        let (seeds, steps) = (lstm.seeds.len(), lstm.steps);
        let why = format!("{errors} errors in {reads} reads of {seeds} seeds after {steps} steps");
        (if errors == 0 { Verdict::Holds } else { Verdict::DoesNotHold }, why)
    }

    /// Whether the first row of a test is an order of magnitude below the second.
    fn tenfold(&self, tests: &[Test], claim: Claim, (lower, higher, role): (&str, &str, Role)) -> Part {
        let what = format!("{lower} below {higher}, {role}");
        let (Some(a), Some(b)) = (self.set(lower, role), self.set(higher, role)) else {
            return none(format!("{what}: a row is missing"));
        };
        let Some(t) = tests.iter().find(|t| t.claim == claim && t.what == what) else {
            return none(format!("{what}: {higher} has nothing to lower ({})", range(b)));
        };
        if t.is_too_small() {
            return none(format!("{what}: {} and {} seeds are too few", t.seeds[0], t.seeds[1]));
        }
        let factor = t.factor.unwrap_or(1.0);
        let at_least = if a.median == 0.0 { "at least " } else { "" };
        let why = format!(
            "{what}: {} against {}, {at_least}{factor:.1} times lower, p = {:.3}",
            range(a),
            range(b),
            t.p_holm
        );
        let verdict = if factor >= FACTOR && t.p_holm < ALPHA {
            Verdict::Holds
        } else if a.lowest > b.median / FACTOR {
            // No seed comes near.
            Verdict::DoesNotHold
        } else {
            Verdict::CannotBeTested
        };
        (verdict, why)
    }

    fn rare(&self, tests: &[Test]) -> Part {
        let (sparse, why) = self.tenfold(tests, Claim::R4, ("mixture", "baseline", Role::Sparse));
        let (Some(mixed), Some(base)) = (self.set("mixture", Role::Dense), self.set("baseline", Role::Dense))
        else {
            return (Verdict::CannotBeTested, why);
        };
        let (dense, also) = if base.median == 0.0 {
            let no_more = mixed.seeds.iter().filter(|s| s.interval[0] <= base.highest).count();
            let all = no_more == mixed.seeds.len();
            let verdict = if all { Verdict::Holds } else { Verdict::DoesNotHold };
            (verdict, format!("dense {} where the baseline has {}", range(mixed), range(base)))
        } else {
            self.tenfold(tests, Claim::R4, ("mixture", "baseline", Role::Dense))
        };
        let clean = self.get("mixture").map_or(0, |r| clean_seeds(r).len());
        let of = mixed.seeds.len();
        let why = format!("{why}; {also}; {clean} of {of} seeds of mixture without an error on both");
        // Without an effect on sparse strings nothing is left of the claim.
        match (sparse, dense) {
            (Verdict::Holds, Verdict::Holds) => (Verdict::Holds, why),
            (Verdict::Holds, _) => (Verdict::Conditional, why),
            (other, _) => (other, why),
        }
    }

    fn scale(&self, tests: &[Test]) -> Part {
        let Some(mixture) = self.set("mixture", Role::Sparse) else {
            return none("there is no row mixture");
        };
        let Some(inside) = self.set("mixture", Role::In) else { return none("a set is missing") };
        let Some(base) = self.get("baseline") else { return none("there is no row baseline") };
        let scaled = self.0.iter().filter(|r| r.claims.contains(&Claim::R5));
        let scaled: Vec<&RowSummary> =
            scaled.filter(|r| matches!(r.group.as_str(), "data and steps" | "depth and width")).collect();
        if scaled.is_empty() {
            return none("there is no row of data, steps, depth or width");
        }
        let worst = mixture.seeds.iter().map(|s| s.interval[1]).fold(0.0, f64::max);
        let before = base.set(Role::Sparse).map_or(0.0, |s| s.median);
        let (mut above, mut why) = (0, vec![format!("mixture sparse {}", range(mixture))]);
        for row in &scaled {
            let Some(s) = row.set(Role::Sparse) else { continue };
            let clear = s.seeds.iter().all(|s| s.interval[0] > worst) && s.median > before / FACTOR;
            above += usize::from(clear);
            why.push(format!("{} {}", row.name, range(s)));
        }
        let moved = |role| {
            let more = scaled.iter().find(|r| r.name == "steps-3x")?.set(role)?;
            Some((base.set(role)?, more))
        };
        let turns = match (moved(Role::Sparse), moved(Role::Dense)) {
            (Some(s), Some(d)) => {
                why.push(format!("more steps: dense {} to {}", range(d.0), range(d.1)));
                s.1.median < s.0.median && d.1.median > d.0.median
            }
            _ => false,
        };
        // Rows are held against what rare sequences reach: without that nothing follows from them.
        let learned = inside.seeds.iter().filter(|s| s.rate <= LEARNED).count();
        if learned < inside.seeds.len() {
            why.insert(0, format!("{learned} of {} seeds of mixture learned the task", inside.seeds.len()));
            return none(why.join("; "));
        }
        if self.tenfold(tests, Claim::R4, ("mixture", "baseline", Role::Sparse)).0 != Verdict::Holds {
            why.insert(0, "the sparse part of R4 does not hold".to_owned());
            return none(why.join("; "));
        }
        let verdict = match (above, turns) {
            (0, _) => Verdict::DoesNotHold,
            (n, true) if n == scaled.len() => Verdict::Holds,
            _ => Verdict::Conditional,
        };
        (verdict, why.join("; "))
    }

    fn mitigations(&self, tests: &[Test]) -> Part {
        let parts = [
            ("embedding-dropout", "baseline", Role::Sparse),
            ("sharpen", "baseline", Role::Sparse),
            ("baseline", "learned", Role::Dense),
        ]
        .map(|rows| self.tenfold(tests, Claim::R6, rows));
        let has = |v: Verdict| parts.iter().filter(|p| p.0 == v).count();
        let verdict = match (has(Verdict::Holds), has(Verdict::DoesNotHold)) {
            (3, _) => Verdict::Holds,
            (1.., _) => Verdict::Conditional,
            (0, 3) => Verdict::DoesNotHold,
            _ => Verdict::CannotBeTested,
        };
        (verdict, parts.map(|p| p.1).join("; "))
    }

    fn nothing_else(&self) -> Part {
        let rows = self.0.iter().filter(|r| r.claims.contains(&Claim::R7) && r.group != "rare sequences");
        let rows: Vec<&RowSummary> = rows.collect();
        if rows.len() < ROWS {
            return none(format!("there are {} of {ROWS} rows", rows.len()));
        }
        let (mut whole, mut single) = (Vec::new(), Vec::new());
        for row in &rows {
            let clean = clean_seeds(row);
            if clean.len() == row.seeds.len() {
                whole.push(row.name.clone());
            } else if !clean.is_empty() {
                single.push(format!("{} of {} of {}", clean.len(), row.seeds.len(), row.name));
            }
        }
        let seeds: usize = rows.iter().map(|r| r.seeds.len()).sum();
        let all = format!("{seeds} runs of {} rows", rows.len());
        if !whole.is_empty() {
            return (Verdict::DoesNotHold, format!("{all}; no error: every seed of {}", whole.join(", ")));
        }
        if !single.is_empty() {
            return (Verdict::Conditional, format!("{all}; no error: seeds {}", single.join(", ")));
        }
        (Verdict::Holds, format!("{all}; each errs on sparse or dense strings"))
    }

    fn sharpening(&self, tests: &[Test]) -> Part {
        let Some(sparse) = self.set("sharpen", Role::Sparse) else { return none("there is no row sharpen") };
        let Some(t) = tests.iter().find(|t| t.claim == Claim::R8) else {
            return none("too few seeds of sharpen or baseline");
        };
        if t.is_too_small() {
            return none(format!(
                "{} and {} seeds of sharpen and baseline are too few",
                t.seeds[0], t.seeds[1]
            ));
        }
        let persist = sparse.seeds.iter().filter(|s| s.errors > 0).count();
        let (harder, all) = (t.p_holm < ALPHA, persist == sparse.seeds.len());
        let why = format!(
            "entropy {:.3} against {:.3} nats, p = {:.3}; sparse {}, errors in {persist} of {} seeds. Where \
             attention goes in wrong reads is not judged here",
            t.medians[0],
            t.medians[1],
            t.p_holm,
            range(sparse),
            sparse.seeds.len()
        );
        match (harder, all) {
            (true, true) => (Verdict::Holds, why),
            (false, false) if t.p > 1.0 - ALPHA => (Verdict::DoesNotHold, why),
            (false, false) => (Verdict::CannotBeTested, why),
            _ => (Verdict::Conditional, why),
        }
    }
}

/// Seeds without an error on the sparse and on the dense set.
fn clean_seeds(row: &RowSummary) -> Vec<u64> {
    let (Some(sparse), Some(dense)) = (row.set(Role::Sparse), row.set(Role::Dense)) else {
        return Vec::new();
    };
    let both = sparse.seeds.iter().zip(&dense.seeds);
    both.filter(|(s, d)| s.errors + d.errors == 0).map(|(s, _)| s.seed).collect()
}

/// `3.1 % (1.2 to 9.9 %, 5 seeds)`.
fn range(s: &SetSummary) -> String {
    let n = s.seeds.len();
    format!("{} ({} to {}, {n} seeds)", percent(s.median), percent(s.lowest), percent(s.highest))
}

impl Test {
    /// Whether there are so few seeds that no order of them has p below [`ALPHA`].
    fn is_too_small(&self) -> bool {
        let [a, b] = self.seeds;
        let orders = (1..=a).fold(1.0, |n, i| n * (b + i) as f64 / i as f64);
        orders * ALPHA <= 1.0
    }

    /// Whether the first numbers are lower; `None` where one side has none.
    fn new(claim: Claim, what: String, lower: &[f64], higher: &[f64]) -> Option<Self> {
        let sorted = |x: &[f64]| {
            let mut x = x.to_vec();
            x.sort_by(f64::total_cmp);
            median(&x)
        };
        let medians = [sorted(lower)?, sorted(higher)?];
        let p = rank_test(lower, higher);
        let seeds = [lower.len(), higher.len()];
        Some(Self { claim, what, seeds, medians, factor: None, p, p_holm: p })
    }
}

/// The probability that chance alone puts the first numbers as low among all, by their ranks.
fn rank_test(lower: &[f64], higher: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = lower.iter().map(|&x| (x, true)).collect();
    all.extend(higher.iter().map(|&x| (x, false)));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Twice the mean rank of equal numbers is whole.
    let mut ranks = vec![0usize; all.len()];
    let mut start = 0;
    for group in all.chunk_by(|a, b| a.0 == b.0) {
        let end = start + group.len();
        ranks[start..end].fill(start + end + 1);
        start = end;
    }
    let observed: usize = all.iter().zip(&ranks).filter(|(x, _)| x.1).map(|(_, r)| r).sum();
    let total: usize = ranks.iter().sum();
    // How many ways there are to choose k numbers with a sum of ranks.
    let mut ways = vec![vec![0.0f64; total + 1]; lower.len() + 1];
    ways[0][0] = 1.0;
    for &r in &ranks {
        for k in (1..=lower.len()).rev() {
            for sum in (r..=total).rev() {
                ways[k][sum] += ways[k - 1][sum - r];
            }
        }
    }
    let last = &ways[lower.len()];
    last[..=observed].iter().sum::<f64>() / last.iter().sum::<f64>()
}

#[cfg(test)]
mod tests;
