//! `flipflop generate`.

use refocus_tasks::flipflop::{
    Alphabet, Asked, Facts, Family, FlipFlop, Probabilities, Read, Set, Split, Wording,
};
use serde::Serialize;

use super::Ended;
use crate::cli::{FamilyArgs, FlipflopGenerate, Form, Global};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

/// Symbols that one document holds at most.
const DOCUMENT: u64 = 1 << 24;
/// Bytes written at once.
const PART: usize = 1 << 20;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    set: Option<String>,
    family: &'static str,
    parameters: serde_json::Map<String, serde_json::Value>,
    length: usize,
    /// `null` in a mixture.
    p_write: Option<f64>,
    p_read: Option<f64>,
    p_ignore: Option<f64>,
    registers: usize,
    symbols: usize,
    width: usize,
    vocab: usize,
    seed: u64,
    first: u32,
    count: u32,
    form: &'static str,
    strings: Vec<serde_json::Value>,
}

/// With `--facts`, a string and what its reads depend on.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<&'a [u32]>,
    writes: Vec<WriteFacts>,
    reads: Vec<ReadFacts>,
}

#[derive(Serialize)]
struct WriteFacts {
    at: usize,
    register: u32,
    value: u32,
}

#[derive(Serialize)]
struct ReadFacts {
    at: usize,
    answer: u32,
    register: u32,
    value: u32,
    since_write: usize,
    since_either: usize,
    write_at: usize,
    read_at: Option<usize>,
    stale_same: usize,
    stale_other: usize,
    #[serde(flatten)]
    words: Option<Words>,
}

/// The natural form of a read.
#[derive(Serialize)]
struct Words {
    prompt_bytes: usize,
    answer_text: &'static str,
    wrong_text: &'static str,
}

/// Runs the command.
pub(super) fn run(args: &FlipflopGenerate, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let set = args.set.as_deref().and_then(Set::named);
    let language = match set {
        Some(set) => set.language()?,
        None => language(args)?,
    };
    let count = args.count.or(set.map(Set::sequences)).unwrap_or(10);
    if args.first.checked_add(count - 1).is_none() {
        let text = format!("{count} strings from number {} on: the last number is {}", args.first, u32::MAX);
        return Err(Failure::new(text));
    }
    if args.form == Form::Natural && *language.alphabet() != Alphabet::BINARY {
        return Err(Failure::new("the natural form has one light: it needs --registers 1 and --symbols 2"));
    }
    if printer.is_json() && u64::from(count) * language.tokens() as u64 > DOCUMENT {
        let text = format!(
            "{count} strings of {} symbols are too many for one JSON document, which holds {DOCUMENT} symbols",
            language.tokens()
        );
        return Err(Failure::new(text).hint("--facts without --json prints a JSON object a line"));
    }
    let source = Source { language: &language, seed: global.seed, form: args.form, wording: wording(args) };
    let numbers = args.first..=args.first + (count - 1);
    if printer.is_json() {
        let strings = numbers.map(|i| source.value(i, args.facts)).collect::<Outcome<_>>()?;
        return document(args, global, &language, count, strings, printer);
    }
    let mut out = Vec::with_capacity(PART + language.tokens());
    for i in numbers {
        source.line(i, args.facts, &mut out)?;
        out.push(b'\n');
        if out.len() >= PART {
            printer.bytes(&out)?;
            out.clear();
        }
    }
    printer.bytes(&out)?;
    Ok(Ended::Well)
}

/// The language that the flags say.
fn language(args: &FlipflopGenerate) -> Outcome<FlipFlop> {
    let (symbols, width) = args.symbols;
    let alphabet = Alphabet::new(args.registers, symbols, width)?;
    let family = family(&args.family)?;
    let probabilities = match &family {
        Family::Mixture { parts } => {
            let given = [args.p_ignore, args.p_write, args.p_read];
            if given.iter().any(Option::is_some) {
                return Err(Failure::new(
                    "a mixture takes its probabilities from --mix, not from --p-ignore",
                ));
            }
            *parts.first().ok_or_else(|| Failure::new("--mix names no probability"))?
        }
        _ => probabilities(args)?,
    };
    let length = args.length.unwrap_or(512);
    Ok(match args.stretch_from {
        None => FlipFlop::of(alphabet, length, probabilities, family)?,
        Some(from) => FlipFlop::of(alphabet, from, probabilities, family)?.stretched(length)?,
    })
}

