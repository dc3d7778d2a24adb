//! What happens inside: heads, MLPs, other facts before the question, the last blocks, and what repairs gain and cost.

use refocus_results::recall::{Number, Repair};

use super::inside_heads;
use crate::RunSection;
use crate::chart::{BarChart, Dot, DotChart, DotRow, Format, LineChart, Point, Series, Tone};
use crate::overthinking::numbers;
use crate::view::{Cell, Figure, Fold, Grid, Head, Part};
use crate::words::{both, class, order, points};

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

    /// A number of a stage; without other facts unless the stage is about them.
    pub(super) fn get(&self, stage: &'a str, about: &str, measure: &str) -> Option<&'a Number> {
        self.stage(stage).find(|n| n.about == about && n.measure == measure)
    }
}

/// A number with its interval, as its unit is written.
pub(super) fn written(n: &Number) -> String {
    let ends = both(n.low, n.high);
    match n.unit.as_str() {
        "share" | "probability" => points(n.value, ends),
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
            row.extend(["kl_rebuilt", "kl_mean"].map(|m| cell(of(m))));
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

fn last(cases: &[Case<'_>]) -> Option<RunSection> {
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
            row.extend(["to_first", "norm", "share", "frequency"].map(|m| cell(of(m))));
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

fn repairs(all: &[Repair]) -> Option<RunSection> {
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
            Cell { text: r.what.clone(), class: "soft" },
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
