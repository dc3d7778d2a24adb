//! A patch for what slips: tried on one half of the questions, measured on the other.
//!
//! For each probe that slips, a small fixed list of patches is tried ([`candidates`]): sharper attention, the heads
//! that push the wrong answer most set to zero, an earlier exit, a weaker last layer. Those that lower its harm on
//! the even items, and cost plain text no more than [`TEXT_COST`], are tried on the even items of all other probes
//! too, and the one that lowers the sum most is the best. What was chosen for different probes is joined where
//! that helps on the same half. The odd items then say what it does, to every probe, to plain text, and to what
//! worked before. Everything tried is counted and told.
//!
//! Against sentences that do not matter a model that has a chat template may also rewrite ([`rewriting`]).

mod candidates;
mod cases;
mod half;
mod rewriting;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use refocus_compute::Ops;
use refocus_measure::{MeasureError, intervals::holm, pushes};
use refocus_model::{Model, Patch};
use serde::{Deserialize, Serialize};

use self::candidates::{Candidate, candidates};
pub(super) use self::cases::{Cases, Prompt, Rule};
use self::cases::{mean, say, text};
use self::half::Half;
use self::rewriting::Texts;
pub(super) use self::rewriting::{Item, Text};
use super::{
    DiagnoseError, Finding, Measure, Probe, State, Subject, distractors, flipflop, overthinking, recall,
};
use crate::overthinking::{Estimate, Stratum, sign_flip};

/// Nats a token that a patch may add to plain text on the half that chooses: about 5 % of perplexity.
pub const TEXT_COST: f64 = 0.05;
/// A gain below this is a sum in another order.
const LEAST: f64 = 1e-9;
/// What tables with three digits show as 0 is nobody's gain or loss, however sure it is.
const SHOWN: f64 = 0.0005;
/// Tokens of a piece of plain text.
const PIECE: usize = 32;
/// Most pieces of plain text that are read.
const PIECES: usize = 64;
/// Patches tried for a probe, about: what sizes are computed with.
const TRIED: usize = 20;
/// The harm of a rewriting that takes too much.
const TOLD: &str = "wrong after a sentence that tells the answer";
/// What plain text is measured by.
const NATS: &str = "nats a token of plain text";
/// Text that the project wrote, about nothing that is asked.
const PLAIN: &str = include_str!("../../../../tasks/plain.txt");

/// A patch that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// What it was tried against.
    pub probe: Probe,
    /// In words.
    pub name: String,
    /// By how much the probe's harm fell on the items that choose; below 0 where it rose.
    pub gain: f64,
    /// By how much that of all probes fell there; none where the others took so much back that it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain_of_all: Option<f64>,
    /// Nats a token that plain text became less likely by; 0 for a rewriting, which plain text does not meet.
    pub text_cost: f64,
}

/// One number before and after, on the items that did not choose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Whose items; none for plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// What is counted.
    pub what: String,
    /// Without the patch.
    pub before: Measure,
    /// With it.
    pub after: Measure,
    /// After minus before, paired.
    pub change: Measure,
    /// Paired sign-flip test, after Holm's correction over all rows.
    pub p: f64,
}

/// A number that the patch cannot change: it rewrites messages and nothing else, and these texts are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Untouched {
    /// Whose items; none for plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// What is counted.
    pub what: String,
}

/// What rewriting takes, on the items that did not choose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rewriting {
    /// Texts that were judged.
    pub texts: usize,
    /// Of these, how many lost a sentence; the others went through as they are.
    pub applied: usize,
    /// Tokens that are read for a text before it is answered, on average; none is written.
    pub tokens: f64,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mitigation {
    /// The probes whose findings it is about.
    pub probes: Vec<Probe>,
    /// In words: what was searched and what came of it.
    pub verdict: String,
    /// Whether the patch surely lowers a failure on the items that did not choose it.
    pub helps: bool,
    /// Everything that was tried.
    pub tried: Vec<Tried>,
    /// What the patch is made of, in words; empty where nothing helped.
    pub chosen: Vec<String>,
    /// Before and after.
    pub changes: Vec<Change>,
    /// What stays as it is by construction, and was not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untouched: Vec<Untouched>,
    /// Where the patch rewrites: what that takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewriting: Option<Rewriting>,
    /// What was not tried, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// The patch's entries in TOML, without the model's fingerprint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub patch: String,
}

