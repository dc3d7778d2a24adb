//! One file a command: it reads the input, calls the crates below, and hands the result to the printer.

mod convert;
mod diagnose;
mod doctor;
mod flipflop;
mod flipflop_attend;
mod flipflop_eval;
mod flipflop_figures;
mod flipflop_handset;
mod flipflop_probe;
mod flipflop_probe_server;
mod flipflop_study;
mod flipflop_validate;
mod forward;
mod generate;
mod inspect;
mod inspect_view;
mod lens;
mod lens_view;
mod overthinking;
mod overthinking_prompts;
mod overthinking_stages;
mod overthinking_tables;
mod overthinking_view;
mod patch;
mod patch_export;
mod patch_show;
mod recall;
mod recall_facts;
mod recall_inside;
mod recall_inside_tables;
mod recall_inside_view;
mod recall_named;
mod recall_tables;
mod recall_view;
mod report;
mod rewrite;
mod rewrite_view;
mod serve;
mod shell;
mod staged;
mod system2_eval;
mod tasks;
mod train;
mod train_lens;
mod upstream;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use refocus_model::{Checkpoint, Patch, patch::Job};

use crate::cli::{
    Cli, Command, FlipflopCommand, ModelCommand, PatchArg, PatchCommand, System2Command, TasksCommand,
    TrainCommand,
};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything was done.
    Well,
    /// It was, and a check failed.
    CheckFailed,
}

/// When a command with --max-hours begins nothing more.
fn deadline(hours: Option<f64>) -> Outcome<Option<Instant>> {
    match hours {
        None => Ok(None),
        Some(h) if h > 0.0 && h <= 10_000.0 => Ok(Some(Instant::now() + Duration::from_secs_f64(h * 3600.0))),
        Some(h) => Err(Failure::new(format!("--max-hours {h}: more than 0 and at most 10000 make sense"))),
    }
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Well => ExitCode::SUCCESS,
            Ended::CheckFailed => ExitCode::from(1),
        }
    }
}

/// Runs the command that was asked for.
pub(crate) fn run(cli: &Cli, printer: &Printer) -> Outcome<Ended> {
    let global = &cli.global;
    match &cli.command {
        Command::Model(ModelCommand::Inspect(args)) => inspect::run(args, printer),
        Command::Model(ModelCommand::Forward(args)) => forward::run(args, global, printer),
        Command::Model(ModelCommand::Lens(args)) => lens::run(args, global, printer),
        Command::Model(ModelCommand::Generate(args)) => generate::run(args, global, printer),
        Command::Model(ModelCommand::Doctor(args)) => doctor::run(args, global, printer),
        Command::Model(ModelCommand::Convert(args)) => convert::run(args, printer),
        Command::Diagnose(args) => diagnose::run(args, global, printer),
        Command::Overthinking(args) => overthinking::run(args, global, printer),
        Command::Recall(args) => recall::run(args, global, printer),
        Command::Patch(PatchCommand::Check(args)) => patch::check(args, printer),
        Command::Patch(PatchCommand::Show(args)) => patch_show::run(args, printer),
        Command::Patch(PatchCommand::Export(args)) => patch_export::run(args, printer),
        Command::Tasks(TasksCommand::List(args)) => tasks::list(args, printer),
        Command::Tasks(TasksCommand::Show(args)) => tasks::show(args, global, printer),
        Command::Tasks(TasksCommand::Validate(args)) => tasks::validate(args, printer),
        Command::Flipflop(FlipflopCommand::Generate(args)) => flipflop::run(args, global, printer),
        Command::Flipflop(FlipflopCommand::Validate(args)) => flipflop_validate::run(args, printer),
        Command::Flipflop(FlipflopCommand::Probe(args)) => flipflop_probe::run(args, global, printer),
        Command::Flipflop(FlipflopCommand::Eval(args)) => flipflop_eval::run(args, global, printer),
        Command::Flipflop(FlipflopCommand::Study(args)) => flipflop_study::run(args, global, printer),
        Command::Flipflop(FlipflopCommand::Attend(args)) => flipflop_attend::run(args, global, printer),
        Command::Flipflop(FlipflopCommand::Figures(args)) => flipflop_figures::run(args, global, printer),
        Command::Flipflop(FlipflopCommand::Handset(args)) => flipflop_handset::run(args, printer),
        Command::System2(System2Command::Eval(args)) => system2_eval::run(args, global, printer),
        Command::Train(TrainCommand::Flipflop(args)) => train::flipflop(args, global, printer),
        Command::Train(TrainCommand::World(args)) => train::world(args, global, printer),
        Command::Rewrite(args) => rewrite::run(args, global, printer),
        Command::Train(TrainCommand::Lens(args)) => train_lens::run(args, global, printer),
        Command::Report(args) => report::run(args, printer),
        Command::Completions(args) => shell::completions(args, printer),
        Command::Man(args) => shell::man(args, printer),
        Command::Serve(args) => serve::run(args, global, printer),
    }
}

/// The patch that a command is to apply, refused where it does not work for this model or in this job.
fn patch(arg: &PatchArg, checkpoint: &Checkpoint, job: Job) -> Outcome<Option<Patch>> {
    let Some(path) = &arg.patch else { return Ok(None) };
    let patch = Patch::load(path, checkpoint.spec())?;
    if patch.guard.is_some() && !arg.force {
        patch.check_guard(&checkpoint.fingerprint()?)?;
    }
    patch.require(job, checkpoint.spec())?;
    Ok(Some(patch))
}
