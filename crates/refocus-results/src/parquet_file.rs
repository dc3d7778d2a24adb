//! Tables as Parquet files: one column chunk a column, no codec, so that every reader can read them.
//!
//! The schema with units and descriptions is the value of the key `refocus.table` in the file's metadata.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;

use crate::error::ResultsError;
use crate::table::{Cell, Kind, Schema, Table, Values};

const KEY: &str = "refocus.table";
/// Rows of a row group, and of one read.
const GROUP: usize = 1 << 20;
const BATCH: usize = 1 << 16;

fn physical(kind: Kind) -> Physical {
    match kind {
        Kind::Text => Physical::BYTE_ARRAY,
        Kind::Integer => Physical::INT64,
        Kind::Real => Physical::DOUBLE,
        Kind::Boolean => Physical::BOOLEAN,
    }
}

fn layout(schema: &Schema) -> ParquetResult<Type> {
    let columns = schema.columns.iter().map(|c| {
        let repetition = if c.optional { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let logical = (c.kind == Kind::Text).then_some(LogicalType::String);
        let column = Type::primitive_type_builder(&c.name, physical(c.kind))
            .with_repetition(repetition)
            .with_logical_type(logical);
        column.build().map(Arc::new)
    });
    Type::group_type_builder(&schema.name).with_fields(columns.collect::<ParquetResult<_>>()?).build()
}

/// The bytes of a table's file; the same for the same table.
pub(crate) fn write(table: &Table) -> Result<Vec<u8>, ResultsError> {
    write_bytes(table).map_err(|e| ResultsError::Value {
        table: table.schema().name.clone(),
        why: format!("it cannot be written as Parquet: {e}"),
    })
}

fn write_bytes(table: &Table) -> ParquetResult<Vec<u8>> {
    let schema = table.schema();
    let text = serde_json::to_string(schema).map_err(|e| ParquetError::External(Box::new(e)))?;
    let properties = WriterProperties::builder()
        .set_created_by("refocus".to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new(KEY.to_owned(), text)]))
        .build();
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, Arc::new(layout(schema)?), Arc::new(properties))?;
    for from in (0..table.rows()).step_by(GROUP) {
        let to = table.rows().min(from + GROUP);
        let mut group = file.next_row_group()?;
        for (column, values) in schema.columns.iter().zip(table.values()) {
            let Some(mut out) = group.next_column()? else { break };
            let optional = column.optional;
            match values {
                Values::Text(v) => {
                    put::<ByteArrayType, _>(&mut out, &v[from..to], optional, |x| {
                        ByteArray::from(x.as_str())
                    })?;
                }
                Values::Integer(v) => put::<Int64Type, _>(&mut out, &v[from..to], optional, |x| *x)?,
                Values::Real(v) => put::<DoubleType, _>(&mut out, &v[from..to], optional, |x| *x)?,
                Values::Boolean(v) => put::<BoolType, _>(&mut out, &v[from..to], optional, |x| *x)?,
            }
            out.close()?;
        }
        group.close()?;
    }
    file.close()?;
    Ok(bytes)
}

fn put<D: DataType, T>(
    out: &mut SerializedColumnWriter<'_>,
    values: &[Option<T>],
    optional: bool,
    convert: impl Fn(&T) -> D::T,
) -> ParquetResult<()> {
    let there: Vec<D::T> = values.iter().flatten().map(convert).collect();
    let levels: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
    out.typed::<D>().write_batch(&there, optional.then_some(&levels), None)?;
    Ok(())
}

/// Reads a file whose checksum was right.
pub(crate) fn read(path: &Path, bytes: Vec<u8>) -> Result<Table, ResultsError> {
    let damaged = |why: String| ResultsError::Damaged { path: path.to_owned(), why };
    let file = SerializedFileReader::new(Bytes::from(bytes)).map_err(|e| damaged(e.to_string()))?;
    let metadata = file.metadata().file_metadata();
    let text = metadata.key_value_metadata().and_then(|all| all.iter().find(|kv| kv.key == KEY));
    let Some(text) = text.and_then(|kv| kv.value.as_deref()) else {
        return Err(ResultsError::Schema { path: path.to_owned(), why: format!("it does not say {KEY}") });
    };
    let schema: Schema = serde_json::from_str(text).map_err(|e| damaged(format!("{KEY}: {e}")))?;
    let want = layout(&schema).map_err(|e| damaged(e.to_string()))?;
    if *metadata.schema() != want {
        let why = format!("its columns are not those that {KEY} names");
        return Err(ResultsError::Schema { path: path.to_owned(), why });
    }
    let mut columns: Vec<Values> = schema.columns.iter().map(|c| Values::new(c.kind)).collect();
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group).map_err(|e| damaged(e.to_string()))?;
        for (i, values) in columns.iter_mut().enumerate() {
            let optional = schema.columns[i].optional;
            let reader = group.get_column_reader(i).map_err(|e| damaged(e.to_string()))?;
            use parquet::column::reader::ColumnReader as R;
            let done = match (reader, values) {
                (R::ByteArrayColumnReader(r), Values::Text(v)) => {
                    take(r, v, optional, |x| x.as_utf8().map(str::to_owned))
                }
                (R::Int64ColumnReader(r), Values::Integer(v)) => take(r, v, optional, |x| Ok(*x)),
                (R::DoubleColumnReader(r), Values::Real(v)) => take(r, v, optional, |x| Ok(*x)),
                (R::BoolColumnReader(r), Values::Boolean(v)) => take(r, v, optional, |x| Ok(*x)),
                _ => Err(ParquetError::General("a column of another type".to_owned())),
            };
            done.map_err(|e| damaged(format!("column {}: {e}", schema.columns[i].name)))?;
        }
    }
    // Through `push`, so that what is read has passed the same checks as what is written.
    let rows = columns.first().map_or(0, Values::len);
    if columns.iter().any(|c| c.len() != rows) {
        return Err(damaged("its columns are not equally long".to_owned()));
    }
    let mut table = Table::new(schema);
    for row in 0..rows {
        let cells: Vec<Cell> = columns.iter().map(|c| c.cell(row)).collect();
        table.push(cells).map_err(|e| damaged(e.to_string()))?;
    }
    Ok(table)
}

fn take<D: DataType, T>(
    mut reader: ColumnReaderImpl<D>,
    into: &mut Vec<Option<T>>,
    optional: bool,
    convert: impl Fn(&D::T) -> ParquetResult<T>,
) -> ParquetResult<()> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    loop {
        levels.clear();
        values.clear();
        let (records, _, _) =
            reader.read_records(BATCH, optional.then_some(&mut levels), None, &mut values)?;
        if records == 0 {
            return Ok(());
        }
        let mut values = values.iter();
        for i in 0..records {
            let there = !optional || levels.get(i).is_some_and(|&l| l > 0);
            let value = if there { values.next().map(&convert).transpose()? } else { None };
            into.push(value);
        }
    }
}
