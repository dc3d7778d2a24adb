//! Whether the heads, the regression of the MLP and its intercept stay what they are when other facts are stated before
//! the question (claim C7c).

use refocus_compute::Ops;
use refocus_measure::correlation::{cosine, spearman};
use refocus_measure::recall::{
    Effects, Instead, Observed, Prompt, Rest, Score, Sender, Unembedding, effects, observe,
    partners as partners_of, senders,
};
use refocus_model::Model;
use serde::{Deserialize, Serialize};

use super::error::RecallError;
use super::heads::{CHOSEN, top_heads};
use super::intercept::{Intercept, intercept, intercept_of};
use super::mlp::{ShortFit, short_fit};
use super::{FEWEST, Judged, Saying, by_fact, facts, halves, over_facts, pick, ratio};
use crate::Verdict;
use crate::overthinking::{Estimate, HeadId};

const C7C: Saying = Saying {
    id: "C7c",
    claim: "the same heads carry the answer with other facts before the question",
    control: "heads on one half of the facts beside those on the other, without other facts before",
};
/// A rank correlation over heads below this is another order of them.
const SAME: f64 = 0.5;
/// Of the chosen heads so many have to be the same.
const KEPT: usize = 3;

/// A head and what becomes of π(Y) without it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopHead {
    /// Which.
    #[serde(flatten)]
    pub id: HeadId,
    /// Change of π(Y) over π(Y).
    pub effect: Estimate,
}

/// What is found with so many other facts before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtShots {
    /// Other facts before.
    pub shots: usize,
    /// Facts that are asked for.
    pub facts: usize,
    /// π(Y) of the unchanged model.
    pub pi: Estimate,
    /// The heads that lower it most, on all facts.
    pub top: Vec<TopHead>,
    /// How many of them are among those without other facts.
    pub kept: usize,
    /// Spearman's correlation over all heads of their effects with those without other facts, on the same facts.
    pub correlation: Estimate,
    /// The same of their effects on every second fact with those on the others: how far an order of heads can be known
    /// from so many facts.
    pub halves: Option<f64>,
    /// Of the effects without other facts on every second fact with those with them on the others: beside `halves` of no
    /// other facts.
    pub across: Option<f64>,
    /// The MLP that is looked at without other facts, on everything before it.
    pub fit: ShortFit,
    /// Cosine of its intercept with that without other facts.
    pub cosine: Option<f64>,
    /// What its intercept does.
    pub intercept: Intercept,
}

/// Effects of all heads by fact.
struct ByFact {
    /// Ascending.
    facts: Vec<usize>,
    /// `[heads][facts]`: change of π(Y).
    changes: Vec<Vec<f64>>,
}

impl ByFact {
    fn of(prompts: &[Prompt], e: &Effects) -> Self {
        let mut facts: Vec<usize> = prompts.iter().map(|p| p.fact).collect();
        facts.sort_unstable();
        facts.dedup();
        let heads = e.senders.iter().zip(&e.changed).filter(|(s, _)| matches!(s, Sender::Head { .. }));
        let change = |(_, changed): (&Sender, &Vec<Score>)| {
            by_fact(prompts, e.base.iter().zip(changed).map(|(a, b)| Some(pi_change(a, b))))
        };
        Self { facts, changes: heads.map(change).collect() }
    }

    /// Of each head the sum over some facts, by their place.
    fn over(&self, at: impl Iterator<Item = usize> + Clone) -> Vec<f64> {
        self.changes.iter().map(|c| at.clone().map(|i| c[i]).sum()).collect()
    }
}

/// Change of π(Y).
fn pi_change(a: &Score, b: &Score) -> f64 {
    b.pi() - a.pi()
}

/// Prompts with what every block does there and what single heads and MLPs change.
struct Run<'a> {
    prompts: &'a [Prompt],
    seen: &'a Observed,
    u: &'a Unembedding,
    partners: &'a [usize],
    paths: Effects,
    by_fact: ByFact,
    /// The same of every second fact and of the others, each half with its own mean in a head's place: about the mean
    /// of all facts what they have in common sums to 0, so that one half would have the other's with its sign turned.
    by_half: Vec<ByFact>,
    intercept: Vec<f64>,
}

impl<'a> Run<'a> {
    fn of<O: Ops>(
        (o, m): (&mut O, &Model<O::K>),
        prompts: &'a [Prompt],
        (seen, u): (&'a Observed, &'a Unembedding),
        partners: &'a [usize],
        function: usize,
        seed: u64,
        tick: impl FnMut(usize, usize),
    ) -> Result<Self, RecallError> {
        let mode = (Instead::Mean, Rest::Frozen);
        let paths = effects(o, m, prompts, (seen, u), &senders(&m.spec), partners, mode, tick)?;
        let heads: Vec<Sender> =
            senders(&m.spec).into_iter().filter(|s| matches!(s, Sender::Head { .. })).collect();
        let mut by_half = Vec::with_capacity(2);
        for half in halves(prompts) {
            let (own, part) = (pick(prompts, &half), seen.only(&half));
            let others = partners_of(&own, seed)?;
            let e = effects(o, m, &own, (&part, u), &heads, &others, mode, |_, _| {})?;
            by_half.push(ByFact::of(&own, &e));
        }
        let every: Vec<usize> = (0..prompts.len()).collect();
        let b = intercept_of(o, m, prompts, seen, (function, true), &every)?;
        let intercept = b.iter().map(|x| f64::from(*x)).collect();
        Ok(Self {
            by_fact: ByFact::of(prompts, &paths),
            by_half,
            prompts,
            seen,
            u,
            partners,
            paths,
            intercept,
        })
    }

