//! The tables of `overthinking`.

use refocus_study::Verdict;
use refocus_study::overthinking::{Comparison, Defect, Estimate, SettingSummary};

use super::overthinking::Document;
use crate::table::{Side, Table};

/// Task by task what false demonstrations cost and where, what ways to answer get back, and what holds.
pub(super) fn tables(document: &Document, colours: bool) -> String {
    let mut out = gaps(document, colours);
    out.push('\n');
    out.push_str(&ways(document, colours));
    out.push('\n');
    if let Some(heads) = chosen_heads(document, colours) {
        out.push_str(&heads);
        out.push('\n');
    }
    out.push_str(&judged(document, colours));
    if let Some(theirs) = &document.published {
        out.push('\n');
        out.push_str(&beside(theirs, colours));
    }
    if !document.patches.is_empty() {
        out.push_str(&format!(
            "\nPatch files, each with what it gains and costs: {}\n",
            document.patches.join(", ")
        ));
    }
    out
}

fn beside(theirs: &Comparison, colours: bool) -> String {
    let mut table = Table::new(&[
        ("task", Side::Left),
        ("setting", Side::Left),
        ("number", Side::Left),
        ("here", Side::Right),
        ("published", Side::Right),
        ("difference", Side::Right),
        ("noise", Side::Right),
    ]);
    for n in &theirs.numbers {
        let layer = n.number.ends_with("layer");
        let show = |x: f64| if layer { format!("{x}") } else { share(x) };
        table.row([
            n.task.clone(),
            n.setting.clone(),
            n.number.replace('_', " "),
            show(n.here),
            show(n.published),
            if layer { format!("{:+}", n.here - n.published) } else { signed(n.here - n.published) },
            n.band.map_or_else(|| "-".to_owned(), |b| format!("±{}", show(b))),
        ]);
    }
    let protocol = if theirs.same_protocol {
        String::new()
    } else {
        format!(
            " The run is not of the same protocol, which has {} pairs, {} demonstrations and paper mode.",
            theirs.pairs, theirs.demos
        )
    };
    format!(
        "{}\nFigures published for {}, beside this run; noise: how far two runs differ at most in 95 % of \
         cases.{protocol}\n",
        table.render(colours),
        theirs.of,
    )
}

/// Task, setting and numbers of every part of the run.
pub(super) fn each(document: &Document) -> impl Iterator<Item = (&str, &str, &SettingSummary)> {
    document.tasks.iter().flat_map(|(t, settings)| settings.iter().map(move |(s, x)| (&t[..], &s[..], x)))
}

fn gaps(document: &Document, colours: bool) -> String {
    let mut table = Table::new(&[
        ("task", Side::Left),
        ("setting", Side::Left),
        ("pairs", Side::Right),
        ("chance", Side::Right),
        ("zero-shot", Side::Right),
        ("TP", Side::Right),
        ("FP", Side::Right),
        ("gap", Side::Right),
        ("critical", Side::Right),
        ("shown", Side::Right),
        ("other", Side::Right),
        ("the model", Side::Left),
    ]);
    let last = |grid: &[Vec<f64>]| grid.last().and_then(|r| r.last()).copied().unwrap_or(f64::NAN);
    let critical = |at: Option<usize>, all: &[refocus_study::overthinking::Critical]| match (
        at,
        all.iter().find(|c| c.share == 0.5),
    ) {
        (Some(layer), Some(c)) => format!("{layer} [{}, {}]", c.low, c.high),
        _ => "-".to_owned(),
    };
    for (task, setting, s) in each(document) {
        table.row([
            task.to_owned(),
            setting.to_owned(),
            s.pairs.to_string(),
            share(s.chance),
            share(s.zero_shot.value),
            share(last(&s.curves.tp)),
            share(last(&s.curves.fp)),
            estimate(&s.gap),
            critical(s.critical_layer(), &s.critical),
            share(last(&s.predictions.plain.shown_on_false)),
            share(last(&s.predictions.plain.other_on_false)),
            s.behaviour.words().to_owned(),
        ]);
    }
    for m in &document.means {
        for g in m.groups.iter().filter(|g| g.tasks.len() > 1) {
            let at = g.critical.iter().find(|c| c.share == 0.5).map(|c| c.layer);
            table.row([
                format!("mean of {} tasks", g.tasks.len()),
                m.setting.clone(),
                g.gap.n.to_string(),
                share(g.chance),
                share(g.zero_shot.value),
                share(g.tp.value),
                share(g.fp.value),
                estimate(&g.gap),
                critical(at, &g.critical),
                String::new(),
                String::new(),
                g.group.to_owned(),
            ]);
        }
    }
    let numbers: Vec<String> = document.defects.iter().map(|d: Defect| d.words().to_owned()).collect();
    let defects = if numbers.is_empty() {
        String::new()
    } else {
        format!("As in the released code, {}.\n", numbers.join("; "))
    };
    format!(
        "{}\nCalibrated accuracy at the last demonstration with true (TP) and false (FP) ones before it, after the \
         last of {} layers;\nintervals have 95 %. critical: the first layer with half of the gap, where the gap's \
         interval lies above 0. shown, other:\nhow often the false label or a third one is predicted. The model \
         resists (FP above chance and no gap), wavers (a gap),\nguesses (FP at chance) or errs (below).\n{defects}",
        table.render(colours),
        document.n_layers,
    )
}

/// Heads by themselves are on the page and in the summary, and not in the tables of the terminal.
fn of_one_head(name: &str) -> bool {
    name.starts_with("head_")
}

