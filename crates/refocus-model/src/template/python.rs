//! What templates expect of Python beyond what the template engine already does.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Values may be nested this deep in JSON.
const DEPTH: usize = 200;

/// Teaches an environment Python's methods, tests and JSON.
pub(super) fn add_to(env: &mut Environment<'static>) {
    env.set_unknown_method_callback(method);
    env.add_filter("tojson", tojson);
    // To Jinja a text is a sequence and can be iterated over, as is a dictionary.
    let sequence = |v: &Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map);
    env.add_test("sequence", move |v: &Value| sequence(v));
    env.add_test("iterable", move |v: &Value| {
        sequence(v) || matches!(v.kind(), ValueKind::Iterable | ValueKind::Undefined)
    });
}

fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, name, args) };
    let parts = |found: Option<(&str, &str)>, otherwise: [&str; 3]| {
        let list = match (found, args.first().and_then(Value::as_str)) {
            (Some((a, b)), Some(by)) => [a, by, b],
            _ => otherwise,
        };
        Value::from(list.map(Value::from).to_vec())
    };
    match name {
        "removeprefix" => {
            let (what,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(what).unwrap_or(text)))
        }
        "removesuffix" => {
            let (what,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(what).unwrap_or(text)))
        }
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            if by.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            Ok(match name {
                "partition" => parts(text.split_once(by), [text, "", ""]),
                _ => parts(text.rsplit_once(by), ["", "", text]),
            })
        }
        "rsplit" => {
            let (by, most): (&str, Option<i64>) = from_args(args)?;
            if by.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let pieces =
                most.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
            let mut list: Vec<Value> = text.rsplitn(pieces, by).map(Value::from).collect();
            list.reverse();
            Ok(Value::from(list))
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// `json.dumps` of Python with `ensure_ascii=False` unless it is asked for.
fn tojson(value: &Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<Value, Error> {
    let ascii = match ensure_ascii {
        Some(ascii) => ascii,
        None => options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    let indent = options.get::<Option<Value>>("indent")?.filter(|v| !v.is_none());
    let indent = match indent {
        None => None,
        Some(v) => match (v.as_str(), v.as_i64()) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(n)) if n <= 64 => Some(" ".repeat(usize::try_from(n).unwrap_or(0))),
            _ => {
                return Err(Error::new(ErrorKind::InvalidOperation, "indent is a number up to 64 or a text"));
            }
        },
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let (comma, colon) = match separators.as_deref() {
        Some([comma, colon]) => (comma.clone(), colon.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators are two texts")),
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Writer { out: String::new(), ascii, indent, comma, colon, sort };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

struct Writer {
    out: String,
    ascii: bool,
    indent: Option<String>,
    comma: String,
    colon: String,
    sort: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "values are nested too deep for JSON"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(('[', ']'), items.len(), depth, |w, i| w.value(&items[i], depth + 1))?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    let name = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                        ValueKind::None => "null".to_owned(),
                        ValueKind::Bool => key.is_true().to_string(),
                        ValueKind::Number => key.to_string(),
                        other => return Err(refused("a key", other)),
                    };
                    pairs.push((name, item));
                }
                if self.sort {
                    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.list(('{', '}'), pairs.len(), depth, |w, i| {
                    w.text(&pairs[i].0);
                    w.out.push_str(&w.colon.clone());
                    w.value(&pairs[i].1, depth + 1)
                })?;
            }
            other => return Err(refused("a value", other)),
        }
        Ok(())
    }

    fn list(
        &mut self,
        (open, close): (char, char),
        count: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for i in 0..count {
            if i > 0 {
                self.out.push_str(&self.comma.clone());
            }
            self.line(depth + 1);
            item(self, i)?;
        }
        if count > 0 {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn number(&mut self, value: &Value) {
        match f64::try_from(value.clone()) {
            Ok(x) if !value.is_integer() => self.out.push_str(&float(x)),
            _ => self.out.push_str(&value.to_string()),
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) || (self.ascii && c == '\u{7f}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a text cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn refused(what: &str, kind: ValueKind) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} of type {kind} has no JSON"))
}

/// A float as Python writes it: the shortest digits, an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN".to_owned()
        } else {
            format!("{}Infinity", if x < 0.0 { "-" } else { "" })
        };
    }
    let size = x.abs();
    if x == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(rest) => ('-', rest),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}
