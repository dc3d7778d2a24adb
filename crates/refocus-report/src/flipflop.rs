//! The page of a flip-flop study.

use std::collections::BTreeMap;

use refocus_results::StoredRun;
use refocus_results::flipflop::{Distance, Row, TrainingPoint};

use crate::chart::{Format, LineChart, Point, Rate, RateChart, RateRow, Series, Tone};
use crate::overthinking::numbers;
use crate::view::{Cell, Figure, Fold, Grid, Head, Part};
use crate::words::{claim_section, count, order, tally};
use crate::{ReportError, RunSection};

fn whole(x: i64) -> u64 {
    u64::try_from(x).unwrap_or(0)
}

/// Wrong reads of all together, as a share.
fn share(errors: u64, reads: u64) -> f64 {
    errors as f64 / reads.max(1) as f64
}

/// Sections for the tables that are there.
pub(crate) fn sections(run: &StoredRun) -> Result<Vec<RunSection>, ReportError> {
    let rows: Vec<Row> = run.rows()?.unwrap_or_default();
    let curve: Vec<TrainingPoint> = run.rows()?.unwrap_or_default();
    let distance: Vec<Distance> = run.rows()?.unwrap_or_default();
    let mut all = Vec::new();
    let claims =
        if run.info().study.starts_with("flipflop/") { run.rows()?.unwrap_or_default() } else { Vec::new() };
    if !rows.is_empty() {
        let mut said = summary(&rows);
        said.extend(tally(&claims));
        all.push(RunSection {
            id: "summary",
            title: "In short".to_owned(),
            lead: "Each model learns to recall the last bit that was written, and is then tested on strings like \
                   those it learned from and on rarer ones. A dot is one seed; on the line at the left it made no \
                   error."
                .to_owned(),
            parts: vec![Part::List(said), Part::Figures(rates(&rows)), Part::Grid(table(&rows))],
        });
    }
    if !claims.is_empty() {
        let lead = "What the paper says, and how it fared by a rule that was written before the runs. Effects stand in \
                    the reasons.";
        all.push(RunSection { lead: lead.to_owned(), ..claim_section(&claims) });
    }
    if !curve.is_empty() {
        all.push(RunSection {
            id: "training",
            title: "While it learns".to_owned(),
            lead: "Wrong reads of all seeds together, by step of training.".to_owned(),
            parts: vec![Part::Figures(training(&curve))],
        });
    }
    if !distance.is_empty() {
        all.push(RunSection {
            id: "distance",
            title: "Errors by distance".to_owned(),
            lead: "How often a read is wrong, by how far back the answer stands.".to_owned(),
            parts: by_distance(&distance),
        });
    }
    Ok(all)
}

fn summary(rows: &[Row]) -> Vec<String> {
    let mut said = Vec::new();
    for set in order(rows.iter().map(|r| r.set.as_str())) {
        // Not every way is tested on every set: strings are as long as those it learned from.
        let of: Vec<&Row> = rows.iter().filter(|r| r.set == set).collect();
        let names = order(of.iter().map(|r| r.row.as_str()));
        let is_clean = |name: &&&str| of.iter().filter(|r| r.row == **name).all(|r| r.errors == 0);
        let clean = names.iter().filter(is_clean).count();
        let rate = |r: &Row| share(whole(r.errors), whole(r.reads));
        let worst = of.iter().filter(|r| r.errors > 0).max_by(|a, b| rate(a).total_cmp(&rate(b)));
        let ways = count(names.len(), "way");
        said.push(match worst {
            None => format!("Set {set}: no error, {ways} of training, any seed."),
            Some(worst) => format!(
                "Set {set}: {clean} of {ways} of training made no error with any seed; the worst model, of {}, got {} \
                 of {} reads wrong.",
                worst.row, worst.errors, worst.reads
            ),
        });
    }
    said
}

fn rates(rows: &[Row]) -> Vec<Figure> {
    let sets = order(rows.iter().map(|r| r.set.as_str()));
    let names = order(rows.iter().map(|r| r.row.as_str()));
    let figures = sets.iter().enumerate().map(|(i, set)| {
        let of = |name: &&&str| {
            let seeds = rows.iter().filter(|r| r.row == **name && r.set == *set).map(|r| Rate {
                errors: whole(r.errors),
                of: whole(r.reads),
                interval: Some((r.low, r.high)),
            });
            let rates: Vec<Rate> = seeds.collect();
            (!rates.is_empty()).then(|| RateRow { name: (**name).to_owned(), rates })
        };
        let chart = RateChart {
            title: format!("Errors on the set {set}"),
            about:
                "A row for each way of training, a dot for each seed, with its 95 % interval; the axis is \
                    logarithmic and has a place for 0."
                    .to_owned(),
            tone: Tone::SERIES[i % Tone::SERIES.len()],
            rows: names.iter().filter_map(|n| of(&n)).collect(),
        };
        Figure { caption: chart.title.clone(), svg: chart.svg(), numbers: None }
    });
    figures.collect()
}

