//! Tables with every kind of row. The numbers are made up by formulas and mean nothing.

use std::path::{Path, PathBuf};

use refocus_results::flipflop::{Distance, Row, TrainingPoint};
use refocus_results::overthinking::{Claim, Curve, Example, Head, Mitigation, Setting};
use refocus_results::{ModelInfo, RunFolder, RunInfo, StoredRun};

/// A folder of one test, removed at the end.
pub struct Tmp(pub PathBuf);

impl Tmp {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("refocus-report-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn info(study: &str, model: Option<&str>) -> RunInfo {
    let mut configuration = serde_json::Map::new();
    configuration.insert("study".into(), study.into());
    configuration.insert("pairs".into(), 200.into());
    RunInfo {
        study: study.to_owned(),
        program: "refocus 0.0.0".to_owned(),
        model: model.map(|name| ModelInfo { name: name.to_owned(), fingerprint: "sha256:00".to_owned() }),
        tokenizer: Some("sha256:11".to_owned()),
        tasks: [("toy".to_owned(), 1), ("words".to_owned(), 2)].into(),
        seed: 7,
        precision: "f32".to_owned(),
        instruction_set: "portable".to_owned(),
        configuration,
    }
}

const LAYERS: i64 = 12;
const DEMOS: i64 = 8;
const CASES: [(&str, &str, f64); 3] =
    [("toy", "permuted", 0.4), ("words", "permuted", 0.2), ("words", "half", 0.05)];

/// Accuracy at a layer and slot: rises early; with false labels it falls late.
fn made_up(kind: bool, layer: i64, slot: i64, gap: f64) -> f64 {
    let rise = 0.3 * (layer as f64 / 5.0).min(1.0) * (slot as f64 / DEMOS as f64).sqrt();
    let fall =
        if kind { 0.0 } else { gap * ((layer - 6).max(0) as f64 / 6.0) * (slot as f64 / DEMOS as f64) };
    0.5 + rise - fall
}

/// An overthinking run with everything.
pub fn overthinking(dir: &Path, model: &str, scale: f64) -> StoredRun {
    let mut run = RunFolder::create(dir, info("overthinking/1", Some(model))).expect("create");
    let (mut settings, mut curves, mut heads) = (Vec::new(), Vec::new(), Vec::new());
    let (mut mitigations, mut claims, mut examples) = (Vec::new(), Vec::new(), Vec::new());
    for (task, setting, gap) in CASES {
        let gap = gap * scale;
        let (t, s) = (task.to_owned(), setting.to_owned());
        let at = |kind, layer, slot| made_up(kind, layer, slot, gap);
        settings.push(Setting {
            task: t.clone(),
            setting: s.clone(),
            pairs: 200,
            chance: 0.5,
            zero_shot: 0.55,
            tp: at(true, LAYERS, DEMOS),
            fp: at(false, LAYERS, DEMOS),
            gap,
            gap_low: gap - 0.08,
            gap_high: gap + 0.08,
            critical_layer: (gap > 0.1).then_some(9),
            exit_layer: Some(6),
        });
        for layer in 0..=LAYERS {
            for slot in 0..=DEMOS {
                let mut point = |measure: &str, kind: Option<&str>, value: f64, banded: bool| {
                    let band = |d: f64| banded.then_some((value + d).clamp(0.0, 1.0));
                    curves.push(Curve {
                        task: t.clone(),
                        setting: s.clone(),
                        layer,
                        slot,
                        measure: measure.to_owned(),
                        kind: kind.map(str::to_owned),
                        value,
                        low: band(-0.06),
                        high: band(0.06),
                    });
                };
                let (tp, fp) = (at(true, layer, slot), at(false, layer, slot));
                point("tp", None, tp, true);
                point("fp", None, fp, true);
                point("permuted", None, 1.0 - fp, false);
                for (kind, right) in [("true", tp), ("false", fp)] {
                    point("share_true", Some(kind), right * 0.9, false);
                    point("share_shown", Some(kind), (1.0 - right) * 0.9, false);
                    point("share_other", Some(kind), 0.1, false);
                }
            }
        }
        for measure in ["prefix_matching", "label_promoting_ln", "causal_zero"] {
            for (layer, head) in (0..LAYERS).flat_map(|l| (0..4).map(move |h| (l, h))) {
                let value = ((layer * 7 + head * 5) % 13) as f64 / 13.0 * (layer as f64 / 8.0 - 0.4);
                let (low, high) = (Some(value - 0.05), Some(value + 0.05));
                let (measure, kind) = (measure.to_owned(), Some("false".to_owned()));
                let (task, setting) = (t.clone(), s.clone());
                heads.push(Head { task, setting, layer, head, measure, kind, value, low, high });
            }
        }
        for (i, (name, family, how)) in [
            ("unchanged", "none", None),
            ("no demonstrations", "zero_shot", None),
            ("answer from layer 6", "early_exit", None),
            ("heads 9.1 10.3", "heads", Some("zero")),
            ("heads 9.1 10.3", "heads", Some("mean")),
            ("random heads of the same layers", "random_heads", Some("zero")),
            ("late attention", "late_attention", Some("uniform")),
        ]
        .into_iter()
        .enumerate()
        {
            let changed = family != "none";
            let gain = |x: f64| changed.then_some(x);
            let (g, c) = (gap * 0.13 * i as f64, -0.01 * i as f64);
            let (tp, fp) = (at(true, LAYERS, DEMOS) + c, at(false, LAYERS, DEMOS) + g);
            mitigations.push(Mitigation {
                task: t.clone(),
                setting: s.clone(),
                name: name.to_owned(),
                family: family.to_owned(),
                how: how.map(str::to_owned),
                tp,
                fp,
                balanced: f64::midpoint(tp, fp),
                tp_gain: gain(c),
                tp_gain_low: gain(c - 0.03),
                tp_gain_high: gain(c + 0.03),
                fp_gain: gain(g),
                fp_gain_low: gain(g - 0.05),
                fp_gain_high: gain(g + 0.05),
                balanced_gain: gain(f64::midpoint(c, g)),
                balanced_gain_low: gain(f64::midpoint(c, g) - 0.04),
                balanced_gain_high: gain(f64::midpoint(c, g) + 0.04),
                p: gain(0.2 / (i as f64 + 1.0)),
                p_holm: gain(0.04 / (i as f64 + 1.0)),
            });
        }
        let verdict = if gap > 0.08 { "holds" } else { "cannot be tested" };
        claims.push(Claim {
            claim: "false demonstrations lower accuracy".to_owned(),
            task: Some(t.clone()),
            setting: Some(s.clone()),
            verdict: verdict.to_owned(),
            why: (gap <= 0.08).then(|| "the interval includes 0".to_owned()),
            n: 200,
            effect: Some(gap),
            low: Some(gap - 0.08),
            high: Some(gap + 0.08),
            control: Some("true demonstrations".to_owned()),
        });
    }
    let texts =
        ["a <warm> & lovely film", "dull beyond words", "she sings", "no plot, no \"point\"", "a joy"];
    let words = ["good", "bad", "good", "bad", "good"];
    for kind in ["false", "true"] {
        for (slot, (text, truth)) in texts.iter().zip(words).enumerate() {
            let wrong = if truth == "good" { "bad" } else { "good" };
            let asked = slot + 1 == texts.len();
            let answer = |a: &str| asked.then(|| a.to_owned());
            examples.push(Example {
                task: "toy".to_owned(),
                setting: "permuted".to_owned(),
                pair: 3,
                kind: kind.to_owned(),
                slot: slot as i64,
                text: (*text).to_owned(),
                label_true: truth.to_owned(),
                label_shown: if kind == "true" { truth } else { wrong }.to_owned(),
                answer_zero_shot: answer("good"),
                answer_early: answer("good"),
                answer_final: answer(if kind == "true" { "good" } else { "bad" }),
            });
        }
    }
    run.write(&settings).expect("settings");
    run.write(&curves).expect("curves");
    run.write(&heads).expect("heads");
    run.write(&mitigations).expect("mitigations");
    run.write(&claims).expect("claims");
    run.write(&examples).expect("examples");
    drop(run);
    StoredRun::open(dir).expect("open")
}

/// A flip-flop study with everything.
pub fn flipflop(dir: &Path) -> StoredRun {
    let mut run = RunFolder::create(dir, info("flipflop/1", None)).expect("create");
    let (mut rows, mut curve, mut distance) = (Vec::new(), Vec::new(), Vec::new());
    for (i, row) in ["baseline", "rare sequences 10 %", "LSTM"].into_iter().enumerate() {
        for seed in 0..5 {
            for (set, base) in [("in", 0), ("sparse", 4000), ("dense", 12)] {
                let errors = base * (seed + 1) / [1, 40, 1_000_000][i];
                let rate = errors as f64 / 1e5;
                rows.push(Row {
                    row: row.to_owned(),
                    group: ["base", "data", "architecture"][i].to_owned(),
                    seed,
                    set: set.to_owned(),
                    reads: 100_000,
                    errors,
                    low: rate * 0.8,
                    high: rate * 1.2 + 3e-5,
                    seconds: Some(100.0 + seed as f64),
                    steps: 2000,
                });
                for step in [0, 500, 1000, 1500, 2000] {
                    let errors = 50_000 / (1 + step) + errors;
                    curve.push(TrainingPoint {
                        row: row.to_owned(),
                        seed,
                        step,
                        set: set.to_owned(),
                        errors,
                        reads: 100_000,
                    });
                }
                for (from, by) in (0..8).flat_map(|b| ["write", "non_ignore"].map(|by| (b * 16, by))) {
                    distance.push(Distance {
                        row: row.to_owned(),
                        seed,
                        set: set.to_owned(),
                        by: by.to_owned(),
                        from,
                        to: from + 15,
                        reads: 10_000,
                        errors: errors * from / 1000,
                    });
                }
            }
        }
    }
    let claims = [Claim {
        claim: "rare sequences in training lower errors on the sparse tail".to_owned(),
        task: None,
        setting: None,
        verdict: "holds".to_owned(),
        why: None,
        n: 5,
        effect: Some(0.1),
        low: Some(0.05),
        high: Some(0.15),
        control: Some("baseline".to_owned()),
    }];
    run.write(&rows).expect("rows");
    run.write(&curve).expect("curve");
    run.write(&distance).expect("distance");
    run.write(&claims).expect("claims");
    drop(run);
    StoredRun::open(dir).expect("open")
}
