//! `model doctor`.

use std::path::Path;

use refocus_model::ModelSpec;
use refocus_model::doctor::{Check, DoctorError, doctor};
use serde::Serialize;

use super::Ended;
use crate::cli::{Doctor, Global};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::{backend, input, model_arg};

/// Lengths of the sequences to check with where none are given: a single token, and lengths on both
/// sides of a block of keys.
const LENGTHS: [usize; 4] = [1, 7, 23, 70];

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    model: String,
    isa: &'static str,
    threads: usize,
    passed: bool,
    checks: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    /// `pass`, `FAIL` or `skip`.
    result: &'static str,
    detail: String,
}

/// Runs the command; lines are printed as checks are done.
pub(super) fn run(args: &Doctor, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let spec = checkpoint.spec();
    let sequences = sequences(args.tokens.as_deref(), spec, global.seed)?;
    let (isa, threads) = (backend::isa()?, backend::threads(global));
    if !printer.is_json() {
        let n = sequences.len();
        let plural = if n == 1 { "" } else { "s" };
        let lengths: Vec<_> = sequences.iter().map(|s| s.len().to_string()).collect();
        printer.text(&format!(
            "checking {} with {n} sequence{plural} of {} tokens on {}, {threads} thread(s)\n",
            checkpoint.path().display(),
            lengths.join(", "),
            isa.name()
        ))?;
    }
    // Checks go on when nobody reads them any more; that is told in the end.
    let mut told = Ok(());
    let checks = doctor(&checkpoint, &sequences, isa, threads, |check| {
        if !printer.is_json() && told.is_ok() {
            told = printer.text(&line(check));
        }
    });
    told?;
    let checks = checks.map_err(|e| match e {
        DoctorError::Load(e) => Failure::from(e),
        DoctorError::Run(e) => Failure::from(e),
    })?;
    let failed = checks.iter().filter(|c| c.passed == Some(false)).count();
    if printer.is_json() {
        printer.document(&Document {
            schema: "refocus.model-doctor/1",
            model: model_arg::shown(&checkpoint),
            isa: isa.name(),
            threads,
            passed: failed == 0,
            checks: checks
                .into_iter()
                .map(|c| Line { result: result(&c), name: c.name, detail: c.detail })
                .collect(),
        })?;
    } else {
        let skipped = checks.iter().filter(|c| c.passed.is_none()).count();
        let passed = checks.len() - failed - skipped;
        printer.text(&format!("{passed} passed, {failed} failed, {skipped} skipped\n"))?;
    }
    Ok(if failed == 0 { Ended::Well } else { Ended::CheckFailed })
}

fn result(check: &Check) -> &'static str {
    match check.passed {
        Some(true) => "pass",
        Some(false) => "FAIL",
        None => "skip",
    }
}

fn line(check: &Check) -> String {
    format!("{}  {} ({})\n", result(check), check.name, check.detail)
}

/// The sequences of a file, or some ids that follow from the seed.
fn sequences(path: Option<&Path>, spec: &ModelSpec, seed: u64) -> Outcome<Vec<Vec<u32>>> {
    let sequences = match path {
        Some(path) => input::ids(path)?,
        None => {
            let mut state = seed;
            let longest = spec.n_ctx.min(LENGTHS[LENGTHS.len() - 1]);
            let mut lengths: Vec<usize> = LENGTHS.into_iter().map(|n| n.min(longest)).collect();
            lengths.dedup();
            let mut ids =
                |n: usize| (0..n).map(|_| (split_mix(&mut state) % spec.vocab as u64) as u32).collect();
            lengths.into_iter().map(&mut ids).collect()
        }
    };
    input::check(&sequences, spec)?;
    Ok(sequences)
}

/// SplitMix64: enough to pick ids.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
