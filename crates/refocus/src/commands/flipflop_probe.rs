//! `flipflop probe`.

use std::path::Path;

use refocus_compute::Eager;
use refocus_measure::intervals::wilson;
use refocus_measure::probe::{Answer, Grown, Question};
use refocus_model::{Model, ModelSpec, Tokenizer};
use refocus_study::flipflop::probe::{Asked, Form, Put, questions};
use refocus_tasks::flipflop::{DEMONSTRATION, FlipFlop, WORDINGS};
use serde::{Deserialize, Serialize};

use super::{Ended, flipflop_probe_server};
use crate::cli::{FlipflopProbe, Global, ProbeForm};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Side, Table};
use crate::{backend, model_arg, output};

const SCHEMA: &str = "refocus.flipflop-probe/1";
/// Tokens of a batch, where one string has not more.
const BATCH: usize = 2048;
/// How a server answered that tells no log-probabilities.
pub(super) const BY_WORDS: &str = "words";

/// What the numbers depend on. A file with others is another measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    fingerprint: String,
    seed: u64,
    count: u32,
    lengths: Vec<usize>,
    p_ignore: Vec<f64>,
    forms: Vec<String>,
    wording: String,
    demonstration: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    schema: String,
    model: String,
    settings: Settings,
    pub(super) points: Vec<Point>,
    pub(super) skipped: Vec<Skipped>,
}

/// A form, length and probability.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Point {
    form: String,
    length: usize,
    p_ignore: f64,
    strings: u64,
    right: u64,
    accuracy: f64,
    /// Wilson, 95 %.
    interval: [f64; 2],
    copy_last: f64,
    majority: f64,
    rule: f64,
    /// Mean of the log-probability of the right answer minus that of the wrong one, nats; nothing where none is known.
    margin: Option<f64>,
    /// Tokens of the answers 0 and 1 that are scored, by those of the first string.
    answers: [Vec<u32>; 2],
    answer_tokens: [Vec<String>; 2],
    /// Nothing of a model behind a server.
    attention: Vec<Attention>,
    /// What a server told; nothing of a model here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    told: Option<Told>,
}

/// How a server answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// `log_probabilities` or `words`.
    pub(super) by: String,
    /// Strings of which both answers' log-probabilities are known.
    pub(super) margins: u64,
    /// Strings of which neither answer is the likelier for sure, or is written; they count as wrong.
    pub(super) undecided: u64,
}

