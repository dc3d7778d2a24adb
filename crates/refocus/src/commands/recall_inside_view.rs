//! The tables of what `recall` finds inside.

use refocus_study::overthinking::Estimate;
use refocus_study::recall::heads::{Passer, SenderEffect};
use refocus_study::recall::inside::{HeadsFound, LastFound, MitigateFound, MlpFound, ShotsFound, SwapFound};

use super::recall_inside::Found;
use super::recall_view::{of_enough, within};
use crate::table::{Side, Table};

/// Heads and MLPs that are shown which lower the answer when replaced, and which raise it.
const LOWER: usize = 8;
const RAISE: usize = 3;

/// Everything of one relation and form.
pub(super) fn tables(found: &Found, colours: bool) -> String {
    let title = format!("{}, {} prompts ({})", found.relation, found.form.name(), found.prompts);
    let mut out = String::new();
    if let Some(f) = &found.heads {
        out.push_str(&format!(
            "\n{title}: π(Y) and π(X) with a head or MLP replaced, in % of π(Y) [95 % by facts]\n"
        ));
        out.push_str(&senders(f, colours));
        if !f.passers.is_empty() {
            out.push_str(&format!(
                "\n{title}: heads chosen on every second fact, on the others; OV in log₁₀ of ranks\n"
            ));
            out.push_str(&passers(&f.passers, colours));
        }
        if !f.named.is_empty() {
            out.push_str(&format!("\n{title}: heads that the paper names, on the same facts\n"));
            out.push_str(&passers(&f.named, colours));
        }
    }
    if let Some(f) = &found.mlp {
        out.push_str(&format!("\n{title}: MLPs as a number a head and a vector, R² on facts left out\n"));
        out.push_str(&fits(f, colours));
        let block = f.intercept.layer;
        out.push_str(&format!(
            "\n{title}: what the intercept of MLP {block} promotes, change of log₁₀ rank\n"
        ));
        out.push_str(&intercept(f, colours));
    }
    if let Some(s) = &found.swap {
        out.push_str(&swapped(s));
    }
    if let Some(f) = &found.shots {
        out.push_str(&format!(
            "\n{title}: heads, regression and intercept with other facts before, beside those without\n"
        ));
        out.push_str(&shots(f, colours));
    }
    if let Some(f) = &found.last {
        out.push_str(&format!(
            "\n{title}: the answer over the last two blocks, by the lens before them, in points\n"
        ));
        out.push_str(&last(f, colours));
        out.push_str(&format!("\n{title}: heads of the last block, and where its MLP's intercept points\n"));
        out.push_str(&heads(f, colours));
    }
    if let Some(f) = &found.mitigate {
        out.push_str(&format!(
            "\n{title}: repairs and their price, gains in points on the facts that did not choose; text of {} tokens\n",
            f.tokens
        ));
        out.push_str(&repairs(f, colours));
    }
    out
}

fn table(left: &[&'static str], right: &[&'static str]) -> Table {
    let left = left.iter().map(|c| (*c, Side::Left));
    Table::new(&left.chain(right.iter().map(|c| (*c, Side::Right))).collect::<Vec<_>>())
}

/// The largest effects each way.
fn senders(f: &HeadsFound, colours: bool) -> String {
    let mut order: Vec<&SenderEffect> = f.senders.iter().collect();
    order.sort_by(|a, b| a.ratio_of_means.value.total_cmp(&b.ratio_of_means.value));
    let columns = ["π(Y)", "mean of ratios", "π(X)", "logit", "resampled", "zero", "mean", "direct, logits"];
    let mut t = table(&["replaced"], &columns);
    let n = order.len();
    for (_, s) in order.into_iter().enumerate().filter(|(i, _)| *i < LOWER || i + RAISE >= n) {
        t.row([
            s.sender.clone(),
            within(&s.ratio_of_means),
            format!("{:+.1}", 100.0 * s.mean_of_ratios),
            s.argument.as_ref().map_or_else(dash, within),
            number(&s.logit),
            within(&s.resampled),
            within(&s.zero),
            within(&s.mean),
            f.parts.iter().find(|p| p.part == s.sender).map_or_else(dash, |p| number(&p.answer)),
        ]);
    }
    t.render(colours)
}

