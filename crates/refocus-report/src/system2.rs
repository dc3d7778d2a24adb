//! The page of an evaluation of System 2 Attention.

use refocus_results::StoredRun;
use refocus_results::system2::{Arm, Group, Judged, Rewriting, Span, Suite};

use crate::chart::{Dot, DotChart, DotRow, Format, Tone};
use crate::view::{Cell, Figure, Fold, Grid, Head, Part};
use crate::words::{both, class, count, joined, order, percent};
use crate::{ReportError, RunSection};

/// Sections for the tables that are there.
pub(crate) fn sections(run: &StoredRun) -> Result<Vec<RunSection>, ReportError> {
    let Some(suites) = run.rows::<Suite>()? else { return Ok(Vec::new()) };
    let arms: Vec<Arm> = run.rows()?.unwrap_or_default();
    let rewritings: Vec<Rewriting> = run.rows()?.unwrap_or_default();
    let groups: Vec<Group> = run.rows()?.unwrap_or_default();
    let spans: Vec<Span> = run.rows()?.unwrap_or_default();
    let judged: Vec<Judged> = run.rows()?.unwrap_or_default();
    let mut all = vec![summary(&suites, &arms)];
    if !suites.is_empty() {
        all.push(by_suite(&suites, &arms, &groups));
    }
    if !rewritings.is_empty() {
        all.push(RunSection {
            id: "rewriting",
            title: "What the rewriting did".to_owned(),
            lead: "Pieces that are gone, where it is known what should go and what should stay. Where a prompt has nothing \
                   but what was planted beside the question, what removes blindly looks as good as what judges. Intervals are \
                   as of so many cases as there are prompts (facts, arguments)."
                .to_owned(),
            parts: vec![Part::Grid(removed(&suites, &rewritings))],
        });
    }
    if !spans.is_empty() {
        all.push(RunSection {
            id: "attention",
            title: "Attention to what does not matter".to_owned(),
            lead: "The suite spurious from inside: how much of the last token's attention goes to sentences that name \
                   another answer, mean over all heads, and what is left of it after each rewriting. With block_edge \
                   nothing is rewritten, and no position can see those sentences."
                .to_owned(),
            parts: vec![Part::Grid(looked(&spans))],
        });
    }
    if !judged.is_empty() {
        all.push(RunSection {
            id: "judged",
            title: "Arguments, by a judge".to_owned(),
            lead: "Another model read what was written of each argument without the comment, in both orders. Objectivity is 5 \
                   less the absolute sentiment."
                .to_owned(),
            parts: vec![Part::Grid(by_a_judge(&judged))],
        });
    }
    Ok(all)
}

fn summary(suites: &[Suite], arms: &[Arm]) -> RunSection {
    let mut said: Vec<String> = suites.iter().map(|s| sentence(s, arms)).collect();
    if said.is_empty() {
        said.push("No suite was asked far enough to be counted.".to_owned());
    }
    let mut parts = vec![Part::List(said)];
    let names = order(arms.iter().filter(|a| a.verdict.is_some()).map(|a| a.arm.as_str()));
    if !names.is_empty() {
        parts.push(Part::Grid(verdicts(suites, arms, &names)));
    }
    RunSection {
        id: "summary",
        title: "In short".to_owned(),
        lead: "Whether a model that first rewrites its context answers better than on the prompt as it is, beside the \
               prompt without what was planted (oracle), a word of warning and thinking first."
            .to_owned(),
        parts,
    }
}

