//! Maps of the heads and tables of the parts that carry the answer.

use refocus_results::recall::Number;

use super::inside::{Case, amount, cell, chance};
use crate::RunSection;
use crate::chart::{BarChart, Format, HeatMap, Tone};
use crate::view::{Cell, Figure, Fold, Grid, Head, MAP_CELLS, Part, not_drawn};

/// Layers or heads that a map can have.
const MOST: i64 = 512;
/// Parts that a table lists which lower the answer when replaced, and which raise it.
const LOWER: usize = 8;
const RAISE: usize = 3;

/// Other ways to measure a head, and what they are called.
const OTHERS: [(&str, &str, bool); 5] = [
    ("path_argument", "Effect on the argument", true),
    ("resampled", "Replaced by another fact's", true),
    ("zero", "Removed (zero), everything live", true),
    ("mean", "Removed (mean), everything live", true),
    ("direct", "Direct share of π(Y), logits: here blue raises the answer", false),
];

pub(super) fn section(cases: &[Case<'_>]) -> Option<RunSection> {
    let mut left = MAP_CELLS;
    let mut left_out = 0;
    let mut maps = |measure: &str, share: bool| {
        let mut out = Vec::new();
        for case in cases {
            let cells: Vec<&Number> = case.stage("heads").filter(|n| is_head(n, measure)).collect();
            if cells.len() > left {
                left_out += 1;
            } else if !cells.is_empty() {
                left -= cells.len();
                out.push(map(case, share, &cells));
            }
        }
        out
    };
    let mut figures = maps("path", true);
    figures.extend(cases.iter().filter_map(mlps));
    if figures.is_empty() {
        return None;
    }
    let mut parts = vec![Part::Figures(figures)];
    for (measure, title, share) in OTHERS {
        let figures = maps(measure, share);
        if !figures.is_empty() {
            parts.push(Part::Fold(Fold { title: title.to_owned(), figures, grids: Vec::new() }));
        }
    }
    parts.extend(cases.iter().filter_map(strongest).map(Part::Grid));
    let chosen = "Heads that were chosen on every second fact, on the others";
    for (stage, caption) in [("chosen", chosen), ("named", "Heads that the paper names, on the same facts")] {
        parts.extend(closely(cases, stage, caption).map(Part::Grid));
    }
    parts.extend(not_drawn(left_out));
    Some(RunSection {
        id: "heads",
        title: "Which heads and MLPs carry the answer".to_owned(),
        lead: "Path patching: what becomes of the answer's score π(Y) when one head or MLP gives at the last token what it \
               gives for other facts, with all heads' queries, keys and values as they were. Orange lowers the answer: \
               the head carries it. Blue raises it. Point at a square to see its value."
            .to_owned(),
        parts,
    })
}

fn is_head(n: &Number, measure: &str) -> bool {
    let small = |x: Option<i64>| x.is_some_and(|x| (0..MOST).contains(&x));
    n.measure == measure && small(n.layer) && small(n.head)
}

fn map(case: &Case<'_>, share: bool, cells: &[&Number]) -> Figure {
    let scale = if share { 100.0 } else { 1.0 };
    let most =
        |of: fn(&Number) -> Option<i64>| cells.iter().filter_map(|n| of(n)).max().unwrap_or(0) as usize + 1;
    let mut order = cells.to_vec();
    order.sort_by(|a, b| a.value.total_cmp(&b.value));
    // What a head adds itself is positive where it raises the answer; what is lost without it is negative.
    if !share {
        order.reverse();
    }
    let first = if share { "lowest" } else { "highest" };
    let named: Vec<String> = order
        .iter()
        .take(5)
        .map(|n| format!("{} {}", n.about, Format::Plain.difference(scale * n.value)))
        .collect();
    let at = |x: Option<i64>| x.unwrap_or(0) as usize;
    let chart = HeatMap {
        title: format!("{}: heads", case.title),
        about: format!("A map of {} heads. The {first}: {}.", cells.len(), named.join(", ")),
        axes: ["layer", "head"].map(str::to_owned),
        size: (most(|n| n.layer), most(|n| n.head)),
        cells: cells.iter().map(|n| (at(n.layer), at(n.head), scale * n.value)).collect(),
        unit: if share { "% of π(Y)".to_owned() } else { "logits".to_owned() },
    };
    let caption = format!("{}; {first}: {}", case.title, named.join(", "));
    Figure { caption, svg: chart.svg(), numbers: None }
}

/// Effects of the MLPs.
fn mlps(case: &Case<'_>) -> Option<Figure> {
    let all: Vec<&Number> = case
        .stage("heads")
        .filter(|n| n.measure == "path" && n.head.is_none() && n.layer.is_some())
        .collect();
    if all.is_empty() {
        return None;
    }
    let caption = format!("{}: MLPs replaced", case.title);
    let chart = BarChart {
        title: caption.clone(),
        about: "A bar for the MLP of each layer.".to_owned(),
        x: "layer".to_owned(),
        y: "change of π(Y), %".to_owned(),
        format: Format::Percent,
        tone: Tone::True,
        bars: all.iter().map(|n| (n.layer.unwrap_or(0).to_string(), n.value)).collect(),
    };
    let numbers = Grid {
        caption: caption.clone(),
        head: vec![Head::text("layer"), Head::number("change of π(Y), % [interval]")],
        rows: all.iter().map(|n| vec![Cell::text(n.layer.unwrap_or(0).to_string()), cell(Some(n))]).collect(),
    };
    Some(Figure { caption, svg: chart.svg(), numbers: Some(numbers) })
}

/// The largest effects each way.
fn strongest(case: &Case<'_>) -> Option<Grid> {
    let mut all: Vec<&Number> = case.stage("heads").filter(|n| n.measure == "path").collect();
    if all.is_empty() {
        return None;
    }
    all.sort_by(|a, b| a.value.total_cmp(&b.value));
    let n = all.len();
    let columns = [
        ("path", "π(Y)"),
        ("path_argument", "π(X)"),
        ("resampled", "another fact's"),
        ("zero", "zero, live"),
        ("mean", "mean, live"),
        ("direct", "direct, logits"),
        ("direct_argument", "direct on X"),
    ];
    let rows = all.into_iter().enumerate().filter(|(i, _)| *i < LOWER || i + RAISE >= n).map(|(_, part)| {
        let values = columns.map(|(measure, _)| cell(case.get("heads", &part.about, measure)));
        std::iter::once(Cell::text(part.about.clone())).chain(values).collect()
    });
    Some(Grid {
        caption: format!("{}: the parts that matter most, in % of π(Y)", case.title),
        head: std::iter::once(Head::text("replaced"))
            .chain(columns.map(|(_, name)| Head::number(name)))
            .collect(),
        rows: rows.collect(),
    })
}

/// Heads that were looked at closely.
fn closely(cases: &[Case<'_>], stage: &'static str, caption: &str) -> Option<Grid> {
    let mut rows = Vec::new();
    for case in cases {
        for effect in case.stage(stage).filter(|n| n.measure == "effect") {
            let of = |measure: &str| case.get(stage, &effect.about, measure);
            rows.push(vec![
                Cell::text(case.title.clone()),
                Cell::text(effect.about.clone()),
                cell(Some(effect)),
                chance(Some(effect)),
                amount(of("attention")),
                cell(of("attention_over_random")),
                chance(of("attention_over_random")),
                cell(of("r")),
                amount(of("ov_answer")),
                amount(of("ov_argument")),
                cell(of("ov_over_shuffled")),
                chance(of("ov_over_shuffled")),
                cell(of("ov_over_random")),
                chance(of("ov_over_random")),
            ]);
        }
    }
    let numbers = [
        "π(Y) without, %",
        "p",
        "attention to X",
        "over random heads",
        "p",
        "r with written",
        "matrices: Y",
        "matrices: X",
        "Y over another's",
        "p",
        "Y over random heads",
        "p",
    ];
    let text = ["prompts", "head"].map(Head::text);
    (!rows.is_empty()).then(|| Grid {
        caption: format!("{caption}; matrices in log₁₀ of ranks, p after Holm's correction"),
        head: text.into_iter().chain(numbers.map(Head::number)).collect(),
        rows,
    })
}
