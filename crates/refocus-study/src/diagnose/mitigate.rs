//! A patch for what slips: tried on one half of the questions, measured on the other.
//!
//! For each probe that slips, a small fixed list of patches is tried ([`candidates`]): sharper attention, the heads
//! that push the wrong answer most set to zero, an earlier exit, a weaker last layer. The best is the one that
//! lowers the harm most on the even items, and costs plain text no more than [`TEXT_COST`]. What was chosen for
//! different probes is joined where that helps on the same half. The odd items then say what it does, to every
//! probe, to plain text, and to what worked before. Everything tried is counted and told.

mod candidates;
mod cases;

use std::path::Path;

use refocus_compute::Ops;
use refocus_measure::{MeasureError, intervals::holm, pushes};
use refocus_model::{Model, Patch};
use serde::{Deserialize, Serialize};

use self::candidates::{Candidate, candidates};
pub(super) use self::cases::{Cases, Prompt, Rule};
use self::cases::{Harm, mean, say, text};
use super::{
    DiagnoseError, Finding, Measure, Probe, State, Subject, distractors, flipflop, overthinking, recall,
};
use crate::overthinking::{Estimate, Stratum, sign_flip};

/// Nats a token that a patch may add to plain text on the half that chooses: about 5 % of perplexity.
pub const TEXT_COST: f64 = 0.05;
/// A gain below this is a sum in another order.
const LEAST: f64 = 1e-9;
/// Tokens of a piece of plain text.
const PIECE: usize = 32;
/// Most pieces of plain text that are read.
const PIECES: usize = 64;
/// Patches tried for a probe, about: what sizes are computed with.
const TRIED: usize = 20;
/// Text that the project wrote, about nothing that is asked.
const PLAIN: &str = include_str!("../../../../tasks/plain.txt");

/// A patch that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// What it was tried against.
    pub probe: Probe,
    /// In words.
    pub name: String,
    /// By how much the harm fell on the items that choose; below 0 where it rose.
    pub gain: f64,
    /// Nats a token that plain text became less likely by.
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
    /// The patch's entries in TOML, without the model's fingerprint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub patch: String,
}

/// A probe's items and what the model says to them as it is.
struct Bench {
    choose: Cases,
    report: Cases,
    /// Of the items that choose, where the failure is there; what does not slip is only reported.
    before: Option<Harm>,
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
            patch: String::new(),
        });
    }
    let mut benches = Vec::new();
    for f in findings.iter().filter(|f| f.state != State::CannotBeTested) {
        benches.extend(bench(o, m, subject, f)?);
    }
    let known = |p: &Probe| benches.iter().any(|b| b.choose.probe == *p);
    let slipping: Vec<Probe> = slipping.into_iter().filter(known).collect();
    let pieces = pieces(subject)?;
    let half = |from: usize| pieces.iter().skip(from).step_by(2).cloned().collect::<Vec<_>>();
    let (choose_text, report_text) = (half(0), half(1));
    let plain = mean(&text(o, m, &choose_text, &[])?);

    let (mut tried, mut best) = (Vec::new(), Vec::<(f64, Candidate)>::new());
    let all = (slipping.len() * TRIED) as u64;
    for (b, before) in slipping_of(&benches) {
        let contrasts = b.choose.contrasts();
        let pushes = match pushes(o, m, &contrasts) {
            // Such a model has no plain sum to attribute: other patches are tried.
            Err(MeasureError::PostNorm) => Vec::new(),
            Ok(_) if contrasts.is_empty() => Vec::new(),
            other => other?,
        };
        let mut top: Option<(f64, Candidate)> = None;
        for c in candidates(&m.spec, b.choose.probe, &pushes) {
            tick(tried.len() as u64, all.max(tried.len() as u64 + 1));
            let patch = parse(&c.body, m)?;
            let harm = b.choose.harm(&say(o, m, &b.choose.prompts, &patch.applied())?);
            let gain = before.total() - harm.total();
            let cost = mean(&text(o, m, &choose_text, &patch.applied())?) - plain;
            tried.push(Tried { probe: b.choose.probe, name: c.name.clone(), gain, text_cost: cost });
            if gain > LEAST && cost <= TEXT_COST && top.as_ref().is_none_or(|(g, _)| gain > *g) {
                top = Some((gain, c));
            }
        }
        best.extend(top);
    }
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut chosen: Vec<Candidate> = Vec::new();
    let mut least = slipping_of(&benches).map(|(_, before)| before.total()).sum::<f64>();
    for (_, c) in best {
        if chosen.contains(&c) {
            continue;
        }
        let mut with = chosen.clone();
        with.push(c);
        // Two entries may not go together: one exits before the other's block.
        let Ok(patch) = parse(&body(&with), m) else { continue };
        let mut harm = 0.0;
        for (b, _) in slipping_of(&benches) {
            harm += b.choose.harm(&say(o, m, &b.choose.prompts, &patch.applied())?).total();
        }
        let cost = mean(&text(o, m, &choose_text, &patch.applied())?) - plain;
        if harm < least - LEAST && cost <= TEXT_COST {
            (least, chosen) = (harm, with);
        }
    }
    let body = body(&chosen);
    let changes = if chosen.is_empty() {
        Vec::new()
    } else {
        changes(o, m, &benches, &report_text, &parse(&body, m)?, subject.seed)?
    };
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
        patch: body,
    })
}

