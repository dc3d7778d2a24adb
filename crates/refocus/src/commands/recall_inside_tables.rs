//! What `recall` finds inside, as rows of tables.

use refocus_results::RunFolder;
use refocus_results::recall as rows;
use refocus_study::overthinking::Estimate;
use refocus_study::recall::heads::Passer;
use refocus_study::recall::inside::{HeadsFound, LastFound, MlpFound, ShotsFound, SwapFound};
use refocus_study::recall::intercept::{Intercept, Promotes};
use refocus_study::recall::price::Priced;

use super::recall_inside::Found;
use crate::failure::Outcome;

const SHARE: &str = "share";
const PROBABILITY: &str = "probability";
const LOGITS: &str = "logits";
const NATS: &str = "nats";
const RANK: &str = "log₁₀ rank";
/// Without a unit.
const NONE: &str = "";

/// Writes both tables, where there is something in them.
pub(super) fn write(run: &mut RunFolder, all: &[Found]) -> Outcome<()> {
    let numbers: Vec<rows::Number> = all.iter().flat_map(numbers).collect();
    if !numbers.is_empty() {
        run.write(&numbers)?;
    }
    let repairs: Vec<rows::Repair> =
        all.iter().flat_map(|f| f.mitigate.iter().flat_map(|m| &m.repairs).map(|r| repair(f, r))).collect();
    if !repairs.is_empty() {
        run.write(&repairs)?;
    }
    Ok(())
}

/// Rows about one thing.
struct About<'a> {
    found: &'a Found,
    stage: &'static str,
    shots: usize,
    about: String,
    layer: Option<usize>,
    head: Option<usize>,
}

impl About<'_> {
    fn row(&self, measure: &str, value: f64, unit: &str) -> rows::Number {
        rows::Number {
            stage: self.stage.to_owned(),
            relation: self.found.relation.clone(),
            form: self.found.form.name().to_owned(),
            shots: self.shots as i64,
            about: self.about.clone(),
            layer: self.layer.map(|l| l as i64),
            head: self.head.map(|h| h as i64),
            measure: measure.to_owned(),
            value,
            low: None,
            high: None,
            p: None,
            n: None,
            unit: unit.to_owned(),
        }
    }

    fn estimate(&self, measure: &str, e: &Estimate, unit: &str) -> rows::Number {
        let n = Some(e.n as i64);
        rows::Number { low: Some(e.low), high: Some(e.high), n, ..self.row(measure, e.value, unit) }
    }

    fn tested(&self, measure: &str, e: &Estimate, p: f64, unit: &str) -> rows::Number {
        rows::Number { p: Some(p), ..self.estimate(measure, e, unit) }
    }
}

/// What is no number is no row, or a missing end of an interval.
fn finite(mut row: rows::Number) -> Option<rows::Number> {
    let only = |x: Option<f64>| x.filter(|x| x.is_finite());
    (row.low, row.high, row.p) = (only(row.low), only(row.high), only(row.p));
    row.value.is_finite().then_some(row)
}

fn numbers(f: &Found) -> Vec<rows::Number> {
    let mut out = Vec::new();
    if let Some(h) = &f.heads {
        heads(f, h, &mut out);
    }
    if let Some(m) = &f.mlp {
        fits(f, m, &mut out);
        added(&About { shots: 0, ..intercept_of(f, m.intercept.layer) }, &m.intercept, &mut out);
    }
    if let Some(s) = &f.swap {
        swapped(f, s, &mut out);
    }
    if let Some(s) = &f.shots {
        shots(f, s, &mut out);
    }
    if let Some(l) = &f.last {
        last(f, l, &mut out);
    }
    out.into_iter().filter_map(finite).collect()
}

fn heads(found: &Found, h: &HeadsFound, out: &mut Vec<rows::Number>) {
    let about = |about: &str, layer, head| About {
        found,
        stage: "heads",
        shots: 0,
        about: about.to_owned(),
        layer,
        head,
    };
    for s in &h.senders {
        let of = about(&s.sender, Some(s.layer), s.head);
        out.push(of.estimate("path", &s.ratio_of_means, SHARE));
        out.push(of.row("path_mean_of_ratios", s.mean_of_ratios, SHARE));
        out.extend(s.argument.as_ref().map(|e| of.estimate("path_argument", e, SHARE)));
        out.push(of.estimate("path_logit", &s.logit, LOGITS));
        for (name, e) in [("resampled", &s.resampled), ("zero", &s.zero), ("mean", &s.mean)] {
            out.push(of.estimate(name, e, SHARE));
        }
    }
    for part in &h.parts {
        let sender = h.senders.iter().find(|s| s.sender == part.part);
        let of = about(&part.part, sender.map(|s| s.layer), sender.and_then(|s| s.head));
        out.push(of.estimate("direct", &part.answer, LOGITS));
        out.extend(part.argument.as_ref().map(|e| of.estimate("direct_argument", e, LOGITS)));
        out.push(of.row("norm", part.norm, NONE));
    }
    for (stage, all) in [("chosen", &h.passers), ("named", &h.named)] {
        all.iter().for_each(|p| closely(found, stage, p, out));
    }
}

