//! The page of a diagnosis, from its `findings.json` alone.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::chart::{Dot, DotChart, DotRow, Format, Tone};
use crate::view::{Cell, Figure, Fold, Grid, Head, Part, Section};
use crate::words::{class, count, joined, percent, points};
use crate::{ReportError, RunSection, put_together, short_name};

/// What of the document a page shows.
#[derive(Deserialize)]
struct Document {
    model: String,
    settings: Settings,
    findings: Vec<Finding>,
    mitigation: Option<Mitigation>,
}

#[derive(Deserialize)]
struct Settings {
    fingerprint: String,
    seed: u64,
    budget: String,
    /// What false demonstrations and facts are of; older documents do not say it.
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    relation: Option<String>,
    version: String,
}

#[derive(Deserialize)]
struct Measure {
    value: f64,
    low: Option<f64>,
    high: Option<f64>,
    n: u64,
}

impl Measure {
    fn interval(&self) -> Option<(f64, f64)> {
        self.low.zip(self.high)
    }
}

#[derive(Deserialize)]
struct Finding {
    probe: String,
    asked: String,
    headline: String,
    state: String,
    verdict: String,
    #[serde(rename = "where")]
    place: Option<String>,
    measures: BTreeMap<String, Measure>,
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    text: String,
    right: String,
    answer: String,
    note: String,
}

#[derive(Deserialize)]
struct Mitigation {
    verdict: String,
    #[serde(default)]
    helps: bool,
    tried: Vec<Tried>,
    chosen: Vec<String>,
    changes: Vec<Change>,
    #[serde(default)]
    untouched: Vec<Untouched>,
    rewriting: Option<Rewriting>,
    left_out: Option<String>,
    #[serde(default)]
    patch: String,
}

#[derive(Deserialize)]
struct Untouched {
    probe: Option<String>,
    what: String,
}

#[derive(Deserialize)]
struct Rewriting {
    texts: usize,
    applied: usize,
    tokens: f64,
}

#[derive(Deserialize)]
struct Tried {
    probe: String,
    name: String,
    gain: f64,
    #[serde(default)]
    gain_of_all: Option<f64>,
    text_cost: f64,
}

#[derive(Deserialize)]
struct Change {
    probe: Option<String>,
    what: String,
    before: Measure,
    after: Measure,
    change: Measure,
    p: f64,
}

/// The page of a diagnosis; `json` is its `findings.json`.
///
/// # Errors
/// The document is none of a diagnosis.
pub fn diagnosis(json: &[u8]) -> Result<String, ReportError> {
    let d: Document = serde_json::from_slice(json)?;
    let title = format!("{}: where its attention slips", short_name(&d.model));
    let subtitle = format!("Diagnosis · seed {} · refocus {}", d.settings.seed, d.settings.version);
    let mut sections = vec![summary(&d)];
    sections.extend(d.findings.iter().map(finding));
    sections.extend(d.mitigation.as_ref().map(mitigation));
    sections.push(provenance(&d));
    put_together(title, subtitle, sections.into_iter().map(Section::alone).collect())
}

/// A probe's question, as a heading.
fn question(probe: &str) -> &'static str {
    match probe {
        "flipflop" => "Does it keep one bit over a distance?",
        "overthinking" => "Does it follow false demonstrations?",
        "recall" => "Do its last layers take back what it knows?",
        "distractors" => "Is it swayed by sentences that do not matter?",
        _ => "What was asked",
    }
}

/// The same as a thing that a model slips on.
fn thing(probe: &str) -> &str {
    match probe {
        "flipflop" => "keeping one bit over a distance",
        "overthinking" => "false demonstrations",
        "recall" => "holding on to what it knows in its last layers",
        "distractors" => "sentences that do not matter",
        other => other,
    }
}

/// Where a section can be reached on the page.
fn id(probe: &str) -> &'static str {
    match probe {
        "flipflop" => "flipflop",
        "overthinking" => "overthinking",
        "recall" => "recall",
        "distractors" => "distractors",
        _ => "probe",
    }
}

fn state(state: &str) -> (&'static str, &'static str) {
    match state {
        "slips" => ("slips", "bad"),
        "steady" => ("steady", "good"),
        "unclear" => ("unclear", "soft"),
        _ => ("cannot be tested", "soft"),
    }
}