/// What a patch is searched for.
fn slipping_of(benches: &[Bench]) -> impl Iterator<Item = (&Bench, &Harm)> {
    benches.iter().filter_map(|b| Some((b, b.before.as_ref()?)))
}

fn parse<K: refocus_compute::Kernels>(body: &str, m: &Model<K>) -> Result<Patch, DiagnoseError> {
    Ok(Patch::parse(body, Path::new("a candidate"), &m.spec)?)
}

fn body(chosen: &[Candidate]) -> String {
    chosen.iter().map(|c| c.body.as_str()).collect::<Vec<_>>().join("\n")
}

/// A probe's items in two halves; none where it asks too little.
fn bench<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    subject: Subject<'_>,
    f: &Finding,
) -> Result<Option<Bench>, DiagnoseError> {
    let draw = |items: usize| match f.probe {
        Probe::Flipflop => flipflop::cases(subject, items),
        Probe::Overthinking => overthinking::cases(&m.spec, subject, items),
        Probe::Recall => recall::cases(subject, items),
        Probe::Distractors => distractors::cases(subject, items),
    };
    let one = draw(1)?;
    if one.len() == 0 {
        return Ok(None);
    }
    // Four times what the probe itself may ask, over all that is tried and both halves.
    let items = subject.budget.items(&m.spec, one.tokens() * TRIED / 4, 40, 400);
    let mut all = draw(items)?;
    if matches!(all.rule, Rule::Facts { .. }) {
        let known = all.known(&say(o, m, &all.prompts, &[])?);
        all = all.part(known);
    }
    let half = |from: usize| all.part((from..all.len()).step_by(2));
    let (choose, report) = (half(0), half(1));
    if choose.len() < 8 || report.len() < 8 {
        return Ok(None);
    }
    let before = match f.state {
        State::Slips => Some(choose.harm(&say(o, m, &choose.prompts, &[])?)),
        _ => None,
    };
    Ok(Some(Bench { choose, report, before }))
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

fn changes<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    benches: &[Bench],
    pieces: &[Vec<u32>],
    patch: &Patch,
    seed: u64,
) -> Result<Vec<Change>, DiagnoseError> {
    let applied = patch.applied();
    let mut rows = Vec::new();
    let mut add = |probe: Option<Probe>, what: &str, before: Vec<f64>, after: Vec<f64>| {
        let change = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        rows.push(Paired { probe, what: what.to_owned(), before, after, change });
    };
    for b in benches {
        let before = b.report.harm(&say(o, m, &b.report.prompts, &[])?);
        let after = b.report.harm(&say(o, m, &b.report.prompts, &applied)?);
        let [main, side] = b.report.names();
        add(Some(b.report.probe), main, before.main, after.main);
        if !before.side.is_empty() {
            add(Some(b.report.probe), side, before.side, after.side);
        }
    }
    add(None, "nats a token of plain text", text(o, m, pieces, &[])?, text(o, m, pieces, &applied)?);
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
    Ok(rows.into_iter().zip(p).map(row).collect())
}

/// Whether a change is one that chance does not make, after the correction.
fn sure(c: &Change) -> bool {
    c.p < 0.05 && (c.change.high.is_some_and(|h| h < 0.0) || c.change.low.is_some_and(|l| l > 0.0))
}

/// Whether a row says that a failure which was there is surely less.
fn repairs(slipping: &[Probe], c: &Change) -> bool {
    c.probe.is_some_and(|p| slipping.contains(&p)) && sure(c) && c.change.value < 0.0
}

/// What came of it.
fn verdict(helps: bool, tried: &[Tried], chosen: &[Candidate], changes: &[Change]) -> String {
    let n = tried.len();
    if n == 0 {
        return "what slips has too few questions of two answers to search on one half of them".to_owned();
    }
    if chosen.is_empty() {
        return format!(
            "of {n} patches none lowered a failure on the half that chooses at a cost of at most {TEXT_COST} nats a \
             token of plain text"
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