fn ways(document: &Document, colours: bool) -> String {
    let mut table = Table::new(&[
        ("task", Side::Left),
        ("setting", Side::Left),
        ("answering by", Side::Left),
        ("chosen", Side::Left),
        ("TP", Side::Right),
        ("FP", Side::Right),
        ("balanced", Side::Right),
        ("FP gain", Side::Right),
        ("balanced gain", Side::Right),
        ("p", Side::Right),
    ]);
    let p = |p: Option<f64>| p.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}"));
    let choice = |c: &Option<refocus_study::overthinking::Chosen>| {
        c.as_ref().map_or_else(|| "-".to_owned(), |c| format!("{} {}", c.what, c.value))
    };
    // Both kinds have fields of the same names.
    macro_rules! row {
        ($task:expr, $setting:expr, $m:expr) => {
            table.row([
                $task.to_owned(),
                $setting.to_owned(),
                $m.name.replace('_', " "),
                choice(&$m.chosen),
                share($m.tp),
                share($m.fp),
                share($m.balanced),
                estimate(&$m.fp_gain),
                estimate(&$m.balanced_gain),
                p($m.p_balanced_holm),
            ])
        };
    }
    for (task, setting, s) in each(document) {
        for m in s.mitigations.iter().filter(|m| !of_one_head(&m.name)) {
            row!(task, setting, m);
        }
    }
    for means in &document.means {
        for g in means.groups.iter().filter(|g| g.tasks.len() > 1) {
            for m in g.mitigations.iter().filter(|m| !of_one_head(&m.name)) {
                row!(format!("mean of {} tasks ({})", g.tasks.len(), g.group), means.setting, m);
            }
        }
    }
    let first = each(document).find_map(|(_, _, s)| s.mitigations.first());
    let Some(first) = first else {
        return "Ways to answer need at least four pairs.\n".to_owned();
    };
    format!(
        "{}\nMeasured on {}; what is chosen is chosen on {}. Gains are over the last layer. balanced: (TP + FP)/2; \
         p: paired test\nof its gain after Holm's correction over everything tried. Late parts begin at the critical layer \
         of all pairs.\n",
        table.render(colours),
        first.measured_on,
        if first.measured_on == "all pairs" { "the same" } else { "the others" },
    )
}

/// Which heads were chosen, and what removing them does beside removing random ones.
fn chosen_heads(document: &Document, colours: bool) -> Option<String> {
    let mut table = Table::new(&[
        ("task", Side::Left),
        ("setting", Side::Left),
        ("heads", Side::Left),
        ("chosen on", Side::Left),
        ("removed by", Side::Left),
        ("FP gain", Side::Right),
        ("random", Side::Right),
        ("as good", Side::Right),
        ("late from", Side::Right),
    ]);
    let mut any = false;
    for (task, setting, s) in each(document) {
        let Some(inside) = &s.inside else { continue };
        any = true;
        let heads: Vec<String> =
            inside.chosen.heads.iter().map(|h| format!("{}.{}", h.layer, h.head)).collect();
        let on = format!("{} of {} ({})", inside.chosen.on, inside.chosen.task, inside.chosen.setting);
        let late = inside.late_from.map_or_else(|| "-".to_owned(), |b| format!("block {b}"));
        let row = |how: &str, gain: String, random: String, good: String| {
            let text = [task, setting, &heads.join(" "), &on, how].map(str::to_owned);
            let numbers = [gain, random, good, late.clone()];
            let [a, b, c, d, e] = text;
            let [f, g, h, i] = numbers;
            [a, b, c, d, e, f, g, h, i]
        };
        if inside.against_random.is_empty() {
            let none = || "-".to_owned();
            table.row(row("-", none(), none(), none()));
        }
        for beside in &inside.against_random {
            let r = &beside.found;
            let own = s.mitigations.iter().find(|m| m.family == "heads" && m.how == Some(beside.how));
            table.row(row(
                &format!("{:?}", beside.how).to_lowercase(),
                own.map_or_else(|| "-".to_owned(), |m| signed(m.fp_gain.value)),
                format!("{} ± {}", signed(r.fp_change.mean), share(r.fp_change.sd)),
                format!("{:.0} of {}", r.as_good * r.draws as f64, r.draws),
            ));
        }
    }
    any.then(|| {
        format!(
            "{}\nHeads (block.head) with the highest prefix-matching scores. random: the gain with as many random \
             heads, mean and\nstandard deviation over draws; as good: draws that gain at least as much. late from: \
             where late attention and MLPs begin.\n",
            table.render(colours)
        )
    })
}

fn judged(document: &Document, colours: bool) -> String {
    let mut table = Table::new(&[
        ("task", Side::Left),
        ("setting", Side::Left),
        ("claim", Side::Left),
        ("verdict", Side::Left),
        ("by", Side::Right),
        ("pairs", Side::Right),
    ]);
    let mut untested = 0;
    for c in &document.claims {
        let Some(effect) = &c.effect else {
            untested += 1;
            continue;
        };
        table.row([
            c.task.clone().unwrap_or_else(|| "mean".to_owned()),
            c.setting.clone().unwrap_or_default(),
            c.claim.to_owned(),
            match c.verdict {
                Verdict::Conditional => "conditional: tasks it knows".to_owned(),
                v => v.name().to_owned(),
            },
            estimate(&effect.estimate),
            c.n.to_string(),
        ]);
    }
    format!(
        "{}\n{untested} more claims cannot be tested here: there is no gap, or their part was not measured.\n",
        table.render(colours)
    )
}

fn share(x: f64) -> String {
    format!("{x:.3}")
}

fn estimate(e: &Estimate) -> String {
    format!("{} [{}, {}]", signed(e.value), signed(e.low), signed(e.high))
}

/// With its sign; what rounds to nothing has no minus.
fn signed(x: f64) -> String {
    let text = format!("{x:+.3}");
    if text == "-0.000" { "+0.000".to_owned() } else { text }
}
