//! `model forward`.

use refocus_compute::{Batch, Eager, KvUse, Ops, RowSet, Vocab, VocabOut};
use refocus_model::patch::Job;
use refocus_model::{
    HostTensor, Mode, Model, ModelSpec, Patch, Plan, Reading, Readout, RunError, SeqTensors, Site, Tokenizer,
    collect, forward,
};
use serde::Serialize;

use super::Ended;
use crate::cli::{Forward, Global};
use crate::failure::{Failure, Outcome};
use crate::input::{self, Sequences};
use crate::output::{Pending, write_sequences};
use crate::printer::Printer;
use crate::table::{Side, Table, bytes};
use crate::{backend, model_arg};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    sequences: Vec<Sequence>,
    /// The file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<String>,
}

#[derive(Serialize)]
struct Sequence {
    ids: Vec<u32>,
    /// The ids as text, where there is a tokenizer.
    tokens: Option<Vec<String>>,
    /// The most likely tokens after the last one.
    top: Vec<Next>,
    captured: Vec<Captured>,
}

#[derive(Serialize)]
struct Next {
    id: u32,
    token: Option<String>,
    logit: f32,
    probability: f32,
}

/// What a captured tensor is like; its values are in the file of `--out`.
#[derive(Serialize)]
struct Captured {
    site: String,
    shape: Vec<usize>,
    /// Over the finite values: masked attention scores are −∞.
    min: f32,
    max: f32,
    mean: f64,
    rms: f64,
}

/// What is to be read, and where each answer will be.
struct Wanted {
    sites: Vec<Site>,
    /// All logits of all positions are wanted.
    logits: bool,
    /// The logits change after the pass, so that all of the last position are needed to rank them.
    adjusted: bool,
    top: usize,
}

impl Wanted {
    /// Sites, then all logits where they are wanted, then the last position.
    fn readouts(&self, spec: &ModelSpec, batch: &Batch) -> Vec<Readout> {
        let mut all: Vec<_> = self.sites.iter().map(|&site| Readout::Raw { site, rows: None }).collect();
        if self.logits {
            all.push(Readout::logits(spec, None, vec![Vocab::All]));
        }
        let last = RowSet::new(batch.segs.iter().map(|s| s.rows.end - 1).collect());
        let want =
            if self.adjusted { vec![Vocab::All] } else { vec![Vocab::Top(self.top), Vocab::LogSumExp] };
        all.push(Readout::logits(spec, Some(last), want));
        all
    }
}

/// Runs the command. What can fail without the weights comes first.
pub(super) fn run(args: &Forward, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let spec = checkpoint.spec();
    let sites = captured_sites(&args.capture, spec)?;
    let patch = super::patch(&args.patch, &checkpoint, Job::Forward)?;
    let Sequences { ids, tokenizer } = input::read(&args.input, &checkpoint, printer)?;
    let wanted = Wanted {
        sites,
        logits: args.out.is_some(),
        adjusted: patch.as_ref().is_some_and(|p| !p.decode.is_empty()),
        top: usize::try_from(args.top).unwrap_or(usize::MAX).min(spec.vocab),
    };
    let batch = Batch::from_lengths(ids.iter().map(Vec::len));
    let readouts = wanted.readouts(spec, &batch);
    let applied = patch.as_ref().map(Patch::applied).unwrap_or_default();
    let plan = Plan::compile(spec, &batch, &readouts, &applied, Mode::default())?;
    let pending = args.out.as_deref().map(Pending::create).transpose()?;

    let mut cpu = backend::cpu(global, printer)?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let mut o = Eager::new(cpu);
    let readings = forward(&mut o, &model, &ids.concat(), &plan, KvUse::None)?;

    let (last, before) = readings.split_last().ok_or_else(|| Failure::new("nothing was read"))?;
    let tops = next_tokens(&mut o, spec, &wanted, patch.as_ref(), last, &ids)?;
    let mut tensors = vec![SeqTensors::new(); ids.len()];
    let names = wanted.sites.iter().map(|&s| Some(s)).chain([None]);
    for (site, reading) in names.zip(before) {
        collect(&mut o, spec, &batch, site, reading, &mut tensors)?;
    }
    if let Some(patch) = &patch {
        for t in tensors.iter_mut().filter_map(|t| t.get_mut("logits")) {
            t.data.chunks_exact_mut(spec.vocab).for_each(|row| patch.adjust(row));
        }
    }
    if let Some(mut pending) = pending {
        write_sequences(&mut pending, &tensors)?;
        pending.finish()?;
    }

    let document = Document {
        schema: "refocus.model-forward/1",
        model: model_arg::shown(&checkpoint),
        sequences: sequences(&ids, tops, &tensors, &wanted.sites, tokenizer.as_ref()),
        out: args.out.as_ref().map(|p| p.display().to_string()),
    };
    if printer.is_json() {
        printer.document(&document)?;
    } else {
        // What was saved need not be summed up.
        let summary = document.out.is_none();
        printer.text(&text(&document, tokenizer.as_ref(), summary, printer.colours()))?;
    }
    if let Some(out) = &document.out {
        let size: usize = tensors.iter().flat_map(SeqTensors::values).map(|t| t.data.len() * 4).sum();
        let count: usize = tensors.iter().map(SeqTensors::len).sum();
        printer.note(&format!("wrote {count} tensors, {}, to {out}", bytes(size)));
    }
    Ok(Ended::Well)
}

/// The sites that the patterns match, each once, in the order of the forward pass.
fn captured_sites(patterns: &[String], spec: &ModelSpec) -> Outcome<Vec<Site>> {
    let mut wanted = std::collections::BTreeSet::new();
    for pattern in patterns {
        wanted.extend(Site::glob(pattern, spec)?);
    }
    Ok(Site::all(spec).into_iter().filter(|s| wanted.contains(s)).collect())
}

