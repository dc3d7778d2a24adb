//! Curves over layers and over demonstrations.

use refocus_results::overthinking::{Curve, Setting};

use super::{Key, Tables, grouped, name};
use crate::RunSection;
use crate::chart::{Format, LineChart, Point, Series, Tone};
use crate::view::{Cell, Figure, Fold, Grid, Head, Part};
use crate::words::percent;

pub(super) fn section(t: &Tables) -> Option<RunSection> {
    if t.curves.is_empty() {
        return None;
    }
    let (mut by_layer, mut by_slot, mut shares, mut promoted) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (key, rows) in grouped(&t.curves, |c| (c.task.as_str(), c.setting.as_str())) {
        let about = t.settings.iter().find(|s| (s.task.as_str(), s.setting.as_str()) == key);
        let last = rows.iter().map(|c| c.layer).max().unwrap_or(0);
        let end = rows.iter().map(|c| c.slot).max().unwrap_or(0);
        let accuracy = [("tp", "true"), ("fp", "false")];
        let tones = [Tone::True, Tone::False];
        let at_end = |c: &Curve| (c.slot == end).then_some(c.layer);
        let at_last = |c: &Curve| (c.layer == last).then_some(c.slot);
        let series = lines(&rows, &accuracy, &tones, at_end);
        by_layer.extend(figure(key, about, series, X::Layer));
        by_slot.extend(figure(key, about, lines(&rows, &accuracy, &tones, at_last), X::Slot));
        let answers = [("share_true", "right"), ("share_shown", "as shown"), ("share_other", "other")];
        let tones = [Tone::True, Tone::False, Tone::Muted];
        shares.extend(figure(key, None, lines(&rows, &answers, &tones, at_end), X::Layer));
        let shown = lines(&rows, &[("permuted", "as shown")], &[Tone::False], at_end);
        promoted.extend(figure(key, about.filter(|_| !shown.is_empty()), shown, X::Layer));
    }
    let mut parts = vec![Part::Figures(by_layer)];
    let folds = [
        ("The same by number of demonstrations, after the last layer", by_slot),
        ("What the model answers to prompts with false labels, by layer", shares),
        ("How often it answers the label that the false prompt would show, by layer", promoted),
    ];
    for (title, figures) in folds {
        if !figures.is_empty() {
            parts.push(Part::Fold(Fold { title: title.to_owned(), figures, grids: Vec::new() }));
        }
    }
    Some(RunSection {
        id: "curves",
        title: "Where it goes wrong".to_owned(),
        lead: "What the model would answer if it stopped after each layer. Where the two lines part, false \
               demonstrations begin to count."
            .to_owned(),
        parts,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum X {
    Layer,
    Slot,
}

/// A line for each measure that is there.
fn lines(
    rows: &[&Curve],
    measures: &[(&str, &str)],
    tones: &[Tone],
    at: impl Fn(&Curve) -> Option<i64>,
) -> Vec<Series> {
    let mut all = Vec::new();
    for (&(measure, label), &tone) in measures.iter().zip(tones) {
        // Where a measure exists for both kinds of prompts, the false ones are meant.
        let of = |c: &&&Curve| c.measure == measure && c.kind.as_deref() != Some("true");
        let points = rows.iter().filter(of).filter_map(|c| {
            let band = c.low.zip(c.high);
            Some(Point { x: at(c)? as f64, y: c.value, band })
        });
        let mut points: Vec<Point> = points.collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        if points.len() > 1 {
            all.push(Series { name: label.to_owned(), tone, points });
        }
    }
    all
}

fn figure(key: Key<'_>, about: Option<&Setting>, series: Vec<Series>, x: X) -> Option<Figure> {
    let first = series.first()?;
    let (start, end) = (first.points.first()?.x, first.points.last()?.x);
    let layer = |name: &str, at: Option<i64>| {
        let at = at.map(|l| l as f64).filter(|l| *l >= start && *l <= end)?;
        Some((format!("{name} {at}"), at))
    };
    let marks = match about {
        Some(s) if x == X::Layer => [layer("half the gap:", s.critical_layer), layer("exit:", s.exit_layer)]
            .into_iter()
            .flatten()
            .collect(),
        _ => Vec::new(),
    };
    let ends: Vec<String> =
        series.iter().filter_map(|s| Some(format!("{} {}", s.name, percent(s.points.last()?.y)))).collect();
    let axis = if x == X::Layer { "layer (0: embedding)" } else { "demonstrations seen" };
    let title = name(key);
    let chart = LineChart {
        title: title.clone(),
        about: format!("Lines over {axis} from {start} to {end}. They end at: {}.", ends.join(", ")),
        x: axis.to_owned(),
        y: "share of prompts, %".to_owned(),
        format: Format::Percent,
        span: Some((0.0, 1.0)),
        series,
        level: about.map(|s| ("guessing".to_owned(), s.chance)),
        marks,
    };
    Some(Figure { caption: title, numbers: Some(numbers(&chart)), svg: chart.svg() })
}

/// The numbers of a chart whose series have the same places.
pub(crate) fn numbers(chart: &LineChart) -> Grid {
    let mut places: Vec<f64> = chart.series.iter().flat_map(|s| &s.points).map(|p| p.x).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let rows = places.into_iter().map(|x| {
        let value = |s: &Series| s.points.iter().find(|p| p.x == x).map(|p| chart.format.value(p.y));
        let values = chart.series.iter().map(|s| Cell::number(value(s).unwrap_or_default()));
        std::iter::once(Cell::text(x.to_string())).chain(values).collect()
    });
    let names = chart.series.iter().map(|s| Head::number(s.name.clone()));
    Grid {
        caption: chart.title.clone(),
        head: std::iter::once(Head::text(chart.x.clone())).chain(names).collect(),
        rows: rows.collect(),
    }
}
