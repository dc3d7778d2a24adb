//! What happens inside: heads, MLPs, other facts before the question, the last blocks, and what repairs gain and cost.

use refocus_results::recall::{Number, Repair};

use super::inside_heads;
use super::inside_last::{last, repairs};
use crate::RunSection;
use crate::chart::{BarChart, Dot, DotChart, DotRow, Format, LineChart, Point, Series, Tone};
use crate::overthinking::numbers;
use crate::view::{Cell, Figure, Fold, Grid, Head, Part};
use crate::words::{both, order, points};

/// The numbers of one relation and form.
pub(super) struct Case<'a> {
    pub(super) title: String,
    pub(super) rows: Vec<&'a Number>,
}

impl<'a> Case<'a> {
    fn all(numbers: &'a [Number]) -> Vec<Self> {
        let mut out = Vec::new();
        for relation in order(numbers.iter().map(|n| n.relation.as_str())) {
            for form in order(numbers.iter().map(|n| n.form.as_str())) {
                let rows: Vec<&Number> =
                    numbers.iter().filter(|n| n.relation == relation && n.form == form).collect();
                if !rows.is_empty() {
                    out.push(Self { title: format!("{relation}, {form} prompts"), rows });
                }
            }
        }
        out
    }

    pub(super) fn stage(&self, stage: &'a str) -> impl Iterator<Item = &'a Number> + '_ {
        self.rows.iter().copied().filter(move |n| n.stage == stage)
    }

    /// The first number of a stage that is about this.
    pub(super) fn get(&self, stage: &'a str, about: &str, measure: &str) -> Option<&'a Number> {
        self.stage(stage).find(|n| n.about == about && n.measure == measure)
    }
}

/// A number with its interval, as its unit is written.
pub(super) fn written(n: &Number) -> String {
    let ends = both(n.low, n.high);
    match n.unit.as_str() {
        "share" | "probability" => points(n.value, ends),
        "heads" => format!("{:.0}", n.value),
        _ => {
            let d = |x| Format::Plain.difference(x);
            let interval = ends.map(|(low, high)| format!(" [{}, {}]", d(low), d(high))).unwrap_or_default();
            format!("{}{interval}", d(n.value))
        }
    }
}

/// The same in a table; a dash where there is none.
pub(super) fn cell(n: Option<&Number>) -> Cell {
    Cell::number(n.map_or_else(|| "–".to_owned(), written))
}

/// The same of what has no sign: a share, a length, a rank.
pub(super) fn amount(n: Option<&Number>) -> Cell {
    let text = n.map(|n| {
        let format = if n.unit == "share" { Format::Percent } else { Format::Plain };
        let interval = both(n.low, n.high)
            .map(|(low, high)| format!(" [{}, {}]", format.value(low), format.value(high)))
            .unwrap_or_default();
        format!("{}{interval}", format.value(n.value))
    });
    Cell::number(text.unwrap_or_else(|| "–".to_owned()))
}

/// The probability of chance beside it.
pub(super) fn chance(n: Option<&Number>) -> Cell {
    let text = match n.and_then(|n| n.p) {
        None => "–".to_owned(),
        Some(p) if p < 0.001 => "< 0.001".to_owned(),
        Some(p) => format!("{p:.3}"),
    };
    Cell::number(text)
}

/// Sections for what was found.
pub(super) fn sections(found: &[Number], repaired: &[Repair]) -> Vec<RunSection> {
    let cases = Case::all(found);
    let all =
        [inside_heads::section(&cases), mlps(&cases), with_facts(&cases), last(&cases), repairs(repaired)];
    all.into_iter().flatten().collect()
}

/// What an MLP is fitted on, in words.
fn on(about: &str) -> &'static str {
    if about == "block" { "its block's heads and the rest" } else { "everything before it" }
}