/// The most likely tokens after each sequence: id, logit, probability.
fn next_tokens<O: Ops>(
    o: &mut O,
    spec: &ModelSpec,
    wanted: &Wanted,
    patch: Option<&Patch>,
    reading: &Reading<O::T>,
    ids: &[Vec<u32>],
) -> Outcome<Vec<Vec<(u32, f32, f32)>>> {
    let check = |values: &[f32], per: usize| match values.iter().position(|x| x.is_nan()) {
        Some(i) => {
            let seq = i / per;
            let position = ids[seq].len() - 1;
            Err(RunError::NotANumber { what: "logits".to_owned(), seq, position })
        }
        None => Ok(()),
    };
    let share = |logit: f32, lse: f64| (f64::from(logit) - lse).exp() as f32;
    match reading.lens(0) {
        Some([VocabOut::Top(top), VocabOut::Values(lse)]) => {
            let lse = o.to_host(lse)?;
            // A NaN logit is never above another, but it shows in the sum.
            check(&lse, 1)?;
            let row = |(top, lse): (&Vec<(u32, f32)>, &f32)| {
                top.iter().map(|&(id, x)| (id, x, share(x, f64::from(*lse)))).collect()
            };
            Ok(top.iter().zip(&lse).map(row).collect())
        }
        Some([VocabOut::Values(all)]) => {
            let mut all = o.to_host(all)?;
            check(&all, spec.vocab)?;
            let row = |row: &mut [f32]| {
                if let Some(patch) = patch {
                    patch.adjust(row);
                }
                let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
                let lse = f64::from(max) + sum.ln();
                let mut order: Vec<u32> = (0..row.len() as u32).collect();
                // Stable: of two equal logits the one with the lower id comes first.
                order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
                let best = order.iter().take(wanted.top);
                best.map(|&id| (id, row[id as usize], share(row[id as usize], lse))).collect()
            };
            Ok(all.chunks_exact_mut(spec.vocab).map(row).collect())
        }
        _ => Err(Failure::new("the logits of the last position were not computed")),
    }
}

fn sequences(
    ids: &[Vec<u32>],
    tops: Vec<Vec<(u32, f32, f32)>>,
    tensors: &[SeqTensors],
    sites: &[Site],
    tokenizer: Option<&Tokenizer>,
) -> Vec<Sequence> {
    let next = |(id, logit, probability): (u32, f32, f32)| Next {
        id,
        token: tokenizer.map(|t| t.token(id)),
        logit,
        probability,
    };
    let one = |((ids, top), tensors): ((&Vec<u32>, Vec<_>), &SeqTensors)| Sequence {
        ids: ids.clone(),
        tokens: tokenizer.map(|t| ids.iter().map(|&id| t.token(id)).collect()),
        top: top.into_iter().map(next).collect(),
        captured: sites
            .iter()
            .map(ToString::to_string)
            .filter_map(|site| tensors.get(&site).map(|t| captured(site.clone(), t)))
            .collect(),
    };
    ids.iter().zip(tops).zip(tensors).map(one).collect()
}

fn captured(site: String, t: &HostTensor) -> Captured {
    let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
    let (mut n, mut sum, mut squares) = (0usize, 0.0, 0.0);
    for &x in t.data.iter().filter(|x| x.is_finite()) {
        (min, max) = (min.min(x), max.max(x));
        n += 1;
        sum += f64::from(x);
        squares += f64::from(x) * f64::from(x);
    }
    let n = n.max(1) as f64;
    Captured { site, shape: t.shape.clone(), min, max, mean: sum / n, rms: (squares / n).sqrt() }
}

fn text(d: &Document, tokenizer: Option<&Tokenizer>, summary: bool, colour: bool) -> String {
    let mut out = String::new();
    for (i, s) in d.sequences.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let n = s.ids.len();
        let plural = if n == 1 { "" } else { "s" };
        let last = match (tokenizer, s.ids.last()) {
            (Some(t), Some(&id)) => format!("{:?}", t.token(id)),
            (_, id) => id.map_or_else(String::new, |id| format!("id {id}")),
        };
        out.push_str(&format!("sequence {i}: {n} token{plural}, then after {last}\n"));
        // Without a tokenizer there is nothing to write in the second column.
        let token = [("token", Side::Left)];
        let token = if tokenizer.is_some() { &token[..] } else { &[] };
        let numbers = [("logit", Side::Right), ("probability", Side::Right)];
        let mut table = Table::new(&[&[("id", Side::Right)], token, &numbers].concat());
        for t in &s.top {
            let numbers = [format!("{:.4}", t.logit), format!("{:.4}", t.probability)];
            let token = t.token.iter().map(|token| format!("{token:?}"));
            table.row([t.id.to_string()].into_iter().chain(token).chain(numbers));
        }
        out.push_str(&table.render(colour));
        if !summary || s.captured.is_empty() {
            continue;
        }
        let mut table = Table::new(&[
            ("site", Side::Left),
            ("shape", Side::Left),
            ("mean", Side::Right),
            ("rms", Side::Right),
            ("min", Side::Right),
            ("max", Side::Right),
        ]);
        for c in &s.captured {
            table.row([
                c.site.clone(),
                format!("{:?}", c.shape),
                format!("{:.4}", c.mean),
                format!("{:.4}", c.rms),
                format!("{:.4}", c.min),
                format!("{:.4}", c.max),
            ]);
        }
        out.push('\n');
        out.push_str(&table.render(colour));
    }
    out
}
