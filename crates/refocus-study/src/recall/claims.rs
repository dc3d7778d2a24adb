//! The claims that the trace can judge, and their rules. C6, C7 and C8 first were written before the first run; C8, C8 tuned and
//! the floor of 0.02 were added after one run (capitals on SmolLM2) showed that C8 first has too few facts there.
//!
//! A test is of one number a fact, and of the same number less that of its control. It is passed where the first
//! interval lies above what would matter (0; for a fall of probability 0.02), the second above 0, and the paired
//! test of the second holds after Holm's correction over all tests of the run. It is failed where one of the two
//! intervals lies below that. A claim over several numbers of shots holds where all its tests are passed, holds conditionally where
//! some are, does not hold where none is and one is failed; otherwise, and with fewer than 12 facts, it cannot be
//! tested.

use std::borrow::Cow;

use refocus_measure::intervals::holm;
use refocus_measure::residual::split;
use refocus_model::ModelSpec;
use refocus_tasks::recall::Form;
use serde::Serialize;

use super::case::FEWEST_KNOWN;
use super::falls::{ANSWER, Group, Pool, Seen, beside, lost, lost_tuned};
use super::traced::{Reach, Traced};
use crate::Verdict;
use crate::overthinking::{Estimate, Stratum, sign_flip};

/// A fall of probability below this is none that matters.
const STEADY: f64 = 0.02;
const LEVEL: f64 = 0.05;
/// Of the tokens followed, the answer of another fact.
const OTHER: usize = 2;

/// A claim with its verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// `C6`: as in the study's list.
    pub id: Cow<'static, str>,
    /// In words.
    pub claim: Cow<'static, str>,
    /// The relation; all together where absent.
    pub relation: Option<String>,
    /// What may follow the prompts.
    pub form: Form,
    /// How it fared.
    pub verdict: Verdict,
    /// Which tests were passed and which not.
    pub why: String,
    /// Facts that were measured.
    pub facts: usize,
    /// Of the test with the smallest effect; absent without facts.
    pub effect: Option<Estimate>,
    /// The same less the control's.
    pub beyond: Option<Estimate>,
    /// Unit of both; empty where there is neither.
    pub unit: &'static str,
    /// What it was compared with.
    pub control: Cow<'static, str>,
}

/// What a claim says.
#[derive(Clone, Copy)]
struct Kind {
    id: &'static str,
    claim: &'static str,
    unit: &'static str,
    control: &'static str,
    steady: f64,
    values: Values,
    /// Whether it is about prompts with shots, without, or both.
    shots: Shots,
}

#[derive(Clone, Copy, PartialEq)]
enum Values {
    /// Attention raises the argument more than the MLPs do.
    Argument,
    /// The MLPs raise the answer more than attention does.
    Answer,
    /// The answer falls over the last two layers.
    Fall,
    /// The same where the tuned lens reads what stands before.
    TunedFall,
    /// The answer falls where it was the first choice before.
    FallOfFirst,
}

#[derive(Clone, Copy, PartialEq)]
enum Shots {
    None,
    Some,
    All,
}

const OTHER_ARGUMENT: &str = "another fact's argument";
const OTHER_ANSWER: &str = "another fact's answer";

const KINDS: [Kind; 7] = [
    Kind {
        id: "C6a",
        claim: "attention, rather than the MLPs, raises the argument in the second half of the layers before the last two",
        unit: "nats",
        control: OTHER_ARGUMENT,
        steady: 0.0,
        values: Values::Argument,
        shots: Shots::None,
    },
    Kind {
        id: "C6b",
        claim: "the MLPs, rather than attention, raise the answer there",
        unit: "nats",
        control: OTHER_ANSWER,
        steady: 0.0,
        values: Values::Answer,
        shots: Shots::None,
    },
    Kind {
        id: "C7a",
        claim: "attention raises the argument with other facts stated before, too",
        unit: "nats",
        control: OTHER_ARGUMENT,
        steady: 0.0,
        values: Values::Argument,
        shots: Shots::Some,
    },
    Kind {
        id: "C7b",
        claim: "the MLPs raise the answer with other facts stated before, too",
        unit: "nats",
        control: OTHER_ANSWER,
        steady: 0.0,
        values: Values::Answer,
        shots: Shots::Some,
    },
    Kind {
        id: "C8",
        claim: "the answer of a known fact loses probability over the last two layers, whatever number of facts \
                stands before",
        unit: "probability",
        control: OTHER_ANSWER,
        steady: STEADY,
        values: Values::Fall,
        shots: Shots::All,
    },
    Kind {
        id: "C8 tuned",
        claim: "the same where the tuned lens reads what stands before",
        unit: "probability",
        control: OTHER_ANSWER,
        steady: STEADY,
        values: Values::TunedFall,
        shots: Shots::All,
    },
    Kind {
        id: "C8 first",
        claim: "an answer that is the first choice two layers before the end loses probability over these",
        unit: "probability",
        control: "matched tokens",
        steady: STEADY,
        values: Values::FallOfFirst,
        shots: Shots::All,
    },
];