/// A probe's items and what the model says to them as it is.
struct Bench<'a> {
    choose: Half<'a>,
    report: Half<'a>,
    /// All harm on the items that choose, for the model as it is.
    before: f64,
    /// Whether the failure is there: else no patch is searched against it, and none may bring it.
    slips: bool,
}

/// Searches a patch for the findings that slip. `tick` is told how many of the steps are done, and how many there
/// are.
///
/// # Errors
/// What the forward pass reports.
pub fn mitigate<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    subject: Subject<'_>,
    findings: &[Finding],
    tick: &mut dyn FnMut(u64, u64),
) -> Result<Mitigation, DiagnoseError> {
    let probes: Vec<Probe> = findings.iter().map(|f| f.probe).collect();
    let slipping: Vec<Probe> = findings.iter().filter(|f| f.state == State::Slips).map(|f| f.probe).collect();
    if slipping.is_empty() {
        return Ok(Mitigation {
            probes,
            verdict: "nothing slips, so nothing was searched".to_owned(),
            helps: false,
            tried: Vec::new(),
            chosen: Vec::new(),
            changes: Vec::new(),
            untouched: Vec::new(),
            rewriting: None,
            left_out: None,
            patch: String::new(),
        });
    }
    let mut benches = Vec::new();
    // What was not asked is measured too: a patch may break it.
    for probe in Probe::ALL {
        let state = findings.iter().find(|f| f.probe == probe).map(|f| f.state);
        if state != Some(State::CannotBeTested) {
            benches.extend(bench(o, m, subject, probe, state == Some(State::Slips))?);
        }
    }
    let known = |p: &Probe| benches.iter().any(|b| b.probe() == *p);
    let slipping: Vec<Probe> = slipping.into_iter().filter(known).collect();
    let pieces = pieces(subject)?;
    let half = |from: usize| pieces.iter().skip(from).step_by(2).cloned().collect::<Vec<_>>();
    let (choose_text, report_text) = (half(0), half(1));
    let plain = mean(&text(o, m, &choose_text, &[])?);

    let mut search = Search {
        o,
        m,
        benches: &benches,
        text: &choose_text,
        plain,
        tried: Vec::new(),
        gains: HashMap::new(),
        costs: HashMap::new(),
    };
    let all = (slipping.len() * TRIED) as u64;
    let mut best: Vec<(f64, Candidate)> = Vec::new();
    for b in benches.iter().filter(|b| b.slips) {
        let done = &mut |done: usize| tick(done as u64, all.max(done as u64 + 1));
        best.extend(search.best_of(b, done)?);
    }
    let chosen = search.joined(best)?;
    let tried = search.tried;
    let body = body(&chosen);
    let (mut changes, mut untouched, mut rewriting) = (Vec::new(), Vec::new(), None);
    if !chosen.is_empty() {
        let patch = parse(&body, m)?;
        (changes, untouched) = measured(o, m, &benches, &report_text, &patch, subject.seed)?;
        rewriting = taken(&benches, &patch)?;
    }
    let left_out = benches
        .iter()
        .any(|b| b.slips && b.probe() == Probe::Distractors && b.choose.texts.is_none())
        .then(|| match subject.template {
            None => "rewriting, which needs a model that brings a chat template".to_owned(),
            Some(_) => format!("rewriting, which needs a question: {} has none", subject.relation.key),
        });
    tick(all, all);
    let helps = changes.iter().any(|c| repairs(&slipping, c));
    let verdict = verdict(helps, &tried, &chosen, &changes);
    Ok(Mitigation {
        probes,
        verdict,
        helps,
        tried,
        chosen: chosen.into_iter().map(|c| c.name).collect(),
        changes,
        untouched,
        rewriting,
        left_out,
        patch: body,
    })
}

impl Bench<'_> {
    fn probe(&self) -> Probe {
        self.choose.cases.probe
    }
}