/// Attention on the last write, over some strings of a point.
#[derive(Debug, Serialize, Deserialize)]
struct Attention {
    /// `all`, `right`, `wrong`: by the model's answer.
    of: String,
    strings: u64,
    /// Over strings, layers and heads.
    mean: f64,
    /// The head that attends most on average.
    head: String,
    head_mean: f64,
    /// `[layers][heads]`, means over strings.
    heads: Vec<Vec<f64>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Skipped {
    form: String,
    length: usize,
    p_ignore: f64,
    why: String,
}

impl From<ProbeForm> for Form {
    fn from(form: ProbeForm) -> Self {
        match form {
            ProbeForm::Demonstration => Form::Demonstration,
            ProbeForm::Words => Form::Words,
            ProbeForm::Symbols => Form::Symbols,
        }
    }
}

/// A form, length and probability, with its language.
pub(super) type Cell = (ProbeForm, usize, f64, FlipFlop);

/// Runs the command.
pub(super) fn run(args: &FlipflopProbe, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let mut grid: Vec<Cell> = Vec::new();
    for &form in &args.forms {
        for &length in &args.lengths {
            for &p in &args.p_ignore {
                let language = FlipFlop::ignoring(length, p)?;
                if grid.iter().any(|(f, l, q, _)| (*f, *l, *q) == (form, length, p)) {
                    let text = format!("{}, length {length}, p {p} is asked for twice", form.name());
                    return Err(Failure::new(text));
                }
                grid.push((form, length, p, language));
            }
        }
    }
    if let Some(url) = &args.upstream.server.upstream {
        return flipflop_probe_server::run(args, url, grid, global, printer);
    }
    let checkpoint = model_arg::open(args.model.as_deref(), printer)?;
    let tokenizer = checkpoint.tokenizer().map_err(|e| {
        Failure::from(e).hint("the probe asks in text: it needs a model that brings its tokenizer")
    })?;
    let model = model_arg::shown(&checkpoint);
    let (mut document, grid) = begun(args, model, checkpoint.fingerprint()?, grid, global.seed)?;
    let mut todo = Vec::new();
    for (form, length, p, language) in grid {
        let asked = questions(&tokenizer, form.into(), &language, args.count, global.seed)?;
        match too_long(&asked, checkpoint.spec()) {
            Some(why) => {
                printer.note(&format!("skipped {}, length {length}, p {p}: {why}", form.name()));
                document.skipped.push(Skipped::new((form, length, p), why));
            }
            None => todo.push((form, length, p, asked)),
        }
    }
    if todo.is_empty() && document.points.is_empty() {
        return Err(Failure::new("no point fits into the model's context").hint("give shorter --lengths"));
    }
    document.tell_kept(args.out.as_deref(), printer);
    if !todo.is_empty() {
        let mut cpu = backend::cpu(global, printer)?;
        let model = Model::load(&checkpoint, &mut cpu)?;
        let o = &mut Eager::new(cpu);
        let bar = printer.count_bar(0);
        let wholes = alike(todo);
        let sets = |whole: &[Row]| -> Vec<Vec<Question>> {
            whole.iter().map(|r| r.3.iter().map(|a| a.question.clone()).collect()).collect()
        };
        let tokens = |whole: &Vec<Row>| Grown(&slices(&sets(whole))).tokens();
        bar.set_length(wholes.iter().map(tokens).sum());
        for whole in wholes {
            let (form, _, p, _) = &whole[0];
            bar.set_message(format!("{}, p {p}: tokens", form.name()));
            let sets = sets(&whole);
            let answers = Grown(&slices(&sets)).ask(o, &model, BATCH, &mut |n| bar.inc(n))?;
            for ((form, length, p, asked), answers) in whole.into_iter().zip(answers) {
                document.points.push(point((form, length, p), &asked, &answers, &model.spec, &tokenizer));
            }
            document.sort();
            document.keep(args.out.as_deref())?;
        }
        bar.finish_and_clear();
    }
    document.show(printer)
}

/// The document with the points that are in the file of `--out` already, and the cells that are not.
pub(super) fn begun(
    args: &FlipflopProbe,
    model: String,
    fingerprint: String,
    mut grid: Vec<Cell>,
    seed: u64,
) -> Outcome<(Document, Vec<Cell>)> {
    let settings = Settings {
        fingerprint,
        seed,
        count: args.count,
        lengths: args.lengths.clone(),
        p_ignore: args.p_ignore.clone(),
        forms: args.forms.iter().map(|f| f.name().to_owned()).collect(),
        wording: WORDINGS[0].name.to_owned(),
        demonstration: DEMONSTRATION,
    };
    let points = match &args.out {
        Some(path) => output::kept(path, SCHEMA, "flipflop probe", &settings)?
            .map_or_else(Vec::new, |d: Document| d.points),
        None => Vec::new(),
    };
    let is_done = |cell: &Cell| {
        let is = |d: &Point| (d.form.as_str(), d.length, d.p_ignore) == (cell.0.name(), cell.1, cell.2);
        points.iter().any(is)
    };
    grid.retain(|cell| !is_done(cell));
    Ok((Document { schema: SCHEMA.to_owned(), model, settings, points, skipped: Vec::new() }, grid))
}

impl Document {
    pub(super) fn tell_kept(&self, out: Option<&Path>, printer: &Printer) {
        if let (Some(path), false) = (out, self.points.is_empty()) {
            printer.note(&format!("{}: {} points are there already", path.display(), self.points.len()));
        }
    }

    /// In the order of the grid.
    fn sort(&mut self) {
        let s = &self.settings;
        let place = |p: &Point| {
            let form = s.forms.iter().position(|f| *f == p.form);
            let length = s.lengths.iter().position(|l| *l == p.length);
            (form, length, s.p_ignore.iter().position(|q| *q == p.p_ignore))
        };
        self.points.sort_by_key(place);
    }

