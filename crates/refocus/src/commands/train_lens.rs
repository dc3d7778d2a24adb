//! `train lens`.

use refocus_model::Model;
use refocus_results::Lock;
use refocus_study::tuned_lens::{FitSettings, LayerScore, LensError, TunedLens, fit};
use serde::Serialize;

use super::Ended;
use crate::cli::{Global, TrainLens};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::table::{Side, Table};
use crate::{backend, model_arg};

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    out: String,
    fingerprint: String,
    /// Hash of the text.
    text: String,
    fit: FitSettings,
    layers: Vec<LayerScore>,
}

/// Runs the command.
pub(super) fn run(args: &TrainLens, global: &Global, printer: &Printer) -> Outcome<Ended> {
    let text = std::fs::read_to_string(&args.text)
        .map_err(|e| Failure::because(format!("{}: cannot be read as text", args.text.display()), e))?;
    let checkpoint = model_arg::open(args.model.model.as_deref(), printer)?;
    let fingerprint = checkpoint.fingerprint()?;
    let settings = FitSettings {
        windows: args.windows as usize,
        steps: args.steps,
        seed: global.seed,
        ..FitSettings::default()
    };
    let hash = refocus_study::tuned_lens::text_hash(&text);
    std::fs::create_dir_all(&args.out)
        .map_err(|e| Failure::because(format!("{}: cannot be made", args.out.display()), e))?;
    let _lock = Lock::take(&args.out)?;
    let lens = match TunedLens::load(&args.out, checkpoint.spec(), &fingerprint) {
        Ok(lens) if lens.about.text == hash && lens.about.fit == settings => {
            printer.note(&format!("{}: the lens is there already", args.out.display()));
            lens
        }
        Ok(_) => {
            let text =
                format!("{}: a lens of another text or with other settings is there", args.out.display());
            return Err(Failure::new(text).hint("give another folder to --out"));
        }
        Err(LensError::Read { .. }) => {
            let ids = checkpoint.tokenizer()?.encode(&text, false)?;
            let mut cpu = backend::cpu(global, printer)?;
            let model = Model::load(&checkpoint, &mut cpu)?;
            let bar = printer.count_bar(0);
            bar.set_message("tuned lens");
            let tick = &mut |done, all| {
                bar.set_length(all);
                bar.set_position(done);
            };
            let fitted = fit(cpu, &model, &ids, &settings, tick).map_err(|e| {
                let short = matches!(e, LensError::Short { .. });
                let failure = Failure::from(e);
                if short { failure.hint("give a longer text, or fewer --windows") } else { failure }
            })?;
            bar.finish_and_clear();
            TunedLens::save(&args.out, (&fingerprint, &hash), settings, fitted)?
        }
        Err(e) => return Err(Failure::from(e).hint("give another folder to --out")),
    };
    if printer.is_json() {
        printer.document(&Document {
            schema: "refocus.train-lens/1",
            out: args.out.display().to_string(),
            fingerprint,
            text: hash,
            fit: settings,
            layers: lens.about.layers,
        })?;
        return Ok(Ended::Well);
    }
    let columns = ["logit lens", "regression", "tuned lens"].map(|c| (c, Side::Right));
    let columns: Vec<_> = [("before block", Side::Right)].into_iter().chain(columns).collect();
    let mut table = Table::new(&columns);
    for s in &lens.about.layers {
        let numbers = [s.logit, s.regression, s.tuned].map(|x| format!("{x:.3}"));
        table.row(std::iter::once(s.layer.to_string()).chain(numbers));
    }
    let held_out = settings.held_out;
    printer.text(&format!(
        "KL(model, lens) in nats, mean of {held_out} positions that were not learned from\n{}",
        table.render(printer.colours())
    ))?;
    Ok(Ended::Well)
}
