//! What repairs gain and what they cost: answers of the prompts beside perplexity, calibration and function words of
//! plain text. On text a repair of the last position acts at every position but the first, as while decoding.

use std::collections::BTreeMap;
use std::sync::Arc;

use refocus_compute::{Batch, KvUse, Ops, RowSet};
use refocus_measure::MeasureError;
use refocus_measure::recall::{Prompt, logits};
use refocus_model::patch::Decode;
use refocus_model::{
    Applied, Intervention, Kind, Mode, Model, Plan, Position, Reading, Readout, RunError, Site, forward,
    forward_from,
};
use serde::{Deserialize, Serialize};

use super::mitigate::Repair;
use super::{FEWEST, Judged, SIGNIFICANT, Saying, by_fact, facts, halves, pick, together};
use crate::Verdict;
use crate::overthinking::Estimate;

/// Tokens of a piece of text, where the context has room for so many.
const PIECE: usize = 128;
/// Sequences that go through the model together.
const TOGETHER: usize = 8;
/// Rows whose logits over the vocabulary are held together.
const ROWS: usize = 64;
/// Bins of confidence of the calibration error.
const BINS: usize = 15;
/// Steps of the search for a temperature.
const STEPS: usize = 30;

const C9: Saying = Saying {
    id: "C9",
    claim: "acting on the last block's heads or on its MLP's intercept raises the answer",
    control: "other heads, a random vector, the mean over plain text, a temperature of equal entropy, the unigram prior",
};

/// What one position's logits say.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    prob: f64,
    rank: u32,
    top: f64,
    top_id: u32,
    entropy: f64,
}

fn row(logits: &[f32], target: u32) -> Row {
    let (mut top_id, mut best) = (0, f32::NEG_INFINITY);
    for (i, &x) in logits.iter().enumerate() {
        if x > best {
            (top_id, best) = (i as u32, x);
        }
    }
    let own = logits[target as usize];
    let (mut sum, mut weighted, mut rank) = (0.0f64, 0.0f64, 0);
    for &x in logits {
        let e = f64::from((x - best).exp());
        sum += e;
        weighted += e * f64::from(x - best);
        rank += u32::from(x > own);
    }
    Row {
        prob: f64::from((own - best).exp()) / sum,
        rank,
        top: 1.0 / sum,
        top_id,
        entropy: sum.ln() - weighted / sum,
    }
}

/// Text to pay on.
pub struct Text<'a> {
    /// Tokens, in pieces of which nothing crosses into the next.
    pub ids: &'a [u32],
    /// Tokens that are function words.
    pub function_words: &'a [u32],
}

/// What a repair costs on plain text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// exp of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Expected calibration error of the first choice, 15 bins.
    pub ece: f64,
    /// Mean squared distance of the first choice's probability from whether it was right.
    pub brier: f64,
    /// Share of function words in the text that are the first choice.
    /// Absent where the text has none.
    pub function_words: Option<f64>,
    /// Tokens predicted.
    pub n: usize,
}

/// A repair as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Priced {
    /// Its name.
    pub name: String,
    /// In words.
    pub what: String,
    /// Whether it is a control.
    pub is_control: bool,
    /// Probability of the answer.
    pub prob: Estimate,
    /// Its gain.
    pub gain: Estimate,
    /// Gain by how likely the unchanged model holds the answer: below 0.1, to 0.5, above.
    pub gain_by_confidence: [Option<Estimate>; 3],
    /// Gain of the share of prompts whose answer is the first choice.
    pub right: Estimate,
    /// Change of log₁₀(rank + 1).
    pub rank: Estimate,
    /// Probability that chance alone makes the gain as large, after Holm's correction over all repairs.
    pub p_gain: f64,
    /// Mean entropy (nats) of the next token.
    pub entropy: f64,
    /// On plain text.
    pub price: Price,
    /// Gains by fact.
    #[serde(skip)]
    gains: Vec<f64>,
}

