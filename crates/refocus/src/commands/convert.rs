//! `model convert`.

use refocus_model::export::{Export, Precision, Written};
use serde::Serialize;

use super::Ended;
use crate::cli::{Convert, WeightType};
use crate::failure::Outcome;
use crate::model_arg;
use crate::printer::Printer;
use crate::table::{Table, bytes, grouped};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    out: String,
    /// The folder was there already, byte for byte, and was left alone.
    already_there: bool,
    /// `float32`, `float16` or `bfloat16`.
    dtype: &'static str,
    tensors: usize,
    /// Of all files.
    bytes: u64,
    files: Vec<Size>,
    /// Of the folder.
    fingerprint: String,
}

#[derive(Serialize)]
struct Size {
    name: String,
    bytes: u64,
}

/// Runs the command.
pub(super) fn run(args: &Convert, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let mut export = Export::of(&checkpoint)?;
    export.max_shard(args.max_shard_size).precision(match args.dtype {
        WeightType::Keep => Precision::Keep,
        WeightType::F32 => Precision::F32,
        WeightType::F16 => Precision::F16,
        WeightType::Bf16 => Precision::Bf16,
    });
    let bar = printer.bytes_bar();
    bar.set_message("writing");
    let written = export.write(&args.out, args.force, &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let written = written?;
    let document = Document {
        schema: "refocus.model-convert/1",
        model: checkpoint.path().display().to_string(),
        out: args.out.display().to_string(),
        already_there: written.already,
        dtype: written.dtype,
        tensors: written.tensors,
        bytes: written.files.iter().map(|f| f.1).sum(),
        files: written.files.iter().map(|(name, bytes)| Size { name: name.clone(), bytes: *bytes }).collect(),
        fingerprint: written.fingerprint.clone(),
    };
    if written.already {
        printer.note(&format!(
            "{} is there already, the same to the last byte; nothing was written",
            document.out
        ));
    }
    if !written.files.iter().any(|(name, _)| TOKENIZERS.contains(&name.as_str())) {
        printer.note("the model brings no tokenizer, so the folder has none");
    }
    if printer.is_json() {
        printer.document(&document)?;
    } else {
        printer.text(&text(&document, &written, printer.colours()))?;
    }
    Ok(Ended::Well)
}

/// Files of which a tokenizer needs one.
const TOKENIZERS: [&str; 3] = ["tokenizer.json", "tokenizer.model", "vocab.json"];

fn text(d: &Document, written: &Written, colour: bool) -> String {
    let mut t = Table::pairs();
    t.pair("model", d.model.as_str());
    t.pair("folder", d.out.as_str());
    t.pair("weights", format!("{} tensors, {}", grouped(d.tensors), d.dtype));
    for (i, (name, n)) in written.files.iter().enumerate() {
        let size = bytes(usize::try_from(*n).unwrap_or(usize::MAX));
        t.pair(if i == 0 { "files" } else { "" }, format!("{name}  {size}"));
    }
    t.pair("fingerprint", d.fingerprint.as_str());
    t.render(colour)
}
