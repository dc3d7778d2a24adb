//! What a run says, in sentences for people who know nothing of layers.

use refocus_results::overthinking::{Mitigation, Setting};

use super::{Key, Tables, grouped};
use crate::words::{count, joined, percent, points, tally};

/// From the tables alone; nothing is said that an interval does not carry.
pub(super) fn sentences(t: &Tables) -> Vec<String> {
    let mut said = Vec::new();
    for ((_, setting), rows) in grouped(&t.settings, |s| ("", s.setting.as_str())) {
        said.push(gaps(setting, &rows));
        said.extend(layers(setting, &rows));
    }
    said.extend(repairs(&t.mitigations));
    said.extend(tally(&t.claims));
    said
}

fn gaps(setting: &str, rows: &[&Setting]) -> String {
    let mut hurt: Vec<&&Setting> = rows.iter().filter(|s| s.gap_low > 0.0).collect();
    hurt.sort_by(|a, b| b.gap.total_cmp(&a.gap));
    let Some(worst) = hurt.first() else {
        return format!(
            "False demonstrations ({setting} labels): no loss of accuracy is shown on any of {}; every interval \
             includes 0 or lies below it. This is no proof that there is none.",
            count(rows.len(), "task")
        );
    };
    format!(
        "False demonstrations ({setting} labels) lower accuracy on {} of {}. The largest loss is on {}: from {} \
         with true labels to {} with false ones, {} points over {}.",
        hurt.len(),
        count(rows.len(), "task"),
        worst.task,
        percent(worst.tp),
        percent(worst.fp),
        points(worst.gap, Some((worst.gap_low, worst.gap_high))),
        count(usize::try_from(worst.pairs).unwrap_or(0), "pair"),
    )
}

fn layers(setting: &str, rows: &[&Setting]) -> Option<String> {
    let layers: Vec<i64> = rows.iter().filter_map(|s| s.critical_layer).collect();
    let (first, last) = (layers.iter().min()?, layers.iter().max()?);
    let place = if first == last { format!("layer {first}") } else { format!("layers {first} to {last}") };
    Some(format!("Half of that loss has happened by {place} ({setting} labels)."))
}

fn repaired(m: &Mitigation) -> bool {
    m.balanced_gain_low.is_some_and(|x| x > 0.0) && m.p_holm.is_some_and(|p| p < 0.05)
}

fn is_repair(m: &Mitigation) -> bool {
    !matches!(m.family.as_str(), "none" | "zero_shot" | "random_heads")
}

fn repairs(all: &[Mitigation]) -> Vec<String> {
    let tried: Vec<&Mitigation> = all.iter().filter(|m| is_repair(m)).collect();
    if tried.is_empty() {
        return Vec::new();
    }
    let cases = grouped(all, |m| (m.task.as_str(), m.setting.as_str()));
    let mut families: Vec<(String, usize)> = Vec::new();
    for m in tried.iter().filter(|m| repaired(m)) {
        let words = match m.family.as_str() {
            "cad" => "contrast with the answer without demonstrations".to_owned(),
            "dola" => "contrast with an earlier layer".to_owned(),
            "heads" => "removed heads".to_owned(),
            other => other.replace('_', " "),
        };
        match families.iter_mut().find(|f| f.0 == words) {
            Some(f) => f.1 += 1,
            None => families.push((words, 1)),
        }
    }
    families.sort_by_key(|f| std::cmp::Reverse(f.1));
    let mut said = Vec::new();
    let judged = format!("{} on {}", count(tried.len(), "repair"), count(cases.len(), "case"));
    said.push(if families.is_empty() {
        format!("Of {judged} (task and setting), none raises the balanced accuracy beyond chance.")
    } else {
        let words: Vec<String> = families.iter().map(|(f, n)| format!("{f} ({n})")).collect();
        format!(
            "Of {judged} (task and setting), these raise the balanced accuracy beyond chance: {}.",
            joined(&words)
        )
    });
    let floor = |rows: &[&Mitigation]| {
        let zero = rows.iter().find(|m| m.family == "zero_shot")?.balanced;
        let best = rows.iter().filter(|m| is_repair(m)).map(|m| m.balanced).fold(f64::NEG_INFINITY, f64::max);
        Some(best <= zero)
    };
    let floors: Vec<(Key<'_>, bool)> =
        cases.iter().filter_map(|(key, rows)| Some((*key, floor(rows)?))).collect();
    let beaten = floors.iter().filter(|f| f.1).count();
    if beaten > 0 {
        said.push(format!(
            "On {beaten} of {} no repair does better than simply leaving the demonstrations out.",
            count(floors.len(), "case")
        ));
    }
    said
}