/// Nothing is said that no verdict carries.
fn sentence(s: &Suite, arms: &[Arm]) -> String {
    let name = format!("{}, {}", s.suite, s.about);
    let stopped = if s.unfinished { " It was stopped before its end." } else { "" };
    if let Some(why) = &s.why {
        return format!("{name}: nothing can be tested ({why}).{stopped}");
    }
    let judged =
        || arms.iter().filter(|a| a.suite == s.suite).filter_map(|a| Some((a, a.verdict.as_deref()?)));
    let of = |verdict: &str| -> Vec<String> {
        judged().filter(|(_, v)| *v == verdict).map(|(a, _)| a.arm.clone()).collect()
    };
    let helps = if s.suite == "harm" { "leave alone what is needed" } else { "help" };
    let told = [("holds", helps.to_owned()), ("does not hold", format!("do not {helps}"))];
    let mut parts: Vec<String> = told
        .into_iter()
        .map(|(verdict, does)| (of(verdict), does))
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, does)| format!("{does}: {}", joined(&names)))
        .collect();
    let open = of("cannot be tested").len();
    if open > 0 {
        parts.push(format!("of {} it cannot be told", count(open, "arm")));
    }
    let parts = if parts.is_empty() { "no arm was judged".to_owned() } else { parts.join("; ") };
    format!("{name}: {parts}.{stopped}")
}

fn tone(verdict: &str) -> &'static str {
    match verdict {
        "holds" => "good",
        "does not hold" => "bad",
        _ => "soft",
    }
}

fn verdict_cell(verdict: Option<&String>) -> Cell {
    let text = verdict.cloned().unwrap_or_default();
    Cell { class: tone(&text), text }
}

fn verdicts(suites: &[Suite], arms: &[Arm], names: &[&str]) -> Grid {
    let row = |name: &&str| {
        let of = |s: &Suite| {
            let found = arms.iter().find(|a| a.suite == s.suite && a.arm == *name);
            verdict_cell(found.and_then(|a| a.verdict.as_ref()))
        };
        std::iter::once(Cell::text(*name)).chain(suites.iter().map(of)).collect()
    };
    let head = std::iter::once(Head::text("arm"));
    Grid {
        caption: "Does the arm help? On harm: does it leave alone what is needed?".to_owned(),
        head: head.chain(suites.iter().map(|s| Head::text(s.suite.clone()))).collect(),
        rows: names.iter().map(row).collect(),
    }
}

/// Numbers that are shares are written as such.
fn format(s: &Suite) -> Format {
    if s.measured.starts_with("share") { Format::Percent } else { Format::Plain }
}

/// A number with its interval; a dash where there is none.
fn interval(format: Format, value: Option<f64>, ends: Option<(f64, f64)>) -> String {
    let Some(value) = value else { return "–".to_owned() };
    let ends = ends.map(|(low, high)| format!(" [{}, {}]", format.value(low), format.value(high)));
    format!("{}{}", format.value(value), ends.unwrap_or_default())
}

/// The same of a difference, coloured by its interval.
fn gain(format: Format, value: Option<f64>, ends: Option<(f64, f64)>) -> Cell {
    let Some(value) = value else { return Cell::number("–") };
    let d = |x| format.difference(x);
    let told = ends.map(|(low, high)| format!(" [{}, {}]", d(low), d(high))).unwrap_or_default();
    Cell { text: format!("{}{told}", d(value)), class: class(ends) }
}

fn by_suite(suites: &[Suite], arms: &[Arm], groups: &[Group]) -> RunSection {
    let mut parts = Vec::new();
    for s in suites {
        let of: Vec<&Arm> = arms.iter().filter(|a| a.suite == s.suite).collect();
        let chance = s.chance.map(|c| format!(" Guessing gets {}.", percent(c))).unwrap_or_default();
        parts.push(Part::Heading(s.suite.clone()));
        parts.push(Part::Text(format!(
            "{}; {}, {} of them in the headline. The number is {}.{chance}{}",
            s.about,
            count(usize::try_from(s.items).unwrap_or(0), "item"),
            s.headline,
            s.measured,
            left_out(s, &of)
        )));
        parts.extend(s.why.iter().map(|why| Part::Text(format!("Nothing can be tested here: {why}."))));
        parts.extend(values(s, &of).map(|f| Part::Figures(vec![f])));
        parts.push(Part::Grid(numbers(s, &of)));
        let groups: Vec<&Group> = groups.iter().filter(|g| g.suite == s.suite).collect();
        if order(groups.iter().map(|g| g.group.as_str())).len() > 1 {
            let title = format!("{}, by group of items", s.suite);
            parts.push(Part::Fold(Fold { title, figures: Vec::new(), grids: vec![grouped(s, &groups)] }));
        }
    }
    RunSection {
        id: "suites",
        title: "Suite by suite".to_owned(),
        lead: "Gains are over the baseline, item by item; p is that of a paired test after Holm's correction over the arms \
               of the suite."
            .to_owned(),
        parts,
    }
}

