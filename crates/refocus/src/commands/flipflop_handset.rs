//! `flipflop handset`.

use refocus_model::export::Export;
use refocus_study::flipflop::handset;
use serde::Serialize;

use super::Ended;
use crate::cli::FlipflopHandset;
use crate::failure::Outcome;
use crate::printer::Printer;
use crate::table::{Table, grouped};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    length: u32,
    parameters: usize,
    fingerprint: String,
}

/// Runs the command.
pub(super) fn run(args: &FlipflopHandset, printer: &Printer) -> Outcome<Ended> {
    let params = handset(args.length as usize)?;
    let written = Export::new(params.spec(), &params)?.write(&args.out, args.replace, &mut |_, _| {})?;
    let d = Document {
        schema: "refocus.flipflop-handset/1",
        model: args.out.display().to_string(),
        length: args.length,
        parameters: params.count(),
        fingerprint: written.fingerprint,
    };
    if printer.is_json() {
        printer.document(&d)?;
        return Ok(Ended::Well);
    }
    let mut t = Table::pairs();
    t.pair("model", d.model.as_str());
    t.pair("longest string", format!("{} symbols", grouped(d.length as usize)));
    t.pair("parameters", format!("{}, set by hand", grouped(d.parameters)));
    printer.text(&t.render(printer.colours()))?;
    Ok(Ended::Well)
}
