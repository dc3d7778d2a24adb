//! `patch export`.

use refocus_model::Intervention;
use refocus_model::export::Baked;
use refocus_model::patch::{Job, Support};
use serde::Serialize;

use super::convert::Folder;
use super::patch::{Opened, open};
use super::{Ended, patch_show};
use crate::cli::PatchExport;
use crate::failure::{Failure, Outcome};
use crate::model_arg;
use crate::printer::Printer;
use crate::table::Table;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    patch: String,
    /// What the weights now hold.
    baked: Vec<Entry>,
    /// What they cannot.
    left_out: Vec<Entry>,
    /// The parameters that differ from the model's.
    changed: Vec<String>,
    #[serde(flatten)]
    folder: Folder,
}

#[derive(Serialize)]
struct Entry {
    line: usize,
    says: String,
    /// Why weights cannot hold it.
    why: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &PatchExport, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.patch.model.model.as_deref(), printer)?;
    let Opened { patch, .. } = open(&args.patch, &checkpoint)?;
    let spec = checkpoint.spec();
    let says = patch_show::sentences(&patch, spec);
    let (mut baked, mut left_out, mut kept) = (Vec::new(), Vec::new(), Vec::<Intervention>::new());
    let mut inside = patch.entries();
    for (support, (line, says)) in patch.support(spec).into_iter().zip(says) {
        let interventions = if support.places.is_some() { inside.next() } else { None };
        let export = &support.jobs[Job::Export as usize];
        let entry = Entry { line, says, why: export.why().map(str::to_owned) };
        match (export, interventions) {
            (Support::Yes, Some((_, _, all))) => {
                kept.extend_from_slice(all);
                baked.push(entry);
            }
            _ => left_out.push(entry),
        }
    }
    if let (Some(first), false) = (left_out.first(), args.partial) {
        let why = first.why.as_deref().unwrap_or("weights cannot hold it");
        let text = format!("{}:{}: cannot be baked into weights: {why}", patch.path().display(), first.line);
        return Err(Failure::new(text).hint("--partial leaves such entries out and names them"));
    }
    if baked.is_empty() {
        let text = format!("{}: nothing in it can be baked into weights", patch.path().display());
        return Err(Failure::new(text).hint("refocus patch check says why, entry by entry"));
    }
    let weights = Baked::new(&checkpoint, &kept)?;
    let folder = Folder::write(weights.export()?, &args.folder, args.replace, printer)?;
    let document = Document {
        schema: "refocus.patch-export/1",
        model: model_arg::shown(&checkpoint),
        patch: patch.path().display().to_string(),
        baked,
        left_out,
        changed: weights.changed(),
        folder,
    };
    if printer.is_json() {
        printer.document(&document)?;
        return Ok(Ended::Well);
    }
    for e in &document.left_out {
        let why = e.why.as_deref().unwrap_or_default();
        printer.note(&format!("left out, line {}: {} ({why})", e.line, e.says));
    }
    let mut t = Table::pairs();
    t.pair("model", document.model.as_str());
    t.pair("patch", document.patch.as_str());
    for (i, e) in document.baked.iter().enumerate() {
        t.pair(if i == 0 { "baked" } else { "" }, e.says.as_str());
    }
    t.pair("changed", format!("{} of the model's parameters", document.changed.len()));
    document.folder.tell(&mut t);
    printer.text(&t.render(printer.colours()))?;
    Ok(Ended::Well)
}
