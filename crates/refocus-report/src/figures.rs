//! The page of a mechanistic study's figures, from their documents alone.

use serde::Deserialize;

use crate::chart::{Dot, DotChart, DotRow, Format, HeatMap, LineChart, Point, Series, Tone};
use crate::overthinking::numbers;
use crate::view::{Figure, Part, Section};
use crate::{ReportError, RunSection, put_together};

/// More points of a line are thinned: nobody sees them.
const POINTS: usize = 200;
/// Lines of a chart that get a colour and a name; where there are more, all look alike.
const NAMED: usize = Tone::SERIES.len();

#[derive(Deserialize)]
struct Document {
    figure: String,
    title: String,
    finding: String,
    charts: Vec<Chart>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Chart {
    Lines {
        name: String,
        x: String,
        y: String,
        series: Vec<Line>,
    },
    Map {
        name: String,
        rows: String,
        columns: String,
        /// `[rows][columns]`.
        values: Vec<Vec<f64>>,
    },
}

#[derive(Deserialize)]
struct Line {
    name: String,
    x: Vec<f64>,
    y: Vec<f64>,
}

/// The page of figures; each of `jsons` is the document of one (`refocus flipflop figures` writes `a.json` to
/// `f.json`).
///
/// # Errors
/// A document is none of a figure.
pub fn figures(subtitle: String, jsons: &[Vec<u8>]) -> Result<String, ReportError> {
    let read = |json: &Vec<u8>| serde_json::from_slice::<Document>(json).map_err(ReportError::Figure);
    let all = jsons.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let sections = all.iter().map(|d| Section::alone(section(d))).collect();
    put_together("Flip-flop: inside small models".to_owned(), subtitle, sections)
}

fn section(d: &Document) -> RunSection {
    RunSection {
        id: id(&d.figure),
        title: format!("({}) {}", d.figure, d.title),
        lead: d.finding.clone(),
        parts: vec![Part::Figures(d.charts.iter().map(drawn).collect())],
    }
}

/// Where a section can be reached on the page.
fn id(letter: &str) -> &'static str {
    match letter {
        "a" => "a",
        "b" => "b",
        "c" => "c",
        "d" => "d",
        "e" => "e",
        "f" => "f",
        _ => "figure",
    }
}

fn drawn(chart: &Chart) -> Figure {
    match chart {
        Chart::Map { name, rows, columns, values } => map(name, rows, columns, values),
        // Seeds have no order: their values are dots.
        Chart::Lines { name, x, y, series } if x == "seed" => dots(name, y, series),
        Chart::Lines { name, x, y, series } => lines(name, x, y, series),
    }
}

fn map(name: &str, rows: &str, columns: &str, values: &[Vec<f64>]) -> Figure {
    let across = values.first().map_or(0, Vec::len);
    let cells = values.iter().enumerate().flat_map(|(row, of)| {
        let cell = move |(column, value): (usize, &f64)| (column, row, *value);
        of.iter().enumerate().map(cell)
    });
    let chart = HeatMap {
        title: name.to_owned(),
        about: format!("A square for each {rows} (downwards) and {columns} (across)."),
        axes: [columns.to_owned(), rows.to_owned()],
        size: (across, values.len()),
        cells: cells.filter(|cell| cell.2 != 0.0).collect(),
        unit: String::new(),
    };
    Figure { caption: name.to_owned(), svg: chart.svg(), numbers: None }
}

fn dots(name: &str, y: &str, series: &[Line]) -> Figure {
    let row = |line: &Line| {
        let dot = |value: &f64| Dot { tone: Tone::True, value: *value, interval: None };
        DotRow { name: line.name.clone(), dots: line.y.iter().map(dot).collect() }
    };
    let chart = DotChart {
        title: name.to_owned(),
        about: format!("{y}: a row for each of {}, a dot for each seed.", names(series)),
        x: y.to_owned(),
        format: Format::Plain,
        legend: Vec::new(),
        rows: series.iter().map(row).collect(),
        zero: false,
    };
    Figure { caption: name.to_owned(), svg: chart.svg(), numbers: None }
}

fn lines(name: &str, x: &str, y: &str, series: &[Line]) -> Figure {
    let few = series.len() <= NAMED;
    let about = match few {
        true => format!("A line for each of: {}.", names(series)),
        false => format!("{} lines, from {} on.", series.len(), series[0].name),
    };
    let line = |(i, line): (usize, &Line)| {
        let every = line.x.len().div_ceil(POINTS).max(1);
        let point = |(x, y): (&f64, &f64)| Point { x: *x, y: *y, band: None };
        Series {
            name: if few { line.name.clone() } else { String::new() },
            tone: if few { Tone::SERIES[i] } else { Tone::Muted },
            points: line.x.iter().zip(&line.y).step_by(every).map(point).collect(),
        }
    };
    let chart = LineChart {
        title: name.to_owned(),
        about,
        x: x.to_owned(),
        y: y.to_owned(),
        format: Format::Plain,
        span: None,
        series: series.iter().enumerate().map(line).collect(),
        level: None,
        marks: Vec::new(),
    };
    Figure { caption: name.to_owned(), numbers: few.then(|| numbers(&chart)), svg: chart.svg() }
}

fn names(series: &[Line]) -> String {
    series.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(charts: serde_json::Value) -> Vec<u8> {
        json!({"figure": "a", "title": "Attention", "finding": "It looks back.", "charts": charts})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn a_figure_is_a_section_with_a_drawing_for_each_chart() {
        let line = |name: &str| json!({"name": name, "x": [0, 1, 2], "y": [0.5, 0.25, 0.125]});
        let many: Vec<_> = (0..6).map(|i| line(&format!("pair {i}"))).collect();
        let charts = json!([
            {"kind": "map", "name": "a map", "rows": "query", "columns": "key", "values": [[1.0, 0.0], [0.25, 0.75]]},
            {"kind": "lines", "name": "norms", "x": "seed", "y": "norm", "series": [line("plain"), line("sharp")]},
            {"kind": "lines", "name": "drift", "x": "query", "y": "weight", "series": [line("last write")]},
            {"kind": "lines", "name": "pairs", "x": "step", "y": "distance", "series": many},
        ]);
        let page = figures("8 seeds".to_owned(), &[document(charts)]).expect("a page");
        for text in ["It looks back.", "8 seeds", ">query<", ">key<", "0.1: +0.25", "plain", "last write"] {
            assert!(page.contains(text), "{text}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(!page.contains(">pair 0<"), "too many lines to be named");
    }

    #[test]
    fn another_document_is_refused() {
        let charts = json!([{"kind": "pie", "name": "none"}]);
        for json in [document(charts), b"{}".to_vec()] {
            assert!(matches!(figures(String::new(), &[json]), Err(ReportError::Figure(_))));
        }
    }
}
