//! Every fixture against the values that `transformers` computed: every site, every position.

use refocus_compute::Reference;

use crate::expected::{
    AS_NEAR, Comparison, F32_PARITY, HEADS, MEASURED, cases, compare, compare_on_cpu, fixtures, row,
};

fn check(name: &str, c: &Comparison) {
    assert!(c.sites.greatest <= F32_PARITY, "{name}: {} differs by {:e}", c.worst, c.sites.greatest);
    assert_eq!(c.top1.equal, c.top1.of, "{name}: highest logits");
    assert!(c.tensors > 0 && c.passed(), "{name}");
}

#[test]
fn every_site_of_every_family_equals_transformers() {
    for case in cases() {
        let c = compare_on_cpu(&case);
        check(&case.name, &c);
        // As near to the exact values as `transformers` itself is.
        let (ours, theirs) = (c.ours.rms(), c.theirs.rms());
        assert!(ours <= AS_NEAR * theirs, "{}: {ours:e}, transformers {theirs:e}", case.name);
    }
}

#[test]
fn the_reference_equals_transformers_too() {
    for case in cases() {
        check(&case.name, &compare(&case, Reference));
    }
}

/// `docs/parity.md` has the rows of these fixtures, and the measured numbers in it are within the
/// tolerance. Their digits may be older than the kernels.
#[test]
fn the_written_table_is_that_of_these_fixtures() {
    let path = fixtures().join("../docs/parity.md");
    let again = "write it anew: cargo run --release -p refocus-model --example parity > docs/parity.md";
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("docs/parity.md: {e}; {again}"));
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|c| c.trim().trim_matches('`').to_owned()).collect()
    };
    let mut tables = text.split("\n## ").filter(|s| s.starts_with("Fixtures"));
    let section = tables.next().unwrap_or_else(|| panic!("no section of fixtures; {again}"));
    let mut lines = section.lines().filter(|l| l.starts_with('|')).map(cells);
    assert_eq!(lines.next().unwrap_or_default(), HEADS, "{again}");
    let written: Vec<_> = lines.skip(1).collect();
    let cases = cases();
    assert_eq!(written.len(), cases.len(), "{again}");
    for (written, case) in written.iter().zip(&cases) {
        let now = row(&case.name, &compare_on_cpu(case));
        for (i, (written, now)) in written.iter().zip(&now).enumerate() {
            if MEASURED.contains(&i) {
                let number = written.split(' ').next().and_then(|n| n.parse::<f64>().ok());
                assert!(number.is_some_and(|n| n <= F32_PARITY), "{}: {written}; {again}", case.name);
            } else {
                assert_eq!(written, now, "{}, {}; {again}", case.name, HEADS[i]);
            }
        }
    }
}