/// One number a fact, and the same less the control's.
struct Test {
    shots: usize,
    values: Vec<Stratum>,
    beyond: Vec<Stratum>,
}

impl Test {
    fn facts(&self) -> usize {
        self.beyond.iter().map(|s| s.values.len()).sum()
    }

    /// Several relations, each counting the same.
    fn together(shots: usize, of: &[&Test]) -> Self {
        let weight = 1.0 / of.len().max(1) as f64;
        let all = |pick: fn(&Test) -> &[Stratum]| {
            of.iter().flat_map(|t| pick(t)).map(|s| Stratum { weight, values: s.values.clone() }).collect()
        };
        Self { shots, values: all(|t| &t.values), beyond: all(|t| &t.beyond) }
    }
}

/// Sums of what attention and MLPs add to a token's log-likelihood (nats) over the layers that are looked at;
/// nothing where there is no such layer.
fn roles(spec: &ModelSpec, reach: &Reach, t: &Traced, token: usize) -> Option<(f64, f64)> {
    let layers = spec.n_layers / 2..spec.n_layers.saturating_sub(2);
    let at = |node| {
        let i = reach.nodes.iter().position(|n| *n == node);
        i.map_or(f64::NAN, |i| -f64::from(t.seen[i][token].nll))
    };
    if layers.is_empty() {
        return None;
    }
    Some(layers.map(|l| split(spec, l, at)).fold((0.0, 0.0), |sum, x| (sum.0 + x.0, sum.1 + x.1)))
}

fn test(kind: &Kind, s: &Seen<'_>, spec: &ModelSpec, reach: &Reach, pool: &Pool) -> Test {
    let one = |values| vec![Stratum { weight: 1.0, values }];
    let shots = s.condition.shots;
    if matches!(kind.values, Values::Fall | Values::TunedFall) {
        let tuned = kind.values == Values::TunedFall;
        let lost = |t: &Traced, token| {
            if tuned { lost_tuned(reach, t, token) } else { Some(lost(reach, t, token)) }
        };
        let values = s.by_fact(|_, t| lost(t, ANSWER));
        let beyond = s.by_fact(|_, t| Some(lost(t, ANSWER)? - lost(t, OTHER)?));
        return Test { shots, values: one(values), beyond: one(beyond) };
    }
    if kind.values == Values::FallOfFirst {
        let [own, theirs] = beside(s, reach, Group::RightBefore, pool);
        let more = own.iter().zip(&theirs).map(|(a, b)| a - b).collect();
        return Test { shots, values: one(own), beyond: one(more) };
    }
    let about_argument = kind.values == Values::Argument;
    let (own, other) = if about_argument { (1, 3) } else { (ANSWER, OTHER) };
    let role = |t: &Traced, token| {
        roles(spec, reach, t, token).map(|(attn, mlp)| if about_argument { attn - mlp } else { mlp - attn })
    };
    let there = |item: &super::prompts::Item| {
        !about_argument || (item.prompt.argument.is_some() && item.other.1.is_some())
    };
    let values = s.by_fact(|i, t| role(t, own).filter(|_| there(i)));
    let beyond = s.by_fact(|i, t| Some(role(t, own)? - role(t, other)?).filter(|_| there(i)));
    Test { shots, values: one(values), beyond: one(beyond) }
}

/// Judges the claims about every relation, and about all together where there are several.
pub fn claims(all: &[Seen<'_>], spec: &ModelSpec, seed: u64) -> Vec<Claim> {
    let reach = Reach::of(spec);
    let mut rows: Vec<(Kind, Option<String>, Form, Vec<Test>)> = Vec::new();
    for form in [Form::Open, Form::Forced] {
        let pool = Pool::of(all, form);
        // Begun as the tokenizer does: the first condition of a form.
        let usual = all.iter().find(|s| s.condition.form == form).map(|s| s.condition.beginning);
        let of: Vec<&Seen<'_>> =
            all.iter().filter(|s| s.condition.form == form && Some(s.condition.beginning) == usual).collect();
        let mut relations: Vec<&str> = of.iter().map(|s| s.relation).collect();
        relations.dedup();
        for kind in KINDS {
            let wanted = |s: &&&Seen<'_>| match kind.shots {
                Shots::None => s.condition.shots == 0,
                Shots::Some => s.condition.shots > 0,
                Shots::All => true,
            };
            let tuned = of.iter().flat_map(|s| s.traced).any(|t| !t.tuned.is_empty());
            if kind.values == Values::TunedFall && !tuned {
                continue;
            }
            let first = rows.len();
            for relation in &relations {
                let tests = of.iter().filter(wanted).filter(|s| s.relation == *relation);
                let tests: Vec<Test> = tests.map(|s| test(&kind, s, spec, &reach, &pool)).collect();
                if !tests.is_empty() {
                    rows.push((kind, Some((*relation).to_owned()), form, tests));
                }
            }
            if rows.len() - first > 1 {
                let mut shots: Vec<usize> =
                    rows[first..].iter().flat_map(|r| r.3.iter().map(|t| t.shots)).collect();
                shots.sort_unstable();
                shots.dedup();
                let enough = |k: usize| {
                    let tests = rows[first..].iter().flat_map(|r| &r.3);
                    tests.filter(|t| t.shots == k && t.facts() >= FEWEST_KNOWN).collect::<Vec<&Test>>()
                };
                let tests = shots.iter().map(|&k| Test::together(k, &enough(k))).collect();
                rows.push((kind, None, form, tests));
            }
        }
    }
    let raw: Vec<f64> = rows
        .iter()
        .flat_map(|r| &r.3)
        .map(|t| if t.facts() < FEWEST_KNOWN { f64::NAN } else { sign_flip(&t.beyond, seed) })
        .collect();
    let mut p = holm(&raw).into_iter();
    rows.into_iter()
        .map(|(kind, relation, form, tests)| {
            let p: Vec<f64> = p.by_ref().take(tests.len()).collect();
            judge(&kind, relation, form, &tests, &p, seed)
        })
        .collect()
}

