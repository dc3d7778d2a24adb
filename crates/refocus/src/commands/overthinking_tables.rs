//! The tables of a run of `overthinking`, from which its page is made.

use refocus_model::Tokenizer;
use refocus_results::RunFolder;
use refocus_results::overthinking as rows;
use refocus_study::overthinking::{
    Claim, Detail, Estimate, HeadId, HeadScore, How, Kind, Mitigation, SettingSummary, Shares,
};
use refocus_tasks::classify::BETWEEN;

use super::overthinking_prompts::Drawn;
use super::overthinking_stages::{Case, Inside};
use crate::failure::Outcome;

/// Two-sided 95 % of a normal distribution, in standard errors.
const NORMAL: f64 = 1.959_963_984_540_054;

/// What the tables tell.
pub(super) struct About<'a> {
    pub(super) cases: &'a [Case<'a>],
    /// Of each case.
    pub(super) found: &'a [(SettingSummary, Detail)],
    pub(super) inside: &'a Inside,
    pub(super) claims: &'a [Claim],
    pub(super) seed: u64,
}

/// Writes all tables. Without a tokenizer there are no examples.
pub(super) fn write(
    run: &mut RunFolder,
    about: &About<'_>,
    drawn: &Drawn,
    tokenizer: Option<&Tokenizer>,
) -> Outcome<()> {
    let (mut settings, mut curves, mut heads) = (Vec::new(), Vec::new(), Vec::new());
    let (mut mitigations, mut examples) = (Vec::new(), Vec::new());
    for (i, (case, (summary, detail))) in about.cases.iter().zip(about.found).enumerate() {
        settings.push(setting(summary, detail));
        curves_of(summary, detail, about.seed, &mut curves);
        let key = (&detail.task[..], &detail.setting[..]);
        if let Some(scores) = about.inside.scores.get(i) {
            scored(key, "false", &scores.on_false, &mut heads);
            scored(key, "true", &scores.on_true, &mut heads);
        }
        mapped(key, about.inside.maps.get(i).map_or(&[], Vec::as_slice), &mut heads);
        mitigations_of(summary, detail, &mut mitigations);
        if let Some(tokenizer) = tokenizer {
            let words = drawn.words.get(&detail.task).map(Vec::as_slice);
            examples.extend(example(case, exit_layer(summary), words, tokenizer)?);
        }
    }
    run.write(&settings)?;
    run.write(&curves)?;
    run.write(&heads)?;
    run.write(&mitigations)?;
    run.write(&about.claims.iter().map(claim).collect::<Vec<_>>())?;
    run.write(&examples)?;
    Ok(())
}

fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn at_end(grid: &[Vec<f64>]) -> f64 {
    grid.last().and_then(|r| r.last()).copied().unwrap_or(f64::NAN)
}

fn exit_layer(summary: &SettingSummary) -> Option<usize> {
    summary.mitigation("early_exit_balanced")?.chosen.as_ref().map(|c| c.value as usize)
}

fn setting(s: &SettingSummary, d: &Detail) -> rows::Setting {
    rows::Setting {
        task: d.task.clone(),
        setting: d.setting.clone(),
        pairs: number(s.pairs),
        chance: s.chance,
        zero_shot: s.zero_shot.value,
        tp: at_end(&s.curves.tp),
        fp: at_end(&s.curves.fp),
        gap: s.gap.value,
        gap_low: s.gap.low,
        gap_high: s.gap.high,
        critical_layer: s.critical_layer().map(number),
        exit_layer: exit_layer(s).map(number),
    }
}

