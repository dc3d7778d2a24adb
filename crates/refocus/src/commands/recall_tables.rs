//! The tables of a run of `recall`, from which its page is made.

use refocus_results::RunFolder;
use refocus_results::recall as rows;
use refocus_study::overthinking::Estimate;
use refocus_study::recall::{Claim, Curve, Fall};

use super::recall::{Document, Told};
use super::recall_inside_tables;
use crate::failure::Outcome;

/// Writes all tables.
pub(super) fn write(run: &mut RunFolder, document: &Document, curves: &[Curve]) -> Outcome<()> {
    run.write(&document.relations.iter().map(relation).collect::<Vec<_>>())?;
    let mut points = Vec::new();
    for c in curves {
        curve(c, &document.nodes, &mut points);
    }
    run.write(&points)?;
    run.write(&document.falls.iter().flat_map(fall).collect::<Vec<_>>())?;
    run.write(&document.claims.iter().map(claim).collect::<Vec<_>>())?;
    recall_inside_tables::write(run, &document.inside)
}

fn relation(t: &Told) -> rows::Relation {
    rows::Relation {
        relation: t.relation.clone(),
        facts: t.counts.facts as i64,
        repeated: t.counts.repeated as i64,
        several_tokens: t.counts.several_tokens as i64,
        asked: t.counts.asked as i64,
        known: t.counts.known as i64,
        outcome: t.outcome.to_owned(),
        why: t.why.clone(),
    }
}

fn curve(c: &Curve, nodes: &[String], points: &mut Vec<rows::Point>) {
    for ((&node, e), rank) in c.nodes.iter().zip(&c.prob).zip(&c.rank) {
        points.push(rows::Point {
            relation: c.relation.clone(),
            form: c.condition.form.name().to_owned(),
            shots: c.condition.shots as i64,
            beginning: c.condition.beginning.name().to_owned(),
            group: c.group.name().to_owned(),
            lens: c.lens.to_owned(),
            token: c.token.to_owned(),
            node: node as i64,
            site: nodes.get(node).cloned().unwrap_or_default(),
            prob: e.value,
            low: e.low,
            high: e.high,
            rank: *rank,
            n: e.n as i64,
        });
    }
}

/// The whole fall, its parts, and what stands beside it.
fn fall(f: &Fall) -> Vec<rows::Fall> {
    let row = |part: String, e: &Estimate| rows::Fall {
        relation: f.relation.clone(),
        form: f.condition.form.name().to_owned(),
        shots: f.condition.shots as i64,
        beginning: f.condition.beginning.name().to_owned(),
        group: f.group.name().to_owned(),
        lens: f.lens.to_owned(),
        part,
        before: None,
        after: None,
        value: e.value,
        low: e.low,
        high: e.high,
        p: None,
        n: e.n as i64,
    };
    let total =
        rows::Fall { before: Some(f.before), after: Some(f.after), ..row("total".to_owned(), &f.fall) };
    let parts = f.parts.iter().map(|p| row(format!("{} {}", p.part, p.layer), &p.taken));
    let beside = f.matched.iter().flat_map(|m| {
        let beyond = rows::Fall { p: Some(m.p), ..row("beyond".to_owned(), &m.beyond) };
        [row("matched".to_owned(), &m.fall), beyond]
    });
    std::iter::once(total).chain(parts).chain(beside).collect()
}

fn claim(c: &Claim) -> rows::Claim {
    let of = |e: &Option<Estimate>, pick: fn(&Estimate) -> f64| e.as_ref().map(pick);
    rows::Claim {
        id: c.id.to_string(),
        claim: c.claim.to_string(),
        relation: c.relation.clone(),
        form: c.form.name().to_owned(),
        verdict: c.verdict.name().to_owned(),
        why: c.why.clone(),
        n: c.facts as i64,
        effect: of(&c.effect, |e| e.value),
        low: of(&c.effect, |e| e.low),
        high: of(&c.effect, |e| e.high),
        beyond: of(&c.beyond, |e| e.value),
        beyond_low: of(&c.beyond, |e| e.low),
        beyond_high: of(&c.beyond, |e| e.high),
        unit: c.unit.to_owned(),
        control: c.control.to_string(),
    }
}
