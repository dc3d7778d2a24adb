//! A table: named, typed columns of equal length.

use serde::{Deserialize, Serialize};

use crate::error::ResultsError;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// 64-bit signed integers.
    Integer,
    /// Finite 64-bit floating-point numbers.
    Real,
    /// Truth values.
    Boolean,
}

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Real => "real",
            Self::Boolean => "boolean",
        }
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type of its values.
    pub kind: Kind,
    /// Whether values may be missing.
    pub optional: bool,
    /// Unit; empty where there is none.
    pub unit: String,
    /// What it says, in a sentence.
    pub about: String,
}

/// Name and columns of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Name of the table, which is that of its file: lower-case letters, digits and underscores.
    pub name: String,
    /// Grows when a column's meaning changes.
    pub version: u32,
    /// What a row is.
    pub about: String,
    /// Columns, in order.
    pub columns: Vec<Column>,
}

impl Schema {
    /// How `other` differs in what a reader depends on, if it does: name, version, names and types of columns.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if (&self.name, self.version) != (&other.name, other.version) {
            return Some(format!(
                "it is {}/{} where {}/{} is needed",
                other.name, other.version, self.name, self.version
            ));
        }
        for want in &self.columns {
            let Some(is) = other.columns.iter().find(|c| c.name == want.name) else {
                return Some(format!("it has no column {}", want.name));
            };
            if (is.kind, is.optional) != (want.kind, want.optional) {
                return Some(format!("column {} is {}, not {}", want.name, words(is), words(want)));
            }
        }
        let more = other.columns.iter().find(|c| !self.columns.iter().any(|w| w.name == c.name));
        if let Some(more) = more {
            return Some(format!("it has an unknown column {}", more.name));
        }
        let order = self.columns.iter().zip(&other.columns).find(|(a, b)| a.name != b.name);
        order.map(|(want, is)| format!("column {} stands where {} should", is.name, want.name))
    }
}

fn words(c: &Column) -> String {
    format!("{}{}", if c.optional { "optional " } else { "" }, c.kind.name())
}

/// One value on its way into a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value.
    Missing,
    /// For a text column.
    Text(String),
    /// For an integer column.
    Integer(i64),
    /// For a real column.
    Real(f64),
    /// For a boolean column.
    Boolean(bool),
}

/// The values of a column; `None` where one is missing.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of a text column.
    Text(Vec<Option<String>>),
    /// Of an integer column.
    Integer(Vec<Option<i64>>),
    /// Of a real column.
    Real(Vec<Option<f64>>),
    /// Of a boolean column.
    Boolean(Vec<Option<bool>>),
}

impl Values {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Text => Self::Text(Vec::new()),
            Kind::Integer => Self::Integer(Vec::new()),
            Kind::Real => Self::Real(Vec::new()),
            Kind::Boolean => Self::Boolean(Vec::new()),
        }
    }

    /// The value of a row.
    pub fn cell(&self, row: usize) -> Cell {
        fn of<T: Clone>(v: &[Option<T>], row: usize, make: impl Fn(T) -> Cell) -> Cell {
            v.get(row).cloned().flatten().map_or(Cell::Missing, make)
        }
        match self {
            Self::Text(v) => of(v, row, Cell::Text),
            Self::Integer(v) => of(v, row, Cell::Integer),
            Self::Real(v) => of(v, row, Cell::Real),
            Self::Boolean(v) => of(v, row, Cell::Boolean),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(v) => v.len(),
            Self::Integer(v) => v.len(),
            Self::Real(v) => v.len(),
            Self::Boolean(v) => v.len(),
        }
    }
}

/// A table with its values, column by column.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    schema: Schema,
    values: Vec<Values>,
}

impl Table {
    /// A table without rows.
    pub fn new(schema: Schema) -> Self {
        let values = schema.columns.iter().map(|c| Values::new(c.kind)).collect();
        Self { schema, values }
    }

    /// Name and columns.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.first().map_or(0, Values::len)
    }

    /// The values of each column, in the schema's order.
    pub fn values(&self) -> &[Values] {
        &self.values
    }

    /// The cells of one row; missing ones where there is no such row.
    pub fn row(&self, row: usize) -> Vec<Cell> {
        self.values.iter().map(|v| v.cell(row)).collect()
    }

    /// Adds a row. An empty text in an optional column is a missing value, so that every file format says the
    /// same.
    ///
    /// # Errors
    /// Another number of cells than columns; a cell of another type; a missing value in a column that has to
    /// have one; a number that is not finite.
    pub fn push(&mut self, cells: Vec<Cell>) -> Result<(), ResultsError> {
        if cells.len() != self.schema.columns.len() {
            let why = format!("a row of {} values for {} columns", cells.len(), self.schema.columns.len());
            return Err(ResultsError::Value { table: self.schema.name.clone(), why });
        }
        let row = self.rows();
        // All are checked before one is added: a refused row leaves the columns equally long.
        let cells: Vec<Cell> = cells
            .into_iter()
            .zip(&self.schema.columns)
            .map(|(cell, column)| fit(cell, column))
            .collect::<Result<_, String>>()
            .map_err(|why| ResultsError::Value {
                table: self.schema.name.clone(),
                why: format!("row {row}, {why}"),
            })?;
        for (cell, values) in cells.into_iter().zip(&mut self.values) {
            match (values, cell) {
                (Values::Text(v), Cell::Text(x)) => v.push(Some(x)),
                (Values::Integer(v), Cell::Integer(x)) => v.push(Some(x)),
                (Values::Real(v), Cell::Real(x)) => v.push(Some(x)),
                (Values::Boolean(v), Cell::Boolean(x)) => v.push(Some(x)),
                // `fit` lets no cell of another type through: what is left is missing.
                (Values::Text(v), _) => v.push(None),
                (Values::Integer(v), _) => v.push(None),
                (Values::Real(v), _) => v.push(None),
                (Values::Boolean(v), _) => v.push(None),
            }
        }
        Ok(())
    }
}

/// The cell as its column holds it.
fn fit(cell: Cell, column: &Column) -> Result<Cell, String> {
    let name = &column.name;
    let cell = match cell {
        Cell::Text(t) if t.is_empty() && column.optional => Cell::Missing,
        cell => cell,
    };
    match (&cell, column.kind) {
        (Cell::Missing, _) if column.optional => Ok(cell),
        (Cell::Missing, _) => Err(format!("column {name}: the value is missing")),
        (Cell::Real(x), Kind::Real) if !x.is_finite() => {
            Err(format!("column {name}: {x} is no number to keep"))
        }
        (Cell::Text(_), Kind::Text)
        | (Cell::Integer(_), Kind::Integer)
        | (Cell::Real(_), Kind::Real)
        | (Cell::Boolean(_), Kind::Boolean) => Ok(cell),
        (_, kind) => Err(format!("column {name}: the value is not of type {}", kind.name())),
    }
}
