//! The page of a study of factual recall.

mod inside;
mod inside_heads;
mod inside_last;

use refocus_results::StoredRun;
use refocus_results::recall::{Claim, Fall, Number, Point as Row, Relation, Repair};

use crate::chart::{Dot, DotChart, DotRow, Format, LineChart, Point, Series, Tone};
use crate::overthinking::numbers;
use crate::view::{Cell, Figure, Fold, Grid, Head, Part};
use crate::words::{class, count, joined, order, points};
use crate::{ReportError, RunSection};

/// Sections for the tables that are there.
pub(crate) fn sections(run: &StoredRun) -> Result<Vec<RunSection>, ReportError> {
    let relations: Vec<Relation> = run.rows()?.unwrap_or_default();
    let trace: Vec<Row> = run.rows()?.unwrap_or_default();
    let falls: Vec<Fall> = run.rows()?.unwrap_or_default();
    let claims: Vec<Claim> = run.rows()?.unwrap_or_default();
    let found: Vec<Number> = run.rows()?.unwrap_or_default();
    let repaired: Vec<Repair> = run.rows()?.unwrap_or_default();
    let mut all = Vec::new();
    if !relations.is_empty() {
        all.push(RunSection {
            id: "summary",
            title: "In short".to_owned(),
            lead: "Facts whose answer is one token and which the model knows are asked for, and their answers are \
                   followed through the residual stream at the last token of the prompt."
                .to_owned(),
            parts: vec![Part::List(summary(&relations, &claims)), Part::Grid(facts(&relations))],
        });
    }
    if !claims.is_empty() {
        all.push(RunSection {
            id: "claims",
            title: "Claims and verdicts".to_owned(),
            lead: "What is claimed, and how it fared. Rules stand in the program: a claim holds \
                   where its interval lies above what would matter and it beats its control, with every number of \
                   other facts that it is about; where only with some, it is conditional."
                .to_owned(),
            parts: vec![Part::Grid(judged(&claims))],
        });
    }
    if !trace.is_empty() {
        all.push(curves(&trace));
    }
    if !falls.is_empty() {
        all.push(RunSection {
            id: "falls",
            title: "The last two layers".to_owned(),
            lead: "Probability that the answer loses between the node before the last two layers and the output. \
                   Answers that are the first choice before were chosen for a high number; matched tokens were \
                   first choices there too, of other prompts, and about as likely: what they lose as well is no \
                   matter of facts."
                .to_owned(),
            parts: vec![Part::Figures(by_shots(&falls)), Part::Grid(lost(&falls))],
        });
    }
    all.extend(inside::sections(&found, &repaired));
    Ok(all)
}

fn summary(relations: &[Relation], claims: &[Claim]) -> Vec<String> {
    let measured: Vec<String> =
        relations.iter().filter(|r| r.outcome == "measured").map(|r| r.relation.clone()).collect();
    let mut said = vec![format!(
        "{} of {} had facts enough{}.",
        measured.len(),
        count(relations.len(), "relation"),
        if measured.is_empty() { String::new() } else { format!(": {}", joined(&measured)) }
    )];
    let mut ids: Vec<&str> = claims.iter().map(|c| c.id.as_str()).collect();
    ids.dedup();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let of: Vec<&Claim> = claims.iter().filter(|c| c.id == id && c.relation.is_some()).collect();
        let tally: Vec<String> = ["holds", "conditional", "does not hold", "cannot be tested"]
            .into_iter()
            .filter_map(|v| {
                let n = of.iter().filter(|c| c.verdict == v).count();
                (n > 0).then(|| format!("{v} in {n}"))
            })
            .collect();
        if let Some(first) = of.first() {
            said.push(format!("{id}, {}: {}.", first.claim, joined(&tally)));
        }
    }
    said
}

fn facts(relations: &[Relation]) -> Grid {
    let numbers = ["facts", "repeated rows", "answers of several tokens", "asked for", "known"];
    let head = std::iter::once(Head::text("relation")).chain(numbers.map(Head::number));
    let rows = relations.iter().map(|r| {
        let numbers = [r.facts, r.repeated, r.several_tokens, r.asked, r.known];
        let first = std::iter::once(Cell::text(r.relation.clone()));
        let numbers = numbers.map(|n| Cell::number(n.to_string()));
        let class = if r.outcome == "measured" { "good" } else { "soft" };
        let last = [
            Cell { text: r.outcome.clone(), class },
            Cell { text: r.why.clone().unwrap_or_default(), class: "soft" },
        ];
        first.chain(numbers).chain(last).collect()
    });
    Grid {
        caption: "Relations and their facts".to_owned(),
        head: head.chain([Head::text("outcome"), Head::text("why")]).collect(),
        rows: rows.collect(),
    }
}

