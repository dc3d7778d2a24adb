//! What `recall` finds inside, with every kind of row. The numbers are made up by formulas and mean nothing.

use std::path::Path;

use refocus_results::recall::{Number, Relation, Repair};
use refocus_results::{RunFolder, StoredRun};

use crate::made_up::info;

const LAYERS: i64 = 30;
const HEADS: i64 = 9;

/// A number of one relation and form, with an interval.
fn number(stage: &str, form: &str, (about, measure): (&str, &str), value: f64, unit: &str) -> Number {
    Number {
        stage: stage.to_owned(),
        relation: "capital".to_owned(),
        form: form.to_owned(),
        shots: 0,
        about: about.to_owned(),
        layer: None,
        head: None,
        measure: measure.to_owned(),
        value,
        low: Some(value - 0.05),
        high: Some(value + 0.05),
        p: Some(0.01),
        n: Some(20),
        unit: unit.to_owned(),
    }
}

fn heads(form: &str, out: &mut Vec<Number>) {
    for layer in 0..LAYERS {
        for head in (0..HEADS).map(Some).chain([None]) {
            let about = head.map_or_else(|| format!("mlp {layer}"), |h| format!("{layer}.{h}"));
            let value = ((layer * 7 + head.unwrap_or(3) * 5) % 11 - 6) as f64 / 40.0;
            for measure in ["path", "path_argument", "resampled", "zero", "mean"] {
                let n = number("heads", form, (&about, measure), value, "share");
                out.push(Number { layer: Some(layer), head, ..n });
            }
            let n = number("heads", form, (&about, "direct"), 3.0 * value, "logits");
            out.push(Number { layer: Some(layer), head, ..n });
        }
    }
    for stage in ["chosen", "named"] {
        for measure in ["effect", "attention", "r", "ov_answer", "ov_over_shuffled", "ov_over_random"] {
            out.push(number(stage, form, ("9.8", measure), 0.4, ""));
        }
    }
}

/// A run with everything that is found inside.
pub fn recall(dir: &Path) -> StoredRun {
    let mut run = RunFolder::create(dir, info("recall/1", Some("models/small.gguf"))).expect("create");
    let relation = Relation {
        relation: "capital".to_owned(),
        facts: 127,
        repeated: 0,
        several_tokens: 60,
        asked: 26,
        known: 20,
        outcome: "measured".to_owned(),
        why: None,
    };
    run.write(&[relation]).expect("relations");
    let mut all = Vec::new();
    for form in ["open", "forced"] {
        heads(form, &mut all);
        for measure in ["r2", "r2_permuted", "r2_matrix", "r2_first_order", "condition", "kl_gain"] {
            let n = number("mlp", form, ("everything", measure), -0.2, "");
            all.push(Number { layer: Some(20), ..n });
        }
        for head in 0..HEADS {
            let n = number("weights", form, (&format!("20.{head}"), "block"), 0.3 - 0.1 * head as f64, "");
            all.push(Number { layer: Some(20), ..n });
        }
        for about in ["intercept", "random vector", "language's in its place"] {
            all.push(number("intercept", form, (about, "answer"), -0.3, "log₁₀ rank"));
        }
        for shots in 0..=5 {
            let value = 1.0 - 0.05 * shots as f64;
            for about in ["correlation", "halves", "kept"] {
                let n = number("shots", form, ("heads", about), value, "");
                all.push(Number { shots, ..n });
            }
            let n = number("shots", form, ("23.4", "path"), -0.2, "share");
            all.push(Number { shots, head: Some(4), ..n });
        }
        for bin in ["all", "below 0.1", "above 0.5"] {
            for node in 0..4 {
                let measure = format!("node_{node}");
                all.push(number("last", form, (bin, &measure), 0.2 * f64::from(node) + 0.1, "probability"));
            }
            for head in 0..HEADS {
                let n = number("last_heads", form, (bin, "to_first"), 0.8, "share");
                all.push(Number { head: Some(head), ..n });
            }
        }
        all.push(number("alignment", form, ("intercept of the last MLP", "cosine"), 0.2, ""));
    }
    run.write(&all).expect("inside");
    let repair = |name: &str, is_control, gain: f64| Repair {
        relation: "capital".to_owned(),
        form: "open".to_owned(),
        name: name.to_owned(),
        what: "Does <something> & more.".to_owned(),
        is_control,
        prob: 0.4 + gain,
        gain,
        gain_low: gain - 0.05,
        gain_high: gain + 0.05,
        p: 0.02,
        gain_below: Some(gain),
        gain_middle: None,
        gain_above: Some(-gain),
        first: 0.1,
        rank: -0.2,
        entropy: 3.2,
        perplexity: 31.7,
        ece: 0.05,
        brier: 0.16,
        function_words: Some(0.6),
        tokens: 508,
        n: 17,
    };
    let repairs = [
        repair("none", true, 0.0),
        repair("heads_zero", false, 0.1),
        repair("temperature_intercept_0.75", true, 0.2),
    ];
    run.write(&repairs).expect("repairs");
    drop(run);
    StoredRun::open(dir).expect("open")
}
