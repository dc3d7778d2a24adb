//! The page of a study of false demonstrations.

mod curves;
mod examples;
mod heads;
mod repairs;
mod summary;

pub(crate) use self::curves::numbers;

use std::collections::BTreeMap;

use refocus_results::StoredRun;
use refocus_results::overthinking::{Claim, Curve, Example, Head as HeadRow, Mitigation, Setting};

use crate::chart::{Dot, DotChart, DotRow, Format, Tone};
use crate::view::{Cell, Figure, Grid, Head, Part};
use crate::words::{class, percent, points};
use crate::{ReportError, RunSection};

/// What a run's tables hold; empty where there is no such table.
struct Tables {
    settings: Vec<Setting>,
    curves: Vec<Curve>,
    heads: Vec<HeadRow>,
    mitigations: Vec<Mitigation>,
    claims: Vec<Claim>,
    examples: Vec<Example>,
}

/// Task and setting.
type Key<'a> = (&'a str, &'a str);

/// Rows by task and setting, in the order in which they come.
fn grouped<'a, T>(rows: &'a [T], key: impl Fn(&'a T) -> Key<'a>) -> Vec<(Key<'a>, Vec<&'a T>)> {
    let mut order: Vec<(Key<'a>, Vec<&'a T>)> = Vec::new();
    let mut at: BTreeMap<Key<'a>, usize> = BTreeMap::new();
    for row in rows {
        let i = *at.entry(key(row)).or_insert_with(|| {
            order.push((key(row), Vec::new()));
            order.len() - 1
        });
        order[i].1.push(row);
    }
    order
}

/// `sst2, permuted labels`.
fn name((task, setting): Key<'_>) -> String {
    format!("{task}, {setting} labels")
}

fn read(run: &StoredRun) -> Result<Tables, ReportError> {
    // A flip-flop study has claims too; they are shown by its own page.
    let settings: Vec<Setting> = run.rows()?.unwrap_or_default();
    let mut tables = Tables {
        settings,
        curves: run.rows()?.unwrap_or_default(),
        heads: run.rows()?.unwrap_or_default(),
        mitigations: run.rows()?.unwrap_or_default(),
        claims: Vec::new(),
        examples: run.rows()?.unwrap_or_default(),
    };
    if run.info().study.starts_with("overthinking/") {
        tables.claims = run.rows()?.unwrap_or_default();
    }
    Ok(tables)
}

/// Sections for the tables that are there.
pub(crate) fn sections(run: &StoredRun) -> Result<Vec<RunSection>, ReportError> {
    let t = read(run)?;
    let mut all = Vec::new();
    if !t.settings.is_empty() {
        let figures = headline(&t.settings);
        let parts =
            vec![Part::List(summary::sentences(&t)), Part::Figures(figures), Part::Grid(table(&t.settings))];
        all.push(RunSection {
            id: "summary",
            title: "In short".to_owned(),
            lead: "The model saw the same texts twice: once with true labels as demonstrations, once with false \
                   ones. How well does it answer the last text?"
                .to_owned(),
            parts,
        });
    }
    all.extend(curves::section(&t));
    all.extend(heads::section(&t));
    all.extend(repairs::section(&t));
    if !t.claims.is_empty() {
        all.push(crate::words::claim_section(&t.claims));
    }
    all.extend(examples::section(&t));
    if !all.is_empty() {
        all.push(method(&t));
    }
    Ok(all)
}

/// Accuracy with true and with false demonstrations, by task.
fn headline(settings: &[Setting]) -> Vec<Figure> {
    let by_setting = grouped(settings, |s| ("", s.setting.as_str()));
    let figures = by_setting.into_iter().map(|((_, setting), rows)| {
        let dot = |tone, value| Dot { tone, value, interval: None };
        let rows_of = |s: &&Setting| DotRow {
            name: s.task.clone(),
            dots: vec![dot(Tone::True, s.tp), dot(Tone::False, s.fp), dot(Tone::Muted, s.zero_shot)],
        };
        let title = format!("Accuracy by task, {setting} labels");
        let chart = DotChart {
            title: title.clone(),
            about: "A row for each task: accuracy with true demonstrations, with false ones, and with none."
                .to_owned(),
            x: "calibrated accuracy, %".to_owned(),
            format: Format::Percent,
            legend: vec![
                (Tone::True, "true".to_owned()),
                (Tone::False, "false".to_owned()),
                (Tone::Muted, "none".to_owned()),
            ],
            rows: rows.iter().map(rows_of).collect(),
            zero: false,
        };
        let gaps = DotChart {
            title: format!("What false demonstrations cost, {setting} labels"),
            about: "A row for each task: the accuracy gap with its 95 % interval.".to_owned(),
            x: "accuracy gap, points".to_owned(),
            legend: vec![(Tone::False, "true minus false".to_owned())],
            rows: rows.iter().map(|s| gap_row(&s.task, &[(Tone::False, s)])).collect(),
            zero: true,
            ..chart.clone()
        };
        // The table below the charts has the numbers of both.
        [chart, gaps].map(|c| Figure { caption: c.title.clone(), svg: c.svg(), numbers: None })
    });
    figures.flatten().collect()
}

fn gap_row(name: &str, of: &[(Tone, &Setting)]) -> DotRow {
    let dots =
        of.iter().map(|(tone, s)| Dot { tone: *tone, value: s.gap, interval: Some((s.gap_low, s.gap_high)) });
    DotRow { name: name.to_owned(), dots: dots.collect() }
}

