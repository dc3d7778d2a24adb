//! What repairs it, and what the repair costs.

use refocus_results::overthinking::Mitigation;

use super::{Key, Tables, grouped, name};
use crate::RunSection;
use crate::chart::{Dot, DotChart, DotRow, Format, Tone};
use crate::view::{Cell, Figure, Grid, Head, Part};
use crate::words::{both, class, percent, points};

pub(super) fn section(t: &Tables) -> Option<RunSection> {
    if t.mitigations.is_empty() {
        return None;
    }
    let cases = grouped(&t.mitigations, |m| (m.task.as_str(), m.setting.as_str()));
    let mut parts = vec![Part::Figures(cases.iter().filter_map(|(key, rows)| figure(*key, rows)).collect())];
    parts.extend(cases.iter().map(|(key, rows)| Part::Grid(table(*key, rows))));
    Some(RunSection {
        id: "repairs",
        title: "What repairs it".to_owned(),
        lead: "Each repair against the unchanged model on the same pairs. A repair is worth having where it gains \
               with false labels, loses little with true ones, and beats leaving the demonstrations out."
            .to_owned(),
        parts,
    })
}

/// With how it is done, where there are several ways.
fn label(m: &Mitigation) -> String {
    match &m.how {
        Some(how) => format!("{} ({how})", m.name),
        None => m.name.clone(),
    }
}

fn figure(key: Key<'_>, rows: &[&Mitigation]) -> Option<Figure> {
    let dots = |m: &&&Mitigation| {
        let dot = |tone, value: Option<f64>, low, high| {
            Some(Dot { tone, value: value?, interval: both(low, high) })
        };
        let dots: Vec<Dot> = [
            dot(Tone::False, m.fp_gain, m.fp_gain_low, m.fp_gain_high),
            dot(Tone::True, m.tp_gain, m.tp_gain_low, m.tp_gain_high),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!dots.is_empty()).then(|| DotRow { name: label(m), dots })
    };
    let rows: Vec<DotRow> = rows.iter().filter_map(|m| dots(&m)).collect();
    if rows.is_empty() {
        return None;
    }
    let chart = DotChart {
        title: format!("Gain of each repair: {}", name(key)),
        about: format!(
            "{} repairs. For each the change of accuracy with false and with true demonstrations, with its 95 % \
             interval.",
            rows.len()
        ),
        x: "change of accuracy, points".to_owned(),
        format: Format::Percent,
        legend: vec![(Tone::False, "false labels".to_owned()), (Tone::True, "true labels".to_owned())],
        rows,
        zero: true,
    };
    Some(Figure { caption: name(key), svg: chart.svg(), numbers: None })
}

fn table(key: Key<'_>, rows: &[&Mitigation]) -> Grid {
    let heads = ["true", "false", "balanced", "gain, true", "gain, false", "gain, balanced", "p (Holm)"];
    let rows = rows.iter().map(|m| {
        let gain = |value: Option<f64>, low, high| match value {
            Some(value) => Cell { text: points(value, both(low, high)), class: class(both(low, high)) },
            None => Cell::number("–"),
        };
        let p = m.p_holm.map_or_else(
            || "–".to_owned(),
            |p| if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") },
        );
        vec![
            Cell::text(label(m)),
            Cell::number(percent(m.tp)),
            Cell::number(percent(m.fp)),
            Cell::number(percent(m.balanced)),
            gain(m.tp_gain, m.tp_gain_low, m.tp_gain_high),
            gain(m.fp_gain, m.fp_gain_low, m.fp_gain_high),
            gain(m.balanced_gain, m.balanced_gain_low, m.balanced_gain_high),
            Cell::number(p),
        ]
    });
    Grid {
        caption: format!("{}: accuracy, and gains in points [95 %]", name(key)),
        head: std::iter::once(Head::text("repair")).chain(heads.map(Head::number)).collect(),
        rows: rows.collect(),
    }
}