/// Measures repairs on prompts and text. To the controls comes, for each repair that is none, a temperature that makes
/// the unchanged model's mean entropy on the prompts equal to the repair's.
///
/// # Errors
/// A text of one token; what the forward pass reports.
pub fn measure<O: Ops>(
    o: &mut O,
    m: &Model<O::K>,
    prompts: &[Prompt],
    text: &Text<'_>,
    repairs: &[Repair],
    seed: u64,
    mut tick: impl FnMut(usize, usize),
) -> Result<Vec<Priced>, MeasureError> {
    let start = first_touched(repairs, m.spec.n_layers);
    let sequences: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let targets: Vec<u32> = prompts.iter().map(|p| p.answer).collect();
    let asked = Begun::run(o, m, &sequences, Ends::Last, (start, targets.clone()))?;
    let pieces: Vec<Vec<u32>> =
        text.ids.chunks(PIECE.min(m.spec.n_ctx)).filter(|c| c.len() > 1).map(<[u32]>::to_vec).collect();
    if pieces.is_empty() {
        return Err(MeasureError::ShortText { distinct: text.ids.len(), needed: 2 });
    }
    let words: Vec<u32> = pieces.iter().flat_map(|p| p[1..].iter().copied()).collect();
    let paying = Begun::run(o, m, &pieces, Ends::All, (start, words.clone()))?;
    let mut rows: Vec<(Repair, Vec<Row>, Vec<Row>)> = Vec::new();
    for (i, repair) in repairs.iter().enumerate() {
        let (own, paid) = (asked.with(o, m, repair)?, paying.with(o, m, repair)?);
        rows.push((repair.clone(), own, paid));
        tick(i + 1, repairs.len());
    }
    let entropy = |rows: &[Row]| rows.iter().map(|r| r.entropy).sum::<f64>() / rows.len() as f64;
    let plain = asked.stream(o, m, &Repair::nothing())?;
    let plain = logits(o, m, &plain)?;
    for i in 0..rows.len() {
        if rows[i].0.is_control {
            continue;
        }
        let wanted = entropy(&rows[i].1);
        let (mut low, mut high) = (0.2f32, 5.0f32);
        let at = |t: f32| Repair {
            name: format!("temperature_{}", rows[i].0.name),
            what: format!("Divides the logits by {t:.3}, for as much entropy as {}.", rows[i].0.name),
            is_control: true,
            interventions: vec![],
            decode: vec![Decode::Temperature(t)],
        };
        for _ in 0..STEPS {
            let t = f32::midpoint(low, high);
            let got = entropy(&decoded(&plain, m.spec.vocab, &at(t).decode, &targets));
            if got < wanted { low = t } else { high = t }
        }
        let repair = at(f32::midpoint(low, high));
        let own = decoded(&plain, m.spec.vocab, &repair.decode, &targets);
        let paid = paying.with(o, m, &repair)?;
        rows.push((repair, own, paid));
    }
    let base = rows.first().map(|r| r.1.clone()).unwrap_or_default();
    let mut out: Vec<Priced> = rows
        .into_iter()
        .map(|(repair, own, paid)| priced(prompts, &base, repair, &own, price(&paid, &words, text), seed))
        .collect();
    let p = together(&out.iter().map(|p| p.gains.clone()).collect::<Vec<_>>(), seed);
    out.iter_mut().zip(p).for_each(|(o, p)| o.p_gain = p);
    Ok(out)
}

fn priced(prompts: &[Prompt], base: &[Row], repair: Repair, own: &[Row], price: Price, seed: u64) -> Priced {
    let pairs = || base.iter().zip(own);
    let gains = by_fact(prompts, pairs().map(|(a, b)| Some(b.prob - a.prob)));
    let of = |values: Vec<f64>| Estimate::of(&values, seed);
    let bin = |low: f64, high: f64| {
        let inside = pairs().map(|(a, b)| (low..high).contains(&a.prob).then_some(b.prob - a.prob));
        Some(by_fact(prompts, inside)).filter(|v| !v.is_empty()).map(of)
    };
    let log = |r: &Row| (f64::from(r.rank) + 1.0).log10();
    let right = |r: &Row| f64::from(u8::from(r.rank == 0));
    Priced {
        name: repair.name,
        what: repair.what,
        is_control: repair.is_control,
        prob: of(by_fact(prompts, own.iter().map(|r| Some(r.prob)))),
        gain: of(gains.clone()),
        gain_by_confidence: [bin(0.0, 0.1), bin(0.1, 0.5), bin(0.5, f64::INFINITY)],
        right: of(by_fact(prompts, pairs().map(|(a, b)| Some(right(b) - right(a))))),
        rank: of(by_fact(prompts, pairs().map(|(a, b)| Some(log(b) - log(a))))),
        p_gain: f64::NAN,
        entropy: own.iter().map(|r| r.entropy).sum::<f64>() / own.len().max(1) as f64,
        price,
        gains,
    }
}