/// To ignore alone says all, two leave the third.
fn probabilities(args: &FlipflopGenerate) -> Outcome<Probabilities> {
    let [write, read, ignore] = match (args.p_write, args.p_read, args.p_ignore) {
        (None, None, Some(ignore)) => return Ok(Probabilities::ignoring(ignore)?),
        (Some(w), Some(r), Some(i)) => [w, r, i],
        (Some(w), None, Some(i)) => [w, rest(("--p-write", w), ("--p-ignore", i))?, i],
        (None, Some(r), Some(i)) => [rest(("--p-read", r), ("--p-ignore", i))?, r, i],
        (Some(w), Some(r), None) => [w, r, rest(("--p-write", w), ("--p-read", r))?],
        _ => {
            return Err(Failure::new("how often strings read, write and ignore is not given")
                .hint("give --p-ignore P, such as 0.8, or --set NAME"));
        }
    };
    Ok(Probabilities::new(write, read, ignore)?)
}

/// What two probabilities leave. One that is none is refused where all three are.
fn rest((one, a): (&str, f64), (other, b): (&str, f64)) -> Outcome<f64> {
    let left = 1.0 - a - b;
    if left < -1e-9 && a <= 1.0 && b <= 1.0 {
        return Err(Failure::new(format!("{one} {a} and {other} {b} are more than 1 together")));
    }
    // What rounding leaves of nothing is nothing.
    Ok(if left.abs() < 1e-9 { 0.0 } else { left })
}

/// The family that the flags say; flags of other families are refused.
fn family(args: &FamilyArgs) -> Outcome<Family> {
    let name = args.family.as_str();
    let given: [(&str, bool, &[&str]); 8] = [
        ("--mix", !args.mix.is_empty(), &["mixture"]),
        ("--tail-ignore", args.tail_ignore.is_some(), &["piecewise"]),
        ("--tail-from", args.tail_from.is_some(), &["piecewise"]),
        ("--burst", args.burst.is_some(), &["decoy"]),
        ("--gap", args.gap.is_some(), &["decoy"]),
        ("--run", args.run.is_some(), &["read-run"]),
        ("--changes", args.changes.is_some(), &["churn"]),
        ("--rate", args.rate.is_some(), &["write-flip", "anti-correlated", "markov"]),
    ];
    if let Some((flag, _, families)) = given.iter().find(|(_, given, of)| *given && !of.contains(&name)) {
        let text = format!("{flag} belongs to --family {}, not to {name}", families.join(" or "));
        return Err(Failure::new(text));
    }
    let needed = |flag: &str| Failure::new(format!("--family {name} needs {flag}"));
    let rate = || args.rate.ok_or_else(|| needed("--rate P"));
    Ok(match name {
        "mixture" if args.mix.is_empty() => return Err(needed("--mix P,…")),
        "mixture" => Family::mixture(&args.mix)?,
        "piecewise" => Family::Piecewise {
            from: args.tail_from.unwrap_or(0.75),
            tail: Probabilities::ignoring(args.tail_ignore.unwrap_or(0.984))?,
        },
        "decoy" => Family::Decoy { burst: args.burst.unwrap_or(8), gap: args.gap.unwrap_or(8) },
        "read-run" => Family::ReadRun { length: args.run.unwrap_or(4) },
        "churn" => Family::Churn { writes: args.changes.ok_or_else(|| needed("--changes N"))? },
        "write-flip" => Family::WriteFlip { rate: rate()? },
        "anti-correlated" => Family::AntiCorrelated { rate: rate()? },
        "markov" => Family::Markov { rate: rate()? },
        _ => Family::Plain,
    })
}

fn wording(args: &FlipflopGenerate) -> Wording {
    // The flags know no other names.
    Wording::named(&args.wording).unwrap_or(refocus_tasks::flipflop::WORDINGS[0])
}

/// Where strings come from and how they are written.
struct Source<'a> {
    language: &'a FlipFlop,
    seed: u64,
    form: Form,
    wording: Wording,
}