    fn top(&self, seed: u64) -> Vec<TopHead> {
        let every: Vec<usize> = (0..self.prompts.len()).collect();
        let base = by_fact(self.prompts, self.paths.base.iter().map(|s| Some(s.pi())));
        let one = |id: HeadId| {
            let own = Sender::Head { layer: id.layer, head: id.head };
            let at = self.paths.senders.iter().position(|s| *s == own).unwrap_or(0);
            let pairs = self.paths.base.iter().zip(&self.paths.changed[at]);
            let change = by_fact(self.prompts, pairs.map(|(a, b)| Some(pi_change(a, b))));
            TopHead { id, effect: ratio(&change, &base, seed) }
        };
        top_heads(&self.paths, &every, CHOSEN).into_iter().map(one).collect()
    }

    fn beside<O: Ops>(
        &self,
        (o, m): (&mut O, &Model<O::K>),
        none: &Run<'_>,
        (shots, function): (usize, usize),
        seed: u64,
    ) -> Result<AtShots, RecallError> {
        let (top, first) = (self.top(seed), none.top(seed));
        let (here, there) = (&self.by_fact, &none.by_fact);
        // Places of the facts that both have.
        let both: Vec<(usize, usize)> = (0..here.facts.len())
            .filter_map(|i| Some((i, there.facts.binary_search(&here.facts[i]).ok()?)))
            .collect();
        let alike = |drawn: &[usize]| {
            let (a, b) =
                (here.over(drawn.iter().map(|&k| both[k].0)), there.over(drawn.iter().map(|&k| both[k].1)));
            spearman(&a, &b).unwrap_or(0.0)
        };
        let every: Vec<usize> = (0..both.len()).collect();
        let correlation = Estimate::statistic(&[both.len()], seed, |d| alike(&d[0]), alike(&every));
        let whole = |h: &ByFact| h.over(0..h.facts.len());
        let (even, odd) = (whole(&self.by_half[0]), whole(&self.by_half[1]));
        // No fact is in both halves.
        let (before, after) = (&none.by_half[0], &self.by_half[1]);
        let apart = (0..after.facts.len()).filter(|&i| before.facts.binary_search(&after.facts[i]).is_err());
        let (first_half, second_half) = (whole(before), after.over(apart));
        Ok(AtShots {
            shots,
            facts: facts(self.prompts),
            pi: over_facts(self.prompts, self.paths.base.iter().map(|s| Some(s.pi())), seed),
            kept: top.iter().filter(|t| first.iter().any(|f| f.id == t.id)).count(),
            top,
            correlation,
            halves: spearman(&even, &odd),
            across: spearman(&first_half, &second_half),
            fit: short_fit(o, m, self.prompts, self.seen, self.partners, function, seed)?,
            cosine: cosine(&self.intercept, &none.intercept),
            intercept: intercept(o, m, self.prompts, (self.seen, self.u), (function, true), seed)?,
        })
    }
}

/// Ranks the heads, fits the MLP of the block `function` and tests its intercept, without other facts and with each of
/// `with` (how many, and the prompts). Where fewer than twelve facts can be asked for, that number is left out. `tick` is
/// told how many changed runs are done and how many there are.
///
/// # Errors
/// Too few facts to fit; what the forward pass reports.
pub fn by_shots<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    (prompts, seen, u, own_partners): (&[Prompt], &Observed, &Unembedding, &[usize]),
    with: &[(usize, Vec<Prompt>)],
    function: usize,
    seed: u64,
    mut tick: impl FnMut(usize, usize),
) -> Result<Vec<AtShots>, RecallError> {
    let with: Vec<&(usize, Vec<Prompt>)> = with.iter().filter(|w| facts(&w.1) >= FEWEST).collect();
    let runs = with.len() + 1;
    let mut told = |run: usize, done: usize, all: usize| tick(run * all + done, runs * all);
    let none =
        Run::of((o, m), prompts, (seen, u), own_partners, function, seed, |done, all| told(0, done, all))?;
    let mut out = vec![none.beside((o, m), &none, (0, function), seed)?];
    for (i, (shots, prompts)) in with.into_iter().enumerate() {
        let seen = observe(o, m, prompts, |_| {})?;
        let (u, partners) = (Unembedding::of(o, m, prompts)?, partners_of(prompts, seed)?);
        let tick = |done, all| told(i + 1, done, all);
        let run = Run::of((o, m), prompts, (&seen, &u), &partners, function, seed, tick)?;
        out.push(run.beside((o, m), &none, (*shots, function), seed)?);
    }
    Ok(out)
}

