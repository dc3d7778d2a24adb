//! `flipflop validate`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use refocus_tasks::flipflop::{Alphabet, Facts, Invalid, MAX_TOKENS};
use serde::Serialize;

use super::Ended;
use crate::cli::FlipflopValidate;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::grouped;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    file: String,
    valid: bool,
    /// Valid strings before the first that is not.
    strings: usize,
    reads: usize,
    error: Option<Wrong>,
}

/// The first thing that is wrong. Lines and columns count from 1.
#[derive(Serialize)]
struct Wrong {
    line: usize,
    column: usize,
    says: String,
}

/// Runs the command.
pub(super) fn run(args: &FlipflopValidate, printer: &Printer) -> Outcome<Ended> {
    let alphabet = Alphabet::new(args.registers, args.symbols.0, args.symbols.1)?;
    // Whether there is a written form at all.
    alphabet.to_text(&[])?;
    let (mut input, name): (Box<dyn BufRead>, String) = if args.file.as_os_str() == "-" {
        (Box::new(io::stdin().lock()), "standard input".to_owned())
    } else {
        let name = args.file.display().to_string();
        let fail = |e| Failure::because(format!("{name}: cannot be read"), e);
        let file = File::open(&args.file).map_err(fail)?;
        (Box::new(BufReader::with_capacity(1 << 16, file)), name)
    };
    let (mut strings, mut reads, mut error) = (0, 0, None);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Not more than a string can have, whatever the file is.
        let most = MAX_TOKENS as u64 + 2;
        let got = input.by_ref().take(most).read_until(b'\n', &mut line);
        if got.map_err(|e| Failure::because(format!("{name}: cannot be read"), e))? == 0 {
            break;
        }
        match check(&alphabet, &line) {
            Ok(n) => (strings, reads) = (strings + 1, reads + n),
            Err((column, says)) => {
                error = Some(Wrong { line: strings + 1, column, says });
                break;
            }
        }
    }
    if strings == 0 && error.is_none() {
        return Err(Failure::new(format!("{name}: there is no string")));
    }
    let valid = error.is_none();
    if printer.is_json() {
        let schema = "refocus.flipflop-validate/1";
        printer.document(&Document { schema, file: name, valid, strings, reads, error })?;
    } else {
        printer.text(&match error {
            None => format!("{name}: {} valid strings, {} reads\n", grouped(strings), grouped(reads)),
            Some(Wrong { line, column, says }) => format!("{name}: line {line}, column {column}: {says}\n"),
        })?;
    }
    Ok(if valid { Ended::Well } else { Ended::CheckFailed })
}

/// Reads of a line that is a string, or the column that is wrong and why.
fn check(alphabet: &Alphabet, line: &[u8]) -> Result<usize, (usize, String)> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > MAX_TOKENS {
        return Err((MAX_TOKENS + 1, format!("a string has at most {MAX_TOKENS} symbols")));
    }
    let text = std::str::from_utf8(line).map_err(|e| {
        let column = String::from_utf8_lossy(&line[..e.valid_up_to()]).chars().count() + 1;
        (column, "this is not UTF-8".to_owned())
    })?;
    let ids = alphabet.from_text(text).map_err(|e| {
        // Something before the unknown symbol may be wrong as well.
        let before: String = text.chars().take(e.position().unwrap_or(0)).collect();
        match alphabet.from_text(&before).and_then(|ids| alphabet.validate(&ids)) {
            Err(earlier @ (Invalid::First | Invalid::Unwritten { .. } | Invalid::Read { .. })) => earlier,
            _ => e,
        }
    });
    let facts = ids.and_then(|ids| Facts::of(alphabet, &ids));
    facts.map(|f| f.reads.len()).map_err(|e| told(&e, text.chars().count()))
}

/// Column and reason of what is wrong with a line of `symbols` characters.
fn told(e: &Invalid, symbols: usize) -> (usize, String) {
    let column = e.position().map_or(symbols + 1, |at| at + 1);
    let says = match e {
        Invalid::Read { written, .. } => {
            format!("the datum read is not the one written in column {}", written + 1)
        }
        _ => {
            let says = e.to_string();
            // The column says it already.
            says.split_once(": ").filter(|_| e.position().is_some()).map_or(says.clone(), |s| s.1.to_owned())
        }
    };
    (column, says)
}