impl Source<'_> {
    fn ids(&self, number: u32) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.language.tokens());
        self.language.append(self.seed, Split::Test, 0, number, &mut ids);
        ids
    }

    /// A line without its end.
    fn line(&self, number: u32, facts: bool, out: &mut Vec<u8>) -> Outcome<()> {
        if facts {
            serde_json::to_writer(out, &self.value(number, true)?)?;
            return Ok(());
        }
        match self.form {
            Form::Text => self.language.append_text(self.seed, Split::Test, 0, number, out)?,
            Form::Natural => {
                out.extend(self.wording.verbalise(&self.ids(number))?.text.as_bytes());
            }
            Form::Ids => {
                for (k, id) in self.ids(number).into_iter().enumerate() {
                    if k > 0 {
                        out.push(b' ');
                    }
                    // At most 322.
                    let digits =
                        [b'0' + (id / 100) as u8, b'0' + (id / 10 % 10) as u8, b'0' + (id % 10) as u8];
                    let from = if id < 10 { 2 } else { usize::from(id < 100) };
                    out.extend(&digits[from..]);
                }
            }
        }
        Ok(())
    }

    /// The string in a document or in a line with facts.
    fn value(&self, number: u32, facts: bool) -> Outcome<serde_json::Value> {
        let ids = self.ids(number);
        let (alphabet, mut asked) = (self.language.alphabet(), Vec::new());
        let text = match self.form {
            Form::Ids => None,
            Form::Text => Some(alphabet.to_text(&ids)?),
            Form::Natural => {
                let v = self.wording.verbalise(&ids)?;
                asked = v.reads;
                Some(v.text)
            }
        };
        if !facts {
            return Ok(match text {
                Some(text) => text.into(),
                None => ids.into(),
            });
        }
        let all = Facts::of(alphabet, &ids)?;
        let write = |w: &refocus_tasks::flipflop::Write| WriteFacts {
            at: w.at,
            register: w.register,
            value: w.value,
        };
        let read = |(i, r): (usize, &Read)| read_facts(r, asked.get(i));
        let line = Line {
            text: text.as_deref(),
            ids: text.is_none().then_some(&ids),
            writes: all.writes.iter().map(write).collect(),
            reads: all.reads.iter().enumerate().map(read).collect(),
        };
        Ok(serde_json::to_value(line)?)
    }
}

fn read_facts(r: &Read, asked: Option<&Asked>) -> ReadFacts {
    let words = |a: &Asked| Words { prompt_bytes: a.end, answer_text: a.answer, wrong_text: a.wrong };
    ReadFacts {
        at: r.at,
        answer: r.answer,
        register: r.register,
        value: r.value,
        since_write: r.since_write,
        since_either: r.since_either,
        write_at: r.write_at,
        read_at: r.read_at,
        stale_same: r.stale_same,
        stale_other: r.stale_other,
        words: asked.map(words),
    }
}

fn document(
    args: &FlipflopGenerate,
    global: &Global,
    language: &FlipFlop,
    count: u32,
    strings: Vec<serde_json::Value>,
    printer: &Printer,
) -> Outcome<Ended> {
    let alphabet = language.alphabet();
    let p = Some(language.probabilities()).filter(|_| !matches!(language.family(), Family::Mixture { .. }));
    printer.document(&Document {
        schema: "refocus.flipflop-generate/1",
        set: args.set.clone(),
        family: language.family().name(),
        parameters: parameters(language.family()),
        length: language.tokens(),
        p_write: p.map(|p| p.write()),
        p_read: p.map(|p| p.read()),
        p_ignore: p.map(|p| p.ignore()),
        registers: alphabet.registers(),
        symbols: alphabet.symbols(),
        width: alphabet.width(),
        vocab: alphabet.vocab(),
        seed: global.seed,
        first: args.first,
        count,
        form: args.form.name(),
        strings,
    })?;
    Ok(Ended::Well)
}

/// A family's parameters by name.
fn parameters(family: &Family) -> serde_json::Map<String, serde_json::Value> {
    let value = match family {
        Family::Plain => serde_json::json!({}),
        Family::Mixture { parts } => {
            let ignore: Vec<f64> = parts.iter().map(Probabilities::ignore).collect();
            serde_json::json!({ "ignore": ignore })
        }
        Family::Piecewise { from, tail } => {
            serde_json::json!({ "from": from, "tail_ignore": tail.ignore() })
        }
        Family::Decoy { burst, gap } => serde_json::json!({ "burst": burst, "gap": gap }),
        Family::ReadRun { length } => serde_json::json!({ "run": length }),
        Family::Churn { writes } => serde_json::json!({ "changes": writes }),
        Family::WriteFlip { rate } | Family::AntiCorrelated { rate } | Family::Markov { rate } => {
            serde_json::json!({ "rate": rate })
        }
    };
    match value {
        serde_json::Value::Object(map) => map,
        _ => serde_json::Map::new(),
    }
}
