//! Tables as CSV and JSON.
//!
//! CSV has a header of column names; a missing value is an empty field. JSON is the schema with `rows`, a list
//! of objects in which missing values are left out. Numbers are the shortest text that reads as the same
//! number.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::error::ResultsError;
use crate::table::{Cell, Kind, Schema, Table};

impl Cell {
    /// As in CSV; empty where it is missing.
    pub fn text(&self) -> String {
        match self {
            Self::Missing => String::new(),
            Self::Text(t) => t.clone(),
            Self::Integer(x) => x.to_string(),
            Self::Real(x) => x.to_string(),
            Self::Boolean(x) => x.to_string(),
        }
    }

    fn json(self) -> Option<Value> {
        match self {
            Self::Missing => None,
            Self::Text(t) => Some(Value::String(t)),
            Self::Integer(x) => Some(x.into()),
            Self::Real(x) => Number::from_f64(x).map(Value::Number),
            Self::Boolean(x) => Some(Value::Bool(x)),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(flatten)]
    schema: Schema,
    rows: Vec<Map<String, Value>>,
}

impl Table {
    fn wrong(schema: &Schema, why: impl std::fmt::Display) -> ResultsError {
        ResultsError::Value { table: schema.name.clone(), why: why.to_string() }
    }

    /// The table as CSV.
    ///
    /// # Errors
    /// None that a table of this crate can cause.
    pub fn to_csv(&self) -> Result<Vec<u8>, ResultsError> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let bad = |e: csv::Error| Self::wrong(self.schema(), e);
        out.write_record(self.schema().columns.iter().map(|c| &c.name)).map_err(bad)?;
        for row in 0..self.rows() {
            out.write_record(self.row(row).iter().map(Cell::text)).map_err(bad)?;
        }
        out.into_inner().map_err(|e| Self::wrong(self.schema(), e))
    }

    /// Reads what [`to_csv`](Self::to_csv) wrote.
    ///
    /// # Errors
    /// Other columns, or a value that its column cannot hold, with its line.
    pub fn from_csv(schema: Schema, text: &[u8]) -> Result<Self, ResultsError> {
        let mut reader = csv::Reader::from_reader(text);
        let header = reader.headers().map_err(|e| Self::wrong(&schema, e))?;
        if !header.iter().eq(schema.columns.iter().map(|c| c.name.as_str())) {
            return Err(Self::wrong(&schema, "its header does not name the columns of the schema"));
        }
        let mut table = Self::new(schema);
        for record in reader.records() {
            let record = record.map_err(|e| Self::wrong(table.schema(), e))?;
            let line = record.position().map_or(0, csv::Position::line);
            let columns = table.schema().columns.iter();
            let cells = record.iter().zip(columns).map(|(field, c)| {
                parse(field, c.kind, c.optional).ok_or_else(|| {
                    format!("line {line}, column {}: {field:?} is no {}", c.name, c.kind.name())
                })
            });
            let cells = cells.collect::<Result<_, _>>().map_err(|e| Self::wrong(table.schema(), e))?;
            table.push(cells)?;
        }
        Ok(table)
    }

    /// The table as one JSON document.
    ///
    /// # Errors
    /// None that a table of this crate can cause.
    pub fn to_json(&self) -> Result<Vec<u8>, ResultsError> {
        let names = || self.schema().columns.iter().map(|c| c.name.clone());
        let rows = (0..self.rows()).map(|i| {
            let cells = self.row(i).into_iter().map(Cell::json);
            names().zip(cells).filter_map(|(name, value)| Some((name, value?))).collect()
        });
        let document = Document { schema: self.schema().clone(), rows: rows.collect() };
        serde_json::to_vec(&document).map_err(|e| Self::wrong(self.schema(), e))
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// No such document, or a value that its column cannot hold.
    pub fn from_json(text: &[u8]) -> Result<Self, ResultsError> {
        let document: Document = serde_json::from_slice(text)
            .map_err(|e| ResultsError::Value { table: "JSON".to_owned(), why: e.to_string() })?;
        let mut table = Self::new(document.schema);
        for (i, mut row) in document.rows.into_iter().enumerate() {
            let mut cells = Vec::new();
            for c in &table.schema().columns {
                let cell = match (row.remove(&c.name), c.kind) {
                    (None, _) => Some(Cell::Missing),
                    (Some(Value::String(t)), Kind::Text) => Some(Cell::Text(t)),
                    (Some(Value::Number(x)), Kind::Integer) => x.as_i64().map(Cell::Integer),
                    (Some(Value::Number(x)), Kind::Real) => x.as_f64().map(Cell::Real),
                    (Some(Value::Bool(x)), Kind::Boolean) => Some(Cell::Boolean(x)),
                    _ => None,
                };
                let cell = cell.ok_or_else(|| {
                    Self::wrong(table.schema(), format!("row {i}, column {}: no {}", c.name, c.kind.name()))
                })?;
                cells.push(cell);
            }
            if let Some(name) = row.keys().next() {
                return Err(Self::wrong(table.schema(), format!("row {i}: unknown column {name}")));
            }
            table.push(cells)?;
        }
        Ok(table)
    }
}

fn parse(field: &str, kind: Kind, optional: bool) -> Option<Cell> {
    if field.is_empty() && optional {
        return Some(Cell::Missing);
    }
    match kind {
        Kind::Text => Some(Cell::Text(field.to_owned())),
        Kind::Integer => field.parse().ok().map(Cell::Integer),
        Kind::Real => field.parse().ok().map(Cell::Real),
        Kind::Boolean => field.parse().ok().map(Cell::Boolean),
    }
}