fn mlps(cases: &[Case<'_>]) -> Option<RunSection> {
    let mut figures: Vec<Figure> = cases.iter().filter_map(scores).collect();
    if figures.is_empty() {
        return None;
    }
    figures.extend(cases.iter().filter_map(weights));
    let direct: Vec<Figure> = cases.iter().filter_map(direct).collect();
    let mut parts = vec![Part::Figures(figures), Part::Grid(fits(cases)), Part::Grid(intercepts(cases))];
    if !direct.is_empty() {
        let title = "What each MLP adds to the answer directly".to_owned();
        parts.push(Part::Fold(Fold { title, figures: direct, grids: Vec::new() }));
    }
    Some(RunSection {
        id: "mlp",
        title: "What an MLP makes of the heads before it".to_owned(),
        lead: "The output of an MLP as a number a head and one vector common to all prompts: how much of what varies \
               between facts that explains where the fact was left out of the fit (R²; below 0 the mean alone is \
               better), beside outputs exchanged between facts, a matrix for each head, and the MLP's own derivative \
               at the mean of what it reads. A weight of −1 erases a head, one above 0 amplifies it."
            .to_owned(),
        parts,
    })
}

const SCORES: [(&str, &str); 7] = [
    ("r2", "facts left out"),
    ("r2_templates", "wordings left out"),
    ("r2_permuted", "outputs exchanged"),
    ("r2_intercept", "vector alone"),
    ("r2_matrix", "a matrix each"),
    ("r2_matrix_permuted", "the same, exchanged"),
    ("r2_first_order", "derivative at the mean"),
];

/// R² of each fit beside its controls.
fn scores(case: &Case<'_>) -> Option<Figure> {
    let fits: Vec<&Number> = case.stage("mlp").filter(|n| n.measure == "r2").collect();
    // The block that applies the function, on everything before it.
    let own = fits.iter().find(|n| n.about == "everything").or(fits.first())?;
    let row = |(measure, name): (&str, &str)| {
        let same = |n: &&Number| n.measure == measure && n.about == own.about && n.layer == own.layer;
        let n = case.stage("mlp").find(same)?;
        let tone = if measure == "r2" { Tone::True } else { Tone::Muted };
        let dot = Dot { tone, value: n.value, interval: both(n.low, n.high) };
        Some(DotRow { name: name.to_owned(), dots: vec![dot] })
    };
    let caption = format!("{}: MLP {} on {}", case.title, own.layer.unwrap_or(0), on(&own.about));
    let chart = DotChart {
        title: caption.clone(),
        about: "A row for the regression and for each of its controls.".to_owned(),
        x: "R²".to_owned(),
        format: Format::Plain,
        legend: vec![(Tone::True, "regression".to_owned()), (Tone::Muted, "beside it".to_owned())],
        rows: SCORES.into_iter().filter_map(row).collect(),
        zero: true,
    };
    Some(Figure { caption, svg: chart.svg(), numbers: None })
}

/// Weights of the heads of the block.
fn weights(case: &Case<'_>) -> Option<Figure> {
    let all: Vec<&Number> =
        case.stage("weights").filter(|n| n.measure == "block" && n.about.contains('.')).collect();
    let layer = all.first()?.layer.unwrap_or(0);
    let caption = format!("{}: weights of the heads before MLP {layer}", case.title);
    let chart = BarChart {
        title: caption.clone(),
        about: format!("A bar for each of {} heads.", all.len()),
        x: "head".to_owned(),
        y: "weight".to_owned(),
        format: Format::Plain,
        tone: Tone::True,
        bars: all.iter().map(|n| (n.about.clone(), n.value)).collect(),
    };
    let numbers = Grid {
        caption: caption.clone(),
        head: vec![Head::text("head"), Head::number("weight [interval]"), Head::number("p (Holm)")],
        rows: all.iter().map(|n| vec![Cell::text(n.about.clone()), cell(Some(n)), chance(Some(n))]).collect(),
    };
    Some(Figure { caption, svg: chart.svg(), numbers: Some(numbers) })
}

/// What each MLP adds to π(Y) directly.
fn direct(case: &Case<'_>) -> Option<Figure> {
    let all: Vec<&Number> =
        case.stage("heads").filter(|n| n.measure == "direct" && n.about.starts_with("mlp ")).collect();
    if all.is_empty() {
        return None;
    }
    let chart = BarChart {
        title: format!("{}: direct share of π(Y)", case.title),
        about: "A bar for the MLP of each layer.".to_owned(),
        x: "layer".to_owned(),
        y: "share of π(Y), logits".to_owned(),
        format: Format::Plain,
        tone: Tone::True,
        bars: all.iter().map(|n| (n.layer.unwrap_or(0).to_string(), n.value)).collect(),
    };
    Some(Figure { caption: case.title.clone(), svg: chart.svg(), numbers: None })
}

fn fits(cases: &[Case<'_>]) -> Grid {
    let mut rows = Vec::new();
    for case in cases {
        for fit in case.stage("mlp").filter(|n| n.measure == "r2") {
            let of = |measure: &str| {
                case.stage("mlp")
                    .find(|n| n.measure == measure && n.about == fit.about && n.layer == fit.layer)
            };
            let mut row = vec![
                Cell::text(case.title.clone()),
                Cell::text(fit.layer.unwrap_or(0).to_string()),
                Cell::text(on(&fit.about)),
            ];
            row.extend(SCORES.map(|(measure, _)| cell(of(measure))));
            row.push(Cell::number(
                of("condition").map_or_else(|| "infinite".to_owned(), |n| Format::Plain.value(n.value)),
            ));
            row.extend(["kl_rebuilt", "kl_mean"].map(|m| amount(of(m))));
            row.push(chance(of("kl_gain")));
            rows.push(row);
        }
    }
    let text = ["prompts", "MLP", "fitted on"].map(Head::text);
    let more = ["condition number", "nats from the model, rebuilt", "nats, mean alone", "p"];
    Grid {
        caption: "R² of what varies, and how far the model is from itself with the MLP replaced".to_owned(),
        head: text
            .into_iter()
            .chain(SCORES.map(|(_, name)| Head::number(name)))
            .chain(more.map(Head::number))
            .collect(),
        rows,
    }
}

fn intercepts(cases: &[Case<'_>]) -> Grid {
    let mut rows = Vec::new();
    for case in cases {
        for about in order(case.stage("intercept").map(|n| n.about.as_str())) {
            let layer = case.stage("intercept").find(|n| n.about == about).and_then(|n| n.layer);
            let mut row = vec![
                Cell::text(case.title.clone()),
                Cell::text(layer.map_or_else(String::new, |l| l.to_string())),
                Cell::text(about),
            ];
            let measures = [
                "answer",
                "argument",
                "others",
                "specific",
                "cosine",
                "without",
                "own_answer",
                "their_answer",
            ];
            row.extend(measures.map(|m| cell(case.get("intercept", about, m))));
            rows.push(row);
        }
    }
    let numbers = [
        "answer, log₁₀ rank",
        "argument",
        "other answers",
        "answer less others",
        "cosine with answers − arguments",
        "π(Y) without it",
        "π(Y) with the other in its place",
        "the other's answer, log₁₀ rank",
    ];
    let text = ["prompts", "MLP", "what is added"].map(Head::text);
    Grid {
        caption: "The MLP's vector: what it promotes where the MLP reads (below 0 the rank is nearer), and what it does \
                  in the MLP's place"
            .to_owned(),
        head: text.into_iter().chain(numbers.map(Head::number)).collect(),
        rows,
    }
}

fn with_facts(cases: &[Case<'_>]) -> Option<RunSection> {
    let figures: Vec<Figure> = cases.iter().filter_map(by_facts).collect();
    if figures.is_empty() {
        return None;
    }
    let mut rows = Vec::new();
    for case in cases {
        let mut counts: Vec<i64> = case.stage("shots").map(|n| n.shots).collect();
        counts.dedup();
        for k in counts {
            let of = |about: &str, measure: &str| {
                case.stage("shots").find(|n| n.shots == k && n.about == about && n.measure == measure)
            };
            let first: Vec<&str> = case
                .stage("shots")
                .filter(|n| n.shots == k && n.measure == "path")
                .map(|n| n.about.as_str())
                .collect();
            let mut row = vec![Cell::text(case.title.clone()), Cell::number(k.to_string())];
            row.push(Cell::text(first.join(" ")));
            let all = [
                ("heads", "kept"),
                ("heads", "correlation"),
                ("heads", "halves"),
                ("heads", "across"),
                ("everything", "r2"),
                ("everything", "r2_permuted"),
                ("everything", "kl_gain"),
                ("intercept", "cosine_without_facts"),
                ("intercept", "answer"),
                ("intercept", "specific"),
                ("intercept", "without"),
            ];
            row.extend(all.map(|(about, measure)| cell(of(about, measure))));
            rows.push(row);
        }
    }
    let numbers = [
        "of these without facts",
        "rank correlation",
        "halves of the facts",
        "across halves",
        "R²",
        "exchanged",
        "nats nearer than the mean",
        "vector's cosine",
        "answer with the vector",
        "less other answers",
        "π(Y) without it",
    ];
    let head = [Head::text("prompts"), Head::number("facts before"), Head::text("first heads")];
    let grid = Grid {
        caption: "Heads, regression and vector with other facts before the question".to_owned(),
        head: head.into_iter().chain(numbers.map(Head::number)).collect(),
        rows,
    };
    Some(RunSection {
        id: "shots",
        title: "With other facts before the question".to_owned(),
        lead: "Whether the same heads carry the answer: the rank correlation over all heads of their effects with those \
               without other facts, beside that of one half of the facts with the other, which is as much as so few \
               facts can show."
            .to_owned(),
        parts: vec![Part::Figures(figures), Part::Grid(grid)],
    })
}

fn by_facts(case: &Case<'_>) -> Option<Figure> {
    let line = |name: &str, tone, about: &str, measure: &str| Series {
        name: name.to_owned(),
        tone,
        points: case
            .stage("shots")
            .filter(|n| n.about == about && n.measure == measure)
            .map(|n| Point { x: n.shots as f64, y: n.value, band: both(n.low, n.high) })
            .collect(),
    };
    let series = vec![
        line("heads", Tone::True, "heads", "correlation"),
        line("halves", Tone::Muted, "heads", "halves"),
        line("vector", Tone::Third, "intercept", "cosine_without_facts"),
    ];
    if series[0].points.len() < 2 {
        return None;
    }
    let chart = LineChart {
        title: format!("{}: likeness to no other facts", case.title),
        about: "Rank correlation of the heads' effects with those without other facts and cosine of the MLP's vector, by \
                number of other facts."
            .to_owned(),
        x: "other facts before".to_owned(),
        y: "correlation, cosine".to_owned(),
        format: Format::Plain,
        span: None,
        series,
        level: Some(("same: 0.5".to_owned(), 0.5)),
        marks: Vec::new(),
    };
    Some(Figure { caption: case.title.clone(), numbers: Some(numbers(&chart)), svg: chart.svg() })
}
