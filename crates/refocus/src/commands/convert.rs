//! `model convert`.

use refocus_model::export::{Export, Precision};
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
    #[serde(flatten)]
    folder: Folder,
}

/// A folder that was written, as documents tell of it.
#[derive(Serialize)]
pub(super) struct Folder {
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
    let folder = Folder::write(Export::of(&checkpoint)?, &args.folder, args.replace, printer)?;
    let document =
        Document { schema: "refocus.model-convert/1", model: model_arg::shown(&checkpoint), folder };
    if printer.is_json() {
        printer.document(&document)?;
    } else {
        let mut t = Table::pairs();
        t.pair("model", document.model.as_str());
        document.folder.tell(&mut t);
        printer.text(&t.render(printer.colours()))?;
    }
    Ok(Ended::Well)
}

/// Files of which a tokenizer needs one.
const TOKENIZERS: [&str; 3] = ["tokenizer.json", "tokenizer.model", "vocab.json"];

impl Folder {
    /// Writes a model as the flags say, with a note on what a reader should know.
    pub(super) fn write(
        mut export: Export<'_>,
        args: &crate::cli::Folder,
        replace: bool,
        printer: &Printer,
    ) -> Outcome<Self> {
        export.max_shard(args.max_shard_size).precision(match args.dtype {
            WeightType::Keep => Precision::Keep,
            WeightType::F32 => Precision::F32,
            WeightType::F16 => Precision::F16,
            WeightType::Bf16 => Precision::Bf16,
        });
        let bar = printer.bytes_bar();
        bar.set_message("writing");
        let written = export.write(&args.out, replace, &mut |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let written = written?;
        let folder = Self {
            out: args.out.display().to_string(),
            already_there: written.already,
            dtype: written.dtype,
            tensors: written.tensors,
            bytes: written.files.iter().map(|f| f.1).sum(),
            files: written.files.into_iter().map(|(name, bytes)| Size { name, bytes }).collect(),
            fingerprint: written.fingerprint,
        };
        if folder.already_there {
            let out = &folder.out;
            printer.note(&format!("{out} is there already, the same to the last byte; nothing was written"));
        }
        if !folder.files.iter().any(|f| TOKENIZERS.contains(&f.name.as_str())) {
            printer.note("the model brings no tokenizer, so the folder has none");
        }
        Ok(folder)
    }

    /// Rows of a table of pairs.
    pub(super) fn tell(&self, t: &mut Table) {
        t.pair("folder", self.out.as_str());
        t.pair("weights", format!("{} tensors, {}", grouped(self.tensors), self.dtype));
        for (i, Size { name, bytes: n }) in self.files.iter().enumerate() {
            let size = bytes(usize::try_from(*n).unwrap_or(usize::MAX));
            t.pair(if i == 0 { "files" } else { "" }, format!("{name}  {size}"));
        }
        t.pair("fingerprint", self.fingerprint.as_str());
    }
}
