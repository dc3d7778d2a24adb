//! Maps of the heads, and the heads that stand out.

use std::collections::BTreeMap;

use refocus_results::overthinking::Head as HeadRow;

use super::{Tables, name};
use crate::RunSection;
use crate::chart::{BarChart, Format, HeatMap, Tone};
use crate::view::{Cell, Figure, Fold, Grid, Head, MAP_CELLS, Part, not_drawn};

/// Layers or heads that a map can have.
const MOST: i64 = 512;
/// Heads that a table lists.
const TOP: usize = 5;

/// Measure and prompts, as people read them.
fn words(measure: &str, kind: Option<&str>) -> String {
    let words = match measure {
        "prefix_matching" => "Prefix matching",
        "prefix_matching_controlled" => "Prefix matching, less what recency explains",
        "label_promoting_raw" => "Label promoting, direct",
        "label_promoting_ln" => "Label promoting, through the final norm",
        "causal_zero" => "Effect of removing the head (zero)",
        "causal_mean" => "Effect of removing the head (mean)",
        other => other,
    };
    match kind {
        Some(kind) => format!("{words}, {kind} labels"),
        None => words.to_owned(),
    }
}

fn unit(measure: &str) -> &'static str {
    match measure {
        m if m.starts_with("prefix_matching") => "share",
        m if m.starts_with("label_promoting") || m.starts_with("causal") => "logits",
        _ => "",
    }
}

/// Task and setting.
type Case<'a> = (&'a str, &'a str);
/// Measure and the prompts it was taken on.
type Measure<'a> = (&'a str, Option<&'a str>);

pub(super) fn section(t: &Tables) -> Option<RunSection> {
    let drawable = |h: &&HeadRow| (0..MOST).contains(&h.layer) && (0..MOST).contains(&h.head);
    let mut measures: Vec<(Measure<'_>, Vec<&HeadRow>)> = Vec::new();
    for h in t.heads.iter().filter(drawable) {
        let key = (h.measure.as_str(), h.kind.as_deref());
        match measures.iter_mut().find(|m| m.0 == key) {
            Some(m) => m.1.push(h),
            None => measures.push((key, vec![h])),
        }
    }
    if measures.is_empty() {
        return None;
    }
    let mut left = MAP_CELLS;
    let mut parts = Vec::new();
    let mut left_out = 0;
    for (i, ((measure, kind), rows)) in measures.into_iter().enumerate() {
        let mut cases: BTreeMap<Case<'_>, Vec<&HeadRow>> = BTreeMap::new();
        for h in &rows {
            cases.entry((h.task.as_str(), h.setting.as_str())).or_default().push(h);
        }
        let mut figures = Vec::new();
        for (case, rows) in &cases {
            if rows.len() > left {
                left_out += 1;
                continue;
            }
            left -= rows.len();
            figures.push(map(&words(measure, kind), &name(*case), measure, rows));
        }
        if i == 0
            && let Some((case, rows)) = cases.iter().next()
        {
            figures.push(by_layer(&name(*case), measure, rows));
        }
        let title = words(measure, kind);
        let grid = top(&title, measure, &cases);
        if i == 0 {
            parts.push(Part::Heading(title));
            parts.push(Part::Figures(figures));
            parts.push(Part::Grid(grid));
        } else {
            parts.push(Part::Fold(Fold { title, figures, grids: vec![grid] }));
        }
    }
    parts.extend(not_drawn(left_out));
    Some(RunSection {
        id: "heads",
        title: "Which heads carry it".to_owned(),
        lead: "A square for each attention head; point at one to see its value. Heads that copy labels from the \
               demonstrations stand out in blue."
            .to_owned(),
        parts,
    })
}

fn strongest<'a>(rows: &[&'a HeadRow]) -> Vec<&'a HeadRow> {
    let mut sorted = rows.to_vec();
    // Heads are chosen by the highest score; of an effect the size counts.
    let signed = |h: &HeadRow| h.measure.starts_with("prefix_matching");
    let size = |h: &HeadRow| if signed(h) { h.value } else { h.value.abs() };
    sorted.sort_by(|a, b| size(b).total_cmp(&size(a)));
    sorted.truncate(TOP);
    sorted
}

fn map(title: &str, case: &str, measure: &str, rows: &[&HeadRow]) -> Figure {
    let size = |of: fn(&HeadRow) -> i64| rows.iter().map(|h| of(h)).max().unwrap_or(0) as usize + 1;
    let first = strongest(rows);
    let named: Vec<String> = first
        .iter()
        .map(|h| format!("{}.{} {}", h.layer, h.head, Format::Plain.difference(h.value)))
        .collect();
    let chart = HeatMap {
        title: format!("{title}: {case}"),
        about: format!("A map of {} heads. The strongest: {}.", rows.len(), named.join(", ")),
        axes: ["layer", "head"].map(str::to_owned),
        size: (size(|h| h.layer), size(|h| h.head)),
        cells: rows.iter().map(|h| (h.layer as usize, h.head as usize, h.value)).collect(),
        unit: unit(measure).to_owned(),
    };
    Figure { caption: case.to_owned(), svg: chart.svg(), numbers: None }
}

fn by_layer(case: &str, measure: &str, rows: &[&HeadRow]) -> Figure {
    let mut sums: BTreeMap<i64, f64> = BTreeMap::new();
    for h in rows {
        *sums.entry(h.layer).or_default() += h.value;
    }
    let caption = format!("{case}: all heads of a layer together");
    let chart = BarChart {
        title: caption.clone(),
        about: "A bar for each layer: the sum over its heads.".to_owned(),
        x: "layer".to_owned(),
        y: format!("sum over heads, {}", unit(measure)),
        format: Format::Plain,
        tone: Tone::True,
        bars: sums.iter().map(|(layer, sum)| (layer.to_string(), *sum)).collect(),
    };
    let numbers = Grid {
        caption: caption.clone(),
        head: vec![Head::text("layer"), Head::number("sum")],
        rows: sums
            .iter()
            .map(|(l, s)| vec![Cell::text(l.to_string()), Cell::number(Format::Plain.value(*s))])
            .collect(),
    };
    Figure { caption, svg: chart.svg(), numbers: Some(numbers) }
}

fn top(title: &str, measure: &str, cases: &BTreeMap<Case<'_>, Vec<&HeadRow>>) -> Grid {
    let rows = cases.iter().flat_map(|(case, rows)| {
        strongest(rows).into_iter().map(|h| {
            let d = |x| Format::Plain.difference(x);
            let interval =
                h.low.zip(h.high).map(|(a, b)| format!(" [{}, {}]", d(a), d(b))).unwrap_or_default();
            vec![
                Cell::text(name(*case)),
                Cell::text(format!("{}.{}", h.layer, h.head)),
                Cell::number(format!("{}{interval}", d(h.value))),
            ]
        })
    });
    Grid {
        caption: format!("{title}: the strongest heads of each task"),
        head: vec![Head::text("task"), Head::text("head"), Head::number(format!("value, {}", unit(measure)))],
        rows: rows.collect(),
    }
}