fn closely(found: &Found, stage: &'static str, p: &Passer, out: &mut Vec<rows::Number>) {
    let (layer, head) = (p.id.layer, p.id.head);
    let about = format!("{layer}.{head}");
    let of = About { found, stage, shots: 0, about, layer: Some(layer), head: Some(head) };
    out.push(of.tested("effect", &p.effect, p.p_effect, SHARE));
    out.push(of.estimate("attention", &p.attention, SHARE));
    out.push(of.tested("attention_over_random", &p.over_random, p.p_attention, SHARE));
    out.extend(p.r.as_ref().map(|e| of.estimate("r", e, NONE)));
    if let Some(ov) = &p.ov {
        out.push(of.estimate("ov_answer", &ov.answer, RANK));
        out.extend(ov.argument.as_ref().map(|e| of.estimate("ov_argument", e, RANK)));
        let chance = |p: Option<f64>| p.unwrap_or(f64::NAN);
        out.push(of.tested("ov_over_shuffled", &ov.over_shuffled, chance(p.p_shuffled), RANK));
        out.push(of.tested("ov_over_random", &ov.over_random, chance(p.p_random), RANK));
    }
}

fn fits(found: &Found, m: &MlpFound, out: &mut Vec<rows::Number>) {
    for fit in &m.fits {
        let on = if fit.cumulative { "everything" } else { "block" };
        let layer = Some(fit.layer);
        let of = About { found, stage: "mlp", shots: 0, about: on.to_owned(), layer, head: None };
        out.push(of.estimate("r2", &fit.r2, NONE));
        out.extend(fit.r2_templates.map(|x| of.row("r2_templates", x, NONE)));
        let alone = [
            ("r2_permuted", fit.r2_permuted),
            ("r2_intercept", fit.r2_intercept),
            ("r2_intercept_uncentred", fit.r2_intercept_uncentred),
            ("r2_matrix", fit.r2_matrix),
            ("r2_matrix_permuted", fit.r2_matrix_permuted),
            ("r2_first_order", fit.r2_first_order),
            ("condition", fit.condition.unwrap_or(f64::INFINITY)),
        ];
        out.extend(alone.map(|(name, x)| of.row(name, x, NONE)));
        out.extend(fit.r2_by_ridge.iter().map(|(ridge, x)| of.row(&format!("r2_ridge_{ridge:e}"), *x, NONE)));
        for (what, r) in [("rebuilt", &fit.reconstructed), ("mean", &fit.mean_alone)] {
            out.push(of.estimate(&format!("kl_{what}"), &r.kl, NATS));
            out.push(of.estimate(&format!("prob_{what}"), &r.prob, PROBABILITY));
        }
        out.push(of.tested("kl_gain", &fit.kl_gain, fit.p_kl_gain, NATS));
        for w in &fit.weights {
            let Some(weight) = &w.weight else { continue };
            let of = About { found, stage: "weights", shots: 0, about: w.part.clone(), layer, head: None };
            out.push(of.tested(on, weight, w.p.unwrap_or(f64::NAN), NONE));
        }
    }
}

fn intercept_of(found: &Found, layer: usize) -> About<'_> {
    let about = "intercept".to_owned();
    About { found, stage: "intercept", shots: 0, about, layer: Some(layer), head: None }
}

/// What the intercept does, beside a random vector.
fn added(of: &About<'_>, i: &Intercept, out: &mut Vec<rows::Number>) {
    let random = About { about: "random vector".to_owned(), ..*of };
    let mut promotes = |of: &About<'_>, p: &Promotes, cosine: Option<f64>| {
        out.push(of.estimate("answer", &p.answer, RANK));
        out.extend(p.argument.as_ref().map(|e| of.estimate("argument", e, RANK)));
        out.push(of.estimate("others", &p.others, RANK));
        out.extend(cosine.map(|c| of.row("cosine", c, NONE)));
    };
    promotes(of, &i.own, i.cosine);
    promotes(&random, &i.random, i.cosine_random);
    out.push(of.estimate("specific", &i.specific, RANK));
    out.push(of.estimate("without", &i.without, LOGITS));
}