fn judged(claims: &[Claim]) -> Grid {
    let rows = claims.iter().map(|c| {
        let number = |x: Option<f64>, low: Option<f64>, high: Option<f64>| match (x, low.zip(high)) {
            (Some(x), Some(both)) if c.unit == "probability" => points(x, Some(both)),
            (Some(x), Some((low, high))) => format!("{x:+.2} [{low:+.2}, {high:+.2}] nats"),
            _ => "–".to_owned(),
        };
        let class = match c.verdict.as_str() {
            "holds" => "good",
            "does not hold" => "bad",
            _ => "soft",
        };
        vec![
            Cell { text: format!("{}: {}", c.id, c.claim), class: "said" },
            Cell::text(c.relation.clone().unwrap_or_else(|| "all".to_owned())),
            Cell::text(c.form.clone()),
            Cell { text: c.verdict.clone(), class },
            Cell::number(number(c.effect, c.low, c.high)),
            Cell::number(number(c.beyond, c.beyond_low, c.beyond_high)),
            Cell::number(c.n.to_string()),
            Cell { text: c.control.clone(), class: "said soft" },
            Cell { text: c.why.clone(), class: "said soft" },
        ]
    });
    let text = ["claim", "relation", "prompts", "verdict"].map(Head::text);
    let numbers = ["effect [interval]", "beyond its control", "facts"].map(Head::number);
    Grid {
        caption:
            "Positive where the claim is right; of several numbers of other facts the one with the smallest \
                  effect"
                .to_owned(),
        head: text.into_iter().chain(numbers).chain([Head::text("control"), Head::text("why")]).collect(),
        rows: rows.collect(),
    }
}

/// The answer by node for some numbers of other facts, and answer beside argument.
fn curves(trace: &[Row]) -> RunSection {
    let (mut by_shots, mut tokens, mut tuned) = (Vec::new(), Vec::new(), Vec::new());
    for relation in order(trace.iter().map(|r| r.relation.as_str())) {
        for form in order(trace.iter().map(|r| r.form.as_str())) {
            let of: Vec<&Row> = trace
                .iter()
                .filter(|r| r.relation == relation && r.form == form && r.group == "all")
                .collect();
            let Some(beginning) = of.first().map(|r| r.beginning.as_str()) else { continue };
            let of: Vec<&Row> = of.into_iter().filter(|r| r.beginning == beginning).collect();
            let most = of.iter().map(|r| r.shots).max().unwrap_or(0);
            let line = |name: String, tone, keep: &dyn Fn(&Row) -> bool| Series {
                name,
                tone,
                points: of
                    .iter()
                    .filter(|r| keep(r))
                    .map(|r| Point { x: r.node as f64, y: r.prob, band: Some((r.low, r.high)) })
                    .collect(),
            };
            let answer = |lens: &'static str, k: i64| {
                move |r: &Row| r.token == "answer" && r.lens == lens && r.shots == k
            };
            let mut shots = vec![0, 1, 3, most];
            shots.retain(|k| *k <= most);
            shots.dedup();
            let lines = |lens: &'static str| -> Vec<Series> {
                let each = shots.iter().zip(Tone::SERIES);
                each.map(|(&k, tone)| line(format!("{k} facts"), tone, &answer(lens, k))).collect()
            };
            let title = format!("{relation}, {form} prompts");
            by_shots.extend(figure(format!("{title}: the answer, by number of other facts"), lines("logit")));
            tuned.extend(figure(format!("{title}: the same by the tuned lens"), lines("tuned")));
            let named = [("answer", "answer"), ("argument", "argument"), ("other_answer", "another answer")];
            let tones = [Tone::True, Tone::False, Tone::Muted];
            let each = named.into_iter().zip(tones).map(|((token, name), tone)| {
                let keep = move |r: &Row| r.token == token && r.lens == "logit" && r.shots == 0;
                line(name.to_owned(), tone, &keep)
            });
            tokens.extend(figure(format!("{title}: answer and argument, no other fact"), each.collect()));
        }
    }
    let mut parts = vec![Part::Figures(by_shots)];
    for (title, figures) in [("Answer beside argument", tokens), ("By the tuned lens", tuned)] {
        if !figures.is_empty() {
            parts.push(Part::Fold(Fold { title: title.to_owned(), figures, grids: Vec::new() }));
        }
    }
    RunSection {
        id: "trace",
        title: "From node to node".to_owned(),
        lead:
            "Probability of the answer if the model stopped at each node of the residual stream: before the \
               first block, after each attention and each MLP."
                .to_owned(),
        parts,
    }
}