/// The search on the items that choose.
struct Search<'s, 'a, O: Ops> {
    o: &'s mut O,
    m: &'s Model<O::K>,
    benches: &'s [Bench<'a>],
    /// Plain text, and its nats a token for the model as it is.
    text: &'s [Vec<u32>],
    plain: f64,
    tried: Vec<Tried>,
    /// Gains and costs by a patch's entries: some patches are tried against several probes, and on all.
    gains: HashMap<(Probe, String), f64>,
    costs: HashMap<String, f64>,
}

impl<'a, O: Ops> Search<'_, 'a, O> {
    /// The patch of those against one probe that lowers the harm of all most, with what it gains. `tick` is told how
    /// many have been tried.
    fn best_of(
        &mut self,
        b: &Bench<'a>,
        tick: &mut dyn FnMut(usize),
    ) -> Result<Option<(f64, Candidate)>, DiagnoseError> {
        let contrasts = b.choose.cases.contrasts();
        let pushes = match pushes(self.o, self.m, &contrasts) {
            // Such a model has no plain sum to attribute: other patches are tried.
            Err(MeasureError::PostNorm) => Vec::new(),
            Ok(_) if contrasts.is_empty() => Vec::new(),
            other => other?,
        };
        let inside = candidates(&self.m.spec, b.probe(), &pushes);
        let before_it = b.choose.texts.iter().flat_map(Texts::candidates);
        let mut able: Vec<(usize, f64, Candidate)> = Vec::new();
        for c in inside.into_iter().chain(before_it) {
            tick(self.tried.len());
            let patch = parse(&c.body, self.m)?;
            let gain = self.gain(b, &c.body, &patch)?;
            let text_cost = self.text_cost(&c.body, &patch)?;
            if gain > LEAST && text_cost <= TEXT_COST {
                able.push((self.tried.len(), gain, c.clone()));
            }
            self.tried.push(Tried { probe: b.probe(), name: c.name, gain, gain_of_all: None, text_cost });
        }
        able.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut best: Option<(f64, Candidate)> = None;
        'next: for (at, gain, c) in able {
            let patch = parse(&c.body, self.m)?;
            let most = best.as_ref().map_or(LEAST, |(most, _)| *most);
            let mut all = gain;
            for other in self.benches.iter().filter(|other| other.probe() != b.probe()) {
                // A patch against one failure seldom helps against another: what is behind already stays there.
                if all <= most {
                    continue 'next;
                }
                all += self.gain(other, &c.body, &patch)?;
            }
            self.tried[at].gain_of_all = Some(all);
            if all > most {
                best = Some((all, c));
            }
        }
        Ok(best)
    }

    /// The best of all probes in one patch, as far as each lowers the harm of all further.
    fn joined(&mut self, mut best: Vec<(f64, Candidate)>) -> Result<Vec<Candidate>, DiagnoseError> {
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut chosen, mut most) = (Vec::<Candidate>::new(), 0.0);
        for (alone, c) in best {
            if chosen.is_empty() {
                (most, chosen) = (alone, vec![c]);
                continue;
            }
            if chosen.contains(&c) {
                continue;
            }
            let mut with = chosen.clone();
            with.push(c);
            // Two entries may not go together: one exits before the other's block.
            let body = body(&with);
            let Ok(patch) = parse(&body, self.m) else { continue };
            let mut gain = 0.0;
            for b in self.benches {
                gain += self.gain(b, &body, &patch)?;
            }
            if gain > most + LEAST && self.text_cost(&body, &patch)? <= TEXT_COST {
                (most, chosen) = (gain, with);
            }
        }
        Ok(chosen)
    }

    /// By how much a patch with these entries lowers a probe's harm.
    fn gain(&mut self, b: &Bench<'_>, body: &str, patch: &Patch) -> Result<f64, DiagnoseError> {
        if rewrites_only(patch) && b.choose.texts.is_none() {
            return Ok(0.0);
        }
        let key = (b.probe(), body.to_owned());
        if let Some(gain) = self.gains.get(&key) {
            return Ok(*gain);
        }
        let gain = b.before - b.choose.total(self.o, self.m, patch)?;
        self.gains.insert(key, gain);
        Ok(gain)
    }

    /// Nats a token that plain text becomes less likely by.
    fn text_cost(&mut self, body: &str, patch: &Patch) -> Result<f64, DiagnoseError> {
        if rewrites_only(patch) {
            return Ok(0.0);
        }
        if let Some(cost) = self.costs.get(body) {
            return Ok(*cost);
        }
        let cost = mean(&text(self.o, self.m, self.text, &patch.applied())?) - self.plain;
        self.costs.insert(body.to_owned(), cost);
        Ok(cost)
    }
}