fn summary(d: &Document) -> RunSection {
    let of = |s: &str| {
        let names: Vec<String> =
            d.findings.iter().filter(|f| f.state == s).map(|f| thing(&f.probe).to_owned()).collect();
        (names.len(), names)
    };
    let (slips, names) = of("slips");
    let n = count(d.findings.len(), "question");
    let mut said = vec![match slips {
        0 => format!("Of {n} none is answered with a slip."),
        _ => format!("Of {n}, the model slips on {slips}: {}.", joined(&names)),
    }];
    for (which, text) in [
        ("unclear", "too close to say from as many items as were asked"),
        ("cannot-be-tested", "could not be tested on this model, so nothing follows"),
    ] {
        let (k, names) = of(which);
        if k > 0 {
            said.push(format!("{}: {text}.", capital(&joined(&names))));
        }
    }
    if let Some(m) = &d.mitigation {
        said.push(format!("A patch: {}.", m.verdict));
    }
    let tones = |f: &Finding| match f.state.as_str() {
        "slips" => Tone::False,
        "steady" => Tone::True,
        _ => Tone::Muted,
    };
    let row = |f: &Finding| {
        let m = f.measures.get(&f.headline)?;
        let dot = Dot { tone: tones(f), value: m.value, interval: m.interval() };
        Some(DotRow { name: f.probe.clone(), dots: vec![dot] })
    };
    let chart = DotChart {
        title: "What each question found".to_owned(),
        about: "The number that decides, with its 95 % interval: errors, or what is lost; 0 is none."
            .to_owned(),
        x: "share of answers, or of probability, that is lost".to_owned(),
        format: Format::Percent,
        legend: vec![
            (Tone::False, "slips".to_owned()),
            (Tone::True, "steady".to_owned()),
            (Tone::Muted, "unclear".to_owned()),
        ],
        rows: d.findings.iter().filter_map(row).collect(),
        zero: true,
    };
    let rows = d.findings.iter().map(|f| {
        let (word, class) = state(&f.state);
        let value = f.measures.get(&f.headline);
        vec![
            Cell::text(f.probe.clone()),
            Cell { text: word.to_owned(), class },
            Cell::number(value.map_or_else(|| "–".to_owned(), |m| points(m.value, m.interval()))),
            Cell::text(f.verdict.clone()),
            Cell { text: f.place.clone().unwrap_or_default(), class: "soft" },
        ]
    });
    let head = ["probe", "state"].map(Head::text).into_iter();
    let grid = Grid {
        caption: "In points, with 95 % intervals".to_owned(),
        head: head.chain([Head::number("value"), Head::text("in words"), Head::text("where")]).collect(),
        rows: rows.collect(),
    };
    let figure = Figure { caption: chart.title.clone(), svg: chart.svg(), numbers: None };
    RunSection {
        id: "summary",
        title: "In short".to_owned(),
        lead: "Each question comes from one study of how language models fail, with texts that the program brings. \
               A failure is there only where its interval excludes none."
            .to_owned(),
        parts: vec![Part::List(said), Part::Figures(vec![figure]), Part::Grid(grid)],
    }
}

fn finding(f: &Finding) -> RunSection {
    let (word, _) = state(&f.state);
    let mut parts = vec![Part::Text(format!("{}: {}.", capital(word), f.verdict))];
    if let Some(place) = &f.place {
        parts.push(Part::Text(format!("Where: {place}.")));
    }
    if !f.examples.is_empty() {
        let rows = f.examples.iter().map(|e| {
            vec![
                Cell { text: e.text.clone(), class: "hash" },
                Cell { text: e.right.clone(), class: "good" },
                Cell { text: e.answer.clone(), class: if e.right == e.answer { "good" } else { "bad" } },
                Cell { text: e.note.clone(), class: "soft" },
            ]
        });
        parts.push(Part::Grid(Grid {
            caption: "Examples".to_owned(),
            head: ["what it read", "right", "it preferred", "note"].map(Head::text).into(),
            rows: rows.collect(),
        }));
    }
    let rows = f.measures.iter().map(|(name, m)| {
        let interval = m.interval().map_or_else(String::new, |(low, high)| format!("[{low:.3}, {high:.3}]"));
        vec![
            Cell::text(name.clone()),
            Cell::number(format!("{:.3}", m.value)),
            Cell::number(interval),
            Cell::number(m.n.to_string()),
        ]
    });
    let grid = Grid {
        caption: "All that was measured".to_owned(),
        head: vec![
            Head::text("measure"),
            Head::number("value"),
            Head::number("95 % interval"),
            Head::number("n"),
        ],
        rows: rows.collect(),
    };
    parts.push(Part::Grid(grid));
    RunSection {
        id: id(&f.probe),
        title: question(&f.probe).to_owned(),
        lead: format!("Asked: {}.", f.asked),
        parts,
    }
}