fn price(rows: &[Row], words: &[u32], text: &Text<'_>) -> Price {
    let n = rows.len() as f64;
    let right = |r: &Row, id: u32| f64::from(u8::from(r.top_id == id));
    let mut bins = [(0.0, 0.0); BINS];
    let (mut nll, mut brier, mut function, mut of) = (0.0, 0.0, 0.0, 0.0);
    for (r, &id) in rows.iter().zip(words) {
        nll -= r.prob.max(f64::MIN_POSITIVE).ln();
        brier += (r.top - right(r, id)).powi(2);
        let bin = &mut bins[((r.top * BINS as f64) as usize).min(BINS - 1)];
        (bin.0, bin.1) = (bin.0 + r.top, bin.1 + right(r, id));
        if text.function_words.contains(&id) {
            (function, of) = (function + right(r, id), of + 1.0);
        }
    }
    Price {
        perplexity: (nll / n).exp(),
        ece: bins.iter().map(|(top, right)| (top - right).abs()).sum::<f64>() / n,
        brier: brier / n,
        function_words: (of > 0.0).then(|| function / of),
        n: rows.len(),
    }
}

/// Rows that are asked for.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// The last of each sequence.
    Last,
    /// All but the last of each sequence.
    All,
}

/// Sequences up to the first block that any repair touches, which no repair has to run again.
struct Begun<T> {
    start: usize,
    ends: Ends,
    /// Batch, rows asked for, and the residual stream before the block.
    parts: Vec<(Batch, RowSet, T)>,
    /// What follows each asked row.
    targets: Vec<u32>,
}

impl<T: Clone> Begun<T> {
    fn run<O: Ops<T = T>>(
        o: &mut O,
        m: &Model<O::K>,
        sequences: &[Vec<u32>],
        ends: Ends,
        (start, targets): (usize, Vec<u32>),
    ) -> Result<Self, MeasureError> {
        let before = [Readout::Raw { site: Site::new(start, Kind::ResidPre), rows: None }];
        let mut parts = Vec::new();
        for some in sequences.chunks(TOGETHER) {
            let batch = Batch::from_lengths(some.iter().map(Vec::len));
            let asked = |s: &refocus_compute::Seg| match ends {
                Ends::Last => s.rows.end - 1..s.rows.end,
                Ends::All => s.rows.start..s.rows.end - 1,
            };
            let rows = RowSet::new(batch.segs.iter().flat_map(asked).collect());
            let plan = Plan::compile(&m.spec, &batch, &before, &[], Mode::default())?;
            let mut got = forward(o, m, &some.concat(), &plan, KvUse::None)?;
            let Some(Reading::Matrix(x)) = got.pop() else { return Err(RunError::Unread(0).into()) };
            parts.push((batch, rows, x));
        }
        Ok(Self { start, ends, parts, targets })
    }

    /// What every asked row says under a repair.
    fn with<O: Ops<T = T>>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        repair: &Repair,
    ) -> Result<Vec<Row>, MeasureError> {
        let resid = self.stream(o, m, repair)?;
        let (d, mut out) = (m.spec.d_model, Vec::with_capacity(self.targets.len()));
        for (rows, targets) in resid.chunks(ROWS * d).zip(self.targets.chunks(ROWS)) {
            out.extend(decoded(&logits(o, m, rows)?, m.spec.vocab, &repair.decode, targets));
        }
        Ok(out)
    }

    /// Last residual streams of the asked rows, `[rows, d_model]`.
    fn stream<O: Ops<T = T>>(
        &self,
        o: &mut O,
        m: &Model<O::K>,
        repair: &Repair,
    ) -> Result<Vec<f32>, MeasureError> {
        let last = Site::new(m.spec.n_layers - 1, Kind::ResidPost);
        let applied: Vec<Applied> = repair
            .interventions
            .iter()
            .flat_map(|i| self.positions(i))
            .map(|i| Applied { what: Arc::new(i), segs: None })
            .collect();
        let mut out = Vec::new();
        for (batch, rows, x) in &self.parts {
            let readout = [Readout::Raw { site: last, rows: Some(rows.clone()) }];
            let plan = Plan::resume(&m.spec, batch, self.start, &readout, &applied)?;
            let got = forward_from(o, m, x.clone(), &plan, KvUse::None)?;
            out.extend(o.to_host(got[0].matrix().ok_or(RunError::Unread(0))?)?);
        }
        Ok(out)
    }
}

impl<T> Begun<T> {
    /// On text each position is the last of what comes before, as while decoding.
    fn positions(&self, i: &Intervention) -> Vec<Intervention> {
        if self.ends == Ends::Last || i.position != Position::Last {
            return vec![i.clone()];
        }
        let longest = self.parts.iter().flat_map(|p| &p.0.segs).map(|s| s.rows.len() as u32).max();
        let at = |p: u32| Intervention { position: Position::At(p), ..i.clone() };
        (1..longest.unwrap_or(0)).map(at).collect()
    }
}