fn swapped(found: &Found, s: &SwapFound, out: &mut Vec<rows::Number>) {
    let about = |what: &str| About {
        about: what.to_owned(),
        ..intercept_of(found, found.mlp.as_ref().map_or(0, |m| m.intercept.layer))
    };
    let (of, random) = (about(&format!("{}'s in its place", s.with)), about("random vector in its place"));
    out.push(of.estimate("own_answer", &s.swapped.own, LOGITS));
    out.push(random.estimate("own_answer", &s.swapped.random, LOGITS));
    out.extend(s.swapped.other.as_ref().map(|e| of.estimate("their_answer", e, RANK)));
    out.extend(s.swapped.other_random.as_ref().map(|e| random.estimate("their_answer", e, RANK)));
}

fn shots(found: &Found, all: &ShotsFound, out: &mut Vec<rows::Number>) {
    for at in &all.at {
        let about = |what: &str| About {
            found,
            stage: "shots",
            shots: at.shots,
            about: what.to_owned(),
            layer: None,
            head: None,
        };
        let heads = about("heads");
        out.push(heads.estimate("pi", &at.pi, LOGITS));
        out.push(heads.estimate("correlation", &at.correlation, NONE));
        out.push(heads.row("kept", at.kept as f64, "heads"));
        out.extend(at.halves.map(|x| heads.row("halves", x, NONE)));
        out.extend(at.across.map(|x| heads.row("across", x, NONE)));
        for t in &at.top {
            let (layer, head) = (Some(t.id.layer), Some(t.id.head));
            let of = About { layer, head, ..about(&format!("{}.{}", t.id.layer, t.id.head)) };
            out.push(of.estimate("path", &t.effect, SHARE));
        }
        let layer = Some(at.intercept.layer);
        let fit = About { layer, ..about("everything") };
        out.push(fit.estimate("r2", &at.fit.r2, NONE));
        out.push(fit.row("r2_permuted", at.fit.r2_permuted, NONE));
        out.push(fit.estimate("kl_gain", &at.fit.kl_gain, NATS));
        let of = About { layer, ..about("intercept") };
        out.extend(at.cosine.map(|x| of.row("cosine_without_facts", x, NONE)));
        added(&of, &at.intercept, out);
    }
}

fn last(found: &Found, l: &LastFound, out: &mut Vec<rows::Number>) {
    for b in &l.blocks {
        let of = |stage, head| About { found, stage, shots: 0, about: b.bin.to_string(), layer: None, head };
        let block = of("last", None);
        for (i, e) in b.prob.iter().enumerate() {
            out.push(block.estimate(&format!("node_{i}"), e, PROBABILITY));
        }
        out.push(block.estimate("change", &b.change, PROBABILITY));
        out.extend(b.by_attention.as_ref().map(|e| block.estimate("by_attention", e, PROBABILITY)));
        out.extend(b.by_mlp.as_ref().map(|e| block.estimate("by_mlp", e, PROBABILITY)));
        for h in &b.heads {
            let of = of("last_heads", Some(h.head));
            out.push(of.estimate("to_first", &h.to_first, SHARE));
            out.push(of.estimate("norm", &h.norm, NONE));
            out.push(of.row("share", h.share, SHARE));
            out.extend(h.frequency.map(|r| of.row("frequency", r, NONE)));
        }
    }
    let about = |what: &str| About {
        found,
        stage: "alignment",
        shots: 0,
        about: what.to_owned(),
        layer: None,
        head: None,
    };
    for a in &l.alignments {
        let of = about(&a.what);
        let all = [("cosine", a.cosine), ("cosine_removed", a.cosine_removed), ("frequency", a.frequency)];
        out.extend(all.into_iter().filter_map(|(name, x)| Some(of.row(name, x?, NONE))));
    }
    let chance = about("random vectors");
    out.push(chance.row("frequency_least", l.by_chance.0, NONE));
    out.push(chance.row("frequency_most", l.by_chance.1, NONE));
}

fn repair(f: &Found, r: &Priced) -> rows::Repair {
    let [below, middle, above] = r.gain_by_confidence.map(|e| e.map(|e| e.value));
    rows::Repair {
        relation: f.relation.clone(),
        form: f.form.name().to_owned(),
        name: r.name.clone(),
        what: r.what.clone(),
        is_control: r.is_control,
        prob: r.prob.value,
        gain: r.gain.value,
        gain_low: r.gain.low,
        gain_high: r.gain.high,
        p: r.p_gain,
        gain_below: below,
        gain_middle: middle,
        gain_above: above,
        first: r.right.value,
        rank: r.rank.value,
        entropy: r.entropy,
        perplexity: r.price.perplexity,
        ece: r.price.ece,
        brier: r.price.brier,
        function_words: r.price.function_words,
        tokens: r.price.n as i64,
        n: r.gain.n as i64,
    }
}
