//! The name that was probably meant.

/// The most similar of some names, if one is similar enough to be what was meant.
pub(crate) fn nearest(names: impl IntoIterator<Item = String>, given: &str) -> Option<String> {
    let best = names.into_iter().min_by_key(|n| distance(n, given))?;
    (distance(&best, given) <= given.len().div_ceil(3).max(2)).then_some(best)
}

/// How many letters must change to make one word the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
