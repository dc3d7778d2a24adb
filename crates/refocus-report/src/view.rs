//! What stands on a page, before it is written as HTML.

use askama::Template;

#[derive(Template)]
#[template(path = "page.html")]
pub(crate) struct Page {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) style: &'static str,
    pub(crate) sections: Vec<Section>,
}

/// A section; two columns where two runs are compared.
pub(crate) struct Section {
    pub(crate) id: &'static str,
    pub(crate) title: String,
    pub(crate) lead: String,
    pub(crate) columns: Vec<Column>,
}

pub(crate) struct Column {
    pub(crate) label: Option<String>,
    pub(crate) parts: Vec<Part>,
}

pub(crate) enum Part {
    Heading(String),
    Text(String),
    List(Vec<String>),
    Figures(Vec<Figure>),
    Grid(Grid),
    Fold(Fold),
    Prompts(Vec<Prompt>),
}

/// Cells of maps that are drawn on one page at most: each costs about 100 bytes.
pub(crate) const MAP_CELLS: usize = 9000;

/// What is said of maps that are not drawn; nothing where all are.
pub(crate) fn not_drawn(left_out: usize) -> Option<Part> {
    (left_out > 0).then(|| {
        Part::Text(format!("{left_out} more maps are not drawn, to keep the page small; the table has them."))
    })
}

/// What is shown when it is asked for.
pub(crate) struct Fold {
    pub(crate) title: String,
    pub(crate) figures: Vec<Figure>,
    pub(crate) grids: Vec<Grid>,
}

/// A chart with its numbers for who cannot see it.
pub(crate) struct Figure {
    pub(crate) caption: String,
    pub(crate) svg: String,
    pub(crate) numbers: Option<Grid>,
}

/// A table for people.
pub(crate) struct Grid {
    pub(crate) caption: String,
    pub(crate) head: Vec<Head>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

pub(crate) struct Head {
    pub(crate) text: String,
    pub(crate) number: bool,
}

impl Head {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: false }
    }

    pub(crate) fn number(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: true }
    }
}

pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) class: &'static str,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), class: "" }
    }

    pub(crate) fn number(text: impl Into<String>) -> Self {
        Self { text: text.into(), class: "n" }
    }
}

/// An example that a person can read.
pub(crate) struct Prompt {
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

/// One demonstration, or the question.
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) truth: String,
    pub(crate) shown: String,
    /// Whether the label that is shown is the true one.
    pub(crate) right: bool,
    /// Whether it is the last, where the model is asked.
    pub(crate) question: bool,
    pub(crate) answers: Vec<Answer>,
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) who: &'static str,
    pub(crate) said: String,
    pub(crate) right: bool,
}
