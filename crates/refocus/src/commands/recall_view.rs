//! The tables of `recall`.

use refocus_study::overthinking::Estimate;
use refocus_study::recall::{FEWEST_KNOWN, Fall, Group};

use super::recall::Document;
use super::recall_inside_view;
use crate::table::{Side, Table};

/// Relation by relation what was asked, what the last two layers do, and what holds.
pub(super) fn tables(document: &Document, colours: bool) -> String {
    let mut out = relations(document, colours);
    for r in document.relations.iter().filter(|r| r.why.is_some()) {
        out.push_str(&format!("{}: {}: {}\n", r.relation, r.outcome, r.why.as_deref().unwrap_or_default()));
    }
    if !document.falls.is_empty() {
        out.push('\n');
        out.push_str(&falls(document, colours));
    }
    for found in &document.inside {
        out.push_str(&recall_inside_view::tables(found, colours));
    }
    if !document.named.is_empty() {
        out.push_str("\nHeads named for GPT-2 small (Lv et al., as summaries of the paper tell it); the numbers are of this run\n");
        out.push_str(&named(document, colours));
    }
    if !document.claims.is_empty() {
        out.push('\n');
        out.push_str(&claims(document, colours));
    }
    if !document.patches.is_empty() {
        out.push_str(&format!(
            "\nPatches of the best repairs, where C9 holds or is conditional: {}\n",
            document.patches.join(", ")
        ));
    }
    out
}

fn relations(document: &Document, colours: bool) -> String {
    let columns = ["facts", "repeated", "several tokens", "asked", "known"].map(|c| (c, Side::Right));
    let columns: Vec<_> =
        [("relation", Side::Left)].into_iter().chain(columns).chain([("outcome", Side::Left)]).collect();
    let mut table = Table::new(&columns);
    for r in &document.relations {
        let c = &r.counts;
        let numbers = [c.facts, c.repeated, c.several_tokens, c.asked, c.known].map(|n| n.to_string());
        table.row(std::iter::once(r.relation.clone()).chain(numbers).chain([r.outcome.to_owned()]));
    }
    table.render(colours)
}

/// The falls of answers that are first two layers before the end, and of all.
fn falls(document: &Document, colours: bool) -> String {
    let columns = ["facts", "before", "after", "fall", "by attention", "by MLPs", "matched", "beyond"];
    let left = ["relation", "form", "shots", "begun", "prompts"].map(|c| (c, Side::Left));
    let columns: Vec<_> = left.into_iter().chain(columns.map(|c| (c, Side::Right))).collect();
    let mut table = Table::new(&columns);
    for f in document.falls.iter().filter(|f| matches!(f.group, Group::All | Group::RightBefore)) {
        let part = |name: &str| {
            let of: Vec<f64> = f.parts.iter().filter(|p| p.part == name).map(|p| p.taken.value).collect();
            if of.is_empty() { "-".to_owned() } else { points(of.iter().sum()) }
        };
        let matched = |pick: fn(&refocus_study::recall::Matched) -> &Estimate| {
            f.matched.as_ref().map_or_else(|| "-".to_owned(), |m| of_enough(pick(m)))
        };
        table.row([
            f.relation.clone(),
            f.condition.form.name().to_owned(),
            f.condition.shots.to_string(),
            f.condition.beginning.name().to_owned(),
            words(f),
            f.fall.n.to_string(),
            points(f.before),
            points(f.after),
            of_enough(&f.fall),
            part("attention"),
            part("mlp"),
            matched(|m| &m.fall),
            matched(|m| &m.beyond),
        ]);
    }
    format!(
        "What the last two layers take from the answer, in points of probability [95 % by facts]\n{}",
        table.render(colours)
    )
}

fn words(f: &Fall) -> String {
    match f.group {
        Group::All if f.lens == "tuned" => "all, tuned lens".to_owned(),
        Group::All => "all".to_owned(),
        _ => "first before".to_owned(),
    }
}

/// Where the paper's heads stand in this run.
fn named(document: &Document, colours: bool) -> String {
    let left = ["head", "relation", "form"].map(|c| (c, Side::Left));
    let right = ["place", "π(Y) without, %"].map(|c| (c, Side::Right));
    let columns: Vec<_> = left.into_iter().chain(right).chain([("said of it", Side::Left)]).collect();
    let mut table = Table::new(&columns);
    for b in &document.named {
        table.row([
            format!("{}.{}", b.id.layer, b.id.head),
            b.relation.clone(),
            b.form.name().to_owned(),
            format!("{} of {}", b.place, b.of),
            within(&b.effect),
            b.said.clone(),
        ]);
    }
    table.render(colours)
}

fn claims(document: &Document, colours: bool) -> String {
    let left = ["claim", "relation", "form", "verdict"].map(|c| (c, Side::Left));
    let right = ["effect", "beyond control", "facts"].map(|c| (c, Side::Right));
    let columns: Vec<_> = left.into_iter().chain(right).chain([("why", Side::Left)]).collect();
    let mut table = Table::new(&columns);
    for c in &document.claims {
        let number = |e: &Option<Estimate>| match (e, c.unit) {
            (None, _) => "-".to_owned(),
            (Some(e), "probability") => within(e),
            (Some(e), _) => format!("{:+.2} [{:+.2}, {:+.2}] nats", e.value, e.low, e.high),
        };
        table.row([
            c.id.to_string(),
            c.relation.clone().unwrap_or_else(|| "all".to_owned()),
            c.form.name().to_owned(),
            c.verdict.name().to_owned(),
            number(&c.effect),
            number(&c.beyond),
            c.facts.to_string(),
            c.why.clone(),
        ]);
    }
    let mut out = table.render(colours);
    let mut told: Vec<&str> = Vec::new();
    for c in &document.claims {
        if !told.contains(&c.id.as_ref()) {
            told.push(&c.id);
            out.push_str(&format!("{}: {}; compared with {}\n", c.id, c.claim, c.control));
        }
    }
    out
}

/// With its interval, where there are facts enough for one.
pub(super) fn of_enough(e: &Estimate) -> String {
    if e.n < FEWEST_KNOWN { format!("{:+.1} (n {})", 100.0 * e.value, e.n) } else { within(e) }
}

/// Points of probability.
fn points(x: f64) -> String {
    format!("{:.1}", 100.0 * x)
}

/// Hundredths: points of probability, or %.
pub(super) fn within(e: &Estimate) -> String {
    format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * e.value, 100.0 * e.low, 100.0 * e.high)
}