fn figure(title: String, series: Vec<Series>) -> Option<Figure> {
    let series: Vec<Series> = series.into_iter().filter(|s| s.points.len() > 1).collect();
    let first = series.first()?;
    let nodes = first.points.len();
    let chart = LineChart {
        title: title.clone(),
        about: format!("Probability at each of {nodes} nodes, with its 95 % interval."),
        x: "node (0: embedding)".to_owned(),
        y: "probability, %".to_owned(),
        format: Format::Percent,
        span: Some((0.0, 1.0)),
        series,
        level: None,
        marks: Vec::new(),
    };
    Some(Figure { caption: title, numbers: Some(numbers(&chart)), svg: chart.svg() })
}

/// Names of the colours that are there.
fn legend(rows: &[DotRow]) -> Vec<(Tone, String)> {
    let named = [
        (Tone::True, "all"),
        (Tone::Third, "tuned"),
        (Tone::False, "first before"),
        (Tone::Muted, "matched"),
    ];
    let there = |tone: &Tone| rows.iter().flat_map(|r| &r.dots).any(|d| d.tone == *tone);
    named.into_iter().filter(|(tone, _)| there(tone)).map(|(tone, name)| (tone, name.to_owned())).collect()
}

/// What answers and matched tokens lose, by number of other facts.
fn by_shots(falls: &[Fall]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for relation in order(falls.iter().map(|f| f.relation.as_str())) {
        for form in order(falls.iter().map(|f| f.form.as_str())) {
            let of = || falls.iter().filter(move |f| f.relation == relation && f.form == form);
            let all = |f: &&Fall| f.group == "all" && f.lens == "logit" && f.part == "total";
            let rows = of().filter(all).map(|f| {
                let same = |group: &str, lens: &str, part: &str| {
                    of().find(|g| {
                        let like = (g.shots, &g.beginning) == (f.shots, &f.beginning);
                        like && (g.group.as_str(), g.lens.as_str(), g.part.as_str()) == (group, lens, part)
                    })
                };
                let dot = |tone, f: &Fall| Dot { tone, value: f.value, interval: Some((f.low, f.high)) };
                let dots = [
                    Some(dot(Tone::True, f)),
                    same("all", "tuned", "total").map(|m| dot(Tone::Third, m)),
                    same("right_before", "logit", "total").map(|m| dot(Tone::False, m)),
                    same("right_before", "logit", "matched").map(|m| dot(Tone::Muted, m)),
                ];
                DotRow {
                    name: format!("{} facts, {}", f.shots, f.beginning),
                    dots: dots.into_iter().flatten().collect(),
                }
            });
            let rows: Vec<DotRow> = rows.collect();
            if rows.is_empty() {
                continue;
            }
            let title = format!("{relation}, {form} prompts");
            let chart = DotChart {
                title: title.clone(),
                about: "A row for each number of other facts: what answers and matched tokens lose."
                    .to_owned(),
                x: "probability lost, points".to_owned(),
                format: Format::Percent,
                legend: legend(&rows),
                rows,
                zero: true,
            };
            figures.push(Figure { caption: title, svg: chart.svg(), numbers: None });
        }
    }
    figures
}

fn lost(falls: &[Fall]) -> Grid {
    let rows = falls.iter().filter(|f| f.group == "right_before" || f.group == "all").map(|f| {
        let interval = Some((f.low, f.high));
        let share = |x: Option<f64>| Cell::number(x.map_or_else(String::new, |x| Format::Percent.value(x)));
        let mut cells = vec![Cell::text(f.relation.clone()), Cell::text(f.form.clone())];
        cells.push(Cell::number(f.shots.to_string()));
        cells.extend([&f.beginning, &f.group, &f.lens, &f.part].map(|t| Cell::text(t.clone())));
        cells.extend([share(f.before), share(f.after)]);
        cells.push(Cell { text: points(f.value, interval), class: class(interval.map(|(l, h)| (-h, -l))) });
        cells.push(Cell::number(f.n.to_string()));
        cells
    });
    let names =
        ["relation", "prompts", "other facts", "begun with", "which", "lens", "part", "before", "after"];
    let text = names.map(|n| if n == "other facts" { Head::number(n) } else { Head::text(n) });
    Grid {
        caption: "What is lost, and by what".to_owned(),
        head: text.into_iter().chain([Head::number("lost [interval]"), Head::number("facts")]).collect(),
        rows: rows.collect(),
    }
}