/// All layers at all slots; intervals at the last slot.
fn curves_of(s: &SettingSummary, d: &Detail, seed: u64, out: &mut Vec<rows::Curve>) {
    let end = s.curves.tp.first().map_or(0, |r| r.len().saturating_sub(1));
    let mut add =
        |measure: &str, kind: Option<&str>, layer: usize, slot: usize, value: f64, e: Option<Estimate>| {
            out.push(rows::Curve {
                task: d.task.clone(),
                setting: d.setting.clone(),
                layer: number(layer),
                slot: number(slot),
                measure: measure.to_owned(),
                kind: kind.map(str::to_owned),
                value,
                low: e.map(|e| e.low),
                high: e.map(|e| e.high),
            });
        };
    let mut grid =
        |measure: &str, kind: Option<&str>, values: &[Vec<f64>], of: Option<fn(&Detail, usize) -> &[f64]>| {
            for (layer, row) in values.iter().enumerate() {
                for (slot, value) in row.iter().enumerate() {
                    let interval = of.filter(|_| slot == end).map(|of| Estimate::of(of(d, layer), seed));
                    add(measure, kind, layer, slot, *value, interval);
                }
            }
        };
    grid("tp", None, &s.curves.tp, Some(|d, layer| &d.all[layer].tp));
    grid("fp", None, &s.curves.fp, Some(|d, layer| &d.all[layer].fp));
    grid("permuted", None, &s.curves.permuted, None);
    let Shares { true_on_true, true_on_false, shown_on_false, other_on_false } = &s.predictions.plain;
    grid("share_true", Some("true"), true_on_true, None);
    grid("share_true", Some("false"), true_on_false, None);
    grid("share_shown", Some("false"), shown_on_false, None);
    grid("share_other", Some("false"), other_on_false, None);
    let Some(agreement) = &s.predictions.agreement else { return };
    for (kind, values) in [("true", &agreement.on_true), ("false", &agreement.on_false)] {
        for (layer, row) in values.iter().enumerate() {
            for (slot, value) in agreement.slots.iter().zip(row) {
                add("agreement", Some(kind), layer, *slot as usize, *value, None);
            }
        }
    }
}

fn head(
    (task, setting): (&str, &str),
    id: HeadId,
    (measure, kind): (&str, &str),
    value: f64,
    error: Option<f64>,
) -> rows::Head {
    rows::Head {
        task: task.to_owned(),
        setting: setting.to_owned(),
        layer: number(id.layer),
        head: number(id.head),
        measure: measure.to_owned(),
        kind: Some(kind.to_owned()),
        value,
        low: error.map(|e| value - NORMAL * e),
        high: error.map(|e| value + NORMAL * e),
    }
}

fn scored(key: (&str, &str), kind: &str, scores: &[HeadScore], out: &mut Vec<rows::Head>) {
    // One prompt has no standard error.
    let error = |s: &HeadScore| Some(s.label.error).filter(|e| e.is_finite() && s.n > 1);
    out.extend(scores.iter().map(|s| head(key, s.id, ("prefix_matching", kind), s.matching, error(s))));
    let mut rest = |measure: &str, of: &dyn Fn(&HeadScore) -> Option<f64>| {
        out.extend(scores.iter().filter_map(|s| Some(head(key, s.id, (measure, kind), of(s)?, None))));
    };
    rest("prefix_matching_controlled", &|s| Some(s.controlled));
    rest("label_promoting_raw", &|s| Some(s.promoting?.frozen));
    rest("label_promoting_ln", &|s| Some(s.promoting?.renormed));
}

fn mapped(key: (&str, &str), cells: &[refocus_study::overthinking::CausalCell], out: &mut Vec<rows::Head>) {
    for kind in ["false", "true"] {
        for c in cells {
            let moved = if kind == "true" { &c.on_true } else { &c.on_false };
            let measure = if c.how == How::Mean { "causal_mean" } else { "causal_zero" };
            if let Some(change) = &moved.logit_difference {
                out.push(head(key, c.id, (measure, kind), change.value, change.error));
            }
        }
    }
}

fn how(how: How) -> &'static str {
    match how {
        How::Zero => "zero",
        How::Mean => "mean",
        How::Uniform => "uniform",
    }
}

/// As people call a way to answer.
fn name(m: &Mitigation, s: &SettingSummary) -> String {
    let chosen = |what: &str| m.chosen.as_ref().filter(|c| c.what == what).map(|c| c.value);
    let base = match m.how {
        Some(by) => m.name.strip_suffix(&format!("_{}", how(by))).unwrap_or(&m.name),
        None => &m.name,
    };
    let heads = || {
        let all = s.inside.iter().flat_map(|i| &i.chosen.heads);
        all.map(|h| format!("{}.{}", h.layer, h.head)).collect::<Vec<_>>().join(" ")
    };
    match base {
        "zero_shot" => "no demonstrations".to_owned(),
        "heads" => format!("heads {}", heads()),
        "random_heads" => "random heads, mean over draws".to_owned(),
        "context_contrast" => format!("context contrast, alpha {}", chosen("alpha").unwrap_or(0.0)),
        _ => {
            let words = base.replace('_', " ");
            match (chosen("layer"), chosen("from block")) {
                (Some(layer), _) => format!("{words}, layer {layer}"),
                (_, Some(block)) => format!("{words} from block {block} on"),
                _ => words,
            }
        }
    }
}

