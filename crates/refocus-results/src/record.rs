//! Rows as Rust types: one definition gives the schema, the writer and the reader.

use crate::error::ResultsError;
use crate::table::{Cell, Kind, Schema, Table};

/// A type that a column can hold.
pub trait Field: Sized {
    /// Type of the column.
    const KIND: Kind;
    /// Whether values may be missing.
    const OPTIONAL: bool = false;
    /// The value as a cell.
    fn cell(&self) -> Cell;
    /// The value of a cell; nothing where its type differs.
    fn of(cell: Cell) -> Option<Self>;
}

macro_rules! field {
    ($type:ty, $kind:ident) => {
        impl Field for $type {
            const KIND: Kind = Kind::$kind;
            fn cell(&self) -> Cell {
                Cell::$kind(self.clone())
            }
            fn of(cell: Cell) -> Option<Self> {
                match cell {
                    Cell::$kind(x) => Some(x),
                    _ => None,
                }
            }
        }
    };
}
field!(String, Text);
field!(i64, Integer);
field!(f64, Real);
field!(bool, Boolean);

impl<T: Field> Field for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;

    fn cell(&self) -> Cell {
        self.as_ref().map_or(Cell::Missing, T::cell)
    }

    fn of(cell: Cell) -> Option<Self> {
        match cell {
            Cell::Missing => Some(None),
            cell => T::of(cell).map(Some),
        }
    }
}

/// A row of a table.
pub trait Record: Sized {
    /// Name and columns of the table.
    fn schema() -> Schema;
    /// Values, in the schema's order.
    fn cells(&self) -> Vec<Cell>;
    /// The row with these values; nothing where number or types differ.
    fn of(cells: Vec<Cell>) -> Option<Self>;

    /// The table of these rows.
    ///
    /// # Errors
    /// A value that a table cannot hold, such as NaN.
    fn table(rows: &[Self]) -> Result<Table, ResultsError> {
        let mut table = Table::new(Self::schema());
        for row in rows {
            table.push(row.cells())?;
        }
        Ok(table)
    }
}

/// Defines record types: the doc comment of a field is the description of its column, the text in brackets
/// its unit.
macro_rules! records {
    ($(
        $(#[doc = $about:literal])+
        $type:ident in $table:literal {
            $( $(#[doc = $what:literal])+ $field:ident: $of:ty [$unit:literal], )+
        }
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $type {
            $( $(#[doc = $what])+ pub $field: $of, )+
        }

        impl $crate::Record for $type {
            fn schema() -> $crate::Schema {
                $crate::Schema {
                    name: $table.to_owned(),
                    version: 1,
                    about: concat!($($about),+).trim().to_owned(),
                    columns: vec![$( $crate::Column {
                        name: stringify!($field).to_owned(),
                        kind: <$of as $crate::Field>::KIND,
                        optional: <$of as $crate::Field>::OPTIONAL,
                        unit: $unit.to_owned(),
                        about: concat!($($what),+).trim().to_owned(),
                    } ),+],
                }
            }

            fn cells(&self) -> Vec<$crate::Cell> {
                vec![$( $crate::Field::cell(&self.$field) ),+]
            }

            fn of(cells: Vec<$crate::Cell>) -> Option<Self> {
                let mut cells = cells.into_iter();
                Some(Self { $( $field: $crate::Field::of(cells.next()?)? ),+ })
            }
        }
    )+

        /// All tables defined here.
        #[cfg(test)]
        pub(crate) fn schemas() -> Vec<$crate::Schema> {
            vec![$( <$type as $crate::Record>::schema() ),+]
        }
    };
}
pub(crate) use records;

#[cfg(test)]
mod tests {
    use crate::table::Schema;
    use crate::{diagnosis, flipflop, overthinking, recall, system2};

    /// As the page of all tables shows it.
    fn section(schema: &Schema) -> String {
        let mut out = format!(
            "### `{}`\n\n{}\n\n| column | type | unit | what |\n|---|---|---|---|\n",
            schema.name, schema.about
        );
        for c in &schema.columns {
            let optional = if c.optional { ", optional" } else { "" };
            out.push_str(&format!(
                "| `{}` | {}{optional} | {} | {} |\n",
                c.name,
                c.kind.name(),
                c.unit,
                c.about
            ));
        }
        out
    }

    #[test]
    fn the_page_of_tables_says_what_is_written() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/results.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let all = [
            overthinking::schemas(),
            diagnosis::schemas(),
            flipflop::schemas(),
            recall::schemas(),
            system2::schemas(),
        ];
        let all: Vec<Schema> = all.into_iter().flatten().collect();
        for schema in &all {
            let section = section(schema);
            assert!(page.contains(&section), "docs/results.md does not have\n{section}");
        }
        assert_eq!(
            page.matches("\n### `").count(),
            all.len(),
            "docs/results.md has a table that nobody writes"
        );
    }
}