/// C7c: the heads that carry the answer are the same with other facts before. With one number of other facts the test is
/// passed where the interval of the correlation of all heads' effects with those without other facts lies above 0.5 and
/// three of the five heads that lower π(Y) most are the same; it is failed where the interval lies below 0.5. The claim
/// holds where every number passes, is conditional where some do (or all that are left of those `asked` for, where some were
/// left out for having fewer than twelve facts), does not hold where none does and one fails. Where one half of the facts
/// does not give the order of the other (a correlation of 0.5 at most), it cannot be tested.
pub fn judge(prompts: &[Prompt], found: &[AtShots], asked: &[usize]) -> Judged {
    let n = facts(prompts);
    let with: Vec<&AtShots> = found.iter().filter(|f| f.shots > 0).collect();
    let halves = found.iter().find(|f| f.shots == 0).and_then(|f| f.halves).unwrap_or(0.0);
    let told: Vec<String> = with
        .iter()
        .map(|f| {
            let c = &f.correlation;
            format!("{}: {:+.2} [{:+.2}, {:+.2}], {} of {CHOSEN}", f.shots, c.value, c.low, c.high, f.kept)
        })
        .collect();
    let left_out: Vec<String> = asked
        .iter()
        .filter(|&&shots| with.iter().all(|f| f.shots != shots))
        .map(ToString::to_string)
        .collect();
    let mut why = format!(
        "correlation of heads and heads kept by other facts: {}; halves of the facts without: {halves:+.2}",
        if told.is_empty() { "none".to_owned() } else { told.join("; ") }
    );
    if !left_out.is_empty() {
        why.push_str(&format!("; k = {} left out: fewer than {FEWEST} facts", left_out.join(", ")));
    }
    let passed = with.iter().filter(|f| f.correlation.low > SAME && f.kept >= KEPT).count();
    let failed = with.iter().any(|f| f.correlation.high < SAME);
    let verdict = match passed {
        _ if n < FEWEST || with.is_empty() || halves <= SAME => Verdict::CannotBeTested,
        all if all == with.len() && left_out.is_empty() => Verdict::Holds,
        0 if failed => Verdict::DoesNotHold,
        0 => Verdict::CannotBeTested,
        _ => Verdict::Conditional,
    };
    C7C.fared(verdict, why, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::intercept::Promotes;

    fn about(value: f64, half: f64) -> Estimate {
        Estimate { value, low: value - half, high: value + half, n: 20 }
    }

    fn at(shots: usize, correlation: Estimate, kept: usize) -> AtShots {
        let none = about(0.0, 0.1);
        let promotes = Promotes { answer: none, argument: None, others: none };
        AtShots {
            shots,
            facts: 20,
            pi: about(10.0, 1.0),
            top: Vec::new(),
            kept,
            correlation,
            halves: Some(0.9),
            across: Some(0.8),
            fit: ShortFit { r2: none, r2_permuted: 0.0, kl_gain: none },
            cosine: Some(0.9),
            intercept: Intercept {
                layer: 1,
                own: promotes.clone(),
                random: promotes,
                cosine: None,
                cosine_random: None,
                p_answer: 1.0,
                specific: none,
                without: none,
            },
        }
    }

    #[test]
    fn heads_are_the_same_where_their_order_is_and_the_first_are() {
        let one =
            |fact| Prompt { ids: vec![1], answer: 0, argument: None, argument_at: 0, fact, template: 0 };
        let prompts: Vec<Prompt> = (0..20).map(one).collect();
        let same = about(0.8, 0.1);
        let verdict = |with: Vec<AtShots>| {
            let all: Vec<AtShots> = [at(0, about(1.0, 0.0), 5)].into_iter().chain(with).collect();
            let asked: Vec<usize> = all[1..].iter().map(|a| a.shots).collect();
            judge(&prompts, &all, &asked).verdict
        };
        assert_eq!(verdict(vec![at(1, same, 4), at(2, same, 3)]), Verdict::Holds);
        assert_eq!(verdict(vec![at(1, same, 4), at(2, same, 2)]), Verdict::Conditional);
        assert_eq!(verdict(vec![at(1, about(0.2, 0.1), 1)]), Verdict::DoesNotHold);
        assert_eq!(verdict(vec![at(1, about(0.5, 0.2), 3)]), Verdict::CannotBeTested);
        assert_eq!(verdict(vec![]), Verdict::CannotBeTested);
        // An order that half of the facts do not give is none.
        let weak = AtShots { halves: Some(0.4), ..at(0, about(1.0, 0.0), 5) };
        assert_eq!(judge(&prompts, &[weak, at(1, same, 4)], &[1]).verdict, Verdict::CannotBeTested);
        let both = [at(0, same, 5), at(1, same, 4)];
        assert_eq!(judge(&prompts[..11], &both, &[1]).verdict, Verdict::CannotBeTested);
        // What was left out is no pass.
        let judged = judge(&prompts, &both, &[1, 2, 3]);
        assert_eq!(judged.verdict, Verdict::Conditional);
        assert!(judged.why.ends_with("; k = 2, 3 left out: fewer than 12 facts"), "{}", judged.why);
    }
}