fn table(settings: &[Setting]) -> Grid {
    let text = ["task", "setting"].map(Head::text);
    let numbers = ["pairs", "guessing", "no demos", "true", "false", "gap, points [95 %]", "critical layer"]
        .map(Head::number);
    let rows = settings.iter().map(|s| {
        let interval = Some((s.gap_low, s.gap_high));
        // A gap is a loss: it is marked where its interval lies above 0.
        let marked = if s.gap_low > 0.0 { "n bad" } else { "n" };
        vec![
            Cell::text(s.task.clone()),
            Cell::text(s.setting.clone()),
            Cell::number(s.pairs.to_string()),
            Cell::number(percent(s.chance)),
            Cell::number(percent(s.zero_shot)),
            Cell::number(percent(s.tp)),
            Cell::number(percent(s.fp)),
            Cell { text: points(s.gap, interval), class: marked },
            Cell::number(s.critical_layer.map_or_else(|| "–".to_owned(), |l| l.to_string())),
        ]
    });
    Grid {
        caption: "Calibrated accuracy after the last demonstration".to_owned(),
        head: text.into_iter().chain(numbers).collect(),
        rows: rows.collect(),
    }
}

fn method(t: &Tables) -> RunSection {
    let mut said = vec![
        "Calibrated accuracy: an answer counts as right where the true label's share among the labels lies above \
         that label's own (C − 1)/C quantile over the prompts. Guessing gets 1/C with C classes, whatever the \
         model prefers to say."
            .to_owned(),
        "Layers are read through the model's own final norm and unembedding. Layer 0 is the embedding, the last \
         layer the whole model. The critical layer is the first with half of the gap; it is not named where the \
         gap's interval includes 0."
            .to_owned(),
    ];
    if !t.mitigations.is_empty() {
        said.push(
            "A repair is compared with the unchanged model on the same pairs. Balanced is the mean of accuracy \
             with true and with false demonstrations. The p-values are Holm's, over everything that the run tried."
                .to_owned(),
        );
    }
    if !t.heads.is_empty() {
        said.push(
            "Prefix matching: attention from before a label to labels of the same class, less that to the \
             others. Label promoting: logit of the shown label less that of the true one, written by the head. \
             Causal: change of logit(shown) − logit(true) when the head is ablated."
                .to_owned(),
        );
    }
    said.push("After Halawi, Denain and Steinhardt, “Overthinking the Truth” (ICLR 2024).".to_owned());
    RunSection {
        id: "method",
        title: "Method".to_owned(),
        lead: String::new(),
        parts: said.into_iter().map(Part::Text).collect(),
    }
}

/// The gaps of two runs in one chart and one table.
pub(crate) fn beside(runs: [&StoredRun; 2], names: &[String; 2]) -> Result<Option<RunSection>, ReportError> {
    let [a, b]: [Vec<Setting>; 2] =
        [runs[0].rows()?.unwrap_or_default(), runs[1].rows()?.unwrap_or_default()];
    let pairs: Vec<(&Setting, &Setting)> = a
        .iter()
        .filter_map(|s| Some((s, b.iter().find(|o| (&o.task, &o.setting) == (&s.task, &s.setting))?)))
        .collect();
    if pairs.is_empty() {
        return Ok(None);
    }
    let caption = "What false demonstrations cost in both runs".to_owned();
    let chart = DotChart {
        title: caption.clone(),
        about: "A row for each task and setting that both runs have: the accuracy gap of each with its 95 % \
                interval."
            .to_owned(),
        x: "accuracy gap, points".to_owned(),
        format: Format::Percent,
        legend: vec![(Tone::True, names[0].clone()), (Tone::Third, names[1].clone())],
        rows: pairs
            .iter()
            .map(|(x, y)| gap_row(&name((&x.task, &x.setting)), &[(Tone::True, x), (Tone::Third, y)]))
            .collect(),
        zero: true,
    };
    let rows = pairs.iter().map(|(x, y)| {
        let gap = |s: &Setting| {
            let interval = Some((s.gap_low, s.gap_high));
            Cell { text: points(s.gap, interval), class: class(None) }
        };
        vec![
            Cell::text(name((&x.task, &x.setting))),
            Cell::number(percent(x.tp)),
            Cell::number(percent(y.tp)),
            Cell::number(percent(x.fp)),
            Cell::number(percent(y.fp)),
            gap(x),
            gap(y),
        ]
    });
    let [first, second] = names;
    let head = [
        format!("true, {first}"),
        format!("true, {second}"),
        format!("false, {first}"),
        format!("false, {second}"),
        format!("gap, {first}"),
        format!("gap, {second}"),
    ];
    let grid = Grid {
        caption: "Accuracy and gap in points [95 %]".to_owned(),
        head: std::iter::once(Head::text("task")).chain(head.map(Head::number)).collect(),
        rows: rows.collect(),
    };
    let figure = Figure { caption, svg: chart.svg(), numbers: None };
    Ok(Some(RunSection {
        id: "beside",
        title: "Side by side".to_owned(),
        lead: "Tasks and settings that both runs have. The runs drew their prompts independently: intervals that \
               overlap say nothing is different, not that nothing differs."
            .to_owned(),
        parts: vec![Part::Figures(vec![figure]), Part::Grid(grid)],
    }))
}