/// How many prompts of the suite harm have nothing to rewrite: they have no number in arms that rewrite.
fn left_out(s: &Suite, arms: &[&Arm]) -> String {
    let fewest = arms.iter().map(|a| a.n).min().unwrap_or(s.headline);
    if s.suite != "harm" || fewest >= s.headline {
        return String::new();
    }
    let nothing = s.headline - fewest;
    format!(
        " Arms that rewrite are judged without {nothing} of them, which have nothing to rewrite: no arm can harm those."
    )
}

fn values(s: &Suite, arms: &[&Arm]) -> Option<Figure> {
    let row = |a: &&Arm| {
        let value = a.value?;
        let tone = match a.arm.as_str() {
            "oracle" | "baseline" => Tone::Muted,
            "instructed" | "think" => Tone::Third,
            _ => Tone::True,
        };
        let dots = vec![Dot { tone, value, interval: both(a.low, a.high) }];
        Some(DotRow { name: a.arm.clone(), dots })
    };
    let rows: Vec<DotRow> = arms.iter().filter_map(row).collect();
    if rows.is_empty() {
        return None;
    }
    let named =
        [(Tone::Muted, "oracle, baseline"), (Tone::Third, "not rewritten"), (Tone::True, "rewritten")];
    let there = |t: Tone| rows.iter().flat_map(|r| &r.dots).any(|d| d.tone == t);
    let legend = named.into_iter().filter(|(t, _)| there(*t)).map(|(t, name)| (t, name.to_owned())).collect();
    let caption = format!("{}: {}", s.suite, s.measured);
    let chart = DotChart {
        title: caption.clone(),
        about: "A row for each arm, with its 95 % interval.".to_owned(),
        x: if format(s) == Format::Percent { format!("{}, %", s.measured) } else { s.measured.clone() },
        format: format(s),
        legend,
        rows,
        zero: false,
    };
    Some(Figure { caption, svg: chart.svg(), numbers: None })
}

fn numbers(s: &Suite, arms: &[&Arm]) -> Grid {
    let number = |x: f64, places: usize| Cell::number(format!("{x:.places$}"));
    // What holds for the whole suite is said above the table.
    let why = |text: Option<&String>| Cell { text: text.cloned().unwrap_or_default(), class: "soft" };
    let row = |a: &&Arm| {
        let cells = [
            Cell::text(a.arm.clone()),
            Cell::number(a.n.to_string()),
            Cell::number(interval(format(s), a.value, both(a.low, a.high))),
            gain(format(s), a.gain, both(a.gain_low, a.gain_high)),
            Cell::number(a.p_holm.map_or_else(String::new, |p| format!("{p:.4}"))),
            verdict_cell(a.verdict.as_ref()),
            number(a.prompt_tokens, 0),
            number(a.completion_tokens, 1),
        ];
        cells.into_iter().chain(s.counts.then(|| why(a.why.as_ref()))).collect()
    };
    let first = [Head::text("arm"), Head::number("n"), Head::number("number [interval]")];
    let more = ["gain over baseline", "p (Holm)"].map(Head::number);
    let last = [Head::text("verdict"), Head::number("tokens read"), Head::number("written")];
    let head = first.into_iter().chain(more).chain(last).chain(s.counts.then(|| Head::text("why")));
    Grid {
        caption: format!("{} by arm", s.suite),
        head: head.collect(),
        rows: arms.iter().map(row).collect(),
    }
}