/// The first block that a repair touches, or that decides whether it acts.
fn first_touched(repairs: &[Repair], n_layers: usize) -> usize {
    let all = repairs.iter().flat_map(|r| &r.interventions);
    let one = |i: &Intervention| i.when.map_or(i.site.layer, |g| g.lens_layer.min(i.site.layer));
    all.map(one).min().unwrap_or(n_layers - 1)
}

fn decoded(logits: &[f32], vocab: usize, decode: &[Decode], targets: &[u32]) -> Vec<Row> {
    let mut own = vec![0.0; vocab];
    let one = |(all, &target): (&[f32], &u32)| {
        own.copy_from_slice(all);
        for d in decode {
            // Every decode of a repair needs the row alone.
            let _applied = d.apply(&mut own);
        }
        row(&own, target)
    };
    logits.chunks_exact(vocab).zip(targets).map(one).collect()
}

/// Mean of what the MLP of the last block writes over all tokens of a text, `[d_model]`.
///
/// # Errors
/// What the forward pass reports.
pub fn generic_mean<O: Ops>(o: &mut O, m: &Model<O::K>, ids: &[u32]) -> Result<Arc<[f32]>, MeasureError> {
    let site = Site::new(m.spec.n_layers - 1, Kind::MlpOut);
    let (mut sum, mut n) = (vec![0.0f64; m.spec.d_model], 0);
    for piece in ids.chunks(PIECE.min(m.spec.n_ctx)) {
        let batch = Batch::from_lengths([piece.len()]);
        let readout = [Readout::Raw { site, rows: None }];
        let plan = Plan::compile(&m.spec, &batch, &readout, &[], Mode::default())?;
        let got = forward(o, m, piece, &plan, KvUse::None)?;
        let rows = o.to_host(got[0].matrix().ok_or(RunError::Unread(0))?)?;
        for row in rows.chunks_exact(m.spec.d_model) {
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
            n += 1;
        }
    }
    if n == 0 {
        return Err(MeasureError::ShortText { distinct: 0, needed: 1 });
    }
    Ok(sum.iter().map(|s| (s / f64::from(n)) as f32).collect())
}

/// The repair with the largest gain.
pub fn best(all: &[Priced]) -> Option<&Priced> {
    all.iter().filter(|p| !p.is_control).max_by(|a, b| a.gain.value.total_cmp(&b.gain.value))
}

/// C9: the repairs raise the answer. Judged is the best of the repairs that change the intercept or the heads (by its
/// gain, so all of them count in Holm's correction). It holds where its gain's interval is above 0 and it gains more,
/// fact by fact, than every control: other heads, a random vector, the mean over plain text, a temperature of the same
/// entropy, and the unigram prior. It holds conditionally where it beats all but the mean over text, the temperature
/// and the prior: then it is a known effect. It does not hold where no repair's interval exceeds a gain of 0.01, or where
/// the interval of what it gains over other heads or a random vector lies at or below 0.
pub fn judge(prompts: &[Prompt], all: &[Priced], seed: u64) -> Judged {
    let n = facts(prompts);
    let judged = |verdict, why| C9.fared(verdict, why, n);
    let Some(best) = best(all).filter(|_| n >= FEWEST) else {
        return judged(Verdict::CannotBeTested, format!("{n} facts, {FEWEST} are needed"));
    };
    if all.iter().filter(|p| !p.is_control).all(|p| p.gain.high < 0.01) {
        return judged(
            Verdict::DoesNotHold,
            format!("the best, {}, gains {:+.3}", best.name, best.gain.value),
        );
    }
    let rivals: Vec<&Priced> = all
        .iter()
        .filter(|p| p.is_control && p.name != "none")
        .filter(|p| !p.name.starts_with("temperature_") || p.name == format!("temperature_{}", best.name))
        .collect();
    let over: Vec<Vec<f64>> =
        rivals.iter().map(|r| best.gains.iter().zip(&r.gains).map(|(a, b)| a - b).collect()).collect();
    let p = together(&over, seed);
    let beaten: BTreeMap<&str, bool> = rivals
        .iter()
        .zip(over.iter().zip(p))
        .map(|(r, (d, p))| (r.name.as_str(), p < SIGNIFICANT && d.iter().sum::<f64>() > 0.0))
        .collect();
    let not: Vec<&str> = beaten.iter().filter(|(_, won)| !**won).map(|(name, _)| *name).collect();
    let known = |name: &&str| ["temperature_", "unigram_", "generic_"].iter().any(|k| name.starts_with(k));
    let surpassed =
        rivals.iter().zip(&over).any(|(r, d)| !known(&r.name.as_str()) && Estimate::of(d, seed).high <= 0.0);
    let told = format!(
        "{} gains {:+.3} [{:+.3}, {:+.3}] at perplexity {:.1} (of {:.1}); not better than: {}",
        best.name,
        best.gain.value,
        best.gain.low,
        best.gain.high,
        best.price.perplexity,
        all.first().map_or(f64::NAN, |p| p.price.perplexity),
        if not.is_empty() { "nothing".to_owned() } else { not.join(" ") }
    );
    if best.gain.low <= 0.0 || best.p_gain >= SIGNIFICANT {
        return judged(Verdict::CannotBeTested, told);
    }
    match (not.is_empty(), not.iter().all(known)) {
        (true, _) => judged(Verdict::Holds, told),
        (false, true) => judged(Verdict::Conditional, told),
        _ if surpassed => judged(Verdict::DoesNotHold, told),
        _ => judged(Verdict::CannotBeTested, told),
    }
}

