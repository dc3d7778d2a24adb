//! `model lens`: what the model would answer after each block, who wrote the answer, and where a second
//! prompt makes the difference.

use refocus_compute::Eager;
use refocus_measure::{
    Attribution, LensGrid, MeasureError, Patching, activation_patching, direct_logit_attribution, lens_grid,
};
use refocus_model::{Checkpoint, Model, Patch, Tokenizer, patch::Job};
use serde::Serialize;

use super::{Ended, lens_view};
use crate::cli::{Global, Input, Lens};
use crate::failure::{Failure, Outcome};
use crate::input::{self, Sequences};
use crate::printer::Printer;
use crate::{backend, model_arg};

/// Sequences at least this much work take long enough for a word on progress, in rows times blocks.
const SLOW: usize = 4000;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    ids: Vec<u32>,
    tokens: Vec<String>,
    lens: LensDocument,
    /// Absent where the model's residual stream is no plain sum.
    attribution: Option<AttributionDocument>,
    patching: Option<PatchingDocument>,
}

#[derive(Serialize)]
struct LensDocument {
    sites: Vec<String>,
    /// `[sites][tokens]`.
    ids: Vec<Vec<u32>>,
    tokens: Vec<Vec<String>>,
    probs: Vec<Vec<f32>>,
    target: u32,
    target_probs: Vec<f32>,
    /// 1 is the first choice.
    target_ranks: Vec<u32>,
}

#[derive(Serialize)]
struct AttributionDocument {
    id: u32,
    minus: Option<u32>,
    logit: f32,
    parts: Vec<PartDocument>,
}

#[derive(Serialize)]
struct PartDocument {
    part: String,
    share: f32,
}

#[derive(Serialize)]
struct PatchingDocument {
    answer: u32,
    wrong: u32,
    clean: f32,
    corrupted: f32,
    grids: Vec<GridDocument>,
}

#[derive(Serialize)]
struct GridDocument {
    /// `hook_resid_pre`, `hook_attn_out`, `hook_mlp_out`: by position; `attn.hook_z`: by head.
    site: String,
    restored: Vec<Vec<f32>>,
}

/// Runs the command.
pub(super) fn run(args: &Lens, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(Some(&args.model), printer)?;
    let patch = super::patch(&args.patch, &checkpoint, Job::Forward)?;
    if patch.as_ref().is_some_and(|p| !p.decode.is_empty()) {
        return Err(Failure::new(
            "the patch changes final logits ([[decode]]), which the lens does not show",
        )
        .hint("`refocus model forward` applies it; or take [[decode]] out of the patch"));
    }
    let source = Input { text: args.prompt.clone(), tokens: args.tokens.clone() };
    let Sequences { ids, tokenizer } = input::read(&source, &checkpoint, printer)?;
    let [ids] = &ids[..] else {
        return Err(Failure::new(format!("{} sequences are given", ids.len()))
            .hint("the lens shows one prompt at a time"));
    };
    let token = |id: u32| tokenizer.as_ref().map_or_else(|| id.to_string(), |t| t.token(id));
    let answer = id_of(args.answer.as_deref(), tokenizer.as_ref(), &checkpoint)?;
    let wrong = id_of(args.wrong.as_deref(), tokenizer.as_ref(), &checkpoint)?;
    let other = match &args.against {
        Some(text) => {
            let source = Input { text: Some(text.clone()), tokens: None };
            let mut other = input::read(&source, &checkpoint, printer)?;
            Some(other.ids.swap_remove(0))
        }
        None => None,
    };

    let applied = patch.as_ref().map(Patch::applied).unwrap_or_default();
    let mut cpu = backend::cpu(global, printer)?;
    let model = Model::load(&checkpoint, &mut cpu)?;
    let o = &mut Eager::new(cpu);
    let grid = lens_grid(o, &model, ids, answer, &applied)?;
    let shares = match direct_logit_attribution(o, &model, ids, grid.target_id, wrong, &applied) {
        Ok(a) => Some(a),
        Err(e @ MeasureError::PostNorm) => {
            printer.note(&e.to_string());
            None
        }
        Err(e) => return Err(e.into()),
    };
    let patching = match &other {
        Some(other) => {
            let slow = ids.len() * ids.len() * model.spec.n_layers > SLOW;
            let say = |done: usize, of: usize| {
                if slow {
                    printer.detail(&format!("patched {done} of {of} layers"));
                }
            };
            Some(activation_patching(o, &model, ids, other, answer, wrong, say)?)
        }
        None => None,
    };
    let tokens: Vec<String> = ids.iter().map(|&id| token(id)).collect();
    if printer.is_json() {
        let model = model_arg::shown(&checkpoint);
        let attribution = shares.map(shares_document);
        let patching = patching.map(patching_document);
        let lens = lens_document(&grid, &token);
        let schema = "refocus.model-lens/1";
        printer.document(&Document {
            schema,
            model,
            ids: ids.clone(),
            tokens,
            lens,
            attribution,
            patching,
        })?;
        return Ok(Ended::Well);
    }
    printer.text(&lens_view::lens(&grid, &tokens, &token))?;
    if let Some(shares) = &shares {
        printer.text(&format!("\n{}", lens_view::attribution(shares, args.top, &token)))?;
    }
    if let Some(patching) = &patching {
        printer.text(&format!("\n{}", lens_view::patching(patching, &tokens, &token)))?;
    }
    Ok(Ended::Well)
}