fn passers(all: &[Passer], colours: bool) -> String {
    let columns = [
        "π(Y) without, %",
        "p",
        "attention to X, %",
        "over random heads",
        "p",
        "r with written",
        "OV: Y",
        "OV: X",
        "Y over shuffled",
        "p",
        "over random",
        "p",
    ];
    let mut t = table(&["head"], &columns);
    for p in all {
        let ov = |pick: fn(&refocus_study::recall::heads::Ov) -> Option<&Estimate>| {
            p.ov.as_ref().and_then(pick).map_or_else(dash, number)
        };
        t.row([
            format!("{}.{}", p.id.layer, p.id.head),
            within(&p.effect),
            format!("{:.4}", p.p_effect),
            within(&p.attention),
            within(&p.over_random),
            format!("{:.4}", p.p_attention),
            p.r.as_ref().map_or_else(dash, number),
            ov(|o| Some(&o.answer)),
            ov(|o| o.argument.as_ref()),
            ov(|o| Some(&o.over_shuffled)),
            chance(p.p_shuffled),
            ov(|o| Some(&o.over_random)),
            chance(p.p_random),
        ]);
    }
    t.render(colours)
}

fn fits(f: &MlpFound, colours: bool) -> String {
    let columns = [
        "R²",
        "wordings left out",
        "exchanged",
        "intercept alone",
        "the same uncentred",
        "a matrix each",
        "exchanged",
        "first order",
        "condition",
        "KL rebuilt",
        "KL mean alone",
        "p",
    ];
    let mut t = table(&["MLP", "on"], &columns);
    for fit in &f.fits {
        let two = |x: f64| format!("{x:.2}");
        t.row([
            fit.layer.to_string(),
            if fit.cumulative { "everything before" } else { "its block's heads, the rest" }.to_owned(),
            number(&fit.r2),
            fit.r2_templates.map_or_else(dash, two),
            two(fit.r2_permuted),
            two(fit.r2_intercept),
            two(fit.r2_intercept_uncentred),
            two(fit.r2_matrix),
            two(fit.r2_matrix_permuted),
            two(fit.r2_first_order),
            fit.condition.map_or_else(|| "infinite".to_owned(), |c| format!("{c:.0}")),
            number(&fit.reconstructed.kl),
            number(&fit.mean_alone.kl),
            format!("{:.4}", fit.p_kl_gain),
        ]);
    }
    t.render(colours)
}

fn intercept(f: &MlpFound, colours: bool) -> String {
    let i = &f.intercept;
    let columns = ["answer", "argument", "other answers", "cosine with answers − arguments"];
    let mut t = table(&["added"], &columns);
    for (name, p, cosine) in [("intercept", &i.own, i.cosine), ("random vector", &i.random, i.cosine_random)]
    {
        t.row([
            name.to_owned(),
            number(&p.answer),
            p.argument.as_ref().map_or_else(dash, number),
            number(&p.others),
            cosine.map_or_else(dash, |c| format!("{c:+.2}")),
        ]);
    }
    format!(
        "{}answer less other answers {}; π(Y) without the intercept {}\n",
        t.render(colours),
        number(&i.specific),
        number(&i.without)
    )
}

/// What another relation's intercept does.
fn swapped(s: &SwapFound) -> String {
    let other = match (&s.swapped.other, &s.swapped.other_random) {
        (Some(own), Some(random)) => format!(
            "; log₁₀ rank of {}'s answer {}, by a random vector {} ({} prompts)",
            s.with,
            number(own),
            number(random),
            s.shared
        ),
        _ => String::new(),
    };
    format!(
        "{}'s intercept in its place: π(Y) {}, by a random vector {}{other}\n",
        s.with,
        number(&s.swapped.own),
        number(&s.swapped.random)
    )
}