/// The prompts that measure: those of the facts that did not choose.
pub fn measuring(prompts: &[Prompt]) -> Vec<Prompt> {
    pick(prompts, &halves(prompts)[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_a_softmax_says() {
        let logits = [1.0f32, 3.0, 2.0, 3.0];
        let z: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        let p: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp() / z).collect();
        let r = row(&logits, 2);
        assert!((r.prob - p[2]).abs() < 1e-7 && (r.top - p[1]).abs() < 1e-7);
        assert!((r.entropy + p.iter().map(|p| p * p.ln()).sum::<f64>()).abs() < 1e-6);
        assert_eq!((r.rank, r.top_id), (2, 1));
    }

    #[test]
    fn calibration_is_counted_by_hand() {
        let sure = |prob: f64, top_id: u32| Row { prob, rank: 0, top: 0.9, top_id, entropy: 0.0 };
        // Right, wrong, right: confidence 0.9 against accuracy 2/3.
        let rows = [sure(0.9, 5), sure(0.05, 5), sure(0.9, 7)];
        let p = price(&rows, &[5, 6, 7], &Text { ids: &[], function_words: &[6, 7] });
        assert!((p.ece - (0.9 - 2.0 / 3.0)).abs() < 1e-9 && p.n == 3);
        assert!((p.brier - (0.01 + 0.81 + 0.01) / 3.0).abs() < 1e-9);
        assert!((p.perplexity - (0.9f64 * 0.05 * 0.9).powf(-1.0 / 3.0)).abs() < 1e-9);
        assert_eq!(p.function_words, Some(0.5));
    }

    fn priced(name: &str, is_control: bool, gains: &[f64]) -> Priced {
        let of = |v: &[f64]| Estimate::of(v, 1);
        let price = Price { perplexity: 20.0, ece: 0.1, brier: 0.1, function_words: Some(0.5), n: 100 };
        let (name, what) = (name.to_owned(), String::new());
        Priced {
            name,
            what,
            is_control,
            prob: of(gains),
            gain: of(gains),
            gain_by_confidence: [None; 3],
            right: of(gains),
            rank: of(gains),
            p_gain: 0.001,
            entropy: 1.0,
            price,
            gains: gains.to_vec(),
        }
    }

    #[test]
    fn a_gain_is_judged_by_what_it_beats() {
        let prompt =
            |fact| Prompt { ids: vec![1], answer: 0, argument: None, argument_at: 0, fact, template: 0 };
        let prompts: Vec<Prompt> = (0..16).map(prompt).collect();
        let gains = |by: f64| -> Vec<f64> { (0..16).map(|i| by + 0.001 * f64::from(i % 3)).collect() };
        let of = |repair: f64, vector: f64, prior: f64| {
            let all = [
                priced("none", true, &[0.0; 16]),
                priced("both_0.5", false, &gains(repair)),
                priced("random_vector_0.5", true, &gains(vector)),
                priced("unigram_0.25", true, &gains(prior)),
                priced("temperature_heads_zero", true, &gains(0.9)),
            ];
            judge(&prompts, &all, 1).verdict
        };
        assert_eq!(of(0.2, 0.0, 0.05), Verdict::Holds);
        assert_eq!(of(0.2, 0.0, 0.3), Verdict::Conditional);
        assert_eq!(of(0.2, 0.3, 0.05), Verdict::DoesNotHold);
        assert_eq!(of(-0.1, 0.0, 0.0), Verdict::DoesNotHold);
        assert_eq!(judge(&prompts[..8], &[], 1).verdict, Verdict::CannotBeTested);
    }
}
