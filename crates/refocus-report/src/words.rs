//! Numbers and verdicts in words.

use refocus_results::overthinking::Claim;

use crate::RunSection;
use crate::chart::Format;
use crate::view::{Cell, Grid, Head, Part};

/// A share as a percentage.
pub(crate) fn percent(x: f64) -> String {
    Format::Percent.value(x)
}

/// A difference of shares in points, with its interval where there is one.
pub(crate) fn points(value: f64, interval: Option<(f64, f64)>) -> String {
    let d = |x| Format::Percent.difference(x);
    match interval {
        Some((low, high)) => format!("{} [{}, {}]", d(value), d(low), d(high)),
        None => d(value),
    }
}

/// How a difference is coloured: by its interval, never by its value.
pub(crate) fn class(interval: Option<(f64, f64)>) -> &'static str {
    match interval {
        Some((low, _)) if low > 0.0 => "n good",
        Some((_, high)) if high < 0.0 => "n bad",
        _ => "n",
    }
}

/// Both ends, where both are known.
pub(crate) fn both(low: Option<f64>, high: Option<f64>) -> Option<(f64, f64)> {
    Some((low?, high?))
}

/// A list as a sentence has it.
pub(crate) fn joined(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// Names in the order in which they come.
pub(crate) fn order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// `1 task`, `2 tasks`.
pub(crate) fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// One sentence on how the claims fared.
pub(crate) fn tally(claims: &[Claim]) -> Option<String> {
    if claims.is_empty() {
        return None;
    }
    let of = |v: &str| claims.iter().filter(|c| c.verdict == v).count();
    let (holds, not, conditional) = (of("holds"), of("does not hold"), of("conditional"));
    let mut parts = vec![format!("{holds} held"), format!("{not} did not")];
    if conditional > 0 {
        parts.push(format!("{conditional} held under a condition"));
    }
    parts.push(format!("{} could not be tested", claims.len() - holds - not - conditional));
    Some(format!("Of {} put to the test, {}.", count(claims.len(), "claim"), joined(&parts)))
}

/// The section of the claims.
pub(crate) fn claim_section(claims: &[Claim]) -> RunSection {
    RunSection {
        id: "claims",
        title: "Claims and verdicts".to_owned(),
        lead:
            "What was claimed before the run, and how it fared. The rule was fixed beforehand: a claim holds \
               where its interval lies above 0 and it beats its control."
                .to_owned(),
        parts: vec![Part::Grid(grid(claims))],
    }
}

fn grid(claims: &[Claim]) -> Grid {
    let head = ["claim", "task", "setting", "verdict"].map(Head::text);
    let numbers = [Head::number("effect [interval]"), Head::number("n")];
    let rows = claims.iter().map(|c| {
        let class = match c.verdict.as_str() {
            "holds" => "good",
            "does not hold" => "bad",
            _ => "soft",
        };
        let why = [&c.why, &c.control].map(|t| t.clone().unwrap_or_default());
        vec![
            Cell::text(c.claim.clone()),
            Cell::text(c.task.clone().unwrap_or_else(|| "all".to_owned())),
            Cell::text(c.setting.clone().unwrap_or_default()),
            Cell { text: c.verdict.clone(), class },
            Cell::number(c.effect.map_or_else(|| "–".to_owned(), |e| points(e, both(c.low, c.high)))),
            Cell::number(c.n.to_string()),
            Cell { text: why[1].clone(), class: "soft" },
            Cell { text: why[0].clone(), class: "soft" },
        ]
    });
    Grid {
        caption: "Effects in points; positive where the claim is right".to_owned(),
        head: head
            .into_iter()
            .chain(numbers)
            .chain([Head::text("compared with"), Head::text("why")])
            .collect(),
        rows: rows.collect(),
    }
}