/// Whether a patch changes messages and nothing inside.
fn rewrites_only(patch: &Patch) -> bool {
    patch.rewrite.is_some() && patch.interventions.is_empty() && patch.decode.is_empty()
}

/// What a rewriting takes on the items that report.
fn taken(benches: &[Bench<'_>], patch: &Patch) -> Result<Option<Rewriting>, DiagnoseError> {
    let texts = benches.iter().find_map(|b| b.report.texts.as_ref());
    let Some((texts, how)) = texts.zip(patch.rewrite) else { return Ok(None) };
    let applied = texts.asked(Some(how))?.applied;
    Ok(Some(Rewriting { texts: texts.len(), applied, tokens: texts.tokens() }))
}

fn parse<K: refocus_compute::Kernels>(body: &str, m: &Model<K>) -> Result<Patch, DiagnoseError> {
    Ok(Patch::parse(body, Path::new("a candidate"), &m.spec)?)
}

fn body(chosen: &[Candidate]) -> String {
    chosen.iter().map(|c| c.body.as_str()).collect::<Vec<_>>().join("\n")
}

/// A probe's items in two halves; none where it asks too little.
fn bench<'a, O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    subject: Subject<'a>,
    probe: Probe,
    slips: bool,
) -> Result<Option<Bench<'a>>, DiagnoseError> {
    let draw = |items: usize| match probe {
        Probe::Flipflop => flipflop::cases(subject, items),
        Probe::Overthinking => overthinking::cases(&m.spec, subject, items),
        Probe::Recall => recall::cases(&m.spec, subject, items),
        Probe::Distractors => distractors::cases(subject, items),
    };
    let one = draw(1)?;
    if one.len() == 0 {
        return Ok(None);
    }
    // Four times what the probe itself may ask, over all that is tried and both halves.
    let items = subject.budget.items(&m.spec, one.tokens() * TRIED / 4, 40, 400);
    let mut all = draw(items)?;
    // As in the finding where the probe is asked.
    let fits = |p: &Prompt| m.spec.fits(p.ids.len());
    if !all.prompts.iter().all(fits) {
        return Ok(None);
    }
    if matches!(all.rule, Rule::Facts { .. }) {
        let known = all.known(&say(o, m, &all.prompts, &[])?);
        all = all.part(known);
    }
    let half = |from: usize| all.part((from..all.len()).step_by(2));
    let (choose, report) = (half(0), half(1));
    if choose.len() < 8 || report.len() < 8 {
        return Ok(None);
    }
    let before = choose.harm(&say(o, m, &choose.prompts, &[])?).total();
    let [choose_texts, report_texts] = match (probe, subject.template) {
        (Probe::Distractors, Some(template)) if slips && distractors::asks(subject.relation) => {
            let texts = distractors::texts(subject, items)?;
            Texts::judge(o, m, subject.tokenizer, template, texts).halves().map(Some)
        }
        _ => [None, None],
    };
    let choose = Half::new(o, m, choose, choose_texts)?;
    let report = Half::new(o, m, report, report_texts)?;
    Ok(Some(Bench { choose, report, before, slips }))
}

/// Pieces of plain text, as ids.
fn pieces(subject: Subject<'_>) -> Result<Vec<Vec<u32>>, DiagnoseError> {
    let ids = subject.tokenizer.encode(PLAIN, false)?;
    let begin = subject.tokenizer.encode("", true)?;
    let piece = |ids: &[u32]| begin.iter().chain(ids).copied().collect::<Vec<u32>>();
    Ok(ids.chunks_exact(PIECE).take(PIECES).map(piece).collect())
}

