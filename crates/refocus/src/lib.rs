//! The program `refocus`: command line, errors for people, tables and JSON. The work is done in the crates
//! below it.
//!
//! [`command`] is the one definition of the flags; help, man pages and completions come from it.

mod backend;
mod builtin;
mod cli;
mod commands;
mod failure;
mod hub;
mod input;
mod model_arg;
mod output;
mod printer;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::Cli;
use crate::failure::Failure;
use crate::printer::Printer;

/// Exit code of a bad use or a bad input.
const BAD: u8 = 2;

/// Runs the program on its arguments, the program's own name first.
///
/// The exit code is 0 where everything was done, 1 where a check or finding failed, 2 where the use or the
/// input was bad.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to standard output; nobody may be reading it any more.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(BAD));
        }
    };
    let printer = Printer::new(&cli.global);
    match commands::run(&cli, &printer) {
        Ok(outcome) => outcome.into(),
        Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Told(told)) => {
            printer.failure(&told);
            ExitCode::from(BAD)
        }
    }
}

/// The command line, for what is generated from it.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