/// The unchanged model on the pairs that measure, then every way to answer.
fn mitigations_of(s: &SettingSummary, d: &Detail, out: &mut Vec<rows::Mitigation>) {
    let Some(first) = d.mitigations.first() else { return };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    out.push(rows::Mitigation {
        task: d.task.clone(),
        setting: d.setting.clone(),
        name: "unchanged".to_owned(),
        family: "none".to_owned(),
        how: None,
        tp: mean(&first.before.tp),
        fp: mean(&first.before.fp),
        balanced: mean(&first.before.balanced()),
        tp_gain: None,
        tp_gain_low: None,
        tp_gain_high: None,
        fp_gain: None,
        fp_gain_low: None,
        fp_gain_high: None,
        balanced_gain: None,
        balanced_gain_low: None,
        balanced_gain_high: None,
        p: None,
        p_holm: None,
    });
    out.extend(s.mitigations.iter().map(|m| rows::Mitigation {
        task: d.task.clone(),
        setting: d.setting.clone(),
        name: name(m, s),
        family: m.family.to_owned(),
        how: m.how.map(|h| how(h).to_owned()),
        tp: m.tp,
        fp: m.fp,
        balanced: m.balanced,
        tp_gain: Some(m.tp_gain.value),
        tp_gain_low: Some(m.tp_gain.low),
        tp_gain_high: Some(m.tp_gain.high),
        fp_gain: Some(m.fp_gain.value),
        fp_gain_low: Some(m.fp_gain.low),
        fp_gain_high: Some(m.fp_gain.high),
        balanced_gain: Some(m.balanced_gain.value),
        balanced_gain_low: Some(m.balanced_gain.low),
        balanced_gain_high: Some(m.balanced_gain.high),
        p: Some(m.p_balanced),
        p_holm: m.p_balanced_holm,
    }));
}

fn claim(c: &Claim) -> rows::Claim {
    let effect = c.effect.as_ref().map(|e| e.estimate);
    rows::Claim {
        claim: c.claim.to_owned(),
        task: c.task.clone(),
        setting: c.setting.clone(),
        verdict: c.verdict.name().to_owned(),
        why: c.why.clone(),
        n: number(c.n),
        effect: effect.map(|e| e.value),
        low: effect.map(|e| e.low),
        high: effect.map(|e| e.high),
        control: Some(c.control.to_owned()),
    }
}

/// The prompts of the first pair that measures, as the model read them. Which one is shown depends on nothing
/// that the model answers.
fn example(
    case: &Case<'_>,
    exit: Option<usize>,
    words: Option<&[String]>,
    tokenizer: &Tokenizer,
) -> Outcome<Vec<rows::Example>> {
    let (task, setting) = (case.pairs.task, case.pairs.setting);
    let at = usize::from(setting.pairs.len() > 1);
    let Some(pair) = setting.pairs.get(at) else { return Ok(Vec::new()) };
    let word = |class: usize| match words.and_then(|w| w.get(class)) {
        Some(word) => Ok(word.clone()),
        // Of a file of prompts the words' first tokens alone are known.
        None => tokenizer.decode(&task.label_ids[class..=class], true).map(|t| t.trim().to_owned()),
    };
    let mut out = Vec::new();
    for (kind, name) in [(Kind::False, "false"), (Kind::True, "true")] {
        let (prompt, shown) = if kind == Kind::True {
            (pair.true_prompt, &pair.truth)
        } else {
            (pair.false_prompt, &pair.shown)
        };
        let prompt = &task.prompts[prompt];
        let mut from = 0;
        for (slot, (&end, &shows)) in prompt.slots.iter().zip(shown).enumerate() {
            let text = tokenizer.decode(&prompt.ids[from..=end as usize], true)?;
            // What stands after the label before belongs to its demonstration.
            let own = if slot == 0 { &text[..] } else { text.split_once(BETWEEN).map_or(&text[..], |t| t.1) };
            from = (end + 1 + task.label_lens[shows as usize]) as usize;
            let asked = slot + 1 == task.demos;
            let answers = case.pairs.answers_to(at, kind, exit.unwrap_or(0));
            let said = |class: Option<usize>| class.filter(|_| asked).map(word).transpose();
            out.push(rows::Example {
                task: task.task.clone(),
                setting: setting.name.clone(),
                pair: i64::from(pair.pair),
                kind: name.to_owned(),
                slot: number(slot),
                text: own.trim().to_owned(),
                label_true: word(pair.truth[slot] as usize)?,
                label_shown: word(shows as usize)?,
                answer_zero_shot: said(answers[0])?,
                answer_early: said(answers[1].filter(|_| exit.is_some()))?,
                answer_final: said(answers[2])?,
            });
        }
    }
    Ok(out)
}