fn table(rows: &[Row]) -> Grid {
    let sets = order(rows.iter().map(|r| r.set.as_str()));
    let body = order(rows.iter().map(|r| r.row.as_str())).into_iter().map(|name| {
        let of: Vec<&Row> = rows.iter().filter(|r| r.row == name).collect();
        let seeds: std::collections::BTreeSet<i64> = of.iter().map(|r| r.seed).collect();
        let mut cells = vec![
            Cell::text(name),
            Cell::text(of.first().map(|r| r.group.clone()).unwrap_or_default()),
            Cell::number(seeds.len().to_string()),
            Cell::number(of.iter().map(|r| r.steps).max().unwrap_or(0).to_string()),
            Cell::number(format!("{:.0}", of.iter().filter_map(|r| r.seconds).fold(0.0, f64::max))),
        ];
        for set in &sets {
            let here: Vec<&&Row> = of.iter().filter(|r| r.set == *set).collect();
            let text = |r: &&&Row| format!("{}/{}", r.errors, r.reads);
            let all: Vec<String> = here.iter().map(text).collect();
            let clean = !here.is_empty() && here.iter().all(|r| r.errors == 0);
            cells.push(Cell { text: all.join("  "), class: if clean { "n good" } else { "n" } });
        }
        cells
    });
    let head = [Head::text("training"), Head::text("group")].into_iter();
    let numbers = ["seeds", "steps", "s at most"].map(Head::number);
    Grid {
        caption: "Wrong reads of each seed".to_owned(),
        head: head.chain(numbers).chain(sets.iter().map(|s| Head::number(*s))).collect(),
        rows: body.collect(),
    }
}

/// Errors and reads by place, as points.
fn points(sums: BTreeMap<i64, (u64, u64)>) -> Vec<Point> {
    let point =
        |(x, (errors, reads)): (i64, (u64, u64))| Point { x: x as f64, y: share(errors, reads), band: None };
    sums.into_iter().map(point).collect()
}

fn chart(title: &str, x: &str, series: Vec<Series>) -> Figure {
    let chart = LineChart {
        title: title.to_owned(),
        about: format!(
            "A line for each of: {}.",
            series.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")
        ),
        x: x.to_owned(),
        y: "wrong reads, %".to_owned(),
        format: Format::Percent,
        span: None,
        series,
        level: None,
        marks: Vec::new(),
    };
    Figure { caption: title.to_owned(), numbers: Some(numbers(&chart)), svg: chart.svg() }
}

fn training(curve: &[TrainingPoint]) -> Vec<Figure> {
    let figures = order(curve.iter().map(|p| p.row.as_str())).into_iter().map(|name| {
        let of: Vec<&TrainingPoint> = curve.iter().filter(|p| p.row == name).collect();
        let series =
            order(of.iter().map(|p| p.set.as_str())).into_iter().zip(Tone::SERIES).map(|(set, tone)| {
                let mut sums: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
                for p in of.iter().filter(|p| p.set == set) {
                    let sum = sums.entry(p.step).or_default();
                    *sum = (sum.0 + whole(p.errors), sum.1 + whole(p.reads));
                }
                Series { name: set.to_owned(), tone, points: points(sums) }
            });
        chart(name, "step of training", series.collect())
    });
    figures.collect()
}

fn by_distance(distance: &[Distance]) -> Vec<Part> {
    let mut parts = Vec::new();
    for (i, by) in order(distance.iter().map(|d| d.by.as_str())).into_iter().enumerate() {
        let (title, x) = match by {
            "write" => ("Since the last write", "instructions since the last write"),
            "non_ignore" => ("Since the last instruction that is not ignored", "instructions since then"),
            "stale_writes" => ("By earlier writes of the other bit", "earlier writes of the other bit"),
            other => (other, other),
        };
        let figures = order(distance.iter().map(|d| d.row.as_str())).into_iter().map(|name| {
            let of: Vec<&Distance> = distance.iter().filter(|d| d.row == name && d.by == by).collect();
            let series =
                order(of.iter().map(|d| d.set.as_str())).into_iter().zip(Tone::SERIES).map(|(set, tone)| {
                    let mut sums: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
                    for d in of.iter().filter(|d| d.set == set) {
                        let sum = sums.entry(i64::midpoint(d.from, d.to)).or_default();
                        *sum = (sum.0 + whole(d.errors), sum.1 + whole(d.reads));
                    }
                    Series { name: set.to_owned(), tone, points: points(sums) }
                });
            chart(name, x, series.collect())
        });
        let figures: Vec<Figure> = figures.collect();
        if i == 0 {
            parts.extend([Part::Heading(title.to_owned()), Part::Figures(figures)]);
        } else {
            parts.push(Part::Fold(Fold { title: title.to_owned(), figures, grids: Vec::new() }));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_was_not_tested_on_a_set_is_not_counted_there() {
        let row = |row: &str, set: &str, errors: i64| Row {
            row: row.to_owned(),
            group: String::new(),
            seed: 0,
            set: set.to_owned(),
            reads: 10,
            errors,
            low: 0.0,
            high: 1.0,
            seconds: None,
            steps: 1,
        };
        let rows = [row("lstm", "in", 0), row("baseline", "half-in", 0), row("mixture", "half-in", 3)];
        assert_eq!(
            summary(&rows),
            [
                "Set in: no error, 1 way of training, any seed.",
                "Set half-in: 1 of 2 ways of training made no error with any seed; the worst model, of mixture, got 3 \
                 of 10 reads wrong."
            ]
        );
    }
}