/// What a test says.
#[derive(Clone, Copy, PartialEq)]
enum Said {
    Passed,
    Failed,
    Open,
    TooFew,
}

fn judge(kind: &Kind, relation: Option<String>, form: Form, tests: &[Test], p: &[f64], seed: u64) -> Claim {
    let mut said = Vec::new();
    let mut smallest: Option<(Estimate, Estimate)> = None;
    for (t, p) in tests.iter().zip(p) {
        if t.facts() < FEWEST_KNOWN {
            said.push((t.shots, Said::TooFew));
            continue;
        }
        let (e, b) = (Estimate::stratified(&t.values, seed), Estimate::stratified(&t.beyond, seed));
        let passed = e.low > kind.steady && b.low > 0.0 && *p < LEVEL;
        let failed = e.high <= kind.steady || b.high <= 0.0;
        said.push((
            t.shots,
            if passed {
                Said::Passed
            } else if failed {
                Said::Failed
            } else {
                Said::Open
            },
        ));
        if smallest.is_none_or(|s| b.value < s.1.value) {
            smallest = Some((e, b));
        }
    }
    let has = |what| said.iter().any(|s| s.1 == what);
    let verdict = if said.iter().all(|s| s.1 == Said::Passed) && !said.is_empty() {
        Verdict::Holds
    } else if has(Said::Passed) {
        Verdict::Conditional
    } else if has(Said::Failed) {
        Verdict::DoesNotHold
    } else {
        Verdict::CannotBeTested
    };
    let words = [
        (Said::Passed, "passed"),
        (Said::Failed, "failed"),
        (Said::Open, "undecided"),
        (Said::TooFew, "fewer than 12 facts"),
    ];
    let list = |(what, word): (Said, &str)| {
        let shots: Vec<String> = said.iter().filter(|s| s.1 == what).map(|s| s.0.to_string()).collect();
        (!shots.is_empty()).then(|| format!("{word} with {} shots", shots.join(", ")))
    };
    let why: Vec<String> = words.into_iter().filter_map(list).collect();
    Claim {
        id: kind.id.into(),
        claim: kind.claim.into(),
        relation,
        form,
        verdict,
        why: why.join("; "),
        facts: smallest.map_or(0, |s| s.1.n),
        effect: smallest.map(|s| s.0),
        beyond: smallest.map(|s| s.1),
        unit: kind.unit,
        control: kind.control.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(shots: usize, value: f64, beyond: f64, n: usize) -> Test {
        let spread = |v: f64| (0..n).map(|i| v + 0.001 * (i % 3) as f64).collect();
        let one = |v| vec![Stratum { weight: 1.0, values: spread(v) }];
        Test { shots, values: one(value), beyond: one(beyond) }
    }

    fn verdict(tests: &[Test]) -> (Verdict, String) {
        let p: Vec<f64> = tests.iter().map(|t| sign_flip(&t.beyond, 0)).collect();
        let c = judge(&KINDS[4], Some("r".to_owned()), Form::Open, tests, &p, 0);
        (c.verdict, c.why)
    }

    #[test]
    fn the_rules_of_verdicts() {
        let good = |k| test(k, 0.2, 0.1, 20);
        assert_eq!(verdict(&[good(0), good(1)]).0, Verdict::Holds);
        let (v, why) = verdict(&[good(0), test(1, 0.2, -0.1, 20)]);
        assert_eq!((v, why.as_str()), (Verdict::Conditional, "passed with 0 shots; failed with 1 shots"));
        // What matched tokens lose as well is regression to the mean.
        assert_eq!(verdict(&[test(0, 0.2, -0.1, 20)]).0, Verdict::DoesNotHold);
        // A fall that does not matter.
        assert_eq!(verdict(&[test(0, 0.005, 0.004, 20)]).0, Verdict::DoesNotHold);
        assert_eq!(verdict(&[test(0, 0.2, 0.1, 11)]).0, Verdict::CannotBeTested);
        assert_eq!(verdict(&[]).0, Verdict::CannotBeTested);
    }
}
