//! The last two blocks, and what repairs of the last one gain and cost.

use refocus_results::recall::{Number, Repair};

use super::inside::{Case, amount, cell, written};
use crate::RunSection;
use crate::chart::{Dot, DotChart, DotRow, Format, LineChart, Point, Series, Tone};
use crate::overthinking::numbers;
use crate::view::{Cell, Figure, Grid, Head, Part};
use crate::words::{both, class, order, points};

pub(super) fn last(cases: &[Case<'_>]) -> Option<RunSection> {
    let figures: Vec<Figure> = cases.iter().filter_map(last_nodes).collect();
    if figures.is_empty() {
        return None;
    }
    let (mut heads, mut points_to) = (Vec::new(), Vec::new());
    for case in cases {
        let own = |n: &&Number| n.about == "all" && n.measure == "to_first";
        for n in case.stage("last_heads").filter(own) {
            let of = |measure: &str| {
                case.stage("last_heads")
                    .find(|m| m.about == "all" && m.head == n.head && m.measure == measure)
            };
            let mut row = vec![Cell::text(case.title.clone())];
            row.push(Cell::text(n.head.unwrap_or(0).to_string()));
            row.extend(["to_first", "norm", "share"].map(|m| amount(of(m))));
            row.push(cell(of("frequency")));
            heads.push(row);
        }
        for about in order(case.stage("alignment").map(|n| n.about.as_str())) {
            let of = |m: &str| case.get("alignment", about, m);
            let mut row = vec![Cell::text(case.title.clone()), Cell::text(about)];
            row.extend(["cosine", "cosine_removed"].map(|m| cell(of(m))));
            row.push(match (of("frequency_least"), of("frequency_most")) {
                (Some(a), Some(b)) => Cell::number(format!("{} to {}", written(a), written(b))),
                _ => cell(of("frequency")),
            });
            points_to.push(row);
        }
    }
    let numbers =
        ["attention to the first token", "length", "of what the block writes", "correlation with frequency"];
    let text = [Head::text("prompts"), Head::text("head")];
    let heads = Grid {
        caption: "Heads of the last block".to_owned(),
        head: text.into_iter().chain(numbers.map(Head::number)).collect(),
        rows: heads,
    };
    let numbers =
        ["cosine with the average token", "without the shared direction", "correlation with frequency"];
    let text = [Head::text("prompts"), Head::text("vector")];
    let points_to = Grid {
        caption: "Where the last MLP's vector points".to_owned(),
        head: text.into_iter().chain(numbers.map(Head::number)).collect(),
        rows: points_to,
    };
    Some(RunSection {
        id: "last",
        title: "Inside the last two blocks".to_owned(),
        lead: "Probability of the answer by the logit lens over the last two blocks, by how likely the lens holds it \
               before them. Where the heads of the last block look and what they write, and where the vector points that \
               its MLP adds to every prompt."
            .to_owned(),
        parts: vec![Part::Figures(figures), Part::Grid(heads), Part::Grid(points_to)],
    })
}

/// The answer from node to node by bin.
fn last_nodes(case: &Case<'_>) -> Option<Figure> {
    let bins = order(case.stage("last").map(|n| n.about.as_str()));
    let tones = [Tone::True, Tone::False, Tone::Third, Tone::Fourth];
    let line = |(bin, tone): (&str, Tone)| Series {
        name: bin.to_owned(),
        tone,
        points: case
            .stage("last")
            .filter(|n| n.about == bin)
            .filter_map(|n| {
                let x: f64 = n.measure.strip_prefix("node_")?.parse().ok()?;
                Some(Point { x, y: n.value, band: both(n.low, n.high) })
            })
            .collect(),
    };
    let series: Vec<Series> = bins.into_iter().zip(tones).map(line).collect();
    let nodes = series.first()?.points.len();
    let chart = LineChart {
        title: format!("{}: the answer over the last two blocks", case.title),
        about: format!("Probability at {nodes} nodes, the last being the output, by the lens before."),
        x: "node of the last two blocks".to_owned(),
        y: "probability, %".to_owned(),
        format: Format::Percent,
        span: Some((0.0, 1.0)),
        series,
        level: None,
        marks: Vec::new(),
    };
    Some(Figure { caption: case.title.clone(), numbers: Some(numbers(&chart)), svg: chart.svg() })
}

pub(super) fn repairs(all: &[Repair]) -> Option<RunSection> {
    if all.is_empty() {
        return None;
    }
    let (mut figures, mut grids) = (Vec::new(), Vec::new());
    for relation in order(all.iter().map(|r| r.relation.as_str())) {
        for form in order(all.iter().map(|r| r.form.as_str())) {
            let own: Vec<&Repair> = all.iter().filter(|r| r.relation == relation && r.form == form).collect();
            if own.is_empty() {
                continue;
            }
            let title = format!("{relation}, {form} prompts");
            figures.push(gains(&title, &own));
            grids.push(prices(&title, &own));
        }
    }
    let mut parts = vec![Part::Figures(figures)];
    parts.extend(grids.into_iter().map(Part::Grid));
    Some(RunSection {
        id: "repairs",
        title: "What can be done about it, and its price".to_owned(),
        lead: "Changes of the last block, measured on the facts that chose nothing. A gain is worth something where it \
               is more than that of every control: other heads, a random vector, the mean over plain text, a temperature \
               that gives as much entropy, the prior of single tokens. The price is paid on plain text."
            .to_owned(),
        parts,
    })
}

fn gains(title: &str, all: &[&Repair]) -> Figure {
    let row = |r: &&Repair| {
        let tone = if r.is_control { Tone::Muted } else { Tone::True };
        let dot = Dot { tone, value: r.gain, interval: Some((r.gain_low, r.gain_high)) };
        // Names of controls may be long.
        DotRow { name: r.name.replace("temperature_", "as warm: "), dots: vec![dot] }
    };
    let chart = DotChart {
        title: format!("{title}: gain of each repair"),
        about: format!("{} repairs and controls, each with its 95 % interval.", all.len()),
        x: "gain of probability, points".to_owned(),
        format: Format::Percent,
        legend: vec![(Tone::True, "repairs".to_owned()), (Tone::Muted, "controls".to_owned())],
        rows: all.iter().filter(|r| r.name != "none").map(row).collect(),
        zero: true,
    };
    Figure { caption: title.to_owned(), svg: chart.svg(), numbers: None }
}

fn prices(title: &str, all: &[&Repair]) -> Grid {
    let share = |x: Option<f64>| Cell::number(x.map_or_else(|| "–".to_owned(), |x| Format::Percent.value(x)));
    let gain = |x: Option<f64>| Cell::number(x.map_or_else(|| "–".to_owned(), |x| points(x, None)));
    let rows = all.iter().map(|r| {
        let interval = Some((r.gain_low, r.gain_high));
        vec![
            Cell::text(r.name.clone()),
            Cell::text(if r.is_control { "control" } else { "" }),
            share(Some(r.prob)),
            Cell { text: points(r.gain, interval), class: class(interval) },
            Cell::number(format!("{:.3}", r.p)),
            gain(r.gain_below),
            gain(r.gain_middle),
            gain(r.gain_above),
            gain(Some(r.first)),
            Cell::number(Format::Plain.difference(r.rank)),
            Cell::number(format!("{:.2}", r.entropy)),
            Cell::number(format!("{:.1}", r.perplexity)),
            Cell::number(format!("{:.3}", r.ece)),
            Cell::number(format!("{:.3}", r.brier)),
            share(r.function_words),
            Cell { text: r.what.clone(), class: "said soft" },
        ]
    });
    let numbers = [
        "p(Y)",
        "gain [interval]",
        "p (Holm)",
        "gain below 10 %",
        "10 to 50 %",
        "above 50 %",
        "first choice",
        "log₁₀ rank",
        "entropy, nats",
        "perplexity",
        "ECE",
        "Brier",
        "function words",
    ];
    let (facts, tokens) = all.first().map_or((0, 0), |r| (r.n, r.tokens));
    let text = ["repair", ""].map(Head::text);
    Grid {
        caption: format!("{title}: {facts} facts, {tokens} tokens of text"),
        head: text.into_iter().chain(numbers.map(Head::number)).chain([Head::text("what is done")]).collect(),
        rows: rows.collect(),
    }
}