/// The id of a token given as text or as `#id`.
fn id_of(arg: Option<&str>, tokenizer: Option<&Tokenizer>, checkpoint: &Checkpoint) -> Outcome<Option<u32>> {
    let Some(arg) = arg else { return Ok(None) };
    let vocab = checkpoint.spec().vocab;
    if let Some(id) = arg.strip_prefix('#').and_then(|n| n.parse::<u32>().ok()) {
        return if (id as usize) < vocab {
            Ok(Some(id))
        } else {
            Err(Failure::new(format!("token id {id} is not in the vocabulary of {vocab}")))
        };
    }
    let Some(tokenizer) = tokenizer else {
        return Err(Failure::new(format!("'{arg}' cannot be looked up without a tokenizer"))
            .hint("give the token as #id"));
    };
    match tokenizer.encode(arg, false)?[..] {
        [id] => Ok(Some(id)),
        ref ids => Err(Failure::new(format!("'{arg}' is {} tokens, one is needed", ids.len()))
            .hint("most words need their leading space, as in ' Paris'; #id names any token")),
    }
}

fn lens_document(grid: &LensGrid, token: &dyn Fn(u32) -> String) -> LensDocument {
    let ids: Vec<Vec<u32>> = grid.cells.iter().map(|r| r.iter().map(|c| c.id).collect()).collect();
    LensDocument {
        sites: grid.sites.iter().map(ToString::to_string).collect(),
        tokens: ids.iter().map(|r| r.iter().map(|&id| token(id)).collect()).collect(),
        ids,
        probs: grid.cells.iter().map(|r| r.iter().map(|c| c.prob).collect()).collect(),
        target: grid.target_id,
        target_probs: grid.target.iter().map(|t| t.0).collect(),
        target_ranks: grid.target.iter().map(|t| t.1 + 1).collect(),
    }
}

fn shares_document(a: Attribution) -> AttributionDocument {
    let parts = a.parts.into_iter().map(|p| PartDocument { part: p.part, share: p.share }).collect();
    AttributionDocument { id: a.id, minus: a.minus, logit: a.logit, parts }
}

fn patching_document(p: Patching) -> PatchingDocument {
    let name = |kind| refocus_model::Site::new(0, kind).to_string().replacen("blocks.0.", "", 1);
    let grids = p.grids.into_iter().map(|g| GridDocument { site: name(g.kind), restored: g.restored });
    PatchingDocument {
        answer: p.answer,
        wrong: p.wrong,
        clean: p.clean,
        corrupted: p.corrupted,
        grids: grids.collect(),
    }
}