fn shots(f: &ShotsFound, colours: bool) -> String {
    let columns = [
        "facts",
        "π(Y)",
        "heads' correlation",
        "halves",
        "across",
        "first five kept",
        "R²",
        "exchanged",
        "nats nearer",
        "intercept's cosine",
        "Y with it",
        "less others",
        "π(Y) without it",
    ];
    let mut t = table(&["before", "first heads"], &columns);
    let plain = |x: Option<f64>| x.map_or_else(dash, |x| format!("{x:+.2}"));
    for at in &f.at {
        let top: Vec<String> = at.top.iter().map(|t| format!("{}.{}", t.id.layer, t.id.head)).collect();
        t.row([
            at.shots.to_string(),
            top.join(" "),
            at.facts.to_string(),
            number(&at.pi),
            number(&at.correlation),
            plain(at.halves),
            plain(at.across),
            at.kept.to_string(),
            number(&at.fit.r2),
            format!("{:.2}", at.fit.r2_permuted),
            number(&at.fit.kl_gain),
            plain(at.cosine),
            number(&at.intercept.own.answer),
            number(&at.intercept.specific),
            number(&at.intercept.without),
        ]);
    }
    t.render(colours)
}

fn last(f: &LastFound, colours: bool) -> String {
    let columns =
        ["prompts", "facts", "p(Y) from node to node", "change", "by the last attention", "by the last MLP"];
    let mut t = table(&["lens before"], &columns);
    for b in &f.blocks {
        let nodes: Vec<String> = b.prob.iter().map(|e| format!("{:.1}", 100.0 * e.value)).collect();
        t.row([
            b.bin.to_string(),
            b.prompts.to_string(),
            b.facts.to_string(),
            nodes.join(" → "),
            of_enough(&b.change),
            b.by_attention.as_ref().map_or_else(dash, of_enough),
            b.by_mlp.as_ref().map_or_else(dash, of_enough),
        ]);
    }
    t.render(colours)
}

fn heads(f: &LastFound, colours: bool) -> String {
    let columns = ["attention to the first token, %", "length", "share of the block, %", "with frequency"];
    let mut t = table(&["head"], &columns);
    let correlation = |r: Option<f64>| r.map_or_else(dash, |r| format!("{r:+.2}"));
    for h in f.blocks.first().map_or(&[][..], |all| &all.heads) {
        t.row([
            h.head.to_string(),
            within(&h.to_first),
            number(&h.norm),
            format!("{:.1}", 100.0 * h.share),
            correlation(h.frequency),
        ]);
    }
    let mut out = t.render(colours);
    for a in &f.alignments {
        out.push_str(&format!(
            "{}: cosine with the average token {}, without the shared direction {}, correlation with frequency {}\n",
            a.what,
            correlation(a.cosine),
            correlation(a.cosine_removed),
            correlation(a.frequency)
        ));
    }
    let (low, high) = f.by_chance;
    format!("{out}correlations of random vectors with frequency: {low:+.2} to {high:+.2}\n")
}

fn repairs(f: &MitigateFound, colours: bool) -> String {
    let columns = [
        "p(Y)",
        "gain",
        "where below 0.1",
        "0.1 to 0.5",
        "above",
        "first, points",
        "log₁₀ rank",
        "p",
        "entropy",
        "perplexity",
        "ECE",
        "Brier",
        "function words, %",
    ];
    let mut t = table(&["repair", ""], &columns);
    for r in &f.repairs {
        let control = if r.is_control { "control" } else { "" };
        let [low, middle, high] =
            r.gain_by_confidence.each_ref().map(|g| g.as_ref().map_or_else(dash, of_enough));
        t.row([
            r.name.clone(),
            control.to_owned(),
            format!("{:.1}", 100.0 * r.prob.value),
            within(&r.gain),
            low,
            middle,
            high,
            format!("{:+.1}", 100.0 * r.right.value),
            format!("{:+.2}", r.rank.value),
            format!("{:.4}", r.p_gain),
            format!("{:.2}", r.entropy),
            format!("{:.1}", r.price.perplexity),
            format!("{:.3}", r.price.ece),
            format!("{:.3}", r.price.brier),
            r.price.function_words.map_or_else(dash, |x| format!("{:.1}", 100.0 * x)),
        ]);
    }
    t.render(colours)
}

fn chance(p: Option<f64>) -> String {
    p.map_or_else(dash, |p| format!("{p:.4}"))
}

fn dash() -> String {
    "-".to_owned()
}

fn number(e: &Estimate) -> String {
    format!("{:+.2} [{:+.2}, {:+.2}]", e.value, e.low, e.high)
}