/// A harm by item, without and with the patch.
struct Paired {
    probe: Option<Probe>,
    what: String,
    before: Vec<f64>,
    after: Vec<f64>,
    change: Vec<f64>,
}

fn measured<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    benches: &[Bench<'_>],
    pieces: &[Vec<u32>],
    patch: &Patch,
    seed: u64,
) -> Result<(Vec<Change>, Vec<Untouched>), DiagnoseError> {
    let applied = patch.applied();
    let (mut rows, mut untouched) = (Vec::new(), Vec::new());
    let mut add = |probe: Option<Probe>, what: &str, before: Vec<f64>, after: Vec<f64>| {
        let change = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        rows.push(Paired { probe, what: what.to_owned(), before, after, change });
    };
    for b in benches {
        let (half, probe) = (&b.report, Some(b.probe()));
        let [main, side] = half.cases.names();
        if rewrites_only(patch) && half.texts.is_none() {
            let names = [main, side].into_iter().filter(|what| !what.is_empty());
            untouched.extend(names.map(|what| Untouched { probe, what: what.to_owned() }));
            continue;
        }
        let before = half.cases.harm(&say(o, m, &half.cases.prompts, &[])?);
        let (after, told) = half.harm(o, m, patch)?;
        add(probe, main, before.main, after.main);
        if !before.side.is_empty() {
            add(probe, side, before.side, after.side);
        }
        if let Some(told) = told {
            add(probe, TOLD, half.told.clone(), told);
        }
    }
    if rewrites_only(patch) {
        untouched.push(Untouched { probe: None, what: NATS.to_owned() });
    } else {
        add(None, NATS, text(o, m, pieces, &[])?, text(o, m, pieces, &applied)?);
    }
    let measure = |x: &[f64]| {
        let e = Estimate::of(x, seed);
        Measure::within(e.value, e.low, e.high, e.n)
    };
    let test = |r: &Paired| sign_flip(&[Stratum { weight: 1.0, values: r.change.clone() }], seed);
    let p = holm(&rows.iter().map(test).collect::<Vec<_>>());
    let row = |(r, p): (Paired, f64)| Change {
        probe: r.probe,
        what: r.what,
        before: measure(&r.before),
        after: measure(&r.after),
        change: measure(&r.change),
        p,
    };
    Ok((rows.into_iter().zip(p).map(row).collect(), untouched))
}

/// Whether a change can be seen, and is one that chance does not make, after the correction.
fn sure(c: &Change) -> bool {
    c.change.value.abs() >= SHOWN
        && c.p < 0.05
        && (c.change.high.is_some_and(|h| h < 0.0) || c.change.low.is_some_and(|l| l > 0.0))
}

/// Whether a row says that a failure which was there is surely less.
fn repairs(slipping: &[Probe], c: &Change) -> bool {
    // An answer that is told is the control of a rewriting, and no failure.
    c.probe.is_some_and(|p| slipping.contains(&p)) && c.what != TOLD && sure(c) && c.change.value < 0.0
}

/// What came of it.
fn verdict(helps: bool, tried: &[Tried], chosen: &[Candidate], changes: &[Change]) -> String {
    let n = tried.len();
    if n == 0 {
        return "what slips has too few questions of two answers to search on one half of them".to_owned();
    }
    if chosen.is_empty() {
        return format!(
            "of {n} patches none lowered what goes wrong in all on the half that chooses at a cost of at most {TEXT_COST} \
             nats a token of plain text"
        );
    }
    let names = |lower: bool| {
        let of = |c: &&Change| sure(c) && (c.change.value < 0.0) == lower;
        changes.iter().filter(of).map(|c| c.what.as_str()).collect::<Vec<_>>()
    };
    let mut out = if helps {
        format!(
            "chosen of {n} patches on one half; on the other it surely lowers: {}",
            names(true).join(", ")
        )
    } else {
        format!("of {n} patches the best of one half does not surely help on the other")
    };
    let worse = names(false);
    if !worse.is_empty() {
        out.push_str(&format!("; it surely raises: {}", worse.join(", ")));
    }
    out
}
