//! The table of `overthinking`.

use refocus_study::overthinking::{Estimate, Mode};

use super::overthinking::Document;
use crate::table::{Side, Table};

/// Task by task: what false demonstrations cost, where, and what an earlier layer gets back.
pub(super) fn table(document: &Document, colours: bool) -> String {
    let mut table = Table::new(&[
        ("task", Side::Left),
        ("setting", Side::Left),
        ("pairs", Side::Right),
        ("chance", Side::Right),
        ("zero-shot", Side::Right),
        ("TP", Side::Right),
        ("FP", Side::Right),
        ("gap", Side::Right),
        ("critical", Side::Right),
        ("exit", Side::Right),
        ("TP there", Side::Right),
        ("FP there", Side::Right),
    ]);
    let mut claims = Table::new(&[
        ("task", Side::Left),
        ("setting", Side::Left),
        ("claim", Side::Left),
        ("verdict", Side::Left),
        ("by", Side::Right),
    ]);
    for (task, settings) in &document.tasks {
        for (setting, s) in settings {
            let last = |grid: &[Vec<f64>]| grid.last().and_then(|r| r.last()).copied().unwrap_or(f64::NAN);
            let exit = s.early_exit.as_ref();
            let none = || "-".to_owned();
            table.row([
                task.clone(),
                setting.clone(),
                s.pairs.to_string(),
                share(s.chance),
                share(s.zero_shot),
                share(last(&s.curves.tp)),
                share(last(&s.curves.fp)),
                estimate(&s.gap),
                s.critical_layer.map_or_else(none, |l| l.to_string()),
                exit.map_or_else(none, |e| e.layer.to_string()),
                exit.map_or_else(none, |e| format!("{} ({})", share(e.tp), signed(e.tp_gain.value))),
                exit.map_or_else(none, |e| format!("{} ({})", share(e.fp), signed(e.fp_gain.value))),
            ]);
            for c in &s.claims {
                claims.row([
                    task.clone(),
                    setting.clone(),
                    c.claim.to_owned(),
                    c.verdict.name().to_owned(),
                    c.effect.as_ref().map_or_else(none, estimate),
                ]);
            }
        }
    }
    let exits = match document.mode {
        Mode::Correct => {
            "exit: the layer with the best FP on every second pair; TP and FP there, and the gain over the last \
             layer,\nare those of the other pairs"
        }
        Mode::Paper => "exit: the layer with the best FP on the very pairs that measure it, as in the paper",
    };
    format!(
        "{}\nCalibrated accuracy at the last demonstration with true (TP) and false (FP) ones before it; layers 0 \
         (embeddings)\nto {}; intervals have 95 %.\ncritical: the first layer with half of the gap, where the gap's \
         interval lies above 0\n{exits}\n\n{}",
        table.render(colours),
        document.n_layers,
        claims.render(colours),
    )
}

fn share(x: f64) -> String {
    format!("{x:.3}")
}

fn estimate(e: &Estimate) -> String {
    format!("{} [{}, {}]", signed(e.value), signed(e.low), signed(e.high))
}

/// With its sign; what rounds to nothing has no minus.
fn signed(x: f64) -> String {
    let text = format!("{x:+.3}");
    if text == "-0.000" { "+0.000".to_owned() } else { text }
}