fn grouped(s: &Suite, groups: &[&Group]) -> Grid {
    let rows = groups.iter().map(|g| {
        vec![
            Cell::text(g.group.clone()),
            Cell::text(g.arm.clone()),
            Cell::number(g.n.to_string()),
            Cell::number(interval(format(s), Some(g.value), Some((g.low, g.high)))),
            gain(format(s), g.gain, both(g.gain_low, g.gain_high)),
        ]
    });
    let what = if s.suite == "arguments" { "sway [interval]" } else { "number [interval]" };
    let head = [Head::text("group"), Head::text("arm"), Head::number("n"), Head::number(what)];
    Grid {
        caption: format!("{} by group of items", s.suite),
        head: head.into_iter().chain([Head::number("gain over baseline")]).collect(),
        rows: rows.collect(),
    }
}

fn removed(suites: &[Suite], all: &[Rewriting]) -> Grid {
    let share = |hits: i64, of: i64, value: Option<f64>, ends: Option<(f64, f64)>| {
        let told = interval(Format::Percent, value, ends);
        Cell::number(if value.is_some() { format!("{told}, {hits} of {of}") } else { told })
    };
    let rows = all.iter().map(|r| {
        let judges = suites.iter().any(|s| s.suite == r.suite && s.judges_removal);
        vec![
            Cell::text(r.suite.clone()),
            Cell::text(r.arm.clone()),
            Cell::number(format!("{} of {}", r.applied, r.n)),
            Cell::number(r.parse_failures.to_string()),
            Cell::number(r.guarded.to_string()),
            share(r.planted_gone, r.planted, r.recall, both(r.recall_low, r.recall_high)),
            Cell::number(interval(Format::Percent, r.precision, both(r.precision_low, r.precision_high))),
            share(r.needed_gone, r.needed, r.lost, both(r.lost_low, r.lost_high)),
            Cell { text: if judges { "" } else { "nothing else to lose" }.to_owned(), class: "soft" },
        ]
    });
    let numbers =
        ["used", "not readable", "refused by a guard", "planted gone", "planted of all gone", "needed gone"];
    Grid {
        caption: "Rewrites by suite and arm".to_owned(),
        head: ["suite", "arm"]
            .map(Head::text)
            .into_iter()
            .chain(numbers.map(Head::number))
            .chain([Head::text("")])
            .collect(),
        rows: rows.collect(),
    }
}

fn looked(spans: &[Span]) -> Grid {
    let rows = spans.iter().map(|r| {
        vec![
            Cell::number(r.times.clone()),
            Cell::text(r.way.clone()),
            Cell::number(r.n.to_string()),
            Cell::number(interval(Format::Plain, Some(r.margin), Some((r.low, r.high)))),
            Cell::number(format!("{:.4}", r.mass)),
        ]
    });
    Grid {
        caption: "By how often the other answer is named".to_owned(),
        head: vec![
            Head::number("times"),
            Head::text("way"),
            Head::number("n"),
            Head::number("P(right) − P(other) [interval]"),
            Head::number("attention"),
        ],
        rows: rows.collect(),
    }
}

fn by_a_judge(judged: &[Judged]) -> Grid {
    let rows = judged.iter().map(|a| {
        let plain = |value, low, high| Cell::number(interval(Format::Plain, value, both(low, high)));
        vec![
            Cell::text(a.arm.clone()),
            Cell::number(a.n.to_string()),
            plain(a.quality, a.quality_low, a.quality_high),
            plain(a.sentiment, a.sentiment_low, a.sentiment_high),
            gain(Format::Plain, a.gain, both(a.gain_low, a.gain_high)),
            gain(Format::Percent, a.fall, both(a.fall_low, a.fall_high)),
            Cell::number(a.p_holm.map_or_else(String::new, |p| format!("{p:.4}"))),
            verdict_cell(a.verdict.as_ref()),
            Cell::number(format!("{}, {}", a.unread_quality, a.unread_sentiment)),
        ]
    });
    let numbers = ["n", "quality", "mean |S|", "gain in objectivity", "fall of mean |S|", "p (Holm)"];
    Grid {
        caption: "By arm".to_owned(),
        head: std::iter::once(Head::text("arm"))
            .chain(numbers.map(Head::number))
            .chain([Head::text("verdict"), Head::number("unread")])
            .collect(),
        rows: rows.collect(),
    }
}