    pub(super) fn keep(&self, out: Option<&Path>) -> Outcome<()> {
        let Some(path) = out else { return Ok(()) };
        // Another run may have begun there meanwhile; what it did is not overwritten.
        output::kept::<Self>(path, SCHEMA, "flipflop probe", &self.settings)?;
        output::write_document(path, self)
    }

    pub(super) fn show(&self, printer: &Printer) -> Outcome<Ended> {
        if printer.is_json() {
            printer.document(self)?;
        } else {
            printer.text(&shown(self, printer.colours()))?;
        }
        Ok(Ended::Well)
    }
}

impl Point {
    pub(super) fn with(self, told: Told) -> Self {
        Self { told: Some(told), ..self }
    }
}

impl Skipped {
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    pub(super) fn new((form, length, p_ignore): (ProbeForm, usize, f64), why: String) -> Self {
        Self { form: form.name().to_owned(), length, p_ignore, why }
    }
}

fn too_long(asked: &[Asked], spec: &ModelSpec) -> Option<String> {
    let longest = asked.iter().map(|a| a.question.longest()).max().unwrap_or(0);
    (!spec.fits(longest))
        .then(|| format!("the longest text has {longest} tokens, the context {}", spec.n_ctx))
}

/// A form, length and probability with its questions.
type Row = (ProbeForm, usize, f64, Vec<Asked>);

/// Rows that differ in length alone, the shortest first: their strings begin alike.
fn alike(mut rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut out: Vec<Vec<Row>> = Vec::new();
    rows.sort_by_key(|r| r.1);
    for row in rows {
        match out.iter_mut().find(|whole| (whole[0].0, whole[0].2) == (row.0, row.2)) {
            Some(whole) => whole.push(row),
            None => out.push(vec![row]),
        }
    }
    out
}

fn slices(sets: &[Vec<Question>]) -> Vec<&[Question]> {
    sets.iter().map(Vec::as_slice).collect()
}

/// Six decimals: they are read from a file as they were written.
fn rounded(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

/// A point without what only a model here tells.
pub(super) fn counted(
    (form, length, p_ignore): (ProbeForm, usize, f64),
    put: &[&Put],
    right: u64,
    margin: Option<f64>,
) -> Point {
    let n = put.len() as u64;
    let share = |k: u64| rounded(k as f64 / n.max(1) as f64);
    let count = |f: &dyn Fn(&&&Put) -> bool| put.iter().filter(f).count() as u64;
    let ones = count(&|a| a.bit == 1);
    Point {
        form: form.name().to_owned(),
        length,
        p_ignore,
        strings: n,
        right,
        accuracy: share(right),
        interval: wilson(right, n).map_or([0.0, 1.0], |i| [rounded(i.low), rounded(i.high)]),
        copy_last: share(count(&|a| a.copy_last)),
        majority: share(ones.max(n - ones)),
        rule: share(count(&|a| a.rule)),
        margin: margin.map(rounded),
        answers: [Vec::new(), Vec::new()],
        answer_tokens: [Vec::new(), Vec::new()],
        attention: Vec::new(),
        told: None,
    }
}

fn point(
    cell: (ProbeForm, usize, f64),
    asked: &[Asked],
    answers: &[Answer],
    spec: &ModelSpec,
    tokenizer: &Tokenizer,
) -> Point {
    let is_right = |a: &&Answer| a.margin() > 0.0;
    let right = answers.iter().filter(is_right).count() as u64;
    let mut ids = [Vec::new(), Vec::new()];
    if let Some(first) = asked.first() {
        let (q, bit) = (&first.question, first.put.bit as usize);
        let scored = |ids: &[u32]| if q.parts_at_once() { ids[..1].to_vec() } else { ids.to_vec() };
        ids[bit] = scored(&q.right);
        ids[1 - bit] = scored(&q.wrong);
    }
    let of = |name: &str, some: Vec<&Answer>| attention(name, &some, spec);
    let put: Vec<&Put> = asked.iter().map(|a| &a.put).collect();
    let margin = answers.iter().map(|a| f64::from(a.margin())).sum::<f64>() / asked.len() as f64;
    Point {
        answer_tokens: ids.clone().map(|ids| ids.iter().map(|&id| tokenizer.token(id)).collect()),
        answers: ids,
        attention: vec![
            of("all", answers.iter().collect()),
            of("right", answers.iter().filter(is_right).collect()),
            of("wrong", answers.iter().filter(|a| !is_right(a)).collect()),
        ],
        ..counted(cell, &put, right, Some(margin))
    }
}

fn attention(of: &str, answers: &[&Answer], spec: &ModelSpec) -> Attention {
    let heads = spec.n_heads;
    let mut sums = vec![0.0f64; if answers.is_empty() { 0 } else { spec.n_layers * heads }];
    for a in answers {
        for (sum, &x) in sums.iter_mut().zip(&a.mass) {
            *sum += f64::from(x);
        }
    }
    let n = answers.len().max(1) as f64;
    let means: Vec<f64> = sums.iter().map(|s| rounded(s / n)).collect();
    let best = (0..means.len()).reduce(|b, i| if means[i] > means[b] { i } else { b });
    Attention {
        of: of.to_owned(),
        strings: answers.len() as u64,
        mean: rounded(sums.iter().sum::<f64>() / n / sums.len().max(1) as f64),
        head: best.map_or_else(String::new, |i| format!("{}.{}", i / heads, i % heads)),
        head_mean: best.map_or(0.0, |i| means[i]),
        heads: means.chunks(heads).map(<[f64]>::to_vec).collect(),
    }
}

/// For people.
fn shown(document: &Document, colour: bool) -> String {
    let columns = ["T", "p_i", "strings", "accuracy", "95 %", "copy-last", "majority", "rule", "margin"];
    let attention = ["attention", "top head", "its mass", "right", "wrong"];
    let mut head = vec![("form", Side::Left)];
    head.extend(columns.into_iter().chain(attention).map(|c| (c, Side::Right)));
    let mut table = Table::new(&head);
    for p in &document.points {
        let mass = |i: usize| p.attention.get(i).filter(|a| a.strings > 0);
        let mean = |i: usize| mass(i).map_or_else(|| "-".to_owned(), |a| format!("{:.4}", a.mean));
        table.row([
            p.form.clone(),
            p.length.to_string(),
            p.p_ignore.to_string(),
            p.strings.to_string(),
            format!("{:.3}", p.accuracy),
            format!("{:.3}–{:.3}", p.interval[0], p.interval[1]),
            format!("{:.3}", p.copy_last),
            format!("{:.3}", p.majority),
            format!("{:.3}", p.rule),
            p.margin.map_or_else(|| "-".to_owned(), |m| format!("{m:+.3}")),
            mean(0),
            mass(0).map_or_else(String::new, |a| a.head.clone()),
            mass(0).map_or_else(String::new, |a| format!("{:.3}", a.head_mean)),
            mean(1),
            mean(2),
        ]);
    }
    let mut text = table.render(colour);
    let is_local = document.points.iter().any(|p| p.told.is_none());
    if is_local {
        text.push_str(
            "\nattention: mass on the last write's word, mean over heads; right, wrong: the same by answer\n",
        );
    }
    let mut said = Vec::new();
    for p in document.points.iter().filter(|p| p.told.is_none()) {
        if !said.contains(&&p.form) {
            said.push(&p.form);
            let [zero, one] = p.answer_tokens.clone().map(|t| format!("{t:?}"));
            text.push_str(&format!("{}: {zero} against {one}, raw text\n", p.form));
        }
    }
    for p in document.points.iter() {
        let Some(told) = &p.told else { continue };
        let by = if told.by == BY_WORDS { "in words" } else { "by log-probabilities" };
        text.push_str(&format!(
            "{}{}, length {}, p {}: answered {by}, {} undecided, {} margins known\n",
            if said.is_empty() { "\n" } else { "" },
            p.form,
            p.length,
            p.p_ignore,
            told.undecided,
            told.margins
        ));
        said.push(&p.form);
    }
    text
}