fn mitigation(m: &Mitigation) -> RunSection {
    let mut parts = vec![Part::Text(format!("{}.", capital(&m.verdict)))];
    if !m.chosen.is_empty() {
        parts.push(Part::List(m.chosen.iter().map(|c| capital(c)).collect()));
    }
    if let Some(r) = &m.rewriting {
        parts.push(Part::Text(format!(
            "Rewriting reads {:.0} tokens a question before it is answered, and writes none; {} of {} texts lost a \
             sentence.",
            r.tokens, r.applied, r.texts
        )));
    }
    if let Some(what) = &m.left_out {
        parts.push(Part::Text(format!("Not tried: {what}.")));
    }
    // Plain text has another unit than the rest.
    let shares: Vec<&Change> = m.changes.iter().filter(|c| c.probe.is_some()).collect();
    if !shares.is_empty() {
        let row = |c: &&Change| DotRow {
            name: c.what.clone(),
            dots: vec![
                Dot { tone: Tone::Muted, value: c.before.value, interval: c.before.interval() },
                Dot { tone: Tone::True, value: c.after.value, interval: c.after.interval() },
            ],
        };
        let chart = DotChart {
            title: "Before and after".to_owned(),
            about:
                "Harm on the questions that did not choose the patch, with 95 % intervals; less is better."
                    .to_owned(),
            x: "share".to_owned(),
            format: Format::Percent,
            legend: vec![(Tone::Muted, "before".to_owned()), (Tone::True, "after".to_owned())],
            rows: shares.iter().map(row).collect(),
            zero: false,
        };
        parts.push(Part::Figures(vec![Figure {
            caption: chart.title.clone(),
            svg: chart.svg(),
            numbers: None,
        }]));
    }
    if !m.changes.is_empty() {
        let rows = m.changes.iter().map(|c| {
            let share = c.probe.is_some();
            let one = |m: &Measure| if share { percent(m.value) } else { format!("{:.3}", m.value) };
            // Less harm is good, so the colour is that of the opposite.
            let opposite = c.change.interval().map(|(low, high)| (-high, -low));
            let change = match (share, c.change.interval()) {
                (true, interval) => points(c.change.value, interval),
                (false, Some((low, high))) => format!("{:+.3} [{low:+.3}, {high:+.3}]", c.change.value),
                (false, None) => format!("{:+.3}", c.change.value),
            };
            vec![
                Cell::text(c.probe.clone().unwrap_or_else(|| "text".to_owned())),
                Cell::text(c.what.clone()),
                Cell::number(one(&c.before)),
                Cell::number(one(&c.after)),
                Cell { text: change, class: class(opposite) },
                Cell::number(if c.p < 0.001 { "< 0.001".to_owned() } else { format!("{:.3}", c.p) }),
                Cell::number(c.change.n.to_string()),
            ]
        });
        let untouched = m.untouched.iter().map(|u| {
            let [before, after, p, n] = ["–"; 4].map(Cell::number);
            vec![
                Cell::text(u.probe.clone().unwrap_or_else(|| "text".to_owned())),
                Cell::text(u.what.clone()),
                before,
                after,
                Cell::number("none: no message, so not rewritten"),
                p,
                n,
            ]
        });
        let head = ["probe", "what"].map(Head::text).into_iter();
        parts.push(Part::Grid(Grid {
            caption: "Before and after; p after Holm's correction over all measured rows".to_owned(),
            head: head.chain(["before", "after", "change", "p", "n"].map(Head::number)).collect(),
            rows: rows.chain(untouched).collect(),
        }));
    }
    let tried = m.tried.iter().map(|t| {
        vec![
            Cell::text(t.probe.clone()),
            Cell::text(t.name.clone()),
            Cell::number(format!("{:+.3}", t.gain)),
            Cell::number(t.gain_of_all.map_or_else(String::new, |gain| format!("{gain:+.3}"))),
            Cell::number(format!("{:+.3}", t.text_cost)),
        ]
    });
    let head = ["against", "patch"].map(Head::text).into_iter();
    let grid = Grid {
        caption: "On the half that chooses: by how much the harm falls, of this probe and of all (none where a patch \
                  was given up before), and what plain text costs"
            .to_owned(),
        head: head.chain(["gain", "of all", "nats a token"].map(Head::number)).collect(),
        rows: tried.collect(),
    };
    let title = format!("Everything that was tried ({})", m.tried.len());
    parts.push(Part::Fold(Fold { title, figures: Vec::new(), grids: vec![grid] }));
    if !m.patch.is_empty() {
        let caption = match m.helps {
            true => "The entries of patch.toml",
            false => "The best entries; they do not surely help, so there is no patch.toml",
        };
        let line = |l: &str| vec![Cell { text: l.to_owned(), class: "hash" }];
        let grid = Grid {
            caption: caption.to_owned(),
            head: vec![Head::text("TOML")],
            rows: m.patch.lines().filter(|l| !l.is_empty()).map(line).collect(),
        };
        parts.push(Part::Fold(Fold {
            title: "The patch".to_owned(),
            figures: Vec::new(),
            grids: vec![grid],
        }));
    }
    RunSection {
        id: "patch",
        title: "A patch for what slips".to_owned(),
        lead: "A few patches were tried on one half of the questions; the best, if it costs plain text little, is \
               measured here on the other half, with what it does to everything else."
            .to_owned(),
        parts,
    }
}

