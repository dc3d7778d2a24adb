//! A diagnosis as result tables.

use refocus_results::diagnosis as rows;
use refocus_results::{ResultsError, RunFolder};

use super::{Change, Finding, Mitigation, Tried, known};

/// Writes the tables of findings, and of a patch that was searched.
///
/// # Errors
/// A table cannot be written.
pub fn write_tables(
    folder: &mut RunFolder,
    findings: &[Finding],
    mitigation: Option<&Mitigation>,
) -> Result<(), ResultsError> {
    folder.write(&findings.iter().map(finding).collect::<Vec<_>>())?;
    folder.write(&findings.iter().flat_map(metrics).collect::<Vec<_>>())?;
    folder.write(&findings.iter().flat_map(examples).collect::<Vec<_>>())?;
    if let Some(m) = mitigation {
        folder.write(&m.tried.iter().map(|t| tried(m, t)).collect::<Vec<_>>())?;
        folder.write(&m.changes.iter().map(change).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn finding(f: &Finding) -> rows::Finding {
    let value = f.value();
    rows::Finding {
        probe: f.probe.name().to_owned(),
        state: f.state.name().to_owned(),
        headline: f.headline.clone(),
        value: value.map(|m| m.value),
        low: value.and_then(|m| m.low),
        high: value.and_then(|m| m.high),
        n: value.map(|m| m.n as i64),
        verdict: f.verdict.clone(),
        asked: f.asked.clone(),
        place: f.place.clone(),
    }
}

fn metrics(f: &Finding) -> impl Iterator<Item = rows::Metric> {
    f.measures.iter().map(|(name, m)| rows::Metric {
        probe: f.probe.name().to_owned(),
        metric: name.clone(),
        unit: known(name).map_or("", |known| known.unit).to_owned(),
        value: m.value,
        low: m.low,
        high: m.high,
        n: m.n as i64,
    })
}

fn examples(f: &Finding) -> impl Iterator<Item = rows::Example> {
    f.examples.iter().map(|e| rows::Example {
        probe: f.probe.name().to_owned(),
        text: e.text.clone(),
        right: e.right.clone(),
        answer: e.answer.clone(),
        note: e.note.clone(),
    })
}

fn tried(m: &Mitigation, t: &Tried) -> rows::Tried {
    rows::Tried {
        probe: t.probe.name().to_owned(),
        patch: t.name.clone(),
        gain: t.gain,
        gain_of_all: t.gain_of_all,
        text_cost: t.text_cost,
        chosen: m.chosen.contains(&t.name),
    }
}

fn change(c: &Change) -> rows::Change {
    rows::Change {
        probe: c.probe.map(|p| p.name().to_owned()),
        what: c.what.clone(),
        n: c.change.n as i64,
        before: c.before.value,
        after: c.after.value,
        change: c.change.value,
        low: c.change.low,
        high: c.change.high,
        p: c.p,
    }
}
