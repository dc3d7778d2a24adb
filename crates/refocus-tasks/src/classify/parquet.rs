//! Rows of a Parquet file, the format in which the hub keeps data sets.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::{Type, TypePtr};

use super::error::TaskError;

/// Columns of a row by name: `Some(None)` where the column holds no text.
pub(super) type Cells<'a> = &'a dyn Fn(&str) -> Option<Option<String>>;

/// Reads those of the columns `wanted` that the file has, row by row; the number of a row counts from 1.
///
/// # Errors
/// It is no Parquet file or a damaged one, or a column is compressed with what is not read here; what `each`
/// reports.
pub(super) fn rows(
    path: &Path,
    wanted: &[&str],
    each: impl FnMut(usize, Cells<'_>) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    // The library panics on some damaged files; nothing of what it was doing is used afterwards.
    catch_unwind(AssertUnwindSafe(|| read(path, wanted, each))).unwrap_or_else(|_| {
        Err(TaskError::Rows { path: path.to_owned(), why: "it is a damaged Parquet file".to_owned() })
    })
}

fn read(
    path: &Path,
    wanted: &[&str],
    mut each: impl FnMut(usize, Cells<'_>) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    let bad = |why: String| TaskError::Rows { path: path.to_owned(), why };
    let damaged = |e: parquet::errors::ParquetError| bad(format!("it cannot be read as a Parquet file: {e}"));
    let file = File::open(path).map_err(TaskError::io(path))?;
    let size = file.metadata().map_err(TaskError::io(path))?.len();
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema();
    let fields: Vec<TypePtr> = schema
        .get_fields()
        .iter()
        .filter(|f| f.is_primitive() && wanted.contains(&f.name()))
        .map(Arc::clone)
        .collect();
    for column in reader.metadata().row_groups().iter().flat_map(|g| g.columns()) {
        let name = column.column_path().string();
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let end = start.checked_add(column.compressed_size()).and_then(|end| u64::try_from(end).ok());
        if start < 0 || column.compressed_size() < 0 || end.is_none_or(|end| end > size) {
            return Err(bad(format!("column {name} does not lie within its {size} bytes")));
        }
        let known = matches!(
            column.compression(),
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_)
        );
        let codec = column.compression().to_string();
        // Without the level in brackets.
        let codec = codec.split('(').next().unwrap_or_default();
        if !known && fields.iter().any(|f| f.name() == name) {
            return Err(bad(format!(
                "column {name} is compressed with {codec}; Snappy, gzip and no compression are read"
            )));
        }
    }
    if fields.is_empty() {
        return Err(bad(format!("it has none of the columns {}", wanted.join(", "))));
    }
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(damaged)?;
    for (i, row) in reader.get_row_iter(Some(projection)).map_err(damaged)?.enumerate() {
        let row: Row = row.map_err(damaged)?;
        each(i + 1, &|column| {
            row.get_column_iter().find(|(name, _)| *name == column).map(|(_, field)| text(field))
        })?;
    }
    Ok(())
}

fn text(field: &Field) -> Option<String> {
    match field {
        Field::Str(s) => Some(s.clone()),
        Field::Bytes(b) => b.as_utf8().ok().map(str::to_owned),
        Field::Bool(b) => Some(u8::from(*b).to_string()),
        Field::Byte(n) => Some(n.to_string()),
        Field::Short(n) => Some(n.to_string()),
        Field::Int(n) => Some(n.to_string()),
        Field::Long(n) => Some(n.to_string()),
        Field::UByte(n) => Some(n.to_string()),
        Field::UShort(n) => Some(n.to_string()),
        Field::UInt(n) => Some(n.to_string()),
        Field::ULong(n) => Some(n.to_string()),
        _ => None,
    }
}