fn provenance(d: &Document) -> RunSection {
    let s = &d.settings;
    let rows = [
        ("model", Some(short_name(&d.model)), ""),
        ("fingerprint", Some(s.fingerprint.clone()), "hash"),
        ("seed", Some(s.seed.to_string()), ""),
        ("budget", Some(s.budget.clone()), ""),
        ("task of the demonstrations", s.task.clone(), ""),
        ("relation of the facts", s.relation.clone(), ""),
        ("program", Some(format!("refocus {}", s.version)), ""),
    ];
    let rows = rows
        .into_iter()
        .filter_map(|(what, is, class)| Some(vec![Cell::text(what), Cell { text: is?, class }]));
    let facts = Grid {
        caption: "What the numbers depend on".to_owned(),
        head: vec![Head::text("what"), Head::text("value")],
        rows: rows.collect(),
    };
    RunSection {
        id: "provenance",
        title: "Provenance".to_owned(),
        lead: "The same settings give the same numbers on every machine, at any number of threads. Sizes follow from \
               the budget and the model, never from a clock."
            .to_owned(),
        parts: vec![Part::Grid(facts)],
    }
}

/// As a sentence begins.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(mitigation: &str) -> String {
        format!(
            r#"{{"schema": "refocus.findings/1", "model": "dir/small.gguf",
            "settings": {{"fingerprint": "sha256:00", "seed": 3, "budget": "2m", "task": "trec", "version": "0.1.0"}},
            "findings": [{{"probe": "flipflop", "asked": "a bit", "headline": "flipflop.error", "state": "slips",
              "verdict": "misreads", "where": "head 1.2", "measures": {{"flipflop.error": {{"value": 0.25, "low": 0.2,
              "high": 0.3, "n": 80}}}}, "examples": [{{"text": "a <b> & c", "right": "0", "answer": "1",
              "note": "n"}}]}},
              {{"probe": "recall", "asked": "facts", "headline": "recall.fall", "state": "cannot-be-tested",
              "verdict": "too few", "measures": {{}}, "examples": []}}]{mitigation}}}"#
        )
    }

    #[test]
    fn a_page_has_every_probe_and_its_numbers() {
        let page = diagnosis(document("").as_bytes()).expect("a page");
        for text in [
            "small: where its attention slips",
            "Does it keep one bit",
            "head 1.2",
            "[0.200, 0.300]",
            "too few",
            ">trec<",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(
            page.contains("a &#60;b&#62; &#38; c") || page.contains("a &lt;b&gt; &amp; c"),
            "what a model read is text"
        );
        assert!(!page.contains("A patch for what slips") && !page.contains("relation of the facts"));
        assert!(diagnosis(b"{}").is_err() && diagnosis(b"no JSON").is_err());
    }

    #[test]
    fn a_patch_stands_with_its_price() {
        let measure = |v: &str| format!(r#"{{"value": {v}, "low": {v}, "high": {v}, "n": 40}}"#);
        let m = format!(
            r#", "mitigation": {{"verdict": "it helps", "tried": [{{"probe": "flipflop", "name": "without head 1.2",
            "gain": 0.2, "text_cost": 0.01}}], "chosen": ["without head 1.2"], "changes": [{{"probe": "flipflop",
            "what": "wrong bits", "before": {}, "after": {}, "change": {}, "p": 0.0004}}, {{"what": "nats a token",
            "before": {}, "after": {}, "change": {}, "p": 1.0}}], "patch": "[[intervention]]\ndo = \"zero\"\n"}}"#,
            measure("0.4"),
            measure("0.1"),
            measure("-0.3"),
            measure("3.0"),
            measure("3.01"),
            measure("0.01")
        );
        let page = diagnosis(document(&m).as_bytes()).expect("a page");
        for text in [
            "A patch for what slips",
            "It helps.",
            "wrong bits",
            "&lt; 0.001",
            "+0.010",
            "Everything that was tried (1)",
        ] {
            let escaped = text.replace("&lt;", "&#60;");
            assert!(page.contains(text) || page.contains(&escaped), "{text}");
        }
    }
}
