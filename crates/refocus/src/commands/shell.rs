//! `completions` and `man`: made from the one definition of the flags.

use std::path::Path;

use clap::Command;

use super::Ended;
use crate::cli::{Completions, Man};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::printer::Printer;

/// Prints a shell's completions.
pub(super) fn completions(args: &Completions, printer: &Printer) -> Outcome<Ended> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "refocus", &mut out);
    printer.text(&String::from_utf8_lossy(&out))?;
    Ok(Ended::Well)
}

/// Prints the manual page, or writes one a command.
pub(super) fn man(args: &Man, printer: &Printer) -> Outcome<Ended> {
    let mut command = crate::command();
    command.build();
    let Some(dir) = &args.out else {
        printer.text(&String::from_utf8_lossy(&page(&command)?))?;
        return Ok(Ended::Well);
    };
    let n = pages(&command, "refocus", dir)?;
    printer.note(&format!("{n} pages are in {}", dir.display()));
    Ok(Ended::Well)
}

fn page(command: &Command) -> Outcome<Vec<u8>> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut out)
        .map_err(|e| Failure::because("the manual page cannot be made", e))?;
    Ok(out)
}

/// `refocus.1`, `refocus-model.1`, `refocus-model-inspect.1` and so on; how many.
fn pages(command: &Command, name: &str, dir: &Path) -> Outcome<usize> {
    output::write(&dir.join(format!("{name}.1")), page(command)?)?;
    let mut n = 1;
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        n += pages(sub, &format!("{name}-{}", sub.get_name()), dir)?;
    }
    Ok(n)
}
