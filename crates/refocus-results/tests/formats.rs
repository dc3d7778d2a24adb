//! Every format gives back what it was given, for any table.

use proptest::prelude::*;
use refocus_results::{Cell, Column, Kind, RunFolder, RunInfo, Schema, StoredRun, Table};

const KINDS: [Kind; 4] = [Kind::Text, Kind::Integer, Kind::Real, Kind::Boolean];

fn cell(kind: Kind, optional: bool) -> BoxedStrategy<Cell> {
    let some = match kind {
        Kind::Text => any::<String>().prop_map(Cell::Text).boxed(),
        Kind::Integer => any::<i64>().prop_map(Cell::Integer).boxed(),
        Kind::Real => any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Cell::Real).boxed(),
        Kind::Boolean => any::<bool>().prop_map(Cell::Boolean).boxed(),
    };
    if optional { prop_oneof![1 => Just(Cell::Missing), 2 => some].boxed() } else { some }
}

prop_compose! {
    fn table()(columns in prop::collection::vec((0..4_usize, any::<bool>()), 2..6))
        (rows in prop::collection::vec(
            columns.iter().map(|&(k, o)| cell(KINDS[k], o)).collect::<Vec<_>>(), 0..20),
         columns in Just(columns)) -> Table {
        let columns = columns.iter().enumerate().map(|(i, &(k, optional))| Column {
            name: format!("c{i}"), kind: KINDS[k], optional, unit: "s".into(), about: "What.".into(),
        });
        let schema = Schema { name: "any".into(), version: 2, about: "A row.".into(), columns: columns.collect() };
        let mut table = Table::new(schema);
        for row in rows {
            table.push(row).expect("fits");
        }
        table
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn text_formats_give_back_the_table(table in table()) {
        let csv = table.to_csv().expect("csv");
        prop_assert_eq!(&Table::from_csv(table.schema().clone(), &csv).expect("read"), &table);
        let json = table.to_json().expect("json");
        prop_assert_eq!(&Table::from_json(&json).expect("read"), &table);
    }

    #[test]
    fn a_run_folder_gives_back_the_table(table in table()) {
        let dir = std::env::temp_dir().join(format!("refocus-formats-{}", std::process::id()));
        let info = RunInfo {
            study: "any/1".into(), program: String::new(), model: None, tokenizer: None,
            tasks: Default::default(), seed: 0, precision: String::new(), instruction_set: String::new(),
            configuration: Default::default(),
        };
        RunFolder::create(&dir, info).and_then(|mut run| run.write_table(&table)).expect("write");
        let read = StoredRun::open(&dir).and_then(|run| run.table("any"));
        std::fs::remove_dir_all(&dir).expect("remove");
        prop_assert_eq!(read.expect("read"), Some(table));
    }
}

#[test]
fn wrong_text_is_named() {
    let column = |name: &str, kind| Column {
        name: name.into(),
        kind,
        optional: false,
        unit: String::new(),
        about: String::new(),
    };
    let columns = vec![column("a", Kind::Integer), column("b", Kind::Real)];
    let schema = Schema { name: "t".into(), version: 1, about: String::new(), columns };
    for (text, why) in [
        ("a,c\n1,2\n", "header"),
        ("a,b\n1\n", "2 fields"),
        ("a,b\n1,2\n1.5,2\n", "line 3, column a: \"1.5\" is no integer"),
        ("a,b\n1,NaN\n", "NaN is no number to keep"),
        ("a,b\n1,\n", "column b: \"\" is no real"),
    ] {
        let error = Table::from_csv(schema.clone(), text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(why), "{text:?}: {error}");
    }
}
